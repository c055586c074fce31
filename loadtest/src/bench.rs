//! What all comparisons share: the fake provider, programs started until their first right answer, and one measured turn.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::Result;
use crate::gateway::{Client, MODEL, Settings, Shared};
use crate::ledger::admin::Admin;
use crate::load::{Load, Requests, Until};
use crate::process::{Memory, Process, Scratch, free_ports};
use crate::provider::ANSWER;
use crate::redis::Redis;
use crate::target::{Answer, Target, chat_body, request};
use crate::wire::Wire;
use crate::wire::tls::Certificate;

/// How long a program may take until its first right answer.
const START: Duration = Duration::from_secs(20);

/// Requests before the first measurement of a program.
pub const WARM_UP: u64 = 5_000;

/// What a gateway does after its answers (settling, above all) is counted to the turn if it is done by then.
const AFTER_WORK: Duration = Duration::from_millis(300);

/// The core of the proxies under test, and the core of generator, provider and Redis.
#[derive(Debug, Clone, Copy, Args)]
pub struct Cores {
    /// The core of the proxies.
    #[arg(long = "proxy-core", value_name = "CORE", default_value_t = 0)]
    pub proxy: usize,
    /// The core of generator, provider and Redis.
    #[arg(long = "load-core", value_name = "CORE", default_value_t = 1)]
    pub load: usize,
}

/// The fake providers and what is needed to measure. They are declared first: they end before their directory goes.
pub struct Bench {
    /// One at least.
    providers: Vec<(Process, SocketAddr)>,
    /// Without cores, the system places the programs as it likes.
    cores: Option<Cores>,
    scratch: Scratch,
}

/// What a gateway has beside its clients.
#[derive(Debug, Clone, Copy)]
pub struct Variant<'a> {
    /// It listens with TLS, unless that is plain.
    pub wire: Wire,
    /// Who may send. The first one's plan must not run out: it is the one that asks until there is an answer.
    pub clients: &'a [Client],
    /// The Redis that holds limits and balances.
    pub redis: Option<Shared>,
    /// Whether requests are charged; then it has an admin API too, which tells of the charges.
    pub charging: bool,
    /// Whether it has an admin API.
    pub admin: bool,
    /// How many models there are.
    pub models: usize,
    /// How many providers there are, each with all models.
    pub upstreams: usize,
    /// The most connections, if not as many as the system's limits give.
    pub connections: Option<u64>,
}

impl<'a> Variant<'a> {
    /// Nothing but what these clients need: no charges, all in memory, one model at one provider.
    pub fn plain(clients: &'a [Client]) -> Self {
        Variant {
            wire: Wire::Plain,
            clients,
            redis: None,
            charging: false,
            admin: false,
            models: 1,
            upstreams: 1,
            connections: None,
        }
    }
}

/// A proxy that has given its first right answer.
pub struct Proxy {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it shows its metrics, if it has any.
    pub metrics: Option<SocketAddr>,
    /// Its admin API, if it has one.
    pub admin: Option<Admin>,
    /// From its start to its first right answer.
    pub ready: Duration,
    /// What it held in memory then.
    pub idle: Memory,
}

/// One closed loop, measured.
pub struct Turn {
    /// How many requests were sent, those that opened the connections included.
    pub sent: u64,
    /// Microseconds of processor time of the proxy, a request.
    pub cost: f64,
    /// Requests per second.
    pub rate: f64,
    /// How often the proxy closed a connection.
    pub reconnects: u64,
    /// What the proxy held in memory when the connections were open.
    pub open: Memory,
    /// What Redis did, if the proxy uses one.
    pub redis: Option<RedisTurn>,
}

/// What Redis did in a turn.
#[derive(Debug, Clone, Copy)]
pub struct RedisTurn {
    /// Microseconds of processor time of Redis, a request.
    pub cost: f64,
    /// Function calls a request.
    pub calls: f64,
}

impl Bench {
    /// Starts the provider.
    pub async fn new(cores: Option<Cores>) -> Result<Self> {
        let mut bench = Bench {
            providers: Vec::new(),
            cores,
            scratch: Scratch::new()?,
        };
        bench.provide(1).await?;
        Ok(bench)
    }

    /// Starts providers until there are so many.
    pub async fn provide(&mut self, count: usize) -> Result<()> {
        let program = std::env::current_exe()?;
        let core = self.cores.map(|cores| cores.load);
        for number in self.providers.len()..count {
            let [upstream] = free_ports()?;
            let bind = upstream.to_string();
            let words = ["provider", "--bind", &bind].map(OsStr::new);
            let command = [&[program.as_os_str()], words.as_slice()].concat();
            let log = format!("provider-{number}");
            let mut provider = Process::start(&log, core, &self.scratch, &command)?;
            open(&mut provider, upstream)
                .await
                .map_err(|error| format!("provider: {error}"))?;
            self.providers.push((provider, upstream));
        }
        Ok(())
    }

    /// Where the first provider listens.
    pub fn upstream(&self) -> SocketAddr {
        // `new` started it.
        self.providers[0].1
    }

    /// For files of other programs.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts a Redis of this bench.
    pub async fn redis(&self) -> Result<Redis> {
        Redis::start(self.cores.map(|cores| cores.load), &self.scratch).await
    }

    /// Starts a gateway that is as plain as can be: see [`Variant::plain`].
    pub async fn gateway(
        &self,
        name: &str,
        program: &Path,
        redis: Option<Shared>,
        clients: &[Client],
    ) -> Result<Proxy> {
        let variant = Variant {
            redis,
            ..Variant::plain(clients)
        };
        self.serve(name, program, &variant).await
    }

    /// Starts a gateway. The providers that it names must be there: see [`Bench::provide`].
    pub async fn serve(&self, name: &str, program: &Path, variant: &Variant<'_>) -> Result<Proxy> {
        let Variant {
            wire,
            clients,
            redis,
            charging,
            admin,
            models,
            upstreams,
            connections,
        } = *variant;
        let [bind, metrics, place] = free_ports()?;
        let admin = (admin || charging).then_some(place);
        let first = clients.first().ok_or("a gateway without a client")?;
        let file = self.scratch.path().join(format!("{}.yaml", bind.port()));
        let store = self.scratch.path().join(format!("store-{}", bind.port()));
        let providers: Vec<SocketAddr> =
            self.providers.iter().map(|(_, address)| *address).collect();
        let certificate = self.certificate(wire)?;
        let settings = Settings {
            bind,
            certificate: certificate.as_ref(),
            metrics,
            admin,
            providers: providers
                .get(..upstreams)
                .ok_or("more upstreams than providers")?,
            models,
            connections,
            store: &store,
            redis,
            charging,
            clients,
        };
        std::fs::write(&file, settings.yaml())?;
        let command: [&OsStr; 4] = [
            program.as_ref(),
            "serve".as_ref(),
            "--config".as_ref(),
            file.as_ref(),
        ];
        let proxy = self.proxy(wire, name, &command, bind, &first.key).await?;
        Ok(Proxy {
            metrics: Some(metrics),
            admin: admin.map(|address| Admin { address }),
            ..proxy
        })
    }

    /// Starts the yardstick; it listens with TLS, unless the wire is plain.
    pub async fn passthrough(&self, wire: Wire, name: &str, key: &str) -> Result<Proxy> {
        let [bind] = free_ports()?;
        let program = yardstick()?;
        let (here, upstream) = (bind.to_string(), self.upstream().to_string());
        let words = ["--bind", &here, "--upstream", &upstream].map(OsStr::new);
        let certificate = self.certificate(wire)?;
        let mut command = [&[program.as_os_str()], words.as_slice()].concat();
        if let Some(files) = &certificate {
            command.extend(["--certificate".as_ref(), files.certificate.as_os_str()]);
            command.extend(["--private-key".as_ref(), files.private_key.as_os_str()]);
        }
        self.proxy(wire, name, &command, bind, key).await
    }

    /// What a server over this wire needs.
    fn certificate(&self, wire: Wire) -> Result<Option<Certificate>> {
        match wire {
            Wire::Plain => Ok(None),
            Wire::Tls | Wire::Http2 => Certificate::make(self.scratch.path()).map(Some),
        }
    }

    /// Starts a proxy and waits for its first right answer.
    pub async fn proxy(
        &self,
        wire: Wire,
        name: &str,
        command: &[&OsStr],
        address: SocketAddr,
        key: &str,
    ) -> Result<Proxy> {
        let begin = Instant::now();
        let core = self.cores.map(|cores| cores.proxy);
        // Its address in the name: several may write at once.
        let log = format!("proxy-{}", address.port());
        let mut process = Process::start(&log, core, &self.scratch, command)?;
        open(&mut process, address)
            .await
            .map_err(|error| format!("{name}: {error}"))?;
        let load = Load {
            wire,
            ..load(address, key, 200, 1, 1)
        };
        let first = loop {
            match load.run().await?.correct() {
                Ok(_) => break Ok(begin.elapsed()),
                Err(error) if begin.elapsed() > START => break Err(error),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        };
        let ready = first.map_err(|error| format!("{name}: {error}\n{}", process.last_words()))?;
        let idle = process.memory()?;
        Ok(Proxy {
            process,
            address,
            metrics: None,
            admin: None,
            ready,
            idle,
        })
    }

    /// One closed loop on connections that were opened before; an answer that is not the expected one is an error.
    pub async fn turn(
        &self,
        process: &Process,
        mut redis: Option<&mut Redis>,
        load: &Load,
    ) -> Result<Turn> {
        let mut opened = load.open().await?;
        let open = process.memory()?;
        if let Some(redis) = redis.as_deref_mut() {
            redis.forget_calls().await?;
        }
        let redis_before = redis.as_deref().map(Redis::cpu).transpose()?;
        let before = process.cpu()?;
        let outcome = opened.run().await?.correct()?;
        sleep(AFTER_WORK).await;
        let requests = outcome.requests as f64;
        let each = |worked: Duration| worked.as_secs_f64() * 1e6 / requests;
        let cost = each(process.cpu()?.saturating_sub(before));
        let redis = match (redis, redis_before) {
            (Some(redis), Some(before)) => Some(RedisTurn {
                cost: each(redis.cpu()?.saturating_sub(before)),
                calls: redis.function_calls().await? as f64 / requests,
            }),
            _ => None,
        };
        Ok(Turn {
            sent: load.connections + outcome.requests,
            cost,
            rate: outcome.rate(),
            reconnects: outcome.reconnects,
            open,
            redis,
        })
    }
}

/// The bare pass-through, which cargo puts beside this program.
fn yardstick() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let file = program.with_file_name("examples").join("passthrough");
    match file.is_file() {
        true => Ok(file),
        false => Err(format!(
            "{} is missing: cargo build --release --package loadtest --example passthrough --locked",
            file.display()
        )
        .into()),
    }
}

/// Where chat requests to a proxy go.
pub fn chat(address: SocketAddr) -> Target {
    Target {
        address,
        path: "/v1/chat/completions".to_owned(),
    }
}

/// A closed loop of chat requests that all must be answered alike; with 200, by the provider's answer.
pub fn load(address: SocketAddr, key: &str, expect: u16, connections: u64, requests: u64) -> Load {
    let target = chat(address);
    let body = chat_body(MODEL, Answer::Whole);
    let request = request(&target, key, Answer::Whole, body.as_bytes());
    Load {
        target,
        wire: Wire::Plain,
        requests: Requests::one(request),
        connections,
        at_once: connections,
        until: Until::Requests(requests),
        expect,
        answer: (expect == 200).then_some(ANSWER),
    }
}

/// Waits until a program accepts connections.
pub async fn open(process: &mut Process, address: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        process.check()?;
        if begin.elapsed() > START {
            return Err(format!("does not listen on {address}\n{}", process.last_words()).into());
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
