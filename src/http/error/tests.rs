use std::time::Duration;

use actix_web::ResponseError;

use serde_json::Value;

use super::*;
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

#[test]
fn every_error_has_its_status_code_type_wait_and_words() {
    let check = |error: ApiError, status: u16, code: &str, kind: &str, retry_after: Option<u64>, words: &str| {
        let (response, told) = (error.error_response(), body(&error));
        assert_eq!((response.status().as_u16(), error.status_code().as_u16()), (status, status), "{error}");
        let error_fields = ["code", "type", "message"].map(|field| told["error"][field].as_str().unwrap_or_default());
        assert_eq!(error_fields, [code, kind, words]);
        let header = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        assert_eq!(header, retry_after, "{error}");
    };
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
