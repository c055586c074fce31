//! What grows and should cost nothing: keys, models, providers, connections.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::super::field::{CONNECTIONS, Field};
use super::super::figures::{Cell, Scenario, grouped};
use super::super::measure::Measure;
use super::{BARE, Name, Plan, TOLLGATE};
use crate::Result;
use crate::bench::{Variant, chat};
use crate::gateway::{Client, Limits, model};
use crate::ledger::admin::Admin;
use crate::load::{Load, Requests};
use crate::process::most_descriptors;
use crate::target::{Answer, Target, chat_body, request};

/// Descriptors that a proxy has beside those of its clients: one for each provider connection, listeners, files.
const OTHERS: u64 = 200;

/// Keys in the configuration file, which takes 100,000 values.
const IN_FILE: usize = 10_000;

/// From so many connections on their memory is told from that of the rest.
const CROWD: u64 = 1_000;

/// Keys are made by so many at a time.
const MAKERS: usize = 32;

/// Compared with the smallest, which is the first.
fn cell(size: u64, place: usize) -> Cell {
    let cell = Cell::sized(size, TOLLGATE);
    match place {
        0 => cell,
        _ => cell.against(0),
    }
}

fn chat_request(target: &Target, key: &str, model: &str) -> Arc<[u8]> {
    let body = chat_body(model, Answer::Whole);
    request(target, key, Answer::Whole, body.as_bytes()).into()
}

/// Each request with the next key.
pub async fn keys(field: &Field) -> Result<Plan> {
    let mut planned = Vec::new();
    let points: &[usize] = field.pick(&[1, 10_000], &[1, 100, 10_000, 100_000]);
    for (place, count) in points.iter().enumerate() {
        let clients: Vec<Client> = (0..(*count).min(IN_FILE))
            .map(|number| Client {
                account: "all".to_owned(),
                ..Client::new(&format!("k{number}"), Limits::high())
            })
            .collect();
        let variant = Variant {
            admin: *count > IN_FILE,
            ..Variant::plain(&clients)
        };
        let proxy = field.gateway(&variant).await?;
        let mut keys: Vec<String> = clients.into_iter().map(|client| client.key).collect();
        if let Some(admin) = proxy.admin {
            keys.extend(make(admin, count - IN_FILE).await?);
        }
        let target = chat(proxy.address);
        let requests = keys
            .iter()
            .map(|key| chat_request(&target, key, &model(0)))
            .collect();
        let load = Load {
            requests: Requests::new(requests)?,
            ..field.load(&proxy, &field.client().key)
        };
        let cell = cell(*count as u64, place);
        planned.push(field.answered(cell, proxy, load).await?);
    }
    let mut scenario = Name::Keys.curve(
        "Keys",
        "keys, all in use",
        "Each request comes with the next key, and each key has limits of its own, of every kind, in memory.",
    );
    if points.iter().any(|count| *count > IN_FILE) {
        scenario.notes.push(format!(
            "A file of configuration takes {} keys of one account, about; more were made through the admin API.",
            grouped(IN_FILE as u64)
        ));
    }
    Ok(Plan::closed(field, field.pick(2, 4), scenario, planned))
}

/// Makes keys at run time.
async fn make(admin: Admin, count: usize) -> Result<Vec<String>> {
    let mut tasks = JoinSet::new();
    for share in 0..MAKERS {
        tasks.spawn(async move {
            let mut keys = Vec::new();
            for number in (share..count).step_by(MAKERS) {
                keys.push(admin.create_key(&format!("m{number}"), "all").await?.key);
            }
            Result::Ok(keys)
        });
    }
    let mut keys = Vec::with_capacity(count);
    while let Some(made) = tasks.join_next().await {
        keys.extend(made??);
    }
    Ok(keys)
}

/// Each request for the next model.
pub async fn models(field: &Field) -> Result<Plan> {
    let mut planned = Vec::new();
    let points: &[u64] = field.pick(&[1, 1_000], &[1, 10, 100, 1_000]);
    for (place, count) in points.iter().enumerate() {
        let clients = [field.client().clone()];
        let variant = Variant {
            models: usize::try_from(*count)?,
            ..Variant::plain(&clients)
        };
        let proxy = field.gateway(&variant).await?;
        let target = chat(proxy.address);
        let requests = (0..variant.models)
            .map(|number| chat_request(&target, &clients[0].key, &model(number)))
            .collect();
        let load = Load {
            requests: Requests::new(requests)?,
            ..field.load(&proxy, &clients[0].key)
        };
        planned.push(field.answered(cell(*count, place), proxy, load).await?);
    }
    let scenario = Name::Models.curve(
        "Models",
        "models in the configuration, all in use",
        "Each request asks for the next model.",
    );
    Ok(Plan::closed(field, field.pick(2, 4), scenario, planned))
}

/// One model at several providers, all alike.
pub async fn upstreams(field: &mut Field) -> Result<Plan> {
    let mut planned = Vec::new();
    let points: &[u64] = field.pick(&[1, 50], &[1, 5, 10, 50]);
    let most = points.iter().copied().max().unwrap_or(1);
    field.bench.provide(usize::try_from(most)?).await?;
    for (place, count) in points.iter().enumerate() {
        let clients = [field.client().clone()];
        let variant = Variant {
            upstreams: usize::try_from(*count)?,
            ..Variant::plain(&clients)
        };
        let proxy = field.gateway(&variant).await?;
        let load = field.load(&proxy, &clients[0].key);
        planned.push(field.answered(cell(*count, place), proxy, load).await?);
    }
    let scenario = Name::Upstreams.curve(
        "Upstreams",
        "providers of one model",
        "One model at so many providers of the same weight, each a process of its own with its own connections.",
    );
    Ok(Plan::closed(field, field.pick(2, 4), scenario, planned))
}

/// Connections that are kept, and take turns.
pub async fn connections(field: &Field) -> Result<Plan> {
    let mut planned = Vec::new();
    let mut notes = Vec::new();
    let points: &[u64] = field.pick(&[32, 2_000], &[1, 32, 100, 1_000, 10_000]);
    // The gateway takes half of its descriptors for clients.
    let room = most_descriptors()?.saturating_sub(OTHERS);
    for count in points {
        if *count > room {
            notes.push(format!(
                "{} connections were left out: the system allows {} descriptors.",
                grouped(*count),
                grouped(most_descriptors()?)
            ));
            continue;
        }
        let clients = [field.client().clone()];
        let variant = Variant {
            connections: Some(count + OTHERS / 2),
            ..Variant::plain(&clients)
        };
        let yardstick = planned.len();
        for side in [BARE, TOLLGATE] {
            let cell = Cell::sized(*count, side);
            let (cell, proxy) = match side {
                BARE => (cell, field.bare().await?),
                _ => (cell.against(yardstick), field.gateway(&variant).await?),
            };
            let load = Load {
                connections: *count,
                at_once: CONNECTIONS,
                ..field.load(&proxy, &clients[0].key)
            };
            let one = field.answered(cell, proxy, load).await?;
            planned.push(if *count >= CROWD { one.crowd() } else { one });
        }
    }
    let scenario = Scenario {
        level: Some((Measure::RequestCost, CONNECTIONS as f64)),
        plots: vec![Measure::RequestCost, Measure::ConnectionMemory],
        notes,
        ..Name::Connections.curve(
            "Connections",
            "open connections",
            "Requests go round over all connections, 32 at a time; all are opened and have had an answer before the turn. One \
             connection alone waits for every answer, so that nothing is read or written together: no part of the curve.",
        )
    };
    Ok(Plan::closed(field, field.pick(2, 4), scenario, planned))
}
