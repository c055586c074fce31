//! [`Dial`]: how a plain provider is reached in Pingora's stead. Three things are saved on the way of each request:
//! a send, since a header waits for the body that follows it at once; the task that Pingora's pool starts for each
//! connection it is given back; and two calls into the system that only ask whether a pooled connection is the right one.
//!
//! Pingora is made to believe that it connects anew for each request: it gets a *virtual* socket, a `Line`, and cannot
//! keep that. When it asks whether a connection is fit for its pool the line says no, and goes back to ours.

use super::peer::Sending;
use super::pool::Pool;
use crate::limit::overload::out_of_descriptors;
use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr as Address;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use socket2::SockRef;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Request headers above this are sent at once: holding one back costs a copy.
const MOST_HELD: usize = 16 << 10;

/// So much of a body is given to the system ahead of what the provider takes: a large one would else be copied in one
/// go, while every other request of the thread waits.
const MOST_UNSENT: u32 = 128 << 10;

/// How one attempt connects to a plain provider.
#[derive(Debug)]
pub struct Dial {
    pool: Arc<Pool>,
    address: SocketAddr,
    /// To connect, at most.
    patience: Duration,
    sending: Sending,
    reused: AtomicBool,
}

impl Dial {
    /// A way to `address` that takes `patience` at most.
    pub fn new(pool: Arc<Pool>, address: SocketAddr, patience: Duration, sending: Sending) -> Dial {
        Dial {
            pool,
            address,
            patience,
            sending,
            reused: AtomicBool::new(false),
        }
    }

    /// Whether the connection had served another request before.
    pub fn reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    async fn connection(&self) -> Result<(TcpStream, Vec<u8>)> {
        if self.sending.pooled
            && let Some(kept) = self.pool.take(self.address)
        {
            self.reused.store(true, Ordering::Relaxed);
            return Ok(kept);
        }
        match timeout(self.patience, TcpStream::connect(self.address)).await {
            Ok(Ok(stream)) => {
                // Without effect on a connection that has broken already, as is then seen.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_tcp_notsent_lowat(MOST_UNSENT);
                Ok((stream, Vec::new()))
            }
            Ok(Err(error)) => Err(unreachable(error)),
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "connecting"),
        }
    }
}

/// The error in Pingora's words.
fn unreachable(error: io::Error) -> Box<Error> {
    let kind = match error.kind() {
        _ if out_of_descriptors(&error) => ErrorType::InternalError,
        ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => ErrorType::ConnectNoRoute,
        ErrorKind::AddrNotAvailable => ErrorType::BindError,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting", error)
}

#[async_trait]
impl Connect for Dial {
    async fn connect(&self, _: &Address) -> Result<Stream> {
        let (stream, held) = self.connection().await?;
        let line = Line {
            stream: Some(stream),
            held,
            // Pingora writes a body that is at hand right after the header.
            hold: self.sending.whole,
            pool: self.sending.pooled.then(|| self.pool.clone()),
            address: self.address,
            done: false,
        };
        Ok(VirtualSocketStream::new(Box::new(line)).into())
    }
}

/// A connection while a request is on it.
#[derive(Debug)]
struct Line {
    /// `None` only while it is being dropped.
    stream: Option<TcpStream>,
    /// What waits for more to be sent with it.
    held: Vec<u8>,
    /// What is written next is held: it is the header.
    hold: bool,
    /// Where it goes when the request is over.
    pool: Option<Arc<Pool>>,
    address: SocketAddr,
    /// The request is over, and nothing of its answer is left to be read.
    done: bool,
}

impl Line {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let gone = || io::Error::from(ErrorKind::NotConnected);
        self.stream.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if cx.waker().data().is_null() {
            // A waker without anything to wake: nobody waits for this read. It is how Pingora asks, once an answer
            // has come to its end in good order, whether the connection is fit for its pool.
            self.done = true;
            return Poll::Ready(Err(ErrorKind::Unsupported.into()));
        }
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.hold) && buf.len() <= MOST_HELD {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        while !self.held.is_empty() {
            let Line { stream, held, .. } = &mut *self;
            let Some(stream) = stream else { break };
            let both = [IoSlice::new(held), IoSlice::new(buf)];
            let written = ready!(Pin::new(stream).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            let after = written.saturating_sub(held.len());
            held.drain(..written.min(held.len()));
            if after > 0 {
                return Poll::Ready(Ok(after));
            }
        }
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.hold || !self.held.is_empty() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |first| first));
        }
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is held stays: Pingora flushes each header, and nothing else waits here.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl VirtualSocket for Line {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            // Set when it was connected.
            VirtualSockOpt::NoDelay => Ok(()),
            _ => Err(ErrorKind::Unsupported.into()),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let (true, Some(stream), Some(pool)) = (self.done, self.stream.take(), &self.pool) {
            let mut buffer = std::mem::take(&mut self.held);
            buffer.clear();
            pool.put(stream, buffer, self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn line(hold: bool) -> (Line, TcpStream, Arc<Pool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Arc::new(Pool::default());
        let line = Line {
            stream: Some(TcpStream::connect(address).await.unwrap()),
            held: Vec::new(),
            hold,
            pool: Some(pool.clone()),
            address,
            done: false,
        };
        (line, listener.accept().await.unwrap().0, pool)
    }

    async fn heard(other: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut heard = vec![0; length];
        other.read_exact(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn a_header_goes_with_its_body_however_large_that_is() {
        let (mut line, mut other, _) = line(true).await;
        line.write_all(b"header").await.unwrap();
        line.flush().await.unwrap();
        assert_eq!(line.held, b"header");
        // More than any socket takes at once.
        let body = vec![7; 16 << 20];
        let (written, heard) =
            tokio::join!(line.write_all(&body), heard(&mut other, 6 + body.len()));
        written.unwrap();
        assert_eq!(&heard[..6], b"header");
        assert_eq!(&heard[6..], body);
    }

    #[tokio::test]
    async fn nothing_is_held_of_a_request_whose_body_is_yet_to_come() {
        let (mut line, mut other, _) = line(false).await;
        line.write_all(b"header").await.unwrap();
        assert_eq!(heard(&mut other, 6).await, b"header");
    }

    #[tokio::test]
    async fn a_header_of_unusual_size_is_not_held() {
        let (mut line, mut other, _) = line(true).await;
        let header = vec![b'h'; MOST_HELD + 1];
        line.write_all(&header).await.unwrap();
        assert_eq!(heard(&mut other, header.len()).await, header);
    }

    #[tokio::test]
    async fn it_is_kept_only_after_it_was_asked_whether_it_is_fit() {
        let address = |line: &Line| line.address;
        let (first, _other, pool) = line(true).await;
        let at = address(&first);
        drop(first);
        assert!(pool.take(at).is_none());
        let (mut second, _other, pool) = line(true).await;
        let at = address(&second);
        let asked = futures::FutureExt::now_or_never(second.read(&mut [0]));
        assert!(matches!(asked, Some(Err(_))));
        drop(second);
        assert!(pool.take(at).is_some());
    }
}
