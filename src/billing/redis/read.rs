//! What `billing.lua` has written, read: `None` for what it never writes.

use crate::billing::money::Money;
use crate::billing::period::Period;
use crate::billing::sums::COUNTS;
use crate::billing::{PackageState, Spent, Statement, Sums, UsageRow, Used};
use redis::Value;

/// Takes a field of a wallet.
pub(super) fn statement_field(statement: &mut Statement, name: &str, value: &str) -> Option<()> {
    let money = || value.parse().ok().map(Money::from_micros);
    match name {
        "b" => statement.balance = money()?,
        "h" => statement.held = money()?,
        "t" | "e" | "P" => {}
        _ => {
            let words: Vec<&str> = value.split(' ').collect();
            match (name.strip_prefix('k'), name.strip_prefix('p')) {
                (Some(key), _) => statement.keys.push((key.into(), spent(&words)?)),
                (_, Some(id)) => statement.packages.push(package(id, &words)?),
                _ => return None,
            }
        }
    }
    Some(())
}

fn spent(words: &[&str]) -> Option<Spent> {
    let [held, day, daily, month, monthly] = words else {
        return None;
    };
    let money = |text: &str| text.parse().ok().map(Money::from_micros);
    Some(Spent {
        held: money(held)?,
        period: Period {
            day: day.parse().ok()?,
            month: month.parse().ok()?,
        },
        daily: money(daily)?,
        monthly: money(monthly)?,
    })
}

fn package(id: &str, words: &[&str]) -> Option<PackageState> {
    let [name, tokens, left, held, granted, expires] = words else {
        return None;
    };
    Some(PackageState {
        id: id.into(),
        name: (*name).into(),
        tokens: tokens.parse().ok()?,
        left: left.parse().ok()?,
        held: held.parse().ok()?,
        granted: granted.parse().ok()?,
        expires: expires.parse().ok()?,
    })
}

/// A field of a day's usage.
pub(super) fn usage_row(day: i32, name: &str, value: &str) -> Option<UsageRow> {
    let mut names = name.split('\x1f');
    let (key, project, model) = (names.next()?, names.next()?, names.next()?);
    let mut numbers = value.split(' ').map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    let requests = next()?;
    let mut counts = [0; COUNTS];
    for count in &mut counts {
        *count = next()?;
    }
    let (cost, estimated_cost, package_tokens) = (next()?, next()?, next()?);
    if numbers.next().is_some() {
        return None;
    }
    let money = |micros: u64| Money::from_micros(i64::try_from(micros).unwrap_or(i64::MAX));
    Some(UsageRow {
        day,
        key: key.into(),
        project: project.into(),
        model: model.into(),
        sums: Sums {
            requests,
            used: Used::of(counts),
            cost: money(cost),
            estimated_cost: money(estimated_cost),
            package_tokens,
        },
    })
}

/// A number.
pub(super) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

/// A text.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::VerbatimString { text, .. } => Some(text),
        Value::Okay => Some("OK"),
        _ => None,
    }
}
