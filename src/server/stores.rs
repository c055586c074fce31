//! What outlives requests: limits, money, keys made at run time, and where they are kept, as the
//! configuration has it; and the tasks that they need.

use super::roster::Roster;
use crate::admit::FUNCTIONS;
use crate::auth::registry::{Local, Records, Registry};
use crate::auth::shared::SharedRecords;
use crate::billing::ledger::{Ledger, Settings as Charging, WhenAway as MoneyAway};
use crate::billing::money::Money;
use crate::billing::period::Calendar;
use crate::billing::seeds::Seeds;
use crate::clock::Clock;
use crate::config::{BillingFailure, BillingMode, Config, LimitsFailure, Redis};
use crate::limit::limiter::{Limiter, WhenAway};
use crate::limit::redis::Shared;
use crate::record::access_log::rfc3339;
use crate::record::metrics::Metrics;
use crate::store::db::{Db, FILE};
use crate::store::link::{Link, Settings};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

/// All of it, at work.
pub(super) struct Stores {
    /// What requests ask for their limits.
    pub(super) limiter: Arc<Limiter>,
    /// Who keeps the money; nobody where nothing is charged and nobody can ask.
    pub(super) ledger: Option<Arc<Ledger>>,
    /// Keys and accounts made at run time; none where nobody can make any.
    pub(super) registry: Option<Arc<Registry>>,
    /// The way to Redis and to the other nodes.
    pub(super) link: Option<Arc<Link>>,
    /// Ends when the last ended request was told of, after `finished` became true.
    pub(super) ended: JoinHandle<()>,
    /// The embedded store, for a successor.
    pub(super) kept: Kept,
    /// Ends when the embedded store is closed.
    pub(super) closed: Option<JoinHandle<()>>,
}

/// The embedded store, as far as there is one, to be handed over. It keeps nothing open.
pub(super) struct Kept {
    db: Weak<Db>,
    ledger: Weak<Ledger>,
}

impl Kept {
    /// Closes it, for a successor to open.
    pub(super) async fn lend(&self) {
        if let Some(ledger) = self.ledger.upgrade() {
            ledger.lend().await;
        }
        if let Some(db) = self.db.upgrade() {
            // It waits for the disk. Lent already, it is lent.
            let _ = spawn_blocking(move || db.lend()).await;
        }
    }

    /// Opens it again.
    pub(super) async fn take_back(&self) -> Result<(), String> {
        if let Some(db) = self.db.upgrade() {
            let back = spawn_blocking(move || db.take_back()).await;
            let back = back.map_err(|error| error.to_string())?;
            back.map_err(|error| error.to_string())?;
        }
        match self.ledger.upgrade() {
            Some(ledger) => ledger.take_back().await,
            None => Ok(()),
        }
    }

    /// The successor has it for good.
    pub(super) fn give(&self) {
        if let Some(db) = self.db.upgrade() {
            db.give();
        }
    }
}

/// Starts it. A Redis that is not there does not keep the gateway from starting: `store.on_failure` holds until it is.
pub(super) async fn start(
    config: &Config,
    metrics: &Metrics,
    roster: &Arc<Roster>,
    successor: bool,
    finished: watch::Receiver<bool>,
) -> Result<Stores, String> {
    let clock = Clock::system();
    let link = match &config.store.redis {
        Some(redis) => Some(link(config, redis, metrics).await?),
        None => None,
    };
    // Without any of these nobody can have made a key or an account.
    let served = config.admin.is_some() || config.billing.mode != BillingMode::Off;
    let kept = config.store.path.join(FILE).exists();
    let db = match &link {
        None if served || kept => Some(Arc::new(Db::open(&config.store.path)?)),
        _ => None,
    };
    let shared = db.as_ref().map_or_else(Weak::new, Arc::downgrade);
    let closed = db.as_ref().map(|db| tokio::spawn(db.closed()));
    let mut tasks = JoinSet::new();
    let limiter = match &link {
        None => Limiter::memory(clock.clone(), metrics.limits.clone()),
        Some(link) => {
            let shared = Shared::new(link.clone(), clock.clone());
            let when_away = match config.store.on_failure_limits {
                LimitsFailure::Local => WhenAway::Local,
                LimitsFailure::Allow => WhenAway::Allow,
                LimitsFailure::Deny => WhenAway::Deny,
            };
            Limiter::redis(shared, when_away, clock.clone(), metrics.limits.clone())
        }
    };
    tasks.spawn(limiter.clone().run(finished.clone()));
    let registry = registry(db.clone(), link.clone(), roster, &mut tasks, &finished).await?;
    let ledger = match (served, &link, db) {
        (false, ..) => None,
        (true, Some(link), _) => {
            let (ledger, work) = Ledger::redis(
                charging(config),
                link.clone(),
                &config.store.path,
                seeds(config, &clock),
                clock,
                metrics.billing.clone(),
                finished,
            )?;
            tasks.spawn(work);
            Some(ledger)
        }
        (true, None, Some(db)) => {
            let (ledger, work) = Ledger::embedded(
                charging(config),
                db,
                &config.store.path,
                successor,
                seeds(config, &clock),
                clock,
                metrics.billing.clone(),
                finished,
            )
            .await?;
            tasks.spawn(work);
            Some(ledger)
        }
        (true, None, None) => None,
    };
    let (leave, left) = watch::channel(false);
    let supervisor = link.clone().map(|link| tokio::spawn(link.supervise(left)));
    let ended = tokio::spawn(async move {
        while tasks.join_next().await.is_some() {}
        // The node leaves after its last call.
        let _ = leave.send(true);
        if let Some(supervisor) = supervisor {
            let _ = supervisor.await;
        }
    });
    let kept = Kept {
        db: shared,
        ledger: ledger.as_ref().map_or_else(Weak::new, Arc::downgrade),
    };
    Ok(Stores {
        limiter,
        ledger,
        registry,
        link,
        ended,
        kept,
        closed,
    })
}

async fn link(config: &Config, redis: &Redis, metrics: &Metrics) -> Result<Arc<Link>, String> {
    let limits = match config.store.on_failure_limits {
        LimitsFailure::Local => {
            "rate limits hold for each node, at its share of them (store.on_failure.limits: local)"
        }
        LimitsFailure::Allow => "rate limits do not hold (store.on_failure.limits: allow)",
        LimitsFailure::Deny => {
            "limited requests are refused with 503 (store.on_failure.limits: deny)"
        }
    };
    let money = match (config.billing.mode, config.store.on_failure_billing) {
        (BillingMode::Off, _) => "",
        (BillingMode::Observe, _) | (_, BillingFailure::Allow) => {
            "; charges are kept in the journal (store.on_failure.billing: allow)"
        }
        (_, BillingFailure::Local) => {
            "; balances are those last heard (store.on_failure.billing: local)"
        }
        (_, BillingFailure::Deny) => {
            "; requests that cost are refused with 503 after a short grace (store.on_failure.billing: deny)"
        }
    };
    let settings = Settings {
        url: redis.url.expose().to_owned(),
        prefix: redis.prefix.clone(),
        functions: FUNCTIONS.to_vec(),
        consequence: format!("{limits}{money}"),
        about: about(),
    };
    let store = metrics
        .store()
        .map_err(|error| format!("metrics: {error}"))?;
    let link = Arc::new(Link::new(settings, store)?);
    link.first_connect().await;
    Ok(link)
}

/// What a node says of itself to the others.
fn about() -> String {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "host": super::admin::host(),
        "started_at": rfc3339(SystemTime::now()),
    })
    .to_string()
}

fn charging(config: &Config) -> Charging {
    Charging {
        enforce: config.billing.mode == BillingMode::Enforce,
        calendar: Calendar {
            offset: i64::from(config.billing.day_starts_seconds) * 1000,
        },
        when_away: match config.store.on_failure_billing {
            BillingFailure::Deny => MoneyAway::Deny,
            BillingFailure::Allow => MoneyAway::Allow,
            BillingFailure::Local => MoneyAway::Local,
        },
    }
}

fn seeds(config: &Config, clock: &Clock) -> Arc<Seeds> {
    Arc::new(Seeds::new(first_balances(config), clock.clone()))
}

/// What each account of the configuration begins with.
pub(super) fn first_balances(config: &Config) -> BTreeMap<Arc<str>, Money> {
    let accounts = config.accounts.iter();
    accounts
        .map(|account| (account.id.as_str().into(), account.balance))
        .collect()
}

/// Loads keys and accounts that were made at run time, and lets requests go by them.
async fn registry(
    db: Option<Arc<Db>>,
    link: Option<Arc<Link>>,
    roster: &Arc<Roster>,
    tasks: &mut JoinSet<()>,
    finished: &watch::Receiver<bool>,
) -> Result<Option<Arc<Registry>>, String> {
    let shared = link.map(|link| Arc::new(SharedRecords::new(link)));
    let records: Arc<dyn Records> = match (&shared, db) {
        (Some(shared), _) => shared.clone(),
        (None, Some(db)) => Arc::new(Local(db)),
        (None, None) => return Ok(None),
    };
    let listener = roster.clone();
    let registry =
        Registry::open(records, Arc::new(move |record: &_| listener.heard(record))).await?;
    roster.begin(&registry);
    if let Some(shared) = shared {
        tasks.spawn(shared.follow(registry.clone(), finished.clone()));
    }
    Ok(Some(registry))
}
