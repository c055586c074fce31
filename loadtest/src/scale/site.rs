//! Gateways behind HAProxy on one Redis, all of it ours: their start, and what they have used so far.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::provider::Provider;
use super::settings::{PROBE, Places, Terms, secret, yaml};
use crate::Result;
use crate::balancer::Balancer;
use crate::bench::{Cores, chat, load, open};
use crate::gateway::MODEL;
use crate::ledger::admin::Admin;
use crate::process::{Process, Scratch, free_ports};
use crate::redis::{Disk, Redis};
use crate::target::{Answer, chat_body, request};

/// How long a gateway may take until its first right answer.
const START: Duration = Duration::from_secs(30);

/// One gateway.
pub struct Node {
    process: Process,
    front: SocketAddr,
    /// Its admin API.
    pub admin: Admin,
    store: PathBuf,
    log: PathBuf,
}

/// What has been used up so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Processor time of all gateways.
    pub gateways: Duration,
    /// Processor time of Redis.
    pub redis: Duration,
    /// Processor time of the balancer.
    pub balancer: Duration,
    /// Bytes that Redis received.
    pub received: u64,
    /// Bytes that Redis sent.
    pub sent: u64,
    /// Bytes of Redis' append-only file.
    pub append_only: u64,
    /// Bytes of all journals.
    pub journals: u64,
    /// Bytes of all access logs.
    pub logs: u64,
}

/// All that runs. What needs the directory is declared before it, so that it ends first.
pub struct Site {
    /// Where requests go.
    pub front: SocketAddr,
    balancer: Process,
    /// The gateways.
    pub nodes: Vec<Node>,
    /// What limits and money are kept in, if not in the gateway.
    pub redis: Option<Redis>,
    /// What answers, and counts.
    pub provider: Provider,
    terms: Terms,
}

impl Site {
    /// Starts all of it, and waits until every gateway has answered.
    pub async fn start(
        program: &Path,
        scratch: &Scratch,
        cores: Cores,
        nodes: u16,
        terms: Terms,
    ) -> Result<Self> {
        // What is missing is said before anything is started.
        let kind = Balancer::find()?;
        let provider = Provider::start()?;
        let redis = match terms.shared {
            true => Some(Redis::with_disk(terms.disk, Some(cores.load), scratch).await?),
            false => None,
        };
        let address = redis.as_ref().map(Redis::address);
        let upstream = terms.provider.unwrap_or(provider.address);
        let mut running = Vec::with_capacity(usize::from(nodes));
        for number in 1..=nodes {
            let node = Node::start(program, scratch, cores, upstream, address, terms);
            let node = node
                .await
                .map_err(|error| format!("node {number}: {error}"))?;
            running.push(node);
        }
        let fronts: Vec<SocketAddr> = running.iter().map(|node| node.front).collect();
        let [front] = free_ports()?;
        let mut balancer = kind.start(scratch, front, &fronts)?;
        let name = kind.name();
        let up = open(&mut balancer, front).await;
        up.map_err(|error| format!("{name}: {error}"))?;
        Ok(Site {
            front,
            balancer,
            nodes: running,
            redis,
            provider,
            terms,
        })
    }

    /// What each key sends, in the order of the keys.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.terms
            .names()
            .map(|(key, _)| self.request(&key))
            .collect()
    }

    /// What one key sends.
    pub fn request(&self, key: &str) -> Vec<u8> {
        let body = chat_body(MODEL, Answer::Whole);
        request(
            &chat(self.front),
            &secret(key),
            Answer::Whole,
            body.as_bytes(),
        )
    }

    /// The accounts, in order.
    pub fn accounts(&self) -> Vec<String> {
        (0..self.terms.accounts)
            .map(|account| format!("a{account}"))
            .collect()
    }

    /// An error if one of the gateways has ended.
    pub fn check(&mut self) -> Result<()> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let ended = node.process.check();
            ended.map_err(|error| format!("node {}: {error}", number + 1))?;
        }
        Ok(())
    }

    /// What has been used up so far.
    pub async fn used(&mut self) -> Result<Used> {
        let mut used = Used {
            balancer: self.balancer.cpu()?,
            ..Used::default()
        };
        for node in &self.nodes {
            used.gateways += node.process.cpu()?;
            for journal in ["journal", "journal-redis"] {
                used.journals += bytes_below(&node.store.join(journal))?;
            }
            used.logs += fs::metadata(&node.log)?.len();
        }
        if let Some(redis) = &mut self.redis {
            let (stats, disk) = (redis.info("stats").await?, redis.info("persistence").await?);
            used.received = number_of(&stats, "total_net_input_bytes")?;
            used.sent = number_of(&stats, "total_net_output_bytes")?;
            if self.terms.disk != Disk::Nothing {
                used.append_only = number_of(&disk, "aof_current_size")?;
            }
            used.redis = redis.cpu()?;
        }
        Ok(used)
    }

    /// Bytes that Redis holds in memory.
    pub async fn redis_memory(&mut self) -> Result<u64> {
        let redis = self.redis.as_mut().ok_or("a site without a Redis")?;
        number_of(&redis.info("memory").await?, "used_memory")
    }

    /// What all gateways hold in memory, in KiB (PSS).
    pub fn memory(&self) -> Result<u64> {
        let mut sum = 0;
        for node in &self.nodes {
            sum += node.process.memory()?.pss;
        }
        Ok(sum)
    }

    /// How many file descriptors the first gateway has open.
    pub fn descriptors(&self) -> Result<u64> {
        let first = self.nodes.first().ok_or("no gateway")?;
        crate::process::descriptors_of(first.process.id())
    }
}

impl Used {
    /// Adds what was used up besides.
    pub fn add(&mut self, other: Used) {
        let Used {
            gateways,
            redis,
            balancer,
            received,
            sent,
            append_only,
            journals,
            logs,
        } = other;
        self.gateways += gateways;
        self.redis += redis;
        self.balancer += balancer;
        self.received += received;
        self.sent += sent;
        self.append_only += append_only;
        self.journals += journals;
        self.logs += logs;
    }

    /// What has been used up since.
    pub fn since(self, before: Used) -> Used {
        let Used {
            gateways,
            redis,
            balancer,
            received,
            sent,
            append_only,
            journals,
            logs,
        } = self;
        Used {
            gateways: gateways.saturating_sub(before.gateways),
            redis: redis.saturating_sub(before.redis),
            balancer: balancer.saturating_sub(before.balancer),
            received: received.saturating_sub(before.received),
            sent: sent.saturating_sub(before.sent),
            append_only: append_only.saturating_sub(before.append_only),
            journals: journals.saturating_sub(before.journals),
            logs: logs.saturating_sub(before.logs),
        }
    }
}

impl Node {
    async fn start(
        program: &Path,
        scratch: &Scratch,
        cores: Cores,
        provider: SocketAddr,
        redis: Option<SocketAddr>,
        terms: Terms,
    ) -> Result<Self> {
        let [front, admin, metrics] = free_ports()?;
        let of = |kind: &str| scratch.path().join(format!("{kind}-{}", front.port()));
        let (file, store, log) = (of("gateway.yaml"), of("store"), of("access.log"));
        let places = Places {
            front,
            admin,
            metrics,
            provider,
            redis,
            store: &store,
        };
        fs::write(&file, yaml(terms, &places))?;
        // The access log goes to a file, as in service; the shell replaces itself by the gateway.
        let words = ["sh", "-c", "log=\"$1\"; shift; exec \"$@\" >\"$log\"", "sh"].map(OsStr::new);
        let own: [&OsStr; 5] = [
            log.as_ref(),
            program.as_ref(),
            "serve".as_ref(),
            "--config".as_ref(),
            file.as_ref(),
        ];
        let command = [words.as_slice(), own.as_slice()].concat();
        let name = format!("gateway-{}", front.port());
        let mut process = Process::start(&name, Some(cores.proxy), scratch, &command)?;
        open(&mut process, front).await?;
        open(&mut process, admin).await?;
        // Until Redis can be asked there are answers, and they are 503.
        let begin = Instant::now();
        let first = load(front, &secret(PROBE), 200, 1, 1);
        while let Err(error) = first.run().await?.correct() {
            if begin.elapsed() > START {
                return Err(format!("{error}\n{}", process.last_words()).into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(Node {
            process,
            front,
            admin: Admin { address: admin },
            store,
            log,
        })
    }

    /// Where requests go that do not come through the balancer.
    pub fn front(&self) -> SocketAddr {
        self.front
    }
}

/// A number that Redis says of itself.
fn number_of(info: &str, name: &str) -> Result<u64> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|digits| digits.trim().parse().ok())
        .ok_or_else(|| format!("INFO of Redis has no {name}").into())
}

/// The bytes of all files of a directory and below; of one that is not there, none. Files may go meanwhile.
fn bytes_below(directory: &Path) -> Result<u64> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(0);
    };
    let mut sum = 0;
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(file) if file.is_dir() => sum += bytes_below(&entry.path())?,
            Ok(file) => sum += file.len(),
            Err(_) => {}
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let info = "# Stats\r\ntotal_net_input_bytes_x:1\r\ntotal_net_input_bytes:77\r\n";
        let found = |name| number_of(info, name).ok();
        assert_eq!(found("total_net_input_bytes"), Some(77));
        assert_eq!(found("total_net_input"), None);
        assert_eq!(found("total_net_output_bytes"), None);
    }
}
