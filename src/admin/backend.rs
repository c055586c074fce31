//! What the admin API asks: the books, the keys, and what can be seen of the gateway.

use crate::auth::record::{AccountRecord, KeyRecord, Record, WriteError, Written};
use crate::billing::money::Money;
use crate::billing::{Drift, Entry, Once, PostError, Posted, Statement, UsageRow};
use crate::catalog::Model;
use crate::proxy::snapshot::Gateway;
use crate::record::status::Seen;
use crate::store::link::Link;
use crate::store::nodes::Node;
use crate::upstream::Provider;
use crate::upstream::live::Live;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// The money of all accounts.
#[async_trait]
pub trait Books: Send + Sync {
    /// Opens an account's wallet; one that is open already stays as it is.
    async fn open(&self, account: &str, seed: Money) -> Result<(), PostError>;
    /// How an account stands; `None` for one that was never opened.
    async fn statement(&self, account: &str) -> Result<Option<Statement>, PostError>;
    /// Makes an entry. Gives the one made now or, for a repeated request, before; and whether it was before.
    async fn post(
        &self,
        account: &str,
        entry: Entry,
        note: Option<String>,
        once: Option<&Once>,
    ) -> Result<(Posted, bool), PostError>;
    /// All entries of an account, the oldest first.
    async fn entries(&self, account: &str) -> Result<Vec<Posted>, PostError>;
    /// What was used from one day to another, both included: of one account or of all, with the account of
    /// each row.
    async fn usage(
        &self,
        account: Option<&str>,
        since_day: i32,
        until_day: i32,
    ) -> Result<Vec<(Arc<str>, UsageRow)>, PostError>;
    /// Adds everything up again, and gives the sums that are not what they should be.
    async fn verify(&self) -> Result<Vec<Drift>, PostError>;
}

/// The keys and accounts that were made at run time.
#[async_trait]
pub trait Keys: Send + Sync {
    /// A key by its id.
    fn key(&self, id: &str) -> Option<Arc<KeyRecord>>;
    /// All keys, by the time of their making and their ids.
    fn keys(&self) -> Vec<Arc<KeyRecord>>;
    /// An account by its id.
    fn account(&self, id: &str) -> Option<Arc<AccountRecord>>;
    /// All accounts.
    fn accounts(&self) -> Vec<Arc<AccountRecord>>;
    /// Writes a record whose version is the one after the stored one's. A request that was made before is
    /// known by `once` before the version is looked at.
    async fn write(&self, record: Record, once: Option<&Once>) -> Result<Written, WriteError>;
}

/// The gateway as it is now.
pub trait Sight: Send + Sync {
    /// Looks.
    fn look(&self) -> View;
}

/// What is seen of the gateway.
pub struct View {
    /// The models, each with the traffic of the last minutes.
    pub models: Vec<(Arc<Model>, Seen)>,
    /// The providers, in the order that [`Model::upstreams`] counts them in.
    pub providers: Vec<Arc<Provider>>,
    /// How the upstreams of each model are doing, in the order of [`View::models`].
    pub lives: Vec<Vec<Arc<Live>>>,
    /// When the process started.
    pub started_at: SystemTime,
    /// How long ago.
    pub uptime: Duration,
    /// Requests in flight.
    pub active: i64,
    /// Whether it takes new requests.
    pub ready: bool,
    /// How many nodes share limits and balances, this one included.
    pub nodes: u32,
}

impl Sight for Gateway {
    fn look(&self) -> View {
        let snapshot = self.snapshot.load();
        let uptime = self.started.elapsed();
        let seen = |model: &Arc<Model>| {
            let traffic = snapshot.traffic.get(model.index);
            traffic.map_or(Seen::NONE, |traffic| traffic.seen(uptime))
        };
        View {
            models: snapshot
                .catalog
                .models()
                .iter()
                .map(|model| (model.clone(), seen(model)))
                .collect(),
            providers: snapshot
                .providers
                .iter()
                .map(|(provider, _)| provider.clone())
                .collect(),
            lives: snapshot.lives.clone(),
            started_at: self.started_at,
            uptime,
            active: self.metrics.active_requests.get(),
            ready: self.ready.load(Ordering::Acquire),
            nodes: snapshot.limiter.nodes(),
        }
    }
}

/// Who shares limits and balances.
#[async_trait]
pub trait Peers: Send + Sync {
    /// This node's id among them.
    fn own(&self) -> String;
    /// All nodes, this one included; `None` if they cannot be asked for.
    async fn list(&self) -> Option<Vec<Node>>;
}

#[async_trait]
impl Peers for Link {
    fn own(&self) -> String {
        self.node_id()
    }

    async fn list(&self) -> Option<Vec<Node>> {
        self.list_nodes().await.ok()
    }
}

/// The configuration file.
#[async_trait]
pub trait File: Send + Sync {
    /// Reads it again, and puts what has changed in force.
    async fn reload(&self) -> Result<Reloaded, NotReloaded>;
}

/// What a reload has done. Settings are named as `models.gpt-5.price.input`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The settings that have changed, and are in force now.
    pub changes: Vec<String>,
    /// The settings that have changed, and wait for a restart.
    pub restart_needed: Vec<String>,
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReloaded {
    /// The file has these errors.
    Invalid(Vec<Fault>),
    /// The process was started without a file.
    NoFile,
    /// The process is about to end.
    Ending,
}

/// An error of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line in the file, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The setting.
    pub path: String,
    /// What is wrong, and the remedy.
    pub message: String,
}
