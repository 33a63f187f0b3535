//! Which headers pass.

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers that belong to one connection and not to the message (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Further such headers, for which there is no constant.
const HOP_BY_HOP_NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "trailer"];

/// Request headers that Leaseway answers for itself.
const REQUEST_REPLACED: [HeaderName; 5] =
    [header::AUTHORIZATION, header::HOST, header::EXPECT, header::ACCEPT_ENCODING, header::CONTENT_LENGTH];

/// Response headers that would name the endpoint's address or speak for Leaseway.
const RESPONSE_REPLACED: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::LOCATION,
    header::CONTENT_LOCATION,
    header::REFRESH,
    header::SERVER,
    header::SET_COOKIE,
    header::VIA,
    header::DATE,
];

/// Further such headers, for which there is no constant.
const RESPONSE_REPLACED_NAMES: [&str; 5] =
    ["alt-svc", "x-request-id", "x-accel-buffering", "x-should-retry", "x-leaseway-endpoint"];

/// Returns the headers of a client's request that go to the endpoint, with the endpoint's own key if it has one.
pub fn to_endpoint(received: &HeaderMap, api_key: Option<&str>) -> HeaderMap {
    let mut sent = HeaderMap::with_capacity(received.len() + 2);
    for (name, value) in passing(received) {
        if !REQUEST_REPLACED.contains(name) {
            sent.append(name.clone(), value.clone());
        }
    }
    sent.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(value) = api_key.and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok()) {
        sent.insert(header::AUTHORIZATION, value);
    }
    sent
}

/// Returns the headers of an endpoint's answer that go to the client.
pub fn to_client(received: &HeaderMap) -> HeaderMap {
    let mut sent = HeaderMap::with_capacity(received.len() + 4);
    for (name, value) in passing(received) {
        if !RESPONSE_REPLACED.contains(name) && !RESPONSE_REPLACED_NAMES.contains(&name.as_str()) {
            sent.append(name.clone(), value.clone());
        }
    }
    sent
}

/// Returns what is not hop-by-hop, neither by its name nor because `connection` says so.
fn passing(received: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let nominated: Vec<&str> = received
        .get_all(header::CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    received.iter().filter(move |(name, _)| {
        !HOP_BY_HOP.contains(name)
            && !HOP_BY_HOP_NAMES.contains(&name.as_str())
            && !nominated.iter().any(|nominee| nominee.eq_ignore_ascii_case(name.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn names(map: &HeaderMap) -> Vec<String> {
        let mut names: Vec<String> = map.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_headers_and_the_clients_key_stay_behind() {
        let received = headers(&[
            ("authorization", "Bearer client"),
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("host", "leaseway"),
            ("expect", "100-continue"),
            ("accept-encoding", "gzip"),
            ("content-type", "application/json"),
            ("x-custom", "passes"),
        ]);
        let sent = to_endpoint(&received, None);
        assert_eq!(names(&sent), ["accept-encoding", "content-type", "x-custom"]);
        assert_eq!(sent.get("accept-encoding").map(HeaderValue::as_bytes), Some(&b"identity"[..]));
        let sent = to_endpoint(&received, Some("endpoint"));
        assert_eq!(sent.get("authorization").map(HeaderValue::as_bytes), Some(&b"Bearer endpoint"[..]));
    }

    #[test]
    fn no_address_of_an_endpoint_passes() {
        let received = headers(&[
            ("location", "http://10.0.0.1/elsewhere"),
            ("server", "llama.cpp"),
            ("content-type", "text/event-stream"),
            ("retry-after", "3"),
        ]);
        assert_eq!(names(&to_client(&received)), ["content-type", "retry-after"]);
    }
}
