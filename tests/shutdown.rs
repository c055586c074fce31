//! The end of a gateway: what runs may end, what does not end in time is told, and nobody waits for who is idle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use support::clock::pass;
use support::gateway::{Gateway, KEY};
use support::http::{Client, Event};
use support::provider::{Gate, Provider, Script};
use support::tls::{self, Identity};

const CHAT: &str = "/v1/chat/completions";
const WAIT: Duration = Duration::from_secs(5);
/// Ten times what any of these ends take, and a tenth of what a hanging one would.
const SOON: Duration = Duration::from_secs(3);

const PIECE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word\"}}]}\n\n";

async fn start(more: &str) -> (Provider, Gateway) {
    let provider = Provider::start().await;
    let yaml = format!(
        r#"
providers:
  fake: {{ api: openai, base_url: "{}", keys: [upstream-secret] }}
  claude: {{ api: anthropic, base_url: "{}", keys: [upstream-secret] }}
models:
  - {{ id: gpt-test, price: {{ input: 100, output: 1000 }}, upstreams: [{{ provider: fake }}] }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}] }}
{more}"#,
        provider.base_url(),
        provider.anthropic_url(),
    );
    let gateway = Gateway::start(&yaml).await;
    (provider, gateway)
}

fn body(model: &str, stream: bool) -> Vec<u8> {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let body = json!({ "model": model, "stream": stream, "max_tokens": 99, "messages": messages });
    body.to_string().into_bytes()
}

async fn ask(gateway: &Gateway, path: &str, body: &[u8]) -> Client {
    let mut client = Client::connect(gateway.addr).await;
    send(&mut client, path, body).await;
    client
}

async fn send(client: &mut Client, path: &str, body: &[u8]) {
    let key = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*key),
        ("Content-Type", "application/json"),
    ];
    client.send("POST", path, &headers, body).await;
}

/// Reads one event of a stream that has begun.
async fn first(client: &mut Client) {
    let head = client.try_read_head(WAIT).await.unwrap();
    assert_eq!(head.status, 200);
    let mut pending = String::new();
    assert_eq!(
        client.next_events(&mut pending, WAIT).await.unwrap().len(),
        1
    );
    assert!(pending.is_empty());
}

/// The one event that ends a cut stream.
async fn last(client: &mut Client) -> Event {
    let (mut events, broken) = client.events().await;
    assert_eq!(broken, None, "an end in good form");
    events.pop().expect("a terminal event")
}

#[tokio::test]
async fn what_is_not_whole_at_the_end_of_the_grace_is_told_so_in_its_protocol() {
    let (provider, gateway) = start("billing: { mode: observe }\ncurrency: CNY").await;
    // Silent ones, which nothing wakes but the end.
    provider.once("gpt-test", Script::sse().event(PIECE).stall());
    let mut chat = ask(&gateway, CHAT, &body("gpt-test", true)).await;
    first(&mut chat).await;
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"word\"}}\n\n";
    provider.once("claude-test", Script::sse().event(delta).stall());
    let mut messages = ask(
        &gateway,
        "/anthropic/v1/messages",
        &body("claude-test", true),
    )
    .await;
    first(&mut messages).await;
    let delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"word\",\"sequence_number\":1}\n\n";
    provider.once("gpt-test", Script::sse().event(delta).stall());
    let wanted = json!({ "model": "gpt-test", "stream": true, "input": "hi" });
    let mut responses = ask(&gateway, "/v1/responses", wanted.to_string().as_bytes()).await;
    first(&mut responses).await;
    // A busy one: 2,000 events take 20 s.
    let mut script = Script::sse();
    for _ in 0..2000 {
        script = script.event(PIECE).wait(Duration::from_millis(10));
    }
    provider.once("gpt-test", script);
    let mut busy = ask(&gateway, CHAT, &body("gpt-test", true)).await;
    assert_eq!(busy.try_read_head(WAIT).await.unwrap().status, 200);
    // One without an answer, and one that has not sent its body.
    provider.once("gpt-test", Script::silent());
    let mut silent = ask(&gateway, CHAT, &body("gpt-test", false)).await;
    provider.wait_bodies(5).await;
    let mut dripping = Client::connect(gateway.addr).await;
    let key = format!("Bearer {KEY}");
    let headers = [("Authorization", &*key), ("Content-Length", "100")];
    dripping.send_head("POST", CHAT, &headers).await;
    while gateway.running.active() < 6 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let start = Instant::now();
    let ended = gateway.running.shutdown(Duration::from_millis(300));
    let told = async {
        let code = |event: Event| event.json()["error"]["code"].clone();
        assert_eq!(code(last(&mut chat).await), "temporarily_unavailable");
        assert_eq!(code(last(&mut busy).await), "temporarily_unavailable");
        let event = last(&mut messages).await;
        assert_eq!(event.name.as_deref(), Some("error"));
        let error = &event.json()["error"];
        assert_eq!(error["details"]["error_code"], "temporarily_unavailable");
        let event = last(&mut responses).await;
        assert_eq!(event.name.as_deref(), Some("response.failed"));
        let error = &event.json()["response"]["error"];
        assert_eq!(error["code"], "temporarily_unavailable");
        for client in [&mut silent, &mut dripping] {
            let answer = client.response().await;
            assert_eq!(answer.status, 503);
            assert_eq!(answer.header("connection"), Some("close"));
            assert_eq!(answer.json()["error"]["code"], "temporarily_unavailable");
            assert!(answer.header("retry-after").is_some());
        }
        start.elapsed()
    };
    let ((), told) = tokio::join!(ended, told);
    assert!(told >= Duration::from_millis(300), "{told:?}");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    provider.wait_cancelled(5).await;
}

#[tokio::test]
async fn it_ends_with_the_last_request_and_waits_for_no_idle_connection() {
    let (provider, gateway) = start("").await;
    let mut idle = Client::connect(gateway.addr).await;
    assert_eq!(idle.get("/livez", "").await.status, 200);
    let gate = Gate::new();
    provider.once(
        "gpt-test",
        Script::sse().event(PIECE).gate(&gate).data("[DONE]"),
    );
    let mut stream = ask(&gateway, CHAT, &body("gpt-test", true)).await;
    first(&mut stream).await;
    let late = Gate::new();
    let script = Script::answer(200).json(&json!({ "choices": [] }));
    provider.once(
        "gpt-test",
        Script::answer(200)
            .gate(&late)
            .json(&json!({ "choices": [] })),
    );
    let mut waiting = ask(&gateway, CHAT, &body("gpt-test", false)).await;
    provider.wait_bodies(2).await;

    let addr = gateway.addr;
    let running = gateway.running;
    running.announce_end(Duration::ZERO).await;
    // Readiness fails, and all else is served.
    let ready = idle.get("/readyz", "").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.header("connection"), Some("keep-alive"));
    provider.once("gpt-test", script);
    let mut fresh = Client::connect(addr).await;
    send(&mut fresh, CHAT, &body("gpt-test", false)).await;
    let answer = fresh.response().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), Some("keep-alive"));

    running.close();
    let refused = async {
        while Client::try_connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.unwrap();
    // Begun before, and answered after: the client learns that the connection ends.
    late.open();
    let answer = waiting.response().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert!(waiting.closes(SOON).await);
    // Asked after, on a connection that was open.
    let answer = fresh.get("/livez", "").await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );

    let start = Instant::now();
    let ended = tokio::spawn(running.shutdown(Duration::from_secs(60)));
    gate.open();
    let (rest, broken) = stream.events().await;
    assert_eq!((rest.len(), broken), (1, None));
    ended.await.unwrap();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

#[tokio::test]
async fn idle_connections_have_some_seconds_and_a_header_that_has_begun_its_own_time() {
    let (_provider, gateway) = start("").await;
    let mut idle = Client::connect(gateway.addr).await;
    let mut slow = Client::connect(gateway.addr).await;
    let mut late = Client::connect(gateway.addr).await;
    for client in [&mut idle, &mut slow, &mut late] {
        assert_eq!(client.get("/livez", "").await.status, 200);
    }
    gateway.running.close();
    pass(Duration::from_secs(4)).await;
    assert!(!idle.closes(Duration::from_millis(50)).await);
    let answer = late.get("/livez", "").await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    slow.send_raw(b"GET /livez HTTP/1.1\r\nHost: ").await;
    // The bytes are there before the clock moves on.
    assert!(!slow.closes(Duration::from_millis(50)).await);
    pass(Duration::from_secs(2)).await;
    assert!(idle.closes(SOON).await);
    slow.send_raw(b"x\r\n\r\n").await;
    let answer = slow.response().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    // Nobody is left to wait for.
    drop((slow, late));
    tokio::time::timeout(SOON, gateway.running.quiet())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_of_http2_hears_that_it_ends_and_its_streams_end() {
    let identity = Identity::new();
    let (provider, gateway) = start(&identity.listener()).await;
    let key = format!("Bearer {KEY}");
    let gate = Gate::new();
    provider.once(
        "gpt-test",
        Script::sse().event(PIECE).gate(&gate).data("[DONE]"),
    );
    let mut client = identity.http2(gateway.addr).await;
    let headers = [("authorization", &*key)];
    let (answer, mut up) = client.begin("POST", CHAT, &headers, false).await;
    tls::send(&mut up, Bytes::from(body("gpt-test", true)), true)
        .await
        .unwrap();
    let mut down = answer.await.unwrap().into_body();
    assert_eq!(
        tls::next(&mut down).await.unwrap().unwrap(),
        PIECE.as_bytes()
    );

    let running = gateway.running;
    running.close();
    let going_away = async {
        // The client's library opens no stream once it was told.
        while client.is_open().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, going_away).await.unwrap();
    gate.open();
    let rest = tls::receive(&mut down).await.unwrap();
    assert_eq!(rest, "data: [DONE]\n\n");
    // Nothing is left of the connection.
    tokio::time::timeout(SOON, running.quiet()).await.unwrap();
}

#[tokio::test]
async fn a_stream_of_http2_is_cut_in_good_form() {
    let identity = Identity::new();
    let (provider, gateway) = start(&identity.listener()).await;
    let key = format!("Bearer {KEY}");
    provider.once("gpt-test", Script::sse().event(PIECE).stall());
    let mut client = identity.http2(gateway.addr).await;
    let headers = [("authorization", &*key)];
    let (answer, mut up) = client.begin("POST", CHAT, &headers, false).await;
    tls::send(&mut up, Bytes::from(body("gpt-test", true)), true)
        .await
        .unwrap();
    let mut down = answer.await.unwrap().into_body();
    assert_eq!(
        tls::next(&mut down).await.unwrap().unwrap(),
        PIECE.as_bytes()
    );
    let (rest, ()) = tokio::join!(
        tls::receive(&mut down),
        gateway.running.shutdown(Duration::ZERO)
    );
    let rest = rest.unwrap();
    let text = std::str::from_utf8(&rest).unwrap();
    let data: Value = serde_json::from_str(text.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(data["error"]["code"], "temporarily_unavailable");
}
