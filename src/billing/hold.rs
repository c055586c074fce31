//! What is set aside for one request while it is in flight.

use super::money::Money;
use super::{Due, Held};
use crate::meter::usage::Source;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a request has used so far is noted after so many bytes of its answer, or so long.
const NOTE_BYTES: u64 = 4096;
const NOTE_TIME: Duration = Duration::from_secs(1);

/// Takes a hold back.
pub(super) trait Settle: Send + Sync {
    /// Notes what was used so far.
    fn note(&self, held: &Held, due: &Due);

    /// Charges what was used: it is on file when this returns.
    fn charge(&self, held: Held, due: Due, source: Option<Source>);
}

/// Money or tokens that are set aside for a request: only a ledger makes one. It is settled once, with what
/// was used; one that is dropped is charged what was last known of it.
pub struct Hold {
    held: Option<(Held, Arc<dyn Settle>)>,
    /// What is charged if nothing more is heard.
    due: Due,
    noted: Instant,
    noted_bytes: u64,
}

impl Hold {
    pub(super) fn new(held: Held, ledger: Arc<dyn Settle>) -> Hold {
        Hold {
            held: Some((held, ledger)),
            due: Due::default(),
            noted: Instant::now(),
            noted_bytes: 0,
        }
    }

    /// The provider may have begun to work: from now on at least that much is due.
    pub fn begun(&mut self, prompt: Due) {
        if self.due == Due::default() {
            self.due = prompt;
        }
    }

    /// Whether what was used so far is to be noted: enough of the answer has gone out since the last time, or
    /// that is long enough ago. The next time counts from here.
    pub fn wants_note(&mut self, relayed: u64, now: Instant) -> bool {
        let much = relayed >= self.noted_bytes.saturating_add(NOTE_BYTES);
        if !much && now.saturating_duration_since(self.noted) < NOTE_TIME {
            return false;
        }
        self.noted = now;
        self.noted_bytes = relayed;
        self.held.is_some()
    }

    /// Notes what was used so far.
    pub fn note(&mut self, due: Due) {
        self.due = due;
        if let Some((held, ledger)) = &self.held {
            ledger.note(held, &self.due);
        }
    }

    /// Charges what was used, and tells what was taken from the balance. Only the first call does.
    pub fn settle(&mut self, due: Due, source: Option<Source>) -> Option<Money> {
        let (held, ledger) = self.held.take()?;
        let cost = match held.package {
            None => due.cost,
            Some(_) => Money::ZERO,
        };
        ledger.charge(held, due, source);
        Some(cost)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let source = (self.due != Due::default()).then_some(Source::Estimated);
        self.settle(self.due, source);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.as_ref().map(|(held, _)| held);
        write!(f, "Hold({held:?})")
    }
}
