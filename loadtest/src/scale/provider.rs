//! A provider that gives every request the same answer and counts them: what it has told is what a ledger must have. In a
//! thread of its own, so that it answers while the generator is busy.

use std::net::{SocketAddr, TcpListener as Listener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::Result;
use crate::ledger::money::Tokens;
use crate::ledger::provider::{receive, whole};
use crate::process::free_ports;
use crate::provider::ANSWER;

/// What each answer says that it used.
pub const USED: Tokens = Tokens {
    input: 42,
    cached: 0,
    output: 9,
};

/// A running provider; ends when dropped.
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    count: Arc<AtomicU64>,
    /// Dropped with it, which its thread hears.
    _end: oneshot::Sender<()>,
}

impl Provider {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let [address] = free_ports()?;
        let listener = Listener::bind(address)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("provider".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = serve(listener, &counted) => {}
                        _ = ended => {}
                    }
                });
            })?;
        Ok(Provider {
            address,
            count,
            _end: end,
        })
    }

    /// How many requests it has answered.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

async fn serve(listener: Listener, count: &Arc<AtomicU64>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let count = Arc::clone(count);
                // A gateway that ends closes its connections: no failure of the provider.
                conversations.spawn(async move { converse(stream, &count).await.is_ok() });
            }
            Some(_) = conversations.join_next() => {}
        }
    }
}

/// Answers the requests of one connection.
async fn converse(mut stream: TcpStream, count: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let answer = whole(200, std::str::from_utf8(ANSWER)?);
    let mut bytes = Vec::with_capacity(8 * 1024);
    loop {
        receive(&mut stream, &mut bytes).await?;
        count.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&answer).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_the_answer_says() -> Result<()> {
        let answer: serde_json::Value = serde_json::from_slice(ANSWER)?;
        assert_eq!(answer["usage"]["prompt_tokens"].as_u64(), Some(USED.input));
        assert_eq!(
            answer["usage"]["completion_tokens"].as_u64(),
            Some(USED.output)
        );
        Ok(())
    }

    #[tokio::test]
    async fn every_request_is_answered_and_counted_once() -> Result<()> {
        let provider = Provider::start()?;
        let outcome = crate::bench::load(provider.address, "any", 200, 4, 100)
            .run()
            .await?
            .correct()?;
        assert_eq!((outcome.requests, provider.count()), (100, 100));
        Ok(())
    }
}
