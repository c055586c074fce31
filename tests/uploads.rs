//! Multipart bodies: streamed up, never held whole in memory, watched to their end.
//!
//! Above 400 lines: the tests share the parts and measure one process's memory, one after another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use support::gateway::{Gateway, KEY};
use support::http::{Client, Response};
use support::provider::{Outcome, Provider, Script};
use tokio::net::TcpListener;
use tokio::sync::RwLock;

const BOUNDARY: &str = "----boundary-7d1";
const PATH: &str = "/v1/audio/transcriptions";

/// Who measures memory is alone; all others share.
static MEMORY: RwLock<()> = RwLock::const_new(());

fn sections(base_url: &str, limits: &str) -> String {
    format!(
        r#"
providers: {{ fake: {{ api: openai, base_url: "{base_url}", keys: [upstream-secret] }} }}
models:
  - {{ id: hear, aliases: [hear-alias], upstreams: [{{ provider: fake }}] }}
  - {{ id: hear-public, upstreams: [{{ provider: fake, model: vendor/a-much-longer-internal-name }}] }}
{limits}"#
    )
}

async fn start(limits: &str) -> (Provider, Gateway, Client) {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&sections(&provider.base_url(), limits)).await;
    let client = Client::connect(gateway.addr).await;
    (provider, gateway, client)
}

fn field(name: &str, value: &str) -> String {
    format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

const FILE: &str = "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";

/// What stands before a file's bytes.
fn file_begins() -> String {
    format!("--{BOUNDARY}\r\n{FILE}")
}

fn ends() -> String {
    format!("--{BOUNDARY}--\r\n")
}

fn noise(size: usize) -> Vec<u8> {
    (0..size as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// The form with its file first or last.
fn form(model: &str, file: &[u8], file_first: bool) -> Vec<u8> {
    let mut body = Vec::new();
    if !file_first {
        body.extend_from_slice(field("model", model).as_bytes());
    }
    body.extend_from_slice(file_begins().as_bytes());
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n");
    if file_first {
        body.extend_from_slice(field("model", model).as_bytes());
    }
    body.extend_from_slice(field("language", "de").as_bytes());
    body.extend_from_slice(ends().as_bytes());
    body
}

/// Headers of an upload; `framing` is `Content-Length` or `Transfer-Encoding` with its value.
fn headers<'a>(
    bearer: &'a str,
    kind: &'a str,
    framing: (&'a str, &'a str),
) -> [(&'a str, &'a str); 3] {
    [("Authorization", bearer), ("Content-Type", kind), framing]
}

fn bearer() -> String {
    format!("Bearer {KEY}")
}

fn kind() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

async fn post(client: &mut Client, body: &[u8]) -> Response {
    let length = body.len().to_string();
    client
        .request(
            "POST",
            PATH,
            &headers(&bearer(), &kind(), ("Content-Length", &length)),
            body,
        )
        .await
}

fn code(answer: &Response) -> (u16, Value) {
    (answer.status, answer.json()["error"]["code"].clone())
}

#[tokio::test]
async fn with_the_model_first_the_rest_is_streamed() {
    let _shared = MEMORY.read().await;
    let (provider, gateway, mut client) = start("").await;
    let body = form("hear", &noise(300_000), false);
    for chunked in [false, true] {
        let length = body.len().to_string();
        let framing = match chunked {
            false => ("Content-Length", &*length),
            true => ("Transfer-Encoding", "chunked"),
        };
        client
            .send_head("POST", PATH, &headers(&bearer(), &kind(), framing))
            .await;
        let (first, last) = body.split_at(100_000);
        let before = provider.count();
        match chunked {
            false => client.send_raw(first).await,
            true => client.send_chunk(first).await,
        }
        // Most of what was sent has arrived while the client still holds the rest back.
        provider
            .wait_until("the first bytes", |seen| {
                seen.get(before).is_some_and(|s| s.received >= 90_000)
            })
            .await;
        assert_eq!(provider.last().unwrap().body_done, None);
        match chunked {
            false => client.send_raw(last).await,
            true => {
                client.send_chunk(last).await;
                client.send_chunk(b"").await;
            }
        }
        let answer = client.response().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = provider.last().unwrap();
        assert!(seen.body == body, "the body was changed");
        let told = seen.header("content-length");
        assert_eq!(told, (!chunked).then_some(&*length));
    }
    for line in gateway.log(2).await {
        assert_eq!(
            (&line["model"], &line["status"]),
            (&json!("hear"), &json!(200))
        );
        assert!(line["bytes_in"].as_u64().unwrap() >= 300_000, "{line}");
    }
    assert!(
        provider.malformed().is_empty(),
        "{:?}",
        provider.malformed()
    );
}

#[tokio::test]
async fn a_form_with_its_file_first_works_too() {
    let _shared = MEMORY.read().await;
    let (provider, _gateway, mut client) = start("").await;
    // In memory, around the limit of that, and spooled.
    for size in [0, 10, 10_000, 256 << 10, (256 << 10) + 1, 3 << 20] {
        let body = form("hear", &noise(size), true);
        let answer = post(&mut client, &body).await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        assert!(
            provider.last().unwrap().body == body,
            "{size}: the body was changed"
        );

        let framing = ("Transfer-Encoding", "chunked");
        client
            .send_head("POST", PATH, &headers(&bearer(), &kind(), framing))
            .await;
        for piece in body.chunks(50_001) {
            client.send_chunk(piece).await;
        }
        client.send_chunk(b"").await;
        assert_eq!(client.response().await.status, 200, "{size}");
        assert!(
            provider.last().unwrap().body == body,
            "{size}, chunked: the body was changed"
        );
    }
    assert_eq!(provider.count(), 12);
}

#[tokio::test]
async fn the_model_is_rewritten_in_the_form() {
    let _shared = MEMORY.read().await;
    let (provider, gateway, mut client) = start("").await;
    for (asked, upstream) in [
        ("hear-alias", "hear"),
        ("hear-public", "vendor/a-much-longer-internal-name"),
    ] {
        for file_first in [false, true] {
            for size in [100, 1 << 20] {
                let file = noise(size);
                let answer = post(&mut client, &form(asked, &file, file_first)).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                let seen = provider.last().unwrap();
                let expected = form(upstream, &file, file_first);
                assert!(seen.body == expected, "{asked} {file_first} {size}");
                assert_eq!(
                    seen.header("content-length"),
                    Some(&*expected.len().to_string())
                );
            }
        }
    }
    let lines = gateway.log(8).await;
    assert!(lines[..4].iter().all(|line| line["model"] == "hear"));
    assert!(lines[4..].iter().all(|line| line["model"] == "hear-public"));
}

#[tokio::test]
async fn the_form_arrives_whatever_its_pieces() {
    let _shared = MEMORY.read().await;
    let (provider, _gateway, mut client) = start("").await;
    let file = format!("\r\n--{}\r\n\r\n--", &BOUNDARY[..BOUNDARY.len() - 1]);
    for file_first in [false, true] {
        let body = form("hear-public", file.as_bytes(), file_first);
        let expected = form(
            "vendor/a-much-longer-internal-name",
            file.as_bytes(),
            file_first,
        );
        for step in [1, 2, 7, 61] {
            let framing = ("Transfer-Encoding", "chunked");
            client
                .send_head("POST", PATH, &headers(&bearer(), &kind(), framing))
                .await;
            for piece in body.chunks(step) {
                client.send_chunk(piece).await;
            }
            client.send_chunk(b"").await;
            let answer = client.response().await;
            assert_eq!(answer.status, 200, "step {step}: {}", answer.text());
            assert_eq!(provider.last().unwrap().body, expected, "step {step}");
        }
    }
}

#[tokio::test]
async fn a_second_model_never_reaches_the_provider_whole() {
    let _shared = MEMORY.read().await;
    let (provider, gateway, mut client) = start("").await;
    // Seen before anything is sent, and seen after most of it has been.
    for size in [10, 2 << 20] {
        for name in ["model", "Model", "model\"; x=\"y"] {
            let mut body = field("model", "hear").into_bytes();
            body.extend_from_slice(file_begins().as_bytes());
            body.extend_from_slice(&noise(size));
            body.extend_from_slice(b"\r\n");
            body.extend_from_slice(field(name, "hear-public").as_bytes());
            body.extend_from_slice(ends().as_bytes());
            let answer = post(&mut client, &body).await;
            assert_eq!(
                code(&answer),
                (400, json!("duplicate_field")),
                "{size} {name}"
            );
            client = Client::connect(gateway.addr).await;
        }
    }
    gateway.log(6).await;
    provider
        .wait_until("all to be over", |seen| {
            seen.iter().all(|s| s.ended.is_some())
        })
        .await;
    for seen in provider.seen() {
        assert_eq!((seen.outcome, seen.body_done), (Outcome::Cancelled, None));
    }
}

#[tokio::test]
async fn what_is_billed_by_is_said_once_and_plainly() {
    let (provider, gateway, mut client) = start("").await;
    let model = field("model", "hear");
    for (fields, refusal, param) in [
        (
            field("size", "1x1") + &field("size", "2x2"),
            "duplicate_field",
            "size",
        ),
        (field("n", "1") + &field("n", "10"), "duplicate_field", "n"),
        (field("N", "10"), "duplicate_field", "n"),
        (field("n", "ten"), "invalid_value", "n"),
    ] {
        let body = format!("{fields}{model}{}", ends());
        let answer = post(&mut client, body.as_bytes()).await;
        assert_eq!(code(&answer), (400, json!(refusal)), "{fields}");
        assert_eq!(answer.json()["error"]["param"], param);
        client = Client::connect(gateway.addr).await;
    }
    assert_eq!(provider.count(), 0);
    let fields = field("n", "2") + &field("size", "1024x1024");
    let body = format!("{model}{}x\r\n{fields}{}", file_begins(), ends());
    let answer = post(&mut client, body.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn what_is_no_form_or_names_no_model() {
    let _shared = MEMORY.read().await;
    let (provider, _gateway, mut client) = start("").await;
    let whole = form("hear", b"abc", false);
    let nameless = format!("{}{}{}", field("language", "de"), file_begins(), "abc\r\n") + &ends();
    let answer = post(&mut client, nameless.as_bytes()).await;
    assert_eq!(code(&answer), (400, json!("missing_required_parameter")));
    assert_eq!(answer.json()["error"]["param"], "model");
    for body in ["", "nothing of the kind", &nameless[..nameless.len() / 2]] {
        let answer = post(&mut client, body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{body:?}");
    }
    let bearer = bearer();
    for kind in [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "text/plain; boundary=x",
    ] {
        let headers = [("Authorization", &*bearer), ("Content-Type", kind)];
        let answer = client.request("POST", PATH, &headers, &whole).await;
        assert_eq!(answer.status, 400, "{kind}");
    }
    let answer = post(&mut client, &form("", b"abc", false)).await;
    assert_eq!(answer.status, 400);
    let answer = post(&mut client, &form("absent", b"abc", false)).await;
    assert_eq!(code(&answer), (404, json!("model_not_found")));
    // The connection was kept through all of it, and nothing went out.
    assert_eq!(provider.count(), 0);
    assert_eq!(post(&mut client, &whole).await.status, 200);
}

#[tokio::test]
async fn forms_above_the_limit_are_refused() {
    let _shared = MEMORY.read().await;
    let (provider, gateway, mut client) = start("limits: { body: 1MiB }\n").await;
    let (bearer, kind) = (bearer(), kind());
    // Announced: nothing is read.
    client
        .send_head(
            "POST",
            PATH,
            &headers(&bearer, &kind, ("Content-Length", "1048577")),
        )
        .await;
    assert_eq!(
        code(&client.response().await),
        (413, json!("request_too_large"))
    );
    assert_eq!(provider.count(), 0);
    // Found on the way, before the model and after it.
    for file_first in [true, false] {
        let mut client = Client::connect(gateway.addr).await;
        let framing = ("Transfer-Encoding", "chunked");
        client
            .send_head("POST", PATH, &headers(&bearer, &kind, framing))
            .await;
        for piece in form("hear", &noise(1 << 20), file_first).chunks(64 << 10) {
            client.send_chunk(piece).await;
        }
        client.send_chunk(b"").await;
        assert_eq!(
            code(&client.response().await),
            (413, json!("request_too_large"))
        );
    }
    gateway.log(3).await;
    provider
        .wait_until("the end", |seen| seen.iter().all(|s| s.ended.is_some()))
        .await;
    assert!(provider.seen().iter().all(|seen| seen.body_done.is_none()));
    // As large as may be.
    let room = (1 << 20) - form("hear", b"", false).len();
    let mut client = Client::connect(gateway.addr).await;
    let answer = post(&mut client, &form("hear", &noise(room), false)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_client_that_leaves_in_its_upload_takes_the_upstream_along() {
    let _shared = MEMORY.read().await;
    let (provider, gateway, mut client) = start("").await;
    client
        .send_head(
            "POST",
            PATH,
            &headers(&bearer(), &kind(), ("Content-Length", "1000000")),
        )
        .await;
    client
        .send_raw(&form("hear", &noise(200_000), false)[..150_000])
        .await;
    provider
        .wait_until("some of it", |seen| {
            seen.first().is_some_and(|s| s.received > 0)
        })
        .await;
    drop(client);
    provider.wait_cancelled(1).await;
    let line = &gateway.log(1).await[0];
    assert_eq!(
        (&line["status"], &line["code"]),
        (&json!(499), &json!("client_gone"))
    );
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn an_early_refusal_of_the_provider_arrives() {
    let _shared = MEMORY.read().await;
    let (provider, _gateway, mut client) = start("").await;
    let refusal = json!({ "error": { "message": "no such format", "code": "bad_format" } });
    provider.next(Script::answer(400).json(&refusal).early());
    let answer = post(&mut client, &form("hear", &noise(2 << 20), false)).await;
    assert_eq!((answer.status, answer.json()), (400, refusal));
}

#[tokio::test]
async fn an_upload_is_not_sent_over_a_connection_that_may_be_dying() {
    let _shared = MEMORY.read().await;
    let (provider, _gateway, mut client) = start("").await;
    provider.on(
        "hear",
        Script::answer(200).json(&json!({ "text": "" })).close(),
    );
    let body = form("hear", &noise(100_000), false);
    for _ in 0..20 {
        assert_eq!(post(&mut client, &body).await.status, 200);
    }
    assert_eq!(provider.count(), 20);
}

/// Anonymous memory of this process in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kilobytes.unwrap() << 10
}

const LARGE: usize = 64 << 20;

#[tokio::test]
async fn a_large_upload_is_never_held_in_memory() {
    let _alone = MEMORY.write().await;
    let (provider, _gateway, mut client) = start("limits: { body: 128MiB }\n").await;
    provider.discard_bodies();
    let piece = Bytes::from(noise(64 << 10));
    for file_first in [false, true] {
        let around = form("hear", b"", file_first);
        let at = file_begins().len()
            + if file_first {
                0
            } else {
                field("model", "hear").len()
            };
        let (begin, end) = around.split_at(at);
        let length = (LARGE + around.len()).to_string();
        provider.next(Script::answer(200).json(&json!({ "text": "" })));
        let (before, mut peak) = (memory(), 0);
        client
            .send_head(
                "POST",
                PATH,
                &headers(&bearer(), &kind(), ("Content-Length", &length)),
            )
            .await;
        client.send_raw(begin).await;
        for n in 0..LARGE / piece.len() {
            client.send_raw(&piece).await;
            if n % 32 == 0 {
                peak = peak.max(memory());
            }
        }
        client.send_raw(end).await;
        let head = client.read_head().await;
        peak = peak.max(memory());
        assert_eq!(head.status, 200);
        client.rest().await;
        assert_eq!(provider.last().unwrap().received, LARGE + around.len());
        let grown = peak.saturating_sub(before);
        assert!(grown < 16 << 20, "file first: {file_first}: {grown} bytes");
    }
}

#[tokio::test]
async fn a_slow_provider_slows_the_client() {
    let _alone = MEMORY.write().await;
    // Accepts the connection and never reads from it.
    let deaf = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/v1", deaf.local_addr().unwrap());
    let holding = tokio::spawn(async move { deaf.accept().await });
    let gateway = Gateway::start(&sections(&url, "limits: { body: 128MiB }\n")).await;
    let mut client = Client::connect(gateway.addr).await;
    let length = LARGE.to_string();
    client
        .send_head(
            "POST",
            PATH,
            &headers(&bearer(), &kind(), ("Content-Length", &length)),
        )
        .await;
    client.send_raw(field("model", "hear").as_bytes()).await;
    client.send_raw(file_begins().as_bytes()).await;
    let (piece, before) = (noise(64 << 10), memory());
    let mut sent = 0;
    // What fits between the sockets goes out; then sending stops.
    while tokio::time::timeout(Duration::from_millis(500), client.send_raw(&piece))
        .await
        .is_ok()
    {
        sent += piece.len();
        assert!(sent < LARGE, "nothing held the client back");
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes after {sent}");
    holding.abort();
}
