//! What was used, and sums of it.

use super::Charge;
use super::money::Money;
use crate::meter::usage::{Source, Usage};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What can be charged for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Tokens.
    pub tokens: Usage,
    /// Pictures.
    pub images: u64,
    /// Characters that were spoken.
    pub characters: u64,
    /// Seconds of sound or film, begun ones counted whole.
    pub seconds: u64,
}

/// How many counts there are.
pub(super) const COUNTS: usize = 8;

impl Used {
    /// Its counts, in the order that `billing.lua` has.
    pub(super) fn counts(self) -> [u64; COUNTS] {
        let Used {
            tokens:
                Usage {
                    input,
                    cached_input,
                    cache_write,
                    output,
                    reasoning,
                },
            images,
            characters,
            seconds,
        } = self;
        [
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            images,
            characters,
            seconds,
        ]
    }

    /// Of its [counts](Self::counts).
    pub(super) fn of(counts: [u64; COUNTS]) -> Used {
        let [
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            images,
            characters,
            seconds,
        ] = counts;
        Used {
            tokens: Usage {
                input,
                cached_input,
                cache_write,
                output,
                reasoning,
            },
            images,
            characters,
            seconds,
        }
    }
}

/// What was used in a day, by key and model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Days since 1970-01-01, as `billing.day_starts` has them.
    pub day: i32,
    /// The key's id.
    pub key: Arc<str>,
    /// The account's project.
    pub project: Arc<str>,
    /// The model.
    pub model: Arc<str>,
    /// The sums.
    pub sums: Sums,
}

/// Sums of charges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Requests that used something.
    pub requests: u64,
    /// What they used.
    pub used: Used,
    /// What was taken from the balance.
    pub cost: Money,
    /// The part of `cost` whose usage was estimated.
    pub estimated_cost: Money,
    /// What was taken from packages.
    pub package_tokens: u64,
}

impl Sums {
    /// Of one charge; `None` if nothing was used.
    pub fn of(charge: &Charge) -> Option<Sums> {
        let source = charge.source?;
        let cost = charge.money();
        Some(Sums {
            requests: 1,
            used: charge.due.used,
            cost,
            estimated_cost: match source {
                Source::Reported => Money::ZERO,
                Source::Partial | Source::Estimated => cost,
            },
            package_tokens: charge.tokens(),
        })
    }

    /// Adds other sums. Every field is named, so that a new one is not forgotten here.
    pub fn add(&mut self, more: &Sums) {
        let Sums {
            requests,
            used,
            cost,
            estimated_cost,
            package_tokens,
        } = self;
        *requests = requests.saturating_add(more.requests);
        let mut counts = used.counts();
        for (sum, more) in counts.iter_mut().zip(more.used.counts()) {
            *sum = sum.saturating_add(more);
        }
        *used = Used::of(counts);
        *cost = cost.saturating_add(more.cost);
        *estimated_cost = estimated_cost.saturating_add(more.estimated_cost);
        *package_tokens = package_tokens.saturating_add(more.package_tokens);
    }
}
