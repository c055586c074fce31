//! When Redis counts as away: the arithmetic, with time as an argument.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// So many calls in a row that got no answer in time.
const TIMEOUTS: u32 = 5;

/// So many calls must have been made within the second for their share of failures to say anything.
const ENOUGH: u32 = 10;

/// Counts how calls ended.
#[derive(Debug, Default)]
pub struct Breaker {
    timeouts: AtomicU32,
    /// The second that the next two count.
    second: AtomicU64,
    calls: AtomicU32,
    failures: AtomicU32,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answered,
    /// Without one in time.
    TimedOut,
    /// With an error of the server or the connection that may pass.
    Failed,
}

impl Breaker {
    /// Counts a call that ended in this second of any steady clock; true if that was one too many:
    /// five timeouts in a row, or half of a second's calls.
    pub fn count(&self, end: End, second: u64) -> bool {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.calls.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if end == End::Answered {
            self.timeouts.store(0, Ordering::Relaxed);
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let timeouts = match end {
            End::TimedOut => self.timeouts.fetch_add(1, Ordering::Relaxed) + 1,
            _ => self.timeouts.load(Ordering::Relaxed),
        };
        timeouts >= TIMEOUTS || (calls >= ENOUGH && failures >= calls.div_ceil(2))
    }

    /// Whether all of this second's calls failed, and they were not few.
    pub fn only_fails(&self) -> bool {
        let calls = self.calls.load(Ordering::Relaxed);
        calls >= ENOUGH && self.failures.load(Ordering::Relaxed) >= calls
    }

    /// Forgets everything: a new connection stands.
    pub fn reset(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
        self.calls.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use End::{Answered, Failed, TimedOut};

    #[test]
    fn five_timeouts_in_a_row_open_it_and_an_answer_between_does_not() {
        let breaker = Breaker::default();
        for _ in 0..4 {
            assert!(!breaker.count(TimedOut, 1));
        }
        assert!(!breaker.count(Answered, 2));
        // Each in a second of its own, so that no share is counted.
        for second in 3..7 {
            assert!(!breaker.count(TimedOut, second));
        }
        assert!(breaker.count(TimedOut, 7));
        breaker.reset();
        assert!(!breaker.count(TimedOut, 8));
    }

    #[test]
    fn half_of_a_seconds_calls_open_it_once_there_are_enough() {
        let breaker = Breaker::default();
        for _ in 0..9 {
            assert!(!breaker.count(Failed, 1));
        }
        assert!(breaker.count(Failed, 1));
        let breaker = Breaker::default();
        for _ in 0..20 {
            breaker.count(Answered, 1);
        }
        for _ in 0..19 {
            assert!(!breaker.count(Failed, 1));
        }
        assert!(breaker.count(Failed, 1));
        assert!(!breaker.count(Failed, 2), "a new second");
    }
}
