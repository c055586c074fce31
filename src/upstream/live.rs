//! What is known of an upstream while requests go there: its health, its load, its latency. It outlives
//! configurations.

use super::health::{Admits, Change, Health, Rules, WHOLE};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A [`Health`] that costs one look while all is well.
#[derive(Debug, Default)]
pub struct Watch {
    /// There is something to look at below.
    trouble: AtomicBool,
    health: Mutex<Health>,
}

impl Watch {
    fn health(&self) -> MutexGuard<'_, Health> {
        // Each change of it is whole.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_plain(&self) -> bool {
        // Relaxed: a request that sees trouble a moment late is a request that came a moment earlier.
        !self.trouble.load(Ordering::Relaxed)
    }

    /// Whether it may be asked now.
    pub fn admits(&self, now: Instant) -> Admits {
        match self.is_plain() {
            true => Admits::Yes,
            false => self.health().admits(now),
        }
    }

    /// Its share of its weight, in thousandths.
    pub fn share(&self, rules: &Rules, now: Instant) -> u32 {
        match self.is_plain() {
            true => WHOLE,
            false => self.health().share(rules, now),
        }
    }

    /// See [`Health::enter`].
    pub fn enter(&self, now: Instant) -> Admits {
        match self.is_plain() {
            true => Admits::Yes,
            false => self.health().enter(now),
        }
    }

    /// See [`Health::succeeded`].
    pub fn succeeded(&self, probe: bool, rules: &Rules, now: Instant) -> Option<Change> {
        if self.is_plain() {
            return None;
        }
        let mut health = self.health();
        let change = health.succeeded(probe, now);
        self.trouble
            .store(!health.is_plain(rules, now), Ordering::Relaxed);
        change
    }

    /// See [`Health::failed`].
    pub fn failed(
        &self,
        probe: bool,
        alone: bool,
        rules: &Rules,
        now: Instant,
        random: u64,
    ) -> Option<Change> {
        let mut health = self.health();
        self.trouble.store(true, Ordering::Relaxed);
        health.failed(probe, alone, rules, now, random)
    }

    /// See [`Health::release`].
    pub fn release(&self) {
        self.health().release();
    }
}

/// How long answers took to begin, lately: a moving average that forgets within some ten seconds, so that one that was
/// slow and has not been asked since is asked again (Finagle's peak EWMA has the same decay, of 10 s).
#[derive(Debug)]
pub struct Latency {
    began: Instant,
    /// Milliseconds since `began` in the upper half, as far as 32 bits go; the average in microseconds, an `f32`, in the
    /// lower.
    packed: AtomicU64,
}

const MEMORY: f64 = 10.0;

impl Latency {
    fn new(began: Instant) -> Latency {
        Latency {
            began,
            packed: AtomicU64::new(0),
        }
    }

    fn unpack(&self, packed: u64, now: Instant) -> (f64, f64) {
        let age = self.at(now).wrapping_sub((packed >> 32) as u32);
        let average = f64::from(f32::from_bits(packed as u32));
        // What is left of it by now.
        (average, (-f64::from(age) / 1000.0 / MEMORY).exp())
    }

    fn at(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.began).as_millis() as u32
    }

    /// Counts an answer.
    pub fn add(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64() * 1e6;
        let add = |packed: u64| {
            let (average, left) = self.unpack(packed, now);
            let next = match packed as u32 {
                0 => took,
                _ => average * left + took * (1.0 - left),
            };
            Some((u64::from(self.at(now)) << 32) | u64::from((next as f32).to_bits()))
        };
        // It always has a next value.
        let _ = self
            .packed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// The average now; nothing where no answer has been counted.
    pub fn get(&self, now: Instant) -> Duration {
        let (average, left) = self.unpack(self.packed.load(Ordering::Relaxed), now);
        Duration::from_secs_f64((average * left / 1e6).max(0.0))
    }
}

/// An upstream of a model, as it is doing.
#[derive(Debug)]
pub struct Live {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The model's name there; `*` of the catch-all.
    pub model: Arc<str>,
    /// Its health, apart from the way to its provider.
    pub watch: Watch,
    /// Its latency.
    pub latency: Latency,
    in_flight: AtomicU32,
}

impl Live {
    /// One of which nothing is known yet.
    pub fn new(provider: Arc<str>, model: Arc<str>) -> Live {
        Live {
            provider,
            model,
            watch: Watch::default(),
            latency: Latency::new(Instant::now()),
            in_flight: AtomicU32::new(0),
        }
    }

    /// Requests that are there now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes a place, unless `most` are taken.
    pub(super) fn take(&self, most: Option<u32>) -> bool {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let fits = most.is_none_or(|most| before < most);
        if !fits {
            self.give_back();
        }
        fits
    }

    pub(super) fn give_back(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn latency_is_an_average_that_fades() {
        let start = Instant::now();
        let latency = Latency::new(start);
        assert_eq!(latency.get(start), Duration::ZERO);
        latency.add(SECOND, start);
        let near = |found: Duration, wanted: f64| (found.as_secs_f64() - wanted).abs() < 0.01;
        assert!(near(latency.get(start), 1.0));
        // Ten seconds later a third of it is left, and a new answer counts for the rest.
        let later = start + 10 * SECOND;
        assert!(near(latency.get(later), 0.368), "{:?}", latency.get(later));
        latency.add(2 * SECOND, later);
        assert!(near(latency.get(later), 0.368 + 2.0 * 0.632));
        // Many at once are one.
        for _ in 0..100 {
            latency.add(5 * SECOND, later);
        }
        assert!(near(latency.get(later), 0.368 + 2.0 * 0.632));
    }

    #[test]
    fn places_are_given_back() {
        let live = Live::new("p".into(), "m".into());
        assert!(live.take(Some(2)) && live.take(Some(2)));
        assert!(!live.take(Some(2)));
        live.give_back();
        assert!(live.take(Some(2)));
        assert!(live.take(None));
        assert_eq!(live.in_flight(), 3);
    }
}
