//! Names that travel through a request.

use std::cell::Cell;
use std::fmt;

/// The id of one request: 24 hex digits behind `req_`.
///
/// It goes to the client as `x-request-id` and `request-id` and into the access log. It is for
/// finding a line again, not a secret; 96 bits make a repetition unlikely for any log's lifetime.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId([u8; RequestId::LEN]);

impl RequestId {
    /// Length of the text form in bytes.
    pub const LEN: usize = 28;

    /// A new id from a generator of this thread, seeded once by the operating system.
    pub fn new() -> RequestId {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"req_000000000000000000000000";
        let bits = (u128::from(next_random()) << 64) | u128::from(next_random());
        for (at, digit) in text.iter_mut().skip(4).enumerate() {
            *digit = HEX[((bits >> (4 * at)) & 15) as usize];
        }
        RequestId(text)
    }

    /// The id as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for RequestId {
    fn default() -> Self {
        RequestId::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 64 random bits for choices that need no secrecy: request ids, weighted selection, jitter.
///
/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
pub fn next_random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(seed());
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mut z = next;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn seed() -> u64 {
    // `RandomState` is keyed by the operating system once a thread and counts on: distinct
    // threads, and so distinct nodes, start from unrelated places.
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_and_differ() {
        let (a, b) = (RequestId::new(), RequestId::new());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), RequestId::LEN);
        assert!(a.as_str().starts_with("req_"));
        assert!(
            a.as_str()[4..]
                .bytes()
                .all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
        );
    }

    #[test]
    fn random_numbers_spread_over_small_ranges() {
        let mut seen = [0u32; 8];
        for _ in 0..8_000 {
            seen[(next_random() % 8) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
    }
}
