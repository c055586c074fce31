//! What operators ask of the balances in Redis, and do to them.

use super::Shared;
use super::read::{statement_field, text, usage_row};
use crate::billing::money::Money;
use crate::billing::{Drift, Entry, MOST, Once, PostError, Posted, Statement, UsageRow};
use crate::record::limits::Function;
use crate::store::link::Away;
use redis::{Cmd, Value, cmd};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An `Idempotency-Key` is remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// Rows of usage that are read with one call.
const PIECE: usize = 500;

impl Shared {
    /// Makes an entry; `Some` is the id of the entry that the same `Idempotency-Key` made before.
    pub(in crate::billing) async fn post(
        &self,
        account: &str,
        posted: &Posted,
        once: Option<&Once>,
    ) -> Result<Option<String>, PostError> {
        let text_of = serde_json::to_string(posted).map_err(|_| PostError::TooLarge)?;
        let wallet = self.key(account, "w");
        let mut call = cmd("FCALL");
        call.arg(&self.post).arg(2).arg(&wallet);
        match once {
            Some(once) => call.arg(self.key(account, &format!("i:{}", once.key))),
            None => call.arg(&wallet),
        };
        self.now(&mut call);
        let (kind, amount) = match &posted.entry {
            Entry::Open { amount } => ("open", amount.micros()),
            Entry::TopUp { amount } => ("top_up", amount.micros()),
            Entry::Refund { amount } => ("refund", amount.micros()),
            Entry::Grant { tokens, .. } => ("grant", i64::try_from(*tokens).unwrap_or(i64::MAX)),
        };
        if amount > MOST {
            return Err(PostError::TooLarge);
        }
        call.arg(kind)
            .arg(amount)
            .arg(&*posted.id)
            .arg(text_of)
            .arg(once.map_or("", |once| &once.fingerprint))
            .arg(REMEMBERED.as_secs());
        if let Entry::Grant { package, valid, .. } = &posted.entry {
            call.arg(&**package).arg(valid.as_millis() as u64);
        }
        let said = self.link.durably(Function::Post, &call).await;
        let said = said.map_err(|_| PostError::Away)?;
        let Value::Array(values) = &said else {
            return Err(PostError::Away);
        };
        let mut words = values.iter().filter_map(text);
        match (words.next(), words.next()) {
            // Who made the account before made it with this very seed.
            (Some("ok" | "exists"), _) => Ok(None),
            (Some("before"), Some(id)) => Ok(Some(id.to_owned())),
            (Some("reused"), _) => Err(PostError::Reused),
            (Some("unknown"), _) => Err(PostError::Unknown),
            (Some("large"), _) => Err(PostError::TooLarge),
            (Some("short"), Some(free)) => Err(PostError::Short {
                available: Money::from_micros(free.parse().unwrap_or(0)),
            }),
            _ => Err(PostError::Away),
        }
    }

    /// How an account stands; `None` if there is none.
    pub(in crate::billing) async fn statement(
        &self,
        account: &str,
    ) -> Result<Option<Statement>, Away> {
        // What has expired is not held.
        self.forget(account, &[]).await?;
        let mut call = cmd("HGETALL");
        call.arg(self.key(account, "w"));
        let fields = self.pairs(&call).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let mut statement = Statement::default();
        for (name, value) in fields {
            let read = statement_field(&mut statement, &name, &value);
            read.ok_or_else(|| self.link.misunderstood())?;
        }
        statement.packages.sort_by_key(|package| package.expires);
        statement.keys.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Some(statement))
    }

    /// Every entry of an account, the oldest first.
    pub(in crate::billing) async fn entries(&self, account: &str) -> Result<Vec<Posted>, Away> {
        let mut call = cmd("LRANGE");
        call.arg(self.key(account, "e")).arg(0).arg(-1);
        let said = self.link.call(Function::Command, &call).await?;
        let Value::Array(values) = &said else {
            return Err(self.link.misunderstood());
        };
        let entries = values
            .iter()
            .map(|value| serde_json::from_str(text(value)?).ok());
        let entries: Option<Vec<Posted>> = entries.collect();
        entries.ok_or_else(|| self.link.misunderstood())
    }

    /// An account's usage of these days, both included.
    pub(in crate::billing) async fn usage(
        &self,
        account: &str,
        since: i32,
        until: i32,
    ) -> Result<Vec<UsageRow>, Away> {
        let days = self.days(account, since, until).await?;
        let mut rows = Vec::new();
        for day in days {
            rows.extend(self.rows(account, day).await?);
        }
        Ok(rows)
    }

    /// Compares an account's sums with what they are sums of; of its days all from `since` on. Each call is short,
    /// whatever the account's history.
    pub(in crate::billing) async fn verify(
        &self,
        account: &Arc<str>,
        since: i32,
    ) -> Result<Vec<Drift>, Away> {
        let mut call = cmd("FCALL");
        call.arg(&self.verify).arg(1).arg(self.key(account, "w"));
        let said = self.link.call(Function::Verify, &call).await?;
        let mut found = self.drifts(account, &said)?;
        if since == i32::MIN {
            found.extend(self.verify_entries(account).await?);
        }
        for day in self.days(account, since, i32::MAX).await? {
            let mut call = cmd("FCALL");
            call.arg(&self.verify_day)
                .arg(1)
                .arg(self.key(account, "w"))
                .arg(day);
            match self.link.call(Function::VerifyDay, &call).await? {
                Value::Nil => found.extend(self.verify_long_day(account, day).await?),
                said => found.extend(self.drifts(account, &said)?),
            }
        }
        Ok(found)
    }

    /// Compares the usage of a day that has many rows. Where that changes while it is read, nothing is said.
    async fn verify_long_day(&self, account: &Arc<str>, day: i32) -> Result<Vec<Drift>, Away> {
        let before = self.spent(account, day).await?;
        let (mut cost, mut tokens) = (0_i64, 0_u64);
        for row in self.rows(account, day).await? {
            cost = cost.saturating_add(row.sums.cost.micros());
            tokens = tokens.saturating_add(row.sums.package_tokens);
        }
        let expected = format!("{cost} {tokens}");
        let stored = self.spent(account, day).await?;
        let differ = stored == before && stored != expected;
        let cost_of = |text: &str| text.split(' ').next().and_then(|cost| cost.parse().ok());
        let drift = differ.then(|| Drift {
            account: account.clone(),
            what: format!("day {day}"),
            stored: cost_of(&stored).unwrap_or(0),
            expected: cost,
        });
        Ok(drift.into_iter().collect())
    }

    /// A day's sums, as they are stored: cost, and tokens of packages.
    async fn spent(&self, account: &str, day: i32) -> Result<String, Away> {
        let mut call = cmd("HGET");
        call.arg(self.key(account, "d")).arg(day);
        let said = self.link.call(Function::Command, &call).await?;
        Ok(text(&said).unwrap_or("0 0").to_owned())
    }

    /// A day's usage, read in pieces that are short enough not to keep others waiting.
    async fn rows(&self, account: &str, day: i32) -> Result<Vec<UsageRow>, Away> {
        let key = self.key(account, &format!("u:{day}"));
        let (mut cursor, mut rows) = ("0".to_owned(), BTreeMap::new());
        loop {
            let mut call = cmd("HSCAN");
            call.arg(&key).arg(&cursor).arg("COUNT").arg(PIECE);
            let said = self.link.call(Function::Command, &call).await?;
            let piece = match &said {
                Value::Array(parts) => match parts.as_slice() {
                    [next, Value::Array(fields)] => Some((text(next), fields)),
                    _ => None,
                },
                _ => None,
            };
            let Some((Some(next), fields)) = piece else {
                return Err(self.link.misunderstood());
            };
            for pair in fields.chunks(2) {
                let row = match pair {
                    // While the hash grows a row may come twice.
                    [name, value] => text(name).zip(text(value)).and_then(|(name, value)| {
                        Some((name.to_owned(), usage_row(day, name, value)?))
                    }),
                    _ => None,
                };
                let (name, row) = row.ok_or_else(|| self.link.misunderstood())?;
                rows.insert(name, row);
            }
            if next == "0" {
                return Ok(rows.into_values().collect());
            }
            cursor = next.to_owned();
        }
    }

    /// Compares the sum of the entries with them. An entry that is made meanwhile would look like a difference: then
    /// nothing is said.
    async fn verify_entries(&self, account: &Arc<str>) -> Result<Vec<Drift>, Away> {
        let before = self.entered(account).await?;
        let mut expected: i64 = 0;
        for posted in self.entries(account).await? {
            expected = expected.saturating_add(match posted.entry {
                Entry::Open { amount } | Entry::TopUp { amount } => amount.micros(),
                Entry::Refund { amount } => -amount.micros(),
                Entry::Grant { .. } => 0,
            });
        }
        let stored = self.entered(account).await?;
        let differ = stored == before && stored != expected;
        let drift = differ.then(|| Drift {
            account: account.clone(),
            what: "entries".to_owned(),
            stored,
            expected,
        });
        Ok(drift.into_iter().collect())
    }

    /// The sum of an account's entries, as it is stored.
    async fn entered(&self, account: &str) -> Result<i64, Away> {
        let mut call = cmd("HGET");
        call.arg(self.key(account, "w")).arg("e");
        match self.link.call(Function::Command, &call).await? {
            Value::Nil => Ok(0),
            said => {
                let sum = text(&said).and_then(|text| text.parse().ok());
                sum.ok_or_else(|| self.link.misunderstood())
            }
        }
    }

    fn drifts(&self, account: &Arc<str>, said: &Value) -> Result<Vec<Drift>, Away> {
        let Value::Array(lines) = said else {
            return Err(self.link.misunderstood());
        };
        let drift = |line: &Value| {
            let Value::Array(words) = line else {
                return None;
            };
            let [what, stored, expected] = words.as_slice() else {
                return None;
            };
            Some(Drift {
                account: account.clone(),
                what: text(what)?.to_owned(),
                stored: text(stored)?.parse().ok()?,
                expected: text(expected)?.parse().ok()?,
            })
        };
        let drifts: Option<Vec<Drift>> = lines.iter().map(drift).collect();
        drifts.ok_or_else(|| self.link.misunderstood())
    }

    /// The days that have usage, of these, in order.
    async fn days(&self, account: &str, since: i32, until: i32) -> Result<Vec<i32>, Away> {
        let mut call = cmd("HKEYS");
        call.arg(self.key(account, "d"));
        let said = self.link.call(Function::Command, &call).await?;
        let (Value::Array(days) | Value::Set(days)) = &said else {
            return Err(self.link.misunderstood());
        };
        let days = days.iter().filter_map(|day| text(day)?.parse::<i32>().ok());
        let mut days: Vec<i32> = days.filter(|day| (since..=until).contains(day)).collect();
        days.sort_unstable();
        Ok(days)
    }

    async fn pairs(&self, call: &Cmd) -> Result<Vec<(String, String)>, Away> {
        let said = self.link.call(Function::Command, call).await?;
        let pair =
            |name: &Value, value: &Value| Some((text(name)?.to_owned(), text(value)?.to_owned()));
        let pairs: Option<Vec<_>> = match &said {
            Value::Array(values) => values
                .chunks(2)
                .map(|two| match two {
                    [name, value] => pair(name, value),
                    _ => None,
                })
                .collect(),
            Value::Map(pairs) => pairs
                .iter()
                .map(|(name, value)| pair(name, value))
                .collect(),
            _ => None,
        };
        pairs.ok_or_else(|| self.link.misunderstood())
    }
}
