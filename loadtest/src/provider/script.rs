//! What the provider is to do: by its command line, unless a request's headers say otherwise.

use std::fmt;
use std::str::FromStr;

use clap::Args;

use super::answer::SMALLEST;
use super::fault::Fault;
use super::latency::Latency;
use crate::http;

/// The largest answer.
const LARGEST: u64 = 1 << 30;

/// The most events, and the longest interval between two.
const MOST_EVENTS: u64 = 1_000_000;
const LONGEST_INTERVAL_MS: u64 = 60_000;

/// A provider's ways. A request's header is called as the setting is, with `x-` before it: `x-latency: 20ms`.
#[derive(Debug, Clone, Copy, PartialEq, Args)]
pub struct Script {
    /// Events of a stream.
    #[arg(long, default_value = "20", value_parser = events)]
    pub events: u64,
    /// Milliseconds between events.
    #[arg(long, default_value = "50", value_parser = interval)]
    pub interval_ms: u64,
    /// The time before an answer: 20ms, 10ms..50ms (all alike) or p50=20ms,p99=200ms (log-normal).
    #[arg(long)]
    pub latency: Option<Latency>,
    /// The size of a plain answer; without it, the 274 bytes that the method names.
    #[arg(long, value_parser = size)]
    pub answer_bytes: Option<u64>,
    /// Fail: status=503, reset, silence, cut=100 (bytes) or garbage; with @0.1 behind it, one time in ten.
    #[arg(long)]
    pub fault: Option<Fault>,
}

/// A header that cannot be read: its name and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(&'static str, String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x-{}: {}", self.0, self.1)
    }
}

impl Script {
    /// This script, but for what the headers of a request say. Costs a plain request no more than a look at its names.
    pub fn with_headers(mut self, head: &[u8]) -> Result<Self, Unreadable> {
        for (name, value) in http::fields(head) {
            let Some((b"x-" | b"X-", name)) = name.split_at_checked(2) else {
                continue;
            };
            let is = |setting: &str| name.eq_ignore_ascii_case(setting.as_bytes());
            if is("events") {
                self.events = read("events", value, events)?;
            } else if is("interval-ms") {
                self.interval_ms = read("interval-ms", value, interval)?;
            } else if is("latency") {
                self.latency = Some(read("latency", value, Latency::from_str)?);
            } else if is("answer-bytes") {
                self.answer_bytes = Some(read("answer-bytes", value, size)?);
            } else if is("fault") {
                self.fault = Some(read("fault", value, Fault::from_str)?);
            }
        }
        Ok(self)
    }
}

/// Reads a header's value.
fn read<T>(
    name: &'static str,
    value: &[u8],
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Unreadable> {
    std::str::from_utf8(value)
        .map_err(|_| "not UTF-8".to_owned())
        .and_then(parse)
        .map_err(|why| Unreadable(name, why))
}

fn within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a number from {least} to {most}")),
    }
}

fn events(text: &str) -> Result<u64, String> {
    within(text, 0, MOST_EVENTS)
}

fn interval(text: &str) -> Result<u64, String> {
    within(text, 0, LONGEST_INTERVAL_MS)
}

fn size(text: &str) -> Result<u64, String> {
    within(text, SMALLEST, LARGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Script = Script {
        events: 20,
        interval_ms: 50,
        latency: None,
        answer_bytes: None,
        fault: None,
    };

    #[test]
    fn headers_go_before_the_command_line() -> Result<(), String> {
        let plain = b"POST / HTTP/1.1\r\nhost: h\r\nx-request-id: 1\r\nx: y\r\n\r\n";
        assert_eq!(DEFAULT.with_headers(plain), Ok(DEFAULT));
        let head =
            b"POST / HTTP/1.1\r\nx-events: 3\r\nX-Interval-Ms:7\r\nx-latency: 10ms..20ms\r\n\
                     x-answer-bytes: 5000\r\nx-fault: status=503@0.5\r\n\r\n";
        let script = Script {
            events: 3,
            interval_ms: 7,
            latency: Some("10ms..20ms".parse()?),
            answer_bytes: Some(5000),
            fault: Some("status=503@0.5".parse()?),
        };
        assert_eq!(DEFAULT.with_headers(head), Ok(script));
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_name() {
        for (line, name) in [
            ("x-events: many", "x-events: "),
            ("x-events: 1000001", "x-events: "),
            ("x-interval-ms: -1", "x-interval-ms: "),
            ("x-latency: soon", "x-latency: "),
            ("x-answer-bytes: 1", "x-answer-bytes: "),
            ("x-fault: often", "x-fault: "),
        ] {
            let head = format!("POST / HTTP/1.1\r\n{line}\r\n\r\n");
            let error = DEFAULT.with_headers(head.as_bytes()).err();
            let words = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(words.starts_with(name), "{line}: {words}");
        }
    }
}
