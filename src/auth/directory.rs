//! Where keys are looked up: an immutable snapshot, swapped whole when the configuration changes.

use super::Key;
use super::secret::KeyHash;
use ahash::AHashMap;
use std::sync::Arc;

/// The keys of one configuration.
#[derive(Debug, Default)]
pub struct Directory {
    keys: AHashMap<KeyHash, Arc<Key>>,
    anonymous: Option<Arc<Key>>,
}

impl Directory {
    /// A directory of these keys; `anonymous` stands in for requests without one.
    pub fn new(
        keys: impl IntoIterator<Item = (KeyHash, Key)>,
        anonymous: Option<Key>,
    ) -> Directory {
        Directory {
            keys: keys
                .into_iter()
                .map(|(hash, key)| (hash, Arc::new(key)))
                .collect(),
            anonymous: anonymous.map(Arc::new),
        }
    }

    /// The key with this hash.
    pub fn find(&self, hash: &KeyHash) -> Option<&Arc<Key>> {
        self.keys.get(hash)
    }

    /// The stand-in for requests without a key.
    pub fn anonymous(&self) -> Option<&Arc<Key>> {
        self.anonymous.as_ref()
    }
}
