//! What requests cost, through a gateway: to the token and the micro-unit, on both stores. What the ledger does by
//! itself is in `ledger.rs`; what operators do, in `admin.rs`.
//!
//! Above 400 lines: each promise once, each on both stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Gateway, sha256};
use support::http::{Client, Response};
use support::provider::{Gate, Provider, Script, usage};
use support::redis::Redis;
use support::refusal::{Envelope, refused};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";
const TOKEN: &str = "admin-token";

struct World {
    provider: Provider,
    gateway: Gateway,
    _redis: Option<Redis>,
}

/// The key of this name.
fn key(name: &str) -> String {
    format!("sk-{name}-0123456789abcdef0123456789abcdef")
}

impl World {
    async fn embedded(more: &str) -> World {
        World::new(more, None).await
    }

    async fn redis(more: &str) -> World {
        World::new(more, Some(Redis::start().await)).await
    }

    /// By a user who has the rights that `docs/limits.md` lists, and no others.
    async fn with_rights_of_the_page() -> World {
        let redis = Redis::start().await;
        let page = include_str!("../docs/limits.md");
        let (_, list) = page.split_once("The user needs ").unwrap();
        let (list, _) = list.split_once("; of a cluster").unwrap();
        let words = list.split(|c: char| c.is_whitespace() || "`(),".contains(c));
        let rights = words.filter(|word| word.starts_with(['+', '~']));
        let mut command = vec!["ACL", "SETUSER", "gateway", "on", ">password", "-@all"];
        command.extend(rights);
        redis.command(&command).await.ok();
        let url = format!("redis://gateway:password@{}/0", redis.addr());
        World::at(&url, DEFAULT, Some(redis)).await
    }

    /// `more` are sections in place of those below.
    async fn new(more: &str, redis: Option<Redis>) -> World {
        let url = redis.as_ref().map(Redis::url).unwrap_or_default();
        World::at(&url, more, redis).await
    }

    async fn at(url: &str, more: &str, redis: Option<Redis>) -> World {
        let provider = Provider::start().await;
        let store = match url {
            "" => String::new(),
            url => format!("store: {{ redis: {{ url: \"{url}\" }} }}"),
        };
        let item = |name: &str, rest: &str| {
            let hash = sha256(&key(name));
            format!("  - {{ name: {name}, account: acme, sha256: \"{hash}\"{rest} }}\n")
        };
        let keys = [
            item("plain", ""),
            item("capped", ", spend_cap: { daily: 0.0005 }"),
            item("monthly", ", spend_cap: { monthly: 0.0005 }"),
            item("packaged", ", billing: { package: starter }"),
            item("narrow", ", billing: { package: other }"),
        ];
        let mut sections = format!(
            "admin: {{ bind: 127.0.0.1:0, token: {TOKEN} }}
{store}
surfaces:
  - {{ mount: /v1, api: openai }}
  - {{ mount: /api/v1, api: openai, statuses: {{ spend_cap_reached: 429, package_exhausted: 429 }} }}
  - {{ mount: /anthropic, api: anthropic }}
providers:
  fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }}
  claude: {{ api: anthropic, base_url: \"{}\", keys: [upstream-secret] }}
currency: CNY
models:
  - {{ id: gpt-test, upstreams: [{{ provider: fake }}], price: {{ input: 4, output: 16, cached_input: 0.4 }} }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}], price: {{ input: 4, output: 16, cached_input: 0.4, cache_write: 5 }} }}
  - {{ id: picture, modality: image, upstreams: [{{ provider: fake }}], price: {{ image: {{ 1024x1024: 0.2, 512x512: 0.05 }} }} }}
  - {{ id: voice, modality: audio, upstreams: [{{ provider: fake }}], price: {{ characters: 0.3 }} }}
keys:
{}",
            provider.base_url(),
            provider.anthropic_url(),
            keys.concat()
        );
        for (section, text) in [
            (
                "accounts",
                "accounts: { acme: { plan: all, balance: 1, projects: [default] } }",
            ),
            (
                "billing",
                "billing: { mode: enforce, day_starts: \"+08:00\", packages: { starter: { tokens: 3000, valid: 30d }, other: { tokens: 3000, valid: 30d, models: [\"voice\"] } } }",
            ),
        ] {
            if !more.contains(&format!("{section}:")) {
                sections += &format!("{text}\n");
            }
        }
        let gateway = Gateway::start(&format!("{sections}\n{more}\n")).await;
        World {
            provider,
            gateway,
            _redis: redis,
        }
    }

    async fn post(&self, path: &str, name: &str, body: &Value) -> Response {
        let mut client = Client::connect(self.gateway.addr).await;
        client.post_json(path, &key(name), body).await
    }

    /// Asks the admin API.
    async fn admin(&self, method: &str, path: &str, body: Value) -> Response {
        let mut client = Client::connect(self.gateway.admin.unwrap()).await;
        let bearer = format!("Bearer {TOKEN}");
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let headers = [("Authorization", &*bearer)];
        client.request(method, path, &headers, &body).await
    }

    /// The sums of everything that was used, once nothing is held any more.
    async fn settled(&self) -> Value {
        let found = async {
            loop {
                let account = self
                    .admin("GET", "/admin/v1/accounts/acme", Value::Null)
                    .await;
                let account = account.json();
                let packages = account["packages"].as_array().unwrap();
                let free = packages.iter().all(|package| package["held"] == 0);
                if account["held"] == "0.000000" && free {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), found).await;
        assert!(found.is_ok(), "something stays held");
        let usage = self
            .admin("GET", "/admin/v1/usage?by=account", Value::Null)
            .await;
        let ledger = self.admin("GET", "/admin/v1/ledger", Value::Null).await;
        assert_eq!(ledger.json()["drift"], json!([]));
        usage.json()["total"].clone()
    }

    async fn balance(&self) -> String {
        let account = self
            .admin("GET", "/admin/v1/accounts/acme", Value::Null)
            .await;
        account.json()["balance"].as_str().unwrap().to_owned()
    }
}

fn chat(stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    json!({ "model": "gpt-test", "stream": stream, "max_tokens": 20, "messages": messages })
}

fn says(error: &Value, words: &str) {
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
}

/// By the prices above, rounded up once.
fn cost(input: u64, cached: u64, output: u64) -> String {
    let millionths = (input - cached) * 4_000_000 + cached * 400_000 + output * 16_000_000;
    micros(millionths.div_ceil(1_000_000))
}

fn micros(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn piece(n: usize) -> String {
    let delta = json!({ "content": format!("{n} ") });
    let choices = json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    format!("data: {}\n\n", json!({ "choices": choices }))
}

async fn an_answer_costs_what_its_provider_reports(world: World) {
    for (path, body) in [
        (CHAT, chat(false)),
        (CHAT, chat(true)),
        (
            MESSAGES,
            json!({ "model": "claude-test", "max_tokens": 20, "messages": [{ "role": "user", "content": "hi" }] }),
        ),
        (
            MESSAGES,
            json!({ "model": "claude-test", "stream": true, "max_tokens": 20, "messages": [{ "role": "user", "content": "hi" }] }),
        ),
        (
            "/v1/responses",
            json!({ "model": "gpt-test", "input": "hi" }),
        ),
        (
            "/v1/responses",
            json!({ "model": "gpt-test", "input": "hi", "stream": true }),
        ),
    ] {
        let answer = world.post(path, "plain", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Anthropic counts what was cached beside the rest.
    let (input, cached, output) = (usage::INPUT, usage::CACHED, usage::OUTPUT);
    let openai = (input - cached) * 4_000_000 + cached * 400_000 + output * 16_000_000;
    let anthropic = input * 4_000_000 + cached * 400_000 + output * 16_000_000;
    let each = |sum: u64| sum.div_ceil(1_000_000);
    let total = world.settled().await;
    assert_eq!(total["requests"], 6);
    assert_eq!(total["input_tokens"], 4 * input + 2 * (input + cached));
    assert_eq!(total["cached_tokens"], 6 * cached);
    assert_eq!(total["output_tokens"], 6 * output);
    let expected = 4 * each(openai) + 2 * each(anthropic);
    assert_eq!(total["cost"], micros(expected));
    assert_eq!(total["estimated_cost"], "0.000000");
    assert_eq!(world.balance().await, micros(1_000_000 - expected));
    let lines = world.gateway.log(6).await;
    assert_eq!(lines[0]["cost"], cost(input, cached, output));
    assert_eq!(lines[0]["charge"], "reported");
}

async fn pictures_and_speech_have_prices_of_their_own(world: World) {
    for (path, body) in [
        (
            "/v1/images/generations",
            json!({ "model": "picture", "prompt": "x", "n": 3, "size": "512x512" }),
        ),
        (
            "/v1/images/generations",
            json!({ "model": "picture", "prompt": "x" }),
        ),
        (
            "/v1/audio/speech",
            json!({ "model": "voice", "voice": "a", "input": "h\u{e9}llo" }),
        ),
    ] {
        let answer = world.post(path, "plain", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let total = world.settled().await;
    assert_eq!(total["images"], 4);
    assert_eq!(total["characters"], 5);
    // Of an unnamed size the dearest.
    assert_eq!(total["cost"], micros(3 * 50_000 + 200_000 + 1_500));
}

async fn who_cannot_pay_is_told_what_is_short(world: World) {
    // 20 tokens of an answer at 16 a million, and the prompt.
    let answer = world.post(CHAT, "capped", &chat(false)).await;
    assert_eq!(answer.status, 200);
    world.settled().await;
    let over = world.post(CHAT, "capped", &chat(false)).await;
    let error = refused(&over, Envelope::OpenAi, 402, "spend_cap_reached");
    says(&error, "daily cap of 0.0005 CNY");
    let resets = error["resets_at"].as_str().unwrap();
    assert!(
        resets.ends_with("T16:00:00Z"),
        "midnight in +08:00: {resets}"
    );
    let month = world.post(CHAT, "monthly", &chat(false)).await;
    assert_eq!(month.status, 200);
    world.settled().await;
    let month = world.post("/anthropic/v1/messages", "monthly", &json!({ "model": "claude-test", "max_tokens": 20, "messages": [{ "role": "user", "content": "hi" }] })).await;
    let error = refused(&month, Envelope::Anthropic, 402, "spend_cap_reached");
    assert_eq!(error["type"], "billing_error");
    // R3's clients know 429.
    let mapped = world
        .post("/api/v1/chat/completions", "capped", &chat(false))
        .await;
    refused(&mapped, Envelope::OpenAi, 429, "spend_cap_reached");

    let none = world.post(CHAT, "packaged", &chat(false)).await;
    refused(&none, Envelope::OpenAi, 402, "package_exhausted");
    let granted = json!({ "package": "starter" });
    let granted = world
        .admin("POST", "/admin/v1/accounts/acme/packages", granted)
        .await;
    assert_eq!(granted.status, 201, "{}", granted.text());
    let answer = world.post(CHAT, "packaged", &chat(false)).await;
    assert_eq!(answer.status, 200);
    world.settled().await;
    let account = world
        .admin("GET", "/admin/v1/accounts/acme", Value::Null)
        .await;
    let left = account.json()["packages"][0]["tokens_left"].clone();
    assert_eq!(left, 3000 - usage::INPUT - usage::OUTPUT);
    let large = json!({ "model": "gpt-test", "max_tokens": 3000, "messages": [] });
    let large = world.post(CHAT, "packaged", &large).await;
    let error = refused(&large, Envelope::OpenAi, 402, "package_exhausted");
    says(&error, "max_tokens");
    let other = world.post(CHAT, "narrow", &chat(false)).await;
    refused(&other, Envelope::OpenAi, 403, "model_not_allowed");

    let before = world.provider.count();
    let huge = json!({ "model": "gpt-test", "max_tokens": 100_000_000, "messages": [] });
    let huge = world.post(CHAT, "plain", &huge).await;
    let error = refused(&huge, Envelope::OpenAi, 402, "insufficient_balance");
    says(&error, "account acme");
    // The largest numbers that a request may have.
    let most =
        json!({ "model": "gpt-test", "max_tokens": 1u64 << 53, "n": 1u64 << 53, "messages": [] });
    for name in ["plain", "packaged"] {
        assert_eq!(world.post(CHAT, name, &most).await.status, 402);
    }
    assert_eq!(world.provider.count(), before, "nothing was sent");
    let total = world.settled().await;
    assert_eq!(total["requests"], 3, "refusals are none");
}

async fn failures_cost_nothing_and_nothing_stays_held(world: World) {
    for script in [
        Script::answer(500).json(&json!({ "error": {} })),
        Script::answer(400).json(&json!({ "error": { "message": "no" } })),
        Script::answer(429).json(&json!({ "error": {} })),
        Script::close_at_once(),
    ] {
        world.provider.next(script);
        let answer = world.post(CHAT, "plain", &chat(false)).await;
        assert_ne!(answer.status, 200);
        let total = world.settled().await;
        assert_eq!(total["requests"], 0);
    }
    assert_eq!(world.balance().await, "1.000000");
}

/// Clients that leave at 0, 10, 50 and 99 % of a stream of a hundred pieces pay for the pieces that were relayed.
async fn who_leaves_pays_for_what_was_relayed(world: World) {
    for (nth, heard) in [0, 10, 50, 99].into_iter().enumerate() {
        let gate = Gate::new();
        let pieces = (0..100).fold(Script::sse(), |script, n| {
            script.gate(&gate).event(&piece(n))
        });
        world.provider.next(pieces.event("data: [DONE]\n\n"));
        let seen = world.provider.count();
        let mut client = Client::connect(world.gateway.addr).await;
        let bearer = format!("Bearer {}", key("plain"));
        let headers = [
            ("Authorization", &*bearer),
            ("Content-Type", "application/json"),
        ];
        let body = chat(true).to_string();
        client.send("POST", CHAT, &headers, body.as_bytes()).await;
        world.provider.wait_bodies(seen + 1).await;
        if heard > 0 {
            gate.pass(heard);
            client.read_head().await;
            let (mut pending, mut count) = (String::new(), 0);
            while count < heard {
                let events = client.next_events(&mut pending, Duration::from_secs(5));
                count += events.await.unwrap().len();
            }
        }
        let left = std::time::Instant::now();
        drop(client);
        world.provider.wait_cancelled(nth + 1).await;
        assert!(
            left.elapsed() < Duration::from_secs(1),
            "{:?}",
            left.elapsed()
        );
        let total = world.settled().await;
        assert_eq!(total["requests"], nth + 1);
    }
    let total = world.settled().await;
    assert_eq!(total["output_tokens"], 10 + 50 + 99);
    // All of it is our own count.
    assert_eq!(total["cost"], total["estimated_cost"]);
    // The prompt's estimate, four times.
    let prompt = total["input_tokens"].as_u64().unwrap() / 4;
    assert!((15..40).contains(&prompt), "{prompt}");
    let each = [0, 10, 50, 99].map(|output| prompt * 4 + output * 16);
    assert_eq!(total["cost"], micros(each.iter().sum()));
}

/// Numbers that cannot be never credit anyone: what was relayed is charged.
async fn hostile_usage_never_credits(world: World) {
    let mut before = 1_000_000;
    for (nth, usage) in [
        json!({ "prompt_tokens": -1, "completion_tokens": -1 }),
        json!({ "prompt_tokens": 9_223_372_036_854_775_808u64, "completion_tokens": 5 }),
        json!({ "prompt_tokens": "12", "completion_tokens": "12" }),
        json!({ "prompt_tokens": null, "completion_tokens": null }),
        json!({ "prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": { "cached_tokens": 1_000_000 } }),
        json!({ "prompt_tokens": 1.5, "completion_tokens": 2 }),
        json!(null),
        json!([]),
    ]
    .into_iter()
    .enumerate()
    {
        let body = json!({ "choices": [{ "message": { "content": "one two three four five" } }], "usage": usage });
        world.provider.next(Script::answer(200).json(&body));
        let answer = world.post(CHAT, "plain", &chat(false)).await;
        assert_eq!(answer.status, 200);
        // The same at the end of a stream, and a second usage event that takes the first one back.
        let first = json!({ "choices": [], "usage": { "prompt_tokens": 30, "completion_tokens": 20 } });
        let second = json!({ "choices": [], "usage": usage });
        let script = (0..3).fold(Script::sse(), |script, n| script.event(&piece(n)));
        let script = script
            .event(&format!("data: {first}\n\n"))
            .event(&format!("data: {second}\n\n"))
            .event("data: [DONE]\n\n");
        world.provider.next(script);
        let answer = world.post(CHAT, "plain", &chat(true)).await;
        assert_eq!(answer.status, 200);
        let total = world.settled().await;
        assert_eq!(total["requests"], 2 * (nth + 1), "{usage}");
        let balance = world.balance().await;
        let left: u64 = balance.replace('.', "").parse().unwrap();
        assert!(left < before, "{usage} took {before} to {left}");
        // And nobody pays for what no answer can have.
        assert!(before - left < 2_000, "{usage} cost {}", before - left);
        before = left;
    }
}

async fn a_price_is_that_of_the_admission_and_observed_nobody_is_refused(world: World) {
    let answer = world.post(CHAT, "packaged", &chat(false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let huge =
        json!({ "model": "gpt-test", "max_tokens": 1u64 << 53, "n": 1u64 << 53, "messages": [] });
    for name in ["plain", "plain", "packaged"] {
        assert_eq!(world.post(CHAT, name, &huge).await.status, 200);
    }
    // What nobody may refuse holds nothing: only the usage tells that it is charged.
    let charged = async { while world.settled().await["requests"] != 4 {} };
    let charged = tokio::time::timeout(Duration::from_secs(10), charged).await;
    assert!(charged.is_ok(), "{}", world.settled().await);
    let refusals = "tollgate_billing_refusals_total";
    for reason in ["package", "balance"] {
        let series = format!("{refusals}{{reason=\"{reason}\"}}");
        assert_eq!(world.gateway.metric(&series).await, 2.0, "{reason}");
    }
}

#[tokio::test]
async fn the_rights_that_the_page_lists_are_enough() {
    let world = World::with_rights_of_the_page().await;
    let answer = world.post(CHAT, "plain", &chat(true)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.settled().await["requests"], 1);
    for (path, body) in [
        ("accounts/acme/top-ups", json!({ "amount": 1 })),
        ("accounts/acme/refunds", json!({ "amount": 1 })),
        ("accounts/acme/packages", json!({ "package": "starter" })),
        ("keys", json!({ "name": "made", "account": "acme" })),
    ] {
        let done = world
            .admin("POST", &format!("/admin/v1/{path}"), body)
            .await;
        assert_eq!(done.status, 201, "{path}: {}", done.text());
    }
    let answer = world.post(CHAT, "packaged", &chat(false)).await;
    assert_eq!(answer.status, 200);
    world.settled().await;
    let page = world.gateway.metrics_text().await;
    let errors: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("tollgate_redis_errors_total{"))
        .collect();
    assert_eq!(errors, Vec::<&str>::new());
}

const DEFAULT: &str = "";
const OBSERVED: &str = "billing: { mode: observe, packages: { starter: { tokens: 3000, valid: 30d }, other: { tokens: 1, valid: 1d } } }";

macro_rules! on_every_backend {
    ($($name:ident: $more:expr),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::embedded($more).await).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::World::redis($more).await).await;
            })*
        }
    };
}

on_every_backend!(
    an_answer_costs_what_its_provider_reports: super::DEFAULT,
    pictures_and_speech_have_prices_of_their_own: super::DEFAULT,
    who_cannot_pay_is_told_what_is_short: super::DEFAULT,
    failures_cost_nothing_and_nothing_stays_held: super::DEFAULT,
    who_leaves_pays_for_what_was_relayed: super::DEFAULT,
    hostile_usage_never_credits: super::DEFAULT,
    a_price_is_that_of_the_admission_and_observed_nobody_is_refused: super::OBSERVED,
);
