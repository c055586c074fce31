//! The protocol of Redis, version 2: as much as a test needs.

use std::collections::BTreeMap;

/// What Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status such as `OK`.
    Text(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
    /// As sent: `ERR …`, `MOVED …`, `NOSCRIPT …`.
    Error(String),
}

impl Reply {
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Reply::Text(text) => text.clone(),
            Reply::Bulk(bytes) => String::from_utf8(bytes.clone()).expect("text"),
            other => panic!("expected text, got {other:?}"),
        }
    }

    /// Redis keeps numbers as text: either will do.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Reply::Int(value) => *value,
            Reply::Bulk(_) => match self.text().parse() {
                Ok(value) => value,
                Err(_) => panic!("expected a number, got {self:?}"),
            },
            other => panic!("expected a number, got {other:?}"),
        }
    }

    #[track_caller]
    pub fn array(&self) -> &[Reply] {
        match self {
            Reply::Array(items) => items,
            other => panic!("expected an array, got {other:?}"),
        }
    }

    /// The items of an array, as text.
    #[track_caller]
    pub fn texts(&self) -> Vec<String> {
        self.array().iter().map(Reply::text).collect()
    }

    /// What `HGETALL` answers, by field.
    #[track_caller]
    pub fn fields(&self) -> BTreeMap<String, String> {
        let texts = self.texts();
        assert_eq!(texts.len() % 2, 0, "a field without a value: {self:?}");
        texts
            .chunks_exact(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect()
    }

    pub fn is_nil(&self) -> bool {
        *self == Reply::Nil
    }

    /// What went wrong, if anything did.
    pub fn error(&self) -> Option<&str> {
        match self {
            Reply::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The reply, which is no error.
    #[track_caller]
    pub fn ok(self) -> Reply {
        if let Reply::Error(text) = &self {
            panic!("redis refuses: {text}");
        }
        self
    }
}

pub(super) fn request(parts: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
    }
    bytes
}

/// A whole reply; nothing if a part of it is still to come.
pub(super) fn parse(bytes: &[u8]) -> Option<Reply> {
    let mut rest = bytes;
    let reply = next(&mut rest)?;
    assert!(rest.is_empty(), "redis answers twice: {bytes:?}");
    Some(reply)
}

fn next(rest: &mut &[u8]) -> Option<Reply> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&rest[..end]).expect("a line of text");
    *rest = &rest[end + 2..];
    let (kind, value) = line.split_at_checked(1).expect("a reply's first letter");
    let number = || -> i64 { value.parse().expect("a number") };
    // A negative length is how version 2 says that there is nothing.
    let length = || usize::try_from(number()).ok();
    Some(match kind {
        "+" => Reply::Text(value.to_owned()),
        "-" => Reply::Error(value.to_owned()),
        ":" => Reply::Int(number()),
        "$" => match length() {
            None => Reply::Nil,
            Some(length) => {
                let bytes = rest.get(..length)?.to_vec();
                *rest = rest.get(length + 2..)?;
                Reply::Bulk(bytes)
            }
        },
        "*" => match length() {
            None => Reply::Nil,
            Some(length) => {
                let items: Option<Vec<Reply>> = (0..length).map(|_| next(rest)).collect();
                Reply::Array(items?)
            }
        },
        _ => panic!("not a reply: {line:?}"),
    })
}
