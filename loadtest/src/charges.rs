//! What charging costs: a bare pass-through (A), the gateway with billing off (B), with the embedded store (C) and with
//! Redis (D), in turns A B C D D C B A. Limits of every kind are on in B, C and D, and never reached.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, value_parser};

use crate::Result;
use crate::bench::{Bench, Cores, Proxy, Turn, WARM_UP, load};
use crate::gateway::{Client, Limits, Shared};
use crate::process::{existing, processor};
use crate::redis::Redis;
use crate::report::{Report, Samples};

/// The command line.
#[derive(Args)]
pub struct Charges {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many times A B C D D C B A.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Requests a turn.
    #[arg(long, default_value_t = 40_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    requests: u64,
    /// Connections of the closed loop.
    #[arg(long, default_value_t = 32, value_parser = value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Without limits in the plan.
    #[arg(long)]
    no_limits: bool,
    /// Who runs where.
    #[command(flatten)]
    pub cores: Cores,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What was measured of one of them.
struct Row {
    name: &'static str,
    proxy: Proxy,
    /// Asks Redis for everything.
    shared: bool,
    cost: Samples,
    rate: Samples,
    redis_cost: Samples,
    calls: Samples,
}

impl Charges {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Charges {
            gateway,
            rounds,
            requests,
            connections,
            no_limits,
            cores,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let limits = match no_limits {
            true => Limits::default(),
            false => Limits::high(),
        };
        let clients = [Client::new("bench", limits)];
        let key = clients[0].key.clone();
        let bench = Bench::new(Some(cores)).await?;
        let mut redis = bench.redis().await?;
        let store = Some(Shared::strict(redis.address()));
        let mut rows = vec![
            Row::new("bare Pingora (A)", bench.passthrough("bare", &key).await?),
            Row::new(
                "billing off (B)",
                bench.gateway("off", &program, None, &clients).await?,
            ),
            Row::new(
                "embedded store (C)",
                bench.charging("embedded", &program, None, &clients).await?,
            ),
            Row {
                shared: true,
                ..Row::new(
                    "Redis (D)",
                    bench.charging("Redis", &program, store, &clients).await?,
                )
            },
        ];
        for row in &rows {
            let load = load(row.proxy.address, &key, 200, connections, WARM_UP);
            load.run().await?.correct()?;
        }
        for number in 0..2 * rounds {
            // Forth, then back.
            let places: Vec<usize> = match number % 2 {
                0 => (0..rows.len()).collect(),
                _ => (0..rows.len()).rev().collect(),
            };
            for place in places {
                let row = &mut rows[place];
                let load = load(row.proxy.address, &key, 200, connections, requests);
                let asked: Option<&mut Redis> = row.shared.then_some(&mut redis);
                let turn = bench.turn(&row.proxy.process, asked, &load).await?;
                row.take(&turn);
            }
        }
        let plan = match no_limits {
            true => "without limits",
            false => "with limits of requests, tokens and concurrency, never reached",
        };
        let mut text = format!(
            "{}. Proxies on core {} with one worker thread; generator, provider and Redis on core {}. Every answer \
             checked. Plan {plan}.\n\n{rounds} × ABCDDCBA, {requests} requests a turn, {connections} connections, closed loop:\n\n",
            processor(),
            cores.proxy,
            cores.load,
        );
        text.push_str(&table(&rows));
        Ok(Report {
            text,
            failures: failures(&rows),
        })
    }
}

impl Row {
    fn new(name: &'static str, proxy: Proxy) -> Self {
        Row {
            name,
            proxy,
            shared: false,
            cost: Samples::default(),
            rate: Samples::default(),
            redis_cost: Samples::default(),
            calls: Samples::default(),
        }
    }

    fn take(&mut self, turn: &Turn) {
        self.cost.add(turn.cost);
        self.rate.add(turn.rate);
        if let Some(redis) = turn.redis {
            self.redis_cost.add(redis.cost);
            self.calls.add(redis.calls);
        }
    }
}

/// The first row is what the others are compared with.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| | µs CPU / request | ratio | requests/s | µs CPU of Redis / request | fcall / request |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let redis = match row.shared {
            true => format!("{} | {:.3}", row.redis_cost.spread(2), row.calls.median()),
            false => "– | –".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.3} | {} | {redis} |",
            row.name,
            row.cost.spread(2),
            row.cost.median() / rows[0].cost.median(),
            row.rate.spread(0),
        );
    }
    text
}

/// A gateway that does not ask Redis would look splendid.
fn failures(rows: &[Row]) -> Vec<String> {
    rows.iter()
        // Those who ask at the same moment share a call.
        .filter(|row| row.shared && row.calls.median() == 0.0)
        .map(|row| format!("{}: Redis was not asked", row.name))
        .collect()
}
