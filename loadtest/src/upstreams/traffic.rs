//! An open loop of requests, every other one a stream: each is due at a time fixed in advance, whatever became of those
//! before, and has a key of its own. What became of each is written down.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep_until, timeout};

use crate::Result;
use crate::bench::chat;
use crate::connection::Connection;
use crate::ledger::traffic::{self, body, events, key};
use crate::ledger::wish::{Kind, Wish};
use crate::target::{Answer, request};

/// Who pays for everything.
pub const ACCOUNT: &str = "load";

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Before an answer in one piece; events of a stream and the time between them.
const WHOLE_MS: u64 = 20;
const EVENTS: u64 = 10;
const APART_MS: u64 = 10;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The whole answer.
    Whole,
    /// A refusal in the surface's envelope.
    Refused(u16, String),
    /// A stream that ended with one error event, and nothing behind it.
    Cut,
    /// The connection ended before the answer did.
    Broken(String),
    /// An answer that should not be.
    Wrong(String),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number; its key has it in its name.
    pub number: u64,
    /// Tokens that a gateway takes its prompt for: four characters each.
    pub estimate: u64,
    /// When it was to be sent.
    pub due: Instant,
    /// When its answer was complete, or broke off.
    pub ended: Instant,
    /// The time from when it was due that the provider did not take for itself.
    pub added: Duration,
    /// Events with a piece of text that arrived.
    pub events: u64,
    /// What became of it.
    pub end: End,
}

/// The wish of a request.
pub fn wish(number: u64) -> Wish {
    let (kind, wait_ms) = match number.is_multiple_of(2) {
        true => (Kind::Stream(EVENTS), APART_MS),
        false => (Kind::Whole, WHOLE_MS),
    };
    Wish {
        number,
        kind,
        wait_ms,
    }
}

/// How long the provider takes for it.
fn scripted(wish: Wish) -> Duration {
    Duration::from_millis(match wish.kind {
        Kind::Stream(events) => wish.wait_ms * events.saturating_sub(1),
        Kind::Whole | Kind::Picture => wish.wait_ms,
    })
}

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Requests a second.
    pub a_second: u64,
    /// Connections at most.
    pub connections: usize,
    /// Requests at most: so many keys there are.
    pub keys: u64,
}

/// Requests under way.
pub struct Traffic {
    clock: JoinHandle<Result<()>>,
    stop: watch::Sender<bool>,
    shared: Arc<Shared>,
}

struct Shared {
    front: SocketAddr,
    room: Semaphore,
    /// The one that rested longest is used first: none rests until the gateway closes it.
    idle: Mutex<VecDeque<Connection>>,
    log: Mutex<Vec<Seen>>,
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

impl Traffic {
    /// Begins to send.
    pub fn start(front: SocketAddr, rate: Rate) -> Self {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            front,
            room: Semaphore::new(rate.connections),
            idle: Mutex::default(),
            log: Mutex::default(),
        });
        let clock = tokio::spawn(tick(Arc::clone(&shared), rate, stopped));
        Traffic {
            clock,
            stop,
            shared,
        }
    }

    /// Sends no more, waits for the last answers, and gives what was written down.
    pub async fn finish(mut self) -> Result<Vec<Seen>> {
        self.stop.send_replace(true);
        (&mut self.clock).await??;
        Ok(std::mem::take(&mut *locked(&self.shared.log)))
    }
}

async fn tick(shared: Arc<Shared>, rate: Rate, mut stop: watch::Receiver<bool>) -> Result<()> {
    let begin = Instant::now();
    let mut under_way = JoinSet::new();
    for number in 0..rate.keys {
        let due = begin + due(number, rate.a_second);
        tokio::select! {
            () = sleep_until(due.into()) => {}
            _ = stop.changed() => break,
        }
        under_way.spawn(send(Arc::clone(&shared), number, due));
        while let Some(end) = under_way.try_join_next() {
            end??;
        }
        if number + 1 == rate.keys {
            return Err("the keys did not suffice".into());
        }
    }
    while let Some(end) = under_way.join_next().await {
        end??;
    }
    Ok(())
}

/// When a request is due, from the start. Each is calculated anew, so that no rounding adds up.
fn due(number: u64, a_second: u64) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(a_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// One request, from when it is due until it is written down.
async fn send(shared: Arc<Shared>, number: u64, due: Instant) -> Result<()> {
    let _seat = shared.room.acquire().await?;
    let wish = wish(number);
    let (body, asks) = body(wish);
    let secret = key(number, ACCOUNT).secret();
    let bytes = request(&chat(shared.front), &secret, Answer::Whole, body.as_bytes());
    let mut answer = Vec::with_capacity(4096);
    let exchange = timeout(PATIENCE, shared.exchange(&bytes, &mut answer)).await;
    let ended = Instant::now();
    let text = String::from_utf8_lossy(&answer);
    let (end, connection) = match exchange {
        Err(_) => (End::Wrong(format!("no answer within {PATIENCE:?}")), None),
        Ok(Err(error)) => (End::Broken(error.to_string()), None),
        Ok(Ok((status, connection))) => (ended_so(status, &text, wish, asks), connection),
    };
    // After an error in the middle of a stream the gateway closes: that connection is not used again.
    if let Some(connection) = connection.filter(|_| end != End::Cut) {
        locked(&shared.idle).push_back(connection);
    }
    let added = ended.saturating_duration_since(due);
    locked(&shared.log).push(Seen {
        number,
        // As the body is ASCII.
        estimate: body.len().div_ceil(4) as u64,
        due,
        ended,
        added: added.saturating_sub(scripted(wish)),
        events: events(&text),
        end,
    });
    Ok(())
}

impl Shared {
    /// One request; gives the connection back if it can be used again.
    async fn exchange(
        &self,
        request: &[u8],
        answer: &mut Vec<u8>,
    ) -> Result<(u16, Option<Connection>)> {
        let rested = locked(&self.idle).pop_front();
        let mut connection = match rested {
            Some(connection) => connection,
            None => Connection::open(self.front).await?,
        };
        let (status, close) = connection.exchange(request, answer).await?;
        Ok((status, Some(connection).filter(|_| !close)))
    }
}

/// What an answer is that came to its end.
fn ended_so(status: u16, text: &str, wish: Wish, asks: bool) -> End {
    if status != 200 {
        return match traffic::refusal(status, text) {
            traffic::End::Refused(status, code) => End::Refused(status, code),
            other => End::Wrong(format!("{other:?}")),
        };
    }
    match traffic::whole(text, wish, asks) {
        Ok(()) => End::Whole,
        Err(_) if is_cut(text) => End::Cut,
        Err(words) => End::Wrong(words),
    }
}

/// Whether a stream ends with one error event, and says nowhere that it is whole.
pub fn is_cut(text: &str) -> bool {
    let errors = text.matches("data: {\"error\":").count();
    let last = text.strip_suffix("\n\n");
    let last = last.and_then(|text| text.rsplit("\n\n").next());
    errors == 1
        && !text.contains("[DONE]")
        && last.is_some_and(|event| event.starts_with("data: {\"error\":"))
}

/// Held for a moment only, never across a wait.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_their_rate_and_no_rounding_adds_up() {
        assert_eq!(due(0, 200), Duration::ZERO);
        assert_eq!(due(200, 200), Duration::from_secs(1));
        assert_eq!(due(3_000_000, 300), Duration::from_secs(10_000));
        assert_eq!(scripted(wish(0)), Duration::from_millis(90));
        assert_eq!(scripted(wish(1)), Duration::from_millis(20));
    }

    #[test]
    fn one_error_at_the_end_and_nothing_else_is_a_cut() {
        let event = "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n";
        let error = "data: {\"error\":{\"code\":\"upstream_error\"}}\n\n";
        let done = "data: [DONE]\n\n";
        assert!(is_cut(&format!("{event}{error}")));
        assert!(is_cut(error));
        for wrong in [
            String::new(),
            event.to_owned(),
            format!("{event}{error}{done}"),
            format!("{error}{event}"),
            format!("{event}{error}{error}"),
            format!("{event}{}", &error[..error.len() - 1]),
        ] {
            assert!(!is_cut(&wrong), "{wrong}");
        }
        let refused = ended_so(
            502,
            r#"{"error":{"code":"upstream_error"}}"#,
            wish(1),
            false,
        );
        assert_eq!(refused, End::Refused(502, "upstream_error".to_owned()));
        assert!(matches!(
            ended_so(502, "<html>", wish(1), false),
            End::Wrong(_)
        ));
        assert!(matches!(
            ended_so(200, event, wish(0), false),
            End::Wrong(_)
        ));
    }
}
