//! The money of one account: what is held, what is charged, what operators post. The arithmetic without
//! its storage; `billing.lua` is the same for Redis, and the tests of `tests/ledger.rs` run on both.

use super::money::Money;
use super::period::{Calendar, Period};
use super::{
    Bill, Charge, Entry, Held, MOST, PackageState, Pays, PostError, Posted, Reason, Shortage,
    Spent, Statement,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Packages that are used up or expired are shown for so long, in milliseconds.
pub const SHOWN: u64 = 90 * 86_400_000;

/// One account. What is held lives as long as the process: a journal's reserves stand for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    balance: Money,
    #[serde(skip)]
    held: Money,
    /// By expiry.
    packages: Vec<PackageState>,
    /// Tokens that packages ever lost.
    package_tokens: u64,
    keys: BTreeMap<Arc<str>, Spent>,
}

impl Wallet {
    /// Sets aside what a request will probably cost, as hold number `id`.
    ///
    /// # Errors
    /// [`Shortage`]; nothing is held then.
    pub fn hold(
        &mut self,
        bill: &Bill,
        id: u64,
        wall: u64,
        calendar: Calendar,
    ) -> Result<Held, Shortage> {
        let period = calendar.period(wall);
        let mut held = bill.held_unseen(id, period);
        match &bill.payer.pays {
            Pays::Balance => self.affords(bill, period, wall, calendar)?,
            Pays::Package(name) => held.package = Some(self.package(name, bill.tokens, wall)?),
        }
        self.take(&held);
        Ok(held)
    }

    /// The same for a request that nobody may refuse: the balance, or the package that comes nearest
    /// to paying it, goes below nothing if it must.
    pub fn hold_anyway(&mut self, bill: &Bill, id: u64, wall: u64, calendar: Calendar) -> Held {
        if let Ok(held) = self.hold(bill, id, wall, calendar) {
            return held;
        }
        // What there is not cannot be set aside.
        let mut held = bill.held_unseen(id, calendar.period(wall));
        (held.money, held.tokens) = (Money::ZERO, 0);
        if let Pays::Package(name) = &bill.payer.pays {
            held.package = self.package_named(name, wall).or(held.package);
        }
        held
    }

    fn affords(
        &self,
        bill: &Bill,
        period: Period,
        wall: u64,
        calendar: Calendar,
    ) -> Result<(), Shortage> {
        let money = bill.money;
        if money <= Money::ZERO {
            return Ok(());
        }
        let short = |reason, left: Money, resets| Shortage {
            reason,
            left: left.micros(),
            needed: money.micros(),
            resets,
        };
        let free = self.balance.saturating_sub(self.held);
        if free < money {
            return Err(short(Reason::Balance, free, None));
        }
        let spent = self.keys.get(&bill.payer.key).copied().unwrap_or_default();
        let left =
            |cap: Money, spent_: Money| cap.saturating_sub(spent_).saturating_sub(spent.held);
        if let Some(cap) = bill.payer.caps.daily {
            let left = left(cap, spent.of_day(period));
            if left < money {
                let resets = calendar.next_day(wall);
                return Err(short(Reason::DailyCap, left, Some(resets)));
            }
        }
        if let Some(cap) = bill.payer.caps.monthly {
            let left = left(cap, spent.of_month(period));
            if left < money {
                let resets = calendar.next_month(wall);
                return Err(short(Reason::MonthlyCap, left, Some(resets)));
            }
        }
        Ok(())
    }

    /// The package that pays: of those of this name the first to expire that has enough left.
    fn package(&self, name: &Arc<str>, tokens: u64, wall: u64) -> Result<Arc<str>, Shortage> {
        // What needs no tokens still needs a package.
        let needed = i64::try_from(tokens.max(1)).unwrap_or(i64::MAX);
        let mut most = 0;
        for package in &self.packages {
            if package.name == *name && package.expires > wall {
                let left = package.left.saturating_sub(package.held);
                if left >= needed {
                    return Ok(package.id.clone());
                }
                most = most.max(left);
            }
        }
        Err(Shortage {
            reason: Reason::Package,
            left: most,
            needed,
            resets: None,
        })
    }

    /// The package that pays where none has enough: of this name the first that is open, or else the last.
    fn package_named(&self, name: &str, wall: u64) -> Option<Arc<str>> {
        let named = || self.packages.iter().filter(|one| *one.name == *name);
        let open = named().find(|one| one.expires > wall && one.left > 0);
        open.or_else(|| named().next_back())
            .map(|one| one.id.clone())
    }

    fn take(&mut self, held: &Held) {
        self.change_held(held, 1);
    }

    /// Gives back what was held.
    pub fn release(&mut self, held: &Held) {
        self.change_held(held, -1);
    }

    fn change_held(&mut self, held: &Held, sign: i64) {
        let changed = |sum: i64, by: i64| sum.saturating_add(by.saturating_mul(sign)).max(0);
        match &held.package {
            None if held.money == Money::ZERO => {}
            None => {
                let money = held.money.micros();
                self.held = Money::from_micros(changed(self.held.micros(), money));
                let spent = self.keys.entry(held.key.clone()).or_default();
                spent.held = Money::from_micros(changed(spent.held.micros(), money));
            }
            Some(id) => {
                let tokens = i64::try_from(held.tokens).unwrap_or(i64::MAX);
                if let Some(package) = self.packages.iter_mut().find(|one| one.id == *id) {
                    package.held = changed(package.held, tokens);
                }
            }
        }
    }

    /// Takes what a request cost. Its hold is released apart from that.
    pub fn charge(&mut self, charge: &Charge, calendar: Calendar) {
        let money = charge.money();
        if money != Money::ZERO {
            self.balance = self.balance.saturating_sub(money);
            let spent = self.keys.entry(charge.held.key.clone()).or_default();
            spent.add(money, charge.held.period, calendar.period(charge.at));
        }
        let tokens = charge.tokens();
        self.package_tokens = self.package_tokens.saturating_add(tokens);
        let unseen = charge.held.package.as_deref();
        let unseen = unseen.and_then(|package| package.strip_prefix('?'));
        let paying = match unseen {
            Some(name) => self.package_named(name, charge.at),
            None => charge.held.package.clone(),
        };
        if let Some(id) = paying
            && let Some(package) = self.packages.iter_mut().find(|one| one.id == id)
        {
            let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
            package.left = package.left.saturating_sub(tokens);
        }
    }

    /// Makes an operator's entry.
    ///
    /// # Errors
    /// [`PostError::Short`] for a refund beyond what is free, [`PostError::TooLarge`].
    pub fn post(&mut self, posted: &Posted) -> Result<(), PostError> {
        self.check(&posted.entry, self.free())?;
        self.book(posted);
        Ok(())
    }

    /// Whether an entry may be made where `free` of the balance is neither spent nor held: a store
    /// that keeps no holds is told it by who does.
    ///
    /// # Errors
    /// As those of [`Wallet::post`].
    pub fn check(&self, entry: &Entry, free: Money) -> Result<(), PostError> {
        match entry {
            Entry::Open { amount } | Entry::TopUp { amount } => {
                let sum = self.balance.checked_add(*amount);
                let fits = sum.is_some_and(|sum| sum.micros().abs() <= MOST);
                fits.then_some(()).ok_or(PostError::TooLarge)
            }
            Entry::Refund { amount } if *amount > free => Err(PostError::Short { available: free }),
            Entry::Refund { .. } => Ok(()),
            Entry::Grant { tokens, .. } => {
                let fits = *tokens <= MOST.unsigned_abs();
                fits.then_some(()).ok_or(PostError::TooLarge)
            }
        }
    }

    /// Makes an entry that was checked, whatever has happened since: it is made elsewhere already.
    pub fn book(&mut self, posted: &Posted) {
        match &posted.entry {
            Entry::Open { amount } | Entry::TopUp { amount } => {
                self.balance = self.balance.saturating_add(*amount);
            }
            Entry::Refund { amount } => {
                self.balance = self.balance.saturating_sub(*amount);
            }
            Entry::Grant {
                package,
                tokens,
                valid,
            } => {
                let tokens = i64::try_from(*tokens).unwrap_or(i64::MAX);
                let valid = u64::try_from(valid.as_millis()).unwrap_or(u64::MAX);
                self.packages.push(PackageState {
                    id: posted.id.clone(),
                    name: package.clone(),
                    tokens: tokens.unsigned_abs(),
                    left: tokens,
                    held: 0,
                    granted: posted.at,
                    expires: posted.at.saturating_add(valid),
                });
                let now = posted.at;
                self.packages
                    .retain(|one| one.held > 0 || one.expires.saturating_add(SHOWN) > now);
                self.packages.sort_by_key(|one| one.expires);
            }
        }
    }

    /// Sets aside what a refund will take, while a store writes it down: nobody else may spend it.
    ///
    /// # Errors
    /// [`PostError::Short`]; nothing is held then.
    pub fn hold_refund(&mut self, amount: Money) -> Result<(), PostError> {
        self.check(&Entry::Refund { amount }, self.free())?;
        self.held = self.held.saturating_add(amount);
        Ok(())
    }

    /// Gives back what [`Wallet::hold_refund`] set aside.
    pub fn release_refund(&mut self, amount: Money) {
        self.held = self.held.saturating_sub(amount).max(Money::ZERO);
    }

    /// What is not spent, held or not.
    pub fn balance(&self) -> Money {
        self.balance
    }

    /// What is neither spent nor held.
    pub fn free(&self) -> Money {
        self.balance.saturating_sub(self.held)
    }

    /// Tokens that packages ever lost.
    pub fn package_tokens(&self) -> u64 {
        self.package_tokens
    }

    /// How the account stands.
    pub fn statement(&self) -> Statement {
        Statement {
            balance: self.balance,
            held: self.held,
            packages: self.packages.clone(),
            keys: self
                .keys
                .iter()
                .map(|(key, spent)| (key.clone(), *spent))
                .collect(),
        }
    }
}

impl Spent {
    /// What counts for the day's cap.
    pub fn of_day(&self, period: Period) -> Money {
        // A day back is a clock that was corrected.
        match self.period.day >= period.day {
            true => self.daily,
            false => Money::ZERO,
        }
    }

    /// What counts for the month's cap.
    pub fn of_month(&self, period: Period) -> Money {
        match self.period.month >= period.month {
            true => self.monthly,
            false => Money::ZERO,
        }
    }

    /// Counts a charge that is settled `today`. One of an earlier period, which is settled late, is not this one's;
    /// a period that lies ahead is one of a clock that was wrong, and what was counted then counts now.
    fn add(&mut self, money: Money, period: Period, today: Period) {
        self.period.day = self.period.day.min(today.day);
        self.period.month = self.period.month.min(today.month);
        let period = Period {
            day: period.day.min(today.day),
            month: period.month.min(today.month),
        };
        if period.day > self.period.day {
            self.period.day = period.day;
            self.daily = Money::ZERO;
        }
        if period.month > self.period.month {
            self.period.month = period.month;
            self.monthly = Money::ZERO;
        }
        if period.day == self.period.day {
            self.daily = self.daily.saturating_add(money);
        }
        if period.month == self.period.month {
            self.monthly = self.monthly.saturating_add(money);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
