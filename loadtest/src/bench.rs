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
use crate::load::{Load, Until};
use crate::process::{Memory, Process, Scratch, free_ports, ticks_per_second};
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

/// The fake provider and what is needed to measure. The provider is declared first: it ends before its directory goes.
pub struct Bench {
    /// Held for its end.
    _provider: Process,
    upstream: SocketAddr,
    /// Without cores, the system places the programs as it likes.
    cores: Option<Cores>,
    ticks_per_second: f64,
    scratch: Scratch,
}

/// A proxy that has given its first right answer.
pub struct Proxy {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it shows its metrics, if it has any.
    pub metrics: Option<SocketAddr>,
    /// From its start to its first right answer.
    pub ready: Duration,
    /// What it held in memory then.
    pub idle: Memory,
}

/// One closed loop, measured.
pub struct Turn {
    /// Microseconds of processor time of the proxy, a request.
    pub cost: f64,
    /// Requests per second.
    pub rate: f64,
    /// How often the proxy closed a connection.
    pub reconnects: u64,
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
        let scratch = Scratch::new()?;
        let [upstream] = free_ports()?;
        let program = std::env::current_exe()?;
        let bind = upstream.to_string();
        let words = ["provider", "--bind", &bind].map(OsStr::new);
        let command = [&[program.as_os_str()], words.as_slice()].concat();
        let core = cores.map(|cores| cores.load);
        let mut provider = Process::start("provider", core, &scratch, &command)?;
        open(&mut provider, upstream)
            .await
            .map_err(|error| format!("provider: {error}"))?;
        Ok(Bench {
            _provider: provider,
            upstream,
            cores,
            ticks_per_second: ticks_per_second()?,
            scratch,
        })
    }

    /// Where the provider listens.
    pub fn upstream(&self) -> SocketAddr {
        self.upstream
    }

    /// For files of other programs.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts a Redis of this bench.
    pub async fn redis(&self) -> Result<Redis> {
        Redis::start(self.cores.map(|cores| cores.load), &self.scratch).await
    }

    /// Starts a gateway; the first client's plan must not run out, for it is the one that asks until there is an answer.
    pub async fn gateway(
        &self,
        name: &str,
        program: &Path,
        redis: Option<Shared>,
        clients: &[Client],
    ) -> Result<Proxy> {
        self.serve(Wire::Plain, name, program, redis, clients, false)
            .await
    }

    /// The same, over a wire: it listens with TLS unless that is plain.
    pub async fn gateway_over(
        &self,
        wire: Wire,
        name: &str,
        program: &Path,
        clients: &[Client],
    ) -> Result<Proxy> {
        self.serve(wire, name, program, None, clients, false).await
    }

    /// The same, and every request is charged.
    pub async fn charging(
        &self,
        name: &str,
        program: &Path,
        redis: Option<Shared>,
        clients: &[Client],
    ) -> Result<Proxy> {
        self.serve(Wire::Plain, name, program, redis, clients, true)
            .await
    }

    async fn serve(
        &self,
        wire: Wire,
        name: &str,
        program: &Path,
        redis: Option<Shared>,
        clients: &[Client],
        charging: bool,
    ) -> Result<Proxy> {
        let [bind, metrics] = free_ports()?;
        let first = clients.first().ok_or("a gateway without a client")?;
        let file = self.scratch.path().join(format!("{}.yaml", bind.port()));
        let store = self.scratch.path().join(format!("store-{}", bind.port()));
        let certificate = self.certificate(wire)?;
        let settings = Settings {
            bind,
            certificate: certificate.as_ref(),
            metrics,
            provider: self.upstream,
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
            ..proxy
        })
    }

    /// Starts the yardstick.
    pub async fn passthrough(&self, name: &str, key: &str) -> Result<Proxy> {
        self.passthrough_over(Wire::Plain, name, key).await
    }

    /// The same, over a wire: it listens with TLS unless that is plain.
    pub async fn passthrough_over(&self, wire: Wire, name: &str, key: &str) -> Result<Proxy> {
        let [bind] = free_ports()?;
        let program = yardstick()?;
        let (here, upstream) = (bind.to_string(), self.upstream.to_string());
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
            ready,
            idle,
        })
    }

    /// One closed loop; an answer that is not the expected one is an error.
    pub async fn turn(
        &self,
        process: &Process,
        mut redis: Option<&mut Redis>,
        load: &Load,
    ) -> Result<Turn> {
        if let Some(redis) = redis.as_deref_mut() {
            redis.forget_calls().await?;
        }
        let redis_before = redis.as_deref().map(Redis::ticks).transpose()?;
        let before = process.ticks()?;
        let outcome = load.run().await?.correct()?;
        sleep(AFTER_WORK).await;
        let requests = outcome.requests as f64;
        let cost = self.micros(process.ticks()? - before) / requests;
        let redis = match (redis, redis_before) {
            (Some(redis), Some(before)) => Some(RedisTurn {
                cost: self.micros(redis.ticks()? - before) / requests,
                calls: redis.function_calls().await? as f64 / requests,
            }),
            _ => None,
        };
        Ok(Turn {
            cost,
            rate: outcome.rate(),
            reconnects: outcome.reconnects,
            redis,
        })
    }

    /// Clock ticks in microseconds.
    pub fn micros(&self, ticks: u64) -> f64 {
        ticks as f64 * 1e6 / self.ticks_per_second
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
    let request = request(&target, key, Answer::Whole, body.as_bytes()).into();
    Load {
        target,
        wire: Wire::Plain,
        request,
        connections,
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
