//! What one key has used, and what its requests under way are charged.

use std::time::Duration;

use super::bucket::Bucket;
use super::rate::{Rate, RateLimit, RateStatus};
use crate::domain::ids::KeyId;
use crate::domain::keys::KeyLimits;
use crate::domain::time::Moment;

/// The account of one key.
#[derive(Debug)]
pub struct Account {
    /// The key.
    pub key: KeyId,
    /// The key exists. If not, the account is kept for the requests under way.
    pub is_known: bool,
    /// The limits of the key.
    pub limits: KeyLimits,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    /// The tokens that requests which have ended today have used.
    pub used_today: u64,
    /// The tokens that the requests under way are estimated to use.
    pub estimated: u64,
    /// How many requests are under way.
    pub open: usize,
    /// How many of them hold a lease.
    pub leases: u64,
}

impl Account {
    /// Returns an account without limits, of a key that is not known.
    pub fn new(key: KeyId) -> Self {
        Self {
            key,
            is_known: false,
            limits: KeyLimits::default(),
            requests: None,
            tokens: None,
            used_today: 0,
            estimated: 0,
            open: 0,
            leases: 0,
        }
    }

    /// Replaces the limits.
    pub fn change(&mut self, now: Moment, limits: KeyLimits) {
        change(&mut self.requests, now, limits.requests_per_minute);
        change(&mut self.tokens, now, limits.tokens_per_minute);
        self.limits = limits;
    }

    /// Adds to the buckets what the time until `now` has filled.
    pub fn fill(&mut self, now: Moment) {
        self.buckets().for_each(|bucket| bucket.fill(now));
    }

    /// Returns the limit that is exceeded for the longest time, its value, and that time; `None` if no limit is exceeded.
    /// `day_left` is the time until the day ends.
    pub fn exceeded(&mut self, now: Moment, day_left: Duration) -> Option<(RateLimit, u64, Duration)> {
        self.fill(now);
        let exceeded = |limit, bucket: &Option<Bucket>| {
            let bucket = bucket.as_ref().filter(|bucket| bucket.remaining() == 0)?;
            Some((limit, bucket.per_minute(), bucket.until_one()))
        };
        let requests = exceeded(RateLimit::RequestsPerMinute, &self.requests);
        let tokens = exceeded(RateLimit::TokensPerMinute, &self.tokens);
        let day = self.limits.tokens_per_day.filter(|_| self.left_today() == 0);
        let day = day.map(|value| (RateLimit::TokensPerDay, value, day_left));
        [requests, tokens, day].into_iter().flatten().max_by_key(|(_, _, wait)| *wait)
    }

    /// Charges one request with so many tokens.
    pub fn charge(&mut self, tokens: u64) {
        if let Some(bucket) = &mut self.requests {
            bucket.take(1);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.take(tokens);
        }
        self.estimated += tokens;
        self.open += 1;
    }

    /// Gives a request and its tokens back.
    pub fn give_back(&mut self, now: Moment, tokens: u64) {
        self.fill(now);
        if let Some(bucket) = &mut self.requests {
            bucket.give_back(1);
        }
        self.settle(now, tokens, 0);
    }

    /// Replaces the estimate of a request that has ended by what it has used.
    pub fn settle(&mut self, now: Moment, estimated: u64, used: u64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.fill(now);
            match used.checked_sub(estimated) {
                Some(more) => bucket.take(more),
                None => bucket.give_back(estimated - used),
            }
        }
        self.estimated -= estimated;
        self.used_today = self.used_today.saturating_add(used);
        self.open -= 1;
    }

    /// Returns how much is left of the limits; `None` without a limit that a request can exceed.
    pub fn status(&self, day_left: Duration) -> Option<RateStatus> {
        let rate = |bucket: &Bucket| Rate {
            limit: bucket.per_minute(),
            remaining: bucket.remaining(),
            reset: bucket.until_full(),
        };
        let today = |limit| Rate { limit, remaining: self.left_today(), reset: day_left };
        let requests = self.requests.as_ref().map(rate);
        let tokens = self.tokens.as_ref().map(rate).or_else(|| self.limits.tokens_per_day.map(today));
        (requests.is_some() || tokens.is_some()).then_some(RateStatus { requests, tokens })
    }

    /// Returns how many tokens are left of the day's limit.
    fn left_today(&self) -> u64 {
        let used = self.used_today.saturating_add(self.estimated);
        self.limits.tokens_per_day.map_or(u64::MAX, |limit| limit.saturating_sub(used))
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        [&mut self.requests, &mut self.tokens].into_iter().flatten()
    }
}

/// Gives a bucket another limit. A bucket that is new is full.
fn change(bucket: &mut Option<Bucket>, now: Moment, per_minute: Option<u64>) {
    match (bucket.as_mut(), per_minute) {
        (Some(bucket), Some(per_minute)) => bucket.change(now, per_minute),
        (_, per_minute) => *bucket = per_minute.map(|per_minute| Bucket::full(now, per_minute)),
    }
}
