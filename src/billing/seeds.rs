//! What new accounts begin with.

use super::money::Money;
use super::{Entry, Posted};
use crate::clock::Clock;
use crate::id::next_random;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// First balances by account, as the configuration has them. An account that is not listed begins with nothing.
pub struct Seeds {
    amounts: ArcSwap<BTreeMap<Arc<str>, Money>>,
    clock: Clock,
}

impl Seeds {
    /// These amounts.
    pub fn new(amounts: BTreeMap<Arc<str>, Money>, clock: Clock) -> Seeds {
        Seeds {
            amounts: ArcSwap::from_pointee(amounts),
            clock,
        }
    }

    /// From now on these amounts. Gives the accounts that were not listed before.
    pub fn replace(&self, amounts: BTreeMap<Arc<str>, Money>) -> Vec<Arc<str>> {
        let new = Arc::new(amounts);
        let old = self.amounts.swap(new.clone());
        let unlike = |account: &&Arc<str>| !old.contains_key(*account);
        new.keys().filter(unlike).cloned().collect()
    }

    /// All accounts that the configuration lists.
    pub fn accounts(&self) -> Vec<Arc<str>> {
        self.amounts.load().keys().cloned().collect()
    }

    /// An account, if the configuration lists it.
    pub fn listed(&self, account: &str) -> Option<Arc<str>> {
        let amounts = self.amounts.load();
        let (account, _) = amounts.get_key_value(account)?;
        Some(account.clone())
    }

    /// The entry that opens an account.
    pub fn first(&self, account: &str) -> Posted {
        let amount = self.amount(account);
        self.entry(Entry::Open { amount }, None)
    }

    /// What an account begins with.
    pub fn amount(&self, account: &str) -> Money {
        let amount = self.amounts.load().get(account).copied();
        amount.unwrap_or_default()
    }

    /// An entry of this moment, under an id of its own.
    pub fn entry(&self, entry: Entry, note: Option<String>) -> Posted {
        let kind = match entry {
            Entry::Grant { .. } => "pkg",
            _ => "ent",
        };
        Posted {
            id: format!("{kind}_{:016x}", next_random()).into(),
            entry,
            note,
            at: self.clock.now().wall,
        }
    }
}
