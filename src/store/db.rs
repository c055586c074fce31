//! The embedded store of one node: balances, usage, entries and what was made at run time, in one file
//! that survives a kill at any moment. Every method waits for the disk: call it where that is allowed.
//!
//! Values are JSON, so that fields can be added, and an operator can read what is in there.

mod charges;
mod once;
mod posts;
mod records;
mod verify;

pub(crate) use posts::opening;

use crate::clock::Clock;
use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// The file's name below `store.path`.
pub const FILE: &str = "tollgate.redb";
/// The form of the tables below. Another one is another program's.
const SCHEMA: u64 = 1;
/// The default of redb is 1 GiB.
const CACHE: usize = 32 * 1024 * 1024;
/// Who asks while a successor opens the file waits so long for it to come back.
const LOAN: Duration = Duration::from_secs(5);

type Bytes = &'static [u8];
/// What the file says of itself: `schema`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Account → wallet.
const WALLETS: TableDefinition<&str, Bytes> = TableDefinition::new("wallets");
/// Account and number, from 0 on without a gap → entry. The first one opens the account.
const ENTRIES: TableDefinition<(&str, u64), Bytes> = TableDefinition::new("entries");
/// Account, day, key, project, model → sums.
const USAGE: TableDefinition<(&str, i32, &str, &str, &str), Bytes> = TableDefinition::new("usage");
/// A journal's epoch → the last sequence number that was applied.
const MARKS: TableDefinition<u64, u64> = TableDefinition::new("marks");
/// `Idempotency-Key` → what it was used for.
const ONCE: TableDefinition<&str, Bytes> = TableDefinition::new("once");
/// The same by time, in milliseconds since 1970: what is to be forgotten first.
const ONCE_TIMES: TableDefinition<(u64, &str), ()> = TableDefinition::new("once_times");
/// Name → record.
const RECORDS: TableDefinition<&str, Bytes> = TableDefinition::new("records");

/// Why the store did not do something: one line. What it was to write may be written or not.
#[derive(Debug)]
pub struct DbError {
    words: String,
    /// The open file is of no more use; the next call opens it again.
    broken: bool,
}

impl DbError {
    /// Something in there that this program has not written.
    fn content(what: impl fmt::Display) -> DbError {
        DbError {
            words: format!("unreadable content: {what}"),
            broken: false,
        }
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words from the system and from redb: nobody promises that they are one line.
        let words = self.words.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(f, "embedded store: {words}")
    }
}

impl std::error::Error for DbError {}

impl From<redb::Error> for DbError {
    fn from(error: redb::Error) -> DbError {
        use redb::Error as E;
        let broken = matches!(
            error,
            E::Io(_) | E::PreviousIo | E::Corrupted(_) | E::DatabaseClosed | E::LockPoisoned(_)
        );
        DbError {
            words: error.to_string(),
            broken,
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for DbError {
            fn from(error: redb::$error) -> DbError {
                redb::Error::from(error).into()
            }
        }
    )*};
}
from_redb!(
    StorageError,
    TableError,
    TransactionError,
    CommitError,
    DatabaseError
);

/// Whose the file is while an upgrade is under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    /// A successor opens it, and may fail.
    Lent,
    /// The successor's.
    Given,
}

/// The embedded store.
pub struct Db {
    file: PathBuf,
    clock: Clock,
    /// `None` after an error that made the open file useless: a full disk is such a one, and it may
    /// be emptied again.
    open: RwLock<Option<Database>>,
    whose: Mutex<Whose>,
    decided: Condvar,
    /// The last to be dropped: whoever waits for it finds the file closed.
    end: watch::Sender<()>,
}

impl Db {
    /// Opens the store in `dir`, which is made if there is none.
    ///
    /// # Errors
    /// One line that says what is wrong with `store.path`.
    pub fn open(dir: &Path) -> Result<Db, String> {
        Db::open_by(dir, Clock::system())
    }

    /// The same by another clock, which says when an `Idempotency-Key` is forgotten.
    ///
    /// # Errors
    /// As those of [`Db::open`].
    pub fn open_by(dir: &Path, clock: Clock) -> Result<Db, String> {
        let wrong = |what: &dyn fmt::Display| format!("store.path {}: {what}", dir.display());
        let mut maker = DirBuilder::new();
        maker.recursive(true).mode(0o700);
        maker.create(dir).map_err(|error| wrong(&error))?;
        let file = dir.join(FILE);
        let database = guarded(|| open(&file)).map_err(|error| match error.words.as_str() {
            IN_USE => wrong(&IN_USE),
            _ => wrong(&error),
        })?;
        Ok(Db {
            file,
            clock,
            open: RwLock::new(Some(database)),
            whose: Mutex::new(Whose::Ours),
            decided: Condvar::new(),
            end: watch::Sender::new(()),
        })
    }

    /// Ends when nobody uses the store any more, and its file is closed: another may open it then.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut end = self.end.subscribe();
        async move { while end.changed().await.is_ok() {} }
    }

    /// Milliseconds since 1970.
    fn now(&self) -> u64 {
        self.clock.now().wall
    }

    /// Runs `work` on the open file; opens it again first where an error has closed it.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, DbError>) -> Result<T, DbError> {
        self.ours()?;
        self.reopen()?;
        let found = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            match &*open {
                Some(database) => guarded(|| work(database)),
                None => Err(DbError {
                    words: "closed after an error; try again".into(),
                    broken: false,
                }),
            }
        };
        if found.as_ref().is_err_and(|error| error.broken) {
            self.close();
        }
        found
    }

    /// Closes the file; the next call opens it again.
    pub(crate) fn close(&self) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let closed = open.take();
        // Closing writes, and may fail as all else did.
        let _ = guarded(|| {
            drop(closed);
            Ok(())
        });
    }

    fn reopen(&self) -> Result<(), DbError> {
        let is_open = |open: &Option<Database>| open.is_some();
        if is_open(&self.open.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let mut database = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if *self.whose() != Whose::Ours {
            return Err(elsewhere());
        }
        if database.is_none() {
            *database = Some(guarded(|| open(&self.file))?);
        }
        Ok(())
    }

    /// Closes the file for a successor to open. Who asks meanwhile waits a while for what comes of it.
    pub fn lend(&self) {
        *self.whose() = Whose::Lent;
        self.close();
    }

    /// The successor has failed.
    ///
    /// # Errors
    /// [`DbError`]: the file could not be opened; the next call tries again.
    pub fn take_back(&self) -> Result<(), DbError> {
        *self.whose() = Whose::Ours;
        self.decided.notify_all();
        self.reopen()
    }

    /// The successor has it for good: whatever is asked from now on fails.
    pub fn give(&self) {
        *self.whose() = Whose::Given;
        self.decided.notify_all();
    }

    /// Whether a successor has it for good.
    pub fn is_given(&self) -> bool {
        *self.whose() == Whose::Given
    }

    fn whose(&self) -> std::sync::MutexGuard<'_, Whose> {
        self.whose.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ours(&self) -> Result<(), DbError> {
        let lent = |whose: &mut Whose| *whose == Whose::Lent;
        let waited = self.decided.wait_timeout_while(self.whose(), LOAN, lent);
        let (whose, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match *whose {
            Whose::Ours => Ok(()),
            Whose::Lent | Whose::Given => Err(elsewhere()),
        }
    }

    /// One transaction: all of it is on the disk when this returns, or nothing if `work` refuses.
    fn transact<T, R>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<Result<T, R>, DbError>,
    ) -> Result<Result<T, R>, DbError> {
        self.with(|database| {
            let transaction = begin(database)?;
            match work(&transaction)? {
                Ok(done) => {
                    transaction.commit()?;
                    Ok(Ok(done))
                }
                Err(refused) => {
                    transaction.abort()?;
                    Ok(Err(refused))
                }
            }
        })
    }

    /// A view of one moment.
    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.with(|database| work(&database.begin_read()?))
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.close();
    }
}

fn elsewhere() -> DbError {
    DbError {
        words: "handed over to the process that was started by the upgrade".into(),
        broken: false,
    }
}

const IN_USE: &str = "another tollgate process has it open; stop it, or give each its own path";

fn open(path: &Path) -> Result<Database, DbError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path).map_err(redb::Error::from)?;
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(redb::Error::from)?;
    let opened = redb::Builder::new().set_cache_size(CACHE).create_file(file);
    let database = opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => DbError {
            words: IN_USE.into(),
            broken: false,
        },
        other => other.into(),
    })?;
    let transaction = begin(&database)?;
    {
        let mut meta = transaction.open_table(META)?;
        let schema = redb::ReadableTable::get(&meta, "schema")?.map(|found| found.value());
        match schema {
            Some(SCHEMA) => {}
            None => {
                meta.insert("schema", SCHEMA)?;
            }
            Some(other) => {
                return Err(DbError {
                    words: format!(
                        "written by another version of tollgate, as schema {other}; this one has \
                         schema {SCHEMA}: use that version, or another path"
                    ),
                    broken: false,
                });
            }
        }
        // A read transaction cannot make them.
        transaction.open_table(WALLETS)?;
        transaction.open_table(ENTRIES)?;
        transaction.open_table(USAGE)?;
        transaction.open_table(MARKS)?;
        transaction.open_table(ONCE)?;
        transaction.open_table(ONCE_TIMES)?;
        transaction.open_table(RECORDS)?;
    }
    transaction.commit()?;
    // The name of a new file is in its directory.
    if let Some(dir) = path.parent() {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(redb::Error::from)?;
    }
    Ok(database)
}

fn begin(database: &Database) -> Result<WriteTransaction, DbError> {
    // `Durability::Immediate` is the default.
    let mut transaction = database.begin_write()?;
    // After a kill the file is good at once, instead of after a walk through all of it.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// On a damaged file redb may panic; that is an error like others.
fn guarded<T>(work: impl FnOnce() -> Result<T, DbError>) -> Result<T, DbError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(DbError {
            words: "the file is damaged: restore it from a copy".into(),
            broken: true,
        })
    })
}

/// What a value says.
fn parse<T: DeserializeOwned>(table: &str, value: &[u8]) -> Result<T, DbError> {
    serde_json::from_slice(value).map_err(|error| DbError::content(format!("{table}: {error}")))
}

fn text(value: &impl Serialize) -> Result<Vec<u8>, DbError> {
    serde_json::to_vec(value).map_err(DbError::content)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
