//! The comparison: a bare pass-through (A) and the gateway (B) on one core, loaded in turns A B B A from another.
//! Drift of a shared machine hits both alike in such an order; what is trusted is the ratio.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, value_parser};
use tokio::time::sleep;

use crate::Result;
use crate::bench::{self, Bench, Cores, Proxy, WARM_UP, chat};
use crate::gateway::{Client, KEY, Limits, MODEL};
use crate::process::{existing, processor};
use crate::report::{self, Report, Requests, Samples, Streaming};
use crate::streams::Streams;

/// The command line.
#[derive(Args)]
pub struct Compare {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long, required_unless_present = "control")]
    gateway: Option<PathBuf>,
    /// Compare the yardstick with itself: how much of a ratio is noise.
    #[arg(long, conflicts_with = "gateway")]
    control: bool,
    /// The key to send; its hash goes into the gateway's configuration.
    #[arg(long, default_value = KEY)]
    key: String,
    /// Give the plan limits that are too high to be reached: what checking them costs.
    #[arg(long)]
    limits: bool,
    /// How many times A B B A.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests a turn; 0 leaves the request part out.
    #[arg(long, default_value_t = 40_000, value_parser = value_parser!(u64).range(0..=10_000_000))]
    requests: u64,
    /// Connections of the closed loop.
    #[arg(long, default_value_t = 32, value_parser = value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Also compare under so many streams at a time.
    #[arg(long, num_args = 0..=1, default_missing_value = "500", value_parser = value_parser!(u32).range(1..=20_000))]
    streams: Option<u32>,
    /// How long a stream lasts.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=600))]
    stream_seconds: u64,
    /// How many times A B B A with streams.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=20))]
    stream_rounds: u32,
    /// Milliseconds between two events of a stream.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=1_000))]
    interval_ms: u64,
    /// Who runs where.
    #[command(flatten)]
    pub cores: Cores,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What to compare, and how.
struct Plan {
    /// The gateway's program; without one, a second pass-through shows the noise.
    gateway: Option<PathBuf>,
    /// The key that requests carry.
    key: String,
    /// Whether the gateway's plan has limits.
    limits: bool,
    /// Who runs where.
    cores: Cores,
    /// How many times A B B A.
    rounds: u32,
    /// Requests a turn; 0 leaves the request part out.
    requests: u64,
    /// Connections of the closed loop.
    connections: u64,
    /// The stream part, if wanted.
    streams: Option<StreamPlan>,
}

/// The stream part.
#[derive(Clone, Copy)]
struct StreamPlan {
    /// Streams at a time.
    streams: u32,
    /// How long each lasts, in seconds.
    seconds: u64,
    /// Milliseconds between two events of a stream.
    interval_ms: u64,
    /// How many times A B B A.
    rounds: u32,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Bare,
    Gateway,
}

const ORDER: [Side; 4] = [Side::Bare, Side::Gateway, Side::Gateway, Side::Bare];

/// The plan and what it is carried out with.
struct Comparison {
    plan: Plan,
    bench: Bench,
    /// The one who sends.
    client: [Client; 1],
}

impl Compare {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Compare {
            gateway,
            control: _,
            key,
            limits,
            rounds,
            requests,
            connections,
            streams,
            stream_seconds: seconds,
            stream_rounds,
            interval_ms,
            cores,
            out: _,
        } = self;
        let streams = streams.map(|streams| StreamPlan {
            streams,
            seconds,
            interval_ms,
            rounds: stream_rounds,
        });
        let gateway = gateway.map(existing).transpose()?;
        let plan = Plan {
            gateway,
            key,
            limits,
            cores,
            rounds,
            requests,
            connections,
            streams,
        };
        Ok(Report::sound(plan.run().await?))
    }
}

impl Plan {
    /// Measures and returns the report.
    async fn run(self) -> Result<String> {
        let limits = match self.limits {
            true => Limits::high(),
            false => Limits::default(),
        };
        let client = Client {
            name: "bench".to_owned(),
            key: self.key.clone(),
            limits,
        };
        let comparison = Comparison {
            bench: Bench::new(Some(self.cores)).await?,
            plan: self,
            client: [client],
        };
        let mut text = comparison.heading();
        if comparison.plan.requests > 0 {
            text.push_str(&report::requests(&comparison.requests().await?));
            text.push('\n');
        }
        if let Some(streams) = comparison.plan.streams {
            let StreamPlan {
                streams: count,
                seconds,
                interval_ms,
                rounds,
            } = streams;
            let _ = writeln!(
                text,
                "{count} streams, one event every {interval_ms} ms for {seconds} s, {rounds} × ABBA, a new process each turn:\n"
            );
            text.push_str(&report::streaming(&comparison.streams(streams).await?));
        }
        Ok(text)
    }
}

impl Comparison {
    fn heading(&self) -> String {
        let Plan {
            gateway,
            key: _,
            limits,
            cores,
            rounds,
            requests,
            connections,
            streams: _,
        } = &self.plan;
        let plan = match (gateway, limits) {
            (None, _) => "",
            (_, true) => " Plan with limits.",
            (_, false) => " Plan without limits.",
        };
        let mut text = format!(
            "{}. Proxies on core {} with one worker thread, generator and provider on core {}. \
             Every answer checked.{plan}\n\n",
            processor(),
            cores.proxy,
            cores.load
        );
        if *requests > 0 {
            let _ = writeln!(
                text,
                "{rounds} × ABBA, {requests} requests a turn, {connections} connections, closed loop:\n"
            );
        }
        text
    }

    fn name(&self, side: Side) -> &'static str {
        match (side, &self.plan.gateway) {
            (Side::Bare, _) => "bare Pingora",
            (Side::Gateway, Some(_)) => "Tollgate",
            (Side::Gateway, None) => "bare Pingora again (control)",
        }
    }

    /// Starts one of the two and waits for its first right answer.
    async fn start(&self, side: Side) -> Result<Proxy> {
        let name = self.name(side);
        match (side, &self.plan.gateway) {
            (Side::Gateway, Some(program)) => {
                self.bench.gateway(name, program, None, &self.client).await
            }
            _ => self.bench.passthrough(name, &self.plan.key).await,
        }
    }

    fn load(&self, proxy: &Proxy, connections: u64, requests: u64) -> crate::load::Load {
        bench::load(proxy.address, &self.plan.key, 200, connections, requests)
    }

    /// Both under requests, one at a time.
    async fn requests(&self) -> Result<Vec<Requests>> {
        let Plan {
            rounds,
            requests,
            connections,
            ..
        } = self.plan;
        let mut sides = Vec::with_capacity(2);
        for side in [Side::Bare, Side::Gateway] {
            let proxy = self.start(side).await?;
            self.load(&proxy, connections, WARM_UP)
                .run()
                .await?
                .correct()?;
            sides.push((side, proxy, Samples::default(), Samples::default()));
        }
        for turn in (0..rounds).flat_map(|_| ORDER) {
            for (_, proxy, cost, rate) in sides.iter_mut().filter(|(side, ..)| *side == turn) {
                let load = self.load(proxy, connections, requests);
                let turn = self.bench.turn(&proxy.process, None, &load).await?;
                cost.add(turn.cost);
                rate.add(turn.rate);
            }
        }
        let row = |(side, proxy, cost, rate): (Side, Proxy, Samples, Samples)| {
            let Proxy {
                process,
                address: _,
                metrics: _,
                ready,
                idle,
            } = proxy;
            let ready_ms = ready.as_secs_f64() * 1000.0;
            Ok(Requests {
                name: self.name(side),
                cost,
                rate,
                ready_ms,
                idle,
                loaded: process.memory()?,
            })
        };
        sides.into_iter().map(row).collect()
    }

    /// Both under streams, each time in a new process, and the provider without a proxy between.
    async fn streams(&self, plan: StreamPlan) -> Result<Vec<Streaming>> {
        let row = |name| Streaming {
            name,
            cost: Samples::default(),
            memory: Samples::default(),
            delay: (Samples::default(), Samples::default()),
            events: 0,
        };
        let mut rows = vec![
            row(self.name(Side::Bare)),
            row(self.name(Side::Gateway)),
            row("direct, no proxy"),
        ];
        for side in (0..plan.rounds).flat_map(|_| ORDER) {
            let proxy = self.start(side).await?;
            self.load(&proxy, 1, 100).run().await?.correct()?;
            let run = self.stream_run(proxy.address, plan);
            let before = (proxy.process.ticks()?, proxy.process.memory()?);
            let middle = async {
                sleep(run.ramp() + run.steady() / 2).await;
                proxy.process.memory()
            };
            let (outcome, memory) = tokio::join!(run.run(), middle);
            let row = &mut rows[usize::from(side == Side::Gateway)];
            let ticks = proxy.process.ticks()? - before.0;
            let events = row.take(outcome?.correct()?);
            row.cost.add(self.bench.micros(ticks) / events as f64);
            row.memory
                .add((memory?.pss as f64 - before.1.pss as f64) / f64::from(plan.streams));
        }
        rows[2].take(
            self.stream_run(self.bench.upstream(), plan)
                .run()
                .await?
                .correct()?,
        );
        Ok(rows)
    }

    fn stream_run(&self, address: SocketAddr, plan: StreamPlan) -> Streams {
        let StreamPlan {
            streams,
            seconds,
            interval_ms,
            rounds: _,
        } = plan;
        Streams {
            target: chat(address),
            key: self.plan.key.clone(),
            model: MODEL.to_owned(),
            streams,
            events: seconds * 1000 / interval_ms,
            interval_ms,
        }
    }
}

impl Streaming {
    /// Takes in one correct run; returns its events.
    fn take(&mut self, outcome: crate::streams::Outcome) -> u64 {
        self.delay
            .0
            .add(outcome.delay.value_at_quantile(0.5) as f64);
        self.delay
            .1
            .add(outcome.delay.value_at_quantile(0.99) as f64);
        self.events += outcome.events;
        outcome.events
    }
}
