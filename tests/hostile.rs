//! What an attacker sends: bodies, headers and paths that parsers disagree on, and what must not leak.
//! Raw framing tricks have a page of their own, `smuggling.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::gateway::{Gateway, KEY, NARROW_KEY};
use support::http::{Broken, Client, Response};
use support::provider::Provider;
use support::refusal::{Envelope, framed, refused};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const UPSTREAM_SECRET: &str = "upstream-secret-0123456789abcdef";
const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";
/// `limits.body` of [`small`].
const SMALL: usize = 64 << 10;

struct World {
    provider: Provider,
    gateway: Gateway,
}

impl World {
    async fn start(more: &str) -> World {
        let provider = Provider::start().await;
        let gateway = Gateway::start(&format!(
            "providers:
  fake: {{ api: openai, base_url: \"{}\", keys: [{UPSTREAM_SECRET}] }}
  claude: {{ api: anthropic, base_url: \"{}\", keys: [{UPSTREAM_SECRET}] }}
models:
  - {{ id: gpt-test, upstreams: [{{ provider: fake }}] }}
  - {{ id: transcribe-test, modality: audio, upstreams: [{{ provider: fake }}] }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}] }}
{more}
",
            provider.base_url(),
            provider.anthropic_url()
        ))
        .await;
        World { provider, gateway }
    }

    async fn small() -> World {
        World::start("limits: { body: 64KiB }").await
    }

    async fn client(&self) -> Client {
        Client::connect(self.gateway.addr).await
    }

    /// One request with the good key on a connection of its own.
    async fn post(&self, path: &str, body: &[u8]) -> Response {
        post(&mut self.client().await, path, body).await
    }

    /// The provider saw nothing, and the gateway still serves.
    async fn unharmed(&self) {
        assert_eq!(self.provider.count(), 0, "{:#?}", self.provider.seen());
        assert_eq!(self.provider.malformed(), Vec::<String>::new());
        let answer = self.post(CHAT, &good()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(self.provider.count(), 1);
    }
}

async fn post(client: &mut Client, path: &str, body: &[u8]) -> Response {
    client
        .request("POST", path, &[("Authorization", &bearer(KEY))], body)
        .await
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn good() -> Vec<u8> {
    json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] })
        .to_string()
        .into_bytes()
}

/// The body `{"model":"gpt-test","messages":[],…}` with these members at its end.
fn with(members: &str) -> Vec<u8> {
    format!("{{\"model\":\"gpt-test\",\"messages\":[],{members}}}").into_bytes()
}

/// A good request but for its size.
fn sized(len: usize) -> Vec<u8> {
    let mut body = with("\"user\":\"\"");
    let filling = vec![b'x'; len - body.len()];
    body.splice(body.len() - 2..body.len() - 2, filling);
    assert_eq!(body.len(), len);
    body
}

// Bodies

#[tokio::test]
async fn what_is_not_one_json_object_is_refused() {
    let world = World::start("").await;
    let mut cases: Vec<Vec<u8>> = [
        "",
        " ",
        "{",
        "}",
        "null",
        "[]",
        "\"gpt-test\"",
        "model=gpt-test",
        "{\"model\":}",
        "{\"model\" \"gpt-test\"}",
        "{'model':'gpt-test'}",
        "{model:\"gpt-test\"}",
        "{\"model\":\"gpt-test\",}",
        "{\"model\":\"gpt-test\"} {}",
        "{\"model\":\"gpt-test\"}\0",
        "{\"model\":\"gpt-test\"/**/}",
        "\u{feff}{\"model\":\"gpt-test\",\"messages\":[]}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    cases.extend(
        [
            "\"x\":NaN",
            "\"x\":Infinity",
            "\"x\":-Infinity",
            "\"x\":1e400",
            "\"x\":-1e400",
            "\"x\":01",
            "\"x\":+1",
            "\"x\":0x10",
            "\"x\":.5",
            "\"x\":\"\\ud800\"",
            "\"x\":\"\\x41\"",
            "\"x\":\"a\nb\"",
            "\"x\":\"a\0b\"",
            "\"x\":tru",
        ]
        .map(with),
    );
    for invalid in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xc3",
    ] {
        let mut inside = with("\"user\":\"\"");
        inside.splice(inside.len() - 2..inside.len() - 2, invalid.to_vec());
        cases.push(inside);
        cases.push([&good(), invalid].concat());
    }
    for body in cases {
        for (path, envelope) in [(CHAT, Envelope::OpenAi), (MESSAGES, Envelope::Anthropic)] {
            let answer = world.post(path, &body).await;
            let shown = String::from_utf8_lossy(&body);
            assert_eq!(answer.status, 400, "{path} {shown}: {}", answer.text());
            refused(&answer, envelope, 400, "invalid_json");
        }
    }
    world.unharmed().await;
}

#[tokio::test]
async fn nesting_of_100_000_levels_is_refused() {
    let world = World::start("").await;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 100_000;
        let nested = format!("\"x\":{}1{}", open.repeat(depth), close.repeat(depth));
        let answer = world.post(CHAT, &with(&nested)).await;
        refused(&answer, Envelope::OpenAi, 400, "invalid_json");
        let unclosed = format!("\"x\":{}", open.repeat(depth));
        let answer = world.post(CHAT, &with(&unclosed)).await;
        refused(&answer, Envelope::OpenAi, 400, "invalid_json");
    }
    world.unharmed().await;
}

#[tokio::test]
async fn a_body_of_just_the_limit_passes_and_one_byte_more_does_not() {
    let world = World::small().await;
    let answer = world.post(CHAT, &sized(SMALL)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.provider.last().unwrap().body.len(), SMALL);
    world.provider.reset();
    let answer = world.post(CHAT, &sized(SMALL + 1)).await;
    refused(&answer, Envelope::OpenAi, 413, "request_too_large");
    let answer = world.post(MESSAGES, &sized(SMALL + 1)).await;
    refused(&answer, Envelope::Anthropic, 413, "request_too_large");
    world.unharmed().await;
}

#[tokio::test]
async fn a_content_length_above_the_limit_is_refused_before_the_body_comes() {
    let world = World::small().await;
    for length in ["65537", "10737418240", "18446744073709551615"] {
        let mut client = world.client().await;
        let headers = [("Authorization", &*bearer(KEY)), ("Content-Length", length)];
        client.send_head("POST", CHAT, &headers).await;
        let answer = client.response().await;
        refused(&answer, Envelope::OpenAi, 413, "request_too_large");
        assert!(client.closes(Duration::from_secs(5)).await);
    }
    world.unharmed().await;
}

#[tokio::test]
async fn a_chunked_body_above_the_limit_is_refused() {
    let world = World::small().await;
    let body = sized(SMALL + 1);
    let mut client = world.client().await;
    let headers = [
        ("Authorization", &*bearer(KEY)),
        ("Transfer-Encoding", "chunked"),
    ];
    client.send_head("POST", CHAT, &headers).await;
    for piece in body.chunks(1000) {
        client.send_chunk(piece).await;
    }
    client.send_chunk(b"").await;
    let answer = client.response().await;
    refused(&answer, Envelope::OpenAi, 413, "request_too_large");
    world.unharmed().await;
}

#[tokio::test]
async fn an_endless_chunked_body_is_answered_and_then_no_longer_read() {
    let world = World::small().await;
    let mut client = world.client().await;
    let headers = [
        ("Authorization", &*bearer(KEY)),
        ("Transfer-Encoding", "chunked"),
    ];
    client.send_head("POST", CHAT, &headers).await;
    let piece = [
        format!("{:x}\r\n", 64 << 10).as_bytes(),
        &[b' '; 64 << 10],
        b"\r\n",
    ]
    .concat();
    for _ in 0..16 {
        client.send_raw(&piece).await;
    }
    let answer = client.response().await;
    refused(&answer, Envelope::OpenAi, 413, "request_too_large");
    let mut sent = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while let Ok(Ok(())) = tokio::time::timeout_at(deadline, client.try_send_raw(&piece)).await {
        sent += piece.len();
        assert!(sent < 1 << 30, "it reads on and on");
    }
    assert!(
        tokio::time::Instant::now() < deadline,
        "the connection stays open"
    );
    world.unharmed().await;
}

#[tokio::test]
async fn a_body_that_ends_before_its_content_length_goes_nowhere() {
    let world = World::start("").await;
    let mut client = world.client().await;
    let headers = [("Authorization", &*bearer(KEY)), ("Content-Length", "1000")];
    client.send_head("POST", CHAT, &headers).await;
    client.send_raw(&good()).await;
    client.half_close().await;
    assert!(client.closes(Duration::from_secs(5)).await);
    assert_eq!(world.gateway.log(1).await[0]["status"], 499);
    world.unharmed().await;
}

#[tokio::test]
async fn bytes_after_the_content_length_are_not_the_body() {
    let world = World::start("").await;
    // The body is cut in half: what is left of it is not a request.
    let body = good();
    let mut client = world.client().await;
    let half = (body.len() / 2).to_string();
    let headers = [("Authorization", &*bearer(KEY)), ("Content-Length", &half)];
    let answer = client.request("POST", CHAT, &headers, &body).await;
    refused(&answer, Envelope::OpenAi, 400, "invalid_json");
    refused(
        &client.response().await,
        Envelope::OpenAi,
        400,
        "invalid_request",
    );
    assert!(client.closes(Duration::from_secs(5)).await);
    assert_eq!(world.provider.count(), 0);

    // A whole body and garbage: the request is served, the garbage is not.
    let mut client = world.client().await;
    let whole = body.len().to_string();
    let headers = [("Authorization", &*bearer(KEY)), ("Content-Length", &whole)];
    let with_garbage = [&body[..], b"{}\r\n\r\n"].concat();
    let answer = client.request("POST", CHAT, &headers, &with_garbage).await;
    assert_eq!(answer.status, 200);
    refused(
        &client.response().await,
        Envelope::OpenAi,
        400,
        "invalid_request",
    );
    assert!(client.closes(Duration::from_secs(5)).await);
    assert_eq!(world.provider.last().unwrap().body, body);
    world.provider.reset();
    world.unharmed().await;
}

#[tokio::test]
async fn fields_that_decide_route_or_price_stand_once_and_in_their_own_spelling() {
    let world = World::start("").await;
    let cases: &[(&str, &[&str])] = &[
        (
            "model",
            &[
                "\"model\":\"gpt-test\"",
                "\"model\":\"other\"",
                "\"Model\":\"other\"",
                "\"MODEL\":\"other\"",
                "\"mod\\u0065l\":\"other\"",
                "\"\\u006d\\u006f\\u0064\\u0065\\u006c\":\"other\"",
                "\"model\\u0000\":\"other\"",
            ],
        ),
        (
            "stream",
            &[
                "\"stream\":true,\"stream\":false",
                "\"Stream\":true",
                "\"STREAM\":true",
                "\"str\\u0065am\":true",
                "\"\u{17f}tream\":true",
                "\"\\u017ftream\":true",
            ],
        ),
        (
            "max_tokens",
            &[
                "\"max_tokens\":1,\"max_tokens\":100000",
                "\"Max_Tokens\":1",
                "\"max_to\u{212a}ens\":1",
                "\"max_to\\u212aens\":1",
                "\"max_token\u{17f}\":1",
                "\"max\\u005ftokens\":1",
            ],
        ),
        (
            "max_completion_tokens",
            &["\"max_completion_tokens\":1,\"max_completion_tokens\":2"],
        ),
        (
            "stream_options",
            &[
                "\"stream_options\":null,\"stream_options\":{}",
                "\"Stream_Options\":{}",
                "\"\u{17f}tream_options\":{}",
                "\"stream_option\\u017f\":{}",
                "\"stream\\u005foptions\":{}",
            ],
        ),
        (
            "stream_options.include_usage",
            &[
                "\"stream_options\":{\"include_usage\":true,\"include_usage\":false}",
                "\"stream_options\":{\"Include_Usage\":true}",
                "\"stream_options\":{\"include_u\u{17f}age\":true}",
            ],
        ),
    ];
    for (field, variants) in cases {
        for variant in *variants {
            for (path, envelope) in [(CHAT, Envelope::OpenAi), (MESSAGES, Envelope::Anthropic)] {
                let answer = world.post(path, &with(variant)).await;
                assert_eq!(answer.status, 400, "{variant}: {}", answer.text());
                let error = refused(&answer, envelope, 400, "duplicate_field");
                if envelope == Envelope::OpenAi {
                    assert_eq!(error["param"], *field, "{variant}");
                }
            }
        }
    }
    // Before the true one as well as after it.
    for first in ["\"Model\":\"other\"", "\"mod\\u0065l\":\"other\""] {
        let body = format!("{{{first},\"model\":\"gpt-test\",\"messages\":[]}}");
        let answer = world.post(CHAT, body.as_bytes()).await;
        refused(&answer, Envelope::OpenAi, 400, "duplicate_field");
    }
    // Alone, another spelling is no `model` for some parsers and one for others.
    let answer = world
        .post(CHAT, b"{\"Model\":\"gpt-test\",\"messages\":[]}")
        .await;
    refused(&answer, Envelope::OpenAi, 400, "duplicate_field");
    world.unharmed().await;
}

#[tokio::test]
async fn the_same_names_deeper_down_are_nobodys_business() {
    let world = World::start("").await;
    let body = with("\"metadata\":{\"model\":1,\"Model\":2,\"stream\":\"x\",\"stream\":3}");
    let answer = world.post(CHAT, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.provider.last().unwrap().body, body);
}

#[tokio::test]
async fn control_characters_in_a_model_name_are_refused() {
    let world = World::start("").await;
    for name in [
        "gpt-test\\r\\nX-Evil: 1",
        "gpt-test\\u0000",
        "\\u0000",
        "gpt\\u001btest",
        "gpt-test\\u007f",
        "gpt-test\\u0085",
        "\\n",
    ] {
        let body = format!("{{\"model\":\"{name}\",\"messages\":[]}}");
        for (path, envelope) in [(CHAT, Envelope::OpenAi), (MESSAGES, Envelope::Anthropic)] {
            let answer = world.post(path, body.as_bytes()).await;
            refused(&answer, envelope, 400, "invalid_value");
        }
    }
    world.unharmed().await;
}

#[tokio::test]
async fn fields_of_the_wrong_kind_are_refused() {
    let world = World::start("").await;
    for (member, field) in [
        ("\"stream\":\"true\"", "stream"),
        ("\"stream\":1", "stream"),
        ("\"max_tokens\":-1", "max_tokens"),
        ("\"max_tokens\":1.5", "max_tokens"),
        ("\"max_tokens\":\"1\"", "max_tokens"),
        ("\"max_tokens\":18446744073709551616", "max_tokens"),
        ("\"n\":1e3", "n"),
        ("\"stream_options\":[]", "stream_options"),
    ] {
        let answer = world.post(CHAT, &with(member)).await;
        let error = refused(&answer, Envelope::OpenAi, 400, "invalid_value");
        assert_eq!(error["param"], field);
    }
    for model in ["1", "[\"gpt-test\"]", "{}", "true"] {
        let body = format!("{{\"model\":{model},\"messages\":[]}}");
        let answer = world.post(CHAT, body.as_bytes()).await;
        refused(&answer, Envelope::OpenAi, 400, "invalid_value");
    }
    world.unharmed().await;
}

#[tokio::test]
async fn an_upload_that_names_a_second_model_is_never_completed() {
    let world = World::start("").await;
    let part = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file = part("file", &"x".repeat(600 << 10));
    let (model, other) = (part("model", "transcribe-test"), part("model", "gpt-test"));
    let variant = part("Model", "gpt-test");
    for body in [
        format!("{model}{other}{file}--b--\r\n"),
        format!("{model}{file}{other}--b--\r\n"),
        format!("{file}{model}{other}--b--\r\n"),
        format!("{model}{file}{variant}--b--\r\n"),
    ] {
        let mut client = world.client().await;
        let headers = [
            ("Authorization", &*bearer(KEY)),
            ("Content-Type", "multipart/form-data; boundary=b"),
        ];
        let path = "/v1/audio/transcriptions";
        let answer = client
            .request("POST", path, &headers, body.as_bytes())
            .await;
        refused(&answer, Envelope::OpenAi, 400, "duplicate_field");
    }
    let whole = |seen: &support::provider::Seen| seen.body_done.is_some();
    assert!(!world.provider.seen().iter().any(whole));
    world.provider.reset();
    world.unharmed().await;
}

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
        match client.try_request("POST", CHAT, headers, &good()).await {
            Ok(answer) => {
                assert!((400..500).contains(&answer.status), "{}", answer.status);
                framed(&answer, Envelope::OpenAi);
            }
            Err(why) => assert_ne!(why, Broken::Silent),
        }
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
    for (method, target) in [
        ("OPTIONS", "*"),
        ("CONNECT", "evil.example:443"),
        ("CONNECT", "/v1"),
    ] {
        let mut client = world.client().await;
        let answer = client.request(method, target, &[], b"").await;
        assert!(
            (400..500).contains(&answer.status),
            "{method} {target}: {}",
            answer.status
        );
        framed(&answer, Envelope::OpenAi);
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
    // A fragment is not part of a request: it is refused, or at least goes nowhere.
    let answer = world.post("/v1/chat/completions#x", &good()).await;
    if answer.status == 200 {
        assert_eq!(world.provider.last().unwrap().path, CHAT);
    } else {
        framed(&answer, Envelope::OpenAi);
    }
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

// What is recorded

/// Deterministic noise: a test that fails once fails always.
struct Noise(u64);

impl Noise {
    fn word(&mut self) -> String {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        format!("{:016x}", self.0)
    }
}

/// The names and labels on the metrics page, without the values.
async fn series(gateway: &Gateway) -> Vec<String> {
    let page = gateway.metrics_text().await;
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn strangers_cannot_make_metric_series() {
    let world = World::start("").await;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut client = world.client().await;
    let mut before = Vec::new();
    for round in 0..1001 {
        let (path, key) = (noise.word(), bearer(&noise.word()));
        let known = bearer(KEY);
        let body = json!({ "model": noise.word(), "messages": [] }).to_string();
        let body = body.as_bytes();
        let known = [("Authorization", &*known)];
        let stranger = [("Authorization", &*key)];
        let method = noise.word().replace(|c: char| c.is_ascii_digit(), "");
        let requests: [(&str, &str, &[_], &[u8], u16); 6] = [
            ("GET", &format!("/{path}"), &known, b"", 404),
            (
                "POST",
                &format!("/v1/{path}?{path}={path}"),
                &known,
                b"",
                404,
            ),
            ("GET", &format!("/v1/models/{path}"), &known, b"", 404),
            (&format!("X{method}"), CHAT, &known, b"", 405),
            ("POST", CHAT, &known, body, 404),
            ("POST", CHAT, &stranger, body, 401),
        ];
        for (method, path, headers, body, status) in requests {
            let answer = client.request(method, path, headers, body).await;
            assert_eq!(answer.status, status, "{method} {path}");
        }
        if round == 0 {
            before = series(&world.gateway).await;
        }
    }
    assert_eq!(series(&world.gateway).await, before);
}

#[tokio::test]
async fn a_request_leaves_one_line_and_no_secret() {
    const MARKER: &str = "zanzibar-marker-93651";
    let world = World::start("").await;
    let mut client = world.client().await;
    let mut errors = String::new();
    let mut expected: Vec<String> = Vec::new();
    let prompt = |model: &str| {
        json!({ "model": model, "messages": [{ "role": "user", "content": MARKER }] })
            .to_string()
            .into_bytes()
    };
    let key = bearer(KEY);
    let injection = format!("/v1/{MARKER}%0a%0d?key={KEY}");
    let requests: Vec<(&str, &str, &str, Vec<u8>)> = vec![
        ("POST", CHAT, &key, prompt("gpt-test")),
        ("POST", MESSAGES, &key, prompt("claude-test")),
        ("POST", CHAT, &key, prompt("no-such\\\"\u{2028}model")),
        ("POST", CHAT, &key, prompt("status-400")),
        (
            "POST",
            CHAT,
            "Bearer sk-0123456789abcdef-unknown-key",
            prompt("gpt-test"),
        ),
        ("POST", CHAT, "Basic zanzibar-basic", prompt("gpt-test")),
        (
            "POST",
            CHAT,
            &key,
            format!("{{\"messages\":\"{MARKER}\"").into_bytes(),
        ),
        (
            "POST",
            CHAT,
            &key,
            format!("{{\"model\":\"x\",\"Model\":\"{MARKER}\"}}").into_bytes(),
        ),
        ("POST", &injection, &key, prompt("gpt-test")),
        ("GET", "/v1/models?detail=1", &key, Vec::new()),
        ("GET", "/api/status", &key, Vec::new()),
        ("DELETE", CHAT, &key, Vec::new()),
    ];
    for (method, path, authorization, body) in &requests {
        let headers = [
            ("Authorization", *authorization),
            ("User-Agent", "evil\t\"} {\"status\":200"),
            ("X-Forwarded-For", "1.2.3.4\", \"x\":\""),
        ];
        let answer = client.request(method, path, &headers, body).await;
        expected.push(answer.header("x-request-id").unwrap().to_owned());
        if answer.status >= 400 {
            errors.push_str(&answer.text());
        }
    }
    // Health checks come every second and say nothing: they are left out.
    assert_eq!(client.get("/livez", "").await.status, 200);
    let last = client.get("/api/status", "").await;
    expected.push(last.header("x-request-id").unwrap().to_owned());
    let lines = world.gateway.log(expected.len()).await;
    let logged: Vec<&str> = lines
        .iter()
        .filter_map(|l| l["request_id"].as_str())
        .collect();
    assert_eq!(logged, expected);
    for line in &lines {
        assert!(
            line["status"].is_u64() && line["time"].is_string(),
            "{line}"
        );
        assert_ne!(line["client"], Value::from("1.2.3.4"));
    }
    assert_eq!(lines[0]["model"], "gpt-test");
    assert_eq!(lines[0]["key"], KEY[..8]);
    let metrics = world.gateway.metrics_text().await;
    for (place, text) in [("log", &world.gateway.log_text()), ("metrics", &metrics)] {
        assert!(!text.contains(MARKER), "{place}: {text}");
        assert!(!text.contains("zanzibar"), "{place}: {text}");
    }
    for text in [&world.gateway.log_text(), &metrics, &errors] {
        // Of a key, eight characters may be seen.
        for secret in [KEY, NARROW_KEY, "sk-0123456789abcdef-unknown-key"] {
            assert!(!text.contains(&secret[..9]), "{secret}: {text}");
        }
        assert!(!text.contains(&UPSTREAM_SECRET[..9]), "{text}");
        assert!(!text.contains("zanzibar-basic"), "{text}");
    }
}
