//! Keeps a link up: connects, loads the functions, announces this node, and begins anew when the
//! connection is given up.

use super::link::{Away, Connection, Link, said};
use super::target::{CONNECT, Target};
use crate::id::next_random;
use crate::record::limits::{Breaking, Function};
use redis::{AsyncConnectionConfig, RedisError, Value, cmd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// A node counts for so long after it was last heard of, so that a short outage of Redis does not
/// make the survivors think they were alone.
const LIFE: Duration = Duration::from_secs(15);

/// How often it is heard of.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// From one try to connect to the next: doubled each time, up to the second one. What comes back is
/// found within two seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// While it is away, the log tells so again after this time, with the reason of the moment.
const REMIND: Duration = Duration::from_secs(60);

/// A try takes no longer than this.
const TRY: Duration = Duration::from_millis(600);

/// The client's queue of calls. Its default of 50 is less than what comes in one turn of a busy node.
const QUEUE: usize = 4096;

impl Link {
    /// Tries once to be up before anything is served.
    pub async fn first_connect(&self) {
        if let Err(why) = self.reconnect().await {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = why;
            self.metrics.breaker(Breaking::Open);
        }
    }

    /// Runs until told to stop; then this node leaves.
    pub async fn supervise(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        loop {
            if self.up() {
                tokio::select! {
                    () = self.watch() => {}
                    _ = stopped.changed() => break,
                }
            }
            tokio::select! {
                () = self.bring_up() => {}
                _ = stopped.changed() => break,
            }
        }
        // It would be forgotten anyway, some seconds later.
        let _ = self.announce(Duration::ZERO).await;
    }

    /// Announces this node for as long as the connection is not given up.
    async fn watch(&self) {
        let mut ticks = interval(ANNOUNCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(used) = self.connection.load_full() {
            tokio::select! {
                () = self.lost.notified() => {}
                _ = ticks.tick() => match self.announce(LIFE).await {
                    Ok(()) | Err(Away::Down) => {}
                    // Nobody else may be calling: one try that fails is enough to look closer.
                    Err(Away::TimedOut) => self.give_up(&used, "no answer in 40 ms"),
                    Err(Away::Failed) => self.give_up(&used, "it refused to note this node"),
                },
            }
        }
    }

    /// Connects, however long it takes.
    async fn bring_up(&self) {
        let since = Instant::now();
        let why = self
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        log::warn!("store: Redis is away ({why}); {}", self.consequence);
        let (mut pause, mut told) = (FIRST_PAUSE, since);
        loop {
            self.metrics.breaker(Breaking::Probing);
            match self.reconnect().await {
                Ok(()) => break,
                Err(why) if told.elapsed() >= REMIND => {
                    log::warn!("store: Redis is still away ({why})");
                    told = Instant::now();
                }
                Err(_) => {}
            }
            self.metrics.breaker(Breaking::Open);
            // Nodes that lost it together do not come back together.
            let spread = pause.as_millis() as u64 / 2;
            sleep(pause - Duration::from_millis(next_random() % spread.max(1))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let away = since.elapsed().as_millis();
        log::info!("store: Redis is back after {away} ms; limits are exact again");
    }

    /// One try: connection, functions, announcement. Only what can be written to is up.
    async fn reconnect(&self) -> Result<(), String> {
        let tried = timeout(TRY, async {
            let mut connection = self.connect().await?;
            let mut load = cmd("FUNCTION");
            load.arg("LOAD").arg("REPLACE").arg(&self.library);
            connection.send(&load).await?;
            let nodes = connection.send(&self.announcement(LIFE)).await?;
            Ok::<_, RedisError>((connection, nodes))
        });
        let (connection, nodes) = match tried.await {
            Ok(Ok(up)) => up,
            Ok(Err(error)) => return Err(said(&error)),
            Err(_) => return Err(format!("no answer in {} ms", TRY.as_millis())),
        };
        self.note(&nodes);
        self.breaker.reset();
        self.connection.store(Some(Arc::new(connection)));
        self.metrics.breaker(Breaking::Closed);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        Ok(match &self.target {
            Target::Single(client) => {
                // Calls have their own deadline: a second timer for each would only cost.
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT))
                    .set_response_timeout(None)
                    .set_pipeline_buffer_size(QUEUE);
                let connection = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                Connection::Single(connection)
            }
            Target::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }

    fn announcement(&self, life: Duration) -> redis::Cmd {
        let mut call = cmd("FCALL");
        call.arg(self.name(Function::Announce))
            .arg(1)
            .arg(format!("{}:nodes", self.prefix))
            .arg(life.as_millis() as u64)
            .arg(format!("{:016x}", self.node));
        call
    }

    async fn announce(&self, life: Duration) -> Result<(), Away> {
        let nodes = self
            .call(Function::Announce, &self.announcement(life))
            .await?;
        self.note(&nodes);
        Ok(())
    }

    fn note(&self, nodes: &Value) {
        if let Value::Int(nodes) = nodes {
            let nodes = u32::try_from(*nodes).unwrap_or(1).max(1);
            self.nodes.store(nodes, Ordering::Relaxed);
            self.metrics.nodes(nodes);
        }
    }
}
