//! Ledger and registry as the admin API asks for them.

use crate::admin::backend::{Books, Keys};
use crate::auth::record::{AccountRecord, KeyRecord, Record, WriteError, Written};
use crate::auth::registry::Registry;
use crate::billing::ledger::Ledger;
use crate::billing::money::Money;
use crate::billing::{Drift, Entry, Once, PostError, Posted, Statement, UsageRow};
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How often all sums are compared with what they are sums of.
const VERIFY: Duration = Duration::from_secs(300);

/// What operators ask of.
pub(super) struct Connected {
    pub(super) ledger: Arc<Ledger>,
    pub(super) registry: Arc<Registry>,
}

impl Connected {
    /// Every account, of the file and of run time.
    fn accounts(&self) -> Vec<Arc<str>> {
        let made = self.registry.accounts();
        let made = made.iter().map(|account| account.id.clone());
        let all: BTreeSet<Arc<str>> = self.ledger.listed().into_iter().chain(made).collect();
        all.into_iter().collect()
    }

    /// Compares all sums now and then, until told to stop: the metric and the log tell what is wrong.
    pub(super) async fn watch(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval_at(Instant::now() + VERIFY, VERIFY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.changed() => return,
            }
            // A store that is away is asked the next time.
            let _ = self.ledger.verify(&self.accounts(), false).await;
        }
    }
}

#[async_trait]
impl Books for Connected {
    async fn open(&self, account: &str, _seed: Money) -> Result<(), PostError> {
        // What an account of the file begins with, the ledger knows itself.
        self.ledger.open(&account.into()).await
    }

    async fn statement(&self, account: &str) -> Result<Option<Statement>, PostError> {
        self.ledger.statement(account).await
    }

    async fn post(
        &self,
        account: &str,
        entry: Entry,
        note: Option<String>,
        once: Option<&Once>,
    ) -> Result<(Posted, bool), PostError> {
        self.ledger.post(&account.into(), entry, note, once).await
    }

    async fn entries(&self, account: &str) -> Result<Vec<Posted>, PostError> {
        self.ledger.entries(account).await
    }

    async fn usage(
        &self,
        account: Option<&str>,
        since_day: i32,
        until_day: i32,
    ) -> Result<Vec<(Arc<str>, UsageRow)>, PostError> {
        let accounts = match account {
            Some(account) => vec![account.into()],
            None => self.accounts(),
        };
        self.ledger.usage(&accounts, since_day, until_day).await
    }

    async fn verify(&self) -> Result<Vec<Drift>, PostError> {
        self.ledger.verify(&self.accounts(), true).await
    }
}

#[async_trait]
impl Keys for Connected {
    fn key(&self, id: &str) -> Option<Arc<KeyRecord>> {
        self.registry.key(id)
    }

    fn keys(&self) -> Vec<Arc<KeyRecord>> {
        self.registry.keys()
    }

    fn account(&self, id: &str) -> Option<Arc<AccountRecord>> {
        self.registry.account(id)
    }

    fn accounts(&self) -> Vec<Arc<AccountRecord>> {
        self.registry.accounts()
    }

    async fn write(&self, record: Record, once: Option<&Once>) -> Result<Written, WriteError> {
        self.registry.write(record, once).await
    }
}
