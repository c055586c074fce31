//! How long a provider wants to be left alone, as the header of a 429 tells it.

use http::HeaderMap;
use std::time::{Duration, SystemTime};

/// What is left, and when it is whole again: OpenAI's headers, Anthropic's, and the common ones.
const WINDOWS: [(&str, &str); 7] = [
    (
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    (
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ),
    (
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ),
    (
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
    ),
    (
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
];

/// From this on a number of seconds is a time since 1970: nobody waits for thirty years. From the second on it is in
/// milliseconds.
const EPOCH: f64 = 1e9;
const EPOCH_MS: f64 = 1e12;

/// The wait that a header tells: `retry-after-ms`, `Retry-After` (seconds or a time), or else the reset of whatever is
/// used up.
pub fn told(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    // No wait at all is as good as nothing said.
    wait(headers, now).filter(|wait| !wait.is_zero())
}

fn wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(wait) = text("retry-after-ms").and_then(|text| seconds(text, 1e-3)) {
        return Some(wait);
    }
    if let Some(wait) = text("retry-after").and_then(|text| moment(text, now)) {
        return Some(wait);
    }
    let used_up = |(remaining, reset): (&str, &str)| match text(remaining) {
        Some("0") => moment(text(reset)?, now),
        _ => None,
    };
    WINDOWS.into_iter().filter_map(used_up).max()
}

/// Seconds from now, a time since 1970, `6m0s`, RFC 3339, or a date of HTTP's; a time that has passed says nothing.
fn moment(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        return match number {
            EPOCH_MS.. => seconds(text, 1e-3)?.checked_sub(since),
            EPOCH.. => seconds(text, 1.0)?.checked_sub(since),
            _ => seconds(text, 1.0),
        };
    }
    let time = text
        .parse::<jiff::Timestamp>()
        .or_else(|_| jiff::fmt::rfc2822::parse(text).map(|zoned| zoned.timestamp()));
    match time {
        Ok(time) => SystemTime::from(time).duration_since(now).ok(),
        Err(_) => units(text),
    }
}

fn seconds(text: &str, unit: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse::<f64>().ok()? * unit).ok()
}

/// `1s`, `6m0s`, `120ms`, `1h2m3.5s`.
fn units(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at_checked(end)?;
        let unit_end = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at_checked(unit_end)?;
        let unit = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        total = total.checked_add(seconds(number, unit)?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    /// 2026-01-01T00:00:00Z.
    const NOW: u64 = 1_767_225_600;

    fn wait_of(headers: &[(&'static str, &str)]) -> Option<u128> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            map.insert(HeaderName::from_static(name), value);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        told(&map, now).map(|wait| wait.as_millis())
    }

    #[test]
    fn every_form_of_a_wait() {
        for (value, ms) in [
            ("3", 3000),
            ("0.5", 500),
            ("Thu, 01 Jan 2026 00:00:07 GMT", 7000),
            ("2026-01-01T00:00:05Z", 5000),
            ("6m0s", 360_000),
            ("120ms", 120),
            ("1h2m3.5s", 3_723_500),
            ("1767225630", 30_000),
            ("1767225630500", 30_500),
        ] {
            assert_eq!(wait_of(&[("retry-after", value)]), Some(ms), "{value}");
        }
        for value in [
            "",
            "0",
            "0s",
            "-3",
            "soon",
            "NaN",
            "inf",
            "1e300",
            "Thu, 01 Jan 2020 00:00:07 GMT",
            "1600000000",
            "5x",
            "s",
            "1..2s",
        ] {
            assert_eq!(wait_of(&[("retry-after", value)]), None, "{value}");
        }
    }

    #[test]
    fn the_plain_word_comes_first_and_a_reset_counts_where_nothing_is_left() {
        let all = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ];
        assert_eq!(wait_of(&all), Some(360_000));
        assert_eq!(
            wait_of(&[("x-ratelimit-remaining-tokens", "12"), all[3]]),
            None
        );
        let mut more = all.to_vec();
        more.push(("retry-after", "2"));
        assert_eq!(wait_of(&more), Some(2000));
        more.push(("retry-after-ms", "1500"));
        assert_eq!(wait_of(&more), Some(1500));
        let anthropic = [
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            (
                "anthropic-ratelimit-input-tokens-reset",
                "2026-01-01T00:00:12Z",
            ),
        ];
        assert_eq!(wait_of(&anthropic), Some(12_000));
    }
}
