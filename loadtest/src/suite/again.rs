//! Whether a run says the same as the one before: ratios of processor time and throughput, which hardly depend on what
//! else the machine does. Delays, memory and starts are told in the report, and not compared here.

use std::fmt::Write;

use super::figures::Figures;
use super::measure::Measure;

/// How far a ratio may be from the one before.
const NEAR: f64 = 0.10;

/// Each ratio that both have, and how many are near; nothing, if they have none in common.
pub fn compared(before: &Figures, now: &Figures) -> Option<String> {
    let mut text = String::from(
        "| ratio | before | now | now ÷ before | |\n| --- | --- | --- | --- | --- |\n",
    );
    let (mut all, mut near) = (0, 0);
    for scenario in now
        .scenarios
        .iter()
        .filter(|scenario| steady(scenario.main))
    {
        let Some(old) = before.find(&scenario.name) else {
            continue;
        };
        for cell in &scenario.cells {
            let then = old.find(&cell.point, &cell.side);
            let ratios = (then.and_then(|cell| old.ratio(cell)), scenario.ratio(cell));
            let (Some(then), Some(now)) = ratios else {
                continue;
            };
            let change = now / then;
            let is_near = (1.0 - NEAR..=1.0 + NEAR).contains(&change);
            all += 1;
            near += usize::from(is_near);
            let verdict = if is_near { "near" } else { "**far**" };
            let place = match cell.point.as_str() {
                "" => cell.side.clone(),
                point => format!("{point}, {}", cell.side),
            };
            let _ = writeln!(
                text,
                "| {}: {place} | {then:.3} | {now:.3} | {change:.3} | {verdict} |",
                scenario.name
            );
        }
    }
    let _ = writeln!(
        text,
        "\n{near} of {all} ratios are within {:.0} % of those before.",
        NEAR * 100.0
    );
    (all > 0).then_some(text)
}

/// Of processor time.
fn steady(main: Measure) -> bool {
    matches!(main, Measure::RequestCost | Measure::EventCost)
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::sample;
    use super::*;

    #[test]
    fn what_is_far_is_said() {
        let figures = |factor: f64| {
            let mut scenario = sample();
            for _ in 0..4 {
                scenario.cells[2].take(vec![(Measure::RequestCost, 45.0 * factor)]);
            }
            let mut figures = Figures::default();
            figures.put(scenario);
            figures
        };
        let text = compared(&figures(1.0), &figures(1.0)).unwrap_or_default();
        assert!(text.contains("2 of 2 ratios are within 10 %"), "{text}");
        let text = compared(&figures(1.0), &figures(2.0)).unwrap_or_default();
        assert!(
            text.contains("1 of 2 ratios") && text.contains("**far**"),
            "{text}"
        );
        assert!(compared(&Figures::default(), &figures(1.0)).is_none());
    }
}
