//! The versions of the configuration file: each differs from the one before in something that is served, every tenth
//! is invalid. A version tells its number by a model of its name, and by the price of [`LONG`].

use std::fmt::Write;
use std::net::SocketAddr;

use crate::ledger::admin::Row;
use crate::steady::gateway::{Places, Terms};

/// The model of the long streams.
pub const LONG: &str = "long";

/// What a model's name begins with that tells the version.
const MARKER: &str = "version-";

/// One file in so many is invalid.
const INVALID: u64 = 10;

/// Money for a million tokens of [`LONG`] in version 0: thus a token costs so many micro-units.
const BASE: u64 = 1_000;

/// All that a version is made of.
#[derive(Clone)]
pub struct Versions {
    /// Where the gateway is.
    pub places: Places,
    /// The provider.
    pub upstream: SocketAddr,
    /// Names of keys that every version has.
    pub keys: Vec<String>,
}

/// Whether a version is one that must not be served.
pub fn is_invalid(number: u64) -> bool {
    number % INVALID == INVALID - 1
}

impl Versions {
    /// The file.
    pub fn text(&self, number: u64) -> String {
        let price = BASE + number;
        let mut terms = Terms {
            keys: self.keys.clone(),
            models: format!(
                "  - {{ id: {LONG}, upstreams: [{{ provider: fake, model: fake }}], price: {{ input: 0, output: {price} }} }}\n\
                 \x20 - {{ id: {MARKER}{number}, upstreams: [{{ provider: fake, model: fake }}] }}\n"
            ),
            ..Terms::default()
        };
        match number % 5 {
            0 => {
                let limit = 100_000_000 + number;
                terms.plan = format!("requests_per_minute: {limit}, ");
            }
            1 => terms.keys.push(format!("guest-{number}")),
            2 => {
                let seconds = 30 + number % 30;
                terms.provider = format!(", timeouts: {{ first_byte: {seconds}s }}");
            }
            3 => {
                let _ = writeln!(
                    terms.models,
                    "  - {{ id: extra-{number}, upstreams: [{{ provider: fake, model: fake }}], price: {{ output: 1 }} }}"
                );
            }
            _ => terms.more = format!("limits: {{ body: {}KiB }}\n", 2048 + number % 1024),
        }
        if !is_invalid(number) {
            return self.places.yaml(self.upstream, &terms);
        }
        match number / INVALID % 4 {
            // Broken off, as an editor that does not rename leaves it for a moment.
            0 => {
                let text = self.places.yaml(self.upstream, &terms);
                let half = text.find("base_url").unwrap_or(text.len() / 2);
                text[..half].to_owned()
            }
            1 => {
                terms.more.push_str("modells: []\n");
                self.places.yaml(self.upstream, &terms)
            }
            2 => {
                let mut text = self.places.yaml(self.upstream, &terms);
                let _ = writeln!(
                    text,
                    r#"  - {{ name: stray, account: nobody, sha256: "{}" }}"#,
                    "0".repeat(64)
                );
                text
            }
            _ => {
                terms
                    .models
                    .push_str("  - { id: ghost, upstreams: [{ provider: none }] }\n");
                self.places.yaml(self.upstream, &terms)
            }
        }
    }
}

/// The version that a list of models tells of.
pub fn of_models(list: &str) -> Option<u64> {
    let at = list.find(MARKER)? + MARKER.len();
    let digits = list.get(at..)?;
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

/// The version whose price a charge of [`LONG`] was made by.
pub fn of_charge(row: &Row) -> Option<u64> {
    let cost = u64::try_from(row.cost).ok()?;
    let tokens = row.tokens.output;
    if tokens == 0 || !cost.is_multiple_of(tokens) {
        return None;
    }
    (cost / tokens).checked_sub(BASE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;
    use crate::ledger::admin::Admin;
    use crate::ledger::money::Tokens;

    #[test]
    fn a_version_is_told_by_its_models_and_by_its_price() {
        let list = r#"{"data":[{"id":"long"},{"id":"version-417","object":"model"}]}"#;
        assert_eq!(of_models(list), Some(417));
        assert_eq!(of_models(r#"{"data":[]}"#), None);
        let charge = |output, cost| {
            let tokens = Tokens {
                output,
                ..Tokens::default()
            };
            of_charge(&Row {
                tokens,
                cost,
                ..Row::default()
            })
        };
        assert_eq!(charge(70, 70 * 1_012), Some(12));
        assert_eq!(charge(70, 70 * 1_012 + 1), None);
        assert_eq!(charge(70, 70 * 999), None);
        assert_eq!(charge(0, 0), None);
    }

    #[test]
    fn every_version_differs_and_every_tenth_is_invalid() -> Result<()> {
        let address = "127.0.0.1:9".parse()?;
        let versions = Versions {
            places: Places {
                front: address,
                admin: Admin { address },
                metrics: address,
                file: "file".into(),
                store: "store".into(),
            },
            upstream: address,
            keys: vec!["steady".to_owned()],
        };
        let mut last = String::new();
        for number in 0..100 {
            let text = versions.text(number);
            assert_ne!(text, last);
            last = text;
        }
        let invalid = (0..300).filter(|number| is_invalid(*number));
        assert_eq!(invalid.count(), 30);
        assert!(!is_invalid(0));
        Ok(())
    }
}
