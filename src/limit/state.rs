//! Where one subject stands, and what a request does to it: the algorithm without its storage.
//!
//! `limit.lua` is the same, line by line, for Redis; the tests of `tests/limits.rs` run on both.

use super::bucket::{Bucket, FLOOR, UNIT};
use super::clock::Now;
use super::{Denial, Level, Limits, Reading, Reason};
use std::time::Duration;

/// A clock that is behind the last use by no more than this gives nothing until it has caught up.
/// Further behind, it was set: waiting for it could lock a client out for days.
const BEHIND: u64 = 60_000;

/// The levels of one subject. What its plan does not limit stays full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// When the levels were right.
    at: u64,
    /// Units in the request bucket.
    requests: i64,
    /// Units in the token bucket.
    tokens: i64,
    /// The day that `spent` counts.
    day: i32,
    /// Tokens of that day.
    spent: u64,
    /// Requests in flight.
    live: u32,
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
        State {
            at: now.ms,
            requests: i64::MAX,
            tokens: i64::MAX,
            day: now.day(limits.day_offset),
            spent: 0,
            live: 0,
        }
    }

    /// Brings the levels up to now.
    fn advance(&mut self, limits: &Limits, now: Now) {
        let elapsed = now.ms.saturating_sub(self.at);
        if now.ms > self.at || self.at - now.ms > BEHIND {
            self.at = now.ms;
        }
        let refilled = |bucket: Option<Bucket>, level: i64| {
            bucket.map_or(i64::MAX, |bucket| bucket.refilled(level, elapsed))
        };
        self.requests = refilled(limits.requests, self.requests);
        self.tokens = refilled(limits.tokens, self.tokens);
        let day = now.day(limits.day_offset);
        // A day back is a clock that was corrected; the day's count goes on.
        if day > self.day || self.day.saturating_sub(day) > 1 {
            self.day = day;
            self.spent = 0;
        }
    }

    /// Admits one request, or nothing of it. A node that has only one of `share` parts of the limits
    /// counts everything so many times. Gives the day that the tokens were charged to.
    ///
    /// # Errors
    /// The limit with the longest wait, and with no wait known only where no other fired.
    pub fn admit(
        &mut self,
        limits: &Limits,
        estimate: u64,
        share: u32,
        now: Now,
    ) -> Result<i32, Denial> {
        let before = *self;
        self.advance(limits, now);
        let share = i64::from(share.max(1));
        let estimate = limits.charged(estimate);
        // A part too small for one request still lets one through when it is full.
        let cost = |bucket: Option<Bucket>, units: i64| {
            let capacity = bucket.map_or(i64::MAX, |bucket| bucket.capacity());
            units.saturating_mul(share).min(capacity)
        };
        let request = cost(limits.requests, UNIT);
        let tokens = cost(limits.tokens, units(estimate));

        let mut longest: Option<(Reason, Option<Duration>)> = None;
        let mut fired = |reason, wait: Option<Duration>| {
            if longest.is_none_or(|(_, known)| wait > known) {
                longest = Some((reason, wait));
            }
        };
        if let Some(most) = limits.concurrency
            && i64::from(self.live) >= (i64::from(most) / share).max(1)
        {
            fired(Reason::Concurrency, None);
        }
        for (reason, bucket, level, cost) in [
            (Reason::Requests, limits.requests, self.requests, request),
            (Reason::Tokens, limits.tokens, self.tokens, tokens),
        ] {
            if let Some(bucket) = bucket.filter(|_| level < cost) {
                fired(
                    reason,
                    Some(Duration::from_millis(bucket.until(level, cost))),
                );
            }
        }
        let charged = estimate.saturating_mul(share.unsigned_abs());
        if let Some(most) = limits.tokens_per_day
            && self.spent.saturating_add(charged.min(most)) > most
        {
            fired(Reason::TokensPerDay, Some(now.day_left(limits.day_offset)));
        }
        if let Some((reason, wait)) = longest {
            let denial = Denial {
                reason,
                wait,
                reading: self.shown(limits),
            };
            // A refusal changes nothing, unless the clock was set: then it counts from here.
            if self.at >= before.at {
                *self = before;
            }
            return Err(denial);
        }
        self.requests -= if limits.requests.is_some() {
            request
        } else {
            0
        };
        self.tokens -= if limits.tokens.is_some() { tokens } else { 0 };
        self.spent = self.spent.saturating_add(charged);
        self.live = self.live.saturating_add(1);
        Ok(self.day)
    }

    /// Ends a request: its place is free, and its tokens are what was used. With `None` they stay
    /// what was estimated.
    pub fn settle(
        &mut self,
        limits: &Limits,
        estimate: u64,
        used: Option<u64>,
        share: u32,
        day: i32,
        now: Now,
    ) {
        self.advance(limits, now);
        self.live = self.live.saturating_sub(1);
        let Some(used) = used else { return };
        let share = i64::from(share.max(1));
        let more = units(used).saturating_sub(units(limits.charged(estimate)));
        if let Some(bucket) = limits.tokens {
            self.tokens = self
                .tokens
                .saturating_sub(more.saturating_mul(share))
                .clamp(FLOOR, bucket.capacity());
        }
        if day == self.day {
            let more = (more / UNIT).saturating_mul(share);
            self.spent = self.spent.saturating_add_signed(more);
        }
    }

    /// Takes over what Redis said just now, so that this node knows where to go on without it.
    pub fn follow(&mut self, limits: &Limits, levels: Levels, now: Now) {
        self.advance(limits, now);
        self.requests = levels.requests;
        self.tokens = levels.tokens;
        self.spent = levels.spent;
    }

    /// Counts a request that Redis admitted as in flight, or as over.
    pub fn count(&mut self, begun: bool) {
        self.live = match begun {
            true => self.live.saturating_add(1),
            false => self.live.saturating_sub(1),
        };
    }

    /// Where the subject stands.
    pub fn reading(&mut self, limits: &Limits, now: Now) -> Reading {
        self.advance(limits, now);
        self.shown(limits)
    }

    fn shown(&self, limits: &Limits) -> Reading {
        reading(
            limits,
            Levels {
                requests: self.requests,
                tokens: self.tokens,
                spent: self.spent,
            },
        )
    }

    /// From when on the subject is as good as one that was never seen, if nothing more happens:
    /// on the monotonic clock. `None` while a request is in flight.
    pub fn fresh_at(&self, limits: &Limits, now: Now) -> Option<u64> {
        if self.live > 0 {
            return None;
        }
        let full = |bucket: Option<Bucket>, level| {
            bucket.map_or(0, |bucket| bucket.until(level, bucket.capacity()))
        };
        let mut left = full(limits.requests, self.requests).max(full(limits.tokens, self.tokens));
        if limits.tokens_per_day.is_some() && self.spent > 0 {
            let day = now.day_left(limits.day_offset).as_millis();
            left = left.max(u64::try_from(day).unwrap_or(u64::MAX));
        }
        Some(self.at.max(now.ms).saturating_add(left))
    }
}

/// Levels → what headers tell.
pub fn reading(limits: &Limits, levels: Levels) -> Reading {
    let level = |bucket: Bucket, level: i64| Level {
        limit: bucket.per_minute(),
        remaining: (level.max(0) / UNIT).unsigned_abs(),
        reset: Duration::from_millis(bucket.until(level, bucket.capacity())),
    };
    Reading {
        requests: limits.requests.map(|bucket| level(bucket, levels.requests)),
        tokens: limits.tokens.map(|bucket| level(bucket, levels.tokens)),
    }
}

fn units(tokens: u64) -> i64 {
    i64::try_from(tokens)
        .unwrap_or(i64::MAX)
        .saturating_mul(UNIT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
