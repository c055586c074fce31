//! TLS and HTTP/2 before and behind the gateway: a private authority, a client of each protocol, and a
//! front that puts TLS, and HTTP/2 where it is agreed on, before a scripted provider.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::http::{Client, PATIENCE};

/// A private authority and one certificate of it, in memory and as PEM files.
pub struct Identity {
    dir: TempDir,
    authority: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    /// For `localhost` and 127.0.0.1.
    pub fn new() -> Identity {
        Identity::named(&["localhost", "127.0.0.1"])
    }

    pub fn named(names: &[&str]) -> Identity {
        let mut root = CertificateParams::new(Vec::new()).expect("no names");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own, or OpenSSL takes the certificate for its own issuer.
        root.distinguished_name
            .push(DnType::CommonName, "Test authority");
        let root_key = KeyPair::generate().expect("a key");
        let root_cert = root.self_signed(&root_key).expect("an authority");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let cert = CertificateParams::new(names)
            .and_then(|leaf| leaf.signed_by(&key, &Issuer::from_params(&root, &root_key)))
            .expect("a certificate");
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            ("ca.pem", root_cert.pem()),
            ("cert.pem", cert.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(dir.path().join(name), text).expect("a file");
        }
        Identity {
            dir,
            authority: root_cert.der().clone(),
            chain: vec![cert.der().clone()],
            key: key.serialize_der(),
        }
    }

    /// `ca.pem`, `cert.pem` or `key.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A listener of the gateway with this identity, as YAML.
    pub fn listener(&self) -> String {
        format!(
            "listeners: [{{ bind: 127.0.0.1:0, tls: {{ cert: {:?}, key: {:?} }} }}]\n",
            self.file("cert.pem"),
            self.file("key.pem"),
        )
    }

    pub fn acceptor(&self, alpn: &[&str]) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .expect("an identity");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A TLS connection that trusts this authority alone, and offers these protocols.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        alpn: &[&str],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("an authority");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(addr).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("localhost").expect("a name"), stream)
            .await
            .expect("a handshake")
    }

    /// An HTTP/1.1 client over TLS: a raw client whose bytes pass through a local tunnel.
    pub async fn http1(&self, addr: SocketAddr) -> Client {
        let mut tls = self.connect(addr, &["http/1.1"]).await;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let local = listener.local_addr().expect("a bound listener");
        tokio::spawn(async move {
            if let Ok((mut plain, _)) = listener.accept().await {
                let _ = copy_bidirectional(&mut plain, &mut tls).await;
            }
        });
        Client::connect(local).await
    }

    /// An HTTP/2 client.
    pub async fn http2(&self, addr: SocketAddr) -> H2 {
        let tls = self.connect(addr, &["h2", "http/1.1"]).await;
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        H2 {
            sender,
            connection: task.abort_handle(),
        }
    }
}

/// An HTTP/2 client; its connection ends with it.
pub struct H2 {
    sender: SendRequest<Bytes>,
    connection: AbortHandle,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl H2 {
    /// Begins a request; its body is sent through the stream that comes back.
    pub async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        std::future::poll_fn(|cx| self.sender.poll_ready(cx))
            .await
            .expect("a connection");
        self.sender.send_request(request, end).expect("a stream")
    }

    /// A whole exchange.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (http::response::Parts, Bytes) {
        let (answer, mut up) = self.begin(method, path, headers, body.is_empty()).await;
        let body = Bytes::copy_from_slice(body);
        let sending = async move {
            if !body.is_empty() {
                // An early refusal may stop us in the middle.
                let _ = send(&mut up, body, true).await;
            }
        };
        let receiving = async {
            let (head, mut down) = answer.await.expect("an answer").into_parts();
            let body = receive(&mut down).await.expect("a whole body");
            (head, body)
        };
        let exchange = async { tokio::join!(sending, receiving).1 };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .expect("an answer in time")
    }
}

/// Sends bytes as the peer's window allows.
pub async fn send(
    up: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        up.reserve_capacity(bytes.len());
        let Some(room) = std::future::poll_fn(|cx| up.poll_capacity(cx)).await else {
            return Err(h2::Reason::STREAM_CLOSED.into());
        };
        let piece = bytes.split_to(room?.min(bytes.len()));
        up.send_data(piece, end && bytes.is_empty())?;
    }
    Ok(())
}

/// Reads a body to its end.
pub async fn receive(down: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = next(down).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next piece of a body.
pub async fn next(down: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(chunk) = down.data().await.transpose()? else {
        return Ok(None);
    };
    down.flow_control().release_capacity(chunk.len())?;
    Ok(Some(chunk))
}

/// TLS before a server of plain HTTP/1.1; it stops when dropped.
pub struct Front {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
    task: AbortHandle,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    http2: AtomicUsize,
}

impl Front {
    /// Offers these protocols and leads to `target`.
    pub async fn start(identity: &Identity, target: SocketAddr, alpn: &[&str]) -> Front {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let addr = listener.local_addr().expect("a bound listener");
        let counts = Arc::new(Counts::default());
        let (acceptor, shared) = (identity.acceptor(alpn), counts.clone());
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        tasks.spawn(serve(stream, acceptor.clone(), target, shared.clone()));
                    },
                    Some(_) = tasks.join_next() => {}
                }
            }
        });
        Front {
            addr,
            counts,
            task: task.abort_handle(),
        }
    }

    /// Handshakes that succeeded.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Requests that came as HTTP/2.
    pub fn http2_requests(&self) -> usize {
        self.counts.http2.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, target: SocketAddr, counts: Arc<Counts>) {
    let _ = stream.set_nodelay(true);
    let Ok(mut tls) = acceptor.accept(stream).await else {
        return;
    };
    counts.connections.fetch_add(1, Ordering::SeqCst);
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        if let Ok(mut plain) = TcpStream::connect(target).await {
            let _ = copy_bidirectional(&mut tls, &mut plain).await;
        }
        return;
    }
    let Ok(mut connection) = h2::server::handshake(tls).await else {
        return;
    };
    let mut tasks = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        counts.http2.fetch_add(1, Ordering::SeqCst);
        tasks.spawn(translate(request, respond, target));
    }
}

/// One stream of HTTP/2 as a request of HTTP/1.1. The other side's reset is passed on as leaving.
async fn translate(
    request: http::Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    target: SocketAddr,
) {
    let (head, mut body) = request.into_parts();
    let Ok(body) = receive(&mut body).await else {
        return;
    };
    let mut headers: Vec<(&str, &str)> = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let length = body.len().to_string();
    headers.retain(|(name, _)| *name != "content-length");
    headers.push(("content-length", &length));
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut client = Client::connect(target).await;
    client
        .send(head.method.as_str(), path, &headers, &body)
        .await;
    let answering = async {
        let head = client.try_read_head(PATIENCE).await.ok()?;
        let mut answer = http::Response::builder().status(head.status);
        for (name, value) in &head.headers {
            if !name.eq_ignore_ascii_case("transfer-encoding") {
                answer = answer.header(name.as_str(), value.as_str());
            }
        }
        Some((answer.body(()).ok()?, client))
    };
    let answered = tokio::select! {
        answered = answering => answered,
        _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let Some((answer, mut client)) = answered else {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    };
    let Ok(mut down) = respond.send_response(answer, false) else {
        return;
    };
    loop {
        let chunk = tokio::select! {
            chunk = client.next_chunk(PATIENCE) => chunk,
            _ = std::future::poll_fn(|cx| down.poll_reset(cx)) => return,
        };
        let sent = match chunk {
            Ok(Some(chunk)) => send(&mut down, chunk, false).await,
            Ok(None) => {
                let _ = down.send_data(Bytes::new(), true);
                return;
            }
            Err(_) => {
                down.send_reset(h2::Reason::INTERNAL_ERROR);
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
