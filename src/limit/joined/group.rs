//! What one call says of one subject, and who asks it.

use crate::limit::redis::{Correction, NUMBERS, Shared, numbers};
use crate::limit::settling::{Ended, corrections};
use crate::limit::{Ask, Limits};
use crate::store::link::Away;
use crate::store::part::{Common, Said};
use redis::{Cmd, Value};
use std::str;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Who asks in one group at most, and how many ended requests go along.
const RIDERS: usize = 32;
const ENDED: usize = 256;

/// Numbers of a part, and the word behind them.
const PART: usize = 6;

/// What a call says of one subject.
pub(super) struct Group {
    /// One of those who ask, or have ended.
    pub(super) ask: Ask,
    pub(super) common: Option<Box<dyn Common>>,
    pub(super) riders: Vec<Rider>,
    /// Ended requests that go along with who asks, and are told again by them.
    pub(super) along: Vec<Correction>,
    /// Ended requests that go by themselves.
    pub(super) ended: Vec<Ended>,
}

/// Who asks.
pub(super) struct Rider {
    pub(super) estimate: u64,
    pub(super) id: u64,
    pub(super) part: [i64; 3],
    pub(super) answer: oneshot::Sender<Result<Told, Away>>,
}

/// What is said to one who asks.
pub(super) struct Told {
    pub(super) limits: [i64; NUMBERS],
    pub(super) part: Option<Said>,
}

impl Group {
    /// Of this one's subject, empty.
    pub(super) fn new(ask: Ask) -> Group {
        Group {
            ask,
            common: None,
            riders: Vec::new(),
            along: Vec::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn has_room(&self, limits: &Arc<Limits>) -> bool {
        let ended = self.along.len() + self.ended.len();
        // After a change of the configuration a plan may say something else.
        Arc::ptr_eq(&self.ask.limits, limits) && self.riders.len() < RIDERS && ended < ENDED
    }

    pub(super) fn asks_nothing(&self) -> bool {
        self.riders.is_empty()
    }

    /// Forgets who does not wait any more; whether there is anything left to be sent.
    pub(super) fn is_wanted(&mut self) -> bool {
        self.riders.retain(|rider| !rider.answer.is_closed());
        !self.riders.is_empty() || !self.ended.is_empty()
    }

    pub(super) fn keys(&self) -> usize {
        2 + usize::from(self.common.is_some())
    }

    pub(super) fn write(&mut self, shared: &Shared, call: &mut Cmd) {
        let width = 2 + 3 * usize::from(self.common.is_some());
        let ended = self.along.len() + self.ended.len();
        let own = 10 + 3 * ended + width * self.riders.len();
        let load = self.common.as_mut().map_or(0, |common| common.load());
        call.arg(own + load).arg(self.keys());
        let all = self.along.iter().chain(corrections(&self.ended));
        shared.tell(call, &self.ask.limits, ended, all);
        call.arg(self.riders.len());
        for rider in &self.riders {
            call.arg(rider.estimate).arg(rider.id);
            if self.common.is_some() {
                call.arg(&rider.part[..]);
            }
        }
        if let Some(common) = &self.common {
            common.write(call);
        }
    }

    /// Whether an answer is as long as one to this group is.
    pub(super) fn ends_with(&self, said: &[Value]) -> bool {
        let (before, each) = match &self.common {
            Some(_) => (2, NUMBERS + PART + 1),
            None => (0, NUMBERS),
        };
        said.len() == before + each * self.riders.len()
    }

    pub(super) fn tell(self, said: &[Value]) {
        let (each, mut rest) = match &self.common {
            Some(common) => {
                let (first, rest) = said.split_at(2.min(said.len()));
                if let Some(first) = numbers(first) {
                    common.read(first);
                }
                (NUMBERS + PART + 1, rest)
            }
            None => (NUMBERS, said),
        };
        for rider in self.riders {
            let (own, others) = rest.split_at(each.min(rest.len()));
            rest = others;
            // Whoever has left does not want to know.
            let _ = rider.answer.send(told(own).ok_or(Away::Failed));
        }
    }
}

/// What an answer says to one.
fn told(said: &[Value]) -> Option<Told> {
    let (limits, part) = said.split_at_checked(NUMBERS)?;
    let part = match part.split_last() {
        None => None,
        Some((word, part)) => Some(Said {
            numbers: numbers(part)?,
            word: text(word)?.into(),
        }),
    };
    let limits = numbers(limits)?;
    Some(Told { limits, part })
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
