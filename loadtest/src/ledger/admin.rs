//! The admin API, as far as it tells of money and changes keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::money::{Tokens, decimal, micros};
use crate::Result;
use crate::connection::Connection;

/// The token of every gateway's admin API.
pub const TOKEN: &str = "loadtest-admin-0123456789abcdef";

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is answered by 503 is asked for so often, and so far apart.
const TRIES: u64 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Rows of a page.
const PAGE: usize = 1000;

/// One gateway's admin API.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
}

/// How an account stands, in micro-units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// What is held included.
    pub balance: i64,
    /// Held for requests in flight.
    pub held: i64,
}

/// One row of what was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    /// Requests that were charged.
    pub requests: u64,
    /// Their tokens.
    pub tokens: Tokens,
    /// Their pictures.
    pub pictures: u64,
    /// What was taken for them, in micro-units.
    pub cost: i64,
    /// The part of it that was estimated.
    pub estimated: i64,
}

/// A key that was made at run time.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its id.
    pub id: String,
    /// The key itself.
    pub key: String,
}

impl Admin {
    /// Any call; gives status and body.
    pub async fn call(
        self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        once: Option<&str>,
    ) -> Result<(u16, Value)> {
        let body = body.map_or(String::new(), Value::to_string);
        let once = once.map_or(String::new(), |key| format!("idempotency-key: {key}\r\n"));
        let request = format!(
            "{method} /admin/v1{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\n{once}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut answer = Vec::with_capacity(4096);
        let exchange = async {
            let mut connection = Connection::open(self.address).await?;
            connection.exchange(request.as_bytes(), &mut answer).await
        };
        let (status, _) = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| format!("{method} {path}: no answer within {PATIENCE:?}"))?
            .map_err(|error| format!("{method} {path}: {error}"))?;
        let read = serde_json::from_slice(&answer);
        let body = read.map_err(|error| format!("{method} {path}: status {status}, {error}"))?;
        Ok((status, body))
    }

    /// A call that must be answered with 2xx.
    async fn well(
        self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        once: Option<&str>,
    ) -> Result<Value> {
        match self.call(method, path, body, once).await? {
            (200..=299, body) => Ok(body),
            (status, body) => Err(format!("{method} {path}: status {status}: {body}").into()),
        }
    }

    /// How an account stands.
    pub async fn account(self, id: &str) -> Result<Account> {
        for _ in 0..TRIES {
            if let Some(account) = self.look(id).await? {
                return Ok(account);
            }
            sleep(PAUSE).await;
        }
        Err(format!("the account {id} is not told: 503, {TRIES} times").into())
    }

    /// The same; nothing if the store did not answer in time.
    pub async fn look(self, id: &str) -> Result<Option<Account>> {
        let path = format!("/accounts/{id}");
        match self.call("GET", &path, None, None).await? {
            (200, body) => Ok(Some(Account {
                balance: money(&body, "balance")?,
                held: money(&body, "held")?,
            })),
            (503, _) => Ok(None),
            (status, body) => Err(format!("GET {path}: status {status}: {body}").into()),
        }
    }

    /// What each key used, by the key's name, or its id where it has none. Also what the same says by day.
    pub async fn used(self, account: &str) -> Result<(BTreeMap<String, Row>, Row)> {
        let mut rows = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/usage?by=key&account={account}&limit={PAGE}{cursor}");
            let body = self.well("GET", &path, None, None).await?;
            for object in body["data"].as_array().ok_or("usage without data")? {
                let name = object["key_name"].as_str().or(object["key"].as_str());
                let name = name.ok_or("a row of no key")?;
                if rows.insert(name.to_owned(), row(object)?).is_some() {
                    return Err(format!("two rows for the key {name}").into());
                }
            }
            match body["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let path = format!("/usage?by=day&account={account}&limit={PAGE}");
        let body = self.well("GET", &path, None, None).await?;
        let mut days = Row::default();
        for object in body["data"].as_array().ok_or("usage without data")? {
            days.add(row(object)?);
        }
        Ok((rows, days))
    }

    /// Sums that are not what they should be, as the gateway finds them.
    pub async fn drift(self) -> Result<Vec<String>> {
        for _ in 0..TRIES {
            let body = match self.call("GET", "/ledger", None, None).await? {
                (200, body) => body,
                (503, _) => {
                    sleep(PAUSE).await;
                    continue;
                }
                (status, body) => {
                    return Err(format!("GET /ledger: status {status}: {body}").into());
                }
            };
            let drift = body["drift"].as_array().ok_or("a ledger without drift")?;
            return Ok(drift.iter().map(Value::to_string).collect());
        }
        Err(format!("the ledger cannot be verified: 503, {TRIES} times").into())
    }

    /// Adds to a balance, once for each `once`; gives how often it had to be asked for again, because the store did
    /// not answer in time.
    pub async fn top_up(self, account: &str, micros: i64, once: &str) -> Result<u64> {
        let path = format!("/accounts/{account}/top-ups");
        let body = json!({ "amount": decimal(micros), "note": "loadtest" });
        for again in 0..TRIES {
            match self.call("POST", &path, Some(&body), Some(once)).await? {
                (201, _) => return Ok(again),
                (503, _) => sleep(PAUSE).await,
                (status, body) => {
                    return Err(format!("POST {path}: status {status}: {body}").into());
                }
            }
        }
        Err(format!("POST {path}: 503, {TRIES} times").into())
    }

    /// Makes a key.
    pub async fn create_key(self, name: &str, account: &str) -> Result<NewKey> {
        let body = json!({ "name": name, "account": account });
        let made = self.well("POST", "/keys", Some(&body), None).await?;
        let text = |field: &str| made[field].as_str().map(str::to_owned);
        Ok(NewKey {
            id: text("id").ok_or("a key without an id")?,
            key: text("key").ok_or("a new key that is not shown")?,
        })
    }

    /// Changes a key; false if somebody else changed it meanwhile, or the store did not answer in time.
    pub async fn edit_key(self, id: &str, changes: &Value) -> Result<bool> {
        let path = format!("/keys/{id}");
        match self.call("PATCH", &path, Some(changes), None).await? {
            (200, _) => Ok(true),
            (409 | 503, _) => Ok(false),
            (status, body) => Err(format!("PATCH {path}: status {status}: {body}").into()),
        }
    }

    /// Revokes a key.
    pub async fn revoke(self, id: &str) -> Result<()> {
        self.well("DELETE", &format!("/keys/{id}"), None, None)
            .await?;
        Ok(())
    }
}

impl Row {
    /// Adds another one.
    pub fn add(&mut self, other: Row) {
        let Row {
            requests,
            tokens,
            pictures,
            cost,
            estimated,
        } = other;
        self.requests += requests;
        self.tokens.input += tokens.input;
        self.tokens.cached += tokens.cached;
        self.tokens.output += tokens.output;
        self.pictures += pictures;
        self.cost += cost;
        self.estimated += estimated;
    }
}

/// Reads one.
pub fn row(object: &Value) -> Result<Row> {
    let count = |field: &str| {
        let count = object[field].as_u64();
        count.ok_or_else(|| format!("usage without {field}: {object}"))
    };
    Ok(Row {
        requests: count("requests")?,
        tokens: Tokens {
            input: count("input_tokens")?,
            cached: count("cached_tokens")?,
            output: count("output_tokens")?,
        },
        pictures: count("images")?,
        cost: money(object, "cost")?,
        estimated: money(object, "estimated_cost")?,
    })
}

/// Reads a sum of money, in micro-units.
pub fn money(object: &Value, field: &str) -> Result<i64> {
    let sum = object[field].as_str().and_then(micros);
    sum.ok_or_else(|| format!("no money in {field}: {}", object[field]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_exactly_or_not_at_all() -> Result<()> {
        let object = json!({
            "key": "key_1", "key_name": "r000001", "requests": 1, "input_tokens": 70, "cached_tokens": 5,
            "output_tokens": 9, "images": 0, "cost": "0.000409", "estimated_cost": "0.000000",
        });
        let one = row(&object)?;
        assert_eq!((one.cost, one.estimated, one.tokens.cached), (409, 0, 5));
        let mut two = one;
        two.add(one);
        assert_eq!((two.requests, two.cost, two.tokens.output), (2, 818, 18));
        for (field, wrong) in [("cost", json!(0.000409)), ("requests", json!("1"))] {
            let mut object = object.clone();
            object[field] = wrong;
            assert!(row(&object).is_err(), "{object}");
        }
        Ok(())
    }
}
