//! Limits as clients see them: who is refused and in which words, what the headers tell, what an
//! answer's real usage does to the next one. What the limits decide is in `limits.rs`.
//!
//! Above 400 lines: one gateway with a key for each plan, and a test for each promise of the contract's
//! sections on errors and rate-limit headers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Gateway, sha256};
use support::http::{Client, Response};
use support::provider::{Gate, Provider, Script};
use support::refusal::{Envelope, refused};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";

struct World {
    provider: Provider,
    gateway: Gateway,
}

/// The key of a plan.
fn key(plan: &str) -> String {
    format!("sk-{plan}-0123456789abcdef0123456789abcdef")
}

/// `plans` are YAML items of `plans:`; each has one key of its name. `more` are further sections.
async fn world(plans: &[(&str, &str)], more: &str) -> World {
    let provider = Provider::start().await;
    let items = |item: &dyn Fn(&str, &str) -> String| -> String {
        plans.iter().map(|(name, plan)| item(name, plan)).collect()
    };
    let listed = items(&|name, plan| format!("  {name}: {{ models: [\"*\"], {plan} }}\n"));
    let keys = items(&|name, _| {
        format!(
            "  - {{ name: {name}, account: acme, plan: {name}, sha256: \"{}\" }}\n",
            sha256(&key(name))
        )
    });
    let surfaces = match more.contains("surfaces:") {
        true => String::new(),
        false => {
            "surfaces: [{ mount: /v1, api: openai }, { mount: /anthropic, api: anthropic }]".into()
        }
    };
    let gateway = Gateway::start(&format!(
        "providers:
  fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }}
  claude: {{ api: anthropic, base_url: \"{}\", keys: [upstream-secret] }}
models:
  - {{ id: gpt-test, upstreams: [{{ provider: fake }}] }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}] }}
{surfaces}
plans:
  base: {{ models: [\"*\"] }}
{listed}accounts: {{ acme: {{ plan: base, projects: [default] }} }}
keys:
{keys}{more}
",
        provider.base_url(),
        provider.anthropic_url(),
    ))
    .await;
    World { provider, gateway }
}

impl World {
    async fn client(&self) -> Client {
        Client::connect(self.gateway.addr).await
    }

    async fn chat(&self, plan: &str, more: Value) -> Response {
        let body = chat(more);
        self.client().await.post_json(CHAT, &key(plan), &body).await
    }
}

fn chat(more: Value) -> Value {
    let mut body =
        json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn number(answer: &Response, header: &str) -> u64 {
    let value = answer.header(header);
    let value = value.unwrap_or_else(|| panic!("no {header} in {:?}", answer.headers));
    value
        .parse()
        .unwrap_or_else(|_| panic!("{header}: {value}"))
}

fn names(answer: &Response, part: &str) -> Vec<String> {
    let names = answer
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase());
    names.filter(|name| name.contains(part)).collect()
}

#[tokio::test]
async fn a_rate_is_refused_with_the_limit_the_value_and_the_wait() {
    let world = world(&[("slow", "requests_per_minute: 6, burst: 2")], "").await;
    for left in [1, 0] {
        let answer = world.chat("slow", json!({})).await;
        assert_eq!(answer.status, 200);
        assert_eq!(number(&answer, "x-ratelimit-limit"), 6);
        assert_eq!(number(&answer, "x-ratelimit-remaining"), left);
    }
    let answer = world.chat("slow", json!({})).await;
    let error = refused(&answer, Envelope::OpenAi, 429, "rate_limit_exceeded");
    assert_eq!(error["type"], "rate_limit_error");
    let wait = number(&answer, "retry-after");
    assert_eq!(
        error["message"],
        format!(
            "Request rate of 6 per minute reached for key sk-slow-… (plan slow); retry in {wait} s."
        )
    );
    assert!((1..=10).contains(&wait), "{wait}");
    assert_eq!(number(&answer, "retry-after-ms").div_ceil(1000), wait);
    assert_eq!(number(&answer, "x-ratelimit-remaining"), 0);
    assert_eq!(world.provider.count(), 2, "a refused request goes nowhere");
    let line = &world.gateway.log(3).await[2];
    assert_eq!(
        (&line["status"], &line["code"]),
        (&json!(429), &json!("rate_limit_exceeded"))
    );
    let refusals = "tollgate_limit_refusals_total{plan=\"slow\",reason=\"requests\"}";
    assert_eq!(world.gateway.metric(refusals).await, 1.0);
}

#[tokio::test]
async fn each_mount_tells_in_its_own_dialect() {
    let plan = "requests_per_minute: 2, burst: 5, tokens_per_minute: 6000";
    let more = "surfaces:
  - { mount: /v1, api: openai }
  - { mount: /sec/v1, api: openai, rate_limit_reset: seconds, retry_after: 60 }
  - { mount: /epoch/v1, api: openai, rate_limit_reset: epoch, ietf_rate_limit: true }
  - { mount: /anthropic, api: anthropic }";
    let world = world(&[("p", plan)], more).await;
    let mut client = world.client().await;
    let messages = json!({ "model": "claude-test", "max_tokens": 9, "messages": [{ "role": "user", "content": "hi" }] });
    let body = chat(json!({ "max_tokens": 9 }));

    let plain = client.post_json(CHAT, &key("p"), &body).await;
    assert_eq!(plain.status, 200);
    let reset = plain.header("x-ratelimit-reset").unwrap();
    assert!(reset.ends_with('Z') && reset.len() == 20, "{reset}");
    assert_eq!(number(&plain, "x-ratelimit-limit-requests"), 2);
    assert_eq!(number(&plain, "x-ratelimit-remaining-requests"), 4);
    assert_eq!(number(&plain, "x-ratelimit-limit-tokens"), 6000);
    let span = plain.header("x-ratelimit-reset-requests").unwrap();
    assert_eq!(span, "30s");
    assert!(names(&plain, "anthropic-").is_empty());

    let seconds = client
        .post_json("/sec/v1/chat/completions", &key("p"), &body)
        .await;
    assert!((31..=60).contains(&number(&seconds, "x-ratelimit-reset")));

    let epoch = client
        .post_json("/epoch/v1/chat/completions", &key("p"), &body)
        .await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(number(&epoch, "x-ratelimit-reset").abs_diff(now.as_secs() + 90) < 20);
    assert_eq!(
        epoch.header("ratelimit-policy"),
        Some("\"requests\";q=2;w=60, \"tokens\";q=6000;w=60")
    );
    assert!(
        epoch
            .header("ratelimit")
            .unwrap()
            .starts_with("\"requests\";r=2;t=")
    );

    let anthropic = client.post_json(MESSAGES, &key("p"), &messages).await;
    assert_eq!(anthropic.status, 200, "{}", anthropic.text());
    assert_eq!(number(&anthropic, "anthropic-ratelimit-requests-limit"), 2);
    assert_eq!(
        number(&anthropic, "anthropic-ratelimit-input-tokens-limit"),
        6000
    );
    assert_eq!(number(&anthropic, "x-ratelimit-limit"), 2);
    assert_eq!(names(&anthropic, "anthropic-").len(), 12);
    // The same limits, wherever the key is used.
    let last = client.post_json(CHAT, &key("p"), &body).await;
    assert_eq!(number(&last, "x-ratelimit-remaining"), 0);
    let answer = client.post_json(MESSAGES, &key("p"), &messages).await;
    let error = refused(&answer, Envelope::Anthropic, 429, "rate_limit_exceeded");
    assert_eq!(error["type"], "rate_limit_error");
    assert!((1..=30).contains(&number(&answer, "retry-after")));
    assert_eq!(number(&answer, "anthropic-ratelimit-requests-remaining"), 0);
    let literal = client
        .post_json("/sec/v1/chat/completions", &key("p"), &body)
        .await;
    assert_eq!(number(&literal, "retry-after"), 60);
    assert!(number(&literal, "retry-after-ms") <= 30_000);
}

#[tokio::test]
async fn every_answer_to_a_known_key_tells_and_no_other_does() {
    let world = world(
        &[("p", "requests_per_minute: 1, burst: 5"), ("free", "")],
        "",
    )
    .await;
    let mut client = world.client().await;
    let auth = ("Authorization", &*format!("Bearer {}", key("p")));
    let json = ("Content-Type", "application/json");
    let ask = async |client: &mut Client, method: &str, path: &str, body: &[u8]| {
        client.request(method, path, &[auth, json], body).await
    };
    for (method, path, body, status) in [
        ("GET", "/v1/models", &b""[..], 200),
        ("GET", "/v1/models/gpt-test", b"", 200),
        ("GET", "/v1/models/none", b"", 404),
        ("POST", CHAT, b"{", 400),
        ("POST", CHAT, b"{\"model\":\"none\",\"messages\":[]}", 404),
    ] {
        let answer = ask(&mut client, method, path, body).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(number(&answer, "x-ratelimit-limit"), 1, "{path}");
        // Nothing was forwarded, nothing is charged.
        assert_eq!(number(&answer, "x-ratelimit-remaining"), 5, "{path}");
    }
    // A provider's own refusal passes, with our headers and not its own.
    let limited = Script::answer(400).header("x-ratelimit-limit-requests", "7");
    world.provider.once(
        "gpt-test",
        limited.json(&json!({ "error": { "message": "no" } })),
    );
    let answer = world.chat("p", json!({})).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header_all("x-ratelimit-limit-requests"), ["1"]);
    assert_eq!(number(&answer, "x-ratelimit-remaining"), 4);
    // A stream.
    let answer = world.chat("p", json!({ "stream": true })).await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert_eq!(number(&answer, "x-ratelimit-remaining"), 3);
    // A plan without limits has nothing to tell, and a stranger is told nothing.
    let answer = world.chat("free", json!({})).await;
    assert!(names(&answer, "ratelimit").is_empty());
    for path in ["/v1/models", "/v1/catalog"] {
        let answer = client.get(path, "sk-unknown").await;
        assert!(names(&answer, "ratelimit").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn tokens_are_charged_by_estimate_and_corrected_by_usage() {
    let world = world(&[("p", "tokens_per_minute: 60000")], "").await;
    // The scripted answer says 11 + 7 tokens, whatever was estimated.
    let answer = world.chat("p", json!({ "max_tokens": 30000 })).await;
    let left = number(&answer, "x-ratelimit-remaining-tokens");
    assert!((29_900..30_000).contains(&left), "{left}");
    world.gateway.log(1).await;
    let answer = world
        .chat("p", json!({ "max_tokens": 59000, "n": 1 }))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    world.gateway.log(2).await;
    // Failed upstream: it cost nothing.
    world
        .provider
        .once("gpt-test", Script::answer(500).json(&json!({})));
    assert_eq!(
        world.chat("p", json!({ "max_tokens": 59000 })).await.status,
        502
    );
    world.gateway.log(3).await;
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    let left = number(&answer, "x-ratelimit-remaining-tokens");
    assert!((59_900..60_000).contains(&left), "{left}");
    // More than was estimated becomes debt, and the next one waits for it.
    let usage =
        json!({ "prompt_tokens": 60000, "completion_tokens": 60000, "total_tokens": 120000 });
    world.provider.once(
        "gpt-test",
        Script::answer(200).json(&json!({ "model": "gpt-test", "choices": [], "usage": usage })),
    );
    assert_eq!(
        world.chat("p", json!({ "max_tokens": 1 })).await.status,
        200
    );
    world.gateway.log(5).await;
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    let error = refused(&answer, Envelope::OpenAi, 429, "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "Token rate of 60000 per minute reached for key sk-p-012… (plan p); retry in "
        ),
        "{message}"
    );
    // Above a minute an SDK must not sleep.
    let wait: u64 = message.rsplit(' ').nth(1).unwrap().parse().unwrap();
    assert!((59..=61).contains(&wait), "{wait}");
    assert_eq!(number(&answer, "x-ratelimit-remaining-tokens"), 0);
}

#[tokio::test]
async fn a_missing_max_tokens_refuses_nobody_the_first_call() {
    let world = world(&[("p", "tokens_per_minute: 100")], "").await;
    let answer = world.chat("p", json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(number(&answer, "x-ratelimit-remaining-tokens"), 0);
    world.gateway.log(1).await;
    let answer = world.chat("p", json!({ "max_tokens": 10 })).await;
    assert_eq!(answer.status, 200, "18 of 100 were used: {}", answer.text());
}

#[tokio::test]
async fn a_client_that_leaves_is_charged_what_it_got() {
    let world = world(&[("p", "tokens_per_minute: 1000")], "").await;
    let begun = std::time::Instant::now();
    let gate = Gate::new();
    let piece = r#"{"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}"#;
    let script = (0..100).fold(Script::sse(), |script, _| script.gate(&gate).data(piece));
    world.provider.once("gpt-test", script);
    let mut client = world.client().await;
    let body = chat(json!({ "stream": true, "max_tokens": 500 })).to_string();
    let auth = format!("Bearer {}", key("p"));
    let headers = [
        ("Authorization", &*auth),
        ("Content-Type", "application/json"),
    ];
    client.send("POST", CHAT, &headers, body.as_bytes()).await;
    gate.pass(50);
    client.read_head().await;
    let (mut pending, mut count) = (String::new(), 0);
    while count < 50 {
        count += client
            .next_events(&mut pending, Duration::from_secs(5))
            .await
            .unwrap()
            .len();
    }
    drop(client);
    world.provider.wait_cancelled(1).await;
    world.gateway.log(1).await;
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    let left = number(&answer, "x-ratelimit-remaining-tokens");
    // 50 and a prompt of some 25, of which 17 a second come back; 500 were estimated.
    let back = 17 * (begun.elapsed().as_secs() + 1);
    assert!((900..=930 + back).contains(&left), "{left}");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_is_charged_its_prompt() {
    let world = world(&[("p", "tokens_per_minute: 100000")], "").await;
    world.provider.once("gpt-test", Script::silent());
    let mut client = world.client().await;
    let text = "four ".repeat(8_000);
    let body = chat(json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 5 }));
    let auth = format!("Bearer {}", key("p"));
    let headers = [
        ("Authorization", &*auth),
        ("Content-Type", "application/json"),
    ];
    client
        .send("POST", CHAT, &headers, body.to_string().as_bytes())
        .await;
    world.provider.wait_bodies(1).await;
    drop(client);
    world.gateway.log(1).await;
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    let left = number(&answer, "x-ratelimit-remaining-tokens");
    // 1,667 a second come back.
    assert!(
        (89_000..99_000).contains(&left),
        "10,000 were sent up: {left}"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_text_is_not_charged_by_its_length() {
    let world = world(&[("p", "tokens_per_minute: 10000")], "").await;
    let picture = json!({ "created": 1, "data": [{ "b64_json": "iVBORw0KGgo".repeat(50_000) }] });
    world
        .provider
        .once("gpt-test", Script::answer(200).json(&picture));
    let body = json!({ "model": "gpt-test", "prompt": "a gate" });
    let mut client = world.client().await;
    let answer = client
        .post_json("/v1/images/generations", &key("p"), &body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    assert!(number(&answer, "x-ratelimit-remaining-tokens") > 9_900);
}

#[tokio::test]
async fn usage_that_cannot_be_credits_nobody() {
    let world = world(&[("p", "tokens_per_minute: 1000000")], "").await;
    for (nth, number_) in ["-1000000", "9223372036854775808", "\"12\"", "1e400", "null"]
        .iter()
        .enumerate()
    {
        let text = format!(
            r#"{{"model":"gpt-test","choices":[],"usage":{{"prompt_tokens":{number_},"completion_tokens":{number_}}}}}"#
        );
        let script = Script::answer(200)
            .header("content-type", "application/json")
            .body(text);
        world.provider.once("gpt-test", script);
        world.chat("p", json!({ "max_tokens": 1 })).await;
        world.gateway.log(nth + 1).await;
    }
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    let left = number(&answer, "x-ratelimit-remaining-tokens");
    assert!((999_000..1_000_000).contains(&left), "{left}");
}

#[tokio::test]
async fn requests_at_once_are_refused_until_one_ends() {
    let world = world(&[("p", "concurrency: 2")], "").await;
    let gate = Gate::new();
    let held = || {
        Script::answer(200)
            .gate(&gate)
            .json(&json!({ "model": "gpt-test", "choices": [] }))
    };
    let mut waiting = Vec::new();
    for n in 1..=2 {
        world.provider.once("gpt-test", held());
        let mut client = world.client().await;
        waiting.push(tokio::spawn(async move {
            client.post_json(CHAT, &key("p"), &chat(json!({}))).await
        }));
        world.provider.wait_requests(n).await;
    }
    let answer = world.chat("p", json!({})).await;
    let error = refused(&answer, Envelope::OpenAi, 429, "concurrency_limit");
    assert_eq!(
        error["message"],
        "Limit of 2 requests at once reached for key sk-p-012… (plan p); retry when one of them has ended."
    );
    let millis = number(&answer, "retry-after-ms");
    assert!((500..=2000).contains(&millis), "{millis}");
    assert_eq!(number(&answer, "retry-after"), millis.div_ceil(1000));
    gate.open();
    for one in waiting {
        assert_eq!(one.await.unwrap().status, 200);
    }
    world.gateway.log(3).await;
    assert_eq!(world.chat("p", json!({})).await.status, 200);
}

#[tokio::test]
async fn tokens_of_a_day_are_refused_without_a_retry() {
    let world = world(
        &[("p", "tokens_per_day: 30")],
        "billing: { day_starts: \"+08:00\" }",
    )
    .await;
    assert_eq!(
        world.chat("p", json!({ "max_tokens": 1 })).await.status,
        200
    );
    world.gateway.log(1).await;
    // 18 of 30 are gone, and a prompt of 20 does not fit.
    let answer = world.chat("p", json!({ "max_tokens": 1 })).await;
    let error = refused(&answer, Envelope::OpenAi, 429, "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(
        message
            .starts_with("Limit of 30 tokens a day reached for key sk-p-012… (plan p); retry in "),
        "{message}"
    );
}

#[tokio::test]
async fn a_plan_of_an_account_holds_over_its_keys_and_a_keys_own_plan_instead() {
    let keys: String = ["one", "two"]
        .map(|name| {
            format!(
                "  - {{ name: {name}, account: shared, sha256: \"{}\" }}\n",
                sha256(&key(name))
            )
        })
        .concat();
    let own = format!(
        "  - {{ name: own, account: shared, plan: alone, sha256: \"{}\" }}\n",
        sha256(&key("own"))
    );
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}
models: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]
plans:
  team: {{ requests_per_minute: 1, burst: 2, scope: account }}
  alone: {{ requests_per_minute: 1, burst: 1 }}
accounts: {{ shared: {{ plan: team }} }}
keys:
{keys}{own}",
        provider.base_url()
    ))
    .await;
    let world = World { provider, gateway };
    assert_eq!(world.chat("one", json!({})).await.status, 200);
    assert_eq!(world.chat("two", json!({})).await.status, 200);
    let answer = world.chat("one", json!({})).await;
    let error = refused(&answer, Envelope::OpenAi, 429, "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "Request rate of 1 per minute reached for account shared (plan team); retry in "
        ),
        "{message}"
    );
    assert_eq!(world.chat("own", json!({})).await.status, 200);
    assert_eq!(world.chat("own", json!({})).await.status, 429);
}

#[tokio::test]
async fn a_network_without_a_key_is_limited_by_itself() {
    let more = "anonymous: { plan: open, models: [gpt-test] }\ntrusted_proxies: [\"127.0.0.0/8\"]";
    let world = world(&[("open", "requests_per_minute: 1, burst: 1")], more).await;
    let from = async |ip: &str| {
        let headers = [
            ("X-Forwarded-For", ip),
            ("Content-Type", "application/json"),
        ];
        let body = chat(json!({})).to_string();
        let mut client = world.client().await;
        client
            .request("POST", CHAT, &headers, body.as_bytes())
            .await
    };
    let first = from("203.0.113.7").await;
    assert_eq!(first.status, 200);
    assert_eq!(number(&first, "x-ratelimit-remaining"), 0);
    let answer = from("203.0.113.7").await;
    let error = refused(&answer, Envelope::OpenAi, 429, "rate_limit_exceeded");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("reached for your network")
    );
    assert_eq!(from("203.0.113.8").await.status, 200);
    // One customer's /64.
    assert_eq!(from("2001:db8::1").await.status, 200);
    assert_eq!(from("2001:db8::2").await.status, 429);
    assert_eq!(from("2001:db8:0:1::1").await.status, 200);
}

#[tokio::test]
async fn a_flood_of_bad_keys_is_refused_and_good_ones_are_not() {
    let more = "limits: { unauthenticated_per_ip: 3/h }";
    let world = world(&[("p", "requests_per_minute: 60")], more).await;
    let mut client = world.client().await;
    let bad = chat(json!({}));
    assert_eq!(client.post_json(CHAT, "sk-unknown", &bad).await.status, 401);
    assert_eq!(
        client.request("GET", "/v1/models", &[], b"").await.status,
        401
    );
    assert_eq!(
        client.request("GET", "/v1/catalog", &[], b"").await.status,
        200
    );
    for path in ["/v1/models", "/v1/catalog", "/api/status"] {
        let answer = client.request("GET", path, &[], b"").await;
        let error = refused(&answer, Envelope::OpenAi, 429, "rate_limit_exceeded");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.starts_with("Limit of 3 requests without a valid key in 3600 s reached for your network; send a valid key, or retry in "),
            "{message}"
        );
        // Above a minute no SDK is told to sleep.
        assert_eq!(answer.header("retry-after"), None);
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert_eq!(client.post_json(CHAT, "sk-unknown", &bad).await.status, 429);
    // The same network, the same connection: a valid key is served, health is told.
    assert_eq!(client.post_json(CHAT, &key("p"), &bad).await.status, 200);
    assert_eq!(client.request("GET", "/livez", &[], b"").await.status, 200);
    let refusals = "tollgate_limit_refusals_total{plan=\"\",reason=\"unauthenticated\"}";
    assert_eq!(world.gateway.metric(refusals).await, 4.0);
}

#[tokio::test]
async fn requests_without_a_key_are_one_flood_wherever_they_are_let_in() {
    let more =
        "anonymous: { plan: open, models: [gpt-test] }\nlimits: { unauthenticated_per_ip: 2/h }";
    let world = world(&[("open", "requests_per_minute: 1000")], more).await;
    let mut client = world.client().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(client.request("GET", "/v1/models", &[], b"").await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[tokio::test]
async fn an_address_that_a_client_claims_changes_nothing() {
    let world = world(&[("p", "")], "limits: { unauthenticated_per_ip: 2/h }").await;
    let mut client = world.client().await;
    let mut statuses = Vec::new();
    for n in 0..4 {
        let forwarded = format!("203.0.113.{n}");
        let headers = [
            ("X-Forwarded-For", &*forwarded),
            ("Authorization", "Bearer sk-unknown"),
        ];
        statuses.push(
            client
                .request("GET", "/v1/models", &headers, b"")
                .await
                .status,
        );
    }
    assert_eq!(statuses, [401, 401, 429, 429]);
}

#[tokio::test]
async fn metrics_tell_of_limits() {
    let world = world(&[("p", "requests_per_minute: 1, burst: 1")], "").await;
    world.chat("p", json!({})).await;
    world.chat("p", json!({})).await;
    assert_eq!(
        world
            .gateway
            .metric("tollgate_admission_seconds_count")
            .await,
        2.0
    );
    let page = world.gateway.metrics_text().await;
    assert!(page.contains("tollgate_limit_subjects"), "{page}");
    // No series of a store that is not there.
    assert!(!page.contains("tollgate_redis"), "{page}");
}
