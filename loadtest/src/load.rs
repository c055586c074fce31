//! The closed loop: each connection sends its next request when the answer to the last one is complete and correct.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Result;
use crate::target::Target;
use crate::wire::{Way, Wire};

/// Errors after which a connection gives up.
const MOST_ERRORS: u64 = 10;

/// The longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// One run of the closed loop.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub target: Target,
    /// What requests go over.
    pub wire: Wire,
    /// The bytes of every request.
    pub request: Arc<[u8]>,
    /// How many connections send at a time.
    pub connections: u64,
    /// When to stop.
    pub until: Until,
    /// The status that every answer must have.
    pub expect: u16,
    /// The body that every answer must have; without one it must not be empty.
    pub answer: Option<&'static [u8]>,
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
    /// Runs to the end, or to the deadline: nothing that hangs is waited for.
    pub async fn run(&self) -> Result<Outcome> {
        let (tickets, deadline) = match self.until {
            Until::Requests(count) => (count, Duration::from_secs(60 + count / 500)),
            Until::Time(time) => (u64::MAX, time + Duration::from_secs(60)),
        };
        let tickets = Arc::new(AtomicU64::new(tickets));
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections {
            tasks.spawn(work(self.clone(), Arc::clone(&tickets), begin));
        }
        let mut sum = Outcome::new()?;
        let collect = async {
            while let Some(part) = tasks.join_next().await {
                let Outcome {
                    requests,
                    errors,
                    first_error,
                    reconnects,
                    elapsed: _,
                    latency,
                } = part??;
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
        let (status, close) = connection.exchange(&self.request, answer).await?;
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

/// What one connection does.
async fn work(load: Load, tickets: Arc<AtomicU64>, begin: Instant) -> Result<Outcome> {
    let mut outcome = Outcome::new()?;
    let mut connection = None;
    let mut answer = Vec::with_capacity(1024);
    while outcome.errors < MOST_ERRORS && load.due(&tickets, begin) {
        let sent = Instant::now();
        match load.once(&mut connection, &mut answer).await {
            Ok(()) => {
                outcome
                    .latency
                    .saturating_record(sent.elapsed().as_micros() as u64);
                outcome.requests += 1;
                outcome.reconnects += u64::from(connection.is_none());
            }
            Err(error) => {
                outcome.errors += 1;
                outcome.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }
    Ok(outcome)
}
