//! Streams: what an event costs, what a stream holds, how late an event comes.

use super::super::field::Field;
use super::super::figures::{Cell, Scenario, grouped};
use super::super::measure::Measure;
use super::super::work::{Side, Streamed, Work};
use super::{BARE, Name, Plan, Planned, TOLLGATE};
use crate::Result;
use crate::process::most_descriptors;
use crate::streams::APART;

/// Events a second over all streams, beyond which generator and provider would be what is measured.
const EVENTS_PER_SECOND: u64 = 10_000;

/// The shortest interval between two events of a stream, in milliseconds.
const INTERVAL_MS: u64 = 50;

/// Descriptors that a proxy has beside two for each stream.
const OTHERS: u64 = 64;

/// From few streams to many.
pub fn streams(field: &Field) -> Result<Plan> {
    let most = most_descriptors()?.saturating_sub(OTHERS) / 2;
    let mut notes = Vec::new();
    let mut planned = Vec::new();
    let points: &[u64] = field.pick(&[100, 500], &[100, 500, 2_000, 10_000]);
    for wanted in points {
        let count = *wanted.min(&most);
        if count < *wanted {
            notes.push(format!(
                "{} streams take {} descriptors in a proxy, and this system allows {}: {} were live instead.",
                grouped(*wanted),
                grouped(2 * wanted + OTHERS),
                grouped(most_descriptors()?),
                grouped(count)
            ));
        }
        let interval_ms = (1_000 * count / EVENTS_PER_SECOND).max(INTERVAL_MS);
        // All are live for some time between the last opening and the first end.
        let ramp = APART * u32::try_from(count)?;
        let ramp_ms = u64::try_from(ramp.as_millis())?;
        let live_ms = field.pick(2_000, 10_000);
        let yardstick = planned.len();
        for (side, name) in [
            (Side::Bare, BARE),
            (Side::Gateway, TOLLGATE),
            (Side::Direct, "direct, no proxy"),
        ] {
            let cell = Cell::sized(count, name);
            let cell = match side {
                Side::Gateway => cell.against(yardstick),
                Side::Bare | Side::Direct => cell,
            };
            let work = Streamed {
                side,
                streams: u32::try_from(count)?,
                events: (ramp_ms + live_ms).div_ceil(interval_ms),
                interval_ms,
            };
            planned.push(Planned {
                cell,
                work: Work::Streamed(work),
            });
        }
    }
    let scenario = Scenario {
        axis: Some("streams at a time".to_owned()),
        main: Measure::EventCost,
        level: Some((Measure::EventCost, 500.0)),
        plots: vec![Measure::EventCost, Measure::StreamMemory, Measure::DelayHigh],
        notes,
        ..Name::Streams.scenario(
            "Streams",
            "Each stream has an event every 50 ms, or more rarely where there are so many that all together would be more than \
             10,000 a second. Everything on; a new process each turn. Cost is that of the time in which all are live.",
        )
    };
    Ok(Plan {
        // A few seconds of one turn tell a third more or less by chance.
        rounds: field.pick(3, 2),
        turn: format!("{} s with all streams live a turn", field.pick(2, 10)),
        scenario,
        planned,
    })
}
