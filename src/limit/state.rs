//! Where one subject stands, and what a request does to it: the algorithm without its storage.
//!
//! `limit.lua` is the same for Redis; the tests of `tests/limits.rs` run on both.

use super::bucket::{Bucket, FLOOR, UNIT};
use super::{Denial, Level, Limits, Reading, Reason};
use crate::clock::Now;
use std::time::Duration;

/// A clock that is behind the last use by no more than this gives nothing until it has caught up.
/// Further behind, it was set: waiting for it could lock a client out for days.
const BEHIND: u64 = 60_000;

/// No reset is told that lies further ahead: a year, and calendars end somewhere.
const FURTHEST: u64 = 365 * 86_400_000;

/// The level of one bucket, and when it was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pool {
    level: i64,
    at: u64,
}

/// Full, whatever the bucket holds.
const FULL: i64 = i64::MAX;

impl Pool {
    /// The same at this moment.
    fn advanced(self, bucket: Bucket, now: u64) -> Pool {
        let elapsed = now.saturating_sub(self.at);
        let behind = self.at.saturating_sub(now);
        let set = behind > BEHIND;
        Pool {
            level: bucket.refilled(self.level, elapsed),
            at: if set { now } else { self.at.max(now) },
        }
    }
}

/// The levels of one subject. A bucket that its plan does not limit is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    requests: Pool,
    tokens: Pool,
    /// Tokens of `day`.
    spent: u64,
    day: i32,
    /// Requests in flight.
    live: u32,
}

/// What a request was charged, to be corrected when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Units that were taken from the token bucket.
    pub(super) units: i64,
    /// Tokens that were counted for the day.
    pub(super) tokens: u64,
    /// Which day.
    pub(super) day: i32,
}

/// What Redis tells of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Units in the request bucket.
    pub requests: i64,
    /// Units in the token bucket.
    pub tokens: i64,
    /// Tokens of the day.
    pub spent: u64,
}

impl State {
    /// A subject that was never seen: everything is full.
    pub fn fresh(limits: &Limits, now: Now) -> State {
        let full = Pool {
            level: FULL,
            at: now.ms,
        };
        State {
            requests: full,
            tokens: full,
            spent: 0,
            day: now.day(limits.day_offset),
            live: 0,
        }
    }

    /// The same at this moment, and whether the clock was set back since.
    fn advanced(&self, limits: &Limits, now: Now) -> (State, bool) {
        let mut next = *self;
        if let Some(bucket) = limits.requests {
            next.requests = self.requests.advanced(bucket, now.ms);
        }
        if let Some(bucket) = limits.tokens {
            next.tokens = self.tokens.advanced(bucket, now.ms);
        }
        let day = now.day(limits.day_offset);
        // A day back is a clock that was corrected; the day's count goes on.
        if day > self.day || self.day.saturating_sub(day) > 1 {
            next.day = day;
            next.spent = 0;
        }
        let set = next.requests.at < self.requests.at || next.tokens.at < self.tokens.at;
        (next, set)
    }

    /// Admits one request, or nothing of it. A node that has only one of `share` parts of the limits
    /// counts everything so many times.
    ///
    /// # Errors
    /// The limit with the longest wait, and with no wait known only where no other fired.
    pub fn admit(
        &mut self,
        limits: &Limits,
        estimate: u64,
        share: u32,
        now: Now,
    ) -> Result<Charge, Denial> {
        let (mut next, set) = self.advanced(limits, now);
        let share = i64::from(share.max(1));
        let estimate = limits.charged(estimate);
        // A part too small for one request still lets one through when it is full.
        let cost = |bucket: Option<Bucket>, units: i64| {
            bucket.map_or(0, |bucket| {
                units.saturating_mul(share).min(bucket.capacity())
            })
        };
        let request = cost(limits.requests, UNIT);
        let units = cost(limits.tokens, units(estimate));
        let tokens = match limits.tokens_per_day {
            Some(most) => estimate.saturating_mul(share.unsigned_abs()).min(most),
            None => 0,
        };

        let mut longest: Option<(Reason, Option<Duration>)> = None;
        let mut fired = |reason, wait: Option<Duration>| {
            if longest.is_none_or(|(_, known)| wait > known) {
                longest = Some((reason, wait));
            }
        };
        if let Some(most) = limits.concurrency
            && i64::from(next.live) >= (i64::from(most) / share).max(1)
        {
            fired(Reason::Concurrency, None);
        }
        for (reason, bucket, pool, cost) in [
            (Reason::Requests, limits.requests, next.requests, request),
            (Reason::Tokens, limits.tokens, next.tokens, units),
        ] {
            if let Some(bucket) = bucket.filter(|_| pool.level < cost) {
                let wait = bucket.until(pool.level, cost);
                fired(reason, Some(Duration::from_millis(wait)));
            }
        }
        if let Some(most) = limits.tokens_per_day
            && next.spent.saturating_add(tokens) > most
        {
            fired(Reason::TokensPerDay, Some(now.day_left(limits.day_offset)));
        }
        if let Some((reason, wait)) = longest {
            // A refusal changes nothing, unless the clock was set: then it counts from here.
            if set {
                *self = next;
            }
            return Err(Denial {
                reason,
                wait,
                reading: reading(limits, next.levels(), share.unsigned_abs()),
            });
        }
        next.requests.level -= request;
        next.tokens.level -= units;
        next.spent = next.spent.saturating_add(tokens);
        // What is never told of again must not be waited for.
        next.live = next.live.saturating_add(u32::from(limits.settles()));
        *self = next;
        Ok(Charge {
            units,
            tokens,
            day: self.day,
        })
    }

    /// Ends a request: its place is free, and its charge is what it used. With `None` the charge
    /// stays what was estimated.
    pub fn settle(
        &mut self,
        limits: &Limits,
        charge: Charge,
        used: Option<u64>,
        share: u32,
        now: Now,
    ) {
        (*self, _) = self.advanced(limits, now);
        self.live = self.live.saturating_sub(1);
        let Some(used) = used else { return };
        let share = share.max(1);
        if let Some(bucket) = limits.tokens {
            let used = units(used).saturating_mul(i64::from(share));
            self.tokens.level = self
                .tokens
                .level
                .saturating_sub(used.saturating_sub(charge.units))
                .clamp(FLOOR, bucket.capacity());
        }
        if limits.tokens_per_day.is_some() && charge.day == self.day {
            let used = used.saturating_mul(u64::from(share));
            self.spent = self
                .spent
                .saturating_sub(charge.tokens)
                .saturating_add(used);
        }
    }

    /// Takes over what Redis said just now, so that this node knows where to go on without it.
    pub fn follow(&mut self, limits: &Limits, levels: Levels, now: Now) {
        (*self, _) = self.advanced(limits, now);
        self.requests.level = levels.requests;
        self.tokens.level = levels.tokens;
        self.spent = levels.spent;
    }

    /// Counts a request that Redis admitted as in flight, or as over.
    pub fn count(&mut self, begun: bool) {
        self.live = match begun {
            true => self.live.saturating_add(1),
            false => self.live.saturating_sub(1),
        };
    }

    /// Where the subject stands, for a node with one of `share` parts of the limits.
    pub fn reading(&self, limits: &Limits, share: u32, now: Now) -> Reading {
        let (next, _) = self.advanced(limits, now);
        reading(limits, next.levels(), u64::from(share))
    }

    fn levels(&self) -> Levels {
        Levels {
            requests: self.requests.level,
            tokens: self.tokens.level,
            spent: self.spent,
        }
    }

    /// From when on the subject is as good as one that was never seen, if nothing more happens:
    /// on the monotonic clock. `None` while a request is in flight.
    pub fn fresh_at(&self, limits: &Limits, now: Now) -> Option<u64> {
        if self.live > 0 {
            return None;
        }
        let full = |bucket: Option<Bucket>, pool: Pool| {
            bucket.map_or(now.ms, |bucket| {
                let left = bucket.until(pool.level, bucket.capacity());
                pool.at.saturating_add(left)
            })
        };
        let requests = full(limits.requests, self.requests);
        let tokens = full(limits.tokens, self.tokens);
        let day = match limits.tokens_per_day.is_some() && self.spent > 0 {
            true => {
                let left = now.day_left(limits.day_offset).as_millis();
                now.ms
                    .saturating_add(u64::try_from(left).unwrap_or(u64::MAX))
            }
            false => now.ms,
        };
        Some(requests.max(tokens).max(day))
    }
}

/// Levels → what headers tell; of one of `share` parts, what this node would still admit.
pub fn reading(limits: &Limits, levels: Levels, share: u64) -> Reading {
    let level = |bucket: Bucket, level: i64| Level {
        limit: bucket.per_minute(),
        remaining: level.clamp(0, bucket.capacity()).unsigned_abs()
            / UNIT.unsigned_abs()
            / share.max(1),
        reset: Duration::from_millis(bucket.until(level, bucket.capacity()).min(FURTHEST)),
    };
    Reading {
        requests: limits.requests.map(|bucket| level(bucket, levels.requests)),
        tokens: limits.tokens.map(|bucket| level(bucket, levels.tokens)),
    }
}

/// Tokens → units.
pub(super) fn units(tokens: u64) -> i64 {
    i64::try_from(tokens)
        .unwrap_or(i64::MAX)
        .saturating_mul(UNIT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
