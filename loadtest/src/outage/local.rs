//! The judgement on `store.on_failure.limits: local`: a row for each fault, and what holds over the whole run.

use std::fmt::Write;
use std::time::Duration;

use super::sampler::{Sample, Waits, errors_of_all, waits_of_all};
use super::span::{Admitted, Span, Spell, Tally, admitted, slowest, tally};
use super::traffic::{Log, Record, Who};
use crate::Result;
use crate::limits::Allowance;

/// What recovers by itself has done so by then.
pub const RECOVERY: Duration = Duration::from_secs(2);

/// All that was seen of a run.
pub struct Seen<'a> {
    /// The plan of the key that sends too much.
    pub allowance: Allowance,
    /// The faults, in their order.
    pub spans: &'a [Span],
    /// Of each gateway.
    pub samples: &'a [Vec<Sample>],
    /// All requests.
    pub log: &'a Log,
}

/// What is in the table.
struct Row {
    span: Span,
    above: Tally,
    below: Tally,
    slowest: Duration,
    waits: Waits,
    /// Failed calls, by gateway.
    errors: Vec<u64>,
    spells: Vec<Option<Spell>>,
    extra: u64,
    window: Option<Admitted>,
    away: Option<Admitted>,
}

const HEADER: &str = "| fault | for, s | above the limit: 200 / 429 / other | below it: 200 / other | slowest from due, ms \
     | admissions > 50 ms | their highest bucket | failed calls | away after, ms | back after, ms | 200 while away / rate × time \
     | 200 since the last refusal before / bound | of it for the fault |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

impl Seen<'_> {
    /// The table, and what does not hold.
    pub fn report(&self, text: &mut String, failures: &mut Vec<String>) -> Result<()> {
        let rows: Vec<Row> = self
            .spans
            .iter()
            .map(|span| self.row(*span))
            .collect::<Result<_>>()?;
        text.push_str(HEADER);
        for row in &rows {
            row.print(self.allowance, text);
            row.judge(self.allowance, failures);
        }
        self.whole(&rows, text, failures)
    }

    fn row(&self, span: Span) -> Result<Row> {
        let records = &self.log.records;
        let spells: Vec<Option<Spell>> = self
            .samples
            .iter()
            .map(|samples| span.spell(samples))
            .collect();
        let waits = waits_of_all(self.samples, span.begun, span.until);
        Ok(Row {
            above: tally(span.records(records), Who::Above),
            below: tally(span.records(records), Who::Below),
            slowest: slowest(span.records(records)),
            errors: errors_of_all(self.samples, span.begun, span.until),
            waits: waits.ok_or("a gateway without metrics")?,
            extra: span.extra(&spells, self.allowance),
            window: span.admitted(records),
            away: span.admitted_away(records, &spells),
            span,
            spells,
        })
    }

    /// The bound over the whole run, in words and in numbers.
    fn whole(&self, rows: &[Row], text: &mut String, failures: &mut Vec<String>) -> Result<()> {
        let records: &[Record] = &self.log.records;
        let first = records.iter().map(|record| record.sent).min();
        let total = admitted(records.iter(), first.ok_or("nothing was sent")?);
        let (above, below) = (
            tally(records.iter(), Who::Above),
            tally(records.iter(), Who::Below),
        );
        let Allowance { rate, burst } = self.allowance;
        let extra: u64 = rows.iter().map(|row| row.extra).sum();
        let raised = Allowance {
            rate,
            burst: burst.saturating_add(extra),
        };
        let bound = raised.bound(total.elapsed_ms);
        let Admitted { count, elapsed_ms } = total;
        let _ = writeln!(
            text,
            "\nWhole run, {:.1} s: {count} of {} requests above the limit were admitted, the bound is {bound} ({:.1} %): burst {burst} \
             + {rate} a minute × time = {} without faults, and {extra} for the faults. A fault that makes Redis forget \
             fills the bucket again: one burst. After one that does not, the bucket has filled while the nodes \
             admitted their shares by themselves: rate × time from the fault until the last node is back (at least \
             100 ms, for what is over between two looks), no more than a burst. Where one node is back before the other: \
             rate × that time. One request for each node, which goes on from the level it last heard. Below the \
             limit: {} of {} admitted.",
            Duration::from_millis(elapsed_ms).as_secs_f64(),
            above.total(),
            count as f64 / bound as f64 * 100.0,
            self.allowance.bound(elapsed_ms),
            below.admitted,
            below.total(),
        );
        if !raised.holds(count, elapsed_ms) {
            failures.push(format!(
                "whole run: {count} requests were admitted, the bound is {bound}"
            ));
        }
        judge_answers("whole run", above, below, failures);
        if let Some(words) = &self.log.first_other {
            failures.push(format!("the first other answer: {words}"));
        }
        let Some(begun) = self.spans.first().map(|span| span.begun) else {
            return Ok(());
        };
        let early = |sample: &Sample| sample.away && sample.at < begun;
        if self.samples.iter().flatten().any(early) {
            failures
                .push("Redis counted as away before any fault: the machine is too busy".to_owned());
        }
        Ok(())
    }
}

impl Row {
    fn print(&self, allowance: Allowance, text: &mut String) {
        let Row {
            span,
            above,
            below,
            slowest,
            waits,
            errors,
            spells,
            extra,
            window,
            away,
        } = self;
        let lasted = match span.fault.lasts() {
            true => format!("{:.1}", (span.ended - span.begun).as_secs_f64()),
            false => "at once".to_owned(),
        };
        let refill = Allowance {
            burst: 0,
            ..allowance
        };
        let away = away.map_or("–".to_owned(), |away| {
            let Admitted { count, elapsed_ms } = away;
            format!("{count} / {}", refill.bound(elapsed_ms))
        });
        let window = window.map_or("–".to_owned(), |window| {
            format!("{} / {}", window.count, self.bound(allowance, window))
        });
        let _ = writeln!(
            text,
            "| {} | {lasted} | {} / {} / {} | {} / {} | {:.1} | {} | {} | {} | {} | {} | {away} | {window} | {extra} |",
            span.fault.name(),
            above.admitted,
            above.refused,
            above.unavailable + above.other,
            below.admitted,
            below.total() - below.admitted,
            slowest.as_secs_f64() * 1000.0,
            waits.too_long,
            waits.words(),
            errors.iter().sum::<u64>(),
            noticed(span, spells),
            back(span, spells),
        );
    }

    /// The bucket held less than one request when the window began.
    fn raised(&self, allowance: Allowance) -> Allowance {
        Allowance {
            rate: allowance.rate,
            burst: self.extra.saturating_add(1),
        }
    }

    fn bound(&self, allowance: Allowance, window: Admitted) -> u64 {
        self.raised(allowance).bound(window.elapsed_ms)
    }

    /// Adds what does not hold.
    fn judge(&self, allowance: Allowance, failures: &mut Vec<String>) {
        let name = self.span.fault.name();
        judge_recovery(name, &self.span, &self.spells, self.waits, failures);
        let failing = self.errors.iter().filter(|errors| **errors > 0).count();
        if failing < self.span.fault.fails_for(self.errors.len()) {
            failures.push(format!(
                "{name}: calls of {failing} nodes failed, so it proves nothing"
            ));
        }
        match self.window {
            None => failures.push(format!(
                "{name}: the limit was not reached before the fault"
            )),
            Some(window)
                if !self
                    .raised(allowance)
                    .holds(window.count, window.elapsed_ms) =>
            {
                let bound = self.bound(allowance, window);
                failures.push(format!(
                    "{name}: {} requests were admitted, the bound is {bound}",
                    window.count
                ));
            }
            Some(_) => {}
        }
        judge_answers(name, self.above, self.below, failures);
    }
}

/// Nothing but 200 and 429, and below the limit nothing but 200.
fn judge_answers(name: &str, above: Tally, below: Tally, failures: &mut Vec<String>) {
    let wrong = above.unavailable + above.other;
    if wrong > 0 {
        failures.push(format!(
            "{name}: {wrong} answers above the limit are neither 200 nor 429"
        ));
    }
    let wrong = below.total() - below.admitted;
    if wrong > 0 {
        failures.push(format!(
            "{name}: {wrong} answers below the limit are not 200"
        ));
    }
}

/// Nobody waited too long, everybody noticed what lasted, and all are back in time.
pub fn judge_recovery(
    name: &str,
    span: &Span,
    spells: &[Option<Spell>],
    waits: Waits,
    failures: &mut Vec<String>,
) {
    if waits.too_long > 0 {
        failures.push(format!(
            "{name}: {} admissions took longer than 50 ms",
            waits.too_long
        ));
    }
    if span.fault.lasts() && spells.iter().any(Option::is_none) {
        failures.push(format!("{name}: a node never said that Redis is away"));
    }
    for spell in spells.iter().flatten() {
        match spell.back {
            None => failures.push(format!("{name}: a node did not come back")),
            Some(back) if back.saturating_duration_since(span.ended) > RECOVERY => {
                let after = back - span.ended;
                failures.push(format!("{name}: a node was back after {after:?} only"));
            }
            Some(_) => {}
        }
    }
}

/// When the last node had noticed, in milliseconds from the fault.
pub fn noticed(span: &Span, spells: &[Option<Spell>]) -> String {
    let times = spells.iter().flatten().map(|spell| spell.noticed);
    let seen = times.clone().count();
    match times.max() {
        None => "not seen".to_owned(),
        Some(last) if seen == spells.len() => (last - span.begun).as_millis().to_string(),
        Some(last) => format!("{} ({seen} node)", (last - span.begun).as_millis()),
    }
}

/// When the last node was back, in milliseconds from the fault's end.
pub fn back(span: &Span, spells: &[Option<Spell>]) -> String {
    let backs: Option<Vec<_>> = spells.iter().flatten().map(|spell| spell.back).collect();
    match backs.map(|backs| backs.into_iter().max()) {
        None => "never".to_owned(),
        Some(None) => "–".to_owned(),
        Some(Some(last)) => last
            .saturating_duration_since(span.ended)
            .as_millis()
            .to_string(),
    }
}
