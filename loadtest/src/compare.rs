//! The comparison: a bare pass-through (A) and the gateway (B) on one core, loaded in turns A B B A from another.
//! Drift of a shared machine hits both alike in such an order; what is trusted is the ratio.

use std::ffi::OsStr;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Result;
use crate::gateway::{MODEL, Settings};
use crate::load::{Load, Until};
use crate::process::{Memory, Process, Scratch, free_ports, processor, ticks_per_second};
use crate::provider::ANSWER;
use crate::report::{self, Requests, Samples, Streaming};
use crate::streams::Streams;
use crate::target::{Answer, Target, chat_body, request};

/// How long a program may take until its first right answer.
const START: Duration = Duration::from_secs(20);

/// Requests before the first measurement of a program.
const WARM_UP: u64 = 5_000;

/// What to compare, and how.
pub struct Plan {
    /// The gateway's program; without one, a second pass-through shows the noise.
    pub gateway: Option<PathBuf>,
    /// The key that requests carry.
    pub key: String,
    /// Whether the gateway's plan has limits.
    pub limits: bool,
    /// The core of the proxies, and the core of generator and provider.
    pub cores: (usize, usize),
    /// How many times A B B A.
    pub rounds: u32,
    /// Requests a turn; 0 leaves the request part out.
    pub requests: u64,
    /// Connections of the closed loop.
    pub connections: u64,
    /// The stream part, if wanted.
    pub streams: Option<StreamPlan>,
}

/// The stream part.
#[derive(Clone, Copy)]
pub struct StreamPlan {
    /// Streams at a time.
    pub streams: u32,
    /// How long each lasts, in seconds.
    pub seconds: u64,
    /// Milliseconds between two events of a stream.
    pub interval_ms: u64,
    /// How many times A B B A.
    pub rounds: u32,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Bare,
    Gateway,
}

const ORDER: [Side; 4] = [Side::Bare, Side::Gateway, Side::Gateway, Side::Bare];

/// A proxy that has given its first right answer.
struct Proxy {
    process: Process,
    address: SocketAddr,
    ready: Duration,
    idle: Memory,
}

/// What all measurements share. The provider is declared first: it ends before its directory goes.
struct Bench {
    plan: Plan,
    /// Held for its end.
    _provider: Process,
    upstream: SocketAddr,
    ticks_per_second: f64,
    scratch: Scratch,
}

impl Plan {
    /// Measures and returns the report.
    pub async fn run(self) -> Result<String> {
        let scratch = Scratch::new()?;
        let [upstream] = free_ports()?;
        let program = std::env::current_exe()?;
        let bind = upstream.to_string();
        let command: [&OsStr; 4] = [
            program.as_ref(),
            "provider".as_ref(),
            "--bind".as_ref(),
            bind.as_ref(),
        ];
        let mut provider = Process::start("provider", self.cores.1, &scratch, &command)?;
        open(&mut provider, upstream)
            .await
            .map_err(|error| format!("provider: {error}"))?;
        let ticks_per_second = ticks_per_second()?;
        let bench = Bench {
            plan: self,
            _provider: provider,
            upstream,
            ticks_per_second,
            scratch,
        };
        let mut text = bench.heading();
        if bench.plan.requests > 0 {
            text.push_str(&report::requests(&bench.requests().await?));
            text.push('\n');
        }
        if let Some(streams) = bench.plan.streams {
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
            text.push_str(&report::streaming(&bench.streams(streams).await?));
        }
        Ok(text)
    }
}

impl Bench {
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
            cores.0,
            cores.1
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
        let [bind, metrics] = free_ports()?;
        let begin = Instant::now();
        let core = self.plan.cores.0;
        let mut process = match (side, &self.plan.gateway) {
            (Side::Gateway, Some(program)) => {
                let file = self.scratch.path().join("gateway.yaml");
                let store = self.scratch.path().join(format!("store-{}", bind.port()));
                let Plan { key, limits, .. } = &self.plan;
                let settings = Settings {
                    bind,
                    metrics,
                    provider: self.upstream,
                    store: &store,
                    key,
                    limits: *limits,
                };
                std::fs::write(&file, settings.yaml())?;
                let command: [&OsStr; 4] = [
                    program.as_ref(),
                    "serve".as_ref(),
                    "--config".as_ref(),
                    file.as_ref(),
                ];
                Process::start("gateway", core, &self.scratch, &command)?
            }
            _ => {
                let program = std::env::current_exe()?;
                let (bind, upstream) = (bind.to_string(), self.upstream.to_string());
                let words =
                    ["passthrough", "--bind", &bind, "--upstream", &upstream].map(OsStr::new);
                let command = [&[program.as_os_str()], words.as_slice()].concat();
                Process::start("passthrough", core, &self.scratch, &command)?
            }
        };
        let failed = |error| format!("{name}: {error}");
        open(&mut process, bind).await.map_err(failed)?;
        let first = loop {
            match self.load(bind, 1, 1).await?.correct() {
                Ok(_) => break Ok(begin.elapsed()),
                Err(error) if begin.elapsed() > START => break Err(error),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        let ready = first.map_err(|error| format!("{name}: {error}\n{}", process.last_words()))?;
        let idle = process.memory()?;
        Ok(Proxy {
            process,
            address: bind,
            ready,
            idle,
        })
    }

    fn target(&self, address: SocketAddr) -> Target {
        Target {
            address,
            path: "/v1/chat/completions".to_owned(),
        }
    }

    async fn load(
        &self,
        address: SocketAddr,
        connections: u64,
        requests: u64,
    ) -> Result<crate::load::Outcome> {
        let target = self.target(address);
        let body = chat_body(MODEL, Answer::Whole);
        let request = request(&target, &self.plan.key, Answer::Whole, body.as_bytes()).into();
        let until = Until::Requests(requests);
        Load {
            target,
            request,
            connections,
            until,
            expect: 200,
            answer: Some(ANSWER),
        }
        .run()
        .await
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
            self.load(proxy.address, connections, WARM_UP)
                .await?
                .correct()?;
            sides.push((side, proxy, Samples::default(), Samples::default()));
        }
        for turn in (0..rounds).flat_map(|_| ORDER) {
            for (_, proxy, cost, rate) in sides.iter_mut().filter(|(side, ..)| *side == turn) {
                let before = proxy.process.ticks()?;
                let outcome = self
                    .load(proxy.address, connections, requests)
                    .await?
                    .correct()?;
                cost.add(self.micros(proxy.process.ticks()? - before) / outcome.requests as f64);
                rate.add(outcome.rate());
            }
        }
        let row = |(side, proxy, cost, rate): (Side, Proxy, Samples, Samples)| {
            let Proxy {
                process,
                address: _,
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
            self.load(proxy.address, 1, 100).await?.correct()?;
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
            row.cost.add(self.micros(ticks) / events as f64);
            row.memory
                .add((memory?.pss as f64 - before.1.pss as f64) / f64::from(plan.streams));
        }
        rows[2].take(
            self.stream_run(self.upstream, plan)
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
            target: self.target(address),
            key: self.plan.key.clone(),
            model: MODEL.to_owned(),
            streams,
            events: seconds * 1000 / interval_ms,
            interval_ms,
        }
    }

    fn micros(&self, ticks: u64) -> f64 {
        ticks as f64 * 1e6 / self.ticks_per_second
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

/// Waits until a program accepts connections.
async fn open(process: &mut Process, address: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        process.check()?;
        if begin.elapsed() > START {
            return Err(format!("does not listen on {address}\n{}", process.last_words()).into());
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
