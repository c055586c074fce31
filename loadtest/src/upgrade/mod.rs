//! Whether a gateway can be replaced by its successor under load: every few seconds, with streams that always run, with
//! the embedded store and with Redis; and whether an upgrade that fails harms nothing.
//!
//! [`call`] is one call of the verb, [`succession`] the processes, [`course`] what is done to a gateway, [`failing`] the
//! upgrades that must fail, [`verdict`] what holds.

mod call;
mod course;
mod failing;
mod succession;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use self::course::Course;
use self::verdict::Table;
use crate::Result;
use crate::ledger::claims::Claims;
use crate::process::{Scratch, existing};
use crate::redis::{Disk, Redis};
use crate::report::Report;

/// The command line.
#[derive(Args)]
pub struct Upgrade {
    /// The gateway's program, run as `PATH serve --config FILE` and `PATH upgrade --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many times it is replaced, with each store.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000))]
    times: u32,
    /// Seconds from one upgrade to the next: longer than a stream.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=600))]
    every: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 250, value_parser = value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// Streams at a time, of 2 to 8 seconds.
    #[arg(long, default_value_t = 40, value_parser = value_parser!(u64).range(1..=1_000))]
    streams: u64,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl Upgrade {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let program = existing(self.gateway)?;
        let scratch = Scratch::new()?;
        let mut claims = Claims::default();
        let mut table = Table::new(self.rate, self.streams);
        for store in ["embedded", "Redis"] {
            let redis = match store {
                "Redis" => Some(Redis::with_disk(Disk::EverySecond, None, &scratch).await?),
                _ => None,
            };
            let course = Course {
                program: &program,
                scratch: &scratch,
                redis: redis.as_ref().map(Redis::address),
                times: self.times,
                every: Duration::from_secs(self.every),
                rate: self.rate,
                streams: self.streams,
            };
            let seen = course
                .run()
                .await
                .map_err(|error| format!("{store}: {error}"))?;
            claims.part(store);
            seen.claim(&mut claims);
            table.add(store, &seen);
        }
        Ok(claims.report(table.text()))
    }
}
