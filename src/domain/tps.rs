//! Tokens per second of one endpoint, model and API.

use std::time::Duration;

/// A mean that gives the newest value a fixed weight, `alpha`, and starts with the first value as it is:
/// `mean = alpha × value + (1 − alpha) × mean`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean(Option<f64>);

impl Mean {
    fn record(&mut self, alpha: f64, value: f64) -> f64 {
        let mean = self.0.map_or(value, |mean| alpha * value + (1.0 - alpha) * mean);
        self.0 = Some(mean);
        mean
    }
}

/// The measures of one successful request.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Output tokens; 0 if the endpoint reported none.
    pub output_tokens: u64,
    /// The time from dispatch to the last byte.
    pub duration: Duration,
    /// The time from dispatch to the first token; `None` if the answer was no stream.
    pub first_token: Option<Duration>,
    /// `output_tokens` is the number of content chunks, because the endpoint reported no usage.
    pub is_estimated: bool,
}

/// The running speed of one endpoint, model and API. A request without output tokens or without duration changes
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Speed {
    tps: Mean,
    first_token_ms: Mean,
    decode_tps: Mean,
    request_count: u64,
    output_tokens: u64,
    duration: Duration,
    has_estimates: bool,
}

impl Speed {
    /// Returns the speed that follows from stored sums: its mean is tokens ÷ time. `None` without tokens or without
    /// time.
    pub fn restored(request_count: u64, output_tokens: u64, duration: Duration) -> Option<Self> {
        let is_measured = output_tokens > 0 && !duration.is_zero();
        let tps = Mean(Some(output_tokens as f64 / duration.as_secs_f64()));
        is_measured.then_some(Self { tps, request_count, output_tokens, duration, ..Self::default() })
    }

    /// Counts one successful request and returns the new mean, in tokens per second; `None` if the request changes
    /// nothing.
    pub fn record(&mut self, alpha: f64, measured: Measured) -> Option<f64> {
        let Measured { output_tokens, duration, first_token, is_estimated } = measured;
        if output_tokens == 0 || duration.is_zero() {
            return None;
        }
        self.request_count += 1;
        self.output_tokens = self.output_tokens.saturating_add(output_tokens);
        self.duration += duration;
        self.has_estimates |= is_estimated;
        if let Some(first_token) = first_token {
            self.first_token_ms.record(alpha, first_token.as_secs_f64() * 1000.0);
            let decoding = duration.saturating_sub(first_token);
            // The first token is left out, because decoding begins after it.
            if output_tokens > 1 && !decoding.is_zero() {
                self.decode_tps.record(alpha, (output_tokens - 1) as f64 / decoding.as_secs_f64());
            }
        }
        Some(self.tps.record(alpha, output_tokens as f64 / duration.as_secs_f64()))
    }

    /// Returns the mean of tokens per second from dispatch to the last byte; `None` while nothing was measured.
    pub fn tps(&self) -> Option<f64> {
        self.tps.0
    }

    /// Returns the mean time from dispatch to the first token of a stream, in milliseconds; `None` while no stream was
    /// measured.
    pub fn first_token_ms(&self) -> Option<f64> {
        self.first_token_ms.0
    }

    /// Returns the mean of tokens per second after the first token of a stream; `None` while no stream was measured.
    pub fn decode_tps(&self) -> Option<f64> {
        self.decode_tps.0
    }

    /// Returns the number of measured requests.
    pub fn request_count(&self) -> u64 {
        self.request_count
    }

    /// Returns the output tokens of all measured requests.
    pub fn output_tokens(&self) -> u64 {
        self.output_tokens
    }

    /// Tells whether some of the tokens are counted content chunks, because an endpoint reported no usage.
    pub fn has_estimates(&self) -> bool {
        self.has_estimates
    }

    /// Returns the mean duration of a request in milliseconds; `None` while nothing was measured.
    pub fn average_duration_ms(&self) -> Option<f64> {
        let requests = self.request_count as f64;
        (self.request_count > 0).then(|| self.duration.as_secs_f64() * 1000.0 / requests)
    }
}

/// The speed of one endpoint over all its models and APIs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Aggregate {
    weighted_tps: f64,
    request_count: u64,
    output_tokens: u64,
}

impl Aggregate {
    /// Adds the speed of one model and API.
    pub fn add(&mut self, speed: &Speed) {
        self.weighted_tps += speed.tps().unwrap_or(0.0) * speed.request_count() as f64;
        self.request_count += speed.request_count();
        self.output_tokens = self.output_tokens.saturating_add(speed.output_tokens());
    }

    /// Returns tokens per second: the mean of the means, weighted by requests; `None` while nothing was measured.
    pub fn tps(&self) -> Option<f64> {
        (self.request_count > 0).then(|| self.weighted_tps / self.request_count as f64)
    }

    /// Returns the number of measured requests.
    pub fn request_count(&self) -> u64 {
        self.request_count
    }

    /// Returns the output tokens of all measured requests.
    pub fn output_tokens(&self) -> u64 {
        self.output_tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_is_weighted_by_requests() {
        let mut aggregate = Aggregate::default();
        assert_eq!(aggregate.tps(), None);
        let second = Duration::from_secs(1);
        for (requests, tokens) in [(3, 10), (1, 50)] {
            aggregate.add(&Speed::restored(requests, tokens, second).expect("measured"));
        }
        assert_eq!((aggregate.tps(), aggregate.request_count(), aggregate.output_tokens()), (Some(20.0), 4, 60));
    }

    #[test]
    fn a_restored_mean_is_tokens_by_time() {
        let speed = Speed::restored(2, 100, Duration::from_millis(2000)).expect("measured");
        assert_eq!((speed.tps(), speed.average_duration_ms()), (Some(50.0), Some(1000.0)));
        assert_eq!(Speed::restored(2, 0, Duration::from_millis(2000)), None);
        assert_eq!(Speed::restored(2, 100, Duration::ZERO), None);
    }

    #[test]
    fn the_mean_moves_a_fifth_of_the_way_to_each_new_value() {
        let mut speed = Speed::default();
        let mut record = |output_tokens, ms| {
            speed.record(
                0.2,
                Measured { output_tokens, duration: Duration::from_millis(ms), first_token: None, is_estimated: false },
            )
        };
        assert_eq!(record(100, 2000), Some(50.0));
        assert_eq!(record(200, 2000), Some(60.0));
        assert_eq!(record(50, 1000), Some(58.0));
        assert_eq!(record(0, 1000), None);
        assert_eq!(record(10, 0), None);
        assert_eq!(speed.tps(), Some(58.0));
        assert_eq!(speed.request_count(), 3);
        assert_eq!(speed.output_tokens(), 350);
        assert_eq!(speed.average_duration_ms(), Some(5000.0 / 3.0));
        assert_eq!((speed.first_token_ms(), speed.decode_tps()), (None, None), "no stream was measured");
    }

    #[test]
    fn streams_tell_prefill_from_decoding() {
        let mut speed = Speed::default();
        let mut record = |output_tokens, ms, first_token_ms| {
            let (duration, first_token) = (Duration::from_millis(ms), Some(Duration::from_millis(first_token_ms)));
            speed.record(0.2, Measured { output_tokens, duration, first_token, is_estimated: false });
        };
        record(101, 3000, 1000);
        record(1, 500, 500);
        record(201, 2500, 500);
        assert_eq!((speed.first_token_ms(), speed.decode_tps()), (Some(820.0), Some(60.0)));
    }
}
