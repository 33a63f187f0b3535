use std::time::Duration;

use actix_web::ResponseError;

use serde_json::Value;

use super::*;
use crate::domain::dispatch::{Rate, RateLimit};
use crate::domain::ids::EndpointId;
use crate::domain::request::ApiKind;
use crate::store::StoreError;

fn body(error: &ApiError) -> Value {
    Dialect::default().error_body(&error.row().parts())
}

const RETRY_AFTER: RetryAfter = RetryAfter { queue_full: 7, no_endpoint: 30 };

fn refused(refusal: Refusal) -> ApiError {
    ApiError::Refused { refusal, model: ModelId::from("m"), retry_after: RETRY_AFTER }
}

/// Checks what a client sees of an error.
fn check(error: ApiError, status: u16, code: &str, kind: &str, retry_after: Option<u64>, words: &str) {
    let (response, told) = (error.error_response(), body(&error));
    assert_eq!((response.status().as_u16(), error.status_code().as_u16()), (status, status), "{error}");
    let error_fields = ["code", "type", "message"].map(|field| told["error"][field].as_str().unwrap_or_default());
    assert_eq!(error_fields, [code, kind, words]);
    let header = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    assert_eq!(header, retry_after, "{error}");
}

#[test]
fn every_error_has_its_status_code_type_wait_and_words() {
    let (invalid, server) = ("invalid_request_error", "server_error");
    check(ApiError::invalid("is wrong"), 400, "invalid_request", invalid, None, "is wrong");
    let too_large = ApiError::RequestTooLarge { limit: 5 };
    check(too_large, 413, "request_too_large", invalid, None, "the request body is larger than 5 bytes");
    let wait = Some(Duration::from_secs(90));
    let (limit, full) = ("rate_limit_exceeded", "Request queue is full");
    check(refused(Refusal::QueueFull { estimated_wait: None }), 429, "queue_full", limit, Some(7), full);
    check(refused(Refusal::QueueFull { estimated_wait: wait }), 429, "queue_full", limit, Some(60), full);
    check(refused(Refusal::Overloaded { estimated_wait: None }), 429, "overloaded", limit, Some(7), full);
    let busy = "every endpoint that was tried for the model `m` is busy";
    let all_busy = ApiError::AllBusy { estimated_wait: wait, model: ModelId::from("m"), retry_after: RETRY_AFTER };
    check(all_busy, 429, "overloaded", limit, Some(60), busy);
    let late = refused(Refusal::QueueTimeout { waited: Duration::from_millis(1500) });
    assert_eq!(body(&late)["waited_secs"], 1.5);
    check(late, 504, "queue_timeout", "timeout", None, "Queue wait timeout");
    let unknown = refused(Refusal::ModelNotFound);
    assert_eq!(body(&unknown)["error"]["param"], "model");
    check(unknown, 404, "model_not_found", invalid, None, "no endpoint has the model `m`");
    let offline = "no endpoint with the model `m` is online";
    check(refused(Refusal::NoEndpointOnline), 503, "no_endpoint_online", server, Some(30), offline);
    let loading = "every endpoint with the model `m` is still loading";
    check(refused(Refusal::WarmingUp), 503, "warming_up", server, Some(30), loading);
    let unsupported = "no endpoint with the model `m` serves /v1/embeddings";
    check(refused(Refusal::ApiNotSupported(ApiKind::Embeddings)), 501, "api_not_supported", server, None, unsupported);
    check(refused(Refusal::Draining), 503, "draining", server, Some(5), "Leaseway is stopping");
    let silent = ApiError::AttemptFailed("a".to_owned(), Failure::FirstByteTimeout);
    assert!(silent.error_response().headers().get("x-should-retry").is_some_and(|value| value == "false"));
    let words = "endpoint `a` sent no byte of its answer in time";
    check(silent, 504, "upstream_timeout", "timeout", None, words);
    let lost = ApiError::AttemptFailed("a".to_owned(), Failure::ConnectionLost("10.0.0.1".to_owned()));
    check(lost, 502, "upstream_error", server, None, "endpoint `a` did not answer");
    let managed = ApiError::Registry(RegistryError::ManagedByFile("a".to_owned()));
    check(managed, 409, "managed_by_file", invalid, None, "endpoint `a` is managed by the config file");
    let id = EndpointId(uuid::Uuid::nil());
    let none = format!("there is no endpoint with id {id}");
    check(ApiError::Registry(RegistryError::NotFound(id)), 404, "endpoint_not_found", invalid, None, &none);
    let host = ApiError::HostNotAllowed { host: "evil.com".to_owned() };
    let words = "the host name `evil.com` is not known here; server.allowed_hosts lists more names";
    check(host, 421, "host_not_allowed", invalid, None, words);
    let words = "the bodies of other requests take all of server.max_buffered_bytes";
    check(ApiError::NoRoom, 503, "overloaded", server, Some(5), words);
    let words = "the request comes too slowly: 7 bytes have come";
    check(ApiError::TooSlow { received: 7 }, 408, "request_timeout", invalid, None, words);
    let words = "the request has passed through this Leaseway before: one of its endpoints leads back to it";
    check(ApiError::Loop, 508, "loop_detected", server, None, words);
    assert!(ApiError::Loop.error_response().headers().get("x-should-retry").is_some_and(|value| value == "false"));
    check(ApiError::NotReady("not yet".to_owned()), 503, "not_ready", server, Some(5), "not yet");
    let away = ApiError::Registry(RegistryError::Store(StoreError::Away("leaseway.db".to_owned())));
    let words = away.to_string();
    check(away, 503, "database_unavailable", server, Some(5), &words);
}

#[test]
fn a_limit_of_a_key_is_named_with_its_value_and_its_exact_wait() {
    let limit = "rate_limit_exceeded";
    let wait = Some(Duration::from_secs(90));
    let of_key = refused(Refusal::KeyQueueFull { max_waiting: 4, estimated_wait: wait });
    check(of_key, 429, "queue_full", limit, Some(60), "as many requests of this key wait as its max_waiting allows: 4");
    let status = RateStatus { requests: None, tokens: None };
    let exceeded = |limit, value, millis| {
        let retry_after = Duration::from_millis(millis);
        refused(Refusal::RateLimitExceeded { limit, value, retry_after, status: Box::new(status) })
    };
    let words = "the limit `requests_per_minute` of this key is reached: 60";
    let (first, second) =
        (exceeded(RateLimit::RequestsPerMinute, 60, 0), exceeded(RateLimit::RequestsPerMinute, 60, 1001));
    check(first, 429, "rate_limit_exceeded", limit, Some(1), words);
    assert_eq!(body(&second)["retry_after"], 2);
    check(second, 429, "rate_limit_exceeded", limit, Some(2), words);
    let words = "the limit `tokens_per_day` of this key is reached: 9";
    let of_day = exceeded(RateLimit::TokensPerDay, 9, 80_000_000);
    check(of_day, 429, "rate_limit_exceeded", limit, Some(80_000), words);
}

#[test]
fn an_error_of_a_key_tells_what_is_left_of_its_limits() {
    let rate = Rate { limit: 60, remaining: 0, reset: Duration::from_secs(60) };
    let status = Box::new(RateStatus { requests: Some(rate), tokens: None });
    let retry_after = Duration::from_secs(1);
    let limit = RateLimit::RequestsPerMinute;
    let exceeded = refused(Refusal::RateLimitExceeded { limit, value: 60, retry_after, status: status.clone() });
    let failed = ApiError::AttemptFailed("a".to_owned(), Failure::IdleTimeout);
    let failed = ApiError::OfKey { error: Box::new(failed), rate: status };
    assert_eq!((failed.status_code().as_u16(), failed.to_string().as_str()), (502, "endpoint `a` did not answer"));
    for error in [exceeded, failed] {
        let response = error.error_response();
        let told = |name| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(told("x-ratelimit-remaining-requests").as_deref(), Some("0"), "{error}");
        assert_eq!(told("x-ratelimit-reset-requests").as_deref(), Some("1m0s"), "{error}");
        assert_eq!(told("x-ratelimit-limit-tokens"), None);
    }
}
