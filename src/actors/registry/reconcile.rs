//! How the endpoints of the config file meet those of the database.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::endpoint::{EndpointDefinition, EndpointSource};
use crate::domain::history::Counters;
use crate::domain::ids::EndpointId;
use crate::store::endpoints::{Observation, StoredEndpoint};

/// The endpoints to go on with, and what has to change in the database for it.
pub struct Reconciled {
    pub endpoints: Vec<StoredEndpoint>,
    pub saved: Vec<StoredEndpoint>,
    pub removed: Vec<EndpointId>,
    /// Names of those made over the API that are the file's now, or had to make room for one of the file's.
    pub taken_over: Vec<String>,
}

impl Reconciled {
    /// Tells the operator of those made over the API that are so no more.
    pub fn warn_of_taken_over(&self) {
        for name in &self.taken_over {
            log::warn!("endpoint made over the API is taken over by the config file endpoint={name}");
        }
    }
}

/// Applies the file's endpoints to the stored ones.
///
/// The file's are matched by name, else by address, and keep their history; one made over the API is then the file's.
/// Those that came from the file and are in it no longer are removed; those made over the API stay. `new_id` makes ids
/// for new ones.
pub fn reconcile(
    stored: Vec<StoredEndpoint>,
    file: Vec<EndpointDefinition>,
    now: DateTime<Utc>,
    mut new_id: impl FnMut() -> Uuid,
) -> Reconciled {
    let mut left = stored;
    let names: HashSet<String> = file.iter().map(|definition| definition.name.clone()).collect();
    let mut reconciled =
        Reconciled { endpoints: Vec::new(), saved: Vec::new(), removed: Vec::new(), taken_over: Vec::new() };
    for definition in file {
        let root_url = definition.root_url();
        let by_name = left.iter().position(|stored| stored.definition.name == definition.name);
        // An endpoint that the file has under its own name is not taken over by another because of its address.
        let same_address = |stored: &StoredEndpoint| {
            stored.definition.root_url() == root_url && !names.contains(&stored.definition.name)
        };
        let matched = by_name.or_else(|| left.iter().position(same_address));
        let endpoint = match matched.map(|at| left.remove(at)) {
            Some(known) if known.source == EndpointSource::File && is_same(&known.definition, &definition) => {
                StoredEndpoint { definition, ..known }
            }
            known => {
                let made_by_api = known.as_ref().filter(|known| known.source == EndpointSource::Api);
                reconciled.taken_over.extend(made_by_api.map(|known| known.definition.name.clone()));
                let endpoint = adopt(known, definition, now, &mut new_id);
                reconciled.saved.push(endpoint.clone());
                endpoint
            }
        };
        reconciled.endpoints.push(endpoint);
    }
    for stored in left {
        let taken = |other: &StoredEndpoint| other.definition.root_url() == stored.definition.root_url();
        if stored.source == EndpointSource::File || reconciled.endpoints.iter().any(taken) {
            let made_by_api = stored.source == EndpointSource::Api;
            reconciled.taken_over.extend(made_by_api.then(|| stored.definition.name.clone()));
            reconciled.removed.push(stored.id);
        } else {
            reconciled.endpoints.push(stored);
        }
    }
    reconciled
}

/// Tells whether the database would have the same definition; it has no keys of the file's endpoints.
fn is_same(known: &EndpointDefinition, definition: &EndpointDefinition) -> bool {
    let keyless = |definition: &EndpointDefinition| EndpointDefinition { api_key: None, ..definition.clone() };
    keyless(known) == keyless(definition)
}

fn adopt(
    known: Option<StoredEndpoint>,
    definition: EndpointDefinition,
    now: DateTime<Utc>,
    new_id: &mut impl FnMut() -> Uuid,
) -> StoredEndpoint {
    match known {
        Some(known) => StoredEndpoint { definition, source: EndpointSource::File, ..known },
        None => StoredEndpoint {
            id: EndpointId(new_id()),
            definition,
            source: EndpointSource::File,
            registered_at: now,
            observation: Observation::default(),
            counters: Counters::default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: u128, name: &str, base_url: &str, source: EndpointSource) -> StoredEndpoint {
        let endpoint =
            adopt(None, EndpointDefinition::new(name, base_url), DateTime::default(), &mut || Uuid::from_u128(id));
        StoredEndpoint { source, ..endpoint }
    }

    /// Shows what is left as `id name source`, then the ids saved and removed.
    fn check(stored: Vec<StoredEndpoint>, file: &[(&str, &str)], expected: &str) {
        let file = file.iter().map(|(name, base_url)| EndpointDefinition::new(*name, *base_url)).collect();
        let done = reconcile(stored, file, DateTime::default(), || Uuid::from_u128(99));
        let id = |id: &EndpointId| id.0.as_u128().to_string();
        let show = |endpoint: &StoredEndpoint| {
            format!("{} {} {:?}", id(&endpoint.id), endpoint.definition.name, endpoint.source)
        };
        let endpoints: Vec<String> = done.endpoints.iter().map(show).collect();
        let saved: Vec<String> = done.saved.iter().map(|endpoint| id(&endpoint.id)).collect();
        let removed: Vec<String> = done.removed.iter().map(id).collect();
        let taken_over = done.taken_over.join(" ");
        let shown = format!("{} | saved {} | removed {}", endpoints.join(", "), saved.join(" "), removed.join(" "));
        let shown = if taken_over.is_empty() { shown } else { format!("{shown} | taken over {taken_over}") };
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_file_adds_changes_and_removes_its_own() {
        use EndpointSource::{Api, File};
        let known = || vec![stored(1, "a", "http://a", File), stored(2, "b", "http://b", Api)];
        check(known(), &[("a", "http://a")], "1 a File, 2 b Api | saved  | removed ");
        check(known(), &[("a", "http://new")], "1 a File, 2 b Api | saved 1 | removed ");
        check(known(), &[("c", "http://c")], "99 c File, 2 b Api | saved 99 | removed 1");
        check(known(), &[], "2 b Api | saved  | removed 1");
        check(known(), &[("b", "http://b")], "2 b File | saved 2 | removed 1 | taken over b");
        check(known(), &[("renamed", "http://a/v1")], "1 renamed File, 2 b Api | saved 1 | removed ");
    }

    #[test]
    fn names_that_swap_their_addresses_keep_their_history() {
        use EndpointSource::File;
        let known = vec![stored(1, "a", "http://a", File), stored(2, "b", "http://b", File)];
        check(known, &[("a", "http://b"), ("b", "http://a")], "1 a File, 2 b File | saved 1 2 | removed ");
    }
}
