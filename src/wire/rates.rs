//! Where a caller's limits stand → the values of the headers that tell, in every dialect that clients read.
//! Which headers these are is in [`super::head`].

use crate::limit::{Level, Reading};
use crate::route::Api;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How `X-RateLimit-Reset` says when a bucket is full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    /// A time in UTC: `2027-01-01T00:00:00Z`.
    #[default]
    Iso8601,
    /// Whole seconds from now; some editors read nothing else.
    Seconds,
    /// Seconds since 1970.
    Epoch,
}

/// What a mount tells.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// The API of the mount.
    pub api: Api,
    /// The form of `X-RateLimit-Reset`.
    pub reset: Reset,
    /// Also the IETF's draft (draft-ietf-httpapi-ratelimit-headers-10).
    pub ietf: bool,
}

/// `"requests";q=600;w=60` for each limit.
pub(super) fn write_policy(text: &mut Vec<u8>, reading: &Reading) {
    each_of_ietf(text, reading, |text, level| {
        text.extend_from_slice(b";q=");
        write_number(text, level.limit);
        text.extend_from_slice(b";w=60");
    });
}

/// `"requests";r=599;t=12` for each limit.
pub(super) fn write_state(text: &mut Vec<u8>, reading: &Reading) {
    each_of_ietf(text, reading, |text, level| {
        text.extend_from_slice(b";r=");
        write_number(text, level.remaining);
        text.extend_from_slice(b";t=");
        write_number(text, seconds(level.reset));
    });
}

fn each_of_ietf(text: &mut Vec<u8>, reading: &Reading, write: impl Fn(&mut Vec<u8>, Level)) {
    let names: [(&[u8], _); 2] = [
        (b"\"requests\"", reading.requests),
        (b"\"tokens\"", reading.tokens),
    ];
    let told = names
        .into_iter()
        .filter_map(|(name, level)| Some((name, level?)));
    for (nth, (name, level)) in told.enumerate() {
        if nth > 0 {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(name);
        write(text, level);
    }
}

/// A number.
pub(super) fn write_number(text: &mut Vec<u8>, number: u64) {
    text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The second in which `reset` from `now` lies, rounded up.
pub(super) fn epoch(now: SystemTime, reset: Duration) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = since.saturating_add(reset);
    at.as_secs() + u64::from(at.subsec_nanos() > 0)
}

/// `1s`, `6m0s`, `120ms`, as OpenAI writes spans.
pub(super) fn write_span(text: &mut Vec<u8>, time: Duration) {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut part = |value: u64, unit: &[u8]| {
        write_number(text, value);
        text.extend_from_slice(unit);
    };
    let seconds = millis.div_ceil(1000);
    match (millis, seconds) {
        (0..1000, _) => part(millis, b"ms"),
        (_, ..60) => part(seconds, b"s"),
        (_, ..3600) => {
            part(seconds / 60, b"m");
            part(seconds % 60, b"s");
        }
        _ => {
            part(seconds / 3600, b"h");
            part(seconds / 60 % 60, b"m");
            part(seconds % 60, b"s");
        }
    }
}

/// `2027-01-01T00:00:00Z`, rounded up to the second. Written by hand: it stands on every answer.
pub(super) fn write_utc(text: &mut Vec<u8>, now: SystemTime, reset: Duration) {
    let seconds = epoch(now, reset);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut shown = *b"0000-00-00T00:00:00Z";
    let mut digits = |at: usize, width: usize, mut value: u64| {
        for place in (at..at + width).rev() {
            if let Some(byte) = shown.get_mut(place) {
                *byte = b'0' + (value % 10) as u8;
            }
            value /= 10;
        }
    };
    digits(0, 4, year);
    digits(5, 2, month);
    digits(8, 2, day);
    digits(11, 2, time / 3600);
    digits(14, 2, time / 60 % 60);
    digits(17, 2, time % 60);
    text.extend_from_slice(&shown);
}

/// Days since 1970 → year, month, day (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        write(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn spans_are_written_as_openai_does() {
        for (millis, text) in [
            (0, "0ms"),
            (120, "120ms"),
            (1000, "1s"),
            (1001, "2s"),
            (59_000, "59s"),
            (59_001, "1m0s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (86_400_000, "24h0m0s"),
        ] {
            let time = Duration::from_millis(millis);
            assert_eq!(written(|to| write_span(to, time)), text);
        }
    }

    #[test]
    fn the_calendar_is_the_librarys() {
        for seconds in (0..8_000_000_000_i64).step_by(12_345_678) {
            let at = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
            let expected = jiff::Timestamp::from_second(seconds).unwrap().to_string();
            assert_eq!(written(|to| write_utc(to, at, Duration::ZERO)), expected);
        }
    }
}
