//! What a process that serves leaves at its `store.path` for `tollgate upgrade`: its process id, locked for as long as it
//! lives, and what came of the last upgrade that somebody waits for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file with the process id.
const PID: &str = "tollgate.pid";

/// How long a successor has where nobody says otherwise.
pub const WITHIN: Duration = Duration::from_secs(60);

/// The process id of this process, on file. Dropped, the file goes, unless it is another's by then.
#[derive(Debug)]
pub struct PidFile {
    dir: PathBuf,
    /// The lock dies with the process, or with this.
    lock: Option<File>,
}

impl PidFile {
    /// Writes it, in place of that of the process before, if there is one.
    pub fn write(dir: &Path, before: Option<u32>) -> PidFile {
        let mut file = PidFile {
            dir: dir.to_owned(),
            lock: None,
        };
        if let Ok(other) = living(dir)
            && before != Some(other)
        {
            log::info!(
                "{} is process {other}'s, which shares this store.path: to upgrade this one, give --pid {}",
                dir.join(PID).display(),
                std::process::id()
            );
            return file;
        }
        file.rewrite();
        file
    }

    /// Writes it again: a successor may have put its own in place, and failed.
    pub fn rewrite(&mut self) {
        match put(&self.dir) {
            Ok(lock) => self.lock = Some(lock),
            Err(error) => log::info!(
                "{}: {error}; `tollgate upgrade` needs --pid {} then",
                self.dir.join(PID).display(),
                std::process::id()
            ),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let path = self.dir.join(PID);
        if self.lock.is_some() && read(&path) == Some(std::process::id()) {
            // It is stale without its lock as well.
            let _ = fs::remove_file(path);
        }
    }
}

/// The process whose id is on file below `dir`, and that lives.
///
/// # Errors
/// One line: there is none.
pub fn living(dir: &Path) -> Result<u32, String> {
    let path = dir.join(PID);
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let file = File::open(&path).map_err(|error| wrong(&error))?;
    let pid = read(&path).ok_or_else(|| wrong(&"no process id in it"))?;
    match file.try_lock_shared() {
        Ok(()) => Err(wrong(&format!("process {pid} does not serve any more"))),
        Err(fs::TryLockError::WouldBlock) => Ok(pid),
        Err(fs::TryLockError::Error(error)) => Err(wrong(&error)),
    }
}

fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn put(dir: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let pid = std::process::id();
    replace(&dir.join(PID), format!("{pid}\n").as_bytes(), |file| {
        file.lock()
    })
}

/// Puts a file with these contents in place at once.
fn replace(
    path: &Path,
    contents: &[u8],
    before: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<File> {
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&aside)?;
    let written = file
        .write_all(contents)
        .and_then(|()| before(&file))
        .and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    Ok(file)
}

/// An upgrade that somebody waits for: a file beside the store, from both sides.
#[derive(Debug)]
pub struct Request(PathBuf);

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// This process serves.
    Serves(u32),
    /// Nothing has changed, and why.
    Failed(String),
}

impl Request {
    /// The request to process `pid`, which may be there or not.
    pub fn of(dir: &Path, pid: u32) -> Request {
        Request(dir.join(format!("upgrade-{pid}")))
    }

    /// Makes it: the successor is to serve `within` that time. The process that reads it may be another user's, in a
    /// directory that is its own.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn make(&self, within: Duration) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let mut file = options.open(&self.0)?;
        writeln!(file, "within {}", within.as_millis())
    }

    /// How long the successor has; `None` if nobody has asked by a file.
    pub fn within(&self) -> Option<Duration> {
        let text = fs::read_to_string(&self.0).ok()?;
        let millis = text.strip_prefix("within ")?.trim().parse().ok()?;
        Some(Duration::from_millis(millis))
    }

    /// Answers it, if somebody waits.
    pub fn answer(&self, answer: &Answer) {
        if !self.0.exists() {
            return;
        }
        let line = match answer {
            Answer::Serves(pid) => format!("serves {pid}\n"),
            Answer::Failed(why) => format!("failed {}\n", why.replace('\n', " ")),
        };
        if let Err(error) = replace(&self.0, line.as_bytes(), |_| Ok(())) {
            log::warn!(
                "{}: {error}; the outcome of the upgrade is here only",
                self.0.display()
            );
        }
    }

    /// What was answered so far.
    pub fn answered(&self) -> Option<Answer> {
        let text = fs::read_to_string(&self.0).ok()?;
        let (word, rest) = text.trim_end().split_once(' ')?;
        match word {
            "serves" => rest.parse().ok().map(Answer::Serves),
            "failed" => Some(Answer::Failed(rest.to_owned())),
            _ => None,
        }
    }

    /// Takes it away.
    pub fn remove(&self) {
        // Nobody reads it any more.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_id_is_on_file_while_the_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        assert!(living(&dir).is_err());
        let mut file = PidFile::write(&dir, None);
        let own = std::process::id();
        assert_eq!(living(&dir), Ok(own));
        // Another that shares the directory leaves it alone, and so does its successor.
        drop(PidFile::write(&dir, None));
        drop(PidFile::write(&dir, Some(own + 1)));
        assert_eq!(living(&dir), Ok(own));
        file.rewrite();
        assert_eq!(living(&dir), Ok(own));
        // Without its lock it is a dead process's.
        let text = fs::read(dir.join(PID)).unwrap();
        drop(file);
        assert!(!dir.join(PID).exists());
        fs::write(dir.join(PID), text).unwrap();
        assert!(
            living(&dir)
                .unwrap_err()
                .contains("does not serve any more")
        );
    }

    #[test]
    fn a_request_is_answered_once_it_is_known_what_came_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let request = Request::of(dir.path(), 7);
        request.answer(&Answer::Serves(8));
        assert_eq!((request.within(), request.answered()), (None, None));
        request.make(Duration::from_secs(5)).unwrap();
        assert_eq!(request.within(), Some(Duration::from_secs(5)));
        assert_eq!(request.answered(), None);
        request.answer(&Answer::Failed("it\nended".into()));
        assert_eq!(request.within(), None);
        assert_eq!(request.answered(), Some(Answer::Failed("it ended".into())));
        request.answer(&Answer::Serves(8));
        assert_eq!(request.answered(), Some(Answer::Serves(8)));
        request.remove();
        assert_eq!(request.answered(), None);
    }
}
