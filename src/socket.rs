//! [`Socket`]: a connection on which small writes leave at the end of this turn of the event loop, together with those of
//! all other connections.
//!
//! A send costs most by what it sets off: the other side is woken, and where that is another processor, or a virtual one,
//! waking it takes longer than the send. Sends that follow each other wake it once. So does an answer's header that leaves
//! with its body, in one send. Nothing waits longer than for the tasks that are ready now, and [`BATCH`] of them at most.
//!
//! What is written counts as sent, as it does where the system has it in a buffer of its own: an error shows at the next
//! call. Who does not take it is waited for by the next write.

use socket2::SockRef;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::timeout;

/// Bytes of one connection that wait at most: a copy of more costs as much as a send.
const WAITING: usize = 16 << 10;

/// So many connections leave at once, though the turn is not over.
const BATCH: usize = 32;

/// What leaves and is not taken for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// A connection.
#[derive(Debug)]
pub struct Socket {
    read: OwnedReadHalf,
    write: Arc<Write>,
}

#[derive(Debug)]
struct Write {
    half: OwnedWriteHalf,
    out: Mutex<Out>,
}

/// What has been written, and is not sent.
#[derive(Debug, Default)]
struct Out {
    bytes: Vec<u8>,
    sent: usize,
    /// It leaves at the end of the turn, or as soon as the other side takes it.
    leaving: bool,
    failed: Option<Error>,
}

impl Out {
    /// Nothing waits any more. The memory goes too: most connections are idle most of the time.
    fn empty(&mut self) {
        self.bytes = Vec::new();
        self.sent = 0;
        self.leaving = false;
    }

    fn fail(&mut self, error: Error) {
        self.empty();
        self.failed = Some(error);
    }

    fn outcome(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl Socket {
    /// Takes a connection over.
    pub fn new(stream: TcpStream) -> Socket {
        let (read, half) = stream.into_split();
        let out = Mutex::default();
        let write = Arc::new(Write { half, out });
        Socket { read, write }
    }

    /// Whether the other side has neither closed the connection nor said anything on it. That costs no call into the
    /// system where nothing has happened: tokio knows.
    pub fn is_quiet(&self) -> bool {
        let read = self.read.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Drop for Socket {
    /// Who comes to the end of an answer may be dropped at once.
    fn drop(&mut self) {
        self.write.send();
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.read.as_ref().as_raw_fd()
    }
}

impl Write {
    fn out(&self) -> MutexGuard<'_, Out> {
        // Nothing under this lock can leave it half-changed.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits, as far as it is taken; false if some is left.
    fn send(&self) -> bool {
        let mut out = self.out();
        self.send_of(&mut out)
    }

    fn send_of(&self, out: &mut Out) -> bool {
        while let Some(rest @ [_, ..]) = out.bytes.get(out.sent..) {
            match self.half.try_write(rest) {
                Ok(0) => out.fail(ErrorKind::WriteZero.into()),
                Ok(sent) => out.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) => out.fail(error),
            }
        }
        out.empty();
        true
    }

    /// Sends what waits as soon as it is taken, whoever else waits for that.
    async fn follow(self: Arc<Self>) {
        let sent = async { while self.half.writable().await.is_ok() && !self.send() {} };
        if timeout(STALLED, sent).await.is_err() {
            self.out().fail(ErrorKind::TimedOut.into());
        }
    }

    fn poll_sent(&self, cx: &mut Context<'_>, out: &mut Out) -> Poll<Result<()>> {
        loop {
            if self.send_of(out) {
                return Poll::Ready(out.outcome());
            }
            ready!(self.half.as_ref().poll_write_ready(cx))?;
        }
    }

    fn poll_now(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        loop {
            ready!(self.half.as_ref().poll_write_ready(cx))?;
            match self.half.try_write_vectored(bufs) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let write = &self.write;
        let mut out = write.out();
        out.outcome()?;
        if out.bytes.len() + length > WAITING {
            // All that waits leaves before it.
            ready!(write.poll_sent(cx, &mut out))?;
        }
        if length > WAITING {
            return write.poll_now(cx, bufs);
        }
        for buf in bufs {
            out.bytes.extend_from_slice(buf);
        }
        if !std::mem::replace(&mut out.leaving, true) {
            drop(out);
            leave(write);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What leaves with this turn counts as flushed.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(self.write.out().outcome())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.write.poll_sent(cx, &mut self.write.out()))?;
        Poll::Ready(SockRef::from(self.write.half.as_ref()).shutdown(Shutdown::Write))
    }
}

/// Those that leave at the end of this turn, of one thread.
#[derive(Debug, Default)]
struct Leaving {
    sockets: Vec<Arc<Write>>,
    /// A [`Turn`] will see to it.
    awaited: bool,
}

thread_local! {
    static LEAVING: Arc<Mutex<Leaving>> = Arc::default();
}

fn lock(leaving: &Mutex<Leaving>) -> MutexGuard<'_, Leaving> {
    leaving.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a connection send with the others.
fn leave(write: &Arc<Write>) {
    let leaving = LEAVING.with(Arc::clone);
    let mut all = lock(&leaving);
    all.sockets.push(write.clone());
    if all.sockets.len() >= BATCH {
        let sockets = std::mem::take(&mut all.sockets);
        drop(all);
        return send(sockets);
    }
    if !std::mem::replace(&mut all.awaited, true) {
        drop(all);
        let turn = Turn(leaving);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                // The runtime comes back to who yields once all tasks that are ready have had their turn.
                yield_now().await;
                drop(turn);
            });
        }
    }
}

/// Dropped, it sends what leaves: also where the runtime ends before the turn does.
struct Turn(Arc<Mutex<Leaving>>);

impl Drop for Turn {
    fn drop(&mut self) {
        let sockets = {
            let mut all = lock(&self.0);
            all.awaited = false;
            std::mem::take(&mut all.sockets)
        };
        send(sockets);
    }
}

fn send(sockets: Vec<Arc<Write>>) {
    for socket in sockets {
        if !socket.send()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(socket.follow());
        }
    }
}

#[cfg(test)]
mod tests;
