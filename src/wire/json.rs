//! Strict JSON (RFC 8259), read in place: no tree, no recursion, constant memory.
//!
//! The gateway reads a handful of fields of a body and passes the rest on byte for byte.
//! What it lets through, every parser behind it must read the same way, so anything that
//! parsers disagree on (lone surrogates, `NaN`, numbers beyond an f64, control characters
//! inside strings) is refused here.

use std::fmt;
use std::ops::Range;

mod cursor;
mod text;
pub(crate) use cursor::Cursor;
pub use text::{decode_string, encode_string};
pub(crate) use text::{plain_run, structure_run};

/// Arrays and objects may nest this deep; no provider's API needs a tenth of it.
pub const MAX_DEPTH: usize = 512;

/// Why a body is not one JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// The byte at `offset` (or the end of the body, if `offset` is its length) is not `expected`.
    Syntax {
        /// Bytes from the start of the body.
        offset: usize,
        /// What would have been right here, in words.
        expected: &'static str,
    },
    /// The body is not UTF-8 from this byte on.
    Utf8 {
        /// Bytes from the start of the body.
        offset: usize,
    },
    /// More than `limit` arrays and objects inside each other.
    TooDeep {
        /// The limit, [`MAX_DEPTH`].
        limit: usize,
    },
    /// A number that no f64 can hold, such as `1e400`.
    NumberOutOfRange {
        /// Bytes from the start of the body to the number.
        offset: usize,
    },
    /// Nothing but white space.
    Empty,
    /// Something follows the value.
    TrailingBytes {
        /// Bytes from the start of the body to the first byte too many.
        offset: usize,
    },
    /// Some other JSON value than an object.
    NotAnObject,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { offset, expected } => {
                write!(f, "unexpected byte at offset {offset}: expected {expected}")
            }
            Self::Utf8 { offset } => write!(f, "not UTF-8 at offset {offset}"),
            Self::TooDeep { limit } => write!(f, "nested deeper than {limit} levels"),
            Self::NumberOutOfRange { offset } => {
                write!(f, "number out of range at offset {offset}")
            }
            Self::Empty => f.write_str("the body is empty"),
            Self::TrailingBytes { offset } => {
                write!(
                    f,
                    "unexpected bytes after the JSON value at offset {offset}"
                )
            }
            Self::NotAnObject => f.write_str("the body must be a JSON object"),
        }
    }
}

impl std::error::Error for JsonError {}

/// The kind of a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    String,
    Number,
    Object,
    Array,
    True,
    False,
    Null,
}

/// One member of the top-level object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// The key as it stands between its quotes, escapes and all.
    pub key: &'a [u8],
    /// Where `key` stands in the body, quotes excluded.
    pub key_range: Range<usize>,
    /// Where the value stands in the body, quotes or brackets included.
    pub value: Range<usize>,
    /// What the value is.
    pub kind: Kind,
}

/// Validates the whole of `body` as one JSON object and calls `each` for every member of
/// its top level, in order. Returns where the object stands, braces included.
///
/// # Errors
/// The first fault found. Members before it have been handed out by then: discard what was
/// gathered from them.
pub fn object_members(
    body: &[u8],
    each: &mut dyn FnMut(Member<'_>),
) -> Result<Range<usize>, JsonError> {
    // Once for the whole body: the scan itself then only looks at ASCII.
    std::str::from_utf8(body).map_err(|e| JsonError::Utf8 {
        offset: e.valid_up_to(),
    })?;
    let mut cursor = Cursor::strict(body);
    cursor.space();
    match cursor.peek() {
        None => return Err(JsonError::Empty),
        Some(b'{') => {}
        Some(b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
            return Err(JsonError::NotAnObject);
        }
        Some(_) => return Err(cursor.fail("a value")),
    }
    let object = cursor.object(&mut |cursor, key_range| {
        let (value, kind) = cursor.value()?;
        let key = body.get(key_range.clone()).unwrap_or_default();
        each(Member {
            key,
            key_range,
            value,
            kind,
        });
        Ok(())
    })?;
    cursor.space();
    match cursor.peek() {
        None => Ok(object),
        Some(_) => Err(JsonError::TrailingBytes {
            offset: cursor.offset(),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
