//! Keeps a link up: connects, loads the functions, announces this node, and begins anew when the
//! connection is given up.

use super::link::{Away, Connection, DEADLINE, Link};
use super::nodes::LIFE;
use super::target::{CONNECT, Target};
use crate::id::next_random;
use crate::record::limits::Breaking;
use redis::{AsyncConnectionConfig, RedisError, cmd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often it is heard of.
const ANNOUNCE: Duration = Duration::from_secs(1);

/// From one try to connect to the next: doubled each time, up to the second one. What comes back is
/// found within two seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// While it is away, the log tells so again after this time, with the reason of the moment.
const REMIND: Duration = Duration::from_secs(60);

/// An outage is over when the link has stood for so long.
const STEADY: Duration = Duration::from_secs(1);

/// So many announcements in a row must fail before the connection is given up for them.
const MISSED: u32 = 2;

/// A try takes no longer than this.
const TRY: Duration = Duration::from_millis(600);

/// The client's queue of calls. Its default of 50 is less than what comes in one turn of a busy node.
const QUEUE: usize = 4096;

/// Redis is away, or comes and goes.
struct Outage {
    since: Instant,
    /// When the log last told of it.
    told: Instant,
    tries: u32,
}

impl Outage {
    /// How long to wait until the next try. Nodes that lost Redis together do not come back together.
    fn pause(&self) -> Duration {
        let doubled = 2_u32.pow(self.tries.saturating_sub(1).min(8));
        let pause = (FIRST_PAUSE * doubled).min(LONGEST_PAUSE);
        let spread = pause.as_millis() as u64 / 2;
        pause - Duration::from_millis(next_random() % spread.max(1))
    }
}

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
        tokio::select! {
            () = self.keep_up() => {}
            _ = stopped.changed() => {}
        }
        // It would be forgotten anyway, some seconds later.
        let _ = self.announce(Duration::ZERO).await;
    }

    /// Brings the link up whenever it is not. What comes and goes is one outage: it is over, and is
    /// said to be, when the link has stood for a while; until then the pauses go on growing.
    async fn keep_up(&self) {
        let mut outage: Option<Outage> = None;
        loop {
            if self.up() {
                if let Some(begun) = &outage {
                    tokio::select! {
                        () = self.watch() => continue,
                        () = sleep(STEADY) => {}
                    }
                    let away = begun.since.elapsed().saturating_sub(STEADY).as_millis();
                    log::info!("store: Redis is back after {away} ms; limits are exact again");
                    outage = None;
                }
                self.watch().await;
            }
            let outage = outage.get_or_insert_with(|| self.begin_outage());
            if outage.tries > 0 {
                sleep(outage.pause()).await;
            }
            outage.tries += 1;
            self.metrics.breaker(Breaking::Probing);
            if let Err(why) = self.reconnect().await {
                self.metrics.breaker(Breaking::Open);
                if outage.told.elapsed() >= REMIND {
                    log::warn!("store: Redis is still away ({why})");
                    outage.told = Instant::now();
                }
            }
        }
    }

    fn begin_outage(&self) -> Outage {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        log::warn!("store: Redis is away ({reason}); {}", self.consequence);
        let now = Instant::now();
        Outage {
            since: now,
            told: now,
            tries: 0,
        }
    }

    /// Announces this node for as long as the connection is not given up.
    async fn watch(&self) {
        let mut ticks = interval(ANNOUNCE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missed = 0;
        while let Some(used) = self.connection.load_full() {
            tokio::select! {
                () = self.lost.notified() => {}
                () = self.reload.notified() => self.load_again(&used).await,
                _ = ticks.tick() => {
                    missed = match self.announce(LIFE).await {
                        Ok(()) | Err(Away::Down) => 0,
                        Err(Away::TimedOut | Away::Failed) => missed + 1,
                    };
                    // Nobody else may be calling. Of a cluster it is one server's word.
                    if missed >= MISSED && !self.is_cluster() {
                        self.give_up(&used, "it does not note this node");
                    }
                }
            }
        }
    }

    /// One try: connection, functions, announcement. Only what can be written to is up.
    async fn reconnect(&self) -> Result<(), String> {
        let told = |error: &RedisError| self.judge(error).why();
        let loaded = timeout(TRY, async {
            let mut connection = self.connect().await?;
            match self.load(&mut connection).await {
                // A cluster's other servers may have taken it.
                Err(error) if !self.is_cluster() => Err(error),
                _ => Ok(connection),
            }
        });
        let mut connection = match loaded.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(told(&error)),
            Err(_) => return Err(format!("no answer in {} ms", TRY.as_millis())),
        };
        // Up is what answers within the time that requests have; of a cluster it is one server's word.
        match timeout(DEADLINE, connection.send(&self.announcement(LIFE))).await {
            Ok(Ok(nodes)) => self.note(&nodes),
            _ if self.is_cluster() => {}
            Ok(Err(error)) => return Err(told(&error)),
            Err(_) => return Err(format!("no answer in {} ms", DEADLINE.as_millis())),
        }
        self.breaker.reset();
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connection.store(Some(Arc::new(connection)));
        self.metrics.breaker(Breaking::Closed);
        Ok(())
    }

    async fn load(&self, connection: &mut Connection) -> Result<(), RedisError> {
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(&self.library);
        connection.send(&load).await.map(drop)
    }

    /// Loads the functions again on a cluster whose servers do not all have them.
    async fn load_again(&self, used: &Connection) {
        let mut connection = used.clone();
        let why = match timeout(TRY, self.load(&mut connection)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => self.judge(&error).why(),
            Err(_) => format!("no answer in {} ms", TRY.as_millis()),
        };
        self.mention("FUNCTION LOAD", &why);
        sleep(ANNOUNCE).await;
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
}
