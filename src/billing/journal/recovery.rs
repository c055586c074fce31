//! What dead processes left: their records are read, their open holds are charged, and their files go
//! when all of it is applied.

use super::KEPT;
use super::folder::{Folder, Named, explain};
use super::reader::{Charges, Frames, load, refuse, unknown};
use super::record::{self, Entry, Head, Record, Unsealed};
use super::writer::{Opener, Storage};
use crate::billing::{Charge, Due, Held};
use crate::meter::usage::Source;
use ahash::AHashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The records of a dead process's epoch, every hold of it settled. Holds the lock of their directory.
#[derive(Debug)]
pub struct Left {
    epoch: u64,
    files: Vec<Named>,
    last: u64,
    opened: usize,
    folder: Arc<Folder>,
    retired: Arc<Retired>,
    done: AtomicBool,
}

impl Left {
    /// The number that the dead process drew at its start.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its charges with a sequence number above `after`, in order, read from the files while they are
    /// asked for: see [`Charges::error`].
    pub fn charges(&self, after: u64) -> Charges {
        let files = self.files.iter().map(|named| (named.clone(), None));
        Charges::new(files.collect(), after, self.done.load(Ordering::Acquire))
    }

    /// The last sequence number.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many holds were found open, and have been charged as far as is known.
    pub fn opened(&self) -> usize {
        self.opened
    }

    /// Every charge is in the store for good: the files go once they are 15 minutes old.
    pub fn applied(&self) {
        if !self.done.swap(true, Ordering::AcqRel) {
            let files = self.files.clone();
            let folder = self.folder.clone();
            self.retired.lock().push(Old {
                files,
                _folder: folder,
            });
            self.retired.sweep(SystemTime::now());
        }
    }
}

/// Files of dead epochs that are applied.
#[derive(Debug, Default)]
pub struct Retired(Mutex<Vec<Old>>);

#[derive(Debug)]
struct Old {
    files: Vec<Named>,
    _folder: Arc<Folder>,
}

impl Retired {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Old>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes what is old enough.
    pub fn sweep(&self, now: SystemTime) {
        self.lock().retain(|old| match old.delete(now) {
            Ok(gone) => !gone,
            Err(error) => {
                log::debug!("a journal of a dead process stays for now: {error}");
                true
            }
        });
    }
}

impl Old {
    /// Whether it is gone.
    fn delete(&self, now: SystemTime) -> io::Result<bool> {
        for file in &self.files {
            match fs::metadata(&file.path).and_then(|found| found.modified()) {
                Ok(modified) if modified + KEPT > now => return Ok(false),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // Oldest first: a settle record outlives its reserve record, never the other way round.
        for file in &self.files {
            remove(&file.path)?;
        }
        Ok(true)
    }
}

/// Deletes a file, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads every epoch in a directory and settles its open holds, at `now` (milliseconds since 1970).
///
/// # Errors
/// One line that names the path and the remedy. What was done up to then stands: the next start goes on.
pub fn recover(
    folder: &Arc<Folder>,
    opener: &Opener,
    now: u64,
    retired: &Arc<Retired>,
) -> Result<Vec<Left>, String> {
    let segments = folder.segments();
    let segments = segments.map_err(|error| explain(folder.path(), "read", &error))?;
    let mut lefts = Vec::new();
    for files in segments.chunk_by(|one, next| one.epoch == next.epoch) {
        let Some(epoch) = files.first().map(|first| first.epoch) else {
            continue;
        };
        let mut found = Found::read(epoch, files.to_vec())?;
        if found.is_nothing() {
            for file in &found.files {
                remove(&file.path).map_err(|error| explain(&file.path, "delete", &error))?;
            }
            continue;
        }
        let opened = found.open.len();
        found.settle(opener, now)?;
        lefts.push(Left {
            epoch,
            files: found.files,
            last: found.last,
            opened,
            folder: folder.clone(),
            retired: retired.clone(),
            done: AtomicBool::new(false),
        });
    }
    Ok(lefts)
}

/// An epoch as it is on file.
struct Found {
    epoch: u64,
    files: Vec<Named>,
    /// Bytes of the last file, and how many of them are kept.
    size: usize,
    end: usize,
    last: u64,
    /// By hold: the number of its reserve record, and what is due.
    open: AHashMap<u64, (u64, Held, Due)>,
}

impl Found {
    fn read(epoch: u64, files: Vec<Named>) -> Result<Found, String> {
        let mut found = Found {
            epoch,
            files: Vec::with_capacity(files.len()),
            size: 0,
            end: 0,
            last: 0,
            open: AHashMap::new(),
        };
        let mut bytes = Vec::new();
        for file in files {
            load(&file.path, None, &mut bytes)
                .map_err(|error| explain(&file.path, "read", &error))?;
            let head = record::head(&bytes, epoch);
            if let Some(error) = refuse(&file.path, head) {
                return Err(error);
            }
            match head {
                // Nothing can have been written behind half a header: the file goes with the others.
                Head::Short if !found.files.is_empty() => {
                    remove(&file.path).map_err(|error| explain(&file.path, "delete", &error))?;
                    continue;
                }
                Head::Damaged => damaged(&file.path, 0, record::HEADER),
                _ => {}
            }
            if let Some(before) = found.files.last()
                && found.size > found.end
            {
                damaged(&before.path, found.end, found.size);
            }
            found.segment(&file.path, &bytes)?;
            found.files.push(file);
        }
        Ok(found)
    }

    fn segment(&mut self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let mut frames = Frames::new(bytes, self.epoch, self.last);
        loop {
            let (end, last) = (frames.end, frames.last);
            let Some(frame) = frames.next() else {
                break;
            };
            // What follows the damage is whole, and as good as if the damage were not there.
            if frame.start > end || (last > 0 && frame.seq != last.saturating_add(1)) {
                damaged(path, end, frame.start);
            }
            match record::decode(frame.payload) {
                Some(Record::Reserve { held, due }) => {
                    self.open.insert(held.id, (frame.seq, held, due));
                }
                Some(Record::Progress { id, due }) => {
                    if let Some((_, _, known)) = self.open.get_mut(&id) {
                        *known = due;
                    }
                }
                Some(Record::Settle { charge }) => {
                    self.open.remove(&charge.held.id);
                }
                None => return Err(unknown(path, frame.start)),
            }
        }
        self.end = frames.end;
        self.size = bytes.len();
        self.last = frames.last;
        Ok(())
    }

    /// Whether its process died before it wrote anything.
    fn is_nothing(&self) -> bool {
        self.last == 0 && self.files.len() == 1 && self.size <= record::HEADER
    }

    /// Cuts off a torn tail, and charges the open holds in the order in which they were made.
    fn settle(&mut self, opener: &Opener, now: u64) -> Result<(), String> {
        let Some(file) = self.files.last() else {
            return Ok(());
        };
        if self.size <= self.end && self.open.is_empty() {
            return Ok(());
        }
        let path = file.path.clone();
        let storage = opener(&path).map_err(|error| explain(&path, "open", &error))?;
        let mut end = self.end as u64;
        let written = self.append(storage.as_ref(), &mut end, now);
        if let Err(error) = written {
            // In vain, perhaps: the next start cuts it off.
            let _ = storage.cut(end);
            return Err(explain(&path, "write", &error));
        }
        Ok(())
    }

    fn append(&mut self, storage: &dyn Storage, end: &mut u64, now: u64) -> io::Result<()> {
        if self.size > self.end {
            log::warn!(
                "journal {:016x}: cut off {} bytes of a record that was not written to its end",
                self.epoch,
                self.size - self.end
            );
            storage.cut(*end)?;
        }
        let mut open: Vec<_> = self.open.drain().map(|(_, open)| open).collect();
        open.sort_unstable_by_key(|(seq, ..)| *seq);
        let mut bytes = Vec::new();
        for (_, held, due) in open {
            let charge = Charge {
                source: (due != Due::default()).then_some(Source::Estimated),
                held,
                due,
                at: now,
            };
            let entry = Entry::Settle { charge: &charge };
            let mut frame =
                Unsealed::new(self.epoch, &entry, &mut bytes).map_err(io::Error::other)?;
            let seq = self.last.saturating_add(1);
            let sealed = frame.seal(seq);
            storage.append(sealed)?;
            *end += sealed.len() as u64;
            self.last = seq;
        }
        storage.sync()
    }
}

fn damaged(path: &Path, from: usize, to: usize) {
    log::error!(
        "`{}`: the journal is damaged from offset {from} to {to}: records there are lost, those behind it are read; check the disk",
        path.display()
    );
}
