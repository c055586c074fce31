//! Listening sockets: accept, dress with TLS and buffers, serve.

use super::client::Client;
use super::door::{Door, Guest, Loan, Trouble};
use super::stream::Buffered;
use crate::limit::overload::out_of_descriptors;
use crate::socket::Socket;
use futures::FutureExt;
use futures::future::BoxFuture;
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::{SocketDigest, Stream};
use pingora::server::ShutdownWatch;
use socket2::SockRef;
use std::future::pending;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// A client that has not finished its TLS handshake by then is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after a failed accept: with no descriptors left every try fails at once, and trying again
/// without a pause would only burn the processor.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// Bytes that wait in the kernel until a client takes them, beyond those that are on their way. By
/// itself it keeps 4 MiB for each that reads slowly. The value is that of the measurements in the kernel change that brought the option (E. Dumazet, 2013).
const UNSENT: u32 = 128 << 10;

/// Binds an address; port 0 takes a free one.
///
/// # Errors
/// What the system said: in use, not ours, not allowed.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted gateway must not wait for its old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    // Accepted connections have it from the listener. Where the system does not know it, all goes as well.
    let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves a listener until the shutdown.
pub async fn serve<A>(
    listener: TcpListener,
    tls: Option<Arc<Acceptor>>,
    door: Door<A>,
    mut shutdown: ShutdownWatch,
) where
    A: ServerApp + Send + Sync + 'static,
{
    let mut trouble = Trouble::default();
    // Let go where there are no descriptors left, so that the next connection gets its place.
    let mut loan: Option<Loan> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.changed() => return,
        };
        let error = match accepted {
            Ok((socket, peer)) => {
                let loan = loan.take().and_then(Loan::needed);
                if loan.is_none() && trouble.is_over() {
                    door.replenish();
                }
                // Whoever is not let in is closed here.
                if let Some(guest) = door.admit(loan) {
                    let served = connection(socket, peer, tls.clone(), guest, shutdown.clone());
                    tokio::spawn(served);
                }
                continue;
            }
            Err(error) => error,
        };
        if error.kind() == ErrorKind::ConnectionAborted {
            // It left while it waited.
            continue;
        }
        trouble.again(&error);
        if out_of_descriptors(&error) {
            door.make_room();
            if loan.is_none() {
                loan = door.spare();
                if loan.is_some() {
                    continue;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn connection<A>(
    socket: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Acceptor>>,
    guest: Guest<A>,
    shutdown: ShutdownWatch,
) where
    A: ServerApp + Send + Sync + 'static,
{
    if let Some(leave) = &guest.leave {
        // What was said when nobody was there to hear it is not meant for this one.
        let _ = leave.notified().now_or_never();
    }
    let app = guest.app.clone();
    let Some(time) = guest.within else {
        return greet(socket, peer, tls, app, shutdown).await;
    };
    let leaves = async {
        match &guest.leave {
            Some(leave) => leave.notified().await,
            None => pending().await,
        }
    };
    // What is not done by then was given its chance.
    tokio::select! {
        () = greet(socket, peer, tls, app, shutdown) => {}
        () = leaves => {}
        () = sleep(time) => {}
    }
}

async fn greet<A>(
    socket: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Acceptor>>,
    app: Arc<A>,
    shutdown: ShutdownWatch,
) where
    A: ServerApp + Send + Sync + 'static,
{
    // Without it a small write would wait for the acknowledgement of the one before.
    let _ = socket.set_nodelay(true);
    let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
    // Told here, the address costs no system call a request.
    let _ = digest.peer_addr.set(Some(peer.into()));
    let stream = Client::new(Socket::new(socket), digest);
    let stream: Stream = match tls {
        None => Box::new(Buffered::new(stream, false)),
        Some(acceptor) => match encrypted(stream, acceptor).await {
            Some(stream) => stream,
            None => return,
        },
    };
    app.process_new(stream, &shutdown).await;
}

/// The connection with TLS. In a box, since the handshake is large and soon over: what it takes is not kept for as long as
/// the connection lasts.
fn encrypted(stream: Client, acceptor: Arc<Acceptor>) -> BoxFuture<'static, Option<Stream>> {
    Box::pin(async move {
        match timeout(HANDSHAKE, acceptor.tls_handshake(stream)).await {
            Ok(Ok(stream)) => return Some(Box::new(Buffered::new(stream, true)) as Stream),
            // Scanners do this all day: nothing for a log.
            Ok(Err(error)) => log::debug!("TLS handshake failed: {}", error.etype().as_str()),
            Err(_) => log::debug!("TLS handshake timed out"),
        }
        None
    })
}
