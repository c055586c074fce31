//! The balances of one node: the truth is in memory, holds included, and a thread makes it durable in
//! commits of many charges. What a kill loses of memory, the journal has.

mod applier;
mod posting;

use super::wallet::Wallet;
use super::{Charge, Drift, Once, PostError, Posted, PostedOutcome, Statement, UsageRow};
use crate::billing::money::Money;
use crate::billing::period::Calendar;
use crate::store::db::{Db, DbError};
use ahash::AHashMap;
use applier::{Applier, BATCH, Job};
use posting::Unsure;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::sleep;
use std::time::Duration;

/// How often a sum that seems wrong under traffic is looked at again.
const LOOKS: usize = 5;

/// What dead processes have left is tried again after that.
const RETRY: Duration = Duration::from_secs(1);

type Applied = Box<dyn Fn(u64) + Send + Sync>;

/// What the applier's thread shares with everyone else.
struct Books {
    db: Arc<Db>,
    /// Where days begin.
    calendar: Calendar,
    wallets: RwLock<AHashMap<Arc<str>, Arc<Mutex<Wallet>>>>,
    /// Operators' entries are made one after the other. What is in here is an entry of which the disk
    /// did not say whether it was made.
    posting: Mutex<Option<Unsure>>,
    applied: OnceLock<Applied>,
}

/// The wallets of one node.
pub struct Embedded {
    books: Arc<Books>,
    applier: Applier,
}

impl Embedded {
    /// Loads all wallets and starts the thread that writes.
    ///
    /// # Errors
    /// One line: what cannot be read, or that there is no thread to be had.
    pub fn open(db: Arc<Db>, calendar: Calendar) -> Result<Arc<Embedded>, String> {
        let stored = db.wallets().map_err(|error| error.to_string())?;
        let wallets = stored
            .into_iter()
            .map(|(account, wallet)| (account, Arc::new(Mutex::new(wallet))));
        let books = Arc::new(Books {
            db,
            calendar,
            wallets: RwLock::new(wallets.collect()),
            posting: Mutex::new(None),
            applied: OnceLock::new(),
        });
        let applier = Applier::start(books.clone())?;
        Ok(Arc::new(Embedded { books, applier }))
    }

    /// Says who is told, from the thread that writes, up to which sequence number charges are durable.
    /// To be said once, before the first [`Embedded::take`].
    pub fn tell(&self, applied: impl Fn(u64) + Send + Sync + 'static) {
        if self.books.applied.set(Box::new(applied)).is_err() {
            log::error!("somebody else is told already what was applied");
        }
    }

    /// An account's wallet.
    pub fn wallet(&self, account: &str) -> Option<Arc<Mutex<Wallet>>> {
        self.books.wallet(account)
    }

    /// Queues a charge that the wallet in memory has seen already. Never waits; to be called in the
    /// order of the sequence numbers, which begin with 1 in each epoch.
    pub fn take(&self, epoch: u64, seq: u64, charge: Arc<Charge>) {
        self.applier.send(Job::Charge(epoch, seq, charge));
    }

    /// Waits until all that was queued so far is on the disk: whether it is. If not, it is still
    /// queued, and tried again.
    pub fn flush(&self) -> bool {
        self.applier.flush()
    }

    /// Writes what is queued, in one attempt, and ends the thread. The journal has what was not
    /// written.
    pub fn stop(&self) {
        self.applier.stop();
    }

    /// Applies an epoch of an earlier process: what is beyond its mark, to the disk and to memory. For
    /// the start, before anything is served. Gives how many charges that were.
    ///
    /// # Errors
    /// [`DbError`]: the disk may be ahead of memory by a batch; open it all anew.
    pub fn replay(
        &self,
        epoch: u64,
        charges: impl Iterator<Item = (u64, Charge)>,
    ) -> Result<u64, DbError> {
        self.replay_by(epoch, charges, |_| false)
    }

    /// The same while requests are served: a disk that fails is tried again until the store is stopped.
    ///
    /// # Errors
    /// [`DbError`]: it was stopped, or the mark could not be read.
    pub fn adopt(
        &self,
        epoch: u64,
        charges: impl Iterator<Item = (u64, Charge)>,
    ) -> Result<u64, DbError> {
        self.replay_by(epoch, charges, |error| {
            log::error!("charges of a process that has ended cannot be written yet: {error}");
            sleep(RETRY);
            !self.applier.ended() && !self.books.db.is_given()
        })
    }

    /// Whether the store is a successor's now, for good.
    pub fn is_given(&self) -> bool {
        self.books.db.is_given()
    }

    fn replay_by(
        &self,
        epoch: u64,
        charges: impl Iterator<Item = (u64, Charge)>,
        again: impl Fn(&DbError) -> bool,
    ) -> Result<u64, DbError> {
        let mut last = self.books.db.mark(epoch)?;
        let mut applied = 0;
        let mut batch: Vec<(u64, Arc<Charge>)> = Vec::new();
        let mut charges = charges.fuse();
        loop {
            let next = charges.next();
            let ended = next.is_none();
            if let Some((seq, charge)) = next.filter(|(seq, _)| *seq > last) {
                last = seq;
                batch.push((seq, Arc::new(charge)));
            }
            if batch.len() == BATCH || (ended && !batch.is_empty()) {
                // Who compares memory with the disk does it before or after, and nobody makes an entry meanwhile.
                let posting = &self.books.posting;
                let _compared = posting.lock().unwrap_or_else(PoisonError::into_inner);
                // The mark keeps what was written in an attempt that seemed to fail from being written twice.
                while let Err(error) = self.books.db.apply(epoch, &batch, self.books.calendar) {
                    if !again(&error) {
                        return Err(error);
                    }
                }
                applied += batch.len() as u64;
                for (_, charge) in batch.drain(..) {
                    let wallet = self.books.wallet_or_new(&charge.held.account);
                    locked(&wallet).charge(&charge, self.books.calendar);
                }
            }
            if ended {
                return Ok(applied);
            }
        }
    }

    /// Writes what is queued and closes the store, for a successor to open it. What requests cost from now on
    /// waits in memory, and in the journal. Waits for the disk.
    pub fn lend(&self) {
        self.flush();
        self.books.db.lend();
    }

    /// The successor has failed: what waited is written.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn take_back(&self) -> Result<(), DbError> {
        self.books.db.take_back()?;
        // It may have opened accounts of its own configuration.
        for (account, stored) in self.books.db.wallets()? {
            let wallets = &self.books.wallets;
            let mut wallets = wallets.write().unwrap_or_else(PoisonError::into_inner);
            let wallet = || Arc::new(Mutex::new(stored));
            wallets.entry(account).or_insert_with(wallet);
        }
        Ok(())
    }

    /// Opens an account with its first balance, unless it is open: whether it was opened now. `at` is
    /// in milliseconds since 1970.
    ///
    /// # Errors
    /// The store's, in one line.
    pub async fn open_account(&self, account: &str, seed: Money, at: u64) -> Result<bool, String> {
        let account: Arc<str> = Arc::from(account);
        self.aside(move |books| books.open_account(&account, seed, at))
            .await
    }

    /// Makes an operator's entry. A refund takes nothing that is held for requests.
    ///
    /// # Errors
    /// [`PostError`].
    pub async fn post(
        &self,
        account: &str,
        posted: Posted,
        once: Option<Once>,
    ) -> Result<PostedOutcome, PostError> {
        let account: Arc<str> = Arc::from(account);
        let done = self
            .aside(move |books| books.post(&account, &posted, once.as_ref()))
            .await;
        done.unwrap_or_else(|error| {
            log::error!("an entry may have been made or not: {error}");
            Err(PostError::Away)
        })
    }

    /// How an account stands.
    pub fn statement(&self, account: &str) -> Option<Statement> {
        let wallet = self.wallet(account)?;
        let statement = locked(&wallet).statement();
        Some(statement)
    }

    /// What operators did to an account, in its order.
    ///
    /// # Errors
    /// The store's, in one line.
    pub async fn entries(&self, account: &str) -> Result<Vec<Posted>, String> {
        let account: Arc<str> = Arc::from(account);
        self.aside(move |books| books.db.entries(&account)).await
    }

    /// What was used from the first of these days to the last, both included, by one account or by
    /// all; all that is settled by now is in it.
    ///
    /// # Errors
    /// The store's, in one line.
    pub async fn usage(
        &self,
        account: Option<&str>,
        since_day: i32,
        until_day: i32,
    ) -> Result<Vec<(Arc<str>, UsageRow)>, String> {
        let account: Option<Arc<str>> = account.map(Arc::from);
        let applier = self.applier.clone();
        self.aside(move |books| {
            applier.flush();
            books.db.usage(account.as_deref(), since_day, until_day)
        })
        .await
    }

    /// The same of one account as far as it is on the disk: what is newer than a moment may not be in it. For
    /// clients, who may ask often.
    ///
    /// # Errors
    /// The store's, in one line.
    pub async fn usage_so_far(
        &self,
        account: &str,
        since_day: i32,
        until_day: i32,
    ) -> Result<Vec<UsageRow>, String> {
        let account: Arc<str> = account.into();
        let rows = self.aside(move |books| books.db.usage(Some(&account), since_day, until_day));
        Ok(rows.await?.into_iter().map(|(_, row)| row).collect())
    }

    /// Every sum that is not what it should be: on the disk, and in memory beside the disk.
    ///
    /// # Errors
    /// The store's, in one line.
    pub async fn verify(&self) -> Result<Vec<Drift>, String> {
        let applier = self.applier.clone();
        self.aside(move |books| {
            applier.flush();
            let mut drifts = books.db.verify()?;
            drifts.extend(books.beside_memory(&applier)?);
            Ok(drifts)
        })
        .await
    }

    /// Waits for the disk where that is allowed. What was begun is finished, even if nobody waits
    /// for it any more: memory must follow the disk.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Books) -> Result<T, DbError> + Send + 'static,
    ) -> Result<T, String> {
        let books = self.books.clone();
        match tokio::task::spawn_blocking(move || work(&books)).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(format!("embedded store: {error}")),
        }
    }
}

impl Books {
    fn wallet(&self, account: &str) -> Option<Arc<Mutex<Wallet>>> {
        let wallets = self.wallets.read().unwrap_or_else(PoisonError::into_inner);
        wallets.get(account).cloned()
    }

    fn wallet_or_new(&self, account: &Arc<str>) -> Arc<Mutex<Wallet>> {
        if let Some(wallet) = self.wallet(account) {
            return wallet;
        }
        let mut wallets = self.wallets.write().unwrap_or_else(PoisonError::into_inner);
        wallets.entry(account.clone()).or_default().clone()
    }

    /// Wallets in memory that are not as on the disk. Requests go on meanwhile, so that the disk can
    /// only be asked to lie between memory before and memory after; where nothing is in flight, that
    /// is exact.
    fn beside_memory(&self, applier: &Applier) -> Result<Vec<Drift>, DbError> {
        // Nobody makes an entry meanwhile.
        let mut posting = self.posting.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut posting)?;
        let mut drifts = Vec::new();
        for _ in 0..LOOKS {
            let before = self.sums();
            applier.flush();
            let stored: AHashMap<Arc<str>, Wallet> = self.db.wallets()?.into_iter().collect();
            let after = self.sums();
            drifts.clear();
            for (account, (most, least_tokens)) in before {
                let (least, most_tokens) = after.get(&account).copied().unwrap_or_default();
                let stored = stored.get(&account).cloned().unwrap_or_default();
                let balance = stored.balance().micros();
                let mut within = |what: &str, memory: i64, disk: i64, range: (i64, i64)| {
                    if disk < range.0 || disk > range.1 {
                        drifts.push(Drift {
                            account: account.clone(),
                            what: what.to_owned(),
                            stored: memory,
                            expected: disk,
                        });
                    }
                };
                within("memory balance", least, balance, (least, most));
                let tokens = i64::try_from(stored.package_tokens()).unwrap_or(i64::MAX);
                let range = (least_tokens, most_tokens);
                within("memory packages", most_tokens, tokens, range);
            }
            if drifts.is_empty() {
                break;
            }
        }
        Ok(drifts)
    }

    /// Balance and tokens that packages lost, by account.
    fn sums(&self) -> AHashMap<Arc<str>, (i64, i64)> {
        let wallets = self.wallets.read().unwrap_or_else(PoisonError::into_inner);
        let sums = wallets.iter().map(|(account, wallet)| {
            let wallet = locked(wallet);
            let tokens = i64::try_from(wallet.package_tokens()).unwrap_or(i64::MAX);
            let balance = wallet.balance().micros();
            (account.clone(), (balance, tokens))
        });
        sums.collect()
    }
}

/// A panic elsewhere leaves no sum half changed: each is changed by one assignment.
fn locked(wallet: &Mutex<Wallet>) -> MutexGuard<'_, Wallet> {
    wallet.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
