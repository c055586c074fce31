//! The nodes on one Redis: each announces itself, and any can list all.

use super::link::{Away, Link};
use crate::record::limits::Function;
use redis::{Cmd, Value, cmd};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A node counts for so long after it was last heard of, so that a short outage of Redis does not
/// make the survivors think they were alone.
pub(super) const LIFE: Duration = Duration::from_secs(15);

/// A node as Redis knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name among the nodes.
    pub id: String,
    /// How long ago it was last heard of.
    pub heard: Duration,
    /// What it says of itself: [`super::link::Settings::about`]; empty for one of another release.
    pub about: String,
}

impl Link {
    /// This node's name among the nodes.
    pub fn node_id(&self) -> String {
        format!("{:016x}", self.node)
    }

    /// All nodes, this one included.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn list_nodes(&self) -> Result<Vec<Node>, Away> {
        let mut call = cmd("FCALL");
        call.arg(self.name(Function::Nodes))
            .arg(2)
            .arg(self.key(""))
            .arg(self.key(":about"))
            .arg(LIFE.as_millis() as u64);
        let said = self.call(Function::Nodes, &call).await?;
        read(&said).ok_or_else(|| self.misunderstood())
    }

    fn key(&self, end: &str) -> String {
        format!("{}:{{nodes}}{end}", self.prefix)
    }

    pub(super) fn announcement(&self, life: Duration) -> Cmd {
        let mut call = cmd("FCALL");
        call.arg(self.name(Function::Announce))
            .arg(3)
            .arg(self.key(""))
            .arg(self.key(":library"))
            .arg(self.key(":about"))
            .arg(life.as_millis() as u64)
            .arg(self.node_id())
            .arg(self.version())
            .arg(&self.about);
        call
    }

    pub(super) async fn announce(&self, life: Duration) -> Result<(), Away> {
        let nodes = self
            .call(Function::Announce, &self.announcement(life))
            .await?;
        self.note(&nodes);
        Ok(())
    }

    pub(super) fn note(&self, nodes: &Value) {
        if let Value::Int(nodes) = nodes {
            let nodes = u32::try_from(*nodes).unwrap_or(1).max(1);
            self.nodes.store(nodes, Ordering::Relaxed);
            self.metrics.nodes(nodes);
        }
    }
}

fn read(said: &Value) -> Option<Vec<Node>> {
    let Value::Array(values) = said else {
        return None;
    };
    let node = |three: &[Value]| match three {
        [
            Value::BulkString(id),
            Value::Int(heard),
            Value::BulkString(about),
        ] => Some(Node {
            id: String::from_utf8(id.clone()).ok()?,
            heard: Duration::from_millis(u64::try_from(*heard).ok()?),
            about: String::from_utf8(about.clone()).ok()?,
        }),
        _ => None,
    };
    values.chunks(3).map(node).collect()
}
