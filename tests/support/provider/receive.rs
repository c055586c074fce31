//! Reading a request: strict, because what a gateway sends upstream should leave nothing to interpret.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::seen::find;

pub(super) struct Head {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    /// `Connection: close` was asked for.
    pub last: bool,
    body: Body,
    expects: bool,
}

enum Body {
    Length(usize),
    Chunked,
}

/// The next head; `None` when the connection ends between requests, an error when it is no HTTP/1.1.
pub(super) async fn head(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Result<Option<Head>, String> {
    let end = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n", 0) {
            break end;
        }
        if buffer.len() > 1 << 20 {
            return Err("a head above 1 MiB".to_owned());
        }
        match stream.read_buf(buffer).await {
            Ok(n) if n > 0 => {}
            _ if buffer.is_empty() => return Ok(None),
            _ => {
                return Err(format!(
                    "the connection ended within a head: {:?}",
                    String::from_utf8_lossy(buffer)
                ));
            }
        }
    };
    let bytes = buffer.split_to(end + 4);
    parse(&String::from_utf8_lossy(&bytes[..end])).map(Some)
}

fn parse(text: &str) -> Result<Head, String> {
    let wrong = |why: &str| format!("{why}: {text:?}");
    let mut lines = text.split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let &[method, path, "HTTP/1.1"] = line.as_slice() else {
        return Err(wrong("request line"));
    };
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| wrong("header without a colon"))?;
        if name.is_empty() || name.contains([' ', '\t', '\r', '\n']) {
            return Err(wrong("header name"));
        }
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let all = |name: &str| -> Vec<&str> {
        headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    };
    if all("host").len() != 1 {
        return Err(wrong("not exactly one Host"));
    }
    let body = match (
        all("content-length").as_slice(),
        all("transfer-encoding").as_slice(),
    ) {
        ([], []) => Body::Length(0),
        ([length], []) => Body::Length(length.parse().map_err(|_| wrong("Content-Length"))?),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Body::Chunked,
        _ => return Err(wrong("ambiguous framing")),
    };
    let last = all("connection")
        .iter()
        .any(|value| value.to_ascii_lowercase().contains("close"));
    let expects = all("expect")
        .iter()
        .any(|value| value.eq_ignore_ascii_case("100-continue"));
    Ok(Head {
        method: method.to_owned(),
        path: path.to_owned(),
        last,
        body,
        expects,
        headers,
    })
}

/// The whole body (nothing of it if it is dropped on arrival), reporting how much has arrived.
/// `Err(None)`: the other side left; `Err(Some)`: malformed.
pub(super) async fn body(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    head: &Head,
    discard: bool,
    mut arrived: impl FnMut(usize),
) -> Result<Bytes, Option<String>> {
    if head.expects && buffer.is_empty() {
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
    }
    match head.body {
        Body::Length(0) => Ok(Bytes::new()),
        Body::Length(length) if discard => {
            let mut left = length;
            while left > 0 {
                if buffer.is_empty() {
                    more(stream, buffer).await?;
                }
                let taken = left.min(buffer.len());
                buffer.advance(taken);
                left -= taken;
                arrived(length - left);
            }
            Ok(Bytes::new())
        }
        Body::Length(length) => {
            while buffer.len() < length {
                if !buffer.is_empty() {
                    arrived(buffer.len());
                }
                more(stream, buffer).await?;
            }
            arrived(length);
            Ok(buffer.split_to(length).freeze())
        }
        Body::Chunked => chunks(stream, buffer, discard, arrived).await,
    }
}

async fn chunks(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    discard: bool,
    mut arrived: impl FnMut(usize),
) -> Result<Bytes, Option<String>> {
    let mut body = BytesMut::new();
    let mut total = 0;
    loop {
        let line = line(stream, buffer).await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size =
            usize::from_str_radix(size, 16).map_err(|_| Some(format!("chunk size {line:?}")))?;
        if size == 0 {
            break;
        }
        while buffer.len() < size + 2 {
            more(stream, buffer).await?;
        }
        let chunk = buffer.split_to(size);
        total += chunk.len();
        if !discard {
            body.extend_from_slice(&chunk);
        }
        arrived(total);
        if &buffer.split_to(2)[..] != b"\r\n" {
            return Err(Some("a chunk that does not end where it says".to_owned()));
        }
    }
    while !line(stream, buffer).await?.is_empty() {}
    Ok(body.freeze())
}

async fn line(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<String, Option<String>> {
    loop {
        if let Some(end) = find(buffer, b"\r\n", 0) {
            let line = buffer.split_to(end + 2);
            return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        more(stream, buffer).await?;
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<(), Option<String>> {
    match stream.read_buf(buffer).await {
        Ok(n) if n > 0 => Ok(()),
        _ => Err(None),
    }
}
