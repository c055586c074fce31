//! Finds the `model` field of a `multipart/form-data` body while the body streams by, and the two by
//! which images are billed, `n` and `size`, which may come behind it.
//!
//! RFC 7578 and RFC 2046 §5.1. Only part headers and these fields' values are ever held. Strict on
//! purpose: where parsers are known to differ (folded headers, bare line feeds, a preamble or an
//! epilogue, transfer encodings, two boundaries), the model that we authorise and the one that the
//! provider runs could differ too, and no SDK sends any of that.

mod header;

use header::{boundary, field};
use memchr::memmem::Finder;
use std::ops::Range;

/// A part's headers may take so much; browsers and SDKs send under 300 bytes.
const MAX_PART_HEADER: usize = 8 << 10;
/// A model's name, or another value that is read, may take so much.
const MAX_VALUE: usize = 1 << 10;
/// Sizes are written as `1024x1024`; a longer text is none that has a price.
const MAX_SIZE: usize = 32;

/// The `model` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelField {
    /// Its value.
    pub value: String,
    /// Where the value stands in the body, in bytes from its start.
    pub span: Range<u64>,
}

/// A field that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Who is to serve the request.
    Model,
    /// How many answers.
    N,
    /// Of which size the images are to be.
    Size,
}

impl Field {
    const ALL: [Field; 3] = [Field::Model, Field::N, Field::Size];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Field::Model => "model",
            Field::N => "n",
            Field::Size => "size",
        }
    }
}

/// What is wrong with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A field that comes twice: whoever reads the other one serves another model.
    Repeated(Field),
    /// A field whose name is the right one in another case or spelling.
    Variant(Field),
    /// A part's header, or a value that is read, is too long.
    TooLong,
    /// A value is not UTF-8, or has control characters; or `n` is no number.
    BadValue(Field),
    /// Not a multipart body with the boundary that its content type names.
    Malformed,
}

/// Reads the body piece by piece.
pub struct MultipartScan {
    content_type: String,
    /// `\r\n--boundary`.
    delimiter: Finder<'static>,
    place: Place,
    /// What was not decided yet: the beginning of it stands at `offset`.
    pending: Vec<u8>,
    offset: u64,
    model: Option<ModelField>,
    answers: Option<u64>,
    /// As it was sent; empty if that was no size.
    size: Option<Box<str>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter, which must come at once.
    Start,
    /// Inside a part that is not read.
    Skipping,
    /// Right behind a delimiter.
    BehindDelimiter,
    /// In a part's headers.
    Header,
    /// In a value that is read.
    Value(Field),
    /// Behind the last delimiter.
    End,
}

impl MultipartScan {
    /// A scan of a body with this content type; `None` if it is no form with a plain boundary.
    pub fn new(content_type: &str) -> Option<MultipartScan> {
        let boundary = boundary(content_type)?;
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        Some(MultipartScan {
            content_type: format!("multipart/form-data; boundary={boundary}"),
            delimiter: Finder::new(&delimiter).into_owned(),
            place: Place::Start,
            // The first delimiter stands at the very start, without its line break: this stands in
            // for it.
            pending: b"\r\n".to_vec(),
            offset: 0u64.wrapping_sub(2),
            model: None,
            answers: None,
            size: None,
        })
    }

    /// The content type in the one form that every parser reads alike.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The model's field, once it has been read whole.
    pub fn model(&self) -> Option<&ModelField> {
        self.model.as_ref()
    }

    /// How many answers are wanted, as far as has been read: at least 1.
    pub fn answers(&self) -> u64 {
        self.answers.unwrap_or(1).max(1)
    }

    /// The size that the images are to have, as far as has been read.
    pub fn size(&self) -> Option<&str> {
        self.size.as_deref().filter(|size| !size.is_empty())
    }

    /// The last delimiter has been seen.
    pub fn ended(&self) -> bool {
        self.place == Place::End
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// [`Fault`]; the body must not go further.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.pending.extend_from_slice(piece);
        while self.step()? {}
        Ok(())
    }

    /// One decision; false when more bytes are needed.
    fn step(&mut self) -> Result<bool, Fault> {
        let delimiter = self.delimiter.needle().len();
        match self.place {
            Place::End => match self.pending.iter().all(|byte| b"\r\n".contains(byte)) {
                true => {
                    self.consume(self.pending.len());
                    Ok(false)
                }
                false => Err(Fault::Malformed),
            },
            Place::Start => {
                let (have, want) = (self.pending.as_slice(), self.delimiter.needle());
                let common = have.len().min(want.len());
                if have.get(..common) != want.get(..common) {
                    return Err(Fault::Malformed);
                }
                if have.len() < want.len() {
                    return Ok(false);
                }
                self.consume(delimiter);
                self.place = Place::BehindDelimiter;
                Ok(true)
            }
            Place::Skipping => match self.delimiter.find(&self.pending) {
                Some(at) => {
                    self.consume(at + delimiter);
                    self.place = Place::BehindDelimiter;
                    Ok(true)
                }
                None => {
                    let keep = self.pending.len().min(delimiter - 1);
                    self.consume(self.pending.len() - keep);
                    Ok(false)
                }
            },
            Place::BehindDelimiter => match self.pending.get(..2) {
                None => Ok(false),
                Some(b"--") => {
                    self.consume(2);
                    self.place = Place::End;
                    Ok(true)
                }
                Some(b"\r\n") => {
                    // The line break stays: an empty header is then the same two breaks in a row.
                    self.place = Place::Header;
                    Ok(true)
                }
                Some(_) => Err(Fault::Malformed),
            },
            Place::Header => match memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                None if self.pending.len() > MAX_PART_HEADER => Err(Fault::TooLong),
                None => Ok(false),
                Some(end) if end > MAX_PART_HEADER => Err(Fault::TooLong),
                Some(end) => {
                    let field = field(self.pending.get(..end).unwrap_or_default())?;
                    if let Some(field) = field.filter(|field| self.has(*field)) {
                        return Err(Fault::Repeated(field));
                    }
                    self.consume(end + 4);
                    self.place = field.map_or(Place::Skipping, Place::Value);
                    Ok(true)
                }
            },
            Place::Value(field) => match self.delimiter.find(&self.pending) {
                None if self.pending.len() > MAX_VALUE + delimiter => Err(Fault::TooLong),
                None => Ok(false),
                Some(at) if at > MAX_VALUE => Err(Fault::TooLong),
                Some(at) => {
                    self.read(field, at)?;
                    self.consume(at + delimiter);
                    self.place = Place::BehindDelimiter;
                    Ok(true)
                }
            },
        }
    }

    fn has(&self, field: Field) -> bool {
        match field {
            Field::Model => self.model.is_some(),
            Field::N => self.answers.is_some(),
            Field::Size => self.size.is_some(),
        }
    }

    /// Reads a value that ends `at` so many bytes of what is pending.
    fn read(&mut self, field: Field, at: usize) -> Result<(), Fault> {
        let bad = Fault::BadValue(field);
        let raw = self.pending.get(..at).unwrap_or_default();
        let value = std::str::from_utf8(raw).map_err(|_| bad)?;
        if value.chars().any(char::is_control) {
            return Err(bad);
        }
        match field {
            Field::Model => {
                self.model = Some(ModelField {
                    value: value.to_owned(),
                    span: self.offset..self.offset + at as u64,
                });
            }
            // An empty field is one that was not filled in.
            Field::N if value.is_empty() => self.answers = Some(1),
            Field::N => self.answers = Some(value.parse().map_err(|_| bad)?),
            Field::Size => {
                let sized = Some(value).filter(|size| size.len() <= MAX_SIZE);
                self.size = Some(sized.unwrap_or_default().into());
            }
        }
        Ok(())
    }

    fn consume(&mut self, count: usize) {
        self.pending.drain(..count);
        self.offset = self.offset.wrapping_add(count as u64);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
