//! Charges as they are told to Redis: added up where they are alike, so that it has one to write.

use super::epoch_name;
use crate::billing::lines::Batch;
use crate::billing::period::{Calendar, Period};
use crate::billing::{Charge, MOST, sums};
use crate::meter::usage::Source;
use redis::Cmd;
use std::sync::Arc;

/// Arguments of a row, and those that stand around holds and rows.
const FIELDS: usize = 17;
const AROUND: usize = 6;

/// Charges of one account, in one step.
#[derive(Default)]
pub(in crate::billing) struct Sums {
    /// The charge that the first of them follows, and the last of them.
    after: u64,
    last: u64,
    /// What they end.
    holds: Vec<u64>,
    rows: Vec<Row>,
}

/// What is the same of some charges, and their sum.
struct Row {
    key: Arc<str>,
    project: Arc<str>,
    model: Arc<str>,
    package: Option<Arc<str>>,
    /// Which of the holds says what package stands behind a name; 0 where it is known.
    hold: usize,
    reported: bool,
    period: Period,
    requests: u64,
    cost: i64,
    counts: [u64; sums::COUNTS],
}

impl Sums {
    /// Of a batch.
    pub(in crate::billing) fn of(batch: &Batch) -> Sums {
        let mut sums = Sums {
            after: batch.after,
            last: batch.after,
            holds: Vec::with_capacity(batch.charges.len()),
            rows: Vec::new(),
        };
        for (seq, charge) in &batch.charges {
            sums.last = *seq;
            sums.holds.push(charge.held.id);
            sums.add(charge);
        }
        sums
    }

    fn add(&mut self, charge: &Charge) {
        // Only the hold was to be given back.
        let Some(source) = charge.source else {
            return;
        };
        let reported = source == Source::Reported;
        let held = &charge.held;
        let named = held.package.as_ref().is_some_and(|id| id.starts_with('?'));
        let alike = self.rows.iter_mut().find(|row| {
            !named
                && row.reported == reported
                && row.period == held.period
                && row.key == held.key
                && row.model == held.model
                && row.project == held.project
                && row.package == held.package
        });
        let counts = charge.due.used.counts();
        let cost = charge.due.cost.micros();
        if let Some(row) = alike {
            row.requests += 1;
            row.cost = row.cost.saturating_add(cost);
            for (sum, more) in row.counts.iter_mut().zip(counts) {
                *sum = sum.saturating_add(more);
            }
            return;
        }
        self.rows.push(Row {
            key: held.key.clone(),
            project: held.project.clone(),
            model: held.model.clone(),
            package: held.package.clone(),
            hold: if named { self.holds.len() } else { 0 },
            reported,
            period: held.period,
            requests: 1,
            cost,
            counts,
        });
    }

    /// How many arguments they are.
    pub(in crate::billing) fn length(&self) -> usize {
        AROUND + self.holds.len() + FIELDS * self.rows.len()
    }

    /// Adds them to a call, in the order that `billing.lua` has.
    pub(super) fn write(&self, call: &mut Cmd, calendar: Calendar, epoch: u64) {
        call.arg(calendar.offset)
            .arg(epoch_name(epoch))
            .arg(self.after)
            .arg(self.last)
            .arg(self.holds.len());
        for hold in &self.holds {
            call.arg(*hold);
        }
        call.arg(self.rows.len());
        for row in &self.rows {
            row.write(call);
        }
    }
}

impl Row {
    fn write(&self, call: &mut Cmd) {
        call.arg(&*self.key).arg(&*self.project).arg(&*self.model);
        match (&self.package, self.hold) {
            (None, _) => call.arg("-"),
            (Some(id), 0) => call.arg(&**id),
            (Some(name), hold) => call.arg(format!("{name} {hold}")),
        };
        call.arg(if self.reported { "r" } else { "e" })
            .arg(self.period.day)
            .arg(self.period.month)
            .arg(self.cost.min(MOST))
            .arg(self.requests);
        for count in self.counts {
            call.arg(count.min(MOST.unsigned_abs()));
        }
    }
}
