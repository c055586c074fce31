//! When providers fail: who is asked instead, who is left out, and when it is asked again.
//!
//! Above 400 lines: each way of failing has a test, and all share one set-up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::clock::pass;
use support::gateway::{Gateway, KEY};
use support::http::{Client, Response};
use support::operator::{TOKEN, until};
use support::provider::{Gate, Provider, Script};
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);

fn chat(stream: bool) -> Value {
    json!({ "model": "gpt-test", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn ask(client: &mut Client) -> Response {
    client
        .post_json("/v1/chat/completions", KEY, &chat(false))
        .await
}

fn ok() -> Script {
    Script::answer(200).json(&json!({ "ok": true }))
}

/// Providers `p0`, `p1`, …, all in one tier unless `upstreams` says otherwise.
struct World {
    providers: Vec<Provider>,
    gateway: Gateway,
    client: Client,
}

impl World {
    /// `settings` go to every provider, `more` to the end of the file.
    async fn new(count: usize, settings: &str, more: &str) -> World {
        let all: Vec<String> = (0..count)
            .map(|n| format!("{{ provider: p{n} }}"))
            .collect();
        World::with(count, settings, &all.join(", "), more).await
    }

    async fn with(count: usize, settings: &str, upstreams: &str, more: &str) -> World {
        let mut providers = Vec::new();
        for _ in 0..count {
            providers.push(Provider::start().await);
        }
        let listed: String = providers
            .iter()
            .enumerate()
            .map(|(n, provider)| {
                let keys = match settings.contains("keys:") {
                    true => "",
                    false => "keys: [upstream-secret], ",
                };
                let url = provider.base_url();
                format!("  p{n}: {{ api: openai, base_url: \"{url}\", {keys}{settings} }}\n")
            })
            .collect();
        let gateway = Gateway::start(&format!(
            "providers:\n{listed}models: [{{ id: gpt-test, upstreams: [{upstreams}] }}]\nadmin: {{ bind: 127.0.0.1:0, token: {TOKEN} }}\n{more}\n"
        ))
        .await;
        let client = Client::connect(gateway.addr).await;
        World {
            providers,
            gateway,
            client,
        }
    }

    async fn all_good(&mut self, count: usize) {
        for n in 0..count {
            let answer = ask(&mut self.client).await;
            assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
        }
    }

    async fn attempts(&self, provider: &str, outcome: &str) -> f64 {
        let series = format!(
            "tollgate_upstream_requests_total{{outcome=\"{outcome}\",provider=\"{provider}\"}}"
        );
        self.gateway.metric(&series).await
    }

    /// A provider as the admin API tells of it.
    async fn told(&self, nth: usize) -> Value {
        let mut client = Client::connect(self.gateway.admin.unwrap()).await;
        let answer = client.get("/admin/v1/upstreams", TOKEN).await;
        answer.json()["data"][nth].clone()
    }
}

#[tokio::test]
async fn a_failing_upstream_is_stood_in_for_and_left_out() {
    let mut world = World::new(2, "", "").await;
    world.providers[0].on("gpt-test", Script::answer(503));
    world.providers[1].on("gpt-test", ok());
    world.all_good(100).await;
    // Five failures in a row, then nobody asks it.
    assert_eq!(world.providers[0].count(), 5);
    assert_eq!(world.providers[1].count(), 100);
    assert_eq!(world.attempts("p0", "server_error").await, 5.0);
    let out = "tollgate_upstream_out{model=\"gpt-test\",provider=\"p0\"}";
    assert_eq!(world.gateway.metric(out).await, 1.0);
    assert_eq!(
        world
            .gateway
            .metric("tollgate_retries_total{result=\"taken\"}")
            .await,
        5.0
    );
    let told = world.told(0).await;
    assert_eq!(
        (&told["state"], &told["models"][0]["state"]),
        (&json!("in"), &json!("out"))
    );
    assert!(told["models"][0]["out_for_ms"].as_u64().unwrap() <= 1200);
    // Every attempt is in the log.
    let lines = world.gateway.log(100).await;
    let twice: Vec<_> = lines.iter().filter(|line| line["attempts"] == 2).collect();
    assert_eq!(twice.len(), 5);
    for line in twice {
        assert_eq!(
            (&line["upstream"], &line["status"]),
            (&json!("p1"), &json!(200))
        );
        let failed = &line["failed_attempts"][0];
        assert_eq!(
            (&failed["upstream"], &failed["outcome"]),
            (&json!("p0"), &json!("server_error"))
        );
    }
    assert!(
        lines
            .iter()
            .all(|line| line["attempts"] == 2 || line["failed_attempts"] == json!([]))
    );
}

#[tokio::test]
async fn one_request_tries_it_again_and_each_failure_doubles_the_wait() {
    let mut world = World::with(
        2,
        "health: { failures: 1, cooldown: 10s, max_cooldown: 25s, slow_start: 0s }",
        "{ provider: p0 }, { provider: p1, tier: 1 }",
        "",
    )
    .await;
    world.providers[0].on("gpt-test", Script::answer(500));
    world.providers[1].on("gpt-test", ok());
    world.all_good(3).await;
    assert_eq!(world.providers[0].count(), 1);
    // A fifth more or less each time.
    for (early, late, count) in [(7, 6, 2), (15, 10, 3), (19, 12, 4), (19, 12, 5)] {
        pass(early * SECOND).await;
        world.all_good(2).await;
        assert_eq!(world.providers[0].count(), count - 1);
        pass(late * SECOND).await;
        world.all_good(3).await;
        assert_eq!(world.providers[0].count(), count);
    }
    // Well again: all requests are its, by its tier.
    world.providers[0].on("gpt-test", ok());
    pass(31 * SECOND).await;
    world.all_good(4).await;
    assert_eq!(world.providers[0].count(), 9);
    let out = "tollgate_upstream_out{model=\"gpt-test\",provider=\"p0\"}";
    assert_eq!(world.gateway.metric(out).await, 0.0);
}

#[tokio::test]
async fn while_one_request_tries_it_no_other_does() {
    let mut world = World::with(
        2,
        "health: { failures: 1, cooldown: 10s }",
        "{ provider: p0 }, { provider: p1, tier: 1 }",
        "",
    )
    .await;
    world.providers[0].once("gpt-test", Script::answer(500));
    world.providers[1].on("gpt-test", ok());
    world.all_good(1).await;
    pass(13 * SECOND).await;
    // The one that tries waits; it leaves without an answer, and the next one tries.
    world.providers[0].on("gpt-test", Script::silent());
    let mut probe = Client::connect(world.gateway.addr).await;
    probe
        .send_json("/v1/chat/completions", KEY, &chat(false))
        .await;
    world.providers[0].wait_requests(2).await;
    world.all_good(5).await;
    assert_eq!(world.providers[0].count(), 2);
    drop(probe);
    world.providers[0].wait_cancelled(1).await;
    world.providers[0].on("gpt-test", ok());
    let (providers, client) = (&world.providers, &mut world.client);
    until("another probe", async || {
        assert_eq!(ask(client).await.status, 200);
        (providers[0].count() > 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_only_upstream_fails_in_its_own_words_before_it_is_left_out() {
    let mut world = World::new(1, "", "").await;
    world.providers[0].on("gpt-test", Script::answer(500));
    for _ in 0..20 {
        let answer = ask(&mut world.client).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (502, &json!("upstream_error"))
        );
    }
    for _ in 0..5 {
        let answer = ask(&mut world.client).await;
        let code = &answer.json()["error"]["code"];
        assert_eq!((answer.status, code), (503, &json!("server_is_overloaded")));
        assert!(
            matches!(answer.header("retry-after"), Some("1" | "2")),
            "{:?}",
            answer.header("retry-after")
        );
    }
    assert_eq!(world.providers[0].count(), 20);
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_is_left_out_with_all_its_models() {
    let live = Provider::start().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nowhere = listener.local_addr().unwrap();
    drop(listener);
    let models: String = ["a", "b"]
        .iter()
        .map(|id| format!("  - {{ id: {id}, upstreams: [{{ provider: dead }}, {{ provider: live, tier: 1 }}] }}\n"))
        .collect();
    let gateway = Gateway::start(&format!(
        "providers:\n  dead: {{ api: openai, base_url: \"http://{nowhere}/v1\", keys: [k] }}\n  live: {{ api: openai, base_url: \"{}\", keys: [k] }}\nmodels:\n{models}",
        live.base_url()
    ))
    .await;
    let mut client = Client::connect(gateway.addr).await;
    for n in 0..20 {
        let model = ["a", "b"][n % 2];
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
        let answer = client.post_json("/v1/chat/completions", KEY, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let refused = "tollgate_upstream_requests_total{outcome=\"unreachable\",provider=\"dead\"}";
    assert_eq!(gateway.metric(refused).await, 5.0);
    let out = "tollgate_upstream_out{model=\"\",provider=\"dead\"}";
    assert_eq!(gateway.metric(out).await, 1.0);
}

#[tokio::test]
async fn a_limited_key_rests_for_as_long_as_the_provider_says() {
    let mut world = World::new(1, "keys: [first-secret, second-secret]", "").await;
    let used = |provider: &Provider, key: &str| {
        let bearer = format!("Bearer {key}");
        let seen = provider.seen();
        let with = |one: &&support::provider::Seen| one.header("authorization") == Some(&bearer);
        seen.iter().filter(with).count()
    };
    world.providers[0].on_fn("gpt-test", |seen| {
        match seen.header("authorization") == Some("Bearer first-secret") {
            true => Script::answer(429)
                .header("retry-after", "30")
                .json(&json!({})),
            false => ok(),
        }
    });
    // Whoever meets it is answered with the other key.
    world.all_good(10).await;
    assert_eq!(used(&world.providers[0], "first-secret"), 1);
    assert_eq!(used(&world.providers[0], "second-secret"), 10);
    let told = world.told(0).await;
    assert_eq!(told["state"], "in");
    let mut states: Vec<_> = told["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["state"].clone())
        .collect();
    states.sort_by_key(ToString::to_string);
    assert_eq!(states, ["limited", "ready"]);
    assert!(!told.to_string().contains("secret"), "{told}");
    pass(29 * SECOND).await;
    world.all_good(4).await;
    assert_eq!(used(&world.providers[0], "first-secret"), 1);
    pass(2 * SECOND).await;
    world.all_good(4).await;
    assert_eq!(used(&world.providers[0], "first-secret"), 2);
}

#[tokio::test]
async fn a_key_without_a_stand_in_is_left_alone_and_the_client_told_how_long() {
    let mut world = World::new(1, "", "").await;
    world.providers[0].once(
        "gpt-test",
        Script::answer(429)
            .header("retry-after", "30")
            .json(&json!({})),
    );
    world.providers[0].on("gpt-test", ok());
    for wait in [30, 20] {
        let answer = ask(&mut world.client).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (429, &json!("upstream_rate_limited"))
        );
        let told: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((wait - 1..=wait).contains(&told), "{told}");
        pass(10 * SECOND).await;
    }
    assert_eq!(world.providers[0].count(), 1);
    pass(11 * SECOND).await;
    world.all_good(1).await;
    // One that says nothing is asked again at once.
    world.providers[0].once("gpt-test", Script::answer(429).json(&json!({})));
    assert_eq!(ask(&mut world.client).await.status, 429);
    world.all_good(1).await;
}

#[tokio::test]
async fn a_refused_key_is_set_aside_and_its_upstream_is_not() {
    let mut world = World::new(1, "keys: [good-secret, bad-secret]", "").await;
    world.providers[0].on_fn("gpt-test", |seen| {
        match seen.header("authorization") == Some("Bearer bad-secret") {
            true => Script::answer(401).json(&json!({ "error": "bad-secret" })),
            false => ok(),
        }
    });
    world.all_good(20).await;
    assert_eq!(world.providers[0].count(), 21);
    let refused = "tollgate_provider_keys_refused{provider=\"p0\"}";
    assert_eq!(world.gateway.metric(refused).await, 1.0);
    // It is tried again some time, and good again.
    pass(11 * SECOND).await;
    world.providers[0].on("gpt-test", ok());
    world.all_good(2).await;
    assert_eq!(world.gateway.metric(refused).await, 0.0);
    assert!(!world.gateway.log_text().contains("secret"));
}

#[tokio::test]
async fn the_only_key_is_set_aside_after_three_refusals_in_a_row() {
    let mut world = World::new(1, "", "").await;
    // A 403 may be about the request, and is nobody else's business.
    world.providers[0].on("gpt-test", Script::answer(403).json(&json!({})));
    for _ in 0..6 {
        assert_eq!(ask(&mut world.client).await.status, 502);
    }
    assert_eq!(world.providers[0].count(), 6);
    world.providers[0].on("gpt-test", ok());
    world.all_good(1).await;
    world.providers[0].reset();
    world.providers[0].on("gpt-test", Script::answer(401).json(&json!({})));
    for _ in 0..6 {
        let answer = ask(&mut world.client).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (502, &json!("upstream_auth"))
        );
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert_eq!(world.providers[0].count(), 3);
    world.providers[0].on("gpt-test", ok());
    pass(41 * SECOND).await;
    world.all_good(1).await;
}

#[tokio::test]
async fn a_models_404_ejects_nothing() {
    let mut world = World::new(2, "health: { failures: 1 }", "").await;
    for provider in &world.providers {
        provider.on(
            "gpt-test",
            Script::answer(404).json(&json!({ "error": { "message": "no such model" } })),
        );
    }
    for _ in 0..20 {
        assert_eq!(ask(&mut world.client).await.status, 404);
    }
    assert_eq!(world.providers[0].count() + world.providers[1].count(), 20);
    for nth in 0..2 {
        assert_eq!(world.told(nth).await["models"][0]["state"], "in");
    }
}

#[tokio::test]
async fn the_budget_bounds_what_failing_providers_get() {
    // They fail now and then only, so that none is left out.
    let mut world = World::new(3, "health: { failures: 1000 }", "").await;
    for provider in &world.providers {
        provider.on("gpt-test", Script::answer(503));
    }
    for _ in 0..200 {
        assert_eq!(ask(&mut world.client).await.status, 502);
    }
    let attempts: usize = world.providers.iter().map(Provider::count).sum();
    assert_eq!(attempts, 240);
    assert!(
        world
            .gateway
            .metric("tollgate_retries_total{result=\"no_budget\"}")
            .await
            > 100.0
    );
}

#[tokio::test]
async fn as_many_attempts_as_are_configured() {
    for (max, attempts) in [(0, 1), (1, 2), (2, 3), (5, 4)] {
        let mut world = World::new(4, "", &format!("retries: {{ max: {max} }}")).await;
        for provider in &world.providers {
            provider.on("gpt-test", Script::answer(500));
        }
        let answer = ask(&mut world.client).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (502, &json!("upstream_error"))
        );
        let seen: usize = world.providers.iter().map(Provider::count).sum();
        assert_eq!(seen, attempts, "max {max}");
        assert_eq!(world.gateway.log(1).await[0]["attempts"], attempts);
    }
}

#[tokio::test]
async fn what_may_have_been_billed_is_sent_again_only_if_configured() {
    for (resend, first, again) in [
        ("", Script::reset_at_once(), false),
        ("resend: [first_byte]", Script::reset_at_once(), false),
        ("resend: [broken]", Script::reset_at_once(), true),
        ("resend: [broken]", Script::close_at_once(), true),
        ("resend: [broken]", Script::garbage("no HTTP\r\n\r\n"), true),
        ("", Script::silent(), false),
        ("resend: [broken]", Script::silent(), false),
        ("resend: [first_byte]", Script::silent(), true),
    ] {
        let mut world = World::with(
            2,
            "timeouts: { first_byte: 200ms }",
            "{ provider: p0 }, { provider: p1, tier: 1 }",
            &format!("retries: {{ {resend} }}"),
        )
        .await;
        world.providers[0].on("gpt-test", first);
        world.providers[1].on("gpt-test", ok());
        let answer = ask(&mut world.client).await;
        let seen = (world.providers[0].count(), world.providers[1].count());
        match again {
            true => assert_eq!((answer.status, seen), (200, (1, 1)), "{resend}"),
            false => {
                assert!(
                    matches!(answer.status, 502 | 504),
                    "{resend}: {}",
                    answer.text()
                );
                assert_eq!(seen, (1, 0), "{resend}");
            }
        }
    }
}

#[tokio::test]
async fn after_the_first_byte_nothing_is_tried_again() {
    let mut world = World::with(
        2,
        "",
        "{ provider: p0 }, { provider: p1, tier: 1 }",
        "retries: { resend: [broken, first_byte] }",
    )
    .await;
    let piece = r#"data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    world.providers[0].on(
        "gpt-test",
        Script::sse().event(&format!("{piece}\n\n")).cut(),
    );
    let mut client = Client::connect(world.gateway.addr).await;
    client
        .send_json("/v1/chat/completions", KEY, &chat(true))
        .await;
    assert_eq!(client.read_head().await.status, 200);
    let (events, _) = client.events().await;
    let errors = events
        .iter()
        .filter(|event| event.raw.contains("\"error\""))
        .count();
    assert_eq!((events.len(), errors), (2, 1));
    assert_eq!(
        (world.providers[0].count(), world.providers[1].count()),
        (1, 0)
    );
    // Streams that break count as failures.
    for _ in 0..4 {
        client
            .send_json("/v1/chat/completions", KEY, &chat(true))
            .await;
        assert_eq!(client.read_head().await.status, 200);
        client.events().await;
    }
    world.providers[1].on("gpt-test", ok());
    world.all_good(3).await;
    assert_eq!(
        (world.providers[0].count(), world.providers[1].count()),
        (5, 3)
    );
}

#[tokio::test]
async fn a_full_upstream_leaves_requests_to_the_next_tier_and_then_refuses() {
    let mut world = World::with(
        2,
        "",
        "{ provider: p0, concurrency: 2 }, { provider: p1, tier: 1, concurrency: 1 }",
        "",
    )
    .await;
    let gate = Gate::new();
    let held = |nth: usize| {
        let provider = &world.providers[nth];
        provider.on(
            "gpt-test",
            Script::answer(200).length(2).gate(&gate).chunk("{}"),
        );
    };
    held(0);
    held(1);
    let mut waiting = Vec::new();
    for count in 1..=3 {
        let mut client = Client::connect(world.gateway.addr).await;
        client
            .send_json("/v1/chat/completions", KEY, &chat(false))
            .await;
        waiting.push(client);
        until("its arrival", async || {
            let seen = world.providers[0].count() + world.providers[1].count();
            (seen == count).then_some(())
        })
        .await;
    }
    assert_eq!(
        (world.providers[0].count(), world.providers[1].count()),
        (2, 1)
    );
    let told = world.told(0).await;
    assert_eq!(
        (
            &told["models"][0]["in_flight"],
            &told["models"][0]["concurrency"]
        ),
        (&json!(2), &json!(2))
    );
    let answer = ask(&mut world.client).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (503, &json!("server_is_overloaded"))
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.response().await.status, 200);
    }
    for provider in &world.providers {
        provider.on("gpt-test", ok());
    }
    world.all_good(3).await;
    assert_eq!(world.providers[0].count(), 5);
}

#[tokio::test]
async fn a_check_finds_out_what_no_request_did() {
    let mut world = World::new(
        1,
        "health: { failures: 2, cooldown: 1h, max_cooldown: 1h, check: { path: /models, interval: 1s, timeout: 500ms } }",
        "",
    )
    .await;
    world.providers[0].on("gpt-test", ok());
    let checks = |provider: &Provider| {
        let seen = provider.seen();
        seen.iter().filter(|one| one.path == "/v1/models").count()
    };
    let provider = &world.providers[0];
    until("a check", async || (checks(provider) > 0).then_some(())).await;
    let seen = world.providers[0].seen();
    let check = seen.iter().find(|one| one.path == "/v1/models").unwrap();
    assert_eq!(
        check.header("authorization"),
        Some("Bearer upstream-secret")
    );
    // No model is named in a check: its answers come by turn.
    for _ in 0..50 {
        world.providers[0].next(Script::answer(500));
    }
    until("it is left out", async || {
        (world.told(0).await["state"] == "out").then_some(())
    })
    .await;
    let answer = ask(&mut world.client).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (503, &json!("server_is_overloaded"))
    );
    // Well again long before its cooldown ends.
    world.providers[0].reset();
    world.providers[0].on("gpt-test", ok());
    until("it is back", async || {
        (world.told(0).await["state"] == "in").then_some(())
    })
    .await;
    world.all_good(1).await;
}

#[tokio::test]
async fn limits_and_holds_are_taken_once() {
    let mut world = World::new(
        3,
        "",
        "plans: { all: { requests_per_minute: 60, burst: 3 }, few: {} }",
    )
    .await;
    world.providers[0].on("gpt-test", Script::answer(500));
    world.providers[1].on("gpt-test", Script::answer(500));
    world.providers[2].on("gpt-test", ok());
    world.all_good(3).await;
    assert_eq!(ask(&mut world.client).await.status, 429);
}
