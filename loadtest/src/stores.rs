//! What limits cost in Redis beside memory: the same gateway twice on one core, loaded in turns A B B A from another,
//! with a plan whose limits are checked on every request and never reached.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

use crate::Result;
use crate::bench::{Bench, Cores, Proxy, Turn, WARM_UP, load};
use crate::gateway::{Client, Limits, Shared, Store};
use crate::process::{existing, processor};
use crate::report::{Report, Samples};

/// The command line.
#[derive(Args)]
pub struct Stores {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// Which limits the plan has; all of them are too high to be reached.
    #[arg(long, value_enum, default_value_t = PlanLimits::All)]
    plan: PlanLimits,
    /// How many times A B B A.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests a turn.
    #[arg(long, default_value_t = 40_000, value_parser = value_parser!(u64).range(1..=10_000_000))]
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

/// Which limits a plan has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlanLimits {
    /// None: what the store costs when there is nothing to limit.
    None,
    /// Requests a minute.
    Requests,
    /// Requests a minute, tokens a minute, concurrency.
    All,
}

const ORDER: [Store; 4] = [Store::Memory, Store::Redis, Store::Redis, Store::Memory];

/// One of the two, with what was measured of it.
struct Side {
    store: Store,
    proxy: Proxy,
    cost: Samples,
    rate: Samples,
    redis_cost: Samples,
    calls: Samples,
}

impl Stores {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Stores {
            gateway,
            plan,
            rounds,
            requests,
            connections,
            cores,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let limits = match plan {
            PlanLimits::None => Limits::default(),
            PlanLimits::Requests => Limits::high_requests(),
            PlanLimits::All => Limits::high(),
        };
        let clients = [Client::new("bench", limits)];
        let bench = Bench::new(Some(cores)).await?;
        let mut redis = bench.redis().await?;
        let address = redis.address();
        let mut sides = Vec::with_capacity(2);
        for store in [Store::Memory, Store::Redis] {
            let (name, redis) = match store {
                Store::Memory => ("limits in memory", None),
                Store::Redis => ("limits in Redis", Some(Shared::strict(address))),
            };
            let proxy = bench.gateway(name, &program, redis, &clients).await?;
            load(proxy.address, &clients[0].key, 200, connections, WARM_UP)
                .run()
                .await?
                .correct()?;
            sides.push(Side::new(store, proxy));
        }
        for turn in (0..rounds).flat_map(|_| ORDER) {
            for side in sides.iter_mut().filter(|side| side.store == turn) {
                let load = load(
                    side.proxy.address,
                    &clients[0].key,
                    200,
                    connections,
                    requests,
                );
                // Asked in the turns of memory too: there it must have nothing to do.
                let turn = bench
                    .turn(&side.proxy.process, Some(&mut redis), &load)
                    .await?;
                side.take(&turn);
            }
        }
        let mut text = format!(
            "{}. Gateways on core {} with one worker thread; generator, provider and Redis on core {}. Every answer \
             checked. {}\n\n{rounds} × ABBA, {requests} requests a turn, {connections} connections, closed loop:\n\n",
            processor(),
            cores.proxy,
            cores.load,
            plan.words(),
        );
        text.push_str(&table(&sides));
        Ok(Report {
            text,
            failures: failures(plan, &sides),
        })
    }
}

impl Side {
    fn new(store: Store, proxy: Proxy) -> Self {
        Side {
            store,
            proxy,
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

impl PlanLimits {
    fn words(self) -> &'static str {
        match self {
            PlanLimits::None => "Plan without limits.",
            PlanLimits::Requests => "Plan with a limit of requests, never reached.",
            PlanLimits::All => {
                "Plan with limits of requests, tokens and concurrency, never reached."
            }
        }
    }
}

/// The first side is what the other is compared with.
fn table(sides: &[Side]) -> String {
    let mut text = String::from(
        "| limits in | µs CPU / request | ratio | requests/s | ratio | µs CPU of Redis / request | fcall / request |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for side in sides {
        let name = match side.store {
            Store::Memory => "memory (A)",
            Store::Redis => "Redis (B)",
        };
        let _ = writeln!(
            text,
            "| {name} | {} | {:.3} | {} | {:.3} | {} | {:.3} |",
            side.cost.spread(2),
            side.cost.median() / sides[0].cost.median(),
            side.rate.spread(0),
            side.rate.median() / sides[0].rate.median(),
            side.redis_cost.spread(2),
            side.calls.median(),
        );
    }
    text
}

/// A comparison with a gateway that does not ask Redis says nothing, and would look splendid.
fn failures(plan: PlanLimits, sides: &[Side]) -> Vec<String> {
    let idle = |side: &&Side| side.store == Store::Redis && side.calls.median() == 0.0;
    sides
        .iter()
        .filter(|_| plan != PlanLimits::None)
        .filter(idle)
        .map(|_| "the gateway with limits in Redis never called a function there".to_owned())
        .collect()
}
