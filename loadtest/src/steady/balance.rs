//! What the ledger says of a key, beside what the provider told of all requests that were sent with it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ledger::admin::Row;
use crate::ledger::claims::Claims;
use crate::ledger::money::PRICE;
use crate::ledger::provider::Told;

/// The comparison of one key, or of several together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    /// Requests that the provider saw.
    pub told: u64,
    /// Requests that the ledger has.
    pub charged: u64,
    /// |ledger − provider's own count|, in micro-units.
    pub off: i64,
    /// Requests that the provider saw more than once.
    pub twice: Vec<String>,
}

impl Balance {
    /// Compares a key's row with what was told of the requests with these numbers.
    pub fn of(told: &BTreeMap<u64, Told>, numbers: Range<u64>, row: Option<&Row>) -> Self {
        let mut balance = Balance {
            charged: row.map_or(0, |row| row.requests),
            ..Balance::default()
        };
        let mut expected = 0;
        for (number, told) in told.range(numbers) {
            balance.told += 1;
            expected += PRICE.cost(told.tokens());
            if told.times > 1 {
                let words = format!("request {number} came {} times", told.times);
                balance.twice.push(words);
            }
        }
        balance.off = (row.map_or(0, |row| row.cost) - expected).abs();
        balance
    }

    /// With another one.
    pub fn and(mut self, other: Balance) -> Self {
        self.told += other.told;
        self.charged += other.charged;
        self.off += other.off;
        self.twice.extend(other.twice);
        self
    }

    /// What must hold.
    pub fn claim(&self, claims: &mut Claims) {
        claims.check(
            self.off == 0 && self.told == self.charged && self.told > 0,
            "the ledger is what the provider counted",
            &format!(
                "{} requests there, {} here, off by {} micro-units",
                self.told, self.charged, self.off
            ),
        );
        claims.none("nothing reaches the provider twice", self.told, &self.twice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::wish::{Kind, Wish};

    #[test]
    fn a_key_is_compared_with_its_own_requests() {
        let told = |number, times| {
            let kind = Kind::Whole;
            let wait_ms = 0;
            let wish = Wish {
                number,
                kind,
                wait_ms,
            };
            let told = Told {
                wish,
                times,
                reset_reused: 0,
                events: 0,
                reported: true,
                closed: None,
            };
            (number, told)
        };
        let book = BTreeMap::from([told(1, 1), told(2, 2), told(10, 1)]);
        let cost: i64 = [1, 2]
            .iter()
            .map(|number| PRICE.cost(told(*number, 1).1.tokens()))
            .sum();
        let row = Row {
            requests: 2,
            cost: cost + 3,
            ..Row::default()
        };
        let balance = Balance::of(&book, 0..10, Some(&row));
        assert_eq!((balance.told, balance.charged, balance.off), (2, 2, 3));
        assert_eq!(balance.twice.len(), 1);
        let missing = Balance::of(&book, 10..20, None);
        assert_eq!((missing.told, missing.charged), (1, 0));
        let both = balance.and(missing.clone());
        assert_eq!((both.told, both.off), (3, 3 + missing.off));
    }
}
