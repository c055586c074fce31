//! What came of good traffic, phase by phase.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::Result;
use crate::load::microseconds;

/// So many failures are kept in words.
const KEPT: usize = 5;

/// One phase.
pub struct Tally {
    /// Requests that were due, and sent.
    pub sent: u64,
    /// With a whole answer.
    pub whole: u64,
    /// What went wrong of the first ones that failed.
    pub words: Vec<String>,
    failed: u64,
    /// Of the whole ones, microseconds from when they were due to the first byte.
    pub first_byte: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Tally {
            sent: 0,
            whole: 0,
            words: Vec::new(),
            failed: 0,
            first_byte: microseconds()?,
        })
    }

    /// Requests without a whole answer.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// An entry for each of them, the first ones in words.
    pub fn failures(&self) -> Vec<String> {
        let mut words = self.words.clone();
        words.resize(self.failed as usize, "one more".to_owned());
        words
    }

    /// Requests that were sent and neither answered nor failed.
    pub fn endless(&self) -> u64 {
        self.sent.saturating_sub(self.whole + self.failed)
    }

    /// The share of those that were sent.
    pub fn error_share(&self) -> f64 {
        self.failed as f64 / self.sent.max(1) as f64
    }

    /// A quantile of the time to the first byte, in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.first_byte.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Several as one.
    pub fn merged<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Result<Tally> {
        let mut sum = Tally::new()?;
        for tally in tallies {
            sum.sent += tally.sent;
            sum.whole += tally.whole;
            sum.failed += tally.failed;
            sum.words.extend(tally.words.iter().cloned());
            sum.first_byte.add(&tally.first_byte)?;
        }
        Ok(sum)
    }
}

/// All phases.
#[derive(Default)]
pub struct Tallies {
    phases: Vec<Tally>,
    /// Of answers that were whole: when the request was due, and when its first byte came; the last ones.
    served: std::collections::VecDeque<(Instant, Instant)>,
}

/// So many answers are remembered with their moments.
const REMEMBERED: usize = 50_000;

impl Tallies {
    /// A request is sent.
    pub fn begin(&mut self, phase: usize) {
        if let Some(tally) = self.phase(phase) {
            tally.sent += 1;
        }
    }

    /// It has come to its end.
    pub fn end(&mut self, phase: usize, due: Instant, number: u64, answered: Result<Instant>) {
        if let Ok(first_byte) = answered {
            if self.served.len() == REMEMBERED {
                self.served.pop_front();
            }
            self.served.push_back((due, first_byte));
        }
        let Some(tally) = self.phase(phase) else {
            return;
        };
        match answered {
            Ok(first_byte) => {
                tally.whole += 1;
                let took = first_byte.saturating_duration_since(due);
                tally.first_byte.saturating_record(micros(took));
            }
            Err(error) => {
                tally.failed += 1;
                if tally.words.len() < KEPT {
                    tally.words.push(format!("request {number}: {error}"));
                }
            }
        }
    }

    /// When the first of those was answered that were due after some moment.
    pub fn served_since(&self, moment: Instant) -> Option<Instant> {
        let since = self.served.iter().filter(|(due, _)| *due >= moment);
        since.map(|(_, first_byte)| *first_byte).min()
    }

    /// Gives them away.
    pub fn take(&mut self) -> Vec<Tally> {
        std::mem::take(&mut self.phases)
    }

    fn phase(&mut self, number: usize) -> Option<&mut Tally> {
        while self.phases.len() <= number {
            self.phases.push(Tally::new().ok()?);
        }
        self.phases.get_mut(number)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_counts_to_its_phase_once() -> Result<()> {
        let mut tallies = Tallies::default();
        let due = Instant::now();
        let late = due + Duration::from_millis(30);
        for phase in [0, 2, 2] {
            tallies.begin(phase);
        }
        tallies.end(0, due, 1, Ok(late));
        tallies.end(2, due, 2, Err("closed".into()));
        tallies.end(2, late, 3, Ok(late));
        assert_eq!(tallies.served_since(due), Some(late));
        assert_eq!(tallies.served_since(late + Duration::from_millis(1)), None);
        let phases = tallies.take();
        let counts: Vec<_> = phases
            .iter()
            .map(|one| (one.sent, one.whole, one.failed()))
            .collect();
        assert_eq!(counts, [(1, 1, 0), (0, 0, 0), (2, 1, 1)]);
        assert!((29.9..30.1).contains(&phases[0].ms(0.5)));
        let sum = Tally::merged(&phases)?;
        assert_eq!((sum.sent, sum.whole, sum.failed()), (3, 2, 1));
        assert_eq!(sum.words, ["request 2: closed"]);
        Ok(())
    }
}
