//! HTTP/2 of the generators: one connection, many streams.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use h2::client::{SendRequest, handshake};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri};
use tokio::sync::Mutex;

use super::tls::{self, Offer};
use crate::Result;
use crate::http::{fields, head_length};

/// Ways that share a connection.
const SHARED: usize = 8;

/// The longest answer that is kept, in bytes.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// The last connection that was opened; further ways to the same server join it.
static LAST: Mutex<Option<(SocketAddr, Weak<Trunk>)>> = Mutex::const_new(None);

/// A connection that several ways share; closed with the last of them.
pub struct Trunk {
    streams: SendRequest<Bytes>,
    /// Nobody joins it any more.
    broken: AtomicBool,
}

impl Trunk {
    /// A connection with room for another way.
    pub async fn join(address: SocketAddr) -> Result<Arc<Self>> {
        // Held while connecting: who comes meanwhile joins too.
        let mut last = LAST.lock().await;
        if let Some((to, trunk)) = &*last
            && *to == address
            && trunk.strong_count() < SHARED
            && let Some(trunk) = trunk.upgrade()
            && !trunk.broken.load(Ordering::Relaxed)
        {
            return Ok(trunk);
        }
        let stream = tls::connect(address, Offer::Http2).await?;
        let (streams, connection) = handshake(stream).await?;
        tokio::spawn(async move {
            // How it ends, those hear who use it.
            let _ = connection.await;
        });
        let trunk = Arc::new(Trunk {
            streams,
            broken: AtomicBool::new(false),
        });
        *last = Some((address, Arc::downgrade(&trunk)));
        Ok(trunk)
    }

    /// Sends a request, given as the bytes of HTTP/1.1, and reads its whole answer; `answer` is cleared first and holds
    /// the body. Returns the status.
    pub async fn exchange(&self, request: &[u8], answer: &mut Vec<u8>) -> Result<u16> {
        let status = self.stream(request, answer).await;
        if status.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        status
    }

    async fn stream(&self, request: &[u8], answer: &mut Vec<u8>) -> Result<u16> {
        answer.clear();
        let (request, body) = translate(request)?;
        let mut streams = self.streams.clone().ready().await?;
        let (response, mut stream) = streams.send_request(request, false)?;
        // What the server has no room for yet waits with the connection.
        stream.send_data(body, true)?;
        let (head, mut body) = response.await?.into_parts();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            answer.extend_from_slice(&piece);
            if answer.len() > LONGEST_ANSWER {
                return Err("the answer is longer than 16 MiB".into());
            }
        }
        Ok(head.status.as_u16())
    }
}

/// Head and body of a request of HTTP/1.1, as HTTP/2 has them.
fn translate(bytes: &[u8]) -> Result<(Request<()>, Bytes)> {
    let length = head_length(bytes).ok_or("a request without an end of its head")?;
    let (head, body) = bytes.split_at(length);
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(head);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path) = match [words.next(), words.next(), words.next(), words.next()] {
        [Some(method), Some(path), Some(b"HTTP/1.1"), None] => (method, path),
        _ => return Err("not a request of HTTP/1.1".into()),
    };
    let mut authority = None;
    let mut headers = HeaderMap::new();
    for (name, value) in fields(head) {
        let name = HeaderName::from_bytes(name)?;
        if name == HOST {
            authority = Some(value);
        } else if name != CONNECTION && name != CONTENT_LENGTH {
            headers.append(name, HeaderValue::from_bytes(value)?);
        }
    }
    let target = Uri::builder()
        .scheme("https")
        .authority(authority.ok_or("a request without a host")?)
        .path_and_query(path)
        .build()?;
    let mut request = Request::builder().method(method).uri(target).body(())?;
    *request.headers_mut() = headers;
    Ok((request, Bytes::copy_from_slice(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Answer, Target, request};

    #[test]
    fn a_request_is_translated() -> Result<()> {
        let target: Target = "http://127.0.0.1:8080/v1/chat/completions".parse()?;
        let (request, body) = translate(&request(&target, "sk-1", Answer::Whole, b"{}"))?;
        assert_eq!(request.method(), "POST");
        assert_eq!(request.uri(), "https://127.0.0.1:8080/v1/chat/completions");
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["authorization", "content-type"]);
        assert_eq!(request.headers()["authorization"], "Bearer sk-1");
        assert_eq!(body, "{}");
        for bytes in [
            "",
            "GET / HTTP/1.0\r\nhost: h\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\n",
        ] {
            assert!(translate(bytes.as_bytes()).is_err(), "{bytes}");
        }
        Ok(())
    }
}
