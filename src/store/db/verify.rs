//! Whether the sums of wallets are those of entries and usage.

use super::{Db, DbError, ENTRIES, USAGE, WALLETS, parse};
use crate::billing::period::Period;
use crate::billing::wallet::Wallet;
use crate::billing::{Drift, Entry, Posted, Sums};
use redb::ReadableTable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An account: what its wallet says, and what it should say.
#[derive(Default)]
struct Account {
    wallet: Wallet,
    keys: BTreeMap<Arc<str>, Key>,
    /// Micro-units that came in, without those that were used.
    balance: i128,
    package_tokens: i128,
}

/// What a key has spent by usage, in the periods of its wallet's sums.
struct Key {
    period: Period,
    daily: i128,
    monthly: i128,
}

impl Db {
    /// Every sum that is not what entries and usage say, in a view of one moment.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn verify(&self) -> Result<Vec<Drift>, DbError> {
        self.read(|transaction| {
            let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
            for row in transaction.open_table(WALLETS)?.iter()? {
                let (account, wallet) = row?;
                let wallet: Wallet = parse("wallets", wallet.value())?;
                accounts.insert(account.value().to_owned(), Account::of(wallet));
            }
            for row in transaction.open_table(ENTRIES)?.iter()? {
                let (at, posted) = row?;
                let posted: Posted = parse("entries", posted.value())?;
                let account = accounts.entry(at.value().0.to_owned()).or_default();
                account.balance += worth(&posted.entry);
            }
            for row in transaction.open_table(USAGE)?.iter()? {
                let (at, sums) = row?;
                let (account, day, key, ..) = at.value();
                let account = accounts.entry(account.to_owned()).or_default();
                account.used(day, key, &parse("usage", sums.value())?);
            }
            let mut drifts = Vec::new();
            for (name, account) in accounts {
                account.compare(&Arc::from(name), &mut drifts);
            }
            Ok(drifts)
        })
    }
}

impl Account {
    fn of(wallet: Wallet) -> Account {
        let keys = wallet.statement().keys.into_iter().map(|(key, spent)| {
            let nothing = Key {
                period: spent.period,
                daily: 0,
                monthly: 0,
            };
            (key, nothing)
        });
        Account {
            keys: keys.collect(),
            wallet,
            ..Account::default()
        }
    }

    fn used(&mut self, day: i32, key: &str, sums: &Sums) {
        let cost = i128::from(sums.cost.micros());
        self.balance -= cost;
        self.package_tokens += i128::from(sums.package_tokens);
        if let Some(key) = self.keys.get_mut(key) {
            if day == key.period.day {
                key.daily += cost;
            }
            if Period::of(day).month == key.period.month {
                key.monthly += cost;
            }
        }
    }

    fn compare(&self, name: &Arc<str>, drifts: &mut Vec<Drift>) {
        let mut same = |what: &str, stored: i128, expected: i128| {
            if stored != expected {
                drifts.push(Drift {
                    account: name.clone(),
                    what: what.to_owned(),
                    stored: bounded(stored),
                    expected: bounded(expected),
                });
            }
        };
        let statement = self.wallet.statement();
        let balance = i128::from(self.wallet.balance().micros());
        same("balance", balance, self.balance);
        let tokens = i128::from(self.wallet.package_tokens());
        same("packages", tokens, self.package_tokens);
        for (key, spent) in &statement.keys {
            if let Some(Key { daily, monthly, .. }) = self.keys.get(key) {
                let stored = i128::from(spent.daily.micros());
                same(&format!("key {key} day"), stored, *daily);
                let stored = i128::from(spent.monthly.micros());
                same(&format!("key {key} month"), stored, *monthly);
            }
        }
    }
}

/// What an entry adds to the balance, in micro-units.
fn worth(entry: &Entry) -> i128 {
    match entry {
        Entry::Open { amount } | Entry::TopUp { amount } => i128::from(amount.micros()),
        Entry::Refund { amount } => -i128::from(amount.micros()),
        Entry::Grant { .. } => 0,
    }
}

fn bounded(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}
