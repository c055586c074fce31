//! Event streams: at once, in the form that clients can read, and never with a silent end.
//!
//! Above 400 lines: every test runs over the four surfaces, whose events are described once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::clock::pass;
use support::gateway::{Gateway, KEY};
use support::http::{Broken, Client, Event};
use support::provider::{Gate, Provider, Script, TEXT, usage};
use support::tls::{self, Identity};

const WAIT: Duration = Duration::from_secs(5);

/// What the surfaces differ in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Surface {
    Chat,
    Completions,
    Messages,
    Responses,
}

const SURFACES: [Surface; 4] = [
    Surface::Chat,
    Surface::Completions,
    Surface::Messages,
    Surface::Responses,
];

impl Surface {
    fn path(self) -> &'static str {
        match self {
            Surface::Chat => "/v1/chat/completions",
            Surface::Completions => "/v1/completions",
            Surface::Messages => "/anthropic/v1/messages",
            Surface::Responses => "/v1/responses",
        }
    }

    fn body(self, model: &str) -> Value {
        match self {
            Surface::Chat | Surface::Messages => json!({
                "model": model, "stream": true, "max_tokens": 99, "messages": [{ "role": "user", "content": "hi" }],
            }),
            Surface::Completions => json!({ "model": model, "stream": true, "prompt": "hi" }),
            Surface::Responses => json!({ "model": model, "stream": true, "input": "hi" }),
        }
    }

    /// The `n`th piece of text, as a whole event.
    fn piece(self, n: usize) -> String {
        let named = |data: Value| {
            format!(
                "event: {}\ndata: {data}\n\n",
                data["type"].as_str().unwrap()
            )
        };
        match self {
            Surface::Chat => format!(
                "data: {}\n\n",
                json!({ "choices": [{ "index": 0, "delta": { "content": n.to_string() }, "finish_reason": null }] })
            ),
            Surface::Completions => {
                format!(
                    "data: {}\n\n",
                    json!({ "choices": [{ "index": 0, "text": n.to_string() }] })
                )
            }
            Surface::Messages => named(json!({
                "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": n.to_string() },
            })),
            Surface::Responses => named(
                json!({ "type": "response.output_text.delta", "delta": n.to_string(), "sequence_number": n }),
            ),
        }
    }

    /// Checks the event that ends a broken stream.
    fn check_terminal(self, event: &Event, code: &str) {
        let data = event.json();
        match self {
            Surface::Chat | Surface::Completions => {
                assert_eq!(event.name, None, "{event:?}");
                assert_eq!(data["error"]["code"], code, "{event:?}");
                assert!(data["error"]["message"].is_string() && data["error"]["type"].is_string());
            }
            Surface::Messages => {
                assert_eq!(event.name.as_deref(), Some("error"), "{event:?}");
                assert_eq!(data["type"], "error");
                assert_eq!(data["error"]["details"]["error_code"], code);
                assert!(data["error"]["type"].is_string() && data["error"]["message"].is_string());
            }
            Surface::Responses => {
                assert_eq!(event.name.as_deref(), Some("response.failed"), "{event:?}");
                assert_eq!(data["type"], "response.failed");
                assert_eq!(data["response"]["status"], "failed");
                assert_eq!(data["response"]["error"]["code"], code);
                assert!(data["sequence_number"].is_u64());
            }
        }
        assert!(event.raw.ends_with("\n\n") && !event.raw.contains('\r'));
    }
}

async fn start_with(timeouts: &str) -> (Provider, Gateway) {
    start_full(timeouts, "").await
}

async fn start_full(timeouts: &str, more: &str) -> (Provider, Gateway) {
    let provider = Provider::start().await;
    let yaml = format!(
        r#"
providers:
  open: {{ api: openai, base_url: "{}", keys: [upstream-secret], timeouts: {{ {timeouts} }}, health: {{ failures: 1000 }} }}
  claude: {{ api: anthropic, base_url: "{}", keys: [upstream-secret], timeouts: {{ {timeouts} }}, health: {{ failures: 1000 }} }}
models:
  - {{ id: gpt-test, upstreams: [{{ provider: open }}, {{ provider: claude }}] }}
  - {{ id: gpt-public, upstreams: [{{ provider: open, model: vendor/internal }}, {{ provider: claude, model: vendor/internal }}] }}
{more}"#,
        provider.base_url(),
        provider.anthropic_url(),
    );
    let gateway = Gateway::start(&yaml).await;
    (provider, gateway)
}

/// Asks for a stream and reads the header of the answer.
async fn open(gateway: &Gateway, surface: Surface, model: &str) -> Client {
    let mut client = ask(gateway, surface, model).await;
    let head = client.read_head().await;
    assert_eq!(head.status, 200);
    client
}

async fn ask(gateway: &Gateway, surface: Surface, model: &str) -> Client {
    let mut client = Client::connect(gateway.addr).await;
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*bearer),
        ("Content-Type", "application/json"),
    ];
    let body = surface.body(model).to_string();
    client
        .send("POST", surface.path(), &headers, body.as_bytes())
        .await;
    client
}

async fn one(client: &mut Client, pending: &mut String) -> Event {
    let mut events = client.next_events(pending, WAIT).await.expect("an event");
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn every_event_is_forwarded_at_once_and_unchanged() {
    let (provider, gateway) = start_with("").await;
    for surface in SURFACES {
        let gate = Gate::new();
        let script = (0..4).fold(Script::sse(), |script, n| {
            script.event(&surface.piece(n)).gate(&gate)
        });
        provider.on("gpt-test", script);
        let mut client = open(&gateway, surface, "gpt-test").await;
        let mut pending = String::new();
        for n in 0..4 {
            // The gate behind the event is still shut.
            let event = one(&mut client, &mut pending).await;
            assert_eq!(event.raw, surface.piece(n));
            gate.pass(1);
        }
    }
}

#[tokio::test]
async fn a_stream_says_how_it_is_to_be_treated() {
    let (provider, gateway) = start_with("").await;
    for surface in SURFACES {
        let mut client = Client::connect(gateway.addr).await;
        let bearer = format!("Bearer {KEY}");
        // Whether to stream is decided from the body, never from `Accept`.
        let headers = [
            ("Authorization", &*bearer),
            ("Accept", "application/json"),
            ("Accept-Encoding", "gzip, br, zstd"),
        ];
        let body = surface.body("gpt-test").to_string();
        let answer = client
            .request("POST", surface.path(), &headers, body.as_bytes())
            .await;
        assert_eq!((answer.status, answer.broken), (200, None));
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with("text/event-stream")
        );
        assert_eq!(answer.header("x-accel-buffering"), Some("no"));
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.header("content-length"), None);
        let seen = provider.last().unwrap();
        assert_eq!(
            seen.header("accept-encoding"),
            Some("identity"),
            "nobody asked the provider to compress"
        );

        let mut body = surface.body("gpt-test");
        body["stream"] = json!(false);
        let headers = [("Authorization", &*bearer), ("Accept", "text/event-stream")];
        let answer = client
            .request(
                "POST",
                surface.path(),
                &headers,
                body.to_string().as_bytes(),
            )
            .await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

fn text_of(events: &[Event]) -> String {
    let pieces = events.iter().map(|event| {
        let choice = &event.json()["choices"][0];
        let piece = choice["delta"]["content"]
            .as_str()
            .or(choice["text"].as_str());
        piece.unwrap_or_default().to_owned()
    });
    pieces.collect()
}

#[tokio::test]
async fn usage_is_injected_and_taken_out_again() {
    let (provider, gateway) = start_with("").await;
    for (at, surface) in [Surface::Chat, Surface::Completions]
        .into_iter()
        .enumerate()
    {
        let mut client = Client::connect(gateway.addr).await;
        let mut body = surface.body("gpt-test");
        let answer = client.post_json(surface.path(), KEY, &body).await;
        let sent = provider.last().unwrap().json();
        assert_eq!(sent["stream_options"], json!({ "include_usage": true }));
        let events = answer.events();
        assert_eq!(text_of(&events), TEXT);
        for event in &events[..events.len() - 1] {
            let choices = event.json()["choices"].as_array().map(Vec::len);
            assert_eq!(choices, Some(1), "{event:?}");
        }
        assert_eq!(events.last().unwrap().data, "[DONE]");

        body["stream_options"] = json!({ "include_usage": true });
        let asked = client.post_json(surface.path(), KEY, &body).await.events();
        assert_eq!(provider.last().unwrap().body, body.to_string().as_bytes());
        assert_eq!(asked.len(), events.len() + 1);
        let chunk = asked[asked.len() - 2].json();
        assert_eq!(chunk["choices"], json!([]));
        assert_eq!(chunk["usage"]["prompt_tokens"], usage::INPUT);

        let lines = gateway.log(2 * at + 2).await;
        for line in &lines[2 * at..] {
            assert_eq!(line["input_tokens"], usage::INPUT);
            assert_eq!(line["cached_tokens"], usage::CACHED);
            assert_eq!(line["output_tokens"], usage::OUTPUT);
            assert_eq!(line["usage"], "reported");
        }
    }
}

#[tokio::test]
async fn what_breaks_one_client_or_another_is_made_strict() {
    let (provider, gateway) = start_with("").await;
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    let messy = [
        "\u{feff}retry: 3000\r\n\r\n".to_owned(),
        "id: 1\r\n\r\n".to_owned(),
        ": hello\nid: 2\n\n".to_owned(),
        format!("event: message\r\nid: 7\r\ndata:{chunk}\r\n\r\n"),
        format!("id: 8\rretry: 5\rdata: {chunk}\r\r"),
        "event: nothing\n\n".to_owned(),
        format!("data: {chunk}\n\n"),
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#.to_owned() + "\n\n",
        "data: [DONE]\r\n\r\n".to_owned(),
    ]
    .concat();
    let strict = format!(
        "data: {chunk}\n\ndata: {chunk}\n\ndata: {chunk}\n\n{}\n\ndata: [DONE]\n\n",
        r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#
    );
    // In one piece, byte by byte, and in pieces that part CR from LF.
    for step in [messy.len(), 1, 2, 3, 7, 50] {
        let script = messy
            .as_bytes()
            .chunks(step)
            .fold(Script::sse(), |script, piece| script.chunk(piece.to_vec()));
        provider.on("gpt-test", script);
        let mut client = open(&gateway, Surface::Chat, "gpt-test").await;
        let (body, broken) = client.rest().await;
        let text = String::from_utf8(body.to_vec()).unwrap();
        let without_comment = text.replace(": hello\n\n", "");
        assert_eq!(
            (without_comment, broken),
            (strict.clone(), None),
            "step {step}"
        );
    }
    // Other streams keep the names of their events.
    let messy = "id: 1\r\nevent: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n";
    provider.on("gpt-test", Script::sse().event(messy));
    let mut client = open(&gateway, Surface::Messages, "gpt-test").await;
    let (body, broken) = client.rest().await;
    let strict = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!((&body[..], broken), (strict.as_bytes(), None));
}

#[tokio::test]
async fn the_public_name_stands_in_every_event() {
    let (_provider, gateway) = start_with("").await;
    for surface in SURFACES {
        let mut client = open(&gateway, surface, "gpt-public").await;
        let (events, broken) = client.events().await;
        assert_eq!(broken, None);
        let all: String = events.iter().map(|event| event.raw.as_str()).collect();
        assert!(
            all.contains("\"gpt-public\"") && !all.contains("vendor"),
            "{all}"
        );
    }
}

/// How a script goes on after its first events.
type End = fn(Script) -> Script;

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_of_its_surface() {
    let (provider, gateway) = start_with("idle: 300ms").await;
    let ends: [(&str, End, &str); 6] = [
        ("cut between events", Script::cut, "upstream_error"),
        (
            "cut in an event",
            |script| script.event("data: {\"half\":").cut(),
            "upstream_error",
        ),
        ("reset", Script::reset, "upstream_error"),
        (
            "clean end without a terminal",
            |script| script,
            "upstream_error",
        ),
        (
            "clean end within an event",
            |script| script.event("data: {\"cho"),
            "upstream_error",
        ),
        ("stall", Script::stall, "upstream_timeout"),
    ];
    for surface in SURFACES {
        for (what, end, code) in &ends {
            // The events are read before the break: a reset may overtake them on the way otherwise.
            let gate = Gate::new();
            let two = Script::sse()
                .event(&surface.piece(0))
                .event(&surface.piece(1));
            provider.on("gpt-test", end(two.gate(&gate)));
            let mut client = open(&gateway, surface, "gpt-test").await;
            let mut events = Vec::new();
            let mut pending = String::new();
            while events.len() < 2 {
                events.extend(client.next_events(&mut pending, WAIT).await.unwrap());
            }
            assert_eq!(events[1].raw, surface.piece(1), "{surface:?} {what}");
            gate.open();
            let (rest, broken) = client.events().await;
            assert_eq!(rest.len(), 1, "{surface:?} {what}: {rest:?}");
            surface.check_terminal(&rest[0], code);
            // An ordinary end: after a broken one, SDKs forget the error that came before.
            assert_eq!(broken, None, "{surface:?} {what}");
        }
    }
    let lines = gateway.log(24).await;
    for line in &lines {
        assert_eq!(line["status"], 200);
        assert!(
            line["code"] == "upstream_error" || line["code"] == "upstream_timeout",
            "{line}"
        );
    }
    assert_eq!(gateway.metric("tollgate_broken_streams_total").await, 24.0);
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn an_error_event_of_the_provider_is_the_end() {
    let (provider, gateway) = start_with("").await;
    let error = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n";
    provider.on(
        "gpt-test",
        Script::sse().event(&Surface::Chat.piece(0)).event(error),
    );
    let mut client = open(&gateway, Surface::Chat, "gpt-test").await;
    let (events, broken) = client.events().await;
    assert_eq!((events.len(), broken), (2, None));
    assert_eq!(events[1].raw, error);
}

#[tokio::test]
async fn an_endless_line_is_cut_with_an_error() {
    let (provider, gateway) = start_with("").await;
    // 64 MiB, of which the gateway holds no more than one at a time.
    let piece = bytes::Bytes::from(vec![b'x'; 64 << 10]);
    let script = Script::sse().event(&Surface::Chat.piece(0)).chunk("data: ");
    provider.on(
        "gpt-test",
        (0..1024).fold(script, |script, _| script.chunk(piece.clone())),
    );
    let mut client = open(&gateway, Surface::Chat, "gpt-test").await;
    let (events, broken) = client.events().await;
    assert_eq!((events.len(), broken), (2, None), "{events:?}");
    Surface::Chat.check_terminal(&events[1], "upstream_error");
    provider.wait_cancelled(1).await;
}

/// The upstream must be told when its client leaves after `heard` of 100 events.
async fn leaves(heard: usize, reset: bool) {
    let (provider, gateway) = start_with("").await;
    let gate = Gate::new();
    let script = (0..100).fold(Script::sse(), |script, n| {
        script.gate(&gate).event(&Surface::Chat.piece(n))
    });
    provider.on("gpt-test", script);
    let mut client = ask(&gateway, Surface::Chat, "gpt-test").await;
    provider.wait_bodies(1).await;
    if heard > 0 {
        gate.pass(heard);
        client.read_head().await;
        let (mut pending, mut count) = (String::new(), 0);
        while count < heard {
            count += client.next_events(&mut pending, WAIT).await.unwrap().len();
        }
        assert_eq!(count, heard);
    }
    if reset {
        client.reset();
    } else {
        drop(client);
    }
    provider.wait_cancelled(1).await;
    let line = &gateway.log(1).await[0];
    assert_eq!(
        (&line["status"], &line["code"]),
        (&json!(499), &json!("client_gone"))
    );
    assert_eq!(gateway.running.active(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_along() {
    for heard in [0, 10, 50, 99] {
        for reset in [false, true] {
            leaves(heard, reset).await;
        }
    }
}

#[tokio::test]
async fn a_long_silence_is_bridged_by_a_keepalive() {
    let (provider, gateway) = start_with("").await;
    for surface in SURFACES {
        let words = match surface {
            Surface::Messages => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            _ => ": keepalive\n\n",
        };
        let gate = Gate::new();
        let script = (0..3).fold(Script::sse(), |script, n| {
            script.event(&surface.piece(n)).gate(&gate)
        });
        provider.on("gpt-test", script);
        let mut client = open(&gateway, surface, "gpt-test").await;
        let mut pending = String::new();
        assert_eq!(one(&mut client, &mut pending).await.raw, surface.piece(0));
        // Each silence has its keepalives, 15 s apart.
        for _ in 0..3 {
            pass(Duration::from_millis(15_100)).await;
            assert_eq!(one(&mut client, &mut pending).await.raw, words);
        }
        gate.pass(1);
        assert_eq!(one(&mut client, &mut pending).await.raw, surface.piece(1));
        // An event starts the 15 s anew: nothing comes before they are over.
        pass(seconds(14)).await;
        gate.pass(1);
        assert_eq!(one(&mut client, &mut pending).await.raw, surface.piece(2));
    }
}

#[tokio::test]
async fn a_keepalive_never_stands_within_an_event() {
    let (provider, gateway) = start_with("").await;
    let gate = Gate::new();
    let event = Surface::Chat.piece(1);
    let (first, second) = event.split_at(event.len() / 2);
    let script = Script::sse().event(&Surface::Chat.piece(0)).event(first);
    provider.on("gpt-test", script.gate(&gate).event(second).gate(&gate));
    let mut client = open(&gateway, Surface::Chat, "gpt-test").await;
    let mut pending = String::new();
    assert_eq!(
        one(&mut client, &mut pending).await.raw,
        Surface::Chat.piece(0)
    );
    pass(seconds(16)).await;
    assert_eq!(one(&mut client, &mut pending).await.raw, ": keepalive\n\n");
    gate.pass(1);
    assert_eq!(one(&mut client, &mut pending).await.raw, event);
}

#[tokio::test]
async fn keepalives_do_not_keep_a_dead_upstream_alive() {
    let (provider, gateway) = start_with("idle: 40s").await;
    provider.on(
        "gpt-test",
        Script::sse().event(&Surface::Chat.piece(0)).stall(),
    );
    let mut client = open(&gateway, Surface::Chat, "gpt-test").await;
    let mut pending = String::new();
    assert_eq!(
        one(&mut client, &mut pending).await.raw,
        Surface::Chat.piece(0)
    );
    for _ in 0..2 {
        pass(Duration::from_millis(15_100)).await;
        assert_eq!(one(&mut client, &mut pending).await.raw, ": keepalive\n\n");
    }
    pass(seconds(10)).await;
    let (events, broken) = client.events().await;
    assert_eq!((events.len(), broken), (1, None));
    Surface::Chat.check_terminal(&events[0], "upstream_timeout");
    provider.wait_cancelled(1).await;
}

#[tokio::test]
async fn before_the_answer_there_is_no_keepalive_but_the_first_byte_limit() {
    let (provider, gateway) = start_with("first_byte: 40s").await;
    provider.on("gpt-test", Script::silent());
    let mut client = ask(&gateway, Surface::Chat, "gpt-test").await;
    provider.wait_bodies(1).await;
    pass(seconds(20)).await;
    assert_eq!(
        client.try_read_head(Duration::from_millis(100)).await.err(),
        Some(Broken::Silent)
    );
    pass(seconds(21)).await;
    let answer = client.response().await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["error"]["code"], "upstream_timeout");
    provider.wait_cancelled(1).await;
}

#[tokio::test]
async fn what_is_no_stream_gets_no_keepalive() {
    let (provider, gateway) = start_with("").await;
    let gate = Gate::new();
    let script = Script::chunked(200).header("content-type", "application/json");
    provider.on("gpt-test", script.chunk("{\"a\":").gate(&gate).chunk("1}"));
    let mut client = open(&gateway, Surface::Chat, "gpt-test").await;
    assert_eq!(client.next_chunk(WAIT).await.unwrap().unwrap(), "{\"a\":");
    pass(seconds(40)).await;
    gate.open();
    assert_eq!(client.rest().await.0, "1}");
}

#[tokio::test]
async fn keepalives_over_http2() {
    let identity = Identity::new();
    let (provider, gateway) = start_full("", &identity.listener()).await;
    for surface in SURFACES {
        let words = match surface {
            Surface::Messages => "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            _ => ": keepalive\n\n",
        };
        let gate = Gate::new();
        let script = Script::sse().event(&surface.piece(0)).gate(&gate);
        provider.on("gpt-test", script.event(&surface.piece(1)).gate(&gate));
        let mut client = identity.http2(gateway.addr).await;
        let bearer = format!("Bearer {KEY}");
        let (answer, mut up) = client
            .begin("POST", surface.path(), &[("authorization", &bearer)], false)
            .await;
        tls::send(&mut up, surface.body("gpt-test").to_string().into(), true)
            .await
            .unwrap();
        let mut down = answer.await.unwrap().into_body();
        assert_eq!(
            tls::next(&mut down).await.unwrap().unwrap(),
            surface.piece(0)
        );
        for _ in 0..2 {
            pass(Duration::from_millis(15_100)).await;
            assert_eq!(tls::next(&mut down).await.unwrap().unwrap(), words);
        }
        gate.pass(1);
        assert_eq!(
            tls::next(&mut down).await.unwrap().unwrap(),
            surface.piece(1)
        );
    }
}
