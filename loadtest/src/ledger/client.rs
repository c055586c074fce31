//! Requests with one key, over a connection that is kept: for a picture or for a text; and one who sends them again
//! and again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::site::{MODEL, PAINTER};
use super::wish::{Kind, Wish};
use crate::Result;
use crate::connection::Connection;
use crate::target::{Answer, Target, request};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client.
pub struct Client {
    front: SocketAddr,
    key: String,
    connection: Option<Connection>,
    answer: Vec<u8>,
}

/// What came of one request.
#[derive(Debug)]
pub struct Answered {
    /// When it was sent.
    pub sent: Instant,
    /// When its answer was complete, or failed.
    pub ended: Instant,
    /// Its status.
    pub status: Result<u16>,
}

impl Client {
    /// One that has no connection yet.
    pub fn new(front: SocketAddr, key: &str) -> Self {
        Client {
            front,
            key: key.to_owned(),
            connection: None,
            answer: Vec::with_capacity(1024),
        }
    }

    /// Asks for what a wish says.
    pub async fn ask(&mut self, wish: Wish) -> Answered {
        let sent = Instant::now();
        let status = match timeout(PATIENCE, self.exchange(wish)).await {
            Ok(status) => status,
            Err(_) => Err(format!("no answer within {PATIENCE:?}").into()),
        };
        if status.is_err() {
            self.connection = None;
        }
        Answered {
            sent,
            ended: Instant::now(),
            status,
        }
    }

    /// The last answer's end.
    pub fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.answer);
        text.chars().take(300).collect()
    }

    async fn exchange(&mut self, wish: Wish) -> Result<u16> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.front).await?,
        };
        let mark = wish.mark();
        let (path, body) = match wish.kind {
            Kind::Picture => {
                let body = format!(r#"{{"model":"{PAINTER}","n":1,"prompt":"A gate. {mark}"}}"#);
                ("/v1/images/generations", body)
            }
            Kind::Whole | Kind::Stream(_) => {
                let body = format!(
                    r#"{{"model":"{MODEL}","max_tokens":100,"messages":[{{"role":"user","content":"Speak. {mark}"}}]}}"#
                );
                ("/v1/chat/completions", body)
            }
        };
        let target = Target {
            address: self.front,
            path: path.to_owned(),
        };
        let bytes = request(&target, &self.key, Answer::Whole, body.as_bytes());
        let (status, close) = connection.exchange(&bytes, &mut self.answer).await?;
        if !close {
            self.connection = Some(connection);
        }
        Ok(status)
    }
}

/// Requests of users are numbered through, far above those of all others.
static NEXT: AtomicU64 = AtomicU64::new(10_000_000);

/// One answer to a user.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When the request was sent.
    pub sent: Instant,
    /// When its answer was complete, or failed.
    pub ended: Instant,
    /// Its status; 0 if there was no answer.
    pub status: u16,
}

/// Uses a key again and again, until told to stop or dropped.
pub struct User {
    log: Arc<Mutex<Vec<Seen>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl User {
    /// Begins, with a pause after each answer.
    pub fn start(front: SocketAddr, key: &str, kind: Kind, pause: Duration) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let mut client = Client::new(front, key);
        let pages = Arc::clone(&log);
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                let wish = Wish {
                    number: NEXT.fetch_add(1, Ordering::Relaxed),
                    kind,
                    wait_ms: 0,
                };
                let Answered {
                    sent,
                    ended,
                    status,
                } = client.ask(wish).await;
                let seen = Seen {
                    sent,
                    ended,
                    status: status.unwrap_or(0),
                };
                pages
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(seen);
                sleep(pause).await;
            }
        });
        User { log, stop, task }
    }

    /// What was seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    /// Waits until the last answers were all of this status.
    pub async fn until(&self, status: u16, count: usize, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let seen = self.seen();
            let last = seen.iter().rev().take(count).map(|seen| seen.status);
            if last.clone().count() == count && last.clone().all(|one| one == status) {
                return Ok(());
            }
            if begin.elapsed() > patience {
                let last: Vec<u16> = last.collect();
                return Err(format!("no {status} after {patience:?}, but {last:?}").into());
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops after the answer that is on its way, and gives all that was seen.
    pub async fn finish(mut self) -> Result<Vec<Seen>> {
        self.stop.send_replace(true);
        (&mut self.task).await?;
        Ok(self.seen())
    }
}
