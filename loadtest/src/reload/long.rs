//! Streams that are longer than a version lasts, each with a key of its own: its charge tells by which price it was made.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::sightings::Written;
use super::versions::{LONG, of_charge};
use crate::Result;
use crate::ledger::admin::Row;
use crate::ledger::wish::{Kind, Wish};
use crate::steady::chat::ask_of;
use crate::steady::gateway::secret;
use crate::steady::locked;
use crate::steady::pool::Pool;

/// Their numbers begin here.
pub const FIRST: u64 = 6_000_000;

/// Streams at a time.
const CLIENTS: u64 = 4;

/// Events, and milliseconds between them: six seconds.
const EVENTS: u64 = 60;
const APART_MS: u64 = 100;

/// How long one lasts.
pub const LASTS: Duration = Duration::from_millis(EVENTS * APART_MS);

/// The name of a stream's key.
pub fn key(index: u64) -> String {
    format!("long-{index:04}")
}

/// How many keys suffice for so much time.
pub fn keys(time: Duration) -> u64 {
    (time.as_secs() / LASTS.as_secs() + 2) * CLIENTS
}

/// One stream.
#[derive(Debug, Clone)]
pub struct Stream {
    index: u64,
    sent: Instant,
    first_byte: std::result::Result<Instant, String>,
    ended: Instant,
}

/// Streams under way; they end when dropped.
pub struct Streams {
    log: Arc<Mutex<Vec<Stream>>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Streams {
    /// Begins, with so many keys.
    pub fn start(front: SocketAddr, keys: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (log, stopped) = (Arc::clone(&log), stopped.clone());
            clients.spawn(async move {
                // Not all at the same moment of a version's life.
                tokio::time::sleep(Duration::from_millis(230 * client)).await;
                let pool = Pool::new(front);
                let mut index = client;
                while index < keys && !*stopped.borrow() {
                    let stream = stream(&pool, index).await;
                    locked(&log).push(stream);
                    index += CLIENTS;
                }
            });
        }
        Streams { log, stop, clients }
    }

    /// Begins no more, and gives all.
    pub async fn finish(mut self) -> Result<Vec<Stream>> {
        self.stop.send_replace(true);
        while let Some(end) = self.clients.join_next().await {
            end?;
        }
        Ok(std::mem::take(&mut *locked(&self.log)))
    }
}

async fn stream(pool: &Pool, index: u64) -> Stream {
    let wish = Wish {
        number: FIRST + index,
        kind: Kind::Stream(EVENTS),
        wait_ms: APART_MS,
    };
    let sent = Instant::now();
    let first_byte = ask_of(pool, &secret(&key(index)), LONG, wish).await;
    Stream {
        index,
        sent,
        first_byte: first_byte.map_err(|error| error.to_string()),
        ended: Instant::now(),
    }
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Streams.
    pub streams: u64,
    /// Without a whole answer.
    pub broken: Vec<String>,
    /// Those during which another price came to hold.
    pub spanning: u64,
    /// Not charged by the price of their beginning.
    pub repriced: Vec<String>,
}

/// Compares each stream's charge with the prices that held when it began.
pub fn judge(streams: &[Stream], written: &Written, rows: &BTreeMap<String, Row>) -> Verdict {
    let mut verdict = Verdict {
        streams: streams.len() as u64,
        ..Verdict::default()
    };
    for stream in streams {
        let Stream {
            index,
            sent,
            first_byte,
            ended,
        } = stream;
        let first_byte = match first_byte {
            Ok(first_byte) => *first_byte,
            Err(words) => {
                verdict.broken.push(format!("stream {index}: {words}"));
                continue;
            }
        };
        let later = written.good_at(*ended) > written.good_at(first_byte);
        verdict.spanning += u64::from(later);
        let version = rows.get(&key(*index)).and_then(of_charge);
        let fits = version.is_some_and(|version| written.may_hold(version, *sent, first_byte));
        if !fits {
            let (from, until) = (written.good_at(*sent), written.good_at(*ended));
            verdict.repriced.push(format!(
                "stream {index}: charged by version {version:?}; {from:?} at its start, {until:?} at its end"
            ));
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::sightings::Cause;
    use super::*;
    use crate::ledger::money::Tokens;

    #[test]
    fn a_stream_is_charged_by_the_price_of_its_start() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut written = Written::default();
        for version in 0..9 {
            written.add(at(3 * version), version, Cause::Watch);
        }
        let stream = |index, from| Stream {
            index,
            sent: at(from),
            first_byte: Ok(at(from)),
            ended: at(from + 6),
        };
        let row = |version: i64| Row {
            tokens: Tokens {
                output: 80,
                ..Tokens::default()
            },
            cost: 80 * (1_000 + version),
            ..Row::default()
        };
        let rows = BTreeMap::from([(key(0), row(1)), (key(1), row(3)), (key(2), row(1))]);
        let mut broken = stream(3, 5);
        broken.first_byte = Err("closed".to_owned());
        let streams = [
            stream(0, 5),
            stream(1, 5),
            stream(2, 90),
            broken,
            stream(4, 5),
        ];
        let verdict = judge(&streams, &written, &rows);
        assert_eq!((verdict.streams, verdict.spanning), (5, 3));
        assert_eq!(verdict.broken, ["stream 3: closed"]);
        assert_eq!(verdict.repriced.len(), 3, "{:?}", verdict.repriced);
        assert!(keys(Duration::from_secs(600)) >= 400);
    }
}
