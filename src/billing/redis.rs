//! The calls to Redis of which `billing.lua` is the other side.

mod operators;
mod read;
mod sums;

pub(super) use sums::Sums;

use super::lines::{BATCH, Batch};
use super::money::Money;
use super::period::{Calendar, Period};
use super::{Bill, Charge, Payer, Pays, Reason, Shortage};
use crate::clock::Clock;
use crate::record::limits::Function;
use crate::store::link::{Away, Link};
use crate::store::part;
use read::{int, text};
use redis::{Cmd, Value, cmd};
use std::sync::Arc;
use std::time::Duration;

/// A hold that nobody renews is given back after this time: a node that was killed blocks no money longer.
/// Its charge comes from its journal.
pub(super) const LIFE: Duration = Duration::from_secs(120);

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
    verify_day: String,
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
            verify_day: link.name(Function::VerifyDay),
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

    /// The money's arguments of admissions that they have in common: who pays, and charges that came before.
    pub(super) fn write(&self, call: &mut Cmd, payer: &Payer, charges: &Sums) {
        let cap = |cap: Option<Money>| cap.map_or(-1, Money::micros);
        call.arg(if self.enforce { "enforce" } else { "observe" })
            .arg(&*payer.key)
            .arg(match &payer.pays {
                Pays::Balance => "",
                Pays::Package(name) => name,
            })
            .arg(cap(payer.caps.daily))
            .arg(cap(payer.caps.monthly))
            .arg(self.calendar.offset)
            .arg(epoch_name(self.epoch))
            .arg(LIFE.as_millis() as u64);
        charges.write(call, self.calendar, self.epoch);
    }

    /// Tells of charges of a journal.
    pub(super) async fn charge(
        &self,
        account: &str,
        epoch: u64,
        batch: &Batch,
    ) -> Result<Applied, Away> {
        let Some((last, _)) = batch.charges.last() else {
            return Ok(Applied::Mark(batch.after, false));
        };
        let mut call = self.call(&self.charge, account);
        Sums::of(batch).write(&mut call, self.calendar, epoch);
        let said = self.link.call(Function::Charge, &call).await?;
        let Value::Array(values) = said else {
            return Err(self.link.misunderstood());
        };
        let numbers: Option<Vec<i64>> = values.iter().map(int).collect();
        match numbers.as_deref() {
            Some([]) => Ok(Applied::Unknown),
            // Nobody has applied what was never sent.
            Some([mark, gap, _]) if u64::try_from(*mark).is_ok_and(|mark| mark <= *last) => {
                Ok(Applied::Mark(mark.unsigned_abs(), *gap == 1))
            }
            _ => Err(self.link.misunderstood()),
        }
    }

    /// The last charge of a journal that is applied to an account.
    pub(super) async fn mark(&self, account: &str, epoch: u64) -> Result<u64, Away> {
        let mut call = cmd("HGET");
        call.arg(self.key(account, "a")).arg(epoch_name(epoch));
        match self.link.call(Function::Command, &call).await? {
            Value::Nil => Ok(0),
            said => {
                // And when, which is for Redis alone.
                let mark = text(&said).and_then(|text| text.split(' ').next()?.parse().ok());
                mark.ok_or_else(|| self.link.misunderstood())
            }
        }
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

    pub(super) fn call(&self, function: &str, account: &str) -> Cmd {
        let mut call = cmd("FCALL");
        call.arg(function).arg(1).arg(self.key(account, "w"));
        self.now(&mut call);
        call
    }

    pub(super) fn now(&self, call: &mut Cmd) {
        match self.clock.given() {
            Some(ms) => call.arg(ms),
            None => call.arg(b""),
        };
    }
}

/// Arguments that say who pays.
pub(super) const PAYER: usize = 8;

/// A journal's name in Redis.
fn epoch_name(epoch: u64) -> String {
    format!("{epoch:016x}")
}

/// A hold's name in Redis.
fn hold_name(epoch: u64, hold: u64) -> String {
    format!("{epoch:016x}.{hold}")
}

/// Reads what an admission says of the money; `None` if it is no answer.
pub(super) fn read(said: &part::Said, bill: &Bill) -> Option<Said> {
    let [reason, left, resets, day, month, free] = said.numbers;
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
    Some(Said {
        unknown: reason < 0,
        shortage,
        period: Period {
            day: i32::try_from(day).ok()?,
            month: i32::try_from(month).ok()?,
        },
        free,
        package: (&*said.word != "-").then(|| said.word.clone()),
    })
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
