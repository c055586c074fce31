//! The configuration changes while requests run.
//!
//! Above 400 lines: one test a promise, over the gateways and files that all of them share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Gateway, KEY, NARROW_KEY, config, sha256};
use support::http::{Client, Response};
use support::operator::{CHAT, COST, Ground, TOKEN, ask, call, code, said, shown, until};
use support::provider::{Gate, Provider, Script, usage};
use support::served::Served;
use support::tls::{Front, Identity};
use tollgate::admin::backend::{NotReloaded, Reloaded};

/// Files are looked at only when a test says so.
const NEVER: Duration = Duration::from_secs(3600);
/// Files are looked at all the time.
const ALWAYS: Duration = Duration::from_millis(5);

const PRICES: &str = "price: { input: 100, cached_input: 50, output: 1000 }";
const DOUBLE: &str = "price: { input: 200, cached_input: 100, output: 2000 }";

/// A gateway, and the file that it goes by.
struct World {
    ground: Ground,
    path: PathBuf,
    yaml: String,
    gateway: Gateway,
}

impl World {
    async fn start(ground: Ground, more: &str) -> World {
        World::looking(ground, more, NEVER).await
    }

    async fn looking(ground: Ground, more: &str, look: Duration) -> World {
        let yaml = ground.yaml("a", more);
        let path = ground.folder.path().join("gateway.yaml");
        std::fs::write(&path, &yaml).unwrap();
        let gateway = Gateway::of_file(&path, look).await;
        World {
            ground,
            path,
            yaml,
            gateway,
        }
    }

    /// Changes the file.
    #[track_caller]
    fn edit(&mut self, from: &str, to: &str) {
        assert!(self.yaml.contains(from), "{from}\n{}", self.yaml);
        self.yaml = self.yaml.replace(from, to);
        std::fs::write(&self.path, &self.yaml).unwrap();
    }

    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        self.gateway.running.reloader.reload().await
    }

    /// What a reload has changed.
    async fn changed(&self) -> Vec<String> {
        self.reload().await.unwrap().changes
    }

    async fn said(&self, key: &str, model: &str) -> (u16, String) {
        said(&self.gateway, key, model).await
    }

    async fn admin(&self, method: &str, path: &str, body: &Value) -> Response {
        let body = (!body.is_null()).then_some(body);
        call(&self.gateway, method, path, body, &[]).await
    }

    async fn failed(&self) -> bool {
        self.gateway.metric("tollgate_config_reload_failed").await > 0.0
    }
}

/// An answer of `gpt-test` that waits behind its head.
fn held(gate: &Gate) -> Script {
    let answer = json!({
        "id": "x", "object": "chat.completion", "model": "gpt-test",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "hi" }, "finish_reason": "stop" }],
        "usage": {
            "prompt_tokens": usage::INPUT, "completion_tokens": usage::OUTPUT,
            "prompt_tokens_details": { "cached_tokens": usage::CACHED },
        },
    });
    Script::chunked(200)
        .header("content-type", "application/json")
        .gate(gate)
        .chunk(answer.to_string())
}

async fn a_request_keeps_its_price(ground: Ground) {
    let mut world = World::start(ground, "").await;
    let gate = Gate::new();
    world.ground.provider.once("gpt-test", held(&gate));
    let mut client = Client::connect(world.gateway.addr).await;
    let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
    let (answer, ()) = tokio::join!(client.post_json(CHAT, KEY, &body), async {
        world.ground.provider.wait_requests(1).await;
        world.edit(PRICES, DOUBLE);
        // All three prices of both models that have one.
        assert_eq!(world.changed().await.len(), 6);
        assert_eq!(world.changed().await, Vec::<String>::new());
        gate.open();
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.said(KEY, "gpt-test").await.0, 200);
    let lines = world.gateway.log(2).await;
    assert_eq!(lines[0]["cost"], shown(COST));
    assert_eq!(lines[1]["cost"], shown(2 * COST));
    let left = shown(10_000_000 - 3 * COST);
    until("both are charged", async || {
        let account = world.admin("GET", "/accounts/acme", &Value::Null).await;
        (account.json()["balance"] == left.as_str()).then_some(())
    })
    .await;
}

async fn what_is_gone_is_refused_and_what_is_new_serves(ground: Ground) {
    let mut world = World::start(ground, "").await;
    let other = Provider::start().await;
    for (key, model) in [(KEY, "gpt-test"), (NARROW_KEY, "gpt-free")] {
        assert_eq!(world.said(key, model).await.0, 200);
    }
    let narrow = world
        .yaml
        .lines()
        .find(|line| line.contains("narrow"))
        .unwrap()
        .to_owned();
    let new_key = "sk-new-0123456789abcdef0123456789abcdef";
    world.edit(
        &narrow,
        &format!(
            "  - {{ name: new, account: beta, sha256: {:?} }}",
            sha256(new_key)
        ),
    );
    world.edit(
        "  - { id: gpt-free, upstreams: [{ provider: fake }] }",
        &format!("  - {{ id: gpt-new, {PRICES}, upstreams: [{{ provider: second }}] }}"),
    );
    world.edit(
        "providers:\n",
        &format!(
            "providers:\n  second: {{ api: openai, base_url: \"{}\", keys: [k] }}\n",
            other.base_url()
        ),
    );
    world.edit(
        "accounts: {",
        "accounts: { beta: { plan: all, balance: 3 },",
    );
    let mut changes = world.changed().await;
    changes.sort();
    assert_eq!(
        changes,
        [
            "accounts.beta",
            "keys.narrow",
            "keys.new",
            "models.gpt-free",
            "models.gpt-new",
            "providers.second",
        ]
    );
    assert_eq!(world.said(NARROW_KEY, "gpt-test").await.0, 401);
    assert_eq!(
        world.said(KEY, "gpt-free").await,
        (404, "model_not_found".into())
    );
    // Seen by operators before its first request.
    let account = world.admin("GET", "/accounts/beta", &Value::Null).await;
    assert_eq!(account.json()["balance"], "3.000000", "{}", account.text());
    assert_eq!(world.said(new_key, "gpt-new").await.0, 200);
    assert_eq!(other.count(), 1);
    until("it is charged", async || {
        let account = world.admin("GET", "/accounts/beta", &Value::Null).await;
        (account.json()["balance"] == shown(3_000_000 - COST)).then_some(())
    })
    .await;
    let ledger = world.admin("GET", "/ledger", &Value::Null).await;
    assert_eq!(ledger.json()["drift"], json!([]));
}

async fn keys_made_at_run_time_live_on(ground: Ground) {
    let mut world = World::start(ground, "").await;
    let make = async |body: Value| {
        let made = world.admin("POST", "/keys", &body).await.json();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    };
    let (_, key) = make(json!({ "name": "app", "account": "acme" })).await;
    let (revoked, dead) = make(json!({ "name": "dead", "account": "acme" })).await;
    let (_, fewer) = make(json!({ "name": "few", "account": "acme", "plan": "few" })).await;
    for key in [&key, &dead, &fewer] {
        assert_eq!(world.said(key, "gpt-test").await.0, 200);
    }
    world
        .admin("DELETE", &format!("/keys/{revoked}"), &Value::Null)
        .await;
    assert_eq!(world.said(&dead, "gpt-test").await.0, 401);
    world.edit("requests_per_minute: 6000", "requests_per_minute: 2");
    world.edit("few: { models: [\"gpt-*\"] }", "less: {}");
    world.edit("plan: few", "plan: less");
    world.changed().await;
    let answer = ask(&world.gateway, &key, "gpt-test").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("2"));
    world.said(&key, "gpt-test").await;
    assert_eq!(
        world.said(&key, "gpt-test").await,
        (429, "rate_limit_exceeded".into())
    );
    assert_eq!(world.said(&dead, "gpt-test").await.0, 401);
    // Its plan is gone; and it is back when its plan is.
    assert_eq!(world.said(&fewer, "gpt-test").await.0, 401);
    let wanted = json!({ "name": "n", "account": "acme", "plan": "few" });
    let made = world.admin("POST", "/keys", &wanted).await;
    assert_eq!(made.status, 400, "the admin API knows the plans");
    world.edit("less: {}", "few: { models: [\"gpt-free\"] }");
    world.edit("plan: less", "plan: few");
    world.changed().await;
    assert_eq!(world.said(&fewer, "gpt-free").await.0, 200);
    assert_eq!(world.said(&fewer, "gpt-test").await.0, 403);
}

on_every_store!(
    a_request_keeps_its_price,
    what_is_gone_is_refused_and_what_is_new_serves,
    keys_made_at_run_time_live_on,
);

#[tokio::test]
async fn a_bad_file_changes_nothing_until_it_is_mended() {
    let mut world = World::start(Ground::embedded().await, "").await;
    let good = world.yaml.clone();
    assert!(!world.failed().await);
    world.edit("gpt-free", "gpt-other");
    world.edit("plan: all,", "plan: nil,");
    world.edit("keys: [upstream-secret]", "kyes: [upstream-secret]");
    let Err(NotReloaded::Invalid(faults)) = world.reload().await else {
        panic!("accepted");
    };
    let mut paths: Vec<&str> = faults.iter().map(|fault| &*fault.path).collect();
    paths.dedup();
    assert!(paths.contains(&"accounts.acme.plan"), "{paths:?}");
    assert!(paths.contains(&"providers.fake.kyes"), "{paths:?}");
    assert!(
        faults
            .iter()
            .all(|fault| fault.line > 1 && !fault.message.contains("secret"))
    );
    assert!(world.failed().await);
    assert_eq!(world.said(KEY, "gpt-free").await.0, 200);
    assert_eq!(world.said(KEY, "gpt-other").await.0, 404);
    let told = world.admin("POST", "/reload", &Value::Null).await;
    assert_eq!(
        (told.status, code(&told)),
        (422, "invalid_configuration".into())
    );
    assert_eq!(
        told.json()["error"]["errors"].as_array().unwrap().len(),
        faults.len()
    );
    // Half a file, and none.
    std::fs::write(&world.path, &good[..good.len() / 2]).unwrap();
    assert!(world.reload().await.is_err());
    std::fs::remove_file(&world.path).unwrap();
    assert!(world.reload().await.is_err());
    assert!(world.failed().await);
    let counted = async |result: &str| {
        let series = format!("tollgate_config_reloads_total{{result=\"{result}\"}}");
        world.gateway.metric(&series).await
    };
    assert_eq!(counted("failed").await, 4.0);
    // As it was: nothing is left to be done.
    std::fs::write(&world.path, &good).unwrap();
    assert_eq!(world.reload().await, Ok(Reloaded::default()));
    assert!(!world.failed().await);
    assert_eq!(counted("applied").await, 0.0);
    let at = world
        .gateway
        .metric("tollgate_config_last_reload_success_timestamp_seconds");
    assert!(at.await > 1.6e9);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_change_nothing() {
    let identity = Identity::new();
    let mut world = World::start(Ground::embedded().await, "").await;
    let ca = world.ground.folder.path().join("ca.pem");
    std::fs::copy(identity.file("ca.pem"), &ca).unwrap();
    let list = world
        .yaml
        .lines()
        .find(|line| line.starts_with("  fake:"))
        .unwrap()
        .to_owned();
    let with = list
        .replace("http://", "https://")
        .replace("keys:", &format!("ca: {ca:?}, keys:"));
    world.edit(&list, &with);
    assert_eq!(
        world.changed().await,
        ["providers.fake.base_url", "providers.fake.ca"]
    );
    std::fs::write(&ca, "no certificate").unwrap();
    let Err(NotReloaded::Invalid(faults)) = world.reload().await else {
        panic!("accepted");
    };
    assert!(faults[0].message.contains("ca.pem"), "{faults:?}");
    assert!(world.failed().await);
    // Another authority in the same file.
    std::fs::copy(Identity::new().file("ca.pem"), &ca).unwrap();
    assert_eq!(world.changed().await, ["providers.fake.ca"]);
    assert!(!world.failed().await);
    assert_eq!(world.changed().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_is_in_force() {
    let mut world = World::start(Ground::embedded().await, "").await;
    world.edit("version: 1", "version: 1\nthreads: 3");
    world.edit("mode: enforce", "mode: observe");
    world.edit(
        "listeners: [{ bind: 127.0.0.1:0 }]",
        "listeners: [{ bind: 127.0.0.1:0 }, { bind: 127.0.0.1:0 }]",
    );
    world.edit("gpt-free", "gpt-gratis");
    world.edit(TOKEN, "another-token-0123456789");
    let told = world.admin("POST", "/reload", &Value::Null).await;
    assert_eq!(
        told.json(),
        json!({
            "status": "applied",
            "changes": ["admin.token", "models.gpt-free", "models.gpt-gratis"],
            "restart_needed": ["threads", "listeners[1]", "billing.mode"],
        })
    );
    assert_eq!(
        world.gateway.metric("tollgate_config_restart_needed").await,
        3.0
    );
    assert_eq!(world.said(KEY, "gpt-gratis").await.0, 200);
    // The token of before is one no more.
    assert_eq!(world.admin("GET", "/keys", &Value::Null).await.status, 401);
    let again = world.reload().await.unwrap();
    assert_eq!((again.changes.len(), again.restart_needed.len()), (0, 3));
    let config = world.gateway.running.config();
    assert_eq!((config.threads, config.listeners.len()), (None, 1));
}

#[tokio::test]
async fn counts_and_connections_outlive_it() {
    let more = "plans: { all: { requests_per_minute: 6000 }, few: { models: [\"gpt-*\"], requests_per_minute: 2 } }
limits: { unauthenticated_per_ip: 2/h }
";
    let mut world = World::start(Ground::embedded().await, more).await;
    for _ in 0..2 {
        assert_eq!(world.said(NARROW_KEY, "gpt-test").await.0, 200);
        assert_eq!(world.said("sk-nobody", "gpt-test").await.0, 401);
    }
    assert_eq!(world.ground.provider.connections(), 1);
    world.edit(PRICES, DOUBLE);
    world.changed().await;
    assert_eq!(
        world.said(NARROW_KEY, "gpt-test").await,
        (429, "rate_limit_exceeded".into())
    );
    assert_eq!(world.said("sk-nobody", "gpt-test").await.0, 429);
    assert_eq!(world.said(KEY, "gpt-test").await.0, 200);
    world.gateway.log(7).await;
    let series = "tollgate_requests_total{code=\"\",model=\"gpt-test\",operation=\"chat\",status_class=\"2xx\",surface=\"/v1\"}";
    assert_eq!(world.gateway.metric(series).await, 3.0);
    let models = world.admin("GET", "/models", &Value::Null).await.json();
    assert_eq!(models["data"][0]["requests"], 3);
    // The provider is the same one, with its pooled connection; and with other settings it is another.
    assert_eq!(world.ground.provider.connections(), 1);
    world.edit("keys: [upstream-secret]", "keys: [upstream-other]");
    assert_eq!(
        world.changed().await,
        ["providers.fake.keys", "providers.claude.keys"]
    );
    assert_eq!(world.said(KEY, "gpt-test").await.0, 200);
    assert_eq!(world.ground.provider.connections(), 2);
    let seen = world.ground.provider.last().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-other"));
}

#[tokio::test]
async fn what_is_known_of_upstreams_outlives_it() {
    let mut world = World::start(Ground::embedded().await, "").await;
    world.edit(
        "fake: { api: openai,",
        "fake: { health: { failures: 2, cooldown: 60s, max_cooldown: 60s }, api: openai,",
    );
    world.changed().await;
    let doing = async |world: &World, model: usize| {
        let all = world.admin("GET", "/upstreams", &Value::Null).await.json();
        all["data"][0]["models"][model].clone()
    };
    let out = "tollgate_upstream_out{model=\"gpt-free\",provider=\"fake\"}";
    world.ground.provider.on("gpt-free", Script::answer(500));
    // An upstream that no other stands in for is given four times as many.
    for _ in 0..8 {
        assert_eq!(world.said(KEY, "gpt-free").await.0, 502);
    }
    assert_eq!(doing(&world, 1).await["state"], "out");
    // One request is under way meanwhile.
    let gate = Gate::new();
    world.ground.provider.once("gpt-test", held(&gate));
    let mut client = Client::connect(world.gateway.addr).await;
    let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
    let (answer, ()) = tokio::join!(client.post_json(CHAT, KEY, &body), async {
        world.ground.provider.wait_requests(9).await;
        for (from, to) in [
            (PRICES, DOUBLE),
            ("keys: [upstream-secret]", "keys: [upstream-other]"),
        ] {
            world.edit(from, to);
            assert!(!world.changed().await.is_empty());
            assert_eq!(doing(&world, 1).await["state"], "out");
            assert_eq!(doing(&world, 0).await["in_flight"], 1);
            assert_eq!(world.gateway.metric(out).await, 1.0);
        }
        gate.open();
    });
    assert_eq!(answer.status, 200);
    world.gateway.log(9).await;
    assert_eq!(doing(&world, 0).await["in_flight"], 0);
    // Somewhere else it is another one, and nothing bad is known of that.
    let port = world.ground.provider.addr().port();
    let other = Provider::start().await;
    world.edit(
        &format!(":{port}/v1"),
        &format!(":{}/v1", other.addr().port()),
    );
    world.changed().await;
    assert_eq!(doing(&world, 1).await["state"], "in");
    assert_eq!(world.said(KEY, "gpt-free").await.0, 200);
    assert!(!world.gateway.metrics_text().await.contains(out));
}

#[tokio::test]
async fn every_limit_on_requests_follows() {
    let mut world = World::start(
        Ground::embedded().await,
        "limits: { body: 32KiB, header: 2KiB }\n",
    )
    .await;
    let ask = async |world: &World, more: usize| {
        let mut client = Client::connect(world.gateway.addr).await;
        let bearer = format!("Bearer {KEY}");
        let long = "x".repeat(more);
        let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": long.repeat(10) }] });
        let headers = [
            ("authorization", &*bearer),
            ("content-type", "application/json"),
            ("x-long", &*long),
        ];
        client
            .request("POST", CHAT, &headers, body.to_string().as_bytes())
            .await
            .status
    };
    assert_eq!((ask(&world, 10).await, ask(&world, 4000).await), (200, 431));
    world.edit("header: 2KiB", "header: 8KiB");
    assert_eq!(world.changed().await, ["limits.header"]);
    assert_eq!(ask(&world, 4000).await, 413);
    world.edit("body: 32KiB", "body: 64KiB");
    assert_eq!(world.changed().await, ["limits.body"]);
    assert_eq!(ask(&world, 4000).await, 200);
    let cap = async |world: &World| {
        let series = "tollgate_overload_cap{cap=\"in_flight\"}";
        world.gateway.metric(series).await
    };
    assert!(cap(&world).await > 7.0);
    world.edit("limits: {", "limits: { in_flight: 7,");
    assert_eq!(world.changed().await, ["limits.in_flight"]);
    assert_eq!(cap(&world).await, 7.0);
}

/// Puts a file in the place of another, as editors do.
fn rename_over(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn changed_files_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "first-secret\n").unwrap();
    let ground = Ground::embedded().await;
    let mut world = World::looking(ground, "", ALWAYS).await;
    let serves = async |world: &World, model: &str, status: u16| {
        until(model, async || {
            (world.said(KEY, model).await.0 == status).then_some(())
        })
        .await;
    };
    // Written in place.
    world.edit("gpt-free", "gpt-a");
    serves(&world, "gpt-a", 200).await;
    // Renamed over.
    let text = world.yaml.replace("gpt-a", "gpt-b").replace(
        "keys: [upstream-secret]",
        &format!("keys: [\"${{file:{}}}\"]", secret.display()),
    );
    rename_over(&world.path, &text);
    serves(&world, "gpt-b", 200).await;
    let sent = || {
        world
            .ground
            .provider
            .last()
            .unwrap()
            .header("authorization")
            .unwrap()
            .to_owned()
    };
    assert_eq!(sent(), "Bearer first-secret");
    // A file that it names.
    rename_over(&secret, "second-secret\n");
    until("the new secret", async || {
        world.said(KEY, "gpt-b").await;
        (sent() == "Bearer second-secret").then_some(())
    })
    .await;
    // One that is missing, and comes back.
    std::fs::remove_file(&secret).unwrap();
    until("the failure", async || world.failed().await.then_some(())).await;
    std::fs::write(&secret, "third-secret\n").unwrap();
    until("the end of the failure", async || {
        (!world.failed().await).then_some(())
    })
    .await;
    world.said(KEY, "gpt-b").await;
    assert_eq!(sent(), "Bearer third-secret");
}

/// Kubernetes changes a link in the folder above: the file's own name stays a link to the same path.
#[tokio::test]
async fn a_changed_config_map_is_noticed() {
    let ground = Ground::embedded().await;
    let folder = ground.folder.path();
    let link = |target: &str, name: &str| {
        let new = folder.join("..new");
        std::os::unix::fs::symlink(target, &new).unwrap();
        std::fs::rename(new, folder.join(name)).unwrap();
    };
    let yaml = ground.yaml("a", "");
    for (version, text) in [
        ("..1", yaml.clone()),
        ("..2", yaml.replace("gpt-free", "gpt-b")),
    ] {
        std::fs::create_dir(folder.join(version)).unwrap();
        std::fs::write(folder.join(version).join("gateway.yaml"), text).unwrap();
    }
    link("..1", "..data");
    link("..data/gateway.yaml", "gateway.yaml");
    let gateway = Gateway::of_file(&folder.join("gateway.yaml"), ALWAYS).await;
    assert_eq!(said(&gateway, KEY, "gpt-b").await.0, 404);
    link("..2", "..data");
    until("the new map", async || {
        (said(&gateway, KEY, "gpt-b").await.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn certificates_are_read_again() {
    let (first, second) = (Identity::new(), Identity::new());
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let put = |from: &Identity| {
        std::fs::copy(from.file("cert.pem"), &cert).unwrap();
        std::fs::copy(from.file("key.pem"), &key).unwrap();
    };
    put(&first);
    let listener =
        format!("listeners: [{{ bind: 127.0.0.1:0, tls: {{ cert: {cert:?}, key: {key:?} }} }}]\n");
    let mut world = World::start(Ground::embedded().await, &listener).await;
    let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
    let mut old = first.http1(world.gateway.addr).await;
    assert_eq!(old.post_json(CHAT, KEY, &body).await.status, 200);
    // A key that is another certificate's changes nothing.
    std::fs::copy(second.file("key.pem"), &key).unwrap();
    assert!(world.reload().await.is_err());
    assert!(world.failed().await);
    first.http1(world.gateway.addr).await;
    put(&second);
    assert_eq!(world.changed().await, ["listeners[0].tls.cert"]);
    assert!(!world.failed().await);
    let mut new = second.http1(world.gateway.addr).await;
    assert_eq!(new.post_json(CHAT, KEY, &body).await.status, 200);
    // Who was connected before stays so.
    assert_eq!(old.post_json(CHAT, KEY, &body).await.status, 200);
    second.http2(world.gateway.addr).await;
    // Other paths are only another place to read them from.
    let elsewhere = first.file("cert.pem");
    world.edit(cert.to_str().unwrap(), elsewhere.to_str().unwrap());
    world.edit(
        key.to_str().unwrap(),
        first.file("key.pem").to_str().unwrap(),
    );
    let done = world.reload().await.unwrap();
    assert_eq!(done.restart_needed, Vec::<String>::new());
    first.http1(world.gateway.addr).await;
    // No TLS at all needs a restart; the listener goes on as it is.
    let tls = world
        .yaml
        .lines()
        .find(|line| line.starts_with("listeners"))
        .unwrap()
        .to_owned();
    world.edit(&tls, "listeners: [{ bind: 127.0.0.1:0 }]");
    let done = world.reload().await.unwrap();
    assert_eq!(
        done.restart_needed,
        ["listeners[0].tls.cert", "listeners[0].tls.key"]
    );
    first.http1(world.gateway.addr).await;
}

#[tokio::test]
async fn a_provider_of_another_authority_is_not_reached_over_an_old_connection() {
    let (right, wrong) = (Identity::new(), Identity::new());
    let ground = Ground::embedded().await;
    let front = Front::start(&right, ground.provider.addr(), &["http/1.1"]).await;
    let ca = ground.folder.path().join("ca.pem");
    std::fs::copy(right.file("ca.pem"), &ca).unwrap();
    let mut world = World::start(ground, "").await;
    let list = world
        .yaml
        .lines()
        .find(|line| line.starts_with("  fake:"))
        .unwrap()
        .to_owned();
    world.edit(
        &list,
        &format!(
            "  fake: {{ api: openai, base_url: \"https://localhost:{}/v1\", keys: [k], ca: {ca:?} }}",
            front.addr.port()
        ),
    );
    world.changed().await;
    assert_eq!(world.said(KEY, "gpt-test").await.0, 200);
    std::fs::copy(wrong.file("ca.pem"), &ca).unwrap();
    assert_eq!(world.changed().await, ["providers.fake.ca"]);
    assert_eq!(world.said(KEY, "gpt-test").await.0, 502);
    assert_eq!(world.ground.provider.count(), 1);
}

/// Every request is answered, and each by one configuration or the other.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_nobody() {
    let mut world = World::start(
        Ground::embedded().await,
        "accounts: { acme: { plan: all, balance: 1000000 } }\nplans: { all: {}, few: {} }\n",
    )
    .await;
    let (addr, done) = (world.gateway.addr, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let done = done.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(addr).await;
                let body = json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
                let mut count = 0;
                while !done.load(Ordering::SeqCst) {
                    let answer = client.post_json(CHAT, KEY, &body).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..10 {
        for (from, to) in [(PRICES, DOUBLE), (DOUBLE, PRICES)] {
            let before = world.ground.provider.count();
            world.edit(from, to);
            assert_eq!(world.changed().await.len(), 6);
            world.ground.provider.wait_requests(before + 8).await;
        }
    }
    done.store(true, Ordering::SeqCst);
    let mut asked = 0;
    for client in clients {
        asked += client.await.unwrap();
    }
    let lines = world.gateway.log(asked).await;
    let costs: BTreeSet<&str> = lines
        .iter()
        .map(|line| line["cost"].as_str().unwrap())
        .collect();
    let both = [shown(COST), shown(2 * COST)];
    assert_eq!(costs, both.iter().map(String::as_str).collect());
}

/// A key that is made or revoked while the configuration changes is not lost between the two.
#[tokio::test(flavor = "multi_thread")]
async fn keys_change_during_reloads() {
    let mut world = World::start(Ground::embedded().await, "").await;
    for turn in 0..10 {
        let (from, to) = if turn % 2 == 0 {
            (PRICES, DOUBLE)
        } else {
            (DOUBLE, PRICES)
        };
        let body = json!({ "name": "app", "account": "acme" });
        let old = world.admin("POST", "/keys", &body).await.json();
        world.edit(from, to);
        let path = format!("/keys/{}", old["id"].as_str().unwrap());
        let (changed, new, gone) = tokio::join!(
            world.changed(),
            world.admin("POST", "/keys", &body),
            world.admin("DELETE", &path, &Value::Null),
        );
        assert_eq!((changed.len(), gone.status), (6, 200));
        assert_eq!(
            world.said(old["key"].as_str().unwrap(), "gpt-test").await.0,
            401
        );
        assert_eq!(
            world
                .said(new.json()["key"].as_str().unwrap(), "gpt-test")
                .await
                .0,
            200
        );
    }
}

#[tokio::test]
async fn the_first_demo_provider_may_come_later() {
    let mut world = World::start(Ground::embedded().await, "").await;
    world.edit("providers:\n", "providers:\n  toy: { api: demo }\n");
    world.edit(
        "models:\n",
        "models:\n  - { id: demo-chat, upstreams: [{ provider: toy }] }\n",
    );
    world.changed().await;
    assert_eq!(world.said(KEY, "demo-chat").await.0, 200);
    // The same one from then on.
    world.edit(PRICES, DOUBLE);
    world.changed().await;
    assert_eq!(world.said(KEY, "demo-chat").await.0, 200);
}

#[tokio::test]
async fn a_session_key_lives_as_long_as_the_process() {
    let mut world = World::start(Ground::embedded().await, "keys: []\n").await;
    let session = world.gateway.running.session_key.clone().unwrap();
    assert_eq!(world.said(&session, "gpt-test").await.0, 200);
    world.edit(PRICES, DOUBLE);
    world.changed().await;
    assert_eq!(world.said(&session, "gpt-test").await.0, 200);
    let keys = world.admin("GET", "/keys", &Value::Null).await.json();
    assert_eq!(keys["data"][0]["source"], "session", "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_come_one_after_the_other() {
    let mut world = World::start(Ground::embedded().await, "").await;
    world.edit(PRICES, DOUBLE);
    let all = futures::future::join_all((0..20).map(|_| world.reload())).await;
    let applied = all
        .iter()
        .filter(|done| !done.as_ref().unwrap().changes.is_empty());
    assert_eq!(applied.count(), 1);
    // At the end nobody answers, and nobody waits.
    let reloader = world.gateway.running.reloader.clone();
    let (ended, ()) = tokio::join!(
        reloader.reload(),
        world.gateway.running.shutdown(Duration::from_secs(5))
    );
    assert!(matches!(ended, Ok(_) | Err(NotReloaded::Ending)));
    assert_eq!(reloader.reload().await, Err(NotReloaded::Ending));
}

#[tokio::test]
async fn without_a_file_there_is_nothing_to_read() {
    let ground = Ground::embedded().await;
    let gateway = Gateway::from(&config(&ground.yaml("a", ""))).await;
    assert_eq!(
        gateway.running.reloader.reload().await,
        Err(NotReloaded::NoFile)
    );
    let told = call(&gateway, "POST", "/reload", None, &[]).await;
    assert_eq!((told.status, code(&told)), (409, "conflict".into()));
}

#[tokio::test]
async fn sighup_and_what_the_log_tells() {
    let ground = Ground::embedded().await;
    let yaml = ground.yaml(
        "a",
        "admin: { bind: 127.0.0.1:0, token: \"${ADMIN_TOKEN}\" }\nlog: { format: text }\n",
    );
    let path = ground.folder.path().join("gateway.yaml");
    std::fs::write(&path, &yaml).unwrap();
    let served = Served::start(&path, &[("ADMIN_TOKEN", TOKEN)]);
    let mut all = served.until("listening");
    let new = yaml
        .replace(PRICES, DOUBLE)
        .replace("upstream-secret", "other-secret")
        .replace("log: { format: text }", "log: { format: json }");
    // It may be the signal that is first, or the look: what they do is the same, and told once.
    std::fs::write(&path, &new).unwrap();
    served.signal("-HUP");
    all.extend(served.until("log.format: text -> json"));
    std::fs::write(&path, new.replace("plan: all,", "plan: nil,")).unwrap();
    served.signal("-HUP");
    all.extend(served.until("accounts.acme.plan"));
    std::fs::write(&path, &new).unwrap();
    served.signal("-HUP");
    all.extend(served.until("(SIGHUP): 0 changes"));
    let (status, _) = served.stop();
    assert_eq!(status, Some(0));
    let has = |words: &[&str]| {
        all.iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(
        has(&[
            "INFO",
            "configuration: models.gpt-test.price.input: 100.000000 -> 200.000000"
        ]),
        "{all:#?}"
    );
    assert!(
        has(&[
            "INFO",
            "configuration: providers.fake.keys: changed (not shown)"
        ]),
        "{all:#?}"
    );
    assert!(has(&["WARN", "started anew", "log.format"]), "{all:#?}");
    let place = format!("{}:", path.display());
    let line = 1 + new
        .lines()
        .position(|line| line.starts_with("accounts:"))
        .unwrap();
    assert!(
        has(&["ERROR", &format!("{place}{line}:"), "accounts.acme.plan"]),
        "{all:#?}"
    );
    let told = all.join("\n");
    for secret in ["upstream-secret", "other-secret", TOKEN] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[tokio::test]
async fn check_compares_two_files() {
    let ground = Ground::embedded().await;
    let old = ground.folder.path().join("old.yaml");
    let new = ground.folder.path().join("new.yaml");
    let yaml = ground.yaml("a", "");
    std::fs::write(&old, &yaml).unwrap();
    let changed = yaml
        .replace(DOUBLE, PRICES)
        .replace("id: gpt-free", "id: gpt-gratis")
        .replace("upstream-secret", "other-secret")
        .replace("mode: enforce", "mode: observe");
    std::fs::write(&new, changed).unwrap();
    let run = |more: &[&Path]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["check", "--config"]).arg(&new).args(more);
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let told = run(&[Path::new("--against"), &old]);
    assert_eq!(
        told.lines().skip(1).collect::<Vec<_>>(),
        [
            "changes that a reload puts in force: 4",
            "  providers.fake.keys: changed (not shown)",
            "  providers.claude.keys: changed (not shown)",
            "  models.gpt-free: removed",
            "  models.gpt-gratis: added",
            "changes that need a restart: 1",
            "  billing.mode: enforce -> observe",
        ]
    );
    let told = run(&[]);
    assert!(
        told.contains("takes hold with a restart only: threads; listeners"),
        "{told}"
    );
    assert!(told.contains("billing.mode"), "{told}");
}
