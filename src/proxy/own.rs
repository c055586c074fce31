//! A client's own view: what its key has, may and did.

use super::context::Context;
use super::request::Refusal;
use super::respond::answer;
use crate::auth::Caller;
use crate::billing::money::Money;
use crate::billing::{PackageState, Pays, PostError, Statement, Sums, UsageRow, period};
use crate::limit::bucket::Bucket;
use crate::record::access_log::rfc3339;
use crate::record::event::Outcome;
use crate::rejection::{Code, Rejection};
use pingora::proxy::Session;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many days are told of, today among them.
const DAYS: i32 = 30;

/// `GET usage`: the account's balance, the key's package, caps and limits, and what it used by day and model. Of
/// other keys it tells nothing.
///
/// # Errors
/// The store is away, or the client is gone.
pub async fn usage(
    session: &mut Session,
    ctx: &mut Context,
    caller: &Caller,
) -> Result<(), Refusal> {
    let key = caller.key();
    let ledger = ctx.snapshot.ledger.clone();
    let (mut statement, mut rows) = (None, Vec::new());
    if let Some(ledger) = ledger.filter(|_| !caller.is_anonymous()) {
        let today = ledger.today();
        let account = &key.payer.account;
        statement = ledger.statement(account).await.map_err(away)?;
        let said = ledger.usage_so_far(account, today + 1 - DAYS, today).await;
        rows = said.map_err(away)?;
        rows.retain(|row| row.key == key.payer.key);
    }
    let statement = statement.unwrap_or_default();
    let limits = &key.plan.limits;
    let rate = |bucket: Option<Bucket>| bucket.map(|bucket| bucket.per_minute());
    let body = json!({
        "object": "usage",
        "account": &*key.account,
        "project": &*key.project,
        "key": &*key.name,
        "currency": ctx.snapshot.currency,
        "balance": statement.balance.to_string(),
        "held": statement.held.to_string(),
        "package": package(&key.payer.pays, &statement, ctx.time),
        "spend_cap": spend_cap(caller, &statement),
        "limits": {
            "plan": &*key.plan.name,
            "requests_per_minute": rate(limits.requests),
            "tokens_per_minute": rate(limits.tokens),
            "concurrency": limits.concurrency,
            "tokens_per_day": limits.tokens_per_day,
        },
        "days": days(&rows),
    });
    let headers = [("cache-control", "no-store")];
    answer(session, ctx, 200, &headers, body.to_string().into()).await?;
    ctx.outcome = Some(Outcome::Answered);
    Ok(())
}

fn away(_: PostError) -> Rejection {
    Rejection::new(
        Code::TemporarilyUnavailable,
        "The gateway cannot read balances and usage right now. Try again in 5 s.",
    )
}

/// The package that pays next, and what all of its name have left.
fn package(pays: &Pays, statement: &Statement, now: SystemTime) -> Value {
    let Pays::Package(name) = pays else {
        return Value::Null;
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let open = |package: &&PackageState| {
        package.name == *name && package.expires > now && package.left > 0
    };
    let open: Vec<&PackageState> = statement.packages.iter().filter(open).collect();
    let left: i64 = open.iter().map(|package| package.left).sum();
    json!({
        "name": **name,
        "tokens_left": left,
        "held": open.iter().map(|package| package.held).sum::<i64>(),
        "expires": open.first().map(|package| {
            rfc3339(UNIX_EPOCH + Duration::from_millis(package.expires))
        }),
    })
}

fn spend_cap(caller: &Caller, statement: &Statement) -> Value {
    let payer = &caller.key().payer;
    let spent = statement.keys.iter().find(|(key, _)| *key == payer.key);
    let shown = |cap: Option<Money>| cap.map(|cap| cap.to_string());
    json!({
        "daily": shown(payer.caps.daily),
        "monthly": shown(payer.caps.monthly),
        "day": spent.map(|(_, spent)| period::date(spent.period.day)),
        "spent_that_day": spent.map(|(_, spent)| spent.daily.to_string()),
        "spent_that_month": spent.map(|(_, spent)| spent.monthly.to_string()),
    })
}

fn days(rows: &[UsageRow]) -> Vec<Value> {
    let mut by_day: BTreeMap<(i32, &str), Sums> = BTreeMap::new();
    for row in rows {
        let sums = by_day.entry((row.day, &row.model)).or_default();
        sums.add(&row.sums);
    }
    by_day
        .into_iter()
        .map(|((day, model), sums)| {
            let tokens = sums.used.tokens;
            json!({
                "day": period::date(day),
                "model": model,
                "requests": sums.requests,
                "tokens": tokens.input.saturating_add(tokens.output),
                "input_tokens": tokens.input,
                "cached_tokens": tokens.cached_input,
                "output_tokens": tokens.output,
                "images": sums.used.images,
                "characters": sums.used.characters,
                "seconds": sums.used.seconds,
                "package_tokens": sums.package_tokens,
                "cost": sums.cost.to_string(),
            })
        })
        .collect()
}
