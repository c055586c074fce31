//! Keys and accounts that were made at run time, as they are kept: in the embedded store or in Redis, one
//! JSON object each. Of a key only hashes are kept.

use crate::billing::money::Money;
use crate::rejection::quoted;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A key that was made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// `key_` and 16 hex digits; stays the same when the key is rotated or renamed.
    pub id: Arc<str>,
    /// Counts the writes of this record, from 1 on: a write must say the one after the stored one's.
    pub version: u64,
    /// The operator's name for it.
    pub name: String,
    /// The account that pays.
    pub account: Arc<str>,
    /// The account's project.
    pub project: Arc<str>,
    /// A plan instead of the account's.
    pub plan: Option<String>,
    /// Globs that narrow the plan's models.
    pub models: Option<Vec<String>>,
    /// Client networks that may use it; empty for any.
    pub networks: Vec<String>,
    /// What it pays with.
    pub billing: KeyBilling,
    /// The most that it may spend in a day and in a month; 0 is no cap.
    pub spend_cap: SpendCap,
    /// The moment from which it is refused, in milliseconds since 1970.
    pub expires: Option<u64>,
    /// Refused until it is enabled again.
    pub disabled: bool,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// The key's first characters, as logs show them.
    pub hint: String,
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// The key before its last rotation, while it is still taken.
    pub retiring: Option<Retiring>,
    /// When it was revoked, in milliseconds since 1970: for good.
    pub revoked: Option<u64>,
}

/// A key that was rotated away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retiring {
    /// SHA-256 of the old key, in hex.
    pub hash: String,
    /// Its first characters.
    pub hint: String,
    /// Taken until then, in milliseconds since 1970.
    pub until: u64,
}

/// What pays for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyBilling {
    /// The account's balance.
    #[default]
    PayAsYouGo,
    /// Packages of this name in the configuration.
    Package(String),
}

/// The most that a key may spend; 0 is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendCap {
    /// In a day.
    pub daily: Money,
    /// In a month.
    pub monthly: Money,
}

/// An account that was made at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// The operator's id for it.
    pub id: Arc<str>,
    /// Counts the writes of this record, as for keys.
    pub version: u64,
    /// The name of its plan in the configuration.
    pub plan: String,
    /// Its projects; at least one.
    pub projects: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
}

/// What is kept.
// Few are ever held at a time, most of them keys.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A key.
    Key(KeyRecord),
    /// An account.
    Account(AccountRecord),
}

impl Record {
    /// Where it is kept: `key:…`, `account:…`.
    pub fn name(&self) -> String {
        match self {
            Record::Key(key) => format!("key:{}", key.id),
            Record::Account(account) => format!("account:{}", account.id),
        }
    }

    /// Counts its writes.
    pub fn version(&self) -> u64 {
        match self {
            Record::Key(key) => key.version,
            Record::Account(account) => account.version,
        }
    }

    /// Reads what was stored.
    ///
    /// # Errors
    /// What is wrong with it, in a line that shows nothing of it but its name.
    pub fn read(name: &str, text: &str) -> Result<Record, String> {
        let record: Record = serde_json::from_str(text)
            .map_err(|error| format!("record {}: {error}", quoted(name)))?;
        match record.name() == name {
            true => Ok(record),
            false => Err(format!("record {} is another's", quoted(name))),
        }
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    Now,
    /// The same request was made before: the name of the record that it wrote.
    Before(String),
}

/// Why a record was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The store cannot be asked, or did not answer: it may have been written or not.
    Away,
    /// Another version is stored: somebody else wrote it meanwhile, or it exists already.
    Changed,
    /// The `Idempotency-Key` was used for something else.
    Reused,
}
