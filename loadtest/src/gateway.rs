//! The configuration that the gateway is measured with.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::ledger::admin::TOKEN;
use crate::wire::tls::Certificate;

/// The model that every request asks for, unless there are several.
pub const MODEL: &str = "bench-model";

/// The name of one of several models; the first is [`MODEL`].
pub fn model(number: usize) -> String {
    match number {
        0 => MODEL.to_owned(),
        _ => format!("{MODEL}-{number}"),
    }
}

/// The key that every request carries, unless another is given.
pub const KEY: &str = "sk-loadtest-0123456789abcdef0123456789abcdef";

/// The key that the provider is asked with.
pub const PROVIDER_KEY: &str = "upstream-secret";

/// Where the gateway keeps its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// In its own memory: one node.
    Memory,
    /// In Redis: shared by all nodes.
    Redis,
}

/// A Redis for all nodes, and what they do without it.
#[derive(Debug, Clone, Copy)]
pub struct Shared {
    /// Where it listens.
    pub redis: SocketAddr,
    /// The policy for the time in which it is away.
    pub when_away: WhenAway,
}

/// `store.on_failure.limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAway {
    /// Each node limits at its share.
    Local,
    /// Requests under a limit are answered with 503.
    Deny,
}

impl Shared {
    /// For measurements: limits that Redis did not decide would blur what is measured. Then the gateway is to
    /// refuse with 503, which no run takes for a right answer.
    pub fn strict(redis: SocketAddr) -> Self {
        Shared {
            redis,
            when_away: WhenAway::Deny,
        }
    }
}

impl WhenAway {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            WhenAway::Local => "local",
            WhenAway::Deny => "deny",
        }
    }
}

/// A key, with an account of its own unless another is named: what it uses up, no other key lacks. Those with the same
/// limits share a plan, which is named for the first of them.
#[derive(Debug, Clone)]
pub struct Client {
    /// The key's name.
    pub name: String,
    /// Its account; several keys may have the same one.
    pub account: String,
    /// The key itself.
    pub key: String,
    /// The plan's limits.
    pub limits: Limits,
}

/// The limits of a plan; none, unless given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Limits {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Requests at once.
    pub burst: Option<u64>,
    /// Tokens a minute.
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight.
    pub concurrency: Option<u64>,
}

impl Limits {
    /// A limit of requests that is too high to be reached.
    pub fn high_requests() -> Self {
        Limits {
            requests_per_minute: Some(100_000_000),
            ..Limits::default()
        }
    }

    /// Limits of every kind that are too high to be reached.
    pub fn high() -> Self {
        Limits {
            tokens_per_minute: Some(10_000_000_000),
            concurrency: Some(100_000),
            ..Limits::high_requests()
        }
    }

    /// As settings of a plan, each with a comma behind it.
    fn yaml(&self) -> String {
        let Limits {
            requests_per_minute,
            burst,
            tokens_per_minute,
            concurrency,
        } = self;
        [
            ("requests_per_minute", requests_per_minute),
            ("burst", burst),
            ("tokens_per_minute", tokens_per_minute),
            ("concurrency", concurrency),
        ]
        .iter()
        .filter_map(|(name, limit)| limit.map(|limit| format!("{name}: {limit}, ")))
        .collect()
    }
}

impl Client {
    /// One whose key is made of its name.
    pub fn new(name: &str, limits: Limits) -> Self {
        Client {
            name: name.to_owned(),
            account: name.to_owned(),
            key: format!("{KEY}-{name}"),
            limits,
        }
    }
}

/// What the gateway is to be configured with.
pub struct Settings<'a> {
    /// Where it listens.
    pub bind: SocketAddr,
    /// With TLS, and HTTP/2 by ALPN, if there is one.
    pub certificate: Option<&'a Certificate>,
    /// Where it shows its metrics.
    pub metrics: SocketAddr,
    /// Where its admin API listens, if it has one; see [`TOKEN`].
    pub admin: Option<SocketAddr>,
    /// The fake providers; every model is to be had at each of them.
    pub providers: &'a [SocketAddr],
    /// How many models there are.
    pub models: usize,
    /// The most connections, if not as many as the system's limits give.
    pub connections: Option<u64>,
    /// The store's directory.
    pub store: &'a Path,
    /// The Redis that holds the limits; without one, the gateway's memory does.
    pub redis: Option<Shared>,
    /// Whether requests are charged.
    pub charging: bool,
    /// Who may send.
    pub clients: &'a [Client],
}

impl Settings<'_> {
    /// The configuration file.
    pub fn yaml(&self) -> String {
        let Settings {
            bind,
            certificate,
            metrics,
            admin,
            providers,
            models,
            connections,
            store,
            redis,
            charging,
            clients,
        } = self;
        let store = store.display();
        let tls = match certificate {
            Some(Certificate {
                certificate,
                private_key,
            }) => format!(
                r#", tls: {{ cert: "{}", key: "{}" }}"#,
                certificate.display(),
                private_key.display()
            ),
            None => String::new(),
        };
        let mode = if *charging { "enforce" } else { "off" };
        let redis = match redis {
            Some(Shared { redis, when_away }) => {
                let policy = when_away.name();
                format!(
                    r#", redis: {{ url: "redis://{redis}/0" }}, on_failure: {{ limits: {policy} }}"#
                )
            }
            None => String::new(),
        };
        let mut text = format!(
            r#"version: 1
threads: 1
listeners: [{{ bind: "{bind}"{tls} }}]
metrics: {{ bind: "{metrics}" }}
surfaces: [{{ mount: /v1, api: openai }}]
store: {{ path: "{store}"{redis} }}
billing: {{ mode: "{mode}" }}
"#
        );
        if let Some(admin) = admin {
            let _ = writeln!(text, r#"admin: {{ bind: "{admin}", token: "{TOKEN}" }}"#);
        }
        if let Some(most) = connections {
            let _ = writeln!(text, "limits: {{ connections: {most} }}");
        }
        text.push_str("providers:\n");
        for (number, provider) in providers.iter().enumerate() {
            let _ = writeln!(
                text,
                r#"  fake-{number}: {{ api: openai, base_url: "http://{provider}/v1", keys: ["{PROVIDER_KEY}"] }}"#
            );
        }
        text.push_str("models:\n");
        for model in (0..*models).map(model) {
            let upstreams: Vec<String> = (0..providers.len())
                .map(|number| format!("{{ provider: fake-{number}, model: {model} }}"))
                .collect();
            let _ = writeln!(
                text,
                "  - {{ id: {model}, upstreams: [{}], price: {{ input: 1, output: 2 }} }}",
                upstreams.join(", ")
            );
        }
        let mut plans: HashMap<Limits, &str> = HashMap::new();
        text.push_str("plans:\n");
        for Client { name, limits, .. } in *clients {
            if plans.contains_key(limits) {
                continue;
            }
            let _ = writeln!(text, r#"  {name}: {{ {}models: ["*"] }}"#, limits.yaml());
            plans.insert(*limits, name);
        }
        text.push_str("accounts:\n");
        let mut accounts = HashSet::new();
        for client in *clients {
            let Client {
                name,
                account,
                limits,
                ..
            } = client;
            // Keys that share an account share its plan.
            if !accounts.insert(account) {
                continue;
            }
            let plan = plans.get(limits).copied().unwrap_or(name);
            let _ = writeln!(
                text,
                "  {account}: {{ plan: {plan}, balance: 1000000, projects: [default] }}"
            );
        }
        text.push_str("keys:\n");
        for client in *clients {
            let Client {
                name, account, key, ..
            } = client;
            let hash = sha256(key);
            let _ = writeln!(
                text,
                r#"  - {{ name: {name}, account: {account}, sha256: "{hash}", project: default }}"#
            );
        }
        text
    }
}

/// The hash of a key, as the configuration has it.
pub fn sha256(key: &str) -> String {
    let bytes = Sha256::digest(key.as_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_the_limits_that_are_given_and_no_others() {
        assert_eq!(Limits::default().yaml(), "");
        let limits = Limits {
            requests_per_minute: Some(600),
            burst: Some(60),
            ..Limits::default()
        };
        assert_eq!(limits.yaml(), "requests_per_minute: 600, burst: 60, ");
        assert_eq!(
            Limits::high().yaml(),
            "requests_per_minute: 100000000, tokens_per_minute: 10000000000, concurrency: 100000, "
        );
    }

    #[test]
    fn those_with_the_same_limits_share_a_plan() {
        let clients = [
            Client::new("a", Limits::default()),
            Client::new("b", Limits::high()),
            Client::new("c", Limits::default()),
            Client {
                account: "b".to_owned(),
                ..Client::new("d", Limits::high())
            },
        ];
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        let text = Settings {
            bind: here,
            certificate: None,
            metrics: here,
            admin: None,
            providers: &[here, here],
            models: 2,
            connections: None,
            store: Path::new("/store"),
            redis: None,
            charging: false,
            clients: &clients,
        }
        .yaml();
        let plans: Vec<&str> = text
            .lines()
            .skip_while(|line| *line != "plans:")
            .skip(1)
            .take_while(|line| *line != "accounts:")
            .collect();
        assert_eq!(plans.len(), 2, "{text}");
        assert!(text.contains("  c: { plan: a, balance"), "{text}");
        assert!(!text.contains("  d: { plan"), "{text}");
        assert!(text.contains("{ name: d, account: b, sha256"), "{text}");
        assert!(text.contains("id: bench-model-1, upstreams: [{ provider: fake-0, model: bench-model-1 }, { provider: fake-1,"));
    }
}
