//! What an operator does takes hold: contract §2 and §9 over sockets, each body on the embedded store and on a
//! real Redis. What several nodes make of it is in `nodes.rs`, the command line in `cli.rs`.
//!
//! Above 400 lines: one suite, so that no store can be left out of a part of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[macro_use]
mod support;

use serde_json::{Value, json};
use support::gateway::{KEY, sha256};
use support::http::{Client, Response};
use support::operator::{COST, Ground, World, call, code, shown, until};
use support::provider::{Gate, Script, usage};
use support::redis::Reply;
use tokio::time::Instant;

async fn a_key_is_used_as_soon_as_it_is_made(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (id, key) = world.key("beta", json!({ "project": "web" })).await;
    assert_eq!(world.ask(&key, "gpt-test").await.status, 200);
    let seen = world.ground.provider.last().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer upstream-secret"));
    let stands = world.settled("beta", 1).await;
    assert_eq!(stands["balance"], shown(1_000_000 - COST));
    assert_eq!(stands["keys"][0]["id"], id.as_str());
    assert_eq!(stands["keys"][0]["spent"]["daily"], shown(COST));
    assert_eq!(stands["keys"][0]["spent"]["monthly"], shown(COST));
    // What a file has stands beside it.
    assert_eq!(world.get("/accounts/acme").await["balance"], "10.000000");
    let found = world.get(&format!("/keys/{id}")).await;
    assert_eq!(
        (&found["state"], &found["project"]),
        (&json!("active"), &json!("web"))
    );
    assert_eq!(found["prefix"].as_str().unwrap(), &key[..8]);
    assert_eq!(found.get("key"), None);
    let line = &world.gateway.log(1).await[0];
    assert_eq!(
        (&line["account"], &line["project"]),
        (&json!("beta"), &json!("web"))
    );
    // Without money it is told so.
    world
        .did(
            201,
            "POST",
            "/accounts",
            json!({ "id": "poor", "plan": "all" }),
        )
        .await;
    let (_, key) = world.key("poor", json!({})).await;
    assert_eq!(
        world.said(&key, "gpt-test").await,
        (402, "insufficient_balance".into())
    );
    assert_eq!(world.said(&key, "gpt-free").await.0, 200);
    assert_eq!(world.get("/ledger").await["drift"], json!([]));
}

async fn nobody_calls_without_the_token(ground: Ground) {
    let world = World::start(ground, "").await;
    let (id, _) = world.key("acme", json!({})).await;
    let tokens = [
        None,
        Some("Bearer"),
        Some("Bearer wrong"),
        Some(&*format!("Bearer {KEY}")),
    ]
    .map(|value| value.map(|text| ("Authorization", text.to_owned())));
    for (method, path) in [
        ("GET", "/keys".to_owned()),
        ("POST", "/keys".to_owned()),
        ("DELETE", format!("/keys/{id}")),
        ("GET", "/nothing".to_owned()),
        ("GET", "/openapi.json".to_owned()),
    ] {
        for token in &tokens {
            let mut client = Client::connect(world.gateway.admin.unwrap()).await;
            let headers: Vec<_> = token
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let path = format!("/admin/v1{path}");
            let answer = client.request(method, &path, &headers, b"").await;
            assert_eq!(
                (answer.status, &*code(&answer)),
                (401, "unauthorized"),
                "{method} {path}"
            );
        }
    }
    assert_eq!(world.get(&format!("/keys/{id}")).await["state"], "active");
    // Nor is the API where clients are.
    let mut client = Client::connect(world.gateway.addr).await;
    let answer = client.get("/admin/v1/keys", support::operator::TOKEN).await;
    assert_eq!(answer.status, 404);
}

async fn an_edit_takes_hold_with_the_next_request(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (id, key) = world.key("beta", json!({})).await;
    let path = format!("/keys/{id}");
    let served = (200, "ok".to_owned());
    assert_eq!(world.said(&key, "claude-test").await, served);
    for (edit, undo, model, status, code) in [
        (
            json!({ "models": ["gpt-*"] }),
            json!({ "models": null }),
            "claude-test",
            403,
            "model_not_allowed",
        ),
        (
            json!({ "networks": ["10.0.0.0/8"] }),
            json!({ "networks": null }),
            "gpt-test",
            403,
            "network_not_allowed",
        ),
        (
            json!({ "spend_cap": { "daily": "0.000001" } }),
            json!({ "spend_cap": null }),
            "gpt-test",
            402,
            "spend_cap_reached",
        ),
        (
            json!({ "spend_cap": { "monthly": "0.000001" } }),
            json!({ "spend_cap": {} }),
            "gpt-test",
            402,
            "spend_cap_reached",
        ),
        (
            json!({ "plan": "few" }),
            json!({ "plan": null }),
            "claude-test",
            403,
            "model_not_allowed",
        ),
        (
            json!({ "disabled": true }),
            json!({ "disabled": false }),
            "gpt-test",
            401,
            "key_disabled",
        ),
        (
            json!({ "billing": { "package": "starter" } }),
            json!({ "billing": "pay_as_you_go" }),
            "gpt-test",
            402,
            "package_exhausted",
        ),
    ] {
        world.did(200, "PATCH", &path, edit.clone()).await;
        assert_eq!(
            world.said(&key, model).await,
            (status, code.to_owned()),
            "{edit}"
        );
        world.did(200, "PATCH", &path, undo).await;
        assert_eq!(world.said(&key, model).await, served, "{edit}");
    }
    // A key's own edits leave others alone, and what they were spent on.
    assert_eq!(
        world.settled("beta", 8).await["keys"][0]["spent"]["daily"],
        {
            // The other model's provider reports cached tokens beside the input, not within.
            let other = usage::INPUT * 100 + usage::CACHED * 50 + usage::OUTPUT * 1000;
            json!(shown(5 * COST + 3 * other))
        }
    );
}

/// What its account is given, a key has with the next request.
async fn an_edit_of_an_account_is_one_of_its_keys(ground: Ground) {
    let world = World::start(ground, "").await;
    for account in ["beta", "gamma"] {
        world.account(account, "1").await;
    }
    let (_, of_account) = world.key("beta", json!({})).await;
    let (_, of_itself) = world.key("beta", json!({ "plan": "all" })).await;
    let (_, of_other) = world.key("gamma", json!({})).await;
    let keys = [&of_account, &of_itself, &of_other];
    for key in keys {
        assert_eq!(world.said(key, "claude-test").await.0, 200);
    }
    let edited = world
        .did(200, "PATCH", "/accounts/beta", json!({ "plan": "few" }))
        .await;
    assert_eq!(edited["plan"], "few");
    let mut statuses = Vec::new();
    for key in keys {
        statuses.push(world.said(key, "claude-test").await.0);
    }
    assert_eq!(statuses, [403, 200, 200]);
    assert_eq!(world.said(&of_account, "gpt-test").await.0, 200);
    let world = world.restart().await;
    assert_eq!(world.said(&of_account, "claude-test").await.0, 403);
    world
        .did(200, "PATCH", "/accounts/beta", json!({ "plan": "all" }))
        .await;
    assert_eq!(world.said(&of_account, "claude-test").await.0, 200);
}

async fn rotated_both_work_within_the_grace(ground: Ground) {
    let world = World::start(ground, "").await;
    let (id, first) = world.key("acme", json!({})).await;
    let path = format!("/keys/{id}/rotate");
    let rotate = async |grace: &str| {
        // Not remembered, as the creation.
        let body = json!({ "grace": grace });
        let answer = call(&world.gateway, "POST", &path, Some(&body), &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let made = answer.json();
        assert_eq!(made["id"], id.as_str());
        (
            made["key"].as_str().unwrap().to_owned(),
            made["retiring"].clone(),
        )
    };
    let (second, retiring) = rotate("0s").await;
    assert_eq!(retiring, Value::Null);
    assert_eq!(
        world.said(&first, "gpt-test").await,
        (401, "invalid_api_key".into())
    );
    assert_eq!(world.said(&second, "gpt-test").await.0, 200);
    let (third, retiring) = rotate("1h").await;
    assert_eq!(retiring["prefix"].as_str().unwrap(), &second[..8]);
    for key in [&second, &third] {
        assert_eq!(world.said(key, "gpt-test").await.0, 200);
    }
    // One more ends the grace of the one before.
    let begun = Instant::now();
    let (fourth, _) = rotate("2s").await;
    assert_eq!(world.said(&second, "gpt-test").await.0, 401);
    assert_eq!(world.said(&third, "gpt-test").await.0, 200);
    let refused = until("the grace ends", async || {
        let said = world.said(&third, "gpt-test").await;
        (said.0 != 200).then_some(said)
    })
    .await;
    assert_eq!(refused, (401, "key_expired".into()));
    let took = begun.elapsed();
    // It is kept in whole milliseconds: of the one in which it began a part may be over.
    assert!((1999..5000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(world.said(&fourth, "gpt-test").await.0, 200);
    assert_eq!(
        world.get(&format!("/keys/{id}")).await["retiring"],
        Value::Null
    );
    // Revoked, all of them are, for good.
    let (fifth, _) = rotate("1h").await;
    let revoked = world
        .did(200, "DELETE", &format!("/keys/{id}"), Value::Null)
        .await;
    assert_eq!(revoked["state"], "revoked");
    for key in [&fourth, &fifth] {
        assert_eq!(
            world.said(key, "gpt-test").await,
            (401, "invalid_api_key".into())
        );
    }
    world
        .did(200, "DELETE", &format!("/keys/{id}"), Value::Null)
        .await;
    for (path, body) in [
        (format!("/keys/{id}"), json!({ "disabled": false })),
        (path.clone(), json!({})),
    ] {
        let method = if path.ends_with("rotate") {
            "POST"
        } else {
            "PATCH"
        };
        let answer = world.call(method, &path, Some(&body)).await;
        assert_eq!((answer.status, &*code(&answer)), (409, "conflict"));
    }
}

async fn a_package_pays_until_it_is_used_up(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (_, key) = world
        .key("beta", json!({ "billing": { "package": "starter" } }))
        .await;
    assert_eq!(
        world.said(&key, "gpt-test").await,
        (402, "package_exhausted".into())
    );
    let granted = world
        .did(
            201,
            "POST",
            "/accounts/beta/packages",
            json!({ "package": "starter" }),
        )
        .await;
    assert_eq!(granted["packages"][0]["tokens_left"], 60);
    assert_eq!(granted["entry"]["kind"], "grant");
    for nth in 1..=2 {
        assert_eq!(world.said(&key, "gpt-test").await.0, 200);
        let left = world.settled("beta", nth).await["packages"][0]["tokens_left"].clone();
        assert_eq!(left, 60 - nth * (usage::INPUT + usage::OUTPUT));
    }
    // What is left is less than the next one may need.
    let left = 60 - 2 * (usage::INPUT + usage::OUTPUT);
    assert_eq!(
        world.said(&key, "gpt-test").await,
        (402, "package_exhausted".into())
    );
    // Not what it was sold for.
    assert_eq!(
        world.said(&key, "claude-test").await,
        (403, "model_not_allowed".into())
    );
    let stands = world.settled("beta", 2).await;
    assert_eq!(stands["balance"], "1.000000", "a package is paid for");
    let used = world.get("/usage?account=beta").await;
    assert_eq!(
        used["total"]["package_tokens"],
        2 * (usage::INPUT + usage::OUTPUT)
    );
    assert_eq!(used["total"]["cost"], "0.000000");
    let granted = world.get("/accounts/beta/packages").await;
    assert_eq!(granted["data"][0]["tokens_left"], left);
    let own = world.gateway.own(&key).await;
    assert_eq!(own["package"]["tokens_left"], left);
    world
        .did(
            201,
            "POST",
            "/accounts/beta/packages",
            json!({ "package": "starter", "note": "second" }),
        )
        .await;
    assert_eq!(world.said(&key, "gpt-test").await.0, 200);
    assert_eq!(world.get("/ledger").await["drift"], json!([]));
}

async fn what_is_held_is_not_given_back(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (_, key) = world.key("beta", json!({})).await;
    let gate = Gate::new();
    let slow = Script::answer(200).gate(&gate).json(&json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-test",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "hi" }, "finish_reason": "stop" }],
        "usage": {
            "prompt_tokens": usage::INPUT, "completion_tokens": usage::OUTPUT,
            "total_tokens": usage::INPUT + usage::OUTPUT,
            "prompt_tokens_details": { "cached_tokens": usage::CACHED },
        },
    }));
    world.ground.provider.once("gpt-test", slow);
    let refund = async |amount: String| {
        let body = json!({ "amount": amount, "note": "back" });
        world
            .call("POST", "/accounts/beta/refunds", Some(&body))
            .await
    };
    let address = world.gateway.addr;
    let flight = tokio::spawn({
        let key = key.clone();
        async move { support::operator::ask_at(address, &key, "gpt-test").await }
    });
    world.ground.provider.wait_requests(1).await;
    let held = until("it is held", async || {
        let held = world.get("/accounts/beta").await["held"].clone();
        (held != "0.000000").then(|| micros(&held))
    })
    .await;
    let refused = refund(shown(1_000_000 - held + 1)).await;
    assert_eq!(
        (refused.status, &*code(&refused)),
        (402, "insufficient_balance")
    );
    assert!(
        refused.text().contains(&shown(1_000_000 - held)),
        "{}",
        refused.text()
    );
    assert_eq!(refund(shown(400_000)).await.status, 201);
    gate.open();
    assert_eq!(flight.await.unwrap().status, 200);
    let stands = world.settled("beta", 1).await;
    assert_eq!(stands["balance"], shown(600_000 - COST));
    assert_eq!(refund("0.6".into()).await.status, 402);
    let back = refund(shown(600_000 - COST)).await;
    assert_eq!(
        (back.status, &back.json()["balance"]),
        (201, &json!("0.000000"))
    );
    assert_eq!(
        world.said(&key, "gpt-test").await,
        (402, "insufficient_balance".into())
    );
    let entries = world.get("/accounts/beta/entries").await;
    let kinds: Vec<_> = entries["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].clone())
        .collect();
    assert_eq!(kinds, ["open", "top_up", "refund", "refund"]);
    assert_eq!(entries["data"][3]["note"], "back");
    assert_eq!(world.get("/ledger").await["drift"], json!([]));
}

async fn a_write_that_is_repeated_is_done_once(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let post = async |path: &str, once: &str, body: &Value| {
        world
            .call_with("POST", path, Some(body), &[("Idempotency-Key", once)])
            .await
    };
    let replayed = |answer: &Response| answer.header("idempotency-replayed").map(str::to_owned);
    let five = json!({ "amount": "5" });
    let first = post("/accounts/beta/top-ups", "invoice-7", &five).await;
    assert_eq!((first.status, replayed(&first)), (201, None));
    let again = post("/accounts/beta/top-ups", "invoice-7", &five).await;
    assert_eq!(
        (again.status, replayed(&again).as_deref()),
        (201, Some("true"))
    );
    assert_eq!(again.json()["entry"], first.json()["entry"]);
    assert_eq!(again.json()["balance"], "6.000000");
    let other = post(
        "/accounts/beta/top-ups",
        "invoice-7",
        &json!({ "amount": "6" }),
    )
    .await;
    assert_eq!(
        (other.status, &*code(&other)),
        (409, "idempotency_key_reused")
    );
    let other = post("/accounts/beta/refunds", "invoice-7", &five).await;
    assert_eq!(
        (other.status, &*code(&other)),
        (409, "idempotency_key_reused")
    );
    // The same of a grant, an account, a key, and its rotation.
    for path in ["/accounts/beta/packages", "/accounts/beta/packages"] {
        assert_eq!(
            post(path, "grant-1", &json!({ "package": "starter" }))
                .await
                .status,
            201
        );
    }
    let stands = world.get("/accounts/beta").await;
    assert_eq!(stands["packages"].as_array().unwrap().len(), 1);
    let account = json!({ "id": "gamma", "plan": "all" });
    for expected in [None, Some("true")] {
        let made = post("/accounts", "account-1", &account).await;
        assert_eq!((made.status, replayed(&made).as_deref()), (201, expected));
    }
    let taken = post("/accounts", "account-2", &account).await;
    assert_eq!((taken.status, &*code(&taken)), (409, "conflict"));
    let body = json!({ "name": "app", "account": "beta" });
    let made = post("/keys", "key-1", &body).await.json();
    let again = post("/keys", "key-1", &body).await;
    assert_eq!(
        (again.status, replayed(&again).as_deref()),
        (201, Some("true"))
    );
    let again = again.json();
    assert_eq!((&again["id"], &again["key"]), (&made["id"], &Value::Null));
    assert_eq!(
        world.get("/keys?account=beta").await["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let path = format!("/keys/{}/rotate", made["id"].as_str().unwrap());
    let rotated = post(&path, "rotate-1", &json!({ "grace": "0s" }))
        .await
        .json();
    let again = post(&path, "rotate-1", &json!({ "grace": "0s" })).await;
    assert_eq!(
        (again.status, replayed(&again).as_deref()),
        (200, Some("true"))
    );
    assert_eq!(again.json()["key"], Value::Null);
    assert_eq!(
        world
            .said(rotated["key"].as_str().unwrap(), "gpt-test")
            .await
            .0,
        200
    );
    // It is remembered by the store, not by the process.
    let world = world.restart().await;
    let headers = [("Idempotency-Key", "invoice-7")];
    let again = world
        .call_with("POST", "/accounts/beta/top-ups", Some(&five), &headers)
        .await;
    assert_eq!(
        (again.status, replayed(&again).as_deref()),
        (201, Some("true"))
    );
    assert_eq!(
        world.settled("beta", 1).await["balance"],
        shown(6_000_000 - COST)
    );
    // A plain one is done as often as it comes.
    world
        .did(201, "POST", "/accounts/beta/top-ups", five.clone())
        .await;
    world.did(201, "POST", "/accounts/beta/top-ups", five).await;
    assert_eq!(
        world.get("/accounts/beta").await["balance"],
        shown(16_000_000 - COST)
    );
    assert_eq!(world.get("/ledger").await["drift"], json!([]));
}

async fn usage_is_what_the_provider_reported(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (first, key) = world
        .key("beta", json!({ "name": "=first", "project": "web" }))
        .await;
    let (second, other) = world.key("beta", json!({ "name": "second" })).await;
    for (key, model, count) in [
        (&key, "gpt-test", 3),
        (&other, "gpt-test", 1),
        (&other, "claude-test", 2),
    ] {
        for _ in 0..count {
            assert_eq!(world.said(key, model).await.0, 200);
        }
    }
    assert_eq!(world.said(KEY, "gpt-test").await.0, 200);
    let stands = world.settled("beta", 6).await;
    let claude = usage::INPUT * 100 + usage::CACHED * 50 + usage::OUTPUT * 1000;
    let cost = 4 * COST + 2 * claude;
    assert_eq!(stands["balance"], shown(1_000_000 - cost));
    let asked = "/usage?by=model,key,project,day&account=beta";
    let used = world.get(asked).await;
    let row = |model: &str,
               key: &str,
               name: &str,
               project: &str,
               count: u64,
               input: u64,
               each: u64| {
        json!({
            "model": model, "key": key, "key_name": name, "project": project, "day": used["until"],
            "requests": count,
            "input_tokens": count * input, "cached_tokens": count * usage::CACHED, "cache_write_tokens": 0,
            "output_tokens": count * usage::OUTPUT,
            "images": 0, "characters": 0, "seconds": used["data"][0]["seconds"], "package_tokens": 0,
            "cost": shown(count * each), "estimated_cost": "0.000000",
        })
    };
    let mut expected = [
        row(
            "claude-test",
            &second,
            "second",
            "default",
            2,
            usage::INPUT + usage::CACHED,
            claude,
        ),
        row("gpt-test", &first, "=first", "web", 3, usage::INPUT, COST),
        row(
            "gpt-test",
            &second,
            "second",
            "default",
            1,
            usage::INPUT,
            COST,
        ),
    ];
    expected.sort_by_key(|row| (row["model"].to_string(), row["key"].to_string()));
    assert_eq!(used["data"], json!(expected));
    assert_eq!(used["total"]["cost"], shown(cost));
    assert_eq!(
        used["total"]["input_tokens"],
        4 * usage::INPUT + 2 * (usage::INPUT + usage::CACHED)
    );
    // The same as a table, in which no name is a formula.
    let csv = world
        .call_with("GET", asked, None, &[("Accept", "text/csv")])
        .await;
    assert!(
        csv.header("content-type").unwrap().starts_with("text/csv"),
        "{:?}",
        csv.headers
    );
    let text = csv.text();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    for (line, row) in lines.by_ref().zip(&expected) {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), head.len(), "{line}");
        for (name, cell) in head.iter().zip(cells) {
            let value = match &row[*name] {
                Value::String(text) if text.starts_with('=') => format!("'{text}"),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(cell, value, "{name} of {line}");
        }
    }
    assert_eq!(text.lines().count(), 1 + expected.len(), "{text}");
    // All accounts; a page; a day without anything.
    let all = world.get("/usage?by=account").await;
    assert_eq!(all["total"]["requests"], 7);
    assert_eq!(all["data"][0]["account"], "acme");
    let page = world.get(&format!("{asked}&limit=2")).await;
    assert_eq!(
        (page["data"].as_array().unwrap().len(), &page["total"]),
        (2, &used["total"])
    );
    let rest = world
        .get(&format!(
            "{asked}&cursor={}",
            page["next"].as_str().unwrap()
        ))
        .await;
    assert_eq!(
        (&rest["data"][0], &rest["next"]),
        (&used["data"][2], &Value::Null)
    );
    let none = world.get("/usage?since=2020-01-01&until=2020-01-31").await;
    assert_eq!(
        (&none["data"], &none["total"]["requests"]),
        (&json!([]), &json!(0))
    );
}

async fn lists_have_pages(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let mut made = Vec::new();
    for _ in 0..130 {
        made.push(world.key("beta", json!({})).await);
    }
    let first = world.get("/keys?account=beta").await;
    assert_eq!(first["data"].as_array().unwrap().len(), 100);
    let second = world
        .get(&format!(
            "/keys?account=beta&cursor={}",
            first["next"].as_str().unwrap()
        ))
        .await;
    assert_eq!(second["next"], Value::Null);
    let listed = |page: &Value| -> Vec<String> {
        let all = page["data"].as_array().unwrap();
        all.iter()
            .map(|key| key["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut all = listed(&first);
    all.extend(listed(&second));
    all.sort();
    let mut ids: Vec<_> = made.iter().map(|(id, _)| id.clone()).collect();
    ids.sort();
    assert_eq!(all, ids);
    // The two of the file are in the list of all.
    let whole = world.get("/keys?limit=1000").await;
    assert_eq!(whole["data"].as_array().unwrap().len(), 132);
    // Every one of them is good after a restart.
    let world = world.restart().await;
    assert_eq!(
        listed(&world.get("/keys?account=beta").await),
        listed(&first)
    );
    for (_, key) in made.iter().step_by(40) {
        assert_eq!(world.said(key, "gpt-free").await.0, 200);
    }
}

async fn what_is_wrong_is_named(ground: Ground) {
    let world = World::start(ground, "").await;
    let with = |field: &str, value: Value| {
        let mut body = json!({ "name": "app", "account": "acme" });
        body[field] = value;
        body
    };
    for (method, path, body, status, code, param, words) in [
        (
            "POST",
            "/keys",
            with("modles", json!(["gpt-*"])),
            400,
            "unknown_field",
            "modles",
            "models",
        ),
        (
            "POST",
            "/keys",
            with("plan", json!("fwe")),
            400,
            "invalid_value",
            "plan",
            "few",
        ),
        (
            "POST",
            "/keys",
            with("project", json!("web")),
            400,
            "invalid_value",
            "project",
            "default",
        ),
        (
            "POST",
            "/keys",
            with("account", json!("acne")),
            400,
            "invalid_value",
            "account",
            "acme",
        ),
        (
            "POST",
            "/keys",
            with("billing", json!({ "package": "start" })),
            400,
            "invalid_value",
            "billing.package",
            "starter",
        ),
        (
            "POST",
            "/keys",
            with("networks", json!(["10.0.0.0/99"])),
            400,
            "invalid_value",
            "networks",
            "10.0.0.0/99",
        ),
        (
            "POST",
            "/keys",
            with("spend_cap", json!({ "daily": "-1" })),
            400,
            "invalid_value",
            "spend_cap.daily",
            "-1",
        ),
        (
            "POST",
            "/keys",
            json!({ "name": "app" }),
            400,
            "missing_required_parameter",
            "account",
            "account",
        ),
        (
            "POST",
            "/accounts",
            json!({ "id": "new", "plan": "al" }),
            400,
            "invalid_value",
            "plan",
            "all",
        ),
        (
            "POST",
            "/accounts/acme/top-ups",
            json!({ "amount": "1.0000001" }),
            400,
            "invalid_value",
            "amount",
            "1.0000001",
        ),
        (
            "POST",
            "/accounts/acme/packages",
            json!({ "package": "big" }),
            400,
            "invalid_value",
            "package",
            "starter",
        ),
        (
            "POST",
            "/accounts/nobody/top-ups",
            json!({ "amount": "1" }),
            404,
            "not_found",
            "",
            "nobody",
        ),
        (
            "PATCH",
            "/accounts/acme",
            json!({ "plan": "few" }),
            409,
            "conflict",
            "",
            "configuration",
        ),
    ] {
        let answer = world.call(method, path, Some(&body)).await;
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, error["code"].as_str()),
            (status, Some(code)),
            "{body}: {error}"
        );
        assert_eq!(
            error["param"].as_str().unwrap_or_default(),
            param,
            "{body}: {error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(words) && message.ends_with(['.', '?']),
            "{body}: {message}"
        );
    }
    assert_eq!(
        world.get("/keys").await["data"].as_array().unwrap().len(),
        2,
        "those of the file"
    );
}

/// A key is told once. Everything else knows its first characters and its hash.
async fn a_key_is_told_once(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (id, key) = world.key("beta", json!({ "name": "one" })).await;
    let path = format!("/keys/{id}");
    assert_eq!(world.said(&key, "gpt-test").await.0, 200);
    let own = world.gateway.own(&key).await;
    let rotated = call(&world.gateway, "POST", &format!("{path}/rotate"), None, &[])
        .await
        .json();
    let new = rotated["key"].as_str().unwrap();
    assert_eq!(world.said(new, "nothing").await.0, 404);
    world
        .did(200, "PATCH", &path, json!({ "models": ["claude-*"] }))
        .await;
    let refused = world.ask(new, "gpt-test").await;
    assert_eq!(refused.status, 403);
    world.settled("beta", 1).await;
    for path in [
        "/keys",
        &path,
        "/accounts",
        "/accounts/beta",
        "/accounts/beta/entries",
        "/usage?by=key",
        "/nodes",
        "/ledger",
    ] {
        world.get(path).await;
    }
    world.did(200, "DELETE", &path, Value::Null).await;
    let refused_after = world.ask(new, "claude-test").await;
    assert_eq!(refused_after.status, 401);
    world.gateway.log(4).await;
    let mut everything = world.heard() + &own.to_string() + &refused.text() + &refused_after.text();
    everything += &world.gateway.log_text();
    everything += &world.gateway.metrics_text().await;
    assert!(
        everything.contains(&key[..8]),
        "its beginning is what it is known by"
    );
    if let Some(redis) = &world.ground.redis {
        for (kind, command) in [
            ("hash", "HGETALL"),
            ("string", "GET"),
            ("zset", "ZRANGE"),
            ("list", "LRANGE"),
        ] {
            let found = redis
                .command(&["SCAN", "0", "COUNT", "1000000", "TYPE", kind])
                .await;
            for name in found.array()[1].texts() {
                let mut command = vec![command, &name];
                if matches!(kind, "zset" | "list") {
                    command.extend(["0", "-1"]);
                }
                everything += &name;
                match redis.command(&command).await.ok() {
                    Reply::Array(items) => {
                        for item in items {
                            everything += &item.text();
                        }
                    }
                    one => everything += &one.text(),
                }
            }
        }
    }
    let mut kept = everything.into_bytes();
    let mut folders = vec![world.ground.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => kept.extend(std::fs::read(path).unwrap()),
            }
        }
    }
    let has = |text: &str| {
        kept.windows(text.len())
            .any(|window| window == text.as_bytes())
    };
    assert!(has(&sha256(new)), "where is it kept?");
    for secret in [
        &key[..16],
        &new[..16],
        &key[key.len() - 16..],
        support::operator::TOKEN,
        "upstream-secret",
    ] {
        assert!(!has(secret), "{secret} is somewhere");
    }
}

async fn everything_is_there_after_a_restart(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (id, key) = world
        .key("beta", json!({ "spend_cap": { "daily": "0.01" } }))
        .await;
    let (gone, revoked) = world.key("beta", json!({})).await;
    world
        .did(200, "DELETE", &format!("/keys/{gone}"), Value::Null)
        .await;
    assert_eq!(world.said(&key, "gpt-test").await.0, 200);
    let before = world.settled("beta", 1).await;
    let world = world.restart().await;
    assert_eq!(world.get("/accounts/beta").await, before);
    assert_eq!(world.get(&format!("/keys/{id}")).await["state"], "active");
    assert_eq!(world.said(&revoked, "gpt-test").await.0, 401);
    // What it spent before counts.
    assert_eq!(
        world.said(&key, "gpt-test").await,
        (402, "spend_cap_reached".into())
    );
    assert_eq!(world.said(&key, "gpt-free").await.0, 200);
    let edited = world
        .did(
            200,
            "PATCH",
            &format!("/keys/{id}"),
            json!({ "spend_cap": null }),
        )
        .await;
    assert_eq!(edited["spend_cap"]["daily"], "0.000000");
    assert_eq!(world.said(&key, "gpt-test").await.0, 200);
}

/// What a configuration no longer has refuses the keys that need it, and nobody else.
async fn a_key_whose_plan_is_gone_is_refused(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (id, lost) = world.key("beta", json!({ "plan": "few" })).await;
    let (_, kept) = world.key("beta", json!({})).await;
    let (_, sold) = world
        .key("beta", json!({ "billing": { "package": "starter" } }))
        .await;
    world
        .did(
            201,
            "POST",
            "/accounts/beta/packages",
            json!({ "package": "starter" }),
        )
        .await;
    let without = "plans: { all: {} }
billing: { mode: enforce }
keys: []
";
    let world = world.restart_with(without).await;
    for key in [&lost, &sold] {
        assert_eq!(
            world.said(key, "gpt-test").await,
            (401, "invalid_api_key".into())
        );
    }
    assert_eq!(world.said(&kept, "gpt-test").await.0, 200);
    let record = world.get(&format!("/keys/{id}")).await;
    assert_eq!(record["plan"], "few");
    // Mended, it is good again: by an edit, or by the configuration.
    world
        .did(
            200,
            "PATCH",
            &format!("/keys/{id}"),
            json!({ "plan": null }),
        )
        .await;
    assert_eq!(world.said(&lost, "gpt-test").await.0, 200);
    let world = world.restart_with("").await;
    assert_eq!(world.said(&sold, "gpt-test").await.0, 200);
}

/// An account that was made at run time and then written into the file is the file's, for its keys as for the API.
async fn what_the_file_says_of_an_account_holds(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let (_, key) = world.key("beta", json!({ "project": "web" })).await;
    assert_eq!(world.said(&key, "claude-test").await.0, 200);
    let balance = world.settled("beta", 1).await["balance"].clone();
    let file = "accounts: { acme: { plan: all }, beta: { plan: few, projects: [default, web], balance: 7 } }\n";
    let world = world.restart_with(file).await;
    let stands = world.get("/accounts/beta").await;
    assert_eq!(
        (&stands["source"], &stands["plan"]),
        (&json!("file"), &json!("few"))
    );
    assert_eq!(stands["balance"], balance, "it was opened before");
    assert_eq!(
        world.said(&key, "claude-test").await,
        (403, "model_not_allowed".into())
    );
    assert_eq!(world.said(&key, "gpt-test").await.0, 200);
}

/// `GET {mount}/usage`: a client sees its own.
async fn a_client_sees_its_own_usage(ground: Ground) {
    let world = World::start(ground, "").await;
    world.account("beta", "1").await;
    let caps = json!({ "spend_cap": { "daily": "0.5", "monthly": "0.7" } });
    let (_, key) = world.key("beta", caps).await;
    let (_, other) = world.key("beta", json!({ "name": "secret-project" })).await;
    for (key, model) in [
        (&key, "gpt-test"),
        (&other, "claude-test"),
        (&other, "gpt-test"),
    ] {
        assert_eq!(world.said(key, model).await.0, 200);
    }
    let stands = world.settled("beta", 3).await;
    for mount in ["/v1", "/api/v1", "/anthropic"] {
        let mut client = Client::connect(world.gateway.addr).await;
        let answer = client.get(&format!("{mount}/usage"), &key).await;
        assert_eq!(answer.status, 200, "{mount}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let own = answer.json();
        assert_eq!(
            (&own["account"], &own["key"]),
            (&json!("beta"), &json!("app"))
        );
        assert_eq!(
            (&own["balance"], &own["held"]),
            (&stands["balance"], &json!("0.000000"))
        );
        assert_eq!(own["package"], Value::Null);
        let cap = &own["spend_cap"];
        assert_eq!(
            (&cap["daily"], &cap["monthly"]),
            (&json!("0.500000"), &json!("0.700000"))
        );
        assert_eq!(
            (&cap["spent_that_day"], &cap["spent_that_month"]),
            (&json!(shown(COST)), &json!(shown(COST)))
        );
        assert_eq!(
            (
                &own["limits"]["plan"],
                &own["limits"]["requests_per_minute"]
            ),
            (&json!("all"), &json!(6000))
        );
        let days = own["days"].as_array().unwrap();
        assert_eq!(days.len(), 1, "{own}");
        assert_eq!(
            (&days[0]["model"], &days[0]["requests"]),
            (&json!("gpt-test"), &json!(1))
        );
        assert_eq!(
            (&days[0]["cost"], &days[0]["tokens"]),
            (&json!(shown(COST)), &json!(usage::INPUT + usage::OUTPUT))
        );
        for text in ["secret-project", "claude-test", &*key, &*other] {
            assert!(!answer.text().contains(text), "{text}: {own}");
        }
        let refused = client
            .request("GET", &format!("{mount}/usage"), &[], b"")
            .await;
        assert_eq!((refused.status, &*code(&refused)), (401, "missing_api_key"));
        let refused = client.get(&format!("{mount}/usage"), "sk-unknown").await;
        assert_eq!((refused.status, &*code(&refused)), (401, "invalid_api_key"));
    }
}

async fn a_client_sees_its_limits_where_nothing_is_charged(ground: Ground) {
    let world = World::start(ground, "billing: { mode: off }\n").await;
    let (_, key) = world.key("acme", json!({})).await;
    assert_eq!(world.said(&key, "gpt-test").await.0, 200);
    for key in [&key, KEY] {
        let own = world.gateway.own(key).await;
        assert_eq!(own["days"], json!([]));
        assert_eq!(own["limits"]["plan"], "all");
    }
}

/// An amount that was answered, in micro-units.
fn micros(amount: &Value) -> u64 {
    amount.as_str().unwrap().replace('.', "").parse().unwrap()
}

on_every_store!(
    a_key_is_used_as_soon_as_it_is_made,
    nobody_calls_without_the_token,
    an_edit_takes_hold_with_the_next_request,
    an_edit_of_an_account_is_one_of_its_keys,
    rotated_both_work_within_the_grace,
    a_package_pays_until_it_is_used_up,
    what_is_held_is_not_given_back,
    a_write_that_is_repeated_is_done_once,
    usage_is_what_the_provider_reported,
    lists_have_pages,
    what_is_wrong_is_named,
    a_key_is_told_once,
    everything_is_there_after_a_restart,
    a_key_whose_plan_is_gone_is_refused,
    what_the_file_says_of_an_account_holds,
    a_client_sees_its_own_usage,
    a_client_sees_its_limits_where_nothing_is_charged,
);
