//! Every row of contract §5 that can happen, on every surface and in every dialect.
//!
//! Above 400 lines: the tables of codes, dialects and mounts are read by every test of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::clock::pass;
use support::gateway::{Gateway, KEY, NARROW_KEY, sha256};
use support::http::{Broken, Client, Response};
use support::provider::{Provider, Script, Seen};
use support::refusal::{Envelope, framed, refused};
use tollgate::rejection::{Code, Retry};

/// The contract's table: code, status, OpenAI's type, Anthropic's type. Written by hand, so that a
/// change of the enum is a change of the contract.
const CONTRACT: [(&str, u16, &str, &str); 32] = [
    ("missing_api_key", 401, INVALID, "authentication_error"),
    ("invalid_api_key", 401, INVALID, "authentication_error"),
    ("key_expired", 401, INVALID, "authentication_error"),
    ("key_disabled", 401, INVALID, "authentication_error"),
    ("network_not_allowed", 403, INVALID, "permission_error"),
    ("model_not_allowed", 403, INVALID, "permission_error"),
    ("model_not_found", 404, INVALID, "not_found_error"),
    ("model_preview", 503, "model_unavailable", "api_error"),
    (
        "insufficient_balance",
        402,
        "insufficient_quota",
        "billing_error",
    ),
    (
        "package_exhausted",
        402,
        "insufficient_quota",
        "billing_error",
    ),
    (
        "spend_cap_reached",
        402,
        "insufficient_quota",
        "billing_error",
    ),
    (
        "rate_limit_exceeded",
        429,
        "rate_limit_error",
        "rate_limit_error",
    ),
    (
        "concurrency_limit",
        429,
        "rate_limit_error",
        "rate_limit_error",
    ),
    ("request_too_large", 413, INVALID, "request_too_large"),
    ("headers_too_large", 431, INVALID, INVALID),
    ("invalid_request", 400, INVALID, INVALID),
    ("invalid_json", 400, INVALID, INVALID),
    ("duplicate_field", 400, INVALID, INVALID),
    ("missing_required_parameter", 400, INVALID, INVALID),
    ("invalid_value", 400, INVALID, INVALID),
    ("unsupported_operation", 400, INVALID, INVALID),
    ("length_required", 411, INVALID, INVALID),
    ("request_timeout", 408, INVALID, INVALID),
    ("not_found", 404, INVALID, "not_found_error"),
    ("method_not_allowed", 405, INVALID, INVALID),
    ("upstream_auth", 502, "upstream_error", "api_error"),
    (
        "upstream_rate_limited",
        429,
        "rate_limit_error",
        "rate_limit_error",
    ),
    ("upstream_error", 502, "upstream_error", "api_error"),
    ("upstream_unreachable", 502, "upstream_error", "api_error"),
    ("upstream_timeout", 504, "upstream_error", "timeout_error"),
    (
        "server_is_overloaded",
        503,
        "server_error",
        "overloaded_error",
    ),
    ("temporarily_unavailable", 503, "server_error", "api_error"),
];

const INVALID: &str = "invalid_request_error";

fn contract(code: &str) -> (u16, &'static str, &'static str) {
    let row = CONTRACT.iter().find(|row| row.0 == code).expect(code);
    (row.1, row.2, row.3)
}

/// `type` and `code` of the `typed` dialect.
fn typed(code: &str) -> (&str, &str) {
    match code {
        "missing_api_key" | "invalid_api_key" | "key_expired" | "key_disabled" => {
            ("invalid_api_key", code)
        }
        "insufficient_balance" | "package_exhausted" | "spend_cap_reached" => {
            ("insufficient_credit", code)
        }
        "model_not_found" => ("model_not_found", "unknown_model"),
        "rate_limit_exceeded" | "concurrency_limit" | "upstream_rate_limited" => {
            ("rate_limited", code)
        }
        "model_preview" | "server_is_overloaded" | "temporarily_unavailable" => {
            ("model_unavailable", code)
        }
        "upstream_timeout" => ("upstream_timeout", code),
        code => (contract(code).1, code),
    }
}

#[test]
fn the_enum_is_the_contracts_table() {
    let rows = Code::ALL.map(Code::row);
    let found = rows.map(|row| (row.code, row.status, row.openai_type, row.anthropic_type));
    assert_eq!(found, CONTRACT);
    for row in rows {
        assert_eq!(row.typed, typed(row.code), "{}", row.code);
    }
}

/// How a mount words its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    OpenAi,
    Anthropic,
    Typed,
    CodeMsg,
    Mapped,
}

/// Every dialect, with the path of its chat and a model that it serves.
const MOUNTS: [(Dialect, &str, &str); 7] = [
    (Dialect::OpenAi, "/v1/chat/completions", "gpt"),
    (Dialect::Anthropic, "/v1/messages", "claude"),
    (Dialect::OpenAi, "/api/v1/chat/completions", "gpt"),
    (Dialect::Anthropic, "/anthropic/v1/messages", "claude"),
    (Dialect::Typed, "/typed/chat/completions", "gpt"),
    (Dialect::CodeMsg, "/msg/chat/completions", "gpt"),
    (Dialect::Mapped, "/mapped/chat/completions", "gpt"),
];

/// `statuses:` of the mount `/mapped`.
const MAPPED: [(&str, u16); 4] = [
    ("missing_api_key", 499),
    ("model_not_allowed", 404),
    ("upstream_timeout", 408),
    ("upstream_rate_limited", 503),
];

/// Checks an answer to the last field against the contract, in a mount's dialect.
#[track_caller]
fn worded(answer: &Response, dialect: Dialect, code: &str) {
    let (status, openai, anthropic) = contract(code);
    let mapped = MAPPED.iter().find(|(name, _)| *name == code);
    let status = match (dialect, mapped) {
        (Dialect::Mapped, Some((_, status))) => *status,
        (Dialect::Anthropic, _) if code == "server_is_overloaded" => 529,
        _ => status,
    };
    let error = match dialect {
        Dialect::OpenAi | Dialect::Mapped => {
            let error = refused(answer, Envelope::OpenAi, status, code);
            assert_eq!(error["type"], openai);
            error
        }
        Dialect::Anthropic => {
            let error = refused(answer, Envelope::Anthropic, status, code);
            assert_eq!(error["type"], anthropic);
            error
        }
        Dialect::Typed => {
            let (kind, code) = typed(code);
            let error = refused(answer, Envelope::OpenAi, status, code);
            assert_eq!(error["type"], kind);
            error
        }
        Dialect::CodeMsg => {
            assert_eq!(answer.status, status, "{}", answer.text());
            let mut body = answer.json();
            assert_eq!(body["code"], 7);
            assert_eq!(body["msg"], body["error"]["message"]);
            let error = body["error"].take();
            assert_eq!(error["type"], openai);
            assert_eq!(error["code"], code);
            assert_eq!(answer.header("x-request-id"), answer.header("request-id"));
            assert_eq!(answer.header_all("content-type"), ["application/json"]);
            error
        }
    };
    let names_model = ["model_not_found", "model_not_allowed"].contains(&code);
    if names_model && dialect != Dialect::Anthropic {
        assert_eq!(error["param"], "model");
    }
}

struct World {
    provider: Provider,
    gateway: Gateway,
}

async fn world(more: &str) -> World {
    let provider = Provider::start().await;
    let (openai, anthropic) = (provider.base_url(), provider.anthropic_url());
    let refusing = {
        // Nobody listens where this was.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let statuses: String = MAPPED
        .iter()
        .map(|(code, status)| format!("{code}: {status}, "))
        .collect();
    let more = match more {
        "" => String::new(),
        section => format!("{section}\n"),
    };
    let gateway = Gateway::start(&format!(
        "surfaces:
  - {{ mount: /v1, api: openai }}
  - {{ mount: /api/v1, api: openai, retry_after: 60 }}
  - {{ mount: /anthropic, api: anthropic }}
  - {{ mount: /typed, api: openai, errors: typed }}
  - {{ mount: /msg, api: openai, errors: code_msg }}
  - {{ mount: /mapped, api: openai, statuses: {{ {statuses} }} }}
providers:
  openai: {{ api: openai, base_url: \"{openai}\", keys: [upstream-secret], timeouts: {{ first_byte: 40s }}, health: {{ failures: 1000 }} }}
  anthropic: {{ api: anthropic, base_url: \"{anthropic}\", keys: [upstream-secret], timeouts: {{ first_byte: 40s }}, health: {{ failures: 1000 }} }}
  gone-openai: {{ api: openai, base_url: \"{refusing}\", keys: [upstream-secret] }}
  gone-anthropic: {{ api: anthropic, base_url: \"{refusing}\", keys: [upstream-secret] }}
models:
  - {{ id: gpt, upstreams: [{{ provider: openai }}] }}
  - {{ id: claude, upstreams: [{{ provider: anthropic }}] }}
  - {{ id: gone, upstreams: [{{ provider: gone-openai }}, {{ provider: gone-anthropic }}] }}
  - {{ id: nowhere-gpt, upstreams: [{{ provider: gone-openai }}] }}
  - {{ id: nowhere-claude, upstreams: [{{ provider: gone-anthropic }}] }}
  - {{ id: preview, status: preview }}
  - {{ id: soon, status: soon, upstreams: [{{ provider: openai }}] }}
plans: {{ all: {{ models: [\"*\"] }}, few: {{ models: [\"other-*\"] }} }}
accounts: {{ acme: {{ plan: all, projects: [default] }} }}
keys:
  - {{ name: test, account: acme, sha256: \"{}\" }}
  - {{ name: narrow, account: acme, plan: few, sha256: \"{}\" }}
  - {{ name: expired, account: acme, sha256: \"{}\", expires: 2020-01-01T00:00:00Z }}
  - {{ name: disabled, account: acme, sha256: \"{}\", disabled: true }}
  - {{ name: away, account: acme, sha256: \"{}\", networks: [\"192.0.2.0/24\"] }}
{more}",
        sha256(KEY),
        sha256(NARROW_KEY),
        sha256("sk-expired"),
        sha256("sk-disabled"),
        sha256("sk-away"),
    ))
    .await;
    World { provider, gateway }
}

fn body(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 5 })
}

async fn post(world: &World, path: &str, model: &str) -> Response {
    let mut client = Client::connect(world.gateway.addr).await;
    client.post_json(path, KEY, &body(model)).await
}

/// The same without waiting for the answer.
async fn send(client: &mut Client, path: &str, model: &str) {
    let headers = [("Authorization", &*format!("Bearer {KEY}"))];
    let body = body(model).to_string();
    client.send("POST", path, &headers, body.as_bytes()).await;
}

#[tokio::test]
async fn what_the_gateway_refuses_by_itself() {
    let world = world("limits: { body: 64KiB }").await;
    let text = |value: Value| value.to_string();
    let large = text(json!({ "model": "x", "user": "x".repeat(70_000) }));
    for (dialect, path, model) in MOUNTS {
        let good = text(body(model));
        let messages = path.ends_with("messages");
        let other = if messages { "gpt" } else { "claude" };
        let cases: Vec<(&str, Option<&str>, String)> = vec![
            ("missing_api_key", None, good.clone()),
            ("invalid_api_key", Some("sk-unknown"), good.clone()),
            ("key_expired", Some("sk-expired"), good.clone()),
            ("key_disabled", Some("sk-disabled"), good.clone()),
            ("network_not_allowed", Some("sk-away"), good.clone()),
            ("model_not_allowed", Some(NARROW_KEY), good.clone()),
            ("model_not_found", Some(KEY), text(body("no-such-model"))),
            (
                "model_not_found",
                Some(KEY),
                text(body(&model.to_uppercase())),
            ),
            ("model_preview", Some(KEY), text(body("preview"))),
            ("model_preview", Some(KEY), text(body("soon"))),
            ("request_too_large", Some(KEY), large.clone()),
            ("invalid_json", Some(KEY), "{".to_owned()),
            (
                "duplicate_field",
                Some(KEY),
                good.replacen('{', "{\"Model\":\"x\",", 1),
            ),
            ("missing_required_parameter", Some(KEY), "{}".to_owned()),
            (
                "missing_required_parameter",
                Some(KEY),
                text(json!({ "model": "" })),
            ),
            (
                "missing_required_parameter",
                Some(KEY),
                text(json!({ "model": model })),
            ),
            ("invalid_value", Some(KEY), text(json!({ "model": 7 }))),
            ("unsupported_operation", Some(KEY), text(body(other))),
        ];
        for (code, key, body) in cases {
            let mut client = Client::connect(world.gateway.addr).await;
            let bearer = format!("Bearer {}", key.unwrap_or_default());
            let headers = [("Authorization", &*bearer)];
            let headers = if key.is_some() { &headers[..] } else { &[] };
            let answer = client.request("POST", path, headers, body.as_bytes()).await;
            worded(&answer, dialect, code);
            let should_retry = match code {
                "model_preview" => Some("false"),
                _ => None,
            };
            assert_eq!(answer.header("x-should-retry"), should_retry, "{code}");
            assert_eq!(answer.header("retry-after"), None, "{code}");
        }
    }
    assert_eq!(world.provider.count(), 0);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods() {
    let world = world("").await;
    let mut client = Client::connect(world.gateway.addr).await;
    for (dialect, path) in [
        (Dialect::OpenAi, "/"),
        (Dialect::OpenAi, "/nowhere"),
        (Dialect::OpenAi, "/v1"),
        (Dialect::OpenAi, "/v1/nowhere"),
        (Dialect::Anthropic, "/anthropic/v1/nowhere"),
        (Dialect::Anthropic, "/anthropic/v1/chat/completions"),
        (Dialect::Typed, "/typed/nowhere"),
        (Dialect::CodeMsg, "/msg/nowhere"),
    ] {
        for method in ["GET", "POST"] {
            let answer = client.request(method, path, &[], b"").await;
            worded(&answer, dialect, "not_found");
        }
        if path != "/" {
            let answer = client.request("HEAD", path, &[], b"").await;
            assert_eq!(answer.status, 404);
            assert!(answer.header("x-request-id").is_some());
        }
    }
    const POST: &str = "POST, OPTIONS";
    const GET: &str = "GET, HEAD, OPTIONS";
    for (dialect, method, path, allow) in [
        (Dialect::OpenAi, "GET", "/v1/chat/completions", POST),
        (Dialect::OpenAi, "PUT", "/v1/embeddings", POST),
        (Dialect::OpenAi, "DELETE", "/v1/audio/transcriptions", POST),
        (Dialect::OpenAi, "POST", "/v1/models", GET),
        (Dialect::OpenAi, "DELETE", "/v1/models/gpt", GET),
        (Dialect::OpenAi, "POST", "/v1/catalog", GET),
        (Dialect::OpenAi, "POST", "/livez", GET),
        (Dialect::OpenAi, "POST", "/api/status", GET),
        (Dialect::OpenAi, "BREW", "/v1/chat/completions", POST),
        (Dialect::Anthropic, "GET", "/v1/messages", POST),
        (Dialect::Anthropic, "GET", "/anthropic/v1/messages", POST),
        (Dialect::Anthropic, "PATCH", "/anthropic/v1/models", GET),
        (Dialect::Typed, "GET", "/typed/chat/completions", POST),
        (Dialect::CodeMsg, "GET", "/msg/chat/completions", POST),
    ] {
        let answer = client.request(method, path, &[], b"").await;
        worded(&answer, dialect, "method_not_allowed");
        assert_eq!(answer.header_all("allow"), [allow], "{method} {path}");
    }
    assert_eq!(world.provider.count(), 0);
}

#[tokio::test]
async fn a_refused_stream_is_refused_as_json() {
    let world = world("").await;
    for (dialect, path, model) in MOUNTS {
        world
            .provider
            .once(model, Script::answer(500).json(&json!({})));
        let mut client = Client::connect(world.gateway.addr).await;
        let mut request = body(model);
        request["stream"] = json!(true);
        let answer = client.post_json(path, KEY, &request).await;
        worded(&answer, dialect, "upstream_error");
        request["model"] = json!("no-such-model");
        let answer = client.post_json(path, KEY, &request).await;
        worded(&answer, dialect, "model_not_found");
    }
}

#[tokio::test]
async fn the_providers_own_refusals_pass() {
    let world = world("").await;
    for (_, path, model) in MOUNTS {
        for status in [400, 402, 404, 405, 408, 409, 410, 413, 415, 422, 451, 499] {
            // In the provider's own spelling, spaces and all.
            let text =
                format!("{{ \"error\" : {{\"message\":\"no {status}\", \"x\":[1,2.50] }} }}\n");
            let script = Script::answer(status)
                .header("content-type", "application/json; charset=utf-8")
                .header("x-request-id", "req_of_the_provider")
                .header("x-ratelimit-remaining-requests", "3")
                .body(text.clone());
            world.provider.once(model, script);
            let answer = post(&world, path, model).await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.text(), text);
            assert_eq!(
                answer.header_all("content-type"),
                ["application/json; charset=utf-8"]
            );
            let id = answer.header("x-request-id").unwrap();
            assert_ne!(id, "req_of_the_provider");
            assert_eq!(answer.header_all("request-id"), [id]);
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), None);
        }
    }
}

#[tokio::test]
async fn a_refused_credential_is_the_operators_business() {
    let world = world("").await;
    for (dialect, path, model) in MOUNTS {
        for status in [401, 403] {
            let script = Script::answer(status).json(&json!({ "error": "upstream-secret" }));
            world.provider.once(model, script);
            let answer = post(&world, path, model).await;
            worded(&answer, dialect, "upstream_auth");
            assert_eq!(answer.header_all("x-should-retry"), ["false"]);
            assert!(!answer.text().contains("upstream-secret"));
        }
    }
}

/// `Retry-After`, `retry-after-ms` and `x-should-retry` of an answer.
fn advice(answer: &Response) -> [Option<&str>; 3] {
    ["retry-after", "retry-after-ms", "x-should-retry"].map(|name| {
        assert!(answer.header_all(name).len() <= 1);
        answer.header(name)
    })
}

#[tokio::test]
async fn a_limited_provider_passes_its_wait_on_up_to_a_minute() {
    let limited = |wait: Option<&str>| {
        let script = Script::answer(429).json(&json!({ "error": {} }));
        match wait {
            Some(wait) => script.header("retry-after", wait),
            None => script,
        }
    };
    for (dialect, path, model) in MOUNTS {
        let literal = path.starts_with("/api/v1");
        let shown = |wait: &'static str| if literal { "60" } else { wait };
        for (wait, expected) in [
            (Some("7"), [Some(shown("7")), Some("7000"), None]),
            (Some(" 7 "), [Some(shown("7")), Some("7000"), None]),
            (Some("60"), [Some("60"), Some("60000"), None]),
            (Some("61"), [None, None, Some("false")]),
            (Some("86400"), [None, None, Some("false")]),
            (None, [Some(shown("1")), Some("1000"), None]),
            (Some("soon"), [Some(shown("1")), Some("1000"), None]),
            (Some("-5"), [Some(shown("1")), Some("1000"), None]),
        ] {
            // A key that is limited rests: each case has a world of its own.
            let world = world("").await;
            world.provider.once(model, limited(wait));
            let answer = post(&world, path, model).await;
            worded(&answer, dialect, "upstream_rate_limited");
            // Advice follows the code, not the status that a mount made of it.
            assert_eq!(advice(&answer), expected, "{path} {wait:?}");
        }
        for (seconds, fits) in [(40, true), (3600, false)] {
            let at = SystemTime::now() + Duration::from_secs(seconds);
            let world = world("").await;
            world.provider.once(model, limited(Some(&http_date(at))));
            let answer = post(&world, path, model).await;
            worded(&answer, dialect, "upstream_rate_limited");
            let [_, millis, should_retry] = advice(&answer);
            if fits {
                let millis: u64 = millis.unwrap().parse().unwrap();
                assert!((30_000..=40_000).contains(&millis), "{millis}");
            } else {
                assert_eq!((millis, should_retry), (None, Some("false")));
            }
        }
    }
}

/// As HTTP writes times: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seconds = i64::try_from(since.as_secs()).unwrap();
    let time = jiff::Timestamp::from_second(seconds).unwrap();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[tokio::test]
async fn a_failing_provider_is_a_bad_gateway() {
    let world = world("").await;
    let json = json!({ "error": { "message": "inner words" } });
    let answered = |status: u16| {
        Script::answer(status)
            .json(&json)
            .header("retry-after", "600")
    };
    let scripts = [
        answered(500),
        answered(501),
        answered(503),
        answered(529),
        answered(599),
        answered(302).header("location", "http://evil.example/"),
        answered(307).header("location", "/v1/models"),
        Script::answer(304),
        Script::reset_at_once(),
        Script::close_at_once(),
        Script::garbage("\u{1}\u{2}this is not HTTP\r\n\r\n"),
        Script::garbage("HTTP/1.1 abc OK\r\n\r\n"),
        Script::garbage("HTTP/1.1 200 OK\r\nContent-Le"),
    ];
    for (dialect, path, model) in MOUNTS {
        for script in &scripts {
            world.provider.once(model, script.clone());
            let answer = post(&world, path, model).await;
            worded(&answer, dialect, "upstream_error");
            assert_eq!(advice(&answer), [None, None, None]);
            assert_eq!(answer.header("location"), None);
            assert!(!answer.text().contains("inner words"), "{}", answer.text());
        }
    }
    // Nothing was sent twice: each script answered one request.
    assert_eq!(world.provider.count(), MOUNTS.len() * scripts.len());
}

#[tokio::test]
async fn a_provider_that_is_not_there() {
    let world = world("").await;
    for (dialect, path, model) in MOUNTS {
        for name in [format!("nowhere-{model}"), "gone".to_owned()] {
            let answer = post(&world, path, &name).await;
            worded(&answer, dialect, "upstream_unreachable");
            assert_eq!(advice(&answer), [None, None, None]);
        }
    }
}

#[tokio::test]
async fn a_silent_provider_runs_out_of_time() {
    let world = world("").await;
    let mut asked = 0;
    for (dialect, path, model) in MOUNTS {
        world.provider.once(model, Script::silent());
        let mut client = Client::connect(world.gateway.addr).await;
        send(&mut client, path, model).await;
        asked += 1;
        world.provider.wait_bodies(asked).await;
        // Half of `first_byte` is not enough.
        pass(Duration::from_secs(20)).await;
        let early = client.try_read_head(Duration::from_millis(100)).await;
        assert_eq!(early.err(), Some(Broken::Silent), "{path}");
        pass(Duration::from_secs(21)).await;
        worded(&client.response().await, dialect, "upstream_timeout");
    }
    // It is told, too.
    world.provider.wait_cancelled(MOUNTS.len()).await;
}

#[tokio::test]
async fn after_an_upstreams_failure_the_clients_connection_serves_on() {
    let world = world("").await;
    let mut client = Client::connect(world.gateway.addr).await;
    for (script, silent) in [
        (Script::answer(500).json(&json!({})), false),
        (Script::answer(401).json(&json!({})), false),
        (Script::answer(429).json(&json!({})), false),
        (Script::answer(400).json(&json!({})), false),
        (Script::reset_at_once(), false),
        (Script::silent(), true),
    ] {
        // For as long as it is asked: a reset on a pooled connection is tried once more.
        world.provider.on("gpt", script);
        let path = "/v1/chat/completions";
        let whole = |seen: &Seen| seen.body_done.is_some();
        let before = world
            .provider
            .seen()
            .iter()
            .filter(|seen| whole(seen))
            .count();
        send(&mut client, path, "gpt").await;
        if silent {
            world.provider.wait_bodies(before + 1).await;
            pass(Duration::from_secs(41)).await;
        }
        let answer = client.response().await;
        assert!(answer.status >= 400);
        world.provider.on_fn("gpt", Provider::ordinary);
        let answer = client.post_json(path, KEY, &body("gpt")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let answer = client
        .post_json("/v1/chat/completions", KEY, &body("nowhere-gpt"))
        .await;
    framed(&answer, Envelope::OpenAi);
    assert_eq!(client.get("/v1/models", KEY).await.status, 200);
}

#[tokio::test]
async fn the_log_names_what_the_client_heard() {
    let world = world("").await;
    for (model, script) in [
        ("no-such-model", None),
        ("gpt", Some(Script::answer(503).json(&json!({})))),
        ("gpt", Some(Script::answer(404).json(&json!({})))),
        ("gpt", None),
    ] {
        if let Some(script) = script {
            world.provider.once(model, script);
        }
        post(&world, "/v1/chat/completions", model).await;
    }
    let lines = world.gateway.log(4).await;
    let found: Vec<(u64, &str)> = lines
        .iter()
        .map(|line| {
            (
                line["status"].as_u64().unwrap(),
                line["code"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        (404, "model_not_found"),
        (502, "upstream_error"),
        (404, ""),
        (200, ""),
    ];
    assert_eq!(found, expected);
}

const PAGE_HEAD: &str = "\
# Errors

<!-- Generated from src/rejection.rs by tests/errors.rs; a test fails when this page is out of date. -->

Every refusal of the gateway. **402: a human must act. 429: time heals it. 503: not available now.**

- Clients match on the code. On mounts of the OpenAI API it is `error.code`; on Anthropic's, and for `messages` on
  either, `error.details.error_code`.
- Both `x-request-id` and `request-id` carry the id that the access log has.
- A provider's own 4xx (except 401, 403 and 429) passes as it came, with the provider's keys blotted out.
- `statuses:` of a mount gives a code another status; `errors: typed` and `errors: code_msg` change the envelope.
- `Retry-After` is never above 60: beyond that, `x-should-retry: false` is sent instead. `retry_after:` of a mount
  replaces the number on every 429; `retry-after-ms` still has the true wait.

```text
openai     {\"error\":{\"message\",\"type\",\"param\",\"code\"}}
anthropic  {\"type\":\"error\",\"error\":{\"type\",\"message\",\"details\":{\"error_code\"}},\"request_id\"}
typed      the first, with precise names in `type`
code_msg   the first, plus \"code\":7 and \"msg\" at the top
```

| code | status | `type`, OpenAI | `type`, Anthropic | `type`, typed | retry | meaning |
| --- | --- | --- | --- | --- | --- | --- |
";

fn page() -> String {
    let mut page = PAGE_HEAD.to_owned();
    for code in Code::ALL {
        let row = code.row();
        let status = match code {
            Code::ServerIsOverloaded => format!("{} (529 to Anthropic's clients)", row.status),
            _ => row.status.to_string(),
        };
        let typed = match row.typed {
            (kind, code) if code == row.code => format!("`{kind}`"),
            (kind, code) => format!("`{kind}`, code `{code}`"),
        };
        let retry = match row.retry {
            Retry::Unsaid => "–".to_owned(),
            Retry::Never => "`x-should-retry: false`".to_owned(),
            Retry::After(seconds) => format!("`Retry-After`, {seconds} s unless known better"),
        };
        let _ = writeln!(
            page,
            "| `{}` | {status} | `{}` | `{}` | {typed} | {retry} | {} |",
            row.code,
            row.openai_type,
            row.anthropic_type,
            row.meaning.replace('|', "\\|"),
        );
    }
    page
}

#[test]
fn the_errors_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
    let page = page();
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "docs/errors.md is out of date; run: TOLLGATE_BLESS=1 cargo test --test errors"
    );
}
