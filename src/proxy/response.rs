//! From the provider's header to the last byte: what is passed on, what is metered, what is ours to say.

use super::charge::{noted, settle};
use super::choice::{limited_by_provider, refused_credential};
use super::context::{Active, Context, Forward};
use super::excess::fits;
use super::form::{is_stream, metered};
use super::headers::{X_ACCEL_BUFFERING, downward, take_response};
use super::respond::{allow_browsers, head, terminal_event};
use super::snapshot::Gateway;
use crate::meter::{Form, Meter};
use crate::record::event::Outcome;
use crate::record::metrics::AttemptEnd;
use crate::record::recorder::Recorder;
use crate::rejection::{Code, Rejection};
use crate::wire::wait;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use std::time::{Instant, SystemTime};

/// An error answer of a provider that is larger than this is not one that a client should read.
const ERROR_BODY: usize = 256 << 10;

/// A comment: OpenAI's streams. One editor takes the word `ping` in a comment for the end.
const COMMENT: &[u8] = b": keepalive\n\n";
/// Anthropic's own keepalive.
const PING: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// Judges the provider's header, and readies the meter.
///
/// # Errors
/// A refusal in place of the provider's answer.
pub fn judge(
    recorder: &Recorder,
    forward: &mut Forward,
    header: &mut ResponseHeader,
) -> Result<(), Rejection> {
    forward.answered = Some(Instant::now());
    let status = header.status.as_u16();
    let id = forward.admission.model().id.clone();
    let outcome = match status {
        200..300 => AttemptEnd::Ok,
        401 | 403 => AttemptEnd::Auth,
        429 => AttemptEnd::RateLimited,
        400..500 => AttemptEnd::ClientError,
        _ => AttemptEnd::ServerError,
    };
    let wait = match outcome {
        AttemptEnd::RateLimited => wait::told(&header.headers, SystemTime::now()),
        _ => None,
    };
    let metered = match outcome {
        AttemptEnd::Ok => Some(metered(forward, header)),
        _ => None,
    };
    let Some(attempt) = &mut forward.attempt else {
        return Ok(());
    };
    match &metered {
        Some(Ok(_)) => attempt.begins(recorder),
        // An answer that cannot be passed on.
        Some(Err(_)) => attempt.end(recorder, AttemptEnd::Broken),
        None => attempt.end_with(recorder, outcome, Some(status), wait),
    }
    if let Some(metered) = metered {
        forward.meter = Some(metered?);
        return Ok(());
    }
    match outcome {
        // Refused here, it still gets a status: later the connection could only be closed.
        AttemptEnd::ClientError if length(header).is_some_and(|length| length > ERROR_BODY) => {
            Err(oversized())
        }
        AttemptEnd::ClientError => {
            forward.held = Some(BytesMut::new());
            Ok(())
        }
        AttemptEnd::Auth => Err(refused_credential(&id)),
        AttemptEnd::RateLimited => Err(limited_by_provider(&id, wait)),
        _ => Err(Rejection::new(
            Code::UpstreamError,
            format!(
                "The provider of model '{id}' answered with status {status}. Try again, or ask the operator."
            ),
        )),
    }
}

/// The body's length, where the header tells it.
fn length(header: &ResponseHeader) -> Option<usize> {
    let text = header.headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.trim().parse().ok()
}

/// Dresses the header for the client.
///
/// # Errors
/// Never in practice: all values are valid.
pub fn dress(
    session: &Session,
    ctx: &mut Context,
    gateway: &Gateway,
    header: &mut ResponseHeader,
) -> pingora::Result<()> {
    let mut parts = take_response(header);
    let mut map = head(ctx, None, None);
    downward(parts.headers, &mut map);
    allow_browsers(session, &mut map);
    let form = ctx
        .forward
        .as_ref()
        .and_then(|forward| forward.meter.as_ref())
        .map(Meter::form);
    if let (Some(form), Some(forward)) = (form.filter(|form| is_stream(*form)), &mut ctx.forward) {
        map.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        map.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        forward.stream = Some(Active::new(&gateway.metrics.active_streams));
        let words = if form == Form::AnthropicSse {
            PING
        } else {
            COMMENT
        };
        if let Some(exchange) = &ctx.exchange {
            exchange.set_keepalive(Some(Bytes::from_static(words)));
        }
    }
    if session.req_header().version == Version::HTTP_10 {
        // It knows no chunks: the body then ends with the connection.
        map.remove(TRANSFER_ENCODING);
    }
    parts.headers = map;
    *header = ResponseHeader::from(parts);
    ctx.first_byte = Some(Instant::now());
    Ok(())
}

/// Passes a piece of the body on. `Err` cuts the answer off.
///
/// # Errors
/// The provider's stream is beyond what may be held of it.
pub fn pass(
    ctx: &mut Context,
    gateway: &Gateway,
    body: &mut Option<Bytes>,
    last: bool,
) -> Result<(), Rejection> {
    let Some(forward) = &mut ctx.forward else {
        return Ok(());
    };
    if let Some(chunk) = body.take() {
        *body = Some(match (&mut forward.held, &mut forward.meter) {
            (Some(held), _) => {
                if held.len() + chunk.len() > ERROR_BODY {
                    return Err(oversized());
                }
                held.extend_from_slice(&chunk);
                Bytes::new()
            }
            (None, Some(meter))
                if !is_stream(meter.form())
                    && !fits(ctx.snapshot.answer_limit, forward.relayed, chunk.len()) =>
            {
                if let Some(attempt) = &mut forward.attempt {
                    attempt.end(&ctx.snapshot.recorder, AttemptEnd::Broken);
                }
                return Err(oversized());
            }
            (None, Some(meter)) => match meter.push(chunk) {
                Ok(chunk) => chunk,
                Err(_) => {
                    if let Some(attempt) = &mut forward.attempt {
                        attempt.end(&ctx.snapshot.recorder, AttemptEnd::Broken);
                    }
                    return Err(oversized());
                }
            },
            (None, None) => chunk,
        });
    }
    forward.relayed += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
    let says = body.as_ref().is_some_and(|chunk| !chunk.is_empty());
    if says && forward.stream.is_some() && ctx.first_event.is_none() {
        ctx.first_event = Some(Instant::now());
    }
    if forward.stream.is_some() {
        noted(forward);
    }
    let whole = forward.meter.as_ref().is_some_and(Meter::is_whole);
    if last {
        append(body, end(ctx, gateway));
    }
    if last || whole {
        // Some clients go on at the end marker, and do not wait for the connection's.
        settle(ctx, None);
    }
    Ok(())
}

/// What is still to be said when the provider's body has ended; once.
pub fn end(ctx: &mut Context, gateway: &Gateway) -> Bytes {
    let Some(forward) = &mut ctx.forward else {
        return Bytes::new();
    };
    if let Some(mut held) = forward.held.take() {
        // Some providers quote the key that they refuse. The length stays, since the header may
        // have told it.
        if let Some(attempt) = &forward.attempt {
            for secret in attempt.provider.secrets() {
                blot(&mut held, secret);
            }
        }
        return held.freeze();
    }
    let Some(meter) = &mut forward.meter else {
        return Bytes::new();
    };
    let form = meter.form();
    let mut rest = Some(meter.finish());
    if meter.failed() {
        // The client was told by the provider itself; the log, the metrics and the model's state
        // are told here.
        ctx.outcome = Some(Outcome::Rejected(Code::UpstreamError));
        broke_off(ctx, gateway);
        return rest.unwrap_or_default();
    }
    if is_stream(form) && !meter.ended() {
        // The connection ended in good order, but the stream did not: to an SDK this would look
        // like success.
        let events = meter.events();
        let rejection = cut_short();
        append(&mut rest, terminal_event(ctx, form, &rejection, events));
        ctx.outcome = Some(Outcome::Rejected(rejection.code));
        broke_off(ctx, gateway);
    }
    rest.unwrap_or_default()
}

fn append(body: &mut Option<Bytes>, more: Bytes) {
    if more.is_empty() {
        return;
    }
    *body = match body.take() {
        Some(first) if !first.is_empty() => {
            let mut joined = BytesMut::with_capacity(first.len() + more.len());
            joined.extend_from_slice(&first);
            joined.extend_from_slice(&more);
            Some(joined.freeze())
        }
        _ => Some(more),
    };
}

fn blot(text: &mut [u8], secret: &[u8]) {
    if secret.is_empty() {
        return;
    }
    let found: Vec<usize> = memchr::memmem::find_iter(text, secret).collect();
    for at in found {
        if let Some(place) = text.get_mut(at..at + secret.len()) {
            place.fill(b'*');
        }
    }
}

fn oversized() -> Rejection {
    Rejection::new(
        Code::UpstreamError,
        "The provider sent more than an answer may hold.",
    )
}

/// Counts a stream that its provider did not finish.
pub fn broke_off(ctx: &mut Context, gateway: &Gateway) {
    gateway.metrics.broken_streams.inc();
    ctx.end_attempt(AttemptEnd::Broken);
}

/// What a client hears when the provider stops in the middle of a stream.
pub fn cut_short() -> Rejection {
    Rejection::new(
        Code::UpstreamError,
        "The provider ended the stream before the answer was complete. Try again.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blotted_out_in_place() {
        let mut text = *b"key sk-secret and sk-secret.";
        blot(&mut text, b"sk-secret");
        assert_eq!(&text, b"key ********* and *********.");
        blot(&mut text, b"");
        assert_eq!(text.len(), 28);
    }
}
