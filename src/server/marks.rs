//! Has one of these files changed?
//!
//! They are looked at once a second, by `stat`. inotify tells of inodes, and what is of interest here are names: an
//! editor that saves by renaming, a config map of Kubernetes that changes a symbolic link two folders up, a network
//! file system and an overlay each need a watch somewhere else, and some tell nothing at all. A handful of system calls a
//! second is right everywhere, and costs nothing that could be measured.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// A file that changed less than this ago may change again without showing it: file systems tell times in steps of some
/// milliseconds, of 2 s at the worst (FAT).
const RESTLESS: Duration = Duration::from_secs(2);

/// What shows that a file is another one, or has another content. Links are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether it has been left alone for a while. That this becomes true counts as a change: so a file that was read
    /// while it was being written is read once more.
    settled: bool,
}

/// How files are, by their names; `None` for one that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(BTreeMap<PathBuf, Option<Mark>>);

impl Marks {
    /// How these files are now. It waits for the disk.
    pub(super) fn of(files: impl IntoIterator<Item = PathBuf>) -> Marks {
        let each = |file: PathBuf| {
            let mark = mark(&file);
            (file, mark)
        };
        Marks(files.into_iter().map(each).collect())
    }

    /// Of a file of which nothing is known.
    pub(super) fn none(file: PathBuf) -> Marks {
        Marks(BTreeMap::from([(file, None)]))
    }

    /// How the same files are now.
    pub(super) fn again(&self) -> Marks {
        Marks::of(self.0.keys().cloned())
    }

    /// Which files they are of.
    pub(super) fn names(&self) -> impl Iterator<Item = PathBuf> {
        self.0.keys().cloned()
    }

    /// These files and no others; those that are known already stay as they were seen.
    pub(super) fn with(mut self, files: BTreeSet<PathBuf>) -> Marks {
        self.0.retain(|file, _| files.contains(file));
        for file in files {
            let mark = || mark(&file);
            let seen = self.0.get(&file).copied().unwrap_or_else(mark);
            self.0.insert(file, seen);
        }
        self
    }
}

fn mark(file: &PathBuf) -> Option<Mark> {
    let metadata = std::fs::metadata(file).ok()?;
    // A time in the future says nothing.
    let age = metadata.modified().ok()?.elapsed().unwrap_or(RESTLESS);
    Some(Mark {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        settled: age >= RESTLESS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::SystemTime;

    fn aged(path: &PathBuf, text: &str, age: Duration) {
        std::fs::write(path, text).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn every_kind_of_change_shows() {
        let folder = tempfile::tempdir().unwrap();
        let [file, other] = ["file", "other"].map(|name| folder.path().join(name));
        let old = Duration::from_secs(60);
        aged(&file, "one", old);
        let marks = Marks::of([file.clone(), other.clone()]);
        assert_eq!(marks.again(), marks);
        // Another of the same size and age in its place; one that comes, and one that goes.
        aged(&other, "two", old);
        let two = marks.again();
        assert_ne!(two, marks);
        std::fs::rename(&other, &file).unwrap();
        assert_ne!(two.again(), two);
        let gone = two.again();
        std::fs::remove_file(&file).unwrap();
        assert_ne!(gone.again(), gone);
    }

    #[test]
    fn what_was_just_written_counts_as_changed_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let settled = |age: Duration| {
            aged(&file, "one", age);
            mark(&file).unwrap().settled
        };
        assert!(!settled(Duration::ZERO));
        assert!(settled(RESTLESS));
    }

    #[test]
    fn files_keep_the_mark_of_before_they_were_read() {
        let folder = tempfile::tempdir().unwrap();
        let [file, other] = ["file", "other"].map(|name| folder.path().join(name));
        aged(&file, "one", Duration::from_secs(60));
        let before = Marks::of([file.clone(), other.clone()]);
        std::fs::write(&file, "three").unwrap();
        let after = before.with(BTreeSet::from([file.clone()]));
        assert_eq!(after.names().collect::<Vec<_>>(), [file]);
        assert_ne!(after.again(), after);
    }
}
