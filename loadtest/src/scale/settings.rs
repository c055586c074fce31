//! The configuration of the gateways.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::gateway::{KEY, Limits, MODEL, sha256};
use crate::ledger::admin::TOKEN;
use crate::ledger::money::{PRICE, decimal};
use crate::redis::Disk;

/// What every account begins with, in micro-units: more than any run spends.
pub const BALANCE: i64 = 1_000_000_000_000;

/// The key that asks until a gateway answers, and whose plan has no limits.
pub const PROBE: &str = "probe";

/// The key whose plan is tight.
pub const TIGHT: &str = "tight";

/// What gateways are to be configured with.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether limits and money are in Redis; else in the one gateway itself.
    pub shared: bool,
    /// What Redis keeps on disk.
    pub disk: Disk,
    /// The limits of every plan but those of `probe` and `tight`.
    pub limits: Limits,
    /// The limits of the plan of `tight`.
    pub tight: Limits,
    /// Whether requests are charged.
    pub charging: bool,
    /// How many accounts.
    pub accounts: u64,
    /// How many keys each of them has.
    pub keys: u64,
    /// A provider instead of the one that counts.
    pub provider: Option<SocketAddr>,
}

impl Terms {
    /// The names of all keys, in order; and each with its account.
    pub fn names(self) -> impl Iterator<Item = (String, String)> {
        (0..self.accounts).flat_map(move |account| {
            (0..self.keys).map(move |key| (format!("k{account}-{key}"), format!("a{account}")))
        })
    }
}

/// The secret of a key.
pub fn secret(name: &str) -> String {
    format!("{KEY}-{name}")
}

/// Where a gateway listens, and what it reaches.
pub struct Places<'a> {
    /// For requests.
    pub front: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
    /// For metrics.
    pub metrics: SocketAddr,
    /// The fake provider.
    pub provider: SocketAddr,
    /// What is shared, if it is.
    pub redis: Option<SocketAddr>,
    /// The store's directory.
    pub store: &'a Path,
}

/// The configuration file. What Redis did not decide would blur what is measured: then it is 503, which no run takes for
/// a right answer.
pub fn yaml(terms: Terms, places: &Places<'_>) -> String {
    let Places {
        front,
        admin,
        metrics,
        provider,
        redis,
        store,
    } = places;
    let store = store.display();
    let redis = redis.map_or(String::new(), |redis| {
        format!(
            r#", redis: {{ url: "redis://{redis}/0" }}, on_failure: {{ limits: deny, billing: deny }}"#
        )
    });
    let mode = if terms.charging { "enforce" } else { "off" };
    let [input, output, cached, balance] = [
        i64::try_from(PRICE.input).unwrap_or_default(),
        i64::try_from(PRICE.output).unwrap_or_default(),
        i64::try_from(PRICE.cached).unwrap_or_default(),
        BALANCE,
    ]
    .map(decimal);
    let mut text = format!(
        r#"version: 1
threads: 1
listeners: [{{ bind: "{front}" }}]
admin: {{ bind: "{admin}", token: "{TOKEN}" }}
metrics: {{ bind: "{metrics}" }}
surfaces: [{{ mount: /v1, api: openai }}]
store: {{ path: "{store}"{redis} }}
providers:
  fake: {{ api: openai, base_url: "http://{provider}/v1", keys: ["upstream-secret"] }}
currency: CNY
models:
  - id: {MODEL}
    upstreams: [{{ provider: fake, model: {MODEL} }}]
    price: {{ input: {input}, output: {output}, cached_input: {cached} }}
billing: {{ mode: {mode} }}
plans:
  every: {{ {}models: ["*"] }}
  {TIGHT}: {{ {}models: ["*"] }}
  {PROBE}: {{ models: ["*"] }}
"#,
        terms.limits.yaml(),
        terms.tight.yaml(),
    );
    let mut accounts = String::from("accounts:\n");
    let mut keys = String::from("keys:\n");
    let mut account = |name: &str, plan: &str| {
        let _ = writeln!(accounts, "  {name}: {{ plan: {plan}, balance: {balance} }}");
    };
    for number in 0..terms.accounts {
        account(&format!("a{number}"), "every");
    }
    let own = [TIGHT, PROBE].map(|name| (name.to_owned(), name.to_owned()));
    for (name, _) in &own {
        account(name, name);
    }
    for (name, account) in terms.names().chain(own) {
        let hash = sha256(&secret(&name));
        let _ = writeln!(
            keys,
            r#"  - {{ name: {name}, account: {account}, sha256: "{hash}" }}"#
        );
    }
    text.push_str(&accounts);
    text.push_str(&keys);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_line_of_its_own() {
        let terms = Terms {
            shared: true,
            disk: Disk::Nothing,
            limits: Limits::high(),
            tight: Limits::default(),
            charging: true,
            accounts: 3,
            keys: 2,
            provider: None,
        };
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        let places = Places {
            front: here,
            admin: here,
            metrics: here,
            provider: here,
            redis: Some(here),
            store: Path::new("/nowhere"),
        };
        let text = yaml(terms, &places);
        // Two more of each: the one that is tight, and the one that probes.
        assert_eq!(text.matches("sha256:").count(), 8);
        assert_eq!(text.matches("balance: 1000000.000000").count(), 5);
        assert!(text.contains("{ name: k2-1, account: a2,"));
    }
}
