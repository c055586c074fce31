//! Charges on their way to Redis, off the path of any request: sent until they are acknowledged, sent again
//! after an outage, and read from the journal again when a failover has lost what was acknowledged.

use super::Charge;
use super::journal::{Journal, Left, Sink};
use super::lines::{Line, Lines};
use super::recent::Recent;
use super::redis::{Applied, Shared};
use super::seeds::Seeds;
use crate::record::billing::BillingMetrics;
use crate::store::link::Away;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// So long a charge waits for the next admission of its account, to go along with it.
const MOMENT: Duration = Duration::from_millis(2);

/// So many moments an operator waits for charges on their way.
const PATIENCE: u32 = 50;

/// What Redis did not take is sent again after this time.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// The longest time until it is tried again; what fails for an account alone needs a human.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Charges that are read from the journal at a time, for one account.
const READ: usize = 4096;

/// Requests in flight are renewed so often, four times in the life of a hold.
const EXTEND: Duration = Duration::from_secs(30);

/// Marks are compared so often, and after every outage: in a cluster a failover shows in no other way.
pub(super) const COMPARE: Duration = Duration::from_secs(10);

/// A failover is noticed within this time, or nobody can tell any more what it lost: as long as the
/// journal keeps what was applied.
pub(super) const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// Holds that one call renews or gives back.
pub(super) const SOME: usize = 256;

/// Charges with their numbers, in order.
pub(super) type Waiting = Vec<(u64, Arc<Charge>)>;

/// Whether a journal could be read to its end. What it could not give must not be taken for nothing.
pub(super) fn readable(error: Option<&str>) -> bool {
    if let Some(error) = error {
        log::error!("the journal cannot be read, and is tried again: {error}");
    }
    error.is_none()
}

/// This node's part in balances that many share.
pub(super) struct Nodes {
    pub(super) shared: Shared,
    pub(super) lines: Lines,
    pub(super) recent: Recent,
    due: Mutex<BTreeMap<Arc<str>, Arc<Line>>>,
    wake: Notify,
    seeds: Arc<Seeds>,
    pub(super) metrics: Arc<BillingMetrics>,
}

impl Sink for Nodes {
    fn take(&self, seq: u64, charge: Arc<Charge>) {
        let line = self.lines.of(&charge.held.account);
        line.push(seq, charge);
        self.put(line);
    }
}

impl Nodes {
    pub(super) fn new(shared: Shared, seeds: Arc<Seeds>, metrics: Arc<BillingMetrics>) -> Nodes {
        Nodes {
            shared,
            lines: Lines::default(),
            recent: Recent::default(),
            due: Mutex::default(),
            wake: Notify::new(),
            seeds,
            metrics,
        }
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Line>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has to look after this account, if nobody does.
    pub(super) fn put(&self, line: Arc<Line>) {
        if line.serve() {
            self.due().insert(line.account.clone(), line);
            self.wake.notify_one();
        }
    }

    /// Does what is not on any request's path, until told to stop; then sends what is left, if Redis takes it.
    pub(super) async fn run(
        self: Arc<Self>,
        journal: Arc<Journal>,
        left: Vec<Left>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().keep(journal.clone(), stopped.clone()));
        tasks.spawn(self.clone().recover(journal.clone(), left));
        let mut sending = JoinSet::new();
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                Some(_) = sending.join_next() => continue,
                _ = stopped.changed() => break,
            }
            sleep(MOMENT).await;
            let due = std::mem::take(&mut *self.due());
            for line in due.into_values() {
                sending.spawn(self.clone().serve(line, journal.clone()));
            }
        }
        sending.abort_all();
        while sending.join_next().await.is_some() {}
        tasks.abort_all();
        for line in self.lines.all() {
            line.unanswered();
            if self.send(&line).await.is_err() {
                break;
            }
        }
        let waiting = self.waiting();
        if waiting > 0 {
            log::warn!(
                "store: {waiting} charges are not in Redis yet; they are in the journal, and the next start on this store.path sends them"
            );
        }
        self.note_applied(&journal);
    }

    /// Waits until Redis has what this node was told of an account: who asks after an answer finds its charge. Not
    /// for ever: it may have too much, or be away.
    pub(super) async fn caught_up(&self, account: &str) {
        let line = self.lines.of(&account.into());
        let mut patience = PATIENCE;
        while line.count() > 0 && self.shared.link.up() && patience > 0 {
            patience -= 1;
            sleep(MOMENT).await;
        }
    }

    /// Charges that Redis has not acknowledged.
    fn waiting(&self) -> usize {
        self.lines.all().iter().map(|line| line.count()).sum()
    }

    /// Sends what an account has until Redis has it all.
    async fn serve(self: Arc<Self>, line: Arc<Line>, journal: Arc<Journal>) {
        let mut pause = PAUSE;
        while !line.served() {
            if !self.shared.link.up() {
                sleep(PAUSE).await;
                continue;
            }
            let sent = match line.is_due() || line.lost().is_none() {
                true => self.send(&line).await,
                false => self.rewind(&line, &journal).await,
            };
            if sent.is_ok() {
                pause = PAUSE;
            } else {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    async fn send(&self, line: &Line) -> Result<(), Away> {
        let unknown = line.take_unknown();
        for some in unknown.chunks(SOME) {
            if let Err(away) = self.shared.forget(&line.account, some).await {
                some.iter().for_each(|hold| line.unknown(*hold));
                return Err(away);
            }
        }
        while line.is_due() {
            let batch = line.take();
            let epoch = self.shared.epoch();
            match self.shared.charge(&line.account, epoch, &batch).await {
                Ok(Applied::Mark(mark, gap)) => line.answered(mark, gap),
                Ok(Applied::Unknown) => {
                    line.unanswered();
                    self.open(&line.account).await?;
                }
                Err(away) => {
                    line.unanswered();
                    return Err(away);
                }
            }
        }
        Ok(())
    }

    /// Makes an account that the configuration or the registry knows, with its first balance.
    pub(super) async fn open(&self, account: &Arc<str>) -> Result<(), Away> {
        let posted = self.seeds.first(account);
        let made = self.shared.post(account, &posted, None).await;
        made.map(drop).map_err(|_| Away::Failed)
    }

    /// Reads again from the journal what Redis had and has lost.
    async fn rewind(&self, line: &Arc<Line>, journal: &Arc<Journal>) -> Result<(), Away> {
        let Some(upto) = line.lost() else {
            return Ok(());
        };
        let known = line.acknowledged();
        let mark = self.shared.mark(&line.account, journal.epoch()).await?;
        let (account, journal) = (line.account.clone(), journal.clone());
        let read = spawn_blocking(move || {
            let mut charges = journal.charges(mark);
            let found = charges
                .by_ref()
                .take_while(|(seq, _)| *seq <= upto)
                .filter(|(_, charge)| charge.held.account == account)
                .map(|(seq, charge)| (seq, Arc::new(charge)))
                .take(READ + 1)
                .collect::<Waiting>();
            readable(charges.error()).then_some(found)
        });
        let mut charges = read.await.ok().flatten().ok_or(Away::Failed)?;
        let lost = charges.iter().filter(|(seq, _)| *seq <= known).count();
        if lost > 0 {
            log::warn!(
                "store: Redis has lost {lost} charges of account {}; they are sent again from the journal",
                line.account
            );
            self.metrics.replayed.inc_by(lost as u64);
        }
        let whole = (charges.len() <= READ).then_some(upto);
        charges.truncate(READ);
        line.rewind(mark, charges, whole);
        Ok(())
    }

    /// Everything that comes with time.
    async fn keep(self: Arc<Self>, journal: Arc<Journal>, mut stopped: watch::Receiver<bool>) {
        let (mut connection, mut compared, mut extended) = (0, Instant::now(), Instant::now());
        let mut ticks = interval(Duration::from_millis(250));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.changed() => return,
            }
            self.metrics.unsettled.set(self.waiting() as i64);
            self.note_applied(&journal);
            if !self.shared.link.up() {
                continue;
            }
            let now = self.shared.link.connections();
            let again = now != connection;
            if again || compared.elapsed() >= COMPARE {
                let within = if again { REMEMBERED } else { 6 * COMPARE };
                // Those that could not be compared after an outage are compared the next time.
                if self.compare(&journal, within).await {
                    connection = now;
                }
                compared = Instant::now();
            }
            if extended.elapsed() >= EXTEND {
                self.extend().await;
                extended = Instant::now();
            }
        }
    }

    /// Tells the journal what is in Redis for good.
    fn note_applied(&self, journal: &Journal) {
        // Read first: what is put in later only has higher numbers.
        let last = journal.last();
        let lines = self.lines.all();
        let first = lines.iter().filter_map(|line| line.first_waiting()).min();
        journal.applied(first.map_or(last, |first| last.min(first.saturating_sub(1))));
    }

    /// Asks what Redis has of accounts that were in use, and sends again what it lost; true if it said so of all.
    async fn compare(&self, journal: &Journal, within: Duration) -> bool {
        let mut all = true;
        for line in self.lines.all() {
            if !line.is_active(within) {
                continue;
            }
            let known = line.acknowledged();
            match self.shared.mark(&line.account, journal.epoch()).await {
                Ok(mark) => line.marked(mark, known),
                Err(_) => all = false,
            }
            if line.lost().is_some() {
                self.put(line);
            }
        }
        all
    }

    async fn extend(&self) {
        for line in self.lines.all() {
            for some in line.live().chunks(SOME) {
                // One that fails is early enough in the next round.
                let _ = self.shared.extend(&line.account, some).await;
            }
        }
    }
}
