//! Keys of JSON objects as other parsers would read them.

use crate::wire::json::decode_string;

/// A key as the most liberal parser would read it.
pub(super) enum Spelling<'a> {
    /// No escapes, ASCII only: nearly every key.
    Plain(&'a [u8]),
    /// Escapes decoded, case folded as Go's encoding/json folds it, cut at a NUL as C
    /// strings are.
    Folded(String),
}

impl<'a> Spelling<'a> {
    pub(super) fn of(key: &'a [u8]) -> Self {
        if key.is_ascii() && !key.contains(&b'\\') {
            return Self::Plain(key);
        }
        let decoded = decode_string(key).unwrap_or_default();
        let fold = |c: char| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            '\u{130}' | '\u{131}' => 'i',
            _ => c.to_ascii_lowercase(),
        };
        Self::Folded(
            decoded
                .chars()
                .take_while(|&c| c != '\0')
                .map(fold)
                .collect(),
        )
    }

    pub(super) fn reads_as(&self, name: &str) -> bool {
        match self {
            Self::Plain(key) => key.eq_ignore_ascii_case(name.as_bytes()),
            Self::Folded(key) => key == name,
        }
    }
}
