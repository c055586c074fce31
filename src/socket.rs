//! [`Socket`]: a connection on which small writes leave at the end of this turn of the event loop, together with those of
//! all other connections.
//!
//! A send costs most by what it sets off: the other side is woken, and where that is another processor, or a virtual one,
//! waking it takes longer than the send. Sends that follow each other wake it once, and a header leaves with its body, in
//! one send. What waits does so for the tasks of this thread that are ready now, and for 32 connections at most.
//!
//! What is written counts as sent, as it does where the system has it in a buffer of its own: an error shows at the next
//! call. Where the other side takes less than it is sent, nothing is gathered: writes wait until the system has them.

use socket2::SockRef;
use std::io::{ErrorKind, IoSlice, Result};
use std::iter;
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

/// Most of what waits fits in so much, a block that allocators have at hand: to grow costs more than all else here.
const FIRST: usize = 1 << 10;

/// So many connections leave at once, though the turn is not over.
const BATCH: usize = 32;

/// What nobody takes any of for so long is given up, once nobody has the connection any more.
const ORPHANED: Duration = Duration::from_secs(5);

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
    /// It is among those that leave at the end of the turn.
    listed: bool,
    /// The system took less than was sent when it was asked last.
    blocked: bool,
    /// A task sends what waits as soon as it is taken.
    followed: bool,
    /// Nobody has the connection any more.
    orphaned: bool,
    /// Why nothing more can be sent: what comes after would come behind a gap.
    failed: Option<ErrorKind>,
}

impl Out {
    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// Nothing waits any more. The memory goes too: most connections are idle most of the time.
    fn empty(&mut self) {
        self.bytes = Vec::new();
        self.sent = 0;
    }

    fn fail(&mut self, error: ErrorKind) {
        self.empty();
        self.failed = Some(error);
    }

    fn outcome(&self) -> Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
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

    /// Whether all that was written has been sent.
    pub fn is_sent(&self) -> bool {
        let out = self.write.out();
        out.waiting().is_empty() && out.failed.is_none()
    }

    /// Whether nothing waits, and the other side has neither closed the connection nor said anything on it. That costs no
    /// call into the system where nothing has happened: tokio knows.
    pub fn is_quiet(&self) -> bool {
        if !self.is_sent() {
            return false;
        }
        let read = self.read.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

impl Drop for Socket {
    /// Who comes to the end of an answer may be dropped at once.
    fn drop(&mut self) {
        self.write.out().orphaned = true;
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

    /// Sends what waits; as soon as it is taken, if it is not now.
    fn send(self: &Arc<Self>) {
        let mut out = self.out();
        out.listed = false;
        if !self.send_of(&mut out)
            && !out.followed
            && let Ok(runtime) = Handle::try_current()
        {
            out.followed = true;
            runtime.spawn(self.clone().follow());
        }
    }

    /// Sends what waits, as far as it is taken; false if some is left.
    fn send_of(&self, out: &mut Out) -> bool {
        while let waiting @ [_, ..] = out.waiting() {
            match self.half.try_write(waiting) {
                Ok(0) => out.fail(ErrorKind::WriteZero),
                Ok(sent) => out.sent += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    out.blocked = true;
                    return false;
                }
                Err(error) => out.fail(error.kind()),
            }
        }
        out.empty();
        true
    }

    /// Sends what waits whenever some is taken, though whoever wrote it may do nothing more.
    async fn follow(self: Arc<Self>) {
        let mut silences = 0;
        loop {
            let taken = timeout(ORPHANED, self.half.writable()).await;
            let mut out = self.out();
            // The first may have begun before it was orphaned. Who has a connection has a clock of its own.
            silences += u8::from(taken.is_err() && out.orphaned);
            if silences > 1 {
                out.fail(ErrorKind::TimedOut);
            }
            if matches!(taken, Ok(Err(_))) || self.send_of(&mut out) {
                out.followed = false;
                return;
            }
        }
    }

    fn poll_sent(&self, cx: &mut Context<'_>, out: &mut Out) -> Poll<Result<()>> {
        while !self.send_of(out) {
            ready!(self.half.as_ref().poll_write_ready(cx))?;
        }
        Poll::Ready(out.outcome())
    }

    /// Sends these behind what waits, as much as is taken.
    fn poll_now(
        &self,
        cx: &mut Context<'_>,
        out: &mut Out,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        loop {
            let waiting = out.waiting();
            let ahead = waiting.len();
            let tried = match ahead {
                0 => self.half.try_write_vectored(bufs),
                _ => {
                    let bufs = bufs.iter().map(|buf| IoSlice::new(buf));
                    let all: Vec<_> = iter::once(IoSlice::new(waiting)).chain(bufs).collect();
                    self.half.try_write_vectored(&all)
                }
            };
            match tried {
                Ok(0) => out.fail(ErrorKind::WriteZero),
                Ok(taken) if taken > ahead => {
                    out.empty();
                    out.blocked = taken - ahead < length;
                    return Poll::Ready(Ok(taken - ahead));
                }
                Ok(taken) => {
                    out.sent += taken;
                    out.blocked = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    out.blocked = true;
                    ready!(self.half.as_ref().poll_write_ready(cx))?;
                }
                Err(error) => out.fail(error.kind()),
            }
            out.outcome()?;
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
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        if out.blocked || out.bytes.len() + length > WAITING {
            return write.poll_now(cx, &mut out, bufs);
        }
        if out.bytes.is_empty() {
            out.bytes.reserve(length.max(FIRST));
        }
        for buf in bufs {
            out.bytes.extend_from_slice(buf);
        }
        if !std::mem::replace(&mut out.listed, true) {
            drop(out);
            leave(write);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What leaves with this turn counts as flushed.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut out = self.write.out();
        match out.blocked {
            true => self.write.poll_sent(cx, &mut out),
            false => Poll::Ready(out.outcome()),
        }
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
        socket.send();
    }
}

#[cfg(test)]
mod tests;
