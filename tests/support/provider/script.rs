//! What the provider does with one request: a list of steps over a raw socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

/// A gate that a test opens; scripts wait at it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everybody through, from now on.
    pub fn open(&self) {
        self.0.close();
    }

    /// Lets `n` waiting steps through, now or later.
    pub fn pass(&self, n: usize) {
        self.0.add_permits(n);
    }

    async fn wait(&self) {
        // An error means closed, which is how `open` is told.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Sends the status line and the headers now; otherwise they go with the first bytes of the body.
    Head,
    /// Body bytes, in one write and, when chunked, in one chunk.
    Chunk(Bytes),
    /// The same for a piece of an event stream: the text is sent as it is, blank line included.
    Event(String),
    Wait(Duration),
    WaitFor(Gate),
    /// Ends the answer properly (last chunk), then closes with FIN. Before the head: FIN without a byte.
    Close,
    /// FIN without the last chunk, or before `Content-Length` is reached.
    CutChunked,
    /// RST.
    Reset,
    /// Nothing more, with the connection open.
    Stall,
    /// Bytes outside of any framing.
    Garbage(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// A builder. `Script::answer(200).json(&value)`, or `Script::sse().event("data: {}\n\n").gate(&gate).cut()`.
#[derive(Clone, Debug)]
pub struct Script {
    status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    length: Option<usize>,
    steps: Vec<Step>,
    pub(super) early: bool,
}

/// How an answer ended, and so what becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Kept,
    Closed,
    Cut,
    Reset,
}

impl Script {
    fn new(status: u16, framing: Framing) -> Script {
        Script {
            status,
            headers: Vec::new(),
            framing,
            length: None,
            steps: Vec::new(),
            early: false,
        }
    }

    /// An answer whose `Content-Length` is the sum of its chunks.
    pub fn answer(status: u16) -> Script {
        Script::new(status, Framing::Length)
    }

    /// A chunked answer.
    pub fn chunked(status: u16) -> Script {
        Script::new(status, Framing::Chunked)
    }

    /// 200, `text/event-stream`, chunked.
    pub fn sse() -> Script {
        Script::chunked(200)
            .header("content-type", "text/event-stream; charset=utf-8")
            .header("cache-control", "no-cache")
    }

    /// An answer that ends with the connection, as HTTP/1.0 had it; finish it with `close`.
    pub fn until_close(status: u16) -> Script {
        Script::new(status, Framing::UntilClose).header("connection", "close")
    }

    /// RST before any byte.
    pub fn reset_at_once() -> Script {
        Script::answer(200).reset()
    }

    /// FIN before any byte.
    pub fn close_at_once() -> Script {
        Script::answer(200).close()
    }

    /// Never answers.
    pub fn silent() -> Script {
        Script::answer(200).stall()
    }

    /// Bytes that are not HTTP, then FIN.
    pub fn garbage(bytes: impl Into<Bytes>) -> Script {
        Script::answer(200)
            .step(Step::Garbage(bytes.into()))
            .step(Step::CutChunked)
    }

    pub fn header(mut self, name: &str, value: &str) -> Script {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(self, bytes: impl Into<Bytes>) -> Script {
        self.step(Step::Chunk(bytes.into()))
    }

    pub fn json(self, value: &Value) -> Script {
        self.header("content-type", "application/json")
            .body(value.to_string())
    }

    /// A `Content-Length` other than the true one.
    pub fn length(mut self, length: usize) -> Script {
        self.length = Some(length);
        self
    }

    /// Answers as soon as the request's head is read, before its body. Only for `Provider::next`:
    /// the model is not known by then.
    pub fn early(mut self) -> Script {
        self.early = true;
        self
    }

    pub fn step(mut self, step: Step) -> Script {
        self.steps.push(step);
        self
    }

    pub fn head(self) -> Script {
        self.step(Step::Head)
    }

    pub fn chunk(self, bytes: impl Into<Bytes>) -> Script {
        self.step(Step::Chunk(bytes.into()))
    }

    pub fn event(self, text: &str) -> Script {
        self.step(Step::Event(text.to_owned()))
    }

    /// `data: …` and a blank line.
    pub fn data(self, data: &str) -> Script {
        self.event(&format!("data: {data}\n\n"))
    }

    pub fn wait(self, time: Duration) -> Script {
        self.step(Step::Wait(time))
    }

    pub fn gate(self, gate: &Gate) -> Script {
        self.step(Step::WaitFor(gate.clone()))
    }

    pub fn close(self) -> Script {
        self.step(Step::Close)
    }

    pub fn cut(self) -> Script {
        self.step(Step::CutChunked)
    }

    pub fn reset(self) -> Script {
        self.step(Step::Reset)
    }

    pub fn stall(self) -> Script {
        self.step(Step::Stall)
    }

    /// Status line and headers, as they go out.
    fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.framing {
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::Length if self.status != 204 && self.status != 304 => {
                let sum = self.steps.iter().map(|step| step.body().len()).sum();
                head.push_str(&format!(
                    "content-length: {}\r\n",
                    self.length.unwrap_or(sum)
                ));
            }
            Framing::Length | Framing::UntilClose => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Plays the steps. An error is the other side's leaving.
    pub(super) async fn play(
        &self,
        out: &mut (impl AsyncWrite + Unpin),
        bodiless: bool,
    ) -> std::io::Result<End> {
        let mut head = Some(self.head_bytes());
        for step in &self.steps {
            match step {
                Step::Head => out.write_all(&head.take().unwrap_or_default()).await?,
                Step::Chunk(_) | Step::Event(_) => {
                    let mut bytes = head.take().unwrap_or_default();
                    if !bodiless && !step.body().is_empty() {
                        self.frame(step.body(), &mut bytes);
                    }
                    out.write_all(&bytes).await?;
                }
                Step::Wait(time) => tokio::time::sleep(*time).await,
                Step::WaitFor(gate) => gate.wait().await,
                Step::Garbage(bytes) => {
                    head = None;
                    out.write_all(bytes).await?;
                }
                Step::Close => {
                    if head.is_none() {
                        self.finish(out, bodiless).await?;
                    }
                    return Ok(End::Closed);
                }
                Step::CutChunked => return Ok(End::Cut),
                Step::Reset => return Ok(End::Reset),
                Step::Stall => std::future::pending().await,
            }
        }
        if let Some(head) = head.take() {
            out.write_all(&head).await?;
        }
        self.finish(out, bodiless).await?;
        Ok(if self.framing == Framing::UntilClose {
            End::Closed
        } else {
            End::Kept
        })
    }

    fn frame(&self, bytes: &[u8], into: &mut Vec<u8>) {
        if self.framing == Framing::Chunked {
            into.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            into.extend_from_slice(bytes);
            into.extend_from_slice(b"\r\n");
        } else {
            into.extend_from_slice(bytes);
        }
    }

    async fn finish(
        &self,
        out: &mut (impl AsyncWrite + Unpin),
        bodiless: bool,
    ) -> std::io::Result<()> {
        if self.framing == Framing::Chunked && !bodiless {
            out.write_all(b"0\r\n\r\n").await?;
        }
        out.flush().await
    }
}

impl Step {
    fn body(&self) -> &[u8] {
        match self {
            Step::Chunk(bytes) => bytes,
            Step::Event(text) => text.as_bytes(),
            _ => &[],
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Overloaded",
        _ => "Scripted",
    }
}
