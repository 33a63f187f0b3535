//! Merges the endpoints of the config file with those of the database, at the start and when the file is read again.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::endpoint::{EndpointDefinition, EndpointSource};
use super::ids::EndpointId;
use super::stored_endpoint::StoredEndpoint;

/// The merged endpoints and the changes that the database needs.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// All endpoints after the merge: those of the file in its order, then those made over the API.
    pub endpoints: Vec<StoredEndpoint>,
    /// The endpoints whose definition the database lacks or has in another form.
    pub saved: Vec<StoredEndpoint>,
    /// The endpoints that are to be removed from the database.
    pub removed: Vec<EndpointId>,
    /// Names of endpoints made over the API that belong to the file now, or that were removed because the file has
    /// their address.
    pub taken_over: Vec<String>,
    /// Names of endpoints made over the API that were removed because an older one has their address.
    pub doubled: Vec<String>,
}

/// Applies the file's endpoints to the stored ones, in time proportional to their number.
///
/// An endpoint of the file keeps the id and the history of the stored endpoint with its name, else of one with its
/// address. If that one was made over the API, it belongs to the file from then on. Stored endpoints of the file that
/// the file no longer has are removed; those made over the API stay unless the file has their address. `new_id` makes
/// the ids of new endpoints.
pub fn reconcile(
    stored: Vec<StoredEndpoint>,
    file: Vec<EndpointDefinition>,
    now: DateTime<Utc>,
    mut new_id: impl FnMut() -> Uuid,
) -> Reconciled {
    let mut left = Left::new(stored, &file);
    let mut reconciled = Reconciled::default();
    let (mut roots, mut api_roots) = (HashSet::new(), HashSet::new());
    for definition in file {
        let root_url = definition.root_url();
        let endpoint = match left.take(&definition.name, &root_url) {
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
        roots.insert(root_url);
        reconciled.endpoints.push(endpoint);
    }
    for stored in left.endpoints.into_iter().flatten() {
        let (name, root_url) = (&stored.definition.name, stored.definition.root_url());
        match stored.source {
            EndpointSource::File => {}
            EndpointSource::Api if roots.contains(&root_url) => reconciled.taken_over.push(name.clone()),
            EndpointSource::Api if api_roots.insert(root_url) => {
                reconciled.endpoints.push(stored);
                continue;
            }
            EndpointSource::Api => reconciled.doubled.push(name.clone()),
        }
        reconciled.removed.push(stored.id);
    }
    reconciled
}

/// The stored endpoints that no endpoint of the file has matched so far.
struct Left {
    /// The stored endpoints in their order; `None` in the place of each that was matched.
    endpoints: Vec<Option<StoredEndpoint>>,
    by_name: HashMap<String, usize>,
    /// Places by address. Endpoints whose name the file has are left out, because they are matched by their name only.
    by_root: HashMap<String, Vec<usize>>,
}

impl Left {
    fn new(stored: Vec<StoredEndpoint>, file: &[EndpointDefinition]) -> Self {
        let names: HashSet<&str> = file.iter().map(|definition| definition.name.as_str()).collect();
        let (mut by_name, mut by_root) = (HashMap::new(), HashMap::<String, Vec<usize>>::new());
        for (place, endpoint) in stored.iter().enumerate() {
            let EndpointDefinition { name, .. } = &endpoint.definition;
            by_name.entry(name.clone()).or_insert(place);
            if !names.contains(name.as_str()) {
                by_root.entry(endpoint.definition.root_url()).or_default().push(place);
            }
        }
        Self { endpoints: stored.into_iter().map(Some).collect(), by_name, by_root }
    }

    /// Takes out the endpoint with this name, else the first with this address; `None` if there is neither.
    fn take(&mut self, name: &str, root_url: &str) -> Option<StoredEndpoint> {
        let places = self.by_name.get(name).into_iter().chain(self.by_root.get(root_url).into_iter().flatten());
        let place = places.copied().find(|place| self.endpoints[*place].is_some())?;
        self.endpoints[place].take()
    }
}

/// Tells whether two definitions are the same apart from the key, because the database has no keys of the file's
/// endpoints.
fn is_same(known: &EndpointDefinition, definition: &EndpointDefinition) -> bool {
    let keyless = |definition: &EndpointDefinition| EndpointDefinition { api_key: None, ..definition.clone() };
    keyless(known) == keyless(definition)
}

/// Returns the endpoint of the file with this definition: `known` with its history, or a new one.
fn adopt(
    known: Option<StoredEndpoint>,
    definition: EndpointDefinition,
    now: DateTime<Utc>,
    new_id: &mut impl FnMut() -> Uuid,
) -> StoredEndpoint {
    match known {
        Some(known) => StoredEndpoint { definition, source: EndpointSource::File, ..known },
        None => StoredEndpoint::new(EndpointId(new_id()), definition, EndpointSource::File, now),
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

    /// Checks the merged endpoints, shown as `id name source`, then the saved and the removed ids and the names taken
    /// over.
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
        let (taken_over, doubled) = (done.taken_over.join(" "), done.doubled.join(" "));
        let shown = format!("{} | saved {} | removed {}", endpoints.join(", "), saved.join(" "), removed.join(" "));
        let shown = if taken_over.is_empty() { shown } else { format!("{shown} | taken over {taken_over}") };
        let shown = if doubled.is_empty() { shown } else { format!("{shown} | doubled {doubled}") };
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

    #[test]
    fn an_address_that_several_have_is_that_of_the_first() {
        use EndpointSource::{Api, File};
        let known = || vec![stored(1, "a", "http://x", File), stored(2, "b", "http://x/v1", Api)];
        check(known(), &[("c", "http://x")], "1 c File | saved 1 | removed 2 | taken over b");
        check(known(), &[], "2 b Api | saved  | removed 1");
        check(known(), &[("b", "http://x")], "2 b File | saved 2 | removed 1 | taken over b");
        let made_by_api = vec![stored(1, "a", "http://x", Api), stored(2, "b", "http://x/v1", Api)];
        check(made_by_api, &[], "1 a Api | saved  | removed 2 | doubled b");
    }
}
