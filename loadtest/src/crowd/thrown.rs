//! Requests that are thrown at a gateway, more than it may take: each is answered well, or refused with 503 and
//! `Retry-After`, or something is wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::members::connect;
use crate::Result;
use crate::http::{fields, head_length, response_head};

/// How long one may take, from its first byte to its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many connect at a time.
const AT_ONCE: usize = 64;

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// 200.
    Well,
    /// 503 with `Retry-After`: so long after it was sent, but for what was kept back of its body.
    Refused(Duration),
    /// Anything else, in words.
    Wrong(String),
}

/// What came of all.
#[derive(Debug, Clone, Default)]
pub struct Ends(Vec<End>);

impl Ends {
    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// How many were answered well.
    pub fn well(&self) -> u64 {
        self.0.iter().filter(|end| **end == End::Well).count() as u64
    }

    /// How long refusals took.
    pub fn refused(&self) -> Vec<Duration> {
        let refused = self.0.iter().filter_map(|end| match end {
            End::Refused(after) => Some(*after),
            _ => None,
        });
        refused.collect()
    }

    /// Those of others as well.
    pub fn extend(&mut self, others: Ends) {
        self.0.extend(others.0);
    }

    /// What was wrong.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.0.iter().filter_map(|end| match end {
            End::Wrong(words) => Some(words.clone()),
            _ => None,
        });
        wrong.collect()
    }
}

/// Requests under way; they end when dropped.
pub struct Thrown {
    tasks: JoinSet<End>,
    rest: watch::Sender<bool>,
    begun: Arc<Semaphore>,
    count: u64,
}

impl Thrown {
    /// Throws requests. Of each the last bytes are kept back, so many, until [`Thrown::complete`]; none may be. Only so many
    /// are under way at a time, those not counted of which something is kept back.
    pub fn throw(front: SocketAddr, requests: Vec<Vec<u8>>, kept: usize, at_once: usize) -> Self {
        let (rest, wanted) = watch::channel(kept == 0);
        let begun = Arc::new(Semaphore::new(0));
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let turns = Arc::new(Semaphore::new(at_once));
        let count = requests.len() as u64;
        let mut tasks = JoinSet::new();
        for (index, request) in (0_u64..).zip(requests) {
            let (wanted, begun, room) = (wanted.clone(), Arc::clone(&begun), Arc::clone(&room));
            let (begun, turns) = (Begun(begun), Arc::clone(&turns));
            tasks.spawn(async move {
                let mut turn = None;
                if kept == 0 {
                    turn = turns.acquire().await.ok();
                }
                let seat = room.acquire_owned().await;
                let stream = connect(index, None, front).await;
                drop(seat);
                // From when it can be answered: when the head is sent, and as much of the body as is sent at once.
                let mut begin = Instant::now();
                let sent = async {
                    let (reader, mut writer) = stream?.into_split();
                    let answer = answer(reader);
                    let (first, last) = request.split_at(request.len().saturating_sub(kept));
                    let write = async {
                        // Who is refused need not read all: the answer tells.
                        let _ = writer.write_all(first).await;
                        begin = Instant::now();
                        drop(begun);
                        let mut wanted = wanted;
                        let _ = wanted.wait_for(|wanted| *wanted).await;
                        if turn.is_none() {
                            turn = turns.acquire().await.ok();
                        }
                        if head_length(first).is_none() {
                            begin = Instant::now();
                        }
                        let _ = writer.write_all(last).await;
                        std::future::pending::<()>().await;
                    };
                    tokio::select! {
                        answered = answer => answered,
                        () = write => Err("not answered".into()),
                    }
                };
                let sent = timeout(PATIENCE, sent).await;
                end(
                    sent.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}").into())),
                    begin,
                )
            });
        }
        Thrown {
            tasks,
            rest,
            begun,
            count,
        }
    }

    /// Waits until all have sent what they do not keep back, or were answered, or so long.
    pub async fn begun(&self, patience: Duration) {
        let all = u32::try_from(self.count).unwrap_or(u32::MAX);
        let _ = timeout(patience, self.begun.acquire_many(all)).await;
    }

    /// Sends the rest, and gives what came of all.
    pub async fn complete(mut self) -> Result<Ends> {
        self.rest.send_replace(true);
        let mut ends = Ends::default();
        while let Some(end) = self.tasks.join_next().await {
            ends.0.push(end?);
        }
        Ok(ends)
    }
}

/// Tells once, however it comes to its end, that a request has sent what it does not keep back.
struct Begun(Arc<Semaphore>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

fn end(answered: Result<(u16, bool)>, begin: Instant) -> End {
    match answered {
        Ok((200, _)) => End::Well,
        Ok((503, true)) => End::Refused(begin.elapsed()),
        Ok((503, false)) => End::Wrong("503 without Retry-After".to_owned()),
        Ok((status, _)) => End::Wrong(format!("status {status}")),
        Err(error) => End::Wrong(error.to_string()),
    }
}

/// Reads an answer to its end; gives its status, and whether it says when to come again.
async fn answer(mut reader: OwnedReadHalf) -> Result<(u16, bool)> {
    let mut bytes = Vec::with_capacity(1024);
    let (head, again) = loop {
        if let Some(head) = response_head(&bytes)? {
            let again = fields(&bytes[..head.length])
                .any(|(name, _)| name.eq_ignore_ascii_case(b"retry-after"));
            bytes.drain(..head.length);
            if head.status >= 200 {
                break (head, again);
            }
            continue;
        }
        if reader.read_buf(&mut bytes).await? == 0 {
            return Err("closed without an answer".into());
        }
    };
    let mut body = head.body;
    loop {
        let (used, complete) = body.feed(&bytes, |_| ())?;
        bytes.drain(..used);
        if complete {
            return Ok((head.status, again));
        }
        if reader.read_buf(&mut bytes).await? == 0 {
            return Err("closed within an answer".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn refusals_are_told_from_what_is_wrong() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let front = listener.local_addr()?;
        tokio::spawn(async move {
            let answers: [&[u8]; 4] = [
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                b"HTTP/1.1 503 No\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
                b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no",
            ];
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept().await else {
                    return;
                };
                let mut bytes = [0; 4];
                let _ = stream.read_exact(&mut bytes).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let thrown = Thrown::throw(front, vec![b"GET\n".to_vec(); 4], 1, 4);
        thrown.begun(Duration::from_secs(5)).await;
        let ends = thrown.complete().await?;
        assert_eq!((ends.count(), ends.well(), ends.refused().len()), (4, 1, 1));
        assert_eq!(ends.wrong().len(), 2, "{ends:?}");
        Ok(())
    }
}
