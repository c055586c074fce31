//! Many event streams at once: how much later than sent each event arrives, and whether any is missing.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::connection::Connection;
use crate::http::number;
use crate::load::microseconds;
use crate::target::{Answer, Target, chat_body, request};

/// Streams are opened one after the other, so far apart; also keeps their events from coming all at once.
pub const APART: Duration = Duration::from_micros(1_100);

/// One run of streams.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Where to.
    pub target: Target,
    /// The key that is sent.
    pub key: String,
    /// The model that is asked for.
    pub model: String,
    /// How many streams.
    pub streams: u32,
    /// How many events a stream, usage and end not counted.
    pub events: u64,
    /// Milliseconds between two events of a stream.
    pub interval_ms: u64,
}

/// What came of the streams.
pub struct Outcome {
    /// Stamped events that arrived.
    pub events: u64,
    /// Events that did not; usage and end count as one each.
    pub lost: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// From the provider's stamp to our reading, in microseconds.
    pub delay: Histogram<u64>,
}

impl Streams {
    /// The time until all streams are open.
    pub fn ramp(&self) -> Duration {
        APART * self.streams
    }

    /// The time between the last opening and the first end.
    pub fn steady(&self) -> Duration {
        Duration::from_millis(self.events * self.interval_ms).saturating_sub(self.ramp())
    }

    /// Runs all streams to their end, or to the deadline.
    pub async fn run(&self) -> Result<Outcome> {
        let answer = Answer::Events {
            count: self.events,
            interval_ms: self.interval_ms,
        };
        let body = chat_body(&self.model, answer);
        let bytes: Arc<[u8]> = request(&self.target, &self.key, answer, body.as_bytes()).into();
        let deadline = Duration::from_millis(self.events * self.interval_ms)
            + self.ramp()
            + Duration::from_secs(30);
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..self.streams {
            let (target, bytes) = (self.target.clone(), Arc::clone(&bytes));
            let left = deadline.saturating_sub(APART * number);
            tasks.spawn(async move {
                sleep((APART * number).saturating_sub(begin.elapsed())).await;
                let mut seen = Seen::default();
                let end = match timeout(left, follow(&target, &bytes, &mut seen)).await {
                    Ok(end) => end,
                    Err(_) => Err("the stream did not end in time".into()),
                };
                (seen, end)
            });
        }
        let expected = self.events + 2;
        let mut sum = Outcome {
            events: 0,
            lost: 0,
            first_error: None,
            delay: microseconds()?,
        };
        while let Some(part) = tasks.join_next().await {
            let (seen, end) = part?;
            let Seen {
                delays,
                usages,
                ends,
            } = seen;
            let arrived = delays.len() as u64;
            sum.events += arrived;
            sum.lost += expected.abs_diff(arrived + usages + ends);
            if let Err(error) = end {
                sum.first_error.get_or_insert_with(|| error.to_string());
            }
            for delay in delays {
                sum.delay.saturating_record(delay);
            }
        }
        Ok(sum)
    }
}

impl Outcome {
    /// The outcome, unless a stream failed or an event was lost: such a run counts for nothing.
    pub fn correct(self) -> Result<Self> {
        match (&self.first_error, self.lost) {
            (None, 0) => Ok(self),
            (error, lost) => Err(format!("{lost} events lost; first failure: {error:?}").into()),
        }
    }
}

/// What one stream brought.
#[derive(Default)]
struct Seen {
    delays: Vec<u64>,
    usages: u64,
    ends: u64,
}

/// Opens one stream and reads it to its end.
async fn follow(target: &Target, request: &[u8], seen: &mut Seen) -> Result<()> {
    let mut connection = Connection::open(target.address).await?;
    let mut head = connection.start(request).await?;
    if head.status != 200 {
        return Err(format!("status {}", head.status).into());
    }
    let mut text = Vec::with_capacity(1024);
    loop {
        let complete = connection.read(&mut head.body, &mut text).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let used = seen.read(&text, now);
        text.drain(..used);
        if complete {
            return if text.is_empty() {
                Ok(())
            } else {
                Err("half an event at the end of a stream".into())
            };
        }
    }
}

impl Seen {
    /// Takes note of the whole events at the front of `text`; returns how many bytes they were.
    fn read(&mut self, text: &[u8], now: u64) -> usize {
        let mut used = 0;
        while let Some(length) = find(&text[used..], b"\n\n") {
            let event = &text[used..used + length];
            used += length + 2;
            if let Some(stamp) = stamp(event) {
                self.delays.push(now.saturating_sub(stamp) / 1000);
            } else if find(event, br#""usage":{"#).is_some() {
                self.usages += 1;
            } else if event == b"data: [DONE]" {
                self.ends += 1;
            }
        }
        used
    }
}

/// The provider's clock in an event, in nanoseconds.
fn stamp(event: &[u8]) -> Option<u64> {
    let digits = &event[find(event, br#""t":"#)? + 4..];
    let length = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    number(&digits[..length])
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_once_they_are_whole() {
        let text =
            b"data: {\"t\":5000}\n\ndata: {\"usage\":{\"total_tokens\":1}}\n\ndata: [DONE]\n\nda";
        let mut seen = Seen::default();
        assert_eq!(seen.read(&text[..17], 9000), 0);
        assert_eq!(seen.read(text, 9000), text.len() - 2);
        assert_eq!(
            (seen.delays.as_slice(), seen.usages, seen.ends),
            ([4].as_slice(), 1, 1)
        );
    }
}
