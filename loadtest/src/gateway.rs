//! The configuration that the gateway is measured with.

use std::net::SocketAddr;
use std::path::Path;

use sha2::{Digest, Sha256};

/// The model that every request asks for.
pub const MODEL: &str = "bench-model";

/// The key that every request carries, unless another is given.
pub const KEY: &str = "sk-loadtest-0123456789abcdef0123456789abcdef";

/// What the gateway is to be configured with.
pub struct Settings<'a> {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where it shows its metrics.
    pub metrics: SocketAddr,
    /// The fake provider.
    pub provider: SocketAddr,
    /// The store's directory.
    pub store: &'a Path,
    /// The key that requests carry.
    pub key: &'a str,
    /// Whether the plan has limits, too high to be reached.
    pub limits: bool,
}

impl Settings<'_> {
    /// The configuration file.
    pub fn yaml(&self) -> String {
        let Settings {
            bind,
            metrics,
            provider,
            store,
            key,
            limits,
        } = self;
        let hash: String = Sha256::digest(key.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let limits = match limits {
            true => {
                "requests_per_minute: 100000000, tokens_per_minute: 10000000000, concurrency: 100000, "
            }
            false => "",
        };
        let store = store.display();
        format!(
            r#"version: 1
threads: 1
listeners: [{{ bind: "{bind}" }}]
metrics: {{ bind: "{metrics}" }}
surfaces: [{{ mount: /v1, api: openai }}]
store: {{ path: "{store}" }}
providers:
  fake: {{ api: openai, base_url: "http://{provider}/v1", keys: ["upstream-secret"] }}
models:
  - id: {MODEL}
    upstreams: [{{ provider: fake, model: {MODEL} }}]
    price: {{ input: 1, output: 2 }}
plans:
  p: {{ {limits}models: ["*"] }}
accounts:
  a: {{ plan: p, balance: 1000000, projects: [default] }}
keys:
  - {{ name: bench, account: a, sha256: "{hash}", project: default }}
"#
        )
    }
}
