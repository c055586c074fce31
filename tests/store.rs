//! Redis that is killed, restarted, flushed, paused or read-only while requests come: what the
//! operator chose holds, nobody waits, and everything recovers by itself.
//!
//! How long recovery takes and how long requests wait is measured by `loadtest outage`, not here; here
//! it must come, and nobody must hang.
//!
//! Above 400 lines: one fault a test, over one load and one way of waiting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use support::gateway::{Gateway, KEY, complete};
use support::http::Client;
use support::provider::Provider;
use support::redis::Redis;
use support::served::Served;
use support::tls::{Front, Identity};
use tokio::task::JoinSet;

const CHAT: &str = "/v1/chat/completions";
const AWAY: &str = "tollgate_store_away";

/// What no request may take, whatever Redis does: far above the 50 ms that one may wait for it, far
/// below what a client would wait that nobody had given a deadline.
const HUNG: Duration = Duration::from_secs(2);

fn yaml(provider: &Provider, redis: &str, policy: &str, plan: &str) -> String {
    complete(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}
models: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]
store: {{ redis: {{ url: \"{redis}\" }}, on_failure: {{ limits: {policy} }} }}
plans: {{ all: {{ models: [\"*\"], {plan} }}, few: {{ models: [\"*\"], {plan} }} }}
",
        provider.base_url()
    ))
}

async fn gateway(provider: &Provider, redis: &str, policy: &str, plan: &str) -> Gateway {
    Gateway::with(&yaml(provider, redis, policy, plan)).await
}

async fn once(gateway: &Gateway) -> u16 {
    let mut client = Client::connect(gateway.addr).await;
    ask(&mut client).await
}

async fn ask(client: &mut Client) -> u16 {
    let body = json!({ "model": "gpt-test", "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
    client.post_json(CHAT, KEY, &body).await.status
}

async fn until(gateway: &Gateway, series: &str, value: f64) {
    let reached = async {
        while gateway.metric(series).await != value {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), reached).await;
    let now = gateway.metric(series).await;
    assert!(found.is_ok(), "{series} is {now}, not {value}");
}

/// Eight clients that ask all the time, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<(BTreeMap<u16, u32>, Duration)>,
}

impl Load {
    fn start(gateway: &Gateway) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (addr, stop) = (gateway.addr, stop.clone());
            clients.spawn(async move {
                let mut client = Client::connect(addr).await;
                let (mut statuses, mut longest) = (BTreeMap::new(), Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    *statuses.entry(ask(&mut client).await).or_insert(0) += 1;
                    longest = longest.max(begun.elapsed());
                }
                (statuses, longest)
            });
        }
        Load { stop, clients }
    }

    /// Statuses and how often each came.
    async fn stop(mut self) -> BTreeMap<u16, u32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        while let Some(one) = self.clients.join_next().await {
            let (statuses, longest) = one.unwrap();
            assert!(longest < HUNG, "a request took {longest:?}");
            for (status, count) in statuses {
                *all.entry(status).or_insert(0) += count;
            }
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_and_comes_back() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let limits = "requests_per_minute: 1000000, tokens_per_minute: 100000000, concurrency: 100";
    let gateway = gateway(&provider, &redis.url(), "local", limits).await;
    let load = Load::start(&gateway);
    for _ in 0..3 {
        until(&gateway, AWAY, 0.0).await;
        redis.kill().await;
        until(&gateway, AWAY, 1.0).await;
        redis.restart().await;
    }
    until(&gateway, AWAY, 0.0).await;
    let before = redis.stat_calls("fcall").await;
    assert_eq!(once(&gateway).await, 200);
    assert!(
        redis.stat_calls("fcall").await > before,
        "it is asked again"
    );
    let statuses = load.stop().await;
    assert!(statuses.keys().eq(&[200]), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let limits = "requests_per_minute: 1000000, concurrency: 100";
    let gateway = gateway(&provider, &redis.url(), "local", limits).await;
    let load = Load::start(&gateway);
    for _ in 0..2 {
        until(&gateway, AWAY, 0.0).await;
        redis.pause();
        until(&gateway, AWAY, 1.0).await;
        // Known to hang: nobody waits for it any more.
        let timeouts = gateway
            .metric("tollgate_redis_errors_total{kind=\"timeout\"}")
            .await;
        for _ in 0..60 {
            assert_eq!(once(&gateway).await, 200);
        }
        let more = gateway
            .metric("tollgate_redis_errors_total{kind=\"timeout\"}")
            .await;
        // Of what was in flight, a few may still have run out of time; none of these sixty did.
        assert!(more < timeouts + 30.0, "{timeouts}, then {more}");
        redis.resume();
    }
    until(&gateway, AWAY, 0.0).await;
    let statuses = load.stop().await;
    assert!(statuses.keys().eq(&[200]), "{statuses:?}");
    // Places that were taken while it hung are given back.
    let holds = async {
        while !redis
            .command(&["KEYS", "tollgate:*:h:*"])
            .await
            .array()
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), holds)
        .await
        .expect("no hold is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_flushed_or_lost_its_functions() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let limits = "requests_per_minute: 1000000, concurrency: 100";
    let gateway = gateway(&provider, &redis.url(), "deny", limits).await;
    let load = Load::start(&gateway);
    assert_eq!(once(&gateway).await, 200);
    redis.command(&["FLUSHALL"]).await.ok();
    assert_eq!(once(&gateway).await, 200);
    redis.command(&["FUNCTION", "FLUSH"]).await.ok();
    redis.command(&["FLUSHALL"]).await.ok();
    // Nobody has to do anything.
    let again = async {
        while redis
            .command(&["FUNCTION", "LIST"])
            .await
            .array()
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .expect("no functions");
    until(&gateway, AWAY, 0.0).await;
    assert_eq!(once(&gateway).await, 200);
    let statuses = load.stop().await;
    assert!(
        statuses.keys().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_only_reads() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let limits = "requests_per_minute: 1000000, concurrency: 100";
    let gateway = gateway(&provider, &redis.url(), "deny", limits).await;
    let load = Load::start(&gateway);
    assert_eq!(once(&gateway).await, 200);
    // A replica of nobody.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await.ok();
    until(&gateway, AWAY, 1.0).await;
    assert_eq!(once(&gateway).await, 503);
    redis.command(&["REPLICAOF", "NO", "ONE"]).await.ok();
    until(&gateway, AWAY, 0.0).await;
    assert_eq!(once(&gateway).await, 200);
    let statuses = load.stop().await;
    assert!(statuses.keys().eq(&[200, 503]), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_node_has_its_share() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    // Nothing comes back while the test runs.
    let limits = "requests_per_minute: 1, burst: 12";
    let nodes = [
        gateway(&provider, &redis.url(), "local", limits).await,
        gateway(&provider, &redis.url(), "local", limits).await,
    ];
    for node in &nodes {
        until(node, "tollgate_nodes", 2.0).await;
        assert_eq!(once(node).await, 200);
    }
    redis.kill().await;
    let mut admitted = [0, 0];
    for (node, admitted) in nodes.iter().zip(&mut admitted) {
        until(node, AWAY, 1.0).await;
        for _ in 0..12 {
            let status = once(node).await;
            assert!([200, 429].contains(&status), "{status}");
            *admitted += u32::from(status == 200);
        }
    }
    // One node had seen 11 left, the other 10: half of that each, and never a new burst.
    assert_eq!(admitted, [5, 5]);
    redis.restart().await;
    for node in &nodes {
        until(node, AWAY, 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_chose_holds_from_the_start() {
    let provider = Provider::start().await;
    // Nobody listens there yet.
    let redis = Redis::start().await;
    redis.kill().await;
    let limits = "requests_per_minute: 1, burst: 1";
    let denies = gateway(&provider, &redis.url(), "deny", limits).await;
    let mut client = Client::connect(denies.addr).await;
    let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
    let answer = client.post_json(CHAT, KEY, &body).await;
    support::refusal::refused(
        &answer,
        support::refusal::Envelope::OpenAi,
        503,
        "temporarily_unavailable",
    );
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(provider.count(), 0);
    // Models are listed all the same.
    assert_eq!(client.get("/v1/models", KEY).await.status, 200);

    let allows = gateway(&provider, &redis.url(), "allow", limits).await;
    for _ in 0..5 {
        assert_eq!(once(&allows).await, 200);
    }
    let local = gateway(&provider, &redis.url(), "local", limits).await;
    assert_eq!(once(&local).await, 200);
    assert_eq!(once(&local).await, 429);

    redis.restart().await;
    for gateway in [&denies, &allows, &local] {
        until(gateway, AWAY, 0.0).await;
    }
    assert_eq!(once(&denies).await, 200);
    // From now on there is one bucket.
    assert_eq!(once(&allows).await, 429);
    assert_eq!(once(&local).await, 429);
}

/// Each request after the last one's answer, on connections that are kept and on new ones.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_answer_finds_room_for_the_next() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let limits = "concurrency: 1, tokens_per_minute: 10000";
    let gateway = gateway(&provider, &redis.url(), "deny", limits).await;
    let mut kept = Client::connect(gateway.addr).await;
    for n in 0..150 {
        assert_eq!(ask(&mut kept).await, 200, "request {n} on one connection");
        assert_eq!(once(&gateway).await, 200, "request {n} on its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_workers_as_places_are_never_refused() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let gateway = gateway(&provider, &redis.url(), "deny", "concurrency: 8").await;
    let load = Load::start(&gateway);
    let enough = async {
        while provider.count() < 2_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), enough)
        .await
        .expect("2,000 requests");
    let statuses = load.stop().await;
    assert!(statuses.keys().eq(&[200]), "{statuses:?}");
}

/// `docs/limits.md` says what a user of Redis must be allowed.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_page_lists_are_enough() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let page = include_str!("../docs/limits.md");
    let (_, list) = page.split_once("The user needs ").unwrap();
    let (list, _) = list.split_once("; of a cluster").unwrap();
    let words = list.split(|c: char| c.is_whitespace() || "`(),".contains(c));
    let rights = words.filter(|word| word.starts_with(['+', '~']));
    let mut command = vec!["ACL", "SETUSER", "gateway", "on", ">password", "-@all"];
    command.extend(rights);
    assert!(command.len() > 15, "{command:?}");
    redis.command(&command).await.ok();
    let url = format!("redis://gateway:password@{}/0", redis.addr());
    let limits = "requests_per_minute: 60, concurrency: 3, tokens_per_minute: 100000, tokens_per_day: 100000";
    let gateway = gateway(&provider, &url, "deny", limits).await;
    for _ in 0..5 {
        assert_eq!(once(&gateway).await, 200);
    }
    assert_eq!(gateway.metric(AWAY).await, 0.0);
    let failed = "tollgate_redis_errors_total{kind=\"failed\"}";
    assert_eq!(gateway.metric(failed).await, 0.0);
}

/// One that closes each connection: it is away, and stays so.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_redis_for_us_stays_away() {
    let provider = Provider::start().await;
    let closes = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/0", closes.local_addr().unwrap());
    let connections = tokio::spawn(async move {
        let mut count = 0;
        let end = tokio::time::Instant::now() + Duration::from_secs(2);
        while tokio::time::timeout_at(end, closes.accept()).await.is_ok() {
            count += 1;
        }
        count
    });
    let gateway = gateway(&provider, &url, "local", "requests_per_minute: 1, burst: 2").await;
    assert_eq!(gateway.metric(AWAY).await, 1.0);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(once(&gateway).await);
    }
    assert_eq!(statuses, [200, 200, 429]);
    let connections = connections.await.unwrap();
    assert!(
        (2..20).contains(&connections),
        "{connections} in two seconds"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_and_go() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let first = gateway(&provider, &redis.url(), "local", "concurrency: 5").await;
    let second = gateway(&provider, &redis.url(), "local", "concurrency: 5").await;
    until(&first, "tollgate_nodes", 2.0).await;
    second.running.shutdown(Duration::from_secs(1)).await;
    until(&first, "tollgate_nodes", 1.0).await;
}

/// A gateway in a process of its own.
fn served(
    directory: &Path,
    provider: &Provider,
    redis: &str,
    variables: &[(&str, &str)],
) -> Served {
    let file = directory.join("gateway.yaml");
    let yaml = yaml(provider, redis, "local", "requests_per_minute: 60");
    std::fs::write(&file, yaml).unwrap();
    Served::start(&file, variables)
}

/// The log of an operator at three in the morning: one line when it begins, one when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_once_and_its_end_too() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let password = async || {
        let command = ["CONFIG", "SET", "requirepass", "not-a-secret"];
        redis.command(&command).await.ok();
    };
    password().await;
    let directory = tempfile::tempdir().unwrap();
    let url = format!("redis://:not-a-secret@{}/0", redis.addr());
    let served = served(directory.path(), &provider, &url, &[]);
    let mut told = served.until("listening");
    redis.kill().await;
    let began = served.until("Redis is away");
    let line = began.last().unwrap();
    assert!(
        line.contains("\"warn\"") && line.contains("store.on_failure.limits: local"),
        "{line}"
    );
    // Several tries later it is still one line.
    let nobody = tokio::net::TcpListener::bind(redis.addr()).await.unwrap();
    for _ in 0..3 {
        drop(nobody.accept().await.unwrap());
    }
    drop(nobody);
    redis.restart().await;
    password().await;
    let ended = served.until("Redis is back");
    assert_eq!(ended.len(), 1, "one line for all tries: {ended:#?}");
    told.extend(began.into_iter().chain(ended));
    assert!(
        !told.iter().any(|line| line.contains("not-a-secret")),
        "{told:#?}"
    );
    assert_eq!(served.stop().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_behind_tls() {
    let (provider, redis) = (Provider::start().await, Redis::start().await);
    let identity = Identity::new();
    let front = Front::start(&identity, redis.addr(), &[]).await;
    let directory = tempfile::tempdir().unwrap();
    let url = format!("rediss://127.0.0.1:{}/0", front.addr.port());
    // An authority that nobody knows is not believed.
    let stranger = served(directory.path(), &provider, &url, &[]);
    stranger.until("Redis is away");
    assert_eq!(redis.stat_calls("fcall").await, 0);
    let authority = identity.file("ca.pem").display().to_string();
    let served = served(
        directory.path(),
        &provider,
        &url,
        &[("SSL_CERT_FILE", &authority)],
    );
    let told = served.until("listening");
    assert!(!told.iter().any(|line| line.contains("away")), "{told:#?}");
    assert!(redis.stat_calls("fcall").await > 0);
}
