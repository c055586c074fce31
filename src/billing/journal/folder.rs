//! A process's place on the disk: `journal-N`, locked for as long as the process lives.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "lock";
/// More processes than share one directory.
const MOST: u32 = 10_000;

/// A locked `journal-N`.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// It was left by a dead process and is nobody's: it goes when it is empty.
    adopted: bool,
    /// The lock dies with the process, or with this.
    _lock: File,
}

/// A segment's file, by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Its writer's epoch.
    pub epoch: u64,
    /// The number that its first record has, if it has any.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Named {
    /// The file of a segment below `folder`.
    pub fn new(folder: &Path, epoch: u64, first: u64) -> Named {
        Named {
            epoch,
            first,
            path: folder.join(format!("{epoch:016x}-{first:020}.log")),
        }
    }

    fn read(path: PathBuf) -> Option<Named> {
        let name = path.file_name()?.to_str()?.strip_suffix(".log")?;
        let (epoch, first) = name.split_once('-')?;
        Some(Named {
            epoch: u64::from_str_radix(epoch, 16).ok()?,
            first: first.parse().ok()?,
            path,
        })
    }
}

impl Folder {
    /// Takes the first `journal-N` that no living process has, and then every other that exists.
    ///
    /// # Errors
    /// One line that names the path and the remedy.
    pub fn take(dir: &Path) -> Result<Vec<Arc<Folder>>, String> {
        create(dir).map_err(|error| explain(dir, "create", &error))?;
        let mut taken = Vec::new();
        for n in 0..MOST {
            let path = numbered(dir, n);
            let folder = Folder::lock(path.clone(), true, false);
            if let Some(folder) = folder.map_err(|error| explain(&path, "lock", &error))? {
                taken.push(folder);
                break;
            }
        }
        let Some(own) = taken.first().map(|own| own.path.clone()) else {
            return Err(format!(
                "`{}`: {MOST} processes have a journal here already; give each node a directory of its own",
                dir.display()
            ));
        };
        taken.extend(Folder::nobodys(dir, &own)?);
        Ok(taken)
    }

    /// Takes every `journal-N` that no living process has, this one included.
    ///
    /// # Errors
    /// One line that names the path and the remedy.
    pub fn nobodys(dir: &Path, own: &Path) -> Result<Vec<Arc<Folder>>, String> {
        let mut taken = Vec::new();
        for path in numbers(dir).map_err(|error| explain(dir, "read", &error))? {
            if path != own {
                let folder = Folder::lock(path.clone(), false, true);
                taken.extend(folder.map_err(|error| explain(&path, "lock", &error))?);
            }
        }
        Ok(taken)
    }

    /// The epochs of which there are files below `dir`, whosever they are.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn epochs(dir: &Path) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for path in numbers(dir)? {
            match segments(&path) {
                // Another process has just cleared it away.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                segments => found.extend(segments?.into_iter().map(|named| named.epoch)),
            }
        }
        Ok(found)
    }

    /// `None` if a living process has it, or if it went away.
    fn lock(path: PathBuf, make: bool, adopted: bool) -> io::Result<Option<Arc<Folder>>> {
        loop {
            if make {
                create(&path)?;
            }
            let file = path.join(LOCK);
            let opened = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&file);
            let lock = match opened {
                Err(error) if error.kind() == ErrorKind::NotFound && make => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it may have removed it meanwhile: a lock on a file without a name keeps
            // nobody out.
            let inode = lock.metadata()?.ino();
            if fs::metadata(&file).is_ok_and(|found| found.ino() == inode) {
                return Ok(Some(Arc::new(Folder {
                    path,
                    adopted,
                    _lock: lock,
                })));
            }
            if !make {
                return Ok(None);
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The segments in it, by epoch and number.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(&self) -> io::Result<Vec<Named>> {
        segments(&self.path)
    }
}

fn segments(folder: &Path) -> io::Result<Vec<Named>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(Named::read(entry?.path()));
    }
    found.sort();
    Ok(found)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let empty = |segments: Vec<Named>| segments.is_empty();
        if self.adopted && self.segments().is_ok_and(empty) {
            // In vain if there is something else in it: then it stays, and is adopted again.
            let _ = fs::remove_file(self.path.join(LOCK));
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn numbered(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("journal-{n}"))
}

/// Every `journal-N`, by its number.
fn numbers(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("journal-"));
        found.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|n| numbered(dir, n)).collect())
}

/// Only the process's own user reads who paid for what.
fn create(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// One line for the operator.
pub fn explain(path: &Path, doing: &str, error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space on its disk",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "make it writable for the user that runs tollgate"
        }
        _ => "see to the disk, or name another directory",
    };
    format!(
        "`{}`: cannot {doing} the journal: {error}; {remedy}",
        path.display()
    )
}
