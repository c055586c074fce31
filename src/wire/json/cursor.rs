//! A place in a JSON text that moves forward value by value.

use std::ops::Range;

use super::text::{plain_run, read_escape};
use super::{JsonError, Kind, MAX_DEPTH};

/// Gets the range of a key, quotes excluded, and must consume the value.
type OnMember<'f, 'a> = &'f mut dyn FnMut(&mut Cursor<'a>, Range<usize>) -> Result<(), JsonError>;

/// A place in a JSON text, moved forward value by value.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    strict: bool,
}

impl<'a> Cursor<'a> {
    /// Refuses whatever RFC 8259 does; UTF-8 is the caller's check.
    pub(crate) fn strict(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            depth: 0,
            strict: true,
        }
    }

    /// For what providers send: escapes and scalars are not checked. Real streams split a
    /// surrogate pair over two events and print `NaN`; that must not cost the usage figures.
    pub(crate) fn lenient(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            depth: 0,
            strict: false,
        }
    }

    /// Bytes passed so far.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(crate) fn fail(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax {
            offset: self.at,
            expected,
        }
    }

    pub(crate) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Whether only white space is left.
    pub(crate) fn at_end(&mut self) -> bool {
        self.space();
        self.peek().is_none()
    }

    /// Reads the object here, member by member. Returns its range.
    pub(crate) fn object(&mut self, each: OnMember<'_, 'a>) -> Result<Range<usize>, JsonError> {
        let start = self.at;
        self.open(b'{', "an object")?;
        self.space();
        if self.peek() == Some(b'}') {
            return Ok(self.close(start));
        }
        loop {
            let key = self.key()?;
            each(self, key)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return Ok(self.close(start)),
                _ => return Err(self.fail("',' or '}'")),
            }
            self.space();
        }
    }

    /// Reads the array here; `each` must consume one element. Returns the array's range.
    pub(crate) fn array(
        &mut self,
        each: &mut dyn FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<Range<usize>, JsonError> {
        let start = self.at;
        self.open(b'[', "an array")?;
        self.space();
        if self.peek() == Some(b']') {
            return Ok(self.close(start));
        }
        loop {
            each(self)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return Ok(self.close(start)),
                _ => return Err(self.fail("',' or ']'")),
            }
            self.space();
        }
    }

    fn open(&mut self, bracket: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(bracket) {
            return Err(self.fail(expected));
        }
        if self.depth >= MAX_DEPTH {
            return Err(JsonError::TooDeep { limit: MAX_DEPTH });
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self, start: usize) -> Range<usize> {
        self.depth -= 1;
        self.at += 1;
        start..self.at
    }

    /// A key and its colon; stops before the value.
    fn key(&mut self) -> Result<Range<usize>, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.fail("a key in quotes"));
        }
        let key = self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.fail("':'"));
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    /// Passes over one value of any kind.
    pub(crate) fn value(&mut self) -> Result<(Range<usize>, Kind), JsonError> {
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{') => {
                self.nest()?;
                Kind::Object
            }
            Some(b'[') => {
                self.nest()?;
                Kind::Array
            }
            _ => self.scalar()?,
        };
        Ok((start..self.at, kind))
    }

    fn scalar(&mut self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| Kind::String),
            Some(b't') => self.literal(b"true", Kind::True),
            Some(b'f') => self.literal(b"false", Kind::False),
            Some(b'n') => self.literal(b"null", Kind::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'N' | b'I') if !self.strict => {
                self.word();
                Ok(Kind::Number)
            }
            _ => Err(self.fail("a value")),
        }
    }

    /// Passes over the array or object here with everything in it.
    fn nest(&mut self) -> Result<(), JsonError> {
        // One bit a level, set for an object.
        let mut stack = [0u64; MAX_DEPTH / 64];
        let floor = self.depth;
        loop {
            // Here stands a value; containers are entered, not skipped.
            let opened = match self.peek() {
                Some(b'{') => Some(true),
                Some(b'[') => Some(false),
                _ => None,
            };
            if let Some(is_object) = opened {
                if self.depth >= MAX_DEPTH {
                    return Err(JsonError::TooDeep { limit: MAX_DEPTH });
                }
                let (word, bit) = (self.depth / 64 % stack.len(), 1u64 << (self.depth % 64));
                stack[word] = if is_object {
                    stack[word] | bit
                } else {
                    stack[word] & !bit
                };
                self.depth += 1;
                self.at += 1;
                self.space();
                let end = if is_object { b'}' } else { b']' };
                if self.peek() != Some(end) {
                    if is_object {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.scalar()?;
                self.space();
            }
            // A value has ended, or an empty container is about to.
            loop {
                let level = self.depth - 1;
                let is_object = stack[level / 64 % stack.len()] >> (level % 64) & 1 == 1;
                match (is_object, self.peek()) {
                    (true, Some(b'}')) | (false, Some(b']')) => {
                        self.at += 1;
                        self.depth = level;
                        if level == floor {
                            return Ok(());
                        }
                        self.space();
                    }
                    (true, Some(b',')) => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        break;
                    }
                    (false, Some(b',')) => {
                        self.at += 1;
                        self.space();
                        break;
                    }
                    (true, _) => return Err(self.fail("',' or '}'")),
                    (false, _) => return Err(self.fail("',' or ']'")),
                }
            }
        }
    }

    /// Passes over the string here; returns what is between the quotes.
    pub(crate) fn string(&mut self) -> Result<Range<usize>, JsonError> {
        let start = self.at + 1;
        self.at = start;
        loop {
            self.at = plain_run(self.bytes, self.at);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') if self.strict => self.escape()?,
                Some(b'\\') => self.at = (self.at + 2).min(self.bytes.len()),
                Some(_) if !self.strict => self.at += 1,
                Some(_) => return Err(self.fail("no control character inside a string")),
                None => return Err(self.fail("the end of the string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        // Nearly all of them.
        if let Some(b'n' | b'"' | b'\\' | b't' | b'r' | b'/' | b'b' | b'f') =
            self.bytes.get(self.at + 1)
        {
            self.at += 2;
            return Ok(());
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match read_escape(rest) {
            Some((_, length)) => {
                self.at += length;
                Ok(())
            }
            None => Err(self.fail("a valid escape")),
        }
    }

    fn literal(&mut self, word: &'static [u8], kind: Kind) -> Result<Kind, JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.fail("a value"));
        }
        self.at += word.len();
        Ok(kind)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.fail("a digit"));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Kind, JsonError> {
        let start = self.at;
        if !self.strict {
            self.word();
            return Ok(Kind::Number);
        }
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let mut may_overflow = self.at - start > 300;
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
            may_overflow = true;
        }
        if may_overflow {
            let digits = self.bytes.get(start..self.at).unwrap_or_default();
            let number = std::str::from_utf8(digits)
                .ok()
                .and_then(|s| s.parse::<f64>().ok());
            if !number.is_some_and(f64::is_finite) {
                return Err(JsonError::NumberOutOfRange { offset: start });
            }
        }
        Ok(Kind::Number)
    }

    /// A scalar without quotes, whatever it says.
    fn word(&mut self) {
        while let Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z') = self.peek() {
            self.at += 1;
        }
    }
}
