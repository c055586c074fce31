//! A stretch of wire: TCP connections are passed on to one address, until the wire hangs, is cut, or leads elsewhere.
//! It stands for what operators put in front of Redis, and for the network between.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::Result;
use crate::process::free_ports;

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// It arrives.
    Whole,
    /// Nothing arrives, and nobody is told.
    Hangs,
    /// Connections are closed at once.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct State {
    wire: Wire,
    target: SocketAddr,
    /// Connections of an earlier one are closed.
    generation: u64,
}

/// A running relay; ends when dropped, with its connections.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Starts one that leads to an address.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let [address] = free_ports()?;
        let listener = TcpListener::bind(address).await?;
        let (state, seen) = watch::channel(State {
            wire: Wire::Whole,
            target,
            generation: 0,
        });
        let task = tokio::spawn(accept(listener, seen));
        Ok(Relay {
            address,
            state,
            task,
        })
    }

    /// From now on nothing arrives, on connections old and new; nothing is lost either.
    pub fn hang(&self) {
        self.state.send_modify(|state| state.wire = Wire::Hangs);
    }

    /// Closes all connections, with what is on its way, and takes no new ones.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.wire = Wire::Cut;
            state.generation += 1;
        });
    }

    /// All is well again.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.wire = Wire::Whole);
    }

    /// Closes all connections, and leads elsewhere.
    pub fn lead(&self, target: SocketAddr) {
        self.state.send_modify(|state| {
            *state = State {
                wire: Wire::Whole,
                target,
                generation: state.generation + 1,
            }
        });
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(pass(stream, state.clone()));
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, for as long as its generation lasts.
async fn pass(client: TcpStream, mut state: watch::Receiver<State>) {
    let State {
        wire,
        target,
        generation,
    } = *state.borrow_and_update();
    if wire == Wire::Cut {
        return;
    }
    let ways = state.clone();
    let both = async {
        // While it hangs, nobody is asked either.
        let mut waiting = ways.clone();
        whole(&mut waiting).await;
        let Ok(server) = TcpStream::connect(target).await else {
            return;
        };
        if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
            return;
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = pump(from_client, to_server, ways.clone()) => {}
            () = pump(from_server, to_client, ways.clone()) => {}
        }
    };
    tokio::select! {
        () = both => {}
        // An error here is the end of the relay.
        _ = state.wait_for(|state| state.generation != generation) => {}
    }
}

/// Waits until the wire is whole.
async fn whole(state: &mut watch::Receiver<State>) {
    if state
        .wait_for(|state| state.wire == Wire::Whole)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Passes bytes on. What was read is written: only then is it asked whether the wire hangs.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        whole(&mut state).await;
        tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(length @ 1..) => {
                    if to.write_all(&bytes[..length]).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => return,
            },
            _ = state.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// Answers every byte with itself and one more.
    async fn echo(more: u8) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        if stream.write_u8(byte + more).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(address)
    }

    #[tokio::test]
    async fn a_wire_hangs_is_cut_and_leads_elsewhere() -> Result<()> {
        let relay = Relay::start(echo(1).await?).await?;
        let mut stream = TcpStream::connect(relay.address).await?;
        stream.write_u8(1).await?;
        assert_eq!(stream.read_u8().await?, 2);
        relay.hang();
        stream.write_u8(5).await?;
        let moment = Duration::from_millis(50);
        assert!(timeout(moment, stream.read_u8()).await.is_err());
        relay.heal();
        assert_eq!(stream.read_u8().await?, 6);
        relay.cut();
        assert!(stream.read_u8().await.is_err());
        let mut refused = TcpStream::connect(relay.address).await?;
        assert!(refused.read_u8().await.is_err());
        relay.lead(echo(3).await?);
        let mut stream = TcpStream::connect(relay.address).await?;
        stream.write_u8(1).await?;
        assert_eq!(stream.read_u8().await?, 4);
        Ok(())
    }
}
