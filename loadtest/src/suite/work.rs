//! What a turn does, and what it gives. Where a proxy stands, a turn is a closed loop; where what is measured is a start or
//! the memory of streams, each turn has a process of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::field::Field;
use super::measure::Measure;
use crate::Result;
use crate::bench::{self, Proxy, Turn, chat};
use crate::gateway::{Client, MODEL};
use crate::ledger::admin::{Admin, Row};
use crate::load::{Load, Until};
use crate::open::OpenLoop;
use crate::pace::Pace;
use crate::process::{Memory, Process};
use crate::streams::Streams;

/// Micro-units that each request is charged: 42 tokens at 1 and 9 at 2 a million.
const CHARGE: i64 = 60;

/// How long the books may take until they have the last charge.
const SETTLE: Duration = Duration::from_secs(20);

/// A limit of one request a minute lets the next one in after so long.
const MINUTE: Duration = Duration::from_secs(60);

/// From one large body to the next, beside small requests.
const APART: Duration = Duration::from_millis(500);

/// Connections that a gateway takes beside those of the streams.
const SPARE: u64 = 16;

/// What a turn gives.
pub type Measured = Vec<(Measure, f64)>;

/// What a cell's turns do.
pub enum Work {
    /// A closed loop that is answered.
    Answered(Box<Answered>),
    /// A closed loop that is refused.
    Refused(Box<Refused>),
    /// Streams.
    Streamed(Streamed),
    /// Nothing but the start.
    Started(Side),
    /// Small requests in an open loop, beside large ones or alone.
    Beside(Box<Beside>),
}

/// A closed loop at a proxy that stands.
pub struct Answered {
    /// Who is asked.
    pub proxy: Proxy,
    /// What is asked.
    pub load: Load,
    /// Asks Redis about each request.
    pub shared: bool,
    /// The account that is charged, if one is.
    pub account: Option<String>,
    /// The size of the body, where that is what is measured.
    pub body: Option<usize>,
    /// Whether the memory of its connections is measured.
    pub crowd: bool,
    /// What was sent so far.
    pub sent: u64,
}

/// A closed loop of requests that are all refused.
pub struct Refused {
    /// Who is asked.
    pub proxy: Proxy,
    /// For each turn the key of a plan with one request a minute; or none, for a key that nobody has.
    pub keys: Option<VecDeque<Client>>,
    /// Asks Redis about each request.
    pub shared: bool,
    /// Connections.
    pub connections: u64,
    /// Requests a turn.
    pub requests: u64,
}

/// Who is started for a turn.
pub enum Side {
    /// The yardstick.
    Bare,
    /// The gateway, with everything on.
    Gateway,
    /// Nobody: the provider is asked itself.
    Direct,
}

/// Streams through a process of their own.
pub struct Streamed {
    /// Through whom.
    pub side: Side,
    /// How many at a time.
    pub streams: u32,
    /// Events of each.
    pub events: u64,
    /// Milliseconds between two events of a stream.
    pub interval_ms: u64,
}

/// Small requests in an open loop.
pub struct Beside {
    /// Who is asked.
    pub proxy: Proxy,
    /// The key that is sent.
    pub key: String,
    /// Small requests a second.
    pub rate: u64,
    /// For how many seconds.
    pub seconds: u64,
    /// The large request that is sent again and again meanwhile.
    pub large: Option<Load>,
}

impl Work {
    /// One turn.
    pub async fn turn(&mut self, field: &mut Field) -> Result<Measured> {
        match self {
            Work::Answered(work) => work.turn(field).await,
            Work::Refused(work) => work.turn(field).await,
            Work::Streamed(work) => work.turn(field).await,
            Work::Started(side) => {
                let proxy = side.start(field, None).await?;
                let proxy = proxy.ok_or("nobody is started")?;
                Ok(vec![
                    (Measure::Ready, proxy.ready.as_secs_f64() * 1e3),
                    (Measure::Idle, mib(proxy.idle.rss)),
                ])
            }
            Work::Beside(work) => work.turn().await,
        }
    }

    /// What is to be seen after the last turn; wrong books are an error.
    pub async fn end(&mut self) -> Result<Measured> {
        let Work::Answered(work) = self else {
            return Ok(Vec::new());
        };
        if let (Some(account), Some(admin)) = (&work.account, work.proxy.admin) {
            charged(admin, account, work.sent).await?;
        }
        let resident = work.proxy.process.memory()?.rss;
        Ok(vec![(Measure::Resident, mib(resident))])
    }
}

impl Answered {
    async fn turn(&mut self, field: &mut Field) -> Result<Measured> {
        if self.body.is_some() {
            self.proxy.process.forget_peak()?;
        }
        let redis = field.redis.as_mut().filter(|_| self.shared);
        let turn = field
            .bench
            .turn(&self.proxy.process, redis, &self.load)
            .await?;
        self.sent += turn.sent;
        let mut measured = taken(&turn);
        // Those who ask at the same moment may share a call; who never asks would look splendid.
        if self.shared && turn.redis.is_none_or(|redis| redis.calls == 0.0) {
            return Err("Redis was not asked".into());
        }
        if let Some(body) = self.body {
            measured.push((Measure::Throughput, body as f64 / turn.cost));
            // Of several at a time nobody knows how many were there together.
            if self.load.connections == 1 {
                let peak = self.proxy.process.peak()?;
                let beyond = peak.saturating_sub(self.proxy.idle.rss) * 1024;
                measured.push((Measure::Peak, beyond as f64 / body as f64));
            }
        }
        if self.crowd {
            let beyond = turn.open.pss.saturating_sub(self.proxy.idle.pss);
            let each = beyond as f64 / self.load.connections as f64;
            measured.push((Measure::ConnectionMemory, each));
        }
        Ok(measured)
    }
}

impl Refused {
    async fn turn(&mut self, field: &mut Field) -> Result<Measured> {
        let address = self.proxy.address;
        let (key, status) = match &mut self.keys {
            None => ("sk-loadtest-nobody".to_owned(), 401),
            Some(keys) => {
                let client = keys.pop_front().ok_or("no key is left for this turn")?;
                bench::load(address, &client.key, 200, 1, 1)
                    .run()
                    .await?
                    .correct()
                    .map_err(|error| format!("the one allowed request: {error}"))?;
                (client.key, 429)
            }
        };
        let load = bench::load(address, &key, status, self.connections, self.requests);
        let redis = field.redis.as_mut().filter(|_| self.shared);
        let begin = Instant::now();
        let turn = field.bench.turn(&self.proxy.process, redis, &load).await;
        let turn = turn.map_err(|error| match begin.elapsed() > MINUTE {
            true => format!("{error}; the turn took longer than a minute: fewer requests").into(),
            false => error,
        })?;
        if turn.reconnects > 0 {
            return Err(format!("{} connections were closed", turn.reconnects).into());
        }
        let mut measured = taken(&turn);
        measured.push((Measure::PerCore, 1e6 / turn.cost));
        Ok(measured)
    }
}

impl Side {
    async fn start(&self, field: &Field, connections: Option<u64>) -> Result<Option<Proxy>> {
        match self {
            Side::Bare => Ok(Some(field.bare().await?)),
            Side::Gateway => Ok(Some(field.everything(connections).await?)),
            Side::Direct => Ok(None),
        }
    }
}

impl Streamed {
    async fn turn(&self, field: &Field) -> Result<Measured> {
        // Its own cap would be half of the descriptors, less a few.
        let connections = u64::from(self.streams) + SPARE;
        let proxy = self.side.start(field, Some(connections)).await?;
        let key = &field.client().key;
        let address = match &proxy {
            Some(proxy) => proxy.address,
            None => field.bench.upstream(),
        };
        bench::load(address, key, 200, 1, 100)
            .run()
            .await?
            .correct()?;
        let run = Streams {
            target: chat(address),
            key: key.clone(),
            model: MODEL.to_owned(),
            streams: self.streams,
            events: self.events,
            interval_ms: self.interval_ms,
        };
        let before = proxy.as_ref().map(|proxy| proxy.process.memory());
        let before = before.transpose()?;
        let live = async {
            sleep(run.ramp()).await;
            match &proxy {
                Some(proxy) => window(&proxy.process, run.steady()).await.map(Some),
                None => Ok(None),
            }
        };
        let (outcome, live) = tokio::join!(run.run(), live);
        let (outcome, live) = (outcome?.correct()?, live?);
        let mut measured = vec![
            (
                Measure::DelayMedian,
                outcome.delay.value_at_quantile(0.5) as f64,
            ),
            (
                Measure::DelayHigh,
                outcome.delay.value_at_quantile(0.99) as f64,
            ),
            (Measure::Events, outcome.events as f64),
            (Measure::Lost, outcome.lost as f64),
        ];
        if let (Some(before), Some(live)) = (before, live) {
            let Live { worked, time, held } = live;
            // Streams begin one after the other, so that their events are spread evenly over every interval.
            let intervals = time.as_secs_f64() * 1e3 / self.interval_ms as f64;
            let events = intervals * f64::from(self.streams);
            let beyond = held.pss.saturating_sub(before.pss) as f64;
            measured.push((Measure::EventCost, worked.as_secs_f64() * 1e6 / events));
            measured.push((Measure::StreamMemory, beyond / f64::from(self.streams)));
        }
        Ok(measured)
    }
}

/// What a proxy did while all streams were live.
struct Live {
    worked: Duration,
    time: Duration,
    /// In the middle of it.
    held: Memory,
}

/// Looks at a proxy over most of the time in which all streams are live: their opening and their end are no part of it.
async fn window(process: &Process, steady: Duration) -> Result<Live> {
    sleep(steady / 20).await;
    let (begin, before) = (Instant::now(), process.cpu()?);
    sleep(steady * 9 / 20).await;
    let held = process.memory()?;
    sleep(steady * 9 / 20).await;
    Ok(Live {
        worked: process.cpu()?.saturating_sub(before),
        time: begin.elapsed(),
        held,
    })
}

impl Beside {
    async fn turn(&self) -> Result<Measured> {
        let small = bench::load(self.proxy.address, &self.key, 200, 1, 1);
        let run = OpenLoop {
            title: "small requests",
            target: small.target,
            wire: small.wire,
            requests: small.requests,
            pace: Pace::new(self.rate * 600, self.seconds),
        };
        let others = async {
            if let Some(load) = &self.large {
                let one = Load {
                    until: Until::Requests(1),
                    ..load.clone()
                };
                let begin = tokio::time::Instant::now();
                for number in 0..u32::MAX {
                    sleep_until(begin + APART * number).await;
                    one.run().await?.correct()?;
                }
            }
            std::future::pending::<Result<()>>().await
        };
        let outcome = tokio::select! {
            outcome = run.run() => outcome?,
            end = others => return Err(match end {
                Ok(()) => "the large requests came to an end".into(),
                Err(error) => format!("a large request: {error}").into(),
            }),
        };
        if outcome.admitted != outcome.sent {
            return Err(format!(
                "{} of {} small requests were answered; the first that was not: {:?}",
                outcome.admitted, outcome.sent, outcome.first_other
            )
            .into());
        }
        let at = |quantile| outcome.admitted_latency.value_at_quantile(quantile) as f64;
        Ok(vec![
            (Measure::LatencyMedian, at(0.5)),
            (Measure::LatencyHigh, at(0.99)),
        ])
    }
}

/// What every closed loop gives.
fn taken(turn: &Turn) -> Measured {
    let mut measured = vec![
        (Measure::RequestCost, turn.cost),
        (Measure::Rate, turn.rate),
    ];
    if let Some(redis) = turn.redis {
        measured.push((Measure::RedisCost, redis.cost));
        measured.push((Measure::RedisCalls, redis.calls));
    }
    measured
}

/// An error, unless exactly so many requests are charged in the end.
async fn charged(admin: Admin, account: &str, requests: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        let (_, used) = admin.used(account).await?;
        let Row {
            requests: charged,
            cost,
            ..
        } = used;
        if (charged, cost) == (requests, requests as i64 * CHARGE) {
            return Ok(());
        }
        if charged > requests || begin.elapsed() > SETTLE {
            return Err(format!(
                "{requests} requests were answered and {charged} charged, {cost} micro-units in all"
            )
            .into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
