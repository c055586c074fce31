//! Samples to Markdown.

use std::fmt::Write;

use crate::load;
use crate::open;
use crate::process::Memory;
use crate::streams;

/// Repeated measurements of one quantity.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The greatest; of none, nothing.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    /// The median; of none, not a number.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.get(middle), sorted.len() % 2) {
            (Some(upper), 0) => (sorted[middle - 1] + upper) / 2.0,
            (Some(value), _) => *value,
            (None, _) => f64::NAN,
        }
    }

    /// Median, with the least and the greatest; of none, a dash.
    pub fn spread(&self, digits: usize) -> String {
        if self.0.is_empty() {
            return "–".to_owned();
        }
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!(
            "{:.digits$} ({least:.digits$}–{most:.digits$})",
            self.median()
        )
    }
}

/// A report, and what it shows to be wrong: such a run has failed, and its figures tell how.
pub struct Report {
    /// For people.
    pub text: String,
    /// What does not hold that should, in words.
    pub failures: Vec<String>,
}

impl Report {
    /// One without failures.
    pub fn sound(text: String) -> Self {
        Report {
            text,
            failures: Vec::new(),
        }
    }
}

/// What was measured of one proxy under requests.
pub struct Requests {
    /// What it is called in the table.
    pub name: &'static str,
    /// Microseconds of processor time a request.
    pub cost: Samples,
    /// Requests per second.
    pub rate: Samples,
    /// From its start to its first right answer, in milliseconds.
    pub ready_ms: f64,
    /// Memory after the start.
    pub idle: Memory,
    /// Memory after the last round.
    pub loaded: Memory,
}

/// What was measured of one proxy, or of none, under streams.
pub struct Streaming {
    /// What it is called in the table.
    pub name: &'static str,
    /// Microseconds of processor time an event.
    pub cost: Samples,
    /// KiB a stream.
    pub memory: Samples,
    /// Added delay of the events, microseconds: median and 99th percentile.
    pub delay: (Samples, Samples),
    /// Events that arrived: all of them, or the run counts for nothing.
    pub events: u64,
}

/// The table of requests; the first row is the yardstick.
pub fn requests(rows: &[Requests]) -> String {
    let mut text = String::from(
        "| proxy | µs CPU / request | ratio | requests/s | ready, ms | RSS idle → loaded, MiB | PSS idle → loaded, MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let Requests {
            name,
            cost,
            rate,
            ready_ms,
            idle,
            loaded,
        } = row;
        let ratio = cost.median() / rows[0].cost.median();
        let mib = |kib: u64| kib as f64 / 1024.0;
        let _ = writeln!(
            text,
            "| {name} | {} | {ratio:.3} | {} | {ready_ms:.0} | {:.1} → {:.1} | {:.1} → {:.1} |",
            cost.spread(2),
            rate.spread(0),
            mib(idle.rss),
            mib(loaded.rss),
            mib(idle.pss),
            mib(loaded.pss),
        );
    }
    text
}

/// The table of streams; the first row is the yardstick.
pub fn streaming(rows: &[Streaming]) -> String {
    let mut text = String::from(
        "| path | µs CPU / event | ratio | KiB / stream | added delay p50, µs | p99, µs | events | lost |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for Streaming {
        name,
        cost,
        memory,
        delay,
        events,
    } in rows
    {
        let own = match cost.median() {
            median if median.is_nan() => "– | – | –".to_owned(),
            median => {
                format!(
                    "{} | {:.3} | {}",
                    cost.spread(2),
                    median / rows[0].cost.median(),
                    memory.spread(1)
                )
            }
        };
        let _ = writeln!(
            text,
            "| {name} | {own} | {} | {} | {events} | 0 |",
            delay.0.spread(0),
            delay.1.spread(0)
        );
    }
    text
}

/// The lines that `load` prints.
pub fn load(outcome: &load::Outcome) -> String {
    let load::Outcome {
        requests,
        errors,
        first_error,
        reconnects,
        elapsed,
        latency,
    } = outcome;
    let mut text = format!(
        "requests {requests}  errors {errors}  reconnects {reconnects}  seconds {:.2}  rps {:.0}\n\
         latency (closed loop) µs: p50 {}  p90 {}  p99 {}  max {}\n",
        elapsed.as_secs_f64(),
        outcome.rate(),
        latency.value_at_quantile(0.5),
        latency.value_at_quantile(0.9),
        latency.value_at_quantile(0.99),
        latency.max(),
    );
    if let Some(error) = first_error {
        let _ = writeln!(text, "first error: {error}");
    }
    text
}

/// The table that `load --rate` prints.
pub fn open(outcome: &open::Outcome) -> String {
    let mut text = String::from(
        "| answer | requests | p50, µs | p90 | p99 | p99.9 | max |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let rows = [
        ("200", outcome.admitted, &outcome.admitted_latency),
        ("429", outcome.refused, &outcome.refused_latency),
    ];
    for (name, count, latency) in rows.iter().filter(|(_, count, _)| *count > 0) {
        let quantiles = [0.5, 0.9, 0.99, 0.999].map(|at| latency.value_at_quantile(at));
        let _ = write!(text, "| {name} | {count} |");
        for value in quantiles {
            let _ = write!(text, " {value} |");
        }
        let _ = writeln!(text, " {} |", latency.max());
    }
    let _ = writeln!(
        text,
        "\nopen loop, timed from when each was due: sent {}  others {}  seconds {:.2}",
        outcome.sent,
        outcome.other,
        outcome.elapsed().as_secs_f64(),
    );
    if let Some(error) = &outcome.first_other {
        let _ = writeln!(text, "first of the others: {error}");
    }
    text
}

/// The lines that `streams` prints.
pub fn stream_run(outcome: &streams::Outcome) -> String {
    let streams::Outcome {
        events,
        lost,
        first_error,
        delay,
    } = outcome;
    let mut text = format!(
        "events {events}  lost {lost}\nadded delay µs: p50 {}  p90 {}  p99 {}  max {}\n",
        delay.value_at_quantile(0.5),
        delay.value_at_quantile(0.9),
        delay.value_at_quantile(0.99),
        delay.max(),
    );
    if let Some(error) = first_error {
        let _ = writeln!(text, "first error: {error}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_follow_one_outlier() {
        assert_eq!(Samples(vec![3.0, 90.0, 1.0]).median(), 3.0);
        assert_eq!(Samples(vec![4.0, 90.0, 1.0, 2.0]).median(), 3.0);
        assert!(Samples::default().median().is_nan());
        assert_eq!(Samples(vec![3.0, 90.0, 1.0]).spread(0), "3 (1–90)");
        assert_eq!(Samples::default().spread(0), "–");
    }
}
