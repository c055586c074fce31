//! What requests are judged by: the gateway, and the snapshot of its configuration that each
//! request keeps for its lifetime.

use crate::auth::directory::Directory;
use crate::billing::ledger::Ledger;
use crate::catalog::Catalog;
use crate::limit::flood::Flood;
use crate::limit::limiter::Limiter;
use crate::limit::overload::Caps;
use crate::record::access_log::AccessLog;
use crate::record::metrics::Metrics;
use crate::record::recorder::Recorder;
use crate::record::status::Traffic;
use crate::route::Router;
use crate::upstream::Provider;
use crate::upstream::budget::Budget;
use crate::upstream::live::Live;
use crate::upstream::peer::Template;
use crate::wire::error::Dialect;
use crate::wire::head::Heads;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

/// The process-wide state behind all requests.
pub struct Gateway {
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// What the process takes on.
    pub caps: Arc<Caps>,
    /// Where finished requests are written.
    pub log: AccessLog,
    /// When the process started.
    pub started: Instant,
    /// The same on the wall clock.
    pub started_at: SystemTime,
    /// Readiness: false as soon as a shutdown begins.
    pub ready: AtomicBool,
}

/// One mount.
pub struct Surface {
    /// Its path, for logs and metrics; `/` for the root.
    pub mount: Arc<str>,
    /// How it words errors.
    pub dialect: Dialect,
    /// What stands on its answers.
    pub heads: Heads,
}

/// When a failed attempt is followed by another.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Further attempts for one request.
    pub max: u32,
    /// Further attempts over all requests, in percent of these.
    pub percent: u32,
    /// What is sent again though the provider may bill it.
    pub resend: Resend,
}

/// What is sent again though the provider may have begun to work.
#[derive(Clone, Copy, Debug)]
pub struct Resend {
    /// A connection that broke.
    pub broken: bool,
    /// A first byte that did not come in time.
    pub first_byte: bool,
}

/// One configuration, as the proxy uses it. Requests hold on to the one they began with.
pub struct Snapshot {
    /// Mounts → endpoints.
    pub router: Router,
    /// Settings of each mount.
    pub surfaces: Vec<Surface>,
    /// Keys.
    pub directory: Directory,
    /// What their plans' limits are asked of; shared by all snapshots.
    pub limiter: Arc<Limiter>,
    /// Who keeps the money; nobody where nothing is charged. Shared by all snapshots.
    pub ledger: Option<Arc<Ledger>>,
    /// The limit on requests without a valid key; none if the operator set none.
    pub flood: Option<Arc<Flood>>,
    /// Models.
    pub catalog: Catalog,
    /// Providers, in the configuration's order, each with its peer.
    pub providers: Vec<(Arc<Provider>, Template)>,
    /// How each model's upstreams are doing: by the model's place in the catalog, in the model's order.
    pub lives: Vec<Vec<Arc<Live>>>,
    /// When a failed attempt is followed by another.
    pub retries: Retries,
    /// How many such there may be over all requests; shared by all snapshots.
    pub budget: Arc<Budget>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The largest request header in bytes.
    pub header_limit: usize,
    /// The largest request body in bytes.
    pub body_limit: u64,
    /// The largest answer that is no stream, in bytes.
    pub answer_limit: u64,
    /// Of the prices.
    pub currency: String,
    /// Metric handles.
    pub recorder: Recorder,
    /// State of each model, by its place in the catalog; shared by the snapshots that have the model.
    pub traffic: Vec<Arc<Traffic>>,
}
