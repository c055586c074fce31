//! What this node owes, on file before it acts: `kill -9` loses no charge, and none is made twice.
//!
//! A request's hold is written before its upstream is called, how far it is every now and then, and
//! what it cost before its last byte goes out. [`Journal::open`] settles what dead processes left
//! open, as far as is known; [`Journal::adopt`] does so later for those that die meanwhile. `write()` suffices for all that; a crash of the machine is
//! covered by `fdatasync`, which begins 10 ms after a hold or a charge was written, and 110 ms after a note of how far one is.
//!
//! Every record has a sequence number, 1, 2, 3…, within an epoch: one process's life. Stores keep the
//! last number that they applied, so that a charge can be handed to them twice.
//!
//! A segment is deleted 15 minutes after the last of its charges was applied, and every segment before
//! it is gone. Holds that are still open by then are written again, at the end, so that a job of an hour
//! does not keep an hour's records.

mod chores;
mod folder;
mod reader;
mod record;
mod recovery;
mod writer;

pub use reader::Charges;
pub use recovery::Left;

use super::{Charge, Due, Held};
use chores::Shared;
use folder::Folder;
use record::{Entry, Unsealed};
use recovery::Retired;
use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use writer::{Opener, Writer};

/// Bytes after which a new segment is begun.
const SEGMENT: u64 = 16 << 20;
/// So long files are kept although all in them is applied: a store that loses what it acknowledged, as a
/// failover of Redis may, is given it again.
const KEPT: Duration = Duration::from_secs(15 * 60);

thread_local! {
    /// Records are encoded here, outside of the lock.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Takes what is on file, in the order of its sequence numbers. It is called under the journal's lock:
/// it must be quick and must not call the journal.
pub trait Sink: Send + Sync {
    /// A charge is on file, with this number.
    fn take(&self, seq: u64, charge: Arc<Charge>);
}

/// The journal cannot be written: a request that costs anything is to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the journal cannot be written")
    }
}

impl std::error::Error for Full {}

/// The journal of this process.
pub struct Journal {
    shared: Arc<Shared>,
    opener: Opener,
    chores: Option<JoinHandle<()>>,
}

/// What a test may want otherwise.
#[derive(Clone)]
struct Rules {
    opener: Opener,
    /// Bytes after which a new segment is begun.
    segment: u64,
    /// Whether a thread does the chores.
    thread: bool,
}

impl Journal {
    /// Opens a journal below `dir`, which is created if it is missing: takes the first directory
    /// `journal-N` that no living process has. What dead processes left in it, and in every other that
    /// nobody has, is handed out with every hold settled.
    ///
    /// # Errors
    /// One line that names the path and the remedy: the directory cannot be written, or holds the
    /// journal of another version.
    pub fn open(dir: &Path) -> Result<(Arc<Journal>, Vec<Left>), String> {
        let rules = Rules {
            opener: writer::files(),
            segment: SEGMENT,
            thread: true,
        };
        Journal::open_with(dir, rules)
    }

    fn open_with(dir: &Path, rules: Rules) -> Result<(Arc<Journal>, Vec<Left>), String> {
        let folders = Folder::take(dir)?;
        let retired = Arc::new(Retired::default());
        let now = now();
        let mut lefts = Vec::new();
        for folder in &folders {
            lefts.extend(recovery::recover(folder, &rules.opener, now, &retired)?);
        }
        let own = folders.into_iter().next();
        let own = own.ok_or_else(|| format!("`{}`: no journal", dir.display()))?;
        let epoch = getrandom::u64().map_err(|error| format!("no randomness: {error}"))?;
        let writer = Writer::new(own.path(), epoch, rules.opener.clone(), rules.segment);
        let writer = writer.map_err(|error| folder::explain(own.path(), "write", &error))?;
        let shared = Arc::new(Shared::new(epoch, own, writer, retired));
        let chores = match rules.thread {
            true => {
                let builder = thread::Builder::new().name("journal".into());
                let shared = shared.clone();
                let thread = builder.spawn(move || shared.run());
                Some(
                    thread
                        .map_err(|error| format!("cannot start the journal's thread: {error}"))?,
                )
            }
            false => None,
        };
        let journal = Journal {
            shared,
            opener: rules.opener,
            chores,
        };
        Ok((Arc::new(journal), lefts))
    }

    /// What processes have left that have died since: every hold of theirs is settled, and their directories
    /// are this process's now. Beside it one line for what could not be taken, which is left as it is.
    pub fn adopt(&self) -> (Vec<Left>, Option<String>) {
        let own = self.shared.folder.path();
        let found = match own.parent().map(|dir| Folder::nobodys(dir, own)) {
            Some(Ok(found)) => found,
            Some(Err(error)) => return (Vec::new(), Some(error)),
            None => Vec::new(),
        };
        let (mut lefts, mut failed) = (Vec::new(), None);
        for folder in &found {
            match recovery::recover(folder, &self.opener, now(), &self.shared.retired) {
                Ok(some) => lefts.extend(some),
                Err(error) => failed = Some(error),
            }
        }
        (lefts, failed)
    }

    /// The epochs that there are files of, of this process and of all others on the directory.
    ///
    /// # Errors
    /// One line that names the path and the remedy.
    pub fn epochs(&self) -> Result<Vec<u64>, String> {
        let own = self.shared.folder.path();
        let dir = own.parent().unwrap_or(own);
        Folder::epochs(dir).map_err(|error| folder::explain(dir, "read", &error))
    }

    /// The number that this process drew at its start.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Who takes the charges: once, before the first of them. A second sink is ignored.
    pub fn attach(&self, sink: Arc<dyn Sink>) {
        let _ = self.shared.sink.set(sink);
    }

    /// Writes down a hold, before its request is sent. `due` is charged if nothing more is heard of it.
    ///
    /// # Errors
    /// [`Full`]: nothing was written, or a charge before could not be; nothing may be sent.
    pub fn reserve(&self, held: &Held, due: &Due) -> Result<(), Full> {
        let mut bytes = FRAME.take();
        let reserved = self.reserve_in(&mut bytes, held, due);
        FRAME.set(bytes);
        reserved
    }

    fn reserve_in(&self, bytes: &mut Vec<u8>, held: &Held, due: &Due) -> Result<(), Full> {
        let entry = Entry::Reserve { held, due };
        let frame = Unsealed::new(self.shared.epoch, &entry, bytes);
        // Its charge must fit too.
        let frame = frame
            .ok()
            .filter(|frame| frame.length() < record::LONGEST / 2);
        let Some(mut frame) = frame else {
            log::error!(
                "a hold of account `{}` is too long for the journal",
                held.account
            );
            return Err(Full);
        };
        let mut writer = self.shared.lock();
        if writer.failing || !writer.pending.is_empty() {
            return Err(Full);
        }
        let reserved = writer.reserve(&mut frame, held.id, *due);
        self.shared.written(&mut writer);
        reserved.map_err(|error| {
            writer.failed(&error);
            Full
        })
    }

    /// Writes down how far an open hold is. If that cannot be written, what was written before stands.
    pub fn progress(&self, id: u64, due: &Due) {
        let mut bytes = FRAME.take();
        if let Ok(mut frame) =
            Unsealed::new(self.shared.epoch, &Entry::Progress { id, due }, &mut bytes)
        {
            let mut writer = self.shared.lock();
            if !writer.failing
                && let Err(error) = writer.progress(&mut frame, id, *due)
            {
                writer.failed(&error);
            }
            self.shared.written(&mut writer);
        }
        FRAME.set(bytes);
    }

    /// Writes down what a hold cost in the end, once a hold, and hands it to the sink. If it cannot be
    /// written, it is kept in memory until it can be: the sink has it only then, since a restart would
    /// charge it again.
    pub fn settle(&self, charge: Charge) {
        let mut bytes = FRAME.take();
        self.shared.settle(Arc::new(charge), &mut bytes);
        FRAME.set(bytes);
    }

    /// The charges of this epoch up to now with a sequence number above `after`, in order, read from the
    /// files while they are asked for: see [`Charges::error`].
    pub fn charges(&self, after: u64) -> Charges {
        let segments = self.shared.lock().segments();
        let files = segments.into_iter();
        Charges::new(
            files.map(|(named, length)| (named, Some(length))).collect(),
            after,
            true,
        )
    }

    /// The number of the last record: every charge after it will have a higher one.
    pub fn last(&self) -> u64 {
        self.shared.lock().last()
    }

    /// Every charge with a sequence number up to `upto` is in the store for good.
    pub fn applied(&self, upto: u64) {
        self.shared.applied.fetch_max(upto, Ordering::AcqRel);
    }

    /// Holds that are not settled on file.
    pub fn open_holds(&self) -> usize {
        self.shared.lock().open_holds()
    }

    /// Whether it cannot be written now.
    pub fn failing(&self) -> bool {
        let writer = self.shared.lock();
        writer.failing || !writer.pending.is_empty()
    }

    /// Charges that wait in memory until they can be written.
    pub fn pending(&self) -> usize {
        self.shared.lock().pending.len()
    }

    /// Bytes of this epoch's files.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().bytes()
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Journal {
    /// Ends the thread, after a last sync.
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(chores) = self.chores.take() {
            // A panic of the thread has been reported by its hook.
            let _ = chores.join();
        }
        let pending = self.pending();
        if pending > 0 {
            log::error!(
                "the journal could not be written: {pending} charges are lost but for their estimates"
            );
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("epoch", &format_args!("{:016x}", self.epoch()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod tests;
