//! Operators' entries: the disk first, then memory, and nothing lost if the disk does not answer.

use super::{Books, locked};
use crate::billing::money::Money;
use crate::billing::{Entry, Once, PostError, Posted, PostedOutcome};
use crate::store::db::{DbError, opening};
use std::sync::{Arc, PoisonError};

/// An entry of which the disk did not say whether it was made.
pub(super) struct Unsure {
    account: Arc<str>,
    /// How many entries of the account memory knows.
    known: u64,
    /// Set aside in memory for a refund.
    held: Money,
}

impl Unsure {
    pub(super) fn new(account: Arc<str>, known: u64, held: Money) -> Unsure {
        Unsure {
            account,
            known,
            held,
        }
    }
}

impl Books {
    pub(super) fn open_account(
        &self,
        account: &Arc<str>,
        seed: Money,
        at: u64,
    ) -> Result<bool, DbError> {
        let mut posting = self.posting.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut posting)?;
        if self.db.entry_count(account)? > 0 {
            return Ok(false);
        }
        let opened = self.db.open_account(account, seed, at);
        match &opened {
            Ok(true) => locked(&self.wallet_or_new(account)).book(&opening(seed, at)),
            Ok(false) => {}
            Err(_) => {
                *posting = Some(Unsure::new(account.clone(), 0, Money::ZERO));
            }
        }
        opened
    }

    pub(super) fn post(
        &self,
        account: &Arc<str>,
        posted: &Posted,
        once: Option<&Once>,
    ) -> Result<Result<PostedOutcome, PostError>, DbError> {
        let mut posting = self.posting.lock().unwrap_or_else(PoisonError::into_inner);
        self.settle(&mut posting)?;
        let known = self.db.entry_count(account)?;
        let Some(wallet) = self.wallet(account) else {
            return Ok(Err(PostError::Unknown));
        };
        let mut free = None;
        let mut held = Money::ZERO;
        if let Entry::Refund { amount } = posted.entry {
            let mut wallet = locked(&wallet);
            free = Some(wallet.free());
            // Where it is not free the store still knows whether this is asked for again.
            if wallet.hold_refund(amount).is_ok() {
                held = amount;
            }
        }
        let done = self.db.post(account, posted, free, once);
        if done.is_err() {
            *posting = Some(Unsure::new(account.clone(), known, held));
            return done;
        }
        let mut wallet = locked(&wallet);
        wallet.release_refund(held);
        if matches!(done, Ok(Ok(PostedOutcome::Now))) {
            wallet.book(posted);
        }
        done
    }

    /// Finds out about an entry that the disk did not answer for, unless somebody is about to.
    pub(super) fn settle_if_idle(&self) {
        if let Ok(mut posting) = self.posting.try_lock()
            && posting.is_some()
        {
            // The applier's own attempts say what is wrong with the disk.
            let _ = self.settle(&mut posting);
        }
    }

    /// Memory gets what the disk turns out to have.
    pub(super) fn settle(&self, posting: &mut Option<Unsure>) -> Result<(), DbError> {
        if let Some(Unsure {
            account,
            known,
            held,
        }) = posting
        {
            let entries = self.db.entries_from(account, *known)?;
            if !entries.is_empty() || *held != Money::ZERO {
                let wallet = self.wallet_or_new(account);
                let mut wallet = locked(&wallet);
                wallet.release_refund(*held);
                entries.iter().for_each(|posted| wallet.book(posted));
            }
            *posting = None;
        }
        Ok(())
    }
}
