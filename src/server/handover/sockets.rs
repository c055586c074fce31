//! Listening sockets on their way from one process to another: their descriptors go along with one line of text.

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
use std::os::unix::net::UnixStream;
use tokio::net::TcpListener;

/// The kernel passes no more than 253 in one message.
const MOST: usize = 250;
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

/// What a socket is known by on both sides.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) part: Part,
    pub(super) address: SocketAddr,
}

/// A listening socket that can be handed over.
#[derive(Debug)]
pub struct Socket {
    pub(super) name: Name,
    pub(super) socket: OwnedFd,
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

/// Sends sockets with their names.
pub(super) fn send(channel: &UnixStream, sockets: &[Socket]) -> io::Result<()> {
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

/// Receives what [`send`] has sent.
pub(super) fn receive(channel: &UnixStream) -> io::Result<Vec<Socket>> {
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
