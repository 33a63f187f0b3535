//! The limits of API keys: what each key has used, and how many leases it holds.
//!
//! A request is charged when it comes: one request, and the tokens that it is estimated to use. The usage that is known
//! at its end replaces the estimate. A request that is refused, or leaves before it was sent to an endpoint, gets its
//! charge back.

mod account;
mod bucket;
mod day;
mod rate;

use foldhash::HashMap;
use slab::Slab;

use self::account::Account;
pub use self::day::Day;
pub use self::rate::{Rate, RateLimit, RateStatus};
use crate::domain::ids::KeyId;
use crate::domain::keys::KeyLimits;
use crate::domain::request::Refusal;
use crate::domain::time::Moment;

/// The number of a key's account. It does not change while a request of the key is under way; later it may go to
/// another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccountNumber(usize);

/// What one request was charged.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// The account that was charged.
    pub account: AccountNumber,
    /// The tokens that the request is estimated to use.
    pub tokens: u64,
    /// The request has been sent to an endpoint, so that its charge stays.
    pub is_sent: bool,
}

/// The accounts of all keys that are known or have a request under way. The operator bounds the number of keys, the line
/// and the slots that of requests.
#[derive(Debug, Default)]
pub struct Limits {
    accounts: Slab<Account>,
    numbers: HashMap<KeyId, usize>,
    day: Day,
}

impl Limits {
    /// Sets the limits of a key, and returns the number of its account.
    pub fn change(&mut self, now: Moment, key: KeyId, limits: KeyLimits) -> AccountNumber {
        let number = self.number(key);
        let account = &mut self.accounts[number.0];
        account.is_known = true;
        account.change(now, limits);
        number
    }

    /// Forgets a key, and returns the number of its account if requests of the key are under way. They go on without
    /// limits.
    pub fn remove(&mut self, now: Moment, key: KeyId) -> Option<AccountNumber> {
        let number = AccountNumber(*self.numbers.get(&key)?);
        let account = &mut self.accounts[number.0];
        account.is_known = false;
        account.change(now, KeyLimits::default());
        self.forget_unused(number);
        self.accounts.contains(number.0).then_some(number)
    }

    /// Learns which local day it is, and when it ends. On a new day nothing is used but the estimates of requests under
    /// way. A day that has been before gives nothing back.
    pub fn begin_day(&mut self, day: Day) {
        if self.day.is_followed_by(day) {
            self.accounts.iter_mut().for_each(|(_, account)| account.used_today = 0);
        }
        self.day = self.day.then(day);
    }

    /// Adds what a key has used today before Leaseway was started; without effect if the key is not known.
    pub fn add_used(&mut self, key: KeyId, tokens: u64) {
        if let Some(number) = self.numbers.get(&key) {
            let used = &mut self.accounts[*number].used_today;
            *used = used.saturating_add(tokens);
        }
    }

    /// Charges a request of a key, or returns its refusal if a limit is exceeded.
    ///
    /// # Errors
    /// The refusal, which names the limit that is exceeded for the longest time.
    pub fn charge(&mut self, now: Moment, key: KeyId, tokens: u64) -> Result<Charge, Refusal> {
        let number = self.number(key);
        let account = &mut self.accounts[number.0];
        if let Some((limit, value, retry_after)) = account.exceeded(now, self.day.left(now)) {
            let status = Box::new(account.status(self.day.left(now)).expect("a limit is exceeded"));
            return Err(Refusal::RateLimitExceeded { limit, value, retry_after, status });
        }
        account.charge(tokens);
        Ok(Charge { account: number, tokens, is_sent: false })
    }

    /// Ends a request without known usage: what it was charged stays if it was sent to an endpoint, else it is given
    /// back.
    pub fn withdraw(&mut self, now: Moment, charge: Charge) {
        let account = &mut self.accounts[charge.account.0];
        if charge.is_sent {
            account.settle(now, charge.tokens, charge.tokens);
        } else {
            account.give_back(now, charge.tokens);
        }
        self.forget_unused(charge.account);
    }

    /// Ends a request that has used so many tokens.
    pub fn settle(&mut self, now: Moment, charge: Charge, used: u64) {
        self.accounts[charge.account.0].settle(now, charge.tokens, used);
        self.forget_unused(charge.account);
    }

    /// Counts one more lease.
    ///
    /// # Panics
    /// If the key holds as many leases as it may.
    pub fn begin_lease(&mut self, account: AccountNumber) {
        assert!(!self.is_at_limit(account), "a lease is granted only to a key that may hold one more");
        self.accounts[account.0].leases += 1;
    }

    /// Counts one lease less.
    pub fn end_lease(&mut self, account: AccountNumber) {
        self.accounts[account.0].leases -= 1;
    }

    /// Tells whether a key holds as many leases as it may, so that its requests must wait; false if the account is
    /// forgotten.
    pub fn is_at_limit(&self, account: AccountNumber) -> bool {
        let is_reached =
            |Account { limits, leases, .. }: &Account| limits.max_concurrency.is_some_and(|max| *leases >= max);
        self.accounts.get(account.0).is_some_and(is_reached)
    }

    /// Returns the limits of an account.
    pub fn of(&self, account: AccountNumber) -> &KeyLimits {
        &self.accounts[account.0].limits
    }

    /// Returns how much is left of a key's limits; `None` if the key has no limit that a request can exceed.
    pub fn status(&mut self, now: Moment, account: AccountNumber) -> Option<Box<RateStatus>> {
        let account = &mut self.accounts[account.0];
        account.fill(now);
        account.status(self.day.left(now)).map(Box::new)
    }

    /// Checks that the accounts agree with the charges of all requests under way, `true` for those that hold a lease.
    ///
    /// # Panics
    /// If they do not agree.
    pub fn assert_consistent(&self, charges: impl Iterator<Item = (Charge, bool)>) {
        let mut expected: HashMap<usize, (usize, u64, u64)> = HashMap::default();
        for (charge, has_lease) in charges {
            let (open, tokens, leases) = expected.entry(charge.account.0).or_default();
            (*open, *tokens, *leases) = (*open + 1, *tokens + charge.tokens, *leases + u64::from(has_lease));
        }
        assert_eq!(self.accounts.len(), self.numbers.len());
        for (number, account) in &self.accounts {
            assert_eq!(self.numbers.get(&account.key), Some(&number));
            let counted = (account.open, account.estimated, account.leases);
            assert_eq!(counted, expected.remove(&number).unwrap_or_default(), "accounts are what is under way");
            assert!(account.is_known || account.open > 0, "an account is kept for a key or a request");
        }
        assert!(expected.is_empty(), "every charge has its account");
    }

    /// Returns the number of a key's account, which begins without limits.
    fn number(&mut self, key: KeyId) -> AccountNumber {
        let accounts = &mut self.accounts;
        AccountNumber(*self.numbers.entry(key).or_insert_with(|| accounts.insert(Account::new(key))))
    }

    fn forget_unused(&mut self, number: AccountNumber) {
        let Account { key, is_known, open, .. } = &self.accounts[number.0];
        if !is_known && *open == 0 {
            self.numbers.remove(key);
            self.accounts.remove(number.0);
        }
    }
}

#[cfg(test)]
mod tests;
