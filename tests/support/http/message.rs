//! Heads, answers and events, as they came.

use bytes::Bytes;
use serde_json::Value;

use super::Broken;

/// What is left of the body being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Nothing,
    Length(usize),
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// What came of it, even if it broke off.
    pub body: Bytes,
    pub broken: Option<Broken>,
}

/// One event of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: Option<String>,
    pub data: String,
    /// The bytes as they came, blank line included.
    pub raw: String,
}

impl Head {
    pub(super) fn parse(text: &str) -> Option<Head> {
        let mut lines = text.split("\r\n");
        let status = lines
            .next()?
            .strip_prefix("HTTP/1.")?
            .split(' ')
            .nth(1)?
            .parse()
            .ok()?;
        let headers = lines
            .map(|line| {
                line.split_once(':')
                    .map(|(n, v)| (n.to_owned(), v.trim().to_owned()))
            })
            .collect::<Option<_>>()?;
        Some(Head { status, headers })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(super) fn body(&self) -> Result<Body, Broken> {
        if self.status == 204 || self.status == 304 {
            return Ok(Body::Nothing);
        }
        match (
            self.header("transfer-encoding"),
            self.header("content-length"),
        ) {
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Body::Chunked),
            (None, Some(length)) => length
                .parse()
                .map(Body::Length)
                .map_err(|_| Broken::Malformed),
            (None, None) => Ok(Body::UntilClose),
            _ => Err(Broken::Malformed),
        }
    }
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails the test when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} is not JSON ({error}): {:?}", self.status, self.text())
        })
    }

    pub fn events(&self) -> Vec<Event> {
        events(&self.text())
    }
}

impl Event {
    /// The data as JSON, or null (`[DONE]`).
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or(Value::Null)
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// The whole events of a stream; comments are events without a name or data.
pub fn events(text: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut raw = String::new();
    for line in text.split_inclusive('\n') {
        raw.push_str(line);
        if line.trim_end_matches(['\r', '\n']).is_empty() && line.ends_with('\n') {
            events.push(event(std::mem::take(&mut raw)));
        }
    }
    events
}

fn event(raw: String) -> Event {
    let field = |name: &str| -> Vec<&str> {
        raw.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.strip_prefix(' ').unwrap_or(value))
            .collect()
    };
    let (name, data) = (
        field("event").first().map(|name| (*name).to_owned()),
        field("data").join("\n"),
    );
    Event { name, data, raw }
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
