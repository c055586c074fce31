//! What a gateway does that has all it can take on: caps on connections, on requests in flight, on
//! bytes of bodies, and on descriptors.
//!
//! Above 400 lines: each cap has its refusals, its exceptions, and every way in which it is given back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::clock::pass;
use support::gateway::{Gateway, KEY, sha256};
use support::hostile::{CHAT, MESSAGES, World, bearer, good, post, sized};
use support::http::{Client, PATIENCE, Response};
use support::provider::{Gate, Script};
use support::served::Served;
use support::tls::Identity;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

const CAPS: [&str; 5] = [
    "connections",
    "overflow",
    "operators",
    "in_flight",
    "buffered",
];

async fn used(gateway: &Gateway, cap: &str) -> f64 {
    assert!(CAPS.contains(&cap));
    let series = format!("tollgate_overload_used{{cap=\"{cap}\"}}");
    gateway.metric(&series).await
}

async fn refusals(gateway: &Gateway, cap: &str) -> f64 {
    assert!(CAPS.contains(&cap));
    let series = format!("tollgate_overload_refusals_total{{cap=\"{cap}\"}}");
    gateway.metric(&series).await
}

/// Waits until so much of a cap is taken.
async fn until_used(gateway: &Gateway, cap: &str, amount: f64) {
    let reached = async {
        while used(gateway, cap).await != amount {
            tokio::task::yield_now().await;
        }
    };
    if timeout(PATIENCE, reached).await.is_err() {
        panic!("{cap}: {} is used, not {amount}", used(gateway, cap).await);
    }
}

/// The refusal of an overloaded gateway, in the words of OpenAI's API.
fn overloaded(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "server_is_overloaded");
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.header("x-request-id").is_some());
}

/// The same in Anthropic's.
fn overloaded_there(answer: &Response) {
    assert_eq!(answer.status, 529, "{}", answer.text());
    assert_eq!(answer.json()["error"]["type"], "overloaded_error");
    let code = &answer.json()["error"]["details"]["error_code"];
    assert_eq!(code, "server_is_overloaded");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

/// One request on a connection of its own, without a key.
async fn ask(world: &World, method: &str, path: &str) -> Response {
    let mut client = world.client().await;
    client.request(method, path, &[], b"").await
}

#[tokio::test]
async fn connections_beyond_the_cap_are_told_so() {
    let world = World::start("limits: { connections: 2 }").await;
    let (mut first, mut second) = (world.client().await, world.client().await);
    for client in [&mut first, &mut second] {
        assert_eq!(post(client, CHAT, &good()).await.status, 200);
    }
    let mut third = world.client().await;
    let refused = post(&mut third, CHAT, &good()).await;
    overloaded(&refused);
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(third.closes(PATIENCE).await);
    overloaded_there(&world.post(MESSAGES, &good()).await);
    for (method, path, status) in [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("HEAD", "/", 200),
        ("GET", "/api/status", 503),
        ("OPTIONS", CHAT, 503),
        ("GET", "/nowhere", 503),
        ("GET", "/v1/models", 503),
    ] {
        let answer = ask(&world, method, path).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_eq!(answer.header("connection"), Some("close"));
    }
    // A body that is announced and does not come is not waited for.
    let mut waiting = world.client().await;
    let length = [
        ("Content-Length", "1000000"),
        ("Authorization", &bearer(KEY)),
    ];
    waiting.send_head("POST", CHAT, &length).await;
    let head = waiting.try_read_head(Duration::from_millis(900)).await;
    assert_eq!(head.unwrap().status, 503);

    assert_eq!(world.provider.count(), 2);
    assert_eq!(used(&world.gateway, "connections").await, 2.0);
    assert_eq!(refusals(&world.gateway, "connections").await, 10.0);
    let most = "tollgate_overload_cap{cap=\"connections\"}";
    assert_eq!(world.gateway.metric(most).await, 2.0);
    // Those within are not harmed, and who leaves makes room.
    assert_eq!(post(&mut first, CHAT, &good()).await.status, 200);
    drop(first);
    until_used(&world.gateway, "connections", 1.0).await;
    assert_eq!(world.post(CHAT, &good()).await.status, 200);
    drop(waiting);
    until_used(&world.gateway, "overflow", 0.0).await;
}

#[tokio::test]
async fn those_who_are_told_so_are_counted_too() {
    let world = World::start("limits: { connections: 1 }").await;
    let mut inside = world.client().await;
    assert_eq!(post(&mut inside, CHAT, &good()).await.status, 200);
    let mut silent = Vec::new();
    // Far more than there is room for: who came first makes room, and who has something to say is heard.
    for _ in 0..20 {
        for _ in 0..40 {
            silent.push(world.client().await);
        }
        assert_eq!(ask(&world, "GET", "/livez").await.status, 200);
        overloaded(&ask(&world, "POST", CHAT).await);
    }
    assert!(used(&world.gateway, "overflow").await <= 1024.0);
    let mut first = silent.remove(0);
    assert!(first.closes(PATIENCE).await, "it was not let go");
    // Nobody stays there for long.
    pass(Duration::from_secs(6)).await;
    until_used(&world.gateway, "overflow", 0.0).await;
    assert_eq!(ask(&world, "GET", "/livez").await.status, 200);
    drop((inside, silent));
}

#[tokio::test]
async fn idle_connections_make_room() {
    let world = World::start("limits: { connections: 3 }").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = world.client().await;
        assert_eq!(post(&mut client, CHAT, &good()).await.status, 200);
        clients.push(client);
    }
    let mut within = clients.pop().unwrap();
    for client in &mut clients {
        // They have been in use.
        assert!(!client.closes(Duration::from_millis(10)).await);
    }
    pass(Duration::from_secs(3)).await;
    // One with half a request is not idle.
    within.send_raw(b"GET /livez HTTP/1.1\r\n").await;
    until_used(&world.gateway, "connections", 3.0).await;
    overloaded(&world.post(CHAT, &good()).await);
    until_used(&world.gateway, "connections", 2.0).await;
    assert_eq!(world.post(CHAT, &good()).await.status, 200);
    within.send_raw(b"Host: x\r\n\r\n").await;
    assert_eq!(within.response().await.status, 200);
    assert!(clients[0].closes(PATIENCE).await);
}

#[tokio::test]
async fn http2_is_told_as_well() {
    let identity = Identity::new();
    let world = World::start(&format!(
        "{}limits: {{ connections: 1 }}",
        identity.listener()
    ))
    .await;
    let mut within = identity.http2(world.gateway.addr).await;
    let key = bearer(KEY);
    let headers = [("authorization", &*key)];
    let (answer, _) = within.request("POST", CHAT, &headers, &good()).await;
    assert_eq!(answer.status, 200);
    let mut beyond = identity.http2(world.gateway.addr).await;
    let (answer, body) = beyond.request("POST", CHAT, &headers, &good()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["code"], "server_is_overloaded");
    assert_eq!(
        beyond.request("GET", "/livez", &[], b"").await.0.status,
        200
    );
    let (answer, _) = within.request("POST", CHAT, &headers, &good()).await;
    assert_eq!(answer.status, 200);
}

/// A request that its provider leaves waiting at the gate.
async fn hold(world: &World, gate: &Gate) -> Client {
    let script = Script::answer(200).gate(gate).json(&json!({ "ok": true }));
    world.provider.once("gpt-test", script);
    let seen = world.provider.count();
    let mut client = world.client().await;
    let key = bearer(KEY);
    client
        .send("POST", CHAT, &[("Authorization", &key)], &good())
        .await;
    world.provider.wait_bodies(seen + 1).await;
    client
}

#[tokio::test]
async fn requests_beyond_those_in_flight_are_refused_at_once() {
    let world = World::start("limits: { in_flight: 2 }").await;
    let gate = Gate::new();
    let mut held = [hold(&world, &gate).await, hold(&world, &gate).await];
    assert_eq!(used(&world.gateway, "in_flight").await, 2.0);
    let mut client = world.client().await;
    overloaded(&post(&mut client, CHAT, &good()).await);
    overloaded_there(&post(&mut client, MESSAGES, &good()).await);
    // Before anyone looks at the key, the path or the body.
    overloaded(&client.get("/v1/models", "sk-unknown").await);
    overloaded(&client.get("/nowhere", KEY).await);
    for (method, path) in [
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/api/status"),
        ("HEAD", "/"),
        ("OPTIONS", CHAT),
    ] {
        let answer = client.request(method, path, &[], b"").await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    assert_eq!(refusals(&world.gateway, "in_flight").await, 4.0);
    assert_eq!(world.provider.count(), 2);
    gate.open();
    for client in &mut held {
        assert_eq!(client.response().await.status, 200);
    }
    // On the same connection as its refusal.
    until_used(&world.gateway, "in_flight", 0.0).await;
    assert_eq!(post(&mut client, CHAT, &good()).await.status, 200);
    let refused: Vec<_> = world.gateway.log(10).await;
    let codes = refused
        .iter()
        .filter(|l| l["code"] == "server_is_overloaded");
    assert_eq!(codes.count(), 4);
}

#[tokio::test]
async fn a_place_is_given_back_however_a_request_ends() {
    let world = World::start("limits: { in_flight: 1, body: 64KiB, buffered: 64KiB }").await;
    let free = async || {
        until_used(&world.gateway, "in_flight", 0.0).await;
        until_used(&world.gateway, "buffered", 0.0).await;
    };
    // Refused, for one reason or another.
    let key = bearer(KEY);
    for (path, key, body, status) in [
        (CHAT, "Bearer sk-unknown", good(), 401),
        (CHAT, &*key, b"{}".to_vec(), 400),
        (CHAT, &*key, sized((64 << 10) + 1), 413),
        ("/nowhere", &*key, good(), 404),
    ] {
        let mut client = world.client().await;
        let headers = [("Authorization", key)];
        let answer = client.request("POST", path, &headers, &body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        free().await;
    }
    // The provider fails.
    world.provider.once("gpt-test", Script::reset_at_once());
    assert_eq!(world.post(CHAT, &good()).await.status, 502);
    free().await;
    // The client leaves while its body is read.
    let mut client = world.client().await;
    let headers = [("Authorization", &*key), ("Content-Length", "1000")];
    client.send_head("POST", CHAT, &headers).await;
    client.send_raw(b"{\"model\":").await;
    until_used(&world.gateway, "in_flight", 1.0).await;
    until_used(&world.gateway, "buffered", 1000.0).await;
    client.reset();
    free().await;
    // It leaves while the provider thinks.
    let held = hold(&world, &Gate::new()).await;
    assert_eq!(used(&world.gateway, "in_flight").await, 1.0);
    assert_eq!(used(&world.gateway, "buffered").await, good().len() as f64);
    held.reset();
    free().await;
    // In the middle of a stream.
    let stream = Script::sse().data("{}").stall();
    world.provider.once("gpt-test", stream);
    let mut client = world.client().await;
    let body = json!({ "model": "gpt-test", "stream": true, "messages": [] }).to_string();
    client
        .send("POST", CHAT, &[("Authorization", &key)], body.as_bytes())
        .await;
    client.next_events(&mut String::new(), PATIENCE).await.err();
    client.read_head().await;
    client
        .next_events(&mut String::new(), PATIENCE)
        .await
        .unwrap();
    client.reset();
    free().await;
    assert_eq!(world.post(CHAT, &good()).await.status, 200);
    free().await;
}

#[tokio::test]
async fn each_stream_of_http2_counts() {
    let identity = Identity::new();
    let yaml = format!("{}limits: {{ in_flight: 2 }}", identity.listener());
    let world = World::start(&yaml).await;
    let gate = Gate::new();
    world
        .provider
        .on("gpt-test", Script::answer(200).gate(&gate).json(&json!({})));
    let mut client = identity.http2(world.gateway.addr).await;
    let key = bearer(KEY);
    let headers = [("authorization", &*key)];
    let mut held = Vec::new();
    for n in 1..=2 {
        let (answer, mut up) = client.begin("POST", CHAT, &headers, false).await;
        up.send_data(good().into(), true).unwrap();
        held.push(answer);
        world.provider.wait_bodies(n).await;
    }
    let (answer, _) = client.request("POST", CHAT, &headers, &good()).await;
    assert_eq!(
        (
            answer.status.as_u16(),
            answer.headers["retry-after"].to_str().unwrap()
        ),
        (503, "1")
    );
    assert_eq!(
        client.request("GET", "/livez", &[], b"").await.0.status,
        200
    );
    // A stream that is reset gives its place back.
    drop(held.pop());
    until_used(&world.gateway, "in_flight", 1.0).await;
    gate.open();
    let (answer, _) = client.request("POST", CHAT, &headers, &good()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(held.pop().unwrap().await.unwrap().status(), 200);
}

#[tokio::test]
async fn bodies_are_held_as_far_as_there_is_room() {
    let world = World::start("limits: { body: 64KiB, buffered: 64KiB }").await;
    let key = bearer(KEY);
    let gate = Gate::new();
    let script = Script::answer(200).gate(&gate).json(&json!({ "ok": true }));
    world.provider.once("gpt-test", script);
    let mut first = world.client().await;
    let headers = [("Authorization", &*key)];
    first.send("POST", CHAT, &headers, &sized(40 << 10)).await;
    world.provider.wait_bodies(1).await;
    assert_eq!(used(&world.gateway, "buffered").await, f64::from(40 << 10));
    // What is announced counts whole: nothing of it is waited for.
    let mut second = world.client().await;
    let expecting = [
        ("Authorization", &*key),
        ("Content-Length", "40960"),
        ("Expect", "100-continue"),
    ];
    second.send_head("POST", CHAT, &expecting).await;
    overloaded(&second.response().await);
    overloaded(&world.post(CHAT, &sized(40 << 10)).await);
    overloaded_there(&world.post(MESSAGES, &sized(40 << 10)).await);
    assert_eq!(refusals(&world.gateway, "buffered").await, 3.0);
    assert_eq!(world.post(CHAT, &sized(24 << 10)).await.status, 200);
    // Without a length it counts as it comes.
    let mut third = world.client().await;
    let chunked = [("Authorization", &*key), ("Transfer-Encoding", "chunked")];
    third.send_head("POST", CHAT, &chunked).await;
    let body = sized(30 << 10);
    third.send_chunk(&body[..20 << 10]).await;
    until_used(&world.gateway, "buffered", f64::from(60 << 10)).await;
    third.send_chunk(&body[20 << 10..]).await;
    overloaded(&third.response().await);
    assert_eq!(world.provider.count(), 2);
    gate.open();
    assert_eq!(first.response().await.status, 200);
    until_used(&world.gateway, "buffered", 0.0).await;
    assert_eq!(world.post(CHAT, &sized(64 << 10)).await.status, 200);
}

/// A body that is changed on its way is there twice, and counts as what it is.
#[tokio::test]
async fn a_rewritten_body_counts_twice() {
    let world = World::start(
        "limits: { body: 64KiB, buffered: 64KiB }
",
    )
    .await;
    let gate = Gate::new();
    let script = Script::sse().gate(&gate).data("[DONE]");
    world.provider.once("gpt-test", script);
    let mut body = sized(40 << 10);
    // Of a stream the usage is asked for, which the client did not.
    let end = b"\"stream\":true,";
    body.splice(1..1, end.iter().copied());
    let mut client = world.client().await;
    let key = bearer(KEY);
    client
        .send("POST", CHAT, &[("Authorization", &key)], &body)
        .await;
    world.provider.wait_bodies(1).await;
    let sent = world.provider.last().unwrap().body.len();
    assert!(sent > body.len());
    let counted = used(&world.gateway, "buffered").await;
    assert_eq!(counted, (body.len() + sent) as f64);
    overloaded(&world.post(CHAT, &good()).await);
    gate.open();
    assert_eq!(client.response().await.status, 200);
    until_used(&world.gateway, "buffered", 0.0).await;
}

/// Of an upload, what is in memory counts: the beginning, until its model is known.
#[tokio::test]
async fn the_beginning_of_an_upload_counts() {
    let world = World::start("limits: { body: 1MiB, buffered: 1MiB }").await;
    let key = bearer(KEY);
    let mut client = world.client().await;
    let headers = [
        ("Authorization", &*key),
        ("Content-Type", "multipart/form-data; boundary=b"),
        ("Transfer-Encoding", "chunked"),
    ];
    client
        .send_head("POST", "/v1/audio/transcriptions", &headers)
        .await;
    let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    client.send_chunk(part.as_bytes()).await;
    until_used(&world.gateway, "buffered", part.len() as f64).await;
    for _ in 0..8 {
        client.send_chunk(&[b'x'; 64 << 10]).await;
    }
    // The rest is in a file.
    until_used(&world.gateway, "buffered", f64::from(256 << 10)).await;
    let model = "\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ntranscribe-test\r\n--b--\r\n";
    client.send_chunk(model.as_bytes()).await;
    client.send_chunk(b"").await;
    assert_eq!(client.response().await.status, 200);
    until_used(&world.gateway, "buffered", 0.0).await;
}

#[tokio::test]
async fn a_body_that_trickles_in_is_not_waited_for() {
    let world = World::start("").await;
    let key = bearer(KEY);
    let mut client = world.client().await;
    let headers = [("Authorization", &*key), ("Content-Length", "1000")];
    client.send_head("POST", CHAT, &headers).await;
    until_used(&world.gateway, "buffered", 1000.0).await;
    // Never silent for long, and yet: 30 s in all for hardly anything.
    for byte in [b"{", b"\""] {
        pass(Duration::from_secs(14)).await;
        client.send_raw(byte).await;
        let early = client.try_read_head(Duration::from_millis(50)).await;
        assert!(early.is_err());
    }
    pass(Duration::from_secs(3)).await;
    let answer = client.response().await;
    assert_eq!(answer.status, 408, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "request_timeout");
    until_used(&world.gateway, "buffered", 0.0).await;
}

#[tokio::test]
async fn http2_has_to_begin_in_time() {
    let identity = Identity::new();
    let world = World::start(&identity.listener()).await;
    let mut silent = identity.connect(world.gateway.addr, &["h2"]).await;
    let mut busy = identity.http2(world.gateway.addr).await;
    assert_eq!(busy.request("GET", "/livez", &[], b"").await.0.status, 200);
    until_used(&world.gateway, "connections", 2.0).await;
    pass(Duration::from_secs(11)).await;
    let end = async {
        // Its settings may come before its end.
        let mut sink = [0; 1024];
        while silent.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    timeout(PATIENCE, end)
        .await
        .expect("a silent client was let go");
    until_used(&world.gateway, "connections", 1.0).await;
    assert_eq!(busy.request("GET", "/livez", &[], b"").await.0.status, 200);
}

/// CPU time of a process, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may have anything in it: user and system time are the 12th and 13th.
    let after = &stat[stat.rfind(')').unwrap() + 2..];
    let ticks = after.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

#[tokio::test]
async fn without_descriptors_it_neither_spins_nor_falls_silent() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("gateway.yaml");
    let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // A provider that is connected to and never heard of.
    let silent = listener();
    let ports = [listener(), listener()];
    let [addr, admin] = ports.each_ref().map(|l| l.local_addr().unwrap());
    drop(ports);
    let yaml = format!(
        "version: 1\nlisteners: [{{ bind: {addr} }}]\nadmin: {{ bind: {admin}, token: a-token-of-the-test }}\n\
providers: {{ none: {{ api: openai, base_url: \"http://{}/v1\" }} }}\n\
models: [{{ id: gpt-test, upstreams: [{{ provider: none }}] }}]\n\
plans: {{ all: {{ models: [\"*\"] }} }}\naccounts: {{ acme: {{ plan: all, projects: [default] }} }}\n\
keys: [{{ name: test, account: acme, sha256: {:?} }}]\n\
limits: {{ connections: 1000 }}\nlog: {{ level: warn }}\n",
        silent.local_addr().unwrap(),
        sha256(KEY)
    );
    std::fs::write(&path, yaml).unwrap();
    let served = Served::with_files(&path, 100);
    served.until("listening");
    let live = async |addr| {
        let mut client = Client::connect(addr).await;
        let answer = client.request("GET", "/livez", &[], b"").await;
        (answer.status, Instant::now())
    };
    assert_eq!(live(addr).await.0, 200);
    let mut early = Vec::new();
    for _ in 0..6 {
        let mut client = Client::connect(addr).await;
        assert_eq!(client.get("/v1/models", KEY).await.status, 200);
        early.push(client);
    }

    // More than there are descriptors for, each with half a request: none of them is idle.
    let mut crowd = Vec::new();
    for _ in 0..120 {
        let mut client = Client::connect(addr).await;
        client.send_raw(b"GET /livez HTTP/1.1\r\n").await;
        crowd.push(client);
    }
    let begun = Instant::now();
    let (status, ended) = live(addr).await;
    assert_eq!(status, 200);
    assert!(
        ended - begun < Duration::from_secs(2),
        "{:?}",
        ended - begun
    );
    // Who is there already is told too, and its provider is not to blame; descriptors that are kept free for whoever
    // comes next may be used up first.
    let key = bearer(KEY);
    let (last, first) = early.split_last_mut().unwrap();
    for client in first {
        client
            .send("POST", CHAT, &[("Authorization", &key)], &good())
            .await;
        sleep(Duration::from_millis(50)).await;
    }
    overloaded(&post(last, CHAT, &good()).await);
    let mut operator = Client::connect(admin).await;
    let answer = operator.get("/admin/v1/keys", "a-token-of-the-test").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Others are told why they are not served.
    let mut client = Client::connect(addr).await;
    overloaded(&client.get("/v1/models", KEY).await);
    let before = cpu(served.pid());
    sleep(Duration::from_secs(1)).await;
    let spent = cpu(served.pid()) - before;
    assert!(spent <= 0.2, "{spent} s of CPU in a second of nothing");
    let told = served.told();
    let complaints = told.iter().filter(|line| line.contains("cannot accept"));
    assert!((1..=2).contains(&complaints.count()), "{told:#?}");

    drop((crowd, early));
    let freed = Instant::now();
    loop {
        let mut client = Client::connect(addr).await;
        // Refused for its key, and no longer for want of descriptors.
        let served = client.try_request("GET", "/v1/models", &[], b"").await;
        assert!(freed.elapsed() < Duration::from_secs(2), "{served:?}");
        if served.is_ok_and(|answer| answer.status == 401) {
            break;
        }
    }

    // A crowd that does nothing has to make room.
    let mut idle = Vec::new();
    for _ in 0..120 {
        idle.push(Client::connect(addr).await);
    }
    sleep(Duration::from_millis(2500)).await;
    let begun = Instant::now();
    loop {
        let mut client = Client::connect(addr).await;
        let served = client.try_request("GET", "/v1/models", &[], b"").await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{served:?}");
        if served.is_ok_and(|answer| answer.status == 401) {
            break;
        }
    }
    drop(idle);
    served.stop();
}
