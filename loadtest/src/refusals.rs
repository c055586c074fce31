//! What it costs to say no: 429 to a key whose minute is used up, 401 to a key that nobody has,
//! and 429 where Redis is asked first. In turns A B C C B A, closed loop, every answer checked.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};

use crate::Result;
use crate::bench::{Bench, Cores, Proxy, Turn, WARM_UP, load};
use crate::gateway::{Client, KEY, Limits, Shared, Store};
use crate::process::{existing, processor};
use crate::redis::Redis;
use crate::report::{Report, Samples};

/// After so long the plan allows another request.
const MINUTE: Duration = Duration::from_secs(60);

/// The command line.
#[derive(Args)]
pub struct Refusals {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// With `memory`, the part with limits in Redis is left out.
    #[arg(long, value_enum, default_value_t = Store::Redis)]
    store: Store,
    /// How many times A B C C B A.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Requests a turn, which must end within a minute: then the plan allows the next one.
    #[arg(long, default_value_t = 40_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    requests: u64,
    /// Connections of the closed loop.
    #[arg(long, default_value_t = 32, value_parser = value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Who runs where.
    #[command(flatten)]
    pub cores: Cores,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// One request a minute, counted in memory.
    Limit,
    /// A key that is not in the configuration.
    Key,
    /// One request a minute, counted in Redis.
    LimitInRedis,
}

const ORDER: [Refusal; 3] = [Refusal::Limit, Refusal::Key, Refusal::LimitInRedis];

/// What was measured of one kind of refusal.
struct Row {
    refusal: Refusal,
    cost: Samples,
    rate: Samples,
    reconnects: u64,
    redis_cost: Samples,
    calls: Samples,
}

/// Both gateways, and the keys that are left to be used up.
struct Gateways<'a> {
    bench: Bench,
    memory: Proxy,
    /// With the Redis that it asks.
    shared: Option<(Proxy, Redis)>,
    /// Each turn has a key of its own, so that its minute begins with the turn.
    keys: std::slice::Iter<'a, Client>,
    connections: u64,
}

impl Refusals {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Refusals {
            gateway,
            store,
            rounds,
            requests,
            connections,
            cores,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let clients = clients(rounds);
        let bench = Bench::new(Some(cores)).await?;
        let memory = bench
            .gateway("limits in memory", &program, None, &clients)
            .await?;
        let shared = match store {
            Store::Memory => None,
            Store::Redis => {
                let redis = bench.redis().await?;
                let store = Some(Shared::strict(redis.address()));
                let name = "limits in Redis";
                let proxy = bench.gateway(name, &program, store, &clients).await?;
                Some((proxy, redis))
            }
        };
        let mut rows: Vec<Row> = ORDER
            .into_iter()
            .filter(|refusal| *refusal != Refusal::LimitInRedis || shared.is_some())
            .map(Row::new)
            .collect();
        let mut gateways = Gateways {
            bench,
            memory,
            shared,
            // The first is the one that waited for the gateway.
            keys: clients[1..].iter(),
            connections,
        };
        for row in &rows {
            gateways.turn(row.refusal, WARM_UP).await?;
        }
        for number in 0..2 * rounds {
            // Forth, then back.
            let places: Vec<usize> = match number % 2 {
                0 => (0..rows.len()).collect(),
                _ => (0..rows.len()).rev().collect(),
            };
            for place in places {
                let row = &mut rows[place];
                row.take(&gateways.turn(row.refusal, requests).await?);
            }
        }
        let order = match rows.len() {
            2 => "ABBA",
            _ => "ABCCBA",
        };
        let mut text = format!(
            "{}. Gateways on core {} with one worker thread; generator, provider and Redis on core {}. Every answer \
             checked.\n\n{rounds} × {order}, {requests} requests a turn, {connections} connections, closed loop:\n\n",
            processor(),
            cores.proxy,
            cores.load,
        );
        text.push_str(&table(&rows));
        Ok(Report::sound(text))
    }
}

/// A client without a reachable limit, and one with a request a minute for each turn with a limit and each warm-up.
fn clients(rounds: u32) -> Vec<Client> {
    let one = Limits {
        requests_per_minute: Some(1),
        burst: Some(1),
        ..Limits::default()
    };
    // Two such turns a direction, one for each store.
    let turns = (1..=4 * rounds + 2).map(|number| Client::new(&format!("turn-{number}"), one));
    std::iter::once(Client::new("ready", Limits::high_requests()))
        .chain(turns)
        .collect()
}

impl Gateways<'_> {
    /// One turn. Before one with a limit, the request that the key's minute has is sent, and must be answered.
    async fn turn(&mut self, refusal: Refusal, requests: u64) -> Result<Turn> {
        let (proxy, redis) = match (refusal, &mut self.shared) {
            (Refusal::LimitInRedis, Some((proxy, redis))) => (&*proxy, Some(redis)),
            _ => (&self.memory, None),
        };
        let failed = |error| format!("{}: {error}", refusal.name());
        let (key, status) = match refusal {
            Refusal::Key => (format!("{KEY}-nobody"), 401),
            Refusal::Limit | Refusal::LimitInRedis => {
                let client = self.keys.next().ok_or("no key is left for this turn")?;
                load(proxy.address, &client.key, 200, 1, 1)
                    .run()
                    .await?
                    .correct()
                    .map_err(|error| failed(format!("the one allowed request: {error}").into()))?;
                (client.key.clone(), 429)
            }
        };
        let load = load(proxy.address, &key, status, self.connections, requests);
        let begin = Instant::now();
        let turn = self.bench.turn(&proxy.process, redis, &load).await;
        Ok(turn.map_err(|error| match begin.elapsed() {
            long if long > MINUTE => failed(
                format!("{error}; the turn took longer than a minute: fewer --requests").into(),
            ),
            _ => failed(error),
        })?)
    }
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Refusal::Limit => "429, limits in memory",
            Refusal::Key => "401, unknown key",
            Refusal::LimitInRedis => "429, limits in Redis",
        }
    }
}

impl Row {
    fn new(refusal: Refusal) -> Self {
        Row {
            refusal,
            cost: Samples::default(),
            rate: Samples::default(),
            reconnects: 0,
            redis_cost: Samples::default(),
            calls: Samples::default(),
        }
    }

    fn take(&mut self, turn: &Turn) {
        self.cost.add(turn.cost);
        self.rate.add(turn.rate);
        self.reconnects += turn.reconnects;
        if let Some(redis) = turn.redis {
            self.redis_cost.add(redis.cost);
            self.calls.add(redis.calls);
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| refusal | µs CPU / refusal | refusals/s a core | measured/s | connections closed | µs CPU of Redis / refusal | fcall / refusal |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let redis = match row.refusal {
            Refusal::LimitInRedis => {
                format!("{} | {:.3}", row.redis_cost.spread(2), row.calls.median())
            }
            Refusal::Limit | Refusal::Key => "– | –".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} | {} | {redis} |",
            row.refusal.name(),
            row.cost.spread(2),
            1e6 / row.cost.median(),
            row.rate.spread(0),
            row.reconnects,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_turn_with_a_limit_has_a_key() {
        for rounds in [1, 4] {
            let turns = 2 * rounds * 2;
            let warm_ups = 2;
            assert_eq!(clients(rounds).len() as u32, 1 + turns + warm_ups);
        }
    }
}
