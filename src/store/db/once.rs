//! `Idempotency-Key`s: what was asked for once is done once, for a day.

use super::{DbError, ONCE, ONCE_TIMES, parse, text};
use crate::billing::Once;
use crate::clock::DAY;
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

/// How many are forgotten with a write: more than come with one, so that they do not heap up.
const FORGOTTEN: usize = 64;

#[derive(Serialize, Deserialize)]
struct Done {
    fingerprint: String,
    /// What it made.
    result: String,
    /// In milliseconds since 1970.
    at: u64,
}

/// What a key was used for.
pub(super) enum Seen {
    /// For nothing yet.
    Never,
    /// For the same: what that made.
    Same(String),
    /// For something else.
    Other,
}

/// Whether this was asked for before.
pub(super) fn seen(
    transaction: &WriteTransaction,
    once: Option<&Once>,
    now: u64,
) -> Result<Seen, DbError> {
    let Some(once) = once else {
        return Ok(Seen::Never);
    };
    let table = transaction.open_table(ONCE)?;
    let Some(done) = table.get(once.key.as_str())? else {
        return Ok(Seen::Never);
    };
    let done: Done = parse("once", done.value())?;
    Ok(match done {
        Done { at, .. } if is_over(at, now) => Seen::Never,
        Done { fingerprint, .. } if fingerprint != once.fingerprint => Seen::Other,
        Done { result, .. } => Seen::Same(result),
    })
}

/// Remembers that this was done, and forgets what was done long ago.
pub(super) fn remember(
    transaction: &WriteTransaction,
    once: Option<&Once>,
    result: &str,
    now: u64,
) -> Result<(), DbError> {
    let mut keys = transaction.open_table(ONCE)?;
    let mut times = transaction.open_table(ONCE_TIMES)?;
    let mut over = Vec::new();
    for row in times.iter()?.take(FORGOTTEN) {
        let row = row?.0;
        let (at, key) = row.value();
        if !is_over(at, now) {
            break;
        }
        over.push((at, key.to_owned()));
    }
    for (at, key) in over {
        times.remove((at, key.as_str()))?;
        // Unless it has been used anew since.
        let done: Option<Done> = match keys.get(key.as_str())? {
            Some(done) => Some(parse("once", done.value())?),
            None => None,
        };
        if done.is_some_and(|done| done.at == at) {
            keys.remove(key.as_str())?;
        }
    }
    if let Some(once) = once {
        let done = Done {
            fingerprint: once.fingerprint.clone(),
            result: result.to_owned(),
            at: now,
        };
        keys.insert(once.key.as_str(), text(&done)?.as_slice())?;
        times.insert((now, once.key.as_str()), ())?;
    }
    Ok(())
}

fn is_over(at: u64, now: u64) -> bool {
    at.saturating_add(DAY.unsigned_abs()) <= now
}
