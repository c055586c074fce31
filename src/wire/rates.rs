//! Where a caller's limits stand → the headers that tell, in every dialect that clients read.

use crate::limit::{Level, Reading};
use crate::route::Api;
use http::{HeaderMap, HeaderName, HeaderValue};
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

/// Limit, remaining, reset.
type Names = [HeaderName; 3];

macro_rules! names {
    ($limit:literal, $remaining:literal, $reset:literal) => {
        [
            HeaderName::from_static($limit),
            HeaderName::from_static($remaining),
            HeaderName::from_static($reset),
        ]
    };
}

const PLAIN: Names = names!(
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset"
);
const OPENAI_REQUESTS: Names = names!(
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests"
);
const OPENAI_TOKENS: Names = names!(
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens"
);
const ANTHROPIC_REQUESTS: Names = names!(
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset"
);
/// One limit holds for input and output together, and is told under all three names.
const ANTHROPIC_TOKENS: [Names; 3] = [
    names!(
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset"
    ),
    names!(
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset"
    ),
    names!(
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset"
    ),
];
const IETF_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const IETF: HeaderName = HeaderName::from_static("ratelimit");

/// Puts the headers on an answer of an endpoint that speaks `api`; a plan without a limit has none.
pub fn tell(map: &mut HeaderMap, style: Style, api: Api, reading: Reading, now: SystemTime) {
    let Reading { requests, tokens } = reading;
    if let Some(level) = requests {
        let reset = match style.reset {
            Reset::Iso8601 => utc(now, level.reset),
            Reset::Seconds => (level.reset.as_millis().div_ceil(1000) as u64).into(),
            Reset::Epoch => epoch(now, level.reset).into(),
        };
        put(map, &PLAIN, level, reset);
    }
    if style.api == Api::OpenAi {
        for (names, level) in [(&OPENAI_REQUESTS, requests), (&OPENAI_TOKENS, tokens)] {
            if let Some(level) = level {
                put(map, names, level, span(level.reset));
            }
        }
    }
    // Anthropic's endpoints answer on OpenAI mounts too.
    if style.api == Api::Anthropic || api == Api::Anthropic {
        if let Some(level) = requests {
            put(map, &ANTHROPIC_REQUESTS, level, utc(now, level.reset));
        }
        if let Some(level) = tokens {
            let reset = utc(now, level.reset);
            for names in &ANTHROPIC_TOKENS {
                put(map, names, level, reset.clone());
            }
        }
    }
    if style.ietf {
        ietf(map, requests, tokens);
    }
}

fn put(map: &mut HeaderMap, names: &Names, level: Level, reset: HeaderValue) {
    let [limit, remaining, when] = names;
    map.insert(limit.clone(), level.limit.into());
    map.insert(remaining.clone(), level.remaining.into());
    map.insert(when.clone(), reset);
}

/// `"requests";q=600;w=60` and `"requests";r=599;t=12`.
fn ietf(map: &mut HeaderMap, requests: Option<Level>, tokens: Option<Level>) {
    let (mut policy, mut state) = (String::new(), String::new());
    for (name, level) in [("requests", requests), ("tokens", tokens)] {
        let Some(level) = level else { continue };
        let separator = if policy.is_empty() { "" } else { ", " };
        let seconds = level.reset.as_millis().div_ceil(1000);
        policy += &format!("{separator}\"{name}\";q={};w=60", level.limit);
        state += &format!("{separator}\"{name}\";r={};t={seconds}", level.remaining);
    }
    if let (Ok(policy), Ok(state)) = (HeaderValue::try_from(policy), HeaderValue::try_from(state))
        && !state.is_empty()
    {
        map.insert(IETF_POLICY, policy);
        map.insert(IETF, state);
    }
}

/// The second in which `reset` from `now` lies, rounded up.
fn epoch(now: SystemTime, reset: Duration) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = since.saturating_add(reset);
    at.as_secs() + u64::from(at.subsec_nanos() > 0)
}

/// `1s`, `6m0s`, `120ms`, as OpenAI writes spans.
fn span(time: Duration) -> HeaderValue {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (mut text, mut number) = (String::with_capacity(12), itoa::Buffer::new());
    let mut part = |value: u64, unit: &str| {
        text.push_str(number.format(value));
        text.push_str(unit);
    };
    let seconds = millis.div_ceil(1000);
    match (millis, seconds) {
        (0..1000, _) => part(millis, "ms"),
        (_, ..60) => part(seconds, "s"),
        (_, ..3600) => {
            part(seconds / 60, "m");
            part(seconds % 60, "s");
        }
        _ => {
            part(seconds / 3600, "h");
            part(seconds / 60 % 60, "m");
            part(seconds % 60, "s");
        }
    }
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0ms"))
}

/// `2027-01-01T00:00:00Z`, rounded up to the second. Written by hand: it stands on every answer.
fn utc(now: SystemTime, reset: Duration) -> HeaderValue {
    let seconds = epoch(now, reset);
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00Z";
    let mut digits = |at: usize, width: usize, mut value: u64| {
        for place in (at..at + width).rev() {
            if let Some(byte) = text.get_mut(place) {
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
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
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

    fn shown(style: Style, api: Api) -> Vec<String> {
        let reading = Reading {
            requests: Some(Level {
                limit: 600,
                remaining: 599,
                reset: Duration::from_millis(100),
            }),
            tokens: Some(Level {
                limit: 20_000,
                remaining: 0,
                reset: Duration::from_secs(360),
            }),
        };
        let mut map = HeaderMap::new();
        let now = UNIX_EPOCH + Duration::from_millis(1_798_761_599_950);
        tell(&mut map, style, api, reading, now);
        let mut lines: Vec<String> = map
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn an_openai_mount_tells_two_dialects() {
        let style = Style {
            api: Api::OpenAi,
            reset: Reset::Iso8601,
            ietf: false,
        };
        assert_eq!(
            shown(style, Api::OpenAi),
            [
                "x-ratelimit-limit-requests: 600",
                "x-ratelimit-limit-tokens: 20000",
                "x-ratelimit-limit: 600",
                "x-ratelimit-remaining-requests: 599",
                "x-ratelimit-remaining-tokens: 0",
                "x-ratelimit-remaining: 599",
                "x-ratelimit-reset-requests: 100ms",
                "x-ratelimit-reset-tokens: 6m0s",
                "x-ratelimit-reset: 2027-01-01T00:00:01Z",
            ]
        );
        let both = shown(style, Api::Anthropic);
        assert!(both.contains(&"x-ratelimit-limit-tokens: 20000".to_owned()));
        assert!(both.contains(&"anthropic-ratelimit-tokens-limit: 20000".to_owned()));
    }

    #[test]
    fn an_anthropic_mount_tells_anthropics() {
        let style = Style {
            api: Api::Anthropic,
            reset: Reset::Seconds,
            ietf: true,
        };
        let lines = shown(style, Api::Anthropic);
        for line in [
            "anthropic-ratelimit-requests-remaining: 599",
            "anthropic-ratelimit-requests-reset: 2027-01-01T00:00:01Z",
            "anthropic-ratelimit-input-tokens-limit: 20000",
            "anthropic-ratelimit-output-tokens-reset: 2027-01-01T00:06:00Z",
            "x-ratelimit-reset: 1",
            r#"ratelimit-policy: "requests";q=600;w=60, "tokens";q=20000;w=60"#,
            r#"ratelimit: "requests";r=599;t=1, "tokens";r=0;t=360"#,
        ] {
            assert!(lines.contains(&line.to_owned()), "{line} in {lines:#?}");
        }
        assert!(
            !lines
                .iter()
                .any(|line| line.starts_with("x-ratelimit-limit-requests"))
        );
        assert_eq!(lines.len(), 3 + 12 + 2);
    }

    #[test]
    fn an_epoch_is_in_seconds_and_rounded_up() {
        let style = Style {
            api: Api::OpenAi,
            reset: Reset::Epoch,
            ietf: false,
        };
        let lines = shown(style, Api::OpenAi);
        assert!(
            lines.contains(&"x-ratelimit-reset: 1798761601".to_owned()),
            "{lines:#?}"
        );
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
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_calendar_is_the_librarys() {
        for seconds in (0..8_000_000_000_i64).step_by(12_345_678) {
            let at = UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
            let expected = jiff::Timestamp::from_second(seconds).unwrap().to_string();
            assert_eq!(utc(at, Duration::ZERO), expected.as_str());
        }
    }
}
