//! Providers that mean no good: what they send is bounded in size and in time, nothing of it that is
//! not meant for clients reaches them, and each request has one end, which is the provider's fault.
//!
//! Above 400 lines: each way in which an answer can be too much has a test, and all share one set-up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use support::clock::pass;
use support::endless::{Endless, STREAM, Speech, chunk};
use support::gateway::{Gateway, KEY};
use support::http::{Broken, Client, PATIENCE, Response};
use support::provider::{Gate, Provider, Script, Step};
use support::tls::{Front, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CHAT: &str = "/v1/chat/completions";

struct World {
    provider: Provider,
    gateway: Gateway,
}

/// A gateway before this address; `more` are settings of the provider, and `sections` of the file.
async fn before(base_url: &str, more: &str, sections: &str) -> Gateway {
    Gateway::start(&format!(
        "providers: {{ fake: {{ api: openai, base_url: \"{base_url}\", keys: [upstream-secret-0123456789]{more} }} }}
models:
  - {{ id: gpt-test, upstreams: [{{ provider: fake }}], price: {{ input: 4, output: 16 }} }}
  - {{ id: speech-test, modality: audio, upstreams: [{{ provider: fake }}] }}
accounts: {{ acme: {{ plan: all, balance: 1, projects: [default] }} }}
billing: {{ mode: enforce }}
{sections}
"
    ))
    .await
}

impl World {
    async fn start(more: &str, sections: &str) -> World {
        let provider = Provider::start().await;
        let gateway = before(&provider.base_url(), more, sections).await;
        World { provider, gateway }
    }

    /// What the client gets of this answer.
    async fn gets(&self, script: Script) -> Response {
        self.provider.next(script);
        post(&self.gateway, CHAT, &chat(false)).await
    }

    /// This answer is refused as a whole, once, and counted as the provider's failure.
    async fn refuses(&self, script: Script) -> Response {
        let asked = self.provider.count();
        let counted = broken(&self.gateway).await;
        let answer = self.gets(script).await;
        refused(&answer);
        assert_eq!(self.provider.count(), asked + 1, "asked again");
        assert_eq!(broken(&self.gateway).await, counted + 1.0);
        // Each request was asked once, and has one line.
        let log = self.gateway.log(asked + 1).await;
        assert_eq!(log.len(), asked + 1);
        assert_eq!(log[asked]["code"], "upstream_error");
        assert_eq!(log[asked]["status"], 502);

        assert_eq!(log[asked]["charge"], Value::Null, "{}", log[asked]);
        answer
    }
}

fn refused(answer: &Response) {
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "upstream_error");
    for name in ["set-cookie", "location", "content-encoding", "x-evil"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

/// Attempts that count as broken off by the provider.
async fn broken(gateway: &Gateway) -> f64 {
    let series = "tollgate_upstream_requests_total{outcome=\"broken\",provider=\"fake\"}";
    gateway.metric(series).await
}

fn chat(stream: bool) -> Value {
    json!({ "model": "gpt-test", "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn post(gateway: &Gateway, path: &str, body: &Value) -> Response {
    let mut client = Client::connect(gateway.addr).await;
    client.post_json(path, KEY, body).await
}

/// Asks on a connection of its own and leaves the answer to be read.
async fn begin(gateway: &Gateway, body: &Value) -> Client {
    let mut client = Client::connect(gateway.addr).await;
    let key = format!("Bearer {KEY}");
    let headers = [("Authorization", &*key)];
    client
        .send("POST", CHAT, &headers, body.to_string().as_bytes())
        .await;
    client
}

fn ok() -> Script {
    Script::answer(200).json(&json!({ "ok": true }))
}

fn raw(text: impl Into<Bytes>) -> Script {
    Script::garbage(text)
}

#[tokio::test]
async fn headers_above_the_cap_are_refused() {
    let world = World::start("", "").await;
    let many = |count| (0..count).fold(ok(), |script, n| script.header(&format!("x-{n}"), "1"));
    assert_eq!(world.gets(many(90)).await.status, 200);
    // With the type and the length it is above 100; above 256 Pingora's parser gives up.
    for count in [99, 250, 300] {
        world.refuses(many(count)).await;
    }
    let long = |length| ok().header("x-evil", &"y".repeat(length));
    assert_eq!(world.gets(long(60 << 10)).await.status, 200);
    world.refuses(long(64 << 10)).await;
    world.refuses(long(1 << 20)).await;
    world.refuses(long(2 << 20)).await;
    assert_eq!(world.gets(ok()).await.status, 200);
}

#[tokio::test]
async fn a_header_without_an_end_is_not_read_on() {
    for again in [
        "x-evil: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
        "y",
    ] {
        let upstream = Endless::start(Speech {
            first: b"HTTP/1.1 200 OK\r\nx-evil: ".to_vec(),
            again: again.repeat((16 << 10) / again.len()).into_bytes(),
            pause: Duration::ZERO,
        })
        .await;
        let gateway = before(&upstream.base_url(), "", "").await;
        refused(&post(&gateway, CHAT, &chat(false)).await);
        upstream.wait_left(1).await;
        assert_eq!((upstream.requests(), broken(&gateway).await), (1, 1.0));
    }
}

#[tokio::test]
async fn hints_are_no_answer() {
    let world = World::start(", timeouts: { first_byte: 60s }", "").await;
    let hint = "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\nset-cookie: a=b\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let answer = world.gets(raw(hint.repeat(3) + answer)).await;
    assert_eq!((answer.status, &*answer.text()), (200, "{}"));
    assert_eq!(answer.header("set-cookie"), None);
    // A flood of them is cut.
    world.refuses(raw(hint.repeat(1000))).await;
    // Nor does one now and then make the wait any longer.
    let gate = Gate::new();
    let one = || Step::Garbage(Bytes::from_static(hint.as_bytes()));
    let script = Script::answer(200)
        .step(one())
        .gate(&gate)
        .step(one())
        .stall();
    world.provider.next(script);
    let asked = world.provider.count();
    let mut client = begin(&world.gateway, &chat(false)).await;
    world.provider.wait_bodies(asked + 1).await;
    let early = client.try_read_head(Duration::from_millis(50)).await;
    assert_eq!(early.err(), Some(Broken::Silent));
    pass(Duration::from_secs(40)).await;
    gate.open();
    let early = client.try_read_head(Duration::from_millis(50)).await;
    assert_eq!(early.err(), Some(Broken::Silent));
    pass(Duration::from_secs(21)).await;
    let answer = client.response().await;
    assert_eq!(answer.status, 504, "{}", answer.text());
}

#[tokio::test]
async fn an_answer_has_a_largest_size() {
    let world = World::start("", "limits: { answer: 4KiB }").await;
    let body = |length: usize| {
        let frame = r#"{"a":""}"#;
        frame.replace("\"\"", &format!("\"{}\"", "y".repeat(length - frame.len())))
    };
    let sized = |script: Script, length| {
        script
            .header("content-type", "application/json")
            .body(body(length))
    };
    let answer = world.gets(sized(Script::answer(200), 4096)).await;
    assert_eq!((answer.status, answer.body.len()), (200, 4096));
    // Told beforehand, it is refused before its first byte.
    world.refuses(sized(Script::answer(200), 4097)).await;
    world
        .refuses(sized(Script::answer(200).length(usize::MAX), 10).cut())
        .await;
    // Else it is broken off, and cannot be taken for whole.
    let answer = world.gets(sized(Script::chunked(200), 4096)).await;
    assert_eq!(
        (answer.status, answer.broken, answer.body.len()),
        (200, None, 4096)
    );
    let (asked, counted) = (world.provider.count(), broken(&world.gateway).await);
    let gate = Gate::new();
    let begun = sized(Script::chunked(200), 4096).gate(&gate);
    world.provider.next(begun.chunk("y").chunk(body(4096)));
    let mut client = begin(&world.gateway, &chat(false)).await;
    assert_eq!(client.read_head().await.status, 200);
    gate.open();
    let (relayed, end) = client.rest().await;
    assert!(end.is_some(), "half an answer looked whole");
    assert_eq!(relayed.len(), 4096);
    assert_eq!(world.provider.count(), asked + 1);
    assert_eq!(broken(&world.gateway).await, counted + 1.0);
    let line = &world.gateway.log(asked + 1).await[asked];
    assert_eq!(line["code"], "upstream_error");
    // Of a sound, too; a stream may be as long as it likes.
    let sound = Script::chunked(200).header("content-type", "audio/mpeg");
    world
        .provider
        .next(sound.chunk(body(4000)).chunk(body(4000)));
    let speech = json!({ "model": "speech-test", "input": "hi" });
    let answer = post(&world.gateway, "/v1/audio/speech", &speech).await;
    assert!(answer.status == 502 || answer.broken.is_some());
    let long = (0..100).fold(Script::sse(), |script, _| script.data(&body(1000)));
    let answer = world.gets(long.data("[DONE]")).await;
    assert_eq!((answer.status, answer.broken), (200, None));
    assert!(answer.body.len() > 100_000);
}

#[tokio::test]
async fn a_line_of_64_mib_is_not_held() {
    let upstream = Endless::start(Speech {
        first: [
            STREAM.as_bytes(),
            &chunk(b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: "),
        ]
        .concat(),
        again: chunk(&[b'x'; 16 << 10]),
        pause: Duration::ZERO,
    })
    .await;
    let gateway = before(&upstream.base_url(), "", "").await;
    let mut client = begin(&gateway, &chat(true)).await;
    assert_eq!(client.read_head().await.status, 200);
    let (events, end) = client.events().await;
    assert_eq!((events.len(), end), (2, None), "{events:?}");
    assert_eq!(events[1].json()["error"]["code"], "upstream_error");
    upstream.wait_left(1).await;
    assert_eq!((upstream.requests(), broken(&gateway).await), (1, 1.0));
    // One event was relayed, and is paid for.
    let line = &gateway.log(1).await[0];
    assert_eq!(line["code"], "upstream_error");
    assert_eq!(line["usage"], Value::Null);
}

#[tokio::test]
async fn nothing_is_decompressed_and_nothing_encoded_passes() {
    let world = World::start("", "").await;
    // A bomb: 1 KiB that claims to be gzip. What it holds is nobody's business here.
    let bomb = vec![0x1f; 1024];
    let encoded = |status, kind: &str, coding: &str| {
        Script::answer(status)
            .header("content-type", kind)
            .header("content-encoding", coding)
            .body(bomb.clone())
    };
    for coding in ["gzip", "br", "deflate, gzip", "identity, gzip", ""] {
        for kind in ["application/json", "text/event-stream", "text/plain"] {
            world.refuses(encoded(200, kind, coding)).await;
        }
    }
    for status in [400, 404, 422] {
        world
            .refuses(encoded(status, "application/json", "gzip"))
            .await;
    }
    let sound = Script::answer(200).header("content-type", "audio/mpeg");
    world
        .provider
        .next(sound.header("content-encoding", "gzip").body(bomb));
    let speech = json!({ "model": "speech-test", "input": "hi" });
    refused(&post(&world.gateway, "/v1/audio/speech", &speech).await);
    let plain = world
        .gets(ok().header("content-encoding", "identity"))
        .await;
    assert_eq!((plain.status, plain.json()), (200, json!({ "ok": true })));
}

#[tokio::test]
async fn redirects_are_neither_followed_nor_passed_on() {
    let elsewhere = Provider::start().await;
    let world = World::start("", "").await;
    let target = elsewhere.base_url();
    for status in [300, 301, 302, 303, 304, 307, 308] {
        let script = Script::answer(status).header("location", &target);
        let answer = world
            .gets(script.header("refresh", &format!("0; {target}")))
            .await;
        refused(&answer);
        assert_eq!(answer.header("refresh"), None);
        assert!(!answer.text().contains(&target));
    }
    assert_eq!((world.provider.count(), elsewhere.count()), (7, 0));
}

#[tokio::test]
async fn of_the_header_only_what_clients_read_passes() {
    let world = World::start("", "").await;
    let evil = [
        ("Set-Cookie", "session=1"),
        ("set-cookie2", "a"),
        ("Location", "http://elsewhere"),
        ("X-Accel-Redirect", "/etc/passwd"),
        ("X-Accel-Buffering", "yes"),
        ("X-Accel-Expires", "1"),
        ("X-Sendfile", "/etc/passwd"),
        ("X-Request-Id", "theirs"),
        ("Request-Id", "theirs"),
        ("Connection", "keep-alive, X-Request-Id, Content-Type"),
        ("Keep-Alive", "timeout=1"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("Trailer", "x-evil"),
        ("Alt-Svc", "h3=\":443\""),
        ("Strict-Transport-Security", "max-age=1"),
        ("Content-Security-Policy", "default-src *"),
        ("Access-Control-Allow-Origin", "http://evil"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Clear-Site-Data", "*"),
        ("Server", "evil"),
        ("WWW-Authenticate", "Basic"),
        ("Retry-After", "100000"),
        ("X-RateLimit-Remaining-Requests", "1"),
        ("anthropic-ratelimit-requests-limit", "1"),
        ("OpenAI-Organization", "operator"),
        ("X-Evil", "1"),
        ("Content-Type", "text/html"),
        ("OpenAI-Processing-Ms", "5"),
    ];
    for status in [200, 400] {
        let script = Script::answer(status).json(&json!({ "ok": true }));
        let script = evil
            .iter()
            .fold(script, |script, (name, value)| script.header(name, value));
        let answer = world.gets(script).await;
        assert_eq!(answer.status, status);
        let mut names: Vec<String> = answer
            .headers
            .iter()
            .map(|(name, _)| name.to_lowercase())
            .collect();
        names.sort();
        let limits = |name: &String| name.starts_with("x-ratelimit-");
        names.retain(|name| !limits(name));
        let passed = [
            "content-length",
            "content-type",
            "date",
            "openai-processing-ms",
            "request-id",
            "x-request-id",
        ];
        names.retain(|name| name != "date" && name != "connection");
        // It is ours.
        assert_eq!(answer.header("connection"), Some("keep-alive"));
        assert_eq!(
            names,
            passed
                .iter()
                .filter(|n| **n != "date")
                .copied()
                .collect::<Vec<_>>()
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_ne!(answer.header("x-request-id"), Some("theirs"));
        assert_ne!(answer.header("request-id"), Some("theirs"));
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let world = World::start("", "").await;
    let json = "content-type: application/json\r\n";
    for text in [
        "garbage\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
        "\0\0\0\0".to_owned(),
        "HTTP/1.1\r\n\r\n".to_owned(),
        "HTTP/1.1 99999 OK\r\n\r\n".to_owned(),
        "HTTP/3.0 200 OK\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n{json}x-evil: a\rb: c\r\ncontent-length: 2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}x-evil: a\0b\r\ncontent-length: 2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}x evil: a\r\ncontent-length: 2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}content-length: -2\r\n\r\n{{}}"),
        format!("HTTP/1.1 200 OK\r\n{json}content-length: 99999999999999999999999\r\n\r\n{{}}"),
    ] {
        let counted = broken(&world.gateway).await;
        let answer = world.gets(raw(text.clone())).await;
        assert_eq!(answer.status, 502, "{text:?}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "upstream_error", "{text:?}");
        assert_eq!(broken(&world.gateway).await, counted + 1.0, "{text:?}");
    }
    // What goes wrong behind the header breaks the answer off.
    let chunked = format!("HTTP/1.1 200 OK\r\n{json}transfer-encoding: chunked\r\n\r\n");
    for rest in [
        "2\r\n{}\r\nnonsense\r\n",
        "ffffffffffffffffff\r\n{}",
        "2\r\n{}",
        "2\r\n{}\r\n-1\r\n",
    ] {
        world.provider.next(raw(chunked.clone() + rest));
        let mut client = begin(&world.gateway, &chat(false)).await;
        match client.try_response().await {
            Ok(answer) if answer.status == 200 => {
                assert!(
                    answer.broken.is_some(),
                    "{rest:?} looked whole: {}",
                    answer.text()
                );
            }
            Ok(answer) => refused(&answer),
            Err(why) => assert_ne!(why, Broken::Silent, "{rest:?}"),
        }
    }
    // What follows an answer belongs to no other.
    let twice = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
        .repeat(2);
    let answer = world.gets(raw(twice)).await;
    assert_eq!((answer.status, &*answer.text()), (200, "{}"));
    assert_eq!(world.gets(ok()).await.json(), json!({ "ok": true }));
}

#[tokio::test]
async fn trailers_stay_behind() {
    let world = World::start("", "").await;
    for kind in ["application/json", "text/event-stream"] {
        let body = match kind {
            "application/json" => "{}",
            _ => "data: [DONE]\n\n",
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\ntrailer: set-cookie\r\n\r\n{:x}\r\n{body}\r\n0\r\nset-cookie: a=b\r\nx-evil: 1\r\n\r\n",
            body.len()
        );
        world.provider.next(raw(answer));
        let mut stream = TcpStream::connect(world.gateway.addr).await.unwrap();
        let json = chat(false).to_string();
        let request = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
        assert!(text.contains(body));
        assert!(
            !text.to_lowercase().contains("cookie") && !text.contains("evil"),
            "{text}"
        );
    }
}

/// A stream that never ends is ended, in the form of its protocol, and charged for what was relayed.
#[tokio::test]
async fn a_busy_stream_has_its_time() {
    let event = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let upstream = Endless::start(Speech {
        first: STREAM.into(),
        again: chunk(event),
        pause: Duration::from_millis(1),
    })
    .await;
    let gateway = before(&upstream.base_url(), ", timeouts: { total: 300ms }", "").await;
    let begun = Instant::now();
    let mut client = begin(&gateway, &chat(true)).await;
    assert_eq!(client.read_head().await.status, 200);
    let (events, end) = client.events().await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(end, None, "a stream is ended, not cut");
    assert!(events.len() > 10, "{}", events.len());
    let last = events.last().unwrap().json();
    assert_eq!(last["error"]["code"], "upstream_timeout", "{last}");
    upstream.wait_left(1).await;
    let line = &gateway.log(1).await[0];
    assert_eq!(line["code"], "upstream_timeout");
    assert_eq!(line["charge"], "estimated", "{line}");
    assert_ne!(line["cost"], Value::Null);
    let timeouts = "tollgate_upstream_requests_total{outcome=\"timeout\",provider=\"fake\"}";
    assert_eq!(gateway.metric(timeouts).await, 1.0);
    assert_eq!(broken(&gateway).await, 0.0);
}

/// The same for one that is silent almost all of the time, at a byte a second: neither limit on silence ends it.
#[tokio::test]
async fn a_byte_at_a_time_has_its_time_too() {
    for (kind, first) in [
        (
            "text/event-stream",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: ",
        ),
        ("application/json", "{\"a\":\""),
    ] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let upstream = Endless::start(Speech {
            first: [head.as_bytes(), &chunk(first.as_bytes())].concat(),
            again: chunk(b"x"),
            pause: Duration::from_millis(20),
        })
        .await;
        let gateway = before(&upstream.base_url(), ", timeouts: { total: 300ms }", "").await;
        let mut client = begin(&gateway, &chat(true)).await;
        assert_eq!(client.read_head().await.status, 200);
        let (body, end) = client.rest().await;
        let text = String::from_utf8_lossy(&body);
        match kind {
            "application/json" => assert!(end.is_some(), "{text} looked whole"),
            _ => assert!(end.is_none() && text.contains("upstream_timeout"), "{text}"),
        }
        upstream.wait_left(1).await;
        assert_eq!(gateway.log(1).await[0]["code"], "upstream_timeout");
    }
}

#[tokio::test]
async fn an_answer_that_has_not_begun_has_its_time_as_well() {
    let world = World::start(", timeouts: { total: 20s, first_byte: 60s }", "").await;
    world.provider.next(Script::silent());
    let mut client = begin(&world.gateway, &chat(true)).await;
    world.provider.wait_bodies(1).await;
    pass(Duration::from_secs(19)).await;
    let early = client.try_read_head(Duration::from_millis(50)).await;
    assert_eq!(early.err(), Some(Broken::Silent));
    pass(Duration::from_secs(2)).await;
    let answer = client.response().await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["error"]["code"], "upstream_timeout");
    world.provider.wait_cancelled(1).await;
    assert_eq!(world.gets(ok()).await.status, 200);
}

/// A client that does not read holds its upstream back, and does not do so for ever.
#[tokio::test]
async fn a_client_that_does_not_read_has_that_time_too() {
    let upstream = Endless::start(Speech {
        first: STREAM.into(),
        again: chunk(&[&b"data: {\"a\":\""[..], &[b'y'; 8 << 10], b"\"}\n\n"].concat()),
        pause: Duration::ZERO,
    })
    .await;
    let gateway = before(&upstream.base_url(), ", timeouts: { total: 1s }", "").await;
    let mut client = begin(&gateway, &chat(true)).await;
    assert_eq!(client.read_head().await.status, 200);
    upstream.wait_left(1).await;
    // It is the client's fault, and paid for as far as it was relayed.
    let line = &gateway.log(1).await[0];
    assert_eq!(
        (line["status"].clone(), line["code"].clone()),
        (json!(499), json!("client_gone"))
    );
    assert_eq!(line["charge"], "estimated", "{line}");
    let timeouts = "tollgate_upstream_requests_total{outcome=\"timeout\",provider=\"fake\"}";
    assert_eq!(
        (gateway.metric(timeouts).await, broken(&gateway).await),
        (0.0, 0.0)
    );
    assert!(client.closes(PATIENCE).await);
}

#[tokio::test]
async fn over_http2_it_is_the_same() {
    let identity = Identity::new();
    let provider = Provider::start().await;
    let front = Front::start(&identity, provider.addr(), &["h2"]).await;
    let base_url = format!("https://127.0.0.1:{}/v1", front.addr.port());
    let more = format!(
        ", ca: {:?}, timeouts: {{ total: 500ms }}",
        identity.file("ca.pem")
    );
    let gateway = before(&base_url, &more, "limits: { answer: 4KiB }").await;
    let world = World { provider, gateway };
    assert_eq!(world.gets(ok()).await.status, 200);
    world
        .refuses((0..120).fold(ok(), |script, n| script.header(&format!("x-{n}"), "1")))
        .await;
    world
        .refuses(ok().header("x-evil", &"y".repeat(70 << 10)))
        .await;
    world.refuses(ok().header("content-encoding", "gzip")).await;
    world
        .refuses(Script::answer(200).json(&json!({ "a": "y".repeat(5000) })))
        .await;
    let answer = world
        .gets(Script::answer(302).header("location", "http://elsewhere"))
        .await;
    refused(&answer);
    // More, or less, than the length says.
    for length in [1, 100] {
        let answer = Script::answer(200).json(&json!({ "ok": true }));
        world.provider.next(answer.length(length).cut());
        let mut client = begin(&world.gateway, &chat(false)).await;
        match client.try_response().await {
            Ok(answer) if answer.status == 200 => assert!(length == 1 || answer.broken.is_some()),
            Ok(answer) => refused(&answer),
            Err(why) => assert_ne!(why, Broken::Silent),
        }
    }
    let pieces = (0..1000).fold(Script::sse(), |script, _| {
        script
            .data("{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}")
            .wait(Duration::from_millis(5))
    });
    let answer = world.gets(pieces).await;
    assert_eq!((answer.status, answer.broken), (200, None));
    assert!(answer.text().contains("upstream_timeout"));
    world.provider.wait_open_streams(0).await;
    assert!(front.http2_requests() > 8);
}

/// Of a stream of HTTP/2 a provider may send 128 KiB ahead of a client that does not read.
#[tokio::test]
async fn over_http2_little_is_sent_ahead() {
    let identity = Identity::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let base_url = format!("https://127.0.0.1:{port}/v1");
    let more = format!(", ca: {:?}", identity.file("ca.pem"));
    let gateway = before(&base_url, &more, "").await;
    let mut client = begin(&gateway, &chat(true)).await;
    let (stream, _) = listener.accept().await.unwrap();
    let tls = identity.acceptor(&["h2"]).accept(stream).await.unwrap();
    let mut connection = h2::server::handshake(tls).await.unwrap();
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    let head = http::Response::builder().header("content-type", "text/event-stream");
    let mut down = respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap();
    down.reserve_capacity(1 << 20);
    let driven = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let room = std::future::poll_fn(|cx| down.poll_capacity(cx)).await;
    assert_eq!(room.unwrap().unwrap(), 128 << 10);
    down.send_data("data: [DONE]\n\n".into(), true).unwrap();
    assert_eq!(client.response().await.status, 200);
    driven.abort();
}
