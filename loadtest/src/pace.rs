//! When the requests of an open loop are due.

use std::time::Duration;

/// Connections for so much latency at the full rate, and the fewest and the most of them.
const LATENCY: Duration = Duration::from_secs(1);
const CONNECTIONS: (u64, u64) = (4, 512);

const NANOS_PER_MINUTE: u128 = 60_000_000_000;

/// When requests are due: evenly spaced, the first at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Ten times the requests a minute: whole numbers down to a tenth.
    tenths_per_minute: u64,
    /// How many requests.
    count: u64,
}

impl Pace {
    /// As many requests as are due within so many seconds.
    pub fn new(tenths_per_minute: u64, seconds: u64) -> Self {
        let count = u128::from(seconds) * u128::from(tenths_per_minute) / 600;
        Pace {
            tenths_per_minute,
            count: u64::try_from(count).unwrap_or(u64::MAX),
        }
    }

    /// So many requests.
    pub fn counted(tenths_per_minute: u64, count: u64) -> Self {
        Pace {
            tenths_per_minute,
            count,
        }
    }

    /// How many requests there are.
    pub fn count(self) -> u64 {
        self.count
    }

    /// Requests a second.
    pub fn per_second(self) -> f64 {
        self.tenths_per_minute as f64 / 600.0
    }

    /// When a request is due, from the start. Each is calculated anew, so that no rounding adds up.
    pub fn due(self, number: u64) -> Duration {
        let nanos =
            u128::from(number) * NANOS_PER_MINUTE * 10 / u128::from(self.tenths_per_minute.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Connections that suffice as long as an answer takes no longer than [`LATENCY`].
    pub fn connections(self) -> u64 {
        let needed = (self.per_second() * LATENCY.as_secs_f64()).ceil() as u64;
        needed.clamp(CONNECTIONS.0, CONNECTIONS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_evenly_spaced_from_the_start() {
        // 2,400 a minute.
        let pace = Pace::new(24_000, 120);
        assert_eq!(pace.count(), 4_800);
        assert_eq!(pace.due(0), Duration::ZERO);
        assert_eq!(pace.due(1), Duration::from_millis(25));
        assert_eq!(pace.due(4_800), Duration::from_secs(120));
    }

    #[test]
    fn no_rounding_adds_up() {
        // 700 a minute: 85.714285 ms apart, which no clock has.
        let pace = Pace::new(7_000, 3_600);
        assert_eq!(pace.due(7), Duration::from_millis(600));
        assert_eq!(pace.due(42_000), Duration::from_secs(3_600));
        for number in 0..pace.count() {
            assert!(pace.due(number) < pace.due(number + 1));
        }
    }

    #[test]
    fn a_pace_of_tenths_is_exact() {
        // 90 % of 7 a minute: 6.3.
        let pace = Pace::new(63, 600);
        assert_eq!(pace.count(), 63);
        assert_eq!(pace.due(63), Duration::from_secs(600));
        assert_eq!(Pace::counted(63, 63), pace);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let pace = Pace::new(u64::MAX, u64::MAX);
        assert_eq!(pace.count(), u64::MAX);
        assert!(pace.due(u64::MAX) > Duration::ZERO);
        assert_eq!(Pace::new(0, 10).count(), 0);
        assert_eq!(Pace::new(0, 10).due(0), Duration::ZERO);
    }

    #[test]
    fn connections_follow_the_rate_within_bounds() {
        assert_eq!(Pace::new(24_000, 1).connections(), 40);
        assert_eq!(Pace::new(10, 1).connections(), CONNECTIONS.0);
        assert_eq!(Pace::new(10_000_000, 1).connections(), CONNECTIONS.1);
    }
}
