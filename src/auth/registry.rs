//! Keys and accounts that were made at run time: read from memory, written to a store first.

use super::record::{AccountRecord, KeyRecord, Record, WriteError, Written};
use crate::billing::Once;
use crate::rejection::quoted;
use crate::store::db::{Db, DbError};
use ahash::AHashMap;
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// A store that is away is asked again after that.
const RETRY: Duration = Duration::from_secs(1);

/// Where records are kept. A store that other nodes write to gives what they wrote to
/// [`Registry::apply`].
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Every record, as name and JSON text.
    ///
    /// # Errors
    /// One line: why they cannot be read.
    async fn load(&self) -> Result<Vec<(String, String)>, String>;

    /// The JSON text of one record; `None` if there is none.
    ///
    /// # Errors
    /// One line: why it cannot be read.
    async fn read(&self, name: &str) -> Result<Option<String>, String>;

    /// Writes a record whose version is the one after the stored one's; durable when this returns.
    ///
    /// # Errors
    /// [`WriteError`].
    async fn write(&self, record: &Arc<Record>, once: Option<&Once>)
    -> Result<Written, WriteError>;
}

/// Is told of every record that is new or has changed, one after the other.
pub type Listener = Arc<dyn Fn(&Record) + Send + Sync>;

/// The records, in memory.
pub struct Registry {
    records: Arc<dyn Records>,
    listener: Listener,
    kept: RwLock<Kept>,
    /// So that the listener hears of changes in their order.
    applying: Mutex<()>,
}

#[derive(Default)]
struct Kept {
    keys: AHashMap<Arc<str>, Arc<KeyRecord>>,
    accounts: AHashMap<Arc<str>, Arc<AccountRecord>>,
}

impl Registry {
    /// Loads all records, and tells the listener of each. One that cannot be read is left where it is,
    /// and its name is logged.
    ///
    /// # Errors
    /// The store's, in one line.
    pub async fn open(
        records: Arc<dyn Records>,
        listener: Listener,
    ) -> Result<Arc<Registry>, String> {
        let stored = records.load().await?;
        let registry = Arc::new(Registry {
            records,
            listener,
            kept: RwLock::default(),
            applying: Mutex::new(()),
        });
        for (name, text) in stored {
            registry.apply_text(&name, &text);
        }
        Ok(registry)
    }

    /// The key with this id.
    pub fn key(&self, id: &str) -> Option<Arc<KeyRecord>> {
        self.kept(|kept| kept.keys.get(id).cloned())
    }

    /// All keys, the oldest first; revoked ones too.
    pub fn keys(&self) -> Vec<Arc<KeyRecord>> {
        let mut keys: Vec<_> = self.kept(|kept| kept.keys.values().cloned().collect());
        keys.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        keys
    }

    /// The account with this id.
    pub fn account(&self, id: &str) -> Option<Arc<AccountRecord>> {
        self.kept(|kept| kept.accounts.get(id).cloned())
    }

    /// All accounts, the oldest first.
    pub fn accounts(&self) -> Vec<Arc<AccountRecord>> {
        let mut accounts: Vec<_> = self.kept(|kept| kept.accounts.values().cloned().collect());
        accounts.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        accounts
    }

    /// Writes a record to the store, then here: it has taken hold when this returns.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write(
        self: &Arc<Self>,
        record: Record,
        once: Option<&Once>,
    ) -> Result<Written, WriteError> {
        let registry = self.clone();
        let once = once.cloned();
        // A client that leaves must not leave a key revoked in the store and good in memory.
        let task = tokio::spawn(async move {
            let record = Arc::new(record);
            let written = registry.records.write(&record, once.as_ref()).await;
            match &written {
                Ok(Written::Now) => registry.apply(Record::clone(&record)),
                // Somebody was here before, and nobody may have told this node: a write whose
                // answer was lost is such a one.
                Ok(Written::Before(name)) => registry.refresh_once(name).await,
                Err(WriteError::Changed) => registry.refresh_once(&record.name()).await,
                Err(WriteError::Away) => {
                    let name = record.name();
                    tokio::spawn(async move { registry.refresh_when_back(&name).await });
                }
                Err(WriteError::Reused) => {}
            }
            written
        });
        task.await.unwrap_or(Err(WriteError::Away))
    }

    /// Takes over what is stored, unless what is here is as new, and tells the listener.
    pub fn apply(&self, record: Record) {
        let _in_order = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.keep(&record) {
            (self.listener)(&record);
        }
    }

    /// The same for a record as it is stored. Gives its version; `None` if it cannot be read.
    pub fn apply_text(&self, name: &str, text: &str) -> Option<u64> {
        match Record::read(name, text) {
            Ok(record) => {
                let version = record.version();
                self.apply(record);
                Some(version)
            }
            // The reason might quote the record.
            Err(_) => {
                log::error!("the stored record {} cannot be read", quoted(name));
                None
            }
        }
    }

    /// The records of which a store has none, or an older one: given are the names and versions that it has.
    pub fn ahead_of(&self, stored: &AHashMap<String, u64>) -> Vec<Record> {
        let accounts = self.accounts().into_iter();
        let accounts = accounts.map(|account| Record::Account(AccountRecord::clone(&account)));
        let keys = self.keys().into_iter();
        let keys = keys.map(|key| Record::Key(KeyRecord::clone(&key)));
        // Keys belong to accounts.
        let mut all: Vec<Record> = accounts.chain(keys).collect();
        all.retain(|record| {
            let there = stored.get(&record.name());
            there.is_none_or(|version| *version < record.version())
        });
        all
    }

    /// Whether the store could be asked.
    async fn refresh(&self, name: &str) -> Result<(), String> {
        if let Some(text) = self.records.read(name).await? {
            self.apply_text(name, &text);
        }
        Ok(())
    }

    async fn refresh_once(&self, name: &str) {
        if let Err(error) = self.refresh(name).await {
            log::warn!("record {} was not read again: {error}", quoted(name));
        }
    }

    /// A write whose answer was lost may have revoked a key: that takes hold without another write.
    async fn refresh_when_back(&self, name: &str) {
        while self.refresh(name).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether it was newer than what was there. Two of one version are the same, but for a failover that lost one
    /// and a node that wrote another then: what was stored last holds.
    fn keep(&self, record: &Record) -> bool {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Record::Key(key) => {
                let old = kept.keys.get(&key.id);
                let newer = old.is_none_or(|old| {
                    old.version < key.version || (old.version == key.version && **old != *key)
                });
                if newer {
                    kept.keys.insert(key.id.clone(), Arc::new(key.clone()));
                }
                newer
            }
            Record::Account(account) => {
                let old = kept.accounts.get(&account.id);
                let newer = old.is_none_or(|old| {
                    old.version < account.version
                        || (old.version == account.version && **old != *account)
                });
                if newer {
                    let new = Arc::new(account.clone());
                    kept.accounts.insert(account.id.clone(), new);
                }
                newer
            }
        }
    }

    fn kept<T>(&self, read: impl FnOnce(&Kept) -> T) -> T {
        read(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Records in the embedded store: nobody else writes them.
pub struct Local(pub Arc<Db>);

#[async_trait]
impl Records for Local {
    async fn load(&self) -> Result<Vec<(String, String)>, String> {
        let stored = aside(&self.0, Db::records).await?;
        stored.map_err(|error| error.to_string())
    }

    async fn read(&self, name: &str) -> Result<Option<String>, String> {
        let name = name.to_owned();
        let stored = aside(&self.0, move |db| db.record(&name)).await?;
        stored.map_err(|error| error.to_string())
    }

    async fn write(
        &self,
        record: &Arc<Record>,
        once: Option<&Once>,
    ) -> Result<Written, WriteError> {
        let (record, once) = (record.clone(), once.cloned());
        let written = aside(&self.0, move |db| db.write(&record, once.as_ref())).await;
        let error = match written {
            Ok(Ok(written)) => return written,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error,
        };
        log::error!("a record may have been written or not: {error}");
        Err(WriteError::Away)
    }
}

/// Waits for the disk where that is allowed.
async fn aside<T: Send + 'static>(
    db: &Arc<Db>,
    work: impl FnOnce(&Db) -> Result<T, DbError> + Send + 'static,
) -> Result<Result<T, DbError>, String> {
    let db = db.clone();
    let done = tokio::task::spawn_blocking(move || work(&db)).await;
    done.map_err(|error| format!("embedded store: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
