//! Calls that must survive a failover.

use super::link::{Away, Connection, Link, said};
use super::target::Target;
use crate::record::limits::Function;
use redis::{Cmd, RedisError, Value, cmd, from_redis_value};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The most that an operator waits for a write.
const DURABLE: Duration = Duration::from_secs(2);

impl Link {
    /// Makes a call that must survive a failover, on a connection of its own: it is answered when a replica has what
    /// it wrote, where there is one. Calls that requests wait for are not behind it.
    ///
    /// # Errors
    /// [`Away`]; after [`Away::TimedOut`] it may have been done.
    pub async fn durably(&self, function: Function, command: &Cmd) -> Result<Value, Away> {
        let Target::Single(client) = &self.target else {
            // The client of a cluster cannot wait for one server of many.
            return self.call(function, command).await;
        };
        if !self.up() {
            return Err(Away::Down);
        }
        let begun = Instant::now();
        let done = timeout(DURABLE, async {
            let connection = client.get_multiplexed_async_connection().await?;
            let mut connection = Connection::Single(connection);
            let said = connection.send(command).await?;
            let replicas = replicas(&connection.send(cmd("INFO").arg("replication")).await?);
            if replicas == 0 {
                return Ok((said, true));
            }
            let wait = DURABLE.as_millis() as u64 / 2;
            let reached = connection.send(cmd("WAIT").arg(1).arg(wait)).await?;
            Ok((said, matches!(reached, Value::Int(reached) if reached > 0)))
        });
        match done.await {
            Ok(Ok((said, true))) => {
                self.metrics.call(function, begun.elapsed());
                Ok(said)
            }
            Ok(Ok((_, false))) => {
                self.mention(function.as_str(), "no replica has it in time");
                Err(Away::TimedOut)
            }
            Ok(Err(error)) => {
                let error: RedisError = error;
                self.mention(function.as_str(), &said(&error));
                Err(Away::Failed)
            }
            Err(_) => {
                self.mention(function.as_str(), "no answer in time");
                Err(Away::TimedOut)
            }
        }
    }
}

/// How many replicas a master says that it has.
fn replicas(info: &Value) -> u64 {
    let page: String = from_redis_value(info.clone()).unwrap_or_default();
    let count = page
        .lines()
        .find_map(|line| line.strip_prefix("connected_slaves:"));
    count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
