//! A provider's JSON answer, read while it passes: its usage, and its model's name replaced
//! where the public one differs.
//!
//! Lenient on purpose: an answer is never refused for its form. What does not look like an
//! object passes as it came and is not read.

use bytes::Bytes;

use crate::wire::json::{plain_run, structure_run};

mod event;
mod rename;
pub use event::{EventScan, UsageMember, scan_event};
pub use rename::Rename;

/// Usage objects are a few hundred bytes; a longer one is not read.
pub const MAX_USAGE_BYTES: usize = 16 * 1024;

/// A longer name than this is none; it passes as it came.
const MAX_NAME_BYTES: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the object.
    Start,
    /// Between strings.
    Outside,
    /// In a string that does not matter.
    Text,
    /// In a key on a level that is read.
    Key,
    /// In the value of a `model`, which is held back until its end.
    Model,
    /// After the object, or this is none.
    Off,
}

/// The member whose value comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Usage,
    Model,
    /// `response` or `message`: may carry a `model` too.
    Nested,
    Data,
    Other,
}

/// Reads one answer as it passes in chunks of any size. Holds at most a model's name
/// and one usage object.
#[derive(Debug)]
pub struct AnswerScan {
    rename: Option<Rename>,
    place: Place,
    escaped: bool,
    expects_key: bool,
    /// On level 2, inside `response` or `message`.
    nested: bool,
    capturing: bool,
    member: Key,
    key_length: u8,
    key: [u8; 8],
    depth: u32,
    /// A `model` value that began in an earlier chunk.
    held: Vec<u8>,
    /// The usage object that is being read.
    partial: Vec<u8>,
    usage: Option<Vec<u8>>,
    /// Inside the top-level array `data`.
    counting: bool,
    elements: u32,
    counted: Option<u32>,
}

/// The chunk at hand: what of it has gone where.
struct Pass<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes before this are in `out`, or replaced.
    sent: usize,
    /// Where the usage object goes on in this chunk.
    usage_from: usize,
    /// Where the `model` value goes on in this chunk.
    model_from: usize,
    out: Vec<u8>,
}

impl AnswerScan {
    /// A scan that replaces the value of the top-level `model`, and of `model` in a
    /// top-level `response` or `message`, if it is another name.
    pub fn new(rename: Option<Rename>) -> Self {
        Self {
            rename,
            place: Place::Start,
            escaped: false,
            expects_key: true,
            nested: false,
            capturing: false,
            member: Key::Other,
            key_length: 0,
            key: [0; 8],
            depth: 0,
            held: Vec::new(),
            partial: Vec::new(),
            usage: None,
            counting: false,
            elements: 0,
            counted: None,
        }
    }

    /// How many texts, objects and arrays stand in the top-level array `data`, once it has ended:
    /// the pictures of an answer that has some.
    pub fn elements(&self) -> Option<u64> {
        self.counted.map(u64::from)
    }

    /// The raw JSON of the last complete top-level `usage` object so far, up to
    /// [`MAX_USAGE_BYTES`].
    pub fn usage(&self) -> Option<&[u8]> {
        self.usage.as_deref()
    }

    /// Reads on; returns what to forward now: the chunk itself, not copied, unless a name
    /// was replaced or is being held back.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        if self.place == Place::Off {
            return chunk;
        }
        let mut pass = Pass {
            bytes: &chunk,
            at: 0,
            sent: 0,
            usage_from: 0,
            model_from: 0,
            out: Vec::new(),
        };
        while pass.at < pass.bytes.len() {
            match self.place {
                Place::Start => self.start(&mut pass),
                Place::Outside if self.reads_members() => self.members(&mut pass),
                Place::Outside => self.skip(&mut pass),
                Place::Text | Place::Key | Place::Model => self.text(&mut pass),
                Place::Off => break,
            }
        }
        if self.capturing {
            self.capture(&pass);
        }
        let mut end = chunk.len();
        if self.place == Place::Model {
            end = pass.model_from;
            self.held
                .extend_from_slice(chunk.get(end..).unwrap_or_default());
        }
        if pass.out.is_empty() {
            return match (pass.sent, end == chunk.len()) {
                (0, true) => chunk,
                (sent, _) => chunk.slice(sent..end),
            };
        }
        pass.out
            .extend_from_slice(chunk.get(pass.sent..end).unwrap_or_default());
        Bytes::from(pass.out)
    }

    /// What was held back, at the end of the answer.
    pub fn finish(&mut self) -> Bytes {
        self.place = Place::Off;
        Bytes::from(std::mem::take(&mut self.held))
    }

    fn start(&mut self, pass: &mut Pass<'_>) {
        match pass.bytes.get(pass.at) {
            Some(b' ' | b'\n' | b'\r' | b'\t') => {}
            Some(b'{') => {
                self.depth = 1;
                self.place = Place::Outside;
            }
            _ => self.place = Place::Off,
        }
        pass.at += 1;
    }

    fn reads_members(&self) -> bool {
        self.depth == 1 || (self.nested && self.depth == 2)
    }

    /// On to the next string or bracket of a level whose members are read.
    fn members(&mut self, pass: &mut Pass<'_>) {
        while let Some(&b) = pass.bytes.get(pass.at) {
            let at = pass.at;
            pass.at += 1;
            match b {
                b'"' => {
                    self.place = if self.expects_key {
                        self.key_length = 0;
                        Place::Key
                    } else if self.member == Key::Model && self.rename.is_some() {
                        pass.model_from = at;
                        Place::Model
                    } else {
                        Place::Text
                    };
                    return;
                }
                b',' => {
                    self.expects_key = true;
                    self.member = Key::Other;
                }
                b'{' => return self.open(pass, at),
                b'[' => {
                    self.counting = self.depth == 1 && self.member == Key::Data;
                    self.elements = 0;
                    self.depth += 1;
                    return;
                }
                b'}' | b']' => return self.close(pass),
                _ => {}
            }
        }
    }

    fn open(&mut self, pass: &mut Pass<'_>, at: usize) {
        if self.depth == 1 && self.member == Key::Usage {
            self.capturing = true;
            self.partial.clear();
            pass.usage_from = at;
        }
        self.nested |= self.depth == 1 && self.member == Key::Nested;
        self.expects_key = true;
        self.depth += 1;
    }

    /// Through levels that are not read.
    fn skip(&mut self, pass: &mut Pass<'_>) {
        while !self.reads_members() {
            pass.at = structure_run(pass.bytes, pass.at);
            let Some(&found) = pass.bytes.get(pass.at) else {
                return;
            };
            pass.at += 1;
            if self.counting && self.depth == 2 && !matches!(found, b'}' | b']') {
                self.elements = self.elements.saturating_add(1);
            }
            match found {
                b'"' => {
                    pass.at = plain_run(pass.bytes, pass.at);
                    if pass.bytes.get(pass.at) != Some(&b'"') {
                        // Cut off, or there is an escape in it.
                        self.place = Place::Text;
                        return;
                    }
                    pass.at += 1;
                }
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                _ => self.close(pass),
            }
        }
    }

    fn close(&mut self, pass: &mut Pass<'_>) {
        self.depth = self.depth.saturating_sub(1);
        if self.depth <= 1 {
            if std::mem::take(&mut self.counting) {
                self.counted = Some(self.elements);
            }
            self.nested = false;
            self.expects_key = false;
            self.member = Key::Other;
            if self.capturing {
                self.capture(pass);
                // Too long a one has been given up in `capture`.
                if self.capturing {
                    self.usage = Some(std::mem::take(&mut self.partial));
                }
                self.capturing = false;
            }
        }
        if self.depth == 0 {
            self.place = Place::Off;
        }
    }

    fn capture(&mut self, pass: &Pass<'_>) {
        let more = pass.bytes.get(pass.usage_from..pass.at).unwrap_or_default();
        if self.partial.len() + more.len() > MAX_USAGE_BYTES {
            self.capturing = false;
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(more);
        }
    }

    /// On to the end of the string, or of what there is of it.
    fn text(&mut self, pass: &mut Pass<'_>) {
        let from = pass.at;
        if self.escaped {
            self.escaped = false;
            pass.at += 1;
            return;
        }
        pass.at = plain_run(pass.bytes, from);
        if self.place == Place::Key {
            self.spell(pass.bytes.get(from..pass.at).unwrap_or_default());
        }
        match pass.bytes.get(pass.at) {
            None => {}
            Some(b'"') => {
                pass.at += 1;
                self.end_text(pass);
            }
            Some(&b) => {
                // An escape in a key, or a control character: none of the names has any.
                self.escaped = b == b'\\';
                self.key_length = u8::MAX;
                pass.at += 1;
            }
        }
        if self.place == Place::Model {
            let length = self.held.len() + pass.at - pass.model_from;
            if length > MAX_NAME_BYTES {
                self.place = Place::Text;
                self.release(pass);
            }
        }
    }

    /// Part of a key, up to the length that matters.
    fn spell(&mut self, part: &[u8]) {
        let from = usize::from(self.key_length);
        match self.key.get_mut(from..from + part.len()) {
            Some(room) => {
                room.copy_from_slice(part);
                self.key_length += part.len() as u8;
            }
            None => self.key_length = u8::MAX,
        }
    }

    fn end_text(&mut self, pass: &mut Pass<'_>) {
        match self.place {
            Place::Key => {
                self.expects_key = false;
                self.member = match self.key.get(..usize::from(self.key_length)) {
                    Some(b"usage") => Key::Usage,
                    Some(b"model") => Key::Model,
                    Some(b"response" | b"message") => Key::Nested,
                    Some(b"data") => Key::Data,
                    _ => Key::Other,
                };
            }
            Place::Model => self.end_model(pass),
            _ => {}
        }
        self.place = Place::Outside;
    }

    fn end_model(&mut self, pass: &mut Pass<'_>) {
        let here = pass.bytes.get(pass.model_from..pass.at).unwrap_or_default();
        let applies = |rename: &&Rename| match self.held.is_empty() {
            true => rename.applies_to(here),
            false => rename.applies_to(&[self.held.as_slice(), here].concat()),
        };
        let Some(replacement) = self.rename.as_ref().filter(applies).map(Rename::encoded) else {
            return self.release(pass);
        };
        self.held = Vec::new();
        pass.out.extend_from_slice(
            pass.bytes
                .get(pass.sent..pass.model_from)
                .unwrap_or_default(),
        );
        pass.out.extend_from_slice(&replacement);
        pass.sent = pass.at;
    }

    /// Lets a held value go as it came. It can only stand before everything in this chunk.
    fn release(&mut self, pass: &mut Pass<'_>) {
        pass.out.append(&mut self.held);
        self.held = Vec::new();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
