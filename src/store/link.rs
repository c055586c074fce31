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
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The most that a request waits for Redis: with what timers and a busy machine add, it is below 50 ms.
pub const DEADLINE: Duration = Duration::from_millis(35);

/// What a function says to values in Redis that cannot be: of one account, and nothing of Redis itself.
const UNREADABLE: &str = "TOLLGATE";

/// Single calls that fail are told of so often.
const MENTION: Duration = Duration::from_secs(60);

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
    /// What this node says of itself to whoever lists the nodes, as JSON.
    pub about: String,
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
    /// Wakes the supervisor when a server of a cluster has lost the functions.
    pub(super) reload: Notify,
    /// Why the connection was given up.
    pub(super) reason: Mutex<String>,
    pub(super) consequence: String,
    pub(super) about: String,
    /// This process, among the nodes.
    pub node: u64,
    pub(super) nodes: AtomicU32,
    /// How often a connection was made.
    pub(super) connections: AtomicU64,
    started: Instant,
    /// The second after the one in which a failed call was last told of; 0 for never.
    mentioned: AtomicU64,
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
            about,
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
            reload: Notify::new(),
            reason: Mutex::default(),
            consequence,
            about,
            node: next_random(),
            nodes: AtomicU32::new(1),
            connections: AtomicU64::new(0),
            started: Instant::now(),
            mentioned: AtomicU64::new(0),
            metrics,
        })
    }

    /// The full name of one of the library's functions.
    pub fn name(&self, function: Function) -> String {
        format!("tollgate_{}_{}", function.as_str(), self.version)
    }

    /// The library's version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether Redis is there.
    pub fn up(&self) -> bool {
        self.connection.load().is_some()
    }

    /// How often a connection was made: another number, and what Redis knew before may be gone.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
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
                self.breaker.count(End::Answered, self.second());
                return Ok(value);
            }
            Ok(Err(error)) if error.to_string().contains(UNREADABLE) => {
                return Err(self.unreadable(function, &said(&error)));
            }
            Ok(Err(error)) if !error.is_timeout() => (End::Failed, self.judge(&error)),
            // Those who ask in it wait by clocks of their own, and each says so: see `late`.
            _ if function == Function::Admit => return Err(Away::TimedOut),
            _ => {
                self.timed_out(function, &connection);
                return Err(Away::TimedOut);
            }
        };
        self.metrics.error("failed");
        match why {
            Verdict::Fatal(why) => self.give_up(&connection, &why),
            Verdict::Passing(why) => self.passing(function, end, &connection, &why),
        }
        Err(Away::Failed)
    }

    /// An admission had no answer in time.
    pub fn late(&self) {
        if let Some(connection) = self.connection.load_full() {
            self.timed_out(Function::Admit, &connection);
        }
    }

    fn timed_out(&self, function: Function, connection: &Arc<Connection>) {
        self.metrics.error("timeout");
        let why = format!("no answer in {} ms", DEADLINE.as_millis());
        self.passing(function, End::TimedOut, connection, &why);
    }

    /// Counts a failure that may pass, unless it is one too many.
    fn passing(&self, function: Function, end: End, connection: &Arc<Connection>, why: &str) {
        let too_many = function.is_waited_for() && self.breaker.count(end, self.second());
        // In a cluster the calls that fail may all be one server's, unless none succeeds.
        let enough = !self.is_cluster() || self.breaker.only_fails();
        match too_many && enough {
            true => self.give_up(connection, why),
            false => self.mention(function.as_str(), why),
        }
    }

    /// Values in Redis that cannot be: it says nothing of other accounts' calls.
    pub fn unreadable(&self, function: Function, why: &str) -> Away {
        self.metrics.error("unreadable");
        self.mention(function.as_str(), why);
        Away::Failed
    }

    /// An answer came that is none: counted as a failure.
    pub fn misunderstood(&self) -> Away {
        self.metrics.error("malformed");
        let why = "it answers what the functions never say";
        if let Some(connection) = self.connection.load_full()
            && self.breaker.count(End::Failed, self.second())
        {
            self.give_up(&connection, why);
        } else {
            self.mention(Function::Admit.as_str(), why);
        }
        Away::Failed
    }

    /// Tells of a call that failed while Redis is there; once a minute, for there may be many.
    pub(super) fn mention(&self, call: &str, why: &str) {
        let now = self.second() + 1;
        let before = self.mentioned.load(Ordering::Relaxed);
        if before == 0 || now >= before + MENTION.as_secs() {
            self.mentioned.store(now, Ordering::Relaxed);
            log::warn!(
                "store: a call to Redis failed ({call}: {why}); for what asked it: {}",
                self.consequence
            );
        }
    }

    /// Whether it is a cluster: a call there is about one account.
    pub fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(_))
    }

    /// The second that the breaker counts.
    fn second(&self) -> u64 {
        self.started.elapsed().as_secs()
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
    pub(super) fn judge(&self, error: &RedisError) -> Verdict {
        let why = said(error);
        let text = error.to_string();
        let lost = text.contains("Function not found");
        if lost && self.is_cluster() {
            // Of one server; the supervisor loads them on all.
            self.reload.notify_one();
        }
        // What Redis says when a function calls what its user may not.
        let forbidden = text.contains("can't run this command");
        if self.is_cluster() {
            // One server of several: the others may be well, and the client looks for a new one.
            return Verdict::Passing(why);
        }
        if lost || forbidden {
            return Verdict::Fatal(why);
        }
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => {
                Verdict::Fatal("it is a cluster: write redis+cluster:// in store.redis.url".into())
            }
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::NoPerm
                | ServerErrorKind::ClusterDown,
            ) => Verdict::Fatal(why),
            ErrorKind::Extension
                if matches!(
                    error.code(),
                    Some("NOREPLICAS" | "MISCONF" | "OOM" | "NOAUTH" | "WRONGPASS")
                ) =>
            {
                Verdict::Fatal(why)
            }
            ErrorKind::Extension | ErrorKind::Server(_) => Verdict::Passing(why),
            _ if error.is_unrecoverable_error() => Verdict::Fatal(why),
            _ => Verdict::Passing(why),
        }
    }
}

/// What an error says of the calls that follow.
pub(super) enum Verdict {
    /// They would fail as well.
    Fatal(String),
    /// They need not.
    Passing(String),
}

impl Verdict {
    /// The words.
    pub(super) fn why(self) -> String {
        match self {
            Verdict::Fatal(why) | Verdict::Passing(why) => why,
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
    text.push_str(include_str!("begin.lua"));
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
