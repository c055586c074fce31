//! Whether a new configuration can be put in place under load: the file is written anew once a second, each time with
//! another change, every tenth time invalid. Phases without and with that follow each other as ABBA, so that what drifts
//! does so for both.
//!
//! [`versions`] is the files, [`sightings`] which of them is served, [`gauges`] what the metrics tell, [`long`] the
//! streams that outlast a price.

mod gauges;
mod long;
mod sightings;
mod versions;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use tokio::time::{sleep, sleep_until};

use self::gauges::Gauges;
use self::sightings::{APPLIED, Cause, Sightings, Written};
use self::versions::{Versions, is_invalid};
use crate::Result;
use crate::kills::told_of;
use crate::ledger::claims::Claims;
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::process::{Scratch, existing, processor, signal};
use crate::report::{Report, Samples};
use crate::steady::Steady;
use crate::steady::balance::Balance;
use crate::steady::gateway::{ACCOUNT, Gateway, Places, released, secret};
use crate::steady::tally::Tally;
use crate::steady::watch::{Memory, pss};

/// The key of good traffic.
const KEY: &str = "steady";

/// How often the file is written.
const EVERY: Duration = Duration::from_secs(1);

/// A phase lasts about so long.
const PHASE_S: u64 = 15;

/// Before the first phase: what is slow only once does not count.
const WARM_UP: Duration = Duration::from_secs(5);

/// What the gateway knows of a file is looked at so long before the next is written.
const BEFORE_NEXT: Duration = Duration::from_millis(100);

/// The most that p99 may be with reloads, beside without.
const SLOWER: f64 = 1.10;

/// Memory may have grown by so much at the end: a share, and KiB.
const GROWN: (f64, u64) = (1.10, 6 * 1024);

/// Patience until all is charged.
const SETTLE: Duration = Duration::from_secs(30);

/// The command line.
#[derive(Args)]
pub struct Reload {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// For so many seconds the file is written once a second; for as many it is not.
    #[arg(long, default_value_t = 300, value_parser = value_parser!(u64).range(10..=3_600))]
    seconds: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// Keys that the file has besides: what has to be read each time.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(0..=10_000))]
    keys: u64,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What was done to the gateway, and seen of it.
#[derive(Default)]
struct Course {
    written: Written,
    gauges: Gauges,
    /// KiB after the first phase with reloads, and at the end.
    memory: (u64, u64),
}

/// Phases: 0 is the warm-up, then they alternate.
struct Phases {
    count: u64,
    lasts: Duration,
}

impl Phases {
    /// As many with reloads as without, an even number of each.
    fn new(seconds: u64) -> Self {
        let pairs = (seconds / (2 * PHASE_S)).max(1);
        let lasts = Duration::from_millis(seconds * 500 / pairs);
        Phases {
            count: 4 * pairs,
            lasts,
        }
    }

    /// How the gateway learns of files in a phase, counted from 0, if any are written: not, by a signal, by itself, not.
    fn cause(number: u64) -> Option<Cause> {
        match number % 4 {
            1 => Some(Cause::Signal),
            2 => Some(Cause::Watch),
            _ => None,
        }
    }

    /// Whether files are written in it.
    fn with(number: u64) -> bool {
        Phases::cause(number).is_some()
    }
}

impl Reload {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let program = existing(self.gateway)?;
        let phases = Phases::new(self.seconds);
        let scratch = Scratch::new()?;
        let provider = Provider::start().await?;
        let places = Places::new(&scratch)?;
        let streams = long::keys(WARM_UP + phases.lasts * u32::try_from(phases.count)?);
        let idle = (0..self.keys).map(|number| format!("idle-{number:05}"));
        let versions = Versions {
            places: places.clone(),
            upstream: provider.address,
            keys: [KEY.to_owned()]
                .into_iter()
                .chain((0..streams).map(long::key))
                .chain(idle)
                .collect(),
        };
        places.configure(&versions.text(0))?;
        let mut gateway = Gateway::start(&program, &[], &scratch, places).await?;
        let memory = Memory::watch(gateway.process.id());
        let front = gateway.places.front;
        let sightings = Sightings::start(front, KEY);
        let steady = Steady::start(front, &secret(KEY), 0, self.rate)?;
        let long = long::Streams::start(front, streams);
        let course = alternate(&phases, &steady, &mut gateway, &versions).await?;
        let pool = steady.pool().clone();
        let tallies = steady.finish().await?;
        let long = long.finish().await?;
        let sightings = sightings.judge(&course.written);
        let peak = memory.peak();
        sight::settled(&[gateway.places.metrics], SETTLE).await?;
        let account = released(gateway.places.admin).await?;
        let (rows, _) = gateway.places.admin.used(ACCOUNT).await?;
        let balance = Balance::of(&provider.book.told(), 0..long::FIRST, rows.get(KEY));
        let long = long::judge(&long, &course.written, &rows);

        let (without, with) = parted(&tallies)?;
        let all = Tally::merged(&tallies)?;
        let ratio = ratio(&tallies);
        let mut claims = Claims::default();
        claims.none("no request failed", all.sent, &all.failures());
        let endless = all.endless();
        claims.check(
            endless == 0,
            "one terminal outcome a request",
            &endless.to_string(),
        );
        claims.none(
            "what is served is the last valid file, within 2 s, whatever lies there",
            sightings.seen,
            &sightings.wrong,
        );
        claims.check(
            sightings.served == sightings.valid,
            "each valid file that SIGHUP tells of is served before the next is written",
            &format!("{} of {}", sightings.served, sightings.valid),
        );
        let telling = course.gauges.telling();
        claims.check(
            telling.is_some(),
            "the metrics tell an invalid file from a valid one",
            &format!("{telling:?} in {:?} looks", course.gauges.looks()),
        );
        claims.check(
            ratio.median() <= SLOWER,
            "p99 to the first byte is within 10 % of that without reloads, by the median of neighbouring phases",
            &format!("ratio {}", ratio.spread(3)),
        );
        claims.none("no long stream broke", long.streams, &long.broken);
        claims.none(
            "a stream is charged by the price that held when it began",
            long.streams,
            &long.repriced,
        );
        claims.check(
            long.spanning > 0,
            "streams outlasted their price",
            &format!("{} of {}", long.spanning, long.streams),
        );
        balance.claim(&mut claims);
        claims.check(
            account.held == 0,
            "nothing is held in the end",
            &account.held.to_string(),
        );
        let (begin, end) = course.memory;
        let most = (begin as f64 * GROWN.0) as u64 + GROWN.1;
        claims.check(
            end <= most,
            "memory does not grow: old files are forgotten",
            &format!("{begin} KiB after the first reloads, {end} KiB at the end"),
        );
        let fared = pool.fared();
        claims.check(
            fared.retried_recent == 0,
            "no connection in use was closed without an answer",
            &format!("{fared:?}"),
        );
        let panics = gateway.panics()?;
        claims.check(panics.is_empty(), "nothing panicked", &told_of(&panics));

        let mut text = format!(
            "{}. {} requests a second, half of them streams, for {} phases of {} s; the file has {} keys. \
             Times from when a request was due to the first byte.\n\n\
             | | reloads (invalid) | requests | failed | p50, ms | p99, ms | max, ms |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
            processor(),
            self.rate,
            phases.count,
            phases.lasts.as_secs_f64(),
            versions.keys.len(),
        );
        let (count, invalid) = course.written.count();
        for (name, reloads, tally) in [
            ("without", "–".to_owned(), &without),
            ("with", format!("{count} ({invalid})"), &with),
        ] {
            let _ = writeln!(
                text,
                "| {name} | {reloads} | {} | {} | {:.2} | {:.2} | {:.1} |",
                tally.sent,
                tally.failed(),
                tally.ms(0.5),
                tally.ms(0.99),
                tally.ms(1.0),
            );
        }
        let _ = write!(
            text,
            "\n| p99, with / without: of neighbouring phases | served after, ms: SIGHUP | by itself | long streams (spanning a price) | without one end \
             | error share | ledger − provider | PSS after first reloads → end, MiB | peak PSS, MiB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n\
             | {} | {} | {} | {} ({}) | {endless} | {:.6} | {} | {:.1} → {:.1} | {:.1} |\n",
            ratio.spread(3),
            sightings.signalled_ms.spread(0),
            sightings.watched_ms.spread(0),
            long.streams,
            long.spanning,
            all.error_share(),
            balance.off,
            begin as f64 / 1024.0,
            end as f64 / 1024.0,
            peak as f64 / 1024.0,
        );
        Ok(claims.report(text))
    }
}

/// Goes through the phases, and leaves a valid file.
async fn alternate(
    phases: &Phases,
    steady: &Steady,
    gateway: &mut Gateway,
    versions: &Versions,
) -> Result<Course> {
    let mut course = Course::default();
    let id = gateway.process.id();
    course.written.add(Instant::now(), 0, Cause::Watch);
    sleep(WARM_UP).await;
    let mut version = 0;
    for number in 0..phases.count {
        let begin = tokio::time::Instant::now();
        let end = begin + phases.lasts;
        steady.phase(number as usize + 1);
        let mut next = begin;
        while let Some(cause) = Phases::cause(number).filter(|_| next + EVERY <= end) {
            version += 1;
            write(gateway, versions, version, cause, &mut course.written).await?;
            next += EVERY;
            sleep_until(next - BEFORE_NEXT).await;
            let values = gauges::look(gateway.places.metrics).await?;
            // What it finds by itself it may not have looked at yet.
            if cause == Cause::Signal {
                course.gauges.add(is_invalid(version), values);
            }
            sleep_until(next).await;
        }
        sleep_until(end).await;
        gateway.process.check()?;
        if number == 1 {
            course.memory.0 = pss(id).unwrap_or(0);
        }
    }
    steady.phase(0);
    if is_invalid(version) {
        let written = &mut course.written;
        write(gateway, versions, version + 1, Cause::Watch, written).await?;
    }
    sleep(APPLIED).await;
    course.memory.1 = pss(id).unwrap_or(u64::MAX);
    Ok(course)
}

/// Puts a version in place. Made in another thread: the load is timed meanwhile.
async fn write(
    gateway: &Gateway,
    versions: &Versions,
    version: u64,
    cause: Cause,
    written: &mut Written,
) -> Result<()> {
    let (made, places, id) = (
        versions.clone(),
        gateway.places.clone(),
        gateway.process.id(),
    );
    let text = tokio::task::spawn_blocking(move || made.text(version)).await?;
    let before = Instant::now();
    places.configure(&text)?;
    written.add(before, version, cause);
    if cause == Cause::Signal {
        tokio::task::spawn_blocking(move || signal(id, "HUP")).await??;
    }
    Ok(())
}

/// All without reloads, and all with.
fn parted(tallies: &[Tally]) -> Result<(Tally, Tally)> {
    let phases = || tallies.iter().skip(1).zip(0_u64..);
    let of = |with| {
        phases()
            .filter(move |(_, number)| Phases::with(*number) == with)
            .map(|(tally, _)| tally)
    };
    Ok((Tally::merged(of(false))?, Tally::merged(of(true))?))
}

/// Of each two neighbouring phases: p99 with reloads by p99 without.
fn ratio(tallies: &[Tally]) -> Samples {
    let mut samples = Samples::default();
    for (pair, number) in tallies
        .get(1..)
        .unwrap_or_default()
        .chunks_exact(2)
        .zip(0_u64..)
    {
        let [first, second] = pair else { continue };
        let (without, with) = match Phases::with(2 * number) {
            false => (first, second),
            true => (second, first),
        };
        samples.add(with.ms(0.99) / without.ms(0.99));
    }
    samples
}

#[cfg(test)]
mod tests;
