//! Whether good traffic is unharmed by a crowd that holds connections: idle ones, slow ones, silent ones; and whether
//! what is beyond the caps is refused at once, while those who run the gateway are answered.
//!
//! [`members`] is the crowd, [`beside`] good traffic beside it, [`flood`] the provider of slow readers, [`caps`] and [`thrown`] what is beyond the caps, [`descriptors`] a
//! gateway that may open hardly any files.

mod beside;
mod caps;
pub mod descriptors;
mod flood;
mod members;
mod thrown;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use self::beside::{Crowd, HEAD};
use self::members::Kind;
use crate::Result;
use crate::kills::told_of;
use crate::ledger::claims::Claims;
use crate::process::{Scratch, existing, processor, raise_descriptors};
use crate::report::Report;
use crate::steady::balance::Balance;

/// Descriptors beside those of the crowd: good traffic, its provider, files.
const OTHERS: u64 = 2_000;

/// When each kind must have been let go: idle and silent connections as long as they are kept, a header, and a body that
/// comes too slowly.
const KEPT: Duration = Duration::from_secs(75);
const HEADER: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(30);

/// The command line.
#[derive(Args)]
pub struct Crowds {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// Good requests a second.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// How many idle connections; of the slow and the silent a tenth, of slow readers a twentieth.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u64).range(20..=50_000))]
    idle: u64,
    /// Only this part of the run.
    #[arg(long)]
    only: Option<Part>,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Idle connections.
    Idle,
    /// Slow headers.
    Header,
    /// Slow bodies.
    Body,
    /// Slow readers.
    Readers,
    /// Silent connections.
    Silent,
    /// Beyond the caps.
    Caps,
}

impl Crowds {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let program = existing(self.gateway)?;
        raise_descriptors(self.idle + OTHERS)?;
        let scratch = Scratch::new()?;
        let mut claims = Claims::default();
        let mut text = format!(
            "{}. {} good requests a second, half of them streams; p50 and p99 from when a request was due to the first byte.\n\n",
            processor(),
            self.rate
        );
        let wanted = |part| self.only.is_none_or(|only| only == part);
        let tenth = self.idle / 10;
        let crowd = |name, kind, count, beside_s, until| Crowd {
            name,
            kind,
            count,
            beside: Duration::from_secs(beside_s),
            until,
        };
        let crowds = [
            (
                Part::Idle,
                crowd("idle", Kind::Idle, self.idle, 15, Some(KEPT)),
            ),
            (
                Part::Header,
                crowd(
                    "a header's byte a second",
                    Kind::Header,
                    tenth,
                    8,
                    Some(HEADER),
                ),
            ),
            (
                Part::Body,
                crowd("a body's byte a second", Kind::Body, tenth, 15, Some(BODY)),
            ),
            (
                Part::Readers,
                crowd("1 KiB read a second", Kind::Reader, tenth / 2, 30, None),
            ),
            (
                Part::Silent,
                crowd("silent", Kind::Silent, tenth, 8, Some(KEPT)),
            ),
        ];
        text.push_str(HEAD);
        for (part, crowd) in crowds {
            if wanted(part) {
                let seen = crowd.run(&program, &scratch, self.rate).await;
                let seen = seen.map_err(|error| format!("{}: {error}", crowd.name))?;
                seen.claim(&mut claims);
                text.push_str(&seen.line());
            }
        }
        if wanted(Part::Caps) {
            let seen = caps::run(&program, &scratch, self.rate).await;
            let seen = seen.map_err(|error| format!("beyond the caps: {error}"))?;
            seen.claim(&mut claims);
            text.push_str(&seen.table());
        }
        Ok(claims.report(text))
    }
}

/// Claims that a gateway's books are right when all is over, and that it lives.
fn in_order(claims: &mut Claims, balance: &Balance, held: i64, panics: &[String]) {
    balance.claim(claims);
    claims.check(held == 0, "nothing is held in the end", &held.to_string());
    claims.check(panics.is_empty(), "nothing panicked", &told_of(panics));
}
