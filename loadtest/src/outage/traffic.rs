//! Open loops on several gateways at once, in turns, until told to stop; each request is written down with its times.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::Result;
use crate::bench::chat;
use crate::connection::Connection;
use crate::gateway::{Client, MODEL};
use crate::pace::Pace;
use crate::provider::ANSWER;
use crate::target::{Answer, chat_body, request};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that are opened ahead to each gateway; more are opened when all are busy.
const AHEAD: usize = 8;

/// From the start to the first request.
const LEAD: Duration = Duration::from_millis(20);

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The key that sends more than its limit.
    Above,
    /// The key that sends far less than its limit.
    Below,
    /// The key whose plan has no limit.
    Unlimited,
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// 200 with the provider's body.
    Admitted,
    /// 429.
    Refused,
    /// 503.
    Unavailable,
    /// Anything else.
    Other,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// Whose.
    pub who: Who,
    /// When it was to be sent.
    pub due: Instant,
    /// When it was.
    pub sent: Instant,
    /// When its answer was complete.
    pub answered: Instant,
    /// What the answer was.
    pub status: Status,
}

/// All that was sent.
#[derive(Default)]
pub struct Log {
    /// In the order of the answers.
    pub records: Vec<Record>,
    /// The first answer that is [`Status::Other`], in words.
    pub first_other: Option<String>,
}

/// Requests under way.
pub struct Traffic {
    lanes: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    log: Arc<Mutex<Log>>,
}

/// What sends with one key.
struct Lane {
    who: Who,
    pace: Pace,
    begin: Instant,
    stop: watch::Receiver<bool>,
    /// In turns.
    ways: Vec<Arc<Way>>,
    log: Arc<Mutex<Log>>,
}

/// From one key to one gateway.
struct Way {
    address: SocketAddr,
    request: Vec<u8>,
    /// The one that rested longest is used first: none rests until the gateway closes it.
    idle: Mutex<VecDeque<Connection>>,
}

impl Traffic {
    /// Begins to send with each key at its pace.
    pub async fn start(nodes: &[SocketAddr], keys: &[(Who, &Client, Pace)]) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let log = Arc::new(Mutex::new(Log::default()));
        let mut prepared = Vec::with_capacity(keys.len());
        for (who, client, pace) in keys {
            let mut ways = Vec::with_capacity(nodes.len());
            for node in nodes {
                ways.push(Arc::new(Way::open(*node, client).await?));
            }
            prepared.push((*who, *pace, ways));
        }
        let begin = Instant::now() + LEAD;
        let mut lanes = JoinSet::new();
        for (who, pace, ways) in prepared {
            let lane = Lane {
                who,
                pace,
                begin,
                stop: stopped.clone(),
                ways,
                log: Arc::clone(&log),
            };
            lanes.spawn(lane.run());
        }
        Ok(Traffic { lanes, stop, log })
    }

    /// Sends no more, waits for the last answers, and gives what was written down.
    pub async fn finish(mut self) -> Result<Log> {
        self.stop.send_replace(true);
        while let Some(end) = self.lanes.join_next().await {
            end??;
        }
        Ok(std::mem::take(&mut *locked(&self.log)))
    }
}

impl Lane {
    async fn run(mut self) -> Result<()> {
        let mut under_way = JoinSet::new();
        for number in 0.. {
            let due = self.begin + self.pace.due(number);
            tokio::select! {
                () = sleep_until(due.into()) => {}
                _ = self.stop.changed() => break,
            }
            let nth = number % self.ways.len().max(1) as u64;
            let way = self.ways.get(nth as usize).ok_or("no gateway")?;
            under_way.spawn(send(self.who, due, Arc::clone(way), Arc::clone(&self.log)));
            while let Some(end) = under_way.try_join_next() {
                end?;
            }
        }
        while let Some(end) = under_way.join_next().await {
            end?;
        }
        Ok(())
    }
}

/// One request, from when it is due until it is written down.
async fn send(who: Who, due: Instant, way: Arc<Way>, log: Arc<Mutex<Log>>) {
    let sent = Instant::now();
    let mut answer = Vec::with_capacity(1024);
    let end = timeout(PATIENCE, way.once(&mut answer))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into()));
    let answered = Instant::now();
    let (status, words) = status(end, &answer);
    let mut log = locked(&log);
    log.records.push(Record {
        who,
        due,
        sent,
        answered,
        status,
    });
    if let Some(words) = words {
        log.first_other.get_or_insert(words);
    }
}

/// What an answer counts as; in words, if it is one that should not be.
fn status(end: Result<u16>, answer: &[u8]) -> (Status, Option<String>) {
    match end {
        Ok(200) if answer == ANSWER => (Status::Admitted, None),
        Ok(429) => (Status::Refused, None),
        Ok(503) => (Status::Unavailable, None),
        Ok(status) => {
            let text = String::from_utf8_lossy(answer);
            let text: String = text.chars().take(300).collect();
            let words = format!("status {status} with {} bytes: {text}", answer.len());
            (Status::Other, Some(words))
        }
        Err(error) => (Status::Other, Some(error.to_string())),
    }
}

impl Way {
    async fn open(address: SocketAddr, client: &Client) -> Result<Self> {
        let body = chat_body(MODEL, Answer::Whole);
        let request = request(&chat(address), &client.key, Answer::Whole, body.as_bytes());
        let mut idle = VecDeque::with_capacity(AHEAD);
        for _ in 0..AHEAD {
            idle.push_back(timeout(PATIENCE, Connection::open(address)).await??);
        }
        Ok(Way {
            address,
            request,
            idle: Mutex::new(idle),
        })
    }

    async fn once(&self, answer: &mut Vec<u8>) -> Result<u16> {
        let rested = locked(&self.idle).pop_front();
        let mut connection = match rested {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let (status, close) = connection.exchange(&self.request, answer).await?;
        if !close {
            locked(&self.idle).push_back(connection);
        }
        Ok(status)
    }
}

/// Held for a moment only, never across a wait.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_providers_answer_counts_as_admitted() {
        assert_eq!(status(Ok(200), ANSWER), (Status::Admitted, None));
        assert_eq!(status(Ok(429), b"{}"), (Status::Refused, None));
        assert_eq!(status(Ok(503), b"{}"), (Status::Unavailable, None));
        let (cut, words) = status(Ok(200), b"{");
        assert_eq!(cut, Status::Other);
        assert_eq!(words.as_deref(), Some("status 200 with 1 bytes: {"));
        assert_eq!(status(Err("closed".into()), b"").0, Status::Other);
    }
}
