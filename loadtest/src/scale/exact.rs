//! Whether a limit is exact whatever the number of gateways: one key with a tight plan, asked far more often than it may.

use super::cost::late;
use super::settings::TIGHT;
use super::site::Site;
use crate::Result;
use crate::bench::chat;
use crate::gateway::Limits;
use crate::ledger::claims::Claims;
use crate::limits::Allowance;
use crate::load::Requests;
use crate::open::{OpenLoop, Outcome};
use crate::pace::Pace;
use crate::wire::Wire;

/// What the plan allows.
pub const ALLOWANCE: Allowance = Allowance {
    rate: 6_000,
    burst: 100,
};

/// How many times the rate is sent.
const OVER: u64 = 4;

/// The least share of what may be admitted that must be: less than that is lost when everything stands still.
const LEAST_PERCENT: u64 = 98;

/// What came of it.
#[derive(Debug, Clone)]
pub struct Exact {
    /// How many gateways.
    pub nodes: u16,
    /// Requests a second.
    pub offered: f64,
    /// From just before the first request to just after the last answer, in milliseconds, rounded up.
    pub elapsed_ms: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Answers with 200.
    pub admitted: u64,
    /// Answers with 429.
    pub refused: u64,
}

/// The plan of the key.
pub fn limits() -> Limits {
    Limits {
        requests_per_minute: Some(ALLOWANCE.rate),
        burst: Some(ALLOWANCE.burst),
        ..Limits::default()
    }
}

impl Exact {
    /// The most that may be admitted in that time.
    pub fn bound(&self) -> u64 {
        ALLOWANCE.bound(self.elapsed_ms)
    }

    /// Sends for some time, and judges; nothing if Redis was late.
    pub async fn run(site: &mut Site, seconds: u64, claims: &mut Claims) -> Result<Option<Self>> {
        let pace = Pace::new(ALLOWANCE.rate * OVER * 10, seconds);
        let before = site.provider.count();
        let open = OpenLoop {
            title: "above the rate",
            target: chat(site.front),
            wire: Wire::Plain,
            requests: Requests::one(site.request(TIGHT)),
            pace,
        };
        let outcome = open.run().await?;
        if late(&outcome) {
            return Ok(None);
        }
        site.check()?;
        let served = site.provider.count() - before;
        let elapsed_ms = u64::try_from(outcome.elapsed().as_micros().div_ceil(1000))?;
        let Outcome {
            sent,
            admitted,
            refused,
            other,
            first_other,
            ..
        } = outcome;
        let exact = Exact {
            nodes: u16::try_from(site.nodes.len())?,
            offered: pace.per_second(),
            elapsed_ms,
            sent,
            admitted,
            refused,
        };
        let bound = exact.bound();
        claims.check(
            ALLOWANCE.holds(admitted, elapsed_ms) && admitted == served,
            "No more were admitted than burst + rate × time, and the provider saw no others",
            &format!("{admitted} of {bound}, the provider counted {served}"),
        );
        claims.check(
            admitted * 100 >= bound * LEAST_PERCENT,
            "Nearly all were admitted that may be",
            &format!("{admitted} of {bound}"),
        );
        claims.check(
            other == 0 && sent == admitted + refused,
            "Above the rate every answer was 200 or 429",
            &format!(
                "{sent} answers{}",
                first_other.map_or(String::new(), |first| format!("; the first other: {first}"))
            ),
        );
        Ok(Some(exact))
    }
}
