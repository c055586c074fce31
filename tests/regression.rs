//! Bugs that were found and fixed, each with the test that would have shown it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::json;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use support::gateway::{Gateway, KEY};
use support::http::{Client, Response};
use support::provider::{Provider, Script};

fn one(provider: &Provider) -> String {
    format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}\nmodels: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]\n",
        provider.base_url()
    )
}

async fn chat(client: &mut Client) -> Response {
    let request = json!({ "model": "gpt-test", "messages": [] });
    client
        .post_json("/v1/chat/completions", KEY, &request)
        .await
}

/// The limit was looked at from the third piece of a body on.
#[tokio::test]
async fn the_body_limit_holds_from_the_first_piece() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ body: 1KiB }}\n", one(&provider))).await;
    let headers = [
        ("Authorization", &*format!("Bearer {KEY}")),
        ("Transfer-Encoding", "chunked"),
    ];
    let body = format!(
        "{{\"model\":\"gpt-test\",\"messages\":[\"{}\"]}}",
        "x".repeat(2000)
    );
    for pieces in 1..=4 {
        let mut client = Client::connect(gateway.addr).await;
        client
            .send_head("POST", "/v1/chat/completions", &headers)
            .await;
        for piece in body.as_bytes().chunks(body.len().div_ceil(pieces)) {
            client.send_chunk(piece).await;
        }
        client.send_chunk(b"").await;
        let answer = client.response().await;
        assert_eq!(answer.status, 413, "{pieces} pieces: {}", answer.text());
    }
    assert_eq!(provider.count(), 0);
}

/// After a dead pooled connection the upstreams that were out of reach were tried again, and used
/// the attempts up.
#[tokio::test]
async fn a_dead_connection_does_not_bring_back_what_is_out_of_reach() {
    let live = Provider::start().await;
    let gone = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let refused: SocketAddr = gone.local_addr().unwrap();
    drop(gone);
    let gateway = Gateway::start(&format!(
        "providers:\n  gone: {{ api: openai, base_url: \"http://{refused}/v1\", keys: [k] }}\n  live: {{ api: openai, base_url: \"{}\", keys: [k] }}\nmodels: [{{ id: gpt-test, upstreams: [{{ provider: gone }}, {{ provider: live, tier: 1 }}] }}]\n",
        live.base_url()
    ))
    .await;
    // Each connection answers once, and dies under its second request.
    let used = Mutex::new(HashSet::new());
    live.on_fn("gpt-test", move |seen| {
        match used.lock().unwrap().insert(seen.connection) {
            true => Script::answer(200).json(&json!({ "ok": true })),
            false => Script::close_at_once(),
        }
    });
    let mut client = Client::connect(gateway.addr).await;
    for n in 0..20 {
        let answer = chat(&mut client).await;
        assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
    }
}

/// With the catch-all alone, `GET models` was refused where no provider could be asked.
#[tokio::test]
async fn the_model_list_is_never_refused() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        "providers: {{ claude: {{ api: anthropic, base_url: \"{}\", keys: [k] }} }}\nmodels: [{{ id: \"*\", upstreams: [{{ provider: claude }}] }}]\n",
        provider.anthropic_url()
    ))
    .await;
    let mut client = Client::connect(gateway.addr).await;
    for path in ["/v1/models", "/anthropic/v1/models"] {
        let answer = client.get(path, KEY).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.json()["data"], json!([]));
        assert_eq!(answer.json()["has_more"], false);
    }
    let answer = client.get("/v1/models/any/thing", KEY).await;
    assert_eq!(answer.json()["display_name"], "any/thing");
}

/// With the catch-all alone, `GET models` is the provider's own list.
#[tokio::test]
async fn the_catch_all_alone_lists_what_the_provider_lists() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }} }}\nmodels: [{{ id: \"*\", upstreams: [{{ provider: fake }}] }}]\n",
        provider.base_url()
    ))
    .await;
    let list = json!({ "object": "list", "data": [{ "id": "gpt-any", "object": "model" }] });
    provider.next(Script::answer(200).json(&list));
    let mut client = Client::connect(gateway.addr).await;
    let answer = client.get("/v1/models", KEY).await;
    assert_eq!((answer.status, answer.json()), (200, list));
    let seen = provider.last().unwrap();
    assert_eq!((&*seen.method, &*seen.path), ("GET", "/v1/models"));
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-secret"));
}

/// An answer that nothing is changed in lost its length where the model has another name upstream.
#[tokio::test]
async fn speech_of_a_renamed_model_keeps_its_length() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [k] }} }}\nmodels: [{{ id: voice, upstreams: [{{ provider: fake, model: speech-test }}] }}]\n",
        provider.base_url()
    ))
    .await;
    let mut client = Client::connect(gateway.addr).await;
    let sound = Script::answer(200).header("Content-Type", "audio/mpeg");
    provider.on("speech-test", sound.body("sound"));
    let request = json!({ "model": "voice", "input": "hi", "voice": "a" });
    let answer = client.post_json("/v1/audio/speech", KEY, &request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), Some("5"));
    assert_eq!(answer.body, "sound");
}

/// Attempts that began well and broke off were counted twice, or not at all.
#[tokio::test]
async fn every_attempt_is_counted_once() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&one(&provider)).await;
    let request = json!({ "model": "gpt-test", "messages": [], "stream": true });
    for script in [
        Script::sse().data("{\"choices\":[]}").cut(),
        Script::sse().data("{\"choices\":[]}").close(),
    ] {
        provider.once("gpt-test", script);
        let mut client = Client::connect(gateway.addr).await;
        client
            .post_json("/v1/chat/completions", KEY, &request)
            .await;
    }
    let mut client = Client::connect(gateway.addr).await;
    assert_eq!(chat(&mut client).await.status, 200);
    gateway.log(3).await;
    // An error answer counts by its status, also where it is too long to be passed on.
    provider.once("gpt-test", Script::answer(400).body("x".repeat(300 << 10)));
    let mut client = Client::connect(gateway.addr).await;
    let answer = chat(&mut client).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["error"]["code"], "upstream_error");
    provider.once("gpt-test", Script::chunked(400).body("x".repeat(300 << 10)));
    let mut client = Client::connect(gateway.addr).await;
    let headers = [
        ("Authorization", &*format!("Bearer {KEY}")),
        ("Content-Type", "application/json"),
    ];
    let body = request.to_string();
    let answer = client
        .try_request("POST", "/v1/chat/completions", &headers, body.as_bytes())
        .await;
    // What was begun can only be broken off.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.broken.is_some()));
    gateway.log(5).await;
    assert_eq!(attempts(&gateway, "broken").await, 2.0);
    assert_eq!(attempts(&gateway, "ok").await, 1.0);
    assert_eq!(attempts(&gateway, "client_error").await, 2.0);
}

async fn attempts(gateway: &Gateway, outcome: &str) -> f64 {
    let name =
        format!("tollgate_upstream_requests_total{{outcome=\"{outcome}\",provider=\"fake\"}}");
    gateway.metric(&name).await
}

fn renamed(provider: &Provider) -> String {
    format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [k] }} }}\nmodels: [{{ id: public, upstreams: [{{ provider: fake, model: upstream-own }}] }}]\n",
        provider.base_url()
    )
}

/// A stream of pictures has no end marker: one that was cut, or that held an event beyond all
/// measure, ended like a whole one.
#[tokio::test]
async fn a_stream_without_an_end_marker_that_breaks_is_told() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&renamed(&provider)).await;
    let request = json!({ "model": "public", "prompt": "p", "stream": true });
    let huge = format!("data: {}\n\n", "x".repeat(17 << 20));
    for script in [
        Script::sse().event("data: {\"b64_json\":\"a\"}\n\n").cut(),
        Script::sse().event(&huge).close(),
    ] {
        provider.once("upstream-own", script);
        let mut client = Client::connect(gateway.addr).await;
        let answer = client
            .post_json("/v1/images/generations", KEY, &request)
            .await;
        let text = answer.text();
        let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        assert!(
            last.starts_with("data: {\"error\":") && last.contains("upstream_error"),
            "{last:.200}"
        );
    }
    for line in gateway.log(2).await {
        assert_eq!(line["code"], "upstream_error");
    }
    assert_eq!(attempts(&gateway, "broken").await, 2.0);
    assert_eq!(gateway.metric("tollgate_broken_streams_total").await, 2.0);
}

/// What cannot be read cannot be renamed or metered: such answers leaked the upstream's name.
#[tokio::test]
async fn an_answer_that_cannot_be_read_is_refused() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&renamed(&provider)).await;
    let mut client = Client::connect(gateway.addr).await;
    let request = json!({ "model": "public", "messages": [] });
    let ok = json!({ "model": "upstream-own", "choices": [] }).to_string();
    for (kind, encoding) in [("application/json", Some("gzip")), ("text/html", None)] {
        let script = Script::answer(200).header("Content-Type", kind);
        let script = match encoding {
            Some(encoding) => script.header("Content-Encoding", encoding),
            None => script,
        };
        provider.once("upstream-own", script.body(ok.clone()));
        let answer = client
            .post_json("/v1/chat/completions", KEY, &request)
            .await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "upstream_error");
    }
    let seen = provider.last().unwrap();
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    // Without a type it is taken for what was asked for.
    provider.once("upstream-own", Script::answer(200).body(ok));
    let answer = client
        .post_json("/v1/chat/completions", KEY, &request)
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json()["model"], "public");
}

/// A provider that tells of its failure inside a stream counted as a success.
#[tokio::test]
async fn a_providers_own_error_event_is_a_failure() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&renamed(&provider)).await;
    let mut client = Client::connect(gateway.addr).await;
    let error = "{\"error\":{\"message\":\"no\",\"type\":\"server_error\"}}";
    let request = json!({ "model": "public", "messages": [], "stream": true });
    let told = Script::sse().data(error);
    for script in [told.clone().close(), told.cut()] {
        provider.once("upstream-own", script);
        let mut client = Client::connect(gateway.addr).await;
        let answer = client
            .post_json("/v1/chat/completions", KEY, &request)
            .await;
        assert_eq!(answer.text().trim_end(), format!("data: {error}"));
    }
    for line in gateway.log(2).await {
        assert_eq!(line["code"], "upstream_error");
    }
    assert_eq!(attempts(&gateway, "broken").await, 2.0);
    assert_eq!(attempts(&gateway, "ok").await, 0.0);
    assert_eq!(gateway.metric("tollgate_broken_streams_total").await, 2.0);
    let status = client.get("/api/status", "").await.json();
    assert_eq!(status["data"]["models"][0]["success_rate"], 0.0);
}
