//! Whether `store.on_failure.limits` holds: Redis is killed, flushed, stopped, made read-only and cut off under load,
//! while two gateways are asked in turns. Nobody waits longer than 50 ms for it, and all is well again by itself.
//!
//! [`fault`] does it, [`traffic`] sends and [`sampler`] looks meanwhile; [`span`] puts together what belongs to one fault,
//! [`local`] and [`deny`] judge.

mod deny;
mod fault;
mod local;
mod sampler;
mod span;
mod traffic;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use tokio::time::sleep;

use crate::Result;
use crate::bench::{Bench, Proxy};
use crate::gateway::{Client, Limits, Shared, WhenAway};
use crate::limits::Allowance;
use crate::pace::Pace;
use crate::process::{existing, processor};
use crate::redis::Redis;
use crate::report::Report;
use fault::Fault;
use sampler::{Sample, Sampler};
use span::Span;
use traffic::{Log, Traffic, Who};

/// More than this the generator is not meant for, in requests a minute.
const MOST_PER_MINUTE: u64 = 120_000;

/// The share of its limit that the key below it sends: one in so many.
const PART: u64 = 5;

/// The command line.
#[derive(Args)]
pub struct Outage {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many gateways.
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u16).range(1..=8))]
    nodes: u16,
    /// The plan's requests a minute.
    #[arg(long, default_value_t = 6_000, value_parser = value_parser!(u64).range(600..=60_000))]
    rate: u64,
    /// The plan's burst.
    #[arg(long, default_value_t = 600, value_parser = value_parser!(u64).range(10..=100_000))]
    burst: u64,
    /// How many times the rate is sent.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(2..=20))]
    over: u64,
    /// How long a fault lasts that does not end by itself.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(2..=60))]
    seconds: u64,
    /// How long Redis is well before, between and after the faults.
    #[arg(long, default_value_t = 6, value_parser = value_parser!(u64).range(4..=60))]
    health: u64,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// The gateways, and where they are.
struct Site {
    nodes: Vec<Proxy>,
    fronts: Vec<SocketAddr>,
    metrics: Vec<SocketAddr>,
}

/// What was seen of a part.
struct Seen {
    spans: Vec<Span>,
    samples: Vec<Vec<Sample>>,
    log: Log,
}

/// What a part is about.
struct Part<'a> {
    program: &'a Path,
    when_away: WhenAway,
    nodes: u16,
    clients: &'a [Client],
    keys: Vec<(Who, &'a Client, Pace)>,
    faults: &'a [Fault],
    seconds: Duration,
    health: Duration,
}

impl Outage {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Outage {
            gateway,
            nodes,
            rate,
            burst,
            over,
            seconds,
            health,
            out: _,
        } = self;
        let allowance = Allowance { rate, burst };
        feasible(allowance, over, health)?;
        let program = existing(gateway)?;
        let limits = Limits {
            requests_per_minute: Some(rate),
            burst: Some(burst),
            // Too high to be reached; with it, the end of each request is told to Redis too.
            concurrency: Some(100_000),
            ..Limits::default()
        };
        let clients = [
            Client::new("unlimited", Limits::default()),
            Client::new("above", limits),
            Client::new("below", limits),
        ];
        let [unlimited, above, below] = &clients;
        // Both keys' paces are in tenths.
        let slow = Pace::new(rate * 10 / PART, 1);
        let mut part = Part {
            program: &program,
            when_away: WhenAway::Local,
            nodes,
            clients: &clients,
            keys: vec![
                (Who::Above, above, Pace::new(rate * over * 10, 1)),
                (Who::Below, below, slow),
            ],
            faults: &Fault::ALL,
            seconds: Duration::from_secs(seconds),
            health: Duration::from_secs(health),
        };
        let bench = Bench::new(None).await?;
        let mut redis = bench.redis().await?;
        let mut text = format!(
            "{}. {nodes} gateways with one worker thread each, asked in turns, one Redis. A key with {rate} requests a minute, \
             burst {burst}, sends {over} times the rate; another one with the same limits a fifth of it. Times as the \
             gateways' own metrics show them, every 20 ms.\n\nlimits: local\n\n",
            processor()
        );
        let mut failures = Vec::new();
        let seen = part.run(&bench, &mut redis, &mut failures).await?;
        local::Seen {
            allowance,
            spans: &seen.spans,
            samples: &seen.samples,
            log: &seen.log,
        }
        .report(&mut text, &mut failures)?;
        let _ = write!(text, "\nlimits: deny, {}\n\n", Fault::Stopped.name());
        part.when_away = WhenAway::Deny;
        part.faults = &[Fault::Stopped];
        part.keys.push((Who::Unlimited, unlimited, slow));
        let seen = part.run(&bench, &mut redis, &mut failures).await?;
        deny::Seen {
            allowance,
            span: *seen.spans.first().ok_or("no fault")?,
            samples: &seen.samples,
            log: &seen.log,
        }
        .report(&mut text, &mut failures)?;
        Ok(Report { text, failures })
    }
}

/// The burst must be used up when a fault begins, or its window shows nothing.
fn feasible(allowance: Allowance, over: u64, health: u64) -> Result<()> {
    let Allowance { rate, burst } = allowance;
    let surplus = rate * (over - 1) * health.saturating_sub(local::RECOVERY.as_secs()) / 60;
    if surplus <= burst {
        return Err(format!(
            "the bucket is not empty again {health} s after a fault: more --health or --over, or a smaller --burst"
        )
        .into());
    }
    if rate * over > MOST_PER_MINUTE {
        return Err(format!(
            "more than the {MOST_PER_MINUTE} requests a minute that can be sent: a lower --rate or --over"
        )
        .into());
    }
    Ok(())
}

impl Part<'_> {
    /// Starts the gateways, and does to Redis what is to be done under load.
    async fn run(
        &self,
        bench: &Bench,
        redis: &mut Redis,
        failures: &mut Vec<String>,
    ) -> Result<Seen> {
        // Nodes of an earlier part would be counted for some seconds more.
        redis.command(&["FLUSHALL"]).await?;
        let mut site = Site::start(self, bench, redis.address()).await?;
        sampler::together(&site.metrics).await?;
        let sampler = Sampler::start(&site.metrics);
        let traffic = Traffic::start(&site.fronts, &self.keys).await?;
        sleep(self.health).await;
        let mut spans = Vec::with_capacity(self.faults.len());
        for fault in self.faults {
            let begun = Instant::now();
            fault.begin(redis).await?;
            let stands = Instant::now();
            if fault.lasts() {
                sleep(self.seconds).await;
            }
            let ended = Instant::now();
            fault.end(redis, bench.scratch()).await?;
            sleep(self.health).await;
            spans.push(Span {
                fault: *fault,
                begun,
                stands,
                ended,
                until: Instant::now(),
            });
            // A gateway that is gone says more than an answer that is missing.
            site.check()?;
        }
        let log = traffic.finish().await?;
        let samples = sampler.finish().await?;
        site.check()?;
        site.judge_log(self.faults, failures)?;
        Ok(Seen {
            spans,
            samples,
            log,
        })
    }
}

impl Site {
    async fn start(part: &Part<'_>, bench: &Bench, redis: SocketAddr) -> Result<Self> {
        let shared = Some(Shared {
            redis,
            when_away: part.when_away,
        });
        let mut nodes = Vec::with_capacity(usize::from(part.nodes));
        for number in 1..=part.nodes {
            let name = format!("node {number}");
            nodes.push(
                bench
                    .gateway(&name, part.program, shared, part.clients)
                    .await?,
            );
        }
        Ok(Site {
            fronts: nodes.iter().map(|node| node.address).collect(),
            metrics: nodes.iter().filter_map(|node| node.metrics).collect(),
            nodes,
        })
    }

    /// An error unless all run that were started.
    fn check(&mut self) -> Result<()> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let name = format!("node {}", number + 1);
            node.process
                .check()
                .map_err(|error| format!("{name}: {error}"))?;
        }
        Ok(())
    }

    /// Adds panics, and outages that the log does not tell of once, from beginning to end.
    fn judge_log(&self, faults: &[Fault], failures: &mut Vec<String>) -> Result<()> {
        let all = self.nodes.len();
        let most = faults.iter().filter(|fault| fault.fails_for(all) > 0);
        let most = most.count();
        let least = faults.iter().filter(|fault| fault.fails_for(all) == all);
        let least = least.count();
        for (number, node) in self.nodes.iter().enumerate() {
            let name = format!("node {}", number + 1);
            let log = node.process.words()?;
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                failures.push(format!("{name}: {line}"));
            }
            let told = |words| log.lines().filter(|line| line.contains(words)).count();
            let (away, back) = (told("Redis is away"), told("Redis is back"));
            if away != back || !(least..=most).contains(&away) {
                failures.push(format!(
                    "{name} logged {away} times that Redis is away and {back} times that it is back; \
                     there were {least} to {most} reasons"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_whose_windows_would_begin_with_a_full_bucket_is_refused() {
        let plan = |rate, burst| Allowance { rate, burst };
        assert!(feasible(plan(6_000, 600), 3, 6).is_ok());
        assert!(feasible(plan(6_000, 800), 3, 6).is_err());
        assert!(feasible(plan(6_000, 600), 2, 6).is_err());
        assert!(feasible(plan(60_000, 600), 3, 6).is_err());
    }
}
