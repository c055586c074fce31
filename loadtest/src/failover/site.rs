//! Two gateways on a Redis that is going to fail, and who uses them: one who has plenty, one who has too little, and
//! one whose money is spent at the worst moment.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::Result;
use crate::ledger::client::User;
use crate::ledger::money::{PICTURE, decimal};
use crate::ledger::provider::Provider;
use crate::ledger::sight;
use crate::ledger::site::{Key, Node, Terms};
use crate::ledger::traffic::{Traffic, key};
use crate::ledger::wish::Kind;
use crate::process::Scratch;
use crate::report::Samples;

/// Requests in flight at a time.
pub const CLIENTS: u64 = 16;

/// Keys, each for one request.
const KEYS: u64 = 6_000;

/// Who has plenty.
pub const RICH: &str = "load";
pub const PLENTY: i64 = 1_000_000_000_000;
const TOP_UP: i64 = 7_000_000;

/// Who has less than a picture costs.
pub const POOR: &str = "poor";
pub const LITTLE: i64 = PICTURE / 2;

/// Who has enough for so many pictures.
pub const TIGHT: &str = "tight";
pub const PICTURES: u64 = 100;

/// Who has too little asks so often.
const PAUSE: Duration = Duration::from_millis(25);

/// Memory and metrics are looked at so often.
const LOOK: Duration = Duration::from_millis(20);

/// Redis is back at every gateway after this time, and everything is charged.
pub const RECOVERY: Duration = Duration::from_secs(2);

/// How long may be waited for that; for holds that nobody gives back it is two minutes.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const LIFE: Duration = Duration::from_secs(150);

/// What runs. What needs another is declared before it, so that it ends first.
pub struct Site {
    pub(super) traffic: Option<Traffic>,
    pub(super) poor: Option<User>,
    /// The gateways.
    pub nodes: Vec<Node>,
    pub(super) provider: Provider,
    /// The most memory of a gateway that was seen, in KiB.
    pub(super) memory: u64,
    /// From when Redis could be reached again: until every gateway had it, and until everything was charged.
    pub(super) back: (Samples, Samples),
    pub(super) slowest: Duration,
    /// What was added to the account that has plenty.
    pub(super) topped: i64,
    /// When Redis was away: from the fault until it could be reached again.
    pub(super) away: Vec<(Instant, Instant)>,
}

impl Site {
    /// Starts gateways on a Redis, and requests to them.
    pub async fn start(
        program: &Path,
        scratch: &Scratch,
        redis: SocketAddr,
        seed: u64,
    ) -> Result<Self> {
        let provider = Provider::start().await?;
        let mut keys: Vec<Key> = (0..KEYS).map(|number| key(number, RICH)).collect();
        keys.extend([POOR, TIGHT].map(|name| Key {
            name: name.to_owned(),
            account: name,
        }));
        let tight = PICTURE * i64::try_from(PICTURES)?;
        let terms = Terms {
            provider: provider.address,
            accounts: &[(RICH, PLENTY), (POOR, LITTLE), (TIGHT, tight)],
            keys: &keys,
            redis: Some(redis),
        };
        let mut nodes = Vec::with_capacity(2);
        for number in 1..=2 {
            let mut node = Node::new(&format!("node {number}"), program, scratch, &terms)?;
            node.start(scratch)?;
            node.open().await?;
            nodes.push(node);
        }
        let fronts: Vec<SocketAddr> = nodes.iter().map(|node| node.front).collect();
        let front = *fronts.first().ok_or("no gateway")?;
        let poor = User::start(front, &secret(POOR), Kind::Picture, PAUSE);
        let traffic = Traffic::start(&fronts, CLIENTS, KEYS, RICH, seed);
        Ok(Site {
            traffic: Some(traffic),
            poor: Some(poor),
            nodes,
            provider,
            memory: 0,
            back: (Samples::default(), Samples::default()),
            slowest: Duration::ZERO,
            topped: 0,
            away: Vec::new(),
        })
    }

    /// One who uses up what the tight account has, on a gateway by turns.
    pub fn spender(&self, number: usize, pause: Duration) -> Result<User> {
        let node = self.nodes.get(number % self.nodes.len().max(1));
        let front = node.ok_or("no gateway")?.front;
        Ok(User::start(front, &secret(TIGHT), Kind::Picture, pause))
    }

    /// Adds to the account that has plenty, with one `Idempotency-Key` each time; gives the status.
    pub async fn top_up(&mut self) -> Result<u16> {
        let admin = self.nodes.first().ok_or("no gateway")?.admin;
        let path = format!("/accounts/{RICH}/top-ups");
        let body = json!({ "amount": decimal(TOP_UP) });
        let (status, _) = admin
            .call("POST", &path, Some(&body), Some("top-up"))
            .await?;
        if status == 201 {
            self.topped = TOP_UP;
        }
        Ok(status)
    }

    /// Lets some time pass.
    pub async fn rest(&mut self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            sleep(LOOK.min(time.saturating_sub(begin.elapsed()))).await;
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.check()?;
            self.memory = self.memory.max(node.memory().unwrap_or(0));
        }
        Ok(())
    }

    /// Waits until every gateway has Redis again and has charged everything but what is in flight. `fault` is when
    /// it went away, `reachable` when it could be reached again.
    pub async fn recover(&mut self, fault: Instant, reachable: Instant) -> Result<()> {
        self.away.push((fault, reachable));
        let mut back = None;
        loop {
            let (mut away, mut unsettled) = (false, 0);
            for node in &self.nodes {
                let sight = sight::look(node.metrics).await?;
                away |= sight.away;
                unsettled = unsettled.max(sight.unsettled);
            }
            let passed = reachable.elapsed();
            if !away && back.is_none() {
                back = Some(passed);
                self.back.0.add(passed.as_secs_f64() * 1000.0);
            }
            // What ends now is charged a moment later: as many as are in flight.
            if !away && unsettled <= CLIENTS {
                self.back.1.add(passed.as_secs_f64() * 1000.0);
                self.slowest = self.slowest.max(passed);
                return Ok(());
            }
            if passed > PATIENCE {
                let words = format!("away: {away}, unsettled: {unsettled}");
                return Err(format!("Redis is not back after {PATIENCE:?}: {words}").into());
            }
            self.look()?;
            sleep(LOOK).await;
        }
    }
}

fn secret(name: &'static str) -> String {
    let key = Key {
        name: name.to_owned(),
        account: name,
    };
    key.secret()
}
