//! The fake provider: answers every request with the same chat completion, or with a stream of stamped events.
//! One thread, one task a connection, nothing allocated for a plain answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::Result;
use crate::http::{self, Body, Malformed};

macro_rules! answer {
    () => {
        concat!(
            r#"{"id":"chatcmpl-load","object":"chat.completion","created":1750000000,"#,
            r#""model":"bench-model","choices":[{"index":0,"message":{"role":"assistant","#,
            r#""content":"A gate for the payers."},"finish_reason":"stop"}],"#,
            r#""usage":{"prompt_tokens":42,"completion_tokens":9,"total_tokens":51}}"#,
        )
    };
}

/// The body of every plain answer.
pub const ANSWER: &[u8] = answer!().as_bytes();

const _: () = assert!(ANSWER.len() == 274);

const RESPONSE: &[u8] = concat!(
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 274\r\n\r\n",
    answer!()
)
.as_bytes();

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

const USAGE: &str = concat!(
    r#"data: {"id":"chatcmpl-loadtest","object":"chat.completion.chunk","created":1750000000,"model":"bench-model","#,
    r#""choices":[],"usage":{"prompt_tokens":42,"completion_tokens":9,"total_tokens":51}}"#,
    "\n\n"
);

const DONE: &str = "data: [DONE]\n\n";

/// Connections beyond these wait until one is closed.
const MOST_CONNECTIONS: usize = 32 * 1024;

/// The most events and the longest interval that a request may ask for.
const MOST_EVENTS: u64 = 1_000_000;
const LONGEST_INTERVAL_MS: u64 = 60_000;

/// How a stream is paced when the request does not say.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many events, without usage and end.
    pub events: u64,
    /// Milliseconds between two events.
    pub interval_ms: u64,
}

/// Serves until the process ends.
pub async fn serve(bind: SocketAddr, pace: Pace) -> Result<()> {
    let listener = TcpListener::bind(bind).await?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let seat = Arc::clone(&room).acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A proxy that closes its connection is no failure of the provider.
            let _ = converse(stream, pace).await;
            drop(seat);
        });
    }
}

/// Answers the requests of one connection.
async fn converse(mut stream: TcpStream, default: Pace) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        let head_length = loop {
            if let Some(length) = http::head_length(&buffer[..filled]) {
                break length;
            }
            filled += read(&mut stream, &mut buffer[filled..]).await?;
        };
        let mut pace = default;
        let mut body = http::framing(&buffer[..head_length])?.unwrap_or(Body::Length(0));
        for (name, value) in http::fields(&buffer[..head_length]) {
            if name.eq_ignore_ascii_case(b"x-events") {
                pace.events = http::number(value).unwrap_or(pace.events);
            } else if name.eq_ignore_ascii_case(b"x-interval-ms") {
                pace.interval_ms = http::number(value).unwrap_or(pace.interval_ms);
            }
        }
        let mut wish = Wish::default();
        let mut at = head_length;
        loop {
            let (used, complete) = body.feed(&buffer[at..filled], |piece| wish.read(piece))?;
            at += used;
            if complete {
                break;
            }
            at = 0;
            filled = read(&mut stream, &mut buffer).await?;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if wish.stream() {
            send_events(&mut stream, pace).await?;
        } else {
            stream.write_all(RESPONSE).await?;
        }
    }
}

/// Reads something; a closed connection and a full buffer are errors.
async fn read(stream: &mut TcpStream, room: &mut [u8]) -> Result<usize> {
    match stream.read(room).await? {
        0 => Err(Malformed("closed, or a head that is too long").into()),
        length => Ok(length),
    }
}

/// Sends events at their times, each with the time at which it was sent.
async fn send_events(stream: &mut TcpStream, pace: Pace) -> Result<()> {
    let interval = Duration::from_millis(pace.interval_ms.min(LONGEST_INTERVAL_MS));
    let begin = Instant::now();
    let mut bytes = STREAM_HEAD.to_vec();
    for number in 0..pace.events.min(MOST_EVENTS) {
        sleep_until(begin + interval * u32::try_from(number)?).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let event = format!(
            concat!(
                r#"data: {{"id":"chatcmpl-loadtest","object":"chat.completion.chunk","created":1750000000,"#,
                r#""model":"bench-model","choices":[{{"index":0,"delta":{{"content":"word "}},"finish_reason":null}}],"#,
                r#""t":{}}}"#,
                "\n\n"
            ),
            now
        );
        add_chunk(&mut bytes, &event);
        stream.write_all(&bytes).await?;
        bytes.clear();
    }
    add_chunk(&mut bytes, USAGE);
    add_chunk(&mut bytes, DONE);
    bytes.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&bytes).await?;
    Ok(())
}

/// Adds a chunk of a chunked body.
pub fn add_chunk(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(format!("{:x}\r\n", text.len()).as_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(b"\r\n");
}

/// Finds `"stream":true` in a body of any size, read in pieces.
#[derive(Default)]
struct Wish {
    matched: usize,
}

impl Wish {
    const TEXT: &'static [u8] = br#""stream":true"#;

    fn stream(&self) -> bool {
        self.matched == Self::TEXT.len()
    }

    fn read(&mut self, piece: &[u8]) {
        // Quick past the inside of long texts, such as images.
        if self.matched == 0 && !piece.contains(&Self::TEXT[0]) {
            return;
        }
        for byte in piece {
            match Self::TEXT.get(self.matched) {
                None => return,
                Some(next) if next == byte => self.matched += 1,
                // One space after the colon is as good as none.
                Some(b't') if self.matched == 9 && *byte == b' ' => {}
                Some(_) => self.matched = usize::from(*byte == Self::TEXT[0]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wish_for_a_stream_is_found_across_pieces() {
        let body =
            br#"{"model":"m","messages":[{"content":"\"stream\":true ""stream"}], "stream": true}"#;
        // The last byte is the closing brace.
        for cut in 0..body.len() - 1 {
            let mut wish = Wish::default();
            wish.read(&body[..cut]);
            assert!(!wish.stream());
            wish.read(&body[cut..]);
            assert!(wish.stream());
        }
        let mut wish = Wish::default();
        wish.read(br#"{"stream":false,"content":"\"stream\":true"}"#);
        assert!(!wish.stream());
    }
}
