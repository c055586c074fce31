//! What is known of one trial when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::arrivals::{busiest, count};
use super::attempts::Attempts;
use super::audit::Audit;
use super::site::Books;
use super::traffic::{End, Seen};
use crate::Result;
use crate::load::microseconds;

/// What was written down.
pub struct Record {
    /// When what began.
    pub moments: Moments,
    /// What the gateway counted by then.
    pub pages: Pages,
    /// All requests.
    pub seen: Vec<Seen>,
    /// When something arrived at each provider; the first one failed.
    pub arrivals: Vec<Vec<Instant>>,
    /// From when the first provider was well until it had its share.
    pub back: Option<Duration>,
}

/// What the books say, and what the gateway held.
pub struct Outcome {
    /// Requests, by what became of them.
    pub audit: Audit,
    /// The gateway's books.
    pub books: Books,
    /// The most memory that the gateway held, in KiB (PSS).
    pub memory: u64,
}

/// The moments of a run.
pub struct Moments {
    /// At the beginning of the fault.
    pub fails: Instant,
    /// When it must have been found out.
    pub found_out: Instant,
    /// At its end.
    pub well: Instant,
    /// When nothing was sent any more.
    pub end: Instant,
}

/// What the gateway counted by then.
pub struct Pages {
    /// At the beginning of the fault.
    pub fails: Attempts,
    /// When it must have been found out.
    pub found_out: Attempts,
    /// At its end.
    pub well: Attempts,
    /// When nothing was sent any more.
    pub end: Attempts,
}

/// What came of it.
pub struct Course {
    /// Requests that had ended before the fault, those that may have met it, and those that were due after it.
    pub sent: [u64; 3],
    /// Those that were not answered as wished, in the same times.
    pub errors: [u64; 3],
    /// The first of them, in words.
    pub first_error: Option<String>,
    /// Of refusals: how often each.
    pub refusals: BTreeMap<(u16, String), u64>,
    /// From when a request that was refused was due to its answer: the 99th percentile.
    pub refusal_p99: Duration,
    /// Attempts while the fault lasted, as providers counted them, with those at a port where nobody listens; and
    /// requests that were due meanwhile.
    pub attempts: (u64, u64),
    /// Attempts of the whole run, as the providers counted them and as the gateway does.
    pub counted: (u64, u64),
    /// Attempts at the first provider while it failed, from when that was found out: all, and the most in a second.
    pub probes: (u64, u64),
    /// How long that was, in seconds.
    pub probed: u64,
    /// From when the first provider was well until it had its share.
    pub back: Option<Duration>,
    /// From when all were well to when the last request was due that was not answered as wished.
    pub last_error: Option<Duration>,
    /// What a request took beyond its provider's own time, before and during: median and 99th percentile.
    pub added: [(Duration, Duration); 2],
}

impl Course {
    /// Counts.
    pub fn new(record: &Record) -> Result<Self> {
        let Record {
            moments,
            pages,
            seen,
            arrivals,
            back,
        } = record;
        let Moments {
            fails,
            found_out,
            well,
            end: _,
        } = *moments;
        let first = arrivals.first().map_or(&[][..], Vec::as_slice);
        let (mut sent, mut errors) = ([0; 3], [0; 3]);
        let mut added = [microseconds()?, microseconds()?, microseconds()?];
        let mut refused = microseconds()?;
        let mut refusals = BTreeMap::new();
        let (mut first_error, mut last_error) = (None, None);
        for one in seen {
            // In flight when the fault began: it met it.
            let nth = usize::from(one.ended >= fails) + usize::from(one.due >= well);
            sent[nth] += 1;
            added[nth].saturating_record(one.added.as_micros() as u64);
            if one.end == End::Whole {
                continue;
            }
            errors[nth] += 1;
            first_error.get_or_insert_with(|| format!("request {}: {:?}", one.number, one.end));
            last_error = last_error.max(one.due.checked_duration_since(well));
            if let End::Refused(status, code) = &one.end {
                *refusals.entry((*status, code.clone())).or_default() += 1;
                let took = one.ended.saturating_duration_since(one.due);
                refused.saturating_record(took.as_micros() as u64);
            }
        }
        let arrived = arrivals.iter().map(|some| count(some, fails, well));
        let refused_connections = pages
            .well
            .unreachable(None)
            .saturating_sub(pages.fails.unreachable(None));
        let unreachable = |page: &Attempts| page.unreachable(Some("p1"));
        let probes = count(first, found_out, well)
            + unreachable(&pages.well).saturating_sub(unreachable(&pages.found_out));
        let due = seen.iter().filter(|one| one.due >= fails && one.due < well);
        let due = due.count() as u64;
        let arrived_ever = arrivals.iter().map(|some| some.len() as u64);
        let quantile = |nth: usize, part: f64| {
            let micros = added.get(nth).map_or(0, |one| one.value_at_quantile(part));
            Duration::from_micros(micros)
        };
        Ok(Course {
            sent,
            errors,
            first_error,
            refusals,
            refusal_p99: Duration::from_micros(refused.value_at_quantile(0.99)),
            attempts: (arrived.sum::<u64>() + refused_connections, due),
            counted: (
                arrived_ever.sum::<u64>() + pages.end.unreachable(None),
                pages.end.all(),
            ),
            probes: (probes, busiest(first, found_out, well)),
            probed: (well - found_out).as_secs(),
            back: *back,
            last_error,
            added: [0, 1].map(|nth| (quantile(nth, 0.5), quantile(nth, 0.99))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(unreachable: u64) -> Attempts {
        Attempts::read(&format!(
            "tollgate_upstream_requests_total{{outcome=\"unreachable\",provider=\"p1\"}} {unreachable}\n"
        ))
    }

    #[test]
    fn requests_are_counted_to_the_time_in_which_they_met_the_fault() -> Result<()> {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let seen = |due, took, end| Seen {
            number: due,
            estimate: 1,
            due: at(due),
            ended: at(due + took),
            added: Duration::from_millis(took),
            events: 0,
            end,
        };
        let refused = || End::Refused(502, "upstream_error".to_owned());
        let record = Record {
            moments: Moments {
                fails: at(1_000),
                found_out: at(2_000),
                well: at(5_000),
                end: at(9_000),
            },
            pages: Pages {
                fails: page(1),
                found_out: page(4),
                well: page(9),
                end: page(9),
            },
            seen: vec![
                seen(100, 50, End::Whole),
                // In flight when the fault began.
                seen(980, 50, refused()),
                seen(1_500, 200, refused()),
                seen(4_990, 50, End::Whole),
                seen(6_000, 50, refused()),
            ],
            arrivals: vec![
                vec![at(100), at(1_500), at(2_500)],
                vec![at(4_990), at(6_000)],
            ],
            back: None,
        };
        let course = Course::new(&record)?;
        assert_eq!((course.sent, course.errors), ([1, 3, 1], [0, 2, 1]));
        // Two due and three arrivals, and eight connections that were refused.
        assert_eq!(course.attempts, (3 + 8, 2));
        assert_eq!(course.probes, (1 + 5, 1));
        assert_eq!(course.counted, (5 + 9, 9));
        assert_eq!(course.last_error, Some(Duration::from_secs(1)));
        assert!(course.refusal_p99 >= Duration::from_millis(200));
        assert_eq!(course.refusals.values().sum::<u64>(), 3);
        Ok(())
    }
}
