//! What holds of the upgrades of a gateway, and the table.

use std::fmt::Write;

use super::course::{LEAVE, Seen};
use crate::kills::told_of;
use crate::ledger::claims::Claims;
use crate::process::processor;
use crate::report::Samples;
use crate::steady::tally::Tally;

impl Seen {
    /// Adds what must hold.
    pub fn claim(&self, claims: &mut Claims) {
        claims.none("each upgrade succeeds", self.tried, &self.failed);
        let followed = self.leaving.len() as u64;
        claims.none("the pid file names the successor", followed, &self.misnamed);
        let requests = self.requests();
        let failures: Vec<String> = self
            .steady
            .iter()
            .flat_map(Tally::failures)
            .chain(self.sparse.failed.iter().cloned())
            .collect();
        claims.none("no request failed", requests, &failures);
        claims.none(
            "no stream ended without its end marker",
            self.streams.sent,
            &self.streams.failed,
        );
        claims.check(
            self.endless() == 0,
            "one terminal outcome a request",
            &self.endless().to_string(),
        );
        claims.check(
            self.fared.retried_recent == 0,
            "no connection used within a second was closed without an answer",
            &format!("{:?}", self.fared),
        );
        let late = self.late();
        claims.none("an old process ends when its streams have", followed, &late);
        claims.check(
            self.most.0 <= self.most.1,
            "no more processes run at a time than serve, follow and still have streams",
            &format!("{} at most, {} allowed", self.most.0, self.most.1),
        );
        let wrong: Vec<String> = self
            .failing
            .iter()
            .filter(|failed| {
                failed.called.is_well() || failed.called.status.is_none() || failed.left != 1
            })
            .map(|failed| {
                let words = failed.called.words();
                format!("{}: {words}; {} processes left", failed.what, failed.left)
            })
            .collect();
        claims.none(
            "an upgrade that cannot succeed says so, and leaves the old process alone",
            self.failing.len() as u64,
            &wrong,
        );
        self.balance.claim(claims);
        claims.check(
            self.account.held == 0,
            "nothing is held in the end",
            &self.account.held.to_string(),
        );
        claims.check(
            self.panics.is_empty(),
            "nothing panicked",
            &told_of(&self.panics),
        );
    }

    /// Requests without streams.
    fn requests(&self) -> u64 {
        let steady: u64 = self.steady.iter().map(|tally| tally.sent).sum();
        steady + self.sparse.sent
    }

    /// Requests without exactly one end.
    fn endless(&self) -> u64 {
        let steady: u64 = self.steady.iter().map(Tally::endless).sum();
        let regulars = [&self.streams, &self.sparse];
        let regulars =
            regulars.map(|one| one.sent.saturating_sub(one.whole + one.failed.len() as u64));
        steady + regulars.iter().sum::<u64>()
    }

    /// Old processes that stayed too long.
    fn late(&self) -> Vec<String> {
        let leaving = self.leaving.iter().enumerate();
        leaving
            .filter_map(|(number, left)| match left {
                Some(left) if *left <= LEAVE => None,
                Some(left) => Some(format!("number {number} after {left:?}")),
                None => Some(format!("number {number} still runs")),
            })
            .collect()
    }

    fn failed(&self) -> u64 {
        let steady: u64 = self.steady.iter().map(Tally::failed).sum();
        steady + self.sparse.failed.len() as u64 + self.streams.failed.len() as u64
    }
}

/// The report, line by line.
pub struct Table {
    text: String,
    failing: String,
}

impl Table {
    /// Its head.
    pub fn new(rate: u32, streams: u64) -> Self {
        let text = format!(
            "{}. {rate} requests a second, half of them streams, and {streams} streams of 2 to 8 s at any time. \
             First byte: from when a request was due.\n\n\
             | store | upgrades | requests | long streams | failed | cut streams | without one end | error share \
             | retries: used within 1 s / idle | upgrade took, ms | first byte p50 / p99 / max, ms | old one ended after, s \
             | processes at most | ledger − provider | held | peak PSS of all, MiB |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            processor()
        );
        Table {
            text,
            failing: String::new(),
        }
    }

    /// A line for a store.
    pub fn add(&mut self, store: &str, seen: &Seen) {
        let all = Tally::merged(&seen.steady);
        let ms = |quantile| all.as_ref().map_or(f64::NAN, |all| all.ms(quantile));
        let sent = seen.requests() + seen.streams.sent;
        let mut left = Samples::default();
        for time in seen.leaving.iter().flatten() {
            left.add(time.as_secs_f64());
        }
        let _ = writeln!(
            self.text,
            "| {store} | {} | {} | {} | {} | {} | {} | {:.6} | {} / {} | {} | {:.1} / {:.1} / {:.1} | {} | {} | {} | {} | {:.1} |",
            seen.leaving.len(),
            seen.requests(),
            seen.streams.sent,
            seen.failed(),
            seen.streams.failed.len(),
            seen.endless(),
            seen.failed() as f64 / sent.max(1) as f64,
            seen.fared.retried_recent,
            seen.fared.retried_idle,
            seen.took_ms.spread(0),
            ms(0.5),
            ms(0.99),
            ms(1.0),
            left.spread(1),
            seen.most.0,
            seen.balance.off,
            seen.account.held,
            seen.peak as f64 / 1024.0,
        );
        for failed in &seen.failing {
            let _ = writeln!(
                self.failing,
                "- {store}, {}: after {:.1} s: {}",
                failed.what,
                failed.called.took.as_secs_f64(),
                failed.called.words()
            );
        }
    }

    /// All of it.
    pub fn text(self) -> String {
        let Table { text, failing } = self;
        match failing.is_empty() {
            true => text,
            false => format!("{text}\nUpgrades that had to fail:\n\n{failing}"),
        }
    }
}
