//! One line of the access log.

use super::access_log::rfc3339;
use super::event::{Event, Failed};
use crate::wire::json::encode_string;
use std::io::Write;
use std::time::{Duration, SystemTime};

/// Writes one line. By hand, since at full load a general serializer costs a tenth of a request.
pub(super) fn write_line(event: &Event, clock: &mut Clock, lines: &mut Vec<u8>) {
    let mut line = Line::begin(lines);
    line.text("time", clock.show(event.time));
    line.text("request_id", event.request_id.as_str());
    line.text("surface", &event.surface);
    line.text("operation", event.operation);
    line.text("key", event.key.as_str());
    line.maybe_text("account", event.account.as_deref());
    line.maybe_text("project", event.project.as_deref());
    line.maybe_text("model", event.model.as_deref());
    line.maybe_text("upstream", event.upstream.as_deref());
    line.number("attempts", Some(u64::from(event.attempts)));
    line.failures(&event.failures);
    line.number("status", Some(u64::from(event.status)));
    line.text("code", event.outcome.code());
    line.raw("stream", if event.stream { b"true" } else { b"false" });
    let tokens = event.usage.map(|(usage, _)| usage);
    line.number("input_tokens", tokens.map(|usage| usage.input));
    line.number("cached_tokens", tokens.map(|usage| usage.cached_input));
    line.number("output_tokens", tokens.map(|usage| usage.output));
    line.maybe_text("usage", event.usage.map(|(_, source)| source.as_str()));
    match event.cost {
        Some((cost, _)) => line.plain("cost", format_args!("{cost}")),
        None => line.raw("cost", b"null"),
    }
    line.maybe_text("charge", event.cost.map(|(_, source)| source.as_str()));
    line.millis("duration_ms", Some(event.total));
    line.millis("first_byte_ms", event.first_byte);
    line.millis("overhead_ms", event.overhead);
    line.number("bytes_in", Some(event.bytes_in));
    line.number("bytes_out", Some(event.bytes_out));
    match event.client {
        Some(ip) => line.plain("client", format_args!("{ip}")),
        None => line.raw("client", b"null"),
    }
    line.end();
}

/// A JSON object on one line, member by member.
struct Line<'a> {
    bytes: &'a mut Vec<u8>,
    separator: u8,
}

impl Line<'_> {
    fn begin(bytes: &mut Vec<u8>) -> Line<'_> {
        Line {
            bytes,
            separator: b'{',
        }
    }

    fn end(self) {
        self.bytes.extend_from_slice(b"}\n");
    }

    fn name(&mut self, name: &str) {
        self.bytes.push(self.separator);
        self.separator = b',';
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn raw(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.bytes.extend_from_slice(value);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        encode_string(value, self.bytes);
    }

    fn maybe_text(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.raw(name, b"null"),
        }
    }

    /// Attempts that were followed by another, in their order.
    fn failures(&mut self, failures: &[Failed]) {
        self.name("failed_attempts");
        self.bytes.push(b'[');
        for (nth, failed) in failures.iter().enumerate() {
            if nth > 0 {
                self.bytes.push(b',');
            }
            let mut one = Line {
                bytes: self.bytes,
                separator: b'{',
            };
            one.text("upstream", &failed.upstream);
            one.text("outcome", failed.end.as_str());
            one.millis("duration_ms", Some(failed.took));
            self.bytes.push(b'}');
        }
        self.bytes.push(b']');
    }

    /// A text without anything that JSON escapes.
    fn plain(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.name(name);
        // Writing to a vector never fails.
        let _ = write!(self.bytes, "\"{value}\"");
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        self.name(name);
        match value {
            Some(value) => self
                .bytes
                .extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
            None => self.bytes.extend_from_slice(b"null"),
        }
    }

    /// Milliseconds with three decimals.
    fn millis(&mut self, name: &str, value: Option<Duration>) {
        let Some(value) = value else {
            return self.raw(name, b"null");
        };
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.number(name, Some(micros / 1000));
        let rest = micros % 1000;
        let digits = [rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8);
        self.bytes.push(b'.');
        self.bytes.extend_from_slice(&digits);
    }
}

/// Shows times; the calendar is asked once a second.
#[derive(Default)]
pub(super) struct Clock {
    second: Option<u64>,
    text: String,
}

impl Clock {
    pub(super) fn show(&mut self, time: SystemTime) -> &str {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        if self.second != Some(since.as_secs()) || self.text.is_empty() {
            self.second = Some(since.as_secs());
            self.text = rfc3339(time);
            return &self.text;
        }
        // `….123Z`: only the milliseconds differ.
        self.text.truncate(self.text.len().saturating_sub(4));
        let millis = since.subsec_millis();
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            self.text.push(char::from(b'0' + digit as u8));
        }
        self.text.push('Z');
        &self.text
    }
}
