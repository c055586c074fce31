//! Charges: wallets, usage and the journal's marks, moved together.

use super::{Db, DbError, MARKS, USAGE, WALLETS, parse, text};
use crate::billing::period::Calendar;
use crate::billing::wallet::Wallet;
use crate::billing::{Charge, Sums, UsageRow};
use ahash::AHashMap;
use redb::{ReadableTable, Table};
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::convert::Infallible;
use std::sync::Arc;

type Row<'a> = (&'a str, i32, &'a str, &'a str, &'a str);

impl Db {
    /// Every wallet; none holds anything.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn wallets(&self) -> Result<Vec<(Arc<str>, Wallet)>, DbError> {
        self.read(|transaction| {
            let table = transaction.open_table(WALLETS)?;
            let mut wallets = Vec::new();
            for row in table.iter()? {
                let (account, wallet) = row?;
                let wallet = parse("wallets", wallet.value())?;
                wallets.push((Arc::from(account.value()), wallet));
            }
            Ok(wallets)
        })
    }

    /// The last sequence number of this epoch that was applied; they begin with 1.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn mark(&self, epoch: u64) -> Result<u64, DbError> {
        self.read(|transaction| {
            let mark = transaction.open_table(MARKS)?.get(epoch)?;
            Ok(mark.map_or(0, |mark| mark.value()))
        })
    }

    /// Forgets the marks of all epochs but these: their journals are gone.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn forget_marks(&self, keep: &[u64]) -> Result<(), DbError> {
        let done = self.transact(|transaction| {
            let mut marks = transaction.open_table(MARKS)?;
            marks.retain(|epoch, _| keep.contains(&epoch))?;
            Ok(Ok::<(), Infallible>(()))
        })?;
        let Ok(()) = done;
        Ok(())
    }

    /// Takes what requests cost, in the order of their sequence numbers: all of it or nothing. What
    /// the mark of the epoch has behind it is skipped, so that it may be asked for again.
    ///
    /// # Errors
    /// [`DbError`]: it may have been applied or not. Ask again.
    pub fn apply(
        &self,
        epoch: u64,
        charges: &[(u64, Arc<Charge>)],
        calendar: Calendar,
    ) -> Result<(), DbError> {
        let done = self.transact(|transaction| {
            let mut marks = transaction.open_table(MARKS)?;
            let before = marks.get(epoch)?.map_or(0, |mark| mark.value());
            let mut mark = before;
            let mut wallets = transaction.open_table(WALLETS)?;
            let mut usage = transaction.open_table(USAGE)?;
            let mut changed: AHashMap<&str, Wallet> = AHashMap::new();
            let mut summed: AHashMap<Row, Sums> = AHashMap::new();
            for (seq, charge) in charges {
                if *seq <= mark {
                    continue;
                }
                mark = *seq;
                let wallet = match changed.entry(&charge.held.account) {
                    Occupied(wallet) => wallet.into_mut(),
                    Vacant(empty) => empty.insert(wallet(&wallets, &charge.held.account)?),
                };
                wallet.charge(charge, calendar);
                if let Some(more) = Sums::of(charge) {
                    let held = &charge.held;
                    let row: Row = (
                        &held.account,
                        held.period.day,
                        &held.key,
                        &held.project,
                        &held.model,
                    );
                    let sums = match summed.entry(row) {
                        Occupied(sums) => sums.into_mut(),
                        Vacant(empty) => empty.insert(sums(&usage, row)?),
                    };
                    sums.add(&more);
                }
            }
            for (account, wallet) in &changed {
                wallets.insert(account, text(wallet)?.as_slice())?;
            }
            for (row, sums) in &summed {
                usage.insert(row, text(sums)?.as_slice())?;
            }
            if mark > before {
                marks.insert(epoch, mark)?;
            }
            Ok(Ok::<(), Infallible>(()))
        })?;
        let Ok(()) = done;
        Ok(())
    }

    /// What was used from the first of these days to the last, both included, by one account or by all.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn usage(
        &self,
        account: Option<&str>,
        since_day: i32,
        until_day: i32,
    ) -> Result<Vec<(Arc<str>, UsageRow)>, DbError> {
        self.read(|transaction| {
            let table = transaction.open_table(USAGE)?;
            let mut rows = Vec::new();
            let mut add = |account: &str| {
                each(&table, account, since_day, until_day, |account, row| {
                    rows.push((account.clone(), row));
                })
            };
            match account {
                Some(account) => add(account)?,
                // Whoever used anything has a wallet.
                None => {
                    for row in transaction.open_table(WALLETS)?.iter()? {
                        add(row?.0.value())?;
                    }
                }
            }
            Ok(rows)
        })
    }
}

/// Gives each row of an account in these days.
fn each(
    table: &impl ReadableTable<Row<'static>, &'static [u8]>,
    account: &str,
    since_day: i32,
    until_day: i32,
    mut then: impl FnMut(&Arc<str>, UsageRow),
) -> Result<(), DbError> {
    let name: Arc<str> = Arc::from(account);
    for row in table.range((account, since_day, "", "", "")..)? {
        let (at, sums) = row?;
        let (of, day, key, project, model) = at.value();
        if of != account || day > until_day {
            break;
        }
        let row = UsageRow {
            day,
            key: Arc::from(key),
            project: Arc::from(project),
            model: Arc::from(model),
            sums: parse("usage", sums.value())?,
        };
        then(&name, row);
    }
    Ok(())
}

/// The account's wallet, or a new one.
pub(super) fn wallet(
    table: &Table<'_, &'static str, &'static [u8]>,
    account: &str,
) -> Result<Wallet, DbError> {
    match table.get(account)? {
        Some(wallet) => parse("wallets", wallet.value()),
        None => Ok(Wallet::default()),
    }
}

fn sums(table: &Table<'_, Row<'static>, &'static [u8]>, row: Row) -> Result<Sums, DbError> {
    match table.get(row)? {
        Some(sums) => parse("usage", sums.value()),
        None => Ok(Sums::default()),
    }
}
