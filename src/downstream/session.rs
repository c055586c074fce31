//! [`Downstream`]: Pingora's session trait over Pingora's own HTTP/1.1 and HTTP/2 sessions.
//!
//! Above 400 lines because a trait is implemented in one place, and this one has forty methods.

use super::silence::{Silence, Verdict};
use super::{Exchange, unread};
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::v1::server::HttpSession as H1;
use pingora::protocols::http::v2::server::HttpSession as H2;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::Duration;
// The timer's own clock, which tests can move.
use tokio::time::{Instant, Sleep, timeout_at};

/// The first byte of the answer did not come in time.
pub const FIRST_BYTE_OVERDUE: ErrorType = ErrorType::Custom("FirstByteOverdue");
/// The answer began and then stalled.
pub const STALLED: ErrorType = ErrorType::Custom("Stalled");
/// The answer has not come to its end in time.
pub const OVERDUE: ErrorType = ErrorType::Custom("Overdue");

/// The process has to end, and the answer was not whole.
pub const CUT: ErrorType = ErrorType::Custom("Cut");

/// A client may be silent so long in the middle of its body.
pub const BODY_SILENCE: Duration = Duration::from_secs(30);
/// All waits for a body together may be as long as one silence, and a second longer for each so many
/// bytes that have come: the rate below which Apache httpd gives a client up (mod_reqtimeout,
/// `body=20,MinRate=500`).
const BODY_RATE: u64 = 500;

/// The protocol session below.
pub enum Wire {
    /// HTTP/1.1 and 1.0. Boxed: it is large, and changes hands several times.
    H1(Box<H1>),
    /// One stream of HTTP/2.
    H2(Box<H2>),
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wire::H1(_) => "H1",
            Wire::H2(_) => "H2",
        })
    }
}

/// Calls a method that both sessions have.
macro_rules! on_wire {
    ($self:ident, $wire:ident => $call:expr) => {
        match $self.wire.as_mut() {
            Some(Wire::H1($wire)) => $call,
            Some(Wire::H2($wire)) => $call,
            None => return gone(),
        }
    };
}

/// The session that Pingora proxies for. Dropped, it leaves its [`Wire`] with the exchange if the
/// answer was finished, so that the connection can serve another request.
pub struct Downstream {
    /// `None` only while it is being dropped.
    wire: Option<Wire>,
    exchange: Arc<Exchange>,
    silence: Silence,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer knows whom to wake: the task, which stays the same.
    armed: bool,
    /// The exchange's settings as the timer knows them.
    changes: u32,
    /// The answer is whole. An answer of ours to a failed attempt ends here and not in `finish`:
    /// Pingora gives such sessions up, but nothing is wrong with the client's connection.
    finished: bool,
    /// For how long the client's body was waited for.
    waited: Duration,
    /// When the answer must be at its end.
    until: Option<Instant>,
    /// A piece of the answer was being written when the time was over: nothing can follow it.
    stuck: bool,
    /// A keepalive was being written when the answer went on: its end may be missing.
    interrupted: bool,
    /// The client has left, and the answer is read to its end without it: nothing is written any more.
    absent: bool,
    /// The header of an answer that had not begun then.
    unsent: Option<Box<ResponseHeader>>,
    /// Stands in for the request, where it may be changed, while the session is being dropped.
    empty: Option<Box<RequestHeader>>,
}

/// Stands in for the request while a session is being dropped.
static NOTHING: LazyLock<Box<RequestHeader>> = LazyLock::new(nothing);

fn nothing() -> Box<RequestHeader> {
    Box::new(http::Request::new(()).into_parts().0.into())
}

fn gone<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "the session was given back")
}

impl Downstream {
    /// A session for one exchange.
    pub fn new(wire: Wire, exchange: Arc<Exchange>) -> Box<Downstream> {
        Box::new(Downstream {
            wire: Some(wire),
            exchange,
            silence: Silence::default(),
            timer: None,
            armed: false,
            changes: 0,
            finished: false,
            waited: Duration::ZERO,
            until: None,
            stuck: false,
            interrupted: false,
            absent: false,
            unsent: None,
            empty: None,
        })
    }

    fn heard(&mut self) -> Instant {
        let now = Instant::now();
        self.silence.heard = Some(now);
        now
    }

    fn spoke(&mut self) -> Instant {
        let now = Instant::now();
        self.silence = Silence {
            heard: Some(now),
            spoke: Some(now),
        };
        now
    }

    /// How long the client may take for the next piece of its body.
    fn body_patience(&self) -> Duration {
        let read = self.body_bytes_read() as u64;
        let all = BODY_SILENCE + Duration::from_millis(read * 1000 / BODY_RATE);
        all.saturating_sub(self.waited).min(BODY_SILENCE)
    }

    /// What the silence calls for now.
    fn judge(&self) -> Verdict {
        let answering = self.response_written().is_some();
        let state = self.exchange.state();
        self.silence.judge(
            Instant::now(),
            state.patience.as_ref(),
            answering,
            state.keepalive.is_some() && !self.absent,
        )
    }

    async fn keepalive(&mut self) -> Result<()> {
        let words = self.exchange.state().keepalive.clone().unwrap_or_default();
        self.interrupted = true;
        on_wire!(self, wire => wire.piece(words).await)?;
        self.interrupted = false;
        self.silence.spoke = Some(Instant::now());
        Ok(())
    }

    /// Lets the timer ring at `until` or earlier. Data moves `until` on without touching the timer:
    /// it rings once in a while, finds that it is early, and is set anew.
    fn set_timer(&mut self, until: Instant) {
        match &mut self.timer {
            Some(timer) if timer.is_elapsed() || timer.deadline() > until => {
                timer.as_mut().reset(until);
            }
            Some(_) => return,
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.armed = false;
    }

    /// The client is gone, as this error of its connection says: the error, or the answer goes on
    /// without the client.
    fn left(&mut self, error: Box<Error>) -> Result<()> {
        if !self.exchange.drain.load(Ordering::Relaxed) {
            return Err(error);
        }
        self.absent = true;
        self.exchange.left.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a piece of the answer that nobody is there to read; true at its end.
    fn drop_task(&mut self, task: HttpTask) -> Result<bool> {
        Ok(match task {
            HttpTask::Header(header, end) => {
                self.drop_header(header);
                end
            }
            HttpTask::Body(_, end) | HttpTask::UpgradedBody(_, end) => end,
            HttpTask::Trailer(_) | HttpTask::Done => true,
            HttpTask::Failed(error) => return Err(error),
        })
    }

    fn drop_header(&mut self, header: Box<ResponseHeader>) {
        if !header.status.is_informational() {
            self.unsent = Some(header);
        }
    }

    async fn write_tasks(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        // In boxes what is rare, so that this future fits in a block that allocators have at hand: it is made for each
        // piece of an answer.
        if self.interrupted {
            Box::pin(self.mend()).await?;
        }
        if let Some(Wire::H1(wire)) = &mut self.wire {
            wire.set_close_on_response_before_downstream_finish(true);
            if self.exchange.is_last() && tasks.iter().any(|task| begins(task).is_some()) {
                wire.set_server_keepalive(None);
            }
        }
        let until = self.until;
        let written = {
            let write = async { on_wire!(self, wire => wire.response_duplex_vec(tasks).await) };
            let mut write = pin!(write);
            // Most are written at once, and pay for no timer.
            match (
                poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await,
                until,
            ) {
                (Poll::Ready(written), _) => return written,
                (Poll::Pending, None) => return write.await,
                (Poll::Pending, Some(until)) => Box::pin(timeout_at(until, write)).await,
            }
        };
        written.unwrap_or_else(|_| {
            // The client does not take it: what came in time has not gone out in time.
            self.stuck = true;
            let error = Error::explain(ErrorType::WriteTimedout, "the client reads too slowly");
            Err(error.into_down())
        })
    }

    /// Takes a piece of the answer to be of now, and fails when it comes after the end of all patience.
    fn in_time(&mut self, tasks: &[HttpTask]) -> Result<()> {
        // With a mere hint, such as `103 Early Hints`, no answer has begun.
        let says = |task: &HttpTask| match task {
            HttpTask::Header(header, _) => !header.status.is_informational(),
            HttpTask::Body(data, _) => data.as_ref().is_some_and(|data| !data.is_empty()),
            _ => false,
        };
        let hint = |task: &HttpTask| matches!(task, HttpTask::Header(header, false) if header.status.is_informational());
        if tasks.iter().all(hint) {
            return Ok(());
        }
        let now = match tasks.iter().any(says) {
            true => self.spoke(),
            false => self.heard(),
        };
        if self.response_written().is_none() {
            // With the header another limit begins to hold, which may end before the timer rings.
            self.changes = 0;
            self.until = self.exchange.state().patience.as_ref().map(|p| p.until);
        }
        match self.until {
            Some(until) if until <= now => Error::e_explain(OVERDUE, "the answer took too long"),
            _ => Ok(()),
        }
    }

    /// Closes a keepalive of which only the beginning may have been written: an empty line ends it
    /// as a comment, and alone it means nothing.
    async fn mend(&mut self) -> Result<()> {
        if std::mem::take(&mut self.interrupted) {
            on_wire!(self, wire => wire.mend().await)?;
        }
        Ok(())
    }
}

/// Whether a piece of an answer is its last.
fn ends(task: &HttpTask) -> bool {
    match task {
        HttpTask::Header(_, end) | HttpTask::Body(_, end) | HttpTask::UpgradedBody(_, end) => *end,
        HttpTask::Trailer(_) | HttpTask::Done => true,
        HttpTask::Failed(_) => false,
    }
}

/// The header that an answer begins with.
fn begins(task: &HttpTask) -> Option<&ResponseHeader> {
    match task {
        HttpTask::Header(header, _) if !header.status.is_informational() => Some(header),
        _ => None,
    }
}

/// Writing between two pieces of the proxied answer, in a future that may be dropped half-way.
trait Interject {
    async fn piece(&mut self, data: Bytes) -> Result<()>;
    async fn mend(&mut self) -> Result<()>;
}

impl Interject for H1 {
    async fn piece(&mut self, data: Bytes) -> Result<()> {
        self.send_proxy_task(HttpTask::Body(Some(data), false));
        self.write_proxy_tasks().await.map(|_| ())
    }

    /// Pingora's queued writes survive being dropped: the rest goes out now.
    async fn mend(&mut self) -> Result<()> {
        self.write_proxy_tasks().await.map(|_| ())
    }
}

impl Interject for H2 {
    async fn piece(&mut self, data: Bytes) -> Result<()> {
        self.write_body(data, false).await
    }

    /// How much was written is not known. An empty line ends a half-written comment or event, and
    /// where all or nothing was written it means nothing.
    async fn mend(&mut self) -> Result<()> {
        self.write_body(Bytes::from_static(b"\n\n"), false).await
    }
}

#[async_trait]
impl Session for Downstream {
    fn req_header(&self) -> &RequestHeader {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.req_header(),
            Some(Wire::H2(wire)) => wire.req_header(),
            None => &NOTHING,
        }
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.req_header_mut(),
            Some(Wire::H2(wire)) => wire.req_header_mut(),
            None => self.empty.get_or_insert_with(nothing),
        }
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let (unread, end) = {
            let state = self.exchange.state();
            let end = state.patience.as_ref().map(|patience| patience.until);
            (state.unread.peek(), end)
        };
        let began = Instant::now();
        if end.is_some_and(|end| end <= began) {
            return Error::e_explain(ErrorType::ReadTimedout, "the client's body");
        }
        if self.exchange.is_cutting() {
            return Error::e_explain(CUT, "the client's body");
        }
        if let Some(piece) = unread {
            let len = piece.len();
            let bytes = unread::read(piece)
                .await
                .map_err(|error| Error::because(ErrorType::FileReadError, "spool", error))?;
            // Only now: until here the future may have been dropped.
            self.exchange.state().unread.advance(len);
            return Ok(Some(bytes));
        }
        let until = began + self.body_patience();
        let until = end.map_or(until, |end| end.min(until));
        let read = async { on_wire!(self, wire => wire.read_body_bytes().await) };
        let ending = self.exchange.ending.clone();
        let read = async {
            tokio::select! {
                biased;
                chunk = read => chunk,
                () = ending.cuts() => Error::e_explain(CUT, "the client's body"),
            }
        };
        let chunk = match timeout_at(until, read).await {
            Ok(chunk) => chunk,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the client's body"),
        };
        self.waited += began.elapsed();
        if let (Err(_), Some(Wire::H1(wire))) = (&chunk, &mut self.wire) {
            // Where the next request begins is not known any more.
            wire.set_server_keepalive(None);
        }
        // Before the first attempt nobody waits for an upstream.
        if end.is_some() {
            self.heard();
        }
        chunk
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        on_wire!(self, wire => wire.drain_request_body().await)
    }

    async fn write_response_header(
        &mut self,
        header: Box<ResponseHeader>,
        end: bool,
    ) -> Result<()> {
        if self.absent {
            self.drop_header(header);
            return Ok(());
        }
        self.spoke();
        match &mut self.wire {
            Some(Wire::H1(wire)) => {
                // A `100 Continue` comes before the body by nature: it must not cost the
                // connection its keep-alive.
                let interim = header.status.is_informational();
                wire.set_close_on_response_before_downstream_finish(!interim);
                if self.exchange.is_last() {
                    wire.set_server_keepalive(None);
                }
                wire.write_response_header(header).await?;
                if end {
                    wire.finish_body().await?;
                }
            }
            Some(Wire::H2(wire)) => wire.write_response_header(header, end)?,
            None => return gone(),
        }
        self.finished |= end;
        Ok(())
    }

    async fn write_response_header_ref(
        &mut self,
        header: &ResponseHeader,
        end: bool,
    ) -> Result<()> {
        self.write_response_header(Box::new(header.clone()), end)
            .await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.absent {
            return Ok(());
        }
        if self.stuck {
            return Error::e_explain(ErrorType::WriteTimedout, "within a piece of the answer");
        }
        self.mend().await?;
        self.spoke();
        match &mut self.wire {
            Some(Wire::H1(wire)) => {
                if !data.is_empty() {
                    wire.write_body(&data).await?;
                }
                if end {
                    wire.finish_body().await?;
                }
            }
            Some(Wire::H2(wire)) => wire.write_body(data, end).await?,
            None => return gone(),
        }
        self.finished |= end;
        Ok(())
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        match &mut self.wire {
            _ if self.absent => Ok(()),
            // Pingora does not write HTTP/1.1 trailers, and no client of ours reads them.
            Some(Wire::H1(_)) => Ok(()),
            Some(Wire::H2(wire)) => wire.write_trailers(trailers),
            None => gone(),
        }
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.in_time(&tasks)?;
        if !self.exchange.drain.load(Ordering::Relaxed) {
            return self.write_tasks(tasks).await;
        }
        if !self.absent {
            let fails = tasks.iter().any(|task| matches!(task, HttpTask::Failed(_)));
            let end = tasks.iter().any(ends);
            // It matters on, even if it cannot be written.
            let header = tasks.iter().find_map(begins).cloned().map(Box::new);
            match self.write_tasks(tasks).await {
                // With a failure of the upstream's the answer ends anyway.
                Err(error) if !fails => self.left(error)?,
                written => return written,
            }
            if self.response_written().is_none() {
                self.unsent = header;
            }
            return Ok(end);
        }
        let mut end = false;
        for task in tasks {
            end |= self.drop_task(task)?;
        }
        Ok(end)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        if let Some(Wire::H1(wire)) = &mut self.wire {
            wire.set_read_timeout(timeout);
        }
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.get_read_timeout(),
            _ => None,
        }
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.set_write_timeout(timeout),
            Some(Wire::H2(wire)) => wire.set_write_timeout(timeout),
            None => {}
        }
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.get_write_timeout(),
            Some(Wire::H2(wire)) => wire.get_write_timeout(),
            None => None,
        }
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.set_total_drain_timeout(timeout),
            Some(Wire::H2(wire)) => wire.set_total_drain_timeout(timeout),
            None => {}
        }
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.get_total_drain_timeout(),
            Some(Wire::H2(wire)) => wire.get_total_drain_timeout(),
            None => None,
        }
    }

    /// For Pingora's own log lines: the method and nothing else, since a path may hold a secret.
    fn request_summary(&self) -> String {
        self.req_header().method.to_string()
    }

    /// The answer's header; `100 Continue` is none.
    fn response_written(&self) -> Option<&ResponseHeader> {
        let written = match &self.wire {
            Some(Wire::H1(wire)) => wire.response_written(),
            Some(Wire::H2(wire)) => wire.response_written(),
            None => None,
        };
        written
            .filter(|header| !header.status.is_informational())
            .or(self.unsent.as_deref())
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        match &mut self.wire {
            Some(Wire::H1(wire)) => wire.shutdown().await,
            Some(Wire::H2(wire)) => wire.shutdown(),
            None => {}
        }
    }

    fn is_body_done(&mut self) -> bool {
        if self.exchange.replayed.load(Ordering::Acquire) {
            return true;
        }
        let unread = !self.exchange.state().unread.is_empty();
        match &mut self.wire {
            Some(Wire::H1(wire)) => !unread && wire.is_body_done(),
            Some(Wire::H2(wire)) => !unread && wire.is_body_done(),
            None => true,
        }
    }

    async fn finish(&mut self) -> Result<()> {
        if self.absent {
            return Ok(());
        }
        self.mend().await?;
        match &mut self.wire {
            Some(Wire::H1(wire)) => {
                wire.finish_body().await?;
            }
            Some(Wire::H2(wire)) => wire.finish()?,
            None => return gone(),
        }
        self.finished = true;
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        let replayed = self.exchange.state().replay.as_ref().map(Bytes::is_empty);
        match (&mut self.wire, replayed) {
            (_, Some(empty)) => empty,
            (Some(Wire::H1(wire)), None) => wire.is_body_empty(),
            (Some(Wire::H2(wire)), None) => wire.is_body_empty(),
            (None, None) => true,
        }
    }

    /// More of the body, or, once it is all there, the end of the client's patience or of ours: an
    /// error when the client leaves or the upstream is silent for too long. Pingora polls this for
    /// as long as it waits for the upstream, and drops it whenever the upstream says something.
    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.is_body_done() {
            return self.read_body_bytes().await;
        }
        loop {
            let changes = self.exchange.changes();
            let ticking = self.changes == changes
                && self.timer.as_ref().is_some_and(|timer| !timer.is_elapsed());
            if !ticking {
                self.changes = changes;
                match self.judge() {
                    Verdict::Wait(until) => self.set_timer(until),
                    Verdict::Keepalive => {
                        if let Err(error) = self.keepalive().await {
                            self.left(error)?;
                        }
                        continue;
                    }
                    Verdict::FirstByteOverdue => {
                        return Error::e_explain(FIRST_BYTE_OVERDUE, "no answer in time");
                    }
                    Verdict::Overdue => {
                        return Error::e_explain(OVERDUE, "the answer took too long");
                    }
                    Verdict::Stalled => {
                        return Error::e_explain(STALLED, "the answer stalled");
                    }
                }
            }
            let absent = self.absent;
            let Downstream {
                wire,
                timer,
                armed,
                exchange,
                ..
            } = self;
            let leaves = async {
                match wire {
                    _ if absent => pending().await,
                    Some(Wire::H1(wire)) => wire.read_body_or_idle(true).await,
                    Some(Wire::H2(wire)) => wire.read_body_or_idle(true).await,
                    None => gone(),
                }
            };
            let rings = poll_fn(|cx| match timer {
                Some(timer) if *armed && !timer.is_elapsed() => Poll::Pending,
                Some(timer) => {
                    *armed = true;
                    timer.as_mut().poll(cx)
                }
                None => Poll::Pending,
            });
            tokio::select! {
                biased;
                () = exchange.ending.cuts() => return Error::e_explain(CUT, "the process ends"),
                event = leaves => match event {
                    Err(error) => self.left(error)?,
                    more => return more,
                },
                () = rings => {}
            }
        }
    }

    fn body_bytes_sent(&self) -> usize {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.body_bytes_sent(),
            Some(Wire::H2(wire)) => wire.body_bytes_sent(),
            None => 0,
        }
    }

    fn body_bytes_read(&self) -> usize {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.body_bytes_read(),
            Some(Wire::H2(wire)) => wire.body_bytes_read(),
            None => 0,
        }
    }

    fn digest(&self) -> Option<&Digest> {
        match &self.wire {
            Some(Wire::H1(wire)) => Some(wire.digest()),
            Some(Wire::H2(wire)) => wire.digest(),
            None => None,
        }
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        match &mut self.wire {
            Some(Wire::H1(wire)) => Some(wire.digest_mut()),
            Some(Wire::H2(wire)) => wire.digest_mut(),
            None => None,
        }
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.client_addr(),
            Some(Wire::H2(wire)) => wire.client_addr(),
            None => None,
        }
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        match &self.wire {
            Some(Wire::H1(wire)) => wire.server_addr(),
            Some(Wire::H2(wire)) => wire.server_addr(),
            None => None,
        }
    }

    /// Only Pingora's cache reads this; there is none here.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    /// The replayed body needs no buffer of Pingora's; a streamed one cannot be replayed.
    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        false
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.exchange.state().replay.clone()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    /// There are no custom messages, but Pingora insists on a reader.
    fn take_custom_message_reader(&mut self) -> Option<MessageReader> {
        Some(Box::new(futures::stream::pending()))
    }

    fn restore_custom_message_reader(&mut self, _reader: MessageReader) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(
        &mut self,
        _writer: Box<dyn CustomMessageWrite>,
    ) -> Result<()> {
        Ok(())
    }
}

type MessageReader = Box<dyn futures::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

impl Drop for Downstream {
    fn drop(&mut self) {
        if self.finished {
            self.exchange.state().finished = self.wire.take();
        }
    }
}
