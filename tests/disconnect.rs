//! Clients that leave: the upstream goes with them, or is read to its end, as the model has it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::gateway::{Gateway, KEY};
use support::http::Client;
use support::provider::{Gate, Provider, Script};
use support::tls::{self, Identity};

const CHAT: &str = "/v1/chat/completions";

async fn start(listener: &str) -> (Provider, Gateway) {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&format!(
        r#"
providers: {{ fake: {{ api: openai, base_url: "{}", keys: [upstream-secret], timeouts: {{ idle: 2s }} }} }}
models:
  - {{ id: kept, on_disconnect: drain, upstreams: [{{ provider: fake }}] }}
  - {{ id: left, upstreams: [{{ provider: fake }}] }}
{listener}"#,
        provider.base_url()
    ))
    .await;
    (provider, gateway)
}

fn piece(n: usize) -> String {
    let delta = json!({ "content": n.to_string() });
    let choices = json!([{ "index": 0, "delta": delta, "finish_reason": null }]);
    format!("data: {}\n\n", json!({ "choices": choices }))
}

/// A hundred pieces, each behind the gate, and an end with its usage.
fn script(gate: &Gate) -> Script {
    let pieces = (0..100).fold(Script::sse(), |script, n| {
        script.gate(gate).event(&piece(n))
    });
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 100 });
    let stop = json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]);
    pieces
        .event(&format!("data: {}\n\n", json!({ "choices": stop })))
        .event(&format!(
            "data: {}\n\n",
            json!({ "choices": [], "usage": usage })
        ))
        .event("data: [DONE]\n\n")
}

fn body(model: &str, stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    json!({ "model": model, "stream": stream, "messages": messages })
}

async fn ask(gateway: &Gateway, body: &Value) -> Client {
    let mut client = Client::connect(gateway.addr).await;
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*bearer),
        ("Content-Type", "application/json"),
    ];
    let body = body.to_string();
    client.send("POST", CHAT, &headers, body.as_bytes()).await;
    client
}

/// Leaves once `heard` pieces have come; before the answer, if that is none.
async fn leave(mut client: Client, gate: &Gate, heard: usize, reset: bool) {
    if heard > 0 {
        gate.pass(heard);
        client.read_head().await;
        let (mut pending, mut count) = (String::new(), 0);
        while count < heard {
            let events = client.next_events(&mut pending, Duration::from_secs(5));
            count += events.await.unwrap().len();
        }
    }
    match reset {
        true => client.reset(),
        false => drop(client),
    }
}

fn gone(line: &Value) {
    assert_eq!(
        (&line["status"], &line["code"]),
        (&json!(499), &json!("client_gone")),
        "{line}"
    );
}

#[tokio::test]
async fn the_answer_is_read_to_its_end_without_its_client() {
    let (provider, gateway) = start("").await;
    for (nth, (heard, reset)) in [(0, false), (0, true), (1, false), (10, true), (99, false)]
        .into_iter()
        .enumerate()
    {
        let gate = Gate::new();
        provider.once("kept", script(&gate));
        let client = ask(&gateway, &body("kept", true)).await;
        provider.wait_bodies(nth + 1).await;
        leave(client, &gate, heard, reset).await;
        // The rest comes when the gateway has had the time to notice.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(provider.open_streams(), 1, "after {heard}");
        gate.pass(100 - heard);
        provider.wait_complete(nth + 1).await;
        let line = gateway.log(nth + 1).await.pop().unwrap();
        gone(&line);
        assert_eq!(line["input_tokens"], 7, "{line}");
        assert_eq!(line["output_tokens"], 100, "{line}");
    }
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn an_answer_in_one_piece_is_waited_for() {
    let (provider, gateway) = start("").await;
    let answer = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 9 } });
    let script = Script::answer(200)
        .wait(Duration::from_millis(300))
        .json(&answer);
    provider.once("kept", script);
    let client = ask(&gateway, &body("kept", false)).await;
    provider.wait_bodies(1).await;
    drop(client);
    provider.wait_complete(1).await;
    let line = gateway.log(1).await.pop().unwrap();
    gone(&line);
    assert_eq!(line["output_tokens"], 9, "{line}");
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn without_its_client_an_upstream_may_not_stall_either() {
    let (provider, gateway) = start("").await;
    provider.once("kept", Script::sse().event(&piece(0)).stall());
    let client = ask(&gateway, &body("kept", true)).await;
    provider.wait_bodies(1).await;
    let gate = Gate::new();
    leave(client, &gate, 1, false).await;
    provider.wait_cancelled(1).await;
    let line = gateway.log(1).await.pop().unwrap();
    assert_eq!(line["code"], "upstream_timeout", "{line}");
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn otherwise_the_upstream_goes_with_its_client() {
    let (provider, gateway) = start("").await;
    let gate = Gate::new();
    provider.once("left", script(&gate));
    let client = ask(&gateway, &body("left", true)).await;
    provider.wait_bodies(1).await;
    leave(client, &gate, 10, false).await;
    let begun = Instant::now();
    provider.wait_cancelled(1).await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    gone(&gateway.log(1).await[0]);
}

#[tokio::test]
async fn the_same_over_http2() {
    let identity = Identity::new();
    let (provider, gateway) = start(&identity.listener()).await;
    for (nth, (model, heard)) in [("kept", 0), ("kept", 5), ("left", 0), ("left", 5)]
        .into_iter()
        .enumerate()
    {
        let gate = Gate::new();
        provider.once(model, script(&gate));
        let mut client = identity.http2(gateway.addr).await;
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", &*bearer)];
        let (answer, mut up) = client.begin("POST", CHAT, &headers, false).await;
        let asked = body(model, true).to_string();
        tls::send(&mut up, asked.into(), true).await.unwrap();
        provider.wait_bodies(nth + 1).await;
        if heard == 0 {
            up.send_reset(h2::Reason::CANCEL);
            drop(answer);
        } else {
            gate.pass(heard);
            let mut down = answer.await.unwrap().into_body();
            let mut bytes = 0;
            while bytes < heard * piece(0).len() {
                bytes += tls::next(&mut down).await.unwrap().unwrap().len();
            }
            up.send_reset(h2::Reason::CANCEL);
        }
        if model == "kept" {
            tokio::time::sleep(Duration::from_millis(200)).await;
            gate.pass(100 - heard);
            provider.wait_complete(nth + 1).await;
        } else {
            provider.wait_cancelled(nth - 1).await;
        }
        let line = gateway.log(nth + 1).await.pop().unwrap();
        gone(&line);
        if model == "kept" {
            assert_eq!(line["output_tokens"], 100, "{line}");
        }
        // The connection serves on.
        let (head, _) = client.request("GET", "/livez", &[], b"").await;
        assert_eq!(head.status, 200);
    }
    assert_eq!(gateway.running.active(), 0);
}
