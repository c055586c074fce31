//! When a failed attempt is followed by another: before the first byte of the answer, while the provider cannot have
//! billed anything, and as far as the budget of all requests goes.

use super::REFUSED;
use super::choice::any_left;
use super::context::{Body, Context};
use super::snapshot::Retries;
use crate::downstream::session::FIRST_BYTE_OVERDUE;
use crate::record::metrics::AttemptEnd;
use crate::upstream::dial::Dial;
use crate::upstream::peer::exhausted;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, RetryType};
use std::time::Duration;
use tokio::time::Instant;

/// A pooled connection that was dead fails at once. One that fails later has failed at work, and
/// the provider may bill that.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Takes the right to another attempt: the request can be sent again and is not too old, an upstream is left, and so is
/// some of what it and all requests together may try.
pub fn another(ctx: &mut Context) -> bool {
    let Some(forward) = &mut ctx.forward else {
        return false;
    };
    let snapshot = &ctx.snapshot;
    let Retries { max, percent, .. } = snapshot.retries;
    if ctx
        .exchange
        .as_ref()
        .is_some_and(|exchange| exchange.is_cutting())
    {
        // The process ends.
        return false;
    }
    let in_time = forward.attempt.as_ref().is_some_and(|attempt| {
        let total = attempt.provider.timeouts.total;
        ctx.started.elapsed() < total
    });
    if !in_time
        || !forward.body.repeatable()
        || forward.retries >= max
        || !any_left(forward, snapshot)
    {
        return false;
    }
    let taken = snapshot.budget.take(percent, Instant::now().into_std());
    snapshot.recorder.upstreams().retry(taken);
    if taken {
        forward.retries += 1;
        forward.fresh = false;
        forward.note_failure();
    }
    taken
}

/// After a failure to connect: on to the provider's next address, or to the next upstream.
pub fn unreachable(ctx: &mut Context, peer: &HttpPeer, mut error: Box<Error>) -> Box<Error> {
    if exhausted(&error) {
        // It is not the provider's fault, and the next one could not be reached either.
        error.set_retry(false);
        return error;
    }
    let Some(forward) = &mut ctx.forward else {
        return error;
    };
    if let Some(attempt) = &mut forward.attempt {
        let provider = &attempt.provider;
        log::warn!(
            "{} provider {}: cannot connect to {}: {}",
            ctx.request_id,
            provider.name,
            peer._address,
            error.etype().as_str()
        );
        if let Some(address) = peer._address.as_inet() {
            provider.addresses.failed(*address);
        }
        if provider.addresses.count() > 1 {
            forward.tried &= !attempt.bit;
        }
        attempt.end(&ctx.snapshot.recorder, AttemptEnd::Unreachable);
    }
    error.set_retry(another(ctx));
    error
}

/// After an answer that refuses: it is the provider's word that nothing was done, so nothing is billed. A key that was
/// refused or limited leaves the upstream to its others.
pub fn refused(ctx: &mut Context) -> bool {
    let Some(forward) = &mut ctx.forward else {
        return false;
    };
    let Some(attempt) = &forward.attempt else {
        return false;
    };
    match attempt.ended {
        Some(AttemptEnd::Auth | AttemptEnd::RateLimited) => {
            forward.tried_keys.push((attempt.place, attempt.key));
            forward.tried &= !attempt.bit;
        }
        // What stands in front of a provider says so when the provider itself is late: it may still be at work.
        Some(AttemptEnd::ServerError) if matches!(attempt.status, Some(504 | 524)) => {
            if !ctx.snapshot.retries.resend.first_byte {
                return false;
            }
        }
        Some(AttemptEnd::ServerError) => {}
        _ => return false,
    }
    another(ctx)
}

/// After a connection broke. A pooled one may have been closed by the provider at the very moment
/// of its use: the request never arrived, and goes out again on a new one. A request that was not written whole is no
/// work for anyone. Nothing else is sent twice, unless the operator wants it: a provider that works on a request may
/// bill it.
pub fn broken(
    ctx: &mut Context,
    mut error: Box<Error>,
    reused: bool,
    answering: bool,
) -> Box<Error> {
    if *error.etype() == REFUSED {
        // Decided where it was refused.
        return error;
    }
    // Pingora knows which errors leave a request untouched: a reused connection that was closed, a
    // stream that the provider refused.
    let refused = matches!(error.retry, RetryType::Decided(true));
    let dial = ctx.attempt().and_then(|attempt| attempt.dial.as_deref());
    error.retry.decide_reuse(dial.map_or(reused, Dial::reused));
    let untouched = error.retry();
    let again = !answering && again(ctx, &error, untouched, refused);
    error.set_retry(again);
    error
}

/// `untouched` says that the request may not have arrived, `refused` that it certainly has not: a stream of HTTP/2 that
/// was refused, or never seen by who said goodbye.
fn again(ctx: &mut Context, error: &Error, untouched: bool, refused: bool) -> bool {
    let recorder = &ctx.snapshot.recorder;
    let Retries { resend, .. } = ctx.snapshot.retries;
    let Some(forward) = ctx.forward.as_deref_mut() else {
        return false;
    };
    let Some(attempt) = forward
        .attempt
        .as_mut()
        .filter(|_| forward.answered.is_none())
    else {
        return false;
    };
    if *error.etype() == FIRST_BYTE_OVERDUE {
        attempt.end(recorder, AttemptEnd::Timeout);
        return resend.first_byte && another(ctx);
    }
    if *error.esource() != ErrorSource::Upstream {
        return false;
    }
    let at_once = attempt.chosen.elapsed() < AT_ONCE;
    // One that has sent a hint was not dead.
    let dead = untouched && at_once && forward.hints == 0;
    if dead && !forward.fresh && forward.body.repeatable() {
        // The upstream itself is not at fault: it may be chosen again. Those that were out of
        // reach stay out.
        attempt.end(recorder, AttemptEnd::Stale);
        forward.tried &= !attempt.bit;
        forward.note_failure();
        forward.fresh = true;
        return true;
    }
    attempt.end(recorder, AttemptEnd::Broken);
    let hung_up = attempt.dial.as_ref().is_some_and(|dial| dial.unsent());
    let unsent = hung_up || *error.etype() == ErrorType::WriteError;
    (unsent || refused || resend.broken) && another(ctx)
}

impl Body {
    /// Whether it can be sent from its beginning again.
    fn repeatable(&self) -> bool {
        match self {
            Body::Json { .. } | Body::Empty => true,
            Body::Upload(upload) => upload.repeatable(),
        }
    }
}
