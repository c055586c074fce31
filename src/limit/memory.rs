//! The states of one node's subjects, in memory: shards behind locks that are held for some tens of
//! nanoseconds, each entry gone once it is as good as new.

use super::state::{Charge, Levels, State};
use super::{Ask, Denial, Hold, Limits, Reading, Subject};
use crate::clock::Now;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Two threads meet in one of these rarely, and a sweep holds one of them only.
const SHARDS: usize = 256;

/// Subjects a shard remembers at most: two million in all, some 300 MB. Keys are bounded by who
/// made them; networks of anonymous clients are not.
const MOST: usize = 8192;

const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Entry {
    state: State,
    /// When it is as good as new; [`NEVER`] while a request is in flight.
    fresh_at: u64,
}

/// A shard on a cache line of its own.
#[repr(align(64))]
#[derive(Default)]
struct Shard(Mutex<HashMap<u128, Entry, RandomState>>);

/// The states of all subjects that are not as good as new.
pub struct Memory {
    shards: Box<[Shard]>,
    hasher: RandomState,
    tracked: AtomicUsize,
    /// The shard to be swept next.
    next: AtomicUsize,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            tracked: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        }
    }
}

impl Memory {
    /// Admits a request by this node's `share` of the limits.
    pub(super) fn admit(
        &self,
        ask: &Ask,
        share: u32,
        now: Now,
    ) -> Result<(Reading, Charge), Denial> {
        self.with(&ask.subject, &ask.limits, now, |state| {
            let charge = state.admit(&ask.limits, ask.estimate, share, now)?;
            Ok((state.reading(&ask.limits, share, now), charge))
        })
    }

    /// Ends a request that [`Memory::admit`] began.
    pub(super) fn settle(&self, hold: &Hold, used: Option<u64>, now: Now) {
        let Hold {
            ask,
            charge,
            id: _,
            share,
        } = hold;
        self.with(&ask.subject, &ask.limits, now, |state| {
            state.settle(&ask.limits, *charge, used, *share, now);
        });
    }

    /// Notes where Redis says a subject stands; `begun` if that was for a request that is now in flight.
    pub(super) fn follow(&self, ask: &Ask, levels: Levels, begun: bool, now: Now) {
        self.with(&ask.subject, &ask.limits, now, |state| {
            state.follow(&ask.limits, levels, now);
            if begun {
                state.count(true);
            }
        });
    }

    /// Notes that a request which Redis admitted is over.
    pub(super) fn ended(&self, ask: &Ask, now: Now) {
        self.with(&ask.subject, &ask.limits, now, |state| state.count(false));
    }

    /// Where a subject stands.
    pub(super) fn read(&self, subject: &Subject, limits: &Limits, share: u32, now: Now) -> Reading {
        let known = self.shard(subject).get(&subject.id).copied();
        let state = known.map_or_else(|| State::fresh(limits, now), |entry| entry.state);
        state.reading(limits, share, now)
    }

    /// How many subjects are remembered.
    pub fn tracked(&self) -> usize {
        self.tracked.load(Ordering::Relaxed)
    }

    /// Forgets what is as good as new in the next shard of all.
    pub fn sweep(&self, now: Now) {
        let nth = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        if let Some(Shard(shard)) = self.shards.get(nth) {
            self.tidy(
                &mut shard.lock().unwrap_or_else(PoisonError::into_inner),
                now,
            );
        }
    }

    /// How many calls of [`Memory::sweep`] go round once.
    pub const ROUND: usize = SHARDS;

    fn tidy(&self, shard: &mut HashMap<u128, Entry, RandomState>, now: Now) {
        let before = shard.len();
        shard.retain(|_, entry| entry.fresh_at > now.ms);
        self.tracked
            .fetch_sub(before - shard.len(), Ordering::Relaxed);
        // After a flood its room goes too.
        if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
            shard.shrink_to(shard.len() * 2);
        }
    }

    fn shard(&self, subject: &Subject) -> MutexGuard<'_, HashMap<u128, Entry, RandomState>> {
        let nth = (self.hasher.hash_one(subject.id) % SHARDS as u64) as usize;
        // There are SHARDS of them.
        let Shard(shard) = &self.shards[nth];
        // A panic between two lines of arithmetic leaves a state that is still one.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        subject: &Subject,
        limits: &Limits,
        now: Now,
        change: impl FnOnce(&mut State) -> T,
    ) -> T {
        let mut shard = self.shard(subject);
        if shard.len() >= MOST && !shard.contains_key(&subject.id) {
            self.make_room(&mut shard, now);
        }
        let entry = shard.entry(subject.id).or_insert_with(|| {
            self.tracked.fetch_add(1, Ordering::Relaxed);
            Entry {
                state: State::fresh(limits, now),
                fresh_at: NEVER,
            }
        });
        let result = change(&mut entry.state);
        entry.fresh_at = entry.state.fresh_at(limits, now).unwrap_or(NEVER);
        result
    }

    /// Of a full shard, those entries are forgotten that lose least by it: many at once, so that a flood
    /// of networks does not pay for a search with each of them.
    fn make_room(&self, shard: &mut HashMap<u128, Entry, RandomState>, now: Now) {
        self.tidy(shard, now);
        if shard.len() < MOST {
            return;
        }
        let mut times: Vec<u64> = shard.values().map(|entry| entry.fresh_at).collect();
        let (_, limit, _) = times.select_nth_unstable(MOST / 16);
        let limit = (*limit).min(NEVER - 1);
        let before = shard.len();
        shard.retain(|_, entry| entry.fresh_at > limit);
        self.tracked
            .fetch_sub(before - shard.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::bucket::Bucket;
    use std::sync::Arc;

    fn ask(n: u64) -> Ask {
        Ask {
            subject: Arc::new(Subject::network(Some(std::net::IpAddr::V6(
                std::net::Ipv6Addr::from_bits(u128::from(n) << 64),
            )))),
            limits: Arc::new(Limits {
                requests: Some(Bucket::new(60, 60)),
                concurrency: Some(1000),
                ..Limits::default()
            }),
            estimate: 0,
        }
    }

    fn at(ms: u64) -> Now {
        Now { ms, wall: ms }
    }

    fn held(memory: &Memory, ask: Ask, now: Now) -> Hold {
        let (_, charge) = memory.admit(&ask, 1, now).unwrap();
        Hold {
            ask,
            charge,
            id: None,
            share: 1,
        }
    }

    fn sweep_all(memory: &Memory, now: Now) {
        for _ in 0..Memory::ROUND {
            memory.sweep(now);
        }
    }

    #[test]
    fn an_entry_goes_when_it_is_as_good_as_new_and_not_before() {
        let memory = Memory::default();
        let hold = held(&memory, ask(1), at(1000));
        let other = held(&memory, ask(2), at(1000));
        memory.settle(&hold, None, at(1000));
        sweep_all(&memory, at(1999));
        assert_eq!(memory.tracked(), 2, "one second refills one request");
        sweep_all(&memory, at(2000));
        assert_eq!(memory.tracked(), 1, "the other's request is in flight");
        memory.settle(&other, None, at(900_000));
        sweep_all(&memory, at(900_001));
        assert_eq!(memory.tracked(), 0);
    }

    #[test]
    fn a_million_subjects_are_remembered_and_more_do_not_grow_it() {
        let memory = Memory::default();
        for n in 0..1_000_000 {
            let hold = held(&memory, ask(n), at(1000));
            memory.settle(&hold, None, at(1000));
        }
        assert_eq!(memory.tracked(), 1_000_000, "none was lost");
        let room: usize = memory
            .shards
            .iter()
            .map(|Shard(shard)| shard.lock().unwrap().capacity())
            .sum();
        let bytes = room * (size_of::<(u128, Entry)>() + 1) * 8 / 7;
        assert!(bytes < 256 << 20, "{bytes} bytes");
        for n in 1_000_000..2_600_000 {
            let hold = held(&memory, ask(n), at(1001));
            memory.settle(&hold, None, at(1001));
        }
        assert!(memory.tracked() <= SHARDS * MOST, "{}", memory.tracked());
        sweep_all(&memory, at(100_000));
        assert_eq!(memory.tracked(), 0);
        let room: usize = memory
            .shards
            .iter()
            .map(|Shard(shard)| shard.lock().unwrap().capacity())
            .sum();
        assert!(room < SHARDS * 64, "the room was given back: {room}");
    }

    #[test]
    fn threads_admit_no_more_than_one_could() {
        let memory = Memory::default();
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter(|_| memory.admit(&ask(1), 1, at(1000)).is_ok())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(admitted, 60);
    }
}
