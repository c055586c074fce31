//! Gateways that charge: their configuration, and their lives on the same ports and directory.

use std::ffi::OsStr;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::admin::{Admin, TOKEN};
use super::money::{PICTURE, PRICE, decimal};
use crate::Result;
use crate::gateway::{KEY, sha256};
use crate::process::{Process, Scratch, free_ports};

/// The model whose tokens cost something. The provider calls it otherwise, so that answers are read, not only passed.
pub const MODEL: &str = "count";

/// The model whose pictures cost something.
pub const PAINTER: &str = "paint";

/// How long a gateway may take to listen.
const START: Duration = Duration::from_secs(60);

/// How long a gateway may take to end when asked to.
const STOP: Duration = Duration::from_secs(60);

/// A key of the configuration.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name, and its row's in the usage.
    pub name: String,
    /// Who pays.
    pub account: &'static str,
}

impl Key {
    /// The key itself.
    pub fn secret(&self) -> String {
        format!("{KEY}-{}", self.name)
    }
}

/// What gateways have in common.
pub struct Terms<'a> {
    /// The scripted provider.
    pub provider: SocketAddr,
    /// Accounts, with their first balances in micro-units.
    pub accounts: &'a [(&'static str, i64)],
    /// Their keys.
    pub keys: &'a [Key],
    /// Where balances are, if not in the gateway itself.
    pub redis: Option<SocketAddr>,
}

/// Where a gateway listens, and where it keeps what must last.
pub struct Places {
    /// Where requests go.
    pub front: SocketAddr,
    /// The admin API.
    pub admin: SocketAddr,
    /// The metrics.
    pub metrics: SocketAddr,
    /// The store's directory.
    pub store: PathBuf,
}

/// One gateway. Its lives follow each other on the same ports and the same directory.
pub struct Node {
    /// What it is called in reports.
    pub name: String,
    /// Where requests go.
    pub front: SocketAddr,
    /// Its admin API.
    pub admin: Admin,
    /// Where it shows its metrics.
    pub metrics: SocketAddr,
    program: PathBuf,
    file: PathBuf,
    life: u32,
    process: Option<Process>,
    /// Lines of its log that tell of a panic.
    panics: Vec<String>,
}

impl Node {
    /// One that does not run yet.
    pub fn new(name: &str, program: &Path, scratch: &Scratch, terms: &Terms<'_>) -> Result<Self> {
        Node::configured(name, program, scratch, |places| yaml(terms, places))
    }

    /// The same, with a configuration of one's own.
    pub fn configured(
        name: &str,
        program: &Path,
        scratch: &Scratch,
        yaml: impl FnOnce(&Places) -> String,
    ) -> Result<Self> {
        let [front, admin, metrics] = free_ports()?;
        let file = scratch.path().join(format!("{}.yaml", front.port()));
        let store = scratch.path().join(format!("store-{}", front.port()));
        let places = Places {
            front,
            admin,
            metrics,
            store,
        };
        std::fs::write(&file, yaml(&places))?;
        Ok(Node {
            name: name.to_owned(),
            front,
            admin: Admin { address: admin },
            metrics,
            program: program.to_owned(),
            file,
            life: 0,
            process: None,
            panics: Vec::new(),
        })
    }

    /// Starts it, and waits for nothing.
    pub fn start(&mut self, scratch: &Scratch) -> Result<()> {
        self.life += 1;
        let log = format!("gateway-{}-{}", self.front.port(), self.life);
        let command: [&OsStr; 4] = [
            self.program.as_ref(),
            "serve".as_ref(),
            "--config".as_ref(),
            self.file.as_ref(),
        ];
        self.process = Some(Process::start(&log, None, scratch, &command)?);
        Ok(())
    }

    /// Waits until it takes requests and calls of the admin API.
    pub async fn open(&mut self) -> Result<()> {
        let begin = Instant::now();
        for address in [self.front, self.admin.address, self.metrics] {
            while TcpStream::connect(address).await.is_err() {
                self.check()?;
                if begin.elapsed() > START {
                    let words = self.process.as_ref().map(Process::last_words);
                    let words = words.unwrap_or_default();
                    return Err(
                        format!("{}: does not listen on {address}\n{words}", self.name).into(),
                    );
                }
                sleep(Duration::from_millis(2)).await;
            }
        }
        Ok(())
    }

    /// An error unless it runs.
    pub fn check(&mut self) -> Result<()> {
        let process = self
            .process
            .as_mut()
            .ok_or("a gateway that was not started")?;
        let name = &self.name;
        process
            .check()
            .map_err(|error| format!("{name}: {error}").into())
    }

    /// SIGKILL. An error if it had ended by itself before.
    pub fn kill(&mut self) -> Result<()> {
        self.check()?;
        if let Some(process) = &mut self.process {
            process.kill()?;
        }
        self.read_log()
    }

    /// SIGTERM, and waits for its end, which must be a good one.
    pub async fn stop(&mut self) -> Result<()> {
        self.check()?;
        let name = &self.name;
        if let Some(process) = &mut self.process {
            process.signal("TERM")?;
            let end = process.ended(STOP).await;
            let end = end.map_err(|error| format!("{name}: {error}"))?;
            if !end.success() {
                let words = process.last_words();
                return Err(format!("{name} ended with {end}\n{words}").into());
            }
        }
        self.read_log()
    }

    /// What it holds in memory now, in KiB: its share (PSS). Nothing while it starts or ends.
    pub fn memory(&self) -> Option<u64> {
        let memory = self.process.as_ref()?.memory().ok()?;
        Some(memory.pss)
    }

    /// Lines of all its lives that tell of a panic.
    pub fn panics(&mut self) -> Result<Vec<String>> {
        self.read_log()?;
        Ok(std::mem::take(&mut self.panics))
    }

    fn read_log(&mut self) -> Result<()> {
        if let Some(process) = &self.process {
            let words = process.words()?;
            let told = words.lines().filter(|line| line.contains("panicked"));
            self.panics.extend(told.map(str::to_owned));
        }
        Ok(())
    }
}

/// The configuration file. Limits are local without Redis, and money is refused after a grace: the defaults.
fn yaml(terms: &Terms<'_>, places: &Places) -> String {
    let Terms {
        provider,
        accounts,
        keys,
        redis,
    } = terms;
    let Places {
        front,
        admin,
        metrics,
        store,
    } = places;
    let store = store.display();
    let redis = redis.map_or(String::new(), |redis| {
        format!(
            r#", redis: {{ url: "redis://{redis}/0" }}, on_failure: {{ limits: local, billing: deny }}"#
        )
    });
    let [input, output, cached] = [PRICE.input, PRICE.output, PRICE.cached]
        .map(|price| decimal(i64::try_from(price).unwrap_or_default()));
    let picture = decimal(PICTURE);
    let payers = payers(accounts, keys);
    format!(
        r#"version: 1
threads: 2
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
    upstreams: [{{ provider: fake, model: fake }}]
    price: {{ input: {input}, output: {output}, cached_input: {cached} }}
  - id: {PAINTER}
    modality: image
    upstreams: [{{ provider: fake, model: fake }}]
    price: {{ image: {picture} }}
{payers}"#
    )
}

/// Who pays: one plan without limits, accounts with their first balances, their keys.
pub fn payers(accounts: &[(&str, i64)], keys: &[Key]) -> String {
    let mut text = String::from(
        "plans:\n  open: { models: [\"*\"] }\nbilling: { mode: enforce }\naccounts:\n",
    );
    for (account, balance) in accounts {
        let balance = decimal(*balance);
        let _ = writeln!(
            text,
            "  {account}: {{ plan: open, balance: {balance}, projects: [default] }}"
        );
    }
    text.push_str(if keys.is_empty() {
        "keys: []\n"
    } else {
        "keys:\n"
    });
    for key in keys {
        let Key { name, account } = key;
        let hash = sha256(&key.secret());
        let _ = writeln!(
            text,
            r#"  - {{ name: {name}, account: {account}, sha256: "{hash}", project: default }}"#
        );
    }
    text
}
