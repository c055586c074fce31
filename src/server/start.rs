//! Everything that a configuration names, started in order: sockets, stores, then what serves.

use super::books::Connected;
use super::build::{self, Lasting};
use super::door::Door;
use super::handover::{Part, Predecessor, Socket};
use super::keys::Keys;
use super::reload::{self, Reloads, Source};
use super::roster::Roster;
use super::running::{Listening, Running};
use super::stores::{self, Stores};
use super::swap::Parts;
use super::{admin, bind, caps, checks, edge, listen, local, local_address, refresh, tls};
use crate::admin::Backends;
use crate::admin::backend::Peers;
use crate::auth::secret::{KeyHash, generate};
use crate::clock::Clock;
use crate::config::{BillingMode, Config};
use crate::downstream::ending::Ending;
use crate::downstream::idle::Idle;
use crate::proxy::snapshot::Gateway;
use crate::record::access_log::AccessLog;
use crate::record::metrics::Metrics;
use arc_swap::ArcSwap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::sync::watch;

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
    start_after(config, log, source, None).await
}

/// The same as the successor of a process that hands its sockets and its store over. That process serves on until
/// [`Running::tell_predecessor`].
///
/// # Errors
/// Those of [`start`], and that the process before has given up.
pub async fn start_after(
    config: &Config,
    log: impl Write + Send + 'static,
    source: Option<Source>,
    predecessor: Option<Predecessor>,
) -> Result<Running, String> {
    let metrics = Metrics::new().map_err(|error| format!("metrics: {error}"))?;
    caps::raise_descriptors();
    let caps = caps::new(&config.limits);
    metrics
        .watch(caps.clone())
        .map_err(|error| format!("metrics: {error}"))?;
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
    let mut certificates = Vec::new();
    for listener in &config.listeners {
        let tls = listener.tls.as_ref().map(tls::acceptor).transpose()?;
        let (tls, certificate) = tls.unzip();
        certificates.push(certificate);
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
    } = stores::start(config, &metrics, &roster, successor, finished).await?;
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

    let books = match (ledger.clone(), registry) {
        (Some(ledger), Some(registry)) => Some(Arc::new(Connected { ledger, registry })),
        _ => None,
    };
    if let Some(books) = &books {
        tasks.push(tokio::spawn(books.clone().watch(watched)));
    }
    let (reloader, asked) = reload::channel(source.is_some());
    let mut admin_app = None;
    if let (Some(socket), Some(books)) = (admin_socket, books) {
        let settings = admin::settings(config, session_key.as_deref());
        let backends = Backends {
            books: books.clone(),
            keys: books,
            sight: gateway.clone(),
            peers: link.map(|link| link as Arc<dyn Peers>),
            file: Arc::new(reloader.clone()),
            clock: Clock::system(),
        };
        admin_app = Some((socket, Arc::new(admin::Current::new(settings, backends))));
    }
    let current = admin_app.as_ref().map(|(_, app)| app.clone());

    // From here on it serves.
    let ending = Arc::new(Ending::default());
    let idle = Arc::<Idle>::default();
    let edge = edge(gateway.clone(), idle.clone(), ending.clone());
    let door = Door::clients(edge.clone(), edge.overflow(), idle, &caps);
    let mut listeners = Vec::new();
    for (socket, tls) in clients {
        listeners.push(Listening {
            address: local_address(&socket)?,
            tls: tls.is_some(),
        });
        let serving = listen::serve(socket, tls, door.clone(), stopped.clone());
        tasks.push(tokio::spawn(serving));
    }
    let mut metrics_at = None;
    if let Some(socket) = metrics_socket {
        metrics_at = Some(local_address(&socket)?);
        let app = Arc::new(local::MetricsPage::new(gateway.metrics.clone()));
        let door = Door::operators(app, &caps);
        tasks.push(tokio::spawn(listen::serve(
            socket,
            None,
            door,
            left.clone(),
        )));
    }
    let mut admin_at = None;
    if let Some((socket, app)) = admin_app {
        let (address, task) = admin::serve(socket, Door::operators(app, &caps), left)?;
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
