//! The client's side of an exchange, between the socket and Pingora's proxy loop.
//!
//! Pingora lets a proxy bring its own downstream session. Ours ([`session::Downstream`]) wraps
//! Pingora's HTTP/1.1 and HTTP/2 sessions and adds what `ProxyHttp` has no hook for:
//!
//! - a request body that was read and rewritten is replayed to every upstream attempt, whatever
//!   its size (Pingora's own replay buffer ends at 64 KiB);
//! - while the upstream is silent, the wait is timed: keepalives go to the client, and the
//!   first-byte and idle limits end it. One timer serves all of it, and data does not touch it;
//! - a body of which the beginning was looked at goes on from that beginning;
//! - an answer may be read to its end after its client has left ([`Exchange::set_drain`]);
//! - what still runs when the process has to end is ended in good form ([`ending::Ending`]).
//!
//! The proxy's context and the session meet in an [`Exchange`], handed over through a task-local,
//! since Pingora builds both out of each other's reach.

pub mod again;
mod closing;
pub mod edge;
pub mod ending;
pub mod idle;
pub mod session;
mod silence;
pub mod unread;

use crate::limit::overload::Claim;
use bytes::Bytes;
use ending::Ending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use unread::{Piece, Unread};

tokio::task_local! {
    static CURRENT: Arc<Exchange>;
}

/// One request and its answer, as both the session and the proxy's context see it.
#[derive(Debug)]
pub struct Exchange {
    /// The peer's address, where the socket knows one.
    pub peer: Option<SocketAddr>,
    /// The request may not be answered on its merits: why.
    pub fault: Option<Fault>,
    /// When its header had been read.
    pub began: Instant,
    changes: AtomicU32,
    /// There is a body to replay.
    replayed: AtomicBool,
    last: AtomicBool,
    drain: AtomicBool,
    left: AtomicBool,
    ending: Arc<Ending>,
    state: Mutex<State>,
}

/// What was wrong with a request before anyone looked at what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `Content-Length` together with `Transfer-Encoding`, either of them in a form that parsers
    /// disagree on, or bare line feeds in the header.
    Framing,
    /// No `Host`, or one that is no host.
    Host,
    /// The header is above the limit.
    HeaderTooLarge,
    /// There are as many connections as there may be: this one is only told so.
    Overloaded,
}

/// How long an upstream may be silent, and what the client hears meanwhile.
#[derive(Clone, Debug)]
pub struct Patience {
    /// From the end of the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// When the attempt began.
    pub since: Instant,
    /// When the answer must be at its end, whatever came before.
    pub until: Instant,
}

#[derive(Debug, Default)]
struct State {
    replay: Option<Bytes>,
    unread: Unread,
    patience: Option<Patience>,
    keepalive: Option<Bytes>,
    held: Option<Held>,
    finished: Option<session::Wire>,
}

/// The request's body in memory: the room that it takes, for as long as the exchange lives.
#[derive(Debug)]
struct Held {
    claim: Claim,
    /// Where it was read into, and its length.
    address: usize,
    len: u64,
}

impl Exchange {
    fn new(peer: Option<SocketAddr>, fault: Option<Fault>, ending: Arc<Ending>) -> Arc<Exchange> {
        Arc::new(Exchange {
            peer,
            fault,
            began: Instant::now(),
            changes: AtomicU32::new(1),
            replayed: AtomicBool::new(false),
            last: AtomicBool::new(false),
            drain: AtomicBool::new(false),
            left: AtomicBool::new(false),
            ending,
            state: Mutex::default(),
        })
    }

    /// The exchange of the request that this task is serving.
    pub fn current() -> Option<Arc<Exchange>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Gives the body that every upstream attempt gets, in place of what the client sent.
    pub fn set_replay(&self, body: Bytes) {
        let mut state = self.state();
        if let Some(held) = &mut state.held {
            // One that was rewritten is a second one in memory. It is counted, but not asked for: the
            // request was let in.
            let shared = body.as_ptr().addr() == held.address;
            let copy = if shared { 0 } else { body.len() as u64 };
            held.claim.weigh(held.len + copy);
        }
        state.replay = Some(body);
        self.replayed.store(true, Ordering::Release);
    }

    /// Keeps the room that the request's body takes, until the exchange is over: of one that was read whole, or
    /// of the beginning of one that is not.
    pub fn hold(&self, claim: Claim, body: Option<&Bytes>) {
        self.state().held = Some(Held {
            claim,
            address: body.map_or(0, |body| body.as_ptr().addr()),
            len: body.map_or(0, |body| body.len() as u64),
        });
    }

    /// Length of that body in bytes.
    pub fn replay_len(&self) -> u64 {
        self.state()
            .replay
            .as_ref()
            .map_or(0, |body| body.len() as u64)
    }

    /// Gives back what was looked at of the body: it is read again before the rest.
    pub fn unread(&self, pieces: Vec<Piece>) {
        self.state().unread = Unread::new(pieces);
    }

    /// Starts an attempt: from now on the upstream's silence is timed.
    pub fn set_patience(&self, patience: Patience) {
        self.state().patience = Some(patience);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// What the client hears in a long silence, from now on; `None` for nothing.
    pub fn set_keepalive(&self, words: Option<Bytes>) {
        self.state().keepalive = words;
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the connection ends with this exchange.
    fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed) || self.ending.is_closing()
    }

    /// Lets the connection end with this exchange; to be said before the answer's header goes out.
    pub fn close_after(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Whether the upstream's answer is read to its end though the client leaves once its request is
    /// whole: what would have been sent is then dropped. The limits of the upstream's silence hold on.
    pub fn set_drain(&self, drain: bool) {
        self.drain.store(drain, Ordering::Relaxed);
    }

    /// Whether what runs is ended now.
    pub fn is_cutting(&self) -> bool {
        self.ending.is_cutting()
    }

    /// Whether the client has left while its answer is read to the end.
    pub fn client_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Counts the changes of what the session's timer depends on.
    fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
