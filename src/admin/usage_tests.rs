//! Calls about usage and the gateway itself.

use super::backend::{Fault, NotReloaded, Reloaded};
use super::fake_tests::{NOW, bench, code};
use crate::billing::money::Money;
use crate::billing::period::{Calendar, day};
use crate::billing::{Drift, Sums, UsageRow, Used};
use crate::meter::usage::Usage;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

fn used(day_: &str, key: &str, model: &str, cost: i64) -> UsageRow {
    UsageRow {
        day: day(day_).unwrap(),
        key: key.into(),
        project: "default".into(),
        model: model.into(),
        sums: Sums {
            requests: 1,
            used: Used {
                tokens: Usage {
                    input: 10,
                    output: 5,
                    ..Usage::default()
                },
                ..Used::default()
            },
            cost: Money::from_micros(cost),
            ..Sums::default()
        },
    }
}

#[tokio::test]
async fn usage_is_summed() {
    let bench = bench();
    *bench.store.usage.lock().unwrap() = vec![
        ("acme".into(), used("2026-10-21", "old", "m", 1)),
        (
            "acme".into(),
            used("2026-10-22", "key_9f86d081884c7d65", "=m,1", 1),
        ),
        (
            "acme".into(),
            used("2026-11-20", "key_9f86d081884c7d65", "m", 2),
        ),
        ("beta".into(), used("2026-11-20", "gone", "m", 4)),
    ];
    let (_, by_model) = bench.call("GET", "/usage", "").await;
    assert_eq!(by_model["since"], "2026-10-22");
    assert_eq!(by_model["data"][1]["model"], "m");
    assert_eq!(by_model["data"][1]["requests"], 2);
    assert_eq!(by_model["data"][1]["cost"], "0.000006");
    assert_eq!(by_model["total"]["input_tokens"], 30);
    let (_, by_key) = bench
        .call("GET", "/usage?by=account,key,day&since=2026-11-20", "")
        .await;
    assert_eq!(by_key["data"][0]["key_name"], "ci");
    assert_eq!(by_key["data"][0]["day"], "2026-11-20");
    assert_eq!(by_key["data"][1]["key_name"], Value::Null);
    let (_, one) = bench.call("GET", "/usage?account=acme&since=1d", "").await;
    assert_eq!(one["total"]["cost"], "0.000002");
    let (_, paged) = bench.call("GET", "/usage?limit=1", "").await;
    let next = format!("/usage?limit=1&cursor={}", paged["next"].as_str().unwrap());
    let (_, rest) = bench.call("GET", &next, "").await;
    assert_eq!(rest["data"][0]["model"], "m");
    let accept = [("accept", "application/json;q=0.1, Text/CSV; charset=utf-8")];
    let csv = bench
        .raw("GET", "/usage?by=model,key&account=acme", "", &accept)
        .await;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    let text = String::from_utf8(csv.body).unwrap();
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("model,key,key_name,requests,input_tokens")
    );
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("\"'=m,1\",key_9f86d081884c7d65,ci,1,10,")
    );
    for (query, expected) in [
        ("by=modle", "invalid_value"),
        ("since=tomorrow", "invalid_value"),
        ("since=2026-11-20&until=2026-11-19", "invalid_value"),
        ("sinse=1d", "unknown_field"),
        ("limit=0", "invalid_value"),
    ] {
        let (status, answer) = bench.call("GET", &format!("/usage?{query}"), "").await;
        assert_eq!((status, code(&answer)), (400, expected), "{query}");
    }
    assert_eq!(
        Calendar::default().period(NOW).day,
        day("2026-11-20").unwrap()
    );
}

#[tokio::test]
async fn the_gateway_is_seen() {
    let bench = bench();
    let (_, models) = bench.call("GET", "/models", "").await;
    assert_eq!(models["data"][0]["id"], "gpt-5");
    assert_eq!(models["data"][0]["state"], "degraded");
    let (_, nodes) = bench.call("GET", "/nodes", "").await;
    assert_eq!(
        (&nodes["nodes"], &nodes["data"][0]["requests_in_flight"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(nodes["complete"], true);
    let ids: Vec<_> = ["b", "a", "c"].map(Value::from).into();
    let listed = nodes["data"].as_array().unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|one| one["id"].clone())
            .collect::<Vec<_>>(),
        ids
    );
    assert_eq!(
        (&listed[0]["host"], &listed[0]["this"]),
        (&json!("edge-1"), &json!(true))
    );
    assert_eq!(
        (&listed[1]["host"], &listed[1]["version"]),
        (&json!("edge-2"), &json!("9.9.9"))
    );
    assert_eq!(listed[1]["heard_at"], json!("2026-11-20T11:59:58.5Z"));
    assert_eq!(
        (&listed[2]["version"], &listed[2]["this"]),
        (&json!(null), &json!(false))
    );
    let (_, first) = bench.call("GET", "/nodes?limit=2", "").await;
    let rest = format!("/nodes?cursor={}", first["next"].as_str().unwrap());
    let (_, rest) = bench.call("GET", &rest, "").await;
    assert_eq!(
        (&rest["data"][0]["id"], &rest["next"]),
        (&json!("c"), &json!(null))
    );
    bench.store.away.store(true, Ordering::SeqCst);
    let (status, alone) = bench.call("GET", "/nodes", "").await;
    assert_eq!(
        (status, &alone["nodes"], &alone["complete"]),
        (200, &json!(3), &json!(false))
    );
    assert_eq!(alone["data"].as_array().unwrap().len(), 1);
    bench.store.away.store(false, Ordering::SeqCst);
    let (status, _) = bench.call("GET", "/upstreams", "").await;
    assert_eq!(status, 200);
    let reload = async |outcome| {
        *bench.store.reloaded.lock().unwrap() = outcome;
        bench.call("POST", "/reload", "").await
    };
    let fault = Fault {
        line: 3,
        column: 1,
        path: "plans".into(),
        message: "is empty".into(),
    };
    let (status, answer) = reload(Err(NotReloaded::Invalid(vec![fault]))).await;
    assert_eq!((status, code(&answer)), (422, "invalid_configuration"));
    assert_eq!(answer["error"]["errors"][0]["path"], "plans");
    assert_eq!(answer["error"]["errors"][0]["line"], 3);
    for outcome in [NotReloaded::NoFile, NotReloaded::Ending] {
        let (status, answer) = reload(Err(outcome)).await;
        assert_eq!((status, code(&answer)), (409, "conflict"));
    }
    let done = Reloaded {
        changes: vec!["currency".into()],
        restart_needed: vec!["threads".into()],
    };
    let (_, answer) = reload(Ok(done)).await;
    assert_eq!(
        answer,
        json!({ "status": "applied", "changes": ["currency"], "restart_needed": ["threads"] })
    );
    let (_, answer) = reload(Ok(Reloaded::default())).await;
    assert_eq!(answer["status"], "unchanged");
    let (_, ledger) = bench.call("GET", "/ledger", "").await;
    assert_eq!(ledger["drift"], json!([]));
    *bench.store.drift.lock().unwrap() = vec![
        Drift {
            account: "acme".into(),
            what: "balance".into(),
            stored: 1,
            expected: 3,
        },
        Drift {
            account: "acme".into(),
            what: "memory packages".into(),
            stored: 5,
            expected: 3,
        },
    ];
    let (_, ledger) = bench.call("GET", "/ledger", "").await;
    assert_eq!(ledger["drift"][0]["difference"], "-0.000002");
    assert_eq!(ledger["drift"][1]["difference"], 2);
    let (_, sold) = bench.call("GET", "/packages", "").await;
    assert_eq!(sold["data"][0]["price"], "19.900000");
}
