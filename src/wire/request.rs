//! What the gateway reads of a request body, and the few bytes it may change in it.
//!
//! The model that was authorised, the one that is billed and the one the provider runs must
//! be one and the same. Parsers differ on repeated keys and some ignore case, so every
//! spelling of a guarded name but the exact one, once, is refused.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

mod spelling;

use crate::wire::json::{JsonError, Kind, Member, decode_string, encode_string, object_members};
use bytes::Bytes;
use spelling::Spelling;

/// Integers above this differ between parsers that read them as f64 and those that do not.
const MAX_EXACT: u64 = 1 << 53;

/// The top-level names that the gateway acts on, or that a provider bills by.
const GUARDED: [&str; 10] = [
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "stream_options",
    "n",
    "messages",
    "input",
    "size",
];

/// Sizes are written as `1024x1024`; a longer text is none that has a price.
const MAX_SIZE: usize = 32;

const INCLUDE_USAGE: &str = "include_usage";
const INCLUDE_USAGE_PATH: &str = "stream_options.include_usage";

/// What a request asks for, as far as the gateway needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The model's name, decoded; never empty, no control characters.
    pub model: String,
    /// Where the value of `model` stands in the body, quotes included.
    pub model_span: Range<usize>,
    /// `stream: true`.
    pub stream: bool,
    /// `stream_options.include_usage: true`.
    pub include_usage: bool,
    /// There is a `messages` member.
    pub has_messages: bool,
    /// There is an `input` member.
    pub has_input: bool,
    /// The most tokens that the answer may have: the largest limit given, for each of `n` answers.
    pub max_output: Option<u64>,
    /// How many answers are wanted: `n`, at least 1.
    pub answers: u64,
    /// The size of the images that are wanted; `None` too if it is longer than any real one.
    pub size: Option<Box<str>>,
    /// Where members can be added: just after the opening brace.
    inside: usize,
    /// The key `input`, quotes included, and its value.
    input: Option<(Range<usize>, Range<usize>)>,
    options: StreamOptions,
}

/// Where `stream_options` stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum StreamOptions {
    #[default]
    Absent,
    Null(Range<usize>),
    Object {
        inside: usize,
        is_empty: bool,
        include_usage: Option<Range<usize>>,
    },
}

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// Not one JSON object.
    Json(JsonError),
    /// A guarded name stands twice, or in a spelling that some parsers take for it.
    Repeated {
        /// The name as it should be.
        field: &'static str,
        /// The offending key as it stands in the body, cut to 64 characters.
        found: String,
    },
    /// No `model`, or an empty one.
    MissingModel,
    /// A field is of another kind than the API has it.
    WrongKind {
        /// The field.
        field: &'static str,
        /// What it must be, in words.
        expected: &'static str,
    },
    /// A control character in a value that goes to logs and headers.
    ControlCharacter {
        /// The field.
        field: &'static str,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(e) => write!(f, "invalid JSON: {e}"),
            Self::Repeated { field, found } => {
                write!(
                    f,
                    "the field `{field}` must appear once and exactly so: found `{found}`"
                )
            }
            Self::MissingModel => f.write_str("the field `model` is missing or empty"),
            Self::WrongKind { field, expected } => {
                write!(f, "the field `{field}` must be {expected}")
            }
            Self::ControlCharacter { field } => {
                write!(f, "the field `{field}` contains a control character")
            }
        }
    }
}

impl std::error::Error for CallError {}

impl From<JsonError> for CallError {
    fn from(e: JsonError) -> Self {
        Self::Json(e)
    }
}

/// What to change in a body on its way upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// The upstream's own name for the model.
    pub upstream_model: Option<&'a str>,
    /// Set `stream_options.include_usage`, so that the stream ends with its usage.
    pub include_usage: bool,
    /// Rename `input` to `messages` where there is no `messages` (Cursor sends that).
    pub input_to_messages: bool,
}

/// Validates `body` and reads the fields the gateway acts on.
///
/// # Errors
/// See [`CallError`]; each one is the client's fault (400).
pub fn read_call(body: &[u8]) -> Result<Call, CallError> {
    let mut reading = Reading::default();
    let mut fault = None;
    let object = object_members(body, &mut |member| {
        if fault.is_none() {
            fault = reading.take(body, member).err();
        }
    })?;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let (model_span, model) = reading.model.ok_or(CallError::MissingModel)?;
    let answers = reading.answers.unwrap_or(1).max(1);
    Ok(Call {
        model,
        model_span,
        stream: reading.stream,
        include_usage: reading.include_usage,
        has_messages: reading.has_messages,
        has_input: reading.input.is_some(),
        max_output: reading.max_output.map(|most| most.saturating_mul(answers)),
        answers,
        size: reading.size,
        inside: object.start + 1,
        input: reading.input,
        options: reading.options,
    })
}

impl Call {
    /// The characters of `input`, for speech: an escape stands for one. What is no text counts as it
    /// stands. `body` must be the one that was read. They are counted only when asked for: `input`
    /// may also be megabytes that cost nothing by the character.
    pub fn characters(&self, body: &[u8]) -> u64 {
        let value = self.input.as_ref().map(|(_, value)| value.clone());
        let raw = value.and_then(|value| body.get(value)).unwrap_or_default();
        let text = raw
            .strip_prefix(b"\"")
            .and_then(|raw| raw.strip_suffix(b"\""))
            .and_then(decode_string);
        match text {
            Some(text) => text.chars().count() as u64,
            None => String::from_utf8_lossy(raw).chars().count() as u64,
        }
    }
}

#[derive(Default)]
struct Reading {
    seen: [bool; GUARDED.len()],
    model: Option<(Range<usize>, String)>,
    stream: bool,
    include_usage: bool,
    has_messages: bool,
    max_output: Option<u64>,
    answers: Option<u64>,
    size: Option<Box<str>>,
    input: Option<(Range<usize>, Range<usize>)>,
    options: StreamOptions,
}

impl Reading {
    fn take(&mut self, body: &[u8], member: Member<'_>) -> Result<(), CallError> {
        let key = Spelling::of(member.key);
        let mut names = GUARDED.iter().zip(&mut self.seen);
        let Some((name, seen)) = names.find(|(name, _)| key.reads_as(name)) else {
            return Ok(());
        };
        let name: &'static str = name;
        if *seen || member.key != name.as_bytes() {
            return Err(repeated(name, member.key));
        }
        *seen = true;
        let raw = body.get(member.value.clone()).unwrap_or_default();
        match name {
            "model" => self.model = Some((member.value, read_model(raw, member.kind)?)),
            "stream" => self.stream = read_flag("stream", member.kind)?,
            "messages" => self.has_messages = true,
            "input" => {
                // The range of a key excludes its quotes.
                let key = member.key_range.start - 1..member.key_range.end + 1;
                self.input = Some((key, member.value));
            }
            "stream_options" => self.take_options(raw, &member)?,
            "size" => self.size = read_size(raw, member.kind),
            "n" => self.answers = read_count(name, raw, member.kind)?,
            // The limits on tokens; they have three names, and some clients send two of them.
            _ => self.max_output = self.max_output.max(read_count(name, raw, member.kind)?),
        }
        Ok(())
    }

    fn take_options(&mut self, raw: &[u8], member: &Member<'_>) -> Result<(), CallError> {
        let start = member.value.start;
        match member.kind {
            Kind::Null => {
                self.options = StreamOptions::Null(member.value.clone());
                return Ok(());
            }
            Kind::Object => {}
            _ => {
                let field = "stream_options";
                return Err(CallError::WrongKind {
                    field,
                    expected: "an object or null",
                });
            }
        }
        let (mut fault, mut is_empty, mut span) = (None, true, None);
        object_members(raw, &mut |inner| {
            is_empty = false;
            if fault.is_some() || !Spelling::of(inner.key).reads_as(INCLUDE_USAGE) {
                return;
            }
            if span.is_some() || inner.key != INCLUDE_USAGE.as_bytes() {
                fault = Some(repeated(INCLUDE_USAGE_PATH, inner.key));
                return;
            }
            span = Some(start + inner.value.start..start + inner.value.end);
            match read_flag(INCLUDE_USAGE_PATH, inner.kind) {
                Ok(flag) => self.include_usage = flag,
                Err(e) => fault = Some(e),
            }
        })?;
        self.options = StreamOptions::Object {
            inside: start + 1,
            is_empty,
            include_usage: span,
        };
        fault.map_or(Ok(()), Err)
    }
}

fn repeated(field: &'static str, key: &[u8]) -> CallError {
    let found = String::from_utf8_lossy(key).chars().take(64).collect();
    CallError::Repeated { field, found }
}

fn read_model(raw: &[u8], kind: Kind) -> Result<String, CallError> {
    let wrong = CallError::WrongKind {
        field: "model",
        expected: "a string",
    };
    if kind != Kind::String {
        return Err(wrong);
    }
    let inner = raw
        .get(1..raw.len().saturating_sub(1))
        .and_then(decode_string);
    let model = inner.map(Cow::into_owned).ok_or(wrong)?;
    if model.is_empty() {
        return Err(CallError::MissingModel);
    }
    if model.chars().any(char::is_control) {
        return Err(CallError::ControlCharacter { field: "model" });
    }
    Ok(model)
}

fn read_flag(field: &'static str, kind: Kind) -> Result<bool, CallError> {
    match kind {
        Kind::True => Ok(true),
        Kind::False | Kind::Null => Ok(false),
        _ => Err(CallError::WrongKind {
            field,
            expected: "true, false or null",
        }),
    }
}

fn read_count(field: &'static str, raw: &[u8], kind: Kind) -> Result<Option<u64>, CallError> {
    if kind == Kind::Null {
        return Ok(None);
    }
    let expected = "an integer from 0 to 2^53, or null";
    let text = std::str::from_utf8(raw).ok();
    let number = text.and_then(|text| text.parse::<u64>().ok());
    match number.filter(|&n| n <= MAX_EXACT) {
        Some(count) => Ok(Some(count)),
        None => Err(CallError::WrongKind { field, expected }),
    }
}

/// The size of an image. What is no text is left to the provider to refuse, or to read as it may.
fn read_size(raw: &[u8], kind: Kind) -> Option<Box<str>> {
    let inner = raw.get(1..raw.len().checked_sub(1)?)?;
    let size = decode_string(inner).filter(|_| kind == Kind::String)?;
    (size.len() <= MAX_SIZE).then(|| Box::from(&*size))
}

/// The body to send upstream. The same `Bytes`, not copied, if nothing changes; else every
/// byte outside the changed places stays as it came. `call` must come from this very body.
pub fn rewrite(body: &Bytes, call: &Call, changes: Changes<'_>) -> Bytes {
    // At most one splice for the model, the options and the input key each.
    let mut splices: Vec<(Range<usize>, Cow<'static, [u8]>)> = Vec::new();
    if let Some(name) = changes.upstream_model.filter(|&name| name != call.model) {
        let mut value = Vec::with_capacity(name.len() + 2);
        encode_string(name, &mut value);
        splices.push((call.model_span.clone(), value.into()));
    }
    if changes.include_usage && !call.include_usage {
        splices.push(match &call.options {
            StreamOptions::Absent => (
                call.inside..call.inside,
                // `model` is always there, so a member follows.
                b"\"stream_options\":{\"include_usage\":true},"[..].into(),
            ),
            StreamOptions::Null(span) => (span.clone(), b"{\"include_usage\":true}"[..].into()),
            StreamOptions::Object {
                include_usage: Some(span),
                ..
            } => (span.clone(), b"true"[..].into()),
            StreamOptions::Object {
                inside,
                is_empty: true,
                ..
            } => (*inside..*inside, b"\"include_usage\":true"[..].into()),
            StreamOptions::Object { inside, .. } => {
                (*inside..*inside, b"\"include_usage\":true,"[..].into())
            }
        });
    }
    let renames = changes.input_to_messages && !call.has_messages;
    if let Some((key, _)) = call.input.as_ref().filter(|_| renames) {
        splices.push((key.clone(), b"\"messages\""[..].into()));
    }
    if splices.is_empty() {
        return body.clone();
    }
    splices.sort_by_key(|(span, _)| span.start);
    let grown: usize = splices.iter().map(|(_, new)| new.len()).sum();
    let mut out = Vec::with_capacity(body.len() + grown);
    let mut from = 0;
    for (span, new) in &splices {
        out.extend_from_slice(body.get(from..span.start).unwrap_or_default());
        out.extend_from_slice(new);
        from = span.end;
    }
    out.extend_from_slice(body.get(from..).unwrap_or_default());
    Bytes::from(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
