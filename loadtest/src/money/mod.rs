//! Whether nobody spends more than there is, and nobody gets in who was shut out: far more requests at once than a
//! balance pays for, topped up meanwhile, through keys that are edited; and keys that are revoked on another node.

mod revocation;
mod rush;

use std::path::{Path, PathBuf};

use clap::{Args, value_parser};

use crate::Result;
use crate::balancer::Balancer;
use crate::bench::open;
use crate::ledger::claims::Claims;
use crate::ledger::money::PICTURE;
use crate::ledger::provider::Provider;
use crate::ledger::site::{Node, Terms};
use crate::process::{Process, Scratch, existing, free_ports, processor};
use crate::redis::Redis;
use crate::report::Report;
use rush::Rush;

/// The account whose balance is fought for.
const POOR: &str = "poor";

/// The account whose keys are revoked.
const RICH: &str = "rich";

/// What it begins with, in micro-units.
const PLENTY: i64 = 1_000_000_000_000;

/// The command line.
#[derive(Args)]
pub struct Money {
    /// The gateway's program, run as `PATH serve --config FILE`.
    #[arg(long)]
    gateway: PathBuf,
    /// How many requests the balance pays for at first.
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(1..=10_000))]
    requests: u64,
    /// How many times as many are sent.
    #[arg(long, default_value_t = 50, value_parser = value_parser!(u64).range(2..=100))]
    over: u64,
    /// Requests in flight at a time.
    #[arg(long, default_value_t = 250, value_parser = value_parser!(u64).range(1..=2_000))]
    connections: u64,
    /// How many keys are revoked.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=200))]
    revocations: u32,
    /// How many keys are revoked while the other node is cut off from Redis, for each way to be cut off.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=50))]
    cuts: u32,
    /// Also write the report to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl Money {
    /// Measures and reports.
    pub async fn run(self) -> Result<Report> {
        let Money {
            gateway,
            requests,
            over,
            connections,
            revocations,
            cuts,
            out: _,
        } = self;
        let program = existing(gateway)?;
        // What is missing is said before anything is started.
        let balancer = Balancer::find()?;
        let mut claims = Claims::default();
        let mut text = format!(
            "{}. A balance for {requests} pictures at {} micro-units each, {over} times as many requests over {connections} \
             connections, top-ups and edits of the key meanwhile.\n\n{}",
            processor(),
            PICTURE,
            rush::HEADER
        );
        let scratch = Scratch::new()?;
        let rush = Rush {
            pictures: requests,
            requests: requests * over,
            connections,
        };
        for nodes in [2, 1] {
            let site = Site::start(&program, &scratch, nodes, &balancer, requests).await?;
            rush.run(&site, &mut text, &mut claims).await?;
        }
        text.push_str(revocation::HEADER);
        revocation::shared(
            &program,
            &scratch,
            revocations,
            cuts,
            &mut text,
            &mut claims,
        )
        .await?;
        let site = Site::start(&program, &scratch, 1, &balancer, 1).await?;
        revocation::alone(&site, revocations, &mut text, &mut claims).await?;
        Ok(claims.report(text))
    }
}

/// Gateways with what stands around them. What needs another is declared before it, so that it ends first.
pub struct Site {
    /// Where requests go.
    front: std::net::SocketAddr,
    /// Held for its end.
    _balancer: Option<Process>,
    nodes: Vec<Node>,
    provider: Provider,
    /// Held for its end.
    _redis: Option<Redis>,
}

impl Site {
    /// One gateway that keeps its balances itself, or several on a Redis with a balancer in front.
    async fn start(
        program: &Path,
        scratch: &Scratch,
        nodes: u16,
        balancer: &Balancer,
        pictures: u64,
    ) -> Result<Self> {
        let provider = Provider::start().await?;
        let redis = match nodes {
            1 => None,
            _ => Some(Redis::start(None, scratch).await?),
        };
        let balance = PICTURE * i64::try_from(pictures)?;
        let terms = Terms {
            provider: provider.address,
            accounts: &[(POOR, balance), (RICH, PLENTY)],
            keys: &[],
            redis: redis.as_ref().map(Redis::address),
        };
        let mut running = Vec::with_capacity(usize::from(nodes));
        for number in 1..=nodes {
            let mut node = Node::new(&format!("node {number}"), program, scratch, &terms)?;
            node.start(scratch)?;
            node.open().await?;
            running.push(node);
        }
        let fronts: Vec<_> = running.iter().map(|node| node.front).collect();
        let (front, balancer) = match fronts.as_slice() {
            [front] => (*front, None),
            fronts => {
                let [bind] = free_ports()?;
                let mut process = balancer.start(scratch, bind, fronts)?;
                let name = balancer.name();
                open(&mut process, bind)
                    .await
                    .map_err(|error| format!("{name}: {error}"))?;
                (bind, Some(process))
            }
        };
        Ok(Site {
            front,
            _balancer: balancer,
            nodes: running,
            provider,
            _redis: redis,
        })
    }

    /// What it is called in reports.
    fn name(&self) -> String {
        match self.nodes.len() {
            1 => "one node, embedded store".to_owned(),
            count => format!("{count} nodes, Redis"),
        }
    }
}
