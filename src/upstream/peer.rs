//! Provider and address → Pingora's peer.

use super::Provider;
use super::dial::Dial;
use super::pool::{self, Pool};
use crate::limit::overload::out_of_descriptors;
use pingora::Error;
use pingora::upstreams::peer::{ALPN, HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{WrappedX509, parse_x509};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Streams of one HTTP/2 connection to a provider: what most servers allow.
const H2_STREAMS: usize = 100;
/// Bytes that a provider may send ahead of a client that does not read, in one stream of HTTP/2. Pingora's own 8 MiB
/// would all be held here; this is what some 200 Mbit/s take over 5 ms, and 20 Mbit/s over 50 ms.
const H2_WINDOW: u32 = 128 << 10;
/// A provider that does not take our bytes is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Certificate authorities that are trusted in place of the system's.
pub type Authorities = Arc<[WrappedX509]>;

/// Reads a PEM file of certificates.
///
/// # Errors
/// One line that names the file: unreadable, or without a certificate.
pub fn read_authorities(path: &Path) -> Result<Authorities, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let shown = path.display();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{shown}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{shown}: no certificate in this file"));
    }
    certificates
        .into_iter()
        .map(|der| {
            // Pingora panics on what it cannot parse.
            x509_parser::parse_x509_certificate(&der)
                .map_err(|error| format!("{shown}: not an X.509 certificate: {error}"))?;
            Ok(WrappedX509::new(der.to_vec(), parse_x509))
        })
        .collect()
}

/// Templates made so far in this process.
static MADE: AtomicU64 = AtomicU64::new(0);

/// Whether there was no file descriptor for a connection to the provider, who is not at fault then.
pub fn exhausted(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(out_of_descriptors)
}

/// The peer of a provider without its address: cloned for each attempt.
#[derive(Clone, Debug)]
pub struct Template {
    peer: HttpPeer,
    plain: Option<Plain>,
}

/// How a provider without TLS is reached. Those with it are Pingora's: most speak HTTP/2.
#[derive(Clone, Debug)]
struct Plain {
    pool: Arc<Pool>,
    /// To connect, at most.
    patience: Duration,
}

/// What is sent over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The connection may have served before: the request can be sent again, should the provider be closing it at
    /// this moment.
    pub pooled: bool,
    /// There is a body, and it is held whole. Else it is written while the client still sends it.
    pub whole: bool,
}

impl Template {
    /// A template for a provider; its connections are pooled apart from those of every other template. A clone shares
    /// them.
    pub fn new(provider: &Provider, authorities: Option<Authorities>) -> Template {
        let unresolved = SocketAddr::from(([0, 0, 0, 0], 0));
        // With an empty name a certificate would go unchecked; without TLS it would be copied for nothing.
        let name = match provider.tls {
            true => provider.host.clone(),
            false => String::new(),
        };
        let mut peer = HttpPeer::new(unresolved, provider.tls, name);
        // Pingora's pool does not tell apart by authorities or protocol; providers must not share, and neither must one
        // with what it was before its settings changed.
        peer.group_key = MADE.fetch_add(1, Ordering::Relaxed) + 1;
        let connect = provider.timeouts.connect;
        let options = &mut peer.options;
        options.connection_timeout = Some(connect);
        options.total_connection_timeout = Some(connect);
        // No timeouts on reading and writing (but see `at`): the session times the wait for the first
        // byte and the silences after it, once for all of them.
        options.idle_timeout = Some(pool::IDLE);
        options.max_h2_streams = H2_STREAMS;
        options.h2_stream_window_size = Some(H2_WINDOW);
        // All streams together: those whose clients do not read must not hold up the others.
        options.h2_connection_window_size = Some(H2_WINDOW * H2_STREAMS as u32);
        options.ca = authorities;
        // Pingora hangs up on a client that nominates `Host` and its like, and forgets what was
        // nominated when it denies upgrades. `proxy::headers` takes all of it away: what belongs to
        // one hop, what is nominated, and upgrades.
        options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
        options.alpn = if provider.tls { ALPN::H2H1 } else { ALPN::H1 };
        let plain = (!provider.tls).then(|| {
            // `Dial` times it.
            options.total_connection_timeout = None;
            Plain {
                pool: Arc::default(),
                patience: connect,
            }
        });
        Template { peer, plain }
    }

    /// Whether it trusts exactly these authorities.
    pub fn trusts(&self, authorities: Option<&Authorities>) -> bool {
        let mine = self.peer.options.ca.as_deref().unwrap_or_default();
        let given = authorities.map(|all| &**all).unwrap_or_default();
        mine.len() == given.len()
            && mine
                .iter()
                .zip(given)
                .all(|(mine, given)| mine.borrow_raw_cert() == given.borrow_raw_cert())
    }

    /// The peer at an address, and how it is reached if not by Pingora.
    pub fn at(&self, address: SocketAddr, sending: Sending) -> (Box<HttpPeer>, Option<Arc<Dial>>) {
        let mut peer = Box::new(self.peer.clone());
        peer._address = pingora::protocols::l4::socket::SocketAddr::Inet(address);
        if !sending.whole {
            // The session looks at the client alone while it still sends.
            peer.options.write_timeout = Some(WRITE_TIMEOUT);
        }
        let dial = self.plain.as_ref().map(|Plain { pool, patience }| {
            Arc::new(Dial::new(pool.clone(), address, *patience, sending))
        });
        match &dial {
            Some(dial) => peer.options.custom_l4 = Some(dial.clone()),
            None if sending.pooled => {}
            None => {
                peer.group_key = crate::id::next_random() | (1 << 63);
                peer.options.idle_timeout = Some(Duration::from_millis(1));
            }
        }
        (peer, dial)
    }
}
