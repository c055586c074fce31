//! A provider that sends as fast as it can: it answers every request with a long stream and counts what it could write.
//! It runs in a thread of its own, and writes many events at a time: what it costs must not delay good traffic.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::Result;
use crate::http::{Body, framing, head_length};
use crate::process::free_ports;
use crate::provider::add_chunk;

/// Its model.
pub const MODEL: &str = "flood";

/// Bytes of a whole stream: more than all buffers on the way may hold.
pub const STREAM: u64 = 32 * 1024 * 1024;

const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

const EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-flood","object":"chat.completion.chunk","created":1750000000,"model":"flood","#,
    r#""choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}"#,
    "\n\n"
);

/// Events of one write.
const AT_ONCE: usize = 32;

/// A running one; ends when dropped.
pub struct Flood {
    /// Where it listens.
    pub address: SocketAddr,
    written: Arc<AtomicU64>,
    /// Its thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl Flood {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let [address] = free_ports()?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = serve(listener, count) => {}
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Flood {
            address,
            written,
            _stop: stop,
        })
    }

    /// Bytes that it wrote so far, of all streams.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

async fn serve(listener: std::net::TcpListener, written: Arc<AtomicU64>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let written = Arc::clone(&written);
                // A gateway whose client leaves closes the connection: no failure.
                conversations.spawn(async move { converse(stream, &written).await.is_ok() });
            }
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn converse(mut stream: TcpStream, written: &AtomicU64) -> Result<()> {
    let mut block = Vec::new();
    for _ in 0..AT_ONCE {
        add_chunk(&mut block, EVENT);
    }
    let mut bytes = Vec::with_capacity(4096);
    loop {
        let length = loop {
            if let Some(length) = head_length(&bytes) {
                break length;
            }
            read(&mut stream, &mut bytes).await?;
        };
        let head: Vec<u8> = bytes.drain(..length).collect();
        let mut body = framing(&head)?.unwrap_or(Body::Length(0));
        loop {
            let (used, complete) = body.feed(&bytes, |_| ())?;
            bytes.drain(..used);
            if complete {
                break;
            }
            read(&mut stream, &mut bytes).await?;
        }
        stream.write_all(HEAD).await?;
        let mut sent = 0;
        while sent < STREAM {
            stream.write_all(&block).await?;
            sent += block.len() as u64;
            written.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
        let mut end = Vec::new();
        add_chunk(&mut end, "data: [DONE]\n\n");
        end.extend_from_slice(b"0\r\n\r\n");
        stream.write_all(&end).await?;
    }
}

async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<()> {
    match stream.read_buf(bytes).await? {
        0 => Err("closed".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;

    #[tokio::test]
    async fn a_stream_ends_and_its_bytes_are_counted() -> Result<()> {
        let flood = Flood::start()?;
        let mut connection = Connection::open(flood.address).await?;
        let request = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}";
        for turn in 1..=2 {
            let mut head = connection.start(request).await?;
            let (mut length, mut piece) = (0, Vec::new());
            loop {
                piece.clear();
                let whole = connection.read(&mut head.body, &mut piece).await?;
                length += piece.len() as u64;
                if whole {
                    break;
                }
            }
            assert!((STREAM / 2..STREAM * 2).contains(&length), "{length}");
            assert!(flood.written() >= turn * STREAM);
        }
        Ok(())
    }
}
