//! Keys and accounts in Redis, of which `registry.lua` is the other side: written by any node, followed by all.

use super::record::{Record, WriteError, Written};
use super::registry::{Records, Registry};
use crate::billing::Once;
use crate::record::limits::Function;
use crate::store::link::{Away, Link};
use ahash::AHashMap;
use async_trait::async_trait;
use redis::{Cmd, Value, cmd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often a node asks what others have changed. A key that is revoked must be refused by all within two seconds.
const FOLLOW: Duration = Duration::from_millis(300);

/// Records that one call tells of.
const SOME: usize = 500;

/// An `Idempotency-Key` is remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// The records of all nodes on one Redis.
pub struct SharedRecords {
    link: Arc<Link>,
    write: String,
    restore: String,
    changes: String,
}

/// What has changed.
struct Changes {
    /// The number of the last change that there is.
    last: u64,
    /// Number, name and JSON, in order.
    records: Vec<(u64, String, String)>,
}

impl SharedRecords {
    /// Records over this link, whose library has `registry.lua`.
    pub fn new(link: Arc<Link>) -> SharedRecords {
        SharedRecords {
            write: link.name(Function::Write),
            restore: link.name(Function::Restore),
            changes: link.name(Function::Changes),
            link,
        }
    }

    fn key(&self, kind: &str) -> String {
        format!("{}:{{keys}}:{kind}", self.link.prefix)
    }

    fn call(&self, function: &str, once: Option<&Once>, keys: u8) -> Cmd {
        let mut call = cmd("FCALL");
        call.arg(function).arg(keys);
        for kind in ["r", "c", "n"] {
            call.arg(self.key(kind));
        }
        if keys == 4 {
            let key = once.map_or_else(|| "r".to_owned(), |once| format!("i:{}", once.key));
            call.arg(self.key(&key));
        }
        call
    }

    async fn changes(&self, since: u64) -> Result<Changes, Away> {
        let mut call = self.call(&self.changes, None, 3);
        call.arg(since).arg(SOME);
        let said = self.link.call(Function::Changes, &call).await?;
        read(&said).ok_or_else(|| self.link.misunderstood())
    }

    /// Gives back what this server has lost, and this node knows. Tells whether it could be done.
    async fn restore(&self, records: &[Record]) -> Result<(), Away> {
        let mut given = 0_u64;
        for record in records {
            let Ok(text) = serde_json::to_string(record) else {
                continue;
            };
            let mut call = self.call(&self.restore, None, 3);
            call.arg(record.name()).arg(record.version()).arg(text);
            if self.link.call(Function::Restore, &call).await? == Value::Int(1) {
                given += 1;
            }
        }
        if given > 0 {
            log::warn!(
                "store: Redis had lost {given} keys and accounts that were made at run time, or their last changes; it was given what this node knows"
            );
        }
        Ok(())
    }

    /// Tells a registry what other nodes change, until told to stop. After an outage everything is read anew:
    /// what a failover lost is not known by its number. What is known here and lost there is given back: a key that
    /// was revoked stays so, and one that works can still be revoked.
    pub async fn follow(
        self: Arc<Self>,
        registry: Arc<Registry>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let (mut since, mut connection) = (0, 0);
        // What is stored, by its versions: filled while everything is read.
        let mut stored = AHashMap::new();
        let mut ticks = interval(FOLLOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.changed() => return,
            }
            let now = self.link.connections();
            let mut anew = now != connection;
            if anew {
                since = 0;
                stored.clear();
            }
            // One that fails is asked again.
            while let Ok(changes) = self.changes(since).await {
                if changes.last < since {
                    (since, anew, connection) = (0, true, 0);
                    stored.clear();
                    continue;
                }
                for (number, name, text) in &changes.records {
                    let version = registry.apply_text(name, text);
                    since = *number;
                    if anew {
                        // What cannot be read is not written over.
                        stored.insert(name.clone(), version.unwrap_or(u64::MAX));
                    }
                }
                if changes.records.len() == SOME {
                    continue;
                }
                if !anew || self.restore(&registry.ahead_of(&stored)).await.is_ok() {
                    connection = now;
                    stored = AHashMap::new();
                } else {
                    // All of it once more.
                    connection = 0;
                }
                break;
            }
        }
    }
}

fn read(said: &Value) -> Option<Changes> {
    let Value::Array(values) = said else {
        return None;
    };
    let (last, rest) = values.split_first()?;
    let number = |value: &Value| match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    };
    let records = rest.chunks(3).map(|three| match three {
        [nth, name, json] => Some((number(nth)?, text(name)?, text(json)?)),
        _ => None,
    });
    Some(Changes {
        last: number(last)?,
        records: records.collect::<Option<_>>()?,
    })
}

#[async_trait]
impl Records for SharedRecords {
    async fn load(&self) -> Result<Vec<(String, String)>, String> {
        let (mut all, mut since) = (Vec::new(), 0);
        loop {
            let changes = self.changes(since).await;
            let Ok(changes) = changes else {
                // What is missing is read as soon as Redis is there.
                log::warn!("store: keys made at run time are not known until Redis is back");
                return Ok(all);
            };
            let some = changes.records.len();
            for (number, name, text) in changes.records {
                since = number;
                all.push((name, text));
            }
            if some < SOME {
                return Ok(all);
            }
        }
    }

    async fn read(&self, name: &str) -> Result<Option<String>, String> {
        let mut call = cmd("HGET");
        call.arg(self.key("r")).arg(name);
        match self.link.call(Function::Command, &call).await {
            Ok(Value::Nil) => Ok(None),
            Ok(Value::BulkString(text)) => String::from_utf8(text)
                .map(Some)
                .map_err(|_| "it is no text".to_owned()),
            Ok(_) => Err("Redis answered what it never says".to_owned()),
            Err(_) => Err("Redis is away".to_owned()),
        }
    }

    async fn write(
        &self,
        record: &Arc<Record>,
        once: Option<&Once>,
    ) -> Result<Written, WriteError> {
        let text = serde_json::to_string(&**record).map_err(|_| WriteError::Away)?;
        let mut call = self.call(&self.write, once, 4);
        call.arg(record.name())
            .arg(record.version())
            .arg(text)
            .arg(once.map_or("", |once| &once.fingerprint))
            .arg(REMEMBERED.as_secs());
        let said = self.link.durably(Function::Write, &call).await;
        let said = said.map_err(|_| WriteError::Away)?;
        let Value::Array(words) = &said else {
            return Err(WriteError::Away);
        };
        let mut words = words.iter().map(|word| match word {
            Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Value::SimpleString(text) => text,
            _ => "",
        });
        match (words.next(), words.next()) {
            (Some("ok"), _) => Ok(Written::Now),
            (Some("before"), Some(name)) => Ok(Written::Before(name.to_owned())),
            (Some("reused"), _) => Err(WriteError::Reused),
            (Some("changed"), _) => Err(WriteError::Changed),
            _ => Err(WriteError::Away),
        }
    }
}
