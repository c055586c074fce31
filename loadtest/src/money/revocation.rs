//! How long a key is taken after it was revoked: on the node that was told, on another one, and on one that was cut
//! off from Redis meanwhile.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::rush::known;
use super::{PLENTY, RICH, Site};
use crate::Result;
use crate::ledger::admin::Admin;
use crate::ledger::claims::Claims;
use crate::ledger::client::User;
use crate::ledger::provider::Provider;
use crate::ledger::site::{Node, Terms};
use crate::ledger::wish::Kind;
use crate::process::Scratch;
use crate::redis::Redis;
use crate::relay::Relay;
use crate::report::Samples;

/// The longest time that a revoked key may be taken.
const ALLOWED: Duration = Duration::from_secs(2);

/// From one request of a client to the next.
const PAUSE: Duration = Duration::from_millis(5);

/// A key is used so often before it is revoked.
const USED: usize = 10;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// For so long a node is cut off before a key is revoked, and afterwards.
const APART: Duration = Duration::from_millis(1_500);

/// The table's head.
pub const HEADER: &str = "\n| key revoked | keys | taken for, ms: median (least–most) | 200 while cut off |\n\
     | --- | --- | --- | --- |\n";

/// How a node is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Hangs,
    Cut,
}

/// One who uses a key on a node.
struct Holder(User);

impl Holder {
    fn start(front: SocketAddr, key: &str) -> Self {
        Holder(User::start(front, key, Kind::Whole, PAUSE))
    }

    /// Waits until the last answers were all of this status.
    async fn until(&self, status: u16) -> Result<()> {
        self.0.until(status, USED, PATIENCE).await
    }

    /// From a moment to the first refusal that no service followed.
    fn taken(&self, since: Instant) -> Option<Duration> {
        let seen = self.0.seen();
        let last = seen.iter().rposition(|one| one.status == 200);
        let after = seen.get(last.map_or(0, |last| last + 1)..)?;
        let refused = after.iter().find(|one| one.status == 401)?;
        Some(refused.ended.saturating_duration_since(since))
    }

    fn served_between(&self, from: Instant, until: Instant) -> usize {
        let seen = self.0.seen();
        let within = seen
            .iter()
            .filter(|one| one.sent >= from && one.ended <= until);
        within.filter(|one| one.status == 200).count()
    }
}

/// Two nodes on a Redis, the second one over a wire of its own.
pub async fn shared(
    program: &Path,
    scratch: &Scratch,
    times: u32,
    cuts: u32,
    text: &mut String,
    claims: &mut Claims,
) -> Result<()> {
    claims.part("revoked keys");
    let provider = Provider::start().await?;
    let redis = Redis::start(None, scratch).await?;
    let wire = Relay::start(redis.address()).await?;
    let mut nodes = Vec::with_capacity(2);
    for (name, address) in [("node 1", redis.address()), ("node 2", wire.address)] {
        let terms = Terms {
            provider: provider.address,
            accounts: &[(RICH, PLENTY)],
            keys: &[],
            redis: Some(address),
        };
        let mut node = Node::new(name, program, scratch, &terms)?;
        node.start(scratch)?;
        node.open().await?;
        nodes.push(node);
    }
    let [first, second] = nodes.as_slice() else {
        return Err("not two gateways".into());
    };
    let (mut own, mut other) = (Samples::default(), Samples::default());
    let mut most = (Duration::ZERO, Duration::ZERO);
    for number in 0..times {
        let (here, there) = revoke(first, second, number).await?;
        own.add(here.as_secs_f64() * 1000.0);
        other.add(there.as_secs_f64() * 1000.0);
        most = (most.0.max(here), most.1.max(there));
    }
    let _ = writeln!(
        text,
        "| on the same node | {times} | {} | – |",
        own.spread(0)
    );
    let _ = writeln!(
        text,
        "| on the other node | {times} | {} | – |",
        other.spread(0)
    );
    for (place, samples, most) in [("same", own, most.0), ("other", other, most.1)] {
        claims.check(
            most <= ALLOWED,
            &format!("a revoked key is refused within 2 s by the {place} node"),
            &format!("{} ms of {times}", samples.spread(0)),
        );
    }
    for how in [Wire::Hangs, Wire::Cut] {
        let (mut samples, mut most, mut served) = (Samples::default(), Duration::ZERO, 0);
        for number in 0..cuts {
            let name = format!("{how:?}-{number}");
            let (healed, count) = apart(first, second, &wire, how, &name).await?;
            samples.add(healed.as_secs_f64() * 1000.0);
            most = most.max(healed);
            served += count;
        }
        let words = match how {
            Wire::Hangs => "the wire to Redis hung",
            Wire::Cut => "the wire to Redis was cut",
        };
        let _ = writeln!(
            text,
            "| on the other node, while {words}; from when it was whole again | {cuts} | {} | {served} |",
            samples.spread(0)
        );
        claims.check(
            most <= ALLOWED,
            &format!("a key that was revoked while {words} is refused within 2 s of its healing"),
            &format!("{} ms of {cuts}", samples.spread(0)),
        );
    }
    Ok(())
}

/// Revokes a key on the first node; gives for how long it was taken there and on the second.
async fn revoke(first: &Node, second: &Node, number: u32) -> Result<(Duration, Duration)> {
    let key = first
        .admin
        .create_key(&format!("revoked-{number}"), RICH)
        .await?;
    known(&[first.admin, second.admin], &key).await?;
    let users = [first, second].map(|node| Holder::start(node.front, &key.key));
    for user in &users {
        user.until(200).await?;
    }
    let asked = Instant::now();
    first.admin.revoke(&key.id).await?;
    for user in &users {
        user.until(401).await?;
    }
    let [here, there] = users.map(|user| user.taken(asked));
    Ok((here.ok_or("no refusal")?, there.ok_or("no refusal")?))
}

/// The same, while the second node is cut off; gives for how long it was taken there from when it no longer was,
/// and how often it was while it was.
async fn apart(
    first: &Node,
    second: &Node,
    wire: &Relay,
    how: Wire,
    name: &str,
) -> Result<(Duration, usize)> {
    let key = first.admin.create_key(name, RICH).await?;
    known(&[first.admin, second.admin], &key).await?;
    let user = Holder::start(second.front, &key.key);
    user.until(200).await?;
    match how {
        Wire::Hangs => wire.hang(),
        Wire::Cut => wire.cut(),
    }
    sleep(APART).await;
    let revoked = Instant::now();
    first.admin.revoke(&key.id).await?;
    sleep(APART).await;
    let healed = Instant::now();
    let served = user.served_between(revoked, healed);
    wire.heal();
    user.until(401).await?;
    Ok((user.taken(healed).ok_or("no refusal")?, served))
}

/// One node without Redis: the first request after the answer is refused.
pub async fn alone(site: &Site, times: u32, text: &mut String, claims: &mut Claims) -> Result<()> {
    let node = site.nodes.first().ok_or("no gateway")?;
    let admin: Admin = node.admin;
    let mut samples = Samples::default();
    let mut late = Vec::new();
    for number in 0..times {
        let key = admin.create_key(&format!("alone-{number}"), RICH).await?;
        let user = Holder::start(node.front, &key.key);
        user.until(200).await?;
        let asked = Instant::now();
        admin.revoke(&key.id).await?;
        let done = Instant::now();
        user.until(401).await?;
        let seen = user.0.seen();
        if seen.iter().any(|one| one.sent >= done && one.status != 401) {
            late.push(format!("key {number}"));
        }
        samples.add(user.taken(asked).ok_or("no refusal")?.as_secs_f64() * 1000.0);
    }
    let _ = writeln!(
        text,
        "| on one node, embedded store | {times} | {} | – |",
        samples.spread(0)
    );
    claims.none(
        "without Redis a revoked key is refused from the next request on",
        u64::from(times),
        &late,
    );
    Ok(())
}
