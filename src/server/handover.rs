//! An upgrade without a gap: this process starts its successor, hands it the listening sockets and the store, and goes
//! on as before unless the successor says that it serves.
//!
//! The successor's standard input is one end of a pair of sockets. Over it go lines:
//!
//! | who | line | meaning |
//! | --- | --- | --- |
//! | before | a JSON array | the listening sockets, which come with it, by name and configured address |
//! | after | `store` | all that can fail without the store has succeeded; now the store, please |
//! | before | `store` | it is closed, if there is one |
//! | after | `serving` | it accepts connections |
//!
//! Until `serving` the process before accepts connections itself, and decides by what it has in memory. If the line
//! does not come in time, or the other end is closed, the successor is killed, and the store opened again.

mod launch;
mod sockets;

pub use launch::Launch;
pub use sockets::{Part, Socket};

use sockets::{Name, receive, send};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Child, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

/// Set in the successor's environment: the process before it.
const VARIABLE: &str = "TOLLGATE_PREDECESSOR";
/// The successor hears of the sockets within this time, or never.
const GREETING: Duration = Duration::from_secs(10);
/// The process before closes its store within this time.
const LENDING: Duration = Duration::from_secs(30);

const STORE: &str = "store";
const SERVING: &str = "serving";

/// A successor that does not serve yet; dropped, it is killed.
#[derive(Debug)]
pub struct Successor {
    child: Option<Child>,
    channel: BufReader<UnixStream>,
}

impl Successor {
    /// Starts it, and sends it the sockets.
    ///
    /// # Errors
    /// One line.
    pub fn start(launch: &Launch, sockets: &[Socket]) -> Result<Successor, String> {
        let program = launch.program.display();
        let (ours, theirs) = StdStream::pair().map_err(|error| error.to_string())?;
        let mut command = launch.command();
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        command.env(VARIABLE, std::process::id().to_string());
        let child = command.spawn();
        // With it goes the other end of the pair: who reads here hears of the child's death.
        drop(command);
        let child = child.map_err(|error| format!("cannot start {program}: {error}"))?;
        let sent = send(&ours, sockets).and_then(|()| {
            ours.set_nonblocking(true)?;
            UnixStream::from_std(ours)
        });
        let mut child = Some(child);
        match sent {
            Ok(channel) => Ok(Successor {
                child,
                channel: BufReader::new(channel),
            }),
            Err(error) => {
                let end = end(&mut child);
                Err(format!("cannot pass the sockets on: {error}{end}"))
            }
        }
    }

    /// Waits until it wants the store.
    ///
    /// # Errors
    /// One line: it says something else, or has died.
    pub async fn wants_store(&mut self) -> Result<(), String> {
        self.says(STORE).await
    }

    /// The store is closed: waits until it serves.
    ///
    /// # Errors
    /// One line: it says something else, or has died.
    pub async fn takes_store(&mut self) -> Result<(), String> {
        let line = format!("{STORE}\n");
        let told = self.channel.get_mut().write_all(line.as_bytes()).await;
        told.map_err(|error| format!("it ended before it had the store: {error}"))?;
        self.says(SERVING).await
    }

    async fn says(&mut self, word: &str) -> Result<(), String> {
        let mut line = String::new();
        match self.channel.read_line(&mut line).await {
            Ok(0) => Err("it ended before it served".into()),
            // What it was sent, it has not read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err("it ended before it served".into())
            }
            Ok(_) if line.trim_end() == word => Ok(()),
            Ok(_) => Err(format!(
                "it said {:?} in place of {word:?}",
                line.trim_end()
            )),
            Err(error) => Err(format!("it cannot be heard: {error}")),
        }
    }

    /// It serves: it lives on. Gives its process id.
    pub fn release(mut self) -> u32 {
        self.child.take().map_or(0, |child| child.id())
    }

    /// Kills it, if it has not ended by itself; tells how it ended.
    pub fn end(mut self) -> String {
        end(&mut self.child)
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// How a child ended: by itself, if it did.
fn end(child: &mut Option<Child>) -> String {
    let Some(mut child) = child.take() else {
        return String::new();
    };
    // Its end of the channel closes a moment before it has ended.
    for _ in 0..20 {
        match child.try_wait() {
            Ok(Some(status)) => return format!("; process {} ended with {status}", child.id()),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    format!("; process {} was killed", child.id())
}

/// The process before this one, as its successor sees it.
#[derive(Debug)]
pub struct Predecessor {
    /// Its process id.
    pub pid: u32,
    sockets: Vec<Socket>,
    channel: BufReader<UnixStream>,
}

impl Predecessor {
    /// Whether another process has started this one as its successor: its sockets. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// One line: standard input is not what such a process would have made it.
    pub fn of_this_process() -> Result<Option<Predecessor>, String> {
        let Some(pid) = std::env::var(VARIABLE).ok() else {
            return Ok(None);
        };
        let wrong = |error: &dyn std::fmt::Display| {
            format!("{VARIABLE} is set, but no process hands over: {error}")
        };
        let pid = pid.parse().map_err(|error| wrong(&error))?;
        let stdin = io::stdin().as_fd().try_clone_to_owned();
        let channel = StdStream::from(stdin.map_err(|error| wrong(&error))?);
        let greeted = channel.set_read_timeout(Some(GREETING));
        let sockets = greeted.and_then(|()| receive(&channel));
        let sockets = sockets.map_err(|error| wrong(&error))?;
        let channel = channel
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(channel));
        Ok(Some(Predecessor {
            pid,
            sockets,
            channel: BufReader::new(channel.map_err(|error| wrong(&error))?),
        }))
    }

    /// The socket for a configured address, if it was handed over; each once.
    ///
    /// # Errors
    /// It is none that listens.
    pub fn listener(&mut self, part: Part, address: SocketAddr) -> io::Result<Option<TcpListener>> {
        let name = Name { part, address };
        let Some(at) = self.sockets.iter().position(|one| one.name == name) else {
            return Ok(None);
        };
        let listener = std::net::TcpListener::from(self.sockets.remove(at).socket);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Some)
    }

    /// Asks for the store: when this returns nobody else has it open.
    ///
    /// # Errors
    /// One line: the process before has given up.
    pub async fn store(&mut self) -> Result<(), String> {
        self.say(STORE).await?;
        let mut line = String::new();
        match timeout(LENDING, self.channel.read_line(&mut line)).await {
            Ok(Ok(_)) if line.trim_end() == STORE => Ok(()),
            _ => Err(format!("process {} did not hand its store over", self.pid)),
        }
    }

    /// Says that this process serves.
    ///
    /// # Errors
    /// One line: the process before has given up.
    pub async fn serving(&mut self) -> Result<(), String> {
        self.say(SERVING).await
    }

    async fn say(&mut self, word: &str) -> Result<(), String> {
        let line = format!("{word}\n");
        let said = self.channel.get_mut().write_all(line.as_bytes()).await;
        said.map_err(|error| format!("process {} is not there any more: {error}", self.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_arrive_under_their_names_and_still_listen() {
        let (one, other) = StdStream::pair().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut sockets = Vec::new();
        let mut ports = Vec::new();
        for part in [Part::Clients, Part::Clients, Part::Metrics] {
            let listener = TcpListener::bind(any).await.unwrap();
            ports.push(listener.local_addr().unwrap().port());
            sockets.push(Socket::of(part, any, &listener).unwrap());
        }
        send(&one, &sockets).unwrap();
        drop(sockets);
        let sockets = receive(&other).unwrap();
        other.set_nonblocking(true).unwrap();
        let mut before = Predecessor {
            pid: 1,
            sockets,
            channel: BufReader::new(UnixStream::from_std(other).unwrap()),
        };
        let mut take = |part| before.listener(part, any).unwrap();
        let port = |taken: &TcpListener| taken.local_addr().unwrap().port();
        assert!(take(Part::Admin).is_none());
        // Of the same name in their order, and each once.
        let first = take(Part::Clients).unwrap();
        assert_eq!(port(&first), ports[0]);
        assert_eq!(port(&take(Part::Clients).unwrap()), ports[1]);
        assert_eq!(port(&take(Part::Metrics).unwrap()), ports[2]);
        assert!(take(Part::Clients).is_none());
        let client = tokio::net::TcpStream::connect(("127.0.0.1", ports[0]));
        let (accepted, connected) = tokio::join!(first.accept(), client);
        assert!(accepted.is_ok() && connected.is_ok());
    }

    #[test]
    fn a_message_without_its_sockets_is_refused() {
        let (one, other) = StdStream::pair().unwrap();
        let line = br#"[{"part":"clients","address":"127.0.0.1:80"}]"#;
        io::Write::write_all(&mut &one, line).unwrap();
        io::Write::write_all(&mut &one, b"\n").unwrap();
        assert!(receive(&other).is_err());
        send(&one, &[]).unwrap();
        assert!(receive(&other).unwrap().is_empty());
        drop(one);
        assert!(receive(&other).is_err());
    }
}
