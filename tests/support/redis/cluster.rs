//! Three masters that share the slots.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Redis;

/// The slots of each node.
const SLOTS: [RangeInclusive<i64>; 3] = [0..=5460, 5461..=10_922, 10_923..=16_383];
/// A cluster counts two seconds as down whatever it is told, and gossip takes its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running cluster without replicas; it ends when dropped.
pub struct Cluster {
    /// In the order of their slots.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    pub async fn start() -> Cluster {
        Cluster::start_with(&[]).await
    }

    /// With more arguments for each node, such as `--cluster-require-full-coverage no`.
    pub async fn start_with(arguments: &[&str]) -> Cluster {
        let mut all = vec![
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            // A node learns its own address from others only, and else says "".
            "--cluster-announce-ip",
            "127.0.0.1",
        ];
        all.extend(arguments);
        let mut nodes = Vec::new();
        for (epoch, slots) in (1u32..).zip(SLOTS) {
            let node = Redis::start_with(&all).await;
            let (first, last) = (slots.start().to_string(), slots.end().to_string());
            let add = ["CLUSTER", "ADDSLOTSRANGE", &first, &last];
            node.command(&add).await.ok();
            // Nodes of one epoch would first have to agree who yields.
            let set = ["CLUSTER", "SET-CONFIG-EPOCH", &format!("{epoch}")];
            node.command(&set).await.ok();
            nodes.push(node);
        }
        for node in &nodes[1..] {
            let port = node.addr().port().to_string();
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port];
            nodes[0].command(&meet).await.ok();
        }
        let cluster = Cluster { nodes };
        cluster.wait_ok().await;
        cluster
    }

    /// `redis+cluster://127.0.0.1:PORT`, of the first node.
    pub fn url(&self) -> String {
        format!("redis+cluster://{}", self.nodes[0].addr())
    }

    /// Until every node knows the others and all slots; for a start, and after a node has come back.
    pub async fn wait_ok(&self) {
        let deadline = Instant::now() + PATIENCE;
        for node in &self.nodes {
            loop {
                let info = node.command(&["CLUSTER", "INFO"]).await.text();
                let is = |field: &str| info.lines().any(|line| line == field);
                if is("cluster_state:ok")
                    && is("cluster_slots_ok:16384")
                    && is("cluster_known_nodes:3")
                    && is("cluster_size:3")
                {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "no cluster in {PATIENCE:?}; {} says:\n{info}",
                    node.addr()
                );
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The node that has the slot of a name.
    pub async fn owner(&self, name: &str) -> &Redis {
        let ask = ["CLUSTER", "KEYSLOT", name];
        let slot = self.nodes[0].command(&ask).await.int();
        let nth = SLOTS.iter().position(|slots| slots.contains(&slot));
        &self.nodes[nth.expect("a slot")]
    }
}
