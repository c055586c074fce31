//! From a configuration to a running gateway, and back to rest.

pub mod admin;
mod books;
mod build;
pub mod handover;
mod keys;
mod listen;
mod local;
pub mod notify;
mod running;
mod stores;
mod stream;
mod tls;

use crate::admin::backend::{Peers, Recheck};
use crate::admin::{Admin, Backends};
use crate::auth::secret::{KeyHash, generate};
use crate::clock::Clock;
use crate::config::{BillingMode, Config};
use crate::demo::Demo;
use crate::downstream::edge::Edge;
use crate::downstream::ending::Ending;
use crate::id::RequestId;
use crate::proxy::snapshot::Gateway;
use crate::proxy::{Proxy, malformed};
use crate::record::access_log::AccessLog;
use crate::record::metrics::Metrics;
use crate::rejection::{Code, Rejection};
use crate::route::Api;
use crate::upstream::addresses::REFRESH;
use crate::wire::error::Dialect;
use arc_swap::ArcSwap;
use books::Connected;
use build::DemoAccess;
use handover::{Part, Predecessor, Socket};
use keys::Keys;
use pingora::apps::HttpServerOptions;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
pub use running::{Listening, Running};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};
use stores::Stores;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::interval;

/// Idle connections to providers that are kept, over all of them.
const POOL: usize = 1024;

/// Starts everything that the configuration names; must be called inside a tokio runtime.
/// `log` is where the access log goes; `recheck` reads the configuration again, if it came from a file.
///
/// # Errors
/// One line: an address that cannot be bound, a file that cannot be used.
pub async fn start(
    config: &Config,
    log: impl Write + Send + 'static,
    recheck: Option<Recheck>,
) -> Result<Running, String> {
    start_after(config, log, recheck, None).await
}

/// The same as the successor of a process that hands its sockets and its store over. That process serves on until
/// [`Running::tell_predecessor`].
///
/// # Errors
/// Those of [`start`], and that the process before has given up.
pub async fn start_after(
    config: &Config,
    log: impl Write + Send + 'static,
    recheck: Option<Recheck>,
    predecessor: Option<Predecessor>,
) -> Result<Running, String> {
    let metrics = Metrics::new().map_err(|error| format!("metrics: {error}"))?;
    let (stop, stopped) = watch::channel(false);
    // Operators see it to the very end, unless a successor answers them.
    let (leave, left) = watch::channel(false);
    // The demo provider's requests end last.
    let (keep, never) = watch::channel(false);
    let mut tasks = Vec::new();

    // First what can fail without the store, which the process before keeps as long as possible. Who connects from here
    // on waits until he is served.
    let mut bound = Bound {
        predecessor,
        sockets: Vec::new(),
    };
    let mut clients = Vec::new();
    for listener in &config.listeners {
        let tls = listener.tls.as_ref().map(tls::acceptor).transpose()?;
        clients.push((bound.listener(Part::Clients, listener.bind)?, tls));
    }
    let metrics_socket = config
        .metrics
        .map(|address| bound.listener(Part::Metrics, address));
    let metrics_socket = metrics_socket.transpose()?;
    let admin_socket = config
        .admin
        .as_ref()
        .map(|admin| bound.listener(Part::Admin, admin.bind));
    let admin_socket = admin_socket.transpose()?;

    let demo = match config
        .providers
        .iter()
        .any(|provider| provider.base_url.is_none())
    {
        true => {
            let key = generate("demo-").map_err(|error| format!("no randomness: {error}"))?;
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = bind(address, "the demo provider")?;
            let address = local_address(&listener)?;
            let app = Arc::new(Demo::new(key.clone()));
            tasks.push(tokio::spawn(listen::serve(
                listener,
                None,
                app,
                never.clone(),
            )));
            Some(DemoAccess { address, key })
        }
        false => None,
    };
    let session_key = match needs_session_key(config) {
        true => {
            Some(generate(&config.key_prefix).map_err(|error| format!("no randomness: {error}"))?)
        }
        false => None,
    };
    let hash = session_key.as_deref().map(KeyHash::of);
    let (finish, finished) = watch::channel(false);
    let keys = Arc::new(Keys::new(config, Arc::default()));
    let watched = finished.clone();
    if let Some(predecessor) = &mut bound.predecessor {
        predecessor.store().await?;
    }
    let successor = bound.predecessor.is_some();
    let Stores {
        limiter,
        ledger,
        registry,
        link,
        ended,
        kept,
        closed,
    } = stores::start(config, &metrics, &keys, successor, finished).await?;
    let charging = ledger
        .clone()
        .filter(|_| config.billing.mode != BillingMode::Off);
    let snapshot = build::snapshot(
        config,
        metrics.clone(),
        limiter,
        charging,
        demo.as_ref(),
        &keys,
        hash,
    )?;
    let log = AccessLog::start(log, metrics.log_dropped.clone())
        .map_err(|error| format!("access log: {error}"))?;
    let gateway = Arc::new(Gateway {
        snapshot: ArcSwap::from_pointee(snapshot),
        metrics,
        log,
        started: Instant::now(),
        started_at: SystemTime::now(),
        ready: AtomicBool::new(false),
    });

    let books = match (ledger, registry) {
        (Some(ledger), Some(registry)) => Some(Arc::new(Connected { ledger, registry })),
        _ => None,
    };
    if let Some(books) = &books {
        tasks.push(tokio::spawn(books.clone().watch(watched)));
    }
    let mut admin_app = None;
    if let (Some(socket), Some(books)) = (admin_socket, books) {
        let settings = admin::settings(config, session_key.as_deref());
        let backends = Backends {
            books: books.clone(),
            keys: books,
            sight: gateway.clone(),
            peers: link.map(|link| link as Arc<dyn Peers>),
            recheck,
            clock: Clock::system(),
        };
        admin_app = Some((socket, Arc::new(Admin::new(settings, backends))));
    }

    // From here on it serves.
    let ending = Arc::new(Ending::default());
    let edge = Arc::new(edge(config, gateway.clone(), ending.clone()));
    let mut listeners = Vec::new();
    for (socket, tls) in clients {
        listeners.push(Listening {
            address: local_address(&socket)?,
            tls: tls.is_some(),
        });
        let serving = listen::serve(socket, tls, edge.clone(), stopped.clone());
        tasks.push(tokio::spawn(serving));
    }
    let mut metrics_at = None;
    if let Some(socket) = metrics_socket {
        metrics_at = Some(local_address(&socket)?);
        let app = Arc::new(local::MetricsPage::new(gateway.metrics.clone()));
        tasks.push(tokio::spawn(listen::serve(socket, None, app, left.clone())));
    }
    let mut admin_at = None;
    if let Some((socket, app)) = admin_app {
        let (address, task) = admin::serve(socket, app, left)?;
        admin_at = Some(address);
        tasks.push(task);
    }
    tasks.push(tokio::spawn(refresh_addresses(gateway.clone(), stopped)));
    gateway.ready.store(true, Ordering::Release);
    Ok(Running {
        listeners,
        metrics: metrics_at,
        admin: admin_at,
        session_key,
        gateway,
        ending,
        sockets: Mutex::new(bound.sockets),
        predecessor: bound.predecessor,
        stop,
        leave,
        _keep: keep,
        tasks,
        finish,
        ended,
        kept,
        closed,
    })
}

/// The listening sockets: those of the process before, and new ones.
struct Bound {
    predecessor: Option<Predecessor>,
    sockets: Vec<Socket>,
}

impl Bound {
    fn listener(&mut self, part: Part, address: SocketAddr) -> Result<TcpListener, String> {
        let setting = match part {
            Part::Clients => "listeners",
            Part::Admin => "admin",
            Part::Metrics => "metrics",
        };
        let told = |error: std::io::Error| format!("{setting}: {error}");
        let passed = self.predecessor.as_mut();
        let passed = passed
            .map(|before| before.listener(part, address))
            .transpose();
        let listener = match passed.map_err(told)?.flatten() {
            Some(listener) => listener,
            None => bind(address, setting)?,
        };
        let socket = Socket::of(part, address, &listener).map_err(told)?;
        self.sockets.push(socket);
        Ok(listener)
    }
}

/// A gateway without any key that only this machine reaches is being tried out: it makes one.
fn needs_session_key(config: &Config) -> bool {
    config.keys.is_empty()
        && !config.accounts.is_empty()
        && config
            .listeners
            .iter()
            .all(|listener| listener.bind.ip().is_loopback())
}

fn edge(config: &Config, gateway: Arc<Gateway>, ending: Arc<Ending>) -> Edge<HttpProxy<Proxy>> {
    let conf = ServerConf {
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    let recorder = gateway.clone();
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
    let header_limit = usize::try_from(config.limits.header).unwrap_or(usize::MAX);
    Edge::new(Arc::new(proxy), header_limit, Box::new(answer), ending)
}

fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, String> {
    listen::bind(address).map_err(|error| {
        format!("{setting}: cannot listen on {address}: {error}; is another process there?")
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}

/// Keeps the providers' addresses fresh.
async fn refresh_addresses(gateway: Arc<Gateway>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = interval(REFRESH);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.changed() => return,
        }
        for (provider, _) in &gateway.snapshot.load_full().providers {
            if let Err(error) = provider.addresses.refresh().await {
                log::warn!(
                    "provider {}: cannot resolve its host: {error}",
                    provider.name
                );
            }
        }
    }
}
