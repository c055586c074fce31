//! Samples to Markdown.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::load;
use crate::open;
use crate::streams;

/// Repeated measurements of one quantity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

    /// Each two that follow one another, taken together: a turn forth and the turn back. A single one is left out.
    pub fn rounds(&self) -> Vec<f64> {
        self.0
            .chunks_exact(2)
            .map(|pair| pair.iter().sum::<f64>() / 2.0)
            .collect()
    }

    /// The least and the greatest; of none, nothing.
    pub fn range(&self) -> (f64, f64) {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        (if least.is_finite() { least } else { 0.0 }, self.most())
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
