//! The way to Redis: one multiplexed connection, pipelined by all who call at the same time.
//!
//! A call has an answer within [`DEADLINE`], or the caller goes on without. While Redis counts as away
//! a call fails at once; only the supervisor (`supervise`) talks to it then.

use super::breaker::{Breaker, End};
use super::target::Target;
use crate::id::next_random;
use crate::record::limits::{Breaking, Function, StoreMetrics};
use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The most that a request waits for Redis: with what timers and a busy machine add, it is below 50 ms.
pub const DEADLINE: Duration = Duration::from_millis(40);

/// Where Redis is, and what is kept there.
pub struct Settings {
    /// The URL, with the password: never shown.
    pub url: String,
    /// What all names in Redis begin with.
    pub prefix: String,
    /// Parts of the function library; `VERSION` in them is replaced.
    pub functions: Vec<&'static str>,
    /// What happens while Redis is away, for the log.
    pub consequence: String,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    /// Redis is known to be away: nothing was sent.
    Down,
    /// No answer in time: it may have been done, or may still be.
    TimedOut,
    /// Redis or the connection said no.
    Failed,
}

/// A connection of either kind; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let value = match self {
            Connection::Single(connection) => connection.req_packed_command(command).await,
            Connection::Cluster(connection) => connection.req_packed_command(command).await,
        };
        value?.extract_error()
    }
}

/// The way to Redis.
pub struct Link {
    pub(super) target: Target,
    /// What all names in Redis begin with.
    pub prefix: String,
    pub(super) library: String,
    version: String,
    /// `None` while Redis is away.
    pub(super) connection: ArcSwapOption<Connection>,
    pub(super) breaker: Breaker,
    /// Wakes the supervisor when the connection is given up.
    pub(super) lost: Notify,
    /// Why the connection was given up.
    pub(super) reason: Mutex<String>,
    pub(super) consequence: String,
    /// This process, among the nodes.
    pub node: u64,
    pub(super) nodes: AtomicU32,
    started: Instant,
    pub(super) metrics: Arc<StoreMetrics>,
}

impl Link {
    /// A link that is not connected yet.
    ///
    /// # Errors
    /// A URL that cannot be used, in words without the password.
    pub fn new(settings: Settings, metrics: Arc<StoreMetrics>) -> Result<Link, String> {
        let Settings {
            url,
            prefix,
            functions,
            consequence,
        } = settings;
        let target = Target::new(&url, DEADLINE)
            .map_err(|error| format!("store.redis.url: {}", error.category()))?;
        let (library, version) = library(&functions);
        Ok(Link {
            target,
            prefix,
            library,
            version,
            connection: ArcSwapOption::empty(),
            breaker: Breaker::default(),
            lost: Notify::new(),
            reason: Mutex::default(),
            consequence,
            node: next_random(),
            nodes: AtomicU32::new(1),
            started: Instant::now(),
            metrics,
        })
    }

    /// The full name of one of the library's functions.
    pub fn name(&self, function: Function) -> String {
        format!("tollgate_{}_{}", function.as_str(), self.version)
    }

    /// Whether Redis is there.
    pub fn up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// The last known number of nodes, this one included.
    pub fn nodes(&self) -> u32 {
        self.nodes.load(Ordering::Relaxed)
    }

    /// Makes one call.
    ///
    /// # Errors
    /// [`Away`], after [`DEADLINE`] at the latest.
    pub async fn call(&self, function: Function, command: &Cmd) -> Result<Value, Away> {
        let Some(connection) = self.connection.load_full() else {
            return Err(Away::Down);
        };
        let begun = Instant::now();
        let mut handle = Connection::clone(&connection);
        let answer = timeout(DEADLINE, handle.send(command)).await;
        let took = begun.elapsed();
        let (end, why) = match answer {
            Ok(Ok(value)) => {
                self.metrics.call(function, took);
                self.count(End::Answered);
                return Ok(value);
            }
            Err(_) => (Away::TimedOut, "no answer in 40 ms".to_owned()),
            Ok(Err(error)) if error.is_timeout() => {
                (Away::TimedOut, "no answer in 40 ms".to_owned())
            }
            Ok(Err(error)) => {
                if self.is_fatal(&error) {
                    self.metrics.error("failed");
                    self.give_up(&connection, &said(&error));
                    return Err(Away::Failed);
                }
                (Away::Failed, said(&error))
            }
        };
        let counted = match end {
            Away::TimedOut => End::TimedOut,
            _ => End::Failed,
        };
        self.metrics.error(match end {
            Away::TimedOut => "timeout",
            _ => "failed",
        });
        if self.count(counted) {
            self.give_up(&connection, &why);
        } else {
            log::debug!("store: Redis, {}: {why}", function.as_str());
        }
        Err(end)
    }

    fn count(&self, end: End) -> bool {
        self.breaker.count(end, self.started.elapsed().as_secs())
    }

    /// Gives a connection up, if it is still the one in use: from now on calls fail at once, until the
    /// supervisor has a new one.
    pub(super) fn give_up(&self, used: &Arc<Connection>, why: &str) {
        let before = self.connection.compare_and_swap(used, None);
        if before
            .as_ref()
            .is_some_and(|before| Arc::ptr_eq(before, used))
        {
            self.metrics.breaker(Breaking::Open);
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = why.to_owned();
            self.lost.notify_one();
        }
    }

    /// Whether an error says that further calls would fail as well.
    fn is_fatal(&self, error: &RedisError) -> bool {
        // Functions are gone from one server; the supervisor loads them on all.
        if error.to_string().contains("Function not found") {
            return true;
        }
        if matches!(self.target, Target::Cluster(_)) {
            // One server of several: the others may be well, and the client looks for a new one.
            return false;
        }
        match error.kind() {
            ErrorKind::Server(kind) => matches!(
                kind,
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::NoPerm
            ),
            ErrorKind::Extension => matches!(
                error.code(),
                Some("NOREPLICAS" | "MISCONF" | "OOM" | "NOAUTH" | "WRONGPASS")
            ),
            _ => error.is_unrecoverable_error(),
        }
    }
}

/// What an error says, on one line; it holds what Redis said, never what was sent.
pub(super) fn said(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    }
    .replace(['\r', '\n'], " ")
}

/// The library as Redis loads it, and its version: a hash of its text, so that nodes of two releases
/// can share one Redis.
fn library(parts: &[&str]) -> (String, String) {
    let mut text = String::from("#!lua name=tollgate_VERSION\n");
    for part in parts.iter().chain([&include_str!("nodes.lua")]) {
        // Locals of one part are not the next one's.
        text.push_str("do\n");
        text.push_str(part);
        text.push_str("end\n");
    }
    let hash = Sha256::digest(text.as_bytes());
    let version: String = hash
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    (text.replace("VERSION", &version), version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_named_by_its_text() {
        let (text, version) = library(&["-- a\n"]);
        let (_, other) = library(&["-- b\n"]);
        assert_ne!(version, other);
        assert!(text.starts_with(&format!("#!lua name=tollgate_{version}\n")));
        assert!(!text.contains("VERSION"));
    }
}
