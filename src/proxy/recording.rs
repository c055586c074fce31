//! What is told of a finished request.

use super::context::Context;
use super::snapshot::Gateway;
use crate::auth::secret::KeyHint;
use crate::id::RequestId;
use crate::meter::usage::Source;
use crate::record::event::{Event, Outcome};
use crate::record::metrics::AttemptEnd;
use crate::record::recorder::Place;
use crate::rejection::Code;
use crate::route::Operation;
use pingora::proxy::Session;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Makes the event of a finished request, and hands it on.
pub fn record(
    gateway: &Gateway,
    session: &Session,
    ctx: &mut Context,
    status: u16,
    outcome: Outcome,
) {
    if ctx.unrecorded {
        return;
    }
    let now = Instant::now();
    if let Some(forward) = &mut ctx.forward
        && let (Some(_), Some(attempt)) = (&forward.meter, &mut forward.attempt)
        && !matches!(outcome, Outcome::Rejected(_))
    {
        attempt.end(&ctx.snapshot.recorder, AttemptEnd::Ok);
    }
    if outcome == Outcome::ClientGone {
        ctx.end_attempt(AttemptEnd::ClientGone);
    }
    let failures = match &mut ctx.forward {
        Some(forward) => std::mem::take(&mut forward.failures),
        None => Vec::new(),
    };
    let forward = ctx.forward.as_deref();
    let attempt = ctx.attempt();
    if let (Some(forward), Some(model)) = (forward, &ctx.model)
        && forward.attempts > 0
        && outcome != Outcome::ClientGone
        && let Some(traffic) = ctx.snapshot.traffic.get(model.model.index)
    {
        let failed = matches!(outcome, Outcome::Rejected(code) if code.is_upstreams());
        traffic.count(failed, now.saturating_duration_since(gateway.started));
    }
    let reading = forward.and_then(|forward| forward.used);
    if reading.is_some_and(|reading| reading.hostile) {
        gateway.metrics.hostile_usage.inc();
    }
    let usage = reading
        .filter(|reading| reading.source != Source::Estimated)
        .map(|reading| (reading.usage, reading.source));
    let key = ctx.caller.as_ref().map(|caller| caller.key());
    let surface = ctx
        .surface
        .and_then(|surface| ctx.snapshot.surfaces.get(surface));
    let operation = ctx.endpoint.as_ref().map(|endpoint| endpoint.operation);
    let event = Event {
        time: ctx.time,
        request_id: ctx.request_id,
        surface: surface.map_or_else(Arc::default, |surface| surface.mount.clone()),
        operation: operation.map_or("", Operation::label),
        key: ctx.hint,
        account: key.map(|key| key.account.clone()),
        project: key.map(|key| key.project.clone()),
        model: ctx.model.as_ref().map(|model| model.id.clone()),
        upstream: attempt
            .map(|attempt| attempt.provider.name.clone())
            .or_else(|| failures.last().map(|failed| failed.upstream.clone())),
        attempts: forward.map_or(0, |forward| forward.attempts),
        failures,
        status,
        outcome,
        stream: forward.is_some_and(|forward| forward.stream.is_some()),
        usage,
        cost: forward.and_then(|forward| forward.cost),
        total: now - ctx.started,
        first_byte: ctx.first_byte.map(|first| first - ctx.started),
        first_event: ctx.first_event.map(|first| first - ctx.started),
        overhead: overhead(ctx),
        bytes_in: session.body_bytes_read() as u64,
        bytes_out: session.body_bytes_sent() as u64,
        client: ctx.client,
    };
    let place = Place {
        surface: ctx.surface,
        operation,
        model: ctx.model.as_ref().map(|model| model.model.index),
    };
    ctx.snapshot.recorder.record(place, &event);
    gateway.log.push(event);
}

/// Tells of a request that could not even be parsed.
pub fn malformed(gateway: &Gateway, id: RequestId, client: Option<IpAddr>, status: u16) {
    gateway.metrics.malformed.inc();
    gateway.log.push(Event {
        time: SystemTime::now(),
        request_id: id,
        surface: Arc::default(),
        operation: "",
        key: KeyHint::NONE,
        account: None,
        project: None,
        model: None,
        upstream: None,
        attempts: 0,
        failures: Vec::new(),
        status,
        outcome: Outcome::Rejected(Code::InvalidRequest),
        stream: false,
        usage: None,
        cost: None,
        total: Duration::ZERO,
        first_byte: None,
        first_event: None,
        overhead: None,
        bytes_in: 0,
        bytes_out: 0,
        client,
    });
}

/// The gateway's own share of the time to the first byte: from the body to the chosen provider,
/// and from the provider's header to ours.
fn overhead(ctx: &Context) -> Option<Duration> {
    let forward = ctx.forward.as_deref()?;
    let chosen = forward.attempt.as_ref()?.chosen.into_std();
    let back = ctx.first_byte?.saturating_duration_since(forward.answered?);
    Some(chosen.saturating_duration_since(forward.read) + back)
}
