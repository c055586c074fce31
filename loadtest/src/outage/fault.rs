//! What is done to Redis, and how it ends.

use crate::Result;
use crate::process::Scratch;
use crate::redis::Redis;

/// A way for Redis to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again on the same port, with nothing in it.
    Killed,
    /// FLUSHALL: every level is gone, Redis stays.
    Flushed,
    /// FUNCTION FLUSH: the levels stay, the functions are gone.
    WithoutFunctions,
    /// SIGSTOP, then SIGCONT: connections stay open and nothing answers.
    Stopped,
    /// A replica of nobody, then master again: it reads, and refuses to write.
    ReadOnly,
    /// CLIENT KILL: all connections are closed at once.
    Disconnected,
}

impl Fault {
    /// In the order of the run.
    pub const ALL: [Fault; 6] = [
        Fault::Killed,
        Fault::Flushed,
        Fault::WithoutFunctions,
        Fault::Stopped,
        Fault::ReadOnly,
        Fault::Disconnected,
    ];

    /// In the table.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Killed => "SIGKILL, started again",
            Fault::Flushed => "FLUSHALL",
            Fault::WithoutFunctions => "FUNCTION FLUSH",
            Fault::Stopped => "SIGSTOP, SIGCONT",
            Fault::ReadOnly => "REPLICAOF, read-only",
            Fault::Disconnected => "CLIENT KILL TYPE normal",
        }
    }

    /// Whether it goes on until [`Fault::end`]; the others heal without anybody's doing.
    pub fn lasts(self) -> bool {
        matches!(self, Fault::Killed | Fault::Stopped | Fault::ReadOnly)
    }

    /// Of so many gateways, how many must see calls fail and take Redis for away, however shortly; at least.
    /// The first one to miss the functions loads them for all.
    pub fn fails_for(self, nodes: usize) -> usize {
        match self {
            Fault::Flushed => 0,
            Fault::WithoutFunctions => nodes.min(1),
            Fault::Killed | Fault::Stopped | Fault::ReadOnly | Fault::Disconnected => nodes,
        }
    }

    /// Whether Redis forgets the levels, so that every bucket is full afterwards.
    pub fn forgets(self) -> bool {
        matches!(self, Fault::Killed | Fault::Flushed)
    }

    /// Begins it.
    pub async fn begin(self, redis: &mut Redis) -> Result<()> {
        match self {
            Fault::Killed => redis.kill(),
            Fault::Flushed => redis.command(&["FLUSHALL"]).await,
            Fault::WithoutFunctions => redis.command(&["FUNCTION", "FLUSH"]).await,
            Fault::Stopped => redis.signal("STOP"),
            // Nobody listens on port 1.
            Fault::ReadOnly => redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await,
            // All but the connection that says so.
            Fault::Disconnected => redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await,
        }
    }

    /// Ends it, if it does not end by itself.
    pub async fn end(self, redis: &mut Redis, scratch: &Scratch) -> Result<()> {
        match self {
            Fault::Killed => redis.restart(scratch).await,
            Fault::Stopped => redis.signal("CONT"),
            Fault::ReadOnly => redis.command(&["REPLICAOF", "NO", "ONE"]).await,
            Fault::Flushed | Fault::WithoutFunctions | Fault::Disconnected => Ok(()),
        }
    }
}
