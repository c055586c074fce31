//! One line of the access log.

use super::access_log::rfc3339;
use super::event::{Event, Failed};
use crate::wire::json::encode_string;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// Most lines are shorter.
const USUAL: usize = 1024;

/// Writes one line. By hand, since at full load a general serializer costs a tenth of a request.
pub(super) fn write_line(event: &Event, clock: &mut Clock, lines: &mut Vec<u8>) {
    lines.reserve(USUAL);
    let mut line = Line(lines);
    line.plain(r#"{"time":""#, clock.show(event.time));
    line.plain(r#"","request_id":""#, event.request_id.as_str());
    line.raw(r#"","surface":"#);
    line.text(&event.surface);
    line.plain(r#","operation":""#, event.operation);
    line.raw(r#"","key":"#);
    line.text(event.key.as_str());
    line.maybe_text(r#","account":"#, event.account.as_deref());
    line.maybe_text(r#","project":"#, event.project.as_deref());
    line.maybe_text(r#","model":"#, event.model.as_deref());
    line.maybe_text(r#","upstream":"#, event.upstream.as_deref());
    line.number(r#","attempts":"#, Some(u64::from(event.attempts)));
    line.failures(&event.failures);
    line.number(r#","status":"#, Some(u64::from(event.status)));
    line.plain(r#","code":""#, event.outcome.code());
    line.raw(match event.stream {
        true => r#"","stream":true"#,
        false => r#"","stream":false"#,
    });
    let tokens = event.usage.map(|(usage, _)| usage);
    line.number(r#","input_tokens":"#, tokens.map(|usage| usage.input));
    line.number(
        r#","cached_tokens":"#,
        tokens.map(|usage| usage.cached_input),
    );
    line.number(r#","output_tokens":"#, tokens.map(|usage| usage.output));
    line.word(
        r#","usage":"#,
        event.usage.map(|(_, source)| source.as_str()),
    );
    match event.cost {
        // Writing to a vector never fails.
        Some((cost, _)) => drop(write!(line.0, r#","cost":"{cost}""#)),
        None => line.raw(r#","cost":null"#),
    }
    line.word(
        r#","charge":"#,
        event.cost.map(|(_, source)| source.as_str()),
    );
    line.millis(r#","duration_ms":"#, Some(event.total));
    line.millis(r#","first_byte_ms":"#, event.first_byte);
    line.millis(r#","overhead_ms":"#, event.overhead);
    line.number(r#","bytes_in":"#, Some(event.bytes_in));
    line.number(r#","bytes_out":"#, Some(event.bytes_out));
    line.address(r#","client":"#, event.client);
    line.raw("}\n");
}

/// A JSON object on one line, piece by piece: what stands between two values is one text.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A text without anything that JSON escapes; its quotes are the neighbours'.
    fn plain(&mut self, before: &str, value: &str) {
        self.raw(before);
        self.raw(value);
    }

    fn text(&mut self, value: &str) {
        encode_string(value, self.0);
    }

    fn maybe_text(&mut self, before: &str, value: Option<&str>) {
        self.raw(before);
        match value {
            Some(value) => self.text(value),
            None => self.raw("null"),
        }
    }

    /// One of our own words.
    fn word(&mut self, before: &str, value: Option<&str>) {
        self.raw(before);
        match value {
            Some(value) => {
                self.plain("\"", value);
                self.raw("\"");
            }
            None => self.raw("null"),
        }
    }

    /// Attempts that were followed by another, in their order.
    fn failures(&mut self, failures: &[Failed]) {
        self.raw(r#","failed_attempts":["#);
        for (nth, failed) in failures.iter().enumerate() {
            self.raw(match nth {
                0 => r#"{"upstream":"#,
                _ => r#",{"upstream":"#,
            });
            self.text(&failed.upstream);
            self.word(r#","outcome":"#, Some(failed.end.as_str()));
            self.millis(r#","duration_ms":"#, Some(failed.took));
            self.raw("}");
        }
        self.raw("]");
    }

    fn number(&mut self, before: &str, value: Option<u64>) {
        self.raw(before);
        match value {
            Some(value) => self.raw(itoa::Buffer::new().format(value)),
            None => self.raw("null"),
        }
    }

    /// Milliseconds with three decimals.
    fn millis(&mut self, before: &str, value: Option<Duration>) {
        let micros = value.map(|value| u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
        self.number(before, micros.map(|micros| micros / 1000));
        if let Some(micros) = micros {
            let rest = micros % 1000;
            let digits = [rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8);
            self.0.push(b'.');
            self.0.extend_from_slice(&digits);
        }
    }

    fn address(&mut self, before: &str, address: Option<IpAddr>) {
        self.raw(before);
        match address {
            Some(IpAddr::V4(ip)) => {
                for (nth, part) in ip.octets().into_iter().enumerate() {
                    self.raw(if nth == 0 { "\"" } else { "." });
                    self.raw(itoa::Buffer::new().format(part));
                }
                self.raw("\"");
            }
            Some(IpAddr::V6(ip)) => drop(write!(self.0, "\"{ip}\"")),
            None => self.raw("null"),
        }
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
