//! Measures what Tollgate costs beside a bare Pingora pass-through: `loadtest bench --gateway PATH`. Judges its limits
//! across gateways: `loadtest limits` and `outage`. Whether its charges are right whatever
//! happens: `kills`, `money` and `failover`. Whether providers that fail or attack are noticed: `upstreams` and `hostile`.
//! Whether it can be changed and crowded under load: `reload`, `upgrade`, `crowd`, `descriptors` and `clock`.
//! The parts can be run by hand: a fake provider, a closed loop of requests, many streams; the pass-through is the
//! example `passthrough`.
//!
//! Reading order: [`mod@bench`] is the method, [`suite`] applies it to scenarios and writes the report; [`limits`] judges a
//! [`cluster`], [`outage`] what it does when Redis fails. [`ledger`] compares charges with a provider's count, and
//! [`kills`], [`money`] and [`failover`] do what must not change them; [`upstreams`] and [`hostile`] let providers fail and
//! attack. [`steady`] is good traffic, and [`mod@reload`], [`upgrade`] and [`crowd`] do what must not harm it. [`load`],
//! [`open`] and [`streams`] are the generators, [`provider`], [`peers`], [`redis`] and
//! [`balancer`] what stands behind and beside the gateway, [`process`] and [`watch`] the measuring, [`http`] and [`mod@wire`] the wire.

mod balancer;
mod bench;
mod clock;
mod cluster;
mod connection;
mod crowd;
mod failover;
mod gateway;
mod hostile;
mod http;
mod kills;
mod ledger;
mod limits;
mod load;
mod money;
mod open;
mod outage;
mod pace;
mod page;
mod peers;
mod process;
mod provider;
mod redis;
mod relay;
mod reload;
mod report;
mod rng;
mod steady;
mod streams;
mod suite;
mod target;
mod upgrade;
mod upstreams;
mod watch;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, value_parser};
use tokio::signal::unix::{SignalKind, signal};

use crate::pace::Pace;
use crate::report::Report;
use crate::target::{Answer, Target, chat_body, loopback, request};
use crate::wire::Wire;

/// Any failure; the words are for a person.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Load generator, fake provider and comparison for Tollgate. Loopback only.
#[derive(Parser)]
#[command(name = "loadtest")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer every request as a fake model provider.
    Provider(Provider),
    /// Send requests in a closed loop, or in an open one with --rate, and check every answer.
    Load(Load),
    /// Watch the processor time and the memory of a process.
    Watch(watch::Watch),
    /// Read many event streams at once and measure the delay of each event.
    Streams(Streams),
    /// Measure what the gateway costs as its work grows, beside the yardstick, and compare that with the targets.
    Bench(suite::Suite),
    /// Check that a limit holds across gateways: never more than allowed, and nobody refused below it.
    Limits(limits::Limits),
    /// Check that the policy for outages of Redis holds: killed, flushed, stopped, read-only and cut off under load.
    Outage(outage::Outage),
    /// Check that charges survive kill -9: a gateway is killed under load, and its ledger compared with the provider's count.
    Kills(kills::Kills),
    /// Check that exactly what is paid for is served, on two nodes and on one, and that revoked keys are refused everywhere.
    Money(money::Money),
    /// Check that charges survive the end of Redis: killed and started again, and replaced by a replica that lags.
    Failover(failover::Failover),
    /// Check that clients do not notice providers that fail: refused, reset, silent, 500, 503, 429, 401; and all at once.
    Upstreams(upstreams::Upstreams),
    /// Check that a hostile provider does no harm: garbage, bombs, endless and slow answers; and that clients may leave.
    Hostile(hostile::Arguments),
    /// Check that a new configuration harms nothing: the file is written once a second under load, every tenth time invalid.
    Reload(reload::Reload),
    /// Check that a successor takes over without a failed request or a cut stream, again and again under load.
    Upgrade(upgrade::Upgrade),
    /// Check that good traffic is unharmed by a crowd: idle, slow and silent connections, and what is beyond the caps.
    Crowd(crowd::Crowds),
    /// Check that a gateway without free file descriptors neither spins nor falls silent, and recovers.
    Descriptors(crowd::descriptors::Descriptors),
    /// Check that a gateway whose clock jumps by a day opens and locks nothing; needs libfaketime, and is skipped without.
    Clock(clock::Clock),
}

#[derive(Args)]
struct Provider {
    /// Where to listen.
    #[arg(long, value_parser = loopback)]
    bind: SocketAddr,
    /// What is done where a request's headers do not say otherwise: x-events, x-latency and so on.
    #[command(flatten)]
    script: provider::Script,
    /// What chance is made of: the same again with the same seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    life: Life,
}

#[derive(Args)]
struct Life {
    /// Exit after so many seconds: a forgotten server does not stay for ever.
    #[arg(long, default_value_t = 14_400, value_parser = value_parser!(u64).range(1..=604_800))]
    life_s: u64,
}

#[derive(Args)]
struct Aim {
    /// Where to send requests: http://127.0.0.1:PORT/v1/chat/completions
    #[arg(long)]
    url: Target,
    /// The key to send.
    #[arg(long, default_value = gateway::KEY)]
    key: String,
    /// The model to ask for.
    #[arg(long, default_value = gateway::MODEL)]
    model: String,
}

#[derive(Args)]
struct Load {
    #[command(flatten)]
    aim: Aim,
    /// What the requests go over.
    #[arg(long, value_enum, default_value_t = Wire::Plain)]
    wire: Wire,
    /// An open loop: so many requests a second, whatever becomes of those before, timed from when each was due. A 429 is
    /// counted apart.
    #[arg(long, requires = "seconds", conflicts_with_all = ["connections", "expect"], value_parser = value_parser!(u64).range(1..=100_000))]
    rate: Option<u64>,
    /// Connections that send at a time; with HTTP/2, streams.
    #[arg(long, default_value_t = 32, value_parser = value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Stop after so many requests.
    #[arg(long, conflicts_with = "seconds", required_unless_present_any = ["seconds", "rate"], value_parser = value_parser!(u64).range(1..=100_000_000))]
    requests: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long, value_parser = value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Send this file instead of the built-in chat request of 240 bytes.
    #[arg(long)]
    body: Option<PathBuf>,
    /// The status that every answer must have. With 200, the body must be the fake provider's.
    #[arg(long, default_value_t = 200)]
    expect: u16,
}

#[derive(Args)]
struct Streams {
    #[command(flatten)]
    aim: Aim,
    /// Streams at a time.
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..=20_000))]
    streams: u32,
    /// Events a stream.
    #[arg(long, default_value_t = 400, value_parser = value_parser!(u64).range(1..=1_000_000))]
    events: u64,
    /// Milliseconds between two events of a stream.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=60_000))]
    interval_ms: u64,
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Provider(Provider {
            bind,
            script,
            seed,
            life,
        }) => {
            life.begin();
            runtime()?.block_on(provider::serve(bind, script, seed))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Load(arguments) => {
            let (text, wrong) = runtime()?.block_on(arguments.run())?;
            print!("{text}");
            Ok(ExitCode::from(u8::from(wrong > 0)))
        }
        Verb::Watch(watch) => conclude(None, watch.run()),
        Verb::Streams(Streams {
            aim,
            streams,
            events,
            interval_ms,
        }) => {
            let Aim {
                url: target,
                key,
                model,
            } = aim;
            let plan = streams::Streams {
                target,
                key,
                model,
                streams,
                events,
                interval_ms,
            };
            let outcome = runtime()?.block_on(plan.run())?;
            print!("{}", report::stream_run(&outcome));
            Ok(ExitCode::from(u8::from(
                outcome.lost > 0 || outcome.first_error.is_some(),
            )))
        }
        Verb::Bench(suite) => {
            process::pin_self(suite.cores.load)?;
            conclude(None, suite.run())
        }
        Verb::Money(money) => conclude(money.out.clone(), money.run()),
        Verb::Failover(failover) => conclude(failover.out.clone(), failover.run()),
        Verb::Upstreams(upstreams) => conclude(upstreams.out.clone(), upstreams.run()),
        Verb::Hostile(hostile) => conclude(hostile.out.clone(), hostile.run()),
        Verb::Reload(reload) => conclude(reload.out.clone(), reload.run()),
        Verb::Upgrade(upgrade) => conclude(upgrade.out.clone(), upgrade.run()),
        Verb::Crowd(crowd) => conclude(crowd.out.clone(), crowd.run()),
        Verb::Descriptors(descriptors) => conclude(descriptors.out.clone(), descriptors.run()),
        Verb::Clock(clock) => conclude(clock.out.clone(), clock.run()),
        Verb::Kills(kills) => conclude(kills.out.clone(), kills.run()),
        Verb::Limits(limits) => conclude(limits.out.clone(), limits.run()),
        Verb::Outage(outage) => conclude(outage.out.clone(), outage.run()),
    }
}

/// Measures, prints the report, writes it to the file if one is named, and fails if the report says so.
fn conclude(out: Option<PathBuf>, work: impl Future<Output = Result<Report>>) -> Result<ExitCode> {
    let Report { text, failures } = runtime()?.block_on(unless_stopped(work))?;
    print!("{text}");
    if let Some(file) = out {
        std::fs::write(file, text)?;
    }
    match failures.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        failures => Err(failures.join("; ").into()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Gives up on a signal, so that what was started is dropped and thereby killed.
async fn unless_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

impl Life {
    /// Starts the clock.
    fn begin(self) {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(self.life_s));
            std::process::exit(0);
        });
    }
}

impl Load {
    /// Runs one of the loops; returns what it came to, and how many answers were wrong.
    async fn run(self) -> Result<(String, u64)> {
        let Load {
            aim,
            wire,
            rate,
            connections,
            requests,
            seconds,
            body,
            expect,
        } = self;
        let Aim {
            url: target,
            key,
            model,
        } = aim;
        let body = match body {
            Some(file) => std::fs::read(file)?,
            None => chat_body(&model, Answer::Whole).into_bytes(),
        };
        let request = request(&target, &key, Answer::Whole, &body);
        let until = match (requests, seconds, rate) {
            (None, Some(seconds), Some(rate)) => {
                let open = open::OpenLoop {
                    title: "load",
                    target,
                    wire,
                    request: request.into(),
                    pace: Pace::new(rate * 600, seconds),
                };
                let outcome = open.run().await?;
                return Ok((report::open(&outcome), outcome.other));
            }
            (Some(count), None, None) => load::Until::Requests(count),
            (None, Some(seconds), None) => load::Until::Time(Duration::from_secs(seconds)),
            _ => return Err("either --requests or --seconds".into()),
        };
        let load = load::Load {
            target,
            wire,
            requests: load::Requests::one(request),
            connections,
            at_once: connections,
            until,
            expect,
            answer: (expect == 200).then_some(provider::ANSWER),
        };
        let outcome = load.run().await?;
        Ok((report::load(&outcome), outcome.errors))
    }
}
