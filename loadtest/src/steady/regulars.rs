//! Clients that each send one request after the other on a connection of their own: streams that always run, and those
//! who come by now and then, whose connection has been idle meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::chat::ask;
use super::gateway::secret;
use super::locked;
use super::pool::{Fared, Pool};
use crate::Result;
use crate::ledger::wish::{Kind, Wish};
use crate::rng::Random;

/// Milliseconds between the events of a stream.
const APART_MS: u64 = 100;

/// What they do.
#[derive(Debug, Clone)]
pub struct Habit {
    /// The name of their key.
    pub key: &'static str,
    /// The number of their first request.
    pub first: u64,
    /// How many clients.
    pub clients: u64,
    /// From one answer to the next request.
    pub pause: Duration,
    /// The least and the most events of a stream, a tenth of a second apart; none for an answer in one piece.
    pub events: Option<(u64, u64)>,
}

/// What became of their requests.
#[derive(Debug, Default)]
pub struct Regular {
    /// Requests that were sent.
    pub sent: u64,
    /// With a whole answer.
    pub whole: u64,
    /// The others, in words.
    pub failed: Vec<String>,
    /// Their connections.
    pub fared: Fared,
}

/// Clients under way; they end when dropped.
pub struct Regulars {
    seen: Arc<Mutex<Regular>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Regulars {
    /// Begins.
    pub fn start(front: SocketAddr, habit: Habit) -> Self {
        let (stop, stopped) = watch::channel(false);
        let next = Arc::new(AtomicU64::new(habit.first));
        let seen = Arc::new(Mutex::new(Regular::default()));
        let mut clients = JoinSet::new();
        for client in 0..habit.clients {
            let random = Random::new(habit.first + client);
            let (habit, next, seen) = (habit.clone(), Arc::clone(&next), Arc::clone(&seen));
            clients.spawn(work(front, habit, random, next, seen, stopped.clone()));
        }
        Regulars {
            seen,
            stop,
            clients,
        }
    }

    /// Sends no more, waits for the last answers, and gives what became of all.
    pub async fn finish(mut self) -> Result<Regular> {
        self.stop.send_replace(true);
        while let Some(end) = self.clients.join_next().await {
            end?;
        }
        Ok(std::mem::take(&mut *locked(&self.seen)))
    }
}

async fn work(
    front: SocketAddr,
    habit: Habit,
    mut random: Random,
    next: Arc<AtomicU64>,
    seen: Arc<Mutex<Regular>>,
    mut stop: watch::Receiver<bool>,
) {
    let pool = Pool::new(front);
    let key = secret(habit.key);
    // Not all at once.
    let spread = habit.pause.max(Duration::from_secs(1)).as_millis() as u64;
    sleep(Duration::from_millis(random.between(0, spread))).await;
    while !*stop.borrow() {
        let (kind, wait_ms) = match habit.events {
            Some((least, most)) => (Kind::Stream(random.between(least, most)), APART_MS),
            None => (Kind::Whole, 0),
        };
        let number = next.fetch_add(1, Ordering::Relaxed);
        let wish = Wish {
            number,
            kind,
            wait_ms,
        };
        locked(&seen).sent += 1;
        let begin = Instant::now();
        let answered = ask(&pool, &key, wish).await;
        {
            let mut seen = locked(&seen);
            match answered {
                Ok(_) => seen.whole += 1,
                Err(error) => {
                    let after = begin.elapsed().as_millis();
                    let words = format!("request {number}, after {after} ms: {error}");
                    seen.failed.push(words);
                }
            }
        }
        let _ = timeout(habit.pause, stop.wait_for(|stop| *stop)).await;
    }
    locked(&seen).fared.add(pool.fared());
}
