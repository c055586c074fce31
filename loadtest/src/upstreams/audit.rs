//! The comparison: what became of each request, what each provider told of it, and what the ledger says, one by one.

use std::collections::BTreeMap;

use super::traffic::{ACCOUNT, End, Seen, wish};
use crate::ledger::admin::Row;
use crate::ledger::claims::Claims;
use crate::ledger::money::{PRICE, Tokens};
use crate::ledger::provider::Told;
use crate::ledger::traffic::key;

/// What came of it.
#[derive(Default)]
pub struct Audit {
    /// Requests that were sent.
    pub sent: u64,
    /// With a whole answer.
    pub whole: u64,
    /// Refused in the surface's envelope.
    pub refused: u64,
    /// Streams that ended with one error event.
    pub cut: u64,
    /// Requests that reached a provider more than once: each time it may bill them.
    pub resent: u64,
    /// The most often that one request reached providers.
    pub most: u64,
    /// The same, without the one that a dead connection of the pool allows.
    pub most_worked: u64,
    /// What the ledger says beyond what the provider reported, and what is missing of it, in micro-units: whole ones.
    pub off: i64,
    /// What was charged for all of them, in micro-units.
    pub cost: i64,
    /// Neither whole, nor refused, nor cut by one error event.
    endless: Vec<String>,
    /// Whole ones of which the ledger is not what one provider reported.
    inexact: Vec<String>,
    /// Charged more than once.
    twice: Vec<String>,
    /// Charged though nobody was served.
    wrongly: Vec<String>,
    /// Cut ones that are not charged as they were relayed.
    unrelayed: Vec<String>,
    /// Cut ones that were sent again.
    again: Vec<String>,
}

impl Audit {
    /// Compares all requests of a run with what each provider told and with the ledger's rows.
    pub fn new(seen: &[Seen], told: &[BTreeMap<u64, Told>], rows: &BTreeMap<String, Row>) -> Self {
        let mut audit = Audit::default();
        let mut known = 0;
        for one in seen {
            let row = rows.get(&key(one.number, ACCOUNT).name);
            known += usize::from(row.is_some());
            let told: Vec<Told> = told
                .iter()
                .filter_map(|book| book.get(&one.number).copied())
                .collect();
            audit.one(one, &told, row);
        }
        audit.cost = rows.values().map(|row| row.cost).sum();
        if known < rows.len() {
            let strange = rows.len() - known;
            audit
                .wrongly
                .push(format!("{strange} rows of keys that nobody used"));
        }
        audit
    }

    fn one(&mut self, seen: &Seen, told: &[Told], row: Option<&Row>) {
        let words = || format!("request {}: {row:?}, {:?}, {told:?}", seen.number, seen.end);
        let arrivals: u64 = told.iter().map(|told| told.times).sum();
        self.sent += 1;
        self.resent += u64::from(arrivals > 1);
        self.most = self.most.max(arrivals);
        // A connection that dies when it is used again cannot be told from one that was dead: one more is right then.
        let dead = told
            .iter()
            .map(|told| told.reset_reused)
            .sum::<u64>()
            .min(1);
        self.most_worked = self.most_worked.max(arrivals.saturating_sub(dead));
        if row.is_some_and(|row| row.requests > 1) {
            self.twice.push(words());
        }
        match &seen.end {
            End::Whole => {
                self.whole += 1;
                let tokens = wish(seen.number).tokens();
                let expected = Row {
                    requests: 1,
                    tokens,
                    pictures: 0,
                    cost: PRICE.cost(tokens),
                    estimated: 0,
                };
                self.off += (row.map_or(0, |row| row.cost) - expected.cost).abs();
                let reported = told.iter().filter(|told| told.reported).count();
                if reported != 1 || row != Some(&expected) {
                    self.inexact.push(words());
                }
            }
            End::Refused(_, code) => {
                self.refused += 1;
                // Of a provider that was silent too long nobody knows what it did: its prompt is due.
                let prompt =
                    code == "upstream_timeout" && row.is_some_and(|row| is_relayed(row, seen));
                if row.is_some_and(|row| row.cost != 0) && !prompt {
                    self.wrongly.push(words());
                }
            }
            End::Cut => {
                self.cut += 1;
                if !row.is_some_and(|row| is_relayed(row, seen)) {
                    self.unrelayed.push(words());
                }
                if arrivals != 1 {
                    self.again.push(words());
                }
            }
            End::Broken(_) | End::Wrong(_) => self.endless.push(words()),
        }
    }

    /// How many were without exactly one end.
    pub fn endless(&self) -> usize {
        self.endless.len()
    }

    /// What must hold whatever providers do.
    pub fn claim(&self, claims: &mut Claims) {
        claims.none("one terminal outcome a request", self.sent, &self.endless);
        claims.none(
            "what finished is charged as the one provider reported that finished it, to the token and the micro-unit",
            self.whole,
            &self.inexact,
        );
        claims.none("nothing is charged twice", self.sent, &self.twice);
        claims.none("nobody is charged for a refusal", self.sent, &self.wrongly);
    }

    /// What must hold of streams that were cut by their provider.
    pub fn claim_cut(&self, claims: &mut Claims) {
        claims.none(
            "a stream that its provider broke off is charged as it was relayed",
            self.cut,
            &self.unrelayed,
        );
        claims.none("and is never sent again", self.cut, &self.again);
    }
}

/// Whether a row is the estimate of a prompt, and what was relayed of the answer.
fn is_relayed(row: &Row, seen: &Seen) -> bool {
    let tokens = Tokens {
        input: seen.estimate,
        cached: 0,
        output: seen.events,
    };
    row.tokens == tokens && row.cost == PRICE.cost(tokens) && row.estimated == row.cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn seen(number: u64, end: End, events: u64) -> Seen {
        Seen {
            number,
            estimate: 110,
            due: Instant::now(),
            ended: Instant::now(),
            added: Duration::ZERO,
            events,
            end,
        }
    }

    fn told(number: u64, times: u64, reported: bool) -> Told {
        Told {
            wish: wish(number),
            times,
            reset_reused: 0,
            events: 0,
            reported,
            closed: None,
        }
    }

    fn row(tokens: Tokens, estimated: bool) -> Row {
        let cost = PRICE.cost(tokens);
        Row {
            requests: 1,
            tokens,
            pictures: 0,
            cost,
            estimated: if estimated { cost } else { 0 },
        }
    }

    /// The failures of a comparison of one request.
    fn failures(seen: Seen, told: &[Told], row: Option<Row>) -> Vec<String> {
        let mut audit = Audit::default();
        audit.one(&seen, told, row.as_ref());
        let Audit {
            endless,
            inexact,
            twice,
            wrongly,
            unrelayed,
            again,
            ..
        } = audit;
        [endless, inexact, twice, wrongly, unrelayed, again].concat()
    }

    #[test]
    fn a_request_that_reached_two_providers_is_charged_once() {
        let exact = row(wish(1).tokens(), false);
        let both = [told(1, 1, false), told(1, 1, true)];
        assert!(failures(seen(1, End::Whole, 0), &both, Some(exact)).is_empty());
        let twice = Row {
            requests: 2,
            cost: exact.cost * 2,
            ..exact
        };
        assert_eq!(
            failures(seen(1, End::Whole, 0), &both, Some(twice)).len(),
            2
        );
        assert_eq!(failures(seen(1, End::Whole, 0), &both, None).len(), 1);
        let mut audit = Audit::default();
        audit.one(&seen(1, End::Whole, 0), &both, None);
        assert_eq!((audit.resent, audit.most, audit.off), (1, 2, exact.cost));
    }

    #[test]
    fn a_cut_stream_is_charged_as_relayed_and_sent_once() {
        let relayed = Tokens {
            input: 110,
            cached: 0,
            output: 5,
        };
        let good = Some(row(relayed, true));
        assert!(failures(seen(2, End::Cut, 5), &[told(2, 1, false)], good).is_empty());
        assert_eq!(
            failures(seen(2, End::Cut, 4), &[told(2, 1, false)], good).len(),
            1
        );
        assert_eq!(
            failures(seen(2, End::Cut, 5), &[told(2, 2, false)], good).len(),
            1
        );
        assert_eq!(
            failures(seen(2, End::Cut, 5), &[told(2, 1, false)], None).len(),
            1
        );
    }

    #[test]
    fn a_refusal_costs_nothing_but_for_a_provider_that_was_silent() {
        let refused = |code: &str| End::Refused(502, code.to_owned());
        let prompt = Tokens {
            input: 110,
            ..Tokens::default()
        };
        let charged = Some(row(prompt, true));
        assert!(failures(seen(3, refused("upstream_error"), 0), &[], None).is_empty());
        assert_eq!(
            failures(seen(3, refused("upstream_error"), 0), &[], charged).len(),
            1
        );
        assert!(failures(seen(3, refused("upstream_timeout"), 0), &[], charged).is_empty());
        let broken = End::Broken("closed".to_owned());
        assert_eq!(failures(seen(3, broken, 0), &[], None).len(), 1);
    }
}
