//! Headers, paths and connections of an attacker: whatever comes, the provider sees a plain request or
//! none, and nobody's connection is lost over it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::json;
use support::clock::pass;
use support::gateway::{KEY, NARROW_KEY};
use support::hostile::{CHAT, MESSAGES, UPSTREAM_SECRET, World, bearer, good, post, sized};
use support::refusal::{Envelope, refused};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

// Headers

#[tokio::test]
async fn large_or_many_headers_are_refused() {
    let world = World::start("").await;
    let large = "a".repeat(33 << 10);
    let names: Vec<String> = (0..150).map(|n| format!("X-Field-{n}")).collect();
    let mut many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    let key = bearer(KEY);
    many.push(("Authorization", &key));
    for headers in [&[("Authorization", &*key), ("X-Large", &*large)][..], &many] {
        for (path, envelope) in [(CHAT, Envelope::OpenAi), (MESSAGES, Envelope::Anthropic)] {
            let mut client = world.client().await;
            let answer = client.request("POST", path, headers, &good()).await;
            refused(&answer, envelope, 431, "headers_too_large");
        }
    }
    world.unharmed().await;
}

#[tokio::test]
async fn headers_beyond_what_the_parser_takes_are_refused_too() {
    let world = World::start("").await;
    let names: Vec<String> = (0..2000).map(|n| format!("X-Field-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "1")).collect();
    let huge = "a".repeat(3 << 20);
    for headers in [&many[..], &[("X-Huge", &*huge)]] {
        let mut client = world.client().await;
        let answer = client.request("POST", CHAT, headers, &good()).await;
        refused(&answer, Envelope::OpenAi, 400, "invalid_request");
        assert!(client.closes(Duration::from_secs(5)).await);
    }
    world.unharmed().await;
}

#[tokio::test]
async fn one_request_has_one_key() {
    let world = World::start("").await;
    let (key, other) = (bearer(KEY), bearer(NARROW_KEY));
    for headers in [
        &[("Authorization", &*key), ("Authorization", &*key)][..],
        &[("Authorization", &*key), ("authorization", &*other)],
        &[("X-API-Key", KEY), ("x-api-key", KEY)],
        &[("Authorization", &*key), ("X-API-Key", NARROW_KEY)],
        &[("X-API-Key", KEY), ("Authorization", &*other)],
    ] {
        for (path, envelope) in [(CHAT, Envelope::OpenAi), (MESSAGES, Envelope::Anthropic)] {
            let mut client = world.client().await;
            let answer = client.request("POST", path, headers, &good()).await;
            refused(&answer, envelope, 401, "invalid_api_key");
        }
    }
    world.unharmed().await;
}

#[tokio::test]
async fn connection_options_cannot_name_our_headers_away() {
    let world = World::start("").await;
    for named in [
        "authorization, content-length, x-api-key, host",
        "close, authorization, content-length, transfer-encoding, host",
        "keep-alive, Authorization,Content-Length,Host,Content-Type",
    ] {
        for (path, model) in [(CHAT, "gpt-test"), (MESSAGES, "claude-test")] {
            let mut client = world.client().await;
            let headers = [("Authorization", &*bearer(KEY)), ("Connection", named)];
            let body = json!({ "model": model, "messages": [], "max_tokens": 5 }).to_string();
            let answer = client
                .request("POST", path, &headers, body.as_bytes())
                .await;
            assert_eq!(answer.status, 200, "{named}: {}", answer.text());
            let seen = world.provider.last().unwrap();
            let credential = match path {
                CHAT => ("authorization", bearer(UPSTREAM_SECRET)),
                _ => ("x-api-key", UPSTREAM_SECRET.to_owned()),
            };
            assert_eq!(seen.header_all(credential.0), [credential.1]);
            assert_eq!(seen.header_all("content-length"), [body.len().to_string()]);
            assert_eq!(seen.header_all("transfer-encoding"), [""; 0]);
            assert_eq!(seen.header_all("host"), [world.provider.addr().to_string()]);
            assert_eq!(seen.body, body);
        }
    }
    assert_eq!(world.provider.malformed(), Vec::<String>::new());
}

#[tokio::test]
async fn headers_of_one_hop_stay_on_it() {
    let world = World::start("").await;
    let mut client = world.client().await;
    let headers = [
        ("Authorization", &*bearer(KEY)),
        ("Connection", "keep-alive, Upgrade, HTTP2-Settings, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic dTpw"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("X-End", "1"),
    ];
    let answer = client.request("POST", CHAT, &headers, &good()).await;
    assert_eq!(answer.status, 200);
    let seen = world.provider.last().unwrap();
    assert_eq!(seen.header("x-end"), Some("1"));
    for (name, _) in &headers[2..headers.len() - 1] {
        assert_eq!(seen.header_all(name), [""; 0], "{name}");
    }
    for value in seen.header_all("connection") {
        assert!(!value.to_ascii_lowercase().contains("x-hop"), "{value}");
    }
}

// Paths

#[tokio::test]
async fn a_path_is_taken_as_it_is_or_not_at_all() {
    let world = World::start("").await;
    for (target, status, code) in [
        ("//v1/chat/completions", 404, "not_found"),
        ("/v1//chat/completions", 404, "not_found"),
        ("/v1/chat//completions", 404, "not_found"),
        ("/v1/./chat/completions", 404, "not_found"),
        ("/v1/x/../chat/completions", 404, "not_found"),
        ("/../v1/chat/completions", 404, "not_found"),
        ("/%2e%2e/v1/chat/completions", 404, "not_found"),
        ("/v1/%2e%2e/v1/chat/completions", 404, "not_found"),
        ("/v1%2fchat%2fcompletions", 404, "not_found"),
        ("/v1/chat%2Fcompletions", 404, "not_found"),
        ("/v1/%63hat/completions", 404, "not_found"),
        ("/v1/chat/completions%00", 404, "not_found"),
        ("/v1/chat/completions%20", 404, "not_found"),
        ("/v1/chat/completions;a=b", 404, "not_found"),
        ("/v1;a=b/chat/completions", 404, "not_found"),
        ("/v1/chat/completions/", 404, "not_found"),
        ("/V1/chat/completions", 404, "not_found"),
        ("/v1/Chat/Completions", 404, "not_found"),
        ("/v1\\chat\\completions", 404, "not_found"),
        ("/v1/chat/completions\u{e9}", 400, "invalid_request"),
        (
            "http://127.0.0.1/v1/chat/completions",
            400,
            "invalid_request",
        ),
        (
            "http://evil.example/v1/chat/completions",
            400,
            "invalid_request",
        ),
        ("v1/chat/completions", 400, "invalid_request"),
        ("?/v1/chat/completions", 400, "invalid_request"),
        ("*", 400, "invalid_request"),
    ] {
        let answer = world.post(target, &good()).await;
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
        refused(&answer, Envelope::OpenAi, status, code);
    }
    for (method, target, status, code) in [
        ("OPTIONS", "*", 400, "invalid_request"),
        ("CONNECT", "evil.example:443", 400, "invalid_request"),
        ("CONNECT", "/v1", 404, "not_found"),
    ] {
        let mut client = world.client().await;
        let answer = client.request(method, target, &[], b"").await;
        refused(&answer, Envelope::OpenAi, status, code);
    }
    world.unharmed().await;
}

#[tokio::test]
async fn a_query_goes_up_as_it_came_and_nothing_else_does() {
    let world = World::start("").await;
    for (target, expected) in [
        (
            "/v1/chat/completions?beta=true",
            "/v1/chat/completions?beta=true",
        ),
        (
            "/v1/chat/completions?a=%0d%0aX-Evil:%201&b=//../%2e",
            "/v1/chat/completions?a=%0d%0aX-Evil:%201&b=//../%2e",
        ),
    ] {
        let answer = world.post(target, &good()).await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        let seen = world.provider.last().unwrap();
        assert_eq!(seen.path, expected);
        assert_eq!(seen.header("x-evil"), None);
    }
    // A fragment is not part of a request: it goes nowhere.
    let answer = world.post("/v1/chat/completions#x", &good()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.provider.last().unwrap().path, CHAT);
}

// Connections

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let world = World::start("").await;
    let mut client = world.client().await;
    let body = String::from_utf8(good()).unwrap();
    let key = bearer(KEY);
    let chat = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let list = format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n");
    let all = format!("{chat}{list}{chat}GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n{chat}");
    client.send_raw(all.as_bytes()).await;
    for expected in ["chat.completion", "list", "chat.completion"] {
        let answer = client.response().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["object"], expected);
    }
    refused(&client.response().await, Envelope::OpenAi, 404, "not_found");
    assert_eq!(client.response().await.status, 200);
    assert_eq!(world.provider.count(), 3);
}

/// What comes back on a plain socket until `enough` of it is there.
async fn read_until(stream: &mut TcpStream, enough: &str) -> String {
    let mut text = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&text).contains(enough) {
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                break;
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(10), read).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(in_time.is_ok(), "waited for {enough:?}, got {text:?}");
    text
}

fn expecting(key: &str) -> String {
    format!(
        "POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        bearer(key),
        good().len()
    )
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue() {
    let world = World::start("").await;
    let mut stream = TcpStream::connect(world.gateway.addr).await.unwrap();
    // Twice: the connection is kept.
    for _ in 0..2 {
        stream.write_all(expecting(KEY).as_bytes()).await.unwrap();
        let interim = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(&good()).await.unwrap();
        let answer = read_until(&mut stream, "\"total_tokens\"").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        read_rest(&mut stream, &answer).await;
    }
    assert_eq!(world.provider.count(), 2);
    assert_eq!(world.provider.last().unwrap().header("expect"), None);
}

/// Reads what `Content-Length` still promises of an answer.
async fn read_rest(stream: &mut TcpStream, text: &str) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = head
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.parse::<usize>().unwrap())
        })
        .expect("a length");
    let mut rest = vec![0; length - body.len()];
    stream.read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_client_that_asks_first_with_a_wrong_key_is_refused_without_its_body() {
    let world = World::start("").await;
    let mut stream = TcpStream::connect(world.gateway.addr).await.unwrap();
    stream
        .write_all(expecting("sk-wrong").as_bytes())
        .await
        .unwrap();
    let answer = read_until(&mut stream, "invalid_api_key").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    // It may send its body after all, or not: only a closed connection leaves no doubt.
    assert!(
        answer
            .to_ascii_lowercase()
            .contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(matches!(end, Ok(Ok(_))), "{end:?}");
    world.unharmed().await;
}

#[tokio::test]
async fn a_refusal_with_a_small_body_keeps_the_connection() {
    let world = World::start("").await;
    let mut client = world.client().await;
    let body = sized(10_000);
    for round in 1..=3 {
        let answer = client
            .request("POST", CHAT, &[("Authorization", "Bearer sk-wrong")], &body)
            .await;
        refused(&answer, Envelope::OpenAi, 401, "invalid_api_key");
        let answer = post(&mut client, "/v1/nowhere", &body).await;
        refused(&answer, Envelope::OpenAi, 404, "not_found");
        let answer = post(&mut client, "/v1/models", &body).await;
        refused(&answer, Envelope::OpenAi, 405, "method_not_allowed");
        let answer = post(&mut client, CHAT, b"{").await;
        refused(&answer, Envelope::OpenAi, 400, "invalid_json");
        // Chunked as well.
        let headers = [
            ("Authorization", "Bearer sk-wrong"),
            ("Transfer-Encoding", "chunked"),
        ];
        client.send_head("POST", CHAT, &headers).await;
        client.send_chunk(&body).await;
        client.send_chunk(b"").await;
        refused(
            &client.response().await,
            Envelope::OpenAi,
            401,
            "invalid_api_key",
        );
        let answer = post(&mut client, CHAT, &good()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(world.provider.count(), round);
    }
}

#[tokio::test]
async fn a_refusal_with_a_large_body_is_readable_and_ends_the_connection_cleanly() {
    let world = World::small().await;
    for size in [1 << 20, 2 << 20, 8 << 20] {
        let mut client = world.client().await;
        let body = sized(size);
        let headers = [("Authorization", "Bearer sk-wrong")];
        let answer = client.request("POST", CHAT, &headers, &body).await;
        refused(&answer, Envelope::OpenAi, 401, "invalid_api_key");
        assert!(client.closes(Duration::from_secs(5)).await);
        let mut client = world.client().await;
        let answer = post(&mut client, CHAT, &body).await;
        refused(&answer, Envelope::OpenAi, 413, "request_too_large");
        assert!(client.closes(Duration::from_secs(5)).await);
    }
    world.unharmed().await;
}

/// Ten seconds for a header from its first byte on, however it comes; an idle connection has longer.
#[tokio::test]
async fn a_header_that_is_dripped_in_is_not_waited_for() {
    let world = World::start("").await;
    let mut idle = world.client().await;
    assert_eq!(post(&mut idle, CHAT, &good()).await.status, 200);
    let mut stalled = world.client().await;
    stalled.send_raw(b"POST /v1/chat").await;
    let mut dripping = world.client().await;
    for byte in b"POST" {
        dripping.send_raw(&[*byte]).await;
        // A request on another connection: by its answer the byte has been read.
        assert_eq!(
            post(&mut world.client().await, CHAT, &good()).await.status,
            200
        );
        pass(Duration::from_secs(3)).await;
    }
    assert!(stalled.closes(Duration::from_secs(5)).await);
    assert!(dripping.closes(Duration::from_secs(5)).await);
    assert_eq!(post(&mut idle, CHAT, &good()).await.status, 200);
}
