//! What a request will cost, and has cost: from the proxy's state to the words of the price.

use super::context::{Body, Forward};
use crate::billing::Due;
use crate::catalog::Price;
use crate::catalog::due::{Answered, Asked, Estimate};
use crate::meter::usage::Source;
use crate::meter::{Form, Meter, Reading, estimate};
use crate::rejection::Code;
use crate::route::Operation;

/// What a request will probably cost. `context` is the model's context length.
pub(super) fn estimated(
    operation: Operation,
    body: &Body,
    price: &Price,
    context: Option<u64>,
) -> Estimate {
    let prompt = match body {
        _ if !operation.uses_tokens() => 0,
        Body::Json { bytes, .. } => estimate::prompt(bytes),
        Body::Upload(_) => estimate::UPLOAD,
        Body::Empty => 0,
    };
    asked(operation, body, prompt).estimate(price, context)
}

/// What is due if nothing more than its prompt is ever known, by the price that it was admitted with.
pub(super) fn prompt_due(forward: &Forward) -> Due {
    let price = &forward.admission.model().model.price;
    let asked = asked(forward.operation, &forward.body, forward.prompt);
    asked.estimate(price, None).prompt
}

/// What a request has cost as far as is known by now, by the price that it was admitted with, and
/// how sure that is. `reading` is what the answer says of itself, `failed` why there is no answer of the provider's, or no whole one.
pub(super) fn used(
    forward: &Forward,
    reading: Option<Reading>,
    failed: Option<Code>,
) -> (Due, Option<Source>) {
    let price = &forward.admission.model().model.price;
    let asked = asked(forward.operation, &forward.body, forward.prompt);
    // A provider that has stopped sending, or whose client has left, has worked.
    let worked = matches!(failed, None | Some(Code::UpstreamTimeout));
    let (Some(meter), Some(reading)) = (&forward.meter, reading) else {
        // It failed before any answer; a provider that has begun to work charges for its prompt. It
        // cannot begin before it has the whole of it.
        let sent = match &forward.body {
            Body::Upload(upload) => upload.is_whole(),
            Body::Json { .. } | Body::Empty => true,
        };
        let begun = worked && sent && forward.attempts > 0 && forward.answered.is_none();
        let due = asked.estimate(price, None).prompt;
        return match begun && due != Due::default() {
            true => (due, Some(Source::Estimated)),
            false => (Due::default(), None),
        };
    };
    let answered = Answered {
        reading,
        relayed: relayed(forward, meter),
        begun: forward.relayed > 0,
        failed: !worked,
        cut: failed.is_some(),
    };
    asked.used(&answered, price)
}

/// Tokens of the answer that were passed on, as far as one can tell.
fn relayed(forward: &Forward, meter: &Meter) -> u64 {
    match meter.form() {
        _ if !forward.operation.writes_text() => 0,
        Form::Json => forward.relayed / 4,
        Form::Opaque => 0,
        _ => meter.deltas(),
    }
}

fn asked(operation: Operation, body: &Body, prompt: u64) -> Asked<'_> {
    let nothing = Asked {
        operation,
        prompt,
        most: None,
        answers: 1,
        size: None,
        characters: 0,
        bytes: 0,
    };
    match body {
        Body::Json { call, bytes } => Asked {
            most: call.max_output,
            answers: call.answers,
            size: call.size.as_deref(),
            characters: match operation {
                Operation::AudioSpeech => call.characters(bytes),
                _ => 0,
            },
            ..nothing
        },
        Body::Upload(upload) => Asked {
            answers: upload.answers(),
            size: upload.size(),
            bytes: upload.bytes(),
            ..nothing
        },
        Body::Empty => nothing,
    }
}
