//! What a provider may send at most, whatever it answers. What is beyond is refused before the client
//! gets any of it, and counted as the provider's failure.
//!
//! Pingora reads an answer's header up to 1 MiB and 256 fields before anyone can look at it, and
//! events and errors have caps of their own, in `meter` and `response`.

use super::context::{Context, Forward};
use crate::record::metrics::AttemptEnd;
use crate::rejection::{Code, Rejection};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use pingora::http::ResponseHeader;

/// Bytes of an answer's header: providers send some 2 KiB, and what passes is less than the 8 KiB that
/// proxies in front take.
const HEADER: usize = 64 << 10;
/// Its fields: what nginx and Apache allow a request.
const FIELDS: usize = 100;
/// Hints (1xx) before an answer: more than that is no progress (curl and Go's client stop at a few as well).
const HINTS: u32 = 16;

/// Counts a hint.
///
/// # Errors
/// One of too many.
pub fn hint(ctx: &mut Context) -> Result<(), Rejection> {
    let Some(forward) = &mut ctx.forward else {
        return Ok(());
    };
    forward.hints += 1;
    match forward.hints > HINTS {
        true => Err(refused(ctx, "too many interim answers")),
        false => Ok(()),
    }
}

/// Looks at the header of an answer.
///
/// # Errors
/// It is too large, it says that the body will be, or that the body is encoded.
pub fn header(ctx: &mut Context, header: &ResponseHeader) -> Result<(), Rejection> {
    let map = &header.headers;
    let size: usize = map
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if size > HEADER || map.len() > FIELDS {
        return Err(refused(ctx, "too large a header"));
    }
    // Of a failure nothing is passed on.
    if header.status.is_success() || header.status.is_client_error() {
        // `identity` was asked for. Encoded, it could not be metered, it could hide the provider's key, and
        // what a megabyte becomes in the client's hands is not known.
        let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !map.get_all(CONTENT_ENCODING).iter().all(plain) {
            return Err(refused(ctx, "an encoded answer that was not asked for"));
        }
    }
    if header.status.is_success() && !is_events(map) {
        let length = map
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.trim().parse::<u64>().ok());
        if length.is_some_and(|length| length > ctx.snapshot.answer_limit) {
            return Err(refused(ctx, "too large an answer"));
        }
    }
    Ok(())
}

/// Whether an answer that is no stream and has come to `relayed` bytes may go on with `more`.
pub fn fits(limit: u64, relayed: u64, more: usize) -> bool {
    relayed.saturating_add(more as u64) <= limit
}

/// The refusal, after the provider's failure was counted.
fn refused(ctx: &mut Context, what: &str) -> Rejection {
    ctx.end_attempt(AttemptEnd::Broken);
    let Some(Forward {
        attempt: Some(attempt),
        admission,
        ..
    }) = ctx.forward.as_deref()
    else {
        return Rejection::new(Code::UpstreamError, format!("The provider sent {what}."));
    };
    log::warn!(
        "{} provider {}: {what}",
        ctx.request_id,
        attempt.provider.name
    );
    Rejection::new(
        Code::UpstreamError,
        format!(
            "The provider of model '{}' sent {what}. Try again, or ask the operator.",
            admission.model().id
        ),
    )
}

fn is_events(map: &HeaderMap) -> bool {
    let kind = map
        .get(CONTENT_TYPE)
        .map_or(&b""[..], |kind| kind.as_bytes());
    let events = b"text/event-stream";
    kind.trim_ascii_start()
        .get(..events.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(events))
}
