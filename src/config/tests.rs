use std::io::Write;

use chrono::DateTime;

use super::*;
use crate::domain::keys::{KeyDefinition, KeyHash, KeySource, Scope};

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<(Config, Vec<String>), Vec<String>> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a short text");
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let name = file.path().display().to_string();
    let show = |error: ConfigError| error.to_string().replace(&name, "FILE");
    load(Some(file.path()), &environment).map_err(|errors| errors.into_iter().map(show).collect())
}

#[test]
fn every_key_has_a_default_or_is_optional() {
    let (config, warnings) = load(None, &[]).expect("the defaults are valid");
    assert!(warnings.is_empty());
    assert_eq!(config.server.bind.to_string(), "127.0.0.1:8420");
    assert_eq!(config.queue.timeout, Duration::from_secs(60));
    let defaults: toml::Table = DEFAULTS.parse().expect("the defaults are TOML");
    for (section, keys) in keys::SECTIONS {
        for key in *keys {
            let present = defaults[*section].get(key.name).is_some() || DEFAULTS.contains(&format!("# {} =", key.name));
            assert!(present, "{section}.{} is missing in default.toml", key.name);
        }
    }
    for key in keys::ENDPOINT {
        assert!(DEFAULTS.contains(&format!("# {} =", key.name)), "endpoints.{} is missing", key.name);
    }
}

#[test]
fn the_file_overrides_the_defaults_and_the_environment_the_file() {
    let text = "[queue]\nmax_waiting = 5\ntimeout_secs = 7\n";
    let (config, _) = load_text(text, &[("LEASEWAY_QUEUE__MAX_WAITING", "0")]).expect("valid");
    assert_eq!((config.queue.max_waiting, config.queue.timeout), (0, Duration::from_secs(7)));
}

#[test]
fn every_mistake_is_named_with_its_line_and_what_is_allowed() {
    let text = "[queue]\nmax_waitng = 5\ntimeout_secs = -1\n\n[health]\ninterval_secs = \"often\"\n\n[quue]\nx = 1\n";
    let errors =
        load_text(text, &[("LEASEWAY_TPS__EMA_ALPHA", "2"), ("LEASEWAY_TPS__ALPHA", "1")]).expect_err("mistakes");
    let all = errors.join("\n");
    assert_eq!(errors.len(), 6, "{all}");
    for part in [
        "FILE:2: unknown key `queue.max_waitng`; allowed are max_waiting,",
        "FILE:3: queue.timeout_secs = -1 is not allowed; allowed is a whole number from 0 to 86400",
        "FILE:6: health.interval_secs = \"often\" is not allowed; allowed is a whole number from 1 to 3600",
        "FILE:8: unknown section `quue`",
        "LEASEWAY_TPS__EMA_ALPHA: tps.ema_alpha = 2.0 is not allowed; allowed is a number from 0.001 to 1",
        "LEASEWAY_TPS__ALPHA: unknown key `tps.alpha`",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    let errors = load_text("[queue]\nmax_waiting = = 3\n", &[]).expect_err("a mistake");
    assert!(errors[0].starts_with("FILE:2: "), "{errors:?}");
}

#[test]
fn a_missing_file_is_named() {
    let errors = load(Some(Path::new("/nowhere/leaseway.toml")), &[]).expect_err("no such file");
    assert!(errors[0].to_string().starts_with("/nowhere/leaseway.toml: cannot be read: "));
}

#[test]
fn endpoints_are_read_with_their_key_from_the_environment() {
    let text = "[[endpoints]]\nname = \"gpu-1\"\nbase_url = \"http://10.0.0.1:8000/v1/\"\nkind = \"vllm\"\n\
                max_concurrency = 4\napi_key_env = \"GPU_KEY\"\nmodels = [\"a\", \"b\"]\n";
    let (config, _) = load_text(text, &[("GPU_KEY", "secret")]).expect("valid");
    let endpoint = &config.endpoints[0];
    assert_eq!(endpoint.base_url, "http://10.0.0.1:8000/v1");
    assert_eq!(endpoint.api_key.as_deref(), Some("secret"));
    assert_eq!((endpoint.max_concurrency, endpoint.allowed_models.len()), (Some(4), 2));
    let errors = load_text(text, &[]).expect_err("the variable is not set");
    assert!(errors[0].contains("`GPU_KEY`, which is not set"), "{errors:?}");
}

#[test]
fn endpoint_mistakes_are_named_and_never_show_a_key() {
    let text = "[[endpoints]]\nname = \"a\"\nbase_url = \"ftp://x\"\nmax_concurrency = 0\napi_key = 17\n\
                [[endpoints]]\nbase_url = \"http://x\"\n[[endpoints]]\nname = \"b\"\nbase_url = \"http://y\"\n\
                [[endpoints]]\nname = \"b\"\nbase_url = \"http://y/v1\"\n";
    let all = load_text(text, &[]).expect_err("mistakes").join("\n");
    for part in [
        "FILE:3: endpoints.base_url = \"ftp://x\" is not allowed; allowed is an http:// or https:// URL",
        "FILE:4: endpoints.max_concurrency = 0 is not allowed; allowed is a whole number from 1 to 10000",
        "FILE:5: endpoints.api_key is not allowed",
        "FILE:6: endpoints.name is missing",
        "FILE:11: endpoint name \"b\" is used at FILE:8 already",
        "FILE:11: endpoint base_url \"http://y/v1\" is used at FILE:8 already",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    assert!(!all.contains("17"), "{all}");
}

#[test]
fn open_access_beyond_this_machine_must_be_asked_for() {
    let open = "[server]\nbind = \"0.0.0.0:8420\"\n";
    let error = load_text(open, &[]).expect("valid").0.open_access.expect("a mistake if there is no key").to_string();
    assert!(error.contains(":2: server.bind = 0.0.0.0:8420 can be reached"), "{error}");
    for way_out in ["[[keys]]", "LEASEWAY_ADMIN_KEY", "leaseway keys add", "server.insecure_open_access = true"] {
        assert!(error.contains(way_out), "{error}");
    }
    let allowed = load_text(open, &[("LEASEWAY_SERVER__INSECURE_OPEN_ACCESS", "true")]);
    assert_eq!(allowed.expect("valid").0.open_access, None);
    assert_eq!(load_text("[server]\nbind = \"127.0.0.2:8420\"\n", &[]).expect("valid").0.open_access, None);
}

#[test]
fn variables_without_effect_are_warned_of() {
    let (config, warnings) = load_text("", &[("LOAD_BALANCER_MODE", "fastest")]).expect("valid");
    assert_eq!(config.balancer.mode, Mode::Auto);
    assert!(warnings[0].contains("LOAD_BALANCER_MODE=\"fastest\""), "{warnings:?}");
    let (config, warnings) = load_text("", &[("LOAD_BALANCER_MODE", "metrics")]).expect("valid");
    assert_eq!((config.balancer.mode, warnings.len()), (Mode::Metrics, 0));
    let (_, warnings) = load_text("", &[("LEASEWAY_QUEUE_MAX_WAITING", "1")]).expect("valid");
    assert!(warnings[0].contains("LEASEWAY_QUEUE_MAX_WAITING is ignored"), "{warnings:?}");
}

#[test]
fn hosts_and_origins_are_lists_and_in_the_environment_separated_by_commas() {
    let text = "[server]\nallowed_hosts = [\"llm.example.com\"]\ncors_origins = [\"https://chat.example.com\"]\n";
    let (config, _) = load_text(text, &[]).expect("valid");
    assert_eq!((config.server.allowed_hosts.len(), config.server.cors_origins.len()), (1, 1));
    let (config, _) = load_text(text, &[("LEASEWAY_SERVER__CORS_ORIGINS", "http://a:3000, http://b")]).expect("valid");
    assert_eq!(config.server.cors_origins, ["http://a:3000", "http://b"]);
    for wrong in ["\"http://a/\"", "\"http://a:80\"", "\"*\"", "\"null\"", "\"a.example.com\"", "7"] {
        let errors = load_text(&format!("[server]\ncors_origins = [{wrong}]\n"), &[]).expect_err(wrong);
        assert!(errors[0].contains("allowed is a list of origins"), "{errors:?}");
    }
    for wrong in ["\"\"", "\"a:80\"", "\"http://a\"", "\"*.a\""] {
        let errors = load_text(&format!("[server]\nallowed_hosts = [{wrong}]\n"), &[]).expect_err(wrong);
        assert!(errors[0].contains("allowed is a list of host names"), "{errors:?}");
    }
}

#[test]
fn headers_to_drop_are_names_in_a_list() {
    let (config, _) = load_text("[upstream]\ndrop_headers = [\"X-User\"]\n", &[]).expect("valid");
    assert_eq!(config.upstream.drop_headers, ["x-user"]);
    let (config, _) = load_text("", &[("LEASEWAY_UPSTREAM__DROP_HEADERS", "x-a, x-b")]).expect("valid");
    assert_eq!(config.upstream.drop_headers, ["x-a", "x-b"]);
    let errors = load_text("[upstream]\ndrop_headers = [\"not a name\"]\n", &[]).expect_err("a space");
    assert!(errors[0].contains("drop_headers") && errors[0].contains("names of HTTP headers"), "{errors:?}");
}

#[test]
fn link_local_endpoints_must_be_asked_for() {
    let text = "[[endpoints]]\nname = \"a\"\nbase_url = \"http://169.254.169.254\"\n";
    let errors = load_text(text, &[]).expect_err("refused");
    let start = "FILE:3: endpoints.base_url = \"http://169.254.169.254\" is link-local";
    assert!(errors[0].starts_with(start) && errors[0].contains("server.allow_link_local_endpoints"), "{errors:?}");
    assert!(load_text(text, &[("LEASEWAY_SERVER__ALLOW_LINK_LOCAL_ENDPOINTS", "true")]).is_ok());
}

#[test]
fn a_body_of_the_allowed_length_fits_into_the_room_for_bodies() {
    let small = "[server]\nworkers = 1\nmax_buffered_bytes = 35791393\n";
    let errors = load_text(small, &[]).expect_err("a body of the default length never fits");
    let start = "FILE:3: server.max_body_bytes = 33554432 is more than fifteen sixteenths of server.max_buffered_bytes";
    assert!(errors[0].starts_with(start), "{errors:?}");
    assert!(load_text("[server]\nmax_buffered_bytes = 35791395\n", &[]).is_ok());
    assert!(load_text(small, &[("LEASEWAY_SERVER__MAX_BODY_BYTES", "1000")]).is_ok());
    let errors = load_text("", &[("LEASEWAY_SERVER__MAX_BODY_BYTES", "300000000")]).expect_err("too long");
    assert!(errors[0].starts_with("LEASEWAY_SERVER__MAX_BODY_BYTES: server.max_body_bytes = "), "{errors:?}");
}

#[test]
fn a_certificate_and_its_key_are_given_together() {
    let (config, _) = load_text("[tls]\n", &[]).expect("valid");
    assert_eq!(config.tls, None);
    let both = "[tls]\ncert_file = \"a.pem\"\nkey_file = \"a.key\"\n";
    let (config, _) = load_text(both, &[("LEASEWAY_TLS__KEY_FILE", "b.key")]).expect("valid");
    assert_eq!(config.tls, Some(TlsConfig { cert_file: "a.pem".into(), key_file: "b.key".into() }));
    let errors = load_text("[tls]\ncert_file = \"a.pem\"\n", &[]).expect_err("no key");
    assert_eq!(errors, ["FILE:2: tls.cert_file is set, but tls.key_file is missing; HTTPS needs both"]);
    let errors = load_text("", &[("LEASEWAY_TLS__KEY_FILE", "a.key")]).expect_err("no certificate");
    assert!(errors[0].starts_with("LEASEWAY_TLS__KEY_FILE: tls.key_file is set, but tls.cert_file"), "{errors:?}");
    let errors = load_text("[tls]\ncert_file = \"\"\n", &[("LEASEWAY_TLS__KEY_FILE", "a.key")]).expect_err("empty");
    assert!(errors[0].starts_with("FILE:2: tls.cert_file = \"\" is not allowed"), "{errors:?}");
}

#[test]
fn mistakes_come_in_the_order_of_the_file_and_blocks_with_mistakes_are_compared_too() {
    let text = "[tps]\nema_alpha = 7\n[[endpoints]]\nname = \"a\"\nmax_concurrency = 0\nbase_url = \"http://x\"\n\
                [[endpoints]]\nname = \"a\"\nmodels = [\"m\", \"\"]\nbase_url = \"http://x/v1\"\n\
                [queue]\ntimeout_secs = -1\nmax_waiting = -1\n[server]\nbind = \"0.0.0.0:1\"\n";
    let environment = [("LEASEWAY_QUEUES__MAX_WAITING", "1"), ("LEASEWAY_TPS__EMA_ALPHA", "2")];
    let errors = load_text(text, &environment).expect_err("mistakes");
    let expected = [
        "FILE:2: tps.ema_alpha",
        "FILE:5: endpoints.max_concurrency",
        "FILE:7: endpoint name \"a\" is used at FILE:3 already",
        "FILE:7: endpoint base_url \"http://x/v1\" is used at FILE:3 already",
        "FILE:9: endpoints.models contains \"\", which is not allowed; allowed is a list of texts, none of them empty",
        "FILE:12: queue.timeout_secs",
        "FILE:13: queue.max_waiting",
        "FILE:15: server.bind",
        "LEASEWAY_QUEUES__MAX_WAITING: unknown section `queues`; allowed are server, tls, database, balancer,",
        "LEASEWAY_TPS__EMA_ALPHA: ",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(expected) {
        assert!(error.starts_with(start), "{error} does not start with {start}");
    }
}

#[test]
fn the_wrong_element_of_a_list_is_named() {
    let text = "[server]\ncors_origins = [\"http://a\", \"http://b/\"]\nallowed_hosts = [7]\n";
    let errors = load_text(text, &[("LEASEWAY_UPSTREAM__DROP_HEADERS", "x-a, b c")]).expect_err("mistakes");
    assert!(errors[0].contains("server.cors_origins contains \"http://b/\", which is not allowed"), "{errors:?}");
    assert!(errors[1].contains("server.allowed_hosts contains 7, which is not allowed"), "{errors:?}");
    assert!(errors[2].contains("upstream.drop_headers contains \"b c\", which is not allowed"), "{errors:?}");
}

#[test]
fn the_password_of_an_address_is_not_shown() {
    for address in ["http://me:pass@x", "http//me:pass@x", "http://me:pass@169.254.169.254", "http://me:pa@ss@x"] {
        let text = format!("[[endpoints]]\nname = \"a\"\nbase_url = \"{address}\"\n");
        let all = load_text(&text, &[]).expect_err("a mistake").join("\n");
        assert!(all.contains("//***@") && !all.contains("pa"), "{all}");
    }
    let list = "[[endpoints]]\nname = \"a\"\nbase_url = [\"http://me:pass@x\"]\napi_key = [\"pass\"]\n";
    let all = load_text(list, &[]).expect_err("mistakes").join("\n");
    assert!(all.contains("endpoints.api_key is not allowed") && !all.contains("pass"), "{all}");
}

#[test]
fn a_variable_that_is_no_text_is_named() {
    let errors = load_text("", &[("LEASEWAY_DATABASE__URL", "sqlite://a\u{fffd}.db")]).expect_err("not UTF-8");
    assert_eq!(errors, ["LEASEWAY_DATABASE__URL: the value is not UTF-8"]);
}

#[test]
fn keys_are_read_from_the_file_and_the_environment() {
    let hash = KeyHash::of(b"a-secret-of-an-operator").to_hex();
    let text = format!(
        "[[keys]]\nname = \"a\"\nkey_env = \"A\"\n\n[[keys]]\nname = \"b\"\nkey_sha256 = \"{hash}\"\n\
         scopes = [\"read\", \"report\"]\nmodels = [\"m*\"]\nexpires_at = 2027-01-31T12:00:00+01:00\n\
         enabled = false\ntrusts_client_header = true\n"
    );
    let environment = [("A", "the-secret-of-a-client"), ("LEASEWAY_ADMIN_KEY", "the-secret-of-the-admin")];
    let (config, warnings) = load_text(&text, &environment).expect("valid");
    assert!(warnings.is_empty(), "{warnings:?}");
    let [a, b, admin] = &config.keys[..] else { panic!("{:?}", config.keys) };
    assert_eq!(
        (a.definition.clone(), a.source, a.prefix.as_str()),
        (KeyDefinition::new("a"), KeySource::File, "the-secr")
    );
    assert_eq!(a.hash, KeyHash::of(b"the-secret-of-a-client"));
    let expected = KeyDefinition {
        scopes: [Scope::Read, Scope::Report].into(),
        models: vec!["m*".to_owned()],
        expires_at: DateTime::from_timestamp(1_801_393_200, 0),
        enabled: false,
        trusts_client_header: true,
        ..KeyDefinition::new("b")
    };
    assert_eq!((b.definition.clone(), b.hash.to_hex(), b.prefix.as_str()), (expected, hash, ""));
    assert_eq!((admin.source, admin.definition.scopes.clone()), (KeySource::Env, [Scope::Admin].into()));
    assert!(!format!("{config:?}").contains("secret-of"), "no key in a debug line");
}

#[test]
fn mistakes_in_keys_are_named_without_the_key() {
    let text = "[[keys]]\nname = \" a\"\nkey_env = \"SHORT\"\n\n[[keys]]\nkey_sha256 = \"abc\"\n\n\
        [[keys]]\nname = \"c\"\n\n[[keys]]\nname = \"c\"\nkey_env = \"NONE\"\nscopes = [\"all\"]\n\
        expires_at = \"soon\"\nrate = 1\n";
    let errors = load_text(text, &[("SHORT", "short"), ("LEASEWAY_ADMIN_KEY", "also short")]).expect_err("refused");
    let all = errors.join("\n");
    for part in [
        "FILE:2: keys.name = \" a\" is not allowed; allowed is 1 to 128 bytes",
        "FILE:1: keys.key_env names `SHORT`, whose value is not allowed; allowed is 16 to 256 visible ASCII characters",
        "FILE:6: keys.key_sha256 = \"abc\" is not allowed; allowed is the SHA-256",
        "FILE:5: keys.name is missing",
        "FILE:8: give one of keys.key_env and keys.key_sha256",
        "FILE:11: key name \"c\" is used at FILE:8 already",
        "FILE:11: keys.key_env names `NONE`, which is not set",
        "FILE:14: keys.scopes contains \"all\", which is not allowed; allowed is a list of scopes",
        "FILE:15: keys.expires_at = \"soon\" is not allowed; allowed is a point in time",
        "FILE:16: unknown key `keys.rate`; allowed are name, key_env",
        "LEASEWAY_ADMIN_KEY: the value is not allowed; allowed is 16 to 256 visible ASCII characters",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    assert!(!all.contains("also short"), "{all}");
}
