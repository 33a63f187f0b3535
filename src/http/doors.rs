//! Decides which requests may come in, by the host name that they use for this server and by the page that a browser sends
//! them for.
//!
//! Every route names its [`Door`]. The route that has matched decides what a request may do, never the text of the path.

use std::rc::Rc;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, Uri};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse, ResponseError, web};

use super::Services;
use super::auth::{self, Access};
use super::error::ApiError;
use crate::config::ServerConfig;

/// How long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_MAX_AGE: u64 = 600;

/// The headers of an answer that a page of an allowed origin may read, beside those that every page may read.
const EXPOSED_HEADERS: &str = "x-request-id, x-leaseway-endpoint, x-queue-status, x-queue-wait-ms, x-queue-position, \
    x-estimated-wait, x-should-retry, retry-after";

/// The header by which a browser says whether the page that sends a request belongs to the same site
/// (https://w3c.github.io/webappsec-fetch-metadata/).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Suffixes that the public DNS does not have, so that no stranger can make a name with one of them point here.
const LOCAL_SUFFIXES: [&str; 5] = [".localhost", ".local", ".lan", ".internal", ".home.arpa"];

/// The group of routes that a route belongs to; it decides which requests may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The check that the process lives; open under every host name.
    Health,
    /// The inference API; open to pages of the origins in `server.cors_origins`.
    Inference,
    /// All other routes; closed to pages of other sites.
    Private,
}

/// The door of a route, and who may use each of its methods.
pub struct Gate {
    /// The group of routes that the route belongs to.
    pub door: Door,
    /// The methods of the route; for any other method the answer is 405 and needs no key.
    pub access: Vec<(Method, Access)>,
}

/// The settings by which doors decide.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    /// Host names that are allowed beside local ones, in lower case.
    allowed_hosts: Vec<String>,
    /// Origins whose pages may use the inference API, in lower case.
    cors_origins: Vec<String>,
    /// The name of this machine, in lower case; may be empty.
    machine: String,
}

impl Doors {
    /// Creates the doors from the configuration and the name of this machine.
    pub fn new(config: &ServerConfig) -> Self {
        let lower_case = |texts: &[String]| texts.iter().map(|text| text.to_ascii_lowercase()).collect();
        Self {
            allowed_hosts: lower_case(&config.allowed_hosts),
            cors_origins: lower_case(&config.cors_origins),
            machine: rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase(),
        }
    }

    /// Decides whether a request may pass. Returns its origin if the request comes from a page of another, allowed site.
    ///
    /// # Errors
    /// If the request may not pass.
    fn judge(
        &self,
        door: Door,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let host = host(uri, headers)?;
        if door != Door::Health && !self.knows_host(host) {
            return Err(ApiError::HostNotAllowed { host: host.to_owned() });
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return match headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
                None | Some(b"same-origin" | b"none") => Ok(None),
                // The browser follows a link or loads an image. The page cannot read the answer, and safe methods change nothing.
                Some(_) if method.is_safe() => Ok(None),
                Some(_) => Err(ApiError::CrossSite { origin: "another site".to_owned() }),
            };
        };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if is_origin_of(&text, host) {
            return Ok(None);
        }
        if door == Door::Inference && self.cors_origins.contains(&text) {
            return Ok(Some(origin.clone()));
        }
        Err(ApiError::CrossSite { origin: text })
    }

    /// Tells whether no stranger can have made this host name point here; `host` may have a port.
    fn knows_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        if let Some(rest) = host.strip_prefix('[') {
            let address = rest.split_once(']').map_or(rest, |(address, _)| address);
            return address.parse::<std::net::Ipv6Addr>().is_ok();
        }
        let name = host.split_once(':').map_or(host.as_str(), |(name, _)| name);
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_name = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_name) {
            return false;
        }
        name.parse::<std::net::Ipv4Addr>().is_ok()
            || !name.contains('.')
            || LOCAL_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
            || name == self.machine
            || self.allowed_hosts.iter().any(|allowed| allowed == name)
    }
}

/// Returns the host that a request names: the host of an absolute target, else the value of the `Host` header; empty if the
/// request has neither.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
    let mut given = headers.get_all(header::HOST);
    let host = given.next();
    if given.next().is_some() {
        return Err(ApiError::invalid("there is more than one `host` header"));
    }
    let host = host.map_or("", |host| host.to_str().unwrap_or_default());
    Ok(uri.authority().map_or(host, |authority| authority.as_str()))
}

/// Tells whether an origin in lower case belongs to pages of this host. The scheme does not matter, because a proxy in front
/// of Leaseway may end TLS.
fn is_origin_of(origin: &str, host: &str) -> bool {
    let Some((scheme, origin_host)) = origin.split_once("://") else { return false };
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let host = host.to_ascii_lowercase();
    let without_port = |host: &str| host.strip_suffix(port).unwrap_or(host).to_owned();
    !origin_host.is_empty() && without_port(origin_host) == without_port(&host)
}

/// Lets a request pass the door of its route if its key may use the route, or refuses it; answers preflights.
///
/// # Errors
/// The errors of the handlers.
pub async fn pass(
    gate: Rc<Gate>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let services = request.app_data::<web::Data<Services>>().expect("set for every worker").clone();
    let judged = services.doors.judge(gate.door, request.method(), request.uri(), request.headers());
    let origin = match judged {
        Ok(origin) => origin,
        Err(error) => return Ok(request.into_response(error.error_response())),
    };
    let access = gate.access.iter().find(|(method, _)| method == request.method());
    let admitted = access.map_or(Ok(()), |(_, access)| auth::admit(*access, &request, &services));
    let Some(origin) = origin else {
        return match admitted {
            Ok(()) => next.call(request).await,
            Err(error) => Ok(request.into_response(error.error_response())),
        };
    };
    let mut response = match (preflight(&request), admitted) {
        (Some(answer), _) => request.into_response(answer),
        (None, Ok(())) => next.call(request).await?,
        (None, Err(error)) => request.into_response(error.error_response()),
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    Ok(response)
}

/// Checks a request whose path has no route by the same rules as [`pass`].
///
/// # Errors
/// If the request may not pass.
pub fn check(door: Door, request: &actix_web::HttpRequest, services: &Services) -> Result<(), ApiError> {
    services.doors.judge(door, request.method(), request.uri(), request.headers()).map(|_| ())
}

/// Returns the answer to a preflight, by which a browser asks whether it may send a request
/// (https://fetch.spec.whatwg.org/#cors-preflight-fetch); `None` if the request is not a preflight.
fn preflight(request: &ServiceRequest) -> Option<HttpResponse> {
    let asked = |name: HeaderName| request.headers().get(name);
    if request.method() != Method::OPTIONS || asked(header::ACCESS_CONTROL_REQUEST_METHOD).is_none() {
        return None;
    }
    let mut answer = HttpResponse::NoContent();
    answer.insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"));
    answer.insert_header((header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE));
    if let Some(names) = asked(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone()));
    }
    // Browsers ask this before they let a page of the internet reach a private network.
    if asked(HeaderName::from_static("access-control-request-private-network")).is_some() {
        answer.insert_header(("access-control-allow-private-network", "true"));
    }
    Some(answer.finish())
}

#[cfg(test)]
mod tests;
