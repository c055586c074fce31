//! Limits that many nodes share, in Redis: one call an admission, decided there by `limit.lua`.

use super::bucket::{Bucket, FLOOR};
use super::settling::{Ended, corrections};
use super::state::{Levels, reading};
use super::{Ask, Denial, Limits, Reading, Reason, Subject};
use crate::clock::Clock;
use crate::record::limits::Function;
use crate::store::link::{Away, Link};
use crate::store::part::Part;
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
    /// The functions' names in this version of the library.
    admit: String,
    settle: String,
    renew: String,
    read: String,
}

/// Numbers in the limits' share of an answer.
const NUMBERS: usize = 6;

/// A part whose question is on its way.
struct Sent<'a>(Option<&'a mut dyn Part>);

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(part) = self.0.take() {
            part.unanswered();
        }
    }
}

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
            link,
            clock,
        }
    }

    /// The way to Redis.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Asks for one request, held as `id` if its end matters, tells of what ended before it, and asks what
    /// comes with it: true if that agrees.
    pub(super) async fn admit(
        &self,
        ask: &Ask,
        id: Option<u64>,
        ended: &[Ended],
        part: Option<&mut dyn Part>,
    ) -> Result<(Answer, bool), Away> {
        let Ask {
            subject,
            limits,
            estimate,
        } = ask;
        let mut call = cmd("FCALL");
        call.arg(&self.admit)
            .arg(if part.is_some() { 3 } else { 2 })
            .arg(self.key(subject, "l"))
            .arg(self.key(subject, "h"));
        if let Some(part) = &part {
            part.key(&mut call);
        }
        self.now(&mut call);
        self.plan(&mut call, limits);
        call.arg(limits.concurrency.unwrap_or(0))
            .arg(limits.tokens_per_day.unwrap_or(0))
            .arg(limits.charged(*estimate));
        match id {
            Some(id) => call.arg(self.hold(id)),
            None => call.arg(b""),
        };
        call.arg(LIFE.as_millis() as u64).arg(ended.len());
        self.tell(&mut call, ended);
        let Some(part) = part else {
            let said = self.link.call(Function::Admit, &call).await?;
            return Ok((self.understood(&said, limits)?, true));
        };
        part.write(&mut call);
        // Also if nobody waits for the answer any more.
        let mut sent = Sent(Some(part));
        let said = self.link.call(Function::Admit, &call).await?;
        let Value::Array(values) = &said else {
            return Err(self.link.misunderstood());
        };
        let both = values.split_at_checked(NUMBERS).and_then(|(ours, its)| {
            let answer = understood(ours, limits)?;
            let granted = answer.fired.is_none();
            let agreed = sent.0.as_mut()?.read(its, granted)?;
            sent.0 = None;
            Some((answer, agreed))
        });
        both.ok_or_else(|| self.link.misunderstood())
    }

    /// Where a subject stands.
    pub(super) async fn read(&self, subject: &Subject, limits: &Limits) -> Result<Reading, Away> {
        let mut call = self.begin(&self.read, subject, 1);
        self.plan(&mut call, limits);
        let said = self.link.call(Function::Read, &call).await?;
        let answer = self.understood(&said, limits)?;
        Ok(reading(limits, answer.levels, 1))
    }

    fn understood(&self, said: &Value, limits: &Limits) -> Result<Answer, Away> {
        let answer = match said {
            Value::Array(values) => understood(values, limits),
            _ => None,
        };
        answer.ok_or_else(|| self.link.misunderstood())
    }

    fn tell(&self, call: &mut Cmd, ended: &[Ended]) {
        for Correction { id, more, day } in corrections(ended) {
            call.arg(self.hold(*id)).arg(*more).arg(*day);
        }
    }

    /// Tells of requests of one subject that have ended. It may be told again: nothing counts twice.
    pub(super) async fn settle(&self, ask: &Ask, ended: &[Ended]) -> Result<(), Away> {
        let mut call = self.begin(&self.settle, &ask.subject, 2);
        self.plan(&mut call, &ask.limits);
        call.arg(u8::from(ask.limits.tokens_per_day.is_some()));
        self.tell(&mut call, ended);
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
        format!("{:016x}.{id:x}", self.link.node)
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

    fn now(&self, call: &mut Cmd) {
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
    fn key(&self, subject: &Subject, kind: &str) -> String {
        let Subject { tag, name, .. } = subject;
        let prefix = &self.link.prefix;
        let mut key = String::with_capacity(prefix.len() + tag.len() + name.len() + 8);
        for part in [prefix, ":{", tag, "}:", kind, ":", name] {
            key.push_str(part);
        }
        key
    }
}

/// Reads an answer; one of another form, or with levels that cannot be, is no answer.
fn understood(values: &[Value], limits: &Limits) -> Option<Answer> {
    let numbers: Vec<i64> = values
        .iter()
        .map(|value| match value {
            Value::Int(number) => Some(*number),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let [reason, wait, requests, tokens, day, spent] = *numbers.as_slice() else {
        return None;
    };
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
        assert!(understood(&ints(&[0, -1, full, 6, 7, 8]), &limits).is_some());
        for wrong in [
            ints(&[]),
            ints(&[0]),
            ints(&[0, -1, full + 1, 0, 0, 0]),
            ints(&[0, -1, i64::MAX, 0, 0, 0]),
            ints(&[0, -1, i64::MIN, 0, 0, 0]),
            ints(&[-1, -1, 0, 0, 0, 0]),
            ints(&[9, -1, 0, 0, 0, 0]),
            vec![Value::Nil; 6],
        ] {
            assert!(understood(&wrong, &limits).is_none(), "{wrong:?}");
        }
    }
}
