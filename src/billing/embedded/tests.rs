//! Above 400 lines: one test a promise of the wallets, and the property that holds for all of them.

use super::*;
use crate::billing::period::{Calendar, Period};
use crate::billing::{Bill, Caps, Due, Entry, Held, Payer, Pays, Used};
use crate::meter::usage::{Source, Usage};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const UTC: Calendar = Calendar { offset: 0 };
const WALL: u64 = 1_796_068_800_000;

fn money(micros: i64) -> Money {
    Money::from_micros(micros)
}

fn bill(amount: i64) -> Bill {
    let payer = Payer {
        account: "acme".into(),
        key: "key_1".into(),
        project: "default".into(),
        pays: Pays::Balance,
        caps: Caps::default(),
    };
    Bill {
        payer: Arc::new(payer),
        model: "m".into(),
        money: money(amount),
        tokens: 0,
    }
}

fn posted(id: &str, entry: Entry) -> Posted {
    Posted {
        id: id.into(),
        entry,
        note: None,
        at: WALL,
    }
}

fn top_up(id: &str, amount: i64) -> Posted {
    let amount = money(amount);
    posted(id, Entry::TopUp { amount })
}

fn refund(id: &str, amount: i64) -> Posted {
    let amount = money(amount);
    posted(id, Entry::Refund { amount })
}

fn charge(held: Held, cost: i64) -> Charge {
    let tokens = Usage {
        input: 1,
        ..Usage::default()
    };
    let used = Used {
        tokens,
        ..Used::default()
    };
    Charge {
        held,
        due: Due {
            cost: money(cost),
            used,
        },
        source: Some(Source::Reported),
        // Some days later: late settlements are the rule here.
        at: WALL + 400 * 86_400_000,
    }
}

fn open(dir: &TempDir) -> Arc<Embedded> {
    let db = Db::open(dir.path()).unwrap();
    Embedded::open(Arc::new(db), UTC).unwrap()
}

fn hold(embedded: &Embedded, amount: i64, id: u64, wall: u64) -> Option<Held> {
    let wallet = embedded.wallet("acme").unwrap();
    let held = locked(&wallet).hold(&bill(amount), id, wall, UTC);
    held.ok()
}

/// The end of a request, as the hot path has it.
fn end(embedded: &Embedded, held: Held, cost: i64) -> Charge {
    let wallet = embedded.wallet("acme").unwrap();
    let mut wallet = locked(&wallet);
    wallet.release(&held);
    let charge = charge(held, cost);
    wallet.charge(&charge, UTC);
    charge
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.build().unwrap()
}

#[tokio::test]
async fn charges_become_durable_and_their_journal_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    let told = Arc::new(AtomicU64::new(0));
    let tell = told.clone();
    embedded.tell(move |seq| tell.store(seq, Ordering::SeqCst));
    assert!(embedded.wallet("acme").is_none());
    assert_eq!(
        embedded.post("acme", top_up("t", 1), None).await,
        Err(PostError::Unknown)
    );
    assert_eq!(
        embedded.open_account("acme", money(1000), WALL).await,
        Ok(true)
    );
    assert_eq!(
        embedded.open_account("acme", money(1000), WALL).await,
        Ok(false)
    );
    for seq in 1..=2500 {
        let held = hold(&embedded, 0, seq, WALL).unwrap();
        let charge = end(&embedded, held, 1);
        embedded.take(7, seq, Arc::new(charge));
    }
    assert!(embedded.flush());
    assert_eq!(told.load(Ordering::SeqCst), 2500);
    let rows = embedded.usage(Some("acme"), 0, i32::MAX).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].1.sums.requests, 2500);
    assert_eq!(embedded.statement("acme").unwrap().balance, money(-1500));
    assert_eq!(embedded.entries("acme").await.unwrap().len(), 1);
    assert_eq!(embedded.verify().await.unwrap(), []);
    embedded.stop();
    assert!(!embedded.flush(), "after the end nothing is written");
    drop(embedded);
    let embedded = open(&dir);
    assert_eq!(embedded.statement("acme").unwrap().balance, money(-1500));
}

#[tokio::test]
async fn what_was_taken_last_is_written_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    embedded
        .open_account("acme", money(10), WALL)
        .await
        .unwrap();
    let held = hold(&embedded, 5, 1, WALL).unwrap();
    let charge = end(&embedded, held, 5);
    embedded.take(1, 1, Arc::new(charge));
    embedded.stop();
    drop(embedded);
    let embedded = open(&dir);
    assert_eq!(embedded.statement("acme").unwrap().balance, money(5));
}

#[tokio::test]
async fn a_refund_takes_nothing_that_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    embedded
        .open_account("acme", money(100), WALL)
        .await
        .unwrap();
    let held = hold(&embedded, 70, 1, WALL).unwrap();
    let once = Once {
        key: "k".into(),
        fingerprint: "f".into(),
    };
    let available = money(30);
    assert_eq!(
        embedded.post("acme", refund("r", 31), None).await,
        Err(PostError::Short { available })
    );
    let again = || embedded.post("acme", refund("r", 30), Some(once.clone()));
    assert_eq!(again().await, Ok(PostedOutcome::Now));
    assert!(hold(&embedded, 1, 2, WALL).is_none());
    // Asked for again, when nothing is free any more.
    assert_eq!(again().await, Ok(PostedOutcome::Before("r".into())));
    let state = embedded.statement("acme").unwrap();
    assert_eq!((state.balance, state.held), (money(70), money(70)));
    end(&embedded, held, 0);
    let state = embedded.statement("acme").unwrap();
    assert_eq!((state.balance, state.held), (money(70), Money::ZERO));
}

#[test]
fn refunds_and_holds_at_once_never_spend_more_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    let runtime = runtime();
    let opened = embedded.open_account("acme", money(200), WALL);
    runtime.block_on(opened).unwrap();
    let refunded = std::thread::scope(|scope| {
        let spending = scope.spawn(|| {
            (0..20_000)
                .filter_map(|id| hold(&embedded, 1, id, WALL))
                .take(100)
                .count()
        });
        let mut refunded = 0;
        for n in 0..30 {
            let outcome = embedded.post("acme", refund(&format!("r{n}"), 10), None);
            refunded += i64::from(runtime.block_on(outcome).is_ok()) * 10;
        }
        let held = spending.join().unwrap();
        assert!(refunded + i64::try_from(held).unwrap() <= 200);
        refunded
    });
    let state = embedded.statement("acme").unwrap();
    assert_eq!(state.balance, money(200 - refunded));
    assert!(state.held <= state.balance);
}

#[test]
fn an_earlier_epoch_is_replayed_once() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    runtime()
        .block_on(embedded.open_account("acme", money(100), WALL))
        .unwrap();
    let held = hold(&embedded, 1, 1, WALL).unwrap();
    locked(&embedded.wallet("acme").unwrap()).release(&held);
    let journal = || {
        (1..=3)
            .flat_map(|seq| [seq, seq])
            .map(|seq| (seq, charge(held.clone(), 10)))
    };
    assert_eq!(embedded.replay(7, journal()).unwrap(), 3);
    assert_eq!(embedded.replay(7, journal()).unwrap(), 0);
    assert_eq!(embedded.statement("acme").unwrap().balance, money(70));
    assert_eq!(runtime().block_on(embedded.verify()).unwrap(), []);
}

/// A full disk is like that, or a volume that comes back.
#[test]
fn charges_wait_for_a_disk_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    let told = Arc::new(AtomicU64::new(0));
    let tell = told.clone();
    embedded.tell(move |seq| tell.store(seq, Ordering::SeqCst));
    let runtime = runtime();
    let opened = embedded.open_account("acme", money(100), WALL);
    runtime.block_on(opened).unwrap();
    let file = dir.path().join("tollgate.redb");
    let aside = dir.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    embedded.books.db.close();
    for seq in 1..=3 {
        let held = hold(&embedded, 0, seq, WALL).unwrap();
        embedded.take(7, seq, Arc::new(end(&embedded, held, 10)));
        assert!(!embedded.flush());
    }
    let away = embedded.post("acme", top_up("t", 5), None);
    assert_eq!(runtime.block_on(away), Err(PostError::Away));
    assert!(runtime.block_on(embedded.verify()).is_err());
    assert_eq!(told.load(Ordering::SeqCst), 0);
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    assert!(embedded.flush());
    assert_eq!(told.load(Ordering::SeqCst), 3);
    assert_eq!(runtime.block_on(embedded.verify()).unwrap(), []);
    let back = embedded.post("acme", top_up("t", 5), None);
    assert_eq!(runtime.block_on(back), Ok(PostedOutcome::Now));
    assert_eq!(embedded.statement("acme").unwrap().balance, money(75));
}

#[test]
fn memory_beside_the_disk_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    let runtime = runtime();
    let opened = embedded.open_account("acme", money(100), WALL);
    runtime.block_on(opened).unwrap();
    let held = hold(&embedded, 1, 1, WALL).unwrap();
    // Charged, and never taken.
    end(&embedded, held, 10);
    let drifts = runtime.block_on(embedded.verify()).unwrap();
    assert_eq!(drifts.len(), 1);
    assert_eq!(drifts[0].what, "memory balance");
    assert_eq!((drifts[0].stored, drifts[0].expected), (90, 100));
}

/// An entry may be on the disk though the disk did not say so; that is found out, and nothing is
/// counted twice.
#[test]
fn an_entry_without_an_answer_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(&dir);
    let runtime = runtime();
    let opened = embedded.open_account("acme", money(100), WALL);
    runtime.block_on(opened).unwrap();
    let books = &embedded.books;
    let lost = |made: bool| {
        let mut posting = books.posting.lock().unwrap();
        let wallet = books.wallet("acme").unwrap();
        locked(&wallet).hold_refund(money(30)).unwrap();
        let known = books.db.entry_count("acme").unwrap();
        *posting = Some(Unsure::new("acme".into(), known, money(30)));
        if made {
            let made = books.db.post("acme", &refund("r", 30), None, None);
            assert_eq!(made.unwrap(), Ok(PostedOutcome::Now));
        }
    };
    lost(true);
    assert_eq!(embedded.statement("acme").unwrap().held, money(30));
    let next = embedded.post("acme", top_up("t", 5), None);
    assert_eq!(runtime.block_on(next), Ok(PostedOutcome::Now));
    let state = embedded.statement("acme").unwrap();
    assert_eq!((state.balance, state.held), (money(75), Money::ZERO));
    lost(false);
    assert_eq!(runtime.block_on(embedded.verify()).unwrap(), []);
    let state = embedded.statement("acme").unwrap();
    assert_eq!((state.balance, state.held), (money(75), Money::ZERO));
}

#[derive(Clone, Debug)]
enum Step {
    TopUp(i64),
    Refund(i64),
    /// By how many days later than the first one.
    Hold(i64, u64),
    /// Which of the holds, its cost, and whether the process lives long enough to hand it on.
    Settle(prop::sample::Index, i64, bool),
    /// The process ends; the journal has everything.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..50_i64).prop_map(Step::TopUp),
        2 => (1..80_i64).prop_map(Step::Refund),
        6 => (0..40_i64, 0..40_u64).prop_map(|(amount, days)| Step::Hold(amount, days)),
        6 => (any::<prop::sample::Index>(), 0..60_i64, prop::bool::weighted(0.9))
            .prop_map(|(hold, cost, taken)| Step::Settle(hold, cost, taken)),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    /// Top-ups − charges − refunds = balance, whatever happens in whatever order.
    #[test]
    fn money_is_conserved(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = runtime();
        let dir = tempfile::tempdir().unwrap();
        let mut embedded = open(&dir);
        runtime.block_on(embedded.open_account("acme", money(100), WALL)).unwrap();
        let mut expected = 100;
        let mut epoch = 1;
        let mut journal: Vec<(u64, Charge)> = Vec::new();
        let mut lives = true;
        let mut holds: Vec<Held> = Vec::new();
        for (n, step) in steps.into_iter().chain([Step::Reopen]).enumerate() {
            let id = format!("e{n}");
            match step {
                Step::TopUp(amount) => {
                    runtime.block_on(embedded.post("acme", top_up(&id, amount), None)).unwrap();
                    expected += amount;
                }
                Step::Refund(amount) => {
                    let free = embedded.wallet("acme").unwrap().lock().unwrap().free();
                    let done = runtime.block_on(embedded.post("acme", refund(&id, amount), None));
                    prop_assert_eq!(done.is_ok(), money(amount) <= free);
                    expected -= if done.is_ok() { amount } else { 0 };
                }
                Step::Hold(amount, days) => {
                    let wall = WALL + days * 86_400_000;
                    holds.extend(hold(&embedded, amount, n as u64, wall));
                }
                Step::Settle(which, cost, taken) => {
                    if holds.is_empty() {
                        continue;
                    }
                    let held = holds.swap_remove(which.index(holds.len()));
                    prop_assert_eq!(held.period, Period::of(held.period.day));
                    let charge = end(&embedded, held, cost);
                    expected -= cost;
                    lives &= taken;
                    let seq = journal.len() as u64 + 1;
                    if lives {
                        embedded.take(epoch, seq, Arc::new(charge.clone()));
                    }
                    journal.push((seq, charge));
                }
                Step::Reopen => {
                    // What is in flight ends with the process, unpaid for.
                    let free_again = |held: Held| {
                        locked(&embedded.wallet("acme").unwrap()).release(&held);
                    };
                    holds.drain(..).for_each(free_again);
                    prop_assert_eq!(embedded.statement("acme").unwrap().held, Money::ZERO);
                    embedded.stop();
                    drop(embedded);
                    embedded = open(&dir);
                    let twice = || journal.iter().flat_map(|one| [one, one]).cloned();
                    embedded.replay(epoch, twice()).unwrap();
                    prop_assert_eq!(embedded.replay(epoch, twice()).unwrap(), 0);
                    prop_assert_eq!(runtime.block_on(embedded.verify()).unwrap(), []);
                    epoch += 1;
                    journal.clear();
                    lives = true;
                }
            }
            prop_assert_eq!(embedded.statement("acme").unwrap().balance, money(expected));
        }
    }
}

#[tokio::test]
async fn what_waits_while_the_store_is_lent_is_charged_once_by_one_or_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(&dir);
    before
        .open_account("acme", money(1000), WALL)
        .await
        .unwrap();
    let pay = |embedded: &Embedded, seq: u64, cost: i64| {
        let held = hold(embedded, cost, seq, WALL).unwrap();
        let paid = end(embedded, held, cost);
        embedded.take(7, seq, Arc::new(paid.clone()));
        (seq, paid)
    };
    let mut journal = vec![pay(&before, 1, 100)];
    before.lend();
    journal.push(pay(&before, 2, 10));
    // A successor that opens an account of its own, and fails.
    let after = open(&dir);
    assert_eq!(after.statement("acme").unwrap().balance, money(900));
    after.open_account("late", money(5), WALL).await.unwrap();
    after.stop();
    drop(after);
    before.take_back().unwrap();
    assert_eq!(before.statement("late").unwrap().balance, money(5));
    assert!(before.flush());
    assert_eq!(before.verify().await.unwrap(), []);
    // Another one that does not.
    before.lend();
    journal.push(pay(&before, 3, 1));
    let after = open(&dir);
    before.books.db.give();
    journal.push(pay(&before, 4, 2));
    assert!(!before.flush());
    before.stop();
    assert_eq!(after.statement("acme").unwrap().balance, money(890));
    let held = hold(&after, 50, 1, WALL).unwrap();
    assert_eq!(after.adopt(7, journal.clone().into_iter()).unwrap(), 2);
    assert_eq!(after.adopt(7, journal.into_iter()).unwrap(), 0);
    let stands = after.statement("acme").unwrap();
    assert_eq!((stands.balance, stands.held), (money(887), money(50)));
    end(&after, held, 0);
    assert_eq!(after.verify().await.unwrap(), []);
}
