//! The model's name in an answer.

use std::sync::Arc;

use crate::wire::json::{decode_string, encode_string};

/// The name that clients know, in place of whatever an upstream calls the model: its own name, or
/// the dated one that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// What replaces the upstream's name.
    pub public: Arc<str>,
}

impl Rename {
    /// Whether `quoted`, a JSON string with its quotes, is a name other than the public one.
    pub fn applies_to(&self, quoted: &[u8]) -> bool {
        let raw = quoted.get(1..quoted.len().saturating_sub(1));
        // Decoded, because some providers write `\/` in names.
        raw.and_then(decode_string)
            .is_some_and(|name| name != *self.public)
    }

    /// The public name as a JSON string.
    pub fn encoded(&self) -> Vec<u8> {
        let mut public = Vec::with_capacity(self.public.len() + 2);
        encode_string(&self.public, &mut public);
        public
    }
}
