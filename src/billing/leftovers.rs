//! What dead processes have left in their journals, on its way to Redis.

use super::journal::Left;
use super::nodes::{COMPARE, Nodes, PAUSE, REMEMBERED, SOME, Waiting, readable};
use super::redis::{Applied, batches};
use crate::billing::Charge;
use crate::store::link::Away;
use ahash::AHashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::yield_now;
use tokio::time::sleep;

impl Nodes {
    /// Sends what dead processes have left, and sends it again when a failover may have lost it.
    pub(super) async fn recover(self: Arc<Self>, left: Vec<Left>) {
        let mut left: Vec<(Left, Option<Instant>)> =
            left.into_iter().map(|one| (one, None)).collect();
        let (mut connection, mut replayed) = (0, Instant::now());
        while !left.is_empty() {
            sleep(PAUSE).await;
            let now = self.shared.link.connections();
            let again = now != connection || replayed.elapsed() >= COMPARE;
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
