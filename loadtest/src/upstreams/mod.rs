//! Whether clients notice that providers fail: one gateway before three providers, requests at a steady rate, and one of
//! the three, or all of them, failing in every way that a provider has.
//!
//! [`fault`] is how they fail, [`provider`] does it, [`traffic`] sends, [`trial`] is one run, [`course`] what came of it, [`arrivals`] and
//! [`attempts`] are what was counted meanwhile, [`audit`] compares with the ledger, [`site`] configures the gateway.

pub mod arrivals;
pub mod attempts;
pub mod audit;
pub mod course;
pub mod fault;
pub mod provider;
pub mod site;
pub mod traffic;
pub mod trial;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use crate::Result;
use crate::ledger::claims::Claims;
use crate::process::{Scratch, existing, processor};
use crate::report::Report;

use course::{Course, Outcome};
use fault::Fault;
use traffic::Rate;
use trial::{FOUND_OUT, Trial};

/// Faults in the middle of streams, of all providers at once, and without `resend`, last no longer than this.
const SHORT: Duration = Duration::from_secs(10);

/// Attempts for a hundred requests, at most.
const ATTEMPTS: u64 = 120;

/// `retries.max`, unless set.
const RETRIES: u64 = 2;

/// Where no provider is well, clients are told within this time.
const TOLD: Duration = Duration::from_millis(500);

/// When all providers are well again, requests are answered again within this time.
const RECOVERED: Duration = Duration::from_secs(6);

/// The command line.
#[derive(Args)]
pub struct Upstreams {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How long a provider fails.
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Requests a second; every other one is a stream.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(10..=1_000))]
    rate: u64,
    /// Connections at most.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u64).range(1..=512))]
    connections: u64,
    /// Only these parts of the run: all, unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One of three fails before the first byte.
    Before,
    /// One of three fails in the middle of streams.
    Within,
    /// All three answer 503.
    All,
    /// One of three reads requests and resets, without `resend`.
    Once,
}

impl Part {
    const ALL: [Part; 4] = [Part::Before, Part::Within, Part::All, Part::Once];

    fn trials(self, lasts: Duration) -> Vec<Trial> {
        let short = lasts.min(SHORT);
        let one = |fault: Fault, lasts| Trial {
            name: fault.name().to_owned(),
            fault,
            sick: 1,
            resend: fault.resend(),
            lasts,
        };
        match self {
            Part::Before => Fault::BEFORE.map(|fault| one(fault, lasts)).into(),
            Part::Within => Fault::WITHIN.map(|fault| one(fault, short)).into(),
            Part::All => vec![Trial {
                name: "all three: 503".to_owned(),
                sick: 3,
                ..one(Fault::Status503, short)
            }],
            Part::Once => vec![Trial {
                name: "reads, resets; no `resend`".to_owned(),
                resend: "",
                ..one(Fault::ResetRead, short)
            }],
        }
    }

    /// What must hold of a run.
    fn claim(self, fault: Fault, course: &Course, outcome: &Outcome, claims: &mut Claims) {
        let audit = &outcome.audit;
        audit.claim(claims);
        outcome.books.claim(claims);
        let (attempts, due) = course.attempts;
        claims.check(
            due > 0 && attempts * 100 <= due * ATTEMPTS,
            "attempts are at most 1.2 for a request while providers fail",
            &format!("{attempts} for {due}"),
        );
        let [before, during, after] = course.errors;
        let errors = before + during + after;
        let first = course.first_error.as_deref().unwrap_or("none");
        match self {
            Part::Before => {
                claims.check(
                    errors == 0,
                    "no client sees an error while two of three providers are well",
                    &format!("{errors} of {}, the first: {first}", audit.sent),
                );
                claims.check(
                    audit.most <= 1 + RETRIES,
                    "no request reaches providers more than three times: it is tried again twice at most",
                    &format!("{} times at most", audit.most),
                );
                // Two at once where a key cools down: it is no probe that finds it well.
                let most = course.probed + 2;
                let (probes, busiest) = course.probes;
                claims.check(
                    probes <= most,
                    "the one that fails gets only probes once it is found out",
                    &format!("{probes} in {} s, {busiest} in one at most", course.probed),
                );
            }
            Part::Within => {
                audit.claim_cut(claims);
                claims.check(
                    audit.refused == 0 && before + after == 0,
                    "nobody else sees an error",
                    &format!(
                        "{} refused, {} before and after",
                        audit.refused,
                        before + after
                    ),
                );
            }
            Part::All => {
                let known = |(status, code): &(u16, String)| {
                    matches!(
                        (*status, code.as_str()),
                        (502, "upstream_error") | (503, "server_is_overloaded")
                    )
                };
                claims.check(
                    before == 0 && during > 0 && course.refusals.keys().all(known),
                    "where no provider is well, clients are told 502 or 503, with its code",
                    &course.refused(),
                );
                claims.check(
                    course.refusal_p99 <= TOLD,
                    "they are told at once",
                    &format!("99 % within {} ms", course.refusal_p99.as_millis()),
                );
                let last = course.last_error.unwrap_or_default();
                claims.check(
                    last <= RECOVERED && course.back.is_some(),
                    "when all are well again, so are the answers",
                    &format!("the last error {} ms after", last.as_millis()),
                );
            }
            Part::Once => {
                claims.check(
                    audit.most_worked == 1,
                    "without `resend` nothing is sent twice to providers that may have read it, but for what came over a used connection that was reset at once",
                    &format!("{} times at most, and {} over such", audit.most_worked, audit.most),
                );
                claims.check(
                    before + after == 0,
                    "nobody sees an error while all three are well",
                    &format!("{before} before, {after} after; {during} during"),
                );
            }
        }
        if self != Part::All {
            let back = course.back.map(|back| back.as_millis());
            let words = back.map_or("never".to_owned(), |back| format!("{back} ms"));
            claims.check(
                course.back.is_some_and(|back| back <= fault.back()),
                "who is well again has its share back",
                &words,
            );
        }
    }
}

impl Upstreams {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Upstreams {
            gateway,
            seconds,
            rate,
            connections,
            only,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let scratch = Scratch::new()?;
        let rate = Rate {
            a_second: rate,
            connections: usize::try_from(connections)?,
            keys: 0,
        };
        let mut claims = Claims::default();
        let mut text = heading(rate, seconds);
        let chosen = |part: &Part| only.is_empty() || only.contains(part);
        let parts = Part::ALL.into_iter().filter(chosen);
        let trials = parts.map(|part| (part, part.trials(Duration::from_secs(seconds))));
        let trials: Vec<(Part, Vec<Trial>)> = trials.collect();
        let all = trials.iter().flat_map(|(_, trials)| trials);
        site::suffice(
            all.map(|trial| trial.keys(rate.a_second))
                .max()
                .unwrap_or(0),
        )?;
        for (part, trials) in trials {
            for trial in trials {
                let ended = trial.run(&program, &scratch, rate).await;
                let (course, outcome) =
                    ended.map_err(|error| format!("{}: {error}", trial.name))?;
                claims.part(&trial.name);
                part.claim(trial.fault, &course, &outcome, &mut claims);
                let line = course.line(&trial.name, &outcome);
                eprint!("{line}");
                text.push_str(&line);
            }
        }
        Ok(claims.report(text))
    }
}

fn heading(rate: Rate, seconds: u64) -> String {
    let Rate {
        a_second,
        connections,
        ..
    } = rate;
    format!(
        "{}. One gateway, three providers, {a_second} requests/s over {connections} connections at most, half of them \
         streams; faults last {seconds} s (in streams, of all three, and without `resend`: {} s at most). Times beyond the \
         provider's own.\n\n\
         | fault of one of three | requests before / during / after | without one end | errors before / during / after | refused | \
         cut | attempts a request, during | at the one that fails after {} s: all / most a second | reached two providers, charged once | \
         ledger − provider | share back after, s | p50 / p99 before → during, ms | peak PSS, MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        processor(),
        SHORT.as_secs(),
        FOUND_OUT.as_secs(),
    )
}

impl Course {
    fn refused(&self) -> String {
        let told = self.refusals.iter();
        let told: Vec<String> = told
            .map(|((status, code), count)| format!("{count} × {status} {code}"))
            .collect();
        match told.as_slice() {
            [] => "0".to_owned(),
            told => told.join(", "),
        }
    }

    fn line(&self, name: &str, outcome: &Outcome) -> String {
        let mut text = String::new();
        let [early, wrong, late] = self.errors;
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        let [before, during] = self.added;
        let [first, sent, last] = self.sent;
        let share = 100.0 * wrong as f64 / sent.max(1) as f64;
        let back = self.back.map_or("never".to_owned(), |back| {
            format!("{:.1}", back.as_secs_f64())
        });
        let (counted, gateway) = self.counted;
        let _ = writeln!(
            text,
            "| {name} | {first} / {sent} / {last} | {} | {early} / {wrong} ({share:.1} %) / {late} | {} | {} | {:.3} (all: {counted}, the gateway: {gateway}) | {} / {} | {} | {} | {back} | {:.1} / {:.1} → {:.1} / {:.1} | {:.1} |",
            outcome.audit.endless(),
            self.refused(),
            outcome.audit.cut,
            self.attempts.0 as f64 / self.attempts.1.max(1) as f64,
            self.probes.0,
            self.probes.1,
            outcome.audit.resent,
            outcome.audit.off,
            ms(before.0),
            ms(before.1),
            ms(during.0),
            ms(during.1),
            outcome.memory as f64 / 1024.0,
        );
        text
    }
}
