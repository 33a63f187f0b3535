//! Decides which headers pass from client to endpoint and from endpoint to client.

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers that belong to one connection and not to the message (RFC 9110 section 7.6.1). [`KEEP_ALIVE`] and the headers that
/// begin with [`PROXY_PREFIX`] belong to one connection, too.
const HOP_BY_HOP: [HeaderName; 5] =
    [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

/// Another header that belongs to one connection; the crate `http` has no constant for it.
const KEEP_ALIVE: &str = "keep-alive";

/// The prefix of headers between a client and a proxy.
const PROXY_PREFIX: &str = "proxy-";

/// Request headers that Leaseway sets anew for the endpoint.
const REQUEST_REPLACED: [HeaderName; 4] =
    [header::HOST, header::EXPECT, header::ACCEPT_ENCODING, header::CONTENT_LENGTH];

/// Request headers that hold a client's secrets or tell its address.
const REQUEST_PRIVATE: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::FORWARDED];

/// More private headers, for which the crate `http` has no constants.
const REQUEST_PRIVATE_NAMES: [&str; 3] = ["x-api-key", "api-key", "x-real-ip"];

/// The prefix of headers by which proxies tell a client's address.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Response headers that would tell the endpoint's address or that Leaseway sets itself.
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

/// More such response headers, for which the crate `http` has no constants.
const RESPONSE_REPLACED_NAMES: [&str; 5] =
    ["alt-svc", "x-request-id", "x-accel-buffering", "x-should-retry", "x-estimated-wait"];

/// The prefixes of more such response headers: those that say which pages may read an answer, and those that tell how Leaseway
/// has served the request.
const RESPONSE_REPLACED_PREFIXES: [&str; 3] = ["access-control-", "x-leaseway-", "x-queue-"];

/// Returns the headers of a client's request that go to the endpoint, without those in `dropped`, and with the endpoint's own
/// key if it has one.
pub fn to_endpoint(received: &HeaderMap, dropped: &[HeaderName], api_key: Option<&str>) -> HeaderMap {
    let mut sent = HeaderMap::with_capacity(received.len() + 2);
    for (name, value) in passing(received) {
        let is_private = REQUEST_PRIVATE.contains(name)
            || REQUEST_PRIVATE_NAMES.contains(&name.as_str())
            || name.as_str().starts_with(FORWARDED_PREFIX);
        if !REQUEST_REPLACED.contains(name) && !is_private && !dropped.contains(name) {
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
        let is_ours = RESPONSE_REPLACED.contains(name)
            || RESPONSE_REPLACED_NAMES.contains(&name.as_str())
            || RESPONSE_REPLACED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
        if !is_ours {
            sent.append(name.clone(), value.clone());
        }
    }
    sent
}

/// Returns the headers that are not hop-by-hop, neither by name nor because the header `connection` lists them.
fn passing(received: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let nominated: Vec<&str> = received
        .get_all(header::CONNECTION)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    received.iter().filter(move |(name, _)| {
        !HOP_BY_HOP.contains(name)
            && name.as_str() != KEEP_ALIVE
            && !name.as_str().starts_with(PROXY_PREFIX)
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
        let sent = to_endpoint(&received, &[], None);
        assert_eq!(names(&sent), ["accept-encoding", "content-type", "x-custom"]);
        assert_eq!(sent.get("accept-encoding").map(HeaderValue::as_bytes), Some(&b"identity"[..]));
        let sent = to_endpoint(&received, &[], Some("endpoint"));
        assert_eq!(sent.get("authorization").map(HeaderValue::as_bytes), Some(&b"Bearer endpoint"[..]));
    }

    #[test]
    fn secrets_and_whereabouts_of_a_client_stay_behind() {
        let received = headers(&[
            ("x-api-key", "secret"),
            ("api-key", "secret"),
            ("cookie", "leaseway=secret"),
            ("proxy-authorization", "Basic secret"),
            ("proxy-anything", "1"),
            ("forwarded", "for=10.0.0.7"),
            ("x-forwarded-for", "10.0.0.7"),
            ("x-forwarded-anything", "1"),
            ("x-real-ip", "10.0.0.7"),
            ("x-openwebui-user-email", "ann@example.org"),
            ("anthropic-version", "2023-06-01"),
        ]);
        let dropped = [HeaderName::from_static("x-openwebui-user-email")];
        assert_eq!(names(&to_endpoint(&received, &dropped, None)), ["accept-encoding", "anthropic-version"]);
    }

    #[test]
    fn what_an_endpoint_says_of_itself_stays_behind() {
        let received = headers(&[
            ("access-control-allow-origin", "*"),
            ("access-control-allow-headers", "*"),
            ("set-cookie", "session=1"),
            ("proxy-authenticate", "Basic"),
            ("location", "http://10.0.0.1/elsewhere"),
            ("server", "llama.cpp"),
            ("content-type", "text/event-stream"),
            ("retry-after", "3"),
            ("x-leaseway-endpoint", "other"),
            ("x-leaseway-anything", "1"),
            ("x-queue-position", "7"),
            ("x-estimated-wait", "7"),
        ]);
        assert_eq!(names(&to_client(&received)), ["content-type", "retry-after"]);
    }
}
