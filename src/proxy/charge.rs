//! Who calls, and what the call is charged to: the key, the limits.

use super::context::{Body, Context, Forward};
use super::due::{estimated, used};
use super::request::{Refusal, Step};
use crate::admit::{Admission, Permit, admit};
use crate::auth::secret::KeyHint;
use crate::auth::{Caller, anonymous, authenticate, credential, missing};
use crate::catalog::due::Estimate;
use crate::id::next_random;
use crate::limit::bucket;
use crate::rejection::{Code, Rejection};
use crate::route::Operation;
use pingora::proxy::Session;
use std::time::Instant;

/// Who calls.
pub(super) fn identified(session: &Session, ctx: &mut Context) -> Result<Caller, Rejection> {
    let snapshot = &ctx.snapshot;
    match credential(&session.req_header().headers)? {
        Some(key) => {
            ctx.hint = KeyHint::of(key);
            authenticate(&snapshot.directory, key, ctx.hint, ctx.client, ctx.time)
        }
        None => anonymous(&snapshot.directory, ctx.client).ok_or_else(missing),
    }
}

/// Counts a request without a valid key against its network.
///
/// # Errors
/// `rate_limit_exceeded`: it is one of too many.
pub(super) fn not_a_flood(ctx: &Context) -> Result<(), Rejection> {
    let Some(flood) = &ctx.snapshot.flood else {
        return Ok(());
    };
    let Err(wait) = flood.count(ctx.client) else {
        return Ok(());
    };
    ctx.snapshot.recorder.refused_unauthenticated();
    let (most, per) = flood.limit();
    let (per, seconds) = (per.as_secs(), wait.as_millis().div_ceil(1000));
    Err(Rejection::new(
        Code::RateLimitExceeded,
        format!(
            "Limit of {most} requests without a valid key in {per} s reached for your network; send a valid key, or retry in {seconds} s."
        ),
    )
    .retry_after(Some(wait)))
}

/// Asks the limits, and readies the request for its way upstream.
pub(super) async fn charged(
    session: &Session,
    ctx: &mut Context,
    caller: Caller,
    permit: Permit,
    operation: Operation,
    body: Body,
) -> Result<Step, Refusal> {
    let read = Instant::now();
    let plan = &caller.key().plan;
    let model = &permit.model().model;
    // Where nobody counts tokens, the prompt is not read for them.
    let estimate = match plan.limits.counts_tokens() || !model.price.is_free() {
        true => estimated(operation, &body, &model.price, model.context_length),
        false => Estimate::default(),
    };
    let prompt = estimate.prompt.package_tokens();
    let ask = permit.ask(&caller, estimate.whole.package_tokens());
    let limiter = ctx.snapshot.limiter.clone();
    let said = limiter.admit(ask).await;
    ctx.reading = Some(match &said {
        Ok(grant) => grant.reading(),
        Err(denial) => {
            ctx.snapshot.recorder.refused(plan.place, denial.reason);
            denial.reading
        }
    });
    let admission = admit(&caller, permit, said, next_random())?;
    Ok(forward(session, admission, operation, body, prompt, read))
}

fn forward(
    session: &Session,
    admission: Admission,
    operation: Operation,
    body: Body,
    prompt: u64,
    read: Instant,
) -> Step {
    Step::Forward(Box::new(Forward {
        admission,
        operation,
        body,
        prompt,
        relayed: 0,
        query: session.req_header().uri.query().map(str::to_owned),
        read,
        tried: 0,
        attempts: 0,
        fresh: false,
        attempt: None,
        meter: None,
        stream: None,
        held: None,
        answered: None,
    }))
}

/// Tells the limits what a request used, once: before the last byte of its answer goes out, so that
/// who asks again after it finds room; or when the request has ended in any other way. `failed` is
/// why there is no answer of the provider's, if there is none.
pub(super) fn settle(ctx: &mut Context, failed: Option<Code>) {
    let Some(forward) = ctx.forward.as_deref_mut() else {
        return;
    };
    let (due, _) = used(forward, failed);
    forward
        .admission
        .settle(due.package_tokens().min(bucket::MOST));
}
