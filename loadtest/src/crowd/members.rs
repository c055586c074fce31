//! Those who hold connections and are of no use: idle ones, slow ones, silent ones. Each stays until it is let go.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::flood;
use crate::Result;
use crate::bench::chat;
use crate::connection::Connection;
use crate::ledger::site::MODEL;
use crate::ledger::wish::{Kind as Answer, Wish};
use crate::steady::chat::body;
use crate::steady::gateway::secret;
use crate::steady::locked;
use crate::target::{self, request};

/// The name of their key.
pub const KEY: &str = "crowd";

/// The numbers of their requests begin here.
pub const FIRST: u64 = 7_000_000;

/// So many connect at a time.
const AT_ONCE: usize = 64;

/// How long one may take to connect, and to its first answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The slow ones do something so often.
const BEAT: Duration = Duration::from_secs(1);

/// What a slow reader takes each time, and what its system takes ahead.
const SIP: usize = 1024;
const AHEAD: u32 = 8 * 1024;

/// The length that a dripping body announces.
const BODY: usize = 100_000;

/// Source addresses: more than one, so that ports do not run out.
const SOURCES: u64 = 4;

/// What they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One request, then nothing.
    Idle,
    /// One byte of a header a second.
    Header,
    /// One byte of a body a second.
    Body,
    /// A stream, one KiB of it a second.
    Reader,
    /// Nothing at all.
    Silent,
}

/// What became of them so far.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    /// Those who are there, or were.
    pub came: u64,
    /// Those who could not connect, or whose first request failed, in words.
    pub kept_out: Vec<String>,
    /// Those who were let go: how long after they came, or after the answer to their only request.
    pub gone: Vec<Duration>,
    /// Bytes that readers took.
    pub taken: u64,
}

/// Members that have come; all leave when dropped.
pub struct Members {
    fate: Arc<Mutex<Fate>>,
    /// Held for their end.
    tasks: JoinSet<()>,
}

impl Members {
    /// Sends so many there, and waits until all have come or could not.
    pub async fn gather(kind: Kind, count: u64, front: SocketAddr) -> Result<Self> {
        let fate = Arc::new(Mutex::new(Fate::default()));
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut tasks = JoinSet::new();
        for index in 0..count {
            let seat = Arc::clone(&room).acquire_owned().await?;
            let fate = Arc::clone(&fate);
            tasks.spawn(async move {
                let came = timeout(PATIENCE, come(kind, index, front)).await;
                let came = came.unwrap_or_else(|_| Err("not in time".into()));
                drop(seat);
                match came {
                    Ok(stream) => {
                        let since = Instant::now();
                        locked(&fate).came += 1;
                        // Not all at the same moment of each second.
                        sleep(BEAT * (index % 50) as u32 / 50).await;
                        stay(kind, stream, &fate).await;
                        locked(&fate).gone.push(since.elapsed());
                    }
                    Err(error) => locked(&fate).kept_out.push(error.to_string()),
                }
            });
        }
        let _all = room.acquire_many(AT_ONCE as u32).await?;
        Ok(Members { fate, tasks })
    }

    /// So far.
    pub fn fate(&self) -> Fate {
        locked(&self.fate).clone()
    }

    /// Waits until all were let go, or so long; gives what became of them.
    pub async fn let_go(&self, patience: Duration) -> Fate {
        let begin = Instant::now();
        loop {
            let fate = self.fate();
            if fate.remaining() == 0 || begin.elapsed() > patience {
                return fate;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Leaves with all that are still there.
    pub async fn leave(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Fate {
    /// Those who are there.
    pub fn remaining(&self) -> u64 {
        self.came.saturating_sub(self.gone.len() as u64)
    }
}

/// Connects from one of several addresses of this machine.
pub async fn connect(index: u64, ahead: Option<u32>, front: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(ahead) = ahead {
        socket.set_recv_buffer_size(ahead)?;
    }
    let source = Ipv4Addr::new(127, 0, 0, 2 + (index % SOURCES) as u8);
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(front).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The bytes of a request of the crowd.
pub fn ask(front: SocketAddr, wish: Wish) -> Vec<u8> {
    ask_of(front, MODEL, wish)
}

fn ask_of(front: SocketAddr, model: &str, wish: Wish) -> Vec<u8> {
    let body = body(model, wish);
    request(
        &chat(front),
        &secret(KEY),
        target::Answer::Whole,
        body.as_bytes(),
    )
}

/// Connects, and does what comes first.
async fn come(kind: Kind, index: u64, front: SocketAddr) -> Result<TcpStream> {
    let wish = |kind| Wish {
        number: FIRST + index,
        kind,
        wait_ms: 0,
    };
    let ahead = (kind == Kind::Reader).then_some(AHEAD);
    let mut stream = connect(index, ahead, front).await?;
    match kind {
        Kind::Silent => {}
        Kind::Header => {
            let begin = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {front}\r\nx-slow: ");
            stream.write_all(begin.as_bytes()).await?;
        }
        Kind::Body => {
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: {front}\r\nauthorization: Bearer {}\r\n\
                 content-type: application/json\r\ncontent-length: {BODY}\r\n\r\n{{",
                secret(KEY)
            );
            stream.write_all(head.as_bytes()).await?;
        }
        Kind::Reader => {
            let bytes = ask_of(front, flood::MODEL, wish(Answer::Stream(1)));
            stream.write_all(&bytes).await?;
        }
        Kind::Idle => {
            let mut answer = Vec::new();
            let mut connection = Connection::over(stream);
            let bytes = ask(front, wish(Answer::Whole));
            return match connection.exchange(&bytes, &mut answer).await? {
                (200, false) => Ok(connection.into_stream()),
                (status, closes) => Err(format!("status {status}, closes: {closes}").into()),
            };
        }
    }
    Ok(stream)
}

/// Stays until it is let go.
async fn stay(kind: Kind, mut stream: TcpStream, fate: &Mutex<Fate>) {
    let mut bytes = [0; SIP];
    loop {
        match kind {
            Kind::Idle | Kind::Silent => {
                if !matches!(stream.read(&mut bytes).await, Ok(1..)) {
                    return;
                }
            }
            Kind::Reader => {
                match stream.read(&mut bytes).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) => locked(fate).taken += length as u64,
                }
                sleep(BEAT).await;
            }
            Kind::Header | Kind::Body => {
                // What comes is a refusal, and then the end.
                match timeout(BEAT, stream.read(&mut bytes)).await {
                    Ok(Ok(1..)) => {}
                    Ok(_) => return,
                    Err(_) => {
                        if stream.write_all(b"a").await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_is_let_go_is_counted() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let front = listener.local_addr()?;
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            for number in 0..10 {
                let Ok((stream, from)) = listener.accept().await else {
                    return held;
                };
                assert!(from.ip().is_loopback());
                if number >= 3 {
                    held.push(stream);
                }
            }
            held
        });
        let members = Members::gather(Kind::Silent, 10, front).await?;
        let held = server.await?;
        let fate = members.let_go(Duration::from_millis(300)).await;
        assert_eq!((fate.came, fate.remaining()), (10, 7));
        drop(held);
        let fate = members.let_go(Duration::from_secs(10)).await;
        assert_eq!((fate.remaining(), fate.kept_out.len()), (0, 0));
        members.leave().await;
        Ok(())
    }
}
