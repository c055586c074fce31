//! The targets, and what was measured of each.

use std::fmt::Write;

use super::figures::grouped;
use super::figures::{Cell, Figures};
use super::measure::Measure;
use super::report::number;
use super::scenarios::{
    ALL_ON, BARE, BESIDE, IN_MEMORY, IN_REDIS, LARGEST_BODY, LIMIT_REACHED, Name, REQUESTS_ONLY,
    STREAMS, TOLLGATE, UNKNOWN_KEY,
};

/// One target.
struct Target {
    /// What is wanted.
    words: &'static str,
    /// At most so much, or at least.
    limit: Limit,
    /// What it is measured in, for people.
    unit: &'static str,
    /// Decimals that mean something.
    digits: usize,
    /// What was measured, if it was.
    measured: Option<f64>,
    /// What measures it.
    scenario: Name,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// The table.
pub fn table(figures: &Figures) -> String {
    let mut text = String::from(
        "| target | wanted | measured | measured ÷ wanted | | command |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for target in targets(figures) {
        text.push_str(&target.row());
    }
    text
}

impl Target {
    fn row(&self) -> String {
        let Target {
            words,
            limit,
            unit,
            digits,
            measured,
            scenario,
        } = self;
        let (sign, limit, holds) = match *limit {
            Limit::AtMost(limit) => ("≤", limit, measured.map(|value| value <= limit)),
            Limit::AtLeast(limit) => ("≥", limit, measured.map(|value| value >= limit)),
        };
        let verdict = match holds {
            None => "not measured",
            Some(true) => "holds",
            Some(false) => "**missed**",
        };
        let value = measured.map_or("–".to_owned(), |value| {
            format!("{}{unit}", number(value, *digits))
        });
        // Of nothing there is no part.
        let ratio = measured.filter(|_| limit > 0.0);
        let ratio = ratio.map_or("–".to_owned(), |value| number(value / limit, 2));
        let mut text = String::new();
        let _ = writeln!(
            text,
            "| {words} | {sign} {}{unit} | {value} | {ratio} | {verdict} | `loadtest bench --only {}` |",
            number(limit, *digits),
            scenario.text()
        );
        text
    }
}

/// In the order in which they were set.
fn targets(figures: &Figures) -> Vec<Target> {
    let cell = |name: Name, point: &str, side: &str| figures.find(name.text())?.find(point, side);
    let median = |name, point, side, measure| cell(name, point, side)?.median(measure);
    let ratio = |name: Name, point: &str, side: &str| {
        let scenario = figures.find(name.text())?;
        scenario.ratio(scenario.find(point, side)?)
    };
    let quotient = |of: Option<f64>, by: Option<f64>| Some(of? / by?);
    let most = |limit| Limit::AtMost(limit);
    let target = |scenario, words, limit, unit, digits, measured| Target {
        words,
        limit,
        unit,
        digits,
        measured,
        scenario,
    };
    let largest = grouped(LARGEST_BODY as u64);
    let live = |cell: &Cell| Some(cell.size?).filter(|_| cell.median(Measure::Lost) == Some(0.0));
    let streams = figures.find(Name::Streams.text());
    let crowd = streams.and_then(|streams| {
        let sizes = streams.cells.iter().filter(|cell| cell.side == TOLLGATE);
        sizes.filter_map(live).max_by(f64::total_cmp)
    });
    let lost = streams.map(|streams| {
        let lost = |cell: &Cell| {
            cell.samples
                .get(&Measure::Lost)
                .map_or(0.0, |lost| lost.most())
        };
        streams.cells.iter().map(lost).sum()
    });
    vec![
        target(
            Name::Everything,
            "everything on, processor time of the bare pass-through",
            most(1.10),
            " ×",
            2,
            ratio(Name::Everything, "", ALL_ON),
        ),
        target(
            Name::Refusals,
            "refusals: 401",
            Limit::AtLeast(80_000.0),
            "/s a core",
            0,
            median(Name::Refusals, UNKNOWN_KEY, TOLLGATE, Measure::PerCore),
        ),
        target(
            Name::Refusals,
            "refusals: 429",
            Limit::AtLeast(80_000.0),
            "/s a core",
            0,
            median(Name::Refusals, LIMIT_REACHED, TOLLGATE, Measure::PerCore),
        ),
        target(
            Name::Streams,
            "500 streams: processor time an event, of the bare pass-through",
            most(1.05),
            " ×",
            2,
            ratio(Name::Streams, STREAMS, TOLLGATE),
        ),
        target(
            Name::Streams,
            "500 streams: memory",
            most(32.0),
            " KiB a stream",
            1,
            median(Name::Streams, STREAMS, TOLLGATE, Measure::StreamMemory),
        ),
        target(
            Name::Streams,
            "500 streams: added delay p99, of the bare pass-through",
            most(1.20),
            " ×",
            2,
            quotient(
                median(Name::Streams, STREAMS, TOLLGATE, Measure::DelayHigh),
                median(Name::Streams, STREAMS, BARE, Measure::DelayHigh),
            ),
        ),
        target(
            Name::Streams,
            "streams live at a time",
            Limit::AtLeast(10_000.0),
            "",
            0,
            crowd,
        ),
        target(
            Name::Streams,
            "events lost, over all streams",
            most(0.0),
            "",
            0,
            lost,
        ),
        target(
            Name::Limits,
            "exact limits in Redis: calls a request, a node's announcement a second included",
            most(1.01),
            " a request",
            2,
            median(Name::Limits, REQUESTS_ONLY, IN_REDIS, Measure::RedisCalls),
        ),
        target(
            Name::Limits,
            "exact limits in Redis: throughput, of that in memory",
            Limit::AtLeast(0.6),
            " ×",
            2,
            quotient(
                median(Name::Limits, REQUESTS_ONLY, IN_REDIS, Measure::Rate),
                median(Name::Limits, REQUESTS_ONLY, IN_MEMORY, Measure::Rate),
            ),
        ),
        target(
            Name::Size,
            "bodies of 20 MB",
            Limit::AtLeast(1_000.0),
            " MB/s a core",
            0,
            median(Name::Size, &largest, TOLLGATE, Measure::Throughput),
        ),
        target(
            Name::Size,
            "bodies of 20 MB: memory, of the body",
            most(1.2),
            " ×",
            2,
            median(Name::Size, &largest, TOLLGATE, Measure::Peak),
        ),
        target(
            Name::Beside,
            "small requests beside bodies of 20 MB: p99, of the same through the bare pass-through",
            most(1.2),
            " ×",
            2,
            ratio(Name::Beside, BESIDE, TOLLGATE),
        ),
        target(
            Name::Start,
            "idle",
            most(15.0),
            " MiB resident",
            1,
            median(Name::Start, "", TOLLGATE, Measure::Idle),
        ),
        target(
            Name::Start,
            "start to ready",
            most(100.0),
            " ms",
            0,
            median(Name::Start, "", TOLLGATE, Measure::Ready),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::figures::Scenario;
    use super::super::figures::tests::sample;
    use super::*;

    fn only(ratio: f64) -> Figures {
        let mut bare = Cell::new("", BARE);
        let mut all = Cell::new("", ALL_ON).against(0);
        for _ in 0..2 {
            bare.take(vec![(Measure::RequestCost, 30.0)]);
            all.take(vec![(Measure::RequestCost, 30.0 * ratio)]);
        }
        let mut figures = Figures::default();
        figures.put(Scenario {
            name: "everything".to_owned(),
            cells: vec![bare, all],
            ..sample()
        });
        figures
    }

    #[test]
    fn a_target_holds_or_is_missed_or_was_not_measured() {
        let held = table(&only(1.05));
        assert!(
            held.contains(
                "| ≤ 1.10 × | 1.05 × | 0.95 | holds | `loadtest bench --only everything` |"
            ),
            "{held}"
        );
        let missed = table(&only(1.25));
        assert!(
            missed.contains("| ≤ 1.10 × | 1.25 × | 1.14 | **missed** |"),
            "{missed}"
        );
        assert!(missed.contains("| – | – | not measured |"), "{missed}");
        assert!(missed.contains("| ≥ 80,000/s a core |"), "{missed}");
    }
}
