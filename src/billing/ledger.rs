//! What the proxy asks before a request is sent, and tells when it has ended: the money's side of it.
//!
//! [`Ledger::asking`] goes along with the limits' admission; what it agreed to becomes a [`Hold`](super::hold::Hold) once the
//! journal has it, and the hold becomes a charge, on file before the client has the last byte.

use super::asking::Asking;
use super::embedded::Embedded;
use super::hold::Settle;
use super::journal::{Journal, Sink};
use super::leftovers::adopt;
use super::money::Money;
use super::nodes::Nodes;
use super::period::Calendar;
use super::redis::Shared;
use super::seeds::Seeds;
use super::wallet::Wallet;
use super::{Bill, Charge, Due, Held, Shortage};
use crate::clock::Clock;
use crate::meter::usage::Source;
use crate::record::billing::BillingMetrics;
use crate::store::db::Db;
use crate::store::link::Link;
use futures::FutureExt;
use futures::future::{BoxFuture, join};
use prometheus::IntCounter;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::interval;

/// How often metrics of the journal are brought up to date.
const LOOK: Duration = Duration::from_secs(1);

/// What happens to requests that cost while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAway {
    /// They are refused, after a short grace for accounts that are known to have plenty.
    Deny,
    /// They are served; the journal keeps what they cost.
    Allow,
    /// They are served as far as what was last heard of the balance goes, divided by the nodes.
    Local,
}

/// How charging is done.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Who cannot pay is refused. Else charges are taken all the same.
    pub enforce: bool,
    /// Where days begin.
    pub calendar: Calendar,
    /// Without Redis.
    pub when_away: WhenAway,
}

/// Where balances are.
pub(super) enum Books {
    /// On this node alone.
    Embedded(Arc<Embedded>),
    /// In Redis.
    Nodes(Arc<Nodes>),
}

/// The money of a gateway.
pub struct Ledger {
    pub(super) settings: Settings,
    pub(super) books: Books,
    pub(super) journal: Arc<Journal>,
    pub(super) clock: Clock,
    pub(super) seeds: Arc<Seeds>,
    pub(super) metrics: Arc<BillingMetrics>,
    /// What was charged, by [`Source`]: looking a label up on every request would cost more than counting.
    charged: [IntCounter; Source::ALL.len()],
    next: AtomicU64,
}

/// What a ledger does besides answering; ends after it was told to stop and everything is settled.
type Work = BoxFuture<'static, ()>;

impl Ledger {
    /// Balances of this node alone. First it takes over what a process before has left; of a `successor` in an upgrade
    /// that comes when it serves, since the process before may yet get the store back.
    ///
    /// # Errors
    /// One line: the store or the journal cannot be used.
    #[allow(clippy::too_many_arguments)] // What it is made of; nothing of it belongs together more than the rest.
    pub async fn embedded(
        settings: Settings,
        db: Arc<Db>,
        dir: &Path,
        successor: bool,
        seeds: Arc<Seeds>,
        clock: Clock,
        metrics: Arc<BillingMetrics>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(Arc<Ledger>, Work), String> {
        // Each store has a directory of its own: it has applied its own charges, and no others.
        let (journal, mut left) = Journal::open(&dir.join("journal"))?;
        let embedded = Embedded::open(db.clone(), settings.calendar)?;
        for one in left.drain(if successor { 0..0 } else { 0..left.len() }) {
            let mut charges = one.charges(0);
            let replayed = embedded.replay(one.epoch(), charges.by_ref());
            let replayed = replayed.map_err(|error| error.to_string())?;
            if let Some(error) = charges.error() {
                return Err(format!("store.path: {error}"));
            }
            metrics.replayed.inc_by(replayed);
            one.applied();
        }
        // Other epochs have no files any more. Those of living processes have, and are charged when these have ended.
        let forgotten = db.forget_marks(&journal.epochs()?);
        forgotten.map_err(|error| error.to_string())?;
        journal.attach(Arc::new(Applying {
            embedded: embedded.clone(),
            epoch: journal.epoch(),
        }));
        let told = Arc::downgrade(&journal);
        embedded.tell(move |seq| {
            if let Some(journal) = told.upgrade() {
                journal.applied(seq);
            }
        });
        for account in seeds.accounts() {
            let (seed, at) = (seeds.amount(&account), clock.now().wall);
            embedded.open_account(&account, seed, at).await?;
        }
        let books = Books::Embedded(embedded.clone());
        let ledger = Ledger::new(settings, books, journal.clone(), clock, seeds, metrics);
        let watched = ledger.clone();
        let adopting = adopt(
            embedded.clone(),
            journal.clone(),
            left,
            ledger.metrics.clone(),
        );
        let work = async move {
            let mut ticks = interval(LOOK);
            let looking = async {
                loop {
                    ticks.tick().await;
                    watched.look(&journal);
                }
            };
            tokio::select! {
                ((), ()) = join(looking, adopting) => {}
                _ = stopped.changed() => {}
            }
            // It waits for the disk.
            let _ = spawn_blocking(move || embedded.stop()).await;
        };
        Ok((ledger, work.boxed()))
    }

    /// Balances of all nodes on a Redis. What a process before has left is sent when Redis is there.
    ///
    /// # Errors
    /// One line: the journal cannot be used.
    pub fn redis(
        settings: Settings,
        link: Arc<Link>,
        dir: &Path,
        seeds: Arc<Seeds>,
        clock: Clock,
        metrics: Arc<BillingMetrics>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(Arc<Ledger>, Work), String> {
        let (journal, left) = Journal::open(&dir.join("journal-redis"))?;
        let Settings {
            enforce, calendar, ..
        } = settings;
        let shared = Shared::new(link, clock.clone(), calendar, enforce, journal.epoch());
        let nodes = Arc::new(Nodes::new(shared, seeds.clone(), metrics.clone()));
        journal.attach(nodes.clone());
        let books = Books::Nodes(nodes.clone());
        let ledger = Ledger::new(settings, books, journal.clone(), clock, seeds, metrics);
        let watched = ledger.clone();
        let sending = nodes.run(journal.clone(), left, stopped.clone());
        let looking = async move {
            let mut ticks = interval(LOOK);
            loop {
                tokio::select! {
                    _ = ticks.tick() => watched.look(&journal),
                    _ = stopped.changed() => return,
                }
            }
        };
        Ok((ledger, join(sending, looking).map(drop).boxed()))
    }

    /// Closes the embedded store, for a successor to open it: see [`Embedded::lend`].
    pub async fn lend(&self) {
        if let Books::Embedded(embedded) = &self.books {
            let embedded = embedded.clone();
            // It waits for the disk.
            let _ = spawn_blocking(move || embedded.lend()).await;
        }
    }

    /// Opens it again: the successor has failed.
    ///
    /// # Errors
    /// One line. The store is tried again with everything that is asked of it.
    pub async fn take_back(&self) -> Result<(), String> {
        let Books::Embedded(embedded) = &self.books else {
            return Ok(());
        };
        let embedded = embedded.clone();
        let back = spawn_blocking(move || embedded.take_back()).await;
        let back = back.map_err(|error| error.to_string())?;
        back.map_err(|error| error.to_string())
    }

    /// Shows how the journal is.
    fn look(&self, journal: &Journal) {
        let failing = i64::from(journal.failing());
        self.metrics.journal_failing.set(failing);
    }

    fn new(
        settings: Settings,
        books: Books,
        journal: Arc<Journal>,
        clock: Clock,
        seeds: Arc<Seeds>,
        metrics: Arc<BillingMetrics>,
    ) -> Arc<Ledger> {
        let charged =
            Source::ALL.map(|source| metrics.charged.with_label_values(&[source.as_str()]));
        Arc::new(Ledger {
            settings,
            books,
            journal,
            clock,
            seeds,
            metrics,
            charged,
            next: AtomicU64::new(1),
        })
    }

    /// The question whether a request can be paid for, to be asked along with its limits.
    pub fn asking(self: &Arc<Self>, bill: Bill) -> Asking {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Asking::new(self.clone(), id, bill)
    }

    /// The accounts that the configuration lists.
    pub fn listed(&self) -> Vec<Arc<str>> {
        self.seeds.accounts()
    }

    /// The configuration lists these accounts now, each with its first balance. Gives those that it did not list
    /// before: they are to be opened with [`Ledger::open_new`].
    pub fn seed(&self, amounts: BTreeMap<Arc<str>, Money>) -> Vec<Arc<str>> {
        self.seeds.replace(amounts)
    }

    /// Opens accounts that the configuration lists since now, so that operators see them. Where Redis has the balances
    /// they are opened when someone asks for them, and so is one that cannot be opened now.
    pub async fn open_new(&self, accounts: &[Arc<str>]) {
        if let Books::Nodes(_) = &self.books {
            return;
        }
        for account in accounts {
            if self.open(account).await.is_err() {
                log::warn!("account {account}: it cannot be opened yet");
            }
        }
    }

    pub(super) fn short(&self, shortage: &Shortage) {
        let reason = shortage.reason.as_str();
        self.metrics.shortages.with_label_values(&[reason]).inc();
    }
}

/// The embedded store as the journal sees it.
struct Applying {
    embedded: Arc<Embedded>,
    epoch: u64,
}

impl Sink for Applying {
    fn take(&self, seq: u64, charge: Arc<Charge>) {
        self.embedded.take(self.epoch, seq, charge);
    }
}

/// A wallet, locked.
pub(super) fn lock(wallet: &Mutex<Wallet>) -> std::sync::MutexGuard<'_, Wallet> {
    // A panic between two lines of arithmetic leaves sums that `verify` finds.
    wallet.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Settle for Ledger {
    fn note(&self, held: &Held, due: &Due) {
        self.journal.progress(held.id, due);
    }

    fn charge(&self, held: Held, due: Due, source: Option<Source>) {
        self.metrics.holds.dec();
        if let Some(source) = source
            && held.package.is_none()
            && let Some(charged) = self.charged.get(source as usize)
        {
            charged.inc_by(due.cost.micros().max(0).unsigned_abs());
        }
        let charge = Charge {
            held,
            due,
            source,
            at: self.clock.now().wall,
        };
        if let Books::Embedded(embedded) = &self.books
            && let Some(wallet) = embedded.wallet(&charge.held.account)
        {
            let mut wallet = lock(&wallet);
            wallet.release(&charge.held);
            wallet.charge(&charge, self.settings.calendar);
        }
        self.journal.settle(charge);
    }
}
