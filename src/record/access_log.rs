//! The access log: one JSON line a request, written by a thread of its own behind a bounded queue.
//!
//! A request only pushes its event; when the queue is full the event is dropped and counted, since
//! a slow disk must not slow a client.

use super::event::Event;
use super::line::{Clock, write_line};
use crossbeam_queue::SegQueue;
use prometheus::IntCounter;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// Events that may wait: at 350 bytes each, some 6 MB. The queue takes memory as they come, in blocks: one with a place for
/// each of them would hold all of it from the start, and be written round and round.
const QUEUE: usize = 16_384;
/// How often the writer looks: a line is at most this late, and an idle gateway wakes ten times a
/// second. Waking it for each event would cost a system call on the request's path.
const PAUSE: Duration = Duration::from_millis(100);

/// The writer has so long to empty the queue when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where requests put their events.
#[derive(Debug)]
pub struct AccessLog {
    queue: Arc<SegQueue<Event>>,
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
        let queue = Arc::new(SegQueue::new());
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
        let waiting = self.queue.len();
        if waiting >= QUEUE {
            self.dropped.inc();
            return;
        }
        self.queue.push(event);
        // Half full: the writer's pause is too long for this rate.
        if waiting == QUEUE / 2 {
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
    queue: &SegQueue<Event>,
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
    use crate::record::event::{Failed, Outcome};
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
