//! Limits in a Redis Cluster: exact over two gateways, and one slot an account.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::json;
use support::gateway::{Gateway, sha256};
use support::http::Client;
use support::provider::Provider;
use support::redis::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_three_masters() {
    let (provider, cluster) = (Provider::start().await, Cluster::start().await);
    let names = ["a", "b", "c", "d", "e", "f"];
    let key = |name: &str| format!("sk-{name}-0123456789abcdef0123456789abcdef");
    let accounts: String = names
        .iter()
        .map(|name| format!("  {name}: {{ plan: all }}\n"))
        .collect();
    let keys: String = names
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
    let nodes = [
        Gateway::start(&sections).await,
        Gateway::start(&sections).await,
    ];
    let calls = async || {
        let mut calls = Vec::new();
        for node in &cluster.nodes {
            calls.push(node.stat_calls("fcall").await);
        }
        calls
    };
    let body = json!({ "model": "gpt-test", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
    for name in names {
        let mut statuses = Vec::new();
        for n in 0..5 {
            let mut client = Client::connect(nodes[n % 2].addr).await;
            statuses.push(
                client
                    .post_json("/v1/chat/completions", &key(name), &body)
                    .await
                    .status,
            );
        }
        assert_eq!(statuses, [200, 200, 200, 429, 429], "account {name}");
    }
    // Every master has its part of the accounts.
    let calls = calls().await;
    assert!(calls.iter().all(|calls| *calls >= 5), "{calls:?}");
    for name in names {
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
