//! [`Pool`]: connections to a plain provider that are kept between two requests.

use crate::socket::Socket;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

/// Connections to a provider stay pooled this long while idle. Common application servers close
/// theirs after 5 s (uvicorn's default): below that, a request seldom meets a dying one.
pub const IDLE: Duration = Duration::from_secs(4);
/// Connections of one provider that are kept; beyond it, the one that was idle longest is closed.
const MOST: usize = 1024;
/// How often those are looked for that are idle for too long, or that the provider has closed.
const SWEEP: Duration = Duration::from_secs(1);

/// The idle connections of one provider.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The one that was used last is at the end.
    idle: VecDeque<Idle>,
    /// A task looks after them.
    swept: bool,
}

/// A connection between two requests.
#[derive(Debug)]
struct Idle {
    stream: Socket,
    address: SocketAddr,
    since: Instant,
}

impl Idle {
    fn is_good(&self, now: Instant) -> bool {
        now - self.since < IDLE && self.stream.is_quiet()
    }
}

impl Pool {
    /// The connection to this address that was used last.
    pub fn take(&self, address: SocketAddr) -> Option<Socket> {
        let now = Instant::now();
        let mut kept = self.kept();
        loop {
            let at = kept.idle.iter().rposition(|idle| idle.address == address)?;
            let idle = kept.idle.remove(at)?;
            if idle.is_good(now) {
                return Some(idle.stream);
            }
        }
    }

    /// Keeps a connection on which a request has come to its end.
    pub fn put(self: &Arc<Self>, stream: Socket, address: SocketAddr) {
        // Without a runtime the process is ending.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let idle = Idle {
            stream,
            address,
            since: Instant::now(),
        };
        let mut kept = self.kept();
        if kept.idle.len() >= MOST {
            kept.idle.pop_front();
        }
        kept.idle.push_back(idle);
        if !std::mem::replace(&mut kept.swept, true) {
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes those that are no good any more; false if none is left to look after.
    fn tidy(&self) -> bool {
        let now = Instant::now();
        let mut kept = self.kept();
        kept.idle.retain(|idle| idle.is_good(now));
        kept.swept = !kept.idle.is_empty();
        kept.swept
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing under this lock can leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after a pool for as long as it holds anything.
async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(SWEEP).await;
        match pool.upgrade() {
            Some(pool) if pool.tidy() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// A pool with one connection, that connection's other end, and its address.
    async fn pooled() -> (Arc<Pool>, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        let pool = Arc::new(Pool::default());
        pool.put(Socket::new(stream), address);
        (pool, other, address)
    }

    #[tokio::test]
    async fn a_connection_is_taken_once_and_for_its_address_only() {
        let (pool, _other, address) = pooled().await;
        let elsewhere = SocketAddr::new(address.ip(), address.port() ^ 1);
        assert!(pool.take(elsewhere).is_none());
        assert!(pool.take(address).is_some());
        assert!(pool.take(address).is_none());
    }

    #[tokio::test]
    async fn one_that_the_provider_closed_is_not_handed_out() {
        let (pool, other, address) = pooled().await;
        drop(other);
        // The system tells of it with its next events.
        let closed = async {
            while pool.tidy() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .expect("it was closed");
        assert!(pool.take(address).is_none());
    }

    #[tokio::test]
    async fn one_on_which_the_provider_speaks_unasked_is_closed() {
        let (pool, mut other, address) = pooled().await;
        other.write_all(b"HTTP/1.1 408 \r\n\r\n").await.unwrap();
        let closed = other.read(&mut [0]).await;
        assert!(closed.is_err() || matches!(closed, Ok(0)), "{closed:?}");
        assert!(pool.take(address).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_idle_for_too_long_is_closed_without_being_asked_for() {
        let (pool, mut other, address) = pooled().await;
        // The clock goes on by itself while everybody waits.
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
        assert!(pool.take(address).is_none());
        assert!(!pool.kept().swept);
    }
}
