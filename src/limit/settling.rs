//! Ended requests on their way to Redis, off the path of any request.
//!
//! They wait in a bounded queue; one task takes what is there, puts together what belongs to one
//! subject, and sends all of it at once. While Redis is away they stay; one that has waited for longer
//! than its hold lives is forgotten, since Redis has given its place back by then.

use super::redis::{Correction, LIFE, Shared};
use super::{Ask, Subject};
use crate::record::limits::LimitMetrics;
use ahash::AHashMap;
use futures::future::join_all;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Ended requests that may wait: what a busy node ends in some seconds.
const QUEUE: usize = 65_536;

/// So many are taken at once.
const BATCH: usize = 256;

/// While Redis is away, it is tried again after this time.
const PAUSE: Duration = Duration::from_millis(100);

/// A request in flight is renewed so often, four times in the life of its hold.
const RENEW: Duration = Duration::from_secs(30);

/// Subjects of requests in flight, by hold: shards, since every request goes through here twice.
const SHARDS: usize = 64;

/// Where ended requests are handed in, and where those in flight are known.
pub(super) struct Settling {
    queue: Sender<Ended>,
    live: [Mutex<AHashMap<u64, Live>>; SHARDS],
    next: AtomicU64,
    metrics: Arc<LimitMetrics>,
}

struct Live {
    subject: Arc<Subject>,
    since: Instant,
}

/// An ended request.
pub(super) struct Ended {
    ask: Ask,
    correction: Correction,
    at: Instant,
}

impl Settling {
    /// A queue, and the end of it that [`run`] takes from.
    pub(super) fn new(metrics: Arc<LimitMetrics>) -> (Settling, Receiver<Ended>) {
        let (queue, rest) = channel(QUEUE);
        let settling = Settling {
            queue,
            live: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            metrics,
        };
        (settling, rest)
    }

    /// A number for a hold.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A request is in flight.
    pub(super) fn begun(&self, id: u64, subject: &Arc<Subject>) {
        let live = Live {
            subject: subject.clone(),
            since: Instant::now(),
        };
        self.shard(id).insert(id, live);
    }

    /// A request has ended, and used `more` tokens than it was charged.
    pub(super) fn ended(&self, ask: Ask, id: u64, more: i64, day: i32) {
        self.shard(id).remove(&id);
        let ended = Ended {
            ask,
            correction: Correction { id, more, day },
            at: Instant::now(),
        };
        if self.queue.try_send(ended).is_err() {
            self.metrics.lost.inc();
        }
    }

    fn shard(&self, id: u64) -> std::sync::MutexGuard<'_, AHashMap<u64, Live>> {
        let nth = (id % SHARDS as u64) as usize;
        // There are SHARDS of them.
        self.live[nth]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that are in flight for so long that their holds want renewal, by subject.
    fn old(&self) -> Vec<(Arc<Subject>, Vec<u64>)> {
        let mut by_subject: AHashMap<u128, (Arc<Subject>, Vec<u64>)> = AHashMap::new();
        for shard in &self.live {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, live) in shard
                .iter()
                .filter(|(_, live)| live.since.elapsed() >= RENEW)
            {
                let entry = by_subject
                    .entry(live.subject.id)
                    .or_insert_with(|| (live.subject.clone(), Vec::new()));
                entry.1.push(*id);
            }
        }
        by_subject.into_values().collect()
    }
}

/// Sends ended requests to Redis until told to stop, and then what is left, if Redis takes it.
pub(super) async fn run(
    shared: Arc<Shared>,
    metrics: Arc<LimitMetrics>,
    mut queue: Receiver<Ended>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let stopping = tokio::select! {
            biased;
            count = queue.recv_many(&mut batch, BATCH) => count == 0,
            _ = stopped.changed() => true,
        };
        if stopping {
            break;
        }
        while !batch.is_empty() {
            batch = send(&shared, batch, &metrics).await;
            if !batch.is_empty() {
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    _ = stopped.changed() => break,
                }
            }
        }
    }
    while let Ok(ended) = queue.try_recv() {
        batch.push(ended);
    }
    let left = send(&shared, batch, &metrics).await;
    metrics.lost.inc_by(left.len() as u64);
}

/// Keeps the holds of long requests until told to stop.
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
        for (subject, ids) in settling.old() {
            for some in ids.chunks(BATCH) {
                // The next round is early enough.
                let _ = shared.renew(&subject, some).await;
            }
        }
    }
}

/// Sends all of a batch; gives back what Redis did not take and what is not too old for it.
async fn send(shared: &Shared, batch: Vec<Ended>, metrics: &LimitMetrics) -> Vec<Ended> {
    let mut by_subject: AHashMap<u128, Vec<Ended>> = AHashMap::new();
    for ended in batch {
        if ended.at.elapsed() > LIFE {
            metrics.lost.inc();
            continue;
        }
        let subject = ended.ask.subject.id;
        by_subject.entry(subject).or_default().push(ended);
    }
    let sent = by_subject.into_values().map(|of_one| async move {
        let corrections: Vec<Correction> = of_one
            .iter()
            .map(|ended| ended.correction.clone())
            .collect();
        let Some(first) = of_one.first() else {
            return Vec::new();
        };
        match shared.settle(&first.ask, &corrections).await {
            Ok(()) => Vec::new(),
            Err(_) => of_one,
        }
    });
    join_all(sent).await.into_iter().flatten().collect()
}
