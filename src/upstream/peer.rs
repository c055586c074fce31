//! Provider and address → Pingora's peer.

use super::Provider;
use crate::limit::overload::out_of_descriptors;
use pingora::Error;
use pingora::upstreams::peer::{ALPN, HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::{WrappedX509, parse_x509};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Connections to a provider stay pooled this long while idle. Common application servers close
/// theirs after 5 s (uvicorn's default): below that, a request seldom meets a dying one.
const POOL_IDLE: Duration = Duration::from_secs(4);
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
pub struct Template(HttpPeer);

impl Template {
    /// A template for a provider; its connections are pooled apart from those of every other template. A clone shares
    /// them.
    pub fn new(provider: &Provider, authorities: Option<Authorities>) -> Template {
        let unresolved = SocketAddr::from(([0, 0, 0, 0], 0));
        // The host is never empty: with an empty name the certificate would go unchecked.
        let mut peer = HttpPeer::new(unresolved, provider.tls, provider.host.clone());
        // Pingora's pool does not tell apart by authorities or protocol; providers must not share, and neither must one
        // with what it was before its settings changed.
        peer.group_key = MADE.fetch_add(1, Ordering::Relaxed) + 1;
        let connect = provider.timeouts.connect;
        let options = &mut peer.options;
        options.connection_timeout = Some(connect);
        options.total_connection_timeout = Some(connect);
        // No timeouts on reading and writing (but see `at`): the session times the wait for the first
        // byte and the silences after it, once for all of them.
        options.idle_timeout = Some(POOL_IDLE);
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
        Template(peer)
    }

    /// Whether it trusts exactly these authorities.
    pub fn trusts(&self, authorities: Option<&Authorities>) -> bool {
        let mine = self.0.options.ca.as_deref().unwrap_or_default();
        let given = authorities.map(|all| &**all).unwrap_or_default();
        mine.len() == given.len()
            && mine
                .iter()
                .zip(given)
                .all(|(mine, given)| mine.borrow_raw_cert() == given.borrow_raw_cert())
    }

    /// The peer at an address, over a pooled connection or over one of its own.
    pub fn at(&self, address: SocketAddr, pooled: bool) -> Box<HttpPeer> {
        let mut peer = self.0.clone();
        peer._address = pingora::protocols::l4::socket::SocketAddr::Inet(address);
        if !pooled {
            // An upload is written while the client still sends it, and then the session looks at
            // the client alone.
            peer.options.write_timeout = Some(WRITE_TIMEOUT);
            peer.group_key = crate::id::next_random() | (1 << 63);
            peer.options.idle_timeout = Some(Duration::from_millis(1));
        }
        Box::new(peer)
    }
}
