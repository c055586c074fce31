//! A replica that lags behind is promoted. What the master acknowledged last is gone with it; the gateways charge it
//! again from their journals, and until they have, an account that was used up may look as if it were not.
//!
//! A gateway has no client of Sentinel: it reaches the master through a relay that is led to the new one when
//! Sentinel names it. Operators have HAProxy there, with a check of `role:master`.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::sentinel::{Sentinel, follow};
use super::site::{PICTURES, Site};
use crate::Result;
use crate::ledger::claims::Claims;
use crate::ledger::client::{Seen, User};
use crate::ledger::money::{PICTURE, decimal};
use crate::process::Scratch;
use crate::redis::{Disk, Redis};
use crate::relay::Relay;

/// All is well for so long before and after.
const WELL: Duration = Duration::from_millis(2_500);

/// How many use up the tight account while the replica lags, and their pauses; afterwards they go on more slowly.
const SPENDERS: usize = 8;
const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(40);

/// How long it may take until it is used up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The table's head.
pub const HEADER: &str = "\n| failover | lag, ms | promoted after, ms | charged again from journals | pictures served before and after \
     | overspent / bound | until, ms |\n| --- | --- | --- | --- | --- | --- | --- |\n";

/// One failover.
pub struct Failover<'a> {
    /// The gateway's program.
    pub program: &'a Path,
    /// For its files.
    pub scratch: &'a Scratch,
    /// Which one it is.
    pub number: u32,
    /// For how long the replica hears nothing.
    pub lag_ms: u64,
    /// Decides what is asked for.
    pub seed: u64,
}

impl Failover<'_> {
    /// Lets it happen, and judges.
    pub async fn run(
        self,
        text: &mut String,
        ends: &mut String,
        claims: &mut Claims,
    ) -> Result<()> {
        let Failover {
            program,
            scratch,
            number,
            lag_ms,
            seed,
        } = self;
        let mut master = Redis::with_disk(Disk::EverySecond, None, scratch).await?;
        let mut replica = Redis::with_disk(Disk::EverySecond, None, scratch).await?;
        master
            .command(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])
            .await?;
        let wire = Relay::start(master.address()).await?;
        follow(&mut replica, wire.address).await?;
        let mut sentinel = Sentinel::start(scratch, master.address()).await?;
        let front = Relay::start(master.address()).await?;
        let seed = seed.wrapping_add(u64::from(number));
        let mut site = Site::start(program, scratch, front.address, seed).await?;
        site.rest(WELL).await?;

        let lag = Instant::now();
        wire.hang();
        let mut users = Vec::with_capacity(SPENDERS);
        for nth in 0..SPENDERS {
            users.push(site.spender(nth, FAST)?);
        }
        for user in &users {
            user.until(402, 3, PATIENCE).await?;
        }
        let mut spent = finish(users).await?;
        let before = served(&spent);
        let early = site.top_up().await?;
        let left = Duration::from_millis(lag_ms).saturating_sub(lag.elapsed());
        site.rest(left).await?;
        let lag = lag.elapsed();

        let fault = Instant::now();
        master.kill()?;
        // What is on its way goes with it.
        wire.cut();
        let mut users = Vec::with_capacity(SPENDERS);
        for nth in 0..SPENDERS {
            users.push(site.spender(nth, SLOW)?);
        }
        let promoted = sentinel.promoted(master.address()).await?;
        if promoted != replica.address() {
            return Err(format!("Sentinel names {promoted}, which is not the replica").into());
        }
        let reachable = Instant::now();
        front.lead(promoted);
        site.recover(fault, reachable).await?;
        site.rest(WELL).await?;
        let late = site.top_up().await?;
        for user in &users {
            user.until(402, 3, PATIENCE).await?;
        }
        let more = finish(users).await?;
        let after = served(&more);
        // Until then an account that was used up looked as if it were not.
        let last = more.iter().filter(|one| one.status == 200);
        let last = last
            .map(|one| one.ended - reachable)
            .max()
            .unwrap_or_default();
        spent.extend(more);

        let name = format!("failover {number}");
        let replayed = site.judge(&name, 1, &spent, text, claims).await?;
        let over = i64::try_from((before + after).saturating_sub(PICTURES))? * PICTURE;
        let bound = i64::try_from(before)? * PICTURE;
        let _ = writeln!(
            ends,
            "| {number} | {} | {} | {replayed} | {before} + {after} | {} / {} | {} |",
            lag.as_millis(),
            (reachable - fault).as_millis(),
            decimal(over),
            decimal(bound),
            last.as_millis(),
        );
        claims.check(
            before == PICTURES,
            "before the failover exactly what was paid for is served",
            &format!("{before} of {PICTURES} pictures"),
        );
        claims.check(
            over <= bound,
            "no more is overspent than was charged while the replica lagged",
            &format!("{} of {}", decimal(over), decimal(bound)),
        );
        claims.check(
            early == 503 && late == 201,
            "a top-up that no replica has is not confirmed, and asked for again it is made once",
            &format!("{early}, then {late}"),
        );
        claims.check(
            replayed > 0,
            "the failover lost charges that had been acknowledged, and journals had them",
            &format!("{replayed} charged again"),
        );
        Ok(())
    }
}

async fn finish(users: Vec<User>) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    for user in users {
        all.extend(user.finish().await?);
    }
    Ok(all)
}

fn served(seen: &[Seen]) -> u64 {
    seen.iter().filter(|one| one.status == 200).count() as u64
}
