//! Reads the blocks `[[endpoints]]`.

use std::collections::HashMap;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::{Settings, Source, find, not_allowed, to_value, unknown_key};
use crate::config::keys::ENDPOINT;
use crate::domain::endpoint::{
    EndpointDefinition, EndpointKind, check_api_key, check_base_url, is_link_local, root_url,
};

impl Settings {
    pub(super) fn read_endpoints(&mut self, source: &Source<'_>, blocks: &[Spanned<DeValue<'_>>]) {
        let mut names = HashMap::new();
        let mut roots = HashMap::new();
        for block in blocks {
            let place = source.place(block.span().start);
            let DeValue::Table(values) = block.get_ref() else {
                self.fail(place, "write [[endpoints]]".to_owned());
                continue;
            };
            let errors_before = self.errors.len();
            let given = self.read_endpoint(source, &place, values);
            let api_key = self.read_api_key(source, &place, &given);
            let text = |key| given.get(key).and_then(Value::as_str);
            if let Some(name) = text("name")
                && let Some(first) = names.insert(name.to_owned(), place.clone())
            {
                self.fail(place.clone(), format!("endpoint name \"{name}\" is used at {first} already"));
            }
            if let Some(base_url) = text("base_url").and_then(|url| check_base_url(url).ok())
                && let Some(first) = roots.insert(root_url(&base_url), place.clone())
            {
                self.fail(place, format!("endpoint base_url \"{base_url}\" is used at {first} already"));
            }
            if self.errors.len() == errors_before {
                self.endpoints.push(definition(&given, api_key));
            }
        }
    }

    /// Reads the values of one block `[[endpoints]]`, those that are not allowed included, and adds its mistakes.
    fn read_endpoint(&mut self, source: &Source<'_>, block: &str, values: &DeTable<'_>) -> Table {
        let mut given = Table::new();
        for (key_name, value) in values {
            let place = source.place(key_name.span().start);
            let Some(key) = find(ENDPOINT, key_name.get_ref()) else {
                self.fail(place, unknown_key("endpoints", key_name.get_ref(), ENDPOINT));
                continue;
            };
            let value = to_value(value.get_ref());
            if !key.rule.allows(&value) {
                self.fail(place.clone(), not_allowed(&format!("endpoints.{}", key.name), &value, key));
            }
            if let Some(base_url) = value.as_str().filter(|url| key.name == "base_url" && is_link_local(url)) {
                self.link_local.push((place, base_url.to_owned()));
            }
            given.insert(key.name.to_owned(), value);
        }
        for required in ["name", "base_url"] {
            if !given.contains_key(required) {
                self.fail(block.to_owned(), format!("endpoints.{required} is missing"));
            }
        }
        given
    }

    fn read_api_key(&mut self, source: &Source<'_>, block: &str, given: &Table) -> Option<String> {
        let text = |key| given.get(key).and_then(Value::as_str);
        match (text("api_key"), text("api_key_env")) {
            (Some(_), Some(_)) => {
                self.fail(block.to_owned(), "give endpoints.api_key or endpoints.api_key_env, not both".to_owned());
                None
            }
            (Some(api_key), None) => Some(api_key.to_owned()),
            (None, Some(variable)) => {
                let found = source.environment.iter().find(|(name, _)| name == variable).map(|(_, value)| value);
                match found.map(|value| check_api_key(value)) {
                    Some(Ok(())) => {}
                    Some(Err(allowed)) => {
                        let message = format!(
                            "endpoints.api_key_env names `{variable}`, whose value is not allowed; allowed is {allowed}"
                        );
                        self.fail(block.to_owned(), message);
                    }
                    None => {
                        let message = format!("endpoints.api_key_env names `{variable}`, which is not set");
                        self.fail(block.to_owned(), message);
                    }
                }
                found.cloned()
            }
            (None, None) => None,
        }
    }
}

fn definition(given: &Table, api_key: Option<String>) -> EndpointDefinition {
    let text = |key| given.get(key).and_then(Value::as_str).unwrap_or_default();
    let whole = |key| given.get(key).and_then(Value::as_integer).and_then(|whole| u32::try_from(whole).ok());
    let models = given.get("models").and_then(Value::as_array).into_iter().flatten();
    EndpointDefinition {
        name: text("name").to_owned(),
        base_url: check_base_url(text("base_url")).expect("checked by the key's rule"),
        kind: EndpointKind::from_name(text("kind")),
        max_concurrency: whole("max_concurrency"),
        capability_score: whole("capability_score"),
        api_key,
        allowed_models: models.filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}
