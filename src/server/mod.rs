//! From a configuration to a running gateway, and back to rest.

pub mod admin;
mod books;
mod build;
mod caps;
mod checks;
mod client;
pub(crate) mod door;
pub mod handover;
mod keys;
mod listen;
mod local;
mod marks;
pub mod notify;
mod previous;
mod refresh;
mod reload;
mod roster;
mod running;
mod start;
mod stores;
mod stream;
mod swap;
mod tls;

use crate::downstream::edge::Edge;
use crate::downstream::ending::Ending;
use crate::downstream::idle::Idle;
use crate::id::RequestId;
use crate::proxy::snapshot::Gateway;
use crate::proxy::{Proxy, malformed};
use crate::rejection::{Code, Rejection};
use crate::route::Api;
use crate::wire::error::Dialect;
use pingora::apps::HttpServerOptions;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
pub use reload::{Reloader, Source};
pub use running::{Listening, Running};
pub use start::{start, start_after};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
pub use tls::check_files;
use tokio::net::TcpListener;

/// Idle connections to providers that are kept, over all of them.
const POOL: usize = 1024;

/// What serves clients' connections.
fn edge(
    gateway: Arc<Gateway>,
    idle: Arc<Idle>,
    ending: Arc<Ending>,
) -> Arc<Edge<HttpProxy<Proxy>>> {
    let conf = ServerConf {
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    let (recorder, limits) = (gateway.clone(), gateway.clone());
    let mut proxy = HttpProxy::new(Proxy { gateway }, Arc::new(conf));
    // Pingora would refuse CONNECT in its own words; ours are in `proxy::request`.
    let mut options = HttpServerOptions::default();
    options.allow_connect_method_proxying = true;
    proxy.server_options = Some(options);
    proxy.handle_init_modules();
    let answer = move |id: RequestId, client: Option<IpAddr>| {
        let rejection = Rejection::new(
            Code::InvalidRequest,
            "The request is not well-formed HTTP/1.1.",
        );
        let envelope = Dialect::default().envelope(&rejection, Api::OpenAi, id.as_str());
        malformed(&recorder, id, client, envelope.status);
        (envelope.status, envelope.body)
    };
    let header_limit = move || limits.snapshot.load().header_limit;
    Edge::new(
        Arc::new(proxy),
        Arc::new(header_limit),
        Arc::new(answer),
        idle,
        ending,
    )
}

fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, String> {
    listen::bind(address).map_err(|error| {
        format!("{setting}: cannot listen on {address}: {error}; is another process there?")
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}
