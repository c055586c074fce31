//! Durations: as typed, within limits, and as they are written.

use std::time::Duration;

use super::forms::{Parsed, digits};

/// A minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// A day.
pub(super) const DAY: Duration = Duration::from_secs(86400);

/// What a duration may be.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// At least; `0s` only where this is nothing.
    pub(super) least: Duration,
    /// At most.
    pub(super) most: Duration,
}

/// `500ms`, `3s`, `2m`, `1h`, `30d`; more than 0.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    match duration_or_none(text)? {
        Duration::ZERO => Err("is no time at all; write at least `1ms`".into()),
        time => Ok(time),
    }
}

/// The same, or no time at all: `0s`.
pub(super) fn duration_or_none(text: &str) -> Parsed<Duration> {
    let (number, unit) = digits(text);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(
            "is no duration; write a whole number with a unit: `500ms`, `3s`, `2m`, `1h` or `30d`"
                .into(),
        ),
    };
    let Ok(number) = number.parse::<u64>() else {
        return Err("is no duration; write a whole number before the unit, such as `3s`".into());
    };
    match number.checked_mul(milliseconds) {
        None => Err("is too long".into()),
        Some(all) => Ok(Duration::from_millis(all)),
    }
}

/// A duration as it is written: in the largest unit that it is a whole number of.
pub(in crate::config) fn shown(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    let fits = |(unit, _): &&(u128, &str)| ms > 0 && ms.is_multiple_of(*unit);
    match units.iter().find(fits) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("3s", 3_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "3",
            "s",
            "1.5s",
            "-3s",
            "3 s",
            "0s",
            "3w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn as_they_are_written() {
        for text in ["0s", "1ms", "90s", "2m", "36h", "30d", "1500ms"] {
            assert_eq!(shown(duration_or_none(text).unwrap()), text);
        }
    }
}
