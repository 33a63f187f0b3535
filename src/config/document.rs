//! Reads the settings of each source, checks each value against its key's rule and collects every mistake.

mod given_endpoints;
mod given_keys;

use std::net::SocketAddr;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

pub use self::given_keys::ADMIN_KEY;
use super::ConfigError;
use super::keys::{Key, MODES, SECTIONS, section};
use crate::domain::endpoint::EndpointDefinition;
use crate::domain::keys::GivenKey;

const PREFIX: &str = "LEASEWAY_";

/// The settings read so far and the mistakes found in them.
#[derive(Default)]
pub struct Settings {
    table: Table,
    endpoints: Vec<EndpointDefinition>,
    keys: Vec<GivenKey>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
    /// The place that set `server.bind` last.
    bind_place: String,
    /// The place that set the length of a body or the room for bodies last.
    room_place: String,
    /// The place that set a key of `tls` last.
    tls_place: String,
    /// Place and address of each endpoint at a link-local address.
    link_local: Vec<(String, String)>,
}

/// Settings without mistakes.
pub struct Finished {
    /// The sections.
    pub table: Table,
    /// The blocks `[[endpoints]]`.
    pub endpoints: Vec<EndpointDefinition>,
    /// The blocks `[[keys]]` and the key of the environment.
    pub keys: Vec<GivenKey>,
    /// What is wrong with the address to listen on if there is no key in the database either.
    pub open_access: Option<ConfigError>,
    /// Warnings for the log.
    pub warnings: Vec<String>,
}

/// A text that is being read. It turns a position into `file:line`.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
    environment: &'a [(String, String)],
}

impl Source<'_> {
    fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or(self.text);
        format!("{}:{}", self.name, before.matches('\n').count() + 1)
    }
}

impl Settings {
    /// Adds a mistake.
    pub fn fail(&mut self, place: String, message: String) {
        self.errors.push(ConfigError { place, message });
    }

    /// Returns the settings, the endpoints, the keys and the warnings.
    ///
    /// # Errors
    /// Every mistake found: first those of the file in its order, then those of the environment.
    pub fn finish(mut self) -> Result<Finished, Vec<ConfigError>> {
        let open_access = self.open_access();
        if !self.errors.is_empty() {
            self.errors.extend(open_access.filter(|_| self.keys.is_empty()));
            let line = |place: &str| place.rsplit_once(':').and_then(|(_, line)| line.parse::<usize>().ok());
            self.errors.sort_by_key(|error| line(&error.place).unwrap_or(usize::MAX));
            return Err(self.errors);
        }
        let Self { table, endpoints, keys, warnings, .. } = self;
        Ok(Finished { table, endpoints, keys, open_access, warnings })
    }

    /// Reads a TOML text. Its values replace the values read before. Mistakes name the text's file as `name`.
    pub fn read_text(&mut self, name: &str, text: &str, environment: &[(String, String)]) {
        let source = Source { name, text, environment };
        let (document, syntax_errors) = DeTable::parse_recoverable(text);
        for error in &syntax_errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.fail(source.place(offset), error.message().to_owned());
        }
        if !syntax_errors.is_empty() {
            return;
        }
        for (name, value) in document.get_ref() {
            match (name.get_ref().as_ref(), value.get_ref()) {
                ("endpoints", DeValue::Array(blocks)) => self.read_endpoints(&source, blocks),
                ("keys", DeValue::Array(blocks)) => self.read_keys(&source, blocks),
                (section_name, DeValue::Table(values)) if section(section_name).is_some() => {
                    self.read_section(&source, section_name, values);
                }
                (list @ ("endpoints" | "keys"), _) => {
                    self.fail(source.place(name.span().start), format!("write [[{list}]]"));
                }
                (section_name, _) if section(section_name).is_some() => {
                    self.fail(source.place(name.span().start), format!("write [{section_name}]"));
                }
                (other, _) => {
                    let message = format!("{}, [[endpoints]] and [[keys]]", unknown_section(other));
                    self.fail(source.place(name.span().start), message);
                }
            }
        }
    }

    /// Reads the variables `LEASEWAY_SECTION__KEY`, and `LOAD_BALANCER_MODE`.
    pub fn read_environment(&mut self, environment: &[(String, String)]) {
        if let Some((_, mode)) = environment.iter().find(|(name, _)| name == "LOAD_BALANCER_MODE") {
            self.read_old_mode(mode);
        }
        for (name, text) in environment {
            let Some(path) = name.strip_prefix(PREFIX).filter(|_| name != ADMIN_KEY) else { continue };
            let Some((section_name, key_name)) = path.split_once("__") else {
                self.warn_of_variable(name);
                continue;
            };
            let (section_name, key_name) = (section_name.to_ascii_lowercase(), key_name.to_ascii_lowercase());
            match section(&section_name) {
                None => self.fail(name.clone(), unknown_section(&section_name)),
                // `environment` puts this letter in the place of what is not UTF-8.
                Some(_) if text.contains(char::REPLACEMENT_CHARACTER) => {
                    self.fail(name.clone(), "the value is not UTF-8".to_owned());
                }
                Some(keys) => match find(keys, &key_name) {
                    None => self.fail(name.clone(), unknown_key(&section_name, &key_name, keys)),
                    Some(key) => {
                        self.accept(name.clone(), &section_name, key, key.rule.parse(text));
                    }
                },
            }
        }
    }

    /// Warns of a variable whose name begins as Leaseway's do but names no key.
    fn warn_of_variable(&mut self, name: &str) {
        self.warnings
            .push(format!("{name} is ignored; Leaseway's variables are LEASEWAY_SECTION__KEY, with two underscores"));
    }

    /// Reads `LOAD_BALANCER_MODE`, whose only value with a meaning is `metrics`.
    fn read_old_mode(&mut self, mode: &str) {
        if mode != "metrics" {
            let allowed = MODES.join(", ");
            let warning = format!(
                "LOAD_BALANCER_MODE=\"{mode}\" is not \"metrics\" and is ignored; balancer.mode takes {allowed}"
            );
            self.warnings.push(warning);
            return;
        }
        let key = section("balancer").and_then(|keys| find(keys, "mode")).expect("balancer.mode is a key");
        self.accept("LOAD_BALANCER_MODE".to_owned(), "balancer", key, Value::String(mode.to_owned()));
    }

    /// Returns what is wrong with listening where other machines can reach the server, unless there is a key here or in the
    /// database; `None` if `server.insecure_open_access` is set.
    fn open_access(&self) -> Option<ConfigError> {
        let server = self.table.get("server")?;
        let bind = server.get("bind")?.as_str()?.parse::<SocketAddr>().ok()?;
        let is_allowed = server.get("insecure_open_access")?.as_bool() == Some(true);
        if bind.ip().is_loopback() || is_allowed {
            return None;
        }
        let message = format!(
            "server.bind = {bind} can be reached from other machines, and Leaseway would let everybody in; make a key \
             ([[keys]], {ADMIN_KEY} or `leaseway keys add`), bind to a loopback address, or set \
             server.insecure_open_access = true"
        );
        Some(ConfigError { place: self.bind_place.clone(), message })
    }

    /// Refuses a room for bodies into which a body of the allowed length never fits.
    pub fn refuse_little_room(&mut self) {
        let bytes = |key| self.table.get("server").and_then(|server| server.get(key)?.as_integer());
        let (Some(body), Some(room)) = (bytes("max_body_bytes"), bytes("max_buffered_bytes")) else { return };
        // A sixteenth is kept for small bodies.
        if body <= room - room / 16 {
            return;
        }
        let message = format!(
            "server.max_body_bytes = {body} is more than fifteen sixteenths of server.max_buffered_bytes = {room}; \
             a request of that length would be refused for ever"
        );
        self.fail(self.room_place.clone(), message);
    }

    /// Refuses a certificate without a key, and a key without a certificate.
    pub fn refuse_half_a_pair(&mut self) {
        let is_set = |key| self.table.get("tls").is_some_and(|tls| tls.get(key).is_some());
        let (given, missing) = match (is_set("cert_file"), is_set("key_file")) {
            (true, false) => ("cert_file", "key_file"),
            (false, true) => ("key_file", "cert_file"),
            (true, true) | (false, false) => return,
        };
        self.fail(
            self.tls_place.clone(),
            format!("tls.{given} is set, but tls.{missing} is missing; HTTPS needs both"),
        );
    }

    /// Refuses endpoints at link-local addresses, unless `server.allow_link_local_endpoints` is set.
    pub fn refuse_link_local_endpoints(&mut self) {
        let server = self.table.get("server");
        if server.and_then(|server| server.get("allow_link_local_endpoints")?.as_bool()) == Some(true) {
            return;
        }
        for (place, base_url) in std::mem::take(&mut self.link_local) {
            let message = format!(
                "endpoints.base_url = \"{}\" is link-local, where clouds offer the secrets of a machine; \
                 use another address, or set server.allow_link_local_endpoints = true",
                masked(&base_url)
            );
            self.fail(place, message);
        }
    }

    fn read_section(&mut self, source: &Source<'_>, section_name: &str, values: &DeTable<'_>) {
        let keys = section(section_name).unwrap_or_default();
        for (key_name, value) in values {
            let place = source.place(key_name.span().start);
            match find(keys, key_name.get_ref()) {
                None => self.fail(place, unknown_key(section_name, key_name.get_ref(), keys)),
                Some(key) => self.accept(place, section_name, key, to_value(value.get_ref())),
            }
        }
    }

    /// Takes up a value that its key allows, or adds a mistake.
    fn accept(&mut self, place: String, section_name: &str, key: &Key, value: Value) {
        let path = format!("{section_name}.{}", key.name);
        if !key.rule.allows(&value) {
            return self.fail(place, not_allowed(&path, &value, key));
        }
        match path.as_str() {
            "server.bind" => self.bind_place.clone_from(&place),
            "server.max_body_bytes" | "server.max_buffered_bytes" => self.room_place.clone_from(&place),
            "tls.cert_file" | "tls.key_file" => self.tls_place.clone_from(&place),
            _ => {}
        }
        let section = self.table.entry(section_name).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(key.name.to_owned(), value);
        }
    }
}

fn find<'a>(keys: &'a [Key], name: &str) -> Option<&'a Key> {
    keys.iter().find(|key| key.name == name)
}

fn unknown_section(name: &str) -> String {
    let allowed: Vec<&str> = SECTIONS.iter().map(|(section, _)| *section).collect();
    format!("unknown section `{name}`; allowed are {}", allowed.join(", "))
}

fn unknown_key(section: &str, name: &str, keys: &[Key]) -> String {
    let allowed: Vec<&str> = keys.iter().map(|key| key.name).collect();
    format!("unknown key `{section}.{name}`; allowed are {}", allowed.join(", "))
}

fn not_allowed(path: &str, value: &Value, key: &Key) -> String {
    let allowed = format!("not allowed; allowed is {}", key.rule);
    if let Some(wrong) = key.rule.wrong_element(value) {
        return format!("{path} contains {wrong}, which is {allowed}");
    }
    match key.name {
        "api_key" => format!("{path} is {allowed}"),
        "base_url" => format!("{path} = {} is {allowed}", masked(&value.to_string())),
        _ => format!("{path} = {value} is {allowed}"),
    }
}

/// Hides user name and password of an address.
fn masked(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, host)) => format!("{}***@{host}", &before[..before.find("//").map_or(0, |at| at + 2)]),
        None => url.to_owned(),
    }
}

fn to_value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.clone().into_owned()),
        DeValue::Integer(whole) => {
            let parsed = i64::from_str_radix(whole.as_str(), whole.radix());
            parsed.map_or_else(|_| Value::String(whole.as_str().to_owned()), Value::Integer)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse();
            parsed.map_or_else(|_| Value::String(number.as_str().to_owned()), Value::Float)
        }
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(time) => Value::Datetime(*time),
        DeValue::Array(values) => Value::Array(values.iter().map(|value| to_value(value.get_ref())).collect()),
        DeValue::Table(values) => {
            let entries = values.iter().map(|(key, value)| (key.get_ref().to_string(), to_value(value.get_ref())));
            Value::Table(entries.collect())
        }
    }
}
