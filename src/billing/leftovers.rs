//! What dead processes have left in their journals, on its way to where balances are. Looked for at the start, and
//! every now and then: after an upgrade the process before ends when its last stream has ended.

use super::embedded::Embedded;
use super::journal::{Journal, Left};
use super::nodes::{COMPARE, Nodes, PAUSE, REMEMBERED, SOME, Waiting, readable};
use super::redis::{Applied, batches};
use crate::billing::Charge;
use crate::record::billing::BillingMetrics;
use crate::store::link::Away;
use ahash::AHashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{interval_at, sleep};

/// How often journals are looked for whose processes have died.
const ADOPT: Duration = Duration::from_secs(2);

/// Looks for journals that nobody has any more.
struct Finder {
    journal: Arc<Journal>,
    /// The same trouble is told of once.
    told: Option<String>,
}

impl Finder {
    fn new(journal: Arc<Journal>) -> Finder {
        Finder {
            journal,
            told: None,
        }
    }

    /// What was found. It waits for the disk.
    fn look(&mut self) -> Vec<Left> {
        let (found, failed) = self.journal.adopt();
        if let Some(error) = failed.as_ref().filter(|_| failed != self.told) {
            log::error!("what a process has left cannot be charged yet: {error}");
        }
        self.told = failed;
        for one in &found {
            log::info!(
                "journal {:016x} of a process that has ended is found and will be charged; {} of its requests had no end",
                one.epoch(),
                one.opened()
            );
        }
        found
    }
}

/// Charges what processes have left that have died since the start, and `left` before.
pub(super) async fn adopt(
    embedded: Arc<Embedded>,
    journal: Arc<Journal>,
    mut left: Vec<Left>,
    metrics: Arc<BillingMetrics>,
) {
    let mut finder = Finder::new(journal);
    let mut ticks = interval_at((Instant::now() + ADOPT).into(), ADOPT);
    loop {
        ticks.tick().await;
        if embedded.is_given() {
            // A successor charges them, as soon as nobody holds them any more.
            return;
        }
        let (embedded, metrics) = (embedded.clone(), metrics.clone());
        let work = move || {
            left.extend(finder.look());
            left.retain(|one| !charged(&embedded, one, &metrics));
            (finder, left)
        };
        match spawn_blocking(work).await {
            Ok(back) => (finder, left) = back,
            Err(error) => {
                log::error!("what dead processes have left waits for the next start: {error}");
                return;
            }
        }
    }
}

/// Whether all of it is in the store.
fn charged(embedded: &Embedded, left: &Left, metrics: &BillingMetrics) -> bool {
    let mut charges = left.charges(0);
    let Ok(replayed) = embedded.adopt(left.epoch(), charges.by_ref()) else {
        return false;
    };
    metrics.replayed.inc_by(replayed);
    let whole = readable(charges.error());
    if whole {
        left.applied();
    }
    whole
}

impl Nodes {
    /// Sends what dead processes have left, and sends it again when a failover may have lost it.
    pub(super) async fn recover(self: Arc<Self>, journal: Arc<Journal>, left: Vec<Left>) {
        let mut left: Vec<(Left, Option<Instant>)> =
            left.into_iter().map(|one| (one, None)).collect();
        let mut finder = Finder::new(journal);
        let (mut connection, mut replayed, mut looked) = (0, Instant::now(), Instant::now());
        loop {
            sleep(PAUSE).await;
            let mut fresh = false;
            if looked.elapsed() >= ADOPT {
                let look = move || {
                    let found = finder.look();
                    (finder, found)
                };
                let Ok((back, found)) = spawn_blocking(look).await else {
                    return;
                };
                fresh = !found.is_empty();
                left.extend(found.into_iter().map(|one| (one, None)));
                (finder, looked) = (back, Instant::now());
            }
            if left.is_empty() {
                continue;
            }
            let now = self.shared.link.connections();
            let again = fresh || now != connection || replayed.elapsed() >= COMPARE;
            if !self.shared.link.up() || !again {
                continue;
            }
            let mut all = true;
            for (one, since) in &mut left {
                match self.replay(one).await {
                    true => since.get_or_insert_with(Instant::now),
                    false => {
                        all = false;
                        continue;
                    }
                };
            }
            if all {
                (connection, replayed) = (now, Instant::now());
            }
            left.retain(|(one, since)| {
                let done = since.is_some_and(|since| since.elapsed() >= REMEMBERED);
                if done {
                    one.applied();
                }
                !done
            });
        }
    }

    /// Sends what a dead process has left in its journal; true if Redis has all of it.
    async fn replay(&self, left: &Left) -> bool {
        // The journal is read once, in order, and accounts wait for each other.
        let mut waiting: AHashMap<Arc<str>, (u64, Waiting)> = AHashMap::new();
        let mut read = left.charges(0);
        for (nth, (seq, charge)) in read.by_ref().enumerate() {
            if nth % SOME == 0 {
                // Files are read here: others want to run as well.
                yield_now().await;
            }
            let account = charge.held.account.clone();
            if !waiting.contains_key(&account) {
                match self.shared.mark(&account, left.epoch()).await {
                    Ok(mark) => waiting.insert(account.clone(), (mark, Vec::new())),
                    Err(_) => return false,
                };
            }
            let Some((mark, charges)) = waiting.get_mut(&account) else {
                return false;
            };
            if seq > *mark {
                charges.push((seq, Arc::new(charge)));
            }
            if charges.len() >= SOME {
                let some = std::mem::take(charges);
                match self.send_left(&account, left.epoch(), *mark, &some).await {
                    Ok(reached) => *mark = reached,
                    Err(_) => return false,
                }
            }
        }
        if !readable(read.error()) {
            return false;
        }
        for (account, (mark, charges)) in waiting {
            let sent = self.send_left(&account, left.epoch(), mark, &charges);
            if sent.await.is_err() {
                return false;
            }
        }
        true
    }

    async fn send_left(
        &self,
        account: &Arc<str>,
        epoch: u64,
        mark: u64,
        charges: &[(u64, Arc<Charge>)],
    ) -> Result<u64, Away> {
        let mut reached = mark;
        for batch in batches(mark, charges) {
            let mut said = self.shared.charge(account, epoch, &batch).await?;
            if matches!(said, Applied::Unknown) {
                self.open(account).await?;
                said = self.shared.charge(account, epoch, &batch).await?;
            }
            match said {
                Applied::Mark(mark, false) => reached = mark,
                _ => return Err(Away::Failed),
            }
            self.metrics.replayed.inc_by(batch.charges.len() as u64);
        }
        Ok(reached)
    }
}
