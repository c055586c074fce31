//! What keys take up in Redis, that were each used once; and what a stream takes up in a gateway.

use crate::load::Requests;
use crate::wire::Wire;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::books;
use super::cost::{forget_calls, function_calls, late};
use super::settings::secret;
use super::site::Site;
use crate::Result;
use crate::bench::{Cores, chat, open};
use crate::gateway::MODEL;
use crate::ledger::claims::Claims;
use crate::open::OpenLoop;
use crate::pace::Pace;
use crate::process::{Process, Scratch, free_ports};
use crate::streams::Streams;

/// How fast keys are used, a second.
const KEYS_PER_SECOND: u64 = 1_000;

/// So many seconds may be done again.
const MOST_BAD: u32 = 20;

/// Milliseconds between two events of a stream.
const INTERVAL_MS: u64 = 50;

/// What is done after the last answer still counts if it is done by then.
const AFTER_WORK: Duration = Duration::from_millis(500);

/// From the opening of the last stream to the first look, and from the last look to the first end.
const MARGIN: Duration = Duration::from_millis(300);

/// What keys take up.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// Whether they were limited, or charged.
    pub charged: bool,
    /// Accounts among them.
    pub accounts: u64,
    /// How many.
    pub keys: u64,
    /// Bytes that Redis holds for each.
    pub bytes: f64,
    /// What the gateway holds in memory in the end, in KiB.
    pub gateway: u64,
}

/// What streams cost a gateway.
#[derive(Debug, Clone, Copy)]
pub struct Streaming {
    /// How many at a time.
    pub streams: u32,
    /// Events that arrived, all of them.
    pub events: u64,
    /// Processor time of the gateway an event, in microseconds.
    pub gateway: f64,
    /// Processor time of Redis a stream and second, in microseconds.
    pub redis: f64,
    /// Function calls of Redis a stream and second.
    pub calls: f64,
    /// Memory of the gateway a stream, in KiB.
    pub memory: f64,
    /// File descriptors of the gateway a stream.
    pub descriptors: f64,
    /// Bytes of the journal a stream and second.
    pub journal: f64,
    /// Added delay of an event, in microseconds: median and 99th percentile.
    pub delay: (u64, u64),
}

impl Keys {
    /// Uses every key of a site, a second's worth at a time, and those again in whose second Redis was late, which are
    /// `repeated`; nothing if that was too often.
    pub async fn run(
        site: &mut Site,
        charged: bool,
        repeated: &mut u32,
        claims: &mut Claims,
    ) -> Result<Option<Self>> {
        let requests = site.requests();
        let keys = requests.len() as u64;
        let before = site.redis_memory().await?;
        let (mut used, mut bad) = (0, 0);
        let mut turns = requests.chunks(KEYS_PER_SECOND as usize);
        let mut turn = turns.next();
        while let Some(some) = turn {
            let open = OpenLoop {
                title: "each key once",
                target: chat(site.front),
                wire: Wire::Plain,
                requests: Requests::new(some.iter().map(|one| one.as_slice().into()).collect())?,
                pace: Pace::counted(KEYS_PER_SECOND * 600, some.len() as u64),
            };
            let outcome = open.run().await?;
            site.check()?;
            if late(&outcome) {
                bad += 1;
                if bad > MOST_BAD {
                    return Ok(None);
                }
                *repeated += 1;
                sleep(AFTER_WORK).await;
                continue;
            }
            used += outcome.admitted;
            turn = turns.next();
        }
        sleep(AFTER_WORK).await;
        let memory = site.redis_memory().await?.saturating_sub(before);
        let counted = site.provider.count();
        claims.check(
            used == keys && counted >= keys,
            "Every key was used",
            &format!("{used} of {keys}, the provider counted {counted}"),
        );
        Ok(Some(Keys {
            charged,
            accounts: site.accounts().len() as u64,
            keys,
            bytes: memory as f64 / keys.max(1) as f64,
            gateway: site.memory()?,
        }))
    }
}

/// The provider of stamped events.
pub async fn stamping(scratch: &Scratch, cores: Cores) -> Result<(Process, std::net::SocketAddr)> {
    let [address] = free_ports()?;
    let bind = address.to_string();
    let program = std::env::current_exe()?;
    let words = ["provider", "--bind", &bind].map(OsStr::new);
    let command = [&[program.as_os_str()], words.as_slice()].concat();
    let mut process = Process::start("stamping", Some(cores.load), scratch, &command)?;
    open(&mut process, address).await?;
    Ok((process, address))
}

impl Streaming {
    /// Opens so many streams straight to the first gateway, whose provider stamps events; nothing if Redis was late.
    pub async fn run(
        site: &mut Site,
        streams: u32,
        seconds: u64,
        claims: &mut Claims,
    ) -> Result<Option<Self>> {
        let front = site.nodes.first().ok_or("no gateway")?.front();
        let run = Streams {
            target: chat(front),
            key: secret("k0-0"),
            model: MODEL.to_owned(),
            streams,
            events: seconds * 1000 / INTERVAL_MS,
            interval_ms: INTERVAL_MS,
        };
        // What the first streams make the gateway allocate is not theirs.
        let few = Streams {
            streams: 10,
            events: 5,
            ..run.clone()
        };
        few.run().await?.correct()?;
        sleep(AFTER_WORK).await;
        let (memory, descriptors) = (site.memory()?, site.descriptors()?);
        // Beginnings and ends are requests like others: what is looked at is what lies between.
        let middle = async {
            sleep(run.ramp() + MARGIN).await;
            forget_calls(site).await?;
            let (before, begin) = (site.used().await?, Instant::now());
            sleep(run.steady().saturating_sub(MARGIN * 2)).await;
            let (used, elapsed) = (site.used().await?.since(before), begin.elapsed());
            let calls = function_calls(site).await?;
            let stream_seconds = f64::from(streams) * elapsed.as_secs_f64();
            Result::Ok((
                used,
                calls,
                stream_seconds,
                site.memory()?,
                site.descriptors()?,
            ))
        };
        let (outcome, middle) = tokio::join!(run.run(), middle);
        let (outcome, middle) = (outcome?, middle?);
        let failure = outcome.first_error.as_deref().unwrap_or_default();
        if failure.contains("status 503") {
            return Ok(None);
        }
        let (used, calls, stream_seconds, memory_then, descriptors_then) = middle;
        let (events, lost) = (outcome.events, outcome.lost);
        claims.check(
            lost == 0 && failure.is_empty(),
            "Every event of every stream arrived, and its usage and its end",
            &format!("{streams} streams, {events} events, {lost} lost{failure}"),
        );
        let more = |now: u64, before: u64| now.saturating_sub(before) as f64 / f64::from(streams);
        // The provider of these is not the one that counts: what they come to is known all the same.
        let told = u64::from(streams) + u64::from(few.streams) + 1;
        books::compare(site, told, claims).await?;
        let [half, most] = [0.5, 0.99].map(|share| outcome.delay.value_at_quantile(share));
        Ok(Some(Streaming {
            streams,
            events,
            gateway: used.gateways.as_secs_f64() * 1e6 / stream_seconds * INTERVAL_MS as f64
                / 1000.0,
            redis: used.redis.as_secs_f64() * 1e6 / stream_seconds,
            calls: calls as f64 / stream_seconds,
            memory: more(memory_then, memory),
            descriptors: more(descriptors_then, descriptors),
            journal: used.journals as f64 / stream_seconds,
            delay: (half, most),
        }))
    }
}
