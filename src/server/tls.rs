//! Downstream TLS: certificate and key from files, read again on a reload; HTTP/2 or HTTP/1.1 by ALPN.

use crate::config::{Config, TlsFiles};
use crate::upstream::peer::read_authorities;
use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// The certificate of one listener. Handshakes that begin after a change use the new one; connections that stand go on.
#[derive(Debug)]
pub struct Certificate(ArcSwap<CertifiedKey>);

impl Certificate {
    /// As it is now.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.load_full()
    }

    /// Puts another in force.
    pub fn replace(&self, pair: Arc<CertifiedKey>) {
        self.0.store(pair);
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Reads a chain and its key, and sees that they belong together.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn read(files: &TlsFiles) -> Result<Arc<CertifiedKey>, String> {
    let (cert, key) = (files.cert.display(), files.key.display());
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{cert}: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{cert}: no certificate in this file"));
    }
    let secret =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| format!("{key}: {error}"))?;
    let pair = CertifiedKey::from_der(chain, secret, &ring::default_provider())
        .map_err(|error| format!("{cert} with {key}: {error}"))?;
    Ok(Arc::new(pair))
}

/// The acceptor of one listener, and its certificate. Pingora's own builder panics on a bad file; this one tells.
///
/// # Errors
/// One line that names the file and what is wrong with it.
pub fn acceptor(files: &TlsFiles) -> Result<(Arc<Acceptor>, Arc<Certificate>), String> {
    let certificate = Arc::new(Certificate(ArcSwap::new(read(files)?)));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_no_client_auth()
        .with_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = Arc::new(Acceptor::from_server_config(Arc::new(config)));
    Ok((acceptor, certificate))
}

/// Reads the files of certificates that a configuration names, as a start or a reload does.
///
/// # Errors
/// One line for each that cannot be used.
pub fn check_files(config: &Config) -> Result<(), String> {
    let pairs = config.listeners.iter().filter_map(|one| one.tls.as_ref());
    let pairs = pairs.map(|files| read(files).map(drop));
    let authorities = config.providers.iter().filter_map(|one| one.ca.as_ref());
    let authorities = authorities.map(|file| read_authorities(file).map(drop));
    let errors: Vec<String> = pairs.chain(authorities).filter_map(Result::err).collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(errors.join("\n")),
    }
}
