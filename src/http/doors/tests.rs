use super::*;

fn doors() -> Doors {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Doors {
        allowed_hosts: texts(&["llm.example.com"]),
        cors_origins: texts(&["https://chat.example.com"]),
        machine: "gpu.corp.example".to_owned(),
    }
}

#[test]
fn only_names_that_no_strangers_dns_can_point_here_are_known() {
    let check = |host: &str, expected: bool| assert_eq!(doors().knows_host(host), expected, "{host}");
    for known in [
        "127.0.0.1",
        "10.0.0.7:8420",
        "[::1]",
        "[fe80::1]:8420",
        "localhost",
        "LocalHost:8420",
        "localhost.",
        "a.localhost:1",
        "gpu.corp.example:8420",
        "leaseway",
        "leaseway:8420",
        "box.local",
        "box.lan",
        "metadata.internal",
        "box.home.arpa:80",
        "LLM.example.com",
        "llm.example.com:8420",
    ] {
        check(known, true);
    }
    for unknown in [
        "",
        ":8420",
        ".",
        "evil.com",
        "evil.com:8420",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "notlocal.com",
        "x.llm.example.com",
        "evil.com#.local",
        "evil.com/.local",
        "user@box.local",
        "[evil.com]",
        "[",
    ] {
        check(unknown, false);
    }
}

#[test]
fn an_origin_is_the_hosts_own_whatever_the_scheme() {
    let check = |origin: &str, host: &str, expected: bool| {
        assert_eq!(is_origin_of(origin, host), expected, "{origin} {host}");
    };
    check("http://box:8420", "box:8420", true);
    check("http://box", "BOX:80", true);
    check("https://box", "box", true);
    check("https://box", "box:443", true);
    check("https://box:8420", "box:8420", true);
    check("http://box:3000", "box:8420", false);
    check("http://box", "box:443", false);
    check("http://evil", "box", false);
    check("null", "box", false);
    check("file://", "", false);
    check("http://", "", false);
    check("", "box", false);
    check("chrome-extension://box", "box", false);
}

#[test]
fn foreign_pages_may_do_nothing_but_what_is_allowed_to_them() {
    const ALLOWED: &str = "https://chat.example.com";
    let check = |door: Door, method: Method, given: &[(&str, &str)], expected: &str| {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let told = match doors().judge(door, &method, &Uri::from_static("/"), &headers) {
            Ok(None) => "passes".to_owned(),
            Ok(Some(origin)) => format!("passes {}", origin.to_str().expect("text")),
            Err(error) => error.status_code().as_u16().to_string(),
        };
        assert_eq!(told, expected, "{door:?} {method} {given:?}");
    };
    let at = |more: (&'static str, &'static str)| [("host", "box:8420"), more];
    for door in [Door::Health, Door::Inference, Door::Private] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            check(door, method.clone(), &[("host", "box")], "passes");
            check(door, method.clone(), &at(("origin", "http://box:8420")), "passes");
            check(door, method.clone(), &at(("origin", "http://evil.com")), "403");
            check(door, method.clone(), &at(("origin", "null")), "403");
            check(door, method.clone(), &at(("sec-fetch-site", "same-origin")), "passes");
            let allowed = if door == Door::Inference { format!("passes {ALLOWED}") } else { "403".to_owned() };
            check(door, method.clone(), &at(("origin", ALLOWED)), &allowed);
            let rebound = if door == Door::Health { "passes" } else { "421" };
            check(door, method.clone(), &[("host", "evil.com")], rebound);
            check(door, method.clone(), &[("host", "box"), ("host", "evil.com")], "400");
        }
        check(door, Method::GET, &at(("sec-fetch-site", "cross-site")), "passes");
        check(door, Method::POST, &at(("sec-fetch-site", "cross-site")), "403");
        check(door, Method::DELETE, &at(("sec-fetch-site", "same-site")), "403");
    }
}
