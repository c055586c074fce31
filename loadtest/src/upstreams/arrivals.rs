//! What the times of arrivals tell: how many came, how close together, and whose share they are.

use std::time::{Duration, Instant};

/// Shares are looked at over so long.
const WINDOW: Duration = Duration::from_secs(1);

/// From one look to the next.
const STEP: Duration = Duration::from_millis(50);

/// How many of them came from one moment on and before another; they are in order.
pub fn count(arrivals: &[Instant], from: Instant, until: Instant) -> u64 {
    let before = |moment| arrivals.partition_point(|at| *at < moment);
    before(until).saturating_sub(before(from)) as u64
}

/// The most that came within a second of the time between.
pub fn busiest(arrivals: &[Instant], from: Instant, until: Instant) -> u64 {
    let starts = arrivals.iter().filter(|at| **at >= from && **at < until);
    let within = starts.map(|at| count(arrivals, *at, until.min(*at + WINDOW)));
    within.max().unwrap_or(0)
}

/// From a moment until the first of several had a share of so many percent of what came within a second, which must be as
/// much as `least`: of a few probes any share is a large one. Nothing if it never had.
pub fn share_back(
    all: &[Vec<Instant>],
    healed: Instant,
    end: Instant,
    percent: u64,
    least: u64,
) -> Option<Duration> {
    let one = all.first()?;
    let mut from = healed;
    while from + WINDOW <= end {
        let until = from + WINDOW;
        let came: u64 = all.iter().map(|some| count(some, from, until)).sum();
        let own = count(one, from, until);
        if own > 0 && came >= least && own * 100 >= came * percent {
            return Some(from - healed);
        }
        from += STEP;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(start: Instant, ms: u64, count: u32) -> Vec<Instant> {
        let one = |number| start + Duration::from_millis(ms) * number;
        (0..count).map(one).collect()
    }

    #[test]
    fn arrivals_are_counted_between_two_moments() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let arrivals = every(start, 100, 30);
        assert_eq!(count(&arrivals, start, start + second), 10);
        assert_eq!(count(&arrivals, start + second, start), 0);
        assert_eq!(count(&[], start, start + second), 0);
        let mut arrivals = every(start, 1_000, 5);
        arrivals.extend(every(start + second * 10, 10, 7));
        assert_eq!(busiest(&arrivals, start, start + second * 20), 7);
        assert_eq!(busiest(&arrivals, start, start + second * 10), 1);
        assert_eq!(
            busiest(&arrivals, start + second * 11, start + second * 20),
            0
        );
    }

    #[test]
    fn a_share_is_back_when_a_second_has_it() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let healthy = every(start, 10, 1_000);
        // Back after two seconds, with a third of what comes.
        let one = every(start + second * 2, 20, 400);
        let all = [one, healthy];
        let end = start + second * 8;
        let back = share_back(&all, start, end, 20, 50).unwrap_or_default();
        // It needs half of the second for 20 %.
        assert!(back > second && back <= second * 2, "{back:?}");
        assert_eq!(share_back(&all, start, end, 40, 50), None);
        assert_eq!(share_back(&all, start, start + second, 20, 50), None);
        assert_eq!(share_back(&all, start, end, 20, 200), None);
        assert_eq!(share_back(&[vec![]], start, end, 20, 50), None);
    }
}
