//! The head of an answer: every header of ours, prepared.
//!
//! Names that are not among HTTP's own cost a hash over all of their bytes, and each value an allocation. On
//! every answer there are a dozen of them, so they are hashed once: a mount keeps one map for each
//! set of names, which is copied, and filled with slices of one text.

use super::rates::{self, Reset, Style};
use crate::id::RequestId;
use crate::limit::{Level, Reading};
use crate::route::Api;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::OnceLock;
use std::time::SystemTime;

/// `x-request-id`: what OpenAI's SDKs read.
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// `request-id`: what Anthropic's SDKs read.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// The place of a header whose value is somebody else's to put in: [`vacant`].
pub const VACANT: HeaderValue = HeaderValue::from_static("");

/// Whether a header has its place, but no value yet.
pub fn vacant(value: &HeaderValue) -> bool {
    value.is_empty()
}

/// One of the two limits that are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Requests,
    Tokens,
}

/// What a header's value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Id,
    Length,
    RetryAfter,
    RetryAfterMs,
    Limit(Of),
    Remaining(Of),
    /// When the bucket is full again, in the form that the mount's `X-RateLimit-Reset` has.
    Reset(Of, Reset),
    /// The same as a span of time.
    Span(Of),
    Policy,
    State,
}

/// What an answer of ours says beside its body.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The request's id.
    pub id: &'a RequestId,
    /// The protocol of its endpoint.
    pub api: Api,
    /// Where the caller's limits stand, if anyone asked.
    pub reading: Reading,
    /// When that was.
    pub now: SystemTime,
    /// The body's length, where it is ours to tell.
    pub length: Option<u64>,
    /// `Retry-After` in seconds, and in milliseconds.
    pub retry: Option<(u64, u64)>,
}

/// The heads of a mount's answers. A set of names is prepared when it is first used.
#[derive(Debug)]
pub struct Heads {
    style: Style,
    sheets: [OnceLock<Sheet>; 1 << 5],
}

/// One set of names.
#[derive(Debug)]
struct Sheet {
    /// In the order of `places`; what follows them is vacant.
    map: HeaderMap,
    /// Each value once.
    told: Vec<Told>,
    /// Which of them each header has.
    places: Vec<usize>,
}

impl Heads {
    /// The heads of a mount of this style.
    pub fn new(style: Style) -> Heads {
        Heads {
            style,
            sheets: Default::default(),
        }
    }

    /// The head of an answer. The places of `Content-Type`, `Date`, `Connection`, and of a `Content-Length` that is not
    /// told, are there and [`vacant`]; the caller sees to the type and the length, and Pingora to the other two.
    pub fn head(&self, facts: &Facts) -> HeaderMap {
        let sheet = usize::from(facts.reading.requests.is_some())
            | usize::from(facts.reading.tokens.is_some()) << 1
            | usize::from(facts.api == Api::Anthropic) << 2
            | usize::from(facts.length.is_some()) << 3
            | usize::from(facts.retry.is_some()) << 4;
        // There is one for each set of five bits.
        self.sheets[sheet]
            .get_or_init(|| Sheet::new(self.style, facts))
            .filled(facts)
    }
}

impl Sheet {
    fn new(style: Style, facts: &Facts) -> Sheet {
        let mut sheet = Sheet {
            map: HeaderMap::with_capacity(24),
            told: Vec::new(),
            places: Vec::new(),
        };
        sheet.put(X_REQUEST_ID, Told::Id);
        sheet.put(REQUEST_ID, Told::Id);
        if facts.length.is_some() {
            sheet.put(CONTENT_LENGTH, Told::Length);
        }
        if facts.retry.is_some() {
            sheet.put(RETRY_AFTER, Told::RetryAfter);
            sheet.put(RETRY_AFTER_MS, Told::RetryAfterMs);
        }
        sheet.put_rates(style, facts);
        for name in [CONTENT_TYPE, CONTENT_LENGTH, DATE, CONNECTION] {
            sheet.map.entry(name).or_insert(VACANT);
        }
        sheet
    }

    fn put(&mut self, name: HeaderName, told: Told) {
        let known = self.told.iter().position(|other| *other == told);
        let place = known.unwrap_or_else(|| {
            self.told.push(told);
            self.told.len() - 1
        });
        self.places.push(place);
        self.map.insert(name, VACANT);
    }

    /// A plan without a limit has no headers for it.
    fn put_rates(&mut self, style: Style, facts: &Facts) {
        use Of::{Requests, Tokens};
        let has = |of: Of| level(&facts.reading, of).is_some();
        let names = |prefix: &str, suffix: &str| {
            ["limit", "remaining", "reset"].map(|what| format!("{prefix}{what}{suffix}"))
        };
        if has(Requests) {
            let reset = Told::Reset(Requests, style.reset);
            self.put_level(names("x-ratelimit-", ""), Requests, reset);
        }
        if style.api == Api::OpenAi {
            for (of, suffix) in [(Requests, "-requests"), (Tokens, "-tokens")] {
                if has(of) {
                    self.put_level(names("x-ratelimit-", suffix), of, Told::Span(of));
                }
            }
        }
        // Anthropic's endpoints answer on OpenAI mounts too.
        if style.api == Api::Anthropic || facts.api == Api::Anthropic {
            // One limit holds for input and output together, and is told under all three names.
            for (of, kind) in [
                (Requests, "requests"),
                (Tokens, "tokens"),
                (Tokens, "input-tokens"),
                (Tokens, "output-tokens"),
            ] {
                if has(of) {
                    let prefix = format!("anthropic-ratelimit-{kind}-");
                    self.put_level(names(&prefix, ""), of, Told::Reset(of, Reset::Iso8601));
                }
            }
        }
        if style.ietf && (has(Requests) || has(Tokens)) {
            self.put(HeaderName::from_static("ratelimit-policy"), Told::Policy);
            self.put(HeaderName::from_static("ratelimit"), Told::State);
        }
    }

    fn put_level(&mut self, names: [String; 3], of: Of, reset: Told) {
        for (name, told) in names
            .into_iter()
            .zip([Told::Limit(of), Told::Remaining(of), reset])
        {
            if let Ok(name) = HeaderName::try_from(name) {
                self.put(name, told);
            }
        }
    }

    fn filled(&self, facts: &Facts) -> HeaderMap {
        /// More values than any head has.
        const MOST: usize = 16;
        let mut text = Vec::with_capacity(RequestId::LEN + 24 * self.told.len());
        let mut ends = [(0, 0); MOST];
        for (told, end) in self.told.iter().zip(&mut ends) {
            let begin = text.len();
            told.write(facts, &mut text);
            *end = (begin, text.len());
        }
        let text = Bytes::from(text);
        let mut map = self.map.clone();
        for (value, place) in map.values_mut().zip(&self.places) {
            if let Some((begin, end)) = ends.get(*place)
                && let Ok(told) = HeaderValue::from_maybe_shared(text.slice(*begin..*end))
            {
                *value = told;
            }
        }
        map
    }
}

fn level(reading: &Reading, of: Of) -> Option<Level> {
    match of {
        Of::Requests => reading.requests,
        Of::Tokens => reading.tokens,
    }
}

impl Told {
    fn write(self, facts: &Facts, text: &mut Vec<u8>) {
        let of = |of| level(&facts.reading, of).unwrap_or_default();
        let number = match self {
            Told::Id => return text.extend_from_slice(facts.id.as_bytes()),
            Told::Policy => return rates::write_policy(text, &facts.reading),
            Told::State => return rates::write_state(text, &facts.reading),
            Told::Span(level) => return rates::write_span(text, of(level).reset),
            Told::Reset(level, Reset::Iso8601) => {
                return rates::write_utc(text, facts.now, of(level).reset);
            }
            Told::Reset(level, Reset::Seconds) => rates::seconds(of(level).reset),
            Told::Reset(level, Reset::Epoch) => rates::epoch(facts.now, of(level).reset),
            Told::Limit(level) => of(level).limit,
            Told::Remaining(level) => of(level).remaining,
            Told::Length => facts.length.unwrap_or(0),
            Told::RetryAfter => facts.retry.map_or(0, |(seconds, _)| seconds),
            Told::RetryAfterMs => facts.retry.map_or(0, |(_, millis)| millis),
        };
        rates::write_number(text, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

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
        let map = Heads::new(style).head(&Facts {
            id: &RequestId::new(),
            api,
            reading,
            now: UNIX_EPOCH + Duration::from_millis(1_798_761_599_950),
            length: None,
            retry: None,
        });
        let mut lines: Vec<String> = map
            .iter()
            .filter(|(name, _)| name.as_str().contains("ratelimit"))
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
    fn what_an_answer_has_is_on_it_and_nothing_else() {
        let heads = Heads::new(Style {
            api: Api::OpenAi,
            reset: Reset::Iso8601,
            ietf: false,
        });
        let id = RequestId::new();
        let mut facts = Facts {
            id: &id,
            api: Api::OpenAi,
            reading: Reading::default(),
            now: UNIX_EPOCH,
            length: None,
            retry: None,
        };
        let names = |facts: &Facts| -> Vec<(String, String)> {
            let map = heads.head(facts);
            map.iter()
                .filter(|(_, value)| !vacant(value))
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect()
        };
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let ids = [
            line("x-request-id", id.as_str()),
            line("request-id", id.as_str()),
        ];
        assert_eq!(names(&facts), ids);
        facts.length = Some(274);
        facts.retry = Some((3, 2100));
        let more = [
            line("content-length", "274"),
            line("retry-after", "3"),
            line("retry-after-ms", "2100"),
        ];
        assert_eq!(names(&facts), [&ids[..], &more].concat());
        // The one that was prepared first has not changed.
        (facts.length, facts.retry) = (None, None);
        assert_eq!(names(&facts), ids);
    }
}
