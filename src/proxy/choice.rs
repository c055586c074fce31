//! Which upstream gets the next attempt.

use super::context::{Attempt, Body, Forward};
use crate::id::next_random;
use crate::rejection::{Code, Rejection};
use crate::route::Operation;
use crate::upstream::Provider;
use crate::upstream::peer::Template;
use crate::upstream::select::{Candidate, choose};
use std::sync::Arc;
use tokio::time::Instant;

/// The refusal when every upstream was tried, or none fits.
pub fn no_upstream() -> Rejection {
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
pub fn next_attempt(forward: &Forward, providers: &Providers) -> Option<Attempt> {
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
