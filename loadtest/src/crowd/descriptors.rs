//! A gateway that may open hardly any files, and more connections than that: it must neither spin nor fall silent, and
//! serve again when they have gone. Once with the cap on connections that it chooses by itself, which leaves room for
//! what it needs; once with a cap that is too high, so that it does run out.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use tokio::time::sleep;

use super::beside::GOOD;
use super::in_order;
use super::members::{Fate, Kind, Members};
use crate::Result;
use crate::ledger::claims::Claims;
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::process::{Scratch, descriptors_of, existing, processor, raise_descriptors};
use crate::report::Report;
use crate::steady::Steady;
use crate::steady::balance::Balance;
use crate::steady::gateway::{ACCOUNT, Gateway, Places, Terms, released, secret};
use crate::steady::tally::Tally;
use crate::steady::watch::{ADMIN, Answers, LIVEZ, Memory, Probe, READYZ};

/// Good traffic is alone for so long before, and the crowd stays for so long: less than what a header may take, so that
/// none of it is let go meanwhile.
const ALONE: Duration = Duration::from_secs(4);
const CROWDED: Duration = Duration::from_secs(8);

/// Good traffic is served again within this time, and watched for so long.
const RECOVERS: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(5);

/// Processor time while it is crowded: at most so many percent of a core beyond what good traffic alone takes.
const SPIN: f64 = 25.0;

/// Lines of its log while it is crowded.
const LINES: usize = 200;

const SETTLE: Duration = Duration::from_secs(30);

/// The command line.
#[derive(Args)]
pub struct Descriptors {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many files it may open.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u64).range(64..=10_000))]
    files: u64,
    /// Good requests a second.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What was seen.
struct Seen {
    name: &'static str,
    /// Whether those who run it must be answered while it is crowded.
    answers: bool,
    fate: Fate,
    /// Percent of a core: alone, and crowded.
    busy: (f64, f64),
    operators: Vec<Answers>,
    lines: usize,
    descriptors: (u64, u64, u64),
    recovery: Option<Duration>,
    /// All good requests, and those due after the recovery.
    all: Tally,
    after: Tally,
    balance: Balance,
    held: i64,
    peak: u64,
    panics: Vec<String>,
}

impl Descriptors {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let program = existing(self.gateway.clone())?;
        raise_descriptors(self.files * 4)?;
        let scratch = Scratch::new()?;
        let mut claims = Claims::default();
        let mut text = format!(
            "{}. A gateway that may open {} files, {} connections that say nothing but the begin of a header, for {} s; {} good requests a \
             second, half of them streams.\n\n\
             | cap on connections | good requests | without one end | error share, crowd included | percent of a core: alone / crowded | lines logged \
             | livez, readyz, admin: asked / wrong | descriptors before → with → after | first good answer after the crowd, ms \
             | errors since | ledger − provider | peak PSS, MiB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            processor(),
            self.files,
            self.files * 2,
            CROWDED.as_secs(),
            self.rate,
        );
        for (name, more, answers) in [
            ("its own choice", String::new(), true),
            (
                "too high",
                "limits: { connections: 100000 }\n".to_owned(),
                false,
            ),
        ] {
            let seen = self.crowd(&program, &scratch, name, more, answers).await;
            let seen = seen.map_err(|error| format!("{name}: {error}"))?;
            seen.claim(&mut claims);
            seen.line(&mut text);
        }
        Ok(claims.report(text))
    }

    async fn crowd(
        &self,
        program: &Path,
        scratch: &Scratch,
        name: &'static str,
        more: String,
        answers: bool,
    ) -> Result<Seen> {
        let provider = Provider::start().await?;
        let places = Places::new(scratch)?;
        let terms = Terms {
            keys: vec![GOOD.to_owned()],
            more,
            ..Terms::default()
        };
        places.configure(&places.yaml(provider.address, &terms))?;
        let limit = format!("--nofile={0}:{0}", self.files);
        let mut gateway = Gateway::start(program, &["prlimit", &limit], scratch, places).await?;
        let id = gateway.process.id();
        let memory = Memory::watch(id);
        let front = gateway.places.front;
        let steady = Steady::start(front, &secret(GOOD), 0, self.rate)?;
        let probe = Probe::start(&gateway.places);
        sleep(Duration::from_secs(1)).await;
        let before = descriptors_of(id)?;
        let alone = busy(&gateway, ALONE).await?;
        let logged = gateway.process.words()?.lines().count();
        let from = Instant::now();
        let members = Members::gather(Kind::Header, self.files * 2, front).await?;
        let crowded = busy(&gateway, CROWDED).await?;
        let with = descriptors_of(id)?;
        let until = Instant::now();
        let operators = [LIVEZ, READYZ, ADMIN].map(|what| probe.answers(what, from, until));
        let lines = gateway.process.words()?.lines().count() - logged;
        let fate = members.fate();
        members.leave().await;
        let gone = Instant::now();
        sleep(RECOVERS).await;
        steady.phase(1);
        sleep(AFTER).await;
        gateway.process.check()?;
        let recovery = steady.served_since(gone);
        let after = descriptors_of(id)?;
        drop(probe);
        let tallies = steady.finish().await?;
        let peak = memory.peak();
        sight::settled(&[gateway.places.metrics], SETTLE).await?;
        let account = released(gateway.places.admin).await?;
        let (rows, _) = gateway.places.admin.used(ACCOUNT).await?;
        let balance = Balance::of(&provider.book.told(), 0..u64::MAX, rows.get(GOOD));
        Ok(Seen {
            name,
            answers,
            fate,
            busy: (alone, crowded),
            operators: operators.to_vec(),
            lines,
            descriptors: (before, with, after),
            recovery: recovery.map(|at| at.saturating_duration_since(gone)),
            all: Tally::merged(&tallies)?,
            after: Tally::merged(tallies.get(1))?,
            balance,
            held: account.held,
            peak,
            panics: gateway.panics()?,
        })
    }
}

/// Percent of a core that it takes for some time.
async fn busy(gateway: &Gateway, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let before = gateway.process.cpu()?;
    sleep(time).await;
    let worked = gateway.process.cpu()?.saturating_sub(before);
    Ok(percent(worked, begin.elapsed()))
}

fn percent(worked: Duration, time: Duration) -> f64 {
    100.0 * worked.as_secs_f64() / time.as_secs_f64()
}

impl Seen {
    fn claim(&self, claims: &mut Claims) {
        claims.part(self.name);
        let (alone, crowded) = self.busy;
        claims.check(
            crowded <= alone + SPIN,
            "it does not spin while it is crowded",
            &format!("{alone:.1} % of a core alone, {crowded:.1} % crowded"),
        );
        claims.check(
            self.lines <= LINES,
            "its log stays short",
            &format!("{} lines", self.lines),
        );
        if self.answers {
            let asked = self.operators.iter().map(|answers| answers.asked).sum();
            let unanswered: Vec<String> = self
                .operators
                .iter()
                .flat_map(|answers| answers.wrong.clone())
                .collect();
            claims.none(
                "/livez, /readyz and the admin API answer while it is crowded",
                asked,
                &unanswered,
            );
        }
        claims.check(
            self.recovery.is_some_and(|time| time <= RECOVERS),
            "good requests are answered within 2 s of the crowd's end",
            &format!("{:?}", self.recovery),
        );
        claims.none(
            "from then on all of them are",
            self.after.sent,
            &self.after.failures(),
        );
        claims.check(
            self.all.endless() == 0,
            "one terminal outcome a request",
            &self.all.endless().to_string(),
        );
        in_order(claims, &self.balance, self.held, &self.panics);
    }

    fn line(&self, text: &mut String) {
        let mut operators = String::new();
        for answers in &self.operators {
            let _ = write!(operators, "{} / {}, ", answers.asked, answers.wrong.len());
        }
        let (before, with, after) = self.descriptors;
        let _ = writeln!(
            text,
            "| {} ({} of the crowd connected to the end) | {} | {} | {:.4} | {:.1} / {:.1} | {} | {} | {before} → {with} → {after} | {:.0} | {} | {} | {:.1} |",
            self.name,
            self.fate.remaining(),
            self.all.sent,
            self.all.endless(),
            self.all.error_share(),
            self.busy.0,
            self.busy.1,
            self.lines,
            operators.trim_end_matches(", "),
            self.recovery
                .map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0),
            self.after.failed(),
            self.balance.off,
            self.peak as f64 / 1024.0,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_works_all_the_time_is_a_hundred_percent() {
        assert_eq!(
            percent(Duration::from_secs(2), Duration::from_secs(2)),
            100.0
        );
        assert_eq!(
            percent(Duration::from_millis(50), Duration::from_secs(1)),
            5.0
        );
    }
}
