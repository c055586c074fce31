//! The access log: one JSON line a request, written by a thread of its own behind a bounded queue.
//!
//! A request only pushes its event; when the queue is full the event is dropped and counted, since
//! a slow disk must not slow a client.

use super::event::{Event, Failed};
use crate::wire::json::encode_string;
use crossbeam_queue::ArrayQueue;
use prometheus::IntCounter;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// Events that may wait: at 300 bytes each, some 5 MB.
const QUEUE: usize = 16_384;
/// How often the writer looks: a line is at most this late, and an idle gateway wakes ten times a
/// second. Waking it for each event would cost a system call on the request's path.
const PAUSE: Duration = Duration::from_millis(100);

/// The writer has so long to empty the queue when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where requests put their events.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<ArrayQueue<Event>>,
    dropped: IntCounter,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Starts the writer.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        out: impl Write + Send + 'static,
        dropped: IntCounter,
    ) -> std::io::Result<AccessLog> {
        let queue = Arc::new(ArrayQueue::new(QUEUE));
        let stop = Arc::new(AtomicBool::new(false));
        let writer = thread::Builder::new().name("access-log".into()).spawn({
            let (queue, stop, dropped) = (queue.clone(), stop.clone(), dropped.clone());
            move || write_all(&queue, &stop, out, &dropped)
        })?;
        Ok(AccessLog {
            queue,
            dropped,
            stop,
            writer: Some(writer),
        })
    }

    /// Hands an event over, or counts it as dropped.
    pub fn push(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.dropped.inc();
        }
        // Half full: the writer's pause is too long for this rate.
        if self.queue.len() == QUEUE / 2 {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

impl Drop for AccessLog {
    /// Writes what is queued, then stops, or gives up on an output that takes nothing.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        let Some(writer) = self.writer.take() else {
            return;
        };
        // A pipe that nobody reads must not keep the process alive.
        let end = Instant::now() + LAST_WORDS;
        while !writer.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_all(
    queue: &ArrayQueue<Event>,
    stop: &AtomicBool,
    mut out: impl Write,
    dropped: &IntCounter,
) {
    let mut lines = Vec::with_capacity(64 << 10);
    let mut clock = Clock::default();
    loop {
        // Read before the queue is emptied, so that what came before the stop is written.
        let last = stop.load(Ordering::Acquire);
        let mut events: u64 = 0;
        while let Some(event) = queue.pop() {
            events += 1;
            write_line(&event, &mut clock, &mut lines);
            if lines.len() > 48 << 10 {
                break;
            }
        }
        if !lines.is_empty() {
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                dropped.inc_by(events);
            }
            lines.clear();
        } else if last {
            return;
        } else {
            thread::park_timeout(PAUSE);
        }
    }
}

/// Writes one line. By hand, since at full load a general serializer costs a tenth of a request.
fn write_line(event: &Event, clock: &mut Clock, lines: &mut Vec<u8>) {
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
struct Clock {
    second: Option<u64>,
    text: String,
}

impl Clock {
    fn show(&mut self, time: SystemTime) -> &str {
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

/// A time with milliseconds, in UTC.
pub fn rfc3339(time: SystemTime) -> String {
    match jiff::Timestamp::try_from(time) {
        Ok(stamp) => format!("{stamp:.3}"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secret::KeyHint;
    use crate::id::RequestId;
    use crate::record::event::Outcome;
    use crate::record::metrics::AttemptEnd;
    use crate::rejection::Code;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn event(status: u16) -> Event {
        Event {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            request_id: RequestId::new(),
            surface: "/v1".into(),
            operation: "chat",
            key: KeyHint::of("sk-0123456789abcdef"),
            account: Some("acme".into()),
            project: None,
            model: Some("m\r\n\"".into()),
            upstream: None,
            attempts: 2,
            failures: vec![Failed {
                upstream: "first".into(),
                end: AttemptEnd::ServerError,
                took: Duration::from_micros(2500),
            }],
            status,
            outcome: Outcome::Rejected(Code::UpstreamError),
            stream: false,
            cost: None,
            usage: None,
            total: Duration::from_micros(1234),
            first_byte: None,
            first_event: None,
            overhead: None,
            bytes_in: 10,
            bytes_out: 20,
            client: None,
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[test]
    fn the_clock_shows_what_the_calendar_would() {
        let mut clock = Clock::default();
        for millis in [0, 7, 999, 1000, 1001, 61_050, 86_400_000, 86_399_999] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(clock.show(time), rfc3339(time), "{millis}");
        }
    }

    #[test]
    fn every_event_is_one_line_of_json_even_when_the_log_is_closed_at_once() {
        let out = Shared::default();
        let log = AccessLog::start(out.clone(), counter()).unwrap();
        for status in 200..1200 {
            log.push(event(status));
        }
        drop(log);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 1000);
        assert_eq!(lines[0]["time"], "1970-01-01T00:00:01.500Z");
        assert_eq!(lines[0]["key"], "sk-01234");
        assert_eq!(lines[0]["model"], "m\r\n\"");
        assert_eq!(lines[0]["code"], "upstream_error");
        assert_eq!(lines[0]["duration_ms"], 1.234);
        let failed = &lines[0]["failed_attempts"][0];
        assert_eq!(
            (&failed["upstream"], &failed["outcome"]),
            (&"first".into(), &"server_error".into())
        );
        assert_eq!(failed["duration_ms"], 2.5);
        assert_eq!(lines[999]["status"], 1199);
    }

    /// Blocks in its first write until told to go on.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let dropped = counter();
        let (go, gate) = channel();
        let log = AccessLog::start(Stuck(gate), dropped.clone()).unwrap();
        for _ in 0..QUEUE * 3 {
            log.push(event(200));
        }
        // The writer took one batch at most; the queue holds its size; the rest is counted.
        let lost = dropped.get() as usize;
        assert!(lost > 0 && lost <= QUEUE * 2, "{lost}");
        drop(go);
        drop(log);
    }
}
