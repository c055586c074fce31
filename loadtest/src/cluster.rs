//! Several gateways that share a Redis, with a balancer in front; or one, alone.

use crate::load::Requests;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::Result;
use crate::balancer::Balancer;
use crate::bench::{Bench, Proxy, chat, open};
use crate::gateway::{Client, MODEL, Shared, Store};
use crate::open::{OpenLoop, Outcome};
use crate::pace::Pace;
use crate::process::{Process, free_ports, processor};
use crate::redis::Redis;
use crate::target::{Answer, chat_body, request};
use crate::wire::Wire;

/// What a gateway does after its last answer still counts as calls of the run if it is done by then.
const AFTER_WORK: Duration = Duration::from_secs(1);

/// How long it is counted what the gateways call without requests.
const IDLE: Duration = Duration::from_secs(5);

/// Everything that runs. What needs the bench's directory is declared before it, so that it ends first.
pub struct Cluster {
    /// Where requests go.
    front: SocketAddr,
    balancer: Option<(&'static str, Process)>,
    nodes: Vec<Proxy>,
    redis: Option<Redis>,
    /// Held for its end.
    _bench: Bench,
}

impl Cluster {
    /// Starts Redis, the gateways one after the other, and the balancer if there is more than one gateway.
    pub async fn start(
        program: &Path,
        store: Store,
        nodes: u16,
        clients: &[Client],
    ) -> Result<Self> {
        // What is missing is said before anything is started.
        let balancer = match nodes {
            1 => None,
            _ => Some(Balancer::find()?),
        };
        let bench = Bench::new(None).await?;
        let redis = match store {
            Store::Memory => None,
            Store::Redis => Some(bench.redis().await?),
        };
        let shared = redis.as_ref().map(|redis| Shared::strict(redis.address()));
        let mut proxies: Vec<Proxy> = Vec::with_capacity(usize::from(nodes));
        for number in 1..=nodes {
            let name = format!("node {number}");
            proxies.push(bench.gateway(&name, program, shared, clients).await?);
        }
        let addresses: Vec<SocketAddr> = proxies.iter().map(|node| node.address).collect();
        let (front, balancer) = match balancer {
            None => (*addresses.first().ok_or("no gateway")?, None),
            Some(balancer) => {
                let [bind] = free_ports()?;
                let name = balancer.name();
                let mut process = balancer.start(bench.scratch(), bind, &addresses)?;
                open(&mut process, bind)
                    .await
                    .map_err(|error| format!("{name}: {error}"))?;
                (bind, Some((name, process)))
            }
        };
        Ok(Cluster {
            front,
            balancer,
            nodes: proxies,
            redis,
            _bench: bench,
        })
    }

    /// What is measured, and on what. Takes a moment: what the gateways ask of Redis without requests is in it,
    /// because it is among the calls of each part too.
    pub async fn heading(&mut self) -> Result<String> {
        let nodes = match self.nodes.len() {
            1 => "One gateway with one worker thread".to_owned(),
            count => format!("{count} gateways with one worker thread each"),
        };
        let store = match &mut self.redis {
            None => "memory".to_owned(),
            Some(redis) => {
                redis.forget_calls().await?;
                sleep(IDLE).await;
                let calls = redis.function_calls().await? as f64 / IDLE.as_secs_f64();
                format!("one Redis, whose functions they call {calls:.1} times a second when idle")
            }
        };
        let balancer = self
            .balancer
            .as_ref()
            .map_or(String::new(), |(name, _)| format!(" behind {name}"));
        Ok(format!(
            "{}. {nodes}{balancer}, limits in {store}. Open loop, latency from when a request was due, in µs.\n\n",
            processor()
        ))
    }

    /// Sends with a client's key at a pace; also returns how often functions of Redis were called, if there is a Redis.
    pub async fn open_loop(
        &mut self,
        title: &'static str,
        pace: Pace,
        client: &Client,
    ) -> Result<(Outcome, Option<u64>)> {
        let target = chat(self.front);
        let body = chat_body(MODEL, Answer::Whole);
        let request = request(&target, &client.key, Answer::Whole, body.as_bytes());
        if let Some(redis) = &mut self.redis {
            redis.forget_calls().await?;
        }
        let open = OpenLoop {
            title,
            target,
            wire: Wire::Plain,
            requests: Requests::one(request),
            pace,
        };
        let outcome = open.run().await?;
        let calls = match &mut self.redis {
            None => None,
            Some(redis) => {
                sleep(AFTER_WORK).await;
                Some(redis.function_calls().await?)
            }
        };
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let name = format!("node {}", number + 1);
            node.process
                .check()
                .map_err(|error| format!("{name}: {error}"))?;
        }
        Ok((outcome, calls))
    }
}
