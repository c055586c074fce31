//! The end of the journal: appends records to the current segment and knows which holds are open.

use super::folder::Named;
use super::record::{self, Unsealed};
use super::recovery::remove;
use crate::billing::{Charge, Due};
use ahash::AHashMap;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes that must fit again before a full disk counts as free: no request is admitted whose charge
/// is then kept in memory only.
static ROOM: [u8; 64 << 10] = [0; 64 << 10];

/// What a segment is written to.
pub trait Storage: Send + Sync {
    /// Adds to its end; a part may have been added where it fails.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts off what is behind `length` bytes.
    fn cut(&self, length: u64) -> io::Result<()>;
    /// Waits until it is on the disk.
    fn sync(&self) -> io::Result<()>;
}

impl Storage for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Opens a segment for appending, and creates it if it is missing.
pub type Opener = Arc<dyn Fn(&Path) -> io::Result<Arc<dyn Storage>> + Send + Sync>;

/// Segments are files.
pub fn files() -> Opener {
    Arc::new(|path| {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        Ok(Arc::new(options.open(path)?))
    })
}

/// A hold without a settle record.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// The first number of the segment that its reserve record is in.
    segment: u64,
    due: Due,
}

struct Segment {
    named: Named,
    length: u64,
    /// The number of its last settle record; 0 if there is none.
    settled: u64,
}

struct Closed {
    segment: Segment,
    at: SystemTime,
}

/// How soon what was written is to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// It is.
    None,
    /// It is no more than how far holds are: less than a second or 4 KiB of an answer each.
    Notes,
    /// A hold or a charge.
    Records,
}

/// Everything behind the journal's lock.
pub struct Writer {
    folder: PathBuf,
    epoch: u64,
    opener: Opener,
    /// Bytes after which a segment is closed.
    limit: u64,
    /// Bytes after which the current segment is.
    full: u64,
    /// The number of the next record.
    next: u64,
    file: Arc<dyn Storage>,
    current: Segment,
    /// Oldest first.
    closed: VecDeque<Closed>,
    /// A part of a record is at the end of the file and could not be cut off.
    torn: bool,
    open: AHashMap<u64, Open>,
    /// Charges that could not be written, in their order.
    pub pending: VecDeque<Arc<Charge>>,
    /// Something could not be written, and nothing shows yet that it can be now.
    pub failing: bool,
    /// What was written since the last sync.
    pub dirty: Haste,
    /// What the thread was woken for.
    pub noticed: Haste,
    /// Closed, and not yet synced.
    unsynced: Vec<Arc<dyn Storage>>,
    /// A file was created since the last sync.
    created: bool,
    /// The journal is being dropped.
    pub stopping: bool,
}

/// What a sync has to do, outside of the lock.
pub struct Unsynced {
    files: Vec<Arc<dyn Storage>>,
    folder: Option<PathBuf>,
}

impl Unsynced {
    /// Waits until everything is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        for file in &self.files {
            file.sync()?;
        }
        match &self.folder {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Writer {
    /// Begins an epoch with an empty segment.
    pub fn new(folder: &Path, epoch: u64, opener: Opener, limit: u64) -> io::Result<Writer> {
        let (current, file) = begin(&opener, Named::new(folder, epoch, 1))?;
        Ok(Writer {
            folder: folder.to_owned(),
            epoch,
            opener,
            limit,
            full: limit,
            next: 1,
            file,
            current,
            closed: VecDeque::new(),
            torn: false,
            open: AHashMap::new(),
            pending: VecDeque::new(),
            failing: false,
            dirty: Haste::Records,
            noticed: Haste::None,
            unsynced: Vec::new(),
            created: true,
            stopping: false,
        })
    }

    /// The number of the last record.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Writes a hold.
    pub fn reserve(&mut self, frame: &mut Unsealed<'_>, id: u64, due: Due) -> io::Result<()> {
        self.append(frame, Haste::Records)?;
        let segment = self.current.named.first;
        self.open.insert(id, Open { segment, due });
        Ok(())
    }

    /// Writes how far an open hold is.
    pub fn progress(&mut self, frame: &mut Unsealed<'_>, id: u64, due: Due) -> io::Result<()> {
        match self.open.get_mut(&id) {
            Some(open) => open.due = due,
            None => return Ok(()),
        }
        self.append(frame, Haste::Notes).map(drop)
    }

    /// Writes a charge; returns its number.
    pub fn settle(&mut self, frame: &mut Unsealed<'_>, id: u64) -> io::Result<u64> {
        let seq = self.append(frame, Haste::Records)?;
        self.open.remove(&id);
        self.current.settled = seq;
        Ok(seq)
    }

    fn append(&mut self, frame: &mut Unsealed<'_>, haste: Haste) -> io::Result<u64> {
        self.mend()?;
        if self.current.length >= self.full && self.next > self.current.named.first {
            self.full = self.limit;
            if let Err(error) = self.roll() {
                // No file descriptor is free, perhaps: no reason to refuse what this one has room for.
                self.full += self.current.length;
                let folder = self.folder.display();
                log::warn!("`{folder}`: cannot begin another segment yet: {error}");
            }
        }
        let seq = self.next;
        let bytes = frame.seal(seq);
        self.put(bytes, haste)?;
        self.current.length += bytes.len() as u64;
        self.next += 1;
        Ok(seq)
    }

    /// Nothing may follow a part of a record.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.cut(self.current.length)?;
            self.torn = false;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], haste: Haste) -> io::Result<()> {
        self.dirty = self.dirty.max(haste);
        let put = self.file.append(bytes);
        if put.is_err() {
            self.torn = true;
            // Requests are refused until the thread has tried again.
            self.dirty = Haste::Records;
            // In vain, perhaps: then before the next record.
            let _ = self.mend();
        }
        put
    }

    fn roll(&mut self) -> io::Result<()> {
        let named = Named::new(&self.folder, self.epoch, self.next);
        let (segment, file) = begin(&self.opener, named)?;
        self.unsynced.push(mem::replace(&mut self.file, file));
        self.closed.push_back(Closed {
            segment: mem::replace(&mut self.current, segment),
            at: SystemTime::now(),
        });
        self.created = true;
        Ok(())
    }

    /// Notes that something could not be written.
    pub fn failed(&mut self, error: &io::Error) {
        if !mem::replace(&mut self.failing, true) {
            log::error!(
                "{}; billable requests are refused until it can be written again",
                super::folder::explain(&self.current.named.path, "write", error)
            );
        }
    }

    /// Tries whether there is room again. The zeros are no frame, should the process die before they are
    /// cut off.
    pub fn probe(&mut self) -> io::Result<()> {
        self.mend()?;
        self.put(&ROOM, Haste::Records)?;
        self.torn = true;
        self.mend()?;
        self.failing = false;
        log::info!(
            "`{}`: the journal can be written again",
            self.current.named.path.display()
        );
        Ok(())
    }

    /// What was written since the last call.
    pub fn unsynced(&mut self) -> Unsynced {
        self.dirty = Haste::None;
        self.noticed = Haste::None;
        let mut files = mem::take(&mut self.unsynced);
        files.push(self.file.clone());
        let created = mem::replace(&mut self.created, false);
        Unsynced {
            files,
            folder: created.then(|| self.folder.clone()),
        }
    }

    /// Takes back what could not be synced.
    pub fn resync(&mut self, left: Unsynced) {
        self.dirty = Haste::Records;
        self.created |= left.folder.is_some();
        let current = &self.file;
        let old = left.files.into_iter();
        self.unsynced
            .extend(old.filter(|file| !Arc::ptr_eq(file, current)));
    }

    /// The oldest segment, if it was closed before `before` and has no charge above `applied`.
    /// Younger ones wait for it: they may settle what it holds.
    pub fn done(&self, applied: u64, before: SystemTime) -> Option<Named> {
        let oldest = self.closed.front()?;
        let done = oldest.segment.settled <= applied && oldest.at <= before;
        done.then(|| oldest.segment.named.clone())
    }

    /// Whether a hold is open whose reserve record is in this segment.
    pub fn holds(&self, segment: &Named) -> bool {
        let mut open = self.open.values();
        open.any(|open| open.segment == segment.first)
    }

    /// What an open hold costs so far, if its reserve record is in this segment.
    pub fn due(&self, id: u64, segment: &Named) -> Option<Due> {
        let open = self.open.get(&id)?;
        (open.segment == segment.first).then_some(open.due)
    }

    /// Forgets the oldest segment: its file is gone.
    pub fn gone(&mut self, segment: &Named) {
        let oldest = self.closed.front();
        if oldest.is_some_and(|oldest| oldest.segment.named == *segment) {
            self.closed.pop_front();
        }
    }

    /// Every segment and how many bytes of it are whole records, oldest first.
    pub fn segments(&self) -> Vec<(Named, u64)> {
        let closed = self.closed.iter().map(|closed| &closed.segment);
        closed
            .chain([&self.current])
            .map(|segment| (segment.named.clone(), segment.length))
            .collect()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        let closed = self.closed.iter().map(|closed| closed.segment.length);
        closed.sum::<u64>() + self.current.length
    }

    /// Reserve records without a settle record.
    pub fn open_holds(&self) -> usize {
        self.open.len()
    }
}

fn begin(opener: &Opener, named: Named) -> io::Result<(Segment, Arc<dyn Storage>)> {
    let file = opener(&named.path)?;
    // What an attempt before left: it holds no record.
    let begun = file.cut(0);
    if let Err(error) = begun.and_then(|()| file.append(&record::header(named.epoch))) {
        // In vain, perhaps: recovery deletes what has no header.
        let _ = remove(&named.path);
        return Err(error);
    }
    let segment = Segment {
        named,
        length: record::HEADER as u64,
        settled: 0,
    };
    Ok((segment, file))
}
