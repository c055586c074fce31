use std::time::Instant;

use super::*;
use crate::ledger::wish::{Kind, Wish};

fn wish(number: u64) -> Wish {
    Wish {
        number,
        kind: Kind::Stream(40),
        wait_ms: 1,
    }
}

fn sent(number: u64, events: u64, end: End) -> Sent {
    let now = Instant::now();
    Sent {
        number,
        estimate: 120,
        opened: now,
        ended: now,
        events,
        end,
    }
}

fn told(number: u64, events: u64, reported: bool) -> Told {
    Told {
        wish: wish(number),
        times: 1,
        reset_reused: 0,
        events,
        reported,
        closed: None,
    }
}

fn reported(number: u64) -> Row {
    let tokens = wish(number).tokens();
    Row {
        requests: 1,
        tokens,
        pictures: 0,
        cost: PRICE.cost(tokens),
        estimated: 0,
    }
}

fn estimated(output: u64) -> Row {
    let tokens = Tokens {
        input: 120,
        cached: 0,
        output,
    };
    Row {
        requests: 1,
        tokens,
        pictures: 0,
        cost: PRICE.cost(tokens),
        estimated: PRICE.cost(tokens),
    }
}

/// The failures of one request, cut off if it broke.
fn failures(sent: Sent, told: Option<Told>, row: Option<Row>) -> Vec<String> {
    let number = sent.number;
    let told = told.into_iter().map(|told| (number, told)).collect();
    let rows = row.into_iter().map(|row| (key(number, "").name, row));
    let rows = rows.collect();
    let books = Books {
        sent: &[sent],
        told: &told,
        rows: &rows,
    };
    let audit = Audit::new(&books, |sent| matches!(sent.end, End::Broken(_)));
    let mut claims = Claims::default();
    audit.claim(&mut claims);
    if audit.cut > 0 {
        audit.claim_cut(&mut claims);
    }
    let mut failures = claims.report(String::new()).failures;
    // A run has more than one kind of request.
    failures.retain(|words| !words.contains("0 of 0"));
    failures
}

fn broken() -> End {
    End::Broken("closed".to_owned())
}

#[test]
fn what_finished_is_charged_exactly() {
    let all = || told(1, 40, true);
    let whole = || sent(1, 40, End::Whole);
    assert_eq!(failures(whole(), Some(all()), Some(reported(1))), [""; 0]);
    assert!(!failures(whole(), Some(all()), None).is_empty());
    let right = reported(1);
    for wrong in [
        Row {
            cost: right.cost + 1,
            ..right
        },
        Row {
            estimated: 1,
            ..right
        },
        Row {
            requests: 2,
            ..right
        },
        estimated(40),
    ] {
        assert!(
            !failures(whole(), Some(all()), Some(wrong)).is_empty(),
            "{wrong:?}"
        );
    }
    let twice = Told { times: 2, ..all() };
    assert!(!failures(whole(), Some(twice), Some(right)).is_empty());
}

#[test]
fn what_was_cut_off_is_charged_once_and_within_a_record() {
    let cut = |events| sent(1, events, broken());
    let half = || Some(told(1, 31, false));
    for row in [estimated(31), estimated(30 - RECORD)] {
        assert_eq!(failures(cut(30), half(), Some(row)), [""; 0], "{row:?}");
    }
    for row in [estimated(32), estimated(29 - RECORD), reported(1)] {
        assert!(!failures(cut(30), half(), Some(row)).is_empty(), "{row:?}");
    }
    assert!(!failures(cut(30), half(), None).is_empty());
    // It was settled, and its last byte did not reach the client.
    assert_eq!(
        failures(cut(39), Some(told(1, 40, true)), Some(reported(1))),
        [""; 0]
    );
    // The provider had written its end, and the gateway had not read it.
    assert_eq!(
        failures(cut(39), Some(told(1, 40, true)), Some(estimated(39))),
        [""; 0]
    );
    // Reserved and not sent on; neither.
    assert_eq!(failures(cut(0), None, Some(estimated(0))), [""; 0]);
    assert_eq!(failures(cut(0), None, None), [""; 0]);
}

#[test]
fn who_leaves_pays_for_what_was_relayed() {
    let left = || sent(1, 10, End::Left);
    let some = || Some(told(1, 12, false));
    for row in [estimated(10), estimated(12)] {
        assert_eq!(failures(left(), some(), Some(row)), [""; 0], "{row:?}");
    }
    for row in [estimated(9), estimated(13), reported(1)] {
        assert!(!failures(left(), some(), Some(row)).is_empty(), "{row:?}");
    }
    assert!(!failures(left(), some(), None).is_empty());
    assert_eq!(failures(left(), None, None), [""; 0]);
    // The answer was whole by then.
    let all = Some(told(1, 40, true));
    assert_eq!(failures(left(), all, Some(reported(1))), [""; 0]);
    let late = left().ended + CANCELLED + CANCELLED;
    let late = Told {
        closed: Some(late),
        ..told(1, 12, false)
    };
    assert!(!failures(left(), Some(late), Some(estimated(12))).is_empty());
}

#[test]
fn what_is_refused_costs_nothing() {
    let refused = || {
        sent(
            1,
            0,
            End::Refused(503, "temporarily_unavailable".to_owned()),
        )
    };
    assert_eq!(failures(refused(), None, None), [""; 0]);
    assert!(!failures(refused(), None, Some(estimated(0))).is_empty());
    assert!(!failures(refused(), Some(told(1, 0, false)), None).is_empty());
    assert!(
        !failures(
            sent(1, 3, End::Wrong("?".to_owned())),
            Some(told(1, 3, false)),
            None
        )
        .is_empty()
    );
    // One that broke, and no gateway was killed.
    let told = BTreeMap::from([(1, told(1, 3, false))]);
    let rows = BTreeMap::from([(key(2, "").name, estimated(0))]);
    let books = Books {
        sent: &[sent(1, 3, broken())],
        told: &told,
        rows: &rows,
    };
    let audit = Audit::new(&books, |_| false);
    assert_eq!((audit.endless.len(), audit.wrongly.len()), (1, 1));
}
