//! The headers that tell a client how much is left of the limits of its key. They are those of OpenAI.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::dispatch::{Rate, RateStatus};

/// Adds the headers of the limits that the key has.
pub fn add(headers: &mut HeaderMap, status: &RateStatus) {
    if let Some(rate) = status.requests {
        let names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        add_rate(headers, names, rate);
    }
    if let Some(rate) = status.tokens {
        add_rate(
            headers,
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
            rate,
        );
    }
}

fn add_rate(headers: &mut HeaderMap, names: [&'static str; 3], Rate { limit, remaining, reset }: Rate) {
    let [limit_name, remaining_name, reset_name] = names.map(HeaderName::from_static);
    headers.insert(limit_name, limit.into());
    headers.insert(remaining_name, remaining.into());
    headers.insert(reset_name, HeaderValue::try_from(text_of(reset)).expect("letters and digits"));
}

/// Returns a duration as OpenAI writes it: `250ms`, `1s`, `6m0s`, `2h0m0s`. It is rounded up, below a second to whole
/// milliseconds, else to whole seconds.
fn text_of(duration: Duration) -> String {
    let millis = duration.as_micros().div_ceil(1000);
    if 0 < millis && millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = millis.div_ceil(1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_written_as_openai_writes_it() {
        for (micros, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (250_000, "250ms"),
            (999_001, "1s"),
            (1_000_000, "1s"),
            (1_000_001, "2s"),
            (59_999_999, "1m0s"),
            (360_000_000, "6m0s"),
            (3_600_000_000, "1h0m0s"),
            (86_399_000_000, "23h59m59s"),
        ] {
            assert_eq!(text_of(Duration::from_micros(micros)), expected, "{micros}");
        }
    }

    #[test]
    fn only_limits_that_the_key_has_are_told() {
        let rate = |limit| Rate { limit, remaining: limit - 1, reset: Duration::from_secs(1) };
        let told = |requests, tokens| {
            let mut headers = HeaderMap::new();
            add(&mut headers, &RateStatus { requests, tokens });
            let mut told: Vec<String> = headers
                .iter()
                .map(|(name, value)| format!("{}={}", &name.as_str()[12..], value.to_str().expect("text")))
                .collect();
            told.sort();
            told.join(" ")
        };
        assert_eq!(told(Some(rate(60)), None), "limit-requests=60 remaining-requests=59 reset-requests=1s");
        assert_eq!(told(None, Some(rate(9))), "limit-tokens=9 remaining-tokens=8 reset-tokens=1s");
        assert_eq!(told(None, None), "");
    }
}
