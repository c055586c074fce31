//! Books and keys of the tests, in memory.

use super::backend::{Books, File, Keys, NotReloaded, Peers, Reloaded, Sight, View};
use super::failure::Outcome;
use super::reply::Reply;
use super::{Admin, Backends, Package, Request, Settings};
use crate::auth::record::{AccountRecord, KeyBilling, KeyRecord, Record, WriteError, Written};
use crate::billing::money::Money;
use crate::billing::period::Calendar;
use crate::billing::wallet::Wallet;
use crate::billing::{Drift, Entry, Once, PostError, Posted, Statement, UsageRow};
use crate::catalog::tests::model;
use crate::clock::Clock;
use crate::id::RequestId;
use crate::record::status::Seen;
use crate::store::nodes::Node;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// 2026-11-20 12:00 UTC.
pub const NOW: u64 = 1_795_176_000_000;
pub const TOKEN: &str = "admin-token-of-the-tests";

pub struct Store {
    records: Mutex<BTreeMap<String, Record>>,
    written: Mutex<BTreeMap<String, (String, String)>>,
    wallets: Mutex<BTreeMap<String, (Wallet, Vec<Posted>)>>,
    posted: Mutex<BTreeMap<String, (String, Posted)>>,
    pub usage: Mutex<Vec<(Arc<str>, UsageRow)>>,
    pub drift: Mutex<Vec<Drift>>,
    pub reloaded: Mutex<Result<Reloaded, NotReloaded>>,
    pub away: AtomicBool,
    /// So many writes find that another was first.
    pub races: AtomicU32,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            records: Mutex::default(),
            written: Mutex::default(),
            wallets: Mutex::default(),
            posted: Mutex::default(),
            usage: Mutex::default(),
            drift: Mutex::default(),
            reloaded: Mutex::new(Ok(Reloaded::default())),
            away: AtomicBool::default(),
            races: AtomicU32::default(),
        }
    }
}

impl Store {
    fn there(&self) -> Result<(), PostError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(PostError::Away),
            false => Ok(()),
        }
    }

    pub fn statement_of(&self, account: &str) -> Option<Statement> {
        let wallets = self.wallets.lock().unwrap();
        wallets.get(account).map(|(wallet, _)| wallet.statement())
    }
}

#[async_trait]
impl Keys for Store {
    fn key(&self, id: &str) -> Option<Arc<KeyRecord>> {
        match self.records.lock().unwrap().get(&format!("key:{id}"))? {
            Record::Key(key) => Some(Arc::new(key.clone())),
            Record::Account(_) => None,
        }
    }

    fn keys(&self) -> Vec<Arc<KeyRecord>> {
        let records = self.records.lock().unwrap();
        let keys = records.values().filter_map(|record| match record {
            Record::Key(key) => Some(Arc::new(key.clone())),
            Record::Account(_) => None,
        });
        keys.collect()
    }

    fn account(&self, id: &str) -> Option<Arc<AccountRecord>> {
        match self.records.lock().unwrap().get(&format!("account:{id}"))? {
            Record::Account(account) => Some(Arc::new(account.clone())),
            Record::Key(_) => None,
        }
    }

    fn accounts(&self) -> Vec<Arc<AccountRecord>> {
        let records = self.records.lock().unwrap();
        let accounts = records.values().filter_map(|record| match record {
            Record::Account(account) => Some(Arc::new(account.clone())),
            Record::Key(_) => None,
        });
        accounts.collect()
    }

    async fn write(&self, record: Record, once: Option<&Once>) -> Result<Written, WriteError> {
        self.there().map_err(|_| WriteError::Away)?;
        let mut written = self.written.lock().unwrap();
        if let Some((fingerprint, name)) = once.and_then(|once| written.get(&once.key)) {
            return match once.is_some_and(|once| once.fingerprint == *fingerprint) {
                true => Ok(Written::Before(name.clone())),
                false => Err(WriteError::Reused),
            };
        }
        let mut records = self.records.lock().unwrap();
        let version = records.get(&record.name()).map_or(0, Record::version);
        let race = self
            .races
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if race.is_ok() || record.version() != version + 1 {
            return Err(WriteError::Changed);
        }
        if let Some(once) = once {
            let before = (once.fingerprint.clone(), record.name());
            written.insert(once.key.clone(), before);
        }
        records.insert(record.name(), record);
        Ok(Written::Now)
    }
}

#[async_trait]
impl Books for Store {
    async fn open(&self, account: &str, seed: Money) -> Result<(), PostError> {
        self.there()?;
        let mut wallets = self.wallets.lock().unwrap();
        wallets.entry(account.to_owned()).or_insert_with(|| {
            let posted = Posted {
                id: "open".into(),
                entry: Entry::Open { amount: seed },
                note: None,
                at: NOW,
            };
            let mut wallet = Wallet::default();
            wallet.post(&posted).unwrap();
            (wallet, vec![posted])
        });
        Ok(())
    }

    async fn statement(&self, account: &str) -> Result<Option<Statement>, PostError> {
        self.there()?;
        Ok(self.statement_of(account))
    }

    async fn post(
        &self,
        account: &str,
        entry: Entry,
        note: Option<String>,
        once: Option<&Once>,
    ) -> Result<(Posted, bool), PostError> {
        self.there()?;
        let mut before = self.posted.lock().unwrap();
        if let Some((fingerprint, posted)) = once.and_then(|once| before.get(&once.key)) {
            return match once.is_some_and(|once| once.fingerprint == *fingerprint) {
                true => Ok((posted.clone(), true)),
                false => Err(PostError::Reused),
            };
        }
        let mut wallets = self.wallets.lock().unwrap();
        let (wallet, entries) = wallets.get_mut(account).ok_or(PostError::Unknown)?;
        let posted = Posted {
            id: format!("entry_{}", entries.len()).into(),
            entry,
            note,
            at: NOW,
        };
        wallet.post(&posted)?;
        entries.push(posted.clone());
        if let Some(once) = once {
            before.insert(once.key.clone(), (once.fingerprint.clone(), posted.clone()));
        }
        Ok((posted, false))
    }

    async fn entries(&self, account: &str) -> Result<Vec<Posted>, PostError> {
        self.there()?;
        let wallets = self.wallets.lock().unwrap();
        let (_, entries) = wallets.get(account).ok_or(PostError::Unknown)?;
        Ok(entries.clone())
    }

    async fn usage(
        &self,
        account: Option<&str>,
        since_day: i32,
        until_day: i32,
    ) -> Result<Vec<(Arc<str>, UsageRow)>, PostError> {
        self.there()?;
        let rows = self.usage.lock().unwrap();
        let wanted = |(of, row): &&(Arc<str>, UsageRow)| {
            account.is_none_or(|account| **of == *account)
                && (since_day..=until_day).contains(&row.day)
        };
        Ok(rows.iter().filter(wanted).cloned().collect())
    }

    async fn verify(&self) -> Result<Vec<Drift>, PostError> {
        self.there()?;
        Ok(self.drift.lock().unwrap().clone())
    }
}

/// Two others: one of this release, and one that says nothing of itself.
#[async_trait]
impl Peers for Store {
    fn own(&self) -> String {
        "b".to_owned()
    }

    async fn list(&self) -> Option<Vec<Node>> {
        self.there().ok()?;
        let about = r#"{"version":"9.9.9","host":"edge-2","started_at":"2026-11-20T11:00:00Z"}"#;
        let node = |id: &str, about: &str| Node {
            id: id.to_owned(),
            heard: Duration::from_millis(1500),
            about: about.to_owned(),
        };
        Some(vec![node("c", ""), node("b", ""), node("a", about)])
    }
}

#[async_trait]
impl File for Store {
    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        self.reloaded.lock().unwrap().clone()
    }
}

struct Still;

impl Sight for Still {
    fn look(&self) -> View {
        let seen = Seen {
            requests: 4,
            failures: 1,
        };
        View {
            lives: Vec::new(),
            models: vec![(Arc::new(model("gpt-5")), seen)],
            providers: Vec::new(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(NOW),
            uptime: Duration::from_secs(90),
            active: 2,
            ready: true,
            nodes: 3,
        }
    }
}

pub struct Bench {
    pub admin: Admin,
    pub store: Arc<Store>,
}

pub fn bench() -> Bench {
    let store = Arc::new(Store::default());
    let (settings, backends) = parts(store.clone());
    Bench {
        admin: Admin::new(settings, backends),
        store,
    }
}

/// What the API is made of.
pub fn parts(store: Arc<Store>) -> (Settings, Backends) {
    let file_key = KeyRecord {
        id: "key_9f86d081884c7d65".into(),
        version: 0,
        name: "ci".into(),
        account: "acme".into(),
        project: "default".into(),
        plan: None,
        models: None,
        networks: Vec::new(),
        billing: KeyBilling::PayAsYouGo,
        spend_cap: Default::default(),
        expires: None,
        disabled: false,
        created: 0,
        hint: String::new(),
        hash: "9f86d081884c7d65".repeat(4),
        retiring: None,
        revoked: None,
    };
    let acme = AccountRecord {
        id: "acme".into(),
        version: 0,
        plan: "pro".into(),
        projects: vec!["default".into(), "web".into()],
        created: 0,
    };
    let settings = Settings {
        token: Some(TOKEN.into()),
        host: "edge-1".into(),
        key_prefix: "sk-".into(),
        currency: "CNY".into(),
        calendar: Calendar::default(),
        plans: vec!["free".into(), "pro".into()],
        packages: vec![Package {
            name: "starter".into(),
            tokens: 1000,
            valid: Duration::from_secs(30 * 86_400),
            models: vec!["*".into()],
            price: Money::from_micros(19_900_000),
        }],
        accounts: vec![(acme, Money::from_micros(100_000_000))],
        keys: vec![file_key],
        session_key: None,
    };
    let backends = Backends {
        books: store.clone(),
        keys: store.clone(),
        sight: Arc::new(Still),
        peers: Some(store.clone()),
        file: store.clone(),
        clock: Clock::Hand(Arc::new(AtomicU64::new(NOW))),
    };
    (settings, backends)
}

impl Bench {
    /// Calls with the token; `headers` are added.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        body: &str,
        headers: &[(&'static str, &str)],
    ) -> Reply {
        let body: Outcome<Vec<u8>> = Ok(body.as_bytes().to_vec());
        let request = request(method, path, headers);
        self.admin.answer(&request, async { body }).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        parsed(&self.raw(method, path, body, &[]).await)
    }

    pub async fn once(
        &self,
        method: &str,
        path: &str,
        body: &str,
        key: &str,
    ) -> (u16, Value, bool) {
        let headers = [("idempotency-key", key)];
        let reply = self.raw(method, path, body, &headers).await;
        let replayed = reply.headers.contains_key("idempotency-replayed");
        let (status, body) = parsed(&reply);
        (status, body, replayed)
    }
}

pub fn parsed(reply: &Reply) -> (u16, Value) {
    let body = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
    (reply.status.as_u16(), body)
}

/// A request with the token; `headers` are added.
pub fn request(method: &str, path: &str, headers: &[(&'static str, &str)]) -> Request {
    let mut map = HeaderMap::new();
    let bearer = format!("Bearer {TOKEN}");
    map.insert("authorization", HeaderValue::from_str(&bearer).unwrap());
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    Request {
        id: RequestId::new(),
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        uri: format!("/admin/v1{path}").parse().unwrap(),
        headers: map,
        client: Some(([10, 0, 0, 7], 50_000).into()),
    }
}

/// An error's code.
pub fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap_or("none")
}
