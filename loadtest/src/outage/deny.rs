//! The judgement on `store.on_failure.limits: deny`: while Redis is away, 503 for who has a limit, nothing else.

use std::fmt::Write;

use super::local::{back, judge_recovery, noticed};
use super::sampler::{Sample, waits_of_all};
use super::span::{Admitted, Span, Spell, Tally, admitted, slowest, tally};
use super::traffic::{Log, Record, Who};
use crate::Result;
use crate::limits::Allowance;

/// All that was seen of the one fault.
pub struct Seen<'a> {
    /// The plan of the key that sends too much.
    pub allowance: Allowance,
    /// The fault.
    pub span: Span,
    /// Of each gateway.
    pub samples: &'a [Vec<Sample>],
    /// All requests.
    pub log: &'a Log,
}

const HEADER: &str = "| key | while stopped: 503 / other | before and after: 200 / 429 / 503 / other | slowest from due, ms |\n\
     | --- | --- | --- | --- |\n";

const KEYS: [(Who, &str); 3] = [
    (Who::Above, "above its limit"),
    (Who::Below, "below its limit"),
    (Who::Unlimited, "without a limit"),
];

impl Seen<'_> {
    /// The table, and what does not hold.
    pub fn report(&self, text: &mut String, failures: &mut Vec<String>) -> Result<()> {
        let Seen {
            allowance,
            span,
            samples,
            log,
        } = self;
        let records = &log.records;
        let spells: Vec<Option<Spell>> =
            samples.iter().map(|samples| span.spell(samples)).collect();
        text.push_str(HEADER);
        for (who, name) in KEYS {
            // Sent after the fault and answered before its end: Redis had no part in it.
            let stopped = tally(records.iter().filter(|record| self.stopped(record)), who);
            let healthy = tally(
                records
                    .iter()
                    .filter(|record| self.healthy(record, &spells)),
                who,
            );
            let own = records.iter().filter(|record| record.who == who);
            let _ = writeln!(
                text,
                "| {name} | {} / {} | {} / {} / {} / {} | {:.1} |",
                stopped.unavailable,
                stopped.total() - stopped.unavailable,
                healthy.admitted,
                healthy.refused,
                healthy.unavailable,
                healthy.other,
                slowest(own).as_secs_f64() * 1000.0,
            );
            judge(who, name, stopped, healthy, failures);
        }
        let waits =
            waits_of_all(samples, span.begun, span.until).ok_or("a gateway without metrics")?;
        judge_recovery("deny", span, &spells, waits, failures);
        let first = records.iter().map(|record| record.sent).min();
        let total = admitted(records.iter(), first.ok_or("nothing was sent")?);
        let Admitted { count, elapsed_ms } = total;
        let _ = writeln!(
            text,
            "\nAway after {} ms, back {} ms after the end. Admissions > 50 ms: {}, highest bucket {}. Admitted above the limit \
             over the whole part: {count}, the bound (burst + rate × time; nothing for the fault) is {}.",
            noticed(span, &spells),
            back(span, &spells),
            waits.too_long,
            waits.words(),
            allowance.bound(elapsed_ms),
        );
        if !allowance.holds(count, elapsed_ms) {
            failures.push(format!(
                "deny: {count} requests were admitted, the bound is {}",
                allowance.bound(elapsed_ms)
            ));
        }
        if let Some(words) = &log.first_other {
            failures.push(format!("deny: the first other answer: {words}"));
        }
        Ok(())
    }

    fn stopped(&self, record: &Record) -> bool {
        // Not before the signal was delivered.
        record.sent >= self.span.stands && record.answered <= self.span.ended
    }

    fn healthy(&self, record: &Record, spells: &[Option<Spell>]) -> bool {
        let backs: Option<Vec<_>> = spells.iter().flatten().map(|spell| spell.back).collect();
        let back = backs.and_then(|backs| backs.into_iter().max());
        record.answered < self.span.begun || back.is_some_and(|back| record.sent > back)
    }
}

fn judge(who: Who, name: &str, stopped: Tally, healthy: Tally, failures: &mut Vec<String>) {
    let right = match who {
        Who::Above | Who::Below => stopped.unavailable,
        Who::Unlimited => stopped.admitted,
    };
    if right == 0 || right < stopped.total() {
        failures.push(format!(
            "deny, {name}: {right} of {} answers while stopped are as they should be",
            stopped.total()
        ));
    }
    let right = match who {
        Who::Above => healthy.admitted + healthy.refused,
        Who::Below | Who::Unlimited => healthy.admitted,
    };
    if right == 0 || right < healthy.total() {
        failures.push(format!(
            "deny, {name}: {right} of {} answers before and after are as they should be",
            healthy.total()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_503_while_away_and_no_limit_is_200() {
        let admitted = Tally {
            admitted: 5,
            ..Tally::default()
        };
        let unavailable = Tally {
            unavailable: 5,
            ..Tally::default()
        };
        let failures = |who, stopped, healthy| {
            let mut failures = Vec::new();
            judge(who, "a key", stopped, healthy, &mut failures);
            failures.len()
        };
        assert_eq!(failures(Who::Above, unavailable, admitted), 0);
        assert_eq!(failures(Who::Below, admitted, admitted), 1);
        assert_eq!(failures(Who::Below, unavailable, unavailable), 1);
        assert_eq!(failures(Who::Unlimited, admitted, admitted), 0);
        assert_eq!(failures(Who::Unlimited, unavailable, admitted), 1);
        // Nothing seen proves nothing.
        assert_eq!(failures(Who::Above, Tally::default(), admitted), 1);
    }
}
