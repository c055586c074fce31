//! The end of a part: the ledger compared with what was served, and what is claimed of it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::site::{LIFE, LITTLE, PATIENCE, PICTURES, PLENTY, POOR, RECOVERY, RICH, Site, TIGHT};
use crate::Result;
use crate::kills::told_of;
use crate::ledger::admin::{Account, Admin};
use crate::ledger::audit::{Audit, Books};
use crate::ledger::claims::Claims;
use crate::ledger::client::Seen;
use crate::ledger::money::{PICTURE, decimal};
use crate::ledger::sight;
use crate::ledger::traffic::End;

/// The table's head.
pub const HEADER: &str = "| fault | times | sent | 200 | given up | refused | without one end | ledger − provider | charged again from journals \
     | Redis back after, ms | all charged after, ms | nothing held after, s | peak PSS, MiB |\n\
     | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";

impl Site {
    /// Ends the requests, compares, and adds a row; gives how many charges were sent again. `spent` are the answers
    /// to who uses up the tight account.
    pub async fn judge(
        mut self,
        name: &str,
        times: u32,
        spent: &[Seen],
        text: &mut String,
        claims: &mut Claims,
    ) -> Result<u64> {
        let sent = match self.traffic.take() {
            Some(traffic) => traffic.finish().await?,
            None => Vec::new(),
        };
        let poor = match self.poor.take() {
            Some(poor) => poor.finish().await?,
            None => Vec::new(),
        };
        let metrics: Vec<SocketAddr> = self.nodes.iter().map(|node| node.metrics).collect();
        sight::settled(&metrics, PATIENCE).await?;
        let admin = self.nodes.first().ok_or("no gateway")?.admin;
        let begin = Instant::now();
        let accounts = released(admin).await?;
        let released = begin.elapsed();
        let (rows, days) = admin.used(RICH).await?;
        let told = self.provider.book.told();
        let books = Books {
            sent: &sent,
            told: &told,
            rows: &rows,
        };
        let audit = Audit::new(&books, |_| false);
        let mut replayed = 0;
        for node in &self.nodes {
            replayed += sight::look(node.metrics).await?.replayed;
        }
        let broken = audit.endless();
        let _ = writeln!(
            text,
            "| {name} | {times} | {} | {} | {} | {} | {broken} | {} | {replayed} | {} | {} | {:.1} | {:.1} |",
            audit.sent,
            audit.finished,
            audit.left,
            audit.refused,
            audit.off_finished,
            self.back.0.spread(0),
            self.back.1.spread(0),
            released.as_secs_f64(),
            self.memory as f64 / 1024.0,
        );
        claims.part(name);
        audit.claim(claims);
        let ends: Vec<&End> = sent.iter().map(|one| &one.end).collect();
        self.claim_policy(&ends, &poor, claims);
        let by_day = "the usage is the same by key and by day";
        claims.check(days == audit.sum, by_day, &decimal(days.cost));
        self.claim_balances(admin, &accounts, audit.sum.cost, spent, claims)
            .await?;
        self.claim_health(claims).await?;
        Ok(replayed)
    }

    /// Who has plenty is served for a while without Redis; who has too little is told that nobody can say, not that
    /// it is too little.
    fn claim_policy(&self, ends: &[&End], poor: &[Seen], claims: &mut Claims) {
        let refused: Vec<String> = ends
            .iter()
            .filter(|end| !matches!(end, End::Whole | End::Left))
            .map(|end| format!("{end:?}"))
            .collect();
        claims.none(
            "who has plenty is served all the time",
            ends.len() as u64,
            &refused,
        );
        let away = |seen: &&Seen| {
            let mut times = self.away.iter();
            times.any(|(from, until)| seen.sent >= *from && seen.ended <= *until)
        };
        let wrong = |status: u16| {
            move |seen: &Seen| (seen.status != status).then(|| format!("status {}", seen.status))
        };
        let without: Vec<&Seen> = poor.iter().filter(away).collect();
        let faults: Vec<String> = without.iter().copied().filter_map(wrong(503)).collect();
        claims.none(
            "who has too little is told 503 while Redis is away",
            without.len() as u64,
            &faults,
        );
        let served = poor.iter().filter(|seen| seen.status == 200);
        let served: Vec<String> = served.map(|_| "200".to_owned()).collect();
        claims.none("and is never served", poor.len() as u64, &served);
    }

    /// What is left is what there was less what was charged.
    async fn claim_balances(
        &self,
        admin: Admin,
        accounts: &[Account],
        cost: i64,
        spent: &[Seen],
        claims: &mut Claims,
    ) -> Result<()> {
        let (used, _) = admin.used(TIGHT).await?;
        let served = spent.iter().filter(|seen| seen.status == 200).count() as u64;
        let pictures = PICTURE * i64::try_from(served)?;
        let charged = used.get(TIGHT).map_or(0, |row| row.cost);
        claims.check(
            charged == pictures,
            "every picture that was served is charged once",
            &format!("{served} pictures, {}", decimal(charged)),
        );
        let tight = PICTURE * i64::try_from(PICTURES)?;
        let left = [PLENTY + self.topped - cost, LITTLE, tight - pictures];
        let right =
            |(account, left): (&Account, &i64)| account.balance == *left && account.held == 0;
        let words = |account: &Account| {
            let Account { balance, held } = account;
            format!("{}, held {}", decimal(*balance), decimal(*held))
        };
        let words: Vec<String> = accounts.iter().map(words).collect();
        claims.check(
            accounts.iter().zip(&left).all(right),
            "each balance is what it was less what was charged, and nothing is held",
            &words.join(", "),
        );
        Ok(())
    }

    /// The gateways find nothing wrong with themselves, and were quick to recover.
    async fn claim_health(&mut self, claims: &mut Claims) -> Result<()> {
        let (mut drift, mut panics) = (Vec::new(), Vec::new());
        for node in &mut self.nodes {
            drift.extend(node.admin.drift().await?);
            panics.extend(node.panics()?);
        }
        let claim = "the gateways find no drift";
        claims.check(drift.is_empty(), claim, &told_of(&drift));
        claims.check(panics.is_empty(), "nothing panicked", &told_of(&panics));
        claims.check(
            self.slowest <= RECOVERY,
            "every gateway has Redis again and has charged what waited within 2 s",
            &format!("{} ms", self.back.1.spread(0)),
        );
        Ok(())
    }
}

/// How the accounts stand, once nothing is held any more; or after too long a time.
async fn released(admin: Admin) -> Result<Vec<Account>> {
    let begin = Instant::now();
    let mut accounts = Vec::with_capacity(3);
    for id in [RICH, POOR, TIGHT] {
        let mut account = admin.account(id).await?;
        while account.held != 0 && begin.elapsed() < LIFE {
            sleep(Duration::from_millis(200)).await;
            account = admin.account(id).await?;
        }
        accounts.push(account);
    }
    Ok(accounts)
}
