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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;
    use crate::target::{Answer, Target, request};

    /// A server with a certificate of ours: answers with the size of what it read, and counts connections.
    struct Server {
        address: SocketAddr,
        connections: Arc<AtomicUsize>,
    }

    impl Server {
        async fn start(wire: Wire) -> Result<Self> {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
            let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
            let mut settings = ServerConfig::builder_with_provider(Arc::new(default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())?;
            settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(settings));
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let connections = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&connections);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        match wire {
                            Wire::Plain => http1(stream).await,
                            Wire::Tls => http1(acceptor.accept(stream).await?).await,
                            Wire::Http2 => http2(acceptor.accept(stream).await?).await,
                        }
                    });
                }
            });
            Ok(Server {
                address,
                connections,
            })
        }
    }

    async fn http1(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let (mut filled, mut whole) = (0, usize::MAX);
            while filled < whole {
                match stream.read(&mut buffer[filled..]).await? {
                    0 => return Ok(()),
                    length => filled += length,
                }
                if let Some(head) = crate::http::head_length(&buffer[..filled]) {
                    let length = crate::http::fields(&buffer[..head])
                        .find(|(name, _)| *name == b"content-length")
                        .and_then(|(_, value)| crate::http::number(value));
                    whole = head + usize::try_from(length.ok_or("no length")?)?;
                }
            }
            let body = filled - crate::http::head_length(&buffer).ok_or("no head")?;
            let body = body.to_string();
            let length = body.len();
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await?;
            stream.flush().await?;
        }
    }

    async fn http2(stream: tokio_rustls::server::TlsStream<TcpStream>) -> Result<()> {
        let mut connection = h2::server::handshake(stream).await?;
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request?;
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(piece) = body.data().await {
                    let piece = piece?;
                    length += piece.len();
                    body.flow_control().release_capacity(piece.len())?;
                }
                let mut stream = respond.send_response(http::Response::new(()), false)?;
                stream.send_data(Bytes::from(length.to_string()), true)?;
                Result::Ok(())
            });
        }
        Ok(())
    }

    #[tokio::test]
    async fn requests_arrive_whole_over_every_wire() -> Result<()> {
        for (wire, connections) in [(Wire::Plain, 9), (Wire::Tls, 9), (Wire::Http2, 2)] {
            let server = Server::start(wire).await?;
            let mut ways = Vec::new();
            for _ in 0..9 {
                ways.push(Way::open(wire, server.address).await?);
            }
            let target = Target {
                address: server.address,
                path: "/v1".to_owned(),
            };
            let mut answer = Vec::new();
            // The last is more than HTTP/2 lets pass without leave.
            for size in [2, 240, 300_000] {
                let request = request(&target, "sk", Answer::Whole, &vec![b'x'; size]);
                for way in &mut ways {
                    let (status, close) = way.exchange(&request, &mut answer).await?;
                    assert_eq!((status, close), (200, false), "{wire:?}");
                    assert_eq!(answer, size.to_string().into_bytes(), "{wire:?}");
                }
            }
            assert_eq!(
                server.connections.load(Ordering::Relaxed),
                connections,
                "{wire:?}"
            );
        }
        Ok(())
    }
}
