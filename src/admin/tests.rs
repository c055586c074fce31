//! Calls about keys, and what all calls have in common: from the request to the answer, on books and keys in
//! memory.

use super::audit;
use super::failure::{Code, Failure};
use super::fake_tests::{TOKEN, bench, code, parsed, request};
use super::router::ENDPOINTS;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn a_key_lives() {
    let bench = bench();
    let body = r#"{"name":"app","account":"acme","project":"web","plan":"free","models":["gpt-*"],
        "networks":["10.1.2.3/8"],"billing":{"package":"starter"},"spend_cap":{"daily":1.10,"monthly":"20"},
        "expires":"2027-01-01T08:00:00+08:00"}"#;
    let (status, made) = bench.call("POST", "/keys", body).await;
    assert_eq!(status, 201, "{made}");
    let text = made["key"].as_str().unwrap().to_owned();
    assert!(text.starts_with("sk-") && text.len() == 46);
    assert_eq!(made["prefix"], text[..8]);
    assert_eq!(made["networks"], json!(["10.0.0.0/8"]));
    assert_eq!(made["spend_cap"]["daily"], "1.100000");
    assert_eq!(made["expires"], "2027-01-01T00:00:00Z");
    assert_eq!(made["created"], "2026-11-20T12:00:00Z");
    let path = format!("/keys/{}", made["id"].as_str().unwrap());

    let (_, read) = bench.call("GET", &path, "").await;
    assert!(read.get("key").is_none() && !read.to_string().contains(&text));
    assert!(!read.to_string().contains("hash"));

    let edit = r#"{"disabled":true,"plan":null,"models":null,"spend_cap":null,"billing":null}"#;
    let (status, edited) = bench.call("PATCH", &path, edit).await;
    assert_eq!((status, &edited["state"]), (200, &json!("disabled")));
    assert_eq!(edited["billing"], "pay_as_you_go");
    assert_eq!(edited["spend_cap"]["monthly"], "0.000000");
    assert_eq!(edited["project"], "web");

    let (status, rotated) = bench.call("POST", &format!("{path}/rotate"), "").await;
    assert_eq!(status, 200);
    assert_ne!(rotated["key"], text);
    assert_eq!(rotated["retiring"]["prefix"], text[..8]);
    assert_eq!(rotated["retiring"]["until"], "2026-11-21T12:00:00Z");
    let at_once = r#"{"grace":"0s"}"#;
    let (_, rotated) = bench.call("POST", &format!("{path}/rotate"), at_once).await;
    assert_eq!(rotated["retiring"], Value::Null);

    let (status, revoked) = bench.call("DELETE", &path, "").await;
    assert_eq!((status, &revoked["state"]), (200, &json!("revoked")));
    let (status, _) = bench.call("DELETE", &path, "").await;
    assert_eq!(status, 200);
    let (status, refused) = bench.call("PATCH", &path, r#"{"disabled":false}"#).await;
    assert_eq!((status, code(&refused)), (409, "conflict"));
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_said() {
    let bench = bench();
    let with = |more: &str| format!(r#"{{"name":"a","account":"acme"{more}}}"#);
    for (body, expected, param, words) in [
        (
            with(r#","modles":["x"]"#),
            "unknown_field",
            "modles",
            "did you mean `models`?",
        ),
        (
            with(r#","plan":"prop""#),
            "invalid_value",
            "plan",
            "did you mean `pro`?",
        ),
        (
            with(r#","project":"wbe""#),
            "invalid_value",
            "project",
            "`web`",
        ),
        (
            with(r#","billing":{"package":"x"}"#),
            "invalid_value",
            "billing.package",
            "`starter`",
        ),
        (
            with(r#","billing":{"pack":"x"}"#),
            "unknown_field",
            "billing.pack",
            "`package`",
        ),
        (
            with(r#","billing":"free""#),
            "invalid_value",
            "billing",
            "pay_as_you_go",
        ),
        (
            with(r#","spend_cap":{"daily":-1}"#),
            "invalid_value",
            "spend_cap.daily",
            "0 or more",
        ),
        (
            with(r#","spend_cap":5"#),
            "invalid_value",
            "spend_cap",
            "an object",
        ),
        (
            with(r#","expires":"2020-01-01T00:00:00Z""#),
            "invalid_value",
            "expires",
            "passed",
        ),
        (
            with(r#","networks":["x"]"#),
            "invalid_value",
            "networks",
            "CIDR",
        ),
        (
            with(r#","disabled":true"#),
            "unknown_field",
            "disabled",
            "known fields",
        ),
        (with(r#","name":"b""#), "duplicate_field", "name", "twice"),
        (
            r#"{"account":"acme"}"#.to_owned(),
            "missing_required_parameter",
            "name",
            "add it",
        ),
        (
            r#"{"name":"","account":"acme"}"#.to_owned(),
            "invalid_value",
            "name",
            "1 to 128",
        ),
        (
            r#"{"name":"a","account":"acmee"}"#.to_owned(),
            "invalid_value",
            "account",
            "`acme`?",
        ),
    ] {
        let (status, answer) = bench.call("POST", "/keys", &body).await;
        assert_eq!((status, code(&answer)), (400, expected), "{body} {answer}");
        assert_eq!(answer["error"]["param"], param, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    let (status, answer) = bench.call("POST", "/keys", "[]").await;
    assert_eq!((status, code(&answer)), (400, "invalid_json"));
}

#[tokio::test]
async fn keys_of_the_file_are_listed_and_left_alone() {
    let bench = bench();
    for name in ["a", "b", "c"] {
        let body = format!(r#"{{"name":"{name}","account":"acme"}}"#);
        assert_eq!(bench.call("POST", "/keys", &body).await.0, 201);
    }
    let (_, first) = bench.call("GET", "/keys?limit=3&account=acme", "").await;
    assert_eq!(first["data"].as_array().unwrap().len(), 3);
    assert_eq!(first["data"][0]["source"], "file");
    assert_eq!(first["data"][0]["prefix"], Value::Null);
    let next = first["next"].as_str().unwrap();
    let (_, last) = bench
        .call("GET", &format!("/keys?limit=3&cursor={next}"), "")
        .await;
    assert_eq!(last["data"].as_array().unwrap().len(), 1);
    assert_eq!(last["next"], Value::Null);

    for (method, tail, body) in [
        ("PATCH", "", "{}"),
        ("DELETE", "", ""),
        ("POST", "/rotate", ""),
    ] {
        let path = format!("/keys/key_9f86d081884c7d65{tail}");
        let (status, answer) = bench.call(method, &path, body).await;
        assert_eq!((status, code(&answer)), (409, "conflict"), "{method}");
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("configuration file")
        );
    }
    let (status, _) = bench.call("GET", "/keys?account=nobody", "").await;
    assert_eq!(status, 404);
    let (status, answer) = bench.call("GET", "/keys/key_0", "").await;
    assert_eq!((status, code(&answer)), (404, "not_found"));
}

#[tokio::test]
async fn a_repeated_request_is_done_once() {
    let bench = bench();
    let body = r#"{"name":"app","account":"acme"}"#;
    let (status, made, replayed) = bench.once("POST", "/keys", body, "k1").await;
    assert_eq!((status, replayed), (201, false));
    let (status, again, replayed) = bench.once("POST", "/keys", body, "k1").await;
    assert_eq!((status, replayed), (201, true));
    assert_eq!((&again["key"], &again["id"]), (&Value::Null, &made["id"]));
    let other = r#"{"name":"other","account":"acme"}"#;
    let (status, answer, _) = bench.once("POST", "/keys", other, "k1").await;
    assert_eq!((status, code(&answer)), (409, "idempotency_key_reused"));

    let path = format!("/keys/{}/rotate", made["id"].as_str().unwrap());
    let (_, first, _) = bench.once("POST", &path, "{}", "k2").await;
    let (_, second, replayed) = bench.once("POST", &path, "{}", "k2").await;
    assert!(replayed && first["key"].is_string() && second["key"].is_null());
    assert_eq!(first["prefix"], second["prefix"]);

    let top_up = r#"{"amount":"5"}"#;
    let path = "/accounts/acme/top-ups";
    let (_, first, _) = bench.once("POST", path, top_up, "k3").await;
    let (status, second, replayed) = bench.once("POST", path, top_up, "k3").await;
    assert_eq!((status, replayed), (201, true));
    assert_eq!(first["entry"]["id"], second["entry"]["id"]);
    assert_eq!(second["balance"], "105.000000");
    let (status, answer, _) = bench.once("POST", path, r#"{"amount":"6"}"#, "k3").await;
    assert_eq!((status, code(&answer)), (409, "idempotency_key_reused"));
    let (status, answer, _) = bench.once("POST", path, top_up, "has space").await;
    assert_eq!((status, code(&answer)), (400, "invalid_value"));
}

#[tokio::test]
async fn others_may_write_at_the_same_time() {
    let bench = bench();
    let (_, made) = bench
        .call("POST", "/keys", r#"{"name":"a","account":"acme"}"#)
        .await;
    let path = format!("/keys/{}", made["id"].as_str().unwrap());
    bench.store.races.store(2, Ordering::SeqCst);
    let (status, edited) = bench.call("PATCH", &path, r#"{"name":"b"}"#).await;
    assert_eq!((status, &edited["name"]), (200, &json!("b")));
    bench.store.away.store(true, Ordering::SeqCst);
    for (method, path, body) in [
        ("PATCH", path.as_str(), r#"{"name":"c"}"#),
        ("GET", "/accounts/acme", ""),
        ("POST", "/accounts/acme/top-ups", r#"{"amount":1}"#),
        ("GET", "/usage", ""),
        ("GET", "/ledger", ""),
    ] {
        let reply = bench.raw(method, path, body, &[]).await;
        assert_eq!(reply.headers["retry-after"], "5", "{path}");
        let (status, answer) = parsed(&reply);
        assert_eq!((status, code(&answer)), (503, "temporarily_unavailable"));
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_answered_and_no_body_is_read() {
    let bench = bench();
    for endpoint in ENDPOINTS {
        let path = endpoint.path.replace("{id}", "acme");
        let two = [("authorization", "Bearer other")];
        let reply = bench.raw(endpoint.method, &path, "{", &two).await;
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        let (status, answer) = parsed(&reply);
        assert_eq!((status, code(&answer)), (401, "unauthorized"), "{path}");
    }
}

#[tokio::test]
async fn writes_leave_a_line_without_secrets() {
    let bench = bench();
    let headers = [("idempotency-key", "my-secret-idempotency-key")];
    let body = r#"{"name":"app","account":"acme"}"#;
    let reply = bench.raw("POST", "/keys", body, &headers).await;
    let line = audit(&request("POST", "/keys", &headers), &reply).unwrap();
    let made = parsed(&reply).1;
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(!line.contains(key) && !line.contains(TOKEN) && !line.contains("my-secret"));
    for part in [
        "client=10.0.0.7 method=POST path=/admin/v1/keys status=201",
        &format!("subject={id}"),
        "idempotency=",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let read = bench.raw("GET", "/keys", "", &[]).await;
    assert_eq!(audit(&request("GET", "/keys", &[]), &read), None);
    let failure: super::reply::Reply = Failure::new(Code::Unauthorized, "m").into();
    assert!(audit(&request("GET", "/keys", &[]), &failure).is_some());
}

#[tokio::test]
async fn nothing_is_kept_in_between() {
    let bench = bench();
    for (method, path) in [
        ("GET", "/keys"),
        ("GET", "/none"),
        ("OPTIONS", "/keys"),
        ("HEAD", "/usage"),
    ] {
        let reply = bench.raw(method, path, "", &[]).await;
        assert_eq!(reply.headers["cache-control"], "no-store", "{path}");
    }
    let reply = bench.raw("OPTIONS", "/keys", "", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
    let failure: super::reply::Reply = Failure::new(Code::Internal, "m").into();
    assert_eq!(parsed(&failure).1["error"]["type"], "server_error");
}
