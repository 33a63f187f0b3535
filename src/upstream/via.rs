//! The way of a request through Leaseways, so that one that comes round again is cut.
//!
//! Every Leaseway has an id of its own, adds it to what it sends to endpoints, and says it at `/health`.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;

use super::client::build_client;
use crate::config::UpstreamConfig;

/// Lists the ids of the Leaseways that have passed a request on, one value each.
pub const VIA: HeaderName = HeaderName::from_static("x-leaseway-via");

/// Says the id of the Leaseway that answers at `/health`.
pub const INSTANCE: HeaderName = HeaderName::from_static("x-leaseway-instance");

/// How long an address that is to be registered may take to tell whether a Leaseway is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Tells whether a request has been passed on by the Leaseway with this id already.
pub fn has_passed(headers: &HeaderMap, instance: &HeaderValue) -> bool {
    let ids = headers.get_all(VIA).flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    ids.into_iter().any(|id| id.trim_ascii() == instance.as_bytes())
}

/// Tells whether a Leaseway, this one or another, answers at this address. No answer in time is none.
pub async fn is_leaseway(config: &UpstreamConfig, root_url: &str) -> bool {
    let client = build_client(config, root_url.starts_with("https:"));
    let asked = client.get(format!("{root_url}/health")).send();
    matches!(timeout(ANSWER_TIMEOUT, asked).await, Ok(Ok(answer)) if answer.headers().contains_key(INSTANCE))
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
