//! What is looked at while traffic runs: memory, and whether the gateway still answers those who run it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::gateway::{ACCOUNT, Places};
use super::locked;
use crate::Result;
use crate::connection::Connection;
use crate::ledger::admin::TOKEN;
use crate::process::memory_of;

/// Memory is looked at so often.
const LOOK: Duration = Duration::from_millis(250);

/// Those who run it ask so often, and wait so long.
const ASK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at what processes hold in memory together, until dropped.
pub struct Memory {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    ids: Vec<u32>,
    peak: u64,
    most_alive: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Memory {
    /// Begins with one process.
    pub fn watch(id: u32) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            ids: vec![id],
            ..Seen::default()
        }));
        let looks = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let ids = locked(&looks).ids.clone();
                let alive = ids.iter().filter_map(|id| pss(*id));
                let (count, sum) = alive.fold((0, 0), |(count, sum), pss| (count + 1, sum + pss));
                {
                    let mut seen = locked(&looks);
                    seen.peak = seen.peak.max(sum);
                    seen.most_alive = seen.most_alive.max(count);
                }
                sleep(LOOK).await;
            }
        });
        Memory { seen, task }
    }

    /// Another one, beside those before.
    pub fn also(&self, id: u32) {
        locked(&self.seen).ids.push(id);
    }

    /// The most that all held together, in KiB.
    pub fn peak(&self) -> u64 {
        locked(&self.seen).peak
    }
}

/// Memory of a process in KiB, its share of shared pages (PSS); nothing once it has ended.
pub fn pss(id: u32) -> Option<u64> {
    memory_of(id).ok().map(|memory| memory.pss)
}

/// Asks what operators and balancers ask, each time on a new connection, until dropped.
pub struct Probe {
    log: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

/// One question, and its answer.
#[derive(Debug, Clone)]
struct Asked {
    what: &'static str,
    at: Instant,
    took: Duration,
    wrong: Option<String>,
}

/// What came of the questions of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// How often it was asked.
    pub asked: u64,
    /// What was wrong.
    pub wrong: Vec<String>,
    /// The longest that a right answer took.
    pub longest: Duration,
}

/// What is asked.
pub const LIVEZ: &str = "/livez";
/// What is asked.
pub const READYZ: &str = "/readyz";
/// What is asked.
pub const ADMIN: &str = "admin";

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probe {
    /// Begins.
    pub fn start(places: &Places) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (front, admin) = (places.front, places.admin.address);
        let asked = Arc::clone(&log);
        let task = tokio::spawn(async move {
            let account = format!("/admin/v1/accounts/{ACCOUNT}");
            loop {
                let ((), (), ()) = tokio::join!(
                    ask(&asked, LIVEZ, front, LIVEZ),
                    ask(&asked, READYZ, front, READYZ),
                    ask(&asked, ADMIN, admin, &account),
                );
                sleep(ASK).await;
            }
        });
        Probe { log, task }
    }

    /// What came of one question in some time.
    pub fn answers(&self, what: &str, from: Instant, until: Instant) -> Answers {
        let log = locked(&self.log);
        answers(&log, what, from, until)
    }
}

fn answers(log: &[Asked], what: &str, from: Instant, until: Instant) -> Answers {
    let within = log
        .iter()
        .filter(|one| one.what == what && one.at >= from && one.at <= until);
    let mut answers = Answers {
        asked: 0,
        wrong: Vec::new(),
        longest: Duration::ZERO,
    };
    for one in within {
        answers.asked += 1;
        match &one.wrong {
            Some(words) => answers.wrong.push(format!("{what}: {words}")),
            None => answers.longest = answers.longest.max(one.took),
        }
    }
    answers
}

async fn ask(log: &Mutex<Vec<Asked>>, what: &'static str, address: SocketAddr, path: &str) {
    let at = Instant::now();
    let wrong = match timeout(PATIENCE, get(address, path)).await {
        Ok(Ok((200, _))) => None,
        Ok(Ok((status, _))) => Some(format!("status {status}")),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {PATIENCE:?}")),
    };
    let took = at.elapsed();
    locked(log).push(Asked {
        what,
        at,
        took,
        wrong,
    });
}

/// Asks for a path on a new connection; gives status and body. The admin token goes with it.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>)> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    let mut connection = Connection::open(address).await?;
    let (status, _) = connection.exchange(request.as_bytes(), &mut answer).await?;
    Ok((status, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_question_and_time() {
        let begin = Instant::now();
        let asked = |what, after_ms, wrong: Option<&str>| Asked {
            what,
            at: begin + Duration::from_millis(after_ms),
            took: Duration::from_millis(after_ms),
            wrong: wrong.map(str::to_owned),
        };
        let log = [
            asked(LIVEZ, 0, Some("too soon")),
            asked(LIVEZ, 10, None),
            asked(ADMIN, 15, None),
            asked(LIVEZ, 20, Some("status 503")),
            asked(LIVEZ, 90, None),
        ];
        let at = |ms| begin + Duration::from_millis(ms);
        let expected = Answers {
            asked: 2,
            wrong: vec!["/livez: status 503".to_owned()],
            longest: Duration::from_millis(10),
        };
        assert_eq!(answers(&log, LIVEZ, at(5), at(50)), expected);
    }
}
