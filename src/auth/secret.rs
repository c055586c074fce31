//! Keys as they are kept and shown: a hash to find them by, a hint for logs, never the text.

use sha2::{Digest, Sha256};
use std::fmt;

/// SHA-256 of a key. Keys carry 256 random bits, so that a plain hash is enough: there is nothing
/// to guess, and a look-up by hash leaks no timing of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key's text.
    pub fn of(key: &str) -> KeyHash {
        KeyHash(Sha256::digest(key.as_bytes()).into())
    }

    /// The hash itself.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A hash that was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> KeyHash {
        KeyHash(bytes)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// The first 8 characters of a key: all that logs, metrics and errors may show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHint([u8; 8]);

impl KeyHint {
    /// No key was sent.
    pub const NONE: KeyHint = KeyHint([0; 8]);

    /// The hint of a key's text. What is not printable ASCII becomes `?`, and a text of 16
    /// characters or fewer shows only its first quarter: a short, home-made key must not stand
    /// in a log nearly whole.
    pub fn of(key: &str) -> KeyHint {
        let shown = if key.len() > 16 { 8 } else { key.len() / 4 };
        let mut hint = [0; 8];
        for (to, from) in hint.iter_mut().zip(key.bytes().take(shown)) {
            *to = if from.is_ascii_graphic() { from } else { b'?' };
        }
        KeyHint(hint)
    }

    /// The characters; empty for none.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|c| *c == 0).unwrap_or(8);
        self.0
            .get(..end)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}…")
    }
}

/// A new key: the prefix and 256 bits of the operating system's randomness in base 62.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn generate(prefix: &str) -> Result<String, getrandom::Error> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut number = [0u8; 32];
    getrandom::fill(&mut number)?;
    let mut key = String::with_capacity(prefix.len() + 43);
    key.push_str(prefix);
    // 43 digits in base 62 hold 256 bits: long division by 62, digit by digit.
    for _ in 0..43 {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = (value / 62) as u8;
            remainder = value % 62;
        }
        key.push(char::from(ALPHABET[remainder as usize]));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_random_and_prefixed() {
        let (a, b) = (generate("sk-").unwrap(), generate("sk-").unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), 3 + 43);
        assert!(a.starts_with("sk-"));
        assert!(a[3..].bytes().all(|c| c.is_ascii_alphanumeric()));
    }

    #[test]
    fn the_hash_is_plain_sha_256() {
        // FIPS 180-2, appendix B.1: SHA-256 of "abc".
        assert_eq!(KeyHash::of("abc").0[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn neither_hash_nor_hint_shows_the_key() {
        let key = "sk-0123456789abcdef0123";
        assert!(!format!("{:?}", KeyHash::of(key)).contains("0123456789"));
        assert_eq!(KeyHint::of(key).as_str(), "sk-01234");
        assert_eq!(KeyHint::of("sk-short").as_str(), "sk");
        assert_eq!(
            KeyHint::of("a\nb\u{e9}5678901234567890").as_str(),
            "a?b??567"
        );
        assert_eq!(KeyHint::NONE.as_str(), "");
    }
}
