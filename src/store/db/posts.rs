//! What operators do to accounts.

use super::charges::wallet;
use super::once::{Seen, remember, seen};
use super::{Db, DbError, ENTRIES, WALLETS, parse, text};
use crate::billing::money::Money;
use crate::billing::{Entry, Once, PostError, Posted, PostedOutcome};
use redb::{ReadableTable, WriteTransaction};
use std::sync::Arc;

impl Db {
    /// Opens an account with its first balance, unless it is open: whether it was opened now. `at` is
    /// in milliseconds since 1970.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn open_account(&self, account: &str, seed: Money, at: u64) -> Result<bool, DbError> {
        let posted = opening(seed, at);
        let opened = self.transact(|transaction| {
            if next(transaction, account)? > 0 {
                return Ok(Err(()));
            }
            enter(transaction, account, 0, &posted)?;
            Ok(Ok(()))
        })?;
        Ok(opened.is_ok())
    }

    /// Makes an entry: on the disk when this returns. `free` is what of the balance is neither spent
    /// nor held, by who knows what is held; without it, all that is stored.
    ///
    /// # Errors
    /// [`DbError`]: it may have been made or not.
    pub fn post(
        &self,
        account: &str,
        posted: &Posted,
        free: Option<Money>,
        once: Option<&Once>,
    ) -> Result<Result<PostedOutcome, PostError>, DbError> {
        let now = self.now();
        let done = self.transact(|transaction| {
            match seen(transaction, once, now)? {
                Seen::Never => {}
                Seen::Same(id) => return Ok(Err(Ok(PostedOutcome::Before(id.into())))),
                Seen::Other => return Ok(Err(Err(PostError::Reused))),
            }
            let number = next(transaction, account)?;
            if number == 0 {
                return Ok(Err(Err(PostError::Unknown)));
            }
            let stored = wallet(&transaction.open_table(WALLETS)?, account)?;
            // Charges on their way have left the memory's balance, but not yet this one.
            let free = free.unwrap_or(stored.free()).min(stored.free());
            if let Err(refused) = stored.check(&posted.entry, free) {
                return Ok(Err(Err(refused)));
            }
            enter(transaction, account, number, posted)?;
            remember(transaction, once, &posted.id, now)?;
            Ok(Ok(PostedOutcome::Now))
        })?;
        Ok(done.map_or_else(|before| before, Ok))
    }

    /// What was done to an account, in its order; nothing if there is no such account.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn entries(&self, account: &str) -> Result<Vec<Posted>, DbError> {
        self.entries_from(account, 0)
    }

    /// The same without the first ones.
    pub(crate) fn entries_from(&self, account: &str, first: u64) -> Result<Vec<Posted>, DbError> {
        self.read(|transaction| {
            let table = transaction.open_table(ENTRIES)?;
            let mut entries = Vec::new();
            for row in table.range((account, first)..=(account, u64::MAX))? {
                entries.push(parse("entries", row?.1.value())?);
            }
            Ok(entries)
        })
    }

    /// How many entries an account has.
    pub(crate) fn entry_count(&self, account: &str) -> Result<u64, DbError> {
        self.read(|transaction| count(&transaction.open_table(ENTRIES)?, account))
    }
}

/// The entry that opens an account.
pub(crate) fn opening(amount: Money, at: u64) -> Posted {
    Posted {
        id: Arc::from("open"),
        entry: Entry::Open { amount },
        note: None,
        at,
    }
}

fn next(transaction: &WriteTransaction, account: &str) -> Result<u64, DbError> {
    count(&transaction.open_table(ENTRIES)?, account)
}

fn count(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    account: &str,
) -> Result<u64, DbError> {
    let mut range = table.range((account, 0)..=(account, u64::MAX))?;
    Ok(match range.next_back() {
        Some(row) => row?.0.value().1.saturating_add(1),
        None => 0,
    })
}

fn enter(
    transaction: &WriteTransaction,
    account: &str,
    number: u64,
    posted: &Posted,
) -> Result<(), DbError> {
    let mut wallets = transaction.open_table(WALLETS)?;
    let mut wallet = wallet(&wallets, account)?;
    wallet.book(posted);
    wallets.insert(account, text(&wallet)?.as_slice())?;
    let mut entries = transaction.open_table(ENTRIES)?;
    entries.insert((account, number), text(posted)?.as_slice())?;
    Ok(())
}
