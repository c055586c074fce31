//! TLS of the generators, and the certificate that servers are started with. The generators take any certificate: they talk
//! to loopback only, and what is measured is what encryption costs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::Result;

/// What is offered by ALPN.
#[derive(Debug, Clone, Copy)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where a server finds its certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
}

impl Certificate {
    /// Makes one for this machine, in a directory.
    pub fn make(directory: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let files = Certificate {
            certificate: directory.join("certificate.pem"),
            private_key: directory.join("private-key.pem"),
        };
        fs::write(&files.certificate, made.cert.pem())?;
        fs::write(&files.private_key, made.signing_key.serialize_pem())?;
        Ok(files)
    }
}

/// Connects, and makes sure that the server took what was offered.
pub async fn connect(address: SocketAddr, offer: Offer) -> Result<TlsStream<TcpStream>> {
    // Shared by all connections, as clients do: later ones resume the first one's session.
    static HTTP1: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static HTTP2: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let (settings, protocol) = match offer {
        Offer::Http1 => (&HTTP1, b"http/1.1".as_slice()),
        Offer::Http2 => (&HTTP2, b"h2".as_slice()),
    };
    let settings = match settings.get() {
        Some(settings) => settings,
        None => {
            let made = client(protocol)?;
            settings.get_or_init(|| made)
        }
    };
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::clone(settings))
        .connect(name, stream)
        .await?;
    match (offer, stream.get_ref().1.alpn_protocol()) {
        // A server need not choose where there is nothing to choose.
        (Offer::Http1, None) => Ok(stream),
        (_, Some(chosen)) if chosen == protocol => Ok(stream),
        (_, chosen) => {
            let chosen = chosen.map(String::from_utf8_lossy);
            Err(format!("{address} speaks {chosen:?}, {offer:?} was offered").into())
        }
    }
}

fn client(protocol: &[u8]) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let anyone = Anyone(Arc::clone(&provider));
    let mut settings = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anyone))
        .with_no_client_auth();
    settings.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(settings))
}

/// Takes any certificate whose owner can sign with it.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
