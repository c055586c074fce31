//! Figures to Markdown.

use std::fmt::Write;

use super::figures::{BEND, Figures, Scenario, grouped};
use super::measure::Measure;
use super::plot::{Curve, Plot, Point};
use super::targets;
use crate::report::Samples;

/// The report; pictures are where this path leads.
pub fn text(figures: &Figures, pictures: &str) -> String {
    let mut text = format!("## Targets\n\n{}", targets::table(figures));
    text.push_str("\n## Scenarios\n");
    for scenario in &figures.scenarios {
        text.push_str(&part(scenario, pictures));
    }
    text
}

/// The pictures of all scenarios: file name and SVG.
pub fn pictures(figures: &Figures) -> Vec<(String, String)> {
    let pictures = figures.scenarios.iter().flat_map(drawn);
    pictures
        .map(|picture| (picture.file, picture.svg))
        .collect()
}

/// A picture of a scenario.
struct Picture {
    file: String,
    words: String,
    svg: String,
}

/// What a scenario has to show.
fn drawn(scenario: &Scenario) -> Vec<Picture> {
    let Some(axis) = &scenario.axis else {
        return Vec::new();
    };
    let picture = |measure: &Measure| {
        let curve = |name| Curve {
            name,
            points: scenario
                .curve(name, *measure)
                .into_iter()
                .filter_map(|(across, cell)| {
                    let samples = cell.samples.get(measure)?;
                    Some(Point {
                        across,
                        up: samples.median(),
                        range: samples.range(),
                    })
                })
                .collect(),
        };
        let curves: Vec<Curve<'_>> = scenario.sides().into_iter().map(curve).collect();
        let curves = curves
            .into_iter()
            .filter(|curve| curve.points.len() > 1)
            .collect();
        let plot = Plot {
            title: &scenario.title,
            across: axis,
            up: measure.words(),
            curves,
        };
        // As JSON spells it: one word, without spaces.
        let measure_name = serde_json::to_value(measure).ok()?;
        Some(Picture {
            file: format!("{}-{}.svg", scenario.name, measure_name.as_str()?),
            words: format!("{}: {} over {axis}", scenario.title, measure.words()),
            svg: plot.svg()?,
        })
    };
    scenario.plots.iter().filter_map(picture).collect()
}

/// One scenario.
fn part(scenario: &Scenario, pictures: &str) -> String {
    let Scenario {
        name: _,
        title,
        about,
        method,
        notes,
        ..
    } = scenario;
    let mut text = format!(
        "\n### {title}\n\n{about}\n\n{method}\n\n{}",
        table(scenario)
    );
    let bends: Vec<String> = scenario
        .bends()
        .iter()
        .map(|bend| {
            let at = |cell: &super::figures::Cell| {
                let value = cell.median(bend.measure).unwrap_or(f64::NAN);
                format!("{} at {}", number(value, bend.measure.digits()), cell.point)
            };
            let verdict = match bend.bends() {
                true => format!("**bends** (more than {BEND:.2})"),
                false => "straight".to_owned(),
            };
            format!(
                "- {}, {}: {}, {}: {:.2} ×, {verdict}",
                bend.side,
                bend.measure.words(),
                at(bend.first),
                at(bend.last),
                bend.factor
            )
        })
        .collect();
    if !bends.is_empty() {
        let _ = write!(
            text,
            "\nFrom the smallest to the largest:\n\n{}\n",
            bends.join("\n")
        );
    }
    for note in notes {
        let _ = write!(text, "\n{note}\n");
    }
    for Picture { file, words, .. } in drawn(scenario) {
        let _ = write!(text, "\n![{words}]({pictures}{file})\n");
    }
    text
}

/// The table: a row a cell, a column for each quantity that any cell has.
fn table(scenario: &Scenario) -> String {
    let cells = &scenario.cells;
    let pointed = cells.iter().any(|cell| !cell.point.is_empty());
    let sided = scenario.sides().len() > 1 || !pointed;
    let compared = cells.iter().any(|cell| cell.yardstick.is_some());
    let mut measures: Vec<Measure> = cells
        .iter()
        .flat_map(|cell| cell.samples.keys().copied())
        .collect();
    measures.sort();
    measures.dedup();
    let mut head = Vec::new();
    if pointed {
        head.push(scenario.axis.as_deref().unwrap_or(""));
    }
    if sided {
        head.push("");
    }
    for measure in &measures {
        head.push(measure.words());
        if compared && *measure == scenario.main {
            head.push("ratio");
        }
    }
    let mut text = row(&head);
    text.push_str(&row(&vec!["---"; head.len()]));
    for cell in cells {
        let mut fields = Vec::new();
        if pointed {
            fields.push(cell.point.clone());
        }
        if sided {
            fields.push(cell.side.clone());
        }
        for measure in &measures {
            let samples = cell.samples.get(measure);
            fields.push(samples.map_or("–".to_owned(), |samples| {
                spread(samples, measure.digits())
            }));
            if compared && *measure == scenario.main {
                let ratio = match (cell.yardstick, scenario.ratio(cell)) {
                    (_, Some(ratio)) => format!("{ratio:.3}"),
                    (None, None) if samples.is_some() => "1".to_owned(),
                    _ => "–".to_owned(),
                };
                fields.push(ratio);
            }
        }
        text.push_str(&row(&fields));
    }
    text
}

fn row(fields: &[impl AsRef<str>]) -> String {
    let mut text = String::from("|");
    for field in fields {
        let _ = write!(text, " {} |", field.as_ref());
    }
    text.push('\n');
    text
}

/// The median, with the least and the greatest if they are told apart.
fn spread(samples: &Samples, digits: usize) -> String {
    let (least, most) = samples.range();
    let texts = [samples.median(), least, most].map(|value| number(value, digits));
    match texts {
        [median, least, most] if least == most => median,
        [median, least, most] => format!("{median} ({least}–{most})"),
    }
}

/// A number with so many decimals and its thousands apart.
pub fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    match whole.parse() {
        Ok(whole) => format!("{}{rest}", grouped(whole)),
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::*;

    #[test]
    fn a_scenario_is_told_with_its_ratios_and_its_bend() {
        let mut figures = Figures::default();
        figures.put(sample());
        let text = text(&figures, "benchmarks/");
        for part in [
            "### Keys\n\nMore & more keys.\n\n2 rounds\n\n",
            "| keys < all |  | µs CPU / request | ratio |\n| --- | --- | --- | --- |\n",
            "| 1 | bare | 45.00 (30.00–60.00) | 1 |\n",
            "| 1,000 | Tollgate | 68.00 (44.00–90.00) | 1.500 |\n",
            "- Tollgate, µs CPU / request: 49.50 at 1, 68.00 at 1,000: 1.36 ×, **bends**",
            "\nnginx is not installed\n",
            "](benchmarks/keys-request-cost.svg)",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        let pictures = pictures(&figures);
        assert_eq!(pictures.len(), 1);
        assert_eq!(pictures[0].0, "keys-request-cost.svg");
    }

    #[test]
    fn numbers_are_told_as_people_read_them() {
        assert_eq!(number(81_234.6, 0), "81,235");
        assert_eq!(number(1_000.5, 2), "1,000.50");
        assert_eq!(number(-3.25, 1), "-3.2");
        assert_eq!(number(f64::NAN, 1), "–");
    }
}
