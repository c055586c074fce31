//! How many further attempts there may be over all requests: a share of the requests of the last seconds, so that
//! failing providers do not get more load than before, but hardly any.
//!
//! As Finagle's retry budget, with a window in place of its bucket: what is allowed is a share of what was really asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Seconds that are looked at: Finagle's default.
const WINDOW: usize = 10;
/// So many are allowed in a window of few requests: enough to find out that an upstream fails.
const LEAST: u64 = 10;

/// The budget of a process.
#[derive(Debug)]
pub struct Budget {
    began: Instant,
    /// Requests by second: the second's number in the upper half, the count in the lower.
    requests: [AtomicU64; WINDOW],
    /// Further attempts, in the same way.
    retries: Mutex<[u64; WINDOW]>,
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(began: Instant) -> Budget {
        Budget {
            began,
            requests: Default::default(),
            retries: Mutex::default(),
        }
    }

    /// Counts a request.
    pub fn request(&self, now: Instant) {
        let second = self.second(now);
        if let Some(slot) = self.requests.get(place(second)) {
            let add = |packed| Some(added(packed, second));
            // It always has a next value.
            let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    /// Takes a further attempt out of the budget, if there is one: at most `percent` of the window's requests.
    pub fn take(&self, percent: u32, now: Instant) -> bool {
        let second = self.second(now);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: u64 = retries.iter().map(|packed| within(*packed, second)).sum();
        let requests: u64 = self
            .requests
            .iter()
            .map(|slot| within(slot.load(Ordering::Relaxed), second))
            .sum();
        let most = match percent {
            0 => 0,
            _ => (requests * u64::from(percent) / 100).max(LEAST),
        };
        if taken >= most {
            return false;
        }
        if let Some(slot) = retries.get_mut(place(second)) {
            *slot = added(*slot, second);
        }
        true
    }

    /// Whole seconds since the beginning, from 1: an empty slot is of none.
    fn second(&self, now: Instant) -> u64 {
        let since: Duration = now.saturating_duration_since(self.began);
        (since.as_secs() + 1) & u64::from(u32::MAX)
    }
}

fn place(second: u64) -> usize {
    usize::try_from(second).unwrap_or(0) % WINDOW
}

fn added(packed: u64, second: u64) -> u64 {
    match packed >> 32 == second {
        true => packed + 1,
        false => (second << 32) | 1,
    }
}

/// The count of a slot, if its second is in the window that ends now.
fn within(packed: u64, second: u64) -> u64 {
    match second.checked_sub(packed >> 32) {
        Some(age) if age < WINDOW as u64 => packed & u64::from(u32::MAX),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn taken(budget: &Budget, percent: u32, now: Instant) -> u32 {
        (0..1000)
            .map(|_| u32::from(budget.take(percent, now)))
            .sum()
    }

    #[test]
    fn a_share_of_the_requests_of_the_window() {
        let start = Instant::now();
        let budget = Budget::new(start);
        for n in 0..500 {
            budget.request(start + n * SECOND / 100);
        }
        let now = start + 5 * SECOND;
        assert_eq!(taken(&budget, 20, now), 100);
        assert_eq!(taken(&budget, 20, now + SECOND), 0);
        // More requests, more of them.
        for _ in 0..50 {
            budget.request(now + SECOND);
        }
        assert_eq!(taken(&budget, 20, now + SECOND), 10);
        // All of it has left the window.
        assert_eq!(taken(&budget, 20, now + 60 * SECOND), 10);
    }

    #[test]
    fn few_requests_have_a_few_and_none_means_none() {
        let start = Instant::now();
        let budget = Budget::new(start);
        assert_eq!(taken(&budget, 0, start), 0);
        budget.request(start);
        assert_eq!(taken(&budget, 20, start), 10);
        assert_eq!(taken(&budget, 20, start + 9 * SECOND), 0);
        assert_eq!(taken(&budget, 20, start + 10 * SECOND), 10);
    }
}
