//! Whether something is asked at all: left out after failures in a row, for twice as long each time, then tried by
//! one request, and given its share back slowly. Time is an argument.
//!
//! The ways of Envoy's outlier detection (consecutive failures, growing ejection, slow start) with a circuit breaker's
//! half-open state in place of its interval: one request finds out, not all that come.

use std::time::{Duration, Instant};

/// What has nobody to stand in for it is left out after so many times as many failures: as long as it fails quickly,
/// that helps nobody.
const ALONE: u32 = 4;

/// When it is left out, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row after which it is left out, if there are others; at least 1.
    pub failures: u32,
    /// How long, the first time.
    pub cooldown: Duration,
    /// How long at most.
    pub max_cooldown: Duration,
    /// How long one that came back takes to its full share.
    pub slow_start: Duration,
}

/// Whether it may be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// As usual.
    Yes,
    /// By one request, which finds out whether it is well again.
    Probe,
    /// Not before this time has passed; nothing if a probe is under way.
    No(Duration),
}

/// What a report has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is left out, for so long.
    Out(Duration),
    /// It takes part again.
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    Out {
        until: Instant,
    },
    /// Since then; one that is lost does not leave it out for good.
    Probing {
        since: Instant,
    },
}

/// A probe that has said nothing for so long gives way to another: its client may be slow, or its answer long in coming.
const LEASE: Duration = Duration::from_secs(30);

/// All of a share, in thousandths.
pub const WHOLE: u32 = 1000;
/// What slow start begins with: as in Envoy's `min_weight_percent`.
const FIRST_SHARE: u32 = WHOLE / 10;

/// The health of an upstream, or of the way to a provider.
#[derive(Debug)]
pub struct Health {
    state: State,
    /// In a row.
    failures: u32,
    /// In a row: how often it was left out without having been well for long in between.
    ejections: u32,
    /// When it came back.
    back: Option<Instant>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            state: State::In,
            failures: 0,
            ejections: 0,
            back: None,
        }
    }
}

impl Health {
    /// Whether it may be asked now.
    pub fn admits(&self, now: Instant) -> Admits {
        match self.state {
            State::In => Admits::Yes,
            State::Out { until } if until <= now => Admits::Probe,
            State::Out { until } => Admits::No(until - now),
            State::Probing { since } if since + LEASE <= now => Admits::Probe,
            State::Probing { .. } => Admits::No(Duration::ZERO),
        }
    }

    /// Asks for the right to ask. Whoever is told [`Admits::Probe`] is the one that finds out, and has to report or to
    /// [`Health::release`].
    pub fn enter(&mut self, now: Instant) -> Admits {
        let admits = self.admits(now);
        if admits == Admits::Probe {
            self.state = State::Probing { since: now };
        }
        admits
    }

    /// It answered; `probe` says that this was the request which finds out.
    pub fn succeeded(&mut self, probe: bool, now: Instant) -> Option<Change> {
        match self.state {
            State::In => {
                self.failures = 0;
                None
            }
            // What was on its way before says nothing of now.
            _ if !probe => None,
            _ => {
                self.state = State::In;
                self.failures = 0;
                self.back = Some(now);
                Some(Change::Back)
            }
        }
    }

    /// It failed; `alone` says that the request had no other.
    pub fn failed(
        &mut self,
        probe: bool,
        alone: bool,
        rules: &Rules,
        now: Instant,
        random: u64,
    ) -> Option<Change> {
        match self.state {
            State::In => {
                self.failures = self.failures.saturating_add(1);
                let most = rules.failures.saturating_mul(if alone { ALONE } else { 1 });
                if self.failures < most {
                    return None;
                }
                let well = |back: Instant| now.saturating_duration_since(back) > rules.max_cooldown;
                if self.back.is_some_and(well) {
                    self.ejections = 0;
                }
            }
            _ if !probe => return None,
            _ => {}
        }
        let time = self.cooldown(rules, random);
        self.ejections = self.ejections.saturating_add(1);
        self.state = State::Out { until: now + time };
        Some(Change::Out(time))
    }

    /// The probe ended without finding out, as when its client left: the next request may.
    pub fn release(&mut self) {
        if let State::Probing { since } = self.state {
            self.state = State::Out { until: since };
        }
    }

    /// Its share of its weight in thousandths: it grows evenly from a tenth, once it is back.
    pub fn share(&self, rules: &Rules, now: Instant) -> u32 {
        let Some(back) = self.back else {
            return WHOLE;
        };
        let since = now.saturating_duration_since(back);
        if since >= rules.slow_start {
            return WHOLE;
        }
        let part = since.as_secs_f64() / rules.slow_start.as_secs_f64();
        FIRST_SHARE + (part * f64::from(WHOLE - FIRST_SHARE)) as u32
    }

    /// Whether nothing is to be remembered of it: it takes part, with its whole share, and did not just fail.
    pub fn is_plain(&self, rules: &Rules, now: Instant) -> bool {
        self.state == State::In && self.failures == 0 && self.share(rules, now) == WHOLE
    }

    /// Twice as long each time, at most `max_cooldown`; a fifth more or less, so that nodes do not try at the same time.
    fn cooldown(&self, rules: &Rules, random: u64) -> Duration {
        let doubled = 2u32.saturating_pow(self.ejections.min(20));
        let time = rules
            .cooldown
            .saturating_mul(doubled)
            .min(rules.max_cooldown);
        let thousandths = 800 + u32::try_from(random % 401).unwrap_or(0);
        time.mul_f64(f64::from(thousandths) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Neither more nor less.
    const EVEN: u64 = 200;

    fn rules() -> Rules {
        Rules {
            failures: 3,
            cooldown: SECOND,
            max_cooldown: 8 * SECOND,
            slow_start: 10 * SECOND,
        }
    }

    fn fail(health: &mut Health, now: Instant) -> Option<Change> {
        let probe = matches!(health.state, State::Probing { .. });
        health.failed(probe, false, &rules(), now, EVEN)
    }

    #[test]
    fn failures_in_a_row_leave_it_out_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..5 {
            assert_eq!(fail(&mut health, now), None);
            assert_eq!(fail(&mut health, now), None);
            assert_eq!(health.succeeded(false, now), None);
        }
        fail(&mut health, now);
        fail(&mut health, now);
        assert_eq!(fail(&mut health, now), Some(Change::Out(SECOND)));
        assert_eq!(health.admits(now), Admits::No(SECOND));
        // What was under way says nothing.
        assert_eq!(health.succeeded(false, now), None);
        assert_eq!(health.failed(false, false, &rules(), now, EVEN), None);
        assert_eq!(health.admits(now + SECOND), Admits::Probe);
    }

    #[test]
    fn what_is_alone_is_given_more_time() {
        let now = Instant::now();
        let mut health = Health::default();
        for _ in 0..11 {
            assert_eq!(health.failed(false, true, &rules(), now, EVEN), None);
        }
        assert!(health.failed(false, true, &rules(), now, EVEN).is_some());
    }

    #[test]
    fn one_request_finds_out_and_each_failure_doubles_the_wait() {
        let mut now = Instant::now();
        let mut health = Health::default();
        for _ in 0..3 {
            fail(&mut health, now);
        }
        for wait in [1, 2, 4, 8, 8] {
            assert_eq!(
                health.enter(now + (wait * SECOND) / 2),
                Admits::No(wait * SECOND / 2)
            );
            now += wait * SECOND;
            assert_eq!(health.enter(now), Admits::Probe);
            assert_eq!(health.enter(now), Admits::No(Duration::ZERO));
            let next = (wait * 2).min(8);
            assert_eq!(fail(&mut health, now), Some(Change::Out(next * SECOND)));
        }
        now += 8 * SECOND;
        assert_eq!(health.enter(now), Admits::Probe);
        health.release();
        assert_eq!(health.enter(now), Admits::Probe);
        assert_eq!(health.succeeded(true, now), Some(Change::Back));
        assert_eq!(health.admits(now), Admits::Yes);
        // Out again at once: it was not well for long.
        for _ in 0..2 {
            fail(&mut health, now);
        }
        assert_eq!(fail(&mut health, now), Some(Change::Out(8 * SECOND)));
        now += 8 * SECOND;
        assert_eq!(health.enter(now), Admits::Probe);
        health.succeeded(true, now);
        now += 9 * SECOND;
        for _ in 0..2 {
            fail(&mut health, now);
        }
        assert_eq!(fail(&mut health, now), Some(Change::Out(SECOND)));
    }

    #[test]
    fn a_probe_that_is_lost_gives_way() {
        let start = Instant::now();
        let mut health = Health::default();
        for _ in 0..3 {
            fail(&mut health, start);
        }
        let due = start + SECOND;
        assert_eq!(health.enter(due), Admits::Probe);
        assert_eq!(
            health.enter(due + LEASE - SECOND),
            Admits::No(Duration::ZERO)
        );
        assert_eq!(health.enter(due + LEASE), Admits::Probe);
        assert_eq!(health.enter(due + LEASE), Admits::No(Duration::ZERO));
    }

    #[test]
    fn the_share_grows_and_jitter_stays_within_a_fifth() {
        let start = Instant::now();
        let mut health = Health::default();
        assert_eq!(health.share(&rules(), start), WHOLE);
        for _ in 0..3 {
            fail(&mut health, start);
        }
        let back = start + SECOND;
        assert_eq!(health.enter(back), Admits::Probe);
        health.succeeded(true, back);
        let share = |seconds| health.share(&rules(), back + seconds * SECOND);
        assert_eq!((share(0), share(5), share(10)), (100, 550, 1000));
        assert!(!health.is_plain(&rules(), back));
        assert!(health.is_plain(&rules(), back + 10 * SECOND));
        for random in 0..1000 {
            let mut health = Health {
                failures: 2,
                ..Health::default()
            };
            let Some(Change::Out(time)) = health.failed(false, false, &rules(), start, random)
            else {
                panic!("it is in");
            };
            assert!(time >= SECOND * 4 / 5 && time <= SECOND * 6 / 5, "{time:?}");
        }
    }
}
