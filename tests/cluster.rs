//! Limits in a Redis Cluster: exact over two gateways, and one slot an account.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::gateway::{Gateway, sha256};
use support::http::Client;
use support::provider::Provider;
use support::redis::Cluster;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Two gateways on a cluster, with a key and an account of each name.
struct World {
    _provider: Provider,
    nodes: [Gateway; 2],
}

fn key(name: &str) -> String {
    format!("sk-{name}-0123456789abcdef0123456789abcdef")
}

async fn ask(gateway: &Gateway, name: &str) -> u16 {
    let body = json!({ "model": "gpt-test", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
    let mut client = Client::connect(gateway.addr).await;
    let answer = client
        .post_json("/v1/chat/completions", &key(name), &body)
        .await;
    answer.status
}

impl World {
    async fn start(cluster: &Cluster) -> World {
        let provider = Provider::start().await;
        let accounts: String = NAMES
            .iter()
            .map(|name| format!("  {name}: {{ plan: all }}\n"))
            .collect();
        let keys: String = NAMES
            .iter()
            .map(|name| {
                format!(
                    "  - {{ name: {name}, account: {name}, sha256: \"{}\" }}\n",
                    sha256(&key(name))
                )
            })
            .collect();
        let sections = format!(
            "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}
models: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]
store: {{ redis: {{ url: \"{}\" }}, on_failure: {{ limits: deny }} }}
plans: {{ all: {{ requests_per_minute: 1, burst: 3, tokens_per_minute: 100000, concurrency: 9 }} }}
accounts:
{accounts}keys:
{keys}",
            provider.base_url(),
            cluster.url(),
        );
        World {
            _provider: provider,
            nodes: [
                Gateway::start(&sections).await,
                Gateway::start(&sections).await,
            ],
        }
    }
}

/// What one lost master holds is lost; what the others hold is as exact as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_lost_a_master() {
    let cluster = Cluster::start_with(&["--cluster-require-full-coverage", "no"]).await;
    let world = World::start(&cluster).await;
    let mut owners = Vec::new();
    for name in NAMES {
        owners.push(
            cluster
                .owner(&format!("tollgate:{{{name}}}:l:x"))
                .await
                .addr(),
        );
    }
    // Not the one that the gateways learned the cluster from.
    let lost = &cluster.nodes[2];
    lost.kill().await;
    let [node, _] = &world.nodes;
    for _ in 0..3 {
        for (name, owner) in NAMES.iter().zip(&owners) {
            let expected = if *owner == lost.addr() { 503 } else { 200 };
            assert_eq!(ask(node, name).await, expected, "account {name}");
        }
    }
    for (name, owner) in NAMES.iter().zip(&owners) {
        if *owner != lost.addr() {
            assert_eq!(ask(node, name).await, 429, "account {name}");
        }
    }
    assert_eq!(node.metric("tollgate_store_away").await, 0.0);
    // It is back by itself.
    lost.restart().await;
    cluster.wait_ok().await;
    let name = NAMES
        .iter()
        .zip(&owners)
        .find(|(_, owner)| **owner == lost.addr());
    let (name, _) = name.expect("six accounts, and none on this master");
    let again = async {
        while ask(node, name).await == 503 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again)
        .await
        .expect("it stays away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_masters() {
    let cluster = Cluster::start().await;
    let world = World::start(&cluster).await;
    let nodes = &world.nodes;
    let calls = async || {
        let mut calls = Vec::new();
        for node in &cluster.nodes {
            calls.push(node.stat_calls("fcall").await);
        }
        calls
    };
    for name in NAMES {
        let mut statuses = Vec::new();
        for n in 0..5 {
            statuses.push(ask(&nodes[n % 2], name).await);
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429], "account {name}");
    }
    // Every master has its part of the accounts.
    let calls = calls().await;
    assert!(calls.iter().all(|calls| *calls >= 5), "{calls:?}");
    for name in NAMES {
        let mut slots = Vec::new();
        for node in &cluster.nodes {
            for key in node
                .command(&["KEYS", &format!("tollgate:{{{name}}}:*")])
                .await
                .texts()
            {
                slots.push(node.command(&["CLUSTER", "KEYSLOT", &key]).await.int());
            }
        }
        slots.dedup();
        assert_eq!(slots.len(), 1, "all of account {name} is in one slot");
    }
    // Each call found its master at once.
    for node in &cluster.nodes {
        assert_eq!(node.info("errorstats", "errorstat_MOVED").await, None);
    }
}
