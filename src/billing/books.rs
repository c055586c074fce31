//! What operators ask of the ledger, and do to it.

use super::ledger::{Books, Ledger};
use super::{Drift, Entry, Once, PostError, Posted, PostedOutcome, Statement, UsageRow};
use crate::store::link::Away;
use std::sync::Arc;

impl Ledger {
    /// Makes an account with its first balance, if it is not there yet.
    ///
    /// # Errors
    /// [`PostError::Away`].
    pub async fn open(&self, account: &Arc<str>) -> Result<(), PostError> {
        match &self.books {
            Books::Embedded(embedded) => {
                let (seed, at) = (self.seeds.amount(account), self.clock.now().wall);
                let opened = embedded.open_account(account, seed, at).await;
                opened.map(drop).map_err(unreadable)
            }
            Books::Nodes(nodes) => nodes.open(account).await.map_err(away),
        }
    }

    /// How an account stands; `None` if there is none.
    ///
    /// # Errors
    /// [`PostError::Away`].
    pub async fn statement(&self, account: &str) -> Result<Option<Statement>, PostError> {
        match &self.books {
            Books::Embedded(embedded) => Ok(embedded.statement(account)),
            Books::Nodes(nodes) => {
                nodes.caught_up(account).await;
                let known = nodes.shared.statement(account).await.map_err(away)?;
                if known.is_none() && self.open_listed(account).await? {
                    return nodes.shared.statement(account).await.map_err(away);
                }
                Ok(known)
            }
        }
    }

    /// Makes an account that the configuration lists and Redis has not seen yet; true if it lists it.
    async fn open_listed(&self, account: &str) -> Result<bool, PostError> {
        let Some(account) = self.seeds.listed(account) else {
            return Ok(false);
        };
        self.open(&account).await?;
        Ok(true)
    }

    /// Makes an entry, and gives it; true if the same `Idempotency-Key` had made it before.
    ///
    /// # Errors
    /// [`PostError`]; nothing was done, but after [`PostError::Away`], when nobody knows.
    pub async fn post(
        &self,
        account: &Arc<str>,
        entry: Entry,
        note: Option<String>,
        once: Option<&Once>,
    ) -> Result<(Posted, bool), PostError> {
        let posted = self.seeds.entry(entry, note);
        let before = match &self.books {
            Books::Embedded(embedded) => {
                match embedded
                    .post(account, posted.clone(), once.cloned())
                    .await?
                {
                    PostedOutcome::Now => None,
                    PostedOutcome::Before(id) => Some(id),
                }
            }
            Books::Nodes(nodes) => {
                let mut before = nodes.shared.post(account, &posted, once).await;
                if before == Err(PostError::Unknown) && self.open_listed(account).await? {
                    before = nodes.shared.post(account, &posted, once).await;
                }
                before?.map(Arc::from)
            }
        };
        let Some(id) = before else {
            return Ok((posted, false));
        };
        let entries = self.entries(account).await?;
        let made = entries.into_iter().find(|entry| entry.id == id);
        Ok((made.unwrap_or(posted), true))
    }

    /// Every entry of an account, the oldest first.
    ///
    /// # Errors
    /// [`PostError::Away`].
    pub async fn entries(&self, account: &str) -> Result<Vec<Posted>, PostError> {
        match &self.books {
            Books::Embedded(embedded) => embedded.entries(account).await.map_err(unreadable),
            Books::Nodes(nodes) => nodes.shared.entries(account).await.map_err(away),
        }
    }

    /// The usage of some accounts in these days, both included.
    ///
    /// # Errors
    /// [`PostError::Away`].
    pub async fn usage(
        &self,
        accounts: &[Arc<str>],
        since: i32,
        until: i32,
    ) -> Result<Vec<(Arc<str>, UsageRow)>, PostError> {
        let mut all = Vec::new();
        for account in accounts {
            match &self.books {
                Books::Embedded(embedded) => {
                    let rows = embedded.usage(Some(account), since, until);
                    all.extend(rows.await.map_err(unreadable)?);
                }
                Books::Nodes(nodes) => {
                    nodes.caught_up(account).await;
                    let rows = nodes.shared.usage(account, since, until);
                    let rows = rows.await.map_err(away)?;
                    all.extend(rows.into_iter().map(|row| (account.clone(), row)));
                }
            }
        }
        Ok(all)
    }

    /// The usage of one account, but for the last moments: for clients, who may ask often.
    ///
    /// # Errors
    /// [`PostError::Away`].
    pub async fn usage_so_far(
        &self,
        account: &str,
        since: i32,
        until: i32,
    ) -> Result<Vec<UsageRow>, PostError> {
        match &self.books {
            Books::Embedded(embedded) => {
                let rows = embedded.usage_so_far(account, since, until);
                rows.await.map_err(unreadable)
            }
            Books::Nodes(nodes) => {
                nodes.caught_up(account).await;
                // A client that asks in a loop asks Redis once a second.
                if let Some(rows) = nodes.recent.get(account, (since, until)) {
                    return Ok(rows);
                }
                let rows = nodes.shared.usage(account, since, until);
                let rows = rows.await.map_err(away)?;
                nodes.recent.put(account, (since, until), rows.clone());
                Ok(rows)
            }
        }
    }

    /// Compares the sums of accounts with the entries, the usage and the holds that they are sums of: over all of
    /// their history, or of Redis only what today changes.
    ///
    /// # Errors
    /// [`PostError::Away`]: some could not be read. What was found in others is in the log.
    pub async fn verify(
        &self,
        accounts: &[Arc<str>],
        whole: bool,
    ) -> Result<Vec<Drift>, PostError> {
        let mut unread = Ok(());
        let found = match &self.books {
            Books::Embedded(embedded) => embedded.verify().await.map_err(unreadable)?,
            Books::Nodes(nodes) => {
                let mut found = Vec::new();
                let since = if whole { i32::MIN } else { self.today() };
                for account in accounts {
                    match nodes.shared.verify(account, since).await {
                        Ok(drifts) => found.extend(drifts),
                        Err(error) => unread = Err(away(error)),
                    }
                }
                found
            }
        };
        for drift in &found {
            log::error!(
                "ledger: account {}: {} is {} and should be {}, in micro-units or tokens",
                drift.account,
                drift.what,
                drift.stored,
                drift.expected
            );
        }
        self.metrics.drift.set(found.len() as i64);
        unread.map(|()| found)
    }

    /// The day of this moment.
    pub fn today(&self) -> i32 {
        let wall = self.clock.now().wall;
        self.settings.calendar.period(wall).day
    }
}

fn unreadable(error: String) -> PostError {
    log::error!("{error}");
    PostError::Away
}

fn away(_: Away) -> PostError {
    PostError::Away
}
