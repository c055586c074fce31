//! Which version of the file is served: asked for all the time, and compared with which was written when.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::versions::{is_invalid, of_models};
use crate::Result;
use crate::report::Samples;
use crate::steady::gateway::secret;
use crate::steady::locked;
use crate::steady::pool::Pool;

/// It is asked so often.
const ASK: Duration = Duration::from_millis(25);

/// One answer may take so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file that is valid must be served within this time.
pub const APPLIED: Duration = Duration::from_secs(2);

/// How the gateway learns of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// By SIGHUP.
    Signal,
    /// It looks by itself.
    Watch,
}

/// A file that was written.
#[derive(Debug, Clone, Copy)]
struct File {
    at: Instant,
    version: u64,
    cause: Cause,
}

/// Files that were written, in order.
#[derive(Debug, Clone, Default)]
pub struct Written(Vec<File>);

impl Written {
    /// Another one.
    pub fn add(&mut self, at: Instant, version: u64, cause: Cause) {
        self.0.push(File { at, version, cause });
    }

    /// How many, and how many of them are invalid.
    pub fn count(&self) -> (usize, usize) {
        let invalid = self.0.iter().filter(|file| is_invalid(file.version));
        (self.0.len(), invalid.count())
    }

    /// The last valid one at some moment.
    pub fn good_at(&self, moment: Instant) -> Option<u64> {
        let before = self.0.iter().rev().filter(|file| file.at <= moment);
        before
            .map(|file| file.version)
            .find(|version| !is_invalid(*version))
    }

    /// Whether a version may be what decides at a moment between two others: it was the last valid one when the
    /// first of them was past by no more than [`APPLIED`], or became it until the second.
    pub fn may_hold(&self, version: u64, from: Instant, until: Instant) -> bool {
        let earliest = from.checked_sub(APPLIED).unwrap_or(from);
        let oldest = self.good_at(earliest).unwrap_or(0);
        let newest = self.good_at(until).unwrap_or(0);
        !is_invalid(version) && (oldest..=newest).contains(&version)
    }
}

/// What was seen of one answer.
#[derive(Debug, Clone)]
struct Seen {
    asked: Instant,
    answered: Instant,
    version: std::result::Result<u64, String>,
}

/// Asks until dropped.
pub struct Sightings {
    log: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was seen, beside what was written.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Answers.
    pub seen: u64,
    /// Answers that do not tell what they must.
    pub wrong: Vec<String>,
    /// Valid versions that the gateway was signalled of and that were served before the next was written.
    pub served: u64,
    /// Valid versions that it was signalled of.
    pub valid: u64,
    /// Milliseconds from the rename until a version was served: of those it was signalled of.
    pub signalled_ms: Samples,
    /// The same of those that it found by itself.
    pub watched_ms: Samples,
}

impl Sightings {
    /// Begins.
    pub fn start(front: SocketAddr, key: &str) -> Self {
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nhost: {front}\r\nauthorization: Bearer {}\r\n\r\n",
            secret(key)
        );
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let task = tokio::spawn(async move {
            let pool = Pool::new(front);
            loop {
                let asked = Instant::now();
                let version = match timeout(PATIENCE, ask(&pool, &request)).await {
                    Ok(Ok(version)) => Ok(version),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer within {PATIENCE:?}")),
                };
                locked(&seen).push(Seen {
                    asked,
                    answered: Instant::now(),
                    version,
                });
                sleep(ASK).await;
            }
        });
        Sightings { log, task }
    }

    /// Compares.
    pub fn judge(&self, written: &Written) -> Verdict {
        judge(&locked(&self.log), written)
    }
}

async fn ask(pool: &Pool, request: &str) -> Result<u64> {
    let mut list = Vec::new();
    let answered = pool.exchange(request.as_bytes(), &mut list).await?;
    let list = String::from_utf8_lossy(&list);
    match (answered.status, of_models(&list)) {
        (200, Some(version)) => Ok(version),
        (status, _) => Err(format!("GET /v1/models: status {status}: {list}").into()),
    }
}

fn judge(log: &[Seen], written: &Written) -> Verdict {
    let mut verdict = Verdict {
        seen: log.len() as u64,
        ..Verdict::default()
    };
    for seen in log {
        match &seen.version {
            Ok(version) if written.may_hold(*version, seen.asked, seen.answered) => {}
            Ok(version) => {
                let good = written.good_at(seen.asked);
                verdict.wrong.push(format!(
                    "version {version} is served, and {good:?} was written"
                ));
            }
            Err(words) => verdict.wrong.push(words.clone()),
        }
    }
    for (index, file) in written.0.iter().enumerate() {
        let File { at, version, cause } = *file;
        if is_invalid(version) {
            continue;
        }
        let next = written.0.get(index + 1).map(|file| file.at);
        let first = log
            .iter()
            .find(|seen| seen.version.as_ref() == Ok(&version))
            .map(|seen| seen.answered);
        let lag = first.map(|first| first.saturating_duration_since(at).as_secs_f64() * 1000.0);
        match cause {
            Cause::Watch => {
                lag.into_iter().for_each(|lag| verdict.watched_ms.add(lag));
            }
            Cause::Signal => {
                let in_time = first.is_some_and(|first| next.is_none_or(|next| first <= next));
                verdict.valid += 1;
                verdict.served += u64::from(in_time);
                lag.into_iter()
                    .for_each(|lag| verdict.signalled_ms.add(lag));
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(begin: Instant) -> Written {
        let mut written = Written::default();
        for version in 7..13 {
            let at = begin + Duration::from_secs(3 * (version - 7));
            let cause = match version {
                10 => Cause::Watch,
                _ => Cause::Signal,
            };
            written.add(at, version, cause);
        }
        written
    }

    #[test]
    fn an_invalid_file_leaves_the_last_valid_one() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let written = written(begin);
        assert_eq!(written.good_at(at(0)), Some(7));
        assert_eq!(written.good_at(at(5_999)), Some(8));
        // 9 is invalid.
        assert_eq!(written.good_at(at(8_999)), Some(8));
        assert_eq!(written.good_at(at(9_000)), Some(10));
        assert!(written.may_hold(8, at(8_000), at(8_001)));
        assert!(!written.may_hold(9, at(6_500), at(6_501)));
        assert!(written.may_hold(8, at(10_000), at(10_001)));
        assert!(!written.may_hold(8, at(11_500), at(11_501)));
        assert!(!written.may_hold(11, at(11_500), at(11_501)));
    }

    #[test]
    fn what_is_served_is_compared_with_what_was_written() {
        let begin = Instant::now();
        let seen = |ms, version: std::result::Result<u64, &str>| Seen {
            asked: begin + Duration::from_millis(ms),
            answered: begin + Duration::from_millis(ms),
            version: version.map_err(str::to_owned),
        };
        let log = [
            seen(40, Ok(7)),
            seen(3_100, Ok(8)),
            seen(6_100, Ok(9)),
            seen(8_000, Ok(8)),
            seen(11_900, Ok(8)),
            seen(12_900, Err("closed")),
            seen(13_000, Ok(10)),
        ];
        let verdict = judge(&log, &written(begin));
        assert_eq!(verdict.wrong.len(), 3, "{:?}", verdict.wrong);
        assert_eq!((verdict.seen, verdict.valid, verdict.served), (7, 4, 2));
        assert_eq!(verdict.signalled_ms.median(), 70.0);
        assert_eq!(verdict.watched_ms.median(), 4_000.0);
    }
}
