//! [`Buffered`]: a connection whose small writes leave together, and whose peer must neither stop
//! taking them nor drip its request headers in.
//!
//! Pingora buffers the connections of its own listeners in the same way, but keeps that to itself.
//! Reads are not buffered here: the HTTP parser reads into a buffer of its own, and 64 KiB for each
//! idle stream, Pingora's default, would be most of what a stream costs.

use crate::downstream::header_clock::HeaderClock;
use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt::Debug;
use std::future::Future;
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// An answer's header and a small body, or an event with its chunk framing, fit in and leave in one
/// system call.
const WRITE_BUFFER: usize = 4 << 10;

/// A client that takes nothing for so long is let go. The clock runs only while a write waits.
const STALLED: Duration = Duration::from_secs(30);

/// A request's header must be whole so long after its first byte.
const HEADER: Duration = Duration::from_secs(10);

/// What a client of HTTP/2 has to say first: 24 bytes that name the protocol, and the header of its
/// settings (RFC 9113, section 3.4). Nothing else would notice one that never says it.
const PREFACE: usize = 24 + 9;

/// A connection with buffered writes.
#[derive(Debug)]
pub struct Buffered<S: IO> {
    stream: BufWriter<S>,
    stalled: Option<Pin<Box<Sleep>>>,
    clock: Arc<HeaderClock>,
    /// What is still to come of the preface of HTTP/2; 0 for HTTP/1.1.
    preface: usize,
    /// When the header under way, or the preface, must be whole.
    due: Option<Instant>,
    overdue: Option<Pin<Box<Sleep>>>,
}

impl<S: IO> Buffered<S> {
    /// Buffers a connection.
    pub fn new(stream: S, clock: Arc<HeaderClock>) -> Buffered<S> {
        let http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        Buffered {
            stream: BufWriter::with_capacity(WRITE_BUFFER, stream),
            stalled: None,
            clock,
            preface: if http2 { PREFACE } else { 0 },
            due: http2.then(|| Instant::now() + HEADER),
            overdue: None,
        }
    }

    /// Fails when a header has been under way for too long. The timer is made only for one that
    /// does not come in one piece.
    fn header_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let due = match self.due {
            Some(due) if self.preface > 0 || self.clock.runs() => due,
            _ => {
                self.overdue = None;
                return false;
            }
        };
        let overdue = self
            .overdue
            .get_or_insert_with(|| Box::pin(sleep_until(due)));
        overdue.as_mut().poll(cx).is_ready()
    }

    /// Passes a write's outcome on; one that waits for too long fails.
    fn within<T>(&mut self, written: Poll<Result<T>>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALLED)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: IO> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match read {
            Poll::Ready(_) => {
                let came = buf.filled().len() - before;
                self.preface = self.preface.saturating_sub(came);
                if self.clock.heard() {
                    self.due = Some(Instant::now() + HEADER);
                    self.overdue = None;
                }
            }
            Poll::Pending if self.header_overdue(cx) => {
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            Poll::Pending => {}
        }
        read
    }
}

impl<S: IO> AsyncWrite for Buffered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.within(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.within(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(cx);
        self.within(written, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: IO> Shutdown for Buffered<S> {
    async fn shutdown(&mut self) {
        // What fails to be flushed now has no one left to read it.
        let _ = tokio::io::AsyncWriteExt::flush(&mut self.stream).await;
        Shutdown::shutdown(self.stream.get_mut()).await;
    }
}

impl<S: IO> UniqueID for Buffered<S> {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().id()
    }
}

impl<S: IO> Ssl for Buffered<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ref().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.get_ref().selected_alpn_proto()
    }
}

impl<S: IO> GetTimingDigest for Buffered<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_ref().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_ref().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_ref().get_write_pending_time()
    }
}

impl<S: IO> GetProxyDigest for Buffered<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_ref().get_proxy_digest()
    }
}

impl<S: IO> GetSocketDigest for Buffered<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_ref().get_socket_digest()
    }
}

impl<S: IO> Peek for Buffered<S> {}
