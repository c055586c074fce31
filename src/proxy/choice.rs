//! Which upstream gets the next attempt, and what it gets.

use super::REFUSED;
use super::attempt::Attempt;
use super::context::{Body, Context, Forward};
use super::retry;
use super::snapshot::Snapshot;
use crate::catalog::Upstream;
use crate::downstream::Patience;
use crate::id::next_random;
use crate::record::metrics::AttemptEnd;
use crate::rejection::{Code, Rejection};
use crate::route::Operation;
use crate::upstream::Provider;
use crate::upstream::health::Admits;
use crate::upstream::keys::{Choice, Why};
use crate::upstream::live::Live;
use crate::upstream::peer::Sending;
use crate::upstream::select::{Candidate, Fit, choose};
use crate::upstream::turn::Turn;
use crate::wire::request::{Changes, rewrite};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// An upstream that is full, or that another request is trying out, may take one after this.
const SOON: Duration = Duration::from_secs(1);

/// Why an upstream cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// This request has tried it, or it does not speak the protocol.
    Spent,
    /// It is left out or full, for so long.
    Away(Duration),
    /// All of its keys rest, for so long.
    Keys(Why, Duration),
}

/// An upstream of the model, and what is known of it.
struct Offer<'a> {
    nth: usize,
    upstream: &'a Upstream,
    provider: &'a Arc<Provider>,
    live: &'a Arc<Live>,
}

fn offers<'a>(forward: &'a Forward, snapshot: &'a Snapshot) -> impl Iterator<Item = Offer<'a>> {
    let model = &forward.admission.model().model;
    let lives = snapshot
        .lives
        .get(model.index)
        .map_or(&[][..], Vec::as_slice);
    let all = model.upstreams.iter().zip(lives).enumerate();
    all.filter_map(|(nth, (upstream, live))| {
        let (provider, _) = snapshot.providers.get(upstream.provider)?;
        Some(Offer {
            nth,
            upstream,
            provider,
            live,
        })
    })
}

fn bit(nth: usize) -> u64 {
    1 << nth.min(63)
}

impl Offer<'_> {
    /// Whether it can be had, or why not.
    fn look(&self, forward: &Forward, now: std::time::Instant) -> std::result::Result<Fit, Lack> {
        let spent = forward.tried & bit(self.nth) != 0;
        if spent || !self.speaks(forward) {
            return Err(Lack::Spent);
        }
        for watch in [&self.provider.reach, &self.live.watch] {
            if let Admits::No(wait) = watch.admits(now) {
                return Err(Lack::Away(if wait.is_zero() { SOON } else { wait }));
            }
        }
        let most = self.upstream.concurrency;
        if most.is_some_and(|most| self.live.in_flight() >= most) {
            return Err(Lack::Away(SOON));
        }
        match self
            .provider
            .keys
            .outlook(now, |key| self.tried(forward, key))
        {
            Choice::Ready(_) => Ok(Fit::Ready),
            Choice::LastResort(_) => Ok(Fit::LastResort),
            Choice::Resting(None) => Err(Lack::Spent),
            Choice::Resting(Some(rest)) => Err(Lack::Keys(rest.why, rest.until - now)),
        }
    }

    fn speaks(&self, forward: &Forward) -> bool {
        self.provider.path(forward.operation).is_some()
    }

    fn tried(&self, forward: &Forward, key: usize) -> bool {
        forward.tried_keys.contains(&(self.upstream.provider, key))
    }

    fn candidate(&self, forward: &Forward, now: std::time::Instant) -> Candidate {
        let share = self.live.watch.share(&self.provider.health, now);
        Candidate {
            tier: self.upstream.tier,
            weight: u64::from(self.upstream.weight) * u64::from(share),
            fit: self.look(forward, now).unwrap_or(Fit::No),
            in_flight: self.live.in_flight(),
            latency: self.live.latency.get(now),
        }
    }

    /// Takes a place there, if it is still to be had; `alone` says that no other upstream of the model could serve the
    /// request.
    fn take(&self, forward: &Forward, alone: bool, now: Instant) -> Option<Attempt> {
        let at = now.into_std();
        let most = self.upstream.concurrency;
        let turn = Turn::take(self.provider, self.live, most, alone, at)?;
        let key = match self
            .provider
            .keys
            .choose(at, |key| self.tried(forward, key))
        {
            Choice::Ready(key) | Choice::LastResort(key) => key,
            Choice::Resting(_) => return None,
        };
        let asks = matches!(
            forward.operation,
            Operation::ChatCompletions | Operation::Completions
        );
        let name = self.upstream.name.as_ref();
        Some(Attempt {
            provider: self.provider.clone(),
            place: self.upstream.provider,
            model: name.unwrap_or(&forward.admission.model().id).clone(),
            bit: bit(self.nth),
            key,
            turn,
            chosen: now,
            dial: None,
            injected: match &forward.body {
                Body::Json { call, .. } => asks && call.stream && !call.include_usage,
                Body::Upload(_) | Body::Empty => false,
            },
            ended: None,
            status: None,
        })
    }
}

/// Whether there is an upstream to turn to.
pub fn any_left(forward: &Forward, snapshot: &Snapshot) -> bool {
    let now = Instant::now().into_std();
    offers(forward, snapshot).any(|offer| offer.look(forward, now).is_ok())
}

/// Chooses the next upstream, and takes a place there.
///
/// # Errors
/// None can be had: why not.
fn next_attempt(forward: &Forward, snapshot: &Snapshot) -> std::result::Result<Attempt, Rejection> {
    let now = Instant::now();
    let taken = match forward.admission.model().model.upstreams.as_slice() {
        // Most models have one: nothing to weigh up.
        [_] => offers(forward, snapshot)
            .next()
            .filter(|offer| offer.look(forward, now.into_std()).is_ok())
            .and_then(|offer| offer.take(forward, true, now)),
        _ => {
            let offers: Vec<Offer> = offers(forward, snapshot).collect();
            let alone = offers.iter().filter(|offer| offer.speaks(forward)).count() == 1;
            let mut candidates: Vec<Candidate> = offers
                .iter()
                .map(|offer| offer.candidate(forward, now.into_std()))
                .collect();
            loop {
                let Some(at) = choose(&candidates, next_random()) else {
                    break None;
                };
                let offer = offers.get(at);
                let attempt = offer.and_then(|offer| offer.take(forward, alone, now));
                if attempt.is_some() {
                    break attempt;
                }
                // Another request was quicker.
                if let Some(candidate) = candidates.get_mut(at) {
                    candidate.fit = Fit::No;
                }
            }
        }
    };
    taken.ok_or_else(|| none_left(forward, snapshot, now.into_std()))
}

/// The refusal when no upstream can be had: what time heals first.
fn none_left(forward: &Forward, snapshot: &Snapshot, now: std::time::Instant) -> Rejection {
    let lacks: Vec<Lack> = offers(forward, snapshot)
        .map(|offer| offer.look(forward, now).err().unwrap_or(Lack::Away(SOON)))
        .collect();
    let id = &forward.admission.model().id;
    let least = |pick: fn(&Lack) -> Option<Duration>| lacks.iter().filter_map(pick).min();
    let away = least(|lack| match lack {
        Lack::Away(wait) => Some(*wait),
        _ => None,
    });
    let limited = least(|lack| match lack {
        Lack::Keys(Why::Limited, wait) => Some(*wait),
        _ => None,
    });
    let refused = lacks
        .iter()
        .any(|lack| matches!(lack, Lack::Keys(Why::Refused, _)));
    match (away, limited) {
        (None, None) if refused => refused_credential(id),
        (None, Some(wait)) => limited_by_provider(id, Some(wait)),
        _ => Rejection::new(
            Code::ServerIsOverloaded,
            format!("No upstream of model '{id}' is available right now. Try again shortly."),
        )
        .retry_after(Some(away.min(limited.or(away)).unwrap_or(SOON).max(SOON))),
    }
}

/// The refusal when a provider refused the gateway's own key.
pub fn refused_credential(model: &str) -> Rejection {
    Rejection::new(
        Code::UpstreamAuth,
        format!(
            "The provider of model '{model}' refused the gateway's credential. The operator has to act."
        ),
    )
}

/// The refusal when a provider limits the gateway.
pub fn limited_by_provider(model: &str, wait: Option<Duration>) -> Rejection {
    Rejection::new(
        Code::UpstreamRateLimited,
        format!("The provider of model '{model}' is limiting requests. Try again later."),
    )
    .retry_after(wait)
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
    // What the attempt before has left.
    forward.attempt = None;
    forward.answered = None;
    forward.meter = None;
    forward.held = None;
    let attempt = match next_attempt(forward, &snapshot) {
        Ok(attempt) => attempt,
        Err(none) => {
            // How the last one failed tells more.
            ctx.rejection.get_or_insert(none);
            return Error::e_explain(REFUSED, "no upstream left");
        }
    };
    ctx.rejection = None;
    if forward.attempts == 0 {
        snapshot.budget.request(attempt.chosen.into_std());
    }
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
            forward.attempts += 1;
            attempt.end(&snapshot.recorder, AttemptEnd::Unreachable);
            let mut failure = Error::explain(ErrorType::ConnectError, "name resolution");
            failure.as_up();
            failure.set_retry(retry::another(ctx));
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
    let Some((_, template)) = snapshot.providers.get(attempt.place) else {
        return Error::e_explain(ErrorType::InternalError, "no such provider");
    };
    let sending = Sending {
        // An upload cannot be sent again.
        pooled: !forward.fresh && !matches!(forward.body, Body::Upload(_)),
        whole: matches!(forward.body, Body::Json { .. }),
    };
    let (peer, dial) = template.at(address, sending);
    attempt.dial = dial;
    Ok(peer)
}
