//! From a configuration to a running gateway, and back to rest.

pub mod admin;
mod books;
mod build;
mod caps;
mod checks;
pub(crate) mod door;
mod keys;
mod listen;
mod local;
mod marks;
mod previous;
mod refresh;
mod reload;
mod roster;
mod stores;
mod stream;
mod swap;
mod tls;

use crate::admin::Backends;
use crate::admin::backend::Peers;
use crate::auth::secret::{KeyHash, generate};
use crate::clock::Clock;
use crate::config::{BillingMode, Config};
use crate::downstream::edge::Edge;
use crate::downstream::idle::Idle;
use crate::id::RequestId;
use crate::proxy::snapshot::Gateway;
use crate::proxy::{Proxy, malformed};
use crate::record::access_log::AccessLog;
use crate::record::metrics::Metrics;
use crate::rejection::{Code, Rejection};
use crate::route::Api;
use crate::wire::error::Dialect;
use arc_swap::ArcSwap;
use books::Connected;
use build::Lasting;
use door::Door;
use keys::Keys;
use pingora::apps::HttpServerOptions;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use reload::Reloads;
pub use reload::{Reloader, Source};
use roster::Roster;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use stores::Stores;
use swap::Parts;
pub use tls::check_files;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Idle connections to providers that are kept, over all of them.
const POOL: usize = 1024;

/// At the end, Redis is told of the last requests within this time.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// A gateway that serves.
pub struct Running {
    /// Where clients connect, in the configuration's order, with the ports that were taken.
    pub listeners: Vec<Listening>,
    /// Where metrics are.
    pub metrics: Option<SocketAddr>,
    /// Where the admin API is.
    pub admin: Option<SocketAddr>,
    /// The key that was made because the configuration has none.
    pub session_key: Option<String>,
    /// Reads the configuration again.
    pub reloader: Reloader,
    config: Arc<ArcSwap<Config>>,
    gateway: Arc<Gateway>,
    stop: watch::Sender<bool>,
    /// What is served to the very end ends when this is dropped.
    _keep: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    /// Tells the limits that the last request has ended.
    finish: watch::Sender<bool>,
    /// The limits have told Redis of it, and left.
    ended: JoinHandle<()>,
    /// The embedded store is closed.
    closed: Option<JoinHandle<()>>,
}

/// One address that is served.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Starts everything that the configuration names; must be called inside a tokio runtime.
/// `log` is where the access log goes; `source` is the file that the configuration came from, if it came from one.
///
/// # Errors
/// One line: an address that cannot be bound, a file that cannot be used.
pub async fn start(
    config: &Config,
    log: impl Write + Send + 'static,
    source: Option<Source>,
) -> Result<Running, String> {
    let metrics = Metrics::new().map_err(|error| format!("metrics: {error}"))?;
    caps::raise_descriptors();
    let caps = caps::new(&config.limits);
    metrics
        .watch(caps.clone())
        .map_err(|error| format!("metrics: {error}"))?;
    let (stop, stopped) = watch::channel(false);
    // What is served to the very end: metrics, and the demo provider, whose requests end last.
    let (keep, never) = watch::channel(false);
    let mut tasks = Vec::new();

    let mut demo = local::DemoStand::new(never.clone());
    let access = demo.access(config)?;
    let session_key = match needs_session_key(config) {
        true => {
            Some(generate(&config.key_prefix).map_err(|error| format!("no randomness: {error}"))?)
        }
        false => None,
    };
    let hash = session_key.as_deref().map(KeyHash::of);
    let (finish, finished) = watch::channel(false);
    let keys = Arc::new(Keys::new(config));
    let roster = Arc::new(Roster::new(keys.clone()));
    let watched = finished.clone();
    let Stores {
        limiter,
        ledger,
        registry,
        link,
        ended,
        closed,
    } = stores::start(config, &metrics, &roster, finished).await?;
    let charging = ledger
        .clone()
        .filter(|_| config.billing.mode != BillingMode::Off);
    let lasting = Lasting {
        metrics: metrics.clone(),
        limiter,
        ledger: charging,
        session_key: hash,
    };
    let snapshot = build::snapshot(config, &lasting, access.as_ref(), &keys, None)?;
    let log = AccessLog::start(log, metrics.log_dropped.clone())
        .map_err(|error| format!("access log: {error}"))?;
    let gateway = Arc::new(Gateway {
        snapshot: ArcSwap::from_pointee(snapshot),
        metrics,
        caps: caps.clone(),
        log,
        started: Instant::now(),
        started_at: SystemTime::now(),
        ready: AtomicBool::new(false),
    });

    let idle = Arc::<Idle>::default();
    let edge = edge(gateway.clone(), idle.clone());
    let door = Door::clients(edge.clone(), edge.overflow(), idle, &caps);
    let (reloader, asked) = reload::channel(source.is_some());
    let mut listeners = Vec::new();
    let mut certificates = Vec::new();
    for listener in &config.listeners {
        let (tls, certificate) = listener
            .tls
            .as_ref()
            .map(tls::acceptor)
            .transpose()?
            .unzip();
        certificates.push(certificate);
        let socket = bound(listener.bind, "listeners")?;
        listeners.push(Listening {
            address: local_address(&socket)?,
            tls: tls.is_some(),
        });
        tasks.push(tokio::spawn(listen::serve(
            socket,
            tls,
            door.clone(),
            stopped.clone(),
        )));
    }
    let mut metrics_at = None;
    if let Some(address) = config.metrics {
        let socket = bound(address, "metrics")?;
        metrics_at = Some(local_address(&socket)?);
        let app = Arc::new(local::MetricsPage::new(gateway.metrics.clone()));
        tasks.push(tokio::spawn(listen::serve(
            socket,
            None,
            Door::operators(app, &caps),
            never.clone(),
        )));
    }
    let books = match (ledger.clone(), registry) {
        (Some(ledger), Some(registry)) => Some(Arc::new(Connected { ledger, registry })),
        _ => None,
    };
    if let Some(books) = &books {
        tasks.push(tokio::spawn(books.clone().watch(watched)));
    }
    let mut admin_at = None;
    let mut current = None;
    if let (Some(admin), Some(books)) = (&config.admin, books) {
        let settings = admin::settings(config, session_key.as_deref());
        let backends = Backends {
            books: books.clone(),
            keys: books,
            sight: gateway.clone(),
            peers: link.map(|link| link as Arc<dyn Peers>),
            file: Arc::new(reloader.clone()),
            clock: Clock::system(),
        };
        let app = Arc::new(admin::Current::new(settings, backends));
        current = Some(app.clone());
        let (address, task) = admin::serve(admin.bind, Door::operators(app, &caps), never)?;
        admin_at = Some(address);
        tasks.push(task);
    }
    tasks.push(tokio::spawn(checks::run(gateway.clone(), stopped.clone())));
    tasks.push(tokio::spawn(refresh::run(gateway.clone(), stopped)));
    let in_force = Arc::new(ArcSwap::from_pointee(config.clone()));
    if let Some(source) = source {
        let parts = Parts {
            config: in_force.clone(),
            gateway: gateway.clone(),
            lasting,
            books: ledger,
            roster,
            session_key: session_key.clone(),
            certificates,
            admin: current,
        };
        let reloads = Reloads::new(source, parts, demo, asked);
        tasks.push(tokio::spawn(reloads.run()));
    } else {
        tasks.push(tokio::spawn(demo.stay()));
    }
    gateway.ready.store(true, Ordering::Release);
    Ok(Running {
        listeners,
        metrics: metrics_at,
        admin: admin_at,
        session_key,
        reloader,
        config: in_force,
        gateway,
        stop,
        _keep: keep,
        tasks,
        finish,
        ended,
        closed,
    })
}

impl Running {
    /// Fails readiness and goes on serving, so that load balancers learn of the end before it comes.
    pub async fn announce_end(&self, notice: Duration) {
        self.gateway.ready.store(false, Ordering::Release);
        sleep(notice).await;
    }

    /// Stops: readiness fails, nothing new is accepted, requests in flight may end within `grace`. The embedded store
    /// is closed then, unless a request is still at work.
    pub async fn shutdown(self, grace: Duration) {
        self.gateway.ready.store(false, Ordering::Release);
        // Nobody listens only when everything has stopped already.
        let _ = self.stop.send(true);
        let active = &self.gateway.metrics.active_requests;
        let idle = async {
            while active.get() > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(grace, idle).await.is_err() {
            log::warn!(
                "{} requests were still in flight at the end of the grace",
                active.get()
            );
        }
        let Running {
            tasks,
            finish,
            ended,
            closed,
            gateway,
            _keep: keep,
            ..
        } = self;
        for task in tasks {
            task.abort();
        }
        let _ = finish.send(true);
        if timeout(LAST_CALLS, ended).await.is_err() {
            log::warn!("Redis could not be told of all requests that ended");
        }
        // Connections that wait for a next request end with this.
        drop((keep, gateway));
        if let Some(closed) = closed {
            // Whatever is still at work keeps it open to its own end.
            let _ = timeout(LAST_CALLS, closed).await;
        }
    }

    /// The configuration in force: a reload changes it.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Requests in flight.
    pub fn active(&self) -> i64 {
        self.gateway.metrics.active_requests.get()
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

fn edge(gateway: Arc<Gateway>, idle: Arc<Idle>) -> Arc<Edge<HttpProxy<Proxy>>> {
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
    )
}

fn bound(address: SocketAddr, setting: &str) -> Result<tokio::net::TcpListener, String> {
    listen::bind(address).map_err(|error| {
        format!("{setting}: cannot listen on {address}: {error}; is another process there?")
    })
}

fn local_address(listener: &tokio::net::TcpListener) -> Result<SocketAddr, String> {
    listener.local_addr().map_err(|error| error.to_string())
}
