//! Limits that many nodes share, in Redis, decided there by `limit.lua`.

use super::bucket::{Bucket, FLOOR};
use super::settling::{Ended, corrections};
use super::state::{Levels, reading};
use super::{Ask, Denial, Limits, Reading, Reason, Subject};
use crate::clock::Clock;
use crate::record::limits::Function;
use crate::store::link::{Away, Link};
use redis::{Cmd, Value, cmd};
use std::sync::Arc;
use std::time::Duration;

/// A request that nobody renews is taken for lost after this time, and its place is given back:
/// a node that was killed blocks nobody for longer.
pub(super) const LIFE: Duration = Duration::from_secs(120);

/// The limits of all nodes on one Redis.
pub struct Shared {
    link: Arc<Link>,
    clock: Clock,
    holds: String,
    /// The functions' names in this version of the library.
    admit: String,
    settle: String,
    renew: String,
    read: String,
}

/// Numbers in the limits' share of an answer.
pub(super) const NUMBERS: usize = 6;

/// What Redis says to an admission.
pub(super) struct Answer {
    /// Where the subject stands.
    pub(super) levels: Levels,
    /// The day that the tokens were charged to.
    pub(super) day: i32,
    /// The limit that refused, and how long it will.
    pub(super) fired: Option<(Reason, Option<Duration>)>,
}

/// One ended request.
#[derive(Clone, Debug)]
pub(super) struct Correction {
    /// Its hold.
    pub(super) id: u64,
    /// Tokens that it used beyond its estimate; negative, fewer.
    pub(super) more: i64,
    /// The day of its charge.
    pub(super) day: i32,
}

impl Answer {
    /// The refusal, if it is one.
    pub(super) fn denial(&self, limits: &Limits) -> Option<Denial> {
        let (reason, wait) = self.fired?;
        let reading = reading(limits, self.levels, 1);
        Some(Denial {
            reason,
            wait,
            reading,
        })
    }
}

impl Shared {
    /// Limits over this link, whose library has `limit.lua` and `admit.lua`.
    pub fn new(link: Arc<Link>, clock: Clock) -> Shared {
        Shared {
            admit: link.name(Function::Admit),
            settle: link.name(Function::Settle),
            renew: link.name(Function::Renew),
            read: link.name(Function::Read),
            holds: format!("{:016x}.", link.node),
            link,
            clock,
        }
    }

    /// The way to Redis.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The function that all who ask at the same moment are told to: its name in this version.
    pub(super) fn admission(&self) -> &str {
        &self.admit
    }

    /// Where a subject stands.
    pub(super) async fn read(&self, subject: &Subject, limits: &Limits) -> Result<Reading, Away> {
        let mut call = self.begin(&self.read, subject, 1);
        self.plan(&mut call, limits);
        let said = self.link.call(Function::Read, &call).await?;
        let answer = match &said {
            Value::Array(values) => numbers(values).and_then(|said| understood(said, limits)),
            _ => None,
        };
        let answer = answer.ok_or_else(|| self.link.misunderstood())?;
        Ok(reading(limits, answer.levels, 1))
    }

    /// Adds a plan, and requests that have ended.
    pub(super) fn tell<'a>(
        &self,
        call: &mut Cmd,
        limits: &Limits,
        many: usize,
        ended: impl Iterator<Item = &'a Correction>,
    ) {
        self.plan(call, limits);
        call.arg(limits.concurrency.unwrap_or(0))
            .arg(limits.tokens_per_day.unwrap_or(0))
            .arg(many);
        for Correction { id, more, day } in ended {
            call.arg(*id).arg(*more).arg(*day);
        }
    }

    /// Tells of requests of one subject that have ended. It may be told again: nothing counts twice.
    pub(super) async fn settle(&self, ask: &Ask, ended: &[Ended]) -> Result<(), Away> {
        let mut call = self.begin(&self.settle, &ask.subject, 2);
        call.arg(&self.holds);
        self.tell(&mut call, &ask.limits, ended.len(), corrections(ended));
        self.link.call(Function::Settle, &call).await?;
        Ok(())
    }

    /// Keeps the holds of requests that take long.
    pub(super) async fn renew(&self, subject: &Subject, ids: &[u64]) -> Result<(), Away> {
        let mut call = cmd("FCALL");
        call.arg(&self.renew).arg(1).arg(self.key(subject, "h"));
        self.now(&mut call);
        call.arg(LIFE.as_millis() as u64);
        for id in ids {
            call.arg(self.hold(*id));
        }
        self.link.call(Function::Renew, &call).await?;
        Ok(())
    }

    /// A hold's name: this process's own number, and a count.
    fn hold(&self, id: u64) -> String {
        format!("{}{id}", self.holds)
    }

    /// What the names of its holds begin with.
    pub(super) fn holds(&self) -> &str {
        &self.holds
    }

    fn begin(&self, function: &str, subject: &Subject, keys: u8) -> Cmd {
        let mut call = cmd("FCALL");
        call.arg(function).arg(keys).arg(self.key(subject, "l"));
        if keys == 2 {
            call.arg(self.key(subject, "h"));
        }
        self.now(&mut call);
        call
    }

    pub(super) fn now(&self, call: &mut Cmd) {
        match self.clock.given() {
            Some(ms) => call.arg(ms),
            None => call.arg(b""),
        };
    }

    fn plan(&self, call: &mut Cmd, limits: &Limits) {
        for bucket in [limits.requests, limits.tokens] {
            call.arg(bucket.map_or(0, |bucket| bucket.rate()))
                .arg(bucket.map_or(0, |bucket| bucket.capacity()));
        }
        call.arg(limits.day_offset);
    }

    /// `tollgate:{acme}:l:k:…`: what is between braces decides the slot.
    pub(super) fn key(&self, subject: &Subject, kind: &str) -> String {
        let Subject { tag, name, .. } = subject;
        let prefix = &self.link.prefix;
        let mut key = String::with_capacity(prefix.len() + tag.len() + name.len() + 8);
        for part in [prefix, ":{", tag, "}:", kind, ":", name] {
            key.push_str(part);
        }
        key
    }
}

/// The numbers of an answer, if it has as many.
pub(super) fn numbers<const N: usize>(values: &[Value]) -> Option<[i64; N]> {
    let mut numbers = [0; N];
    let pairs = numbers.iter_mut().zip(values);
    for (number, value) in pairs {
        let Value::Int(said) = value else {
            return None;
        };
        *number = *said;
    }
    (values.len() == N).then_some(numbers)
}

/// Reads an answer; one with levels that cannot be is no answer.
pub(super) fn understood(said: [i64; NUMBERS], limits: &Limits) -> Option<Answer> {
    let [reason, wait, requests, tokens, day, spent] = said;
    let can_be = |bucket: Option<Bucket>, level: i64| {
        bucket.is_none_or(|bucket| (FLOOR..=bucket.capacity()).contains(&level))
    };
    if !can_be(limits.requests, requests) || !can_be(limits.tokens, tokens) {
        return None;
    }
    let fired = match usize::try_from(reason).ok()? {
        0 => None,
        nth => {
            let reason = Reason::ALL.get(nth - 1)?;
            let wait = u64::try_from(wait).ok().map(Duration::from_millis);
            Some((*reason, wait))
        }
    };
    Some(Answer {
        levels: Levels {
            requests,
            tokens,
            spent: u64::try_from(spent).ok()?,
        },
        day: i32::try_from(day).ok()?,
        fired,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_form_admits_nobody() {
        let limits = Limits {
            requests: Some(Bucket::new(60, 60)),
            ..Limits::default()
        };
        let ints =
            |numbers: &[i64]| -> Vec<Value> { numbers.iter().map(|n| Value::Int(*n)).collect() };
        let full = 60 * 60_000;
        let read = |values: &[Value]| numbers(values).and_then(|said| understood(said, &limits));
        assert!(read(&ints(&[0, -1, full, 6, 7, 8])).is_some());
        for wrong in [
            ints(&[]),
            ints(&[0]),
            ints(&[0, -1, full, 6, 7, 8, 9]),
            ints(&[0, -1, full + 1, 0, 0, 0]),
            ints(&[0, -1, i64::MAX, 0, 0, 0]),
            ints(&[0, -1, i64::MIN, 0, 0, 0]),
            ints(&[-1, -1, 0, 0, 0, 0]),
            ints(&[9, -1, 0, 0, 0, 0]),
            vec![Value::Nil; 6],
        ] {
            assert!(read(&wrong).is_none(), "{wrong:?}");
        }
    }
}
