//! Good traffic at a steady rate, on connections that are kept, against a gateway that something is done to: a new
//! configuration, a successor, a crowd. Requests are due at times fixed in advance and timed from them to the first
//! byte of the answer; half of them stream. What becomes of each is counted to the phase in which it was due.
//!
//! [`pool`] is the connections, [`chat`] the requests, [`tally`] what came of them, [`regulars`] clients with other habits, [`gateway`] the one under test,
//! [`watch`] what is looked at meanwhile, [`balance`] the comparison of its ledger with the provider's count.

pub mod balance;
pub mod chat;
pub mod gateway;
pub mod pool;
pub mod regulars;
pub mod tally;
pub mod watch;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::chat::ask;
use self::pool::Pool;
use self::tally::{Tallies, Tally};
use crate::Result;
use crate::ledger::wish::{Kind, Wish};

/// Events of a stream, all of them at once: what is timed is the gateway.
const EVENTS: u64 = 5;

/// How long the last answers may be waited for.
const GRACE: Duration = Duration::from_secs(60);

/// Requests that are due, until finished or dropped.
pub struct Steady {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<()>>,
}

struct Shared {
    pool: Arc<Pool>,
    key: String,
    phase: AtomicUsize,
    tallies: Mutex<Tallies>,
}

/// One request: its number, and when it is due.
type Due = (u64, Instant);

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

impl Steady {
    /// Begins with phase 0. Requests are numbered from `first`; `per_second` is at least 1.
    pub fn start(front: SocketAddr, key: &str, first: u64, per_second: u32) -> Result<Self> {
        let shared = Arc::new(Shared {
            pool: Arc::new(Pool::new(front)),
            key: key.to_owned(),
            phase: AtomicUsize::new(0),
            tallies: Mutex::new(Tallies::default()),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (due, wanted) = unbounded_channel();
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || tick(&due, first, per_second.max(1), &stopped))?;
        let task = tokio::spawn(work(Arc::clone(&shared), wanted));
        Ok(Steady { shared, stop, task })
    }

    /// What is due from now on counts to this phase.
    pub fn phase(&self, number: usize) {
        self.shared.phase.store(number, Ordering::Relaxed);
    }

    /// When the first request was answered well that was due after some moment.
    pub fn served_since(&self, moment: Instant) -> Option<Instant> {
        locked(&self.shared.tallies).served_since(moment)
    }

    /// The connections.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.shared.pool
    }

    /// Sends no more, waits for the last answers, and gives what came of all, by phase.
    pub async fn finish(mut self) -> Result<Vec<Tally>> {
        self.stop.store(true, Ordering::Relaxed);
        timeout(GRACE, &mut self.task)
            .await
            .map_err(|_| "an answer is missing: neither whole nor an error")???;
        Ok(locked(&self.shared.tallies).take())
    }
}

/// Tells of each request when it is due. A thread of its own, because the timers of the runtime round up to a millisecond.
fn tick(due: &UnboundedSender<Due>, first: u64, per_second: u32, stop: &AtomicBool) {
    let begin = Instant::now();
    let mut number: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let moment = begin + offset(number, per_second);
        std::thread::sleep(moment.saturating_duration_since(Instant::now()));
        // Without a receiver, the run was given up.
        if due.send((first + number, moment)).is_err() {
            return;
        }
        number += 1;
    }
}

/// From the start to when a request is due; calculated anew each time, so that no rounding adds up.
fn offset(number: u64, per_second: u32) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

async fn work(shared: Arc<Shared>, mut wanted: UnboundedReceiver<Due>) -> Result<()> {
    let mut asking = JoinSet::new();
    loop {
        tokio::select! {
            due = wanted.recv() => match due {
                Some(due) => {
                    asking.spawn(once(Arc::clone(&shared), due));
                }
                None => break,
            },
            Some(end) = asking.join_next() => end?,
        }
    }
    while let Some(end) = asking.join_next().await {
        end?;
    }
    Ok(())
}

async fn once(shared: Arc<Shared>, (number, due): Due) {
    let phase = shared.phase.load(Ordering::Relaxed);
    locked(&shared.tallies).begin(phase);
    let kind = match number % 2 {
        0 => Kind::Stream(EVENTS),
        _ => Kind::Whole,
    };
    let wish = Wish {
        number,
        kind,
        wait_ms: 0,
    };
    let answered = ask(&shared.pool, &shared.key, wish).await;
    locked(&shared.tallies).end(phase, due, number, answered);
}

/// A lock that is held for a moment only, never across a wait.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_evenly_spaced_and_no_rounding_adds_up() {
        assert_eq!(offset(0, 300), Duration::ZERO);
        assert_eq!(offset(300 * 3600, 300), Duration::from_secs(3600));
        assert_eq!(offset(1, 8), Duration::from_millis(125));
        assert!(offset(u64::MAX, 1) > Duration::ZERO);
    }
}
