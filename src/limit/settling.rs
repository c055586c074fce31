//! Ended requests on their way to Redis, off the path of any request.
//!
//! Where requests at once are limited, the end of one goes at once, see [`joined`](super::joined). Where only
//! tokens are counted it waits a moment for the next admission of its subject, and goes along with it.
//! What Redis does not take waits; what has waited for longer than its hold lives is forgotten, since
//! Redis has given its place back by then.

use super::redis::{Correction, LIFE, Shared};
use super::{Ask, Subject};
use crate::record::limits::LimitMetrics;
use ahash::AHashMap;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Ended requests that may wait: what a busy node ends in some seconds.
const MOST: usize = 65_536;

/// So many are sent in one call.
const BATCH: usize = 256;

/// Admissions of which nobody knows whether they were done may wait until so many ended requests do:
/// while a server is down they are many, and worth less than what is known.
const MOST_UNKNOWN: usize = MOST / 16;

/// So long an ended request waits for the next admission of its subject.
const MOMENT: Duration = Duration::from_millis(2);

/// A subject that Redis did not take is tried again after this time, then half as often each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Requests in flight are renewed so often, four times in the life of a hold.
const RENEW: Duration = Duration::from_secs(30);

/// Two threads meet in one of these rarely.
const SHARDS: usize = 64;

/// Where ended requests wait, and where those in flight are known.
pub(super) struct Settling {
    waiting: [Mutex<AHashMap<u128, Waiting>>; SHARDS],
    live: [Mutex<AHashMap<u64, Ask>>; SHARDS],
    next: AtomicU64,
    count: AtomicUsize,
    wake: Notify,
    metrics: Arc<LimitMetrics>,
}

/// The ended requests of one subject.
struct Waiting {
    ask: Ask,
    ended: Vec<Ended>,
    /// Not sent by themselves before then; longer each time that Redis does not take them.
    until: Instant,
    pause: Duration,
}

/// One ended request.
pub(super) struct Ended {
    correction: Correction,
    at: Instant,
}

type Sending = BoxFuture<'static, Option<Waiting>>;

impl Settling {
    pub(super) fn new(metrics: Arc<LimitMetrics>) -> Settling {
        Settling {
            waiting: std::array::from_fn(|_| Mutex::default()),
            live: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            wake: Notify::new(),
            metrics,
        }
    }

    /// A number for a hold.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A request is in flight.
    pub(super) fn begun(&self, id: u64, ask: &Ask) {
        self.of_hold(id).insert(id, ask.clone());
    }

    /// A request has ended, and used `more` tokens than it was charged. Gives it back where Redis is to be told at
    /// once; elsewhere it waits for the next admission of its subject.
    pub(super) fn ended(&self, ask: Ask, more: i64, of: (u64, i32)) -> Option<(Ask, Ended)> {
        let (id, day) = of;
        self.of_hold(id).remove(&id);
        let ended = Ended {
            correction: Correction { id, more, day },
            at: Instant::now(),
        };
        if ask.limits.concurrency.is_some() {
            return Some((ask, ended));
        }
        self.later(ask, vec![ended]);
        None
    }

    /// Keeps ended requests for the next admission of their subject, or for a moment.
    pub(super) fn later(&self, ask: Ask, ended: Vec<Ended>) {
        self.put(ask, ended, MOMENT);
        self.wake.notify_one();
    }

    /// An admission may have been done or not: its place is given back.
    pub(super) fn unknown(&self, ask: &Ask, id: u64) {
        if self.count.load(Ordering::Relaxed) >= MOST_UNKNOWN {
            return self.metrics.lost.inc();
        }
        let correction = Correction {
            id,
            more: 0,
            day: 0,
        };
        let at = Instant::now();
        self.later(ask.clone(), vec![Ended { correction, at }]);
    }

    /// Takes what waits for a subject, to go with its next admission.
    pub(super) fn take(&self, subject: &Subject) -> Vec<Ended> {
        let mut waiting = self.of_subject(subject);
        let Some(one) = waiting.get_mut(&subject.id) else {
            return Vec::new();
        };
        let rest = one.ended.split_off(one.ended.len().min(BATCH));
        let ended = std::mem::replace(&mut one.ended, rest);
        if one.ended.is_empty() {
            waiting.remove(&subject.id);
        }
        self.count.fetch_sub(ended.len(), Ordering::Relaxed);
        ended
    }

    /// Puts back what an admission did not deliver.
    pub(super) fn put_back(&self, ask: &Ask, ended: Vec<Ended>) {
        if !ended.is_empty() {
            self.put(ask.clone(), ended, FIRST_PAUSE);
            self.wake.notify_one();
        }
    }

    /// Keeps what Redis did not take when it was told at once.
    pub(super) fn again(&self, ask: Ask, ended: Vec<Ended>) {
        let until = Instant::now();
        self.retry((!ended.is_empty()).then_some(Waiting {
            ask,
            ended,
            until,
            pause: MOMENT,
        }));
    }

    fn put(&self, ask: Ask, ended: Vec<Ended>, pause: Duration) {
        if self.count.fetch_add(ended.len(), Ordering::Relaxed) >= MOST {
            self.count.fetch_sub(ended.len(), Ordering::Relaxed);
            self.metrics.lost.inc_by(ended.len() as u64);
            return;
        }
        let mut waiting = self.of_subject(&ask.subject);
        let subject = ask.subject.id;
        let entry = waiting.entry(subject).or_insert_with(|| Waiting {
            ask,
            ended: Vec::new(),
            until: Instant::now() + pause,
            pause,
        });
        entry.ended.extend(ended);
    }

    fn of_hold(&self, id: u64) -> MutexGuard<'_, AHashMap<u64, Ask>> {
        // There are SHARDS of them.
        let shard = &self.live[(id % SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_subject(&self, subject: &Subject) -> MutexGuard<'_, AHashMap<u128, Waiting>> {
        // There are SHARDS of them.
        let shard = &self.waiting[(subject.id % SHARDS as u128) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to send what is due, or all there is: what was begun stands on the connection. Also gives
    /// what could not even be begun.
    fn begin(&self, shared: &Arc<Shared>, all: bool) -> (Vec<Sending>, Vec<Waiting>) {
        let (mut begun, mut left) = (Vec::new(), Vec::new());
        for shard in &self.waiting {
            let mut waiting = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            for (_, one) in waiting.extract_if(|_, one| all || one.until <= now) {
                self.count.fetch_sub(one.ended.len(), Ordering::Relaxed);
                let mut sending: Sending = send(shared.clone(), one).boxed();
                // The first poll hands the call to the connection.
                match (&mut sending).now_or_never() {
                    None => begun.push(sending),
                    Some(rest) => left.extend(rest),
                }
            }
        }
        (begun, left)
    }

    /// Takes back what Redis did not take, for later; what is too old is lost.
    fn retry(&self, left: impl IntoIterator<Item = Waiting>) {
        for mut one in left {
            let before = one.ended.len();
            one.ended.retain(|ended| ended.at.elapsed() <= LIFE);
            self.metrics.lost.inc_by((before - one.ended.len()) as u64);
            let pause = (one.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            if !one.ended.is_empty() {
                self.put(one.ask, one.ended, pause);
                // Somebody has to look again when the pause is over.
                self.wake.notify_one();
            }
        }
    }

    /// Requests in flight, by subject.
    fn in_flight(&self) -> Vec<(Ask, Vec<u64>)> {
        let mut by_subject: AHashMap<u128, (Ask, Vec<u64>)> = AHashMap::new();
        for shard in &self.live {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, ask) in shard.iter() {
                let entry = by_subject
                    .entry(ask.subject.id)
                    .or_insert_with(|| (ask.clone(), Vec::new()));
                entry.1.push(*id);
            }
        }
        by_subject.into_values().collect()
    }
}

/// What of ended requests Redis is told.
pub(super) fn corrections(ended: &[Ended]) -> impl Iterator<Item = &Correction> {
    ended.iter().map(|ended| &ended.correction)
}

/// Sends ended requests to Redis until told to stop, and then what is left, if Redis takes it.
pub(super) async fn run(
    shared: Arc<Shared>,
    settling: Arc<Settling>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let mut was_up = true;
    loop {
        let some = settling.count.load(Ordering::Relaxed) > 0;
        tokio::select! {
            () = settling.wake.notified() => {}
            () = sleep(FIRST_PAUSE), if some => {}
            Some(_) = tasks.join_next() => continue,
            _ = stopped.changed() => break,
        }
        sleep(MOMENT).await;
        // When Redis is back nothing waits out its pause.
        let up = shared.link().up();
        let all = up && !std::mem::replace(&mut was_up, up);
        let (begun, left) = settling.begin(&shared, all);
        settling.retry(left);
        if !begun.is_empty() {
            let settling = settling.clone();
            tasks.spawn(async move {
                settling.retry(join_all(begun).await.into_iter().flatten());
            });
        }
    }
    while tasks.join_next().await.is_some() {}
    let (begun, mut left) = settling.begin(&shared, true);
    left.extend(join_all(begun).await.into_iter().flatten());
    let lost: usize = left.iter().map(|one| one.ended.len()).sum();
    settling.metrics.lost.inc_by(lost as u64);
}

/// Sends what one subject has; gives back what Redis did not take.
async fn send(shared: Arc<Shared>, mut waiting: Waiting) -> Option<Waiting> {
    while !waiting.ended.is_empty() {
        let some = waiting.ended.len().min(BATCH);
        let ended = waiting.ended.get(..some).unwrap_or_default();
        if shared.settle(&waiting.ask, ended).await.is_err() {
            return Some(waiting);
        }
        waiting.ended.drain(..some);
    }
    None
}

/// Keeps the holds of requests in flight until told to stop.
pub(super) async fn renew(
    shared: Arc<Shared>,
    settling: Arc<Settling>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut ticks = interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => return,
        }
        for (ask, ids) in settling.in_flight() {
            for some in ids.chunks(BATCH) {
                // The snapshot may be some calls old by now.
                let live = |id: &u64| settling.of_hold(*id).contains_key(id);
                let some: Vec<u64> = some.iter().copied().filter(live).collect();
                if some.is_empty() {
                    continue;
                }
                // One that fails is early enough in the next round.
                let _ = shared.renew(&ask.subject, &some).await;
                // The last request of a subject may have ended just before: its set was empty then, as
                // after a flush, and this very call has put it back in.
                for id in some {
                    if !settling.of_hold(id).contains_key(&id) {
                        settling.unknown(&ask, id);
                    }
                }
            }
        }
    }
}
