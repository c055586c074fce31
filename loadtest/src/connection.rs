//! One client connection of HTTP/1.1: sends prebuilt bytes, reads answers into a buffer that is never reallocated.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;
use crate::http::{Body, Head, Malformed, response_head};

/// Room for a response head, and for the pieces of a body.
const BUFFER: usize = 16 * 1024;

/// The longest answer that is kept, in bytes. An account with thousands of keys is some of them.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// A keep-alive connection to the proxy under test, over plain TCP unless something else is named.
pub struct Connection<S = TcpStream> {
    stream: S,
    buffer: Box<[u8]>,
    /// The unread part of the buffer.
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection::over(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends a request and reads its whole answer; `answer` is cleared first and holds the body.
    /// Returns the status, and whether the server closes the connection.
    pub async fn exchange(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Result<(u16, bool)> {
        answer.clear();
        let mut head = self.start(request).await?;
        while !self.read(&mut head.body, answer).await? {}
        if self.start != self.end {
            return Err(Malformed("bytes after the answer").into());
        }
        Ok((head.status, head.close))
    }

    /// Sends a request and reads the head of its answer.
    pub async fn start(&mut self, request: &[u8]) -> Result<Head> {
        self.stream.write_all(request).await?;
        // TLS holds back what is not flushed.
        self.stream.flush().await?;
        loop {
            if let Some(head) = response_head(&self.buffer[self.start..self.end])? {
                self.start += head.length;
                // An interim answer: the one that counts follows.
                if head.status >= 200 {
                    return Ok(head);
                }
                continue;
            }
            self.fill().await?;
        }
    }

    /// Reads the next piece of a body onto `answer`; true once the body is complete.
    pub async fn read(&mut self, body: &mut Body, answer: &mut Vec<u8>) -> Result<bool> {
        if self.start == self.end && *body != Body::Length(0) {
            self.fill().await?;
        }
        let (used, complete) = body.feed(&self.buffer[self.start..self.end], |piece| {
            answer.extend_from_slice(piece)
        })?;
        self.start += used;
        if answer.len() > LONGEST_ANSWER {
            return Err("the answer is longer than 16 MiB".into());
        }
        Ok(complete)
    }

    /// The connection alone, between two requests.
    pub fn into_stream(self) -> S {
        self.stream
    }

    /// One that is there already.
    pub fn over(stream: S) -> Self {
        Connection {
            stream,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Whether no byte is here that was not read: of an answer that did not come, not one came.
    pub fn is_silent(&self) -> bool {
        self.start == self.end
    }

    async fn fill(&mut self) -> Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            return Err(Malformed("a head longer than 16 KiB").into());
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err("the connection was closed".into()),
            length => {
                self.end += length;
                Ok(())
            }
        }
    }
}
