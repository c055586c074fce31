//! When a failed attempt is followed by another: only while the provider cannot have done anything.

use super::choice::candidates;
use super::context::{Body, Context};
use crate::record::metrics::AttemptEnd;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource};
use std::time::Duration;

/// Attempts at most: the first, one more upstream or address, and one dead connection.
const MAX_ATTEMPTS: u32 = 3;

/// A pooled connection that was dead fails at once. One that fails later has failed at work, and
/// the provider may bill that.
const AT_ONCE: Duration = Duration::from_secs(1);

/// After a failure to connect: on to the provider's next address, or to the next upstream.
pub fn unreachable(ctx: &mut Context, peer: &HttpPeer, mut error: Box<Error>) -> Box<Error> {
    let Some(forward) = &mut ctx.forward else {
        return error;
    };
    if let Some(attempt) = &forward.attempt {
        let provider = &attempt.provider;
        ctx.snapshot
            .recorder
            .attempt(attempt.place, AttemptEnd::Unreachable);
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
    }
    let more = candidates(forward, &ctx.snapshot.providers).any(|candidate| candidate.usable);
    error.set_retry(more && forward.attempts < MAX_ATTEMPTS);
    error
}

/// After a connection broke. A pooled one may have been closed by the provider at the very moment
/// of its use: the request never arrived, and goes out again on a new one. Nothing else is sent
/// twice: a provider that works on a request may bill it.
pub fn broken(
    ctx: &mut Context,
    mut error: Box<Error>,
    reused: bool,
    answering: bool,
) -> Box<Error> {
    // Pingora knows which errors leave a request untouched: a reused connection that was closed, a
    // stream that the provider refused.
    error.retry.decide_reuse(reused);
    let untouched = error.retry() && *error.esource() == ErrorSource::Upstream;
    let again = match &mut ctx.forward {
        Some(forward) if untouched && !answering => {
            let repeatable = match &forward.body {
                Body::Json { .. } | Body::Empty => true,
                Body::Upload(upload) => upload.repeatable(),
            };
            let at_once = forward
                .attempt
                .as_ref()
                .is_some_and(|attempt| attempt.chosen.elapsed() < AT_ONCE);
            let again = repeatable
                && at_once
                && forward.answered.is_none()
                && forward.attempts < MAX_ATTEMPTS;
            if again {
                // The upstream itself is not at fault: it may be chosen again. Those that were out of
                // reach stay out.
                let bit = forward.attempt.as_ref().map_or(0, |attempt| attempt.bit);
                forward.tried &= !bit;
                if let Some(attempt) = &forward.attempt {
                    let recorder = &ctx.snapshot.recorder;
                    recorder.attempt(attempt.place, AttemptEnd::Broken);
                }
                forward.fresh = true;
            }
            again
        }
        _ => false,
    };
    error.set_retry(again);
    error
}
