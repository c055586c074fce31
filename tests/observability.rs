//! What operators see: metrics and the access log.
//!
//! Above 400 lines: each figure of the metrics and each field of the log has its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Gateway, KEY, NARROW_KEY};
use support::http::Client;
use support::provider::{Gate, Provider, Script, usage};

async fn start() -> (Provider, Gateway, Client) {
    let provider = Provider::start().await;
    let yaml = format!(
        r#"
providers:
  open: {{ api: openai, base_url: "{}", keys: [upstream-secret] }}
  claude: {{ api: anthropic, base_url: "{}", keys: [upstream-secret] }}
models:
  - {{ id: gpt-test, aliases: [gpt-alias], upstreams: [{{ provider: open }}] }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}] }}
"#,
        provider.base_url(),
        provider.anthropic_url(),
    );
    let gateway = Gateway::start(&yaml).await;
    let client = Client::connect(gateway.addr).await;
    (provider, gateway, client)
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 9, "messages": [{ "role": "user", "content": "secret words" }] })
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body
}

const CHAT: &str = "/v1/chat/completions";

/// A series' labels, in the alphabetical order in which the page has them.
fn requests(surface: &str, operation: &str, model: &str, class: &str, code: &str) -> String {
    format!(
        "tollgate_requests_total{{code=\"{code}\",model=\"{model}\",operation=\"{operation}\",status_class=\"{class}\",surface=\"{surface}\"}}"
    )
}

#[tokio::test]
async fn requests_are_counted_by_where_they_went_and_how_they_ended() {
    let (provider, gateway, mut client) = start().await;
    for _ in 0..3 {
        client.post_json(CHAT, KEY, &chat("gpt-test")).await;
    }
    client.post_json(CHAT, KEY, &chat("gpt-alias")).await;
    client
        .post_json("/api/v1/chat/completions", KEY, &chat("gpt-test"))
        .await;
    client
        .post_json("/anthropic/v1/messages", KEY, &chat("claude-test"))
        .await;
    client.post_json(CHAT, KEY, &chat("absent")).await;
    client
        .post_json(CHAT, "sk-unknown", &chat("gpt-test"))
        .await;
    client
        .post_json(CHAT, NARROW_KEY, &chat("claude-test"))
        .await;
    provider.once("gpt-test", Script::answer(500));
    client.post_json(CHAT, KEY, &chat("gpt-test")).await;
    provider.once(
        "gpt-test",
        Script::answer(400).json(&json!({ "error": {} })),
    );
    client.post_json(CHAT, KEY, &chat("gpt-test")).await;
    client.get("/v1/models", KEY).await;
    gateway.log(12).await;
    for (series, count) in [
        (requests("/v1", "chat", "gpt-test", "2xx", ""), 4.0),
        (requests("/api/v1", "chat", "gpt-test", "2xx", ""), 1.0),
        (
            requests("/anthropic", "chat", "claude-test", "2xx", ""),
            1.0,
        ),
        (
            requests("/v1", "chat", "gpt-test", "5xx", "upstream_error"),
            1.0,
        ),
        (
            requests("/v1", "chat", "claude-test", "4xx", "model_not_allowed"),
            1.0,
        ),
        (requests("/v1", "models.list", "other", "2xx", ""), 1.0),
    ] {
        assert_eq!(
            gateway.metric(&series).await,
            count,
            "{series}\n{}",
            gateway.metrics_text().await
        );
    }
    let page = gateway.metrics_text().await;
    let total = |wanted: &[&str]| -> f64 {
        page.lines()
            .filter(|line| line.starts_with("tollgate_requests_total{"))
            .filter(|line| wanted.iter().all(|part| line.contains(part)))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    };
    assert_eq!(total(&[]), 12.0);
    assert_eq!(total(&["code=\"model_not_found\"", "4xx"]), 1.0);
    assert_eq!(total(&["code=\"invalid_api_key\"", "4xx"]), 1.0);
    // The provider's own refusal, passed on.
    assert_eq!(total(&["status_class=\"4xx\"", "model=\"gpt-test\""]), 1.0);
    // What a client made up names no series.
    assert!(!page.contains("absent") && !page.contains(KEY) && !page.contains("gpt-alias"));
}

#[tokio::test]
async fn durations_and_tokens_are_measured() {
    let (_provider, gateway, mut client) = start().await;
    client.post_json(CHAT, KEY, &chat("gpt-test")).await;
    client
        .post_json(CHAT, KEY, &streamed(chat("gpt-test")))
        .await;
    gateway.log(2).await;
    let place = "{model=\"gpt-test\",operation=\"chat\",surface=\"/v1\"}";
    let gen_ai =
        "{gen_ai_operation_name=\"chat\",gen_ai_request_model=\"gpt-test\",surface=\"/v1\"}";
    for (series, count) in [
        (
            format!("gen_ai_server_request_duration_seconds_count{gen_ai}"),
            2.0,
        ),
        (
            format!("tollgate_time_to_first_byte_seconds_count{place}"),
            2.0,
        ),
        (format!("tollgate_overhead_seconds_count{place}"), 2.0),
        // Of streams alone.
        (
            format!("gen_ai_server_time_to_first_token_seconds_count{gen_ai}"),
            1.0,
        ),
        (
            "tollgate_tokens_total{model=\"gpt-test\",type=\"input\"}".into(),
            2.0 * usage::INPUT as f64,
        ),
        (
            "tollgate_tokens_total{model=\"gpt-test\",type=\"output\"}".into(),
            2.0 * usage::OUTPUT as f64,
        ),
        (
            "tollgate_tokens_total{model=\"gpt-test\",type=\"cached_input\"}".into(),
            2.0 * usage::CACHED as f64,
        ),
        (
            "tollgate_upstream_requests_total{outcome=\"ok\",provider=\"open\"}".into(),
            2.0,
        ),
        (
            format!(
                "tollgate_build_info{{version=\"{}\"}}",
                env!("CARGO_PKG_VERSION")
            ),
            1.0,
        ),
    ] {
        assert_eq!(
            gateway.metric(&series).await,
            count,
            "{series}\n{}",
            gateway.metrics_text().await
        );
    }
    let spent = gateway
        .metric(&format!(
            "gen_ai_server_request_duration_seconds_sum{gen_ai}"
        ))
        .await;
    let first = gateway
        .metric(&format!("tollgate_time_to_first_byte_seconds_sum{place}"))
        .await;
    let own = gateway
        .metric(&format!("tollgate_overhead_seconds_sum{place}"))
        .await;
    assert!(
        0.0 < own && own <= first && first <= spent,
        "{own} {first} {spent}"
    );
    // Whatever scrapes it finds the text format.
    let page = gateway.metrics_text().await;
    for name in [
        "gen_ai_client_token_usage",
        "tollgate_access_log_dropped_total",
        "tollgate_malformed_requests_total",
        "tollgate_hostile_usage_total",
        "tollgate_broken_streams_total",
    ] {
        assert!(page.contains(&format!("# TYPE {name} ")), "{name}");
    }
    let mut client = Client::connect(gateway.metrics.unwrap()).await;
    assert_eq!(client.get("/elsewhere", "").await.status, 404);
}

#[tokio::test]
async fn the_overhead_leaves_out_the_upstreams_time() {
    let (provider, gateway, mut client) = start().await;
    let gate = Gate::new();
    provider.on("gpt-test", Script::answer(200).gate(&gate).json(&json!({})));
    let body = chat("gpt-test");
    let asking = client.post_json(CHAT, KEY, &body);
    let holding = async {
        provider.wait_bodies(1).await;
        // As long as these take, the time is the upstream's.
        for _ in 0..3 {
            gateway.metrics_text().await;
        }
        gate.open();
    };
    tokio::join!(asking, holding);
    let line = &gateway.log(1).await[0];
    let ms = |name: &str| line[name].as_f64().unwrap();
    assert!(0.0 < ms("overhead_ms"), "{line}");
    assert!(ms("overhead_ms") < ms("first_byte_ms"), "{line}");
    assert!(ms("first_byte_ms") <= ms("duration_ms"), "{line}");
}

#[tokio::test]
async fn what_is_under_way_is_counted_and_comes_back_to_zero() {
    let (provider, gateway, _) = start().await;
    let gate = Gate::new();
    let event = "data: {\"choices\":[{\"delta\":{}}]}\n\n";
    provider.on(
        "gpt-test",
        Script::sse().event(event).gate(&gate).data("[DONE]"),
    );
    let mut clients = Vec::new();
    let bearer = format!("Bearer {KEY}");
    for _ in 0..4 {
        let mut client = Client::connect(gateway.addr).await;
        let body = streamed(chat("gpt-test")).to_string();
        client
            .send("POST", CHAT, &[("Authorization", &bearer)], body.as_bytes())
            .await;
        client.read_head().await;
        clients.push(client);
    }
    assert_eq!(gateway.metric("tollgate_active_requests").await, 4.0);
    assert_eq!(gateway.metric("tollgate_active_streams").await, 4.0);
    // One leaves, one is cut off by its end, the rest end well.
    drop(clients.pop());
    gateway.log(1).await;
    assert_eq!(gateway.metric("tollgate_active_streams").await, 3.0);
    gate.open();
    for mut client in clients {
        assert_eq!(client.events().await.1, None);
    }
    gateway.log(4).await;
    assert_eq!(gateway.metric("tollgate_active_requests").await, 0.0);
    assert_eq!(gateway.metric("tollgate_active_streams").await, 0.0);
}

#[tokio::test]
async fn attempts_are_counted_by_how_they_ended() {
    let (provider, gateway, mut client) = start().await;
    let event = "data: {\"choices\":[{\"delta\":{}}]}\n\n";
    for (script, outcome) in [
        (Script::answer(200).json(&json!({})), "ok"),
        (Script::answer(400).json(&json!({})), "client_error"),
        (Script::answer(401).json(&json!({})), "auth"),
        (Script::answer(403).json(&json!({})), "auth"),
        (Script::answer(429).json(&json!({})), "rate_limited"),
        (Script::answer(500).json(&json!({})), "server_error"),
        (Script::answer(503), "server_error"),
        (Script::close_at_once(), "broken"),
    ] {
        let series =
            format!("tollgate_upstream_requests_total{{outcome=\"{outcome}\",provider=\"open\"}}");
        let before = gateway.metric(&series).await;
        provider.once("gpt-test", script);
        client = Client::connect(gateway.addr).await;
        client.post_json(CHAT, KEY, &chat("gpt-test")).await;
        assert_eq!(gateway.metric(&series).await, before + 1.0, "{outcome}");
    }
    provider.once("gpt-test", Script::sse().event(event).cut());
    client
        .post_json(CHAT, KEY, &streamed(chat("gpt-test")))
        .await;
    assert_eq!(gateway.metric("tollgate_broken_streams_total").await, 1.0);
}

#[tokio::test]
async fn a_line_tells_all_of_a_request() {
    let (_provider, gateway, mut client) = start().await;
    let body = chat("gpt-alias");
    let answer = client.post_json(CHAT, KEY, &body).await;
    let line = &gateway.log(1).await[0];
    let expected = json!({
        "request_id": answer.header("x-request-id"),
        "surface": "/v1",
        "operation": "chat",
        "key": &KEY[..8],
        "account": "acme",
        "project": "default",
        "model": "gpt-test",
        "upstream": "open",
        "attempts": 1,
        "status": 200,
        "code": "",
        "stream": false,
        "input_tokens": usage::INPUT,
        "cached_tokens": usage::CACHED,
        "output_tokens": usage::OUTPUT,
        "usage": "reported",
        "bytes_in": body.to_string().len(),
        "bytes_out": answer.body.len(),
        "client": "127.0.0.1",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field} of {line}");
    }
    let time = line["time"].as_str().unwrap();
    assert!(
        time.ends_with('Z') && time.contains('T') && time.contains('.'),
        "{time}"
    );
    for field in ["duration_ms", "first_byte_ms", "overhead_ms"] {
        assert!(
            line[field].as_f64().is_some_and(|ms| ms > 0.0),
            "{field} of {line}"
        );
    }
    // Bodies and keys are no matter of the log's.
    let text = gateway.log_text();
    assert!(
        !text.contains("secret words") && !text.contains(KEY) && !text.contains("upstream-secret")
    );
}

#[tokio::test]
async fn refusals_are_logged_with_what_is_known_of_them() {
    let (provider, gateway, mut client) = start().await;
    let refused = client
        .post_json(CHAT, NARROW_KEY, &chat("claude-test"))
        .await;
    client
        .post_json(CHAT, "sk-nobody-knows-this-one", &chat("gpt-test"))
        .await;
    client.request("POST", CHAT, &[], b"{}").await;
    client.post_json("/v1/absent", KEY, &chat("gpt-test")).await;
    provider.once("gpt-test", Script::answer(500));
    client.post_json(CHAT, KEY, &chat("gpt-test")).await;
    let lines = gateway.log(5).await;
    let told = |at: usize| {
        (
            lines[at]["status"].as_u64().unwrap(),
            lines[at]["code"].as_str().unwrap(),
        )
    };
    assert_eq!(told(0), (403, "model_not_allowed"));
    assert_eq!(
        lines[0]["request_id"].as_str(),
        refused.header("request-id")
    );
    assert_eq!(lines[0]["key"], &NARROW_KEY[..8]);
    assert_eq!(lines[0]["account"], "acme");
    assert_eq!(lines[0]["model"], "claude-test");
    assert_eq!(
        (&lines[0]["upstream"], &lines[0]["attempts"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(told(1), (401, "invalid_api_key"));
    assert_eq!(
        (&lines[1]["account"], &lines[1]["model"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(told(2), (401, "missing_api_key"));
    assert_eq!(told(3).0, 404);
    assert_eq!(told(4), (502, "upstream_error"));
    assert_eq!(
        (&lines[4]["upstream"], &lines[4]["attempts"]),
        (&json!("open"), &json!(1))
    );
    assert!(!gateway.log_text().contains("nobody-knows"));
}

#[tokio::test]
async fn usage_is_read_from_every_form_of_answer() {
    let (_provider, gateway, mut client) = start().await;
    let responses = json!({ "model": "gpt-test", "input": "hi" });
    let (openai, anthropic) = (usage::INPUT, usage::INPUT + usage::CACHED);
    let calls = [
        (CHAT, chat("gpt-test"), openai),
        (CHAT, streamed(chat("gpt-test")), openai),
        (
            "/v1/completions",
            streamed(json!({ "model": "gpt-test", "prompt": "hi" })),
            openai,
        ),
        ("/v1/responses", responses.clone(), openai),
        ("/v1/responses", streamed(responses), openai),
        ("/anthropic/v1/messages", chat("claude-test"), anthropic),
        (
            "/anthropic/v1/messages",
            streamed(chat("claude-test")),
            anthropic,
        ),
    ];
    for (path, body, _) in &calls {
        let answer = client.post_json(path, KEY, body).await;
        assert_eq!((answer.status, answer.broken), (200, None), "{path}");
    }
    let lines = gateway.log(calls.len()).await;
    for (line, (path, body, input)) in lines.iter().zip(&calls) {
        assert_eq!(line["input_tokens"], *input, "{path} {line}");
        assert_eq!(line["cached_tokens"], usage::CACHED, "{path} {line}");
        assert_eq!(line["output_tokens"], usage::OUTPUT, "{path} {line}");
        assert_eq!(line["usage"], "reported", "{path}");
        assert_eq!(line["stream"], body["stream"] == true, "{path}");
    }
    let embeddings = json!({ "model": "gpt-test", "input": "hi" });
    client.post_json("/v1/embeddings", KEY, &embeddings).await;
    let images = json!({ "model": "gpt-test", "prompt": "hi", "n": 2 });
    client
        .post_json("/v1/images/generations", KEY, &images)
        .await;
    let lines = gateway.log(calls.len() + 2).await;
    let [.., embedded, drawn] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert_eq!(
        (&embedded["input_tokens"], &embedded["output_tokens"]),
        (&json!(usage::INPUT), &json!(0))
    );
    assert_eq!(drawn["output_tokens"], 2 * usage::IMAGE);
}

#[tokio::test]
async fn a_client_that_leaves_is_told_apart() {
    let (provider, gateway, mut client) = start().await;
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    provider.on("gpt-test", Script::sse().event(event).stall());
    let body = streamed(chat("gpt-test")).to_string();
    let bearer = format!("Bearer {KEY}");
    client
        .send("POST", CHAT, &[("Authorization", &bearer)], body.as_bytes())
        .await;
    client.read_head().await;
    client.next_chunk(Duration::from_secs(5)).await.unwrap();
    drop(client);
    let line = &gateway.log(1).await[0];
    assert_eq!(
        (&line["status"], &line["code"]),
        (&json!(499), &json!("client_gone"))
    );
    assert_eq!(
        (&line["model"], &line["upstream"]),
        (&json!("gpt-test"), &json!("open"))
    );
    assert!(line["bytes_out"].as_u64().unwrap() >= event.len() as u64);
    assert_eq!(
        gateway
            .metric(&requests("/v1", "chat", "gpt-test", "4xx", "client_gone"))
            .await,
        1.0
    );
}
