//! Several nodes on one Redis: what an operator does on one takes hold on all, also on those that were away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Gateway, config};
use support::operator::{Ground, World, call, said, until};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What is changed on one node holds on all within this time: contract §2.
const SOON: Duration = Duration::from_secs(2);

/// A node's own way to Redis, which can be cut.
struct Way {
    addr: SocketAddr,
    target: SocketAddr,
    open: Arc<Mutex<Option<JoinSet<()>>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Way {
    async fn to(target: SocketAddr) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Some(JoinSet::new())));
        let shared = open.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // Cut: it is closed at once.
                if let Some(connections) = shared.lock().unwrap().as_mut() {
                    connections.spawn(async move {
                        let mut redis = TcpStream::connect(target).await.unwrap();
                        let _ = copy_bidirectional(&mut stream, &mut redis).await;
                    });
                }
            }
        });
        Way {
            addr,
            target,
            open,
            accepting,
        }
    }

    fn url(&self) -> String {
        assert_ne!(self.addr, self.target);
        format!("redis://{}/0", self.addr)
    }

    fn cut(&self) {
        *self.open.lock().unwrap() = None;
    }

    fn mend(&self) {
        *self.open.lock().unwrap() = Some(JoinSet::new());
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Another gateway on the same ground.
async fn another(world: &World, redis: &str) -> Gateway {
    Gateway::from(&config(&world.ground.yaml_by("b", Some(redis), ""))).await
}

async fn metric(gateway: &Gateway, series: &str, value: f64) {
    until(series, async || {
        (gateway.metric(series).await == value).then_some(())
    })
    .await;
}

/// Until a node answers so; gives how long that took.
async fn turns(gateway: &Gateway, key: &str, status: u16) -> Duration {
    let begun = Instant::now();
    until("the node knows", async || {
        (said(gateway, key, "gpt-test").await.0 == status).then_some(())
    })
    .await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_does_holds_on_all() {
    let a = World::start(Ground::redis().await, "").await;
    let b = another(&a, &a.ground.redis.as_ref().unwrap().url()).await;
    a.account("beta", "1").await;
    let (id, key) = a.key("beta", json!({})).await;
    let path = format!("/keys/{id}");
    assert!(turns(&b, &key, 200).await < SOON);
    a.did(200, "PATCH", "/accounts/beta", json!({ "plan": "few" }))
        .await;
    until("its plan is another", async || {
        (said(&b, &key, "claude-test").await.0 == 403).then_some(())
    })
    .await;
    // An edit that follows another's, on the other node, needs to know of it.
    let edit = json!({ "disabled": true });
    let edited = call(&b, "PATCH", &path, Some(&edit), &[]).await;
    assert_eq!(edited.status, 200, "{}", edited.text());
    assert_eq!(said(&b, &key, "gpt-test").await.0, 401);
    assert!(turns(&a.gateway, &key, 401).await < SOON);
    let edited = a
        .did(200, "PATCH", &path, json!({ "disabled": false }))
        .await;
    assert_eq!(edited["state"], "active");
    assert!(turns(&b, &key, 200).await < SOON);
    // Two at once: neither is lost.
    let names = json!({ "name": "renamed" });
    let caps = json!({ "spend_cap": { "daily": "5" } });
    let (one, other) = tokio::join!(
        call(&a.gateway, "PATCH", &path, Some(&names), &[]),
        call(&b, "PATCH", &path, Some(&caps), &[]),
    );
    assert_eq!((one.status, other.status), (200, 200));
    for node in [&a.gateway, &b] {
        until("both edits", async || {
            let key = call(node, "GET", &path, None, &[]).await.json();
            let both = key["name"] == "renamed" && key["spend_cap"]["daily"] == "5.000000";
            both.then_some(())
        })
        .await;
    }
    a.did(200, "DELETE", &path, Value::Null).await;
    assert!(turns(&b, &key, 401).await < SOON);
    // The same request on both is one: who asks again elsewhere is told so.
    let body = json!({ "amount": "1" });
    let once = [("Idempotency-Key", "invoice-1")];
    for node in [&a.gateway, &b] {
        let made = call(node, "POST", "/accounts/beta/top-ups", Some(&body), &once).await;
        assert_eq!(
            (made.status, &made.json()["entry"]["amount"]),
            (201, &json!("1.000000"))
        );
    }
    let entries = a.get("/accounts/beta/entries").await;
    assert_eq!(entries["data"].as_array().unwrap().len(), 3, "{entries}");
    let body = json!({ "name": "app", "account": "beta" });
    let once = [("Idempotency-Key", "key-1")];
    let made = a
        .call_with("POST", "/keys", Some(&body), &once)
        .await
        .json();
    let again = call(&b, "POST", "/keys", Some(&body), &once).await;
    assert_eq!(again.status, 201, "{}", again.text());
    assert_eq!(
        (&again.json()["id"], &again.json()["key"]),
        (&made["id"], &Value::Null)
    );
    let (body, once) = (json!({ "plan": "all" }), [("Idempotency-Key", "plan-1")]);
    for (node, replayed) in [(&a.gateway, None), (&b, Some("true"))] {
        let edited = call(node, "PATCH", "/accounts/beta", Some(&body), &once).await;
        assert_eq!(
            (edited.status, edited.header("idempotency-replayed")),
            (200, replayed)
        );
        assert_eq!(edited.json()["plan"], "all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_hears_of_what_it_missed() {
    let a = World::start(Ground::redis().await, "").await;
    let way = Way::to(a.ground.redis.as_ref().unwrap().addr()).await;
    let b = another(&a, &way.url()).await;
    a.account("beta", "1").await;
    let (id, key) = a.key("beta", json!({})).await;
    turns(&b, &key, 200).await;
    way.cut();
    metric(&b, "tollgate_store_away", 1.0).await;
    a.did(200, "DELETE", &format!("/keys/{id}"), Value::Null)
        .await;
    let (_, made) = a.key("beta", json!({})).await;
    assert_eq!(said(&a.gateway, &key, "gpt-test").await.0, 401);
    // It goes on with what it knows.
    assert_eq!(said(&b, &key, "gpt-test").await.0, 200);
    assert_eq!(said(&b, &made, "gpt-test").await.0, 401);
    let edit = json!({ "disabled": true });
    let refused = call(&b, "PATCH", &format!("/keys/{id}"), Some(&edit), &[]).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    way.mend();
    assert!(turns(&b, &key, 401).await < SOON);
    assert!(turns(&b, &made, 200).await < SOON);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_without_redis_learns_of_keys_later() {
    let a = World::start(Ground::redis().await, "").await;
    a.account("beta", "1").await;
    let (_, key) = a.key("beta", json!({})).await;
    let way = Way::to(a.ground.redis.as_ref().unwrap().addr()).await;
    way.cut();
    let b = another(&a, &way.url()).await;
    assert_eq!(said(&b, &key, "gpt-test").await.0, 401);
    way.mend();
    assert!(turns(&b, &key, 200).await < SOON);
}

/// A Redis that comes back with nothing has lost the records; the nodes have not. What is revoked stays so, what works
/// goes on working, and can still be revoked.
#[tokio::test(flavor = "multi_thread")]
async fn what_redis_has_forgotten_the_nodes_tell_it_again() {
    let a = World::start(Ground::redis().await, "").await;
    let redis = a.ground.redis.as_ref().unwrap();
    let b = another(&a, &redis.url()).await;
    a.account("beta", "1").await;
    let (id, key) = a.key("beta", json!({})).await;
    let (gone, revoked) = a.key("beta", json!({})).await;
    a.did(
        200,
        "PATCH",
        &format!("/keys/{id}"),
        json!({ "name": "renamed" }),
    )
    .await;
    a.did(200, "DELETE", &format!("/keys/{gone}"), Value::Null)
        .await;
    turns(&b, &key, 200).await;
    turns(&b, &revoked, 401).await;
    redis.restart().await;
    for node in [&a.gateway, &b] {
        metric(node, "tollgate_store_away", 0.0).await;
    }
    // It is known to Redis again, by whichever node was first.
    until("the records are back", async || {
        let kept = redis.command(&["HLEN", "tollgate:{keys}:r"]).await.int();
        (kept == 3).then_some(())
    })
    .await;
    assert_eq!(said(&b, &key, "gpt-free").await.0, 200);
    assert_eq!(said(&b, &revoked, "gpt-free").await.0, 401);
    a.did(200, "DELETE", &format!("/keys/{id}"), Value::Null)
        .await;
    until("the other node knows", async || {
        (said(&b, &key, "gpt-free").await.0 == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_listed() {
    let a = World::start(Ground::redis().await, "").await;
    let alone = a.get("/nodes").await;
    assert_eq!(
        (&alone["nodes"], &alone["complete"]),
        (&json!(1), &json!(true))
    );
    let redis = a.ground.redis.as_ref().unwrap();
    let b = another(&a, &redis.url()).await;
    let listed = until("both are listed", async || {
        let listed = a.get("/nodes").await;
        (listed["nodes"] == 2).then_some(listed)
    })
    .await;
    let own = call(&b, "GET", "/nodes", None, &[]).await.json();
    let (this, other) = (&listed["data"][0], &listed["data"][1]);
    assert_eq!(
        (&this["this"], &other["this"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(other["id"], own["data"][0]["id"]);
    assert_eq!(this["id"], own["data"][1]["id"]);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for node in [this, other] {
        assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(node["host"], host.trim());
        for time in ["started_at", "heard_at"] {
            let time: jiff::Timestamp = node[time].as_str().unwrap().parse().unwrap();
            let ago = jiff::Timestamp::now().duration_since(time);
            assert!(ago.as_secs().abs() < 60, "{node}");
        }
    }
    // One that leaves in good order is gone at once, with all that it said.
    b.running.shutdown(Duration::from_secs(1)).await;
    assert_eq!(a.get("/nodes").await["nodes"], 1);
    for kind in ["library", "about"] {
        let kept = redis
            .command(&["HLEN", &format!("tollgate:{{nodes}}:{kind}")])
            .await
            .int();
        assert_eq!(kept, 1, "{kind}");
    }
    redis.kill().await;
    let away = until("Redis is away", async || {
        let listed = a.get("/nodes").await;
        (listed["complete"] == false).then_some(listed)
    })
    .await;
    assert_eq!(
        (&away["nodes"], away["data"].as_array().unwrap().len()),
        (&json!(1), 1)
    );
}

/// `docs/limits.md` says what a user of Redis must be allowed: for money and operators too.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_page_lists_are_enough_for_an_operator() {
    let ground = Ground::redis().await;
    let redis = ground.redis.as_ref().unwrap();
    let page = include_str!("../docs/limits.md");
    let (_, list) = page.split_once("The user needs ").unwrap();
    let (list, _) = list.split_once("; of a cluster").unwrap();
    let words = list.split(|c: char| c.is_whitespace() || "`(),".contains(c));
    let mut command = vec!["ACL", "SETUSER", "gateway", "on", ">password", "-@all"];
    command.extend(words.filter(|word| word.starts_with(['+', '~'])));
    redis.command(&command).await.ok();
    let url = format!("redis://gateway:password@{}/0", redis.addr());
    let node = Gateway::from(&config(&ground.yaml_by("a", Some(&url), ""))).await;
    let did = async |status: u16, method: &str, path: &str, body: Value| {
        let body = (!body.is_null()).then_some(&body);
        let once = format!("{method} {path}").replace(' ', "-");
        let answer = call(&node, method, path, body, &[("Idempotency-Key", &once)]).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer.json()
    };
    did(
        201,
        "POST",
        "/accounts",
        json!({ "id": "beta", "plan": "all" }),
    )
    .await;
    did(
        201,
        "POST",
        "/accounts/beta/top-ups",
        json!({ "amount": "2" }),
    )
    .await;
    did(
        201,
        "POST",
        "/accounts/beta/refunds",
        json!({ "amount": "1" }),
    )
    .await;
    did(
        201,
        "POST",
        "/accounts/beta/packages",
        json!({ "package": "starter" }),
    )
    .await;
    let caps = json!({ "daily": "1" });
    let made = did(
        201,
        "POST",
        "/keys",
        json!({ "name": "a", "account": "beta", "spend_cap": caps }),
    )
    .await;
    let key = made["key"].as_str().unwrap();
    assert_eq!(said(&node, key, "gpt-test").await.0, 200);
    let path = format!("/keys/{}", made["id"].as_str().unwrap());
    did(
        200,
        "PATCH",
        &path,
        json!({ "billing": { "package": "starter" } }),
    )
    .await;
    assert_eq!(said(&node, key, "gpt-test").await.0, 200);
    until("both are charged", async || {
        let used = did(200, "GET", "/usage?account=beta", Value::Null).await;
        (used["total"]["requests"] == 2).then_some(())
    })
    .await;
    for path in [
        "/accounts/beta",
        "/accounts/beta/entries",
        "/ledger",
        "/nodes",
    ] {
        did(200, "GET", path, Value::Null).await;
    }
    did(200, "DELETE", &path, Value::Null).await;
    assert_eq!(node.metric("tollgate_store_away").await, 0.0);
    let failed = "tollgate_redis_errors_total{kind=\"failed\"}";
    assert_eq!(node.metric(failed).await, 0.0);
    // Nor was anything tried that it may not.
    let denied = redis.command(&["ACL", "LOG"]).await;
    assert_eq!(denied.array(), []);
}
