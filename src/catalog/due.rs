//! What a request costs by the price of its model: before anyone knows, and in the end.
//!
//! What counts is what the provider reports. Where it reports nothing, or what cannot be, a prompt
//! counts as estimated and an answer by what was relayed of it: a token for each delta of a stream.
//! Pictures, speech and transcriptions are made at once: whoever got an answer pays for all of it.

use crate::billing::{Due, Used};
use crate::catalog::Price;
use crate::meter::usage::{Source, Usage};
use crate::meter::{Reading, estimate};
use crate::route::Operation;

/// The most tokens that an answer is estimated at: more than any model writes.
const MOST_TOKENS: u64 = 1 << 40;

/// Sound that is uploaded has about so many bytes a second: MP3 at 128 kbit/s.
const BYTES_A_SECOND: u64 = 16_000;
/// Of better compressed sound the bytes say too little; a shorter one is estimated for so long.
const LEAST_SECONDS: u64 = 60;

/// What a request asks for, as far as it can cost something.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The operation.
    pub operation: Operation,
    /// Tokens of the prompt, as far as one can guess.
    pub prompt: u64,
    /// The most tokens that all answers may have, where the client said so.
    pub most: Option<u64>,
    /// How many answers, at least 1.
    pub answers: u64,
    /// The size of the pictures.
    pub size: Option<&'a str>,
    /// Characters to be spoken.
    pub characters: u64,
    /// Bytes of an upload.
    pub bytes: u64,
}

/// What a request is expected to cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// If nothing more than its prompt is ever known.
    pub prompt: Due,
    /// With an answer as long as it may be, or as most are.
    pub whole: Due,
}

/// An answer, as far as it has come.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// What it says of itself.
    pub reading: Reading,
    /// Tokens that were relayed, counted by us.
    pub relayed: u64,
    /// Something of it reached the client.
    pub begun: bool,
    /// The provider failed in the middle of it. One that stopped sending has worked, and has not
    /// failed in this sense.
    pub failed: bool,
    /// It is not whole, and its client is still there.
    pub cut: bool,
}

impl Asked<'_> {
    /// What it will probably cost. `context` is the most that the model can take in and write.
    pub fn estimate(&self, price: &Price, context: Option<u64>) -> Estimate {
        if !self.operation.uses_tokens() {
            return Estimate::default();
        }
        let prompt = self.units(Usage {
            input: self.prompt,
            ..Usage::default()
        });
        let mut whole = prompt;
        if self.operation.writes_text() {
            let usual = || estimate::OUTPUT.saturating_mul(self.answers);
            let most = context.map_or(u64::MAX, |most| most.saturating_mul(self.answers));
            whole.tokens.output = self.most.unwrap_or_else(usual).min(most);
        }
        // What nobody can have is not asked for: sums stay exact in every store.
        whole.tokens.output = whole.tokens.output.min(MOST_TOKENS);
        Estimate {
            prompt: price.due(prompt, self.size),
            whole: price.due(whole, self.size),
        }
    }

    /// What it has cost, and how sure that is; `None` if nothing was used.
    pub fn used(&self, answered: &Answered, price: &Price) -> (Due, Option<Source>) {
        if !self.operation.uses_tokens() {
            return (Due::default(), None);
        }
        let reading = &answered.reading;
        let (tokens, tokens_source) = self.tokens(answered);
        // Nobody pays for a failure of which nothing came.
        let served = answered.begun || !answered.failed;
        let asked = self.units(tokens);
        let used = Used {
            tokens,
            images: match reading.images {
                Some(count) if asked.images > 0 => count,
                // Half a picture is none.
                _ if answered.failed => 0,
                _ => asked.images,
            },
            characters: if served { asked.characters } else { 0 },
            seconds: match reading.seconds {
                Some(seconds) if asked.seconds > 0 => seconds,
                _ if served => asked.seconds,
                _ => 0,
            },
        };
        let counted = match self.operation {
            Operation::AudioSpeech => true,
            Operation::ImagesGenerations | Operation::ImagesEdits => reading.images.is_some(),
            _ => reading.seconds.is_some(),
        };
        let units_source = match counted {
            true => Source::Reported,
            false => Source::Estimated,
        };
        let has_units = asked
            != Used {
                tokens,
                ..Used::default()
            };
        let by_tokens = !has_units || price.counts_tokens();
        let by_units = has_units && (price.counts_units() || !by_tokens);
        let source = match (by_tokens, by_units) {
            (true, true) => less_sure(tokens_source, units_source),
            (false, _) => units_source,
            _ => tokens_source,
        };
        let some = used != Used::default();
        (price.due(used, self.size), some.then_some(source))
    }

    fn tokens(&self, answered: &Answered) -> (Usage, Source) {
        let Reading {
            usage,
            source,
            hostile,
            ..
        } = answered.reading;
        if source == Source::Reported && !hostile {
            return (usage, source);
        }
        let (told, source) = match hostile {
            true => (Usage::default(), Source::Estimated),
            false => (usage, source),
        };
        // Who leaves pays for what there was. A provider that goes on and on, or breaks off, makes nobody pay for more
        // than was asked for.
        let most = self.most.filter(|_| answered.cut).unwrap_or(u64::MAX);
        let relayed = answered.relayed.min(most);
        let tokens = Usage {
            input: told.input.max(self.prompt),
            output: told.output.max(relayed),
            ..told
        };
        (tokens, source)
    }

    /// The tokens, and what is asked for by the piece.
    fn units(&self, tokens: Usage) -> Used {
        let mut used = Used {
            tokens,
            ..Used::default()
        };
        match self.operation {
            Operation::ImagesGenerations | Operation::ImagesEdits => used.images = self.answers,
            Operation::AudioSpeech => used.characters = self.characters,
            Operation::AudioTranscriptions | Operation::AudioTranslations => {
                used.seconds = self.bytes.div_ceil(BYTES_A_SECOND).max(LEAST_SECONDS);
            }
            _ => {}
        }
        used
    }
}

const fn less_sure(a: Source, b: Source) -> Source {
    match (a, b) {
        (Source::Estimated, _) | (_, Source::Estimated) => Source::Estimated,
        (Source::Partial, _) | (_, Source::Partial) => Source::Partial,
        _ => Source::Reported,
    }
}

#[cfg(test)]
mod tests;
