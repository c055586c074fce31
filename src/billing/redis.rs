//! The calls to Redis of which `billing.lua` is the other side.

mod read;

use super::lines::{BATCH, Batch};
use super::money::Money;
use super::period::{Calendar, Period};
use super::{
    Bill, Charge, Drift, Entry, Once, Pays, PostError, Posted, Reason, Shortage, Statement,
    UsageRow, Used,
};
use crate::clock::Clock;
use crate::meter::usage::{Source, Usage};
use crate::record::limits::Function;
use crate::store::link::{Away, Link};
use read::{int, statement_field, text, usage_row};
use redis::{Cmd, Value, cmd};
use std::sync::Arc;
use std::time::Duration;

/// A hold that nobody renews is given back after this time: a node that was killed blocks no money longer.
/// Its charge comes from its journal.
pub(super) const LIFE: Duration = Duration::from_secs(120);

/// An `Idempotency-Key` is remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// The balances of all nodes on one Redis.
pub(super) struct Shared {
    pub(super) link: Arc<Link>,
    clock: Clock,
    calendar: Calendar,
    enforce: bool,
    /// This process' journal.
    epoch: u64,
    charge: String,
    extend: String,
    forget: String,
    post: String,
    verify: String,
}

/// What Redis says to the money's part of an admission.
pub(super) struct Said {
    /// There is no such account.
    pub(super) unknown: bool,
    /// Why it cannot be paid for; may be, where nobody is refused.
    pub(super) shortage: Option<Shortage>,
    /// The period of the charge.
    pub(super) period: Period,
    /// What is free now of that which pays.
    pub(super) free: i64,
    /// The last charge that is applied, and whether one is missing; `None` if none was sent.
    pub(super) applied: Option<(u64, bool)>,
    /// The package that pays.
    pub(super) package: Option<Arc<str>>,
}

/// What became of charges.
pub(super) enum Applied {
    /// The last one that is applied, and whether one is missing.
    Mark(u64, bool),
    /// There is no such account yet.
    Unknown,
}

impl Shared {
    /// Balances over this link, whose library has `billing.lua`.
    pub(super) fn new(
        link: Arc<Link>,
        clock: Clock,
        calendar: Calendar,
        enforce: bool,
        epoch: u64,
    ) -> Shared {
        Shared {
            charge: link.name(Function::Charge),
            extend: link.name(Function::Extend),
            forget: link.name(Function::Forget),
            post: link.name(Function::Post),
            verify: link.name(Function::Verify),
            link,
            clock,
            calendar,
            enforce,
            epoch,
        }
    }

    /// The epoch of this process' journal.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// `tollgate:{acme}:w`: what is between braces decides the slot.
    pub(super) fn key(&self, account: &str, kind: &str) -> String {
        format!("{}:{{{account}}}:{kind}", self.link.prefix)
    }

    /// The money's arguments of an admission: charges that came before, then the bill.
    pub(super) fn write(&self, call: &mut Cmd, batch: &Batch, bill: &Bill, hold: u64) {
        self.batch(call, self.epoch, batch);
        let cap = |cap: Option<Money>| cap.map_or(-1, Money::micros);
        let payer = &bill.payer;
        call.arg(if self.enforce { "enforce" } else { "observe" })
            .arg(&*payer.key)
            .arg(match &payer.pays {
                Pays::Balance => "-",
                Pays::Package(name) => name,
            })
            .arg(bill.money.micros())
            .arg(bill.tokens)
            .arg(cap(payer.caps.daily))
            .arg(cap(payer.caps.monthly))
            .arg(self.calendar.offset)
            .arg(hold_name(self.epoch, hold))
            .arg(LIFE.as_millis() as u64);
    }

    /// Reads the answer to that; `None` if it is none.
    pub(super) fn read(&self, values: &[Value], bill: &Bill) -> Option<Said> {
        let (package, numbers) = values.split_last()?;
        let numbers: Vec<i64> = numbers.iter().map(int).collect::<Option<_>>()?;
        let [reason, left, resets, day, month, free, mark, gap] = *numbers.as_slice() else {
            return None;
        };
        let shortage = match usize::try_from(reason) {
            Ok(0) | Err(_) => None,
            Ok(nth) => Some(Shortage {
                reason: *Reason::ALL.get(nth - 1)?,
                left,
                needed: match bill.payer.pays {
                    Pays::Balance => bill.money.micros(),
                    Pays::Package(_) => i64::try_from(bill.tokens.max(1)).unwrap_or(i64::MAX),
                },
                resets: u64::try_from(resets).ok(),
            }),
        };
        let package = text(package)?;
        Some(Said {
            unknown: reason < 0,
            shortage,
            period: Period {
                day: i32::try_from(day).ok()?,
                month: i32::try_from(month).ok()?,
            },
            free,
            applied: u64::try_from(mark).ok().map(|mark| (mark, gap == 1)),
            package: (package != "-").then(|| Arc::from(package)),
        })
    }

    fn batch(&self, call: &mut Cmd, epoch: u64, batch: &Batch) {
        call.arg(format!("{epoch:016x}"))
            .arg(batch.after)
            .arg(batch.charges.len());
        for (seq, charge) in &batch.charges {
            write_charge(call, epoch, *seq, charge);
        }
    }

    /// Tells of charges of a journal.
    pub(super) async fn charge(
        &self,
        account: &str,
        epoch: u64,
        batch: &Batch,
    ) -> Result<Applied, Away> {
        let mut call = self.call(&self.charge, account);
        self.batch(&mut call, epoch, batch);
        let said = self.link.call(Function::Charge, &call).await?;
        let Value::Array(values) = said else {
            return Err(self.link.misunderstood());
        };
        let numbers: Option<Vec<i64>> = values.iter().map(int).collect();
        match numbers.as_deref() {
            Some([]) => Ok(Applied::Unknown),
            Some([mark, gap, _]) => Ok(Applied::Mark(mark.unsigned_abs(), *gap == 1)),
            _ => Err(self.link.misunderstood()),
        }
    }

    /// The last charge of a journal that is applied to an account.
    pub(super) async fn mark(&self, account: &str, epoch: u64) -> Result<u64, Away> {
        let mut call = cmd("HGET");
        call.arg(self.key(account, "a"))
            .arg(format!("{epoch:016x}"));
        match self.link.call(Function::Command, &call).await? {
            Value::Nil => Ok(0),
            said => {
                let mark = text(&said).and_then(|text| text.parse().ok());
                mark.ok_or_else(|| self.link.misunderstood())
            }
        }
    }

    /// Forgets a journal that is done with.
    pub(super) async fn forget_epoch(&self, account: &str, epoch: u64) -> Result<(), Away> {
        let mut call = cmd("HDEL");
        call.arg(self.key(account, "a"))
            .arg(format!("{epoch:016x}"));
        self.link.call(Function::Command, &call).await.map(drop)
    }

    /// Keeps the holds of requests that take long.
    pub(super) async fn extend(&self, account: &str, holds: &[u64]) -> Result<(), Away> {
        let mut call = self.call(&self.extend, account);
        call.arg(LIFE.as_millis() as u64);
        for hold in holds {
            call.arg(hold_name(self.epoch, *hold));
        }
        self.link.call(Function::Extend, &call).await.map(drop)
    }

    /// Gives holds back that may have been taken.
    pub(super) async fn forget(&self, account: &str, holds: &[u64]) -> Result<(), Away> {
        let mut call = self.call(&self.forget, account);
        for hold in holds {
            call.arg(hold_name(self.epoch, *hold));
        }
        self.link.call(Function::Forget, &call).await.map(drop)
    }

    /// Makes an entry; `Some` is the id of the entry that the same `Idempotency-Key` made before.
    pub(super) async fn post(
        &self,
        account: &str,
        posted: &Posted,
        once: Option<&Once>,
    ) -> Result<Option<String>, PostError> {
        let text_of = serde_json::to_string(posted).map_err(|_| PostError::TooLarge)?;
        let wallet = self.key(account, "w");
        let mut call = cmd("FCALL");
        call.arg(&self.post).arg(2).arg(&wallet);
        match once {
            Some(once) => call.arg(self.key(account, &format!("i:{}", once.key))),
            None => call.arg(&wallet),
        };
        self.now(&mut call);
        let (kind, amount) = match &posted.entry {
            Entry::Open { amount } => ("open", amount.micros()),
            Entry::TopUp { amount } => ("top_up", amount.micros()),
            Entry::Refund { amount } => ("refund", amount.micros()),
            Entry::Grant { tokens, .. } => ("grant", i64::try_from(*tokens).unwrap_or(i64::MAX)),
        };
        if amount > super::MOST {
            return Err(PostError::TooLarge);
        }
        call.arg(kind)
            .arg(amount)
            .arg(&*posted.id)
            .arg(text_of)
            .arg(once.map_or("", |once| &once.fingerprint))
            .arg(REMEMBERED.as_secs());
        if let Entry::Grant { package, valid, .. } = &posted.entry {
            call.arg(&**package).arg(valid.as_millis() as u64);
        }
        let said = self.link.call(Function::Post, &call).await;
        let said = said.map_err(|_| PostError::Away)?;
        let Value::Array(values) = &said else {
            return Err(PostError::Away);
        };
        let mut words = values.iter().filter_map(text);
        match (words.next(), words.next()) {
            // Who made the account before made it with this very seed.
            (Some("ok" | "exists"), _) => Ok(None),
            (Some("before"), Some(id)) => Ok(Some(id.to_owned())),
            (Some("reused"), _) => Err(PostError::Reused),
            (Some("unknown"), _) => Err(PostError::Unknown),
            (Some("large"), _) => Err(PostError::TooLarge),
            (Some("short"), Some(free)) => Err(PostError::Short {
                available: Money::from_micros(free.parse().unwrap_or(0)),
            }),
            _ => Err(PostError::Away),
        }
    }

    /// How an account stands; `None` if there is none.
    pub(super) async fn statement(&self, account: &str) -> Result<Option<Statement>, Away> {
        let mut call = cmd("HGETALL");
        call.arg(self.key(account, "w"));
        let fields = self.pairs(&call).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let mut statement = Statement::default();
        for (name, value) in fields {
            let read = statement_field(&mut statement, &name, &value);
            read.ok_or_else(|| self.link.misunderstood())?;
        }
        statement.packages.sort_by_key(|package| package.expires);
        statement.keys.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(statement))
    }

    /// Every entry of an account, the oldest first.
    pub(super) async fn entries(&self, account: &str) -> Result<Vec<Posted>, Away> {
        let mut call = cmd("LRANGE");
        call.arg(self.key(account, "e")).arg(0).arg(-1);
        let said = self.link.call(Function::Command, &call).await?;
        let Value::Array(values) = &said else {
            return Err(self.link.misunderstood());
        };
        let entries = values
            .iter()
            .map(|value| serde_json::from_str(text(value)?).ok());
        let entries: Option<Vec<Posted>> = entries.collect();
        entries.ok_or_else(|| self.link.misunderstood())
    }

    /// An account's usage of these days, both included.
    pub(super) async fn usage(
        &self,
        account: &str,
        since: i32,
        until: i32,
    ) -> Result<Vec<UsageRow>, Away> {
        let mut call = cmd("SMEMBERS");
        call.arg(self.key(account, "d"));
        let said = self.link.call(Function::Command, &call).await?;
        let days = match &said {
            Value::Array(days) | Value::Set(days) => days,
            _ => return Err(self.link.misunderstood()),
        };
        let days = days.iter().filter_map(|day| text(day)?.parse::<i32>().ok());
        let mut days: Vec<i32> = days.filter(|day| (since..=until).contains(day)).collect();
        days.sort_unstable();
        let mut rows = Vec::new();
        for day in days {
            let mut call = cmd("HGETALL");
            call.arg(self.key(account, &format!("u:{day}")));
            for (name, value) in self.pairs(&call).await? {
                let row = usage_row(day, &name, &value);
                rows.push(row.ok_or_else(|| self.link.misunderstood())?);
            }
        }
        Ok(rows)
    }

    /// Compares an account's sums with what they are sums of.
    pub(super) async fn verify(&self, account: &Arc<str>) -> Result<Vec<Drift>, Away> {
        let mut call = cmd("FCALL");
        call.arg(&self.verify).arg(1).arg(self.key(account, "w"));
        let said = self.link.call(Function::Verify, &call).await?;
        let Value::Array(lines) = &said else {
            return Err(self.link.misunderstood());
        };
        let drift = |line: &Value| {
            let Value::Array(words) = line else {
                return None;
            };
            let [what, stored, expected] = words.as_slice() else {
                return None;
            };
            Some(Drift {
                account: account.clone(),
                what: text(what)?.to_owned(),
                stored: text(stored)?.parse().ok()?,
                expected: text(expected)?.parse().ok()?,
            })
        };
        let drifts: Option<Vec<Drift>> = lines.iter().map(drift).collect();
        drifts.ok_or_else(|| self.link.misunderstood())
    }

    fn call(&self, function: &str, account: &str) -> Cmd {
        let mut call = cmd("FCALL");
        call.arg(function).arg(1).arg(self.key(account, "w"));
        self.now(&mut call);
        call
    }

    fn now(&self, call: &mut Cmd) {
        match self.clock.given() {
            Some(ms) => call.arg(ms),
            None => call.arg(b""),
        };
    }

    async fn pairs(&self, call: &Cmd) -> Result<Vec<(String, String)>, Away> {
        let said = self.link.call(Function::Command, call).await?;
        let pair =
            |name: &Value, value: &Value| Some((text(name)?.to_owned(), text(value)?.to_owned()));
        let pairs: Option<Vec<_>> = match &said {
            Value::Array(values) => values
                .chunks(2)
                .map(|two| match two {
                    [name, value] => pair(name, value),
                    _ => None,
                })
                .collect(),
            Value::Map(pairs) => pairs
                .iter()
                .map(|(name, value)| pair(name, value))
                .collect(),
            _ => None,
        };
        pairs.ok_or_else(|| self.link.misunderstood())
    }
}

/// A hold's name in Redis.
fn hold_name(epoch: u64, hold: u64) -> String {
    format!("{epoch:016x}.{hold:x}")
}

/// A charge's arguments, in the order that `billing.lua` has.
fn write_charge(call: &mut Cmd, epoch: u64, seq: u64, charge: &Charge) {
    let Charge {
        held,
        due,
        source,
        at: _,
    } = charge;
    let Used {
        tokens:
            Usage {
                input,
                cached_input,
                cache_write,
                output,
                reasoning,
            },
        images,
        characters,
        seconds,
    } = due.used;
    call.arg(seq)
        .arg(hold_name(epoch, held.id))
        .arg(&*held.key)
        .arg(&*held.project)
        .arg(&*held.model)
        .arg(held.package.as_deref().unwrap_or("-"))
        .arg(held.money.micros())
        .arg(held.tokens)
        .arg(match source {
            None => "n",
            Some(Source::Reported) => "r",
            Some(Source::Partial | Source::Estimated) => "e",
        })
        .arg(held.period.day)
        .arg(held.period.month)
        .arg(due.cost.micros());
    for count in [
        input,
        cached_input,
        cache_write,
        output,
        reasoning,
        images,
        characters,
        seconds,
    ] {
        call.arg(count.min(super::MOST.unsigned_abs()));
    }
}

/// Cuts what is more than one call may carry.
pub(super) fn batches(
    after: u64,
    charges: &[(u64, Arc<Charge>)],
) -> impl Iterator<Item = Batch> + '_ {
    let mut after = after;
    charges.chunks(BATCH).map(move |some| {
        let batch = Batch {
            after,
            charges: some.to_vec(),
        };
        after = some.last().map_or(after, |(seq, _)| *seq);
        batch
    })
}
