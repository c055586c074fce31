//! [`Buffered`]: a connection whose peer must neither stop taking what is written nor be silent where HTTP/2 has it begin,
//! and whose small writes share a record where it has TLS; without, the socket below sees to it that they leave together.
//!
//! The buffer is there only while something waits in it: an idle connection and a stream between two events
//! have none. Reads are not buffered here: the HTTP parser reads into a buffer of its own, and 64 KiB for each
//! idle stream, Pingora's default, would be most of what a stream costs.

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

/// An answer's header and a small body fit in and leave in one record.
const WRITE_BUFFER: usize = 4 << 10;

/// Most fit in so much: a block that allocators have at hand.
const FIRST: usize = 1 << 10;

/// A client that takes nothing for so long is let go. The clock runs only while a write waits.
const STALLED: Duration = Duration::from_secs(30);

/// What a client of HTTP/2 has to say first: 24 bytes that name the protocol, and the header of its
/// settings (RFC 9113, section 3.4). Nothing else would notice one that never says it.
const PREFACE: usize = 24 + 9;

/// It must be whole by then.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);

/// A connection that is watched, and whose writes may be buffered.
#[derive(Debug)]
pub struct Buffered<S: IO> {
    stream: S,
    /// Small writes wait here: with TLS each would be a record of its own. Else they do in the socket.
    joins: bool,
    /// What waits to be written.
    waiting: Vec<u8>,
    /// How much of it has been written.
    written: usize,
    stalled: Option<Pin<Box<Sleep>>>,
    /// What is still to come of the preface of HTTP/2; 0 for HTTP/1.1.
    preface: usize,
    /// When that is overdue.
    overdue: Option<Pin<Box<Sleep>>>,
}

impl<S: IO> Buffered<S> {
    /// Watches a connection, and buffers it if small writes are to be joined here.
    pub fn new(stream: S, joins: bool) -> Buffered<S> {
        let http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        Buffered {
            stream,
            joins,
            waiting: Vec::new(),
            written: 0,
            stalled: None,
            preface: if http2 { PREFACE } else { 0 },
            overdue: http2.then(|| Box::pin(sleep(PREFACE_WITHIN))),
        }
    }

    /// Writes all that waits.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while let Some(rest @ [_, ..]) = self.waiting.get(self.written..) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.waiting = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room for `more` bytes; true if they are to wait, false if they are too many for that.
    fn waits(&mut self, more: usize, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        if self.waiting.len() + more > WRITE_BUFFER {
            ready!(self.drain(cx))?;
        }
        Poll::Ready(Ok(more < WRITE_BUFFER))
    }

    fn put(&mut self, buf: &[u8]) {
        if self.waiting.capacity() == 0 {
            self.waiting.reserve(buf.len().max(FIRST));
        }
        self.waiting.extend_from_slice(buf);
    }

    fn accept(&mut self, buf: &[u8], cx: &mut Context<'_>) -> Poll<Result<usize>> {
        if !self.joins || !ready!(self.waits(buf.len(), cx))? {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        self.put(buf);
        Poll::Ready(Ok(buf.len()))
    }

    /// Pieces that come together, as an event and its chunk framing do, do not wait here where nothing waits before them.
    fn accept_together(
        &mut self,
        bufs: &[IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize>> {
        let total = bufs.iter().map(|buf| buf.len()).sum();
        let together = !self.joins || self.stream.is_write_vectored();
        if (self.waiting.is_empty() && together) || !ready!(self.waits(total, cx))? {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        for buf in bufs {
            self.put(buf);
        }
        Poll::Ready(Ok(total))
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
        if self.preface > 0 {
            if let (Poll::Pending, Some(overdue)) = (&read, &mut self.overdue)
                && overdue.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            self.preface = self.preface.saturating_sub(buf.filled().len() - before);
            if self.preface == 0 {
                self.overdue = None;
            }
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
        let written = self.accept(buf, cx);
        self.within(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = self.accept_together(bufs, cx);
        self.within(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let drained = self.drain(cx);
        let written = match drained {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_flush(cx),
            other => other,
        };
        self.within(written, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: IO> Shutdown for Buffered<S> {
    async fn shutdown(&mut self) {
        let shut = async {
            // What fails to be flushed now has no one left to read it.
            let _ = poll_fn(|cx| self.drain(cx)).await;
            let _ = tokio::io::AsyncWriteExt::flush(&mut self.stream).await;
            Shutdown::shutdown(&mut self.stream).await;
        };
        // Nor does who takes nothing.
        let _ = timeout(STALLED, shut).await;
    }
}

impl<S: IO> UniqueID for Buffered<S> {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl<S: IO> Ssl for Buffered<S> {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl<S: IO> GetTimingDigest for Buffered<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl<S: IO> GetProxyDigest for Buffered<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl<S: IO> GetSocketDigest for Buffered<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl<S: IO> Peek for Buffered<S> {}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// What has arrived by now.
    fn arrived(far: &mut DuplexStream) -> Vec<u8> {
        let mut all = vec![0; 1 << 16];
        let length = far.read(&mut all).now_or_never().map_or(0, Result::unwrap);
        all.truncate(length);
        all
    }

    #[tokio::test]
    async fn small_writes_leave_together_and_nothing_is_kept_for_them() {
        let (near, mut far) = duplex(1 << 16);
        let mut near = Buffered::new(near, true);
        near.write_all(b"header, ").await.unwrap();
        near.write_all(b"body").await.unwrap();
        assert_eq!(arrived(&mut far), b"");
        near.flush().await.unwrap();
        assert_eq!(arrived(&mut far), b"header, body");
        assert_eq!(near.waiting.capacity(), 0);
        near.write_all(b"the rest").await.unwrap();
        Shutdown::shutdown(&mut near).await;
        assert_eq!(arrived(&mut far), b"the rest");
    }

    #[tokio::test]
    async fn pieces_that_come_together_leave_at_once_but_not_before_what_waits() {
        let (near, mut far) = duplex(1 << 16);
        let mut near = Buffered::new(near, true);
        let pieces = [IoSlice::new(b"4\r\n"), IoSlice::new(b"data\r\n")];
        assert_eq!(near.write_vectored(&pieces).await.unwrap(), 9);
        assert_eq!(arrived(&mut far), b"4\r\ndata\r\n");
        near.write_all(b"header").await.unwrap();
        assert_eq!(near.write_vectored(&pieces).await.unwrap(), 9);
        assert_eq!(arrived(&mut far), b"");
        near.flush().await.unwrap();
        assert_eq!(arrived(&mut far), b"header4\r\ndata\r\n");
    }

    #[tokio::test]
    async fn what_does_not_fit_does_not_wait() {
        let (near, mut far) = duplex(1 << 16);
        let mut near = Buffered::new(near, true);
        near.write_all(&[1; 3000]).await.unwrap();
        near.write_all(&[2; 3000]).await.unwrap();
        assert_eq!(arrived(&mut far), [1; 3000]);
        near.write_all(&[3; 5000]).await.unwrap();
        assert_eq!(
            arrived(&mut far),
            [[2; 3000].as_slice(), &[3; 5000]].concat()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_let_go_and_who_takes_it_slowly_is_not() {
        let (near, mut far) = duplex(16);
        let mut near = Buffered::new(near, true);
        near.write_all(&[7; 100]).await.unwrap();
        let mut taken = vec![0; 100];
        let (flushed, read) = tokio::join!(near.flush(), far.read_exact(&mut taken));
        assert_eq!((flushed.is_ok(), read.unwrap()), (true, 100));
        near.write_all(&[7; 100]).await.unwrap();
        let error = near.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // Nobody waits for it at the end either.
        let shut = timeout(2 * STALLED, Shutdown::shutdown(&mut near));
        shut.await.expect("it is given up");
    }
}
