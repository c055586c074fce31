//! Whether a provider can do harm: one gateway, a good provider with steady traffic, and beside it a hostile one, many
//! requests at once for each attack. Then clients that leave in the middle of streams.
//!
//! [`attack`] is what comes, [`provider`] sends it ([`bomb`] packs it), [`victim`] reads what the gateway makes of it, [`harm`]
//! counts what it did, [`leaving`] is about clients.

mod attack;
mod bomb;
mod harm;
mod leaving;
mod provider;
mod victim;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::Result;
use crate::ledger::claims::Claims;
use crate::ledger::site::{MODEL, Node};
use crate::process::{Scratch, existing};
use crate::report::Report;
use crate::upstreams::provider::Provider;
use crate::upstreams::site::{Books, Terms, Upstream};
use crate::upstreams::traffic::{Rate, Traffic};
use crate::upstreams::trial::watch;

use attack::Attack;
use harm::{Harm, Round};
use provider::Hostile;
use victim::Met;

/// What one attack may take, on average, so that the keys of good requests suffice for all of them.
const ROUND: Duration = Duration::from_secs(12);

/// Good traffic alone: before the first attack, and between two.
const ALONE: Duration = Duration::from_secs(3);
const BETWEEN: Duration = Duration::from_millis(500);

/// Requests meet an attack in so many waves, each so long after the one before; in fewer, if they take longer.
const WAVES: u32 = 10;
const WAVE: Duration = Duration::from_millis(200);

/// How patient the gateway is with the hostile provider, which is never left out: each attack is to reach it.
const HOSTILE: &str =
    ", timeouts: { connect: 1s, first_byte: 3s, idle: 3s, total: 5s }, health: { failures: 1000 }";

/// Far less than what the attacks send.
const SETTINGS: &str = "limits: { answer: 4MiB }\nretries: { max: 0 }";

/// The command line.
#[derive(Args)]
pub struct Arguments {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many requests meet each attack at once.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=200))]
    streams: u64,
    /// Good requests a second.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(1..=500))]
    rate: u64,
    /// For how many seconds clients come and leave.
    #[arg(long, default_value_t = 15, value_parser = value_parser!(u64).range(5..=60))]
    leaving: u64,
    /// Only these attacks: all, unless given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Attack>,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl Arguments {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Arguments {
            gateway,
            streams,
            rate,
            leaving,
            only,
            out: _,
        } = self;
        let program = existing(gateway)?;
        let scratch = Scratch::new()?;
        let mut claims = Claims::default();
        let chosen = |attack: &Attack| only.is_empty() || only.contains(attack);
        let attacks: Vec<Attack> = Attack::ALL.into_iter().filter(chosen).collect();
        let harm = suffer(&program, &scratch, &attacks, streams, rate).await?;
        harm.claim(&mut claims);
        let mut text = harm.table();
        if only.is_empty() {
            claims.part("clients that leave");
            let lasts = Duration::from_secs(leaving);
            text.push_str(&leaving::run(&program, &scratch, lasts, &mut claims).await?);
        }
        Ok(claims.report(text))
    }
}

/// All attacks, one after the other, beside good traffic that never stops.
async fn suffer(
    program: &Path,
    scratch: &Scratch,
    attacks: &[Attack],
    streams: u64,
    a_second: u64,
) -> Result<Harm> {
    let good = Provider::start("good").await?;
    let hostile = Hostile::start()?;
    let rate = Rate {
        a_second,
        connections: 64,
        keys: a_second * ROUND.as_secs() * (attacks.len() as u64 + 1),
    };
    let upstreams = [
        Upstream {
            name: "good",
            address: good.address,
            model: MODEL,
            settings: "",
        },
        Upstream {
            name: "bad",
            address: hostile.address,
            model: victim::MODEL,
            settings: HOSTILE,
        },
    ];
    // Of each attack, and of a good answer after it.
    let each = streams * (u64::from(WAVES) + 1);
    let met = attacks.len() as u64 * each;
    let terms = Terms {
        upstreams: &upstreams,
        keys: rate.keys,
        others: met,
        settings: SETTINGS,
    };
    let mut node = terms.node(program, scratch).await?;
    let traffic = Traffic::start(node.front, rate);
    let (begin, mut memory) = (Instant::now(), 0);
    watch(&node, ALONE, &mut memory).await;
    let mut rounds = vec![Round::alone(begin, memory)];
    let mut first = rate.keys;
    for attack in attacks {
        rounds.push(round(&node, *attack, first, streams).await?);
        first += each;
        node.check()
            .map_err(|error| format!("{}: {error}", attack.name()))?;
    }
    let seen = traffic.finish().await?;
    let books = Books::ask(&mut node).await?;
    Ok(Harm {
        rounds,
        seen,
        told: good.book.told(),
        books,
        followed: hostile.followed.load(std::sync::atomic::Ordering::Relaxed),
        unread: hostile.unread.load(std::sync::atomic::Ordering::Relaxed),
    })
}

/// One attack on many requests at once, again and again for some time; then as many good answers of the same provider,
/// over the same connections.
async fn round(node: &Node, attack: Attack, first: u64, streams: u64) -> Result<Round> {
    let idle = node.memory().unwrap_or(0);
    let (mut memory, mut met, mut next) = (idle, Vec::new(), first);
    let from = Instant::now();
    for wave in 1..=WAVES {
        let meeting = meet(node.front, attack, next..next + streams)?;
        next += streams;
        tokio::pin!(meeting);
        met.extend(loop {
            tokio::select! {
                met = &mut meeting => break met?,
                () = watch(node, WAVE, &mut memory) => {}
            }
        });
        if from.elapsed() >= WAVE * WAVES {
            break;
        }
        let left = (WAVE * wave).saturating_sub(from.elapsed());
        watch(node, left, &mut memory).await;
    }
    let until = Instant::now();
    watch(node, BETWEEN, &mut memory).await;
    let after = meet(node.front, Attack::Behave, next..next + streams)?.await?;
    Ok(Round {
        attack: Some(attack),
        from,
        until,
        streams,
        idle,
        memory,
        met,
        after,
    })
}

/// On a thread of its own, so that good traffic is measured undisturbed.
fn meet(
    front: std::net::SocketAddr,
    attack: Attack,
    numbers: std::ops::Range<u64>,
) -> Result<oneshot::Receiver<Vec<Met>>> {
    let (tell, told) = oneshot::channel();
    let runtime = crate::runtime()?;
    std::thread::Builder::new()
        .name("victims".to_owned())
        .spawn(move || {
            let met = runtime.block_on(async {
                let mut meetings = JoinSet::new();
                for number in numbers {
                    meetings.spawn(victim::meet(front, attack, number));
                }
                meetings.join_all().await
            });
            // Who does not wait any more has given up.
            let _ = tell.send(met);
        })?;
    Ok(told)
}
