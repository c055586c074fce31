use super::*;
use crate::billing::{Caps, Due, Payer, Used};
use crate::clock::DAY;
use crate::meter::usage::{Source, Usage};
use std::time::Duration;

const UTC: Calendar = Calendar { offset: 0 };
/// 2026-11-30 20:00 UTC: the day's and the month's last hours.
const WALL: u64 = 1_796_068_800_000;
const NEXT: u64 = WALL + DAY as u64;

fn money(micros: i64) -> Money {
    Money::from_micros(micros)
}

fn bill(pays: Pays, caps: Caps, amount: i64, tokens: u64) -> Bill {
    let payer = Payer {
        account: "acme".into(),
        key: "key_1".into(),
        project: "default".into(),
        pays,
        caps,
    };
    Bill {
        payer: Arc::new(payer),
        model: "m".into(),
        money: money(amount),
        tokens,
    }
}

fn by_balance(amount: i64) -> Bill {
    bill(Pays::Balance, Caps::default(), amount, 0)
}

fn capped(daily: i64, monthly: i64, amount: i64) -> Bill {
    let caps = Caps {
        daily: Some(money(daily)),
        monthly: Some(money(monthly)),
    };
    bill(Pays::Balance, caps, amount, 0)
}

fn by_package(tokens: u64) -> Bill {
    bill(Pays::Package("starter".into()), Caps::default(), 0, tokens)
}

fn posted(id: &str, entry: Entry, at: u64) -> Posted {
    Posted {
        id: id.into(),
        entry,
        note: None,
        at,
    }
}

fn wallet(balance: i64) -> Wallet {
    let mut wallet = Wallet::default();
    let amount = money(balance);
    let opened = wallet.post(&posted("open", Entry::Open { amount }, WALL));
    opened.unwrap();
    wallet
}

fn grant(wallet: &mut Wallet, id: &str, tokens: u64, days: u64) {
    let entry = Entry::Grant {
        package: "starter".into(),
        tokens,
        valid: Duration::from_millis(days * DAY.unsigned_abs()),
    };
    wallet.post(&posted(id, entry, WALL)).unwrap();
}

fn settle(wallet: &mut Wallet, held: Held, cost: i64, tokens: u64) {
    let tokens = Usage {
        output: tokens,
        ..Usage::default()
    };
    let used = Used {
        tokens,
        ..Used::default()
    };
    wallet.release(&held);
    let charge = Charge {
        held,
        due: Due {
            cost: money(cost),
            used,
        },
        source: Some(Source::Reported),
        // Some days later: late settlements are the rule here.
        at: NEXT + 2 * DAY.unsigned_abs(),
    };
    wallet.charge(&charge, UTC);
}

#[test]
fn what_is_held_cannot_be_held_again() {
    let mut wallet = wallet(100);
    let first = wallet.hold(&by_balance(60), 1, WALL, UTC).unwrap();
    let short = wallet.hold(&by_balance(50), 2, WALL, UTC).unwrap_err();
    assert_eq!(
        (short.reason, short.left, short.needed, short.resets),
        (Reason::Balance, 40, 50, None)
    );
    assert_eq!(wallet.statement().held, money(60));
    settle(&mut wallet, first, 10, 0);
    assert_eq!(wallet.statement().held, Money::ZERO);
    assert_eq!(wallet.balance(), money(90));
    wallet.hold(&by_balance(90), 3, WALL, UTC).unwrap();
    // What costs nothing needs nothing.
    let free = wallet.hold(&by_balance(0), 4, WALL, UTC).unwrap();
    settle(&mut wallet, free, 0, 0);
    assert_eq!(wallet.statement().held, money(90));
}

#[test]
fn caps_hold_for_a_key_and_end_with_their_period() {
    let mut wallet = wallet(1000);
    let held = wallet.hold(&capped(100, 150, 80), 1, WALL, UTC).unwrap();
    let short = wallet
        .hold(&capped(100, 150, 30), 2, WALL, UTC)
        .unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::DailyCap, 20));
    assert_eq!(short.resets, Some(UTC.next_day(WALL)));
    settle(&mut wallet, held, 80, 0);
    let short = wallet.hold(&capped(999, 90, 30), 2, WALL, UTC).unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::MonthlyCap, 10));
    assert_eq!(short.resets, Some(UTC.next_month(WALL)));
    // December has a day and a month of its own.
    let held = wallet.hold(&capped(100, 150, 100), 3, NEXT, UTC).unwrap();
    settle(&mut wallet, held, 100, 0);
    let spent = wallet.statement().keys[0].1;
    assert_eq!((spent.daily, spent.monthly), (money(100), money(100)));
    let day = NEXT + DAY.unsigned_abs();
    let short = wallet.hold(&capped(100, 150, 60), 4, day, UTC).unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::MonthlyCap, 50));
}

#[test]
fn a_late_settlement_counts_for_its_own_period() {
    let mut wallet = wallet(1000);
    let late = wallet.hold(&by_balance(50), 1, WALL, UTC).unwrap();
    let held = wallet.hold(&by_balance(20), 2, NEXT, UTC).unwrap();
    settle(&mut wallet, held, 20, 0);
    settle(&mut wallet, late, 50, 0);
    let spent = wallet.statement().keys[0].1;
    assert_eq!(spent.period, UTC.period(NEXT));
    assert_eq!((spent.daily, spent.monthly), (money(20), money(20)));
    assert_eq!(wallet.balance(), money(930));
    assert_eq!(spent.held, Money::ZERO);
}

#[test]
fn packages_pay_one_after_the_other() {
    let mut wallet = wallet(100);
    grant(&mut wallet, "late", 1000, 20);
    grant(&mut wallet, "soon", 100, 10);
    let first = wallet.hold(&by_package(80), 1, WALL, UTC).unwrap();
    assert_eq!(first.package.as_deref(), Some("soon"));
    assert_eq!((first.tokens, first.money), (80, Money::ZERO));
    // What is held of the first is not there for another.
    let second = wallet.hold(&by_package(30), 2, WALL, UTC).unwrap();
    assert_eq!(second.package.as_deref(), Some("late"));
    settle(&mut wallet, first, 999, 120);
    settle(&mut wallet, second, 999, 30);
    let state = wallet.statement();
    let left: Vec<i64> = state.packages.iter().map(|one| one.left).collect();
    assert_eq!(left, [-20, 970]);
    assert_eq!(wallet.package_tokens(), 150);
    assert_eq!(state.balance, money(100), "a package pays, not the balance");
    let short = wallet.hold(&by_package(971), 3, WALL, UTC).unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::Package, 970));
    let expired = WALL + 20 * DAY.unsigned_abs();
    let short = wallet.hold(&by_package(1), 4, expired, UTC).unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::Package, 0));
}

#[test]
fn used_packages_are_shown_for_a_while() {
    let mut wallet = wallet(0);
    grant(&mut wallet, "old", 10, 1);
    let shown = |wallet: &Wallet| wallet.statement().packages.len();
    let at = WALL + DAY.unsigned_abs() + SHOWN;
    let entry = Entry::Grant {
        package: "starter".into(),
        tokens: 10,
        valid: Duration::from_secs(60),
    };
    wallet.post(&posted("b", entry.clone(), at - 1)).unwrap();
    assert_eq!(shown(&wallet), 2);
    wallet.post(&posted("c", entry, at)).unwrap();
    assert_eq!(shown(&wallet), 2, "the old one is gone");
}

#[test]
fn a_refund_takes_only_what_is_free() {
    let mut wallet = wallet(100);
    let held = wallet.hold(&by_balance(70), 1, WALL, UTC).unwrap();
    let refund = |amount| posted("r", Entry::Refund { amount }, WALL);
    assert_eq!(
        wallet.post(&refund(money(31))),
        Err(PostError::Short {
            available: money(30)
        })
    );
    wallet.post(&refund(money(30))).unwrap();
    assert_eq!((wallet.balance(), wallet.free()), (money(70), Money::ZERO));
    settle(&mut wallet, held, 0, 0);
    // While one is written down nobody else may spend it.
    wallet.hold_refund(money(50)).unwrap();
    assert!(wallet.hold(&by_balance(21), 2, WALL, UTC).is_err());
    assert!(wallet.hold_refund(money(21)).is_err());
    wallet.release_refund(money(50));
    wallet.book(&refund(money(50)));
    assert_eq!((wallet.balance(), wallet.free()), (money(20), money(20)));
}

#[test]
fn sums_stay_exact() {
    let mut wallet = wallet(MOST - 1);
    let amount = money(2);
    let top_up = posted("t", Entry::TopUp { amount }, WALL);
    assert_eq!(wallet.post(&top_up), Err(PostError::TooLarge));
    let entry = Entry::Grant {
        package: "p".into(),
        tokens: u64::MAX,
        valid: Duration::MAX,
    };
    let grant = posted("g", entry, WALL);
    assert_eq!(wallet.post(&grant), Err(PostError::TooLarge));
    assert_eq!(wallet.balance(), money(MOST - 1));
}

#[test]
fn what_nobody_may_refuse_goes_below_nothing() {
    let mut wallet = wallet(10);
    let held = wallet.hold_anyway(&by_balance(50), 1, WALL, UTC);
    assert_eq!(wallet.free(), money(10), "what there is not is not held");
    settle(&mut wallet, held, 60, 0);
    assert_eq!(wallet.balance(), money(-50));
    // Without any package there is still a name for who should have paid.
    let held = wallet.hold_anyway(&by_package(5), 2, WALL, UTC);
    let named = format!("?{}", "starter");
    assert_eq!(held.package.as_deref(), Some(&*named));
    settle(&mut wallet, held, 999, 5);
    assert_eq!(wallet.balance(), money(-50));
    grant(&mut wallet, "small", 3, 1);
    let held = wallet.hold_anyway(&by_package(5), 3, WALL, UTC);
    assert_eq!(held.package.as_deref(), Some("small"));
    settle(&mut wallet, held, 0, 5);
    assert_eq!(wallet.statement().packages[0].left, -2);
}

/// A charge that nobody could ask the package for is taken from one of its name.
#[test]
fn a_package_that_was_not_asked_pays_all_the_same() {
    let mut wallet = wallet(10);
    grant(&mut wallet, "first", 10, 30);
    let held = by_package(5).held_unseen(1, UTC.period(WALL));
    settle(&mut wallet, held, 0, 4);
    assert_eq!(wallet.statement().packages[0].left, 6);
}

/// A clock that was a year ahead for a moment neither frees a key from its cap nor locks it out for a year.
#[test]
fn a_clock_that_jumped_ahead_suspends_no_cap() {
    let mut wallet = wallet(1000);
    let ahead = WALL + 365 * DAY.unsigned_abs();
    let held = wallet.hold(&capped(100, 150, 10), 1, ahead, UTC).unwrap();
    let charge = |held: Held, cost: i64, at: u64| Charge {
        held,
        due: Due {
            cost: money(cost),
            used: Used::default(),
        },
        source: Some(Source::Reported),
        at,
    };
    wallet.release(&held);
    wallet.charge(&charge(held, 10, ahead), UTC);
    // The clock is right again.
    let held = wallet.hold(&capped(100, 150, 90), 2, WALL, UTC).unwrap();
    wallet.release(&held);
    wallet.charge(&charge(held, 90, WALL), UTC);
    let short = wallet.hold(&capped(100, 150, 1), 3, WALL, UTC).unwrap_err();
    assert_eq!((short.reason, short.left), (Reason::DailyCap, 0));
    assert!(wallet.hold(&capped(100, 150, 50), 4, NEXT, UTC).is_ok());
}

#[test]
fn a_wallet_is_stored_without_what_is_held() {
    let mut wallet = wallet(100);
    let stored = serde_json::to_string(&wallet).unwrap();
    wallet.hold(&by_balance(60), 1, WALL, UTC).unwrap();
    let read: Wallet = serde_json::from_str(&stored).unwrap();
    assert_eq!(read.free(), money(100));
    assert_eq!(read.balance(), wallet.balance());
}
