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

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixStream};
use tokio::time::timeout;

/// Set in the successor's environment: the process before it.
const VARIABLE: &str = "TOLLGATE_PREDECESSOR";
/// The kernel passes no more than 253 in one message.
const MOST: usize = 250;
/// The successor hears of the sockets within this time, or never.
const GREETING: Duration = Duration::from_secs(10);
/// The process before closes its store within this time.
const LENDING: Duration = Duration::from_secs(30);

const STORE: &str = "store";
const SERVING: &str = "serving";

/// Which part of the configuration a socket is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One of the clients' listeners.
    Clients,
    /// The admin API's.
    Admin,
    /// The metrics'.
    Metrics,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Name {
    part: Part,
    address: SocketAddr,
}

/// A listening socket that can be handed over.
#[derive(Debug)]
pub struct Socket {
    name: Name,
    socket: OwnedFd,
}

impl Socket {
    /// A second descriptor of a listener's socket, under the address that is configured.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn of(part: Part, address: SocketAddr, listener: &TcpListener) -> io::Result<Socket> {
        Ok(Socket {
            name: Name { part, address },
            socket: listener.as_fd().try_clone_to_owned()?,
        })
    }
}

/// How this process was started, so that it can be started again: by the same path, whatever is there then.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<std::ffi::OsString>,
}

impl Launch {
    /// To be called at the start: later the path may be another file's.
    ///
    /// # Errors
    /// One line: the system does not say which file this is.
    pub fn of_this_process() -> Result<Launch, String> {
        use std::os::unix::fs::MetadataExt;
        let mut arguments = std::env::args_os();
        let called = arguments.next().map(PathBuf::from).unwrap_or_default();
        let file = std::env::current_exe().map_err(|error| error.to_string())?;
        // As it was called, where that names the same file: a link may point to another version then.
        let identity = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        let search = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = match called.components().count() {
            1 => std::env::split_paths(&search)
                .map(|dir| dir.join(&called))
                .collect(),
            _ => vec![called],
        };
        places.retain(|place| identity(place) == identity(&file));
        let absolute = places
            .first()
            .and_then(|place| std::path::absolute(place).ok());
        Ok(Launch {
            program: absolute.unwrap_or(file),
            arguments: arguments.collect(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

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

fn send(channel: &StdStream, sockets: &[Socket]) -> io::Result<()> {
    if sockets.len() > MOST {
        return Err(io::Error::other(format!("more than {MOST} listeners")));
    }
    let names: Vec<&Name> = sockets.iter().map(|socket| &socket.name).collect();
    let mut line = serde_json::to_vec(&names)?;
    line.push(b'\n');
    let descriptors: Vec<_> = sockets.iter().map(|one| one.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut passed = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !passed.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    let sent = sendmsg(
        channel,
        &[IoSlice::new(&line)],
        &mut passed,
        SendFlags::empty(),
    )?;
    // The rest, of which there is none but with very many listeners.
    io::Write::write_all(&mut { channel }, line.get(sent..).unwrap_or_default())
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

fn receive(channel: &StdStream) -> io::Result<Vec<Socket>> {
    let mut line = Vec::new();
    let mut descriptors = VecDeque::new();
    let mut bytes = vec![0; 64 << 10];
    while line.last() != Some(&b'\n') {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let received = {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            recvmsg(channel, &mut slices, &mut passed, receiving())?
        };
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(bytes.get(..received.bytes).unwrap_or_default());
        for message in passed.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
    }
    let names: Vec<Name> = serde_json::from_slice(&line)?;
    if names.len() != descriptors.len() {
        return Err(io::Error::other("not every socket came along"));
    }
    let sockets = names.into_iter().zip(descriptors);
    Ok(sockets
        .map(|(name, socket)| Socket { name, socket })
        .collect())
}

/// No program that is started later may have them.
#[cfg(target_os = "linux")]
fn receiving() -> RecvFlags {
    RecvFlags::CMSG_CLOEXEC
}

#[cfg(not(target_os = "linux"))]
fn receiving() -> RecvFlags {
    RecvFlags::empty()
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
