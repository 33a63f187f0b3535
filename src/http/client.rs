//! Names the client that a request comes from, so that clients get fair turns.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;
use uuid::Uuid;

use crate::domain::ids::ClientId;
use crate::domain::keys::Principal;

/// The longest name that is kept as it is, in bytes; of a longer name its hash is kept.
const NAME_MAX: usize = 128;

/// Returns the client: its key, or one of the key's own clients if the key names them in `header`. Without a key: the value
/// of `header` if it is configured and the request has it, else the peer's address.
pub fn identify(request: &HttpRequest, header: Option<&HeaderName>, key: Option<&Principal>) -> ClientId {
    let header = header.filter(|_| key.is_none_or(|key| key.trusts_client_header));
    let name = header.and_then(|header| request.headers().get(header)).map(|value| value.as_bytes());
    let name: Option<Arc<[u8]>> = name.filter(|name| !name.is_empty()).map(|name| match name.len() > NAME_MAX {
        true => Uuid::new_v5(&Uuid::NAMESPACE_OID, name).to_string().into_bytes().into(),
        false => name.into(),
    });
    match (key, name) {
        (Some(key), Some(name)) => ClientId::NamedByKey(key.id, name),
        (Some(key), None) => ClientId::Key(key.id),
        (None, Some(name)) => ClientId::Named(name),
        (None, None) => ClientId::Address(request.peer_addr().map_or([0, 0, 0, 0].into(), |peer| peer.ip())),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_client_is_its_header_if_sent_else_its_address() {
        let header = HeaderName::from_static("x-user");
        let request = |name: Option<&[u8]>| {
            let request = TestRequest::default().peer_addr(([10, 0, 0, 7], 1234).into());
            let with_name = |request: TestRequest, name: &[u8]| {
                let value = actix_web::http::header::HeaderValue::from_bytes(name).expect("a value");
                request.insert_header((header.clone(), value))
            };
            match name {
                Some(name) => with_name(request, name).to_http_request(),
                None => request.to_http_request(),
            }
        };
        let address = ClientId::Address([10, 0, 0, 7].into());
        let check = |name: Option<&[u8]>, header: Option<&HeaderName>, expected: &ClientId| {
            assert_eq!(identify(&request(name), header, None), *expected);
        };
        check(None, Some(&header), &address);
        check(Some(b""), Some(&header), &address);
        check(Some(b"ann"), None, &address);
        check(Some(b"ann"), Some(&header), &ClientId::Named((*b"ann").into()));
        check(Some(b"\xff\xfe"), Some(&header), &ClientId::Named((*b"\xff\xfe").into()));
        let long = [b'x'; 10_000];
        let ClientId::Named(kept) = identify(&request(Some(&long)), Some(&header), None) else { panic!("it was sent") };
        assert_eq!(kept.len(), 36);
        assert_ne!(identify(&request(Some(&long[1..])), Some(&header), None), ClientId::Named(kept));
    }
}
