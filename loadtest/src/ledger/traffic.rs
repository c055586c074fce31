//! A closed loop of requests on gateways that come and go: half of the clients stream, half wait for one JSON text,
//! some of them leave early, and each request has a key of its own. What became of each is written down.
//!
//! Above 400 lines: one loop, and what becomes of each of its requests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::site::{Key, MODEL};
use super::wish::{Kind, Wish};
use crate::Result;
use crate::bench::chat;
use crate::connection::Connection;
use crate::rng::Random;
use crate::target::{Answer, request};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway that is away is tried again after this time.
const AGAIN: Duration = Duration::from_millis(5);

/// Events of a stream, the time that they are spread over, and the time before an answer in one piece.
const EVENTS: (u64, u64) = (20, 60);
const STREAM_MS: (u64, u64) = (300, 1_000);
const WHOLE_MS: (u64, u64) = (5, 400);

/// One client in so many leaves before its answer is whole: of a stream when so many percent of it have come.
const LEAVE: u64 = 8;
const PERCENT: [u64; 4] = [0, 10, 50, 99];

/// The least length of a body: its prompt's estimate is no less than half of what the provider reports.
const BODY: usize = 440;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The whole answer.
    Whole,
    /// A refusal in the surface's envelope.
    Refused(u16, String),
    /// The client left before the answer was whole.
    Left,
    /// The connection ended before the answer did.
    Broken(String),
    /// An answer that should not be.
    Wrong(String),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its number; its key has it in its name.
    pub number: u64,
    /// Tokens that a gateway takes its prompt for: four characters each.
    pub estimate: u64,
    /// When its connection was opened.
    pub opened: Instant,
    /// When its answer was complete, or broke off.
    pub ended: Instant,
    /// Events with a piece of text that arrived.
    pub events: u64,
    /// What became of it.
    pub end: End,
}

/// The key of a request.
pub fn key(number: u64, account: &'static str) -> Key {
    let name = format!("r{number:06}");
    Key { name, account }
}

/// Requests under way.
pub struct Traffic {
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
    finished: Arc<Notify>,
    log: Arc<Mutex<Vec<Sent>>>,
}

/// What is common to all clients.
struct Shared {
    fronts: Vec<SocketAddr>,
    next: AtomicU64,
    keys: u64,
    account: &'static str,
    finished: Arc<Notify>,
    log: Arc<Mutex<Vec<Sent>>>,
}

impl Traffic {
    /// Begins to send with so many clients, in turns to the gateways, until all keys are used or it is stopped.
    pub fn start(
        fronts: &[SocketAddr],
        clients: u64,
        keys: u64,
        account: &'static str,
        seed: u64,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let log = Arc::new(Mutex::new(Vec::new()));
        let finished = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            fronts: fronts.to_vec(),
            next: AtomicU64::new(0),
            keys,
            account,
            finished: Arc::clone(&finished),
            log: Arc::clone(&log),
        });
        let mut tasks = JoinSet::new();
        for client in 0..clients {
            let random = Random::new(seed.wrapping_add(client << 32));
            tasks.spawn(work(client, Arc::clone(&shared), random, stopped.clone()));
        }
        Traffic {
            clients: tasks,
            stop,
            finished,
            log,
        }
    }

    /// Waits until the next answer has come in full, if one does.
    pub async fn next(&self) {
        let _ = timeout(PATIENCE, self.finished.notified()).await;
    }

    /// When the first request was answered in full that was sent after some moment.
    pub fn answered_since(&self, moment: Instant) -> Option<Instant> {
        let log = locked(&self.log);
        let whole = log.iter().filter(|sent| sent.end == End::Whole);
        let since = whole.filter(|sent| sent.opened >= moment);
        since.map(|sent| sent.ended).min()
    }

    /// Sends no more, waits for the last answers, and gives what was written down.
    pub async fn finish(mut self) -> Result<Vec<Sent>> {
        self.stop.send_replace(true);
        while let Some(end) = self.clients.join_next().await {
            end?;
        }
        Ok(std::mem::take(&mut *locked(&self.log)))
    }
}

async fn work(client: u64, shared: Arc<Shared>, mut random: Random, stop: watch::Receiver<bool>) {
    let turns = shared.fronts.len().max(1) as u64;
    // Clients 0 and 1 go to the first gateway first, one of them with streams: each gateway has both kinds.
    let mut turn = client / 2;
    while !*stop.borrow() {
        let front = shared.fronts.get((turn % turns) as usize).copied();
        let Some(front) = front else { return };
        turn += 1;
        let opened = Instant::now();
        let Ok(connection) = Connection::open(front).await else {
            sleep(AGAIN).await;
            continue;
        };
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.keys {
            return;
        }
        let wish = wish(number, client.is_multiple_of(2), &mut random);
        let sent = send(connection, front, wish, shared.account, opened).await;
        let whole = sent.end == End::Whole;
        locked(&shared.log).push(sent);
        if whole {
            shared.finished.notify_waiters();
        }
    }
}

fn wish(number: u64, stream: bool, random: &mut Random) -> Wish {
    match stream {
        true => {
            let events = random.between(EVENTS.0, EVENTS.1);
            Wish {
                number,
                kind: Kind::Stream(events),
                wait_ms: random.between(STREAM_MS.0, STREAM_MS.1) / events,
            }
        }
        false => Wish {
            number,
            kind: Kind::Whole,
            wait_ms: random.between(WHOLE_MS.0, WHOLE_MS.1),
        },
    }
}

async fn send(
    mut connection: Connection,
    front: SocketAddr,
    wish: Wish,
    account: &'static str,
    opened: Instant,
) -> Sent {
    let (body, asks) = body(wish);
    let secret = key(wish.number, account).secret();
    let bytes = request(&chat(front), &secret, Answer::Whole, body.as_bytes());
    let mut answer = Vec::with_capacity(1024);
    let exchange = exchange(&mut connection, &bytes, &mut answer, leave(wish));
    let end = timeout(PATIENCE, exchange).await;
    drop(connection);
    let ended = Instant::now();
    let text = String::from_utf8_lossy(&answer);
    let end = match end {
        Err(_) => End::Wrong(format!("no answer within {PATIENCE:?}")),
        Ok(Err(error)) => End::Broken(error.to_string()),
        Ok(Ok(None)) => End::Left,
        Ok(Ok(Some(200))) => match whole(&text, wish, asks) {
            Ok(()) => End::Whole,
            Err(words) => End::Wrong(words),
        },
        Ok(Ok(Some(status))) => refusal(status, &text),
    };
    Sent {
        number: wish.number,
        // As the body is ASCII.
        estimate: body.len().div_ceil(4) as u64,
        opened,
        ended,
        events: events(&text),
        end,
    }
}

/// When a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// With the whole answer.
    Never,
    /// After so many events.
    Events(u64),
    /// After some time without an answer.
    Time(Duration),
}

fn leave(wish: Wish) -> Leave {
    let turn = wish.number / 2;
    match wish.kind {
        _ if !turn.is_multiple_of(LEAVE) => Leave::Never,
        Kind::Stream(events) => Leave::Events(events * percent(turn) / 100),
        Kind::Whole | Kind::Picture => Leave::Time(Duration::from_millis(wish.wait_ms / 2)),
    }
}

fn percent(turn: u64) -> u64 {
    PERCENT[(turn / LEAVE) as usize % PERCENT.len()]
}

/// After how many percent of its stream a client leaves, of one that leaves.
pub fn leaves_at(wish: Wish) -> Option<u64> {
    match leave(wish) {
        Leave::Events(_) => Some(percent(wish.number / 2)),
        Leave::Never | Leave::Time(_) => None,
    }
}

/// Sends a request and reads its answer; nothing if the client left before it was whole.
async fn exchange(
    connection: &mut Connection,
    request: &[u8],
    answer: &mut Vec<u8>,
    leave: Leave,
) -> Result<Option<u16>> {
    let most = match leave {
        Leave::Never => {
            let (status, _) = connection.exchange(request, answer).await?;
            return Ok(Some(status));
        }
        Leave::Time(time) => {
            return match timeout(time, connection.exchange(request, answer)).await {
                Ok(end) => Ok(Some(end?.0)),
                Err(_) => Ok(None),
            };
        }
        Leave::Events(most) => most,
    };
    let mut head = connection.start(request).await?;
    loop {
        if head.status == 200 && events(&String::from_utf8_lossy(answer)) >= most {
            return Ok(None);
        }
        if connection.read(&mut head.body, answer).await? {
            return Ok(Some(head.status));
        }
    }
}

/// The body, and whether it asks for the usage of a stream.
pub fn body(wish: Wish) -> (String, bool) {
    // Every other one: what the client did not ask for it must not see, and pays all the same.
    let asks = matches!(wish.kind, Kind::Stream(_)) && wish.number % 4 < 2;
    let stream = match wish.kind {
        Kind::Stream(_) if asks => r#""stream":true,"stream_options":{"include_usage":true},"#,
        Kind::Stream(_) => r#""stream":true,"#,
        Kind::Whole | Kind::Picture => "",
    };
    let front = format!(
        r#"{{"model":"{MODEL}",{stream}"max_tokens":500,"messages":[{{"role":"user","content":"{} "#,
        wish.mark()
    );
    let words = "Say what a tollgate is. ".repeat(BODY / 20);
    let room = BODY.saturating_sub(front.len()).min(words.len());
    // Of different lengths, so that no two estimates need be alike.
    let room = room.saturating_sub((wish.number % 64) as usize);
    let body = format!(r#"{front}{}{}"}}]}}"#, &words[..room], "x".repeat(96));
    (body, asks)
}

/// Whether an answer is all that was asked for.
pub fn whole(text: &str, wish: Wish, asks: bool) -> std::result::Result<(), String> {
    let usage = text.matches(r#""usage":{"#).count();
    let right = match wish.kind {
        Kind::Stream(count) => {
            let done =
                text.matches("data: [DONE]\n\n").count() == 1 && text.ends_with("data: [DONE]\n\n");
            done && events(text) == count && usage == usize::from(asks)
        }
        Kind::Whole => usage == 1 && text.contains("Counted."),
        Kind::Picture => text.contains("pictures.example"),
    };
    match right {
        true => Ok(()),
        false => Err(format!(
            "status 200 with {} bytes: {}",
            text.len(),
            short(text)
        )),
    }
}

/// What an answer is whose status is not 200.
pub fn refusal(status: u16, text: &str) -> End {
    let read: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let code = read.and_then(|body| body["error"]["code"].as_str().map(str::to_owned));
    match code {
        Some(code) => End::Refused(status, code),
        None => End::Wrong(format!(
            "status {status} without an envelope: {}",
            short(text)
        )),
    }
}

/// Events with a piece of text, whole ones.
pub fn events(text: &str) -> u64 {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    whole.matches(r#""delta":{"content":"#).count() as u64
}

/// The end of a text: there it shows what is missing.
pub fn short(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(200);
    text.chars().skip(skip).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
