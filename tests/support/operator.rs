//! Gateways with an admin API, on either store, and an operator who calls it and remembers every answer.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::gateway::{Gateway, complete, config};
use super::http::{Client, PATIENCE, Response};
use super::provider::{Provider, usage};
use super::redis::Redis;

pub const TOKEN: &str = "operator-token-0123456789abcdef";
pub const CHAT: &str = "/v1/chat/completions";
pub const MESSAGES: &str = "/anthropic/v1/messages";

/// What an ordinary answer of `gpt-test` costs, in micro-units: [`PRICES`] by what the provider reports.
pub const COST: u64 =
    (usage::INPUT - usage::CACHED) * 100 + usage::CACHED * 50 + usage::OUTPUT * 1000;
const PRICES: &str = "price: { input: 100, cached_input: 50, output: 1000 }";

/// What belongs to no gateway: a provider, a folder, perhaps a Redis.
pub struct Ground {
    pub provider: Provider,
    pub folder: TempDir,
    pub redis: Option<Redis>,
}

/// A gateway on it, and its operator.
pub struct World {
    pub ground: Ground,
    pub gateway: Gateway,
    more: String,
    /// Every answer of the admin API.
    heard: Mutex<String>,
}

/// An amount as it is answered.
pub fn shown(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// The `code` of an error.
#[track_caller]
pub fn code(answer: &Response) -> String {
    let body = answer.json();
    let error = &body["error"];
    let code = error["code"]
        .as_str()
        .or(error["details"]["error_code"].as_str());
    code.unwrap_or_else(|| panic!("no code: {}", answer.text()))
        .to_owned()
}

/// Asks until the answer is as wanted; a test that waits in vain fails.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

impl Ground {
    pub async fn embedded() -> Ground {
        Ground::on(None).await
    }

    pub async fn redis() -> Ground {
        Ground::on(Some(Redis::start().await)).await
    }

    async fn on(redis: Option<Redis>) -> Ground {
        Ground {
            provider: Provider::start().await,
            folder: TempDir::with_prefix("operator-").unwrap(),
            redis,
        }
    }

    /// A configuration of one node of this name; `more` are sections, and `plans` unless it has them.
    pub fn yaml(&self, node: &str, more: &str) -> String {
        let redis = self.redis.as_ref().map(Redis::url);
        self.yaml_by(node, redis.as_deref(), more)
    }

    /// The same, with another way to Redis.
    pub fn yaml_by(&self, node: &str, redis: Option<&str>, more: &str) -> String {
        let redis = redis.map_or_else(String::new, |url| format!(", redis: {{ url: \"{url}\" }}"));
        let path = self.store(node);
        let has = |section: &str| more.lines().any(|line| line.starts_with(section));
        let mut yaml = format!(
            "providers:
  fake: {{ api: openai, base_url: \"{}\", keys: [upstream-secret] }}
  claude: {{ api: anthropic, base_url: \"{}\", keys: [upstream-secret] }}
models:
  - {{ id: gpt-test, {PRICES}, upstreams: [{{ provider: fake }}] }}
  - {{ id: gpt-free, upstreams: [{{ provider: fake }}] }}
  - {{ id: claude-test, {PRICES}, upstreams: [{{ provider: claude }}] }}
",
            self.provider.base_url(),
            self.provider.anthropic_url(),
        );
        for (section, text) in [
            ("store:", format!("store: {{ path: {path:?}{redis}, on_failure: {{ limits: local, billing: allow }} }}")),
            ("admin:", format!("admin: {{ bind: 127.0.0.1:0, token: {TOKEN} }}")),
            (
                "billing:",
                "billing: { mode: enforce, packages: { starter: { tokens: 60, valid: 30d, models: [\"gpt-*\"], price: 9.9 } } }".to_owned(),
            ),
            (
                "plans:",
                "plans: { all: { requests_per_minute: 6000 }, few: { models: [\"gpt-*\"] } }".to_owned(),
            ),
            ("accounts:", "accounts: { acme: { plan: all, balance: 10 } }".to_owned()),
        ] {
            if !has(section) {
                yaml += &text;
                yaml.push('\n');
            }
        }
        complete(&(yaml + more))
    }

    /// Where a node keeps what it keeps.
    pub fn store(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }
}

impl World {
    /// With these sections more.
    pub async fn start(ground: Ground, more: &str) -> World {
        let gateway = Gateway::from(&config(&ground.yaml("a", more))).await;
        World {
            ground,
            gateway,
            more: more.to_owned(),
            heard: Mutex::default(),
        }
    }

    /// Ends the gateway in good order, and starts another on what it leaves.
    pub async fn restart(self) -> World {
        let more = self.more.clone();
        self.restart_with(&more).await
    }

    /// The same with other sections.
    pub async fn restart_with(self, more: &str) -> World {
        self.gateway.running.shutdown(Duration::from_secs(5)).await;
        let again = World::start(self.ground, more).await;
        World {
            heard: self.heard,
            ..again
        }
    }

    /// A call of the operator.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        self.call_with(method, path, body, &[]).await
    }

    pub async fn call_with(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Response {
        let answer = call(&self.gateway, method, path, body, headers).await;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push_str(&format!("{:?}\n{}\n", answer.headers, answer.text()));
        answer
    }

    pub fn heard(&self) -> String {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What must be answered with this status.
    pub async fn did(&self, status: u16, method: &str, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(&body);
        let answer = self.call(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        answer.json()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.did(200, "GET", path, Value::Null).await
    }

    /// A new key of this account: its id and its text.
    pub async fn key(&self, account: &str, more: Value) -> (String, String) {
        let mut body = json!({ "name": "app", "account": account });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        // Not remembered: it is what nobody else may hear.
        let made = call(&self.gateway, "POST", "/keys", Some(&body), &[]).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let made = made.json();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    /// A new account with this much money.
    pub async fn account(&self, id: &str, amount: &str) {
        self.did(
            201,
            "POST",
            "/accounts",
            json!({ "id": id, "plan": "all", "projects": ["default", "web"] }),
        )
        .await;
        let path = format!("/accounts/{id}/top-ups");
        let body = json!({ "amount": amount, "note": "first" });
        let stands = self.did(201, "POST", &path, body).await;
        assert_eq!(stands["entry"]["kind"], "top_up");
    }

    /// What a client is answered.
    pub async fn ask(&self, key: &str, model: &str) -> Response {
        ask(&self.gateway, key, model).await
    }

    /// The status of the next request, and the code of its refusal.
    pub async fn said(&self, key: &str, model: &str) -> (u16, String) {
        said(&self.gateway, key, model).await
    }

    /// How an account stands, when all that was used of it is in its sums.
    pub async fn settled(&self, account: &str, requests: u64) -> Value {
        let path = format!("/accounts/{account}");
        let usage = format!("/usage?account={account}");
        until("all is charged", async || {
            let used = self.get(&usage).await;
            let stands = self.get(&path).await;
            let packages = stands["packages"].as_array().unwrap();
            let rests = stands["held"] == "0.000000" && packages.iter().all(|one| one["held"] == 0);
            (rests && used["total"]["requests"] == requests).then_some(stands)
        })
        .await
    }
}

impl Gateway {
    /// What a client is told of itself.
    pub async fn own(&self, key: &str) -> Value {
        let answer = Client::connect(self.addr).await.get("/v1/usage", key).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

/// A call of an operator to this gateway.
pub async fn call(
    gateway: &Gateway,
    method: &str,
    path: &str,
    body: Option<&Value>,
    more: &[(&str, &str)],
) -> Response {
    let mut client = Client::connect(gateway.admin.unwrap()).await;
    let bearer = format!("Bearer {TOKEN}");
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(more);
    let body = body.map(Value::to_string).unwrap_or_default();
    let path = format!("/admin/v1{path}");
    client
        .request(method, &path, &headers, body.as_bytes())
        .await
}

/// What this gateway answers a client.
pub async fn ask(gateway: &Gateway, key: &str, model: &str) -> Response {
    ask_at(gateway.addr, key, model).await
}

pub async fn ask_at(addr: SocketAddr, key: &str, model: &str) -> Response {
    let body = json!({ "model": model, "max_tokens": 5, "messages": [{ "role": "user", "content": "hi" }] });
    let path = if model.starts_with("claude") {
        MESSAGES
    } else {
        CHAT
    };
    Client::connect(addr)
        .await
        .post_json(path, key, &body)
        .await
}

/// The status, and the code of a refusal; `ok` if it is none.
pub async fn said(gateway: &Gateway, key: &str, model: &str) -> (u16, String) {
    let answer = ask(gateway, key, model).await;
    match answer.status {
        200 => (200, "ok".to_owned()),
        status => (status, code(&answer)),
    }
}

#[macro_export]
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::operator::Ground::embedded().await).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::operator::Ground::redis().await).await;
            })*
        }
    };
}
