//! The closed loop: each connection sends its next request when the answer to the last one is complete and correct.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Result;
use crate::target::Target;
use crate::wire::{Way, Wire};

/// Errors after which a connection gives up.
const MOST_ERRORS: u64 = 10;

/// How long all connections of a run may take to open.
const OPENING: Duration = Duration::from_secs(60);

/// The longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// One run of the closed loop.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub target: Target,
    /// What requests go over.
    pub wire: Wire,
    /// What is sent.
    pub requests: Requests,
    /// How many connections there are.
    pub connections: u64,
    /// On how many of them an answer is awaited at a time; the turn goes round over all.
    pub at_once: u64,
    /// When to stop.
    pub until: Until,
    /// The status that every answer must have.
    pub expect: u16,
    /// The body that every answer must have; without one it must not be empty.
    pub answer: Option<&'static [u8]>,
}

/// The bytes of requests that are sent one after the other, from the first again after the last. Where a run ends, the
/// next one goes on, so that all are sent, however many there are.
#[derive(Debug, Clone)]
pub struct Requests {
    all: Arc<[Arc<[u8]>]>,
    next: Arc<AtomicUsize>,
}

impl Requests {
    /// In this order; without any, none could be sent.
    pub fn new(all: Vec<Arc<[u8]>>) -> Result<Self> {
        match all.is_empty() {
            true => Err("no request to send".into()),
            false => Ok(Requests {
                all: all.into(),
                next: Arc::default(),
            }),
        }
    }

    /// Always the same.
    pub fn one(request: impl Into<Arc<[u8]>>) -> Self {
        Requests {
            all: [request.into()].into(),
            next: Arc::default(),
        }
    }

    /// The first of them.
    pub fn first(&self) -> Arc<[u8]> {
        // There is one at least.
        Arc::clone(&self.all[0])
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    fn next(&self) -> &[u8] {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        &self.all[number % self.all.len()]
    }
}

/// When a run stops.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests.
    Requests(u64),
    /// After so much time.
    Time(Duration),
}

/// What came of a run.
pub struct Outcome {
    /// Correct answers.
    pub requests: u64,
    /// Wrong answers and broken connections.
    pub errors: u64,
    /// The first error, in words.
    pub first_error: Option<String>,
    /// How often a server closed a connection after a correct answer.
    pub reconnects: u64,
    /// From the first connection to the last answer.
    pub elapsed: Duration,
    /// Of the correct answers, in microseconds.
    pub latency: Histogram<u64>,
}

impl Outcome {
    fn new() -> Result<Self> {
        Ok(Outcome {
            requests: 0,
            errors: 0,
            first_error: None,
            reconnects: 0,
            elapsed: Duration::ZERO,
            latency: microseconds()?,
        })
    }

    /// Correct answers per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// The outcome, unless an answer was wrong: such a run counts for nothing.
    pub fn correct(self) -> Result<Self> {
        match &self.first_error {
            Some(error) => Err(format!("{} wrong answers, the first: {error}", self.errors).into()),
            None => Ok(self),
        }
    }
}

/// A histogram of times up to a minute, three digits each.
pub fn microseconds() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_US, 3)?)
}

impl Load {
    /// Runs to the end, or to the deadline: nothing that hangs is waited for. Connections are opened on the way.
    pub async fn run(&self) -> Result<Outcome> {
        let mut workers: Vec<Worker> = (0..self.at_once.min(self.connections))
            .map(|_| Worker {
                load: self.clone(),
                slots: VecDeque::new(),
            })
            .collect();
        for number in 0..usize::try_from(self.connections)? {
            let place = number % workers.len();
            workers[place].slots.push_back(None);
        }
        Opened { workers }.run().await
    }

    /// Opens all connections ahead, and has one right answer on each: what opening costs is then no part of the run.
    pub async fn open(&self) -> Result<Opened> {
        let shares = self.at_once.min(self.connections);
        let mut tasks = JoinSet::new();
        for share in 0..shares {
            let load = self.clone();
            let count = (self.connections + shares - 1 - share) / shares;
            tasks.spawn(async move {
                let mut slots = VecDeque::new();
                let mut answer = Vec::with_capacity(1024);
                for _ in 0..count {
                    let mut slot = None;
                    load.once(&mut slot, &mut answer).await?;
                    slots.push_back(slot);
                }
                Result::Ok(Worker { load, slots })
            });
        }
        let collect = async {
            let mut workers = Vec::new();
            while let Some(worker) = tasks.join_next().await {
                workers.push(worker??);
            }
            Result::Ok(Opened { workers })
        };
        timeout(OPENING, collect)
            .await
            .map_err(|_| format!("{} connections took too long to open", self.connections))?
    }

    /// Whether another request is due.
    fn due(&self, tickets: &AtomicU64, begin: Instant) -> bool {
        match self.until {
            Until::Requests(_) => tickets
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok(),
            Until::Time(time) => begin.elapsed() < time,
        }
    }

    /// One request on a connection, opened if there is none; leaves it in place if it can be used again.
    async fn once(&self, slot: &mut Option<Way>, answer: &mut Vec<u8>) -> Result<()> {
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Way::open(self.wire, self.target.address).await?,
        };
        let (status, close) = connection.exchange(self.requests.next(), answer).await?;
        if !close {
            *slot = Some(connection);
        }
        let right = match self.answer {
            Some(expected) => answer == expected,
            None => !answer.is_empty(),
        };
        if status == self.expect && right {
            return Ok(());
        }
        let text: String = String::from_utf8_lossy(answer).chars().take(300).collect();
        Err(format!("status {status} with {} bytes: {text}", answer.len()).into())
    }
}

/// Connections on which a run can begin.
pub struct Opened {
    workers: Vec<Worker>,
}

/// One who waits for an answer at a time, on the connections that are its own, in turn.
struct Worker {
    load: Load,
    slots: VecDeque<Option<Way>>,
}

impl Opened {
    /// Runs to the end, or to the deadline: nothing that hangs is waited for. The connections stay open.
    pub async fn run(&mut self) -> Result<Outcome> {
        let until = self.workers.first().map(|worker| worker.load.until);
        let (tickets, deadline) = match until.ok_or("a load without connections")? {
            Until::Requests(count) => (count, Duration::from_secs(60 + count / 500)),
            Until::Time(time) => (u64::MAX, time + Duration::from_secs(60)),
        };
        let tickets = Arc::new(AtomicU64::new(tickets));
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for worker in self.workers.drain(..) {
            tasks.spawn(worker.work(Arc::clone(&tickets), begin));
        }
        let mut sum = Outcome::new()?;
        let collect = async {
            while let Some(part) = tasks.join_next().await {
                let (worker, part) = part??;
                self.workers.push(worker);
                let Outcome {
                    requests,
                    errors,
                    first_error,
                    reconnects,
                    elapsed: _,
                    latency,
                } = part;
                sum.requests += requests;
                sum.errors += errors;
                sum.reconnects += reconnects;
                sum.first_error = sum.first_error.take().or(first_error);
                sum.latency.add(latency)?;
            }
            Result::Ok(())
        };
        timeout(deadline, collect)
            .await
            .map_err(|_| "the run did not end in time: an answer is missing")??;
        sum.elapsed = begin.elapsed();
        Ok(sum)
    }
}

impl Worker {
    /// Sends until no request is due.
    async fn work(mut self, tickets: Arc<AtomicU64>, begin: Instant) -> Result<(Self, Outcome)> {
        let mut outcome = Outcome::new()?;
        let mut answer = Vec::with_capacity(1024);
        while outcome.errors < MOST_ERRORS && self.load.due(&tickets, begin) {
            let mut slot = self.slots.pop_front().flatten();
            let sent = Instant::now();
            match self.load.once(&mut slot, &mut answer).await {
                Ok(()) => {
                    outcome
                        .latency
                        .saturating_record(sent.elapsed().as_micros() as u64);
                    outcome.requests += 1;
                    outcome.reconnects += u64::from(slot.is_none());
                }
                Err(error) => {
                    outcome.errors += 1;
                    outcome.first_error.get_or_insert_with(|| error.to_string());
                }
            }
            self.slots.push_back(slot);
        }
        Ok((self, outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_round_and_go_on_where_they_were() -> Result<()> {
        let texts: [&[u8]; 3] = [b"a", b"b", b"c"];
        let requests = Requests::new(texts.map(Arc::from).to_vec())?;
        let sent: Vec<u8> = (0..4).flat_map(|_| requests.next().to_vec()).collect();
        assert_eq!(sent, b"abca");
        assert_eq!(requests.clone().next(), b"b");
        assert!(Requests::new(Vec::new()).is_err());
        Ok(())
    }
}
