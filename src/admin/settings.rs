//! What the admin API knows of the configuration.

use crate::auth::record::{AccountRecord, KeyRecord};
use crate::billing::money::Money;
use crate::billing::period::Calendar;
use std::time::Duration;

/// The configuration, as far as the admin API needs it.
pub struct Settings {
    /// The bearer token; `None` only on a loopback address.
    pub token: Option<String>,
    /// The name of this machine; empty where nobody tells it.
    pub host: String,
    /// What new keys begin with.
    pub key_prefix: String,
    /// Of all amounts.
    pub currency: String,
    /// Where days begin.
    pub calendar: Calendar,
    /// The names of the plans.
    pub plans: Vec<String>,
    /// Packages on sale.
    pub packages: Vec<Package>,
    /// Accounts of the configuration, each with its first balance. Their version and time of making are 0.
    pub accounts: Vec<(AccountRecord, Money)>,
    /// Keys of the configuration. Their version and time of making are 0, and what they begin with is not known.
    pub keys: Vec<KeyRecord>,
    /// The key that exists while this process runs.
    pub session_key: Option<KeyRecord>,
}

/// A package on sale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Tokens in it.
    pub tokens: u64,
    /// How long it lasts.
    pub valid: Duration,
    /// Globs of the models that it pays for.
    pub models: Vec<String>,
    /// What it costs.
    pub price: Money,
}
