//! The Anthropic surface, as its SDKs and Claude Code see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::gateway::{Gateway, KEY, NARROW_KEY};
use support::http::{Client, Response};
use support::provider::{Provider, Script, TEXT, usage};

async fn start() -> (Provider, Gateway, Client) {
    let provider = Provider::start().await;
    let sections = format!(
        r#"
providers:
  claude: {{ api: anthropic, base_url: "{}", keys: [upstream-secret] }}
  open: {{ api: openai, base_url: "{}", keys: [upstream-secret] }}
models:
  - {{ id: claude-test, aliases: [claude-alias], label: Claude Test, upstreams: [{{ provider: claude }}] }}
  - {{ id: claude-public, upstreams: [{{ provider: claude, model: vendor/internal }}] }}
  - {{ id: gpt-only, upstreams: [{{ provider: open }}] }}
"#,
        provider.anthropic_url(),
        provider.base_url(),
    );
    let gateway = Gateway::start(&sections).await;
    let client = Client::connect(gateway.addr).await;
    (provider, gateway, client)
}

fn message(model: &str) -> Value {
    json!({ "model": model, "max_tokens": 64, "messages": [{ "role": "user", "content": "hi" }] })
}

/// As Claude Code asks.
async fn ask(client: &mut Client, path: &str, body: &Value) -> Response {
    let headers = [
        ("X-Api-Key", KEY),
        ("anthropic-version", "2023-06-01"),
        (
            "anthropic-beta",
            "claude-code-20250219,  interleaved-thinking-2025-05-14",
        ),
        ("content-type", "application/json"),
    ];
    client
        .request("POST", path, &headers, body.to_string().as_bytes())
        .await
}

#[tokio::test]
async fn a_message_goes_through() {
    let (provider, _gateway, mut client) = start().await;
    // One base URL serves both SDKs: the OpenAI mount answers too, where its SDK would put it.
    for path in ["/anthropic/v1/messages", "/v1/messages"] {
        let body = message("claude-test");
        let answer = ask(&mut client, &format!("{path}?beta=true&x=%20y"), &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["content"][0]["text"], TEXT);
        let id = answer.header("request-id").expect("an id");
        assert_eq!(answer.header("x-request-id"), Some(id));
        let seen = provider.last().unwrap();
        assert_eq!(seen.path, "/v1/messages?beta=true&x=%20y");
        assert_eq!(seen.body, body.to_string().as_bytes());
        assert_eq!(seen.header_all("x-api-key"), ["upstream-secret"]);
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header_all("anthropic-version"), ["2023-06-01"]);
        assert_eq!(
            seen.header_all("anthropic-beta"),
            ["claude-code-20250219,  interleaved-thinking-2025-05-14"]
        );
        assert!(seen.headers.iter().all(|(_, value)| !value.contains(KEY)));
    }
}

#[tokio::test]
async fn newer_sdks_bring_a_bearer() {
    let (provider, _gateway, mut client) = start().await;
    let answer = client
        .post_json("/anthropic/v1/messages", KEY, &message("claude-test"))
        .await;
    assert_eq!(answer.status, 200);
    let seen = provider.last().unwrap();
    assert_eq!(seen.header("x-api-key"), Some("upstream-secret"));
    assert_eq!(seen.header("authorization"), None);
}

#[tokio::test]
async fn answers_are_byte_identical_where_names_do_not_differ() {
    let (provider, _gateway, mut client) = start().await;
    let odd =
        "{ \"model\":\"claude-test\" ,\"usage\": {\"input_tokens\":1e0 },\"a\":\"\\u00e4\"}\n";
    provider.once(
        "claude-test",
        Script::answer(200)
            .header("content-type", "application/json")
            .body(odd),
    );
    let answer = ask(
        &mut client,
        "/anthropic/v1/messages",
        &message("claude-test"),
    )
    .await;
    assert_eq!(answer.body, odd);

    let odd = "event: message_start\ndata: { \"type\":\"message_start\",\"message\":{\"model\" : \"claude-test\"} }\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"\\u00e4\"}}\n\n\
        event: something_new\ndata: {}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    provider.once("claude-test", Script::sse().event(odd));
    let mut body = message("claude-test");
    body["stream"] = json!(true);
    let answer = ask(&mut client, "/anthropic/v1/messages", &body).await;
    assert_eq!((answer.text(), answer.broken), (odd.to_owned(), None));
    assert_eq!(provider.last().unwrap().body, body.to_string().as_bytes());
}

#[tokio::test]
async fn a_stream_has_its_event_names() {
    let (_provider, gateway, mut client) = start().await;
    let mut body = message("claude-test");
    body["stream"] = json!(true);
    for path in ["/anthropic/v1/messages?beta=true", "/v1/messages"] {
        let answer = ask(&mut client, path, &body).await;
        assert_eq!((answer.status, answer.broken), (200, None));
        let events = answer.events();
        for event in &events {
            let data = event.json();
            assert_eq!(event.name.as_deref(), data["type"].as_str(), "{event:?}");
        }
        assert_eq!(events[0].name.as_deref(), Some("message_start"));
        assert_eq!(events.last().unwrap().name.as_deref(), Some("message_stop"));
    }
    for line in gateway.log(2).await {
        assert_eq!(line["input_tokens"], usage::INPUT + usage::CACHED);
        assert_eq!(line["output_tokens"], usage::OUTPUT);
    }
}

#[tokio::test]
async fn tokens_are_counted() {
    let (provider, _gateway, mut client) = start().await;
    for mount in ["/anthropic", ""] {
        let path = format!("{mount}/v1/messages/count_tokens?beta=true");
        let answer = ask(&mut client, &path, &message("claude-public")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["input_tokens"], usage::INPUT);
        let seen = provider.last().unwrap();
        assert_eq!(seen.path, "/v1/messages/count_tokens?beta=true");
        assert_eq!(seen.json()["model"], "vendor/internal");
    }
}

#[tokio::test]
async fn an_alias_is_its_model_everywhere() {
    let (provider, gateway, mut client) = start().await;
    for (asked, upstream, named) in [
        ("claude-alias", "claude-test", "claude-test"),
        ("claude-public", "vendor/internal", "claude-public"),
    ] {
        let mut body = message(asked);
        let answer = ask(&mut client, "/anthropic/v1/messages", &body).await;
        assert_eq!(answer.json()["model"], named);
        assert_eq!(provider.last().unwrap().json()["model"], upstream);
        body["stream"] = json!(true);
        let answer = ask(&mut client, "/anthropic/v1/messages", &body).await;
        assert_eq!(answer.events()[0].json()["message"]["model"], named);
        assert!(!answer.text().contains("vendor"));
    }
    let models: Vec<Value> = gateway
        .log(4)
        .await
        .iter()
        .map(|line| line["model"].clone())
        .collect();
    assert_eq!(
        models,
        [
            "claude-test",
            "claude-test",
            "claude-public",
            "claude-public"
        ]
    );
}

#[tokio::test]
async fn one_list_serves_the_sdk_without_paging() {
    let (_provider, _gateway, mut client) = start().await;
    let answer = client
        .request(
            "GET",
            "/anthropic/v1/models?limit=1000",
            &[("x-api-key", KEY)],
            b"",
        )
        .await;
    assert_eq!(answer.status, 200);
    let list = answer.json();
    assert_eq!(list["has_more"], false);
    assert_eq!(list["first_id"], "claude-test");
    assert_eq!(list["data"][0]["type"], "model");
    assert_eq!(list["data"][0]["display_name"], "Claude Test");
    assert!(
        list["data"][0]["created_at"]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
    let answer = client.get("/anthropic/v1/models/claude-test", KEY).await;
    assert_eq!(answer.json()["id"], "claude-test");
    let answer = client.get("/anthropic/v1/models", NARROW_KEY).await;
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn errors_have_anthropics_envelope_on_either_mount() {
    let (provider, _gateway, mut client) = start().await;
    for path in ["/anthropic/v1/messages", "/v1/messages"] {
        for (body, status, kind, code) in [
            (message("absent"), 404, "not_found_error", "model_not_found"),
            (
                json!({ "model": "claude-test" }),
                400,
                "invalid_request_error",
                "missing_required_parameter",
            ),
        ] {
            let answer = ask(&mut client, path, &body).await;
            let error = answer.json();
            assert_eq!((answer.status, &error["type"]), (status, &json!("error")));
            assert_eq!(error["error"]["type"], kind);
            assert_eq!(error["error"]["details"]["error_code"], code);
            assert_eq!(error["request_id"].as_str(), answer.header("request-id"));
        }
        // Of a model whose providers do not speak the protocol.
        let answer = ask(&mut client, path, &message("gpt-only")).await;
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        assert_eq!(answer.json()["type"], "error");
    }
    assert_eq!(provider.count(), 0);
    // The provider's own refusals pass, with its words.
    let refusal = json!({ "type": "error", "error": { "type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum" }, "request_id": "req_provider" });
    provider.once("claude-test", Script::answer(400).json(&refusal));
    let answer = ask(
        &mut client,
        "/anthropic/v1/messages",
        &message("claude-test"),
    )
    .await;
    assert_eq!((answer.status, answer.json()), (400, refusal));
    // 529 is told as a failure of the provider.
    provider.once(
        "claude-test",
        Script::answer(529).json(&json!({ "type": "error" })),
    );
    let answer = ask(
        &mut client,
        "/anthropic/v1/messages",
        &message("claude-test"),
    )
    .await;
    assert_eq!(answer.json()["type"], "error");
    assert!(answer.status >= 500, "{}", answer.status);
}

#[tokio::test]
async fn claude_code_probes_the_root() {
    let (_provider, _gateway, mut client) = start().await;
    let answer = client.request("HEAD", "/", &[], b"").await;
    assert_eq!(answer.status, 200);
    // On the same connection, which is still in step.
    let answer = ask(
        &mut client,
        "/anthropic/v1/messages?beta=true",
        &message("claude-test"),
    )
    .await;
    assert_eq!(answer.status, 200);
}
