//! The other side: connections to providers, failover, TLS, HTTP/2, credentials, time limits.
//!
//! Above 400 lines: each way in which a provider fails has a test, and all share one set-up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use support::clock::pass;
use support::gateway::{Gateway, KEY};
use support::http::{Broken, Client, Response};
use support::provider::{Gate, Outcome, Provider, Script};
use support::tls::{Front, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn chat() -> Value {
    json!({ "model": "gpt-test", "messages": [{ "role": "user", "content": "hi" }] })
}

async fn ask(client: &mut Client) -> Response {
    client.post_json("/v1/chat/completions", KEY, &chat()).await
}

/// A gateway with these providers (each a YAML map) and this list of upstreams.
async fn start(providers: &[(&str, String)], upstreams: &str) -> (Gateway, Client) {
    let providers: String = providers
        .iter()
        .map(|(name, settings)| format!("  {name}: {{ api: openai, {settings} }}\n"))
        .collect();
    let yaml =
        format!("providers:\n{providers}models: [{{ id: gpt-test, upstreams: [{upstreams}] }}]\n");
    let gateway = Gateway::start(&yaml).await;
    let client = Client::connect(gateway.addr).await;
    (gateway, client)
}

/// `base_url` and a key, as YAML.
fn at(provider: &Provider) -> String {
    format!(
        "base_url: \"{}\", keys: [upstream-secret]",
        provider.base_url()
    )
}

/// An address where nobody listens.
async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap()
}

fn ok() -> Script {
    Script::answer(200).json(&json!({ "ok": true }))
}

#[tokio::test]
async fn stale_pooled_connections_lose_no_request() {
    // The provider closes each connection at once after its answer, or resets it, without having
    // announced it: the pool holds a dying connection for every request.
    for end in [Script::close as fn(Script) -> Script, Script::reset] {
        let provider = Provider::start().await;
        let (gateway, mut client) = start(&[("fake", at(&provider))], "{ provider: fake }").await;
        provider.on("gpt-test", end(ok()));
        for n in 0..200 {
            let answer = ask(&mut client).await;
            assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
        }
        // Each has arrived exactly once.
        assert_eq!(provider.count(), 200);
        assert!(provider.seen().iter().all(|seen| seen.body_done.is_some()));
        let lines = gateway.log(200).await;
        assert!(lines.iter().all(|line| line["status"] == 200));
    }
}

#[tokio::test]
async fn a_provider_that_closes_now_and_then_loses_no_request() {
    let provider = Provider::start().await;
    let (_gateway, mut client) = start(&[("fake", at(&provider))], "{ provider: fake }").await;
    provider.on_fn("gpt-test", |seen| match seen.number % 5 {
        4 => ok().close(),
        _ => ok(),
    });
    for n in 0..200 {
        assert_eq!(ask(&mut client).await.status, 200, "request {n}");
    }
    assert_eq!(provider.count(), 200);
    assert!(provider.connections() <= 41, "{}", provider.connections());
}

/// The race itself: the provider gives a pooled connection up while the request is on its way.
#[tokio::test]
async fn a_connection_that_dies_under_a_request_loses_it_not() {
    for dying in [Script::close_at_once(), Script::reset_at_once()] {
        let provider = Provider::start().await;
        let (gateway, mut client) = start(&[("fake", at(&provider))], "{ provider: fake }").await;
        let used = Mutex::new(HashSet::new());
        provider.on_fn("gpt-test", move |seen| {
            match used.lock().unwrap().insert(seen.connection) {
                true => ok(),
                false => dying.clone(),
            }
        });
        for n in 0..50 {
            let answer = ask(&mut client).await;
            assert_eq!(answer.status, 200, "request {n}: {}", answer.text());
        }
        let lines = gateway.log(50).await;
        assert!(lines.iter().all(|line| line["status"] == 200));
        // The first request of each connection was answered, every other one died: as many answers
        // as requests, and the race took place.
        assert_eq!(provider.connections(), 50);
        assert!(provider.count() > 60, "{}", provider.count());
    }
}

#[tokio::test]
async fn connections_are_pooled() {
    let provider = Provider::start().await;
    let (_gateway, mut client) = start(&[("fake", at(&provider))], "{ provider: fake }").await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    assert_eq!((provider.count(), provider.connections()), (20, 1));
}

/// A header that went alone would cost the provider a look in vain, and us a call into the system.
#[tokio::test]
async fn header_and_body_reach_a_plain_provider_together() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let provider = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 4096];
        // Both requests come on the one connection that is accepted.
        for _ in 0..2 {
            let length = stream.read(&mut first).await.unwrap();
            let text = String::from_utf8_lossy(&first[..length]).into_owned();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(serde_json::from_str::<Value>(body).is_ok(), "{text}");
            let answer =
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer).await.unwrap();
        }
    });
    let (_gateway, mut client) = start(
        &[("a", format!("base_url: \"{base}\", keys: [k]"))],
        "{ provider: a }",
    )
    .await;
    for _ in 0..2 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    provider.await.unwrap();
}

#[tokio::test]
async fn a_request_is_not_sent_twice_once_the_provider_may_have_seen_it() {
    let provider = Provider::start().await;
    let (_gateway, mut client) = start(&[("fake", at(&provider))], "{ provider: fake }").await;
    // On a fresh connection: it arrived, and no answer came.
    for script in [
        Script::close_at_once(),
        Script::reset_at_once(),
        Script::garbage("not HTTP\r\n\r\n"),
    ] {
        provider.reset();
        provider.on("gpt-test", script);
        let answer = ask(&mut client).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "upstream_error");
        assert_eq!(provider.count(), 1);
    }
    // On a pooled connection, after the first bytes of an answer.
    provider.reset();
    provider.once("gpt-test", ok());
    assert_eq!(ask(&mut client).await.status, 200);
    let body = json!({ "ok": true }).to_string();
    let half = Script::answer(200)
        .length(body.len())
        .chunk(body[..4].to_owned());
    for cut in [half.clone().cut(), half.reset()] {
        provider.on("gpt-test", cut);
        let before = provider.count();
        let answer = ask(&mut client).await;
        assert!(
            answer.broken.is_some() || answer.status == 502,
            "{}",
            answer.text()
        );
        assert_eq!(provider.count(), before + 1);
        provider.on("gpt-test", ok());
        client = Client::connect(_gateway.addr).await;
        assert_eq!(ask(&mut client).await.status, 200);
    }
}

#[tokio::test]
async fn the_clients_connection_outlives_a_failed_provider() {
    let provider = Provider::start().await;
    let (_gateway, mut client) = start(&[("fake", at(&provider))], "{ provider: fake }").await;
    for script in [
        Script::answer(503),
        Script::garbage("not HTTP\r\n\r\n"),
        Script::answer(429),
        Script::answer(401),
        Script::answer(404).json(&json!({})),
    ] {
        provider.once("gpt-test", script);
        let answer = ask(&mut client).await;
        assert!(answer.status >= 400);
        assert_ne!(answer.header("connection"), Some("close"));
        assert_eq!(ask(&mut client).await.status, 200);
    }
}

#[tokio::test]
async fn a_refused_connection_leads_to_the_next_upstream() {
    let live = Provider::start().await;
    let dead = format!("base_url: \"http://{}/v1\", keys: [k]", nowhere().await);
    let (gateway, mut client) = start(
        &[("dead", dead.clone()), ("live", at(&live))],
        "{ provider: dead, weight: 1000 }, { provider: live, weight: 1 }",
    )
    .await;
    for _ in 0..10 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    assert_eq!(live.count(), 10);
    for line in gateway.log(10).await {
        assert_eq!(line["upstream"], "live");
    }
    let refused = gateway
        .metric("tollgate_upstream_requests_total{outcome=\"unreachable\",provider=\"dead\"}")
        .await;
    assert!(refused >= 5.0, "{refused}");

    let (gateway, mut client) = start(&[("dead", dead)], "{ provider: dead }").await;
    let answer = ask(&mut client).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].clone()),
        (502, json!("upstream_unreachable"))
    );
    assert_eq!(gateway.log(1).await[0]["upstream"], "dead");
    assert_eq!(ask(&mut client).await.status, 502, "on the same connection");
}

#[tokio::test]
async fn a_stand_in_of_a_higher_tier_waits_until_it_is_needed() {
    let (first, second) = (Provider::start().await, Provider::start().await);
    let (_gateway, mut client) = start(
        &[("first", at(&first)), ("second", at(&second))],
        "{ provider: second, tier: 1, weight: 1000 }, { provider: first }",
    )
    .await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    assert_eq!((first.count(), second.count()), (20, 0));

    let dead = format!("base_url: \"http://{}/v1\", keys: [k]", nowhere().await);
    let (_gateway, mut client) = start(
        &[("dead", dead), ("second", at(&second))],
        "{ provider: second, tier: 1 }, { provider: dead }",
    )
    .await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    assert_eq!(second.count(), 20);
}

#[tokio::test]
async fn weights_are_shares() {
    let (much, little, none) = (
        Provider::start().await,
        Provider::start().await,
        Provider::start().await,
    );
    let (_gateway, mut client) = start(
        &[("much", at(&much)), ("little", at(&little)), ("none", at(&none))],
        "{ provider: much, weight: 9 }, { provider: little, weight: 1 }, { provider: none, weight: 0 }",
    )
    .await;
    for _ in 0..400 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    // 360 ± 6 expected; beyond 36 the choice is not by weight.
    assert!((324..=396).contains(&much.count()), "{}", much.count());
    assert_eq!((much.count() + little.count(), none.count()), (400, 0));
}

#[tokio::test]
async fn https_with_a_private_authority() {
    let identity = Identity::new();
    let provider = Provider::start().await;
    let front = Front::start(&identity, provider.addr(), &["http/1.1"]).await;
    let settings = |host: &str, ca: &Identity| {
        format!(
            "base_url: \"https://{host}:{}/v1\", keys: [upstream-secret], ca: {:?}",
            front.addr.port(),
            ca.file("ca.pem")
        )
    };
    let (_gateway, mut client) = start(
        &[("fake", settings("127.0.0.1", &identity))],
        "{ provider: fake }",
    )
    .await;
    for _ in 0..3 {
        let answer = ask(&mut client).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let seen = provider.last().unwrap();
    assert_eq!(seen.header("host"), Some(&*front.addr.to_string()));
    assert_eq!((front.connections(), front.http2_requests()), (1, 0));
    assert_eq!(provider.count(), 3);

    // Nobody else's certificate will do: of another authority, or of another name.
    let stranger = Identity::new();
    let (gateway, mut client) = start(
        &[("fake", settings("127.0.0.1", &stranger))],
        "{ provider: fake }",
    )
    .await;
    let answer = ask(&mut client).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].clone()),
        (502, json!("upstream_unreachable"))
    );
    assert_eq!(gateway.log(1).await[0]["status"], 502);
    let misnamed = Identity::named(&["other.example"]);
    let front = Front::start(&misnamed, provider.addr(), &["http/1.1"]).await;
    let url = format!(
        "base_url: \"https://127.0.0.1:{}/v1\", keys: [upstream-secret], ca: {:?}",
        front.addr.port(),
        misnamed.file("ca.pem")
    );
    let (_gateway, mut client) = start(&[("fake", url)], "{ provider: fake }").await;
    assert_eq!(
        ask(&mut client).await.json()["error"]["code"],
        "upstream_unreachable"
    );
    // Without `ca` only the system's authorities count.
    let url = format!(
        "base_url: \"https://127.0.0.1:{}/v1\", keys: [k]",
        front.addr.port()
    );
    let (_gateway, mut client) = start(&[("fake", url)], "{ provider: fake }").await;
    assert_eq!(
        ask(&mut client).await.json()["error"]["code"],
        "upstream_unreachable"
    );
    assert_eq!((front.connections(), provider.count()), (0, 3));
}

async fn http2_provider() -> (Provider, Front, Gateway, Client) {
    let identity = Identity::new();
    let provider = Provider::start().await;
    let front = Front::start(&identity, provider.addr(), &["h2", "http/1.1"]).await;
    let settings = format!(
        "base_url: \"https://127.0.0.1:{}/v1\", keys: [upstream-secret], ca: {:?}",
        front.addr.port(),
        identity.file("ca.pem")
    );
    let (gateway, client) = start(&[("fake", settings)], "{ provider: fake }").await;
    (provider, front, gateway, client)
}

#[tokio::test]
async fn http2_where_the_provider_offers_it() {
    let (provider, front, gateway, mut client) = http2_provider().await;
    let answer = ask(&mut client).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((answer.broken, front.http2_requests()), (None, 1));
    let seen = provider.last().unwrap();
    assert_eq!(seen.body, chat().to_string().as_bytes());
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-secret"));
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(KEY)));

    // Many at once, on few connections, each with its own answer.
    let mut tasks = Vec::new();
    for n in 0..20 {
        let addr = gateway.addr;
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect(addr).await;
            let mut body = chat();
            body["n"] = json!(n);
            let large = "x".repeat(100_000);
            body["messages"][0]["content"] = json!(large);
            let answer = client.post_json("/v1/chat/completions", KEY, &body).await;
            assert_eq!(
                (answer.status, answer.broken),
                (200, None),
                "{}",
                answer.text()
            );
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((provider.count(), front.http2_requests()), (21, 21));
    assert!(
        provider.malformed().is_empty(),
        "{:?}",
        provider.malformed()
    );
}

#[tokio::test]
async fn streams_and_cancels_over_http2() {
    let (provider, front, gateway, mut client) = http2_provider().await;
    let gate = Gate::new();
    let event =
        |n: usize| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{n}\"}}}}]}}\n\n");
    let script = (0..3).fold(Script::sse(), |script, n| {
        script.event(&event(n)).gate(&gate)
    });
    provider.on("gpt-test", script.data("[DONE]"));
    let mut body = chat();
    body["stream"] = json!(true);
    let bearer = format!("Bearer {KEY}");
    let headers = [("Authorization", &*bearer)];
    let wait = Duration::from_secs(5);
    for whole in [true, false] {
        client
            .send(
                "POST",
                "/v1/chat/completions",
                &headers,
                body.to_string().as_bytes(),
            )
            .await;
        assert_eq!(client.read_head().await.status, 200);
        let mut pending = String::new();
        for n in 0..2 {
            let events = client.next_events(&mut pending, wait).await.unwrap();
            assert_eq!(events[0].raw, event(n));
            if n == 0 {
                gate.pass(1);
            }
        }
        if whole {
            gate.pass(2);
            let (events, broken) = client.events().await;
            assert_eq!(
                (events.last().unwrap().data.as_str(), broken),
                ("[DONE]", None)
            );
        }
    }
    drop(client);
    provider.wait_cancelled(1).await;
    assert_eq!(front.http2_requests(), 2);
    // The connection is sound: the next request uses it.
    provider.on("gpt-test", ok());
    let mut client = Client::connect(gateway.addr).await;
    assert_eq!(ask(&mut client).await.status, 200);
}

#[tokio::test]
async fn a_broken_http2_answer_is_told() {
    let (provider, _front, _gateway, mut client) = http2_provider().await;
    provider.once("gpt-test", Script::close_at_once());
    let answer = ask(&mut client).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].clone()),
        (502, json!("upstream_error"))
    );
    assert_eq!(provider.count(), 1, "it was sent once");
    let gate = Gate::new();
    let script = Script::sse().data("{\"choices\":[{\"delta\":{}}]}");
    provider.once("gpt-test", script.gate(&gate).cut());
    let mut body = chat();
    body["stream"] = json!(true);
    let bearer = format!("Bearer {KEY}");
    client
        .send(
            "POST",
            "/v1/chat/completions",
            &[("Authorization", &bearer)],
            body.to_string().as_bytes(),
        )
        .await;
    client.read_head().await;
    let mut pending = String::new();
    client
        .next_events(&mut pending, Duration::from_secs(5))
        .await
        .unwrap();
    gate.open();
    let (events, broken) = client.events().await;
    assert_eq!((events.len(), broken), (1, None));
    assert_eq!(events[0].json()["error"]["code"], "upstream_error");
}

#[tokio::test]
async fn no_first_byte_in_time() {
    let provider = Provider::start().await;
    let settings = format!("{}, timeouts: {{ first_byte: 40s }}", at(&provider));
    let (gateway, mut client) = start(&[("fake", settings)], "{ provider: fake }").await;
    provider.once("gpt-test", Script::silent());
    let bearer = format!("Bearer {KEY}");
    client
        .send(
            "POST",
            "/v1/chat/completions",
            &[("Authorization", &bearer)],
            chat().to_string().as_bytes(),
        )
        .await;
    provider.wait_bodies(1).await;
    // Half of the limit is not enough.
    pass(Duration::from_secs(20)).await;
    let early = client.try_read_head(Duration::from_millis(100)).await;
    assert_eq!(early.err(), Some(Broken::Silent));
    pass(Duration::from_secs(21)).await;
    let answer = client.response().await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].clone()),
        (504, json!("upstream_timeout"))
    );
    assert_eq!(provider.count(), 1, "it was not sent again");
    provider.wait_cancelled(1).await;
    let timeouts = gateway
        .metric("tollgate_upstream_requests_total{outcome=\"timeout\",provider=\"fake\"}")
        .await;
    assert_eq!(timeouts, 1.0);
    assert_eq!(ask(&mut client).await.status, 200);
}

#[tokio::test]
async fn an_answer_that_stalls_is_broken_off() {
    let provider = Provider::start().await;
    let settings = format!("{}, timeouts: {{ idle: 300ms }}", at(&provider));
    let (gateway, mut client) = start(&[("fake", settings)], "{ provider: fake }").await;
    let half = Script::chunked(200).header("content-type", "application/json");
    provider.once("gpt-test", half.chunk("{\"half\":").stall());
    let answer = ask(&mut client).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"half\":"[..]));
    assert!(answer.broken.is_some(), "half an answer looked whole");
    // With a length, the header waits for the body: the client may learn nothing but the end.
    let half = Script::answer(200).length(100).chunk("{\"half\":");
    provider.once("gpt-test", half.stall());
    let mut client = Client::connect(gateway.addr).await;
    let headers = [("Authorization", &*format!("Bearer {KEY}"))];
    let body = chat().to_string();
    match client
        .try_request("POST", "/v1/chat/completions", &headers, body.as_bytes())
        .await
    {
        Ok(answer) => assert!(answer.broken.is_some(), "half an answer looked whole"),
        Err(why) => assert_eq!(why, Broken::Closed),
    }
    provider
        .wait_until("the upstream's end", |seen| {
            seen.iter().all(|s| s.outcome == Outcome::Cancelled)
        })
        .await;
    for line in gateway.log(2).await {
        assert_eq!(line["code"], "upstream_timeout");
    }
}

#[tokio::test]
async fn several_keys_are_used_in_turn() {
    let provider = Provider::start().await;
    let settings = format!(
        "base_url: \"{}\", keys: [key-a, key-b, key-c]",
        provider.base_url()
    );
    let (_gateway, mut client) = start(&[("fake", settings)], "{ provider: fake }").await;
    for _ in 0..9 {
        assert_eq!(ask(&mut client).await.status, 200);
    }
    let mut uses: HashMap<String, usize> = HashMap::new();
    for seen in provider.seen() {
        let keys = seen.header_all("authorization");
        assert_eq!(keys.len(), 1);
        *uses.entry(keys[0].to_owned()).or_default() += 1;
    }
    let expected = ["key-a", "key-b", "key-c"].map(|key| (format!("Bearer {key}"), 3));
    assert_eq!(uses, HashMap::from(expected));
}

#[tokio::test]
async fn a_name_is_resolved() {
    let provider = Provider::start().await;
    let url = format!(
        "base_url: \"http://localhost:{}/v1\", keys: [k]",
        provider.addr().port()
    );
    let (_gateway, mut client) = start(&[("fake", url)], "{ provider: fake }").await;
    for _ in 0..6 {
        let answer = ask(&mut client).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let host = format!("localhost:{}", provider.addr().port());
    assert_eq!(provider.last().unwrap().header("host"), Some(&*host));

    let url = "base_url: \"http://tollgate.invalid/v1\", keys: [k]".to_owned();
    let (_gateway, mut client) = start(&[("fake", url)], "{ provider: fake }").await;
    let answer = ask(&mut client).await;
    assert_eq!(answer.json()["error"]["code"], "upstream_unreachable");
}

#[tokio::test]
async fn a_provider_comes_back() {
    let addr = nowhere().await;
    let url = format!("base_url: \"http://{addr}/v1\", keys: [k]");
    let (_gateway, mut client) = start(&[("fake", url)], "{ provider: fake }").await;
    assert_eq!(ask(&mut client).await.status, 502);
    let provider = Provider::serve(TcpListener::bind(addr).await.unwrap());
    assert_eq!(ask(&mut client).await.status, 200);
    drop(provider);
    let down = ask(&mut client).await.status;
    assert_eq!(down, 502);
    let provider = Provider::serve(TcpListener::bind(addr).await.unwrap());
    assert_eq!(ask(&mut client).await.status, 200);
    assert_eq!(provider.count(), 1);
}
