//! Times request headers from their first byte, which only the connection sees: a client that drips
//! one in byte by byte would otherwise hold a connection for as long as an idle one may.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

tokio::task_local! {
    static CURRENT: Arc<HeaderClock>;
}

const OFF: u8 = 0;
const WAITING: u8 = 1;
const RUNNING: u8 = 2;

/// The state of one connection's header: shared by the connection, which sees the bytes, and the
/// edge, which knows when a header is expected and when it is whole.
#[derive(Debug, Default)]
pub struct HeaderClock(AtomicU8);

impl HeaderClock {
    /// Serves a connection under this clock.
    pub async fn scope<F: Future>(self: Arc<Self>, serve: F) -> F::Output {
        CURRENT.scope(self, serve).await
    }

    /// A header comes next; its first byte starts the clock of this task's connection.
    pub(super) fn expect() {
        Self::set(WAITING);
    }

    /// The header is whole, or given up.
    pub(super) fn done() {
        Self::set(OFF);
    }

    /// Whether a header is under way on this task's connection.
    pub(super) fn begun() -> bool {
        CURRENT.try_with(|clock| clock.runs()).unwrap_or(false)
    }

    fn set(state: u8) {
        // A stream of HTTP/2 has a task of its own, and no header to wait for.
        let _ = CURRENT.try_with(|clock| clock.0.store(state, Ordering::Relaxed));
    }

    /// Bytes came; true if they begin a header.
    pub fn heard(&self) -> bool {
        let waited = self.0.load(Ordering::Relaxed) == WAITING;
        if waited {
            self.0.store(RUNNING, Ordering::Relaxed);
        }
        waited
    }

    /// Whether a header has begun and is not whole.
    pub fn runs(&self) -> bool {
        self.0.load(Ordering::Relaxed) == RUNNING
    }
}
