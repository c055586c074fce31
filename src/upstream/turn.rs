//! A request's stay at an upstream: counted while it lasts, and what it finds out is told once.

use super::Provider;
use super::health::{Admits, Change};
use super::live::Live;
use crate::id::next_random;
use std::sync::Arc;
use std::time::Instant;

/// What a stay has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It answered, be it with a refusal: nothing is wrong with it.
    Answers,
    /// It was reached, and failed.
    Fails,
    /// It was not reached.
    Unreachable,
}

/// What that has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// For all upstreams of the provider.
    pub provider: Option<Change>,
    /// For this one.
    pub upstream: Option<Change>,
}

/// A place at an upstream, given back when dropped.
#[derive(Debug)]
pub struct Turn {
    provider: Arc<Provider>,
    live: Arc<Live>,
    /// It is this one that finds out whether the provider can be reached again, and the upstream is well again.
    reaches: bool,
    probes: bool,
    alone: bool,
}

impl Turn {
    /// Takes a place, unless `most` are taken or it is not to be asked now; `alone` says that there is no other to turn
    /// to.
    pub fn take(
        provider: &Arc<Provider>,
        live: &Arc<Live>,
        most: Option<u32>,
        alone: bool,
        now: Instant,
    ) -> Option<Turn> {
        if !live.take(most) {
            return None;
        }
        let mut turn = Turn {
            provider: provider.clone(),
            live: live.clone(),
            reaches: false,
            probes: false,
            alone,
        };
        // Dropped half-way, it gives back what it has.
        match provider.reach.enter(now) {
            Admits::No(_) => return None,
            admits => turn.reaches = admits == Admits::Probe,
        }
        match live.watch.enter(now) {
            Admits::No(_) => return None,
            admits => turn.probes = admits == Admits::Probe,
        }
        Some(turn)
    }

    /// Its upstream.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// It was reached.
    pub fn connected(&mut self, now: Instant) -> Changes {
        let Turn {
            provider, reaches, ..
        } = self;
        let provider = match std::mem::take(reaches) {
            true => provider.reach.succeeded(true, &provider.health, now),
            false => None,
        };
        Changes {
            provider,
            upstream: None,
        }
    }

    /// A good answer has begun. A probe need not wait for its end, which may take minutes.
    pub fn begins(&mut self, now: Instant) -> Changes {
        match self.reaches || self.probes {
            true => self.found(Found::Answers, now),
            false => Changes::default(),
        }
    }

    /// Tells what was found out.
    pub fn found(&mut self, found: Found, now: Instant) -> Changes {
        let Turn { provider, live, .. } = &*self;
        let (reach, watch, rules) = (&provider.reach, &live.watch, &provider.health);
        let changes = match found {
            Found::Answers => Changes {
                provider: reach.succeeded(self.reaches, rules, now),
                upstream: watch.succeeded(self.probes, rules, now),
            },
            Found::Fails => Changes {
                provider: reach.succeeded(self.reaches, rules, now),
                upstream: watch.failed(self.probes, self.alone, rules, now, next_random()),
            },
            Found::Unreachable => {
                if self.probes {
                    // It did not get that far.
                    watch.release();
                }
                Changes {
                    provider: reach.failed(self.reaches, self.alone, rules, now, next_random()),
                    upstream: None,
                }
            }
        };
        (self.reaches, self.probes) = (false, false);
        changes
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.live.give_back();
        if self.reaches {
            self.provider.reach.release();
        }
        if self.probes {
            self.live.watch.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::tests::settings;
    use std::time::Duration;

    fn pair() -> (Arc<Provider>, Arc<Live>) {
        let provider = Provider::new(settings(&["k"])).unwrap();
        let live = Live::new("p".into(), "m".into());
        (Arc::new(provider), Arc::new(live))
    }

    #[test]
    fn a_failing_upstream_is_left_out_and_its_provider_is_not() {
        let (provider, live) = pair();
        let other = Arc::new(Live::new("p".into(), "other".into()));
        let now = Instant::now();
        let take = |live: &Arc<Live>| Turn::take(&provider, live, None, false, now);
        let mut last = Changes::default();
        for _ in 0..5 {
            last = take(&live).unwrap().found(Found::Fails, now);
        }
        assert!(matches!(last.upstream, Some(Change::Out(_))));
        assert!(last.provider.is_none() && take(&live).is_none());
        assert!(take(&other).is_some());
        for _ in 0..5 {
            last = take(&other).unwrap().found(Found::Unreachable, now);
        }
        assert!(matches!(last.provider, Some(Change::Out(_))));
        assert!(take(&other).is_none());
        assert_eq!((live.in_flight(), other.in_flight()), (0, 0));
    }

    #[test]
    fn a_probe_that_learns_nothing_leaves_it_to_the_next() {
        let (provider, live) = pair();
        let start = Instant::now();
        for _ in 0..5 {
            let mut turn = Turn::take(&provider, &live, None, false, start).unwrap();
            turn.found(Found::Fails, start);
        }
        let later = start + Duration::from_secs(2);
        let probe = Turn::take(&provider, &live, None, false, later).unwrap();
        assert!(Turn::take(&provider, &live, None, false, later).is_none());
        drop(probe);
        let mut probe = Turn::take(&provider, &live, None, false, later).unwrap();
        assert_eq!(probe.begins(later).upstream, Some(Change::Back));
        // Others come while its answer goes on, and its end counts as any other.
        assert!(Turn::take(&provider, &live, None, false, later).is_some());
        assert_eq!(probe.found(Found::Fails, later), Changes::default());
    }

    #[test]
    fn a_provider_is_reached_when_it_is_connected_to() {
        let (provider, live) = pair();
        let start = Instant::now();
        let take = |now| Turn::take(&provider, &live, None, false, now);
        for _ in 0..5 {
            take(start).unwrap().found(Found::Unreachable, start);
        }
        let later = start + Duration::from_secs(2);
        let mut probe = take(later).unwrap();
        assert!(take(later).is_none());
        // Others come while it waits for its answer.
        assert_eq!(probe.connected(later).provider, Some(Change::Back));
        assert!(take(later).is_some());
        assert_eq!(probe.connected(later), Changes::default());
    }

    #[test]
    fn a_full_upstream_takes_no_more() {
        let (provider, live) = pair();
        let now = Instant::now();
        let take = || Turn::take(&provider, &live, Some(1), false, now);
        let first = take().unwrap();
        assert!(take().is_none());
        drop(first);
        assert!(take().is_some());
    }
}
