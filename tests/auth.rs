//! Who may call: contract §2, row by row.
//!
//! Above 400 lines: one test for each row of the contract's section, over one set of keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::json;
use support::gateway::{Gateway, KEY, NARROW_KEY, sha256};
use support::http::{Client, Response};
use support::provider::{Provider, Script};
use support::refusal::{Envelope, refused};

const UPSTREAM_SECRET: &str = "upstream-secret-0123456789abcdef";
const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";
/// Every mount, with a model that it can serve and its envelope.
const MOUNTS: [(&str, &str, Envelope); 4] = [
    (CHAT, "gpt-test", Envelope::OpenAi),
    ("/api/v1/chat/completions", "gpt-test", Envelope::OpenAi),
    (MESSAGES, "claude-test", Envelope::Anthropic),
    ("/v1/messages", "claude-test", Envelope::Anthropic),
];

struct World {
    provider: Provider,
    gateway: Gateway,
}

/// `keys` are the YAML items of `keys:` beside the two usual ones.
async fn world(keys: &[String], more: &str) -> World {
    let provider = Provider::start().await;
    let keys: String = keys
        .iter()
        .map(|key| format!("  - {{ {key} }}\n"))
        .collect();
    let gateway = Gateway::start(&format!(
        "providers:
  fake: {{ api: openai, base_url: \"{}\", keys: [{UPSTREAM_SECRET}] }}
  claude: {{ api: anthropic, base_url: \"{}\", keys: [{UPSTREAM_SECRET}] }}
models:
  - {{ id: gpt-test, aliases: [gpt-alias], upstreams: [{{ provider: fake }}] }}
  - {{ id: echo, upstreams: [{{ provider: fake }}] }}
  - {{ id: claude-test, upstreams: [{{ provider: claude }}] }}
accounts: {{ acme: {{ plan: all, projects: [default] }} }}
keys:
  - {{ name: test, account: acme, sha256: \"{}\" }}
  - {{ name: narrow, account: acme, plan: few, sha256: \"{}\" }}
{keys}{more}
",
        provider.base_url(),
        provider.anthropic_url(),
        sha256(KEY),
        sha256(NARROW_KEY),
    ))
    .await;
    World { provider, gateway }
}

fn key(name: &str, settings: &str) -> String {
    format!(
        "name: {name}, account: acme, sha256: \"{}\", {settings}",
        sha256(&secret(name))
    )
}

/// The key of this name.
fn secret(name: &str) -> String {
    format!("sk-{name}-0123456789abcdef0123456789abcdef")
}

async fn chat(world: &World, headers: &[(&str, &str)], path: &str, model: &str) -> Response {
    let mut client = Client::connect(world.gateway.addr).await;
    let body = json!({ "model": model, "messages": [], "max_tokens": 5 }).to_string();
    client.request("POST", path, headers, body.as_bytes()).await
}

async fn with_key(world: &World, key: &str, model: &str) -> Response {
    let bearer = format!("Bearer {key}");
    chat(world, &[("Authorization", &bearer)], CHAT, model).await
}

#[tokio::test]
async fn either_header_is_read_on_every_mount() {
    let world = world(&[], "").await;
    let bearer = format!("Bearer {KEY}");
    for headers in [
        &[("Authorization", &*bearer)][..],
        &[("X-API-Key", KEY)],
        &[("x-api-key", KEY)],
        &[("Authorization", &*bearer), ("X-API-Key", KEY)],
        &[("authorization", &*format!("bearer {KEY}"))],
        &[("AUTHORIZATION", &*format!("BEARER   {KEY}  "))],
    ] {
        for (path, model, _) in MOUNTS {
            let answer = chat(&world, headers, path, model).await;
            assert_eq!(answer.status, 200, "{headers:?} {path}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn without_a_key_nothing_but_the_public_pages_is_answered() {
    let world = world(&[], "").await;
    for headers in [&[][..], &[("X-API-Key", "")], &[("X-API-Key", "  ")]] {
        for (path, model, envelope) in MOUNTS {
            let answer = chat(&world, headers, path, model).await;
            refused(&answer, envelope, 401, "missing_api_key");
        }
    }
    let mut client = Client::connect(world.gateway.addr).await;
    for (path, envelope) in [
        ("/v1/models", Envelope::OpenAi),
        ("/v1/models/gpt-test", Envelope::OpenAi),
        ("/anthropic/v1/models", Envelope::Anthropic),
    ] {
        let answer = client.request("GET", path, &[], b"").await;
        refused(&answer, envelope, 401, "missing_api_key");
    }
    for path in ["/v1/catalog", "/api/status", "/livez", "/readyz"] {
        assert_eq!(client.request("GET", path, &[], b"").await.status, 200);
    }
    assert_eq!(world.provider.count(), 0);
}

#[tokio::test]
async fn what_is_not_one_known_key_is_refused() {
    let world = world(&[], "").await;
    let bearer = format!("Bearer {KEY}");
    let unknown = "sk-unknown-0123456789abcdef";
    let cut = format!("Bearer {}", &KEY[..KEY.len() - 1]);
    let upper = format!("Bearer {}", KEY.to_ascii_uppercase());
    let hash = format!("Bearer {}", sha256(KEY));
    for headers in [
        &[("Authorization", &*format!("Bearer {unknown}"))][..],
        &[("X-API-Key", unknown)],
        &[("Authorization", &*cut)],
        &[("Authorization", &*upper)],
        &[("Authorization", &*hash)],
        &[("Authorization", KEY)],
        &[("Authorization", "Bearer")],
        &[("Authorization", &*format!("Basic {KEY}"))],
        &[("Authorization", &*format!("Bearer{KEY}"))],
        &[("Authorization", &*format!("Bearer {KEY} {KEY}"))],
        &[("Authorization", &*format!("Bearer {KEY}, Bearer {KEY}"))],
        &[("Authorization", "Bearer sk-\u{e9}")],
        &[("Authorization", &*bearer), ("X-API-Key", NARROW_KEY)],
        &[("Authorization", &*bearer), ("X-API-Key", unknown)],
        &[("Authorization", "Bearer"), ("X-API-Key", KEY)],
        &[("Authorization", &*bearer), ("Authorization", &*bearer)],
        &[("X-API-Key", KEY), ("X-API-Key", KEY)],
    ] {
        for (path, model, envelope) in MOUNTS {
            let answer = chat(&world, headers, path, model).await;
            assert_eq!(answer.status, 401, "{headers:?}: {}", answer.text());
            let error = refused(&answer, envelope, 401, "invalid_api_key");
            let message = error["message"].as_str().unwrap();
            for shown in [&KEY[..9], &unknown[..9], &NARROW_KEY[..9]] {
                assert!(!message.contains(shown), "{message}");
            }
        }
    }
    assert_eq!(world.provider.count(), 0);
}

#[tokio::test]
async fn a_key_that_ended_is_refused_by_its_own_name() {
    let keys = [
        key("expired", "expires: 2020-01-01T00:00:00Z"),
        key("current", "expires: 2999-01-01T00:00:00Z"),
        key("disabled", "disabled: true"),
        key("enabled", "disabled: false"),
        key("both", "disabled: true, expires: 2020-01-01T00:00:00Z"),
    ];
    let world = world(&keys, "").await;
    for (name, code) in [
        ("expired", "key_expired"),
        ("disabled", "key_disabled"),
        ("both", "key_disabled"),
    ] {
        for (path, model, envelope) in MOUNTS {
            let bearer = format!("Bearer {}", secret(name));
            let answer = chat(&world, &[("Authorization", &bearer)], path, model).await;
            refused(&answer, envelope, 401, code);
        }
    }
    assert_eq!(world.provider.count(), 0);
    for name in ["current", "enabled"] {
        assert_eq!(
            with_key(&world, &secret(name), "gpt-test").await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_key_is_bound_to_its_networks() {
    let keys = [
        key("home4", "networks: [\"127.0.0.0/8\"]"),
        key("home6", "networks: [\"::1/128\"]"),
        key(
            "both",
            "networks: [\"10.0.0.0/8\", \"::/0\", \"127.0.0.1/32\"]",
        ),
        key("away4", "networks: [\"10.0.0.0/8\", \"192.0.2.1/32\"]"),
        key("away6", "networks: [\"2001:db8::/32\"]"),
    ];
    let listeners = "listeners: [{ bind: \"127.0.0.1:0\" }, { bind: \"[::1]:0\" }]";
    let world = world(&keys, listeners).await;
    let (v4, v6) = (world.gateway.listeners[0], world.gateway.listeners[1]);
    for (name, at4, at6) in [
        ("home4", true, false),
        ("home6", false, true),
        ("both", true, true),
        ("away4", false, false),
        ("away6", false, false),
    ] {
        for (addr, allowed) in [(v4, at4), (v6, at6)] {
            let mut client = Client::connect(addr).await;
            let body = json!({ "model": "gpt-test", "messages": [] });
            // A claim of the client's own changes nothing.
            let headers = [
                ("Authorization", &*format!("Bearer {}", secret(name))),
                ("X-Forwarded-For", "10.1.2.3, 2001:db8::1, 127.0.0.1, ::1"),
                ("Forwarded", "for=10.1.2.3"),
                ("X-Real-IP", "10.1.2.3"),
            ];
            let answer = client
                .request("POST", CHAT, &headers, body.to_string().as_bytes())
                .await;
            if allowed {
                assert_eq!(answer.status, 200, "{name} {addr}: {}", answer.text());
            } else {
                let error = refused(&answer, Envelope::OpenAi, 403, "network_not_allowed");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(&addr.ip().to_string()), "{message}");
            }
        }
    }
    let bearer = format!("Bearer {}", secret("away4"));
    let answer = chat(
        &world,
        &[("Authorization", &bearer)],
        MESSAGES,
        "claude-test",
    )
    .await;
    let error = refused(&answer, Envelope::Anthropic, 403, "network_not_allowed");
    assert_eq!(error["type"], "permission_error");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_up_to_the_nearest_stranger() {
    let keys = [key("ten", "networks: [\"10.0.0.0/8\", \"2001:db8::/32\"]")];
    let world = world(
        &keys,
        "trusted_proxies: [\"127.0.0.0/8\", \"192.0.2.0/24\"]",
    )
    .await;
    let bearer = format!("Bearer {}", secret("ten"));
    for (forwarded, allowed) in [
        (&["10.1.2.3"][..], true),
        (&["[2001:db8::1]:4711"], true),
        (&["10.1.2.3, 192.0.2.7"], true),
        (&["198.51.100.1, 10.1.2.3"], true),
        // What the client wrote itself stands on the left.
        (&["10.1.2.3, 198.51.100.1"], false),
        (&["10.1.2.3", "198.51.100.1"], false),
        (&["10.1.2.3, garbage"], false),
        (&["10.1.2.3,"], false),
        (&[""], false),
        (&[], false),
    ] {
        let mut headers = vec![("Authorization", &*bearer)];
        headers.extend(forwarded.iter().map(|value| ("X-Forwarded-For", *value)));
        let answer = chat(&world, &headers, CHAT, "gpt-test").await;
        if allowed {
            assert_eq!(answer.status, 200, "{forwarded:?}: {}", answer.text());
        } else {
            refused(&answer, Envelope::OpenAi, 403, "network_not_allowed");
        }
    }
    // The log names whom the decision was about.
    let lines = world.gateway.log(10).await;
    assert_eq!(lines[0]["client"], "10.1.2.3");
    assert_eq!(lines[4]["client"], "198.51.100.1");
    assert_eq!(lines[9]["client"], "127.0.0.1");
}

#[tokio::test]
async fn models_are_those_of_the_plan_and_of_the_key() {
    let keys = [
        key("chat", "models: [\"*-test\"]"),
        key("few", "plan: few, models: [\"*-test\", \"echo\"]"),
        key("none", "models: []"),
    ];
    let world = world(&keys, "").await;
    let cases = [
        (KEY.to_owned(), [true, true, true]),
        (NARROW_KEY.to_owned(), [true, false, false]),
        (secret("chat"), [true, false, true]),
        (secret("few"), [true, false, false]),
        (secret("none"), [false, false, false]),
    ];
    for (key, allowed) in cases {
        let mut client = Client::connect(world.gateway.addr).await;
        let list = client.get("/v1/models", &key).await.json();
        let listed: Vec<&str> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        for (model, allowed) in ["gpt-test", "echo", "claude-test"].into_iter().zip(allowed) {
            assert_eq!(listed.contains(&model), allowed, "{key} {model}");
            let (path, envelope) = match model {
                "claude-test" => (MESSAGES, Envelope::Anthropic),
                _ => (CHAT, Envelope::OpenAi),
            };
            let bearer = format!("Bearer {key}");
            let answer = chat(&world, &[("Authorization", &bearer)], path, model).await;
            let one = client.get(&format!("/v1/models/{model}"), &key).await;
            if allowed {
                assert_eq!((answer.status, one.status), (200, 200), "{key} {model}");
            } else {
                let error = refused(&answer, envelope, 403, "model_not_allowed");
                if envelope == Envelope::OpenAi {
                    assert_eq!(error["param"], "model");
                }
                refused(&one, Envelope::OpenAi, 403, "model_not_allowed");
            }
        }
    }
    // An alias is judged by the model that it stands for.
    let answer = with_key(&world, &secret("chat"), "gpt-alias").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = with_key(&world, &secret("none"), "gpt-alias").await;
    refused(&answer, Envelope::OpenAi, 403, "model_not_allowed");
}

#[tokio::test]
async fn without_a_key_the_anonymous_plan_holds_where_there_is_one() {
    let world = world(&[], "anonymous: { plan: all, models: [\"gpt-*\"] }").await;
    let answer = chat(&world, &[], CHAT, "gpt-test").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = world.provider.last().unwrap();
    let upstream = format!("Bearer {UPSTREAM_SECRET}");
    assert_eq!(seen.header_all("authorization"), [upstream]);
    let answer = chat(&world, &[], CHAT, "echo").await;
    refused(&answer, Envelope::OpenAi, 403, "model_not_allowed");
    let answer = chat(&world, &[], MESSAGES, "claude-test").await;
    refused(&answer, Envelope::Anthropic, 403, "model_not_allowed");
    // A wrong key does not become no key.
    let answer = with_key(&world, "sk-wrong", "gpt-test").await;
    refused(&answer, Envelope::OpenAi, 401, "invalid_api_key");
    // A right one has its own rights.
    assert_eq!(with_key(&world, KEY, "echo").await.status, 200);
}

#[tokio::test]
async fn the_clients_key_stays_here_in_whatever_header_it_came() {
    let world = world(&[], "").await;
    let bearer = format!("Bearer {KEY}");
    for headers in [
        &[("Authorization", &*bearer)][..],
        &[("X-API-Key", KEY)],
        &[("Authorization", &*bearer), ("X-API-Key", KEY)],
        &[
            ("Authorization", &*bearer),
            ("Api-Key", KEY),
            ("X-Goog-Api-Key", KEY),
        ],
        &[
            ("Authorization", &*bearer),
            ("Proxy-Authorization", &*bearer),
        ],
        &[
            ("Authorization", &*bearer),
            ("Cookie", &*format!("key={KEY}")),
        ],
    ] {
        for (path, model, _) in MOUNTS {
            let answer = chat(&world, headers, path, model).await;
            assert_eq!(answer.status, 200);
            let seen = world.provider.last().unwrap();
            let sent = format!("{} {:?}", seen.path, seen.headers);
            assert!(!sent.contains(&KEY[..9]), "{sent}");
            assert_eq!(sent.matches(UPSTREAM_SECRET).count(), 1, "{sent}");
        }
    }
}

#[tokio::test]
async fn what_names_another_account_of_the_operators_stays_behind() {
    let world = world(&[], "").await;
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*bearer),
        ("Cookie", "session=1"),
        ("OpenAI-Organization", "org-1"),
        ("OpenAI-Project", "proj-1"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Host", "evil"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("Via", "1.1 proxy"),
        ("Origin", "https://app.example"),
        ("Referer", "https://app.example/page"),
    ];
    for (path, model, _) in MOUNTS {
        assert_eq!(chat(&world, &headers, path, model).await.status, 200);
        let seen = world.provider.last().unwrap();
        for (name, _) in &headers[1..] {
            assert_eq!(seen.header_all(name), [""; 0], "{name}");
        }
    }
}

#[tokio::test]
async fn versions_and_betas_go_up_byte_for_byte() {
    let world = world(&[], "").await;
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("Authorization", &*bearer),
        ("anthropic-version", "2023-06-01"),
        (
            "anthropic-beta",
            "claude-code-20250219,interleaved-thinking-2025-05-14,  spaced",
        ),
        ("X-Stainless-Lang", "python"),
        ("User-Agent", "anthropic-python/1.0 (a; b)"),
    ];
    let path = "/anthropic/v1/messages?beta=true";
    assert_eq!(
        chat(&world, &headers, path, "claude-test").await.status,
        200
    );
    let seen = world.provider.last().unwrap();
    assert_eq!(seen.path, "/v1/messages?beta=true");
    for (name, value) in &headers[1..] {
        assert_eq!(seen.header_all(name), [*value], "{name}");
    }
}

#[tokio::test]
async fn the_providers_key_stays_here_even_if_the_provider_repeats_it() {
    let world = world(&[], "").await;
    let message =
        format!("Bad header: Authorization: Bearer {UPSTREAM_SECRET}; key {UPSTREAM_SECRET}.");
    let refusal = json!({ "error": { "message": message, "type": "invalid_request_error" } });
    let halves = refusal.to_string();
    let (first, second) = halves.split_at(halves.find(UPSTREAM_SECRET).unwrap() + 10);
    for (path, model, _) in MOUNTS {
        for script in [
            Script::answer(400).json(&refusal),
            // In two pieces, cut within the secret.
            Script::chunked(422)
                .header("content-type", "application/json")
                .chunk(first.to_owned())
                .chunk(second.to_owned()),
        ] {
            let script = script
                .header("x-debug", UPSTREAM_SECRET)
                .header("set-cookie", "session=1")
                .header("www-authenticate", UPSTREAM_SECRET);
            world.provider.once(model, script);
            let answer = chat(
                &world,
                &[("Authorization", &format!("Bearer {KEY}"))],
                path,
                model,
            )
            .await;
            assert!([400, 422].contains(&answer.status), "{}", answer.status);
            let all = format!("{:?} {}", answer.headers, answer.text());
            assert!(!all.contains(&UPSTREAM_SECRET[..9]), "{all}");
            assert!(all.contains("Bad header"), "{all}");
            assert_eq!(answer.header("set-cookie"), None);
        }
        for status in [401, 403, 500] {
            world
                .provider
                .once(model, Script::answer(status).json(&refusal));
            let bearer = format!("Bearer {KEY}");
            let answer = chat(&world, &[("Authorization", &bearer)], path, model).await;
            assert_eq!(answer.status, 502);
            let all = format!("{:?} {}", answer.headers, answer.text());
            assert!(!all.contains(&UPSTREAM_SECRET[..9]), "{all}");
        }
    }
    let log = world.gateway.log_text();
    assert!(!log.contains(&UPSTREAM_SECRET[..9]));
}
