//! Good traffic beside a crowd: alone first, then while the crowd is there. Each crowd has a gateway of its own, so that
//! what one leaves in memory does not hide what the next costs.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::flood::{self, Flood};
use super::in_order;
use super::members::{FIRST, Fate, KEY, Kind, Members};
use crate::Result;
use crate::ledger::claims::Claims;
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::process::{Scratch, descriptors_of};
use crate::report::Samples;
use crate::steady::Steady;
use crate::steady::balance::Balance;
use crate::steady::gateway::{ACCOUNT, Gateway, Places, Terms, released, secret};
use crate::steady::tally::Tally;
use crate::steady::watch::{Memory, pss};

/// The key of good traffic.
pub const GOOD: &str = "steady";

/// Good traffic is alone for so long, and once more for so long when the crowd has gone.
const ALONE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(2);

/// Connections of good traffic and of those who ask after the gateway's health.
const OTHERS: u64 = 1_000;

/// Until the buffers on the way to slow readers are full, the crowd counts as coming: the provider is fast so long.
const FILLS: Duration = Duration::from_secs(5);

/// What is let go may take so much longer than it should.
const LATE: Duration = Duration::from_secs(5);

/// Good traffic's p99 beside a crowd: at most so many times what it is alone, and so many milliseconds more.
const SLOWER: (f64, f64) = (5.0, 25.0);

/// Descriptors that may be open beside those of the beginning, and beside two for each connection that good traffic has
/// opened since: it keeps them, and so does the gateway those to the provider.
const OPEN: u64 = 32;

/// When the crowd has left, its descriptors are closed within this time.
const CLOSED: Duration = Duration::from_secs(10);

/// A slow reader costs at most so much, KiB; its provider has written at most so much beyond what it took, bytes.
const READER_KIB: f64 = 256.0;
const AHEAD: f64 = 8.0 * 1024.0 * 1024.0;

/// Patience until all is charged.
const SETTLE: Duration = Duration::from_secs(60);

/// A crowd.
pub struct Crowd {
    /// In the table.
    pub name: &'static str,
    /// What they do.
    pub kind: Kind,
    /// How many.
    pub count: u64,
    /// How long good traffic is measured beside all of them.
    pub beside: Duration,
    /// When each is let go at the latest, if it is.
    pub until: Option<Duration>,
}

/// What was seen.
pub struct Seen {
    name: &'static str,
    kind: Kind,
    count: u64,
    fate: Fate,
    until: Option<Duration>,
    alone: Tally,
    coming: Tally,
    beside: Tally,
    all: Tally,
    /// KiB before the crowd, and the most with it.
    memory: (u64, u64),
    peak: u64,
    /// Before the crowd, with it, and after it.
    descriptors: (u64, u64, u64),
    /// How many may be open after it.
    most_after: u64,
    /// Bytes that the provider wrote for each reader, and those that a reader took.
    written: Option<(f64, f64)>,
    /// From the end of the crowd to the first good answer since.
    recovery: Option<Duration>,
    balance: Balance,
    held: i64,
    panics: Vec<String>,
}

impl Crowd {
    /// Runs it.
    pub async fn run(&self, program: &Path, scratch: &Scratch, rate: u32) -> Result<Seen> {
        let provider = Provider::start().await?;
        let places = Places::new(scratch)?;
        let flood = Flood::start()?;
        let terms = Terms {
            keys: vec![GOOD.to_owned(), KEY.to_owned()],
            providers: format!(
                "  flood: {{ api: openai, base_url: \"http://{}/v1\", keys: [\"upstream-secret\"] }}\n",
                flood.address
            ),
            models: format!(
                "  - {{ id: {0}, upstreams: [{{ provider: flood, model: {0} }}], price: {{ output: 1 }} }}\n",
                flood::MODEL
            ),
            // Beyond the cap idle connections are closed to make room: that is another matter.
            more: format!("limits: {{ connections: {} }}\n", self.count + OTHERS),
            ..Terms::default()
        };
        places.configure(&places.yaml(provider.address, &terms))?;
        let mut gateway = Gateway::start(program, &[], scratch, places).await?;
        let id = gateway.process.id();
        let memory = Memory::watch(id);
        let front = gateway.places.front;
        let steady = Steady::start(front, &secret(GOOD), 0, rate)?;
        // The first second counts for nothing: connections are opened, pages are touched.
        sleep(Duration::from_secs(1)).await;
        steady.phase(1);
        sleep(ALONE).await;
        let before = (pss(id).unwrap_or(0), descriptors_of(id)?);
        let opened = steady.pool().fared().opened;

        steady.phase(2);
        let members = Members::gather(self.kind, self.count, front).await?;
        if self.kind == Kind::Reader {
            sleep(FILLS).await;
        }
        steady.phase(3);
        let begin = Instant::now();
        let (mut most, mut with) = (0, 0);
        while begin.elapsed() < self.beside {
            sleep(Duration::from_millis(500)).await;
            most = most.max(pss(id).unwrap_or(0));
            with = with.max(descriptors_of(id)?);
            gateway.process.check()?;
        }
        steady.phase(4);
        let fate = match self.until {
            Some(until) => {
                let left = (until + LATE).saturating_sub(begin.elapsed());
                members.let_go(left).await
            }
            None => members.fate(),
        };
        let share = |sum: u64| sum as f64 / self.count as f64;
        let written =
            (self.kind == Kind::Reader).then(|| (share(flood.written()), share(fate.taken)));
        members.leave().await;
        let gone = Instant::now();
        sleep(AFTER).await;
        let more = steady.pool().fared().opened - opened;
        let most_after = before.1 + 2 * more + OPEN;
        let mut after = descriptors_of(id)?;
        while after > most_after && gone.elapsed() < CLOSED {
            sleep(Duration::from_millis(100)).await;
            after = descriptors_of(id)?;
        }
        let recovery = steady.served_since(gone);
        let tallies = steady.finish().await?;
        let peak = memory.peak();
        sight::settled(&[gateway.places.metrics], SETTLE).await?;
        let account = released(gateway.places.admin).await?;
        let (rows, _) = gateway.places.admin.used(ACCOUNT).await?;
        let balance = Balance::of(&provider.book.told(), 0..FIRST, rows.get(GOOD));
        let of = |phase: usize| Tally::merged(tallies.get(phase));
        Ok(Seen {
            name: self.name,
            kind: self.kind,
            count: self.count,
            fate,
            until: self.until,
            alone: of(1)?,
            coming: of(2)?,
            beside: of(3)?,
            all: Tally::merged(&tallies)?,
            memory: (before.0, most),
            peak,
            descriptors: (before.1, with, after),
            most_after,
            written,
            recovery: recovery.map(|at| at.saturating_duration_since(gone)),
            balance,
            held: account.held,
            panics: gateway.panics()?,
        })
    }
}

impl Seen {
    /// KiB for each of the crowd.
    fn each_kib(&self) -> f64 {
        let (before, most) = self.memory;
        most.saturating_sub(before) as f64 / self.fate.came.max(1) as f64
    }

    /// Adds what must hold.
    pub fn claim(&self, claims: &mut Claims) {
        claims.part(self.name);
        claims.none(
            "good traffic is answered, without an error",
            self.all.sent,
            &self.all.failures(),
        );
        claims.check(
            self.all.endless() == 0,
            "one terminal outcome a request",
            &self.all.endless().to_string(),
        );
        let (alone, beside) = (self.alone.ms(0.99), self.beside.ms(0.99));
        claims.check(
            beside <= alone * SLOWER.0 + SLOWER.1,
            "good traffic's p99 stays within five times what it is alone, and 25 ms",
            &format!("{alone:.1} ms, then {beside:.1} ms"),
        );
        claims.none("all of the crowd got in", self.count, &self.fate.kept_out);
        if let Some(until) = self.until {
            if self.kind == Kind::Idle {
                let early = self.fate.gone.iter().filter(|gone| **gone + LATE < until);
                let early: Vec<String> = early.map(|gone| format!("after {gone:?}")).collect();
                claims.none(
                    "idle connections are kept for as long as they should be",
                    self.fate.came,
                    &early,
                );
            }
            let mut late: Vec<String> = self
                .fate
                .gone
                .iter()
                .filter(|gone| **gone > until + LATE)
                .map(|gone| format!("after {gone:?}"))
                .collect();
            late.extend((0..self.fate.remaining()).map(|_| "still there".to_owned()));
            claims.none(
                "who is idle or slow is let go in time",
                self.fate.came,
                &late,
            );
        }
        let (before, _, after) = self.descriptors;
        claims.check(
            after <= self.most_after,
            "descriptors are closed again",
            &format!(
                "{before} before, {after} after, {} allowed",
                self.most_after
            ),
        );
        if let Some((written, taken)) = self.written {
            claims.check(
                self.each_kib() <= READER_KIB,
                "a slow reader costs at most 256 KiB",
                &format!("{:.1} KiB", self.each_kib()),
            );
            claims.check(
                written - taken <= AHEAD && written < flood::STREAM as f64 / 2.0,
                "a slow reader's provider is throttled",
                &format!("a reader took {taken:.0} bytes, its provider wrote {written:.0}"),
            );
        }
        claims.check(
            self.recovery
                .is_some_and(|time| time < Duration::from_secs(2)),
            "good traffic is answered within 2 s of the crowd's end",
            &format!("{:?}", self.recovery),
        );
        in_order(claims, &self.balance, self.held, &self.panics);
    }

    /// Its line of the table.
    pub fn line(&self) -> String {
        let mut gone = Samples::default();
        for time in &self.fate.gone {
            gone.add(time.as_secs_f64());
        }
        let (before, with, after) = self.descriptors;
        let written = self.written.map_or("–".to_owned(), |(written, taken)| {
            format!("{:.0} / {:.0}", written / 1024.0, taken / 1024.0)
        });
        format!(
            "| {} | {} | {} | {} | {:.6} | {:.1} / {:.1} | {:.1} / {:.1} | {:.1} / {:.1} | {:.1} | {} ({} left) | {before} → {with} → {after} | {written} \
             | {} | {:.0} | {:.1} |\n",
            self.name,
            self.fate.came,
            self.all.sent,
            self.all.endless(),
            self.all.error_share(),
            self.alone.ms(0.5),
            self.alone.ms(0.99),
            self.coming.ms(0.5),
            self.coming.ms(0.99),
            self.beside.ms(0.5),
            self.beside.ms(0.99),
            self.each_kib(),
            gone.spread(1),
            self.fate.remaining(),
            self.balance.off,
            self.recovery
                .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0),
            self.peak as f64 / 1024.0,
        )
    }
}

/// The table's head.
pub const HEAD: &str = "| crowd | how many | good requests | without one end | error share | alone p50 / p99, ms | while it comes, ms | beside p50 / p99, ms \
     | KiB for each | let go after, s | descriptors before → with → after | KiB written by the provider / taken, a reader \
     | ledger − provider | recovery, ms | peak PSS, MiB |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
