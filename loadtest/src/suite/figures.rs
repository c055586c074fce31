//! What was measured, every sample of it: kept as JSON, and all that a report needs.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::measure::Measure;
use crate::Result;
use crate::report::Samples;

/// A curve bends where the largest point costs more than so many times the smallest.
pub const BEND: f64 = 1.10;

/// All scenarios that were measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// In the order of the report.
    pub scenarios: Vec<Scenario>,
}

/// A list of points, each measured for several sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// As `--only` has it.
    pub name: String,
    /// The heading.
    pub title: String,
    /// What is done, and what is to be seen.
    pub about: String,
    /// How often and how much, on which machine, and when.
    pub method: String,
    /// What grows from point to point, if it is one thing.
    pub axis: Option<String>,
    /// What the ratios are of.
    pub main: Measure,
    /// What should stay the same as the work grows, from which size on.
    pub level: Option<(Measure, f64)>,
    /// What is drawn over the axis.
    pub plots: Vec<Measure>,
    /// What was measured.
    pub cells: Vec<Cell>,
    /// What was left out or made smaller, and why.
    pub notes: Vec<String>,
}

/// One side at one point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What a person calls the point.
    pub point: String,
    /// Where it is on the axis.
    pub size: Option<f64>,
    /// Who.
    pub side: String,
    /// The cell that this one is compared with; the yardstick itself has none.
    pub yardstick: Option<usize>,
    /// One sample a turn. The turns of all cells of a scenario belong together by their number.
    pub samples: BTreeMap<Measure, Samples>,
}

impl Cell {
    /// One that has not been measured yet.
    pub fn new(point: impl Into<String>, side: impl Into<String>) -> Self {
        Cell {
            point: point.into(),
            size: None,
            side: side.into(),
            yardstick: None,
            samples: BTreeMap::new(),
        }
    }

    /// On the axis; the point is called by its number.
    pub fn sized(size: u64, side: impl Into<String>) -> Self {
        Cell {
            size: Some(size as f64),
            ..Cell::new(grouped(size), side)
        }
    }

    /// Compared with another cell of the scenario.
    pub fn against(self, yardstick: usize) -> Self {
        Cell {
            yardstick: Some(yardstick),
            ..self
        }
    }

    /// Takes in what a turn gave.
    pub fn take(&mut self, measured: Vec<(Measure, f64)>) {
        for (measure, value) in measured {
            self.samples.entry(measure).or_default().add(value);
        }
    }

    /// The median, if it was measured.
    pub fn median(&self, measure: Measure) -> Option<f64> {
        let median = self.samples.get(&measure)?.median();
        (!median.is_nan()).then_some(median)
    }
}

impl Figures {
    /// What a file has.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", file.display()).into())
    }

    /// As a file has it.
    pub fn json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// A scenario by its name.
    pub fn find(&self, name: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }

    /// Puts a scenario in the place of the one of its name.
    pub fn put(&mut self, scenario: Scenario) {
        match self
            .scenarios
            .iter_mut()
            .find(|other| other.name == scenario.name)
        {
            Some(place) => *place = scenario,
            None => self.scenarios.push(scenario),
        }
    }
}

impl Scenario {
    /// The cell of a side at a point.
    pub fn find(&self, point: &str, side: &str) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.point == point && cell.side == side)
    }

    /// A cell's main quantity in that of its yardstick.
    pub fn ratio(&self, cell: &Cell) -> Option<f64> {
        let yardstick = self.cells.get(cell.yardstick?)?;
        ratio(
            cell.samples.get(&self.main)?,
            yardstick.samples.get(&self.main)?,
        )
    }

    /// The points of one side, from the smallest to the largest.
    pub fn curve(&self, side: &str, measure: Measure) -> Vec<(f64, &Cell)> {
        let mut points: Vec<(f64, &Cell)> = self
            .cells
            .iter()
            .filter(|cell| cell.side == side && cell.samples.contains_key(&measure))
            .filter_map(|cell| Some((cell.size?, cell)))
            .collect();
        points.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        points
    }

    /// The sides, in the order in which they first appear.
    pub fn sides(&self) -> Vec<&str> {
        let mut sides: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !sides.contains(&cell.side.as_str()) {
                sides.push(&cell.side);
            }
        }
        sides
    }

    /// What each side's curve does from its smallest to its largest point.
    pub fn bends(&self) -> Vec<Bend<'_>> {
        let Some((measure, from)) = self.level else {
            return Vec::new();
        };
        let bend = |side| {
            let points = self.curve(side, measure);
            let points: Vec<_> = points
                .into_iter()
                .filter(|(size, _)| *size >= from)
                .collect();
            let (_, first) = *points.first()?;
            let (_, last) = *points.last()?;
            if first.point == last.point {
                return None;
            }
            let (small, large) = (first.samples.get(&measure)?, last.samples.get(&measure)?);
            let factor = match measure.more_is_better() {
                true => ratio(small, large)?,
                false => ratio(large, small)?,
            };
            Some(Bend {
                side,
                measure,
                first,
                last,
                factor,
            })
        };
        self.sides().into_iter().filter_map(bend).collect()
    }
}

/// What a curve does.
pub struct Bend<'a> {
    /// Whose it is.
    pub side: &'a str,
    /// Of what.
    pub measure: Measure,
    /// Its smallest point.
    pub first: &'a Cell,
    /// Its largest point.
    pub last: &'a Cell,
    /// How many times worse the largest is.
    pub factor: f64,
}

impl Bend<'_> {
    /// Whether it is worth a look.
    pub fn bends(&self) -> bool {
        self.factor > BEND
    }
}

/// One quantity in another: the median over the rounds of what each round gives. A round is a turn forth and a turn back,
/// so that what drifts meanwhile falls on both alike. Where the rounds do not match, the medians are divided.
fn ratio(of: &Samples, by: &Samples) -> Option<f64> {
    let (of_rounds, by_rounds) = (of.rounds(), by.rounds());
    let ratio = match of_rounds.len() == by_rounds.len() {
        true => {
            let mut ratios = Samples::default();
            for (of, by) in of_rounds.iter().zip(by_rounds) {
                ratios.add(of / by);
            }
            ratios.median()
        }
        false => of.median() / by.median(),
    };
    ratio.is_finite().then_some(ratio)
}

/// A whole number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A scenario with two sides at two points.
    pub fn sample() -> Scenario {
        let cell = |size, side, costs: [f64; 4]| {
            let mut cell = Cell::sized(size, side);
            for cost in costs {
                cell.take(vec![(Measure::RequestCost, cost)]);
            }
            cell
        };
        Scenario {
            name: "keys".to_owned(),
            title: "Keys".to_owned(),
            about: "More & more keys.".to_owned(),
            method: "2 rounds".to_owned(),
            axis: Some("keys < all".to_owned()),
            main: Measure::RequestCost,
            level: Some((Measure::RequestCost, 0.0)),
            plots: vec![Measure::RequestCost],
            cells: vec![
                cell(1, "bare", [30.0, 30.0, 60.0, 60.0]),
                cell(1, "Tollgate", [33.0, 33.0, 66.0, 66.0]).against(0),
                cell(1000, "Tollgate", [44.0, 46.0, 90.0, 90.0]).against(0),
            ],
            notes: vec!["nginx is not installed".to_owned()],
        }
    }

    #[test]
    fn a_drift_that_hits_all_alike_does_not_move_a_ratio() {
        let scenario = sample();
        let ratios: Vec<_> = scenario
            .cells
            .iter()
            .map(|cell| scenario.ratio(cell))
            .collect();
        assert_eq!(ratios, [None, Some(1.1), Some(1.5)]);
        // As many rounds, or none at all.
        let mut samples = Samples::default();
        assert_eq!(ratio(&samples, &samples), None);
        samples.add(2.0);
        let mut more = samples.clone();
        more.add(4.0);
        more.add(4.0);
        assert_eq!(ratio(&more, &samples), Some(2.0));
    }

    #[test]
    fn a_curve_that_bends_is_seen() {
        let scenario = sample();
        let bends = scenario.bends();
        assert_eq!(bends.len(), 1);
        assert_eq!((bends[0].side, bends[0].bends()), ("Tollgate", true));
        assert!((bends[0].factor - 1.364).abs() < 0.001);
        // A small point may be left out of it.
        let large = Scenario {
            level: Some((Measure::RequestCost, 10.0)),
            ..scenario
        };
        assert!(large.bends().is_empty());
    }

    #[test]
    fn json_gives_back_what_it_was_made_of() -> Result<()> {
        let mut figures = Figures::default();
        figures.put(sample());
        figures.put(Scenario {
            notes: Vec::new(),
            ..sample()
        });
        assert_eq!(figures.scenarios.len(), 1);
        let again: Figures = serde_json::from_str(&figures.json()?)?;
        assert_eq!(again, figures);
        assert!(
            again
                .find("keys")
                .is_some_and(|found| found.find("1,000", "Tollgate").is_some())
        );
        Ok(())
    }

    #[test]
    fn thousands_stand_apart() {
        let texts = [1, 100, 1_000, 20_971_520].map(grouped);
        assert_eq!(texts, ["1", "100", "1,000", "20,971,520"]);
    }
}
