//! Marks the way of a request through Leaseways, so that a request that comes back is refused.
//!
//! Every Leaseway has an id of its own. It adds the id to its requests to endpoints, and tells the id at `/health`.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;

use super::client::build_client;
use crate::config::UpstreamConfig;

/// The header with the ids of the Leaseways that have passed a request on, one value each.
pub const VIA: HeaderName = HeaderName::from_static("x-leaseway-via");

/// The header with the id of the Leaseway that answers at `/health`.
pub const INSTANCE: HeaderName = HeaderName::from_static("x-leaseway-instance");

/// How long an address may take to answer when it is registered and Leaseway asks whether the address is its own.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// Tells whether the Leaseway with this id has passed the request on before.
pub fn has_passed(headers: &HeaderMap, instance: &HeaderValue) -> bool {
    let ids = headers.get_all(VIA).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    ids.into_iter().any(|id| id.trim_ascii() == instance.as_bytes())
}

/// Tells whether the Leaseway with this id answers at this address. Returns false if no answer comes in time. The connection is
/// closed after the answer.
pub async fn leads_to(instance: &HeaderValue, root_url: &str, config: &UpstreamConfig) -> bool {
    let client = build_client(config, root_url.starts_with("https:"));
    let asked = client.get(format!("{root_url}/health")).force_close().send();
    let answer = timeout(ANSWER_TIMEOUT, asked).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.headers().get(INSTANCE) == Some(instance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_wherever_it_stands() {
        let own = HeaderValue::from_static("own");
        let check = |values: &[&'static str], expected: bool| {
            let headers = values.iter().map(|value| (VIA, HeaderValue::from_static(value))).collect();
            assert_eq!(has_passed(&headers, &own), expected, "{values:?}");
        };
        check(&[], false);
        check(&["other"], false);
        check(&["owner"], false);
        check(&["own"], true);
        check(&["other", "own"], true);
        check(&["other, own,third"], true);
    }
}
