//! One fault in time: when it was, when the gateways noticed, what may be admitted because of it, what was.

use std::time::{Duration, Instant};

use super::fault::Fault;
use super::sampler::{EVERY, Sample};
use super::traffic::{Record, Status, Who};
use crate::limits::Allowance;

/// An outage that is over between two looks counts as one of this length.
const UNSEEN: Duration = EVERY.saturating_mul(5);

/// A fault, and the health that follows.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Which.
    pub fault: Fault,
    /// Just before it.
    pub begun: Instant,
    /// Just after it was done.
    pub stands: Instant,
    /// When nothing was in the way of recovery any more.
    pub ended: Instant,
    /// When the next one began.
    pub until: Instant,
}

/// What one gateway showed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spell {
    /// When it first said that Redis is away.
    pub noticed: Instant,
    /// When it said for good that Redis is back.
    pub back: Option<Instant>,
}

/// Answers by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// 200.
    pub admitted: u64,
    /// 429.
    pub refused: u64,
    /// 503.
    pub unavailable: u64,
    /// The rest.
    pub other: u64,
}

/// Admitted requests of the key that sends too much, and the time within which they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// How many.
    pub count: u64,
    /// The whole time, rounded up: an allowance for part of a millisecond is one that a gateway may have given.
    pub elapsed_ms: u64,
}

impl Span {
    /// What a gateway showed; nothing, if it never said that Redis is away.
    pub fn spell(&self, samples: &[Sample]) -> Option<Spell> {
        let within = |sample: &&Sample| sample.at >= self.begun && sample.at < self.until;
        let noticed = samples.iter().filter(within).find(|sample| sample.away)?.at;
        let last = samples
            .iter()
            .filter(within)
            .rfind(|sample| sample.away)?
            .at;
        let back = samples
            .iter()
            .filter(within)
            .find(|sample| sample.at > last)
            .map(|sample| sample.at);
        Some(Spell { noticed, back })
    }

    /// How many requests may be admitted because of it, beyond what the limit allows otherwise.
    pub fn extra(&self, spells: &[Option<Spell>], allowance: Allowance) -> u64 {
        let Allowance { rate, burst } = allowance;
        let backs = spells.iter().map(|spell| match spell {
            // It never went away, or so shortly that nobody saw.
            None => self.begun,
            Some(spell) => spell.back.unwrap_or(self.until),
        });
        let first = backs.clone().min().unwrap_or(self.begun);
        let last = backs.max().unwrap_or(self.begun);
        // One asks Redis again while others still go by themselves.
        let overlap = requests(rate, last - first);
        let full = burst.saturating_add(overlap);
        // Redis' bucket fills, while what is admitted elsewhere is not taken from it.
        let untold = requests(rate, (last - self.begun).max(UNSEEN));
        let extra = match self.fault.forgets() {
            true => full,
            false => untold.min(full),
        };
        // Each goes on from what it last heard, which lacks what others were admitted just then.
        extra.saturating_add(spells.len() as u64)
    }

    /// What was sent from the fault until the next.
    pub fn records<'a>(&self, records: &'a [Record]) -> impl Iterator<Item = &'a Record> + Clone {
        let Span { begun, until, .. } = *self;
        records
            .iter()
            .filter(move |record| record.sent >= begun && record.sent < until)
    }

    /// What was admitted since the last refusal before the fault, at which the bucket held less than one request.
    pub fn admitted(&self, records: &[Record]) -> Option<Admitted> {
        let empty = records
            .iter()
            .filter(|record| record.who == Who::Above && record.status == Status::Refused)
            .filter(|record| record.answered < self.begun)
            .max_by_key(|record| record.answered)?;
        // Sent after its answer: decided after it.
        let after = records
            .iter()
            .filter(|record| record.sent >= empty.answered && record.sent < self.until);
        Some(admitted(after, empty.sent))
    }

    /// What was admitted while all gateways were away, if it was long enough for them to notice.
    pub fn admitted_away(&self, records: &[Record], spells: &[Option<Spell>]) -> Option<Admitted> {
        let noticed: Option<Vec<Instant>> = spells
            .iter()
            .map(|spell| Some(spell.as_ref()?.noticed))
            .collect();
        let from = noticed?.into_iter().max()?;
        if from >= self.ended {
            return None;
        }
        let within = records
            .iter()
            .filter(|record| record.sent >= from && record.answered <= self.ended);
        Some(admitted(within, from))
    }
}

impl Tally {
    /// All of them.
    pub fn total(self) -> u64 {
        let Tally {
            admitted,
            refused,
            unavailable,
            other,
        } = self;
        admitted + refused + unavailable + other
    }
}

/// Those of the key that sends too much, from a moment to their last answer.
pub fn admitted<'a>(records: impl Iterator<Item = &'a Record>, from: Instant) -> Admitted {
    let (mut count, mut last) = (0, from);
    for record in records.filter(|record| record.who == Who::Above) {
        last = last.max(record.answered);
        count += u64::from(record.status == Status::Admitted);
    }
    Admitted {
        count,
        elapsed_ms: (last - from).as_micros().div_ceil(1000) as u64,
    }
}

/// Answers to one key, by kind.
pub fn tally<'a>(records: impl Iterator<Item = &'a Record>, who: Who) -> Tally {
    let mut tally = Tally::default();
    for record in records.filter(|record| record.who == who) {
        let count = match record.status {
            Status::Admitted => &mut tally.admitted,
            Status::Refused => &mut tally.refused,
            Status::Unavailable => &mut tally.unavailable,
            Status::Other => &mut tally.other,
        };
        *count += 1;
    }
    tally
}

/// The longest time from when a request was due to its answer.
pub fn slowest<'a>(records: impl Iterator<Item = &'a Record>) -> Duration {
    records
        .map(|record| record.answered.saturating_duration_since(record.due))
        .max()
        .unwrap_or_default()
}

/// What the rate refills within some time, rounded up.
fn requests(rate: u64, time: Duration) -> u64 {
    let refilled = (u128::from(rate) * time.as_nanos()).div_ceil(60_000_000_000);
    u64::try_from(refilled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
