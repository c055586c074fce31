//! The little of HTTP/1.1 that both ends need: header fields, response heads, bodies with a length, chunked bodies.

use std::fmt;

/// What makes a message unreadable.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed HTTP: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// How the body that follows is framed.
    pub body: Body,
    /// Whether the server closes the connection after this answer.
    pub close: bool,
    /// How many bytes the head took.
    pub length: usize,
}

/// A body being read: what is left of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes are left.
    Length(u64),
    /// Chunks, up to the empty one.
    Chunked(Chunk),
}

/// Where a reader stands within a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// In a size line: its digits so far, and how many there were.
    Size(u64, u8),
    /// In the rest of a size line.
    Extension(u64),
    /// In a chunk with so many bytes left.
    Bytes(u64),
    /// Before the line end that follows a chunk.
    End,
    /// In the trailer: the length of the line so far.
    Trailer(u16),
}

impl Body {
    /// A chunked body at its start.
    pub fn chunked() -> Self {
        Body::Chunked(Chunk::Size(0, 0))
    }

    /// Reads what `input` has of the body, handing its pieces to `sink`.
    /// Returns how many bytes were used, and whether the body is complete.
    pub fn feed(
        &mut self,
        input: &[u8],
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(usize, bool), Malformed> {
        match self {
            Body::Length(left) => {
                let piece = take(input, left);
                sink(piece);
                Ok((piece.len(), *left == 0))
            }
            Body::Chunked(chunk) => {
                let mut used = 0;
                while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
                    if let Chunk::Bytes(left) = chunk {
                        let piece = take(rest, left);
                        sink(piece);
                        used += piece.len();
                        if *left == 0 {
                            *chunk = Chunk::End;
                        }
                        continue;
                    }
                    used += 1;
                    if chunk.step(rest[0])? {
                        return Ok((used, true));
                    }
                }
                Ok((used, false))
            }
        }
    }
}

impl Chunk {
    /// Reads one byte between chunks; true after the last line of the body.
    fn step(&mut self, byte: u8) -> Result<bool, Malformed> {
        *self = match (&*self, byte) {
            (Chunk::Size(size, digits), _) if byte.is_ascii_hexdigit() && *digits < 15 => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                Chunk::Size(size * 16 + u64::from(digit), digits + 1)
            }
            (Chunk::Size(size, 1..), b'\r' | b';' | b' ') => Chunk::Extension(*size),
            (Chunk::Extension(0), b'\n') => Chunk::Trailer(0),
            (Chunk::Extension(size), b'\n') => Chunk::Bytes(*size),
            (Chunk::Extension(size), _) => Chunk::Extension(*size),
            (Chunk::End, b'\r') => Chunk::End,
            (Chunk::End, b'\n') => Chunk::Size(0, 0),
            (Chunk::Trailer(0), b'\n') => return Ok(true),
            (Chunk::Trailer(_), b'\n') => Chunk::Trailer(0),
            (Chunk::Trailer(length), b'\r') => Chunk::Trailer(*length),
            (Chunk::Trailer(length), _) if *length < 4096 => Chunk::Trailer(length + 1),
            _ => return Err(Malformed("chunked body")),
        };
        Ok(false)
    }
}

/// Takes at most `left` bytes off the front of `input`.
fn take<'a>(input: &'a [u8], left: &mut u64) -> &'a [u8] {
    let length = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(input.len());
    *left -= length as u64;
    &input[..length]
}

/// The length of the head at the front of `input`, its empty line included, once it is complete.
pub fn head_length(input: &[u8]) -> Option<usize> {
    input
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The header fields of a head, without its first line.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
}

/// A field's value as a decimal number.
pub fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The body's framing as a head announces it, if it does.
pub fn framing(head: &[u8]) -> Result<Option<Body>, Malformed> {
    let mut framing = None;
    for (name, value) in fields(head) {
        let found = if name.eq_ignore_ascii_case(b"content-length") {
            Body::Length(number(value).ok_or(Malformed("content-length"))?)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding")
            && value.eq_ignore_ascii_case(b"chunked")
        {
            Body::chunked()
        } else {
            continue;
        };
        if framing.replace(found).is_some() {
            return Err(Malformed("two framings of one body"));
        }
    }
    Ok(framing)
}

/// Reads a response head from the front of `input`; `None` while it is incomplete.
pub fn response_head(input: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some(length) = head_length(input) else {
        return Ok(None);
    };
    let head = &input[..length];
    let status = head
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| head.strip_prefix(b"HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .and_then(number)
        .ok_or(Malformed("status line"))? as u16;
    let body = match (framing(head)?, status) {
        (_, 100..200 | 204 | 304) => Body::Length(0),
        (Some(body), _) => body,
        (None, _) => return Err(Malformed("a body without a length")),
    };
    let close = fields(head).any(|(name, value)| {
        name.eq_ignore_ascii_case(b"connection") && value.eq_ignore_ascii_case(b"close")
    });
    Ok(Some(Head {
        status,
        body,
        close,
        length,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Outcome = Result<(), Malformed>;

    #[test]
    fn a_head_is_read_once_it_is_complete() -> Outcome {
        let wire = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length:  17\r\nConnection: Close\r\n\r\nbody";
        for cut in 0..wire.len() - 4 {
            assert_eq!(response_head(&wire[..cut])?, None);
        }
        let expected = Head {
            status: 429,
            body: Body::Length(17),
            close: true,
            length: wire.len() - 4,
        };
        assert_eq!(response_head(wire)?, Some(expected));
        Ok(())
    }

    #[test]
    fn heads_that_cannot_be_framed_are_refused() {
        for wire in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/2 200\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(response_head(wire.as_bytes()).is_err(), "{wire}");
        }
    }

    #[test]
    fn a_chunked_body_is_the_same_however_it_is_cut() -> Outcome {
        let wire = b"5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nt: v\r\n\r\nnext";
        let end = wire.len() - 4;
        for step in 1..=wire.len() {
            let (mut body, mut text, mut at, mut done) = (Body::chunked(), Vec::new(), 0, false);
            while !done {
                let input = &wire[at..wire.len().min(at + step)];
                let (used, complete) = body.feed(input, |piece| text.extend_from_slice(piece))?;
                at += used;
                done = complete;
            }
            assert_eq!(
                (text.as_slice(), at),
                (b"helloabcdefghijklmnopqrstuvwxyz".as_slice(), end)
            );
        }
        Ok(())
    }

    #[test]
    fn a_broken_chunk_is_refused() {
        for wire in ["\r\n", "g\r\n", "1\r\nab", "1234567890abcdef0\r\n"] {
            assert!(
                Body::chunked().feed(wire.as_bytes(), |_| ()).is_err(),
                "{wire}"
            );
        }
    }

    #[test]
    fn a_body_with_a_length_leaves_what_follows() -> Outcome {
        let mut body = Body::Length(5);
        assert_eq!(body.feed(b"abc", |_| ())?, (3, false));
        assert_eq!(body.feed(b"defg", |_| ())?, (2, true));
        Ok(())
    }
}
