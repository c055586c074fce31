//! The comparison: what the ledger says of each request's key with what the provider told of it, one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::admin::Row;
use super::claims::Claims;
use super::money::{PRICE, Tokens};
use super::provider::{EVENT_BYTES, Told};
use super::traffic::{End, Sent, key};

/// A gateway notes how far an answer is after so many bytes, or sooner.
const RECORD_BYTES: u64 = 4096;

/// Events that may have gone out since: those of a record, the one that filled it, and one on its way.
const RECORD: u64 = RECORD_BYTES / EVENT_BYTES as u64 + 2;

/// A provider is told within this time that nobody wants its answer any more.
const CANCELLED: Duration = Duration::from_secs(1);

/// What is compared.
pub struct Books<'a> {
    /// All requests.
    pub sent: &'a [Sent],
    /// What the provider told, by request.
    pub told: &'a BTreeMap<u64, Told>,
    /// The ledger's rows, by key.
    pub rows: &'a BTreeMap<String, Row>,
}

/// What came of it.
#[derive(Default)]
pub struct Audit {
    /// Requests that were sent.
    pub sent: u64,
    /// With a whole answer.
    pub finished: u64,
    /// Refused in the surface's envelope.
    pub refused: u64,
    /// Given up by their clients, and charged.
    pub left: u64,
    /// From when a client left until the provider was told: the longest time.
    pub told_after: Duration,
    /// Unanswered when their gateway was killed.
    pub cut: u64,
    /// Of these: charged what the provider reported.
    pub reported: u64,
    /// Charged what their last progress record said.
    pub noted: u64,
    /// Charged their prompt's estimate.
    pub prompt: u64,
    /// Of those: they had not reached the provider.
    pub unreached: u64,
    /// Neither charged nor seen by the provider.
    pub untouched: u64,
    /// Of the cut ones that the provider had answered in full, on the wire at the kill: charged less.
    pub on_wire: u64,
    /// What the ledger says beyond the provider's count, and what is missing of it, in micro-units: finished ones.
    pub off_finished: i64,
    /// The same of cut ones.
    pub off_cut: i64,
    /// The most that this may be: the prompt's estimate and a progress record for each of them.
    pub bound_cut: i64,
    /// All rows together.
    pub sum: Row,
    /// What is estimated of left and of cut ones, in micro-units.
    guessed: i64,
    /// Requests of which the ledger is not what it must be.
    inexact: Vec<String>,
    /// Left ones that are not charged as they were relayed.
    unrelayed: Vec<String>,
    /// Cut ones outside of their bound.
    beyond: Vec<String>,
    /// Reached the provider and are not in the ledger.
    lost: Vec<String>,
    /// Charged or sent more than once.
    twice: Vec<String>,
    /// Charged though nobody was served.
    wrongly: Vec<String>,
    /// Without exactly one end.
    endless: Vec<String>,
}

impl Audit {
    /// Compares. `cut` tells whether a request was in flight when its gateway was killed.
    pub fn new(books: &Books<'_>, cut: impl Fn(&Sent) -> bool) -> Self {
        let mut audit = Audit::default();
        let mut known = 0;
        for sent in books.sent {
            let row = books.rows.get(&key(sent.number, "").name);
            known += u64::from(row.is_some());
            audit.one(sent, books.told.get(&sent.number), row, &cut);
        }
        for row in books.rows.values() {
            audit.sum.add(*row);
        }
        if known < books.rows.len() as u64 {
            let strange = books.rows.len() as u64 - known;
            audit
                .wrongly
                .push(format!("{strange} rows of keys that nobody used"));
        }
        audit
    }

    fn one(
        &mut self,
        sent: &Sent,
        told: Option<&Told>,
        row: Option<&Row>,
        cut: &impl Fn(&Sent) -> bool,
    ) {
        let number = sent.number;
        self.sent += 1;
        if told.is_some_and(|told| told.times > 1) || row.is_some_and(|row| row.requests > 1) {
            self.twice
                .push(format!("request {number}: {told:?}, {row:?}"));
        }
        match (&sent.end, told) {
            (End::Whole, Some(told)) => {
                self.finished += 1;
                self.finished(sent, told, row);
            }
            (End::Refused(..), None) => {
                self.refused += 1;
                if let Some(row) = row {
                    self.wrongly
                        .push(format!("request {number} was refused: {row:?}"));
                }
            }
            (End::Broken(_) | End::Left, told) if cut(sent) => {
                self.cut += 1;
                self.unanswered(sent, told, row);
            }
            (End::Left, told) => self.given_up(sent, told, row),
            (end, told) => {
                let told = told.map_or("it was not sent on", |_| "it was sent on");
                self.endless
                    .push(format!("request {number}: {end:?}, {told}"));
            }
        }
    }

    fn finished(&mut self, sent: &Sent, told: &Told, row: Option<&Row>) {
        let number = sent.number;
        let tokens = told.wish.tokens();
        let expected = Row {
            requests: 1,
            tokens,
            pictures: 0,
            cost: PRICE.cost(tokens),
            estimated: 0,
        };
        let charged = row.map_or(0, |row| row.cost);
        self.off_finished += (charged - expected.cost).abs();
        match row {
            None => self.lost.push(format!("request {number} was answered")),
            Some(row) if *row != expected => {
                let words = format!("request {number}: {row:?}, the provider: {tokens:?}");
                self.inexact.push(words);
            }
            Some(_) => {}
        }
    }

    fn given_up(&mut self, sent: &Sent, told: Option<&Told>, row: Option<&Row>) {
        let number = sent.number;
        let Some(row) = row else {
            match told {
                Some(_) => self.lost.push(format!("request {number}, given up")),
                None => self.untouched += 1,
            }
            return;
        };
        self.left += 1;
        self.guessed += row.estimated;
        if let Some(closed) = told.and_then(|told| told.closed) {
            let after = closed.saturating_duration_since(sent.ended);
            self.told_after = self.told_after.max(after);
        }
        let events = told.map_or(0, |told| told.events);
        let relayed = is_estimated(row, sent)
            && row.tokens.output >= sent.events
            && row.tokens.output <= events;
        if !relayed && !is_exact(row, told) {
            let words = format!("request {number}: {row:?}, {sent:?}, {told:?}");
            self.unrelayed.push(words);
        }
    }

    fn unanswered(&mut self, sent: &Sent, told: Option<&Told>, row: Option<&Row>) {
        let number = sent.number;
        let counted = told.map_or_else(Tokens::default, Told::tokens);
        let charged = row.map_or(0, |row| row.cost);
        self.off_cut += (charged - PRICE.cost(counted)).abs();
        self.bound_cut += PRICE.cost(Tokens {
            input: sent.estimate,
            cached: 0,
            output: RECORD,
        });
        let Some(row) = row else {
            match told {
                Some(_) => self
                    .lost
                    .push(format!("request {number}, in flight at a kill")),
                None => self.untouched += 1,
            }
            return;
        };
        if is_exact(row, told) {
            self.reported += 1;
            return;
        }
        self.guessed += row.estimated;
        let events = told.map_or(0, |told| told.events);
        let within = is_estimated(row, sent)
            && row.tokens.output <= events
            && row.tokens.output + RECORD >= sent.events;
        if !within {
            self.beyond
                .push(format!("request {number}: {row:?}, {sent:?}, {told:?}"));
        }
        if row.tokens.output > 0 {
            self.noted += 1;
        } else {
            self.prompt += 1;
            self.unreached += u64::from(told.is_none());
        }
        if let Some(told) = told.filter(|told| told.reported) {
            // The provider wrote its last words, and the gateway was killed before it had read them.
            self.on_wire += 1;
            self.bound_cut += PRICE.cost(Tokens {
                output: told.tokens().output.saturating_sub(told.events),
                ..Tokens::default()
            });
        }
    }

    /// How many were without exactly one end.
    pub fn endless(&self) -> usize {
        self.endless.len()
    }

    /// Those that were in flight at a kill, and charged.
    fn cut_charged(&self) -> u64 {
        self.reported + self.noted + self.prompt
    }

    /// What must hold whatever happens to gateways or stores.
    pub fn claim(&self, claims: &mut Claims) {
        claims.none("one terminal outcome a request", self.sent, &self.endless);
        claims.none(
            "what finished is charged as the provider reported, to the token and the micro-unit",
            self.finished,
            &self.inexact,
        );
        claims.none(
            "nothing that reached the provider is missing",
            self.sent,
            &self.lost,
        );
        claims.none("nothing is sent or charged twice", self.sent, &self.twice);
        claims.none("nobody is charged for a refusal", self.sent, &self.wrongly);
        claims.none(
            "who leaves pays for the prompt and for what was relayed",
            self.left,
            &self.unrelayed,
        );
        claims.check(
            self.told_after <= CANCELLED,
            "when a client leaves its provider is told within 1 s",
            &format!("{} ms at most", self.told_after.as_millis()),
        );
        let cut = self.cut_charged();
        claims.check(
            self.sum.requests == self.finished + self.left + cut,
            "the ledger's requests are those that finished, were given up, and were in flight at a kill",
            &format!(
                "{} = {} + {} + {cut}",
                self.sum.requests, self.finished, self.left
            ),
        );
        claims.check(
            self.sum.estimated == self.guessed,
            "only what was given up or in flight at a kill is estimated",
            &format!("{} micro-units", self.sum.estimated),
        );
    }

    /// What must hold of requests in flight when their gateway was killed.
    pub fn claim_cut(&self, claims: &mut Claims) {
        claims.none(
            "what was in flight is charged by its last progress record, or its prompt's estimate",
            self.cut,
            &self.beyond,
        );
        let figures = format!(
            "off by {} micro-units, at most {} for {} requests",
            self.off_cut, self.bound_cut, self.cut
        );
        let claim =
            "what was in flight is off by no more than a progress record and an estimate each";
        claims.check(self.off_cut <= self.bound_cut, claim, &figures);
    }
}

/// Whether a row is what the provider reported.
fn is_exact(row: &Row, told: Option<&Told>) -> bool {
    told.filter(|told| told.reported).is_some_and(|told| {
        let tokens = told.wish.tokens();
        row.tokens == tokens && row.cost == PRICE.cost(tokens) && row.estimated == 0
    })
}

/// Whether a row is the estimate of a prompt, and what was counted of the answer.
fn is_estimated(row: &Row, sent: &Sent) -> bool {
    row.tokens.input == sent.estimate
        && row.tokens.cached == 0
        && row.cost == PRICE.cost(row.tokens)
        && row.estimated == row.cost
}

#[cfg(test)]
mod tests;
