//! Usage that was read a moment ago, for clients who ask in a loop.

use super::UsageRow;
use ahash::AHashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So old may it be.
const FRESH: Duration = Duration::from_secs(1);

/// Accounts that are remembered at most.
const MOST: usize = 1024;

/// Rows by account, with the days that they are of.
#[derive(Default)]
pub(super) struct Recent(Mutex<AHashMap<Arc<str>, Read>>);

struct Read {
    at: Instant,
    days: (i32, i32),
    rows: Vec<UsageRow>,
}

impl Recent {
    /// What was read of these days a moment ago.
    pub(super) fn get(&self, account: &str, days: (i32, i32)) -> Option<Vec<UsageRow>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let read = known.get(account)?;
        let fresh = read.at.elapsed() < FRESH && read.days == days;
        fresh.then(|| read.rows.clone())
    }

    /// Remembers what was read.
    pub(super) fn put(&self, account: &str, days: (i32, i32), rows: Vec<UsageRow>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, read| read.at.elapsed() < FRESH);
        }
        if known.len() < MOST {
            let at = Instant::now();
            known.insert(account.into(), Read { at, days, rows });
        }
    }
}
