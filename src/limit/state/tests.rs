//! What must hold for any limits and any order of events.

use super::*;
use crate::limit::bucket::MOST;
use proptest::prelude::*;

fn at(ms: u64) -> Now {
    Now { ms, wall: ms }
}

fn requests(per_minute: u64, burst: u64) -> Limits {
    Limits {
        requests: Some(Bucket::new(per_minute, burst)),
        ..Limits::default()
    }
}

fn tokens(per_minute: u64) -> Limits {
    Limits {
        tokens: Some(Bucket::new(per_minute, per_minute)),
        ..Limits::default()
    }
}

proptest! {
    #[test]
    fn over_any_window_no_more_is_admitted_than_capacity_and_rate_allow(
        per_minute in 1_u64..5_000,
        burst in 1_u64..300,
        steps in prop::collection::vec((0_u64..3_000, 1_usize..40), 1..120),
    ) {
        let limits = requests(per_minute, burst);
        let mut now = 1_000_000;
        let mut state = State::fresh(&limits, at(now));
        let mut admitted = Vec::new();
        for (passed, tries) in steps {
            now += passed;
            for _ in 0..tries {
                if state.admit(&limits, 0, 1, at(now)).is_ok() {
                    admitted.push(now);
                }
                prop_assert!(state.requests.level <= limits.requests.unwrap().capacity());
            }
        }
        for (first, begin) in admitted.iter().enumerate() {
            for (last, end) in admitted.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u64;
                let allowed = burst * 60_000 + per_minute * (end - begin);
                prop_assert!(count * 60_000 <= allowed, "{count} in {} ms", end - begin);
            }
        }
    }

    #[test]
    fn nothing_is_lost_either_a_refused_request_passes_after_its_wait_and_not_before(
        per_minute in 1_u64..100_000,
        burst in 1_u64..50,
        passed in 0_u64..2_000,
    ) {
        let limits = requests(per_minute, burst);
        let mut state = State::fresh(&limits, at(0));
        while state.admit(&limits, 0, 1, at(0)).is_ok() {}
        let denial = match state.admit(&limits, 0, 1, at(passed)) {
            Err(denial) => denial,
            Ok(_) => return Ok(()),
        };
        let wait = denial.wait.unwrap().as_millis() as u64;
        prop_assert!(state.admit(&limits, 0, 1, at(passed + wait - 1)).is_err());
        prop_assert!(state.admit(&limits, 0, 1, at(passed + wait)).is_ok());
    }

    #[test]
    fn a_debt_of_tokens_is_repaid_before_the_next_admission(
        per_minute in 1_u64..100_000,
        steps in prop::collection::vec((0_u64..120_000, 0_u64..200_000, 0_u64..400_000), 1..60),
    ) {
        let limits = tokens(per_minute);
        let bucket = limits.tokens.unwrap();
        let mut now = 0;
        let mut state = State::fresh(&limits, at(0));
        let (mut charged, mut largest_excess) = (0, 0);
        for (passed, estimate, used) in steps {
            now += passed;
            let before = state.reading(&limits, 1, at(now)).tokens.unwrap().remaining;
            let in_debt = state.advanced(&limits, at(now)).0.tokens.level < 0;
            let admitted = state.admit(&limits, estimate, 1, at(now));
            if let Ok(charge) = admitted {
                prop_assert!(!in_debt, "in debt of {}", state.tokens.level);
                prop_assert!(before >= limits.charged(estimate));
                state.settle(&limits, charge, Some(used), 1, at(now));
                charged += used;
                largest_excess = largest_excess.max(used.saturating_sub(limits.charged(estimate)));
            } else {
                prop_assert!(before < limits.charged(estimate) || in_debt);
            }
            prop_assert!(state.tokens.level <= bucket.capacity());
            // What was really used never exceeds the bucket by more than one wrong estimate.
            let allowed = (per_minute + largest_excess) * 60_000 + per_minute * now;
            prop_assert!(charged * 60_000 <= allowed);
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away(
        per_minute in 1_u64..5_000,
        burst in 1_u64..100,
        steps in prop::collection::vec((-200_000_i64..50_000, 1_usize..20), 1..100),
    ) {
        let limits = requests(per_minute, burst);
        let mut now = 10_000_000_u64;
        let mut state = State::fresh(&limits, at(now));
        let (mut admitted, mut forward) = (0_u64, 0_u64);
        for (step, tries) in steps {
            now = now.saturating_add_signed(step).max(1);
            forward += step.max(0).unsigned_abs();
            for _ in 0..tries {
                admitted += u64::from(state.admit(&limits, 0, 1, at(now)).is_ok());
            }
            prop_assert!(admitted * 60_000 <= burst * 60_000 + per_minute * forward);
        }
    }

    #[test]
    fn a_share_of_the_limits_admits_its_part_and_all_parts_no_more_than_the_whole(
        per_minute in 1_u64..5_000,
        burst in 10_u64..300,
        nodes in 1_u32..10,
        steps in prop::collection::vec((0_u64..3_000, 1_usize..40), 1..60),
    ) {
        let limits = requests(per_minute, burst);
        let mut now = 0;
        let mut state = State::fresh(&limits, at(now));
        let mut admitted = 0;
        for (passed, tries) in steps {
            now += passed;
            for _ in 0..tries {
                admitted += u64::from(state.admit(&limits, 0, nodes, at(now)).is_ok());
            }
        }
        let of_all = admitted * u64::from(nodes);
        prop_assert!(of_all * 60_000 <= burst * 60_000 + per_minute * now);
    }

    #[test]
    fn a_share_of_the_tokens_gives_back_no_more_than_it_took(
        per_minute in 100_u64..20_000,
        nodes in 1_u32..10,
        steps in prop::collection::vec((0_u64..30_000, 0_u64..40_000, 0_u64..40_000), 1..60),
    ) {
        let limits = tokens(per_minute);
        let mut now = 0;
        let mut state = State::fresh(&limits, at(0));
        let (mut used_up, mut largest) = (0, 0);
        for (passed, estimate, used) in steps {
            now += passed;
            if let Ok(charge) = state.admit(&limits, estimate, nodes, at(now)) {
                state.settle(&limits, charge, Some(used), nodes, at(now));
                used_up += used;
                largest = largest.max(used);
            }
        }
        // Of all nodes together: the bucket, its refill, and one request of each beyond it.
        let n = u64::from(nodes);
        prop_assert!(used_up * n * 60_000 <= (per_minute + largest * n) * 60_000 + per_minute * now);
    }

    #[test]
    fn no_numbers_overflow(
        per_minute in prop::sample::select(vec![1, 60, MOST]),
        burst in prop::sample::select(vec![1, MOST]),
        estimate in prop::sample::select(vec![0, 1, MOST, u64::MAX]),
        used in prop::sample::select(vec![0, 1, MOST, u64::MAX]),
        share in prop::sample::select(vec![0, 1, u32::MAX]),
        times in prop::collection::vec(prop::sample::select(vec![0, 1, 60_000, u64::MAX / 2, u64::MAX]), 1..8),
    ) {
        let limits = Limits {
            requests: Some(Bucket::new(per_minute, burst)),
            tokens: Some(Bucket::new(per_minute, per_minute)),
            concurrency: Some(1),
            tokens_per_day: Some(MOST),
            day_offset: -86_400_000,
        };
        let mut state = State::fresh(&limits, at(5));
        for ms in times {
            if let Ok(charge) = state.admit(&limits, estimate, share, at(ms)) {
                state.settle(&limits, charge, Some(used), share, at(ms));
            }
            let _ = (state.reading(&limits, 1, at(ms)), state.fresh_at(&limits, at(ms)));
            prop_assert!(state.tokens.level >= FLOOR);
        }
    }
}

#[test]
fn a_clock_that_was_set_back_a_day_locks_nobody_out() {
    let limits = requests(60, 1);
    let day = 86_400_000;
    let mut state = State::fresh(&limits, at(2 * day));
    assert!(state.admit(&limits, 0, 1, at(2 * day)).is_ok());
    // Nothing for the step itself, then the usual rate.
    assert!(state.admit(&limits, 0, 1, at(day)).is_err());
    assert!(state.admit(&limits, 0, 1, at(day + 1000)).is_ok());
    // A small step is waited for: no time counts twice.
    assert!(state.admit(&limits, 0, 1, at(day + 500)).is_err());
    assert!(state.admit(&limits, 0, 1, at(day + 1999)).is_err());
    assert!(state.admit(&limits, 0, 1, at(day + 2000)).is_ok());
}

#[test]
fn a_day_that_was_corrected_does_not_begin_anew() {
    let limits = Limits {
        tokens_per_day: Some(100),
        ..Limits::default()
    };
    let day = 86_400_000;
    let mut state = State::fresh(&limits, at(10 * day));
    assert_eq!(state.admit(&limits, 100, 1, at(10 * day)).unwrap().day, 10);
    let denial = state.admit(&limits, 1, 1, at(10 * day + 1000)).unwrap_err();
    assert_eq!(denial.reason, Reason::TokensPerDay);
    assert_eq!(denial.wait, Some(Duration::from_millis(day - 1000)));
    // Midnight and back again: one new day, not two.
    assert!(state.admit(&limits, 100, 1, at(11 * day)).is_ok());
    assert!(state.admit(&limits, 1, 1, at(11 * day - 1)).is_err());
    assert!(state.admit(&limits, 1, 1, at(11 * day)).is_err());
    assert!(state.admit(&limits, 1, 1, at(12 * day)).is_ok());
}

#[test]
fn a_late_settlement_counts_for_the_day_of_its_charge() {
    let limits = Limits {
        tokens_per_day: Some(100),
        ..Limits::default()
    };
    let day = 86_400_000;
    let mut state = State::fresh(&limits, at(0));
    let charge = state.admit(&limits, 60, 1, at(day - 1)).unwrap();
    assert!(state.admit(&limits, 60, 1, at(day)).is_ok());
    state.settle(&limits, charge, Some(0), 1, at(day + 1));
    assert_eq!(state.spent, 60, "yesterday's refund is not today's");
}

#[test]
fn the_limit_with_the_longest_wait_is_named() {
    let limits = Limits {
        requests: Some(Bucket::new(60, 1)),
        tokens: Some(Bucket::new(60, 60)),
        concurrency: Some(1),
        ..Limits::default()
    };
    let mut state = State::fresh(&limits, at(0));
    state.admit(&limits, 60, 1, at(0)).unwrap();
    let denial = state.admit(&limits, 2, 1, at(0)).unwrap_err();
    assert_eq!(denial.reason, Reason::Tokens);
    assert_eq!(denial.wait, Some(Duration::from_secs(2)));
    // Time heals those two; the third has no time.
    let denial = state.admit(&limits, 2, 1, at(2000)).unwrap_err();
    assert_eq!((denial.reason, denial.wait), (Reason::Concurrency, None));
}
