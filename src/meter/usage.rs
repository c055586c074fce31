//! What each provider means by its `usage` object.
//!
//! - OpenAI's `prompt_tokens` (`input_tokens` in Responses and images) includes cached ones.
//! - Anthropic's `input_tokens` excludes them: `cache_creation_input_tokens` and
//!   `cache_read_input_tokens` come on top.
//! - Reasoning tokens are part of the output everywhere: they are never added.
//! - Transcriptions may report `seconds` instead of tokens; begun ones count whole.
//! - DeepSeek says `prompt_cache_hit_tokens` for the cached part.

use crate::wire::json::{Cursor, JsonError, Kind};
use serde::{Deserialize, Serialize};

/// No answer has as many: the largest context windows that providers announce are 10 million tokens.
pub const MAX_TOKENS: u64 = 100_000_000;

/// Tokens of one answer, as they are billed.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// All tokens of the prompt, cached ones included.
    pub input: u64,
    /// Those of `input` that were read from the provider's cache.
    pub cached_input: u64,
    /// Those of `input` that were written to the provider's cache.
    pub cache_write: u64,
    /// All tokens of the answer, reasoning included.
    pub output: u64,
    /// Those of `output` that were spent on reasoning.
    pub reasoning: u64,
}

/// How far a [`Usage`] can be relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Source {
    /// The provider's final figures.
    Reported,
    /// Some of the provider's figures: fields may be missing (0) or from midway.
    Partial,
    /// The provider reported nothing; all fields are 0.
    Estimated,
}

impl Source {
    /// Every one, in the order of their numbers.
    pub const ALL: [Source; 3] = [Source::Reported, Source::Partial, Source::Estimated];

    /// The word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Reported => "reported",
            Source::Partial => "partial",
            Source::Estimated => "estimated",
        }
    }
}

/// Whose names the figures go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// `prompt_tokens`, `completion_tokens`; falls back to the names of Responses.
    OpenAiChat,
    /// `input_tokens`, `output_tokens`, as images have them too; falls back to those of chat.
    OpenAiResponses,
    /// `input_tokens` without the cached ones.
    Anthropic,
}

/// The figures of one or several `usage` objects, in the provider's own sense.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialUsage {
    /// Tokens of the prompt; for Anthropic those not cached.
    pub input: Option<u64>,
    /// Tokens read from the cache.
    pub cached_input: Option<u64>,
    /// Tokens written to the cache.
    pub cache_write: Option<u64>,
    /// Tokens of the answer.
    pub output: Option<u64>,
    /// Tokens of reasoning.
    pub reasoning: Option<u64>,
    /// `total_tokens`: stands in for what embeddings and rerank leave out.
    pub total: Option<u64>,
    /// `seconds` of sound.
    pub seconds: Option<u64>,
}

/// One `usage` object, read.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed {
    /// The figures that are there and make sense.
    pub usage: PartialUsage,
    /// Some figure was negative, fractional (of tokens), no number or beyond [`MAX_TOKENS`]. It was
    /// ignored: it must never credit anyone.
    pub hostile: bool,
}

/// [`PartialUsage`] in the gateway's sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// What is missing is 0.
    pub usage: Usage,
    /// Both input and output are known.
    pub complete: bool,
    /// A part was larger than its whole, and was cut.
    pub hostile: bool,
}

impl PartialUsage {
    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing was reported of tokens.
    pub fn has_no_tokens(&self) -> bool {
        let no_seconds = Self {
            seconds: None,
            ..*self
        };
        no_seconds.is_empty()
    }

    /// Overwrites field by field with what `newer` has: Anthropic's figures are cumulative.
    pub fn merge(&mut self, newer: Self) {
        let Self {
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            total,
            seconds,
        } = newer;
        self.input = input.or(self.input);
        self.cached_input = cached_input.or(self.cached_input);
        self.cache_write = cache_write.or(self.cache_write);
        self.output = output.or(self.output);
        self.reasoning = reasoning.or(self.reasoning);
        self.total = total.or(self.total);
        self.seconds = seconds.or(self.seconds);
    }

    /// The same figures as they are billed.
    pub fn resolve(&self, shape: Shape) -> Resolved {
        let cached = self.cached_input.unwrap_or(0);
        let written = self.cache_write.unwrap_or(0);
        let input = match shape {
            Shape::Anthropic => self
                .input
                .map(|n| n.saturating_add(cached).saturating_add(written)),
            // Rerank reports a total and nothing else.
            _ => self.input.or(self.total.filter(|_| self.output.is_none())),
        };
        // Embeddings report the prompt and a total, and have no output.
        let rest = || Some(self.total?.saturating_sub(self.input?));
        let output = self.output.or_else(rest);
        let whole = match shape {
            Shape::Anthropic => input.unwrap_or(cached.saturating_add(written)),
            _ => input.unwrap_or(0),
        };
        let cached_input = cached.min(whole);
        let cache_write = written.min(whole - cached_input);
        let usage = Usage {
            input: whole,
            cached_input,
            cache_write,
            output: output.unwrap_or(0),
            // Some providers count reasoning apart from the output; no reason to distrust them.
            reasoning: self.reasoning.unwrap_or(0).min(output.unwrap_or(0)),
        };
        let hostile = input.is_some() && (cached_input < cached || cache_write < written);
        Resolved {
            usage,
            complete: input.is_some() && output.is_some(),
            hostile,
        }
    }
}

/// The same figure under the names of chat and of Responses. Some gateways send both, one of
/// them as 0, so that the shape must say which one counts.
#[derive(Default)]
struct Named {
    chat: Option<u64>,
    responses: Option<u64>,
}

impl Named {
    fn by(&self, shape: Shape) -> Option<u64> {
        match shape {
            Shape::OpenAiChat => self.chat.or(self.responses),
            Shape::OpenAiResponses => self.responses.or(self.chat),
            Shape::Anthropic => self.responses,
        }
    }
}

#[derive(Default)]
struct Figures {
    input: Named,
    output: Named,
    cached: Named,
    reasoning: Named,
    total: Option<u64>,
    cache_hit: Option<u64>,
    cache_creation: Option<u64>,
    cache_read: Option<u64>,
    seconds: Option<u64>,
    hostile: bool,
}

/// Reads a raw `usage` object. Never fails: what cannot be read is absent.
pub fn parse(raw: &[u8], shape: Shape) -> Parsed {
    let mut f = Figures::default();
    let mut cursor = Cursor::lenient(raw);
    cursor.space();
    let read = cursor.object(&mut |cursor, key| {
        match raw.get(key) {
            Some(b"prompt_tokens") => f.input.chat = f.count(raw, cursor)?,
            Some(b"input_tokens") => f.input.responses = f.count(raw, cursor)?,
            Some(b"completion_tokens") => f.output.chat = f.count(raw, cursor)?,
            Some(b"output_tokens") => f.output.responses = f.count(raw, cursor)?,
            Some(b"total_tokens") => f.total = f.count(raw, cursor)?,
            Some(b"prompt_cache_hit_tokens") => f.cache_hit = f.count(raw, cursor)?,
            Some(b"cache_creation_input_tokens") => f.cache_creation = f.count(raw, cursor)?,
            Some(b"cache_read_input_tokens") => f.cache_read = f.count(raw, cursor)?,
            Some(b"seconds") => f.seconds = f.number(raw, cursor, begun_whole)?,
            Some(b"prompt_tokens_details") => {
                f.cached.chat = f.detail(raw, cursor, b"cached_tokens")?;
            }
            Some(b"input_tokens_details") => {
                f.cached.responses = f.detail(raw, cursor, b"cached_tokens")?;
            }
            Some(b"completion_tokens_details") => {
                f.reasoning.chat = f.detail(raw, cursor, b"reasoning_tokens")?;
            }
            Some(b"output_tokens_details") => {
                f.reasoning.responses = f.detail(raw, cursor, b"reasoning_tokens")?;
            }
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    });
    let (cached_input, cache_write) = match shape {
        Shape::Anthropic => (f.cache_read, f.cache_creation),
        _ => (f.cached.by(shape).or(f.cache_hit), None),
    };
    let usage = PartialUsage {
        input: f.input.by(shape),
        cached_input,
        cache_write,
        output: f.output.by(shape),
        reasoning: f.reasoning.by(shape),
        total: f.total.filter(|_| shape != Shape::Anthropic),
        seconds: f.seconds.filter(|_| shape == Shape::OpenAiResponses),
    };
    Parsed {
        usage,
        hostile: f.hostile || read.is_err(),
    }
}

impl Figures {
    fn count(&mut self, raw: &[u8], cursor: &mut Cursor<'_>) -> Result<Option<u64>, JsonError> {
        self.number(raw, cursor, whole_number)
    }

    fn number(
        &mut self,
        raw: &[u8],
        cursor: &mut Cursor<'_>,
        read: fn(&str) -> Option<u64>,
    ) -> Result<Option<u64>, JsonError> {
        let (range, kind) = cursor.value()?;
        if kind == Kind::Null {
            return Ok(None);
        }
        let text = raw
            .get(range)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let count = text.filter(|_| kind == Kind::Number).and_then(read);
        self.hostile |= count.is_none();
        Ok(count)
    }

    fn detail(
        &mut self,
        raw: &[u8],
        cursor: &mut Cursor<'_>,
        name: &[u8],
    ) -> Result<Option<u64>, JsonError> {
        let mut found = None;
        if cursor.peek() != Some(b'{') {
            cursor.value()?;
            return Ok(None);
        }
        cursor.object(&mut |cursor, key| {
            if raw.get(key) == Some(name) {
                found = self.count(raw, cursor)?;
            } else {
                cursor.value()?;
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Digits, or what some languages print for a whole number (`12.0`, `1e3`).
fn whole_number(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Ok(n) = text.parse::<u64>() {
        return (n <= MAX_TOKENS).then_some(n);
    }
    let n = text.parse::<f64>().ok()?;
    (n.fract() == 0.0 && n <= MAX_TOKENS as f64).then_some(n as u64)
}

/// A length of time: what has begun counts whole.
fn begun_whole(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let n = text.parse::<f64>().ok()?.ceil();
    (n <= MAX_TOKENS as f64).then_some(n as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
