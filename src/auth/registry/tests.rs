use super::*;
use crate::auth::record::{KeyBilling, SpendCap};
use std::sync::atomic::{AtomicBool, Ordering};

fn key(id: &str, version: u64, created: u64) -> KeyRecord {
    KeyRecord {
        id: id.into(),
        version,
        name: "n".into(),
        account: "acme".into(),
        project: "default".into(),
        plan: None,
        models: None,
        networks: Vec::new(),
        billing: KeyBilling::default(),
        spend_cap: SpendCap::default(),
        expires: None,
        disabled: false,
        created,
        hint: "sk-01234".into(),
        hash: "00".into(),
        retiring: None,
        revoked: None,
    }
}

fn account(id: &str, created: u64) -> AccountRecord {
    AccountRecord {
        id: id.into(),
        version: 1,
        plan: "p".into(),
        projects: vec!["default".into()],
        created,
    }
}

/// A listener that remembers names and versions.
fn listener() -> (Listener, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    let listener = Arc::new(move |record: &Record| {
        let line = format!("{} {}", record.name(), record.version());
        hearing.lock().unwrap().push(line);
    });
    (listener, heard)
}

async fn registry(records: Arc<dyn Records>) -> (Arc<Registry>, Arc<Mutex<Vec<String>>>) {
    let (listener, heard) = listener();
    (Registry::open(records, listener).await.unwrap(), heard)
}

#[tokio::test]
async fn what_is_written_takes_hold_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(dir.path()).unwrap());
    let (registry_, heard) = registry(Arc::new(Local(db.clone()))).await;
    let write = |record| registry_.write(record, None);
    let key_1 = || key("key_1", 1, 20);
    assert_eq!(write(Record::Key(key_1())).await, Ok(Written::Now));
    assert_eq!(
        write(Record::Key(key("key_0", 1, 20))).await,
        Ok(Written::Now)
    );
    assert_eq!(
        write(Record::Key(key("key_9", 1, 10))).await,
        Ok(Written::Now)
    );
    assert_eq!(
        write(Record::Account(account("b", 2))).await,
        Ok(Written::Now)
    );
    assert_eq!(
        write(Record::Account(account("a", 2))).await,
        Ok(Written::Now)
    );
    assert_eq!(write(Record::Key(key_1())).await, Err(WriteError::Changed));
    let mut revoked = key("key_1", 2, 20);
    revoked.revoked = Some(99);
    assert_eq!(write(Record::Key(revoked)).await, Ok(Written::Now));
    assert_eq!(heard.lock().unwrap().len(), 6);
    assert_eq!(heard.lock().unwrap()[5], "key:key_1 2");
    // The oldest first, by another process too.
    let (again, heard) = registry(Arc::new(Local(db))).await;
    assert_eq!(heard.lock().unwrap().len(), 5);
    for registry in [registry_, again] {
        let ids: Vec<_> = registry.keys().iter().map(|key| key.id.clone()).collect();
        assert_eq!(
            ids,
            ["key_9".into(), "key_0".into(), Arc::<str>::from("key_1")]
        );
        let accounts = registry.accounts();
        assert_eq!((&*accounts[0].id, &*accounts[1].id), ("a", "b"));
        assert_eq!(registry.key("key_1").unwrap().revoked, Some(99));
        assert!(registry.key("key_2").is_none());
        assert!(registry.account("a").is_some() && registry.account("c").is_none());
    }
}

#[tokio::test]
async fn an_older_record_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(dir.path()).unwrap());
    let (registry, heard) = registry(Arc::new(Local(db))).await;
    registry.apply(Record::Key(key("key_1", 3, 1)));
    registry.apply(Record::Key(key("key_1", 2, 1)));
    registry.apply(Record::Key(key("key_1", 3, 1)));
    assert_eq!(*heard.lock().unwrap(), ["key:key_1 3"]);
    assert_eq!(registry.key("key_1").unwrap().version, 3);
}

#[tokio::test]
async fn an_unreadable_record_is_skipped_and_kept() {
    struct Stored;
    #[async_trait]
    impl Records for Stored {
        async fn load(&self) -> Result<Vec<(String, String)>, String> {
            let good = serde_json::to_string(&Record::Key(key("key_1", 1, 1))).unwrap();
            let stored = [
                ("key:key_0", "{".to_owned()),
                ("key:key_2", good.clone()),
                ("key:key_1", good),
            ];
            Ok(stored.map(|(name, text)| (name.to_owned(), text)).into())
        }
        async fn read(&self, _: &str) -> Result<Option<String>, String> {
            Ok(None)
        }
        async fn write(&self, _: &Arc<Record>, _: Option<&Once>) -> Result<Written, WriteError> {
            Err(WriteError::Reused)
        }
    }
    let (registry, heard) = registry(Arc::new(Stored)).await;
    assert_eq!(*heard.lock().unwrap(), ["key:key_1 1"]);
    assert_eq!(registry.keys().len(), 1);
    let new = registry.write(Record::Key(key("key_5", 1, 1)), None).await;
    assert_eq!(new, Err(WriteError::Reused));
    assert!(registry.key("key_5").is_none());
}

/// A store that writes, and says that it is away.
struct Mute {
    db: Local,
    away: AtomicBool,
}

#[async_trait]
impl Records for Mute {
    async fn load(&self) -> Result<Vec<(String, String)>, String> {
        self.db.load().await
    }
    async fn read(&self, name: &str) -> Result<Option<String>, String> {
        match self.away.swap(false, Ordering::SeqCst) {
            true => Err("away".into()),
            false => self.db.read(name).await,
        }
    }
    async fn write(
        &self,
        record: &Arc<Record>,
        once: Option<&Once>,
    ) -> Result<Written, WriteError> {
        let written = self.db.write(record, once).await;
        match self.away.load(Ordering::SeqCst) {
            true => Err(WriteError::Away),
            false => written,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_takes_hold_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let db = Local(Arc::new(Db::open(dir.path()).unwrap()));
    let away = AtomicBool::new(true);
    let (registry, heard) = registry(Arc::new(Mute { db, away })).await;
    let written = registry.write(Record::Key(key("key_1", 1, 1)), None).await;
    assert_eq!(written, Err(WriteError::Away));
    for _ in 0..100 {
        if registry.key("key_1").is_some() {
            break;
        }
        tokio::time::sleep(RETRY).await;
    }
    assert_eq!(*heard.lock().unwrap(), ["key:key_1 1"]);
}

#[tokio::test]
async fn what_another_wrote_is_read_when_a_write_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(dir.path()).unwrap());
    let (registry, _) = registry(Arc::new(Local(db.clone()))).await;
    let once = Once {
        key: "k".into(),
        fingerprint: "f".into(),
    };
    let first = Record::Key(key("key_1", 1, 1));
    db.write(&first, Some(&once)).unwrap().unwrap();
    let again = registry.write(first, Some(&once)).await;
    assert_eq!(again, Ok(Written::Before("key:key_1".into())));
    assert_eq!(registry.key("key_1").unwrap().version, 1);
    db.write(&Record::Key(key("key_1", 2, 1)), None)
        .unwrap()
        .unwrap();
    let late = registry.write(Record::Key(key("key_1", 2, 1)), None).await;
    assert_eq!(late, Err(WriteError::Changed));
    assert_eq!(registry.key("key_1").unwrap().version, 2);
}

/// A failover lost a version, and another node wrote one of the same number: what is stored now holds.
#[tokio::test]
async fn what_is_stored_last_holds_and_what_a_store_lacks_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(dir.path()).unwrap());
    let (registry, heard) = registry(Arc::new(Local(db))).await;
    for record in [
        Record::Key(key("key_1", 2, 20)),
        Record::Account(account("acme", 10)),
    ] {
        registry.apply(record.clone());
        // The same again is nothing new.
        registry.apply(record);
    }
    let other = KeyRecord {
        disabled: true,
        ..key("key_1", 2, 20)
    };
    registry.apply(Record::Key(other));
    registry.apply(Record::Key(key("key_1", 1, 20)));
    assert!(registry.key("key_1").unwrap().disabled);
    let told = ["key:key_1 2", "account:acme 1", "key:key_1 2"];
    assert_eq!(*heard.lock().unwrap(), told);
    let ahead = |stored: &[(&str, u64)]| -> Vec<String> {
        let stored = stored
            .iter()
            .map(|(name, version)| ((*name).to_owned(), *version));
        let records = registry.ahead_of(&stored.collect());
        records.iter().map(Record::name).collect()
    };
    assert_eq!(ahead(&[]), ["account:acme", "key:key_1"]);
    assert_eq!(
        ahead(&[("account:acme", 1), ("key:key_1", 1)]),
        ["key:key_1"]
    );
    assert_eq!(ahead(&[("account:acme", 1), ("key:key_1", 3)]), [""; 0]);
}
