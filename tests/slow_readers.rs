//! Clients that hardly read: what one of them costs the process, and that its upstream is held back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::endless::{Endless, STREAM, Speech, chunk};
use support::gateway::{KEY, sha256};
use support::http::Client;
use support::provider::Provider;
use support::served::Served;
use tokio::time::{Instant, sleep};

const READERS: usize = 100;

/// Memory of a process in KiB.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn chat(model: &str, stream: bool) -> Value {
    json!({ "model": model, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

#[tokio::test]
async fn a_slow_reader_costs_little_and_holds_its_upstream_back() {
    let event = [
        &b"data: {\"choices\":[{\"delta\":{\"content\":\""[..],
        &[b'y'; 900],
        b"\"}}]}\n\n",
    ]
    .concat();
    let upstream = Endless::start(Speech {
        first: STREAM.into(),
        again: chunk(&event).repeat(64),
        pause: Duration::ZERO,
    })
    .await;
    let good = Provider::start().await;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("gateway.yaml");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let yaml = format!(
        "version: 1\nlisteners: [{{ bind: {addr} }}]\n\
providers:\n  fast: {{ api: openai, base_url: \"{}\" }}\n  good: {{ api: openai, base_url: \"{}\" }}\n\
models:\n  - {{ id: fast, upstreams: [{{ provider: fast }}] }}\n  - {{ id: good, upstreams: [{{ provider: good }}] }}\n\
plans: {{ all: {{ models: [\"*\"] }} }}\naccounts: {{ acme: {{ plan: all, projects: [default] }} }}\n\
keys: [{{ name: test, account: acme, sha256: {:?} }}]\nlog: {{ level: warn }}\n",
        upstream.base_url(),
        good.base_url(),
        sha256(KEY)
    );
    std::fs::write(&path, yaml).unwrap();
    let served = Served::start(&path, &[]);
    served.until("listening");
    let ask = async || {
        let mut client = Client::connect(addr).await;
        client
            .post_json("/v1/chat/completions", KEY, &chat("good", false))
            .await
    };
    assert_eq!(ask().await.status, 200);
    let before = resident(served.pid());

    let mut readers = Vec::new();
    let key = format!("Bearer {KEY}");
    for _ in 0..READERS {
        let mut client = Client::connect(addr).await;
        let body = chat("fast", true).to_string();
        client
            .send(
                "POST",
                "/v1/chat/completions",
                &[("Authorization", &key)],
                body.as_bytes(),
            )
            .await;
        assert_eq!(client.read_head().await.status, 200);
        readers.push(client);
    }
    // Until the upstream cannot get rid of any more.
    let begun = Instant::now();
    let mut written = 0;
    while written != upstream.written() {
        written = upstream.written();
        sleep(Duration::from_millis(300)).await;
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it is not held back"
        );
    }
    let each = (resident(served.pid()).saturating_sub(before)) / READERS;
    eprintln!(
        "{each} KiB of memory and {} KiB in kernels' buffers each",
        written / 1024 / READERS
    );
    assert!(each <= 256, "{each} KiB for each of them");
    // Others are served as ever.
    assert_eq!(ask().await.status, 200);
    drop(readers);
    upstream.wait_left(READERS).await;
    served.stop();
}
