//! The record of one request.

use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;

use super::receive::Head;

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Receiving,
    Answering,
    /// Answered to the end.
    Complete,
    /// Broken off by the script.
    Broken,
    /// The other side left before the answer was complete.
    Cancelled,
}

#[derive(Clone, Debug)]
pub struct Seen {
    /// Counts from 0, over all connections.
    pub number: usize,
    /// Counts from 0.
    pub connection: usize,
    pub method: String,
    /// Path and query, as received.
    pub path: String,
    /// As received, in order, names in their own case.
    pub headers: Vec<(String, String)>,
    /// Empty until it has arrived whole.
    pub body: Bytes,
    /// Bytes of the body that have arrived.
    pub received: usize,
    /// The body's `model`: a JSON member or a multipart field.
    pub model: Option<String>,
    pub head_at: Instant,
    pub first_body: Option<Instant>,
    pub body_done: Option<Instant>,
    pub ended: Option<Instant>,
    pub outcome: Outcome,
}

/// One part of a multipart body.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: String,
    pub filename: Option<String>,
    pub data: Bytes,
}

impl Seen {
    pub(super) fn new(number: usize, connection: usize, head: &Head) -> Seen {
        Seen {
            number,
            connection,
            method: head.method.clone(),
            path: head.path.clone(),
            headers: head.headers.clone(),
            body: Bytes::new(),
            received: 0,
            model: None,
            head_at: Instant::now(),
            first_body: None,
            body_done: None,
            ended: None,
            outcome: Outcome::Receiving,
        }
    }

    pub(super) fn receive(&mut self, received: usize) {
        self.received = received;
        self.first_body.get_or_insert_with(Instant::now);
    }

    pub(super) fn complete(&mut self, body: Bytes) {
        self.body = body;
        self.body_done = Some(Instant::now());
        self.model = match self.json().get("model") {
            Some(model) => model.as_str().map(str::to_owned),
            None => self.field("model"),
        };
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        self.ended = Some(Instant::now());
    }

    pub fn cancelled(&self) -> bool {
        self.outcome == Outcome::Cancelled
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.header_all(name).into_iter().next()
    }

    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The path without its query.
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    pub fn query(&self) -> Option<&str> {
        self.path.split_once('?').map(|(_, query)| query)
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A multipart field as text.
    pub fn field(&self, name: &str) -> Option<String> {
        let part = self.parts().into_iter().find(|part| part.name == name)?;
        Some(String::from_utf8_lossy(&part.data).into_owned())
    }

    /// The parts of a multipart body, in their order.
    pub fn parts(&self) -> Vec<Part> {
        let Some(boundary) = self.header("content-type").and_then(boundary) else {
            return Vec::new();
        };
        let fence = format!("--{boundary}");
        let mut parts = Vec::new();
        let mut at = match find(&self.body, fence.as_bytes(), 0) {
            Some(at) => at + fence.len(),
            None => return parts,
        };
        let close = format!("\r\n{fence}");
        while self.body[at..].starts_with(b"\r\n") {
            let Some(end) = find(&self.body, close.as_bytes(), at) else {
                break;
            };
            if let Some(part) = part(self.body.slice(at + 2..end.max(at + 2))) {
                parts.push(part);
            }
            at = end + close.len();
        }
        parts
    }
}

fn boundary(content_type: &str) -> Option<&str> {
    let at = content_type.to_ascii_lowercase().find("boundary=")? + "boundary=".len();
    let value = content_type[at..].split(';').next()?.trim();
    content_type
        .to_ascii_lowercase()
        .starts_with("multipart/")
        .then(|| value.trim_matches('"'))
}

fn part(bytes: Bytes) -> Option<Part> {
    let end = find(&bytes, b"\r\n\r\n", 0)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let disposition = head.lines().find(|line| {
        line.to_ascii_lowercase()
            .starts_with("content-disposition:")
    })?;
    let parameter = |key: &str| {
        disposition.split(';').find_map(|piece| {
            Some(
                piece
                    .trim()
                    .strip_prefix(key)?
                    .strip_prefix('=')?
                    .trim_matches('"')
                    .to_owned(),
            )
        })
    };
    Some(Part {
        name: parameter("name")?,
        filename: parameter("filename"),
        data: bytes.slice(end + 4..),
    })
}

pub(super) fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    // Skipping to the first byte keeps this bearable on megabytes in a debug build.
    let first = *needle.first()?;
    let mut at = from;
    while at + needle.len() <= haystack.len() {
        at += haystack[at..].iter().position(|&byte| byte == first)?;
        if haystack[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
    None
}
