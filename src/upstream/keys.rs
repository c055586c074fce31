//! A provider's keys: used in turn, and left alone while they rest. A key that is limited rests for as long as the
//! provider says, one that is refused for longer each time; what happens to a key never counts against the provider.

use super::Credential;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest rest that a provider can ask for: one answer must not disable a key for good.
const LONGEST: Duration = Duration::from_secs(3600);
/// The first rest of a key that is limited when the provider does not say how long; each further one is twice as long,
/// up to the second.
const LIMITED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The same of a key that is refused.
const REFUSED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// A provider's last key rests only after so many refusals in a row: one may have been a mistake.
const LAST_KEY: u32 = 3;

/// Why a key rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// 429.
    Limited,
    /// 401 or 403.
    Refused,
}

/// A key that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Until then.
    pub until: Instant,
    /// Why.
    pub why: Why,
    /// It may be used all the same, if there is no other: nobody said that it must not be.
    pub light: bool,
}

#[derive(Debug, Default)]
struct State {
    rest: Option<Rest>,
    /// When it was laid to rest for the last time.
    laid: Option<Instant>,
    /// In a row.
    limited: u32,
    refused: u32,
}

/// How one key is doing.
#[derive(Debug, Default)]
struct Watched {
    /// There is something to look at below.
    trouble: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Slot {
    credential: Option<Credential>,
    watched: Arc<Watched>,
}

/// What can be had of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Ready(usize),
    /// This one, if there is nothing else: it should rest.
    LastResort(usize),
    /// All of them rest; this one for the shortest time. `None` if all were tried.
    Resting(Option<Rest>),
}

/// The keys of one provider; of a provider without keys, one that sends none.
#[derive(Debug)]
pub struct Keys {
    slots: Vec<Slot>,
    next: AtomicUsize,
}

impl Keys {
    /// These keys, all of them fresh.
    pub fn new(credentials: Vec<Credential>) -> Keys {
        let slot = |credential| Slot {
            credential,
            watched: Arc::default(),
        };
        let mut slots: Vec<Slot> = credentials.into_iter().map(Some).map(slot).collect();
        if slots.is_empty() {
            slots.push(slot(None));
        }
        Keys {
            slots,
            next: AtomicUsize::new(0),
        }
    }

    /// Takes over how the keys that both have are doing.
    pub fn inherit(&mut self, older: &Keys) {
        for slot in &mut self.slots {
            let same = |old: &&Slot| match (&old.credential, &slot.credential) {
                (Some(old), Some(new)) => old.plain == new.plain,
                (None, None) => true,
                _ => false,
            };
            if let Some(old) = older.slots.iter().find(same) {
                slot.watched = old.watched.clone();
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// What a key is sent as; `None` where there is nothing to send.
    pub fn credential(&self, at: usize) -> Option<&Credential> {
        self.slots.get(at)?.credential.as_ref()
    }

    /// All that are sent.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.slots
            .iter()
            .filter_map(|slot| slot.credential.as_ref())
    }

    /// How a key rests, if it does.
    pub fn rest(&self, at: usize, now: Instant) -> Option<Rest> {
        let key = &self.slots.get(at)?.watched;
        match key.is_plain() {
            true => None,
            false => key.state().rest.filter(|rest| rest.until > now),
        }
    }

    /// The next key in turn that can be had, without those of which `tried` is true.
    pub fn choose(&self, now: Instant, tried: impl Fn(usize) -> bool) -> Choice {
        // Relaxed: only the rough spread matters.
        let start = match self.slots.len() {
            1 => 0,
            _ => self.next.fetch_add(1, Ordering::Relaxed),
        };
        self.choose_from(start, now, tried)
    }

    /// What [`Keys::choose`] would find, without its being anyone's turn.
    pub fn outlook(&self, now: Instant, tried: impl Fn(usize) -> bool) -> Choice {
        self.choose_from(0, now, tried)
    }

    fn choose_from(&self, start: usize, now: Instant, tried: impl Fn(usize) -> bool) -> Choice {
        let count = self.slots.len();
        let (mut light, mut shortest): (Option<usize>, Option<Rest>) = (None, None);
        for turn in 0..count {
            let at = start.wrapping_add(turn) % count;
            if tried(at) {
                continue;
            }
            let Some(rest) = self.rest(at, now) else {
                return Choice::Ready(at);
            };
            if rest.light {
                light.get_or_insert(at);
            }
            if shortest.is_none_or(|shortest| rest.until < shortest.until) {
                shortest = Some(rest);
            }
        }
        match light {
            Some(at) => Choice::LastResort(at),
            None => Choice::Resting(shortest),
        }
    }

    /// How many were refused when they were last used.
    pub fn refused_ones(&self) -> usize {
        let keys = self.slots.iter().map(|slot| &slot.watched);
        keys.filter(|key| !key.is_plain() && key.state().refused > 0)
            .count()
    }

    /// A key was answered as usual, in an attempt that began at `began`: what began before its rest says nothing of it.
    pub fn good(&self, at: usize, began: Instant) {
        if let Some(Slot { watched: key, .. }) = self.slots.get(at)
            && !key.is_plain()
        {
            let mut state = key.state();
            if state.laid.is_none_or(|laid| began > laid) {
                *state = State::default();
                key.trouble.store(false, Ordering::Relaxed);
            }
        }
    }

    /// A key was limited, for so long if the provider said so. Gives how long it rests.
    pub fn limited(&self, at: usize, said: Option<Duration>, now: Instant) -> Duration {
        let Some(Slot { watched: key, .. }) = self.slots.get(at) else {
            return Duration::ZERO;
        };
        let mut state = key.state();
        let time = match said {
            Some(said) => said.min(LONGEST),
            None => grown(LIMITED, state.limited),
        };
        state.limited = state.limited.saturating_add(1);
        state.laid = Some(now);
        key.lay(&mut state, now + time, Why::Limited, said.is_none());
        time
    }

    /// A key was refused; `certain` says that it was for the key, and not perhaps for what was asked. Gives how long it
    /// rests.
    pub fn refused(&self, at: usize, certain: bool, now: Instant) -> Duration {
        let others =
            (0..self.slots.len()).any(|other| other != at && self.rest(other, now).is_none());
        let Some(Slot { watched: key, .. }) = self.slots.get(at) else {
            return Duration::ZERO;
        };
        let mut state = key.state();
        let time = grown(REFUSED, state.refused);
        state.refused = state.refused.saturating_add(1);
        let light = !certain || (!others && state.refused < LAST_KEY);
        state.laid = Some(now);
        key.lay(&mut state, now + time, Why::Refused, light);
        time
    }
}

impl Watched {
    fn is_plain(&self) -> bool {
        // Relaxed: a request that sees it a moment late is one that came a moment earlier.
        !self.trouble.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays it to rest; an earlier rest that is longer stays.
    fn lay(&self, state: &mut State, until: Instant, why: Why, light: bool) {
        let longer = state.rest.filter(|rest| rest.until > until && !rest.light);
        state.rest = Some(longer.unwrap_or(Rest { until, why, light }));
        self.trouble.store(true, Ordering::Relaxed);
    }
}

fn grown((first, most): (Duration, Duration), times: u32) -> Duration {
    first
        .saturating_mul(2u32.saturating_pow(times.min(20)))
        .min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn keys(count: usize) -> Keys {
        let key = |n| Credential::new(&format!("key-{n}")).unwrap();
        Keys::new((0..count).map(key).collect())
    }

    fn choose(keys: &Keys, now: Instant) -> Choice {
        keys.choose(now, |_| false)
    }

    #[test]
    fn keys_take_turns_and_a_limited_one_rests_for_as_long_as_it_is_told() {
        let now = Instant::now();
        let keys = keys(2);
        assert_eq!(choose(&keys, now), Choice::Ready(0));
        assert_eq!(choose(&keys, now), Choice::Ready(1));
        keys.limited(0, Some(7 * SECOND), now);
        for _ in 0..4 {
            assert_eq!(choose(&keys, now + 6 * SECOND), Choice::Ready(1));
        }
        keys.limited(1, Some(60 * SECOND), now);
        let rest = Rest {
            until: now + 7 * SECOND,
            why: Why::Limited,
            light: false,
        };
        assert_eq!(choose(&keys, now), Choice::Resting(Some(rest)));
        assert_eq!(choose(&keys, now + 7 * SECOND), Choice::Ready(0));
        // A provider cannot disable a key for good.
        assert_eq!(keys.limited(0, Some(1_000_000 * SECOND), now), LONGEST);
        // A shorter word does not wake it.
        keys.limited(0, Some(SECOND), now);
        assert_eq!(
            keys.rest(0, now + 2 * SECOND).map(|rest| rest.until),
            Some(now + LONGEST)
        );
    }

    #[test]
    fn without_a_word_the_last_key_may_still_be_used() {
        let now = Instant::now();
        let keys = keys(1);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(keys.limited(0, None, now), seconds * SECOND);
            assert_eq!(choose(&keys, now), Choice::LastResort(0));
        }
        assert_eq!(keys.choose(now, |_| true), Choice::Resting(None));
        // An answer to what was asked before says nothing.
        keys.good(0, now);
        assert_eq!(choose(&keys, now), Choice::LastResort(0));
        keys.good(0, now + SECOND);
        assert_eq!(choose(&keys, now), Choice::Ready(0));
        assert_eq!(keys.limited(0, None, now), SECOND);
    }

    #[test]
    fn a_refused_key_is_set_aside_at_once_where_there_is_another() {
        let now = Instant::now();
        let both = keys(2);
        assert_eq!(both.refused(1, true, now), 10 * SECOND);
        assert!(both.rest(1, now).is_some_and(|rest| !rest.light));
        for _ in 0..3 {
            assert_eq!(choose(&both, now), Choice::Ready(0));
        }
        let mut later = now + 10 * SECOND;
        assert!(both.rest(1, later).is_none());
        for seconds in [20, 40, 80, 160, 320, 600, 600] {
            assert_eq!(both.refused(1, true, later), seconds * SECOND);
            later += seconds * SECOND;
        }
        let one = keys(1);
        one.refused(0, true, now);
        one.refused(0, true, now);
        assert_eq!(choose(&one, now), Choice::LastResort(0));
        one.refused(0, true, now);
        assert!(
            matches!(choose(&one, now), Choice::Resting(Some(rest)) if rest.why == Why::Refused)
        );
    }

    #[test]
    fn what_may_be_about_the_request_never_disables_a_key() {
        let now = Instant::now();
        let keys = keys(2);
        for _ in 0..10 {
            keys.refused(0, false, now);
            keys.refused(1, false, now);
        }
        assert!(matches!(choose(&keys, now), Choice::LastResort(_)));
        keys.good(1, now + SECOND);
        assert_eq!(choose(&keys, now), Choice::Ready(1));
    }

    #[test]
    fn a_provider_without_keys_is_limited_all_the_same() {
        let now = Instant::now();
        let keys = keys(0);
        assert_eq!(choose(&keys, now), Choice::Ready(0));
        assert!(keys.credential(0).is_none());
        keys.limited(0, Some(SECOND), now);
        assert!(matches!(choose(&keys, now), Choice::Resting(Some(_))));
    }
}
