//! Many requests at once on a balance for few: exactly those are served that were paid for.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::join;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{POOR, Site};
use crate::Result;
use crate::ledger::admin::{Admin, NewKey, Row};
use crate::ledger::claims::Claims;
use crate::ledger::client::Client;
use crate::ledger::money::{PICTURE, decimal};
use crate::ledger::sight;
use crate::ledger::wish::{Kind, Wish};

/// The key that everybody uses.
const KEY: &str = "rush";

/// How many top-ups there are, and for how many pictures each is.
const TOP_UPS: u64 = 10;
const ROOM: u64 = 5;

/// How long a picture takes, in milliseconds.
const PAINTING: u64 = 30;

/// Who was refused asks again after this time: all at once, but not so often that the machine does nothing else.
const AGAIN: Duration = Duration::from_millis(100);

/// The balance is looked at, and the key edited, so often.
const LOOK: Duration = Duration::from_millis(5);
const EDIT: Duration = Duration::from_millis(50);

/// A new key is known everywhere after this time; what was charged is in the store.
const SOON: Duration = Duration::from_secs(10);

/// The table's head.
pub const HEADER: &str = "| site | sent | 200 | paid for | 402 | other | top-ups | edits of the key | balance in the end \
     | lowest seen: balance / free | looks | seconds | failed calls to Redis |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

/// How many.
#[derive(Debug, Clone, Copy)]
pub struct Rush {
    /// Pictures that the balance pays for at first.
    pub pictures: u64,
    /// Requests, at least.
    pub requests: u64,
    /// In flight at a time.
    pub connections: u64,
}

/// What clients count.
#[derive(Default)]
struct Counts {
    /// The next request's number.
    next: AtomicU64,
    /// No request has a higher one.
    end: AtomicU64,
    served: AtomicU64,
    short: AtomicU64,
    others: Mutex<Vec<String>>,
}

/// What was seen of an account.
#[derive(Debug, Clone, Copy)]
struct Lowest {
    balance: i64,
    free: i64,
    looks: u64,
    /// The store did not answer in time.
    blind: u64,
}

impl Rush {
    /// Sends, and judges what came of it.
    pub async fn run(self, site: &Site, text: &mut String, claims: &mut Claims) -> Result<()> {
        let name = site.name();
        let admins: Vec<Admin> = site.nodes.iter().map(|node| node.admin).collect();
        let metrics: Vec<_> = site.nodes.iter().map(|node| node.metrics).collect();
        let first = *admins.first().ok_or("no gateway")?;
        let key = first.create_key(KEY, POOR).await?;
        known(&admins, &key).await?;
        let counts = Arc::new(Counts::default());
        counts.end.store(u64::MAX, Ordering::Relaxed);
        let over = AtomicBool::new(false);
        let begin = Instant::now();
        let (sent, topped, looked, edited) = join!(
            async {
                let sent = self.send(site, &key, &counts).await;
                over.store(true, Ordering::Relaxed);
                sent
            },
            async {
                let topped = self.top_up(&admins, &counts).await;
                // After a failure too: nobody sends for ever.
                let now = counts.next.load(Ordering::Relaxed);
                let end = self.requests.max(now + 4 * self.connections);
                counts.end.store(end, Ordering::Relaxed);
                topped
            },
            look(&admins, &over),
            edit(&admins, &key, &over),
        );
        let elapsed = begin.elapsed();
        sent?;
        let (again, lowest, (edits, conflicts)) = (topped?, looked?, edited?);
        sight::settled(&metrics, SOON).await?;
        let account = first.account(POOR).await?;
        let (rows, _) = first.used(POOR).await?;
        let mut drift = Vec::new();
        for admin in &admins {
            drift.extend(admin.drift().await?);
        }
        let mut errors = 0;
        for node in &metrics {
            errors += sight::look(*node).await?.errors;
        }
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (served, short) = (count(&counts.served), count(&counts.short));
        let others =
            std::mem::take(&mut *counts.others.lock().unwrap_or_else(PoisonError::into_inner));
        let paid = self.pictures + TOP_UPS * ROOM;
        let sent = served + short + others.len() as u64;
        let _ = writeln!(
            text,
            "| {name} | {sent} | {served} | {paid} | {short} | {} | {TOP_UPS} × {ROOM}, each sent twice, {again} times again after a 503 | {edits} and {conflicts} in vain \
             | {} | {} / {} | {}, {} in vain | {:.1} | {errors} |",
            others.len(),
            decimal(account.balance),
            decimal(lowest.balance),
            decimal(lowest.free),
            lowest.looks,
            lowest.blind,
            elapsed.as_secs_f64(),
        );
        let told = site.provider.book.told();
        let pictures = told.values().map(|told| told.times).sum::<u64>();
        claims.part(&name);
        claims.check(
            served == paid && pictures == paid,
            "exactly what was paid for is served",
            &format!("{served} of {sent}, paid for {paid}, painted {pictures}"),
        );
        claims.none("all others are 402", sent, &others);
        claims.check(
            account.balance == 0 && account.held == 0,
            "in the end nothing is left and nothing held",
            &format!(
                "{}, held {}",
                decimal(account.balance),
                decimal(account.held)
            ),
        );
        claims.check(
            lowest.balance >= 0 && lowest.free >= 0 && lowest.looks > 0,
            "the balance never falls below nothing, with what is held neither",
            &format!(
                "{} and {} in {} looks",
                decimal(lowest.balance),
                decimal(lowest.free),
                lowest.looks
            ),
        );
        let row = rows.get(KEY).copied().unwrap_or_default();
        let expected = Row {
            requests: paid,
            pictures: paid,
            cost: PICTURE * i64::try_from(paid)?,
            ..row
        };
        claims.check(
            row == expected && row.estimated == 0,
            "the ledger has each picture once",
            &format!("{row:?}"),
        );
        claims.none("no drift", admins.len() as u64, &drift);
        claims.check(
            edits > 0,
            "the key was edited meanwhile",
            &edits.to_string(),
        );
        Ok(())
    }

    /// The requests.
    async fn send(self, site: &Site, key: &NewKey, counts: &Arc<Counts>) -> Result<()> {
        let mut clients = JoinSet::new();
        for _ in 0..self.connections {
            let client = Client::new(site.front, &key.key);
            clients.spawn(work(client, Arc::clone(counts)));
        }
        while let Some(end) = clients.join_next().await {
            end?;
        }
        Ok(())
    }

    /// Adds room for some more, again and again while requests come; each time on two nodes at once with one
    /// `Idempotency-Key`. Gives how often that had to be asked for again.
    async fn top_up(self, admins: &[Admin], counts: &Counts) -> Result<u64> {
        let amount = PICTURE * i64::try_from(ROOM)?;
        let mut again = 0;
        for number in 0..TOP_UPS {
            let at = self.requests * (number + 1) / (TOP_UPS + 1);
            while counts.next.load(Ordering::Relaxed) < at {
                sleep(LOOK).await;
            }
            let once = format!("top-up-{number}");
            let (one, other) = (number as usize, number as usize + 1);
            let post = |place: usize| {
                let admin = admins.get(place % admins.len().max(1)).copied();
                let once = &once;
                async move { admin.ok_or("no gateway")?.top_up(POOR, amount, once).await }
            };
            let (first, second) = join!(post(one), post(other));
            again += first? + second?;
        }
        Ok(again)
    }
}

async fn work(mut client: Client, counts: Arc<Counts>) {
    loop {
        let number = counts.next.fetch_add(1, Ordering::Relaxed);
        if number >= counts.end.load(Ordering::Relaxed) {
            return;
        }
        let wish = Wish {
            number,
            kind: Kind::Picture,
            wait_ms: PAINTING,
        };
        match client.ask(wish).await.status {
            Ok(200) => {
                counts.served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(402) => {
                counts.short.fetch_add(1, Ordering::Relaxed);
                sleep(AGAIN).await;
            }
            other => {
                let words = match other {
                    Ok(status) => format!("status {status}: {}", client.words()),
                    Err(error) => error.to_string(),
                };
                let mut others = counts.others.lock().unwrap_or_else(PoisonError::into_inner);
                others.push(words);
            }
        }
    }
}

/// Waits until each node knows a new key.
pub async fn known(admins: &[Admin], key: &NewKey) -> Result<()> {
    let begin = Instant::now();
    let path = format!("/keys/{}", key.id);
    for admin in admins {
        while admin.call("GET", &path, None, None).await?.0 != 200 {
            if begin.elapsed() > SOON {
                return Err(format!("a new key is not known after {SOON:?}").into());
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Looks at the balance, in turns on each node.
async fn look(admins: &[Admin], over: &AtomicBool) -> Result<Lowest> {
    let mut lowest = Lowest {
        balance: i64::MAX,
        free: i64::MAX,
        looks: 0,
        blind: 0,
    };
    for admin in admins.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        match admin.look(POOR).await? {
            Some(account) => {
                lowest.balance = lowest.balance.min(account.balance);
                lowest.free = lowest.free.min(account.balance - account.held);
                lowest.looks += 1;
            }
            None => lowest.blind += 1,
        }
        sleep(LOOK).await;
    }
    Ok(lowest)
}

/// Edits the key, in turns on each node; gives how often that was done, and how often another edit was in the way
/// or the store did not answer.
async fn edit(admins: &[Admin], key: &NewKey, over: &AtomicBool) -> Result<(u64, u64)> {
    let (mut edits, mut conflicts) = (0, 0);
    for (number, admin) in admins.iter().cycle().enumerate() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        // The name stays: the ledger's row goes by it.
        let cap = ["0", "100000", "200000"][number % 3];
        let changes = json!({ "name": KEY, "spend_cap": { "daily": cap, "monthly": cap } });
        match admin.edit_key(&key.id, &changes).await? {
            true => edits += 1,
            false => conflicts += 1,
        }
        sleep(EDIT).await;
    }
    Ok((edits, conflicts))
}
