//! What a hostile provider did to the gateway, to its own clients, to others, and to the books.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::attack::Attack;
use super::provider::POISON;
use super::victim::{End, MAX_TOKENS, Met};
use crate::Result;
use crate::ledger::admin::Row;
use crate::ledger::claims::Claims;
use crate::ledger::money::{PRICE, Tokens};
use crate::ledger::provider::Told;
use crate::ledger::traffic::key;
use crate::load::microseconds;
use crate::process::processor;
use crate::upstreams::audit::Audit;
use crate::upstreams::site::Books;
use crate::upstreams::traffic::{ACCOUNT, Seen};

/// An attack is over within this time: 5 s are allowed in all.
const OVER: Duration = Duration::from_secs(7);

/// Memory that a hostile answer may take, in KiB.
const A_STREAM: u64 = 2 * 1024;

/// One attack.
pub struct Round {
    /// Which; none is good traffic alone.
    pub attack: Option<Attack>,
    /// When it began.
    pub from: Instant,
    /// When the last one had its answer.
    pub until: Instant,
    /// How many met it at once.
    pub streams: u64,
    /// What the gateway held in memory before, in KiB (PSS).
    pub idle: u64,
    /// The most that it held meanwhile.
    pub memory: u64,
    /// Those who met it.
    pub met: Vec<Met>,
    /// Those who asked the same provider for a good answer afterwards.
    pub after: Vec<Met>,
}

/// All of them.
pub struct Harm {
    /// In their order; the first is good traffic alone.
    pub rounds: Vec<Round>,
    /// Good requests.
    pub seen: Vec<Seen>,
    /// What the good provider told of them.
    pub told: BTreeMap<u64, Told>,
    /// The gateway's books.
    pub books: Books,
    /// Connections to where a redirect led.
    pub followed: u64,
    /// Requests without an attack.
    pub unread: u64,
}

impl Round {
    /// Good traffic alone, until now.
    pub fn alone(from: Instant, memory: u64) -> Self {
        Round {
            attack: None,
            from,
            until: Instant::now(),
            streams: 0,
            idle: memory,
            memory,
            met: Vec::new(),
            after: Vec::new(),
        }
    }

    /// KiB for each of those that were there at once.
    fn a_stream(&self) -> u64 {
        self.memory.saturating_sub(self.idle) / self.streams.max(1)
    }

    fn longest(&self) -> Duration {
        self.met
            .iter()
            .map(|met| met.took)
            .max()
            .unwrap_or_default()
    }

    fn ends(&self) -> String {
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for met in &self.met {
            *ends.entry(met.end.name()).or_default() += 1;
        }
        let told: Vec<String> = ends
            .iter()
            .map(|(end, count)| format!("{count} × {end}"))
            .collect();
        told.join(", ")
    }

    /// Requests that did not end as the attack allows.
    fn endless(&self, attack: Attack) -> Vec<String> {
        let fits = |met: &&Met| match &met.end {
            End::Whole => attack.may_be_whole(),
            End::Refused(status, code) => {
                matches!(*status, 502..=504)
                    && (code.starts_with("upstream_") || code == "server_is_overloaded")
            }
            End::Cut | End::BrokenOff => true,
            End::Wrong(_) => false,
        };
        let wrong = self.met.iter().filter(|met| !fits(met));
        wrong
            .map(|met| format!("request {}: {:?}", met.number, met.end))
            .collect()
    }
}

/// The most that a request can cost: its prompt as it is estimated, and the longest answer that it allows.
fn most(met: &Met) -> i64 {
    PRICE.cost(Tokens {
        input: met.estimate,
        cached: 0,
        output: MAX_TOKENS,
    })
}

impl Harm {
    fn row(&self, met: &Met) -> Row {
        let row = self.books.rows.get(&key(met.number, ACCOUNT).name);
        row.copied().unwrap_or_default()
    }

    /// Those who were charged less than nothing, twice, or more than they asked for.
    fn unfair(&self, round: &Round) -> Vec<String> {
        let fair = |met: &&Met| {
            let row = self.row(met);
            row.requests <= 1 && row.cost >= 0 && row.cost <= most(met)
        };
        let unfair = round.met.iter().filter(|met| !fair(met));
        let words = |met: &Met| {
            format!(
                "request {}: {:?}, {} at most, {} bytes, {:?}",
                met.number,
                self.row(met),
                most(met),
                met.bytes,
                met.end
            )
        };
        unfair.map(words).collect()
    }

    /// The audit of good requests.
    fn good(&self) -> Audit {
        let mut rows = self.books.rows.clone();
        for met in self
            .rounds
            .iter()
            .flat_map(|round| round.met.iter().chain(&round.after))
        {
            rows.remove(&key(met.number, ACCOUNT).name);
        }
        Audit::new(&self.seen, std::slice::from_ref(&self.told), &rows)
    }

    /// What must hold.
    pub fn claim(&self, claims: &mut Claims) {
        for round in &self.rounds {
            let Some(attack) = round.attack else { continue };
            claims.part(attack.name());
            let count = round.met.len() as u64;
            claims.none(
                "each hostile answer ends in one terminal outcome",
                count,
                &round.endless(attack),
            );
            let longest = round.longest();
            claims.check(
                longest <= OVER,
                "it ends within its limit of 5 s",
                &format!("{} ms at most", longest.as_millis()),
            );
            claims.check(
                round.a_stream() <= A_STREAM,
                "it takes no more than 2 MiB of memory",
                &format!("{} KiB each", round.a_stream()),
            );
            claims.none(
                "nobody is charged less than nothing, or more than was asked for",
                count,
                &self.unfair(round),
            );
            let after = round.after.iter().filter(|met| met.end != End::Whole);
            let after: Vec<String> = after.map(|met| format!("{:?}", met.end)).collect();
            claims.none(
                "who asks the same provider afterwards gets the answer that is meant for them",
                round.after.len() as u64,
                &after,
            );
            let all = round.met.iter().chain(&round.after);
            let poisoned: Vec<String> = all
                .clone()
                .filter(|met| met.tail.contains(POISON))
                .map(|met| format!("request {}", met.number))
                .collect();
            claims.none(
                "and nothing that was behind another answer",
                2 * count,
                &poisoned,
            );
        }
        claims.part("all of it");
        claims.check(
            self.followed == 0 && self.unread == 0,
            "no redirect is followed, and the provider is asked for nothing that nobody sent",
            &format!("{} followed, {} unread", self.followed, self.unread),
        );
        claims.part("good traffic");
        let good = self.good();
        good.claim(claims);
        claims.check(
            good.sent > 0 && good.whole == good.sent,
            "good traffic is unharmed",
            &format!("{} of {} answered", good.whole, good.sent),
        );
        self.books.claim(claims);
    }

    /// The table.
    pub fn table(&self) -> String {
        let good = self.good();
        let peak = self
            .rounds
            .iter()
            .map(|round| round.memory)
            .max()
            .unwrap_or(0);
        let mib = |kib: u64| kib as f64 / 1024.0;
        let mut text = format!(
            "{}. One gateway; {} good requests beside the attacks, {} of them answered, {} without one end, ledger − provider {}; \
             peak PSS {:.1} MiB. Latencies are those of good requests, beyond their provider's own time.\n\n\
             | attack | answers (at once) | ended | not in one terminal outcome | longest, s | received a stream, KiB | charged a stream, micro-units: \
             most / allowed | memory before → peak, MiB | a stream, KiB | good requests p50 / p99, ms |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            processor(),
            good.sent,
            good.whole,
            good.endless(),
            good.off,
            mib(peak),
        );
        for round in &self.rounds {
            let charged = round
                .met
                .iter()
                .map(|met| self.row(met).cost)
                .max()
                .unwrap_or(0);
            let allowed = round.met.iter().map(most).max().unwrap_or(0);
            let bytes = round.met.iter().map(|met| met.bytes).max().unwrap_or(0);
            let endless = round.attack.map_or(0, |attack| round.endless(attack).len());
            let (median, tail) = self.added(round).unwrap_or_default();
            let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
            let _ = writeln!(
                text,
                "| {} | {} ({}) | {} | {endless} | {:.1} | {} | {charged} / {allowed} | {:.1} → {:.1} | {} | {:.1} / {:.1} |",
                round.attack.map_or("none", Attack::name),
                round.met.len(),
                round.streams,
                round.ends(),
                round.longest().as_secs_f64(),
                bytes / 1024,
                mib(round.idle),
                mib(round.memory),
                round.a_stream(),
                ms(median),
                ms(tail),
            );
        }
        text
    }

    /// What good requests that were due meanwhile took beyond their provider's own time: median and 99th percentile.
    fn added(&self, round: &Round) -> Result<(Duration, Duration)> {
        let mut added = microseconds()?;
        let meanwhile = self
            .seen
            .iter()
            .filter(|seen| seen.due >= round.from && seen.due < round.until);
        for seen in meanwhile {
            added.saturating_record(seen.added.as_micros() as u64);
        }
        let quantile = |part| Duration::from_micros(added.value_at_quantile(part));
        Ok((quantile(0.5), quantile(0.99)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(number: u64, end: End) -> Met {
        Met {
            number,
            estimate: 40,
            took: Duration::from_secs(1),
            bytes: 10,
            end,
            tail: String::new(),
        }
    }

    fn round(attack: Attack, met: Vec<Met>) -> Round {
        Round {
            attack: Some(attack),
            streams: 4,
            idle: 1_000,
            memory: 9_000,
            met,
            ..Round::alone(Instant::now(), 0)
        }
    }

    #[test]
    fn a_whole_answer_is_right_only_where_nothing_is_beyond_a_limit() {
        let whole = || vec![met(1, End::Whole)];
        assert!(
            round(Attack::Usage, whole())
                .endless(Attack::Usage)
                .is_empty()
        );
        assert_eq!(
            round(Attack::Endless, whole())
                .endless(Attack::Endless)
                .len(),
            1
        );
        let ends = [
            End::Cut,
            End::BrokenOff,
            End::Refused(502, "upstream_error".to_owned()),
            End::Refused(504, "upstream_timeout".to_owned()),
            End::Refused(400, "invalid_json".to_owned()),
            End::Wrong("silence".to_owned()),
        ];
        let round = round(Attack::Garbage, ends.map(|end| met(1, end)).into());
        assert_eq!(round.endless(Attack::Garbage).len(), 2);
        assert_eq!(round.a_stream(), 8_000 / 4);
        assert!(round.ends().contains("1 × 504 upstream_timeout"));
    }

    #[test]
    fn the_most_is_what_the_request_allows() {
        let most = most(&met(1, End::Whole));
        assert_eq!(most, 40 * 4 + 500 * 16);
    }
}
