//! The gateway under test: where it is, its configuration file, and its first process.

use std::ffi::OsStr;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Result;
use crate::gateway::{KEY, sha256};
use crate::ledger::admin::{Account, Admin, TOKEN};
use crate::ledger::money::{PRICE, decimal};
use crate::ledger::site::MODEL;
use crate::process::{Process, Scratch, free_ports};

/// The account that pays for everything, and what it begins with in micro-units.
pub const ACCOUNT: &str = "load";
const SEED: i64 = 1_000_000_000_000;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(30);

/// How long it may take until nothing is held any more: a hold in Redis that no journal knows of, two minutes.
const RELEASE: Duration = Duration::from_secs(150);

/// Where a gateway is.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where requests go.
    pub front: SocketAddr,
    /// Its admin API.
    pub admin: Admin,
    /// Where it shows its metrics.
    pub metrics: SocketAddr,
    /// Its configuration file.
    pub file: PathBuf,
    /// Its store's directory.
    pub store: PathBuf,
}

/// What it is configured with, beside the model that good traffic asks for.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Names of keys; all belong to [`ACCOUNT`].
    pub keys: Vec<String>,
    /// Another key, with an account and a plan of its own.
    pub limited: Option<Limited>,
    /// Its balances and limits are in this Redis.
    pub redis: Option<SocketAddr>,
    /// Further settings of the only plan, each with a comma behind it.
    pub plan: String,
    /// Further settings of the provider, each with a comma in front of it.
    pub provider: String,
    /// Further providers, a line each.
    pub providers: String,
    /// Further models: items of the list, a line each.
    pub models: String,
    /// Further settings, a line each.
    pub more: String,
}

/// A key with a plan that limits it.
#[derive(Debug, Clone)]
pub struct Limited {
    /// The name of key, account and plan.
    pub name: String,
    /// Settings of the plan, each with a comma behind it.
    pub plan: String,
}

/// A running gateway; its first process ends when dropped.
pub struct Gateway {
    /// Where it is.
    pub places: Places,
    /// The process that was started first.
    pub process: Process,
}

/// The key of a name.
pub fn secret(name: &str) -> String {
    format!("{KEY}-{name}")
}

impl Places {
    /// Free ports, and paths of their own.
    pub fn new(scratch: &Scratch) -> Result<Self> {
        let [front, admin, metrics] = free_ports()?;
        Ok(Places {
            front,
            admin: Admin { address: admin },
            metrics,
            file: scratch.path().join(format!("{}.yaml", front.port())),
            store: scratch.path().join(format!("store-{}", front.port())),
        })
    }

    /// Puts a text in the place of the configuration file, by rename: nobody reads half of it.
    pub fn configure(&self, text: &str) -> Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, text)?;
        Ok(std::fs::rename(&next, &self.file)?)
    }

    /// The configuration file's text.
    pub fn yaml(&self, upstream: SocketAddr, terms: &Terms) -> String {
        let Places {
            front,
            admin,
            metrics,
            file: _,
            store,
        } = self;
        let Terms {
            keys,
            limited,
            redis,
            plan,
            provider,
            providers,
            models,
            more,
        } = terms;
        let (admin, store) = (admin.address, store.display());
        let redis = redis.map_or(String::new(), |redis| {
            format!(r#", redis: {{ url: "redis://{redis}/0" }}"#)
        });
        let [input, output, cached] = [PRICE.input, PRICE.output, PRICE.cached]
            .map(|price| decimal(i64::try_from(price).unwrap_or_default()));
        let balance = decimal(SEED);
        let (mut plans, mut accounts) = (String::new(), String::new());
        if let Some(Limited { name, plan }) = limited {
            plans = format!("  {name}: {{ {plan}models: [\"*\"] }}\n");
            accounts =
                format!("  {name}: {{ plan: {name}, balance: {balance}, projects: [default] }}\n");
        }
        let mut text = format!(
            r#"version: 1
threads: 2
listeners: [{{ bind: "{front}" }}]
admin: {{ bind: "{admin}", token: "{TOKEN}" }}
metrics: {{ bind: "{metrics}" }}
surfaces: [{{ mount: /v1, api: openai }}]
store: {{ path: "{store}"{redis} }}
providers:
  fake: {{ api: openai, base_url: "http://{upstream}/v1", keys: ["upstream-secret"]{provider} }}
{providers}currency: CNY
models:
  - id: {MODEL}
    upstreams: [{{ provider: fake, model: fake }}]
    price: {{ input: {input}, output: {output}, cached_input: {cached} }}
{models}plans:
  open: {{ {plan}models: ["*"] }}
{plans}billing: {{ mode: enforce }}
{more}accounts:
  {ACCOUNT}: {{ plan: open, balance: {balance}, projects: [default] }}
{accounts}keys:
"#
        );
        let others = limited.iter().map(|one| (&one.name, one.name.as_str()));
        for (name, account) in keys.iter().map(|name| (name, ACCOUNT)).chain(others) {
            let hash = sha256(&secret(name));
            let _ = writeln!(
                text,
                r#"  - {{ name: {name}, account: {account}, sha256: "{hash}", project: default }}"#
            );
        }
        text
    }
}

impl Gateway {
    /// Starts one on its configuration file, and waits until it takes requests. `before` is what the program is
    /// started by, which replaces itself by it.
    pub async fn start(
        program: &Path,
        before: &[&str],
        scratch: &Scratch,
        places: Places,
    ) -> Result<Self> {
        let mut command: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
        let served: [&OsStr; 4] = [
            program.as_ref(),
            "serve".as_ref(),
            "--config".as_ref(),
            places.file.as_ref(),
        ];
        command.extend(served);
        let log = format!("gateway-{}", places.front.port());
        let process = Process::start(&log, None, scratch, &command)?;
        let mut gateway = Gateway { places, process };
        gateway.open().await?;
        Ok(gateway)
    }

    async fn open(&mut self) -> Result<()> {
        let begin = Instant::now();
        let Places {
            front,
            admin,
            metrics,
            ..
        } = &self.places;
        for address in [*front, admin.address, *metrics] {
            while TcpStream::connect(address).await.is_err() {
                self.process.check()?;
                if begin.elapsed() > START {
                    let words = self.process.last_words();
                    return Err(format!("does not listen on {address}\n{words}").into());
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Lines of its log that tell of a panic.
    pub fn panics(&self) -> Result<Vec<String>> {
        Ok(panics(&self.process.words()?))
    }
}

/// Lines that tell of a panic.
pub fn panics(log: &str) -> Vec<String> {
    let told = log.lines().filter(|line| line.contains("panicked"));
    told.map(str::to_owned).collect()
}

/// Waits until nothing is held any more, or too long; gives how the account stands.
pub async fn released(admin: Admin) -> Result<Account> {
    let begin = Instant::now();
    loop {
        let account = admin.account(ACCOUNT).await?;
        if account.held == 0 || begin.elapsed() > RELEASE {
            return Ok(account);
        }
        sleep(Duration::from_millis(200)).await;
    }
}
