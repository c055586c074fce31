//! Clients over TLS: HTTP/1.1 and HTTP/2 by ALPN.
//!
//! Above 400 lines: what HTTP/1.1 clients can rely on is shown for HTTP/2 once more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use support::gateway::{Gateway, KEY};
use support::provider::{Gate, Provider, Script, TEXT, speech_bytes};
use support::tls::{self, H2, Identity};

const CHAT: &str = "/v1/chat/completions";

async fn start(more: &str) -> (Identity, Provider, Gateway) {
    let identity = Identity::new();
    let provider = Provider::start().await;
    let yaml = format!(
        r#"
providers: {{ fake: {{ api: openai, base_url: "{}", keys: [upstream-secret] }} }}
models:
  - {{ id: gpt-test, upstreams: [{{ provider: fake }}] }}
  - {{ id: gpt-public, upstreams: [{{ provider: fake, model: vendor/internal }}] }}
{}{more}"#,
        provider.base_url(),
        identity.listener(),
    );
    let gateway = Gateway::start(&yaml).await;
    (identity, provider, gateway)
}

fn chat(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

fn bearer() -> String {
    format!("Bearer {KEY}")
}

fn event(n: usize) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{n}\"}}}}]}}\n\n")
}

/// Asks for a stream and gives its body.
async fn open(client: &mut H2) -> h2::RecvStream {
    let (answer, mut up) = client
        .begin("POST", CHAT, &[("authorization", &bearer())], false)
        .await;
    let body = chat("gpt-test", true).to_string();
    tls::send(&mut up, body.into(), true).await.unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    assert!(answer.headers().get("content-encoding").is_none());
    answer.into_body()
}

#[tokio::test]
async fn http1_over_tls() {
    let (identity, provider, gateway) = start("").await;
    assert!(gateway.running.listeners[0].tls);
    let mut client = identity.http1(gateway.addr).await;
    let answer = client.post_json(CHAT, KEY, &chat("gpt-test", false)).await;
    assert_eq!((answer.status, answer.broken), (200, None));
    assert_eq!(answer.json()["choices"][0]["message"]["content"], TEXT);
    // Several on one connection.
    let answer = client.post_json(CHAT, KEY, &chat("gpt-public", true)).await;
    assert_eq!(answer.events().last().unwrap().data, "[DONE]");
    assert!(!answer.text().contains("vendor"));
    let answer = client
        .post_json(CHAT, "sk-wrong", &chat("gpt-test", false))
        .await;
    assert_eq!(answer.status, 401);
    assert_eq!(provider.count(), 2);
    let line = &gateway.log(1).await[0];
    assert_eq!(line["client"], "127.0.0.1");
}

#[tokio::test]
async fn http2_by_alpn() {
    let (identity, provider, gateway) = start("").await;
    let mut client = identity.http2(gateway.addr).await;
    for path in ["/livez", "/api/status"] {
        let (head, _) = client.request("GET", path, &[], b"").await;
        assert_eq!(head.status, 200);
    }
    let (bearer, body) = (bearer(), chat("gpt-public", false).to_string());
    let (head, answer) = client
        .request("POST", CHAT, &[("authorization", &bearer)], body.as_bytes())
        .await;
    assert_eq!(head.status, 200);
    assert_eq!(head.headers["content-type"], "application/json");
    assert_eq!(head.headers["x-request-id"], head.headers["request-id"]);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["model"], "gpt-public");
    assert_eq!(provider.last().unwrap().json()["model"], "vendor/internal");
    let speech = json!({ "model": "gpt-test", "input": "x", "voice": "a" }).to_string();
    let headers = [("x-api-key", KEY)];
    let (head, answer) = client
        .request("POST", "/v1/audio/speech", &headers, speech.as_bytes())
        .await;
    assert_eq!(
        (head.status.as_u16(), &answer[..]),
        (200, &speech_bytes()[..])
    );
    assert!(
        provider.malformed().is_empty(),
        "{:?}",
        provider.malformed()
    );
}

#[tokio::test]
async fn events_come_at_once_over_http2() {
    let (identity, provider, gateway) = start("").await;
    let gate = Gate::new();
    let script = (0..3).fold(Script::sse(), |script, n| {
        script.event(&event(n)).gate(&gate)
    });
    provider.on("gpt-test", script.data("[DONE]"));
    let mut client = identity.http2(gateway.addr).await;
    let mut down = open(&mut client).await;
    for n in 0..3 {
        assert_eq!(tls::next(&mut down).await.unwrap().unwrap(), event(n));
        gate.pass(1);
    }
    assert_eq!(tls::receive(&mut down).await.unwrap(), "data: [DONE]\n\n");
}

#[tokio::test]
async fn a_broken_stream_ends_in_order_over_http2() {
    let (identity, provider, gateway) = start("").await;
    let mut client = identity.http2(gateway.addr).await;
    for end in [
        Script::cut as fn(Script) -> Script,
        Script::reset,
        |script| script,
    ] {
        let gate = Gate::new();
        provider.on("gpt-test", end(Script::sse().event(&event(0)).gate(&gate)));
        let mut down = open(&mut client).await;
        assert_eq!(tls::next(&mut down).await.unwrap().unwrap(), event(0));
        gate.open();
        let rest = tls::receive(&mut down).await.expect("an ordinary end");
        let text = String::from_utf8(rest.to_vec()).unwrap();
        let error = text
            .strip_prefix("data: ")
            .and_then(|rest| rest.strip_suffix("\n\n"));
        let error: Value = serde_json::from_str(error.expect("one event")).unwrap();
        assert_eq!(error["error"]["code"], "upstream_error");
    }
}

#[tokio::test]
async fn a_refusal_is_not_lost_with_an_unread_body() {
    let (identity, provider, gateway) = start("limits: { body: 1MiB }\n").await;
    let big = vec![b'x'; 3 << 20];
    let small = vec![b'x'; 200_000];
    let bearer = bearer();
    for (path, key, body, status) in [
        (CHAT, "Bearer sk-wrong", &small, 401),
        (CHAT, "Bearer sk-wrong", &big, 401),
        (CHAT, &*bearer, &big, 413),
        (CHAT, &*bearer, &small, 400),
        ("/v1/absent", &*bearer, &big, 404),
        ("/v1/audio/speech?x=1", "", &small, 401),
    ] {
        let mut client = identity.http2(gateway.addr).await;
        let length = body.len().to_string();
        for announced in [true, false] {
            let mut headers = vec![("content-type", "application/json")];
            if !key.is_empty() {
                headers.push(("authorization", key));
            }
            if announced {
                headers.push(("content-length", &length));
            }
            let (head, answer) = client.request("POST", path, &headers, body).await;
            assert_eq!(head.status, status, "{path} {announced}");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert!(answer["error"]["code"].is_string());
            // The connection serves on.
            let (head, _) = client.request("GET", "/livez", &[], b"").await;
            assert_eq!(head.status, 200);
        }
    }
    assert_eq!(provider.count(), 0);
}

#[tokio::test]
async fn a_client_that_resets_its_stream_takes_the_upstream_along() {
    let (identity, provider, gateway) = start("").await;
    for (round, heard) in [0, 1, 5].into_iter().enumerate() {
        let gate = Gate::new();
        let script = (0..10).fold(Script::sse(), |script, n| {
            script.gate(&gate).event(&event(n))
        });
        provider.on("gpt-test", script);
        let mut client = identity.http2(gateway.addr).await;
        let (answer, mut up) = client
            .begin("POST", CHAT, &[("authorization", &bearer())], false)
            .await;
        let body = chat("gpt-test", true).to_string();
        tls::send(&mut up, body.into(), true).await.unwrap();
        provider.wait_bodies(round + 1).await;
        gate.pass(heard);
        if heard == 0 {
            up.send_reset(h2::Reason::CANCEL);
            drop(answer);
        } else {
            let mut down = answer.await.unwrap().into_body();
            let mut bytes = 0;
            while bytes < heard * event(0).len() {
                bytes += tls::next(&mut down).await.unwrap().unwrap().len();
            }
            up.send_reset(h2::Reason::CANCEL);
        }
        provider.wait_cancelled(round + 1).await;
        // The other streams of the connection do not notice.
        let (head, _) = client.request("GET", "/livez", &[], b"").await;
        assert_eq!(head.status, 200);
    }
    let lines = gateway.log(3).await;
    let gone = lines
        .iter()
        .filter(|line| line["code"] == "client_gone")
        .count();
    assert_eq!(gone, 3);
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn a_connection_that_is_dropped_takes_all_its_upstreams_along() {
    let (identity, provider, gateway) = start("").await;
    provider.on("gpt-test", Script::sse().event(&event(0)).stall());
    let mut client = identity.http2(gateway.addr).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut down = open(&mut client).await;
        tls::next(&mut down).await.unwrap();
        streams.push(down);
    }
    assert_eq!(provider.open_streams(), 5);
    drop(client);
    provider.wait_cancelled(5).await;
    gateway.log(5).await;
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn large_bodies_without_a_length_over_http2() {
    let (identity, provider, gateway) = start("").await;
    let mut client = identity.http2(gateway.addr).await;
    for size in [64 << 10, (64 << 10) + 1, 100_000, 1 << 20, 8 << 20] {
        let text: String = (0..size)
            .map(|n| char::from(b'a' + (n % 23) as u8))
            .collect();
        let mut body = chat("gpt-test", false);
        body["messages"][0]["content"] = json!(text);
        let body = body.to_string();
        let (head, answer) = client
            .request(
                "POST",
                CHAT,
                &[("authorization", &bearer())],
                body.as_bytes(),
            )
            .await;
        assert_eq!(head.status, 200, "{}", String::from_utf8_lossy(&answer));
        let seen = provider.last().unwrap();
        assert!(seen.body == body, "{size}: the body was changed");
        assert_eq!(
            seen.header("content-length"),
            Some(&*body.len().to_string())
        );
        assert_eq!(seen.header("transfer-encoding"), None);
    }
    assert_eq!(provider.count(), 5);
    assert!(
        provider.malformed().is_empty(),
        "{:?}",
        provider.malformed()
    );
}

#[tokio::test]
async fn an_upload_is_streamed_over_http2() {
    let (identity, provider, gateway) = start("").await;
    let mut client = identity.http2(gateway.addr).await;
    let headers = [
        ("authorization", &*bearer()),
        ("content-type", "multipart/form-data; boundary=b7d1"),
    ];
    let (answer, mut up) = client
        .begin("POST", "/v1/audio/transcriptions", &headers, false)
        .await;
    let begin = "--b7d1\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ngpt-public\r\n--b7d1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let file = Bytes::from(vec![b'x'; 500_000]);
    tls::send(&mut up, begin.into(), false).await.unwrap();
    tls::send(&mut up, file.clone(), false).await.unwrap();
    provider
        .wait_until("most of it", |seen| {
            seen.first().is_some_and(|s| s.received > 400_000)
        })
        .await;
    tls::send(&mut up, "\r\n--b7d1--\r\n".into(), true)
        .await
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), answer)
        .await
        .expect("an answer")
        .unwrap();
    assert_eq!(answer.status(), 200);
    tls::receive(&mut answer.into_body()).await.unwrap();
    let seen = provider.last().unwrap();
    assert_eq!(seen.field("model").as_deref(), Some("vendor/internal"));
    assert_eq!(seen.parts()[1].data, file);
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let (identity, provider, gateway) = start("").await;
    let gate = Gate::new();
    provider.on(
        "gpt-test",
        Script::sse().event(&event(0)).gate(&gate).data("[DONE]"),
    );
    let mut client = identity.http2(gateway.addr).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(open(&mut client).await);
    }
    provider.wait_open_streams(50).await;
    gate.open();
    for mut down in streams {
        let body = tls::receive(&mut down).await.unwrap();
        assert_eq!(body, format!("{}data: [DONE]\n\n", event(0)));
    }
}

/// A client of another make; where it is missing, this says so and tests nothing.
async fn curl(arguments: &[&str]) -> Option<(String, String)> {
    let mut command = std::process::Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "10"])
        .args(["--write-out", "%{stderr}%{http_version} %{http_code}"])
        .args(arguments);
    // The gateway runs on this thread.
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap();
    match output {
        Ok(output) => Some((
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )),
        Err(error) => {
            println!("curl is not here ({error}): skipped");
            None
        }
    }
}

#[tokio::test]
async fn curl_agrees() {
    let (identity, _provider, gateway) = start("").await;
    let url = format!("https://localhost:{}{CHAT}", gateway.addr.port());
    let ca = identity.file("ca.pem");
    let right = format!("Authorization: Bearer {KEY}");
    let body = chat("gpt-test", false).to_string();
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    std::fs::write(&big, vec![b'x'; 5 << 20]).unwrap();
    let big = format!("@{}", big.display());
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let common = [flag, "--cacert", ca.to_str().unwrap(), &*url, "-H", &*right];
        let all = |more: &[&'static str], data: &str| -> Vec<String> {
            let mut all: Vec<String> = common.iter().map(|s| (*s).to_owned()).collect();
            all.extend(more.iter().map(|s| (*s).to_owned()));
            all.extend(["--data-binary".to_owned(), data.to_owned()]);
            all
        };
        let run = async |arguments: Vec<String>| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            curl(&arguments).await
        };
        let Some((out, told)) = run(all(&[], &body)).await else {
            return;
        };
        assert_eq!(told, format!("{version} 200"));
        assert!(out.contains(TEXT));
        let stream = chat("gpt-test", true).to_string();
        let (out, told) = run(all(&["--no-buffer"], &stream)).await.unwrap();
        assert_eq!(told, format!("{version} 200"));
        assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
        // Too many bytes with a second key: the refusal comes through although nobody read them.
        let (out, told) = run(all(&["-H", "X-API-Key: sk-other"], &big))
            .await
            .unwrap();
        assert_eq!(told, format!("{version} 401"), "{out}");
        assert!(out.contains("\"error\""), "{out}");
    }
}
