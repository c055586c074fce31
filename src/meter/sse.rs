//! Server-sent events: where each one ends, what it carries, and the one form that every
//! client can read.
//!
//! That strict form: LF line ends, `data: ` and `event: ` with one space, no `id:`, no
//! `retry:`, no event without data. Each deviation breaks one or another SDK.

use memchr::memchr2;
use std::borrow::Cow;
use std::ops::Range;

/// The longest incomplete event that is held, unless set otherwise: text comes nowhere near.
pub(super) const DEFAULT_LIMIT: usize = 1 << 20;

/// The same for streams that carry pictures, some megabytes of base64 in one event.
pub(super) const PICTURE_LIMIT: usize = 16 << 20;

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// An incomplete event has grown beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong {
    /// The limit in bytes.
    pub(super) limit: usize,
}

/// Cuts a stream into events, whatever its chunks.
#[derive(Debug)]
pub(super) struct SseSplit {
    limit: usize,
    held: Vec<u8>,
    /// Nothing of the current line has been seen yet.
    line_is_empty: bool,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Bytes of a byte order mark seen at the start; 3 when that is past.
    bom: u8,
}

/// Where a complete event lies.
pub(super) enum Piece {
    /// Within the chunk at hand.
    Inside(Range<usize>),
    /// It began in an earlier chunk.
    Joined(Vec<u8>),
}

impl SseSplit {
    /// A splitter that holds at most `limit` bytes of an incomplete event.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: Vec::new(),
            line_is_empty: true,
            after_cr: false,
            bom: 0,
        }
    }

    /// Forgets the tail and returns it.
    pub(super) fn take_tail(&mut self) -> Vec<u8> {
        self.line_is_empty = true;
        self.after_cr = false;
        std::mem::take(&mut self.held)
    }

    /// Calls `each` with the events that `chunk` completes, in their order.
    ///
    /// # Errors
    /// [`TooLong`]; the incomplete event is gone then.
    pub(super) fn split(
        &mut self,
        chunk: &[u8],
        each: &mut dyn FnMut(Piece),
    ) -> Result<(), TooLong> {
        let mut from = self.skip_mark(chunk);
        if self.after_cr && self.held.is_empty() && from < chunk.len() {
            // The second half of the CRLF that ended the last event.
            self.after_cr = false;
            from += usize::from(chunk.get(from) == Some(&b'\n'));
        }
        while let Some(end) = self.boundary(chunk, from) {
            if self.held.is_empty() {
                each(Piece::Inside(from..end));
            } else {
                let mut joined = std::mem::take(&mut self.held);
                joined.extend_from_slice(chunk.get(from..end).unwrap_or_default());
                each(Piece::Joined(joined));
            }
            from = end;
        }
        let tail = chunk.get(from..).unwrap_or_default();
        if self.held.len() + tail.len() > self.limit {
            self.take_tail();
            return Err(TooLong { limit: self.limit });
        }
        self.held.extend_from_slice(tail);
        Ok(())
    }

    /// Passes over a byte order mark, which may come in pieces. Returns where the rest begins.
    fn skip_mark(&mut self, chunk: &[u8]) -> usize {
        let mut at = 0;
        while let (Some(want), Some(&got)) = (BOM.get(usize::from(self.bom)), chunk.get(at)) {
            if got != *want {
                self.line_is_empty = self.bom == 0;
                self.bom = 3;
                break;
            }
            self.bom += 1;
            at += 1;
            // Held until it is known for a mark.
            self.held.push(got);
            if self.bom == 3 {
                self.held.clear();
            }
        }
        at
    }

    /// Index just past the event that ends first, searching from `at`.
    fn boundary(&mut self, chunk: &[u8], mut at: usize) -> Option<usize> {
        loop {
            if self.after_cr {
                let next = chunk.get(at)?;
                self.after_cr = false;
                at += usize::from(*next == b'\n');
            }
            let rest = chunk.get(at..)?;
            let Some(length) = memchr2(b'\n', b'\r', rest) else {
                self.line_is_empty &= rest.is_empty();
                return None;
            };
            let ends_event = self.line_is_empty && length == 0;
            self.line_is_empty = true;
            at += length + 1;
            if rest.get(length) == Some(&b'\r') {
                match chunk.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            if ends_event {
                return Some(at);
            }
        }
    }
}

/// Where the parts of one event stand in its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Layout {
    /// The value of the first `data` line.
    data: Option<Range<usize>>,
    /// There are further ones.
    more_data: bool,
    event: Option<Range<usize>>,
    has_comment: bool,
    /// Every line is in the strict form by itself.
    clean: bool,
}

enum Line {
    Data(Range<usize>),
    Event(Range<usize>),
    Comment(Range<usize>),
    /// `id`, `retry` and what the standard does not know.
    Other,
}

impl Layout {
    pub(super) fn read(raw: &[u8]) -> Self {
        let mut layout = Self {
            clean: true,
            ..Self::default()
        };
        let mut has_payload = false;
        each_line(raw, &mut |line, is_strict| {
            layout.clean &= is_strict;
            match line {
                Line::Data(value) => {
                    has_payload |= !value.is_empty();
                    layout.more_data = layout.data.is_some();
                    layout.data.get_or_insert(value);
                }
                Line::Event(value) => layout.event = Some(value),
                Line::Comment(_) => layout.has_comment = true,
                Line::Other => {}
            }
        });
        // Clients try to parse an event whose payload is empty.
        if !has_payload {
            layout.data = None;
        }
        layout
    }

    pub(super) fn is_strict(&self, keep_event_lines: bool) -> bool {
        let has_event = self.event.is_some();
        self.clean
            && (keep_event_lines || !has_event)
            && (self.data.is_some() || (self.has_comment && !has_event))
    }

    pub(super) fn data<'a>(&self, raw: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let first = raw.get(self.data.clone()?)?;
        if !self.more_data {
            return Some(Cow::Borrowed(first));
        }
        let mut lines: Vec<&[u8]> = Vec::new();
        each_line(raw, &mut |line, _| {
            if let Line::Data(value) = line {
                lines.extend(raw.get(value));
            }
        });
        Some(Cow::Owned(lines.join(&b'\n')))
    }

    pub(super) fn event<'a>(&self, raw: &'a [u8]) -> Option<&'a [u8]> {
        raw.get(self.event.clone()?)
    }

    /// Where a range of the payload, which lies within one line, stands in the raw bytes.
    pub(super) fn locate(&self, raw: &[u8], range: Range<usize>) -> Option<Range<usize>> {
        let (mut passed, mut found) = (0, None);
        each_line(raw, &mut |line, _| {
            if let Line::Data(value) = line {
                if found.is_none() && range.end <= passed + value.len() && range.start >= passed {
                    let start = value.start + range.start - passed;
                    found = Some(start..start + range.len());
                }
                passed += value.len() + 1;
            }
        });
        found
    }

    pub(super) fn normalized(&self, raw: &[u8], keep_event_lines: bool) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(raw.len() + 8);
        each_line(raw, &mut |line, _| {
            let (prefix, value) = match line {
                Line::Data(value) if self.data.is_some() => (&b"data: "[..], value),
                Line::Event(value) if self.data.is_some() && keep_event_lines => {
                    (&b"event: "[..], value)
                }
                Line::Comment(value) => (&b":"[..], value),
                _ => return,
            };
            let value = raw.get(value).unwrap_or_default();
            out.extend_from_slice(prefix);
            let is_ping = prefix == b":" && value.trim_ascii_start().starts_with(b"ping");
            // Continue takes `: ping` for the end of the stream.
            out.extend_from_slice(if is_ping { b" keepalive" } else { value });
            out.push(b'\n');
        });
        if out.is_empty() {
            return None;
        }
        out.push(b'\n');
        Some(out)
    }
}

/// Calls `each` for every line but the blank ones, with whether it is in strict form. A
/// blank line that does not follow another one is the event's end; any other is not strict,
/// but then the event is empty.
fn each_line(raw: &[u8], each: &mut dyn FnMut(Line, bool)) {
    let mut at = 0;
    while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
        let length = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = rest.get(..length).unwrap_or_default();
        let (next, ends_strict) = match (rest.get(length), rest.get(length + 1)) {
            (Some(b'\r'), Some(b'\n')) => (length + 2, false),
            (Some(b'\r'), _) => (length + 1, false),
            _ => (length + 1, true),
        };
        if length > 0 {
            let (line, is_strict) = classify(line, at);
            each(line, is_strict && ends_strict);
        } else if !ends_strict {
            // The blank line itself: `data: x` LF CRLF is not strict either.
            each(Line::Other, false);
        }
        at += next;
    }
}

fn classify(line: &[u8], at: usize) -> (Line, bool) {
    let end = at + line.len();
    if line.starts_with(b"data: ") {
        return (Line::Data(at + 6..end), true);
    }
    if line.starts_with(b"event: ") {
        return (Line::Event(at + 7..end), true);
    }
    if let Some(comment) = line.strip_prefix(b":") {
        let is_ping = comment.trim_ascii_start().starts_with(b"ping");
        return (Line::Comment(at + 1..end), !is_ping);
    }
    // Without its space, or without even a colon.
    for (name, make) in [
        (&b"data"[..], Line::Data as fn(Range<usize>) -> Line),
        (b"event", Line::Event),
    ] {
        match line.strip_prefix(name) {
            Some([]) => return (make(end..end), false),
            Some([b':', ..]) => return (make(at + name.len() + 1..end), false),
            _ => {}
        }
    }
    (Line::Other, false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
