//! A raw HTTP/1.1 client: what a test sends is what goes out, and how an answer ended is part of the answer.

mod message;

pub use message::{Event, Head, Response, events};

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use message::{Body, find};

/// How long a read waits before it fails the test.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One connection. Requests follow each other on it for as long as the other side keeps it open.
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    body: Body,
    host: String,
}

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// FIN too early.
    Closed,
    /// RST.
    Reset,
    /// Nothing came in time; the connection is still open.
    Silent,
    /// The framing is wrong.
    Malformed,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Client {
        Client::try_connect(addr)
            .await
            .unwrap_or_else(|error| panic!("connect to {addr}: {error}"))
    }

    pub async fn try_connect(addr: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream,
            buffer: BytesMut::new(),
            body: Body::Nothing,
            host: addr.to_string(),
        })
    }

    /// This side's address: the client address that the gateway sees.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes)
            .await
            .unwrap_or_else(|error| panic!("send: {error}"));
    }

    pub async fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a whole request and does not wait. `Host` and, with a body, `Content-Length` are added unless given.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut bytes = self.request_head(method, path, headers, Some(body.len()));
        bytes.extend_from_slice(body);
        self.send_raw(&bytes).await;
    }

    /// Sends the head alone, for a body in pieces: `Transfer-Encoding: chunked` and then `send_chunk`,
    /// or a `Content-Length` among the headers and then `send_raw`.
    pub async fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) {
        let bytes = self.request_head(method, path, headers, None);
        self.send_raw(&bytes).await;
    }

    /// One chunk of a chunked body; an empty one ends it.
    pub async fn send_chunk(&mut self, bytes: &[u8]) {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send_raw(&chunk).await;
    }

    fn request_head(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: Option<usize>,
    ) -> Vec<u8> {
        let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !given("host") {
            head.push_str(&format!("Host: {}\r\n", self.host));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length
            && (length > 0 || method == "POST")
            && !given("content-length")
            && !given("transfer-encoding")
        {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// A whole exchange. A body that breaks off is told in `broken`; no answer at all fails the test.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        self.try_request(method, path, headers, body)
            .await
            .unwrap_or_else(|why| panic!("{method} {path}: no answer: {why:?}"))
    }

    pub async fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Broken> {
        let mut bytes = self.request_head(method, path, headers, Some(body.len()));
        bytes.extend_from_slice(body);
        // An early refusal may close the sending side while its answer is still to be read.
        let _ = self.try_send_raw(&bytes).await;
        if method == "HEAD" {
            let Head { status, headers } = self.try_read_head(PATIENCE).await?;
            self.body = Body::Nothing;
            return Ok(Response {
                status,
                headers,
                body: Bytes::new(),
                broken: None,
            });
        }
        self.try_response().await
    }

    pub async fn get(&mut self, path: &str, key: &str) -> Response {
        self.request(
            "GET",
            path,
            &[("Authorization", &format!("Bearer {key}"))],
            b"",
        )
        .await
    }

    pub async fn post_json(&mut self, path: &str, key: &str, body: &Value) -> Response {
        let headers = [
            ("Authorization", &*format!("Bearer {key}")),
            ("Content-Type", "application/json"),
        ];
        self.request("POST", path, &headers, body.to_string().as_bytes())
            .await
    }

    /// Sends a request, and leaves its answer for later.
    pub async fn send_json(&mut self, path: &str, key: &str, body: &Value) {
        let headers = [
            ("Authorization", &*format!("Bearer {key}")),
            ("Content-Type", "application/json"),
        ];
        self.send("POST", path, &headers, body.to_string().as_bytes())
            .await;
    }

    /// Reads a whole answer.
    pub async fn response(&mut self) -> Response {
        self.try_response()
            .await
            .unwrap_or_else(|why| panic!("no answer: {why:?}"))
    }

    pub async fn try_response(&mut self) -> Result<Response, Broken> {
        let Head { status, headers } = self.try_read_head(PATIENCE).await?;
        let (body, broken) = self.rest().await;
        Ok(Response {
            status,
            headers,
            body,
            broken,
        })
    }

    /// Reads what is left of the body, and why it broke off, if it did.
    pub async fn rest(&mut self) -> (Bytes, Option<Broken>) {
        let mut body = BytesMut::new();
        loop {
            match self.next_chunk(PATIENCE).await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return (body.freeze(), None),
                Err(why) => return (body.freeze(), Some(why)),
            }
        }
    }

    /// Reads status and headers; the body then comes by `next_chunk`, `next_event` or `rest`.
    pub async fn read_head(&mut self) -> Head {
        self.try_read_head(PATIENCE)
            .await
            .unwrap_or_else(|why| panic!("no head: {why:?}"))
    }

    pub async fn try_read_head(&mut self, patience: Duration) -> Result<Head, Broken> {
        let deadline = Instant::now() + patience;
        loop {
            while let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text =
                    String::from_utf8_lossy(&self.buffer.split_to(end + 4)[..end]).into_owned();
                let head = Head::parse(&text).ok_or(Broken::Malformed)?;
                // 100 and 103 come before the answer.
                if head.status >= 200 {
                    self.body = head.body()?;
                    return Ok(head);
                }
            }
            self.more(deadline).await?;
        }
    }

    /// The next piece of the body: a transfer chunk as it was sent, or what has arrived of an unchunked body.
    /// `Ok(None)` is the proper end.
    pub async fn next_chunk(&mut self, patience: Duration) -> Result<Option<Bytes>, Broken> {
        let deadline = Instant::now() + patience;
        loop {
            match self.body {
                Body::Nothing => return Ok(None),
                Body::Length(0) => self.body = Body::Nothing,
                Body::Length(left) if !self.buffer.is_empty() => {
                    let piece = self.buffer.split_to(left.min(self.buffer.len())).freeze();
                    self.body = Body::Length(left - piece.len());
                    return Ok(Some(piece));
                }
                Body::UntilClose if !self.buffer.is_empty() => {
                    return Ok(Some(self.buffer.split().freeze()));
                }
                Body::Chunked => {
                    if let Some(chunk) = self.buffered_chunk()? {
                        if chunk.is_empty() {
                            self.body = Body::Nothing;
                            return Ok(None);
                        }
                        return Ok(Some(chunk));
                    }
                    self.more(deadline).await?;
                }
                Body::UntilClose => match self.more(deadline).await {
                    Err(Broken::Closed) => self.body = Body::Nothing,
                    other => other?,
                },
                Body::Length(_) => self.more(deadline).await?,
            }
        }
    }

    /// A chunk, if it is whole in the buffer; an empty one is the last, its trailers included.
    fn buffered_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(line) = find(&self.buffer, b"\r\n") else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&self.buffer[..line]).into_owned();
        let size = text.split(';').next().unwrap_or_default().trim().to_owned();
        let size = usize::from_str_radix(&size, 16).map_err(|_| Broken::Malformed)?;
        let start = line + 2;
        if size == 0 {
            let end = if self.buffer[start..].starts_with(b"\r\n") {
                Some(start)
            } else {
                find(&self.buffer[start..], b"\r\n\r\n").map(|at| start + at + 2)
            };
            let Some(end) = end else { return Ok(None) };
            self.buffer.advance(end + 2);
            return Ok(Some(Bytes::new()));
        }
        if self.buffer.len() < start + size + 2 {
            return Ok(None);
        }
        self.buffer.advance(start);
        let chunk = self.buffer.split_to(size).freeze();
        if &self.buffer.split_to(2)[..] != b"\r\n" {
            return Err(Broken::Malformed);
        }
        Ok(Some(chunk))
    }

    /// All events of the stream that is being read, and how it broke off, if it did. Half an event is not one.
    pub async fn events(&mut self) -> (Vec<Event>, Option<Broken>) {
        let (body, broken) = self.rest().await;
        (events(&String::from_utf8_lossy(&body)), broken)
    }

    /// Reads chunks up to the end of the next event and answers all that this completed: one, as a rule.
    /// `Ok` of nothing is the end. The unfinished rest is kept by `pending`, which starts empty.
    pub async fn next_events(
        &mut self,
        pending: &mut String,
        patience: Duration,
    ) -> Result<Vec<Event>, Broken> {
        while let Some(chunk) = self.next_chunk(patience).await? {
            pending.push_str(&String::from_utf8_lossy(&chunk));
            let end = [("\n\n", 2), ("\r\n\r\n", 4)]
                .iter()
                .filter_map(|(end, len)| Some(pending.rfind(end)? + len))
                .max();
            if let Some(end) = end {
                let rest = pending.split_off(end);
                return Ok(events(&std::mem::replace(pending, rest)));
            }
        }
        Ok(Vec::new())
    }

    /// Whether the other side closes within this time; what it still sends is dropped.
    pub async fn closes(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            match self.more(deadline).await {
                Ok(()) => self.buffer.clear(),
                Err(why) => return why != Broken::Silent,
            }
        }
    }

    /// Leaves with FIN on the sending side and keeps reading.
    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Leaves with RST.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    async fn more(&mut self, deadline: Instant) -> Result<(), Broken> {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => Err(Broken::Silent),
            Ok(Ok(0)) => Err(Broken::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Broken::Reset),
        }
    }
}
