//! Where keys are looked up: those of the configuration in an immutable snapshot, swapped whole when it
//! changes, and those that were made at run time beside it, each replaced by itself.

use super::Key;
use super::secret::KeyHash;
use ahash::AHashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The keys of one configuration, and those made at run time.
#[derive(Debug, Default)]
pub struct Directory {
    keys: AHashMap<KeyHash, Arc<Key>>,
    made: Arc<Made>,
    anonymous: Option<Arc<Key>>,
}

impl Directory {
    /// A directory of these keys; `anonymous` stands in for requests without one.
    pub fn new(
        keys: impl IntoIterator<Item = (KeyHash, Key)>,
        made: Arc<Made>,
        anonymous: Option<Key>,
    ) -> Directory {
        Directory {
            keys: keys
                .into_iter()
                .map(|(hash, key)| (hash, Arc::new(key)))
                .collect(),
            made,
            anonymous: anonymous.map(Arc::new),
        }
    }

    /// The key with this hash.
    pub fn find(&self, hash: &KeyHash) -> Option<Arc<Key>> {
        match self.keys.get(hash) {
            Some(key) => Some(key.clone()),
            None => self.made.find(hash),
        }
    }

    /// The stand-in for requests without a key.
    pub fn anonymous(&self) -> Option<&Arc<Key>> {
        self.anonymous.as_ref()
    }
}

/// Locks that two threads rarely meet in: a hash begins evenly spread.
const SHARDS: usize = 16;

/// The keys that were made at run time, as one configuration has their plans.
#[derive(Debug, Default)]
pub struct Made {
    keys: [RwLock<AHashMap<KeyHash, Arc<Key>>>; SHARDS],
    /// The hashes of each key, by its id.
    hashes: Mutex<AHashMap<Arc<str>, Vec<KeyHash>>>,
}

impl Made {
    fn shard(&self, hash: &KeyHash) -> &RwLock<AHashMap<KeyHash, Arc<Key>>> {
        let [first, ..] = *hash.as_bytes();
        // There are SHARDS of them.
        &self.keys[usize::from(first) % SHARDS]
    }

    fn find(&self, hash: &KeyHash) -> Option<Arc<Key>> {
        let shard = self.shard(hash).read();
        shard
            .unwrap_or_else(PoisonError::into_inner)
            .get(hash)
            .cloned()
    }

    /// Replaces what is known of a key, by its id: from now on it goes by these hashes; by none, if it is no more.
    pub fn replace(&self, id: &Arc<str>, keys: Vec<(KeyHash, Key)>) {
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<KeyHash> = keys.iter().map(|(hash, _)| *hash).collect();
        for (hash, key) in keys {
            let mut shard = self
                .shard(&hash)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            shard.insert(hash, Arc::new(key));
        }
        let old = match new.is_empty() {
            true => hashes.remove(id),
            false => hashes.insert(id.clone(), new.clone()),
        };
        for hash in old.into_iter().flatten().filter(|old| !new.contains(old)) {
            let shard = self.shard(&hash).write();
            shard.unwrap_or_else(PoisonError::into_inner).remove(&hash);
        }
    }
}
