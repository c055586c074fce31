//! What a request leaves behind in metrics and logs: nothing that a stranger chose, and no secret.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::gateway::{Gateway, KEY, NARROW_KEY};
use support::hostile::{CHAT, MESSAGES, UPSTREAM_SECRET, World, bearer};

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
