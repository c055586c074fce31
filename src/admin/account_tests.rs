//! Calls about accounts and their money.

use super::fake_tests::{bench, code};
use serde_json::json;

#[tokio::test]
async fn an_account_lives() {
    let bench = bench();
    let new = r#"{"id":"beta","plan":"free","projects":["a","b"]}"#;
    let (status, made) = bench.call("POST", "/accounts", new).await;
    assert_eq!((status, &made["balance"]), (201, &json!("0.000000")));
    for taken in ["beta", "acme"] {
        let body = format!(r#"{{"id":"{taken}","plan":"free"}}"#);
        let (status, answer) = bench.call("POST", "/accounts", &body).await;
        assert_eq!((status, code(&answer)), (409, "conflict"));
    }
    // As written, to the last digit.
    let top_up = r#"{"amount": 8000000000.000001, "note": "invoice 7"}"#;
    let (status, state) = bench.call("POST", "/accounts/beta/top-ups", top_up).await;
    assert_eq!(
        (status, &state["balance"]),
        (201, &json!("8000000000.000001"))
    );
    assert_eq!(state["entry"]["kind"], "top_up");
    assert_eq!(state["entry"]["note"], "invoice 7");
    let too_much = r#"{"amount": "2000000000"}"#;
    let (status, answer) = bench.call("POST", "/accounts/beta/top-ups", too_much).await;
    assert_eq!((status, code(&answer)), (400, "invalid_value"));
    let (status, answer) = bench
        .call(
            "POST",
            "/accounts/beta/refunds",
            r#"{"amount":"8000000000.000002"}"#,
        )
        .await;
    assert_eq!((status, code(&answer)), (402, "insufficient_balance"));
    for wrong in [
        r#"{"amount":0}"#,
        r#"{"amount":1e3}"#,
        r#"{"amount":"1.0000001"}"#,
        "{}",
    ] {
        let (status, _) = bench.call("POST", "/accounts/beta/refunds", wrong).await;
        assert_eq!(status, 400, "{wrong}");
    }
    let grant = r#"{"package":"starter"}"#;
    let (status, state) = bench.call("POST", "/accounts/beta/packages", grant).await;
    assert_eq!(status, 201);
    assert_eq!(state["packages"][0]["tokens_left"], 1000);
    assert_eq!(state["packages"][0]["active"], true);
    assert_eq!(state["packages"][0]["expires"], "2026-12-20T12:00:00Z");
    let (_, granted) = bench.call("GET", "/accounts/beta/packages", "").await;
    assert_eq!(granted["data"], state["packages"]);
    let (status, answer) = bench
        .call("POST", "/accounts/beta/packages", r#"{"package":"starts"}"#)
        .await;
    assert_eq!((status, code(&answer)), (400, "invalid_value"));
    let (_, entries) = bench
        .call("GET", "/accounts/beta/entries?limit=2", "")
        .await;
    assert_eq!(entries["data"].as_array().unwrap().len(), 2);
    assert!(entries["next"].is_string());

    let key = r#"{"name":"k","account":"beta","project":"a"}"#;
    assert_eq!(bench.call("POST", "/keys", key).await.0, 201);
    let (status, answer) = bench
        .call("PATCH", "/accounts/beta", r#"{"projects":["b"]}"#)
        .await;
    assert_eq!((status, code(&answer)), (409, "conflict"));
    let (_, edited) = bench
        .call("PATCH", "/accounts/beta", r#"{"plan":"pro"}"#)
        .await;
    assert_eq!(
        (&edited["plan"], &edited["projects"]),
        (&json!("pro"), &json!(["a", "b"]))
    );
    assert_eq!(edited["keys"][0]["spent"]["daily"], "0.000000");
    let (status, _) = bench
        .call("PATCH", "/accounts/acme", r#"{"plan":"pro"}"#)
        .await;
    assert_eq!(status, 409);
    let (_, all) = bench.call("GET", "/accounts", "").await;
    assert_eq!(
        (&all["data"][0]["id"], &all["data"][1]["id"]),
        (&json!("acme"), &json!("beta"))
    );
}

#[tokio::test]
async fn an_account_that_was_never_opened_is_opened_by_its_first_entry() {
    let bench = bench();
    let (_, before) = bench.call("GET", "/accounts/acme", "").await;
    assert_eq!(before["balance"], "100.000000");
    assert!(bench.store.statement_of("acme").is_none());
    let (_, after) = bench
        .call("POST", "/accounts/acme/refunds", r#"{"amount":"0.5"}"#)
        .await;
    assert_eq!(after["balance"], "99.500000");
}
