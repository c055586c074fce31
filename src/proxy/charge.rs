//! Who calls, and what the call is charged to: the key, the limits, the money.

use super::context::{Body, Context, Forward};
use super::due::{estimated, prompt_due, used};
use super::headers::take_upward;
use super::request::{Refusal, Step};
use crate::admit::{self, Admission, Permit, gate};
use crate::auth::secret::KeyHint;
use crate::auth::{Caller, anonymous, authenticate, credential, missing};
use crate::billing::Bill;
use crate::catalog::due::Estimate;
use crate::id::next_random;
use crate::limit::bucket;
use crate::meter::Meter;
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

/// Asks limits and money, and readies the request for its way upstream.
pub(super) async fn charged(
    session: &mut Session,
    ctx: &mut Context,
    caller: Caller,
    permit: Permit,
    operation: Operation,
    body: Body,
) -> Result<Step, Refusal> {
    let read = Instant::now();
    ctx.asked = ctx.time + (read - ctx.started);
    let plan = &caller.key().plan;
    let model = &permit.model().model;
    // What has no key has no account either.
    let ledger = ctx.snapshot.ledger.as_ref();
    let ledger = ledger.filter(|_| !caller.is_anonymous());
    // Where nobody counts tokens, the prompt is not read for them.
    let estimate = match plan.limits.counts_tokens() || ledger.is_some() {
        true => estimated(operation, &body, &model.price, model.context_length),
        false => Estimate::default(),
    };
    let prompt = estimate.prompt.package_tokens();
    let ask = permit.ask(&caller, estimate.whole.package_tokens());
    let paying = ledger.map(|ledger| {
        let bill = Bill {
            payer: caller.key().payer.clone(),
            model: permit.model().id.clone(),
            money: estimate.whole.cost,
            tokens: estimate.whole.package_tokens(),
        };
        let prompt = estimate.prompt;
        (ledger, gate::Price { bill, prompt })
    });
    let said = gate::ask(&ctx.snapshot.limiter, ask, paying).await;
    ctx.reading = match &said {
        Ok((grant, _)) => Some(grant.reading()),
        Err(admit::Refusal::Limit(denial)) => {
            ctx.snapshot.recorder.refused(plan.place, denial.reason);
            Some(denial.reading)
        }
        // The limits were not charged, and are asked where they stand when the answer goes out.
        Err(admit::Refusal::Money(_)) => None,
    };
    let currency = &ctx.snapshot.currency;
    let admission = admit::admit(&caller, permit, said, next_random(), currency)?;
    Ok(forward(session, admission, operation, body, prompt, read))
}

/// The provider gets the request now: from here on at least its prompt is due.
pub(super) fn begun(forward: &mut Forward) {
    if forward.admission.hold().is_some() {
        let due = prompt_due(forward);
        if let Some(hold) = forward.admission.hold() {
            hold.begun(due);
        }
    }
}

/// Writes down what a stream has used so far, now and then.
pub(super) fn noted(forward: &mut Forward) {
    let relayed = forward.relayed;
    let wanted = forward.admission.hold();
    if wanted.is_some_and(|hold| hold.wants_note(relayed, Instant::now())) {
        let reading = forward.meter.as_ref().map(Meter::reading);
        let (due, _) = used(forward, reading, None);
        if let Some(hold) = forward.admission.hold() {
            hold.note(due);
        }
    }
}

fn forward(
    session: &mut Session,
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
        headers: take_upward(session.req_header_mut()),
        read,
        tried: 0,
        tried_keys: Vec::new(),
        attempts: 0,
        retries: 0,
        failures: Vec::new(),
        hints: 0,
        fresh: false,
        attempt: None,
        meter: None,
        stream: None,
        held: None,
        answered: None,
        settled: false,
        used: None,
        cost: None,
    }))
}

/// Tells limits and money what a request used, once: before the last byte of its answer goes out, so that
/// who asks again after it finds room and no charge is lost; or when the request has ended in any other way. `failed` is
/// why there is no answer of the provider's, if there is none.
pub(super) fn settle(ctx: &mut Context, failed: Option<Code>) {
    let Some(forward) = ctx.forward.as_deref_mut() else {
        return;
    };
    if forward.settled {
        return;
    }
    forward.settled = true;
    forward.used = forward.meter.as_ref().map(Meter::reading);
    let (due, source) = used(forward, forward.used, failed);
    forward
        .admission
        .settle(due.package_tokens().min(bucket::MOST));
    if let Some(hold) = forward.admission.hold() {
        let cost = hold.settle(due, source);
        forward.cost = cost.zip(source);
    }
}
