//! What one answer cost, read while it passes.
//!
//! The proxy pushes every chunk of an answer through a [`Meter`] and forwards what comes
//! back. On the way the meter learns the usage and whether the stream came to its proper
//! end, replaces the upstream's model name, and puts events into the form clients can read.
//! What needs no change is handed back as it came, without a copy.

use std::fmt;

use bytes::Bytes;

use crate::wire::answer::{AnswerScan, Rename};

pub mod estimate;
mod output;
mod sse;
mod stream;
pub mod usage;

use stream::Stream;
use usage::{PartialUsage, Resolved, Shape, Source, Usage};

/// What the body of an answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One JSON object.
    Json,
    /// Events of chat completions or completions: no `event` lines, ends with `[DONE]`.
    ChatSse,
    /// Events of Anthropic's messages.
    AnthropicSse,
    /// Events of the Responses API.
    ResponsesSse,
    /// Other events (speech, images): usage is read from any of them, no end marker is known.
    OtherSse,
    /// Anything else; passes unread.
    Opaque,
}

/// How to read one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The form of the body.
    pub form: Form,
    /// Whose names the usage goes by.
    pub shape: Shape,
    /// The model's name to replace, if the upstream's differs.
    pub rename: Option<Rename>,
    /// Remove the chat event that carries only the usage: the client did not ask for it.
    pub strip_usage_chunk: bool,
}

/// Why an answer cannot be read on. The stream must end with an error then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeterError {
    /// An event is longer than `limit` bytes.
    LineTooLong {
        /// The limit in bytes: 1 MiB, or 16 MiB for Responses and other events.
        limit: usize,
    },
}

impl fmt::Display for MeterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::LineTooLong { limit } = self;
        write!(f, "an event of the upstream is longer than {limit} bytes")
    }
}

impl std::error::Error for MeterError {}

impl From<sse::TooLong> for MeterError {
    fn from(sse::TooLong { limit }: sse::TooLong) -> Self {
        Self::LineTooLong { limit }
    }
}

/// What an answer's usage says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The figures; what was not reported is 0.
    pub usage: Usage,
    /// How far to trust them.
    pub source: Source,
    /// Seconds of sound, begun ones counted whole, where they were reported.
    pub seconds: Option<u64>,
    /// Pictures in an answer that has come to its end, where they can be counted.
    pub images: Option<u64>,
    /// Some reported figure made no sense.
    pub hostile: bool,
}

#[derive(Debug)]
enum Body {
    Json(AnswerScan),
    Sse(Stream),
    Opaque,
}

/// Reads one answer as it passes.
#[derive(Debug)]
pub struct Meter {
    body: Body,
    shape: Shape,
}

impl Meter {
    /// A meter for one answer.
    pub fn new(settings: Settings) -> Self {
        let Settings {
            form,
            shape,
            rename,
            strip_usage_chunk,
        } = settings;
        let body = match form {
            Form::Opaque => Body::Opaque,
            Form::Json => Body::Json(AnswerScan::new(rename)),
            _ => Body::Sse(Stream::new(form, shape, rename, strip_usage_chunk)),
        };
        Self { body, shape }
    }

    /// The form of the body.
    pub fn form(&self) -> Form {
        match &self.body {
            Body::Json(_) => Form::Json,
            Body::Sse(stream) => stream.form(),
            Body::Opaque => Form::Opaque,
        }
    }

    /// Takes the next chunk of the upstream; returns what to forward now, maybe nothing.
    /// Only complete events are forwarded, so that an error can follow cleanly at any time.
    ///
    /// # Errors
    /// [`MeterError`]; events that the same chunk completed are lost with it.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, MeterError> {
        Ok(match &mut self.body {
            Body::Json(scan) => scan.push(chunk),
            Body::Sse(stream) => stream.push(chunk)?,
            Body::Opaque => chunk,
        })
    }

    /// At the clean end of the upstream: what was held back. A last event without its blank
    /// line gets one; if it is cut off in the middle it is dropped.
    pub fn finish(&mut self) -> Bytes {
        match &mut self.body {
            Body::Json(scan) => scan.finish(),
            Body::Sse(stream) => stream.finish(),
            Body::Opaque => Bytes::new(),
        }
    }

    /// Whether the provider itself told of an error in its stream.
    pub const fn failed(&self) -> bool {
        match &self.body {
            Body::Sse(stream) => stream.failed(),
            Body::Json(_) | Body::Opaque => false,
        }
    }

    /// Whether the stream said that it is over: `[DONE]` or a `finish_reason` for chat,
    /// `message_stop` for messages, `response.completed`, `.failed` or `.incomplete` for
    /// Responses, an error for all of them. Always true where no end marker is known.
    pub fn ended(&self) -> bool {
        match &self.body {
            Body::Sse(stream) => stream.ended(),
            Body::Json(_) | Body::Opaque => true,
        }
    }

    /// Whether a stream has come to its end marker with its usage: nothing that counts follows.
    pub fn is_whole(&self) -> bool {
        match &self.body {
            Body::Sse(stream) => {
                stream.form() != Form::OtherSse
                    && stream.ended()
                    && self.reading().source == Source::Reported
            }
            Body::Json(_) | Body::Opaque => false,
        }
    }

    /// What the provider has reported so far, and how far to trust it.
    pub fn reading(&self) -> Reading {
        let (fields, read_hostile, is_final) = match &self.body {
            Body::Json(scan) => {
                let parsed = scan.usage().map(|raw| usage::parse(raw, self.shape));
                let parsed = parsed.unwrap_or_default();
                (parsed.usage, parsed.hostile, true)
            }
            Body::Sse(stream) => (stream.fields(), stream.hostile(), stream.usage_is_final()),
            Body::Opaque => (PartialUsage::default(), false, true),
        };
        let Resolved {
            usage,
            complete,
            hostile,
        } = fields.resolve(self.shape);
        let images = match &self.body {
            Body::Json(scan) => scan.elements(),
            Body::Sse(stream) => stream.images(),
            Body::Opaque => None,
        };
        let source = match (fields.has_no_tokens(), complete && is_final) {
            (true, _) => Source::Estimated,
            (false, true) => Source::Reported,
            (false, false) => Source::Partial,
        };
        Reading {
            usage,
            source,
            seconds: fields.seconds,
            images,
            hostile: hostile || read_hostile,
        }
    }

    /// Events with a payload forwarded so far, the end marker not counted.
    pub fn events(&self) -> u64 {
        match &self.body {
            Body::Sse(stream) => stream.events(),
            Body::Json(_) | Body::Opaque => 0,
        }
    }

    /// Those of the events that carry a part of the answer, which are taken for one token each: most
    /// providers send one at a time. Events that only name a role, a reason to stop or a usage are
    /// none; what the client was not sent is none either.
    pub fn deltas(&self) -> u64 {
        match &self.body {
            Body::Sse(stream) => stream.deltas(),
            Body::Json(_) | Body::Opaque => 0,
        }
    }

    /// Forgets an incomplete event: the upstream died within it.
    pub fn discard_partial(&mut self) {
        if let Body::Sse(stream) = &mut self.body {
            stream.discard_partial();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
