//! An upstream that does not stop: it says one thing over and over, for as long as it is heard, and
//! counts what was taken from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// What it says first, and then again and again.
#[derive(Clone, Debug)]
pub struct Speech {
    pub first: Vec<u8>,
    pub again: Vec<u8>,
    pub pause: Duration,
}

/// The head of a chunked event stream.
pub const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A piece of a body as a chunk.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// It ends, with all its connections, when dropped.
pub struct Endless {
    addr: SocketAddr,
    counts: Arc<Counts>,
    task: AbortHandle,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    left: AtomicUsize,
    written: AtomicUsize,
}

impl Endless {
    pub async fn start(speech: Speech) -> Endless {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(speak(stream, speech.clone(), shared.clone()));
            }
        });
        Endless {
            addr,
            counts,
            task: task.abort_handle(),
        }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Bytes that were taken, over all connections; what lies in the kernel's buffers is among them.
    pub fn written(&self) -> usize {
        self.counts.written.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Until so many have stopped listening.
    pub async fn wait_left(&self, n: usize) {
        let left = async {
            while self.counts.left.load(Ordering::SeqCst) < n {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(super::http::PATIENCE, left)
            .await
            .expect("nobody hung up");
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(mut stream: TcpStream, speech: Speech, counts: Arc<Counts>) {
    let mut request = Vec::new();
    // Requests of these tests are small, and end with their JSON.
    while !request.ends_with(b"}") {
        if !matches!(stream.read_buf(&mut request).await, Ok(n) if n > 0) {
            return;
        }
    }
    counts.requests.fetch_add(1, Ordering::SeqCst);
    let (mut from, mut to) = stream.split();
    let speaking = async {
        to.write_all(&speech.first).await?;
        loop {
            let mut rest = &speech.again[..];
            while !rest.is_empty() {
                let written = to.write(rest).await?;
                counts.written.fetch_add(written, Ordering::SeqCst);
                rest = &rest[written..];
            }
            if !speech.pause.is_zero() {
                sleep(speech.pause).await;
            }
        }
    };
    let _: std::io::Result<()> = tokio::select! {
        spoken = speaking => spoken,
        _ = from.read_u8() => Ok(()),
    };
    counts.left.fetch_add(1, Ordering::SeqCst);
}
