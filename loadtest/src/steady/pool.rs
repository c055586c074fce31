//! Connections that are kept and used again, as a real client does it: one that the server announced to close is not
//! used again, and a request on a kept one that got not a single byte of answer is sent once more. Such retries are
//! counted: a server that closes what was used a moment ago makes clients pay for it.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::locked;
use crate::Result;
use crate::connection::Connection;

/// A connection used within this time was in use: its retry is the server's fault.
pub const RECENT: Duration = Duration::from_secs(1);

/// Connections to one address.
pub struct Pool {
    front: SocketAddr,
    kept: Mutex<Vec<(Connection, Instant)>>,
    opened: AtomicU64,
    closed: AtomicU64,
    retried_recent: AtomicU64,
    retried_idle: AtomicU64,
}

/// How connections fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fared {
    /// Opened.
    pub opened: u64,
    /// Closed by announcement: `Connection: close`.
    pub closed: u64,
    /// Found closed without a byte of answer, though used within [`RECENT`].
    pub retried_recent: u64,
    /// The same, used longer ago.
    pub retried_idle: u64,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// When its head had come.
    pub first_byte: Instant,
}

impl Pool {
    /// One without connections.
    pub fn new(front: SocketAddr) -> Self {
        Pool {
            front,
            kept: Mutex::new(Vec::new()),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            retried_recent: AtomicU64::new(0),
            retried_idle: AtomicU64::new(0),
        }
    }

    /// Where to.
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// So far.
    pub fn fared(&self) -> Fared {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Fared {
            opened: read(&self.opened),
            closed: read(&self.closed),
            retried_recent: read(&self.retried_recent),
            retried_idle: read(&self.retried_idle),
        }
    }

    /// Sends a request and reads its whole answer, on the connection that was used last, or a new one.
    pub async fn exchange(&self, request: &[u8], answer: &mut Vec<u8>) -> Result<Answered> {
        loop {
            // Taken out before the wait: a lock is not held across it.
            let kept = locked(&self.kept).pop();
            let (mut connection, used) = match kept {
                Some((connection, used)) => (connection, Some(used)),
                None => {
                    self.opened.fetch_add(1, Ordering::Relaxed);
                    (Connection::open(self.front).await?, None)
                }
            };
            let idle = used.map(|used| used.elapsed());
            let mut head = match (connection.start(request).await, idle) {
                (Ok(head), _) => head,
                (Err(_), Some(idle)) if connection.is_silent() => {
                    self.retried(idle).fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                (Err(error), _) => return Err(error),
            };
            let first_byte = Instant::now();
            answer.clear();
            while !connection.read(&mut head.body, answer).await? {}
            if !connection.is_silent() {
                return Err("bytes after the answer".into());
            }
            if head.close {
                self.closed.fetch_add(1, Ordering::Relaxed);
            } else {
                locked(&self.kept).push((connection, Instant::now()));
            }
            return Ok(Answered {
                status: head.status,
                first_byte,
            });
        }
    }

    fn retried(&self, idle: Duration) -> &AtomicU64 {
        match idle < RECENT {
            true => &self.retried_recent,
            false => &self.retried_idle,
        }
    }
}

impl Fared {
    /// Adds another's.
    pub fn add(&mut self, other: Fared) {
        let Fared {
            opened,
            closed,
            retried_recent,
            retried_idle,
        } = other;
        self.opened += opened;
        self.closed += closed;
        self.retried_recent += retried_recent;
        self.retried_idle += retried_idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const LAST: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

    /// Answers each connection's requests with what is listed for it, then closes it.
    async fn server(script: Vec<Vec<&'static [u8]>>) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            for answers in script {
                let Ok((mut stream, _)) = listener.accept().await else {
                    return;
                };
                let mut bytes = [0; 64];
                for answer in answers {
                    if !matches!(stream.read(&mut bytes).await, Ok(1..))
                        || stream.write_all(answer).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(address)
    }

    #[tokio::test]
    async fn silence_on_a_kept_connection_is_retried_and_counted() -> Result<()> {
        let pool = Pool::new(server(vec![vec![ANSWER], vec![ANSWER, LAST], vec![ANSWER]]).await?);
        let mut answer = Vec::new();
        for _ in 0..4 {
            let answered = pool.exchange(b"GET", &mut answer).await?;
            assert_eq!(
                (answered.status, answer.as_slice()),
                (200, b"ok".as_slice())
            );
        }
        let expected = Fared {
            opened: 3,
            closed: 1,
            retried_recent: 1,
            retried_idle: 0,
        };
        assert_eq!(pool.fared(), expected);
        Ok(())
    }

    #[tokio::test]
    async fn silence_on_a_new_connection_and_half_an_answer_are_errors() -> Result<()> {
        let half: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-le";
        let pool = Pool::new(server(vec![vec![], vec![ANSWER, half]]).await?);
        let mut answer = Vec::new();
        assert!(pool.exchange(b"GET", &mut answer).await.is_err());
        assert!(pool.exchange(b"GET", &mut answer).await.is_ok());
        assert!(pool.exchange(b"GET", &mut answer).await.is_err());
        assert_eq!(pool.fared().retried_recent, 0);
        Ok(())
    }
}
