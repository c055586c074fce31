//! The gateway in this process, on free ports: the code that `tollgate serve` runs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tollgate::config::{Config, parse, read};
use tollgate::server::{Running, Source, start};

/// The key that [`Gateway::start`] gives its configuration: allowed every model of plan `all`.
pub const KEY: &str = "sk-test-0123456789abcdef0123456789abcdef";
/// A second key, of the plan `few`: models `gpt-*` only.
pub const NARROW_KEY: &str = "sk-narrow-0123456789abcdef0123456789abcdef";

/// The hash of a key as the configuration wants it.
pub fn sha256(key: &str) -> String {
    Sha256::digest(key.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A running gateway; it stops when dropped with its runtime.
pub struct Gateway {
    pub addr: SocketAddr,
    /// All listeners, in the order of the configuration.
    pub listeners: Vec<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub running: Running,
    log: Log,
    /// Its store, where the configuration names none.
    _store: TempDir,
}

impl Gateway {
    /// Starts with `providers`, `models` and whatever else as YAML text, each a top-level section;
    /// the rest (listener and metrics on port 0, plans `all` and `few`, account, the two keys) is
    /// added unless the text has the section itself.
    pub async fn start(sections: &str) -> Gateway {
        Gateway::with(&complete(sections)).await
    }

    /// Starts with exactly this configuration.
    pub async fn with(yaml: &str) -> Gateway {
        Gateway::from(&config(yaml)).await
    }

    /// Serves a file that names its store; it is read again on a reload, and when a look every `look` shows a change.
    pub async fn of_file(path: &Path, look: Duration) -> Gateway {
        let file = path.to_owned();
        match Source::open(path, move || read(&file, &|_| None)) {
            Ok((source, config)) => Gateway::served(&config, Some(source.every(look))).await,
            Err(errors) => panic!("{errors}"),
        }
    }

    pub async fn from(config: &Config) -> Gateway {
        Gateway::served(config, None).await
    }

    async fn served(config: &Config, source: Option<Source>) -> Gateway {
        let log = Log::default();
        let store = TempDir::with_prefix("tollgate-").expect("a directory");
        let mut config = config.clone();
        if config.store.path == Path::new("./data") {
            // Gateways side by side must not share it.
            config.store.path = store.path().to_owned();
        }
        let running = match start(&config, log.clone(), source).await {
            Ok(running) => running,
            Err(message) => panic!("the gateway does not start: {message}"),
        };
        let listeners: Vec<SocketAddr> = running.listeners.iter().map(|l| l.address).collect();
        Gateway {
            addr: listeners[0],
            listeners,
            metrics: running.metrics,
            admin: running.admin,
            running,
            log,
            _store: store,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Waits until the access log has `count` lines and gives them, parsed.
    pub async fn log(&self, count: usize) -> Vec<Value> {
        let found = async {
            loop {
                let lines = self.log.lines();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(10), found).await {
            Ok(lines) => lines,
            Err(_) => panic!("the access log has only {:?}", self.log.lines()),
        }
    }

    /// Everything that the access log has so far, as text.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// The metrics page.
    pub async fn metrics_text(&self) -> String {
        let addr = self
            .metrics
            .expect("the configuration has no metrics listener");
        let mut client = super::http::Client::connect(addr).await;
        String::from_utf8(client.get("/metrics", "").await.body.to_vec()).expect("metrics are text")
    }

    /// The value of one series, by its exact name and labels as the page shows them; 0 if absent.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.metrics_text().await;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }
}

/// Reads a configuration; variables come from nowhere.
pub fn config(yaml: &str) -> Config {
    match parse("test.yaml", yaml, &|_| None) {
        Ok(config) => config,
        Err(errors) => panic!("{errors}\n{yaml}"),
    }
}

/// Adds the sections that a test does not care for.
pub fn complete(sections: &str) -> String {
    let mut yaml = String::from(sections.trim_start_matches('\n'));
    yaml.push('\n');
    let defaults = [
        ("version", "version: 1\n".to_owned()),
        (
            "listeners",
            "listeners: [{ bind: 127.0.0.1:0 }]\n".to_owned(),
        ),
        ("metrics", "metrics: { bind: 127.0.0.1:0 }\n".to_owned()),
        (
            "plans",
            "plans: { all: { models: [\"*\"] }, few: { models: [\"gpt-*\"] } }\n".to_owned(),
        ),
        (
            "accounts",
            "accounts: { acme: { plan: all, projects: [default] } }\n".to_owned(),
        ),
        (
            "keys",
            format!(
                "keys:\n  - {{ name: test, account: acme, project: default, sha256: {:?} }}\n  - {{ name: narrow, account: acme, project: default, plan: few, sha256: {:?} }}\n",
                sha256(KEY),
                sha256(NARROW_KEY)
            ),
        ),
    ];
    for (section, text) in defaults {
        let has = yaml.lines().any(|line| {
            line.strip_prefix(section)
                .is_some_and(|rest| rest.starts_with(':'))
        });
        if !has {
            yaml.push_str(&text);
        }
    }
    yaml
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(bytes.clone()).expect("the log is text")
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("every line is JSON"))
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
