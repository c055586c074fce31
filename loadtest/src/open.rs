//! The open loop: requests are due at times fixed in advance, whatever becomes of those before. What waits for a
//! connection is late, and its latency says so: it is timed from the moment at which the request was due.

use crate::load::Requests;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::load::microseconds;
use crate::pace::Pace;
use crate::provider::ANSWER;
use crate::target::Target;
use crate::wire::{Way, Wire};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the last answers may be waited for.
const GRACE: Duration = Duration::from_secs(60);

/// From the opening of the connections to the first request.
const LEAD: Duration = Duration::from_millis(20);

/// One run of the open loop against a key with a limit.
pub struct OpenLoop {
    /// What the line of progress begins with.
    pub title: &'static str,
    /// Where to.
    pub target: Target,
    /// What requests go over.
    pub wire: Wire,
    /// The bytes of the requests, which are sent in turns.
    pub requests: Requests,
    /// When.
    pub pace: Pace,
}

/// What came of a run.
pub struct Outcome {
    /// Requests that were sent.
    pub sent: u64,
    /// Answers with 200 and the provider's body.
    pub admitted: u64,
    /// Answers with 429.
    pub refused: u64,
    /// Anything else: other statuses, other bodies, broken connections, answers that did not come.
    pub other: u64,
    /// The first of the others, in words.
    pub first_other: Option<String>,
    /// Just before the first request, and just after the last answer.
    span: Option<(Instant, Instant)>,
    /// Of the admitted, in microseconds from when they were due.
    pub admitted_latency: Histogram<u64>,
    /// Of the refused.
    pub refused_latency: Histogram<u64>,
}

/// What all connections share.
struct Shared {
    target: Target,
    wire: Wire,
    requests: Requests,
    pace: Pace,
    begin: Instant,
    /// A permit for each request that is due.
    due: Arc<Semaphore>,
    /// Held for a moment only, never across a wait.
    outcome: Mutex<Outcome>,
}

impl OpenLoop {
    /// Runs to the end, or to the deadline: nothing that hangs is waited for.
    pub async fn run(self) -> Result<Outcome> {
        let OpenLoop {
            title,
            target,
            wire,
            requests,
            pace,
        } = self;
        let count = pace.connections();
        let connections = open(wire, &target, count).await?;
        let begin = Instant::now() + LEAD;
        let shared = Arc::new(Shared {
            target,
            wire,
            requests,
            pace,
            begin,
            due: Arc::new(Semaphore::new(0)),
            outcome: Mutex::new(Outcome::new()?),
        });
        let mut tasks = JoinSet::new();
        for connection in connections {
            tasks.spawn(work(Arc::clone(&shared), connection));
        }
        let due = Arc::downgrade(&shared.due);
        std::thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || tick(&due, pace, begin, count))?;
        let collect = async {
            while let Some(end) = tasks.join_next().await {
                end??;
            }
            Result::Ok(())
        };
        let deadline = LEAD + pace.due(pace.count()) + GRACE;
        tokio::select! {
            done = timeout(deadline, collect) => {
                done.map_err(|_| "the run did not end in time: an answer is missing")??;
            }
            () = shared.progress(title) => {}
        }
        let shared = Arc::into_inner(shared).ok_or("a connection outlived the run")?;
        let outcome = shared.outcome.into_inner();
        Ok(outcome.unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens the connections ahead, so that no request waits for one.
async fn open(wire: Wire, target: &Target, count: u64) -> Result<Vec<Way>> {
    let address = target.address;
    let opening = async {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(Way::open(wire, address).await?);
        }
        Ok(connections)
    };
    timeout(PATIENCE, opening)
        .await
        .map_err(|_| format!("{count} connections to {address} took too long"))?
}

/// Gives a permit for each request when it is due, and at the end one for each connection, which ends with it.
/// A thread of its own, because the timers of the runtime round up to a millisecond.
fn tick(due: &Weak<Semaphore>, pace: Pace, begin: Instant, connections: u64) {
    for number in 0..pace.count() + connections {
        if number < pace.count() {
            let wait = (begin + pace.due(number)).saturating_duration_since(Instant::now());
            std::thread::sleep(wait);
        }
        // Without the semaphore, the run was given up.
        match due.upgrade() {
            Some(due) => due.add_permits(1),
            None => return,
        }
    }
}

/// What one connection does; a broken one is opened anew for the next request.
async fn work(shared: Arc<Shared>, connection: Way) -> Result<()> {
    let mut slot = Some(connection);
    let mut answer = Vec::with_capacity(1024);
    loop {
        shared.due.acquire().await?.forget();
        let Some((due, request)) = shared.next() else {
            return Ok(());
        };
        let before = Instant::now();
        let status = timeout(PATIENCE, shared.once(request, &mut slot, &mut answer))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into()));
        shared.outcome().add(due, before, status, &answer);
    }
}

impl Shared {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request, and when it is due, which is now or was before; nothing after the last.
    fn next(&self) -> Option<(Instant, &[u8])> {
        let mut outcome = self.outcome();
        let number = outcome.sent;
        if number == self.pace.count() {
            return None;
        }
        outcome.sent += 1;
        Some((self.begin + self.pace.due(number), self.requests.next()))
    }

    /// One request; leaves the connection in place if it can be used again.
    async fn once(
        &self,
        request: &[u8],
        slot: &mut Option<Way>,
        answer: &mut Vec<u8>,
    ) -> Result<u16> {
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Way::open(self.wire, self.target.address).await?,
        };
        let (status, close) = connection.exchange(request, answer).await?;
        if !close {
            *slot = Some(connection);
        }
        Ok(status)
    }

    /// Shows once a second how far the run is, if somebody is looking; never ends.
    async fn progress(&self, title: &str) {
        if !std::io::stderr().is_terminal() {
            std::future::pending::<()>().await;
        }
        let total = self.pace.due(self.pace.count()).as_secs();
        let _line = Line;
        loop {
            let elapsed = self.begin.elapsed().as_secs();
            let line = self.outcome().progress();
            eprint!("\r{title}: {elapsed} of {total} s, {line}\x1b[K");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A line of progress: taken away when dropped, however the run ends.
struct Line;

impl Drop for Line {
    fn drop(&mut self) {
        eprint!("\r\x1b[K");
    }
}

impl Outcome {
    fn new() -> Result<Self> {
        Ok(Outcome {
            sent: 0,
            admitted: 0,
            refused: 0,
            other: 0,
            first_other: None,
            span: None,
            admitted_latency: microseconds()?,
            refused_latency: microseconds()?,
        })
    }

    /// From just before the first request to just after the last answer.
    pub fn elapsed(&self) -> Duration {
        self.span
            .map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Takes in what came of a request, which was due and then sent.
    fn add(&mut self, due: Instant, sent: Instant, status: Result<u16>, answer: &[u8]) {
        let now = Instant::now();
        let first = self.span.map_or(sent, |(first, _)| first.min(sent));
        self.span = Some((first, now));
        let micros = now.saturating_duration_since(due).as_micros() as u64;
        let words = match status {
            Ok(200) if answer == ANSWER => {
                self.admitted += 1;
                self.admitted_latency.saturating_record(micros);
                return;
            }
            Ok(429) => {
                self.refused += 1;
                self.refused_latency.saturating_record(micros);
                return;
            }
            Ok(status) => {
                let text = String::from_utf8_lossy(answer);
                let text: String = text.chars().take(300).collect();
                format!("status {status} with {} bytes: {text}", answer.len())
            }
            Err(error) => error.to_string(),
        };
        self.other += 1;
        self.first_other.get_or_insert(words);
    }

    fn progress(&self) -> String {
        let Outcome {
            sent,
            admitted,
            refused,
            other,
            ..
        } = self;
        format!("{sent} sent, {admitted} × 200, {refused} × 429, {other} others")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_providers_answer_counts_as_admitted() -> Result<()> {
        let mut outcome = Outcome::new()?;
        let due = Instant::now();
        outcome.add(due, due, Ok(200), ANSWER);
        outcome.add(due, due, Ok(200), b"{}");
        outcome.add(due, due, Ok(429), b"{}");
        outcome.add(due, due, Ok(503), b"{}");
        outcome.add(due, due, Err("closed".into()), b"");
        assert_eq!(
            (outcome.admitted, outcome.refused, outcome.other),
            (1, 1, 3)
        );
        let first = outcome.first_other.unwrap_or_default();
        assert_eq!(first, "status 200 with 2 bytes: {}");
        Ok(())
    }

    #[test]
    fn time_runs_from_the_earliest_request_to_the_latest_answer() -> Result<()> {
        let mut outcome = Outcome::new()?;
        assert_eq!(outcome.elapsed(), Duration::ZERO);
        let now = Instant::now();
        let earlier = now.checked_sub(Duration::from_secs(2)).ok_or("no past")?;
        outcome.add(now, now, Ok(429), b"{}");
        outcome.add(earlier, earlier, Ok(429), b"{}");
        assert!(outcome.elapsed() >= Duration::from_secs(2));
        // Late by what it waited for a connection, although it was sent just now.
        outcome.add(earlier, now, Ok(200), ANSWER);
        assert!(outcome.admitted_latency.max() >= 2_000_000);
        Ok(())
    }
}
