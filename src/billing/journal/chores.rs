//! What is not on any request's path: syncs, a second try of what could not be written, old segments.

use super::folder::{Folder, Named};
use super::reader::{Frames, load};
use super::record::{self, Entry, Record, Unsealed};
use super::recovery::{Retired, remove};
use super::writer::{Haste, Writer};
use super::{KEPT, Sink};
use crate::billing::Charge;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// So long after a hold or a charge was written a sync begins, which takes what was written meanwhile too.
const SYNC: Duration = Duration::from_millis(10);
/// So much later it begins if there are only notes how far holds are: each comes a second after the one before, or 4 KiB,
/// and a sync costs as much as ten events of a stream.
const NOTES: Duration = Duration::from_millis(100);
/// How often what could not be written is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How often old segments are looked for.
const CHORES: Duration = Duration::from_secs(1);
/// Charges written again at a time, so that requests are not kept from the lock.
const BATCH: usize = 64;

/// What requests and the thread share.
pub struct Shared {
    pub epoch: u64,
    pub sink: OnceLock<Arc<dyn Sink>>,
    /// The number up to which every charge is in the store.
    pub applied: AtomicU64,
    /// What it was, and when.
    history: Mutex<VecDeque<(SystemTime, u64)>>,
    writer: Mutex<Writer>,
    wake: Condvar,
    pub retired: Arc<Retired>,
    /// One at a time deletes: the oldest segment goes first.
    deleting: Mutex<()>,
    /// Its lock goes with the last who has it.
    pub folder: Arc<Folder>,
}

impl Shared {
    pub fn new(epoch: u64, folder: Arc<Folder>, writer: Writer, retired: Arc<Retired>) -> Shared {
        Shared {
            epoch,
            sink: OnceLock::new(),
            applied: AtomicU64::new(0),
            history: Mutex::default(),
            writer: Mutex::new(writer),
            wake: Condvar::new(),
            retired,
            deleting: Mutex::new(()),
            folder,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread for the first record since its last sync, and for the first that is more than a note; for the
    /// others it is awake.
    pub fn written(&self, writer: &mut Writer) {
        if writer.dirty > writer.noticed {
            writer.noticed = writer.dirty;
            self.wake.notify_one();
        }
    }

    /// Writes a charge and hands it on, or keeps it behind those that wait already.
    pub fn settle(&self, charge: Arc<Charge>, bytes: &mut Vec<u8>) {
        let entry = Entry::Settle { charge: &charge };
        let Ok(mut frame) = Unsealed::new(self.epoch, &entry, bytes) else {
            // Its hold would not have been written either.
            log::error!(
                "a charge of account `{}` is too long for the journal: it is lost",
                charge.held.account
            );
            return;
        };
        let mut writer = self.lock();
        if !writer.pending.is_empty() {
            writer.pending.push_back(charge);
        } else if let Err(error) = self.write(&mut writer, &mut frame, &charge) {
            writer.failed(&error);
            writer.pending.push_back(charge);
        }
        self.written(&mut writer);
    }

    fn write(
        &self,
        writer: &mut Writer,
        frame: &mut Unsealed<'_>,
        charge: &Arc<Charge>,
    ) -> io::Result<()> {
        let seq = writer.settle(frame, charge.held.id)?;
        // Under the lock: the sink's order is the file's.
        if let Some(sink) = self.sink.get() {
            sink.take(seq, charge.clone());
        }
        Ok(())
    }

    /// Tells the thread to end.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_all();
    }

    /// The thread.
    pub fn run(&self) {
        let (mut retried, mut swept) = (Instant::now(), Instant::now());
        loop {
            let stopping = self.wait();
            if !stopping {
                // What is written meanwhile shares the sync.
                thread::sleep(SYNC);
            }
            self.sync();
            if stopping || retried.elapsed() >= RETRY {
                retried = Instant::now();
                self.retry();
            }
            if stopping {
                self.sync();
                return;
            }
            if swept.elapsed() >= CHORES {
                swept = Instant::now();
                self.sweep(SystemTime::now());
            }
        }
    }

    /// Until there is something to do; says whether to stop.
    fn wait(&self) -> bool {
        let mut writer = self.until(self.lock(), CHORES, Haste::Notes);
        if writer.dirty == Haste::Notes {
            writer = self.until(writer, NOTES, Haste::Records);
        }
        writer.stopping
    }

    /// Until so much was written, something fails, or that time is over.
    fn until<'a>(
        &self,
        writer: MutexGuard<'a, Writer>,
        patience: Duration,
        enough: Haste,
    ) -> MutexGuard<'a, Writer> {
        let idle =
            |writer: &mut Writer| writer.dirty < enough && !writer.failing && !writer.stopping;
        let waited = self.wake.wait_timeout_while(writer, patience, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Brings what was written to the disk, and says whether that worked.
    pub fn sync(&self) -> bool {
        let mut writer = self.lock();
        if writer.dirty == Haste::None {
            return true;
        }
        let unsynced = writer.unsynced();
        drop(writer);
        let synced = unsynced.sync();
        if let Err(error) = &synced {
            let mut writer = self.lock();
            writer.resync(unsynced);
            writer.failed(error);
        }
        synced.is_ok()
    }

    /// Writes what waits, in its order.
    pub fn retry(&self) {
        if !self.lock().failing || !self.sync() {
            return;
        }
        let mut bytes = Vec::new();
        loop {
            let mut writer = self.lock();
            for _ in 0..BATCH {
                let Some(charge) = writer.pending.front().cloned() else {
                    // Still full, perhaps: then it is tried again.
                    let _ = writer.probe();
                    return;
                };
                let entry = Entry::Settle { charge: &charge };
                // What waits was encoded before.
                if let Ok(mut frame) = Unsealed::new(self.epoch, &entry, &mut bytes)
                    && self.write(&mut writer, &mut frame, &charge).is_err()
                {
                    return;
                }
                writer.pending.pop_front();
            }
        }
    }

    /// Deletes segments that nobody needs any more.
    pub fn sweep(&self, now: SystemTime) {
        self.retired.sweep(now);
        let _one = self.deleting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = now.checked_sub(KEPT) else {
            return;
        };
        loop {
            let applied = self.applied_by(now, before);
            let writer = self.lock();
            let Some(oldest) = writer.done(applied, before) else {
                return;
            };
            let held = writer.holds(&oldest);
            drop(writer);
            let gone = match held {
                true => self.carry(&oldest),
                false => Ok(()),
            };
            // The next one waits for it: without this segment's, its records say something else.
            if let Err(error) = gone.and_then(|()| remove(&oldest.path)) {
                log::warn!("`{}` stays for now: {error}", oldest.path.display());
                return;
            }
            self.lock().gone(&oldest);
        }
    }

    /// What was applied at that time already: what a store lost since can still be read again.
    fn applied_by(&self, now: SystemTime, before: SystemTime) -> u64 {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = self.applied.load(Ordering::Acquire);
        if history.back().is_none_or(|(_, last)| *last < applied) {
            history.push_back((now, applied));
        }
        while history.get(1).is_some_and(|(at, _)| *at <= before) {
            history.pop_front();
        }
        match history.front() {
            Some((at, applied)) if *at <= before => *applied,
            _ => 0,
        }
    }

    /// Writes again, at the end, the holds of a segment that are still open.
    fn carry(&self, segment: &Named) -> io::Result<()> {
        let mut bytes = Vec::new();
        load(&segment.path, None, &mut bytes)?;
        let mut encoded = Vec::new();
        for frame in Frames::new(&bytes, self.epoch, 0) {
            let Some(Record::Reserve { held, .. }) = record::decode(frame.payload) else {
                continue;
            };
            let mut writer = self.lock();
            // Settled meanwhile.
            let Some(due) = writer.due(held.id, segment) else {
                continue;
            };
            let entry = Entry::Reserve {
                held: &held,
                due: &due,
            };
            let mut frame =
                Unsealed::new(self.epoch, &entry, &mut encoded).map_err(io::Error::other)?;
            let carried = writer.reserve(&mut frame, held.id, due);
            self.written(&mut writer);
            if let Err(error) = carried {
                writer.failed(&error);
                return Err(error);
            }
        }
        // Before the old ones go: a crash of the machine must not leave neither.
        match self.sync() {
            true if self.lock().holds(segment) => {
                Err(io::Error::other("an open hold is not in it"))
            }
            true => Ok(()),
            false => Err(io::Error::other("its open holds are not on the disk yet")),
        }
    }
}
