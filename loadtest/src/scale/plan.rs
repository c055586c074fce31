//! From measured costs to sizes: how many nodes, and what Redis, a given traffic needs. Arithmetic only.

use std::fmt::Write;

/// No core is planned to be busier than this in the busiest minute: what is above it is for bursts within that minute.
pub const BUSY: f64 = 0.6;

/// Cores of a node in the tables, with as many worker threads.
pub const NODE_CORES: f64 = 4.0;

/// Client connections that a node takes by itself, at most.
const NODE_CONNECTIONS: u64 = 50_000;

/// How long a segment of the journal is kept after all in it is in the store, in seconds.
const JOURNAL_KEPT: f64 = 900.0;

/// Events a second of a stream in the tables.
const EVENTS: f64 = 20.0;

const REQUESTS: [u64; 4] = [100, 1_000, 10_000, 50_000];
const STREAMS: [u64; 3] = [1_000, 10_000, 50_000];

/// What things cost: processor time in microseconds, sizes in bytes unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// Of the gateways, a request with all limits that is charged.
    pub gateway: f64,
    /// Of Redis, a request of which only requests a minute are limited.
    pub redis_requests: f64,
    /// Of Redis, with limits of all three kinds.
    pub redis_limits: f64,
    /// Of Redis, with those and charged.
    pub redis_all: f64,
    /// To and from Redis, of those.
    pub network: f64,
    /// Redis' append-only file, of those.
    pub append_only: f64,
    /// The journals, of those.
    pub journals: f64,
    /// The access logs.
    pub logs: f64,
    /// Of Redis, for each node, a second.
    pub idle_redis: f64,
    /// Of the gateway, an event of a stream.
    pub event: f64,
    /// Memory of a stream, in KiB.
    pub stream_kib: f64,
    /// Of Redis, a stream and second.
    pub stream_redis: f64,
    /// The journal, a stream and second.
    pub stream_journal: f64,
    /// File descriptors of a stream.
    pub stream_descriptors: f64,
    /// What a gateway holds in memory without streams, in KiB.
    pub base_kib: f64,
}

/// Nodes that are needed for so many busy cores and connections, with one more, so that any one may fail.
pub fn nodes(cores: f64, connections: u64) -> u64 {
    let by_cores = (cores / (NODE_CORES * BUSY)).ceil() as u64;
    by_cores.max(connections.div_ceil(NODE_CONNECTIONS)).max(1) + 1
}

/// How many Redis, each of which decides on one core.
pub fn shards(cores: f64) -> u64 {
    ((cores / BUSY).ceil() as u64).max(1)
}

impl Costs {
    /// The tables of sizes.
    pub fn tables(&self) -> String {
        let mut text = format!(
            "Requests that are short. A node has {NODE_CORES} cores and as many `threads`; no core is planned to be busier than {:.0} % in the busiest minute; one \
             node more than needed:\n\n\
             | requests/s | gateway cores busy | nodes | Redis cores busy: requests limited / all limits / all limits, charged | Redis masters for these \
             | network of Redis, Mbit/s | append-only file, MB/s | journals of all nodes, GB kept | access logs, GB a day |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            BUSY * 100.0
        );
        for rate in REQUESTS {
            let a_second = rate as f64;
            let gateway = a_second * self.gateway / 1e6;
            let nodes = nodes(gateway, 0);
            let redis = [self.redis_requests, self.redis_limits, self.redis_all]
                .map(|cost| (a_second * cost + nodes as f64 * self.idle_redis) / 1e6);
            let [requests, limits, all] = redis;
            let [few, some, most] = redis.map(shards);
            let _ = writeln!(
                text,
                "| {rate} | {gateway:.2} | {nodes} | {requests:.2} / {limits:.2} / {all:.2} | {few} / {some} / {most} | {:.1} | {:.2} | {:.1} | {:.1} |",
                a_second * self.network * 8.0 / 1e6,
                a_second * self.append_only / 1e6,
                a_second * self.journals * JOURNAL_KEPT / 1e9,
                a_second * self.logs * 86_400.0 / 1e9,
            );
        }
        let _ = write!(
            text,
            "\nStreams that are open at a time, of {EVENTS} events a second each, charged:\n\n\
             | streams | events/s | gateway cores busy | nodes | memory of all gateways, GiB | descriptors of all gateways | Redis cores busy | journals, MB/s |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        );
        for streams in STREAMS {
            let count = streams as f64;
            let gateway = count * EVENTS * self.event / 1e6;
            let nodes = nodes(gateway, streams);
            let memory = count * self.stream_kib + nodes as f64 * self.base_kib;
            let redis = (count * self.stream_redis + nodes as f64 * self.idle_redis) / 1e6;
            let _ = writeln!(
                text,
                "| {streams} | {:.0} | {gateway:.2} | {nodes} | {:.2} | {:.0} | {redis:.3} | {:.2} |",
                count * EVENTS,
                memory / 1024.0 / 1024.0,
                count * self.stream_descriptors,
                count * self.stream_journal / 1e6,
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_more_than_needed() {
        assert_eq!(nodes(0.0, 0), 2);
        // 2.4 cores are what a node of four is planned for.
        assert_eq!(nodes(2.4, 0), 2);
        assert_eq!(nodes(2.5, 0), 3);
        assert_eq!(nodes(0.1, 50_000), 2);
        assert_eq!(nodes(0.1, 50_001), 3);
    }

    #[test]
    fn a_redis_is_planned_for_part_of_a_core() {
        assert_eq!(shards(0.0), 1);
        assert_eq!(shards(0.6), 1);
        assert_eq!(shards(0.61), 2);
        assert_eq!(shards(5.0), 9);
    }

    #[test]
    fn sizes_follow_from_costs() {
        let costs = Costs {
            gateway: 100.0,
            redis_requests: 20.0,
            redis_limits: 50.0,
            redis_all: 100.0,
            network: 1_000.0,
            append_only: 500.0,
            journals: 200.0,
            logs: 400.0,
            idle_redis: 0.0,
            event: 25.0,
            stream_kib: 64.0,
            stream_redis: 10.0,
            stream_journal: 50.0,
            stream_descriptors: 2.0,
            base_kib: 0.0,
        };
        let text = costs.tables();
        let has = |line: &str| assert!(text.contains(line), "{line}\n{text}");
        has("| 10000 | 1.00 | 2 | 0.20 / 0.50 / 1.00 | 1 / 1 / 2 | 80.0 | 5.00 | 1.8 | 345.6 |");
        has("| 50000 | 5.00 | 4 | 1.00 / 2.50 / 5.00 | 2 / 5 / 9 | 400.0 | 25.00 | 9.0 | 1728.0 |");
        has("| 10000 | 200000 | 5.00 | 4 | 0.61 | 20000 | 0.100 | 0.50 |");
    }
}
