//! Bodies of an attacker: what parsers disagree on, what is too large, and what never ends. Headers,
//! paths and connections: `hostile_headers.rs`; what must not leak: `hostile_records.rs`; raw framing
//! tricks: `smuggling.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use support::gateway::KEY;
use support::hostile::{CHAT, MESSAGES, SMALL, World, bearer, good, sized, with};
use support::refusal::{Envelope, refused};

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
