//! [`Dial`]: how a plain provider is reached in Pingora's stead. Three things are saved on the way of each request:
//! a send, since a header leaves with the body that follows it ([`Socket`]); the task that Pingora's pool starts for each
//! connection it is given back; and two calls into the system that only ask whether a pooled connection is the right one.
//!
//! Pingora is made to believe that it connects anew for each request: it gets a *virtual* socket, a `Line`, and cannot
//! keep that. When it asks whether a connection is fit for its pool the line says no, and goes back to ours.

use super::peer::Sending;
use super::pool::Pool;
use crate::limit::overload::out_of_descriptors;
use crate::socket::Socket;
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
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
    unsent: Arc<AtomicBool>,
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
            unsent: Arc::default(),
        }
    }

    /// Whether the connection had served another request before.
    pub fn reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }

    /// Whether the provider hung up before the whole request had been sent.
    pub fn unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed)
    }

    async fn connection(&self) -> Result<Socket> {
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
                Ok(Socket::new(stream))
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
        let stream = self.connection().await?;
        let line = Line {
            stream: Some(stream),
            pool: self.sending.pooled.then(|| self.pool.clone()),
            address: self.address,
            done: false,
            unsent: self.unsent.clone(),
        };
        Ok(VirtualSocketStream::new(Box::new(line)).into())
    }
}

/// A connection while a request is on it.
#[derive(Debug)]
struct Line {
    /// `None` once it is shut down.
    stream: Option<Socket>,
    /// Where it goes when the request is over.
    pool: Option<Arc<Pool>>,
    address: SocketAddr,
    /// The request is over, and nothing of its answer is left to be read.
    done: bool,
    /// The provider hung up before the whole request had been sent.
    unsent: Arc<AtomicBool>,
}

impl Line {
    fn stream(&mut self) -> io::Result<Pin<&mut Socket>> {
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
        let before = buf.filled().len();
        let read = self.stream()?.poll_read(cx, buf);
        let ended = match &read {
            Poll::Ready(Ok(())) => buf.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended && self.stream.as_ref().is_some_and(|stream| !stream.is_sent()) {
            self.unsent.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    /// The connection is not to be used again, and what is left of the request is wanted by nobody: that is not waited for.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream = None;
        Poll::Ready(Ok(()))
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
            pool.put(stream, self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A connection, where it goes, and its other end.
    async fn line() -> (Line, Arc<Pool>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Arc::new(Pool::default());
        let stream = TcpStream::connect(address).await.unwrap();
        let line = Line {
            stream: Some(Socket::new(stream)),
            pool: Some(pool.clone()),
            address,
            done: false,
            unsent: Arc::default(),
        };
        (line, pool, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn it_is_kept_only_after_it_was_asked_whether_it_is_fit() {
        for asked in [false, true] {
            let (mut line, pool, _other) = line().await;
            let address = line.address;
            if asked {
                let read = line.read(&mut [0]).now_or_never();
                assert!(matches!(read, Some(Err(_))));
            }
            drop(line);
            assert_eq!(pool.take(address).is_some(), asked);
        }
    }

    #[tokio::test]
    async fn a_provider_that_hangs_up_is_told_apart_by_whether_it_had_the_request() {
        for sent in [false, true] {
            let (mut line, _, mut other) = line().await;
            if sent {
                line.write_all(b"request").await.unwrap();
                other.read_exact(&mut [0; 7]).await.unwrap();
            }
            // With a reset: what it is sent from now on fails.
            SockRef::from(&other)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(other);
            if !sent {
                line.write_all(b"request").await.unwrap();
            }
            let read = line.read(&mut [0]).await;
            assert!(matches!(read, Err(_) | Ok(0)), "{read:?}");
            assert_eq!(line.unsent.load(Ordering::Relaxed), !sent);
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_does_not_wait_for_who_does_not_read() {
        let (mut line, _, _other) = line().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let stream = stream.await.unwrap();
        // No more fits into the system's buffers.
        while stream.try_write(&[7; 64 << 10]).is_ok() {}
        line.stream = Some(Socket::new(stream));
        line.write_all(b"request").await.unwrap();
        assert!(!line.stream.as_ref().is_some_and(Socket::is_sent));
        line.shutdown().now_or_never().expect("at once").unwrap();
    }
}
