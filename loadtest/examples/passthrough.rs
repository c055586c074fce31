//! The yardstick: Pingora with a peer and nothing else. What it costs is the floor of every proxy on this framework.
//! It runs on one worker thread until it is killed: `passthrough --bind ADDRESS --upstream ADDRESS`, and over TLS, with
//! HTTP/2 by ALPN, if it is given `--certificate FILE --private-key FILE`.

use std::net::SocketAddr;
use std::process::ExitCode;

use async_trait::async_trait;
use clap::Parser;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

/// Pass every request on.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long)]
    bind: SocketAddr,
    /// Where to pass requests on to.
    #[arg(long)]
    upstream: SocketAddr,
    /// File with the certificate, PEM.
    #[arg(long, requires = "private_key")]
    certificate: Option<String>,
    /// File with its private key, PEM.
    #[arg(long, requires = "certificate")]
    private_key: Option<String>,
}

struct Passthrough {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Passthrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() -> ExitCode {
    match serve(Arguments::parse()) {
        Ok(never) => never,
        Err(error) => {
            eprintln!("passthrough: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> pingora::Result<ExitCode> {
    let Arguments {
        bind,
        upstream,
        certificate,
        private_key,
    } = arguments;
    let settings = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: 1024,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, settings);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Passthrough { upstream });
    match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => {
            let mut tls = TlsSettings::intermediate(&certificate, &private_key)?;
            tls.enable_h2();
            service.add_tls_with_settings(&bind.to_string(), None, tls);
        }
        _ => service.add_tcp(&bind.to_string()),
    }
    server.add_service(service);
    server.run_forever()
}
