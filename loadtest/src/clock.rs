//! Whether a clock that jumps opens or locks anything: the gateway's clock, by libfaketime, goes a day forward and back
//! while one key sends more than it may, and good traffic goes on. The machine's clock stays alone.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::kills::told_of;
use crate::ledger::claims::Claims;
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::ledger::wish::{Kind, Wish};
use crate::process::{Scratch, existing, find_program, processor};
use crate::report::Report;
use crate::steady::balance::Balance;
use crate::steady::chat::bytes;
use crate::steady::gateway::{ACCOUNT, Gateway, Limited, Places, Terms, released, secret};
use crate::steady::pool::Pool;
use crate::steady::tally::Tally;
use crate::steady::watch::Memory;
use crate::steady::{Steady, locked};

/// Where the clock goes. In the end it is where the latest charges are, so that none lies in the future.
const JUMPS: [&str; 6] = ["+0", "+1d", "+0", "-1d", "+0", "+1d"];

/// What the limited key may: a minute, and at once.
const A_MINUTE: u64 = 600;
const BURST: u64 = 30;

/// It asks so often: some four times of what it may.
const ASKS: Duration = Duration::from_millis(23);

/// It is served at least so often, as it may ten times a second.
const LOCKED_OUT: Duration = Duration::from_secs(1);

/// Requests more than allowed that are no free window: the one at each edge of a stretch.
const EDGE: f64 = 1.0;

const PATIENCE: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(30);

/// Keys of good traffic, and of the one that asks too much; and the number of the latter's first request.
const GOOD: &str = "steady";
const GREEDY: &str = "greedy";
const FIRST: u64 = 5_000_000;

/// The command line.
#[derive(Args)]
pub struct Clock {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// Seconds from one jump of the clock to the next.
    #[arg(long, default_value_t = 12, value_parser = value_parser!(u64).range(5..=600))]
    seconds: u64,
    /// Good requests a second.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// One answer to the key that asks too much.
type Answer = (Instant, std::result::Result<u16, String>);

impl Clock {
    /// Measures and reports. Without libfaketime it says so, and nothing has failed.
    pub async fn run(self) -> Result<Report> {
        let program = existing(self.gateway)?;
        let library = match library() {
            Ok(library) => library,
            Err(error) => {
                let text = format!("Skipped, nothing was measured: {error}\n");
                return Ok(Report::sound(text));
            }
        };
        let scratch = Scratch::new()?;
        let provider = Provider::start().await?;
        let places = Places::new(&scratch)?;
        let terms = Terms {
            keys: vec![GOOD.to_owned()],
            limited: Some(Limited {
                name: GREEDY.to_owned(),
                plan: format!("requests_per_minute: {A_MINUTE}, burst: {BURST}, "),
            }),
            ..Terms::default()
        };
        places.configure(&places.yaml(provider.address, &terms))?;
        let file = scratch.path().join("clock");
        set(&file, JUMPS[0])?;
        let before = [
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
            "FAKETIME_CACHE_DURATION=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "NO_FAKE_STAT=1".to_owned(),
        ];
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let mut gateway = Gateway::start(&program, &before, &scratch, places).await?;
        let memory = Memory::watch(gateway.process.id());
        let front = gateway.places.front;
        let steady = Steady::start(front, &secret(GOOD), 0, self.rate)?;
        let greedy = Greedy::start(Pool::new(front));
        for jump in JUMPS {
            set(&file, jump)?;
            sleep(Duration::from_secs(self.seconds)).await;
            gateway.process.check()?;
        }
        let answers = greedy.finish();
        let tallies = steady.finish().await?;
        sight::settled(&[gateway.places.metrics], SETTLE).await?;
        let account = released(gateway.places.admin).await?;
        let (rows, _) = gateway.places.admin.used(ACCOUNT).await?;
        let (others, _) = gateway.places.admin.used(GREEDY).await?;
        let days = days(&gateway).await?;
        let told = provider.book.told();
        let balance = Balance::of(&told, 0..FIRST, rows.get(GOOD)).and(Balance::of(
            &told,
            FIRST..u64::MAX,
            others.get(GREEDY),
        ));
        let all = Tally::merged(&tallies)?;
        let admitted: Vec<Instant> = answers
            .iter()
            .filter(|(_, status)| *status == Ok(200))
            .map(|(at, _)| *at)
            .collect();
        let strange: Vec<String> = answers
            .iter()
            .filter(|(_, status)| !matches!(status, Ok(200 | 429)))
            .map(|(_, status)| format!("{status:?}"))
            .collect();
        let (beyond, gap) = (beyond(&admitted), gap(&admitted));

        let mut claims = Claims::default();
        claims.check(
            days.len() > 2,
            "the gateway's clock did jump: it charged on three days",
            &days.join(", "),
        );
        claims.none("no good request failed", all.sent, &all.failures());
        claims.check(
            all.endless() == 0,
            "one terminal outcome a request",
            &all.endless().to_string(),
        );
        claims.none(
            "who asks too much is told 200 or 429",
            answers.len() as u64,
            &strange,
        );
        claims.check(
            beyond <= EDGE,
            "no free window: in no stretch of time more than the limit allows",
            &format!("{beyond:.1} requests beyond it, in the worst of all stretches"),
        );
        claims.check(
            gap.is_some_and(|gap| gap <= LOCKED_OUT),
            "no lock-out: the limited key is served all the time",
            &format!("{gap:?} without at most"),
        );
        balance.claim(&mut claims);
        claims.check(
            account.held == 0,
            "nothing is held in the end",
            &account.held.to_string(),
        );
        let panics = gateway.panics()?;
        claims.check(panics.is_empty(), "nothing panicked", &told_of(&panics));
        let mut text = format!(
            "{}. The gateway's clock: {}, for {} s each. A key that may {A_MINUTE} requests a minute and {BURST} at once asks {:.0} times a second.\n\n\
             | good requests | without one end | error share | p99 to the first byte, ms | limited key: asked | 200 | beyond the limit, worst stretch \
             | longest without 200, ms | ledger − provider | peak PSS, MiB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            processor(),
            JUMPS.join(", "),
            self.seconds,
            1.0 / ASKS.as_secs_f64(),
        );
        let _ = writeln!(
            text,
            "| {} | {} | {:.6} | {:.1} | {} | {} | {beyond:.1} | {} | {} | {:.1} |",
            all.sent,
            all.endless(),
            all.error_share(),
            all.ms(0.99),
            answers.len(),
            admitted.len(),
            gap.map_or(0, |gap| gap.as_millis()),
            balance.off,
            memory.peak() as f64 / 1024.0,
        );
        Ok(claims.report(text))
    }
}

/// Where libfaketime is, as `faketime` itself finds it.
fn library() -> Result<String> {
    let program = find_program("faketime", "faketime")?;
    let output = Command::new(program)
        .args(["-f", "+0", "sh", "-c", "echo \"$LD_PRELOAD\""])
        .output()?;
    let library = String::from_utf8(output.stdout)?.trim().to_owned();
    match library.is_empty() {
        true => Err("faketime does not tell of its library".into()),
        false => Ok(library),
    }
}

/// Sets the gateway's clock, by rename: nobody reads half of it.
fn set(file: &Path, jump: &str) -> Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{jump}\n"))?;
    Ok(std::fs::rename(&next, file)?)
}

/// The days on which something was charged.
async fn days(gateway: &Gateway) -> Result<Vec<String>> {
    let path = format!("/usage?by=day&account={ACCOUNT}");
    let (status, body) = gateway.places.admin.call("GET", &path, None, None).await?;
    let rows = body["data"]
        .as_array()
        .ok_or_else(|| format!("GET {path}: status {status}: {body}"))?;
    let days = rows.iter().filter_map(|row| row["day"].as_str());
    Ok(days.map(str::to_owned).collect())
}

/// How many requests more than allowed were admitted in the stretch in which it was most.
fn beyond(admitted: &[Instant]) -> f64 {
    let per_second = A_MINUTE as f64 / 60.0;
    let mut worst = f64::NEG_INFINITY;
    for (index, first) in admitted.iter().enumerate() {
        for (count, last) in (1_u32..).zip(&admitted[index..]) {
            let time = last.saturating_duration_since(*first).as_secs_f64();
            let allowed = BURST as f64 + per_second * time;
            worst = worst.max(f64::from(count) - allowed);
        }
    }
    worst
}

/// The longest time between two that were admitted.
fn gap(admitted: &[Instant]) -> Option<Duration> {
    let gaps = admitted
        .windows(2)
        .map(|two| two[1].saturating_duration_since(two[0]));
    gaps.max()
}

/// Asks for more than it may; ends when dropped.
struct Greedy {
    log: Arc<Mutex<Vec<Answer>>>,
    task: JoinHandle<()>,
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Greedy {
    fn start(pool: Pool) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::clone(&log);
        let task = tokio::spawn(async move {
            let mut answer = Vec::new();
            for number in FIRST.. {
                let wish = Wish {
                    number,
                    kind: Kind::Whole,
                    wait_ms: 0,
                };
                let request = bytes(&pool, &secret(GREEDY), crate::ledger::site::MODEL, wish);
                let answered = timeout(PATIENCE, pool.exchange(&request, &mut answer)).await;
                let status = match answered {
                    Ok(Ok(answered)) => Ok(answered.status),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer within {PATIENCE:?}")),
                };
                locked(&answers).push((Instant::now(), status));
                sleep(ASKS).await;
            }
        });
        Greedy { log, task }
    }

    fn finish(self) -> Vec<Answer> {
        std::mem::take(&mut *locked(&self.log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_window_and_a_lock_out_are_found() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        // The burst at once, then ten a second.
        let mut admitted: Vec<Instant> = (0..BURST).map(|_| at(0)).collect();
        admitted.extend((1..=100).map(|number| at(number * 100)));
        assert!(beyond(&admitted).abs() < 0.001, "{}", beyond(&admitted));
        assert_eq!(gap(&admitted), Some(Duration::from_millis(100)));
        // The burst once more.
        admitted.extend((0..BURST).map(|_| at(10_000)));
        assert!((beyond(&admitted) - 30.0).abs() < 0.001);
        admitted.push(at(15_000));
        assert_eq!(gap(&admitted), Some(Duration::from_secs(5)));
        assert_eq!(gap(&[]), None);
    }
}
