//! The limits of a gateway, as its configuration has them, and the tasks that they need.

use crate::admit::FUNCTIONS;
use crate::clock::Clock;
use crate::config::{Config, LimitsFailure, Redis};
use crate::limit::limiter::{Limiter, WhenAway};
use crate::limit::redis::Shared;
use crate::record::metrics::Metrics;
use crate::store::link::{Link, Settings};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Limits at work.
pub(super) struct Limiting {
    /// What requests ask.
    pub(super) limiter: Arc<Limiter>,
    /// Ends when the last ended request was told of, after `finished` became true.
    pub(super) ended: JoinHandle<()>,
}

/// Starts the limits: in memory, or in Redis if the configuration has one. A Redis that is not there
/// does not keep the gateway from starting: `store.on_failure` holds until it is.
pub(super) async fn start(
    config: &Config,
    metrics: &Metrics,
    finished: watch::Receiver<bool>,
) -> Result<Limiting, String> {
    let clock = Clock::system();
    let Some(Redis { url, prefix }) = &config.store.redis else {
        let limiter = Limiter::memory(clock, metrics.limits.clone());
        let ended = tokio::spawn(limiter.clone().run(finished));
        return Ok(Limiting { limiter, ended });
    };
    let (when_away, consequence) = match config.store.on_failure_limits {
        LimitsFailure::Local => (
            WhenAway::Local,
            "rate limits hold for each node, at its share of them (store.on_failure.limits: local)",
        ),
        LimitsFailure::Allow => (
            WhenAway::Allow,
            "rate limits do not hold (store.on_failure.limits: allow)",
        ),
        LimitsFailure::Deny => (
            WhenAway::Deny,
            "limited requests are refused with 503 (store.on_failure.limits: deny)",
        ),
    };
    let settings = Settings {
        url: url.expose().to_owned(),
        prefix: prefix.clone(),
        functions: FUNCTIONS.to_vec(),
        consequence: consequence.to_owned(),
    };
    let store = metrics
        .store()
        .map_err(|error| format!("metrics: {error}"))?;
    let link = Arc::new(Link::new(settings, store)?);
    link.first_connect().await;
    let shared = Shared::new(link.clone(), clock.clone());
    let limiter = Limiter::redis(shared, when_away, clock, metrics.limits.clone());
    let (leave, left) = watch::channel(false);
    let supervisor = tokio::spawn(link.supervise(left));
    let work = limiter.clone().run(finished);
    let ended = tokio::spawn(async move {
        work.await;
        // The node leaves after its last call.
        let _ = leave.send(true);
        let _ = supervisor.await;
    });
    Ok(Limiting { limiter, ended })
}
