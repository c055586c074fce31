//! Whether charges survive the end of Redis: it is killed and started again with its append-only file, it hangs, and a
//! replica that lags behind is promoted. What the new master lacks must come from the gateways' journals.
//!
//! [`restart`] and [`promotion`] do that, [`site`] is what it is done to, [`sentinel`] promotes, [`verdict`] judges.

mod promotion;
mod restart;
mod sentinel;
mod site;
mod verdict;

use std::path::PathBuf;

use clap::{Args, value_parser};

use crate::Result;
use crate::kills::by_time;
use crate::ledger::claims::Claims;
use crate::process::{Scratch, existing, processor};
use crate::report::Report;

/// The command line.
#[derive(Args)]
pub struct Failover {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many times Redis is killed and started again, with each setting of its append-only file, and stopped.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=50))]
    restarts: u32,
    /// How many times a replica is promoted.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=50))]
    failovers: u32,
    /// For how many milliseconds nothing reaches the replica before the master is killed.
    #[arg(long, default_value_t = 800, value_parser = value_parser!(u64).range(100..=10_000))]
    lag_ms: u64,
    /// Decides what is asked for. [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl Failover {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Failover {
            gateway,
            restarts,
            failovers,
            lag_ms,
            seed,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let seed = seed.map_or_else(by_time, Ok)?;
        let mut claims = Claims::default();
        let mut text = format!(
            "{}. Two gateways on a Redis, {} requests at a time, half of them streams, seed {seed}. Money in micro-units; \
             memory is the larger gateway's.\n\n{}",
            processor(),
            site::CLIENTS,
            verdict::HEADER
        );
        let scratch = Scratch::new()?;
        for fault in restart::Fault::ALL {
            restart::run(
                &program,
                &scratch,
                fault,
                restarts,
                seed,
                &mut text,
                &mut claims,
            )
            .await?;
        }
        let mut ends = String::from(promotion::HEADER);
        for number in 0..failovers {
            let failover = promotion::Failover {
                program: &program,
                scratch: &scratch,
                number: number + 1,
                lag_ms,
                seed,
            };
            failover.run(&mut text, &mut ends, &mut claims).await?;
        }
        text.push_str(&ends);
        Ok(claims.report(text))
    }
}
