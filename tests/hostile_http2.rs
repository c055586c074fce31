//! Clients that abuse HTTP/2's own frames: each is let go or held back, at little cost, and others are served meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::Duration;

use support::gateway::{Gateway, KEY};
use support::http::PATIENCE;
use support::provider::Provider;
use support::tls::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// More than any of these may take.
const MOST_MEMORY: u64 = 64 << 20;

/// `GET https://localhost/`, in HPACK: three fields of its table, and a literal one.
fn request() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x84, 0x41, 9];
    block.extend_from_slice(b"localhost");
    block
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

struct World {
    identity: Identity,
    gateway: Gateway,
    _provider: Provider,
}

type Tls = TlsStream<TcpStream>;

impl World {
    async fn new() -> World {
        let (identity, provider) = (Identity::new(), Provider::start().await);
        let gateway = Gateway::start(&format!(
            "{}providers: {{ fake: {{ api: openai, base_url: \"{}\", keys: [k] }} }}\nmodels: [{{ id: gpt-test, upstreams: [{{ provider: fake }}] }}]\n",
            identity.listener(),
            provider.base_url()
        ))
        .await;
        World {
            identity,
            gateway,
            _provider: provider,
        }
    }

    /// A connection after its preface.
    async fn open(&self) -> (ReadHalf<Tls>, WriteHalf<Tls>) {
        let tls = self.identity.connect(self.gateway.addr, &["h2"]).await;
        let (read, mut write) = split(tls);
        write
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        write.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        (read, write)
    }

    /// Someone else is served as ever.
    async fn serves(&self) {
        let mut other = self.identity.http1(self.gateway.addr).await;
        let body = serde_json::json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] });
        let answer = other.post_json("/v1/chat/completions", KEY, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Writes a flood until it is whole or the connection ends; gives how many bytes went out.
async fn flood(write: &mut WriteHalf<Tls>, piece: &[u8], times: usize) -> usize {
    let mut sent = 0;
    for _ in 0..times {
        match timeout(Duration::from_secs(1), write.write_all(piece)).await {
            Ok(Ok(())) => sent += piece.len(),
            // It is closed, or not read any more.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let _ = timeout(Duration::from_secs(1), write.flush()).await;
    sent
}

/// Reads frames to the connection's end; whether it was told to go.
async fn told_to_go(read: &mut ReadHalf<Tls>) -> bool {
    let mut told = false;
    let frames = async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            told |= head[3] == GOAWAY;
        }
    };
    timeout(PATIENCE, frames)
        .await
        .expect("the connection stays");
    told
}

/// Bytes of this process in memory: client, gateway and provider together.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

fn modest(before: u64) {
    let grown = resident().saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_without_an_end_is_not_collected() {
    let world = World::new().await;
    let before = resident();
    let (mut read, mut write) = world.open().await;
    let begin = frame(HEADERS, END_STREAM, 1, &request());
    write.write_all(&begin).await.unwrap();
    // A literal field of 16,000 bytes in each frame, never indexed, and never the last one.
    let mut block = vec![0x10, 1, b'x', 0x7f, 0x81, 0x7c];
    block.resize(block.len() + 16_000, b'y');
    let sent = flood(&mut write, &frame(CONTINUATION, 0, 1, &block), 4096).await;
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    told_to_go(&mut read).await;
    modest(before);
    world.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_streams_only_to_reset_them_is_told_to_go() {
    let world = World::new().await;
    let before = resident();
    let (mut read, mut write) = world.open().await;
    let mut piece = Vec::new();
    for nth in 0..20_000u32 {
        let stream = 2 * nth + 1;
        piece.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &request()));
        piece.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    flood(&mut write, &piece, 1).await;
    assert!(told_to_go(&mut read).await);
    modest(before);
    world.serves().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_want_an_answer_are_not_heaped_up() {
    for piece in [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
    ] {
        let world = World::new().await;
        let before = resident();
        // Nothing of what comes back is read.
        let (_read, mut write) = world.open().await;
        flood(&mut write, &piece.repeat(1000), 500).await;
        modest(before);
        world.serves().await;
    }
}
