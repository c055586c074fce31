//! What policy costs: keys, limits, charges, refusals, beside a proxy that has none.

use super::super::field::{CONNECTIONS, Field};
use super::super::figures::Cell;
use super::super::work::{Refused, Work};
use super::{
    ALL_LIMITS, ALL_ON, BARE, IN_MEMORY, IN_REDIS, LIMIT_REACHED, Name, Plan, Planned,
    REQUESTS_ONLY, TOLLGATE, UNKNOWN_KEY,
};
use crate::Result;
use crate::bench::Variant;
use crate::gateway::{Client, Limits};

/// Two of the same.
pub async fn control(field: &Field) -> Result<Plan> {
    let mut planned = Vec::new();
    for (place, side) in [BARE, "bare Pingora again"].into_iter().enumerate() {
        let cell = Cell::new("", side);
        let cell = if place == 0 { cell } else { cell.against(0) };
        let proxy = field.bare().await?;
        let load = field.load(&proxy, &field.client().key);
        planned.push(field.answered(cell, proxy, load).await?);
    }
    let scenario = Name::Control.scenario(
        "Control",
        "The bare pass-through against itself: how far a ratio may be from 1.00 by chance.",
    );
    Ok(Plan::closed(field, field.pick(2, 6), scenario, planned))
}

/// From a bare pass-through to everything.
pub async fn everything(field: &Field) -> Result<Plan> {
    let (limitless, limited) = (
        [Client::new("bench", Limits::default())],
        [Client::new("bench", Limits::high())],
    );
    let proxy = field.bare().await?;
    let load = field.load(&proxy, &limited[0].key);
    let mut planned = vec![field.answered(Cell::new("", BARE), proxy, load).await?];
    for (side, clients, charging) in [
        (
            "key, routing, usage, metrics, access log",
            &limitless,
            false,
        ),
        ("the same, and limits in memory", &limited, false),
        (ALL_ON, &limited, true),
    ] {
        let variant = Variant {
            charging,
            ..Variant::plain(clients)
        };
        let proxy = field.gateway(&variant).await?;
        let load = field.load(&proxy, &clients[0].key);
        let cell = Cell::new("", side).against(0);
        let one = field.answered(cell, proxy, load).await?;
        planned.push(if charging { one.charges("bench") } else { one });
    }
    let scenario = Name::Everything.scenario(
        "Everything on",
        "A chat request of 240 bytes, an answer of 274 with usage. Everything on: key, model routing, limits of requests, \
         tokens and concurrency in memory, hold and settlement on the embedded store, usage, metrics, access log.",
    );
    Ok(Plan::closed(field, field.pick(4, 8), scenario, planned))
}

/// 401 and 429.
pub async fn refusals(field: &mut Field) -> Result<Plan> {
    let rounds = field.pick(2, 6);
    let one = Limits {
        requests_per_minute: Some(1),
        burst: Some(1),
        ..Limits::default()
    };
    let mut notes = Vec::new();
    let shared = field.redis(&mut notes).await?;
    let mut points = vec![(UNKNOWN_KEY, false, None), (LIMIT_REACHED, true, None)];
    points.extend(shared.map(|shared| ("429, limit in Redis", true, Some(shared))));
    let mut planned = Vec::new();
    for (point, limited, redis) in points {
        // One key a turn, so that its minute begins with the turn; the first asks until there is an answer.
        let turns = (1..=2 * rounds).map(|turn| Client::new(&format!("turn-{turn}"), one));
        let clients: Vec<Client> = std::iter::once(Client::new("ready", Limits::high_requests()))
            .chain(turns)
            .collect();
        let variant = Variant {
            redis,
            ..Variant::plain(&clients)
        };
        let proxy = field.gateway(&variant).await?;
        let work = Refused {
            proxy,
            keys: limited.then(|| clients.iter().skip(1).cloned().collect()),
            shared: redis.is_some(),
            connections: CONNECTIONS,
            requests: field.requests(),
        };
        planned.push(Planned {
            cell: Cell::new(point, TOLLGATE),
            work: Work::Refused(Box::new(work)),
        });
    }
    let mut scenario = Name::Refusals.scenario(
        "Refusals",
        "Every request is refused, on connections that are kept. For 429 each turn has a key of its own, whose one request a \
         minute is sent before.",
    );
    scenario.notes = notes;
    Ok(Plan::closed(field, rounds, scenario, planned))
}

/// In memory and in Redis.
pub async fn limits(field: &mut Field) -> Result<Plan> {
    let mut notes = Vec::new();
    let mut sides = vec![(IN_MEMORY, None)];
    let shared = field.redis(&mut notes).await?;
    sides.extend(shared.map(|shared| (IN_REDIS, Some(shared))));
    let mut planned = Vec::new();
    for (point, limits) in [
        (REQUESTS_ONLY, Limits::high_requests()),
        (ALL_LIMITS, Limits::high()),
    ] {
        for (side, redis) in &sides {
            let (side, redis) = (*side, *redis);
            let clients = [Client::new("limited", limits)];
            let variant = Variant {
                redis,
                ..Variant::plain(&clients)
            };
            let proxy = field.gateway(&variant).await?;
            let load = field.load(&proxy, &clients[0].key);
            let cell = Cell::new(point, side);
            let cell = match redis {
                Some(_) => cell.against(planned.len() - 1),
                None => cell,
            };
            let one = field.answered(cell, proxy, load).await?;
            planned.push(if redis.is_some() { one.shared() } else { one });
        }
    }
    let mut scenario = Name::Limits.scenario(
        "Limits in memory and in Redis",
        "Limits that are never reached; in Redis each request is decided there, exactly. Generator, provider and Redis share a \
         core, which is what bounds the throughput with Redis here. Where concurrency is limited, a request's end is told in a \
         second call, which is not waited for.",
    );
    scenario.notes = notes;
    Ok(Plan::closed(field, field.pick(2, 6), scenario, planned))
}

/// Off, on the embedded store, in Redis.
pub async fn billing(field: &mut Field) -> Result<Plan> {
    let mut notes = Vec::new();
    let mut sides = vec![("off", false, None), ("embedded store", true, None)];
    let shared = field.redis(&mut notes).await?;
    sides.extend(shared.map(|shared| ("Redis", true, Some(shared))));
    let mut planned = Vec::new();
    let points = [
        ("no limits", "free", Limits::default()),
        ("all limits", "limited", Limits::high()),
    ];
    for (point, account, limits) in points {
        let off = planned.len();
        for (side, charging, redis) in &sides {
            let (side, charging, redis) = (*side, *charging, *redis);
            let clients = [Client::new(account, limits)];
            let variant = Variant {
                redis,
                charging,
                ..Variant::plain(&clients)
            };
            let proxy = field.gateway(&variant).await?;
            let load = field.load(&proxy, &clients[0].key);
            let cell = Cell::new(point, side);
            let cell = if charging { cell.against(off) } else { cell };
            let one = field.answered(cell, proxy, load).await?;
            let one = if charging { one.charges(account) } else { one };
            planned.push(if redis.is_some() { one.shared() } else { one });
        }
    }
    let mut scenario = Name::Billing.scenario(
        "Charges",
        "Every request is held, journalled and charged before its last byte, and in the end the books have each of them once, at \
         its price. Limits and balances are on this node, or both in Redis.",
    );
    scenario.notes = notes;
    Ok(Plan::closed(field, field.pick(1, 4), scenario, planned))
}
