//! The limits of keys as an observer books them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{Days, NaiveDate};
use leaseway::domain::dispatch::{Rate, RateLimit, RateStatus};
use leaseway::domain::ids::{ClientId, KeyId};
use leaseway::domain::keys::KeyLimits;
use leaseway::domain::request::{LeaseRequest, Outcome, TokenCount};
use leaseway::domain::time::Moment;
use rand::RngExt;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::World;

const KEYS: u128 = 3;

/// The parts of one request or token, as many as a minute has microseconds.
const WHOLE: i128 = 60_000_000;

/// What is left of a limit per minute, in parts, and when that was so.
#[derive(Clone, Copy)]
struct Level(i128, Moment);

/// What one key may use and has used.
#[derive(Default)]
struct Book {
    limits: KeyLimits,
    requests: Option<Level>,
    tokens: Option<Level>,
    used_today: u64,
    under_way: u64,
    open: usize,
    is_known: bool,
}

/// All keys with limits or with requests under way.
#[derive(Default)]
pub struct Keys {
    books: BTreeMap<KeyId, Book>,
    date: NaiveDate,
    day_ends: Moment,
    /// A key whose failed request goes on before its waiting requests do.
    pub held_back: Option<KeyId>,
}

impl Level {
    fn at(self, now: Moment, limit: u64) -> Self {
        let filled = now.since(self.1).as_micros() as i128 * i128::from(limit);
        Self((self.0 + filled).min(i128::from(limit) * WHOLE), now)
    }

    fn used(self, amount: i128, limit: u64) -> Self {
        Self((self.0 - amount * WHOLE).min(i128::from(limit) * WHOLE), self.1)
    }

    /// Returns the time until so many parts are left.
    fn until(self, parts: i128, limit: u64) -> Duration {
        let missing = u128::try_from(parts - self.0).unwrap_or(0);
        Duration::from_micros(missing.div_ceil(u128::from(limit)) as u64)
    }

    fn rate(self, limit: u64) -> Rate {
        let remaining = u64::try_from(self.0 / WHOLE).unwrap_or(0);
        Rate { limit, remaining, reset: self.until(i128::from(limit) * WHOLE, limit) }
    }
}

impl Book {
    fn fill(&mut self, now: Moment) {
        let limits = self.limits;
        let fill = |level: &mut Option<Level>, limit: Option<u64>| {
            *level = limit.map(|limit| level.unwrap_or(Level(i128::MAX / 2, now)).at(now, limit));
        };
        fill(&mut self.requests, limits.requests_per_minute);
        fill(&mut self.tokens, limits.tokens_per_minute);
    }

    fn use_up(&mut self, requests: i128, tokens: i128) {
        if let (Some(level), Some(limit)) = (&mut self.requests, self.limits.requests_per_minute) {
            *level = level.used(requests, limit);
        }
        if let (Some(level), Some(limit)) = (&mut self.tokens, self.limits.tokens_per_minute) {
            *level = level.used(tokens, limit);
        }
    }

    /// Replaces the limits: what is raised can be used at once, what is lowered is cut off.
    fn change(&mut self, now: Moment, limits: KeyLimits) {
        self.fill(now);
        let raise = |level: &mut Option<Level>, before: Option<u64>, after: Option<u64>| {
            if let (Some(level), Some(before), Some(after)) = (level.as_mut(), before, after) {
                level.0 += i128::from(after.saturating_sub(before)) * WHOLE;
            }
        };
        raise(&mut self.requests, self.limits.requests_per_minute, limits.requests_per_minute);
        raise(&mut self.tokens, self.limits.tokens_per_minute, limits.tokens_per_minute);
        self.limits = limits;
        self.fill(now);
    }

    fn left_today(&self) -> u64 {
        self.limits.tokens_per_day.map_or(0, |limit| limit.saturating_sub(self.used_today + self.under_way))
    }
}

/// Returns how many tokens a request is estimated to use. Every body has four bytes for a token, so that usage does not
/// change the estimate.
fn estimate(request: &LeaseRequest) -> u64 {
    request.body_bytes / 4
}

impl Keys {
    /// Returns the limit that keeps a request away for the longest time, and that time.
    pub fn exceeded(&mut self, now: Moment, request: &LeaseRequest) -> Option<(RateLimit, Duration)> {
        let day_left = self.day_ends.since(now);
        let book = self.books.get_mut(&request.key?)?;
        book.fill(now);
        let wait = |limit, level: Option<Level>, value: Option<u64>| {
            let wait = level?.until(WHOLE, value?);
            (!wait.is_zero()).then_some((limit, wait))
        };
        let KeyLimits { requests_per_minute, tokens_per_minute, tokens_per_day, .. } = book.limits;
        let requests = wait(RateLimit::RequestsPerMinute, book.requests, requests_per_minute);
        let tokens = wait(RateLimit::TokensPerMinute, book.tokens, tokens_per_minute);
        let is_spent = tokens_per_day.is_some() && book.left_today() == 0;
        let day = is_spent.then_some((RateLimit::TokensPerDay, day_left));
        [requests, tokens, day].into_iter().flatten().max_by_key(|(_, wait)| *wait)
    }

    /// Books a request that waits or has a lease.
    pub fn begin(&mut self, now: Moment, request: &LeaseRequest) {
        let Some(key) = request.key else { return };
        let book = self.books.entry(key).or_default();
        book.fill(now);
        book.use_up(1, estimate(request).into());
        book.under_way += estimate(request);
        book.open += 1;
    }

    /// Books the end of a request that was sent to an endpoint.
    pub fn end(&mut self, now: Moment, request: &LeaseRequest, outcome: &Outcome) {
        let used = match outcome {
            Outcome::Succeeded { tokens: Some(TokenCount { input, output, .. }) } => {
                input.unwrap_or(estimate(request)) + output
            }
            Outcome::Succeeded { tokens: None } | Outcome::Failed(_) | Outcome::Abandoned => estimate(request),
        };
        self.settle(now, request, used, 0);
    }

    /// Books the end of a request without a lease. If it never had one it has used nothing.
    pub fn leave(&mut self, now: Moment, request: &LeaseRequest) {
        match request.is_retry() {
            true => self.settle(now, request, estimate(request), 0),
            false => self.settle(now, request, 0, 1),
        }
    }

    fn settle(&mut self, now: Moment, request: &LeaseRequest, used: u64, requests_back: i128) {
        let Some(book) = request.key.and_then(|key| self.books.get_mut(&key)) else { return };
        book.fill(now);
        book.use_up(-requests_back, i128::from(used) - i128::from(estimate(request)));
        book.under_way -= estimate(request);
        book.used_today += used;
        book.open -= 1;
        self.forget_unused();
    }

    /// Forgets keys that are gone and have no request under way.
    fn forget_unused(&mut self) {
        self.books.retain(|_, book| book.is_known || book.open > 0);
    }

    /// Returns what is told of the limits of a request's key.
    pub fn status(&mut self, now: Moment, request: &LeaseRequest) -> Option<RateStatus> {
        let reset = self.day_ends.since(now);
        let book = self.books.get_mut(&request.key?)?;
        book.fill(now);
        let rate = |level: Option<Level>, limit: Option<u64>| Some(level?.rate(limit?));
        let requests = rate(book.requests, book.limits.requests_per_minute);
        let today = book.limits.tokens_per_day.map(|limit| Rate { limit, remaining: book.left_today(), reset });
        let tokens = rate(book.tokens, book.limits.tokens_per_minute).or(today);
        (requests.is_some() || tokens.is_some()).then_some(RateStatus { requests, tokens })
    }

    fn limits(&self, key: KeyId) -> KeyLimits {
        self.books.get(&key).map(|book| book.limits).unwrap_or_default()
    }
}

impl World {
    /// Tells whether a request waits because its key holds as many leases as it may.
    pub fn is_at_limit(&self, request: &LeaseRequest) -> bool {
        request.key.is_some_and(|key| self.keys.held_back == Some(key)) || self.is_at_limit_with(request, 0)
    }

    /// Tells whether a request's key would hold as many leases as it may with so many more.
    pub fn is_at_limit_with(&self, request: &LeaseRequest, more: u64) -> bool {
        let Some(key) = request.key else { return false };
        let held = || self.leases.values().filter(|held| held.request.key == Some(key)).count() as u64;
        self.keys.limits(key).max_concurrency.is_some_and(|max| held() + more >= max)
    }

    /// Tells whether so many requests of a request's key wait as may.
    pub fn max_waiting_reached(&self, request: &LeaseRequest) -> bool {
        let Some(key) = request.key else { return false };
        let waiting = self.waiters().filter(|waiter| waiter.request.key == Some(key)).count() as u64;
        self.keys.limits(key).max_waiting.is_some_and(|max| waiting >= max)
    }

    pub fn change_key(&mut self, random: &mut StdRng) {
        let key = KeyId(Uuid::from_u128(random.random_range(0..KEYS)));
        let is_removed = random.random_range(0..6) == 0;
        let limits = if is_removed { KeyLimits::default() } else { random_limits(random) };
        let book = self.keys.books.entry(key).or_default();
        book.change(self.now, limits);
        book.is_known = !is_removed;
        self.keys.forget_unused();
        let (updated, removed) = if is_removed { (Vec::new(), vec![key]) } else { (vec![(key, limits)], Vec::new()) };
        let mut decisions = Vec::new();
        self.dispatcher.change_keys(self.now, updated, removed, &mut decisions);
        self.follow(decisions);
    }

    /// Lets midnight come, or the clock be set.
    pub fn begin_day(&mut self, random: &mut StdRng) {
        let (today, keys) = (self.keys.date, &mut self.keys);
        let (read, stays) = match random.random_range(0..4) {
            0 => (today + Days::new(1), false),
            1 => (today - Days::new(1), true),
            2 => (today - Days::new(40), false),
            _ => (today, true),
        };
        if read > today {
            keys.books.values_mut().for_each(|book| book.used_today = 0);
        }
        keys.date = if stays { today } else { read };
        keys.day_ends = self.now.after(Duration::from_millis(random.random_range(1..5000)));
        self.dispatcher.begin_day(read, keys.day_ends, Vec::new());
    }
}

fn random_limits(random: &mut StdRng) -> KeyLimits {
    let mut one_of = |values: [Option<u64>; 4]| values[random.random_range(0..values.len())];
    KeyLimits {
        requests_per_minute: one_of([None, None, Some(30), Some(600)]),
        tokens_per_minute: one_of([None, None, Some(300), Some(20_000)]),
        tokens_per_day: one_of([None, None, Some(200), Some(2000)]),
        max_concurrency: one_of([None, Some(1), Some(2), Some(4)]),
        max_waiting: one_of([None, None, Some(1), Some(3)]),
    }
}

/// Makes half of the requests those of a key, with a client of its own or not.
pub fn with_random_key(request: LeaseRequest, random: &mut StdRng) -> LeaseRequest {
    if random.random() {
        return request;
    }
    let key = KeyId(Uuid::from_u128(random.random_range(0..KEYS)));
    let client = match random.random_range(0..3_u8) {
        0 => ClientId::Key(key),
        name => ClientId::NamedByKey(key, [name].into()),
    };
    LeaseRequest { client, ..request }.with_key(key, "k".into(), 4 * random.random_range(0..40_u64))
}

/// Returns the usage of a request, of which a part may be unknown.
pub fn random_tokens(request: &LeaseRequest, random: &mut StdRng) -> Option<TokenCount> {
    let input = random.random_bool(0.8).then_some(estimate(request));
    let output = random.random_range(0..60);
    random.random_bool(0.8).then_some(TokenCount { input, output, estimated: false })
}
