//! Which upstream gets the next attempt, and what it gets.

use super::REFUSED;
use super::context::{Attempt, Body, Context, Forward};
use crate::downstream::Patience;
use crate::id::next_random;
use crate::record::metrics::AttemptEnd;
use crate::rejection::{Code, Rejection};
use crate::route::Operation;
use crate::upstream::Provider;
use crate::upstream::peer::Template;
use crate::upstream::select::{Candidate, choose};
use crate::wire::request::{Changes, rewrite};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use std::sync::Arc;
use tokio::time::Instant;

/// The refusal when every upstream was tried, or none fits.
fn no_upstream() -> Rejection {
    Rejection::new(
        Code::ServerIsOverloaded,
        "No upstream of this model is available right now. Try again shortly.",
    )
}

type Providers = [(Arc<Provider>, Template)];

/// The model's upstreams as the choice sees them.
pub fn candidates<'a>(
    forward: &'a Forward,
    providers: &'a Providers,
) -> impl Iterator<Item = Candidate> + 'a {
    let upstreams = &forward.admission.model().model.upstreams;
    upstreams
        .iter()
        .enumerate()
        .map(|(nth, upstream)| Candidate {
            weight: upstream.weight,
            tier: upstream.tier,
            usable: forward.tried & bit(nth) == 0
                && providers
                    .get(upstream.provider)
                    .is_some_and(|(provider, _)| provider.path(forward.operation).is_some()),
        })
}

fn bit(nth: usize) -> u64 {
    1 << nth.min(63)
}

/// Chooses the next upstream.
fn next_attempt(forward: &Forward, providers: &Providers) -> Option<Attempt> {
    let model = forward.admission.model();
    let nth = match model.model.upstreams.as_slice() {
        [_] => candidates(forward, providers).next()?.usable.then_some(0)?,
        _ => {
            let candidates: Vec<Candidate> = candidates(forward, providers).collect();
            choose(&candidates, next_random())?
        }
    };
    let upstream = model.model.upstreams.get(nth)?;
    let (provider, _) = providers.get(upstream.provider)?;
    let asks = matches!(
        forward.operation,
        Operation::ChatCompletions | Operation::Completions
    );
    let injected = match &forward.body {
        Body::Json { call, .. } => asks && call.stream && !call.include_usage,
        Body::Upload(_) | Body::Empty => false,
    };
    Some(Attempt {
        provider: provider.clone(),
        place: upstream.provider,
        model: upstream.name.clone().unwrap_or_else(|| model.id.clone()),
        bit: bit(nth),
        chosen: Instant::now(),
        injected,
    })
}

/// Readies the next attempt: chooses the upstream, finds its address, and makes the body its own.
///
/// # Errors
/// No upstream is left, or its host cannot be resolved.
pub async fn next_peer(ctx: &mut Context) -> Result<Box<HttpPeer>> {
    let snapshot = ctx.snapshot.clone();
    let Some(forward) = &mut ctx.forward else {
        return Error::e_explain(ErrorType::InternalError, "not admitted");
    };
    let Some(attempt) = next_attempt(forward, &snapshot.providers) else {
        ctx.rejection.get_or_insert_with(no_upstream);
        return Error::e_explain(REFUSED, "no upstream left");
    };
    forward.tried |= attempt.bit;
    let upstream = attempt.provider.clone();
    let attempt = forward.attempt.insert(attempt);
    let address = match upstream.addresses.next().await {
        Ok(address) => address,
        Err(error) => {
            log::warn!(
                "provider {}: cannot resolve its host: {error}",
                upstream.name
            );
            snapshot
                .recorder
                .attempt(attempt.place, AttemptEnd::Unreachable);
            let mut failure = Error::explain(ErrorType::ConnectError, "name resolution");
            failure.as_up();
            let more = candidates(forward, &snapshot.providers).any(|c| c.usable);
            failure.set_retry(more);
            return Err(failure);
        }
    };
    forward.attempts += 1;
    if let Some(exchange) = &ctx.exchange {
        exchange.set_drain(forward.admission.model().model.drain);
        exchange.set_patience(Patience {
            first_byte: upstream.timeouts.first_byte,
            idle: upstream.timeouts.idle,
            since: attempt.chosen,
            until: exchange.began + upstream.timeouts.total,
        });
        if let Body::Json { call, bytes } = &forward.body {
            let changes = Changes {
                upstream_model: Some(&attempt.model),
                include_usage: attempt.injected,
                input_to_messages: forward.operation == Operation::ChatCompletions,
            };
            exchange.set_replay(rewrite(bytes, call, changes));
        }
    }
    // An upload cannot be sent again, should the pooled connection be closing at this moment.
    let pooled = !forward.fresh && !matches!(forward.body, Body::Upload(_));
    match snapshot.providers.get(attempt.place) {
        Some((_, template)) => Ok(template.at(address, pooled)),
        None => Error::e_explain(ErrorType::InternalError, "no such provider"),
    }
}
