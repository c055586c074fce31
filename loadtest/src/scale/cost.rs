//! What a request costs at a pace that no limit stops: on the gateways, on Redis, on the balancer, on the wire and on disk.

use crate::load::Requests;
use crate::wire::Wire;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::site::{Site, Used};
use super::{Asked, books};
use crate::Result;
use crate::bench::chat;
use crate::ledger::claims::Claims;
use crate::load::microseconds;
use crate::open::{OpenLoop, Outcome};
use crate::pace::Pace;

/// What is done after the last answer still counts if it is done by then.
const AFTER_WORK: Duration = Duration::from_millis(300);

/// How long a turn lasts, in seconds: a load is one or several.
const TURN: u64 = 2;

/// How often each key asks before anything is measured.
const WARM_UP: u64 = 3;

/// What is on, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Limits of all three kinds, and charging, in Redis.
    All,
    /// The same, all requests of one account and key.
    OneKey,
    /// A limit of requests in Redis, billing off.
    Requests,
    /// Limits of all three kinds in Redis, billing off.
    Limits,
    /// Charging in Redis, no limits.
    Billing,
    /// Limits of all three kinds and charging in the gateway itself.
    Embedded,
    /// Limits of all three kinds in the gateway itself, billing off.
    Memory,
}

impl Variant {
    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Variant::All => "all limits, charged",
            Variant::OneKey => "all limits, charged, one key",
            Variant::Requests => "requests limited",
            Variant::Limits => "all limits",
            Variant::Billing => "charged, no limits",
            Variant::Embedded => "all limits, charged; without Redis",
            Variant::Memory => "all limits; without Redis",
        }
    }

    /// Whether Redis is asked.
    pub fn shared(self) -> bool {
        !matches!(self, Variant::Embedded | Variant::Memory)
    }

    /// Whether requests are charged.
    pub fn charging(self) -> bool {
        !matches!(self, Variant::Requests | Variant::Limits | Variant::Memory)
    }
}

/// What was measured of one variant on so many nodes. Figures are a request's, and in microseconds or bytes.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was on.
    pub variant: Variant,
    /// How many gateways.
    pub nodes: u16,
    /// How many requests were sent and answered with 200.
    pub requests: u64,
    /// Requests a second.
    pub rate: f64,
    /// Processor time of all gateways.
    pub gateways: f64,
    /// Processor time of Redis.
    pub redis: f64,
    /// Processor time of the balancer.
    pub balancer: f64,
    /// Function calls of Redis.
    pub calls: f64,
    /// Bytes that Redis received.
    pub received: f64,
    /// Bytes that Redis sent.
    pub sent: f64,
    /// Bytes of Redis' append-only file.
    pub append_only: f64,
    /// Bytes of the journals.
    pub journals: f64,
    /// Bytes of the access logs.
    pub logs: f64,
    /// From when it was due to its whole answer: median and 99th percentile.
    pub latency: (u64, u64),
}

/// What gateways do without requests, in a second. Processor time in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// How many gateways.
    pub nodes: u16,
    /// Processor time of all gateways.
    pub gateways: f64,
    /// Processor time of Redis.
    pub redis: f64,
    /// Function calls of Redis.
    pub calls: f64,
    /// What one gateway holds in memory after the load, in KiB.
    pub memory: u64,
}

/// What was seen in turns of which none was disturbed.
struct Seen {
    sent: u64,
    used: Used,
    calls: u64,
    latency: Histogram<u64>,
}

/// Sends at a pace with all keys in turns, and sees what that cost. Turns in which Redis was late count for nothing, and are
/// `repeated`; nothing if there are more of them than of the others.
pub async fn load(
    site: &mut Site,
    variant: Variant,
    rate: u64,
    asked: Asked,
    repeated: &mut u32,
    claims: &mut Claims,
) -> Result<Option<Row>> {
    let (name, tenths) = (variant.name(), rate * 600);
    let first = Pace::counted(tenths, WARM_UP * site.requests().len() as u64);
    send(site, name, first).await?;
    let mut seen = Seen {
        sent: 0,
        used: Used::default(),
        calls: 0,
        latency: microseconds()?,
    };
    let (mut left, mut bad) = (asked.seconds, 0);
    while left > 0 {
        let seconds = left.min(TURN);
        sleep(AFTER_WORK).await;
        if turn(site, name, Pace::new(tenths, seconds), &mut seen, claims).await? {
            left -= seconds;
        } else if bad > asked.seconds.div_ceil(TURN) {
            return Ok(None);
        } else {
            bad += 1;
            *repeated += 1;
        }
    }
    if variant.charging() {
        books::compare(site, site.provider.count(), claims).await?;
    }
    Ok(Some(Row::new(variant, site.nodes.len(), rate, &seen)))
}

/// One turn; false if Redis was late in it.
async fn turn(
    site: &mut Site,
    name: &'static str,
    pace: Pace,
    seen: &mut Seen,
    claims: &mut Claims,
) -> Result<bool> {
    forget_calls(site).await?;
    let (before, counted) = (site.used().await?, site.provider.count());
    let outcome = send(site, name, pace).await?;
    sleep(AFTER_WORK).await;
    let used = site.used().await?.since(before);
    let calls = function_calls(site).await?;
    site.check()?;
    if late(&outcome) {
        return Ok(false);
    }
    let counted = site.provider.count() - counted;
    let Outcome {
        sent,
        admitted,
        first_other,
        admitted_latency,
        ..
    } = outcome;
    claims.check(
        admitted == sent && sent == pace.count() && counted == sent,
        "Below all limits every request was answered with 200 and the provider's answer, and asked for once",
        &format!(
            "{admitted} of {sent}, the provider counted {counted}{}",
            first_other.map_or(String::new(), |first| format!("; the first other: {first}"))
        ),
    );
    seen.sent += sent;
    seen.used.add(used);
    seen.calls += calls;
    seen.latency.add(admitted_latency)?;
    Ok(true)
}

/// Whether a gateway told that Redis had not answered it in time: on a machine that is busy otherwise, that is what has to
/// happen, and nothing can be learnt from it.
pub fn late(outcome: &Outcome) -> bool {
    outcome
        .first_other
        .as_ref()
        .is_some_and(|words| words.contains("temporarily_unavailable"))
}

/// What nobody asks for costs as well.
pub async fn idle(site: &mut Site, seconds: u64) -> Result<Idle> {
    forget_calls(site).await?;
    let (before, begin) = (site.used().await?, Instant::now());
    sleep(Duration::from_secs(seconds)).await;
    let (used, elapsed) = (site.used().await?.since(before), begin.elapsed());
    let calls = function_calls(site).await?;
    let nodes = u16::try_from(site.nodes.len())?;
    let a_second = |count: u64| count as f64 / elapsed.as_secs_f64();
    let busy = |time: Duration| time.as_secs_f64() * 1e6 / elapsed.as_secs_f64();
    Ok(Idle {
        nodes,
        gateways: busy(used.gateways),
        redis: busy(used.redis),
        calls: a_second(calls),
        memory: site.memory()? / u64::from(nodes.max(1)),
    })
}

async fn send(site: &Site, title: &'static str, pace: Pace) -> Result<Outcome> {
    let open = OpenLoop {
        title,
        target: chat(site.front),
        wire: Wire::Plain,
        requests: Requests::new(site.requests().into_iter().map(Into::into).collect())?,
        pace,
    };
    open.run().await
}

/// Begins to count calls anew, if there is a Redis.
pub async fn forget_calls(site: &mut Site) -> Result<()> {
    match &mut site.redis {
        Some(redis) => redis.forget_calls().await,
        None => Ok(()),
    }
}

/// How often functions of Redis were called since; without a Redis, never.
pub async fn function_calls(site: &mut Site) -> Result<u64> {
    match &mut site.redis {
        Some(redis) => redis.function_calls().await,
        None => Ok(0),
    }
}

impl Row {
    fn new(variant: Variant, nodes: usize, rate: u64, seen: &Seen) -> Self {
        let Seen {
            sent: requests,
            used,
            calls,
            latency,
        } = seen;
        let each = |count: u64| count as f64 / (*requests).max(1) as f64;
        let busy = |time: Duration| time.as_secs_f64() * 1e6 / (*requests).max(1) as f64;
        let Used {
            gateways,
            redis,
            balancer,
            received,
            sent,
            append_only,
            journals,
            logs,
        } = *used;
        let [half, most] = [0.5, 0.99].map(|share| latency.value_at_quantile(share));
        Row {
            variant,
            nodes: u16::try_from(nodes).unwrap_or(u16::MAX),
            requests: *requests,
            rate: rate as f64,
            gateways: busy(gateways),
            redis: busy(redis),
            balancer: busy(balancer),
            calls: each(*calls),
            received: each(received),
            sent: each(sent),
            append_only: each(append_only),
            journals: each(journals),
            logs: each(logs),
            latency: (half, most),
        }
    }
}
