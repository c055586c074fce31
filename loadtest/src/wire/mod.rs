//! What the generators' requests go over: plain HTTP/1.1, the same over TLS, or HTTP/2 over TLS.

mod http2;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::Result;
use crate::connection::Connection;
use http2::Trunk;

/// How requests travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wire {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS; eight ways share a connection, each with a stream at a time.
    Http2,
}

/// A way to the server for one request at a time, kept for the next.
pub enum Way {
    /// HTTP/1.1.
    Plain(Connection),
    /// HTTP/1.1 over TLS.
    Tls(Box<Connection<TlsStream<TcpStream>>>),
    /// Room for a stream on a connection that is shared.
    Http2(Arc<Trunk>),
}

impl Way {
    /// Connects, or joins a connection where they are shared.
    pub async fn open(wire: Wire, address: SocketAddr) -> Result<Self> {
        Ok(match wire {
            Wire::Plain => Way::Plain(Connection::open(address).await?),
            Wire::Tls => {
                let stream = tls::connect(address, tls::Offer::Http1).await?;
                Way::Tls(Box::new(Connection::over(stream)))
            }
            Wire::Http2 => Way::Http2(Trunk::join(address).await?),
        })
    }

    /// Sends a request, given as the bytes of HTTP/1.1, and reads its whole answer; `answer` is cleared first and holds
    /// the body. Returns the status, and whether the server closes the connection.
    pub async fn exchange(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Result<(u16, bool)> {
        match self {
            Way::Plain(connection) => connection.exchange(request, answer).await,
            Way::Tls(connection) => connection.exchange(request, answer).await,
            Way::Http2(trunk) => Ok((trunk.exchange(request, answer).await?, false)),
        }
    }
}
