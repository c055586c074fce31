//! A gateway that serves, and how that ends: at once, in good order, or in favour of a successor.

use super::handover::{Launch, Predecessor, Socket, Successor};
use super::reload::Reloader;
use super::stores::Kept;
use crate::config::Config;
use crate::downstream::ending::Ending;
use crate::proxy::snapshot::Gateway;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// At the end, Redis is told of the last requests within this time.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// What is cut at the end of the grace may say so to its client within this time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Connections whose last answer has been written bring it on its way within this time.
const LAST_BYTES: Duration = Duration::from_millis(200);

/// After a handover, connections without a request are waited for so long: above what an idle one has left by then,
/// and what the header of one more request may take.
const QUIET: Duration = Duration::from_secs(20);

/// How often it is looked whether something is still in flight.
const LOOK: Duration = Duration::from_millis(20);

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
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) gateway: Arc<Gateway>,
    /// Reaches the sessions.
    pub(super) ending: Arc<Ending>,
    /// Every listening socket once more; none once they are closed.
    pub(super) sockets: Mutex<Vec<Socket>>,
    /// The process before, until it is told.
    pub(super) predecessor: Option<Predecessor>,
    /// Closes the clients' listeners. Each of their connections watches it.
    pub(super) stop: watch::Sender<bool>,
    /// Closes the operators' listeners: admin and metrics.
    pub(super) leave: watch::Sender<bool>,
    /// What is served to the very end ends when this is dropped.
    pub(super) _keep: watch::Sender<bool>,
    pub(super) tasks: Vec<JoinHandle<()>>,
    /// Tells the limits that the last request has ended.
    pub(super) finish: watch::Sender<bool>,
    /// The limits have told Redis of it, and left.
    pub(super) ended: JoinHandle<()>,
    /// The embedded store, if there is one.
    pub(super) kept: Kept,
    /// The embedded store is closed.
    pub(super) closed: Option<JoinHandle<()>>,
}

/// One address that is served.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl Running {
    /// Fails readiness and goes on serving for `lame_duck`, so that load balancers learn of the end before it comes.
    pub async fn announce_end(&self, lame_duck: Duration) {
        self.gateway.ready.store(false, Ordering::Release);
        sleep(lame_duck).await;
    }

    /// Closes the clients' listeners: nothing new is accepted, and each answer is the last one of its connection.
    pub fn close(&self) {
        self.ending.close();
        self.sockets().clear();
        // Nobody listens only when everything has stopped already.
        let _ = self.stop.send(true);
    }

    /// Waits until no request is in flight.
    pub async fn drained(&self) {
        while self.active() > 0 {
            sleep(LOOK).await;
        }
    }

    /// Waits until no connection is open, or none has had a request for a while.
    pub async fn quiet(&self) {
        let mut since = Instant::now();
        while !self.stop.is_closed() && since.elapsed() < QUIET {
            if self.active() > 0 {
                since = Instant::now();
            }
            sleep(LOOK).await;
        }
    }

    /// Stops: readiness fails, nothing new is accepted, requests in flight may end within `grace`. What is not whole
    /// then is ended with an error. The embedded store is closed in the end.
    pub async fn shutdown(self, grace: Duration) {
        self.gateway.ready.store(false, Ordering::Release);
        self.close();
        if timeout(grace, self.drained()).await.is_err() {
            let active = self.active();
            log::warn!(
                "{active} requests are still in flight at the end of the grace: they are ended"
            );
            self.ending.cut();
            if timeout(LAST_WORDS, self.drained()).await.is_err() {
                log::warn!("{} of them could not be ended in good order", self.active());
            }
        }
        let _ = timeout(LAST_BYTES, self.stop.closed()).await;
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

    /// Starts a successor by `launch`, and hands over sockets and store: when this returns a process id, that process
    /// serves, and this one accepts nothing any more. It still has to be shut down, when it is [`quiet`](Running::quiet).
    ///
    /// # Errors
    /// One line: there is no successor that serves `within` that time, or `cancelled` came to its end before. All is as
    /// it was.
    pub async fn hand_over(
        &self,
        launch: &Launch,
        within: Duration,
        cancelled: impl Future<Output = ()>,
    ) -> Result<u32, String> {
        let mut successor = Successor::start(launch, &self.sockets())?;
        let late = async {
            tokio::select! {
                () = sleep(within) => format!("it did not serve within {} s", within.as_secs()),
                () = cancelled => "a signal came before it served".into(),
            }
        };
        let mut late = pin!(late);
        let wanted = tokio::select! {
            wanted = successor.wants_store() => wanted,
            why = &mut late => Err(why),
        };
        if let Err(why) = wanted {
            return Err(format!("{why}{}", successor.end()));
        }
        // To its end in any case: half lent, it could not be taken back.
        self.kept.lend().await;
        let served = tokio::select! {
            biased;
            served = successor.takes_store() => served,
            why = &mut late => Err(why),
        };
        if let Err(why) = served {
            let end = successor.end();
            if let Err(error) = self.kept.take_back().await {
                log::error!("the store could not be opened again yet: {error}");
            }
            return Err(format!("{why}{end}"));
        }
        self.kept.give();
        self.close();
        let _ = self.leave.send(true);
        Ok(successor.release())
    }

    /// Tells the process before, if there is one, that this one serves.
    ///
    /// # Errors
    /// One line: it has given up, and goes on itself. This one must end.
    pub async fn tell_predecessor(&mut self) -> Result<(), String> {
        match self.predecessor.take() {
            Some(mut before) => before.serving().await,
            None => Ok(()),
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

    fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<Socket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
