//! What more gateways cost and bring: 1, 2 and 4 of them behind HAProxy on one Redis. A tight limit must be exact whatever
//! their number; below all limits it is measured what a request costs on the gateways, on Redis, on the wire and on disk,
//! so that nodes can be planned. The cores of this machine stay the same: more gateways on them bring no throughput
//! here, and what is to be seen is that a request costs the same.
//!
//! [`site`] is what runs, [`exact`] the limit, [`cost`] a request, [`books`] its charge, [`held`] keys and streams, [`plan`] the
//! arithmetic for `docs/capacity.md`, [`tell`] the report.

mod books;
mod cost;
mod exact;
mod held;
mod lines;
mod plan;
mod provider;
mod settings;
mod site;
mod tell;

use std::path::{Path, PathBuf};

use clap::{Args, value_parser};

use crate::Result;
use crate::bench::Cores;
use crate::gateway::Limits;
use crate::ledger::claims::Claims;
use crate::process::{Scratch, existing};
use crate::redis::Disk;
use crate::report::Report;
use cost::{Idle, Row, Variant};
use exact::Exact;
use held::{Keys, Streaming};
use settings::Terms;
use site::Site;

/// How many gateways, each in its turn.
const NODES: [u16; 3] = [1, 2, 4];

/// Accounts with a key each that send in turns. What a key's next request can carry to Redis of its last one, it does:
/// with many keys the next one is seldom there in time, as in service.
const ACCOUNTS: u64 = 100;

/// How often a part is tried.
const TRIES: u32 = 6;

/// The command line.
#[derive(Args)]
pub struct Scale {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How long each load lasts.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Requests a second below the limits.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u64).range(40..=10_000))]
    rate: u64,
    /// Keys that are each used once.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u64).range(100..=100_000))]
    keys: u64,
    /// Streams at a time.
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(10..=5_000))]
    streams: u32,
    /// Under 40 s: loads of two seconds, a tenth of the keys, half of the streams, and only what sizes are calculated from.
    #[arg(long, conflicts_with = "seconds")]
    quick: bool,
    /// Who runs where.
    #[command(flatten)]
    pub cores: Cores,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Put the figures into this page, between its marks.
    #[arg(long, value_name = "docs/capacity.md")]
    write: Option<PathBuf>,
}

/// All that was measured.
#[derive(Default)]
struct Figures {
    exact: Vec<Exact>,
    rows: Vec<Row>,
    idle: Vec<Idle>,
    keys: Vec<Keys>,
    streaming: Option<Streaming>,
    /// Parts that were done again, because Redis was later than gateways wait for it.
    repeated: u32,
}

/// What every part needs.
struct Run<'a> {
    program: &'a Path,
    scratch: Scratch,
    cores: Cores,
    asked: Asked,
    figures: Figures,
    claims: Claims,
}

/// How much, and how it is counted.
#[derive(Clone, Copy)]
struct Asked {
    seconds: u64,
    /// Requests a second.
    rate: u64,
}

impl Scale {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Scale {
            gateway,
            seconds,
            rate,
            keys,
            streams,
            quick,
            cores,
            out: _,
            json,
            write,
        } = self;
        let program = existing(gateway)?;
        // What cannot be written is said before anything is measured.
        let page = write.as_deref().map(std::fs::read_to_string).transpose()?;
        if let Some(page) = &page {
            tell::replace(page, "", "")?;
        }
        let (seconds, keys, streams) = match quick {
            true => (2, keys / 10, streams / 2),
            false => (seconds, keys, streams),
        };
        let mut run = Run {
            program: &program,
            scratch: Scratch::new()?,
            cores,
            asked: Asked { seconds, rate },
            figures: Figures::default(),
            claims: Claims::default(),
        };
        for nodes in NODES {
            run.shared(nodes, quick).await?;
        }
        // The same number of requests for a gateway as when there were more of them.
        for fewer in [2, 4] {
            if fewer == 4 || !quick {
                run.load(1, Variant::All, rate / fewer).await?;
            }
        }
        for variant in [Variant::Requests, Variant::Limits] {
            for nodes in NODES {
                if nodes == 1 || !quick {
                    run.load(nodes, variant, rate).await?;
                }
            }
        }
        if !quick {
            for nodes in NODES {
                run.load(nodes, Variant::Billing, rate).await?;
            }
            for variant in [Variant::OneKey, Variant::Embedded, Variant::Memory] {
                run.load(1, variant, rate).await?;
            }
        }
        for variant in [Variant::Limits, Variant::Billing] {
            run.keys(variant, keys, 1).await?;
            if !quick {
                run.keys(variant, 1, keys).await?;
            }
        }
        run.streams(streams).await?;
        let Run {
            figures, claims, ..
        } = run;
        let told = tell::Told {
            figures: &figures,
            seconds,
            rate,
            quick,
            cores,
        };
        let report = claims.report(told.report()?);
        if let Some(file) = json {
            std::fs::write(file, told.json(&report.failures).to_string())?;
        }
        // Figures of a run that failed are no figures.
        if let (Some(file), Some(page), true) = (write, page, report.failures.is_empty()) {
            std::fs::write(
                file,
                tell::replace(&page, &told.measured()?, &told.sizes()?)?,
            )?;
        }
        Ok(report)
    }
}

impl Run<'_> {
    /// Everything on: the tight limit, the load, and the quiet after it.
    async fn shared(&mut self, nodes: u16, quick: bool) -> Result<()> {
        let asked = self.asked;
        let Asked { seconds, rate } = asked;
        let done = self.part(
            nodes,
            terms(Variant::All),
            async |site, repeated, claims| {
                let above = if quick { 1 } else { seconds };
                let Some(exact) = Exact::run(site, above, claims).await? else {
                    return Ok(None);
                };
                let row = cost::load(site, Variant::All, rate, asked, repeated, claims).await?;
                let quiet = (seconds / 2).clamp(1, 10);
                let idle = cost::idle(site, quiet).await?;
                Ok(row.map(|row| (exact, row, idle)))
            },
        );
        let (exact, row, idle) = done.await?;
        self.figures.exact.push(exact);
        self.figures.rows.push(row);
        self.figures.idle.push(idle);
        Ok(())
    }

    /// One variant below all limits.
    async fn load(&mut self, nodes: u16, variant: Variant, rate: u64) -> Result<()> {
        let asked = self.asked;
        let done = self.part(nodes, terms(variant), async |site, repeated, claims| {
            cost::load(site, variant, rate, asked, repeated, claims).await
        });
        let row = done.await?;
        self.figures.rows.push(row);
        Ok(())
    }

    /// What keys take up, that were each used once.
    async fn keys(&mut self, variant: Variant, accounts: u64, keys: u64) -> Result<()> {
        let terms = Terms {
            disk: Disk::Nothing,
            accounts,
            keys,
            ..terms(variant)
        };
        let done = self.part(1, terms, async |site, repeated, claims| {
            Keys::run(site, variant.charging(), repeated, claims).await
        });
        let keys = done.await?;
        self.figures.keys.push(keys);
        Ok(())
    }

    /// What streams cost.
    async fn streams(&mut self, streams: u32) -> Result<()> {
        let (_stamping, provider) = held::stamping(&self.scratch, self.cores).await?;
        let terms = Terms {
            provider: Some(provider),
            ..terms(Variant::All)
        };
        let Asked { seconds, .. } = self.asked;
        // Long enough for all to be open at a time.
        let seconds = seconds.max(3 + u64::from(streams) / 250);
        let done = self.part(1, terms, async |site, _, claims| {
            Streaming::run(site, streams, seconds, claims).await
        });
        let streaming = done.await?;
        self.figures.streaming = Some(streaming);
        Ok(())
    }

    /// Does something with gateways of its own, and again with others when Redis was late.
    async fn part<T>(
        &mut self,
        nodes: u16,
        terms: Terms,
        mut work: impl AsyncFnMut(&mut Site, &mut u32, &mut Claims) -> Result<Option<T>>,
    ) -> Result<T> {
        for _ in 0..TRIES {
            let site = Site::start(self.program, &self.scratch, self.cores, nodes, terms);
            let repeated = &mut self.figures.repeated;
            if let Some(done) = work(&mut site.await?, repeated, &mut self.claims).await? {
                return Ok(done);
            }
            *repeated += 1;
        }
        let Terms { accounts, keys, .. } = terms;
        Err(format!(
            "{nodes} gateways, {accounts} accounts with {keys} keys each: Redis was later than gateways wait for it, {TRIES} \
             times: this machine is too busy"
        )
        .into())
    }
}

/// Who asks, and what is on.
fn terms(variant: Variant) -> Terms {
    let limits = match variant {
        Variant::Requests => Limits::high_requests(),
        Variant::Billing => Limits::default(),
        _ => Limits::high(),
    };
    Terms {
        shared: variant.shared(),
        // As docs/billing.md wants it.
        disk: Disk::EverySecond,
        limits,
        tight: exact::limits(),
        charging: variant.charging(),
        accounts: if variant == Variant::OneKey {
            1
        } else {
            ACCOUNTS
        },
        keys: 1,
        provider: None,
    }
}
