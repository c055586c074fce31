//! The fake provider: answers every request with the same chat completion, or with a stream of stamped events, as its
//! [`Script`] says: late, large, or not at all. One thread, one task a connection, nothing allocated for a plain answer.
//!
//! The providers of `ledger`, `upstreams` and `hostile` keep books of every request or misbehave in ways that no header
//! can ask for; this one keeps nothing, so that it costs next to nothing beside what is measured.

mod answer;
mod fault;
mod latency;
mod line;
mod script;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::Result;
use crate::http::{self, Body};
use crate::rng::Random;
pub use answer::{ANSWER, add_chunk};
use fault::Kind;
use line::Line;
pub use script::Script;

/// Connections beyond these wait until one is closed.
const MOST_CONNECTIONS: usize = 32 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Serves until the process ends. The seed decides what is left to chance.
pub async fn serve(bind: SocketAddr, script: Script, seed: u64) -> Result<()> {
    let listener = listen(bind)?;
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Each connection draws from numbers of its own: others do not disturb them.
    let mut seeds = Random::new(seed);
    loop {
        let seat = Arc::clone(&room).acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        let random = Random::new(seeds.draw());
        tokio::spawn(async move {
            // A proxy that closes its connection is no failure of the provider.
            let _ = converse(stream, script, random).await;
            drop(seat);
        });
    }
}

/// Many connections may come at once.
fn listen(bind: SocketAddr) -> Result<TcpListener> {
    let socket = match bind {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(bind)?;
    Ok(socket.listen(BACKLOG)?)
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, default: Script, mut random: Random) -> Result<()> {
    let mut line = Line::new(stream)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        let head_length = loop {
            if let Some(length) = http::head_length(&buffer[..filled]) {
                break length;
            }
            filled += line.read(&mut buffer[filled..]).await?;
        };
        let head = &buffer[..head_length];
        let mut body = http::framing(head)?.unwrap_or(Body::Length(0));
        let script = default.with_headers(head);
        let mut wish = Wish::default();
        let mut at = head_length;
        loop {
            let (used, complete) = body.feed(&buffer[at..filled], |piece| wish.read(piece))?;
            at += used;
            if complete {
                break;
            }
            at = 0;
            filled = line.read(&mut buffer).await?;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        match script {
            Ok(script) => answer(&mut line, &script, wish.stream(), &mut random).await?,
            Err(error) => answer::send_error(&mut line, 400, &error.to_string()).await?,
        }
    }
}

/// Answers one request as the script says.
async fn answer(line: &mut Line, script: &Script, stream: bool, random: &mut Random) -> Result<()> {
    if let Some(latency) = &script.latency {
        sleep(latency.draw(random)).await;
    }
    if let Some(kind) = script.fault.and_then(|fault| fault.draw(random)) {
        line.fail(kind).await?;
        if matches!(kind, Kind::Status(_)) {
            return Ok(());
        }
    }
    match stream {
        true => answer::send_events(line, script).await,
        false => answer::send_whole(line, script.answer_bytes).await,
    }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    /// What comes for a request with some headers, until the connection is closed or as many bytes are there.
    async fn ask(headers: &str, body: &str, enough: usize) -> Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        let (stream, _) = listener.accept().await?;
        let script = Script {
            events: 2,
            interval_ms: 0,
            latency: None,
            answer_bytes: None,
            fault: None,
        };
        let provider = tokio::spawn(async move {
            let _ = converse(stream, script, Random::new(1)).await;
        });
        let length = body.len();
        let request = format!("POST / HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n{body}");
        client.write_all(request.as_bytes()).await?;
        let mut bytes = vec![0; enough];
        let mut filled = 0;
        while filled < enough {
            match client.read(&mut bytes[filled..]).await? {
                0 => break,
                length => filled += length,
            }
        }
        bytes.truncate(filled);
        drop(client);
        provider.await?;
        Ok(bytes)
    }

    #[tokio::test]
    async fn an_answer_has_the_size_that_is_asked_for() -> Result<()> {
        for size in [answer::SMALLEST as usize, 300, 65_536 + 300, 1_000_000] {
            let headers = format!("x-answer-bytes: {size}\r\nx-latency: 1us\r\n");
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
            );
            let bytes = ask(&headers, "{}", head.len() + size).await?;
            let body = bytes.strip_prefix(head.as_bytes()).ok_or("another head")?;
            let json: serde_json::Value = serde_json::from_slice(body)?;
            assert_eq!(
                (body.len(), &json["usage"]["total_tokens"]),
                (size, &51.into())
            );
        }
        Ok(())
    }

    #[tokio::test]
    async fn faults_do_what_they_say() -> Result<()> {
        let status = ask("x-fault: status=429\r\n", "{}", 20).await?;
        assert!(status.starts_with(b"HTTP/1.1 429 "));
        assert_eq!(ask("x-fault: cut=40\r\n", "{}", 1000).await?.len(), 40);
        assert_eq!(
            ask("x-fault: cut=9\r\n", r#"{"stream":true}"#, 1000)
                .await?
                .len(),
            9
        );
        let garbage = ask("x-fault: garbage\r\n", "{}", 1000).await?;
        assert!(http::response_head(&garbage).is_err() && !garbage.is_empty());
        assert!(ask("x-fault: reset\r\n", "{}", 1).await.is_err());
        let well = ask("x-fault: reset@0\r\n", "{}", 15).await?;
        assert_eq!(well, b"HTTP/1.1 200 OK");
        Ok(())
    }

    #[tokio::test]
    async fn a_script_that_cannot_be_read_is_an_answer_that_says_so() -> Result<()> {
        let bytes = ask("x-latency: soon\r\n", "{}", 130).await?;
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            text.starts_with("HTTP/1.1 400 ") && text.contains("x-latency: "),
            "{text}"
        );
        Ok(())
    }
}
