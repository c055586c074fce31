//! Configuration → what the admin API knows of it.

use super::door::Door;
use super::keys::file_id;
use crate::admin::{Admin, Backends, Package, Settings};
use crate::auth::record::{AccountRecord, KeyBilling as Billing, KeyRecord, SpendCap};
use crate::auth::secret::{KeyHash, KeyHint};
use crate::billing::period::Calendar;
use crate::config::{Account, Config, Key, KeyBilling};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::Response;
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The admin API by the configuration in force.
pub struct Current {
    admin: ArcSwap<Admin>,
    backends: Backends,
}

impl Current {
    /// With these settings at first.
    pub fn new(settings: Settings, backends: Backends) -> Current {
        Current {
            admin: ArcSwap::from_pointee(Admin::new(settings, backends.clone())),
            backends,
        }
    }

    /// Calls that begin now go by these settings.
    pub fn replace(&self, settings: Settings) {
        let admin = Admin::new(settings, self.backends.clone());
        self.admin.store(Arc::new(admin));
    }
}

#[async_trait]
impl ServeHttp for Current {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        self.admin.load_full().response(session).await
    }
}

/// Serves the admin API until the shutdown; gives the address that was taken.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn serve(
    bind: SocketAddr,
    door: Door<Current>,
    shutdown: watch::Receiver<bool>,
) -> Result<(SocketAddr, JoinHandle<()>), String> {
    let socket = super::bound(bind, "admin")?;
    let address = super::local_address(&socket)?;
    let task = tokio::spawn(super::listen::serve(socket, None, door, shutdown));
    Ok((address, task))
}

/// The settings of the admin API; `session_key` is the text of the key that was made at the start.
pub fn settings(config: &Config, session_key: Option<&str>) -> Settings {
    let token = config.admin.as_ref().and_then(|admin| admin.token.as_ref());
    let package = |package: &crate::config::Package| {
        let crate::config::Package {
            name,
            tokens,
            valid,
            models,
            price,
        } = package;
        Package {
            name: name.clone(),
            tokens: *tokens,
            valid: *valid,
            models: models.clone(),
            price: *price,
        }
    };
    Settings {
        token: token.map(|token| token.expose().to_owned()),
        host: host(),
        key_prefix: config.key_prefix.clone(),
        currency: config.currency.clone(),
        calendar: Calendar {
            offset: i64::from(config.billing.day_starts_seconds) * 1000,
        },
        plans: config.plans.iter().map(|plan| plan.name.clone()).collect(),
        packages: config.billing.packages.iter().map(package).collect(),
        accounts: config
            .accounts
            .iter()
            .map(|account| (self::account(config, account), account.balance))
            .collect(),
        keys: config
            .keys
            .iter()
            .filter_map(|one| key(config, one))
            .collect(),
        session_key: session_key.and_then(|text| session(config, text)),
    }
}

/// The name of this machine.
pub(super) fn host() -> String {
    // Only Linux tells it there; elsewhere nodes go without.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn account(config: &Config, account: &Account) -> AccountRecord {
    let plan = config.plans.get(account.plan);
    AccountRecord {
        id: account.id.as_str().into(),
        version: 0,
        plan: plan.map(|plan| plan.name.clone()).unwrap_or_default(),
        projects: account.projects.clone(),
        created: 0,
    }
}

fn key(config: &Config, key: &Key) -> Option<KeyRecord> {
    let Key {
        name,
        account,
        sha256,
        project,
        plan,
        billing,
        daily_cap,
        monthly_cap,
        models,
        networks,
        expires,
        disabled,
    } = key;
    let account = config.accounts.get(*account)?;
    // Resolved, the account's own plan and one that is named look alike.
    let own_plan = (*plan != account.plan).then(|| config.plans.get(*plan));
    let package = |at: &usize| config.billing.packages.get(*at);
    Some(KeyRecord {
        id: file_id(sha256),
        version: 0,
        name: name.clone(),
        account: account.id.as_str().into(),
        project: project.as_str().into(),
        plan: own_plan.flatten().map(|plan| plan.name.clone()),
        models: models.clone(),
        networks: networks.iter().map(ToString::to_string).collect(),
        billing: match billing {
            KeyBilling::PayAsYouGo => Billing::PayAsYouGo,
            KeyBilling::Package(at) => Billing::Package(package(at)?.name.clone()),
        },
        spend_cap: SpendCap {
            daily: daily_cap.unwrap_or_default(),
            monthly: monthly_cap.unwrap_or_default(),
        },
        expires: expires.and_then(millis),
        disabled: *disabled,
        created: 0,
        // The configuration has its hash only.
        hint: String::new(),
        hash: hex(sha256),
        retiring: None,
        revoked: None,
    })
}

fn session(config: &Config, text: &str) -> Option<KeyRecord> {
    let account = config.accounts.first()?;
    let hash = KeyHash::of(text);
    Some(KeyRecord {
        id: file_id(hash.as_bytes()),
        version: 0,
        name: "session".to_owned(),
        account: account.id.as_str().into(),
        project: account.projects.first()?.as_str().into(),
        plan: None,
        models: None,
        networks: Vec::new(),
        billing: Billing::PayAsYouGo,
        spend_cap: SpendCap::default(),
        expires: None,
        disabled: false,
        created: 0,
        hint: KeyHint::of(text).as_str().to_owned(),
        hash: hex(hash.as_bytes()),
        retiring: None,
        revoked: None,
    })
}

fn millis(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const YAML: &str = "
admin: { bind: 127.0.0.1:0, token: secret-token }
currency: CNY
plans: { free: {}, pro: {} }
accounts: { acme: { plan: pro, balance: 5, projects: [default, web] } }
billing: { packages: { starter: { tokens: 10, valid: 30d } } }
keys:
  - { name: ci, account: acme, project: web, plan: free, billing: { package: starter }, spend_cap: { daily: 1 },
      networks: [10.0.0.0/8], sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 }
";

    fn config() -> Config {
        parse("test", YAML, &|_| None).unwrap()
    }

    #[test]
    fn the_configuration_is_known_by_its_names() {
        let settings = settings(&config(), Some("sk-0123456789abcdefghij"));
        assert_eq!(settings.token.as_deref(), Some("secret-token"));
        assert_eq!(settings.plans, ["free", "pro"]);
        let (account, seed) = &settings.accounts[0];
        assert_eq!((&*account.plan, seed.micros()), ("pro", 5_000_000));
        let key = &settings.keys[0];
        assert_eq!(&*key.id, "key_9f86d081884c7d65");
        assert_eq!(key.plan.as_deref(), Some("free"));
        assert_eq!(key.billing, Billing::Package("starter".into()));
        assert_eq!(key.spend_cap.daily.micros(), 1_000_000);
        assert_eq!(key.networks, ["10.0.0.0/8"]);
        let session = settings.session_key.unwrap();
        assert_eq!((&*session.project, &*session.hint), ("default", "sk-01234"));
    }

    /// What the API answers to requests on one connection, each sent when the answer before has ended as said.
    async fn answers(requests: &[(&str, &str)]) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (settings, backends) = crate::admin::fake_tests::parts(Arc::default());
        let admin = Arc::new(Current::new(settings, backends));
        let (_keep, never) = watch::channel(false);
        let (address, _) = serve(([127, 0, 0, 1], 0).into(), Door::open(admin), never).unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut all = String::new();
        for (request, end) in requests {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            while end.is_empty() || !answer.ends_with(end) {
                let mut bytes = [0; 4096];
                // A reset behind the last answer is an end as well.
                match stream.read(&mut bytes).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => answer += std::str::from_utf8(&bytes[..count]).unwrap(),
                }
            }
            all += &answer;
        }
        all.to_lowercase()
    }

    #[tokio::test]
    async fn the_api_is_served_over_http() {
        let token = crate::admin::fake_tests::TOKEN;
        let head = |line: &str, more: &str| {
            format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}\r\n")
        };
        let close = "Connection: close\r\n";
        let three = answers(&[
            (&head("HEAD /admin/v1/keys", ""), "\r\n\r\n"),
            (&head("GET /admin/v1/none", ""), "}}"),
            (&head("GET /admin/v1/nodes", close), ""),
        ])
        .await;
        assert_eq!(three.matches("http/1.1 200 ok").count(), 2, "{three}");
        assert_eq!(
            three.matches("http/1.1 404 not found").count(),
            1,
            "{three}"
        );
        assert_eq!(
            three.matches("\r\nx-request-id: req_").count(),
            3,
            "{three}"
        );
        let chunked = "Transfer-Encoding: chunked\r\nConnection: close\r\n";
        let body = r#"{"name":"a","account":"acme"}"#;
        let request = head("POST /admin/v1/keys", chunked);
        let request = format!("{request}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let made = answers(&[(&request, "")]).await;
        assert!(made.starts_with("http/1.1 201 created"), "{made}");
        let long = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
        let length = format!("Content-Length: {}\r\n", long.len());
        let request = head("POST /admin/v1/keys", &length) + &long;
        let refused = answers(&[(&request, "}}"), (&head("GET /admin/v1/nodes", close), "")]).await;
        assert!(refused.starts_with("http/1.1 413 "), "{refused}");
        assert!(refused.contains("http/1.1 200 ok"), "{refused}");
        // Refused before its body came: answered, and closed.
        let request = "POST /admin/v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n";
        let refused = answers(&[(request, "")]).await;
        assert!(refused.starts_with("http/1.1 401 "), "{refused}");
    }
}
