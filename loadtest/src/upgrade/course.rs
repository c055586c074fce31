//! What is done to one gateway: traffic begins, it is replaced so many times, then upgrades fail, then it is replaced
//! once more; traffic ends, and its books are read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::call::upgrade;
use super::failing::{Failed, fail};
use super::succession::Succession;
use crate::Result;
use crate::ledger::admin::{Account, Row};
use crate::ledger::provider::{Provider, Told};
use crate::ledger::sight;
use crate::process::{Scratch, signal};
use crate::report::Samples;
use crate::steady::Steady;
use crate::steady::balance::Balance;
use crate::steady::gateway::{ACCOUNT, Gateway, Places, Terms, panics, released, secret};
use crate::steady::pool::Fared;
use crate::steady::regulars::{Habit, Regular, Regulars};
use crate::steady::tally::Tally;
use crate::steady::watch::Memory;

/// How long one upgrade may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// From traffic's begin to the first upgrade, and from the last failed one to the traffic's end.
const REST: Duration = Duration::from_secs(3);

/// The longest stream in tenths of a second, and the shortest.
const EVENTS: (u64, u64) = (20, 80);

/// An old process has ended after this time: its longest stream, whose head told nobody yet that the connection would be
/// closed; one more on the same connection, which tells; and some seconds.
pub const LEAVE: Duration = Duration::from_secs(22);

/// How long it may take until all is charged, and until the last process has ended.
const SETTLE: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(45);

/// Who runs is looked at so often.
const LOOK: Duration = Duration::from_millis(50);

/// Keys, and the numbers of their first requests.
const STEADY: (&str, u64) = ("steady", 0);
const STREAMS: (&str, u64) = ("streams", 5_000_000);
const SPARSE: (&str, u64) = ("sparse", 8_000_000);

/// Clients that come by now and then.
const VISITORS: u64 = 20;
const VISIT: Duration = Duration::from_secs(3);

/// The upgrades of one gateway.
pub struct Course<'a> {
    /// The gateway's program.
    pub program: &'a Path,
    /// Where everything lies.
    pub scratch: &'a Scratch,
    /// Where its balances are, if not in its own store.
    pub redis: Option<SocketAddr>,
    /// How many.
    pub times: u32,
    /// How far apart.
    pub every: Duration,
    /// Requests a second.
    pub rate: u32,
    /// Streams at a time.
    pub streams: u64,
}

/// What was seen.
pub struct Seen {
    /// Good traffic: before and while it was replaced, and while upgrades failed.
    pub steady: Vec<Tally>,
    /// Streams.
    pub streams: Regular,
    /// Clients that come by now and then.
    pub sparse: Regular,
    /// All connections.
    pub fared: Fared,
    /// Milliseconds that an upgrade took.
    pub took_ms: Samples,
    /// Upgrades that were tried.
    pub tried: u64,
    /// Those of them that did not succeed.
    pub failed: Vec<String>,
    /// Upgrades after which the pid file did not name the successor.
    pub misnamed: Vec<String>,
    /// From a successor's service to the old one's end.
    pub leaving: Vec<Option<Duration>>,
    /// The most processes at a time, and how many there may be.
    pub most: (usize, usize),
    /// Upgrades that had to fail.
    pub failing: Vec<Failed>,
    /// The ledger beside the provider's count.
    pub balance: Balance,
    /// How the account stands in the end.
    pub account: Account,
    /// The most memory of all processes together, KiB.
    pub peak: u64,
    /// Lines of the log that tell of a panic.
    pub panics: Vec<String>,
}

impl Course<'_> {
    /// Runs it.
    pub async fn run(&self) -> Result<Seen> {
        let provider = Provider::start().await?;
        let places = Places::new(self.scratch)?;
        let terms = Terms {
            keys: [STEADY, STREAMS, SPARSE]
                .map(|(key, _)| key.to_owned())
                .to_vec(),
            redis: self.redis,
            ..Terms::default()
        };
        places.configure(&places.yaml(provider.address, &terms))?;
        // A copy, in whose place another can be put.
        let program = self
            .scratch
            .path()
            .join(format!("gate-{}", places.front.port()));
        std::fs::copy(self.program, &program)?;
        let gateway = Gateway::start(&program, &[], self.scratch, places).await?;
        let mut succession = Succession::new(&gateway.places.file, gateway.process.id());
        let memory = Memory::watch(gateway.process.id());

        let front = gateway.places.front;
        let steady = Steady::start(front, &secret(STEADY.0), STEADY.1, self.rate)?;
        let streams = Regulars::start(
            front,
            Habit {
                key: STREAMS.0,
                first: STREAMS.1,
                clients: self.streams,
                pause: Duration::ZERO,
                events: Some(EVENTS),
            },
        );
        let sparse = Regulars::start(
            front,
            Habit {
                key: SPARSE.0,
                first: SPARSE.1,
                clients: VISITORS,
                pause: VISIT,
                events: None,
            },
        );
        sleep(REST).await;

        let mut replaced = Replaced::default();
        for _ in 0..self.times {
            self.replace(
                &program,
                &gateway.places,
                &mut succession,
                &memory,
                &mut replaced,
            )
            .await?;
        }
        let failing = if replaced.failed.is_empty() {
            steady.phase(1);
            let places = &gateway.places;
            let failing = fail(self.program, &program, places, &succession, self.scratch).await?;
            self.replace(&program, places, &mut succession, &memory, &mut replaced)
                .await?;
            failing
        } else {
            Vec::new()
        };
        sleep(REST).await;

        let mut fared = steady.pool().fared();
        let steady = steady.finish().await?;
        let (streams, sparse) = (streams.finish().await?, sparse.finish().await?);
        fared.add(streams.fared);
        fared.add(sparse.fared);
        let begin = Instant::now();
        while succession.count() > 1 && begin.elapsed() < END {
            succession.look();
            sleep(LOOK).await;
        }
        succession.look();
        let peak = memory.peak();
        sight::settled(&[gateway.places.metrics], SETTLE).await?;
        let account = released(gateway.places.admin).await?;
        let (rows, _) = gateway.places.admin.used(ACCOUNT).await?;
        let told = provider.book.told();
        let balance = balance(
            &told,
            &rows,
            &[
                (STEADY.0, STEADY.1..STREAMS.1),
                (STREAMS.0, STREAMS.1..SPARSE.1),
                (SPARSE.0, SPARSE.1..u64::MAX),
            ],
        );
        let seen = Seen {
            steady,
            streams,
            sparse,
            fared,
            took_ms: replaced.took_ms,
            tried: replaced.tried,
            failed: replaced.failed,
            misnamed: replaced.misnamed,
            leaving: succession.leaving(),
            most: (succession.most(), most(self.every)),
            failing,
            balance,
            account,
            peak,
            panics: panics(&gateway.process.words()?),
        };
        self.end(&mut succession).await?;
        Ok(seen)
    }

    /// One upgrade, and the time until the next.
    async fn replace(
        &self,
        program: &Path,
        places: &Places,
        succession: &mut Succession,
        memory: &Memory,
        replaced: &mut Replaced,
    ) -> Result<()> {
        let begin = Instant::now();
        replaced.tried += 1;
        let called = upgrade(program, &places.file, &[], self.scratch, PATIENCE).await?;
        if called.is_well() {
            let successor = succession.follow(&called.printed)?;
            memory.also(successor);
            replaced.took_ms.add(called.took.as_secs_f64() * 1000.0);
            let named = std::fs::read_to_string(places.store.join("tollgate.pid"));
            let named = named.map(|text| text.trim().to_owned());
            if named.as_ref().ok() != Some(&successor.to_string()) {
                let words = format!("{successor} serves, the pid file has {named:?}");
                replaced.misnamed.push(words);
            }
        } else {
            replaced.failed.push(called.words());
        }
        while begin.elapsed() < self.every {
            succession.look();
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends the last process, as operators do.
    async fn end(&self, succession: &mut Succession) -> Result<()> {
        signal(succession.now(), "TERM")?;
        let begin = Instant::now();
        while succession.count() > 0 {
            if begin.elapsed() > END {
                return Err(format!("the last process still runs {END:?} after SIGTERM").into());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// How many processes may run at a time: the one that serves, its successor, and those that are still leaving.
fn most(every: Duration) -> usize {
    let leaving = LEAVE.as_millis() / every.as_millis().max(1);
    2 + usize::try_from(leaving).unwrap_or(usize::MAX)
}

/// What came of upgrades.
#[derive(Default)]
struct Replaced {
    took_ms: Samples,
    tried: u64,
    failed: Vec<String>,
    misnamed: Vec<String>,
}

fn balance(
    told: &BTreeMap<u64, Told>,
    rows: &BTreeMap<String, Row>,
    keys: &[(&str, Range<u64>)],
) -> Balance {
    let one =
        |(key, numbers): &(&str, Range<u64>)| Balance::of(told, numbers.clone(), rows.get(*key));
    keys.iter().map(one).fold(Balance::default(), Balance::and)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_add_up_only_while_they_may_still_leave() {
        assert_eq!(most(Duration::from_secs(10)), 4);
        assert_eq!(most(Duration::from_secs(30)), 2);
    }
}
