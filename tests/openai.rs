//! The OpenAI surface, as a client sees it.
//!
//! Above 400 lines: one surface has a dozen endpoints, and every one has its tests here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as PropConfig, TestCaseError, TestRunner};
use serde_json::{Value, json};
use support::gateway::{Gateway, KEY, NARROW_KEY};
use support::http::{Client, Response};
use support::provider::{Gate, Provider, Script, TEXT, speech_bytes, usage};

/// `gpt-test` goes by its own name upstream, `gpt-public` by another, and the rest as asked for.
fn sections(provider: &Provider) -> String {
    format!(
        r#"
providers: {{ fake: {{ api: openai, base_url: "{}", keys: [upstream-secret] }} }}
models:
  - {{ id: gpt-test, aliases: [gpt-alias], label: GPT Test, org: acme, context_length: 8000, tags: [chat],
      price: {{ input: 1.5, output: 2 }}, upstreams: [{{ provider: fake }}] }}
  - {{ id: gpt-public, aliases: [public-alias], upstreams: [{{ provider: fake, model: vendor/internal }}] }}
  - {{ id: other-model, upstreams: [{{ provider: fake }}] }}
  - {{ id: gpt-soon, status: soon }}
  - {{ id: gpt-hidden, status: hidden, upstreams: [{{ provider: fake }}] }}
  - {{ id: status-500, upstreams: [{{ provider: fake }}] }}
  - {{ id: "*", upstreams: [{{ provider: fake }}] }}
"#,
        provider.base_url()
    )
}

async fn start() -> (Provider, Gateway, Client) {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&sections(&provider)).await;
    let client = Client::connect(gateway.addr).await;
    (provider, gateway, client)
}

fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn post(client: &mut Client, path: &str, body: &[u8]) -> Response {
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    client.request("POST", path, &headers, body).await
}

const BOUNDARY: &str = "----boundary-7d1";

/// A form of text fields and files (those with a file name).
fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, data) in parts {
        body.extend_from_slice(format!("--{BOUNDARY}\r\n").as_bytes());
        let mut disposition = format!("Content-Disposition: form-data; name=\"{name}\"");
        if let Some(filename) = filename {
            disposition.push_str(&format!(
                "; filename=\"{filename}\"\r\nContent-Type: application/octet-stream"
            ));
        }
        body.extend_from_slice(format!("{disposition}\r\n\r\n").as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

async fn post_form(client: &mut Client, path: &str, body: &[u8]) -> Response {
    let bearer = format!("Bearer {KEY}");
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers = [("Authorization", &*bearer), ("Content-Type", &*kind)];
    client.request("POST", path, &headers, body).await
}

#[tokio::test]
async fn a_chat_goes_through() {
    let (provider, _gateway, mut client) = start().await;
    let request = chat("gpt-test");
    let answer = client
        .post_json("/v1/chat/completions", KEY, &request)
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["choices"][0]["message"]["content"], TEXT);
    let seen = provider.last().expect("the provider saw the request");
    assert_eq!(seen.route(), "/v1/chat/completions");
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-secret"));
    assert_eq!(seen.body, request.to_string().as_bytes());
    // One request, and nothing in it that leaves room for two readings.
    assert_eq!((provider.count(), provider.malformed()), (1, Vec::new()));
}

/// The JSON endpoints of the surface with a small body for each.
fn endpoints() -> [(&'static str, Value, &'static str); 7] {
    [
        ("chat/completions", chat("gpt-test"), "choices"),
        (
            "completions",
            json!({ "model": "gpt-test", "prompt": "Say" }),
            "choices",
        ),
        (
            "embeddings",
            json!({ "model": "gpt-test", "input": ["a", "b"] }),
            "data",
        ),
        (
            "responses",
            json!({ "model": "gpt-test", "input": "hi" }),
            "output",
        ),
        (
            "moderations",
            json!({ "model": "gpt-test", "input": "hi" }),
            "results",
        ),
        (
            "rerank",
            json!({ "model": "gpt-test", "query": "q", "documents": ["a", "b"] }),
            "results",
        ),
        (
            "images/generations",
            json!({ "model": "gpt-test", "prompt": "a cat", "n": 2 }),
            "data",
        ),
    ]
}

#[tokio::test]
async fn every_json_endpoint_on_every_mount() {
    let (provider, _gateway, mut client) = start().await;
    for mount in ["/v1", "/api/v1"] {
        for (path, body, member) in endpoints() {
            let answer = client
                .post_json(&format!("{mount}/{path}"), KEY, &body)
                .await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            assert_eq!(answer.broken, None);
            assert!(
                answer.json()[member]
                    .as_array()
                    .is_some_and(|list| !list.is_empty()),
                "{path}: {}",
                answer.text()
            );
            let id = answer.header("x-request-id").expect("an id");
            assert_eq!(answer.header("request-id"), Some(id));
            assert!(
                !id.contains("provider"),
                "the provider's own id was passed on"
            );
            let seen = provider.last().unwrap();
            assert_eq!(seen.path, format!("/v1/{path}"));
            assert_eq!(seen.body, body.to_string().as_bytes());
            assert!(seen.headers.iter().all(|(_, value)| !value.contains(KEY)));
        }
    }
}

#[tokio::test]
async fn where_names_do_not_differ_the_answer_is_byte_identical() {
    let (provider, _gateway, mut client) = start().await;
    let odd = "\n {\"model\" : \"gpt-test\", \"b\":[1,2 , 3.0e+2],\t\"model2\":null, \"ü\":\"\\u00fc \\/\", \"usage\":{}}\r\n";
    for (path, body, _) in endpoints() {
        let script = Script::answer(200)
            .header("content-type", "application/json")
            .body(odd);
        provider.once("gpt-test", script);
        let answer = client.post_json(&format!("/v1/{path}"), KEY, &body).await;
        assert_eq!(answer.body, odd, "{path}");
        assert_eq!(
            answer.header("content-length"),
            Some(odd.len().to_string().as_str())
        );
    }
}

#[tokio::test]
async fn the_query_is_forwarded() {
    let (provider, _gateway, mut client) = start().await;
    let answer = client
        .post_json(
            "/v1/chat/completions?beta=true&a=b%20c",
            KEY,
            &chat("gpt-test"),
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(provider.last().unwrap().query(), Some("beta=true&a=b%20c"));
}

#[tokio::test]
async fn speech_is_streamed_through_untouched() {
    let (_provider, gateway, mut client) = start().await;
    let mut body = json!({ "model": "gpt-test", "input": "Hello", "voice": "alloy" });
    let answer = client.post_json("/v1/audio/speech", KEY, &body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("audio/mpeg"));
    assert_eq!(answer.body, speech_bytes());

    body["stream_format"] = json!("sse");
    let answer = client.post_json("/v1/audio/speech", KEY, &body).await;
    let events = answer.events();
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    assert_eq!(events.len(), speech_bytes().len() / 1024 + 1);
    assert_eq!(events.last().unwrap().json()["type"], "speech.audio.done");
    let line = &gateway.log(2).await[1];
    assert_eq!(
        (
            &line["stream"],
            &line["input_tokens"],
            &line["output_tokens"]
        ),
        (&json!(true), &json!(usage::INPUT), &json!(usage::OUTPUT))
    );
}

#[tokio::test]
async fn a_speech_arrives_piece_by_piece() {
    let (provider, _gateway, mut client) = start().await;
    let gate = Gate::new();
    let script = Script::chunked(200).header("content-type", "audio/mpeg");
    provider.on("gpt-test", script.chunk("one").gate(&gate).chunk("two"));
    let body = json!({ "model": "gpt-test", "input": "Hello", "voice": { "id": "v" } }).to_string();
    let bearer = format!("Bearer {KEY}");
    client
        .send(
            "POST",
            "/v1/audio/speech",
            &[("Authorization", &bearer)],
            body.as_bytes(),
        )
        .await;
    assert_eq!(client.read_head().await.status, 200);
    let wait = Duration::from_secs(5);
    assert_eq!(client.next_chunk(wait).await.unwrap().unwrap(), "one");
    gate.open();
    assert_eq!(client.next_chunk(wait).await.unwrap().unwrap(), "two");
}

#[tokio::test]
async fn forms_go_up() {
    let (provider, _gateway, mut client) = start().await;
    let file: Vec<u8> = (0..5000u32).map(|n| (n * 31 % 256) as u8).collect();
    for path in ["audio/transcriptions", "audio/translations"] {
        let body = form(&[
            ("model", None, b"gpt-test"),
            ("file", Some("a.wav"), &file),
            ("response_format", None, b"json"),
        ]);
        let answer = post_form(&mut client, &format!("/v1/{path}"), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.json()["text"].is_string());
        let seen = provider.last().unwrap();
        assert_eq!(
            (seen.route(), &seen.body[..]),
            (&*format!("/v1/{path}"), &body[..])
        );
        assert_eq!(seen.parts()[1].data, file);
    }
    let body = form(&[
        ("model", None, b"gpt-test"),
        ("response_format", None, b"text"),
        ("file", Some("a.wav"), &file),
    ]);
    let answer = post_form(&mut client, "/v1/audio/transcriptions", &body).await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );

    let body = form(&[
        ("stream", None, b"true"),
        ("model", None, b"gpt-test"),
        ("file", Some("a.wav"), &file),
    ]);
    let answer = post_form(&mut client, "/v1/audio/transcriptions", &body).await;
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    assert!(answer.events().len() > 1, "{}", answer.text());

    let body = form(&[
        ("image[]", Some("a.png"), &file),
        ("image[]", Some("b.png"), &file[..100]),
        ("prompt", None, "größer".as_bytes()),
        ("model", None, b"gpt-test"),
        ("n", None, b"2"),
    ]);
    let answer = post_form(&mut client, "/v1/images/edits", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(provider.last().unwrap().body, body);
}

#[tokio::test]
async fn the_model_list_shows_what_the_key_may_use() {
    let (_provider, _gateway, mut client) = start().await;
    let ids = |list: &Value| -> Vec<String> {
        let data = list["data"].as_array().expect("a list").iter();
        data.map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = client.get("/v1/models", KEY).await;
    assert_eq!(list.header("content-type"), Some("application/json"));
    let list = list.json();
    assert_eq!(
        ids(&list),
        ["gpt-test", "gpt-public", "other-model", "status-500"]
    );
    assert_eq!(
        (
            &list["object"],
            &list["has_more"],
            &list["first_id"],
            &list["last_id"]
        ),
        (
            &json!("list"),
            &json!(false),
            &json!("gpt-test"),
            &json!("status-500")
        )
    );
    let first = &list["data"][0];
    assert_eq!(
        (
            &first["object"],
            &first["type"],
            &first["display_name"],
            &first["owned_by"]
        ),
        (
            &json!("model"),
            &json!("model"),
            &json!("GPT Test"),
            &json!("acme")
        )
    );
    assert!(first["created"].is_u64() && first["created_at"].is_string());
    assert!(first.get("pricing").is_none());

    assert_eq!(
        ids(&client.get("/v1/models", NARROW_KEY).await.json()),
        ["gpt-test", "gpt-public"]
    );
    assert_eq!(client.get("/v1/models", "sk-wrong").await.status, 401);

    let detailed = client.get("/v1/models?detail=1", KEY).await.json();
    let first = &detailed["data"][0];
    assert_eq!(first["label"], "GPT Test");
    assert_eq!(first["org"], "acme");
    assert_eq!(first["context_length"], 8000);
    assert_eq!(first["tags"], json!(["chat"]));
    assert_eq!(first["status"], "active");
    assert_eq!(first["pricing"]["input_per_million_tokens"], "1.500000");
    assert!(ids(&detailed).contains(&"gpt-soon".to_owned()));
    assert!(!ids(&detailed).contains(&"gpt-hidden".to_owned()));
}

#[tokio::test]
async fn one_model_is_retrieved() {
    let (_provider, _gateway, mut client) = start().await;
    let model = client.get("/v1/models/gpt-test", NARROW_KEY).await;
    assert_eq!(
        (model.status, model.json()["id"].clone()),
        (200, json!("gpt-test"))
    );
    assert!(model.json().get("pricing").is_none());
    let model = client.get("/v1/models/gpt-test?detail=1", KEY).await;
    assert_eq!(
        model.json()["pricing"]["output_per_million_tokens"],
        "2.000000"
    );
    let refused = client.get("/v1/models/other-model", NARROW_KEY).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["code"].clone()),
        (403, json!("model_not_allowed"))
    );
    let head = client
        .request("HEAD", "/v1/models/gpt-test", &[("X-API-Key", KEY)], b"")
        .await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn the_catalog_is_public() {
    let (_provider, _gateway, mut client) = start().await;
    let answer = client.request("GET", "/v1/catalog", &[], b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    let list = answer.json();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        [
            "gpt-test",
            "gpt-public",
            "other-model",
            "gpt-soon",
            "status-500"
        ]
    );
    // A page of another origin reads it too, and one header answers that.
    let answer = client
        .request(
            "GET",
            "/v1/catalog",
            &[("Origin", "https://a.example")],
            b"",
        )
        .await;
    assert_eq!(answer.header_all("access-control-allow-origin"), ["*"]);
}

#[tokio::test]
async fn the_status_tells_of_real_traffic() {
    let (provider, gateway, mut client) = start().await;
    async fn state(client: &mut Client, model: &str) -> (String, Value) {
        let answer = client.request("GET", "/api/status", &[], b"").await;
        assert_eq!(answer.status, 200);
        let status = answer.json();
        assert_eq!(status["success"], true);
        assert_eq!(status["data"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(status["data"]["uptime_seconds"].is_u64());
        let models = status["data"]["models"].as_array().expect("models");
        assert!(
            models
                .iter()
                .all(|model| model["id"] != "gpt-hidden" && model["id"] != "*")
        );
        let seen = models
            .iter()
            .find(|seen| seen["id"] == model)
            .expect("the model");
        (
            seen["state"].as_str().unwrap().to_owned(),
            seen["success_rate"].clone(),
        )
    }
    assert_eq!(
        state(&mut client, "gpt-test").await,
        ("no_data".to_owned(), Value::Null)
    );
    client
        .post_json("/v1/chat/completions", KEY, &chat("gpt-test"))
        .await;
    let mut lines = 2;
    gateway.log(lines).await;
    assert_eq!(
        state(&mut client, "gpt-test").await,
        ("operational".to_owned(), json!(1.0))
    );
    provider.once("gpt-test", Script::answer(503));
    let answer = client
        .post_json("/v1/chat/completions", KEY, &chat("gpt-test"))
        .await;
    assert_eq!(answer.status, 502);
    lines += 2;
    gateway.log(lines).await;
    assert_eq!(
        state(&mut client, "gpt-test").await,
        ("degraded".to_owned(), json!(0.5))
    );
    client
        .post_json("/v1/chat/completions", KEY, &chat("status-500"))
        .await;
    lines += 2;
    gateway.log(lines).await;
    assert_eq!(
        state(&mut client, "status-500").await,
        ("down".to_owned(), json!(0.0))
    );
    assert_eq!(state(&mut client, "other-model").await.0, "no_data");
    // What the client did wrong says nothing of the model.
    provider.once(
        "other-model",
        Script::answer(400).json(&json!({ "error": {} })),
    );
    client
        .post_json("/v1/chat/completions", KEY, &chat("other-model"))
        .await;
    lines += 3;
    gateway.log(lines).await;
    assert_eq!(state(&mut client, "other-model").await.0, "operational");
}

#[tokio::test]
async fn health_and_readiness() {
    let (_provider, _gateway, mut client) = start().await;
    for path in ["/livez", "/readyz"] {
        for method in ["GET", "HEAD"] {
            let answer = client.request(method, path, &[], b"").await;
            assert_eq!(answer.status, 200, "{method} {path}");
        }
        assert_eq!(client.request("POST", path, &[], b"").await.status, 405);
    }
    assert_eq!(client.request("HEAD", "/", &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_shutdown_lets_what_runs_finish_and_takes_nothing_new() {
    let (provider, gateway, mut client) = start().await;
    let gate = Gate::new();
    let script = Script::sse().data("{\"n\":1}").gate(&gate);
    provider.on("gpt-test", script.data("[DONE]"));
    let mut body = chat("gpt-test");
    body["stream"] = json!(true);
    let bearer = format!("Bearer {KEY}");
    client
        .send(
            "POST",
            "/v1/chat/completions",
            &[("Authorization", &bearer)],
            body.to_string().as_bytes(),
        )
        .await;
    client.read_head().await;
    let mut pending = String::new();
    let events = client
        .next_events(&mut pending, Duration::from_secs(5))
        .await;
    assert_eq!(events.unwrap().len(), 1);

    let addr = gateway.addr;
    let stopping = tokio::spawn(gateway.running.shutdown(Duration::from_secs(10)));
    let refused = async {
        while let Ok(mut probe) = Client::try_connect(addr).await {
            // Between the signal and the closing of the listener a probe hears that it is over.
            match probe.try_request("GET", "/readyz", &[], b"").await {
                Ok(answer) if answer.status == 200 => tokio::task::yield_now().await,
                Ok(answer) => assert_eq!(answer.status, 503),
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused)
        .await
        .expect("new connections go on being served");
    assert!(!stopping.is_finished(), "the stream is still running");
    gate.open();
    let (events, broken) = client.events().await;
    assert_eq!(
        (events.last().unwrap().data.as_str(), broken),
        ("[DONE]", None)
    );
    tokio::time::timeout(Duration::from_secs(5), stopping)
        .await
        .expect("it stops when idle")
        .unwrap();
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_echoes_the_headers() {
    let (provider, _gateway, mut client) = start().await;
    for path in [
        "/v1/chat/completions",
        "/anthropic/v1/messages",
        "/api/v1/models",
    ] {
        let headers = [
            ("Origin", "https://page.example"),
            ("Access-Control-Request-Method", "POST"),
            (
                "Access-Control-Request-Headers",
                "authorization,x-stainless-os",
            ),
        ];
        let answer = client.request("OPTIONS", path, &headers, b"").await;
        assert!((200..=204).contains(&answer.status), "{}", answer.status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("authorization,x-stainless-os")
        );
        let methods = answer.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST") && methods.contains("GET"));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in [
            "x-request-id",
            "request-id",
            "retry-after",
            "x-ratelimit-remaining",
        ] {
            assert!(exposed.contains(name), "{name}");
        }
    }
    assert_eq!(provider.count(), 0);
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*bearer),
        ("Origin", "https://page.example"),
    ];
    let body = chat("gpt-test").to_string();
    let answer = client
        .request("POST", "/v1/chat/completions", &headers, body.as_bytes())
        .await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert!(answer.header("access-control-expose-headers").is_some());
    assert_eq!(provider.last().unwrap().header("origin"), None);
}

#[tokio::test]
async fn any_number_of_mounts_each_with_its_dialect() {
    let provider = Provider::start().await;
    let yaml = format!(
        "{}surfaces:
  - {{ mount: /plain, api: openai }}
  - {{ mount: /typed/v1, api: openai, errors: typed }}
  - {{ mount: /typed, api: openai, errors: code_msg }}
  - {{ mount: /mapped, api: openai, statuses: {{ model_not_found: 410 }} }}
  - {{ mount: /claude, api: anthropic }}
",
        sections(&provider).replace("  - { id: \"*\", upstreams: [{ provider: fake }] }\n", "")
    );
    let gateway = Gateway::start(&yaml).await;
    let mut client = Client::connect(gateway.addr).await;
    let mut error = async |path: &str| {
        let answer = client.post_json(path, KEY, &chat("absent")).await;
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{path}"
        );
        (answer.status, answer.json())
    };
    let (status, plain) = error("/plain/chat/completions").await;
    assert_eq!(
        (status, &plain["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    assert_eq!(plain["error"]["type"], "invalid_request_error");
    assert_eq!(plain["error"]["param"], "model");
    let (status, typed) = error("/typed/v1/chat/completions").await;
    assert_eq!(
        (status, &typed["error"]["type"], &typed["error"]["code"]),
        (404, &json!("model_not_found"), &json!("unknown_model"))
    );
    let (status, coded) = error("/typed/chat/completions").await;
    assert_eq!((status, &coded["code"]), (404, &json!(7)));
    assert!(coded["msg"].is_string() && coded["error"]["message"].is_string());
    assert_eq!(error("/mapped/chat/completions").await.0, 410);
    let (status, claude) = error("/claude/v1/messages").await;
    assert_eq!(
        (status, &claude["type"], &claude["error"]["type"]),
        (404, &json!("error"), &json!("not_found_error"))
    );
    assert_eq!(claude["error"]["details"]["error_code"], "model_not_found");
    assert!(claude["request_id"].is_string());
    // The default mounts are gone.
    assert_eq!(error("/v1/chat/completions").await.0, 404);
    let answer = client
        .post_json("/typed/v1/chat/completions", KEY, &chat("gpt-test"))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_alias_is_its_model_everywhere() {
    let (provider, gateway, mut client) = start().await;
    for (asked, upstream, named) in [
        ("gpt-alias", "gpt-test", "gpt-test"),
        ("gpt-public", "vendor/internal", "gpt-public"),
        ("public-alias", "vendor/internal", "gpt-public"),
    ] {
        for (path, mut body, _) in endpoints() {
            body["model"] = json!(asked);
            let answer = client.post_json(&format!("/v1/{path}"), KEY, &body).await;
            assert_eq!(answer.json()["model"], named, "{path}");
            let mut sent = body.clone();
            sent["model"] = json!(upstream);
            assert_eq!(provider.last().unwrap().body, sent.to_string().as_bytes());
        }
        for path in ["chat/completions", "completions", "responses"] {
            let mut body = chat(asked);
            body["stream"] = json!(true);
            body["stream_options"] = json!({ "include_usage": true });
            body["input"] = json!("hi");
            let answer = client.post_json(&format!("/v1/{path}"), KEY, &body).await;
            assert!(!answer.text().contains("vendor"), "{}", answer.text());
            let mut names = 0;
            for event in answer.events() {
                let data = event.json();
                for model in [&data["model"], &data["response"]["model"]] {
                    if let Some(model) = model.as_str() {
                        assert_eq!(model, named);
                        names += 1;
                    }
                }
            }
            assert!(names >= 3, "{path}: {}", answer.text());
        }
    }
    let lines = gateway.log(30).await;
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(
            line["model"],
            if at < 10 { "gpt-test" } else { "gpt-public" }
        );
    }
}

#[tokio::test]
async fn input_in_place_of_messages_is_accepted() {
    let (provider, _gateway, mut client) = start().await;
    let body =
        br#"{"model":"gpt-test", "input" : [{"role":"user","content":"hi"}],"stream":false}"#;
    let answer = post(&mut client, "/v1/chat/completions", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["object"], "chat.completion");
    assert_eq!(
        provider.last().unwrap().body,
        &br#"{"model":"gpt-test", "messages" : [{"role":"user","content":"hi"}],"stream":false}"#[..]
    );
}

/// A chat body of exactly `size` bytes.
fn sized(size: usize) -> Vec<u8> {
    let (start, end) = (
        &br#"{"messages":[{"role":"user","content":""#[..],
        &br#""}],"model":"gpt-test"}"#[..],
    );
    let filling = size - start.len() - end.len();
    let text = (0..filling).map(|n| b'a' + (n % 23) as u8);
    start
        .iter()
        .copied()
        .chain(text)
        .chain(end.iter().copied())
        .collect()
}

#[tokio::test]
async fn bodies_of_any_size_go_through() {
    let (provider, _gateway, mut client) = start().await;
    for size in [
        100,
        64 * 1024 - 1,
        64 * 1024,
        64 * 1024 + 1,
        128 * 1024,
        8 << 20,
    ] {
        let body = sized(size);
        let answer = post(&mut client, "/v1/chat/completions", &body).await;
        assert_eq!((answer.status, answer.broken), (200, None), "{size}");
        let seen = provider.last().unwrap();
        assert!(seen.body == body, "{size}: the body was changed");
        assert_eq!(seen.header("content-length"), Some(&*size.to_string()));
    }
    assert_eq!(provider.count(), 6);
}

#[tokio::test]
async fn bodies_without_a_length_go_through() {
    let (provider, _gateway, mut client) = start().await;
    let bearer = format!("Bearer {KEY}");
    for (size, chunk) in [
        (100_000, 1000),
        (100_000, 65_536),
        (1 << 20, 7777),
        (200, 1),
    ] {
        let body = sized(size);
        let headers = [
            ("Authorization", &*bearer),
            ("Transfer-Encoding", "chunked"),
        ];
        client
            .send_head("POST", "/v1/chat/completions", &headers)
            .await;
        for piece in body.chunks(chunk) {
            client.send_chunk(piece).await;
        }
        client.send_chunk(b"").await;
        let answer = client.response().await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        assert!(provider.last().unwrap().body == body, "{size}");
    }
}

/// White space, as JSON has it.
fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

/// JSON text of any value, in spellings that a re-encoding would not keep.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?",
        string(),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            (space(), prop::collection::vec(inner.clone(), 0..4)).prop_map(
                |(space, values)| format!("[{space}{}{space}]", values.join(&format!("{space},")))
            ),
            (space(), prop::collection::vec((string(), inner), 0..4)).prop_map(
                |(space, members)| {
                    let members: Vec<String> = members
                        .iter()
                        .map(|(key, value)| format!("{key}{space}:{space}{value}"))
                        .collect();
                    format!("{{{space}{}}}", members.join(&format!(",{space}")))
                }
            ),
        ]
    })
}

fn string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z0-9 _:,{}\\[\\]/äß漢😀-]{0,8}",
        "(\\\\[\"\\\\/bfnrt])",
        "\\\\u00[0-9a-fA-F]{2}",
        Just("\\ud83d\\ude00".to_owned()),
    ];
    prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// A chat body: what goes in, and what must come out upstream.
fn bodies() -> impl Strategy<Value = (String, String)> {
    let models = prop_oneof![
        Just(("\"gpt-test\"", "\"gpt-test\"")),
        Just(("\"gpt\\u002dtest\"", "\"gpt\\u002dtest\"")),
        Just(("\"gpt-alias\"", "\"gpt-test\"")),
        Just(("\"gpt-public\"", "\"vendor/internal\"")),
        Just(("\"public\\u002Dalias\"", "\"vendor/internal\"")),
    ];
    let streams = prop_oneof![
        Just(None),
        Just(Some(("\"stream\":false", "\"stream\":false", false))),
        Just(Some(("\"stream\": true", "\"stream\": true", true))),
        Just(Some((
            "\"stream\":true,\"stream_options\" : { }",
            "\"stream\":true,\"stream_options\" : {\"include_usage\":true }",
            false
        ))),
        Just(Some((
            "\"stream_options\":{\"include_usage\": false,\"x\":1},\"stream\":true",
            "\"stream_options\":{\"include_usage\": true,\"x\":1},\"stream\":true",
            false
        ))),
        Just(Some((
            "\"stream_options\":null,\"stream\":true",
            "\"stream_options\":{\"include_usage\":true},\"stream\":true",
            false
        ))),
        Just(Some((
            "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
            "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
            false
        ))),
    ];
    let others = prop::collection::vec(("[a-z]{0,6}", value()), 0..5);
    (
        models,
        streams,
        others,
        value(),
        space(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|((asked, sent), stream, others, messages, space, place)| {
            let mut members: Vec<(String, String)> = others
                .into_iter()
                // Repeated names are kept too: only those that the gateway acts on are guarded.
                .map(|(key, value)| format!("\"x_{key}\"{space}:{value}"))
                .map(|member| (member.clone(), member))
                .collect();
            let messages = format!("\"messages\"{space}:{space}{messages}");
            members.push((messages.clone(), messages));
            let at = place.index(members.len() + 1);
            members.insert(
                at,
                (
                    format!("\"model\" :{space}{asked}{space}"),
                    format!("\"model\" :{space}{sent}{space}"),
                ),
            );
            let mut injected = "";
            if let Some((before, after, adds)) = stream {
                let at = place.index(members.len() + 1);
                members.insert(at, (before.to_owned(), after.to_owned()));
                if adds {
                    injected = "\"stream_options\":{\"include_usage\":true},";
                }
            }
            let join = |pick: fn(&(String, String)) -> &String| -> String {
                let texts: Vec<&str> = members.iter().map(|member| pick(member).as_str()).collect();
                texts.join(&format!("{space},{space}"))
            };
            (
                format!("{space}{{{space}{}{space}}}{space}", join(|m| &m.0)),
                format!(
                    "{space}{{{injected}{space}{}{space}}}{space}",
                    join(|m| &m.1)
                ),
            )
        })
}

#[test]
fn random_bodies_arrive_byte_for_byte() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (provider, _gateway, client) = runtime.block_on(start());
    let client = tokio::sync::Mutex::new(client);
    let config = PropConfig {
        cases: 150,
        failure_persistence: None,
        ..PropConfig::default()
    };
    let result = TestRunner::new(config).run(&bodies(), |(body, expected)| {
        serde_json::from_str::<Value>(&body)
            .map_err(|error| TestCaseError::fail(format!("{body}: {error}")))?;
        let before = provider.count();
        let answer = runtime.block_on(async {
            let mut client = client.lock().await;
            post(&mut client, "/v1/chat/completions", body.as_bytes()).await
        });
        prop_assert_eq!(answer.status, 200, "{}", answer.text());
        prop_assert_eq!(provider.count(), before + 1);
        let seen = provider.last().unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&seen.body), expected);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
