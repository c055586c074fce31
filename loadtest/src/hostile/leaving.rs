//! Clients that leave at every part of a stream: is the provider told, are they charged as relayed, is nothing held?
//! The clients are those of `loadtest kills`; here nothing is killed, and each part of a stream has a row of its own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::Result;
use crate::kills::by_time;
use crate::ledger::admin::Row;
use crate::ledger::audit;
use crate::ledger::claims::Claims;
use crate::ledger::provider::{Provider, Told};
use crate::ledger::site::{MODEL, Node};
use crate::ledger::traffic::{End, Sent, Traffic, key, leaves_at};
use crate::process::Scratch;
use crate::upstreams::site::{Books, Terms, Upstream};
use crate::upstreams::traffic::ACCOUNT;

/// Requests in flight; every other one is a stream.
const CLIENTS: u64 = 64;

/// Requests for which there are keys, a second.
const KEYS: u64 = 300;

/// A gateway has noticed, and settled, after this time.
const NOTICED: Duration = Duration::from_millis(500);

/// A provider is told within this time.
const TOLD: Duration = Duration::from_secs(1);

/// Those who left at one part of a stream.
#[derive(Default)]
struct Left {
    count: u64,
    /// Events that reached them, events that they were charged for, and events that the provider wrote.
    events: [u64; 3],
    /// From when one left until the provider was told, at most.
    told_after: Duration,
}

/// Runs for some time, and gives the table.
pub async fn run(
    program: &Path,
    scratch: &Scratch,
    lasts: Duration,
    claims: &mut Claims,
) -> Result<String> {
    let provider = Provider::start().await?;
    let upstream = Upstream {
        name: "fake",
        address: provider.address,
        model: MODEL,
        settings: "",
    };
    let keys = KEYS * lasts.as_secs();
    let terms = Terms {
        upstreams: &[upstream],
        keys,
        others: 0,
        settings: "",
    };
    let mut node = terms.node(program, scratch).await?;
    let traffic = Traffic::start(&[node.front], CLIENTS, keys, ACCOUNT, by_time()?);
    let memory = peak(&node, lasts).await;
    let sent = traffic.finish().await?;
    sleep(NOTICED).await;
    let books = Books::ask(&mut node).await?;
    let told = provider.book.told();
    let whole = audit::Books {
        sent: &sent,
        told: &told,
        rows: &books.rows,
    };
    audit::Audit::new(&whole, |_| false).claim(claims);
    books.claim(claims);
    let (parts, untold) = parts(&sent, &told, &books.rows);
    let looked_at = parts.values().map(|left| left.count).sum();
    claims.none(
        "of every stream that is given up the provider is told, within 1 s",
        looked_at,
        &untold,
    );
    claims.check(
        parts.len() == 4 && parts.values().all(|left| left.count > 0),
        "clients left at 0, 10, 50 and 99 %",
        &format!("{looked_at} of {}", sent.len()),
    );
    Ok(table(&parts, memory))
}

async fn peak(node: &Node, lasts: Duration) -> u64 {
    let mut memory = 0;
    crate::upstreams::trial::watch(node, lasts, &mut memory).await;
    memory
}

/// Those who left, by the part of a stream; and those of whom the provider was not told in time.
fn parts(
    sent: &[Sent],
    told: &BTreeMap<u64, Told>,
    rows: &BTreeMap<String, Row>,
) -> (BTreeMap<u64, Left>, Vec<String>) {
    let mut parts: BTreeMap<u64, Left> = BTreeMap::new();
    let mut untold = Vec::new();
    for one in sent.iter().filter(|one| one.end == End::Left) {
        // Who is not known to the provider left before it was asked.
        let Some(told) = told.get(&one.number) else {
            continue;
        };
        let Some(percent) = leaves_at(told.wish) else {
            continue;
        };
        let left = parts.entry(percent).or_default();
        left.count += 1;
        let row = rows.get(&key(one.number, ACCOUNT).name);
        let charged = row.map_or(0, |row| row.tokens.output);
        for (sum, count) in left
            .events
            .iter_mut()
            .zip([one.events, charged, told.events])
        {
            *sum += count;
        }
        let after = told
            .closed
            .map(|closed| closed.saturating_duration_since(one.ended));
        left.told_after = left.told_after.max(after.unwrap_or_default());
        // One that had written its last words has nothing to be told.
        if !told.reported && after.is_none_or(|after| after > TOLD) {
            untold.push(format!("request {}: {after:?}, {told:?}", one.number));
        }
    }
    (parts, untold)
}

fn table(parts: &BTreeMap<u64, Left>, memory: u64) -> String {
    let mut text = format!(
        "\nClients that leave; peak PSS {:.1} MiB:\n\n\
         | left at | streams | events: arrived / charged / written by the provider | provider told after, ms, at most |\n\
         | --- | --- | --- | --- |\n",
        memory as f64 / 1024.0
    );
    for (percent, left) in parts {
        let Left {
            count,
            events: [arrived, charged, written],
            told_after,
        } = left;
        let _ = writeln!(
            text,
            "| {percent} % | {count} | {arrived} / {charged} / {written} | {} |",
            told_after.as_millis()
        );
    }
    text
}
