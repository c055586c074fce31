//! Keys made at run time and the configuration in force, brought together: each may change at any time.

use super::keys::Keys;
use crate::auth::record::{KeyRecord, Record};
use crate::auth::registry::Registry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// So many refused keys are named in one line.
const NAMED: usize = 20;

/// Who hears of every key that is made, changed or revoked, and puts it in force.
pub(super) struct Roster {
    /// Those of the configuration in force.
    keys: Mutex<Arc<Keys>>,
    registry: OnceLock<Weak<Registry>>,
}

impl Roster {
    /// With the keys of the first configuration.
    pub(super) fn new(keys: Arc<Keys>) -> Roster {
        Roster {
            keys: Mutex::new(keys),
            registry: OnceLock::new(),
        }
    }

    /// All records have been read: from now on they are in force.
    pub(super) fn begin(&self, registry: &Arc<Registry>) {
        let _ = self.registry.set(Arc::downgrade(registry));
        self.fill(&self.keys());
    }

    /// A record is new, or has changed.
    pub(super) fn heard(&self, record: &Record) {
        let Some(registry) = self.registry() else {
            // All are gone through when all have been read.
            return;
        };
        let keys = self.keys();
        let told = |key: &KeyRecord| {
            if !keys.changed(key, registry.account(&key.account).as_deref()) {
                tell_refused(&[&key.id]);
            }
        };
        match record {
            Record::Key(key) => told(key),
            Record::Account(account) => {
                for key in registry.keys() {
                    if key.account == account.id {
                        told(&key);
                    }
                }
            }
        }
    }

    /// Puts the keys of another configuration in force, with all that were made at run time; `swap` makes requests go by
    /// them. Nothing that is made or revoked meanwhile is lost: it waits until this is done.
    pub(super) fn replace(&self, keys: Arc<Keys>, swap: impl FnOnce()) {
        let mut current = self.keys();
        self.fill(&keys);
        swap();
        *current = keys;
    }

    fn fill(&self, keys: &Keys) {
        let Some(registry) = self.registry() else {
            return;
        };
        let records = registry.keys();
        let refused: Vec<&str> = records
            .iter()
            .filter(|key| !keys.changed(key, registry.account(&key.account).as_deref()))
            .map(|key| &*key.id)
            .collect();
        tell_refused(&refused);
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.registry.get().and_then(Weak::upgrade)
    }

    fn keys(&self) -> MutexGuard<'_, Arc<Keys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_refused(ids: &[&str]) {
    let more = match ids.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<&str> = ids.iter().take(NAMED).copied().collect();
    if !named.is_empty() {
        log::warn!(
            "key {}{more}: its plan, account or package is not in the configuration any more, or its hash is none; it is refused until that is mended",
            named.join(", ")
        );
    }
}
