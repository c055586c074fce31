//! The gateway itself: models, providers, nodes, the configuration on disk, the books' own check.

use super::backend::{Fault, NotReloaded, Reloaded};
use super::body::Form;
use super::failure::{Code, Failure, Outcome};
use super::page::{PARAMETERS, Page, list};
use super::reply::Reply;
use super::values::rfc3339;
use super::{Admin, Call};
use crate::billing::Drift;
use crate::billing::money::Money;
use crate::catalog::Model;
use crate::catalog::listing::{Detail, entry};
use crate::record::status::Seen;
use crate::store::nodes::Node;
use crate::upstream::Provider;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

impl Admin {
    pub(super) fn list_models(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let view = self.backends.sight.look();
        // The order of the configuration.
        let place = |(model, _): &(Arc<Model>, Seen)| format!("{:010}", model.index);
        let (models, next) = page.cut(view.models.clone(), place);
        let data = models
            .iter()
            .map(|(model, seen)| self.model_object(model, seen, &view.providers))
            .collect();
        Ok(Reply::ok(&list(data, next)))
    }

    fn model_object(&self, model: &Model, seen: &Seen, providers: &[Arc<Provider>]) -> Value {
        let mut object = entry(model, &model.id, Detail::Full, &self.settings.currency);
        object["state"] = json!(seen.state());
        object["requests"] = json!(seen.requests);
        object["success_rate"] = json!(seen.success_rate());
        let upstreams = model.upstreams.iter().map(|upstream| {
            json!({
                "provider": providers.get(upstream.provider).map(|provider| &provider.name),
                "model": upstream.name.as_ref().unwrap_or(&model.id),
                "weight": upstream.weight,
                "tier": upstream.tier,
            })
        });
        object["upstreams"] = upstreams.collect();
        object
    }

    pub(super) async fn list_nodes(&self, call: &Call<'_>) -> Outcome<Reply> {
        let page = Page::of(&call.query(&PARAMETERS)?)?;
        let view = self.backends.sight.look();
        let (own, heard) = match &self.backends.peers {
            Some(peers) => (Some(peers.own()), peers.list().await),
            // It is alone.
            None => (None, Some(Vec::new())),
        };
        let complete = heard.is_some();
        let mut others = heard.unwrap_or_default();
        others.retain(|node| Some(&node.id) != own.as_ref());
        let count = match complete {
            true => others.len() + 1,
            false => view.nodes as usize,
        };
        let started = view.started_at.duration_since(UNIX_EPOCH);
        let started = started
            .ok()
            .and_then(|since| since.as_millis().try_into().ok());
        let mut all = vec![(
            String::new(),
            json!({
                "id": own,
                "this": true,
                "version": env!("CARGO_PKG_VERSION"),
                "host": self.settings.host,
                "started_at": started.and_then(rfc3339),
                "heard_at": rfc3339(call.now),
                "ready": view.ready,
                "uptime_seconds": view.uptime.as_secs(),
                "requests_in_flight": view.active,
            }),
        )];
        others.sort_by(|a, b| a.id.cmp(&b.id));
        let others = others.iter();
        all.extend(others.map(|node| (node.id.clone(), node_object(node, call.now))));
        let (page, next) = page.cut(all, |(place, _)| place.clone());
        let mut body = list(page.into_iter().map(|(_, node)| node).collect(), next);
        body["nodes"] = json!(count);
        // Redis is away: of other nodes nothing is known but how many there were.
        body["complete"] = json!(complete);
        Ok(Reply::ok(&body))
    }

    /// Reads the configuration file again. What can be changed while the process runs is in force with the answer.
    pub(super) async fn reload(&self, call: &Call<'_>) -> Outcome<Reply> {
        Form::read(call.body, &[])?;
        match self.backends.file.reload().await {
            Ok(Reloaded {
                changes,
                restart_needed,
            }) => Ok(Reply::ok(&json!({
                "status": if changes.is_empty() { "unchanged" } else { "applied" },
                "changes": changes,
                "restart_needed": restart_needed,
            }))),
            Err(NotReloaded::Invalid(faults)) => Err(invalid(&faults)),
            Err(NotReloaded::NoFile) => Err(Failure::new(
                Code::Conflict,
                "The process was started without a configuration file; start it with `tollgate serve --config FILE`.",
            )),
            Err(NotReloaded::Ending) => Err(Failure::new(
                Code::Conflict,
                "The process is about to end; nothing was changed.",
            )),
        }
    }

    pub(super) async fn verify_ledger(&self, call: &Call<'_>) -> Outcome<Reply> {
        call.query(&[])?;
        let drift = self.backends.books.verify().await?;
        let drift: Vec<Value> = drift.iter().map(|one| self.drift_object(one)).collect();
        Ok(Reply::ok(&json!({
            "drift": drift,
            "checked_at": rfc3339(call.now),
        })))
    }

    fn drift_object(&self, drift: &Drift) -> Value {
        let Drift {
            account,
            what,
            stored,
            expected,
        } = drift;
        let difference = stored.saturating_sub(*expected);
        // Packages are counted in tokens, all else is money.
        let tokens = what.split(' ').any(|word| word.starts_with("package"));
        let shown = |sum: i64| match tokens {
            true => json!(sum),
            false => json!(Money::from_micros(sum).to_string()),
        };
        json!({
            "account": account,
            "what": what,
            "stored": shown(*stored),
            "expected": shown(*expected),
            "difference": shown(difference),
            "unit": if tokens { "tokens" } else { &self.settings.currency },
        })
    }
}

/// Another node, by what it says of itself.
fn node_object(node: &Node, now: u64) -> Value {
    let about: Value = serde_json::from_str(&node.about).unwrap_or_default();
    let heard = u64::try_from(node.heard.as_millis()).unwrap_or(u64::MAX);
    json!({
        "id": node.id,
        "this": false,
        "version": about["version"].as_str(),
        "host": about["host"].as_str(),
        "started_at": about["started_at"].as_str(),
        "heard_at": rfc3339(now.saturating_sub(heard)),
    })
}

fn invalid(faults: &[Fault]) -> Failure {
    let mut failure = Failure::new(
        Code::InvalidConfiguration,
        format!(
            "The configuration file has errors ({}); what was in force stays in force.",
            faults.len()
        ),
    );
    failure.errors = faults
        .iter()
        .map(|fault| {
            json!({
                "line": fault.line,
                "column": fault.column,
                "path": fault.path,
                "message": fault.message,
            })
        })
        .collect();
    failure
}
