//! Disks that are full or broken, and when they are asked to write through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::folder::Named;
use super::tests::{Taken, charge, due, held, ids, killed, rules, segments, start};
use super::writer::{Haste, Storage, files};
use super::*;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Sender, channel};

/// A disk with so many bytes left.
struct Disk {
    left: AtomicU64,
    unsyncable: AtomicBool,
    uncuttable: AtomicBool,
    unopenable: AtomicBool,
}

struct OnDisk(Arc<Disk>, Arc<dyn Storage>);

impl Storage for OnDisk {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let left = self.0.left.load(Ordering::SeqCst);
        let fits = bytes.len().min(left as usize);
        self.1.append(&bytes[..fits])?;
        self.0.left.fetch_sub(fits as u64, Ordering::SeqCst);
        match fits == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        match self.0.uncuttable.load(Ordering::SeqCst) {
            false => self.1.cut(length),
            true => Err(io::Error::other("cannot cut")),
        }
    }
    fn sync(&self) -> io::Result<()> {
        match self.0.unsyncable.load(Ordering::SeqCst) {
            false => self.1.sync(),
            true => Err(io::Error::other("cannot sync")),
        }
    }
}

fn disk(left: u64) -> (Arc<Disk>, Rules) {
    let disk = Arc::new(Disk {
        left: left.into(),
        unsyncable: false.into(),
        uncuttable: false.into(),
        unopenable: false.into(),
    });
    let (of_it, real) = (disk.clone(), files());
    let opener: writer::Opener =
        Arc::new(move |path| match of_it.unopenable.load(Ordering::SeqCst) {
            false => Ok(Arc::new(OnDisk(of_it.clone(), real(path)?))),
            true => Err(io::Error::other("too many open files")),
        });
    (disk, Rules { opener, ..rules() })
}

#[test]
fn a_recovery_that_was_killed_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = start(dir.path());
    for id in 1..=4 {
        journal.reserve(&held(id), &due(10)).unwrap();
    }
    let whole = killed(dir.path());
    let (_, lefts) = start(whole.path());
    let want = ids(lefts[0].charges(0));
    for left in (0..800).step_by(7) {
        let dead = killed(dir.path());
        let (_, rules) = disk(left);
        match Journal::open_with(dead.path(), rules) {
            Ok((_, lefts)) => assert_eq!(ids(lefts[0].charges(0)), want),
            Err(error) => assert!(error.contains("free space") && error.lines().count() == 1),
        }
        let (_, lefts) = start(dead.path());
        assert_eq!(ids(lefts[0].charges(0)), want, "{left}");
    }
}

#[test]
fn a_full_disk_refuses_holds_and_keeps_charges() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, rules) = disk(100_000);
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    let taken = Arc::new(Taken::default());
    journal.attach(taken.clone());
    for id in 1..=4 {
        journal.reserve(&held(id), &due(10)).unwrap();
    }
    journal.settle(charge(4, 20));
    disk.left.store(30, Ordering::SeqCst);
    for id in 1..=3 {
        journal.settle(charge(id, 20));
        journal.progress(id, &due(15));
    }
    assert_eq!((journal.pending(), journal.failing()), (3, true));
    assert_eq!(journal.reserve(&held(5), &due(10)), Err(Full));
    assert_eq!((journal.open_holds(), taken.all().len()), (3, 1));
    // Killed now, each is charged by its estimate; no part of a record is in the way.
    let dead = killed(dir.path());
    let (_, lefts) = start(dead.path());
    assert_eq!(
        ids(lefts[0].charges(0)),
        [(5, 4, 20), (6, 1, 10), (7, 2, 10), (8, 3, 10)]
    );
    journal.shared.retry();
    assert_eq!(journal.pending(), 3);
    // Enough for what waits, not enough for more requests.
    disk.left.store(1000, Ordering::SeqCst);
    journal.shared.retry();
    assert_eq!((journal.pending(), journal.failing()), (0, true));
    assert_eq!(taken.all(), [(5, 4), (6, 1), (7, 2), (8, 3)]);
    assert_eq!(journal.reserve(&held(5), &due(10)), Err(Full));
    disk.left.store(1_000_000, Ordering::SeqCst);
    journal.shared.retry();
    assert!(!journal.failing());
    journal.reserve(&held(5), &due(10)).unwrap();
    journal.settle(charge(5, 20));
    let dead = killed(dir.path());
    let (_, lefts) = start(dead.path());
    let want = [(5, 4, 20), (6, 1, 20), (7, 2, 20), (8, 3, 20), (10, 5, 20)];
    assert_eq!(ids(lefts[0].charges(0)), want);
    assert_eq!(lefts[0].opened(), 0);
}

#[test]
fn nothing_follows_a_part_of_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, rules) = disk(100_000);
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    journal.reserve(&held(1), &due(10)).unwrap();
    disk.left.store(30, Ordering::SeqCst);
    disk.uncuttable.store(true, Ordering::SeqCst);
    journal.settle(charge(1, 20));
    disk.left.store(1_000_000, Ordering::SeqCst);
    journal.shared.retry();
    assert_eq!(journal.pending(), 1);
    disk.uncuttable.store(false, Ordering::SeqCst);
    journal.shared.retry();
    assert!(!journal.failing());
    assert_eq!(ids(journal.charges(0)), [(2, 1, 20)]);
    let size = fs::metadata(&segments(dir.path())[0]).unwrap().len();
    assert_eq!(journal.bytes(), size);
}

#[test]
fn a_disk_that_does_not_sync_is_failing() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, rules) = disk(10_000_000);
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    journal.reserve(&held(1), &due(10)).unwrap();
    disk.unsyncable.store(true, Ordering::SeqCst);
    assert!(!journal.shared.sync());
    assert_eq!(journal.reserve(&held(2), &due(10)), Err(Full));
    journal.settle(charge(1, 20));
    assert_eq!(journal.pending(), 0, "what can be written is");
    journal.shared.retry();
    assert!(journal.failing());
    disk.unsyncable.store(false, Ordering::SeqCst);
    journal.shared.retry();
    journal.reserve(&held(2), &due(10)).unwrap();
    let folder = dir.path().join("journal-0");
    assert_eq!(
        segments(dir.path()),
        [Named::new(&folder, journal.epoch(), 1).path]
    );
}

#[test]
fn a_segment_that_cannot_be_begun_is_begun_later() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, mut rules) = disk(10_000_000);
    rules.segment = 400;
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    let both = |id| {
        journal.reserve(&held(id), &due(10)).unwrap();
        journal.settle(charge(id, 20));
    };
    disk.unopenable.store(true, Ordering::SeqCst);
    (1..20).for_each(both);
    assert!(!journal.failing());
    assert_eq!(segments(dir.path()).len(), 1);
    disk.unopenable.store(false, Ordering::SeqCst);
    (20..40).for_each(both);
    assert!(segments(dir.path()).len() > 2);
    assert_eq!(journal.charges(0).count(), 39);
    let full = || journal.shared.lock().segments().last().unwrap().1 >= 400;
    let filled = (40..)
        .find(|id| {
            full() || {
                both(*id);
                false
            }
        })
        .unwrap() as usize;
    // No room for a header: nothing of it is left, and what was written is read.
    disk.left.store(10, Ordering::SeqCst);
    let before = segments(dir.path());
    assert_eq!(journal.reserve(&held(99), &due(10)), Err(Full));
    assert_eq!(segments(dir.path()), before);
    let dead = killed(dir.path());
    let (_, lefts) = start(dead.path());
    assert_eq!(lefts[0].charges(0).count(), filled - 1);
}

#[test]
fn a_note_does_not_hurry_the_disk_as_all_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, rules) = disk(100_000);
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    // What is to be on the disk, and what the thread was told of.
    let haste = || {
        let writer = journal.shared.lock();
        (writer.dirty, writer.noticed)
    };
    assert!(journal.shared.sync());
    assert_eq!(haste(), (Haste::None, Haste::None));
    journal.reserve(&held(1), &due(10)).unwrap();
    assert_eq!(haste(), (Haste::Records, Haste::Records));
    journal.progress(1, &due(20));
    assert_eq!(haste(), (Haste::Records, Haste::Records));
    assert!(journal.shared.sync());
    journal.progress(1, &due(30));
    assert_eq!(haste(), (Haste::Notes, Haste::Notes));
    journal.settle(charge(1, 40));
    assert_eq!(haste(), (Haste::Records, Haste::Records));
    // One that cannot be written: requests are refused until the thread has looked.
    journal.reserve(&held(2), &due(10)).unwrap();
    assert!(journal.shared.sync());
    disk.left.store(5, Ordering::SeqCst);
    journal.progress(2, &due(20));
    assert!(journal.failing());
    assert_eq!(haste(), (Haste::Records, Haste::Records));
}

/// A disk that says when it was asked to write through.
struct Synced(Mutex<Sender<()>>, Arc<dyn Storage>);

impl Storage for Synced {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.1.append(bytes)
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.1.cut(length)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.sync()?;
        let _ = self.0.lock().unwrap().send(());
        Ok(())
    }
}

#[test]
fn all_that_is_written_is_synced_though_nothing_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let (told, syncs) = channel();
    let real = files();
    let opener: writer::Opener = Arc::new(move |path| {
        let told = Mutex::new(told.clone());
        Ok(Arc::new(Synced(told, real(path)?)))
    });
    let rules = Rules {
        opener,
        segment: SEGMENT,
        thread: true,
    };
    let (journal, _) = Journal::open_with(dir.path(), rules).unwrap();
    let synced = || syncs.recv_timeout(Duration::from_secs(60)).unwrap();
    // The new file's header.
    synced();
    journal.reserve(&held(1), &due(10)).unwrap();
    synced();
    journal.progress(1, &due(20));
    synced();
    journal.settle(charge(1, 30));
    synced();
}
