use std::time::Duration;

use chrono::NaiveDate;
use uuid::Uuid;

use super::*;

const KEY: KeyId = KeyId(Uuid::from_u128(7));

/// What happens to the key, each at a second of its own.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request with so many estimated tokens comes. It is admitted, or must wait so many seconds for this limit.
    Ask(u64, Result<(), (RateLimit, u64)>),
    /// The oldest request under way ends with so many tokens.
    Use(u64),
    /// The oldest request under way ends with unknown usage, after it was sent to an endpoint.
    Fail,
    /// The oldest request under way leaves before it was sent to an endpoint.
    Leave,
    /// A day of November 2026 begins, which ends after so many seconds.
    Day(u32, u64),
    /// The key gets other limits.
    Change(KeyLimits),
}

use RateLimit::{RequestsPerMinute as Requests, TokensPerDay as DayTokens, TokensPerMinute as Tokens};
use Step::{Ask, Change, Day as Begin, Fail, Leave, Use};

fn day(day: u32, ends: Moment) -> Day {
    Day { date: NaiveDate::from_ymd_opt(2026, 11, day).expect("a date"), ends }
}

fn second(second: u64) -> Moment {
    Moment::from_micros(second * 1_000_000)
}

/// Checks a history of a key with these limits.
fn check(limits: KeyLimits, steps: &[(u64, Step)]) {
    let mut all = Limits::default();
    all.change(second(0), KEY, limits);
    let mut open = Vec::new();
    for (at, step) in steps {
        let now = second(*at);
        match *step {
            Ask(tokens, expected) => {
                let charged = all.charge(now, KEY, tokens);
                let told = match &charged {
                    Ok(_) => Ok(()),
                    Err(Refusal::RateLimitExceeded { limit, retry_after, .. }) => Err((*limit, retry_after.as_secs())),
                    Err(refusal) => panic!("{refusal:?}"),
                };
                assert_eq!(told, expected, "second {at} of {steps:?}");
                open.extend(charged);
            }
            Use(tokens) => all.settle(now, open.remove(0), tokens),
            Fail => all.withdraw(now, Charge { is_sent: true, ..open.remove(0) }),
            Leave => all.withdraw(now, open.remove(0)),
            Begin(number, left) => all.begin_day(day(number, now.after(Duration::from_secs(left)))),
            Change(limits) => drop(all.change(now, KEY, limits)),
        }
        all.assert_consistent(open.iter().map(|charge| (*charge, false)));
    }
}

fn requests(limit: u64) -> KeyLimits {
    KeyLimits { requests_per_minute: Some(limit), ..KeyLimits::default() }
}

fn tokens(limit: u64) -> KeyLimits {
    KeyLimits { tokens_per_minute: Some(limit), ..KeyLimits::default() }
}

fn daily(limit: u64) -> KeyLimits {
    KeyLimits { tokens_per_day: Some(limit), ..KeyLimits::default() }
}

#[test]
fn requests_are_admitted_as_fast_as_their_bucket_fills() {
    let late = |wait| Ask(0, Err((Requests, wait)));
    check(requests(2), &[(0, Ask(0, Ok(()))), (0, Ask(0, Ok(()))), (0, late(30)), (29, late(1)), (30, Ask(0, Ok(())))]);
    check(requests(1), &[(0, Ask(0, Ok(()))), (0, late(60)), (59, late(1)), (60, Ask(0, Ok(()))), (60, late(60))]);
    let after_an_hour = [(3600, Ask(0, Ok(()))), (3600, Ask(0, Ok(()))), (3600, late(30))];
    check(requests(2), &after_an_hour);
}

#[test]
fn tokens_are_estimated_when_a_request_comes_and_known_when_it_ends() {
    let late = |wait| Ask(1, Err((Tokens, wait)));
    // One request may use more than is left; then the bucket must fill.
    check(tokens(60), &[(0, Ask(90, Ok(()))), (0, late(31)), (31, Ask(1, Ok(())))]);
    // What was used beyond the estimate is taken at the end, and what was not is given back.
    check(tokens(60), &[(0, Ask(10, Ok(()))), (0, Use(70)), (0, late(11))]);
    check(tokens(60), &[(0, Ask(60, Ok(()))), (0, late(1)), (0, Use(5)), (0, Ask(1, Ok(())))]);
    // Unknown usage leaves the estimate.
    check(tokens(60), &[(0, Ask(60, Ok(()))), (0, Fail), (0, late(1))]);
    // Nothing fills a bucket beyond a minute.
    check(tokens(60), &[(0, Ask(60, Ok(()))), (90, Use(0)), (90, Ask(61, Ok(()))), (90, late(2))]);
}

#[test]
fn what_leaves_before_it_was_sent_has_used_nothing() {
    check(requests(1), &[(0, Ask(0, Ok(()))), (0, Leave), (0, Ask(0, Ok(())))]);
    check(requests(1), &[(0, Ask(0, Ok(()))), (0, Fail), (0, Ask(0, Err((Requests, 60))))]);
    check(tokens(9), &[(0, Ask(9, Ok(()))), (0, Leave), (0, Ask(9, Ok(())))]);
    check(daily(9), &[(0, Begin(3, 80)), (0, Ask(9, Ok(()))), (0, Leave), (0, Ask(9, Ok(())))]);
}

#[test]
fn the_tokens_of_a_day_come_back_with_the_next_day_and_not_before() {
    let (first, late) =
        ([(0, Begin(3, 5000)), (0, Ask(10, Ok(()))), (1, Use(100))], |wait| Ask(1, Err((DayTokens, wait))));
    let check = |steps: &[(u64, Step)]| check(daily(100), &[&first, steps].concat());
    check(&[(2, late(4998)), (4999, late(1)), (5000, Begin(4, 86_400)), (5000, Ask(1, Ok(())))]);
    // The clock is set back over midnight, and midnight comes again.
    check(&[(2, Begin(2, 600)), (2, late(600)), (602, Begin(3, 86_400)), (602, late(86_400))]);
    // It was wrong by months, and the next midnight is a true one.
    check(&[(2, Begin(1, 600)), (2, late(600)), (602, Begin(2, 86_400)), (602, Ask(1, Ok(())))]);
    // The end of the day has changed with the clock.
    check(&[(2, Begin(3, 40)), (2, late(40))]);
}

#[test]
fn what_is_under_way_at_midnight_counts_for_the_day_on_which_it_ends() {
    let late = |wait| Ask(1, Err((DayTokens, wait)));
    check(
        daily(100),
        &[(0, Begin(3, 9)), (0, Ask(60, Ok(()))), (9, Begin(4, 900)), (9, Ask(40, Ok(()))), (9, late(900))],
    );
    check(daily(100), &[(0, Begin(3, 9)), (0, Ask(60, Ok(()))), (9, Begin(4, 900)), (9, Use(100)), (9, late(900))]);
    check(daily(100), &[(0, Begin(3, 9)), (0, Ask(60, Ok(()))), (9, Begin(4, 900)), (9, Leave), (9, Ask(99, Ok(())))]);
}

#[test]
fn a_limit_that_comes_during_the_day_counts_what_was_used_before() {
    let steps =
        [(0, Begin(3, 900)), (0, Ask(10, Ok(()))), (0, Use(100)), (0, Ask(10, Ok(()))), (0, Change(daily(100)))];
    check(KeyLimits::default(), &[&steps[..], &[(0, Ask(1, Err((DayTokens, 900))))]].concat());
    check(KeyLimits::default(), &[&steps[..], &[(0, Change(daily(111))), (0, Ask(1, Ok(())))]].concat());
}

#[test]
fn of_several_limits_the_one_that_holds_longest_is_named() {
    let limits = KeyLimits { requests_per_minute: Some(1), tokens_per_minute: Some(60), ..KeyLimits::default() };
    check(limits, &[(0, Ask(61, Ok(()))), (0, Ask(0, Err((Requests, 60)))), (59, Ask(0, Err((Requests, 1))))]);
    check(limits, &[(0, Ask(121, Ok(()))), (0, Ask(0, Err((Tokens, 62)))), (61, Ask(0, Err((Tokens, 1))))]);
}

#[test]
fn what_was_used_before_the_start_counts_for_known_keys() {
    let mut limits = Limits::default();
    limits.change(second(0), KEY, daily(100));
    limits.begin_day(day(3, second(900)));
    limits.add_used(KEY, 99);
    limits.add_used(KeyId(Uuid::from_u128(8)), 99);
    let charge = limits.charge(second(0), KEY, 1).expect("one is left");
    assert!(limits.charge(second(0), KEY, 1).is_err());
    limits.assert_consistent([(charge, false)].into_iter());
}

#[test]
fn a_key_that_is_gone_leaves_nothing_once_its_requests_have_ended() {
    let mut limits = Limits::default();
    let account = limits.change(second(0), KEY, requests(1));
    let charge = limits.charge(second(0), KEY, 5).expect("the first");
    assert!(limits.charge(second(0), KEY, 5).is_err());
    assert_eq!(limits.remove(second(0), KEY), Some(account));
    let without_limits = limits.charge(second(0), KEY, 5).expect("it is gone");
    limits.withdraw(second(0), charge);
    limits.settle(second(0), without_limits, 9);
    assert_eq!((limits.accounts.len(), limits.numbers.len()), (0, 0));
    assert_eq!(limits.remove(second(0), KEY), None);
}

#[test]
fn the_status_tells_the_minute_if_it_has_a_limit_else_the_day() {
    let status = |limits| {
        let mut all = Limits::default();
        let account = all.change(second(0), KEY, limits);
        all.begin_day(day(3, second(900)));
        all.charge(second(0), KEY, 20).expect("the first");
        all.status(second(10), account)
    };
    let rate = |limit, remaining, reset| Some(Rate { limit, remaining, reset: Duration::from_secs(reset) });
    assert_eq!(status(KeyLimits::default()), None);
    let told = |requests, tokens| Some(Box::new(RateStatus { requests, tokens }));
    assert_eq!(status(requests(2)), told(rate(2, 1, 20), None));
    assert_eq!(status(tokens(60)), told(None, rate(60, 50, 10)));
    assert_eq!(status(daily(100)), told(None, rate(100, 80, 890)));
    let both = KeyLimits { tokens_per_day: Some(100), ..tokens(60) };
    assert_eq!(status(both), told(None, rate(60, 50, 10)));
}
