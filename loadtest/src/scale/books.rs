//! Whether the ledger is the provider's count: all accounts together, to the token and the micro-unit.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::provider::USED;
use super::settings::BALANCE;
use super::site::Site;
use crate::Result;
use crate::ledger::admin::{Admin, Row, money, row};
use crate::ledger::claims::Claims;
use crate::ledger::money::PRICE;

/// How long charges may take to be in the ledger.
const SETTLED: Duration = Duration::from_secs(20);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// What the ledger says of all accounts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sums {
    keys: Row,
    days: Row,
    held: i64,
    taken: i64,
}

/// Claims that the ledger has what a provider told: so many requests since the start, and no others.
pub async fn compare(site: &Site, told: u64, claims: &mut Claims) -> Result<()> {
    let admin = site.nodes.first().ok_or("no gateway")?.admin;
    let expected = Sums::of(told);
    let begin = Instant::now();
    let sums = loop {
        match Sums::read(admin).await? {
            Some(sums) if sums == expected || begin.elapsed() > SETTLED => break sums,
            None if begin.elapsed() > SETTLED => {
                return Err("the ledger is not told: 503 all the time".into());
            }
            _ => sleep(PAUSE).await,
        }
    };
    let drift = admin.drift().await?;
    claims.check(
        sums == expected && drift.is_empty(),
        "The ledger has what the provider counted, to the token and the micro-unit; nothing is held, no sum drifts",
        &format!(
            "{} of {told} requests, {} of {} micro-units, {} held, {} drift",
            sums.keys.requests,
            sums.taken,
            expected.taken,
            sums.held,
            drift.len()
        ),
    );
    Ok(())
}

impl Sums {
    /// What so many answers come to.
    fn of(told: u64) -> Self {
        let mut tokens = USED;
        tokens.input *= told;
        tokens.output *= told;
        let row = Row {
            requests: told,
            tokens,
            pictures: 0,
            cost: PRICE.cost(USED) * i64::try_from(told).unwrap_or(i64::MAX),
            estimated: 0,
        };
        Sums {
            keys: row,
            days: row,
            held: 0,
            taken: row.cost,
        }
    }

    /// As a gateway tells; nothing if the store did not answer it in time.
    async fn read(admin: Admin) -> Result<Option<Self>> {
        let paths = [
            "/usage?by=key&limit=1",
            "/usage?by=day&limit=1",
            "/accounts?limit=1000",
        ];
        let mut bodies = [Value::Null, Value::Null, Value::Null];
        for (path, place) in paths.iter().zip(&mut bodies) {
            match admin.call("GET", path, None, None).await? {
                (200, body) => *place = body,
                (503, _) => return Ok(None),
                (status, body) => return Err(format!("GET {path}: status {status}: {body}").into()),
            }
        }
        let [keys, days, accounts] = bodies;
        if accounts["next"].is_string() {
            return Err("more accounts than a page has".into());
        }
        let (mut held, mut taken) = (0, 0);
        for account in accounts["data"].as_array().ok_or("accounts without data")? {
            held += money(account, "held")?;
            taken += BALANCE - money(account, "balance")?;
        }
        Ok(Some(Sums {
            keys: row(&keys["total"])?,
            days: row(&days["total"])?,
            held,
            taken,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_answers_cost_so_many_times_one() {
        let one = Sums::of(1);
        let seven = Sums::of(7);
        // 42 tokens at 4 and 9 at 16 a million.
        assert_eq!((one.taken, seven.taken), (312, 7 * 312));
        assert_eq!(seven.keys.tokens.input, 7 * 42);
        assert_eq!(seven.days, seven.keys);
    }
}
