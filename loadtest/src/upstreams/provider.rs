//! A provider that fails when told to: good answers and their count are those of [`crate::ledger::provider`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout, timeout_at};

use super::fault::Fault;
use crate::Result;
use crate::ledger::provider::{Book, receive, send_events, serve};
use crate::ledger::wish::{Kind, Wish};
use crate::process::free_ports;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Whoever is kept waiting is let go after this time.
const LONGEST: Duration = Duration::from_secs(60);

/// What a new connection that nobody has accepted yet is waited for, before the listener closes.
const LAST: Duration = Duration::from_millis(2);

/// A running provider; ends when dropped.
pub struct Provider {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it told of each request that it read.
    pub book: Arc<Book>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    fault: watch::Sender<Option<Fault>>,
    task: JoinHandle<()>,
}

/// What all of its connections have in common.
#[derive(Clone)]
struct Shared {
    book: Arc<Book>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    fault: watch::Receiver<Option<Fault>>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    /// Starts one that is well.
    pub async fn start(name: &'static str) -> Result<Self> {
        let [address] = free_ports()?;
        let listener = bound(address)?.listen(BACKLOG)?;
        let (fault, told) = watch::channel(None);
        let shared = Shared {
            book: Arc::default(),
            arrivals: Arc::default(),
            fault: told,
        };
        let (book, arrivals) = (Arc::clone(&shared.book), Arc::clone(&shared.arrivals));
        let task = tokio::spawn(async move {
            if let Err(error) = listen(address, listener, shared).await {
                eprintln!("loadtest: provider {name}: {error}");
            }
        });
        Ok(Provider {
            name,
            address,
            book,
            arrivals,
            fault,
            task,
        })
    }

    /// From now on it fails in this way, or is well again.
    pub fn become_so(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }

    /// When requests came, and connections that were reset unread; in order.
    pub fn arrivals(&self) -> Vec<Instant> {
        locked(&self.arrivals).clone()
    }
}

impl Shared {
    fn fault(&self) -> Option<Fault> {
        *self.fault.borrow()
    }

    fn arrived(&self) {
        locked(&self.arrivals).push(Instant::now());
    }
}

fn locked(arrivals: &Mutex<Vec<Instant>>) -> MutexGuard<'_, Vec<Instant>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port of one's own where nobody listens yet: it refuses connections.
fn bound(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn listen(address: SocketAddr, listener: TcpListener, mut shared: Shared) -> Result<()> {
    let mut listener = Some(listener);
    let mut conversations = JoinSet::new();
    loop {
        let open = match (shared.fault(), listener.take()) {
            (Some(Fault::Refused), open) => {
                if let Some(open) = open {
                    // Whoever is connected already is no connection that is refused.
                    let until = tokio::time::Instant::now() + LAST;
                    while let Ok(Ok((stream, _))) = timeout_at(until, open.accept()).await {
                        conversations.spawn(converse(stream, shared.clone()));
                    }
                }
                let held = bound(address)?;
                let well = |fault: &Option<Fault>| *fault != Some(Fault::Refused);
                shared.fault.wait_for(well).await?;
                held.listen(BACKLOG)?
            }
            (_, Some(open)) => open,
            (_, None) => bound(address)?.listen(BACKLOG)?,
        };
        tokio::select! {
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => {
                    conversations.spawn(converse(stream, shared.clone()));
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            changed = shared.fault.changed() => changed?,
            Some(_) = conversations.join_next() => {}
        }
        listener = Some(open);
    }
}

/// Answers the requests of one connection. A gateway that goes is no failure of the provider's.
async fn converse(stream: TcpStream, shared: Shared) {
    let _ = answer_all(stream, shared).await;
}

async fn answer_all(mut stream: TcpStream, mut shared: Shared) -> Result<()> {
    if shared.fault() == Some(Fault::ResetUnread) {
        shared.arrived();
        return Ok(stream.set_zero_linger()?);
    }
    stream.set_nodelay(true)?;
    let mut bytes = Vec::with_capacity(4 * 1024);
    let mut used = false;
    loop {
        tokio::select! {
            biased;
            readable = stream.readable() => readable?,
            closes = shared.fault.wait_for(|fault| fault.is_some_and(Fault::closes_idle)) => {
                closes?;
                return Ok(());
            }
        }
        let body = receive(&mut stream, &mut bytes).await?;
        shared.arrived();
        let Some(wish) = shared.book.came(Wish::find(&body)) else {
            return Ok(());
        };
        match (shared.fault(), wish.kind) {
            (Some(fault), kind) if fault.resets(kind) => {
                if Fault::WITHIN.contains(&fault) {
                    half(&mut stream, &shared.book, wish).await?;
                } else if used {
                    shared.book.note(wish, |told| told.reset_reused += 1);
                }
                return Ok(stream.set_zero_linger()?);
            }
            (Some(Fault::Stalled), _) => return gone(&mut stream).await,
            (Some(Fault::HalfClosed), _) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-ty").await?;
                stream.shutdown().await?;
                return gone(&mut stream).await;
            }
            (Some(Fault::StreamClosed), Kind::Stream(_)) => {
                half(&mut stream, &shared.book, wish).await?;
                stream.shutdown().await?;
                return gone(&mut stream).await;
            }
            (Some(Fault::StreamGarbage), Kind::Stream(_)) => {
                half(&mut stream, &shared.book, wish).await?;
                stream.write_all(b"\xff\0no chunk\r\n\r\n").await?;
                return gone(&mut stream).await;
            }
            (Some(fault), _) if fault.status().is_some() => {
                stream.write_all(&failure(fault)).await?;
            }
            _ => serve(&mut stream, &shared.book, wish, &body).await?,
        }
        used = true;
    }
}

impl Fault {
    /// Whether it ends an answer of this kind by a reset.
    fn resets(self, kind: Kind) -> bool {
        match self {
            Fault::ResetRead => true,
            Fault::StreamReset => matches!(kind, Kind::Stream(_)),
            _ => false,
        }
    }
}

/// The first half of a stream.
async fn half(stream: &mut TcpStream, book: &Book, wish: Wish) -> Result<()> {
    let Kind::Stream(events) = wish.kind else {
        return Ok(());
    };
    send_events(stream, book, wish, events / 2).await?;
    // A reset overtakes what was not read yet.
    sleep(Duration::from_millis(wish.wait_ms)).await;
    Ok(())
}

/// Waits until the gateway goes.
async fn gone(stream: &mut TcpStream) -> Result<()> {
    let mut scrap = [0; 1024];
    let closed = async {
        while stream.read(&mut scrap).await? > 0 {}
        std::io::Result::Ok(())
    };
    match timeout(LONGEST, closed).await {
        Ok(end) => Ok(end?),
        Err(_) => Ok(()),
    }
}

/// The answer of one that answers with a status; nothing in it is of use to a client.
fn failure(fault: Fault) -> Vec<u8> {
    let (status, field) = fault.status().unwrap_or((500, ""));
    let body = r#"{"error":{"message":"The provider is ill.","type":"server_error"}}"#;
    let length = body.len();
    format!("HTTP/1.1 {status} No\r\ncontent-type: application/json\r\n{field}content-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;
    use crate::ledger::traffic::body;
    use crate::target::{Answer, Target, request};
    use crate::upstreams::traffic::wish;

    /// Asks for an answer in one piece; gives its status.
    async fn ask(provider: &Provider) -> Result<u16> {
        let target = Target {
            address: provider.address,
            path: "/".to_owned(),
        };
        let bytes = request(&target, "key", Answer::Whole, body(wish(1)).0.as_bytes());
        let mut connection = Connection::open(provider.address).await?;
        let exchange = connection.exchange(&bytes, &mut Vec::new()).await;
        exchange.map(|(status, _)| status)
    }

    #[test]
    fn it_fails_as_told_and_is_well_again() -> Result<()> {
        crate::runtime()?.block_on(async {
            let provider = Provider::start("p1").await?;
            assert_eq!(ask(&provider).await?, 200);
            for fault in [Fault::Status429, Fault::Status401, Fault::Status503] {
                provider.become_so(Some(fault));
                let expected = fault.status().map(|(status, _)| status);
                assert_eq!(Some(ask(&provider).await?), expected);
            }
            let read = provider.arrivals().len();
            for fault in [Fault::ResetRead, Fault::HalfClosed, Fault::ResetUnread] {
                provider.become_so(Some(fault));
                assert!(ask(&provider).await.is_err(), "{fault:?}");
            }
            assert_eq!(provider.arrivals().len(), read + 3);
            let told = provider.book.told().get(&1).copied();
            assert!(told.is_some_and(|told| told.times == 6), "{told:?}");
            // The listener learns of it when it is polled again.
            provider.become_so(Some(Fault::Refused));
            let closed = async {
                while TcpStream::connect(provider.address).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(LONGEST, closed).await?;
            assert!(ask(&provider).await.is_err());
            provider.become_so(None);
            let open = async {
                while ask(&provider).await.ok() != Some(200) {
                    tokio::task::yield_now().await;
                }
            };
            timeout(LONGEST, open).await?;
            Ok(())
        })
    }
}
