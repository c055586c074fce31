//! Who pays, what is held for a request before it is sent, and what it cost in the end.
//!
//! [`wallet`] is the arithmetic of one account, with time as an argument; [`journal`] is where a node
//! writes down what it owes before it acts; [`embedded`] and `redis` apply that to the balances of one
//! node or of many; [`ledger`] is what the proxy and the admin API ask.

pub mod asking;
mod books;
pub mod embedded;
pub mod hold;
pub mod journal;
pub mod ledger;
mod leftovers;
mod lines;
pub mod money;
mod nodes;
pub mod period;
mod recent;
mod redis;
pub mod seeds;
mod sums;
pub mod wallet;

pub use sums::{Sums, UsageRow, Used};

use crate::meter::usage::Source;
use money::Money;
use period::Period;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Who pays for a key's requests. Every key has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payer {
    /// The account.
    pub account: Arc<str>,
    /// The key's id: it stays the same when the key is rotated or renamed.
    pub key: Arc<str>,
    /// The account's project.
    pub project: Arc<str>,
    /// With what.
    pub pays: Pays,
    /// How much at most.
    pub caps: Caps,
}

impl Payer {
    /// For callers whom nothing is charged to.
    pub fn free() -> Payer {
        Payer {
            account: "".into(),
            key: "".into(),
            project: "".into(),
            pays: Pays::Balance,
            caps: Caps::default(),
        }
    }
}

/// What a key pays with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pays {
    /// The account's balance.
    Balance,
    /// The account's packages of this name, the one first that expires first.
    Package(Arc<str>),
}

/// What a key may spend of its account's balance; `None` is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// In a day.
    pub daily: Option<Money>,
    /// In a month.
    pub monthly: Option<Money>,
}

/// What a request will probably cost: asked before it is sent.
#[derive(Clone, Debug)]
pub struct Bill {
    /// Who pays.
    pub payer: Arc<Payer>,
    /// The model, for the records.
    pub model: Arc<str>,
    /// By its price.
    pub money: Money,
    /// Tokens of a package.
    pub tokens: u64,
}

impl Bill {
    /// What is set aside for it as hold number `id`, where no package is known to pay.
    pub fn held_unseen(&self, id: u64, period: Period) -> Held {
        let payer = &self.payer;
        let (money, tokens, package) = match &payer.pays {
            Pays::Balance => (self.money, 0, None),
            Pays::Package(name) => {
                let unseen = format!("?{name}");
                (Money::ZERO, self.tokens, Some(unseen.into()))
            }
        };
        Held {
            id,
            account: payer.account.clone(),
            key: payer.key.clone(),
            project: payer.project.clone(),
            model: self.model.clone(),
            money,
            tokens,
            package,
            period,
        }
    }
}

/// Why a request cannot be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The balance.
    Balance,
    /// The package: there is none, or not enough of it.
    Package,
    /// The key's cap of the day.
    DailyCap,
    /// The key's cap of the month.
    MonthlyCap,
    /// Nobody can say: Redis is away, or the journal cannot be written.
    Store,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Reason; 5] = [
        Reason::Balance,
        Reason::Package,
        Reason::DailyCap,
        Reason::MonthlyCap,
        Reason::Store,
    ];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Balance => "balance",
            Reason::Package => "package",
            Reason::DailyCap => "daily_cap",
            Reason::MonthlyCap => "monthly_cap",
            Reason::Store => "store",
        }
    }
}

/// A refusal for want of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What is short.
    pub reason: Reason,
    /// What is left of it: micro-units, or tokens of a package. What other requests hold is not.
    pub left: i64,
    /// What the request was estimated to take, in the same unit.
    pub needed: i64,
    /// When a cap's period ends, in milliseconds since 1970.
    pub resets: Option<u64>,
}

/// What is set aside for a request, until it is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Its number, given by the node; unique within an epoch of its journal.
    pub id: u64,
    /// Who pays.
    pub account: Arc<str>,
    /// The key's id.
    pub key: Arc<str>,
    /// The account's project.
    pub project: Arc<str>,
    /// The model that was called.
    pub model: Arc<str>,
    /// Held of the balance and of the key's caps; nothing where a package pays.
    pub money: Money,
    /// Held of the package.
    pub tokens: u64,
    /// The id of the package that pays; `?` and its name where nobody could be asked which.
    pub package: Option<Arc<str>>,
    /// The day and the month that the charge counts for.
    pub period: Period,
}

/// What a request has used so far, and its price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// By the price of the moment of its admission.
    pub cost: Money,
    /// What was used.
    pub used: Used,
}

impl Due {
    /// Tokens that a package loses by it.
    pub fn package_tokens(&self) -> u64 {
        let tokens = self.used.tokens;
        tokens.input.saturating_add(tokens.output)
    }
}

/// What one request cost in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// What was held for it, and who pays.
    pub held: Held,
    /// What it used.
    pub due: Due,
    /// How sure that is; `None` if nothing was used, and the hold was only released.
    pub source: Option<Source>,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

impl Charge {
    /// What is taken from the balance.
    pub fn money(&self) -> Money {
        match self.held.package {
            None => self.due.cost,
            Some(_) => Money::ZERO,
        }
    }

    /// What is taken from the package.
    pub fn tokens(&self) -> u64 {
        match self.held.package {
            None => 0,
            Some(_) => self.due.package_tokens(),
        }
    }
}

/// What an operator does to an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Entry {
    /// The account's first balance.
    Open {
        /// May be nothing.
        amount: Money,
    },
    /// Money came in.
    TopUp {
        /// More than nothing.
        amount: Money,
    },
    /// Money went back.
    Refund {
        /// More than nothing; no more than the balance without what is held.
        amount: Money,
    },
    /// A package was sold or given.
    Grant {
        /// Its name in the configuration.
        package: Arc<str>,
        /// Tokens in it.
        tokens: u64,
        /// How long it lasts.
        valid: Duration,
    },
}

/// An entry that was made. Entries are kept for as long as the account is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// Its id; a package's is its own.
    pub id: Arc<str>,
    /// What was done.
    pub entry: Entry,
    /// Why.
    pub note: Option<String>,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

/// Makes a write happen once, however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// What the client sent as `Idempotency-Key`.
    pub key: String,
    /// A digest of what it asked for: the same key for something else is an error.
    pub fingerprint: String,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostedOutcome {
    /// It was made.
    Now,
    /// The same request was made before: the id of the entry that it made.
    Before(Arc<str>),
}

/// Why an entry was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The store cannot be asked, or did not answer: it may have been made or not. With an
    /// `Idempotency-Key` it can be asked for again.
    Away,
    /// There is no such account.
    Unknown,
    /// A refund beyond what is free of the balance.
    Short {
        /// What is free.
        available: Money,
    },
    /// A sum beyond what can be counted exactly.
    TooLarge,
    /// The `Idempotency-Key` was used for something else.
    Reused,
}

/// Sums are exact up to here in every store: Lua's numbers are doubles.
pub const MOST: i64 = 1 << 53;

/// How an account stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// Held money included.
    pub balance: Money,
    /// Held for requests in flight.
    pub held: Money,
    /// Packages, in the order in which they expire; used-up and expired ones for 90 days.
    pub packages: Vec<PackageState>,
    /// What keys have spent, by their ids.
    pub keys: Vec<(Arc<str>, Spent)>,
}

/// How a package stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageState {
    /// Its id.
    pub id: Arc<str>,
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Tokens that it began with.
    pub tokens: u64,
    /// Tokens that are left, held ones included. Below nothing if the last request used more than was held for it.
    pub left: i64,
    /// Tokens held for requests in flight.
    pub held: i64,
    /// When it was granted, in milliseconds since 1970.
    pub granted: u64,
    /// When it expires, in milliseconds since 1970.
    pub expires: u64,
}

/// What a key has spent of the balance in the last period in which it spent anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Held for requests in flight.
    #[serde(skip)]
    pub held: Money,
    /// The day and the month that the sums are of.
    pub period: Period,
    /// In that day.
    pub daily: Money,
    /// In that month.
    pub monthly: Money,
}

/// A sum that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The account.
    pub account: Arc<str>,
    /// Which sum: `balance`, `held`, `packages`, `key <id> day`, …
    pub what: String,
    /// As it is stored.
    pub stored: i64,
    /// As it is by entries, usage and journal.
    pub expected: i64,
}
