//! Whether a limit holds: several gateways that share a Redis, a balancer in front, far more requests than the plan
//! allows. Over any time, no more may be admitted than the burst and what the rate has refilled since, whatever the
//! number of nodes; and below the rate, nobody may be refused.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, value_parser};
use hdrhistogram::Histogram;

use crate::Result;
use crate::cluster::Cluster;
use crate::gateway::{Client, Limits as PlanLimits, Store};
use crate::open::Outcome;
use crate::pace::Pace;
use crate::process::existing;
use crate::report::Report;

/// More than this the generator is not meant for, in requests a second.
const MOST_PER_SECOND: f64 = 20_000.0;

/// The command line.
#[derive(Args)]
pub struct Limits {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// Where the limits are kept; `memory` is for one node.
    #[arg(long, value_enum, default_value_t = Store::Redis)]
    store: Store,
    /// How many gateways; one is asked without a balancer. [default: 2, with limits in memory 1]
    #[arg(long, value_parser = value_parser!(u16).range(1..=16))]
    nodes: Option<u16>,
    /// How long each of the two parts lasts.
    #[arg(long, default_value_t = 120, value_parser = value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// The plan's requests a minute.
    #[arg(long, default_value_t = 600, value_parser = value_parser!(u64).range(1..=600_000))]
    rate: u64,
    /// The plan's burst.
    #[arg(long, default_value_t = 600, value_parser = value_parser!(u64).range(1..=1_000_000))]
    burst: u64,
    /// How many times the rate the first part sends.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(2..=1_000))]
    over: u64,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What a plan allows.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Requests a minute.
    pub rate: u64,
    /// Requests at once.
    pub burst: u64,
}

/// Where a part of the run stands to the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Below,
}

/// One part of the run, with what was seen.
struct Part {
    side: Side,
    pace: Pace,
    outcome: Outcome,
    /// Redis' function calls, if there is a Redis.
    calls: Option<u64>,
}

impl Limits {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Limits {
            gateway,
            store,
            nodes,
            seconds,
            rate,
            burst,
            over,
            out: _,
        } = self;
        let nodes = match (store, nodes) {
            (Store::Memory, Some(2..)) => {
                return Err("limits in memory are one node's own: --nodes 1".into());
            }
            (Store::Memory, _) => 1,
            (Store::Redis, nodes) => nodes.unwrap_or(2),
        };
        let allowance = Allowance { rate, burst };
        let paces = paces(allowance, over, seconds)?;
        let limits = PlanLimits {
            requests_per_minute: Some(rate),
            burst: Some(burst),
            ..PlanLimits::default()
        };
        let clients = [
            Client::new("ready", PlanLimits::high_requests()),
            Client::new("above", limits),
            Client::new("below", limits),
        ];
        let program = existing(gateway)?;
        let mut cluster = Cluster::start(&program, store, nodes, &clients).await?;
        let mut text = cluster.heading().await?;
        let mut parts = Vec::with_capacity(2);
        // Each with a key that was not used before.
        for ((side, pace), client) in [Side::Above, Side::Below]
            .into_iter()
            .zip(paces)
            .zip(&clients[1..])
        {
            let (outcome, calls) = cluster.open_loop(side.name(), pace, client).await?;
            parts.push(Part {
                side,
                pace,
                outcome,
                calls,
            });
        }
        let mut failures = Vec::new();
        text.push_str(HEADER);
        for part in &parts {
            text.push_str(&part.row(nodes, allowance));
            part.judge(allowance, &mut failures);
        }
        Ok(Report { text, failures })
    }
}

/// The pace of each part: so many times the rate, and nine tenths of it.
fn paces(allowance: Allowance, over: u64, seconds: u64) -> Result<[Pace; 2]> {
    let above = Pace::new(allowance.rate * over * 10, seconds);
    let below = Pace::new(allowance.rate * 9, seconds);
    if above.per_second() > MOST_PER_SECOND {
        let offered = above.per_second();
        return Err(format!(
            "{offered:.0} requests a second are more than the {MOST_PER_SECOND:.0} that can be sent: a lower --rate or --over"
        )
        .into());
    }
    if above.count() <= allowance.bound(seconds * 1000) {
        return Err(format!(
            "{} requests in {seconds} s never reach the limit: more --seconds or --over, or a smaller --burst",
            above.count()
        )
        .into());
    }
    if below.count() == 0 {
        return Err("90 % of the rate are less than one request: more --seconds".into());
    }
    Ok([above, below])
}

impl Allowance {
    /// How many requests may be admitted within so much time: the burst, and what is refilled meanwhile.
    pub fn bound(self, elapsed_ms: u64) -> u64 {
        let refilled = u128::from(self.rate) * u128::from(elapsed_ms) / 60_000;
        u64::try_from(u128::from(self.burst) + refilled).unwrap_or(u64::MAX)
    }

    /// Whether no more were admitted than that; in whole numbers, so that it is exact.
    pub fn holds(self, admitted: u64, elapsed_ms: u64) -> bool {
        let [admitted, burst, rate, elapsed_ms] =
            [admitted, self.burst, self.rate, elapsed_ms].map(u128::from);
        admitted * 60_000 <= (burst * 60_000).saturating_add(rate * elapsed_ms)
    }
}

const HEADER: &str = "| part | nodes | rate/min | burst | offered/s | seconds | sent | admitted (200) | bound | used | refused (429) | other \
     | 200: p50 / p99 | 429: p50 / p99 | fcall / request |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Above => "above the rate",
            Side::Below => "below the rate",
        }
    }
}

impl Part {
    /// Rounded up: an allowance for part of a millisecond is one that a gateway may have given.
    fn elapsed_ms(&self) -> u64 {
        self.outcome.elapsed().as_micros().div_ceil(1000) as u64
    }

    fn row(&self, nodes: u16, allowance: Allowance) -> String {
        let Outcome {
            sent,
            admitted,
            refused,
            other,
            admitted_latency,
            refused_latency,
            ..
        } = &self.outcome;
        let bound = allowance.bound(self.elapsed_ms());
        let calls = match self.calls {
            Some(calls) => format!("{:.3}", calls as f64 / *sent as f64),
            None => "–".to_owned(),
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "| {} | {nodes} | {} | {} | {:.1} | {:.1} | {sent} | {admitted} | {bound} | {:.1} % | {refused} | {other} \
             | {} | {} | {calls} |",
            self.side.name(),
            allowance.rate,
            allowance.burst,
            self.pace.per_second(),
            self.outcome.elapsed().as_secs_f64(),
            *admitted as f64 / bound as f64 * 100.0,
            percentiles(admitted_latency),
            percentiles(refused_latency),
        );
        text
    }

    /// Adds what does not hold.
    fn judge(&self, allowance: Allowance, failures: &mut Vec<String>) {
        let Outcome {
            sent,
            admitted,
            refused,
            other,
            first_other,
            ..
        } = &self.outcome;
        let name = self.side.name();
        if !allowance.holds(*admitted, self.elapsed_ms()) {
            let bound = allowance.bound(self.elapsed_ms());
            failures.push(format!(
                "{name}: {admitted} requests were admitted, {} more than the bound of {bound}",
                admitted.saturating_sub(bound)
            ));
        }
        if self.side == Side::Below && *refused > 0 {
            failures.push(format!("{name}: {refused} of {sent} requests were refused"));
        }
        if let Some(first) = first_other {
            failures.push(format!(
                "{name}: {other} of {sent} answers were neither 200 nor 429, the first: {first}"
            ));
        }
    }
}

fn percentiles(latency: &Histogram<u64>) -> String {
    if latency.is_empty() {
        return "–".to_owned();
    }
    let [half, most] = [0.5, 0.99].map(|share| latency.value_at_quantile(share));
    format!("{half} / {most}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Allowance = Allowance {
        rate: 600,
        burst: 60,
    };

    #[test]
    fn the_bound_is_the_burst_and_what_was_refilled() {
        assert_eq!(PLAN.bound(0), 60);
        assert_eq!(PLAN.bound(99), 60);
        assert_eq!(PLAN.bound(100), 61);
        assert_eq!(PLAN.bound(120_000), 1_260);
    }

    #[test]
    fn one_request_too_many_is_seen() {
        for elapsed_ms in [0, 99, 100, 101, 60_000, 119_999] {
            let bound = PLAN.bound(elapsed_ms);
            assert!(PLAN.holds(bound, elapsed_ms), "{elapsed_ms}");
            assert!(!PLAN.holds(bound + 1, elapsed_ms), "{elapsed_ms}");
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let most = Allowance {
            rate: u64::MAX,
            burst: u64::MAX,
        };
        assert!(most.holds(u64::MAX, u64::MAX));
        assert_eq!(most.bound(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_run_that_cannot_reach_the_limit_is_refused() {
        let text = |over, seconds| match paces(PLAN, over, seconds) {
            Ok([above, below]) => format!("{} {}", above.count(), below.count()),
            Err(error) => error.to_string(),
        };
        assert_eq!(text(4, 120), "4800 1080");
        // 40 a second for two seconds: 80 requests, exactly what is allowed.
        assert!(text(4, 2).contains("never reach the limit"));
        assert_eq!(text(4, 3), "120 27");
        assert!(text(1_000_000, 120).contains("a lower --rate"));
    }
}
