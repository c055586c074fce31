//! The token bucket, in whole numbers.
//!
//! A bucket of `r` a minute gains `r` units a millisecond, and one request or token is 60,000 units:
//! nothing is ever rounded, so nothing drifts. The numbers stay below 2^53, where the doubles of
//! Redis' Lua are exact; `limit.lua` does the same arithmetic.

/// Units of one request or token.
pub const UNIT: i64 = 60_000;

/// The largest rate a minute, and the largest capacity: `MOST × UNIT` is below 2^53.
pub const MOST: u64 = 100_000_000_000;

/// The deepest debt, in units.
pub const FLOOR: i64 = -(MOST as i64) * UNIT;

/// Rate and capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Units a millisecond, which is the rate a minute.
    rate: i64,
    /// In units.
    capacity: i64,
}

impl Bucket {
    /// A bucket that gains `per_minute` and holds `burst`; both are brought into 1 to [`MOST`].
    pub fn new(per_minute: u64, burst: u64) -> Bucket {
        let within = |value: u64| value.clamp(1, MOST) as i64;
        Bucket {
            rate: within(per_minute),
            capacity: within(burst) * UNIT,
        }
    }

    /// The rate a minute.
    pub fn per_minute(&self) -> u64 {
        self.rate.unsigned_abs()
    }

    /// What a full bucket holds.
    pub fn burst(&self) -> u64 {
        (self.capacity / UNIT).unsigned_abs()
    }

    /// Units a millisecond.
    pub(super) fn rate(&self) -> i64 {
        self.rate
    }

    /// Units of a full bucket.
    pub fn capacity(&self) -> i64 {
        self.capacity
    }

    /// The level after `elapsed` milliseconds.
    pub fn refilled(&self, level: i64, elapsed: u64) -> i64 {
        // Longer than it takes to fill it makes no difference, and could overflow.
        let elapsed = elapsed.min(self.until(level, self.capacity));
        let gained = self.rate.saturating_mul(elapsed as i64);
        level.saturating_add(gained).clamp(FLOOR, self.capacity)
    }

    /// Milliseconds until the level is at least `wanted`, rounded up.
    pub fn until(&self, level: i64, wanted: i64) -> u64 {
        let missing = wanted.saturating_sub(level);
        if missing <= 0 {
            return 0;
        }
        (missing as u64).div_ceil(self.rate as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_exactly() {
        let bucket = Bucket::new(7, 7);
        let empty = bucket.refilled(0, 0);
        assert_eq!(empty, 0);
        assert_eq!(bucket.until(empty, UNIT), 8572, "60,000 / 7 rounded up");
        assert!(bucket.refilled(0, 8571) < UNIT);
        assert!(bucket.refilled(0, 8572) >= UNIT);
        assert_eq!(bucket.refilled(0, 60_000), 7 * UNIT);
        assert_eq!(bucket.refilled(0, u64::MAX), bucket.capacity());
    }

    #[test]
    fn the_largest_numbers_stay_exact_in_a_double() {
        let bucket = Bucket::new(u64::MAX, u64::MAX);
        assert_eq!(bucket.per_minute(), MOST);
        assert!(bucket.capacity() < 1 << 53);
        assert_eq!(bucket.refilled(FLOOR, u64::MAX), bucket.capacity());
        assert_eq!(bucket.refilled(i64::MIN, 0), FLOOR);
        assert_eq!(bucket.refilled(i64::MAX, 0), bucket.capacity());
    }

    #[test]
    fn no_drift_over_a_year_of_milliseconds_in_any_steps() {
        // 365 days at 11 a minute, taken as soon as there is one: exactly as many as the rate says.
        let bucket = Bucket::new(11, 2);
        let (year, mut now, mut level, mut taken) = (365 * 86_400_000_u64, 0, 0, 0_u64);
        let mut step = 1;
        while now < year {
            // Steps of every length, so that each remainder occurs.
            step = (step * 7 + 13) % 1009 + 1;
            let passed = step.min(year - now);
            now += passed;
            level = bucket.refilled(level, passed);
            if level >= UNIT {
                level -= UNIT;
                taken += 1;
            }
        }
        assert_eq!(taken, 365 * 1440 * 11);
    }
}
