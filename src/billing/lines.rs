//! What this node has to tell Redis of each account, in order, and what it last heard of it.
//!
//! Charges go out in the order of the journal, several calls at a time on one connection. Each call says
//! which charge the first of its own follows; Redis applies nothing behind a gap. So what one call loses
//! is sent again from the first that was not acknowledged, and what was applied already is skipped.

use super::Charge;
use ahash::AHashMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Charges that one call carries at most.
pub(super) const BATCH: usize = 64;

/// Charges that wait in memory, an account; the journal has the others.
const MOST: usize = 8192;

/// Holds of unknown fate that wait to be given back, an account; further ones expire by themselves.
const MOST_UNKNOWN: usize = 1024;

/// All accounts that this node has had to do with.
#[derive(Default)]
pub(super) struct Lines(RwLock<AHashMap<Arc<str>, Arc<Line>>>);

/// One account.
pub(super) struct Line {
    pub(super) account: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last charge that Redis is known to have applied.
    acknowledged: u64,
    /// Charges after that, in order.
    waiting: VecDeque<(u64, Arc<Charge>)>,
    /// So many of those in front are on their way.
    sent: usize,
    /// The last charge that was ever put in.
    last: u64,
    /// What Redis needs is not all in `waiting`: it has lost what it had acknowledged, or more came than is kept in
    /// memory. The journal must be read again.
    lost: bool,
    /// Somebody is sending.
    served: bool,
    /// Holds in flight.
    live: BTreeSet<u64>,
    /// Holds of which nobody knows whether Redis took them.
    unknown: Vec<u64>,
    /// What is free of the balance (`None`) and of packages by name, as last heard.
    known: BTreeMap<Option<Arc<str>>, Known>,
    /// When something last happened.
    active: Option<Instant>,
}

/// What was last heard of a balance or a package.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) free: i64,
    pub(super) at: Instant,
    /// What this node has admitted on its own since.
    pub(super) exposure: i64,
}

/// Charges on their way.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// The charge that the first one follows.
    pub(super) after: u64,
    pub(super) charges: Vec<(u64, Arc<Charge>)>,
}

impl State {
    /// Something before all that waits is missing: it is of no use, and the journal has it.
    fn lose(&mut self) {
        self.lost = true;
        self.waiting.clear();
        self.sent = 0;
    }
}

impl Lines {
    /// The account's, made when it is first asked for.
    pub(super) fn of(&self, account: &Arc<str>) -> Arc<Line> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = known.get(account) {
            return line.clone();
        }
        drop(known);
        let mut lines = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let made = lines.entry(account.clone()).or_insert_with(|| {
            Arc::new(Line {
                account: account.clone(),
                state: Mutex::default(),
            })
        });
        made.clone()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Line>> {
        let lines = self.0.read().unwrap_or_else(PoisonError::into_inner);
        lines.values().cloned().collect()
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two lines of bookkeeping leaves a state that is still one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A charge that is on file.
    pub(super) fn push(&self, seq: u64, charge: Arc<Charge>) {
        let mut state = self.state();
        state.live.remove(&charge.held.id);
        state.last = seq;
        state.active = Some(Instant::now());
        if state.waiting.len() >= MOST {
            state.lost = true;
        }
        if !state.lost {
            state.waiting.push_back((seq, charge));
        }
    }

    /// Begins to send, if nobody does.
    pub(super) fn serve(&self) -> bool {
        !std::mem::replace(&mut self.state().served, true)
    }

    /// Ends to send; false if there is something again.
    pub(super) fn served(&self) -> bool {
        let mut state = self.state();
        let idle = !state.lost && state.waiting.len() <= state.sent && state.unknown.is_empty();
        state.served = !idle;
        idle
    }

    /// The next charges to be sent; none while the journal must be read first.
    pub(super) fn take(&self) -> Batch {
        let mut state = self.state();
        let from = state.sent;
        let charges: Vec<_> = state
            .waiting
            .iter()
            .skip(from)
            .take(BATCH)
            .cloned()
            .collect();
        let after = match from.checked_sub(1).and_then(|at| state.waiting.get(at)) {
            Some((seq, _)) => *seq,
            None => state.acknowledged,
        };
        state.sent += charges.len();
        Batch { after, charges }
    }

    /// Redis has applied everything up to `mark`; with `gap` it has not had something before what it got.
    pub(super) fn answered(&self, mark: u64, gap: bool) {
        let mut state = self.state();
        if mark < state.acknowledged {
            // Calls that were under way at the same time may answer in any order: only a gap says that
            // what was acknowledged is gone.
            if gap {
                state.lose();
            }
            return;
        }
        while state.waiting.front().is_some_and(|(seq, _)| *seq <= mark) {
            state.waiting.pop_front();
            state.sent = state.sent.saturating_sub(1);
        }
        state.acknowledged = mark;
        state.active = Some(Instant::now());
        if gap {
            state.sent = 0;
        }
    }

    /// Nobody knows what became of charges that were on their way: all are sent again.
    pub(super) fn unanswered(&self) {
        self.state().sent = 0;
    }

    /// The last charge that Redis is known to have applied.
    pub(super) fn acknowledged(&self) -> u64 {
        self.state().acknowledged
    }

    /// Redis was asked for its mark, when it was known to have `known`.
    pub(super) fn marked(&self, mark: u64, known: u64) {
        if mark < known {
            self.state().lose();
        }
    }

    /// The last charge that there is, if the journal must be read again.
    pub(super) fn lost(&self) -> Option<u64> {
        let state = self.state();
        state.lost.then_some(state.last)
    }

    /// Puts in what the journal has behind `mark`, up to `upto`; nothing else waits any more. `whole` says that
    /// there was no more than that.
    pub(super) fn rewind(&self, mark: u64, charges: Vec<(u64, Arc<Charge>)>, whole: Option<u64>) {
        let mut state = self.state();
        state.waiting = charges.into();
        state.acknowledged = mark;
        state.sent = 0;
        // What came since is in the journal alone.
        state.lost = whole != Some(state.last);
    }

    /// Whether there is something to send.
    pub(super) fn is_due(&self) -> bool {
        let state = self.state();
        state.waiting.len() > state.sent
    }

    /// The first charge that is not acknowledged; `None` if all are.
    pub(super) fn first_waiting(&self) -> Option<u64> {
        let state = self.state();
        match state.lost {
            // Nothing may be deleted before it was read again.
            true => Some(0),
            false => state.waiting.front().map(|(seq, _)| *seq),
        }
    }

    /// Whether anything happened within that time.
    pub(super) fn is_active(&self, within: Duration) -> bool {
        let active = self.state().active;
        active.is_some_and(|at| at.elapsed() < within)
    }

    /// How many charges Redis has not acknowledged.
    pub(super) fn count(&self) -> usize {
        self.state().waiting.len()
    }

    /// A request is in flight.
    pub(super) fn begun(&self, hold: u64) {
        self.state().live.insert(hold);
    }

    /// The holds of requests in flight.
    pub(super) fn live(&self) -> Vec<u64> {
        self.state().live.iter().copied().collect()
    }

    /// A hold may have been taken or not.
    pub(super) fn unknown(&self, hold: u64) {
        let mut state = self.state();
        if state.unknown.len() < MOST_UNKNOWN {
            state.unknown.push(hold);
        }
    }

    /// Takes the holds of unknown fate that no request in flight goes by.
    pub(super) fn take_unknown(&self) -> Vec<u64> {
        let mut state = self.state();
        let all = std::mem::take(&mut state.unknown);
        all.into_iter()
            .filter(|hold| !state.live.contains(hold))
            .collect()
    }

    /// What Redis says is free of that which pays.
    pub(super) fn heard(&self, pays: Option<&Arc<str>>, free: i64) {
        let known = Known {
            free,
            at: Instant::now(),
            exposure: 0,
        };
        self.state().known.insert(pays.cloned(), known);
    }

    /// Decides by what was last heard, as one step.
    pub(super) fn decide<T>(
        &self,
        pays: Option<&Arc<str>>,
        decide: impl FnOnce(Option<&mut Known>) -> T,
    ) -> T {
        let mut state = self.state();
        decide(state.known.get_mut(&pays.cloned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::billing::{Due, Held, Money, Period};

    fn charge(id: u64) -> Arc<Charge> {
        Arc::new(Charge {
            held: Held {
                id,
                account: "a".into(),
                key: "k".into(),
                project: "p".into(),
                model: "m".into(),
                money: Money::ZERO,
                tokens: 0,
                package: None,
                period: Period::default(),
            },
            due: Due::default(),
            source: None,
            at: 0,
        })
    }

    fn seqs(batch: &Batch) -> (u64, Vec<u64>) {
        let seqs = batch.charges.iter().map(|(seq, _)| *seq).collect();
        (batch.after, seqs)
    }

    #[test]
    fn batches_follow_each_other_and_a_failure_sends_all_again() {
        let line = Lines::default().of(&"a".into());
        line.push(3, charge(1));
        line.push(7, charge(2));
        assert_eq!(seqs(&line.take()), (0, vec![3, 7]));
        line.push(9, charge(3));
        assert_eq!(seqs(&line.take()), (7, vec![9]));
        assert!(!line.is_due());
        line.unanswered();
        assert_eq!(seqs(&line.take()), (0, vec![3, 7, 9]));
        line.answered(7, false);
        assert_eq!(line.first_waiting(), Some(9));
        line.answered(9, false);
        assert_eq!(seqs(&line.take()), (9, vec![]));
        assert_eq!(line.first_waiting(), None);
        // An answer that comes late changes nothing, nor does one to an older question.
        line.marked(3, 3);
        line.answered(7, false);
        assert!(line.lost().is_none());
    }

    #[test]
    fn what_redis_has_lost_is_read_again_before_anything_else_is_sent() {
        let line = Lines::default().of(&"a".into());
        line.push(1, charge(1));
        line.push(2, charge(2));
        line.take();
        line.answered(2, false);
        line.push(3, charge(3));
        assert_eq!(seqs(&line.take()), (2, vec![3]));
        line.answered(0, true);
        assert_eq!(line.lost(), Some(3));
        assert_eq!(line.first_waiting(), Some(0));
        // One more comes while the journal is read: it must be read once more.
        line.push(4, charge(4));
        let read = |upto: u64| (1..=upto).map(|seq| (seq, charge(seq))).collect();
        line.rewind(0, read(3), Some(3));
        assert_eq!(line.lost(), Some(4));
        line.rewind(0, read(4), Some(4));
        assert_eq!(line.lost(), None);
        assert_eq!(seqs(&line.take()), (0, vec![1, 2, 3, 4]));
    }

    #[test]
    fn what_is_too_much_for_memory_is_in_the_journal() {
        let line = Lines::default().of(&"a".into());
        for seq in 1..=MOST as u64 + 5 {
            line.push(seq, charge(seq));
        }
        assert_eq!(line.count(), MOST);
        assert_eq!(line.lost(), Some(MOST as u64 + 5));
        // What is there can be sent before the rest is read.
        assert!(line.is_due());
        assert_eq!(line.take().charges.len(), BATCH);
    }

    #[test]
    fn one_sends_at_a_time() {
        let line = Lines::default().of(&"a".into());
        assert!(line.serve() && !line.serve());
        line.push(1, charge(1));
        assert!(!line.served(), "there is something again");
        line.take();
        assert!(line.served());
        assert!(line.serve());
    }

    #[test]
    fn a_hold_that_a_request_goes_by_is_not_given_back() {
        let line = Lines::default().of(&"a".into());
        line.unknown(1);
        line.unknown(2);
        line.begun(2);
        assert_eq!(line.take_unknown(), [1]);
        assert!(line.take_unknown().is_empty());
        line.push(1, charge(2));
        assert!(line.live().is_empty());
    }
}
