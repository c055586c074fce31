//! Whether a charge survives kill -9: a gateway is killed again and again under load, half of it streaming, and
//! started again on the same directory. Each request has a key of its own, so each charge stands by itself.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, value_parser};
use tokio::time::sleep;

use crate::Result;
use crate::ledger::admin::Account;
use crate::ledger::audit::{Audit, Books};
use crate::ledger::claims::Claims;
use crate::ledger::money::decimal;
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::ledger::site::{Key, Node, Terms};
use crate::ledger::traffic::{End, Sent, Traffic, key};
use crate::process::{Scratch, existing, processor};
use crate::redis::{Disk, Redis};
use crate::report::{Report, Samples};
use crate::rng::Random;

/// The account that pays for everything, and what it begins with.
const ACCOUNT: &str = "load";
const SEED: i64 = 1_000_000_000_000;

/// Requests for which there are keys, a kill.
const KEYS: u64 = 100;

/// A life lasts so long; one in five is over while it begins.
const LIFE_MS: (u64, u64) = (300, 1_500);
const SHORT_MS: (u64, u64) = (0, 150);

/// A gateway has settled with a client that left after this time.
const LEAVING: Duration = Duration::from_millis(500);

/// After the last kill requests go on for so long.
const REST: Duration = Duration::from_secs(1);

/// How long it may take until all is settled. A hold in Redis that no journal knows of is given back after two minutes.
const PATIENCE: Duration = Duration::from_secs(150);

/// Memory is looked at so often.
const LOOK: Duration = Duration::from_millis(50);

/// The command line.
#[derive(Args)]
pub struct Kills {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many times it is killed.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=1_000))]
    times: u64,
    /// Keep balances in Redis, with an append-only file, instead of in the gateway.
    #[arg(long)]
    redis: bool,
    /// How many requests are in flight at a time; every other one is a stream.
    #[arg(long, default_value_t = 16, value_parser = value_parser!(u64).range(2..=64))]
    clients: u64,
    /// Decides when the gateway is killed and what is asked for. [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// One SIGKILL.
struct Kill {
    /// Just before it.
    from: Instant,
    /// When the process was gone.
    until: Instant,
    /// From then to the first answer to a request that was sent since; nothing if it was killed again before.
    back: Option<Duration>,
}

impl Kills {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Kills {
            gateway,
            times,
            redis,
            clients,
            seed,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let seed = seed.map_or_else(by_time, Ok)?;
        let scratch = Scratch::new()?;
        let provider = Provider::start().await?;
        let redis = match redis {
            false => None,
            true => Some(Redis::with_disk(Disk::EverySecond, None, &scratch).await?),
        };
        let count = times * KEYS;
        let keys: Vec<Key> = (0..count).map(|number| key(number, ACCOUNT)).collect();
        let terms = Terms {
            provider: provider.address,
            accounts: &[(ACCOUNT, SEED)],
            keys: &keys,
            redis: redis.as_ref().map(Redis::address),
        };
        let mut node = Node::new("the gateway", &program, &scratch, &terms)?;
        node.start(&scratch)?;
        node.open().await?;
        let traffic = Traffic::start(&[node.front], clients, count, ACCOUNT, seed);
        let mut memory = 0;
        let kills = kill(&mut node, &scratch, &traffic, times, seed, &mut memory).await?;
        let sent = traffic.finish().await?;
        if sent.len() as u64 >= count {
            return Err("the keys did not suffice: fewer --clients".into());
        }
        let begin = Instant::now();
        sight::settled(&[node.metrics], PATIENCE).await?;
        let account = released(&node).await?;
        let settled = begin.elapsed();
        let before = node.admin.used(ACCOUNT).await?;
        node.stop().await?;
        node.start(&scratch)?;
        node.open().await?;
        sight::settled(&[node.metrics], PATIENCE).await?;
        let after = node.admin.used(ACCOUNT).await?;
        let again = node.admin.account(ACCOUNT).await?;
        let drift = node.admin.drift().await?;
        let told = provider.book.told();
        let (rows, days) = &after;
        let books = Books {
            sent: &sent,
            told: &told,
            rows,
        };
        let audit = Audit::new(&books, |sent| in_flight(sent, &kills));
        let mut claims = Claims::default();
        audit.claim(&mut claims);
        audit.claim_cut(&mut claims);
        let cost = audit.sum.cost;
        claims.check(
            account == again && account.balance == SEED - cost && account.held == 0,
            "the balance is what it was less what was charged, and nothing is held",
            &format!(
                "{} - {} = {}, held {}",
                decimal(SEED),
                decimal(cost),
                decimal(again.balance),
                decimal(again.held)
            ),
        );
        claims.check(
            before == after && *days == audit.sum,
            "the usage is the same by key and by day, and after a stop and a start",
            &format!("{} rows, {}", rows.len(), decimal(days.cost)),
        );
        claims.check(
            drift.is_empty(),
            "the gateway finds no drift",
            &told_of(&drift),
        );
        let panics = node.panics()?;
        claims.check(panics.is_empty(), "nothing panicked", &told_of(&panics));
        claims.check(
            provider.book.unread() == 0,
            "the provider was asked for nothing that nobody sent",
            &provider.book.unread().to_string(),
        );
        let store = if redis.is_some() { "Redis" } else { "embedded" };
        let text = report(store, seed, &kills, &audit, memory, settled);
        Ok(claims.report(text))
    }
}

/// The seed of a run that was given none.
pub fn by_time() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64)
}

/// Nothing, or how many there are and the first of them.
pub fn told_of(found: &[String]) -> String {
    match found {
        [] => "none".to_owned(),
        [first, ..] => format!("{}, the first: {first}", found.len()),
    }
}

/// Kills it so many times, and starts it again each time.
async fn kill(
    node: &mut Node,
    scratch: &Scratch,
    traffic: &Traffic,
    times: u64,
    seed: u64,
    memory: &mut u64,
) -> Result<Vec<Kill>> {
    let mut random = Random::new(seed);
    let mut kills: Vec<Kill> = Vec::new();
    for number in 0..=times {
        let (least, most) = match random.draw() % 5 {
            0 if number < times => SHORT_MS,
            _ => LIFE_MS,
        };
        let life = Duration::from_millis(random.between(least, most));
        let life = if number < times { life } else { life + REST };
        let begin = Instant::now();
        while begin.elapsed() < life {
            sleep(LOOK.min(life.saturating_sub(begin.elapsed()))).await;
            *memory = node.memory().unwrap_or(0).max(*memory);
        }
        if let Some(last) = kills.last_mut() {
            let answered = traffic.answered_since(last.until);
            last.back = answered.map(|answered| answered - last.until);
        }
        if number == times {
            break;
        }
        if random.draw().is_multiple_of(2) {
            // Whoever has the last byte has been charged: even now.
            traffic.next().await;
        }
        let from = Instant::now();
        node.kill()?;
        let until = Instant::now();
        node.start(scratch)?;
        kills.push(Kill {
            from,
            until,
            back: None,
        });
    }
    // The last life too must have served.
    node.open().await?;
    Ok(kills)
}

/// Waits until nothing is held any more, or too long.
async fn released(node: &Node) -> Result<Account> {
    let begin = Instant::now();
    loop {
        let account = node.admin.account(ACCOUNT).await?;
        if account.held == 0 || begin.elapsed() > PATIENCE {
            return Ok(account);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

fn in_flight(sent: &Sent, kills: &[Kill]) -> bool {
    // A gateway need not have seen yet that its client left.
    let seen = match sent.end {
        End::Left => LEAVING,
        _ => Duration::ZERO,
    };
    kills
        .iter()
        .any(|kill| sent.opened <= kill.until && sent.ended + seen >= kill.from)
}

fn report(
    store: &str,
    seed: u64,
    kills: &[Kill],
    audit: &Audit,
    memory: u64,
    settled: Duration,
) -> String {
    let mut back = Samples::default();
    for time in kills.iter().filter_map(|kill| kill.back) {
        back.add(time.as_secs_f64() * 1000.0);
    }
    let mut text = format!(
        "{}. One gateway, balances: {store}, seed {seed}. Money in micro-units; times of restarts whose life was \
         long enough for an answer.\n\n\
         | store | kills | sent | finished | refused | given up | in flight at a kill | charged: as reported / by last record / \
         prompt's estimate | of these not at the provider | neither sent on nor charged | ledger − provider: finished \
         | in flight / bound | estimated | first answer after, ms | all settled after, s | peak PSS, MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        processor()
    );
    let Audit {
        sent,
        finished,
        refused,
        left,
        cut,
        reported,
        noted,
        prompt,
        unreached,
        untouched,
        off_finished,
        off_cut,
        bound_cut,
        sum,
        ..
    } = audit;
    let _ = writeln!(
        text,
        "| {store} | {} | {sent} | {finished} | {refused} | {left} | {cut} | {reported} / {noted} / {prompt} | {unreached} | {untouched} \
         | {off_finished} | {off_cut} / {bound_cut} | {} | {} | {:.1} | {:.1} |",
        kills.len(),
        sum.estimated,
        back.spread(0),
        settled.as_secs_f64(),
        memory as f64 / 1024.0,
    );
    if audit.on_wire > 0 {
        let _ = writeln!(
            text,
            "\nOn the wire in full when the gateway was killed, and charged by estimate: {}.",
            audit.on_wire
        );
    }
    text
}
