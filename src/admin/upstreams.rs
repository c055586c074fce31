//! The providers, and how they are doing.

use super::backend::View;
use super::failure::Outcome;
use super::page::{PARAMETERS, Page, list};
use super::reply::Reply;
use super::{Admin, Call};
use crate::catalog::{Model, Upstream};
use crate::upstream::Provider;
use crate::upstream::health::Admits;
use crate::upstream::keys::{Rest, Why};
use crate::upstream::live::{Live, Watch};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Admin {
    pub(super) fn list_upstreams(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let view = self.backends.sight.look();
        let places = view.providers.iter().cloned().enumerate().collect();
        let place = |(place, _): &(usize, Arc<Provider>)| format!("{place:010}");
        let (providers, next) = page.cut(places, place);
        let data = providers
            .iter()
            .map(|(place, provider)| provider_object(*place, provider, &view))
            .collect();
        Ok(Reply::ok(&list(data, next)))
    }
}

fn provider_object(place: usize, provider: &Provider, view: &View) -> Value {
    let now = Instant::now().into_std();
    let each = view.models.iter().zip(&view.lives);
    let here = each.flat_map(|((model, _), lives)| {
        let upstreams = model.upstreams.iter().zip(lives);
        let of_provider = upstreams.filter(|(upstream, _)| upstream.provider == place);
        of_provider.map(|(upstream, live)| upstream_object(model, upstream, live, now))
    });
    let keys = (0..provider.keys.count()).filter(|at| provider.keys.credential(*at).is_some());
    let timeouts = provider.timeouts;
    let mut object = json!({
        "name": provider.name,
        "host": provider.host,
        "tls": provider.tls,
        "addresses": provider.addresses.count(),
        "keys": keys.map(|at| key_object(provider.keys.rest(at, now), now)).collect::<Value>(),
        "timeouts_ms": {
            "connect": millis(timeouts.connect),
            "first_byte": millis(timeouts.first_byte),
            "idle": millis(timeouts.idle),
            "total": millis(timeouts.total),
        },
        "models": here.collect::<Value>(),
    });
    tell_state(&mut object, &provider.reach, now);
    object
}

fn upstream_object(
    model: &Model,
    upstream: &Upstream,
    live: &Live,
    now: std::time::Instant,
) -> Value {
    let mut object = json!({
        "id": model.id,
        "upstream_model": live.model,
        "tier": upstream.tier,
        "weight": upstream.weight,
        "concurrency": upstream.concurrency,
        "in_flight": live.in_flight(),
        "latency_ms": millis(live.latency.get(now)),
    });
    tell_state(&mut object, &live.watch, now);
    object
}

/// `in`, or `out` for so long; nothing is left of that once the next request may try.
fn tell_state(object: &mut Value, watch: &Watch, now: std::time::Instant) {
    let (state, left) = match watch.admits(now) {
        Admits::Yes => ("in", None),
        Admits::Probe => ("out", Some(0)),
        Admits::No(wait) => ("out", Some(millis(wait))),
    };
    object["state"] = json!(state);
    object["out_for_ms"] = json!(left);
}

/// A key: whether it rests, and for how long. Nothing of the key itself.
fn key_object(rest: Option<Rest>, now: std::time::Instant) -> Value {
    let state = match rest.map(|rest| rest.why) {
        None => "ready",
        Some(Why::Limited) => "limited",
        Some(Why::Refused) => "refused",
    };
    json!({
        "state": state,
        "rests_for_ms": rest.map(|rest| millis(rest.until.saturating_duration_since(now))),
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
