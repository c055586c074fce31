//! What the service manager is told (`sd_notify(3)`): a datagram to the socket that `NOTIFY_SOCKET` names. Without
//! that variable nobody wants to know.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// It serves, after a start or a reload.
pub fn ready() {
    send("READY=1");
}

/// It ends.
pub fn stopping() {
    send("STOPPING=1");
}

/// It reads its configuration anew; [`ready`] follows, whether that succeeds or not.
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// Another process is the service from now on.
pub fn main_pid(pid: u32) {
    send(&format!("MAINPID={pid}"));
}

/// It is alive: to be said within every [`watchdog`] period.
pub fn alive() {
    send("WATCHDOG=1");
}

/// How often the manager wants to hear that it is alive, if at all. `inherited` says that the process got its
/// environment from the one before it in an upgrade: what it says of a process is then meant for both.
pub fn watchdog(inherited: bool) -> Option<Duration> {
    let of = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let own = of("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let micros = of("WATCHDOG_USEC").filter(|micros| *micros > 0)?;
    (own || inherited).then(|| Duration::from_micros(micros))
}

fn send(words: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send_to(&socket, words)
    {
        log::warn!("the service manager cannot be told {words:?}: {error}");
    }
}

fn send_to(socket: &OsString, words: &str) -> io::Result<()> {
    let from = UnixDatagram::unbound()?;
    let sent = match abstract_name(socket) {
        Some(name) => from.send_to_addr(words.as_bytes(), &abstract_address(name)?),
        None => from.send_to(words.as_bytes(), socket),
    };
    sent.map(drop)
}

/// A name that begins with `@` is none of the file system's.
fn abstract_name(socket: &OsStr) -> Option<&[u8]> {
    use std::os::unix::ffi::OsStrExt;
    socket.as_bytes().strip_prefix(b"@")
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    std::os::unix::net::SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_it_on_a_path_and_on_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = |manager: UnixDatagram| {
            let mut bytes = [0; 64];
            let length = manager.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        let manager = UnixDatagram::bind(&path).unwrap();
        send_to(&path.into(), "READY=1").unwrap();
        assert_eq!(heard(manager), "READY=1");
        let name = format!("tollgate-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&abstract_address(name.as_bytes()).unwrap()).unwrap();
        send_to(&format!("@{name}").into(), "STOPPING=1").unwrap();
        assert_eq!(heard(manager), "STOPPING=1");
        // Nobody there is an error, and nothing worse.
        assert!(send_to(&"/nowhere/at/all".into(), "READY=1").is_err());
    }
}
