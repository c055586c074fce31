//! The thread that makes charges durable, many with one commit.

use super::Books;
use crate::billing::Charge;
use crate::store::db::DbError;
use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Charges of one commit at most: as many as a busy core makes while they [gather](GATHER). A commit costs about a
/// millisecond besides.
pub(super) const BATCH: usize = 4096;
/// A charge waits for others no longer than that.
const GATHER: Duration = Duration::from_millis(100);
/// The disk is tried again after that.
const RETRY: Duration = Duration::from_secs(1);
/// The same trouble is told of again after that.
const TELL: Duration = Duration::from_secs(60);

pub(super) enum Job {
    /// Epoch, sequence number and charge.
    Charge(u64, u64, Arc<Charge>),
    /// Tell whether all before this is on the disk.
    Flush(SyncSender<bool>),
    Stop,
}

/// What the thread is to do, in order. Charges do not wake it one by one: on a busy core each would cost more than all
/// that is done with it.
#[derive(Default)]
struct Queue {
    jobs: Mutex<Vec<Job>>,
    wake: Condvar,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Vec<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, job: Job) {
        let charge = matches!(job, Job::Charge(..));
        let mut jobs = self.jobs();
        jobs.push(job);
        // The first one wakes it, and it gathers by itself; then a batch, and whoever waits.
        if !charge || jobs.len() == 1 || jobs.len() == BATCH {
            self.wake.notify_one();
        }
    }

    /// Waits for a job for so long, or for that many charges or somebody who waits.
    fn wait(&self, patience: Duration, many: usize) {
        let quiet = |jobs: &mut Vec<Job>| {
            jobs.len() < many && jobs.iter().all(|job| matches!(job, Job::Charge(..)))
        };
        let waited = self.wake.wait_timeout_while(self.jobs(), patience, quiet);
        drop(waited);
    }
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Applier {
    queue: Arc<Queue>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Applier {
    pub(super) fn start(books: Arc<Books>) -> Result<Applier, String> {
        let queue: Arc<Queue> = Arc::default();
        let jobs = queue.clone();
        let thread = std::thread::Builder::new()
            .name("billing".into())
            .spawn(move || Thread::new(books).run(&jobs))
            .map_err(|error| format!("no thread for the embedded store: {error}"))?;
        Ok(Applier {
            queue,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    pub(super) fn send(&self, job: Job) {
        // After the end only the journal takes charges: nobody looks into the queue any more.
        self.queue.send(job);
    }

    pub(super) fn flush(&self) -> bool {
        if self.ended() {
            return false;
        }
        let (done, flushed) = mpsc::sync_channel(1);
        self.send(Job::Flush(done));
        // It may end meanwhile.
        loop {
            match flushed.recv_timeout(RETRY) {
                Ok(flushed) => return flushed,
                Err(RecvTimeoutError::Timeout) if !self.ended() => {}
                Err(_) => return false,
            }
        }
    }

    pub(super) fn ended(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub(super) fn stop(&self) {
        self.send(Job::Stop);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the embedded store has panicked");
        }
    }
}

struct Thread {
    books: Arc<Books>,
    /// Not on the disk yet, in the order in which they came.
    waiting: VecDeque<(u64, u64, Arc<Charge>)>,
    flushes: Vec<SyncSender<bool>>,
    stopping: bool,
    failing: bool,
    /// When trouble was told of last.
    told: Option<Instant>,
}

impl Thread {
    fn new(books: Arc<Books>) -> Thread {
        Thread {
            books,
            waiting: VecDeque::new(),
            flushes: Vec::new(),
            stopping: false,
            failing: false,
            told: None,
        }
    }

    fn run(mut self, queue: &Queue) {
        while !self.stopping {
            self.gather(queue);
            let committed = self.commit();
            self.failing = match committed {
                Ok(()) => false,
                Err(error) => {
                    self.complain(&error);
                    true
                }
            };
            for flush in self.flushes.drain(..) {
                // Whoever asked may have gone.
                let _ = flush.send(!self.failing);
            }
            self.books.settle_if_idle();
        }
        if !self.waiting.is_empty() {
            let count = self.waiting.len();
            match self.books.db.is_given() {
                true => log::info!("{count} charges are left to the successor, in the journal"),
                false => {
                    log::error!("{count} charges are in the journal only, until the next start");
                }
            }
        }
    }

    /// Waits for a charge and for those that come soon after it; after a failure until it is time to
    /// try again. Who flushes or stops waits for nobody else.
    fn gather(&mut self, queue: &Queue) {
        if self.failing {
            queue.wait(RETRY, usize::MAX);
        } else {
            // Without a charge, a look now and then at entries that the disk did not answer for.
            queue.wait(RETRY, 1);
            queue.wait(GATHER, BATCH);
        }
        for job in std::mem::take(&mut *queue.jobs()) {
            match job {
                Job::Charge(epoch, seq, charge) => self.waiting.push_back((epoch, seq, charge)),
                Job::Flush(done) => self.flushes.push(done),
                Job::Stop => self.stopping = true,
            }
        }
    }

    fn commit(&mut self) -> Result<(), DbError> {
        while let Some((epoch, ..)) = self.waiting.front() {
            let epoch = *epoch;
            let same = self.waiting.iter().take_while(|(of, ..)| *of == epoch);
            let batch: Vec<(u64, Arc<Charge>)> = same
                .take(BATCH)
                .map(|(_, seq, charge)| (*seq, charge.clone()))
                .collect();
            self.books.db.apply(epoch, &batch, self.books.calendar)?;
            self.waiting.drain(..batch.len());
            if let (Some(applied), Some((seq, _))) = (self.books.applied.get(), batch.last()) {
                applied(*seq);
            }
        }
        if self.told.take().is_some() {
            log::info!("charges are written to the embedded store again");
        }
        Ok(())
    }

    fn complain(&mut self, error: &DbError) {
        if self.books.db.is_given() {
            return;
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL) {
            let count = self.waiting.len();
            log::error!("{count} charges cannot be written yet, and are kept: {error}");
            self.told = Some(Instant::now());
        }
    }
}
