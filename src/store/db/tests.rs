//! Above 400 lines: one test a promise of the store, with the few makers of values that all share.

use super::*;
use crate::auth::record::{AccountRecord, Record, WriteError, Written};
use crate::billing::money::Money;
use crate::billing::period::{Calendar, Period};
use crate::billing::{
    Charge, Due, Entry, Held, Once, PostError, Posted, PostedOutcome, Sums, Used,
};
use crate::meter::usage::{Source, Usage};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

const DAY: i32 = 20_000;
const UTC: Calendar = Calendar { offset: 0 };

fn money(micros: i64) -> Money {
    Money::from_micros(micros)
}

fn charge(account: &str, day: i32, cost: i64, source: Option<Source>) -> Arc<Charge> {
    let tokens = Usage {
        input: 7,
        output: 3,
        ..Usage::default()
    };
    let used = match source {
        Some(_) => Used {
            tokens,
            ..Used::default()
        },
        None => Used::default(),
    };
    Arc::new(Charge {
        held: Held {
            id: 1,
            account: account.into(),
            key: "key_1".into(),
            project: "default".into(),
            model: "m".into(),
            money: money(cost),
            tokens: 0,
            package: None,
            period: Period::of(day),
        },
        due: Due {
            cost: money(cost),
            used,
        },
        source,
        at: (DAY as u64 + 2) * 86_400_000,
    })
}

fn posted(id: &str, entry: Entry) -> Posted {
    Posted {
        id: id.into(),
        entry,
        note: Some("why".into()),
        at: 5,
    }
}

fn top_up(id: &str, amount: i64) -> Posted {
    let amount = money(amount);
    posted(id, Entry::TopUp { amount })
}

fn once(key: &str, fingerprint: &str) -> Once {
    Once {
        key: key.into(),
        fingerprint: fingerprint.into(),
    }
}

fn balance(db: &Db, account: &str) -> Money {
    let wallets = db.wallets().unwrap();
    let found = wallets.iter().find(|(name, _)| **name == *account);
    found.unwrap().1.balance()
}

/// The store as a kill at this moment leaves it.
fn killed(dir: &TempDir) -> (TempDir, Db) {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join(FILE), copy.path().join(FILE)).unwrap();
    let db = Db::open(copy.path()).unwrap();
    (copy, db)
}

#[test]
fn a_charge_is_applied_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    assert!(db.open_account("acme", money(1000), 1).unwrap());
    assert!(!db.open_account("acme", money(1000), 2).unwrap());
    let reported = charge("acme", DAY, 100, Some(Source::Reported));
    let estimated = charge("acme", DAY, 30, Some(Source::Estimated));
    let nothing = charge("acme", DAY, 0, None);
    let batch = [(1, reported.clone()), (2, estimated), (4, nothing)];
    db.apply(7, &batch, UTC).unwrap();
    db.apply(7, &batch, UTC).unwrap();
    db.apply(7, &[(4, reported.clone()), (3, reported.clone())], UTC)
        .unwrap();
    assert_eq!(db.mark(7).unwrap(), 4);
    assert_eq!(balance(&db, "acme"), money(870));
    // Another epoch has a mark of its own.
    assert_eq!(db.mark(8).unwrap(), 0);
    db.apply(8, &[(1, reported)], UTC).unwrap();
    assert_eq!(balance(&db, "acme"), money(770));
    let rows = db.usage(Some("acme"), DAY, DAY).unwrap();
    assert_eq!(rows.len(), 1);
    let Sums {
        requests,
        used,
        cost,
        estimated_cost,
        package_tokens,
    } = rows[0].1.sums;
    assert_eq!(
        (requests, used.tokens.input, used.tokens.output),
        (3, 21, 9)
    );
    assert_eq!((cost, estimated_cost), (money(230), money(30)));
    assert_eq!(package_tokens, 0);
    db.forget_marks(&[8]).unwrap();
    assert_eq!((db.mark(7).unwrap(), db.mark(8).unwrap()), (0, 1));
    assert!(db.verify().unwrap().is_empty());
}

#[test]
fn usage_is_of_an_account_and_of_days() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let mut seq = 0;
    for account in ["a", "ab", "b"] {
        for day in [-1, DAY, DAY + 1, DAY + 2] {
            seq += 1;
            let charge = charge(account, day, 1, Some(Source::Reported));
            db.apply(1, &[(seq, charge)], UTC).unwrap();
        }
    }
    let days = |account, since, until| -> Vec<(String, i32)> {
        let rows = db.usage(account, since, until).unwrap();
        rows.iter()
            .map(|(account, row)| (account.to_string(), row.day))
            .collect()
    };
    let of = |account: &str, day| (account.to_owned(), day);
    assert_eq!(
        days(Some("a"), DAY + 1, DAY + 2),
        [of("a", DAY + 1), of("a", DAY + 2)]
    );
    assert_eq!(
        days(None, i32::MIN, DAY - 1),
        [of("a", -1), of("ab", -1), of("b", -1)]
    );
    assert_eq!(days(Some("c"), i32::MIN, i32::MAX), []);
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("deep/er")).unwrap();
    drop(db);
    let db = Db::open(dir.path()).unwrap();
    db.open_account("acme", money(1000), 1).unwrap();
    db.post("acme", &top_up("t", 5), None, None)
        .unwrap()
        .unwrap();
    db.apply(
        7,
        &[(1, charge("acme", DAY, 100, Some(Source::Partial)))],
        UTC,
    )
    .unwrap();
    let (_copy, after) = killed(&dir);
    assert_eq!(after.wallets().unwrap(), db.wallets().unwrap());
    assert_eq!(balance(&after, "acme"), money(905));
    assert_eq!(after.mark(7).unwrap(), 1);
    assert_eq!(after.entries("acme").unwrap().len(), 2);
    let all = |db: &Db| db.usage(None, i32::MIN, i32::MAX).unwrap();
    assert_eq!(all(&after), all(&db));
    assert!(after.verify().unwrap().is_empty());
}

#[test]
fn one_process_at_a_time_and_nobody_else_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let db = Db::open(&path).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(FILE)), 0o600);
    let error = Db::open(&path).err().unwrap();
    assert_eq!(
        error,
        format!(
            "store.path {}: another tollgate process has it open; stop it, or give each its own path",
            path.display()
        )
    );
    drop(db);
    Db::open(&path).unwrap();
}

#[test]
fn another_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    db.transact(|transaction| {
        transaction.open_table(META)?.insert("schema", 2)?;
        Ok(Ok::<(), ()>(()))
    })
    .unwrap()
    .unwrap();
    drop(db);
    let error = Db::open(dir.path()).err().unwrap();
    assert!(error.contains("schema 2; this one has schema 1"), "{error}");
    assert!(!error.contains('\n'));
}

#[test]
fn entries_are_made_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let hand = Arc::new(AtomicU64::new(1_000));
    let db = Db::open_by(dir.path(), Clock::Hand(hand.clone())).unwrap();
    let post = |posted: &Posted, once: Option<&Once>| db.post("acme", posted, None, once).unwrap();
    assert_eq!(post(&top_up("t1", 5), None), Err(PostError::Unknown));
    db.open_account("acme", money(100), 1).unwrap();
    let first = once("idem", "a");
    assert_eq!(post(&top_up("t1", 5), Some(&first)), Ok(PostedOutcome::Now));
    assert_eq!(
        post(&top_up("t2", 5), Some(&first)),
        Ok(PostedOutcome::Before("t1".into()))
    );
    let other = once("idem", "b");
    assert_eq!(post(&top_up("t2", 6), Some(&other)), Err(PostError::Reused));
    assert_eq!(balance(&db, "acme"), money(105));
    // A refused one leaves its key for the next attempt.
    let refund = |amount| {
        let amount = money(amount);
        posted("r", Entry::Refund { amount })
    };
    let later = once("later", "r");
    let refused = db.post("acme", &refund(50), Some(money(49)), Some(&later));
    let available = money(49);
    assert_eq!(refused.unwrap(), Err(PostError::Short { available }));
    assert_eq!(
        post(&refund(106), Some(&later)),
        Err(PostError::Short {
            available: money(105)
        })
    );
    assert_eq!(post(&refund(105), Some(&later)), Ok(PostedOutcome::Now));
    let ids = |account| -> Vec<String> {
        let entries = db.entries(account).unwrap();
        entries.iter().map(|posted| posted.id.to_string()).collect()
    };
    assert_eq!(ids("acme"), ["open", "t1", "r"]);
    assert_eq!(ids("acm"), [""; 0]);
    assert!(db.verify().unwrap().is_empty());
    // A day later the keys are forgotten.
    hand.store(1_000 + 86_400_000, Ordering::SeqCst);
    assert_eq!(post(&top_up("t3", 6), Some(&other)), Ok(PostedOutcome::Now));
    assert_eq!(
        post(&top_up("t4", 6), Some(&other)),
        Ok(PostedOutcome::Before("t3".into()))
    );
    let kept = db.read(|transaction| {
        use redb::ReadableTableMetadata;
        let keys = transaction.open_table(ONCE)?.len()?;
        Ok((keys, transaction.open_table(ONCE_TIMES)?.len()?))
    });
    assert_eq!(kept.unwrap(), (1, 1));
}

fn account(version: u64, plan: &str) -> Record {
    Record::Account(AccountRecord {
        id: "acme".into(),
        version,
        plan: plan.into(),
        projects: vec!["default".into()],
        created: 1,
    })
}

#[test]
fn a_record_is_written_over_by_the_next_version_only() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let write = |record: &Record, once: Option<&Once>| db.write(record, once).unwrap();
    assert_eq!(write(&account(2, "a"), None), Err(WriteError::Changed));
    assert_eq!(write(&account(1, "a"), None), Ok(Written::Now));
    assert_eq!(write(&account(1, "b"), None), Err(WriteError::Changed));
    let again = once("k", "f");
    assert_eq!(write(&account(2, "b"), Some(&again)), Ok(Written::Now));
    assert_eq!(
        write(&account(2, "b"), Some(&again)),
        Ok(Written::Before("account:acme".into()))
    );
    assert_eq!(
        write(&account(3, "c"), Some(&once("k", "g"))),
        Err(WriteError::Reused)
    );
    let records = db.records().unwrap();
    assert_eq!(records.len(), 1);
    let read = Record::read(&records[0].0, &records[0].1);
    assert_eq!(read.unwrap(), account(2, "b"));
    // One that cannot be read is not written over.
    db.transact(|transaction| {
        let mut table = transaction.open_table(RECORDS)?;
        table.insert("account:acme", b"\xff{".as_slice())?;
        Ok(Ok::<(), ()>(()))
    })
    .unwrap()
    .unwrap();
    assert_eq!(write(&account(3, "c"), None), Err(WriteError::Changed));
    assert_eq!(db.records().unwrap().len(), 1);
}

#[test]
fn a_difference_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    db.open_account("acme", money(1000), 1).unwrap();
    db.open_account("other", money(1000), 1).unwrap();
    let spent = charge("acme", DAY, 100, Some(Source::Reported));
    db.apply(1, &[(1, spent.clone())], UTC).unwrap();
    assert!(db.verify().unwrap().is_empty());
    // A charge that reached the wallet, and nothing else.
    db.transact(|transaction| {
        let mut wallets = transaction.open_table(WALLETS)?;
        let mut wallet = super::charges::wallet(&wallets, "acme")?;
        wallet.charge(&spent, UTC);
        wallets.insert("acme", text(&wallet)?.as_slice())?;
        Ok(Ok::<(), ()>(()))
    })
    .unwrap()
    .unwrap();
    let drifts = db.verify().unwrap();
    let found: Vec<(&str, i64, i64)> = drifts
        .iter()
        .map(|drift| (drift.what.as_str(), drift.stored, drift.expected))
        .collect();
    assert_eq!(
        found,
        [
            ("balance", 800, 900),
            ("key key_1 day", 200, 100),
            ("key key_1 month", 200, 100)
        ]
    );
    assert!(drifts.iter().all(|drift| &*drift.account == "acme"));
}

#[test]
fn unreadable_values_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    db.transact(|transaction| {
        let mut wallets = transaction.open_table(WALLETS)?;
        wallets.insert("acme", b"{\"balance\":".as_slice())?;
        Ok(Ok::<(), ()>(()))
    })
    .unwrap()
    .unwrap();
    let error = db.wallets().unwrap_err().to_string();
    assert!(error.starts_with("embedded store: unreadable content: wallets: "));
    assert!(db.verify().is_err());
    let spent = charge("acme", DAY, 1, Some(Source::Reported));
    assert!(db.apply(1, &[(1, spent.clone())], UTC).is_err());
    assert_eq!(db.mark(1).unwrap(), 0, "all of it or nothing");
}

#[test]
fn a_damaged_file_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    for n in 1..=200 {
        let account = format!("account-{}", n % 20);
        db.open_account(&account, money(1000), 1).unwrap();
        let spent = charge(&account, DAY + n % 3, 1, Some(Source::Reported));
        db.apply(1, &[(n.unsigned_abs().into(), spent)], UTC)
            .unwrap();
    }
    drop(db);
    let whole = std::fs::read(dir.path().join(FILE)).unwrap();
    let mut random = 1_u64;
    for round in 0..60 {
        let mut damaged = whole.clone();
        for _ in 0..=round {
            // Knuth's generator: the same damage every time.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 20) as usize % damaged.len();
            damaged[at] ^= (random >> 12) as u8 | 1;
        }
        if round % 7 == 0 {
            damaged.truncate(damaged.len() / 2 + round);
        }
        let copy = tempfile::tempdir().unwrap();
        std::fs::write(copy.path().join(FILE), damaged).unwrap();
        if let Ok(db) = Db::open(copy.path()) {
            let _ = db.wallets();
            let _ = db.verify();
            let _ = db.records();
            let _ = db.open_account("new", money(1), 1);
            let spent = charge("account-1", DAY, 1, Some(Source::Reported));
            let _ = db.apply(2, &[(1, spent)], UTC);
        }
    }
}

#[test]
fn a_store_that_is_lent_comes_back_or_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Db::open(dir.path()).unwrap());
    db.open_account("acme", money(100), 1).unwrap();
    db.lend();
    // Somebody else has it now; who asks waits for it.
    let successor = Db::open(dir.path()).unwrap();
    assert_eq!(balance(&successor, "acme"), money(100));
    let asking = std::thread::spawn({
        let db = db.clone();
        move || balance(&db, "acme")
    });
    successor.open_account("new", money(5), 1).unwrap();
    drop(successor);
    db.take_back().unwrap();
    assert_eq!(asking.join().unwrap(), money(100));
    assert_eq!(balance(&db, "new"), money(5));
    assert!(!db.is_given());

    db.lend();
    let successor = Db::open(dir.path()).unwrap();
    db.give();
    assert!(db.is_given());
    let refused = db.wallets().unwrap_err().to_string();
    assert!(refused.contains("handed over"), "{refused}");
    drop(successor);
    // Not even a file that nobody has open: its next owner may be about to.
    assert!(db.wallets().is_err());
    Db::open(dir.path()).unwrap();
}
