//! What time it is: monotonic for buckets, the calendar's for days.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds in a day.
pub const DAY: i64 = 86_400_000;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that nobody sets.
    pub ms: u64,
    /// Milliseconds since 1970, UTC.
    pub wall: u64,
}

impl Now {
    /// The number of the day, where days begin `offset` milliseconds east of UTC.
    pub fn day(&self, offset: i64) -> i32 {
        let day = (self.wall as i64).saturating_add(offset).div_euclid(DAY);
        i32::try_from(day).unwrap_or(i32::MAX)
    }

    /// How long the day still lasts.
    pub fn day_left(&self, offset: i64) -> Duration {
        let into = (self.wall as i64).saturating_add(offset).rem_euclid(DAY);
        Duration::from_millis((DAY - into).unsigned_abs())
    }
}

/// Where time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's. Redis has one of its own, shared by all nodes.
    System {
        /// When this clock began.
        start: Instant,
    },
    /// Milliseconds since 1970 that are moved by hand, in Redis too: simulations.
    Hand(Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock::System {
            start: Instant::now(),
        }
    }

    /// The moment.
    pub fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// The moment of an instant that was read just now.
    pub fn at(&self, instant: Instant) -> Now {
        match self {
            Clock::System { start } => Now {
                ms: millis(instant.saturating_duration_since(*start)),
                wall: millis(wall(instant).duration_since(UNIX_EPOCH).unwrap_or_default()),
            },
            Clock::Hand(ms) => {
                let ms = ms.load(Ordering::SeqCst);
                Now { ms, wall: ms }
            }
        }
    }

    /// The moment that Redis is to take for now, unless it has its own.
    pub fn given(&self) -> Option<u64> {
        match self {
            Clock::System { .. } => None,
            Clock::Hand(ms) => Some(ms.load(Ordering::SeqCst)),
        }
    }
}

/// The time on the wall clock at an instant that was read just now.
///
/// Each thread asks the system once a second, and counts on from there: reading a clock costs as much as two allocations,
/// and a request asks often. What an operator or NTP sets is so seen a second late at most.
pub fn wall(instant: Instant) -> SystemTime {
    thread_local! {
        static ASKED: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }
    const LATE: Duration = Duration::from_secs(1);
    ASKED.with(|asked| {
        if let Some((at, time)) = asked.get()
            && let Some(since) = instant
                .checked_duration_since(at)
                .filter(|since| *since < LATE)
        {
            return time + since;
        }
        let time = SystemTime::now();
        asked.set(Some((Instant::now(), time)));
        time
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_where_the_operator_says() {
        let at = |wall| Now { ms: 0, wall };
        assert_eq!(at(0).day(0), 0);
        assert_eq!(at(86_399_999).day(0), 0);
        assert_eq!(at(86_400_000).day(0), 1);
        let east = 8 * 3_600_000;
        assert_eq!(at(16 * 3_600_000 - 1).day(east), 0);
        assert_eq!(at(16 * 3_600_000).day(east), 1);
        assert_eq!(at(0).day(-1), -1);
        assert_eq!(at(16 * 3_600_000 - 1).day_left(east).as_millis(), 1);
        assert_eq!(at(0).day_left(0).as_millis(), 86_400_000);
    }
}
