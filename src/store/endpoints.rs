//! The table `endpoints`: the definition of each endpoint, what probes observed, and its counters.

use chrono::DateTime;
use diesel::prelude::*;
use uuid::Uuid;

use super::schema::endpoints;
use super::{Connection, Store, StoreError};
use crate::domain::endpoint::{EndpointDefinition, EndpointKind, EndpointSource};
use crate::domain::history::Counters;
use crate::domain::ids::EndpointId;
use crate::domain::stored_endpoint::{Observation, StoredEndpoint};

#[derive(Queryable, Selectable)]
#[diesel(table_name = endpoints)]
struct EndpointRow {
    id: String,
    name: String,
    base_url: String,
    kind: Option<String>,
    source: String,
    max_concurrency: i32,
    max_concurrency_given: bool,
    capability_score: Option<i32>,
    api_key: Option<String>,
    allowed_models: String,
    registered_at: i64,
    detected_kind: Option<String>,
    models: String,
    latency_ms: Option<f64>,
    last_seen: Option<i64>,
    total_requests: i64,
    successful_requests: i64,
    failed_requests: i64,
}

#[derive(Insertable, AsChangeset)]
#[diesel(table_name = endpoints)]
#[diesel(treat_none_as_null = true)]
struct DefinitionRow<'a> {
    id: String,
    name: &'a str,
    base_url: &'a str,
    kind: Option<&'a str>,
    source: &'a str,
    max_concurrency: i32,
    max_concurrency_given: bool,
    capability_score: Option<i32>,
    api_key: Option<&'a str>,
    allowed_models: String,
    registered_at: i64,
}

#[derive(AsChangeset)]
#[diesel(table_name = endpoints)]
#[diesel(treat_none_as_null = true)]
struct ObservationRow<'a> {
    detected_kind: Option<&'a str>,
    models: String,
    latency_ms: Option<f64>,
    last_seen: Option<i64>,
}

impl Store {
    /// Reads every endpoint, oldest first. An endpoint whose row cannot be read is left out with a warning.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_endpoints(&mut self) -> Result<Vec<StoredEndpoint>, StoreError> {
        let rows = endpoints::table
            .order((endpoints::registered_at, endpoints::id))
            .select(EndpointRow::as_select())
            .load(&mut *self.connection()?)?;
        let stored = rows.into_iter().filter_map(|row| match row.into_stored() {
            Ok(stored) => Some(stored),
            Err(error) => {
                log::warn!("endpoint not restored error=\"{error}\"");
                None
            }
        });
        Ok(stored.collect())
    }

    /// Writes the definitions of `saved` and removes the endpoints `removed`, in one transaction. A definition replaces
    /// the one with the same id; the observation and the counters stay. Unknown ids in `removed` are ignored.
    ///
    /// # Errors
    /// If the database fails; then nothing is changed.
    pub fn save_endpoints(&mut self, saved: &[StoredEndpoint], removed: &[EndpointId]) -> Result<(), StoreError> {
        if saved.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let removed: Vec<String> = removed.iter().map(EndpointId::to_string).collect();
        self.write(|connection| {
            diesel::delete(endpoints::table.filter(endpoints::id.eq_any(removed))).execute(connection)?;
            for endpoint in saved {
                let row = DefinitionRow::from(endpoint);
                diesel::insert_into(endpoints::table)
                    .values(&row)
                    .on_conflict(endpoints::id)
                    .do_update()
                    .set(&row)
                    .execute(connection)?;
            }
            Ok(())
        })
    }

    /// Writes what probes observed of endpoints, in one transaction. Endpoints that were removed meanwhile are left
    /// out.
    ///
    /// # Errors
    /// If the database fails; then nothing is changed.
    pub fn save_observations(&mut self, observed: &[(EndpointId, Observation)]) -> Result<(), StoreError> {
        self.write(|connection| {
            for (id, observation) in observed {
                let row = ObservationRow {
                    detected_kind: observation.kind.map(EndpointKind::as_str),
                    models: to_json(&observation.models),
                    latency_ms: observation.latency_ms,
                    last_seen: observation.last_seen.map(|time| time.timestamp_millis()),
                };
                diesel::update(endpoints::table.find(id.to_string())).set(&row).execute(connection)?;
            }
            Ok(())
        })
    }
}

/// Adds leases to the counters of endpoints. Endpoints that were removed meanwhile are left out.
pub(super) fn add_counters<'a>(
    connection: &mut Connection,
    deltas: impl IntoIterator<Item = (&'a EndpointId, &'a Counters)>,
) -> QueryResult<()> {
    for (id, delta) in deltas {
        diesel::update(endpoints::table.find(id.to_string()))
            .set((
                endpoints::total_requests.eq(endpoints::total_requests + delta.total),
                endpoints::successful_requests.eq(endpoints::successful_requests + delta.successful),
                endpoints::failed_requests.eq(endpoints::failed_requests + delta.failed),
            ))
            .execute(connection)?;
    }
    Ok(())
}

impl<'a> From<&'a StoredEndpoint> for DefinitionRow<'a> {
    fn from(endpoint: &'a StoredEndpoint) -> Self {
        let definition = &endpoint.definition;
        Self {
            id: endpoint.id.to_string(),
            name: &definition.name,
            base_url: &definition.base_url,
            kind: definition.kind.map(EndpointKind::as_str),
            source: match endpoint.source {
                EndpointSource::File => "file",
                EndpointSource::Api => "api",
            },
            max_concurrency: definition.max_concurrency.map_or(1, |slots| i32::try_from(slots).unwrap_or(i32::MAX)),
            max_concurrency_given: definition.max_concurrency.is_some(),
            capability_score: definition.capability_score.and_then(|score| i32::try_from(score).ok()),
            // Every start reads the key from the file or the environment; the database keeps no second copy of a
            // secret.
            api_key: match endpoint.source {
                EndpointSource::File => None,
                EndpointSource::Api => definition.api_key.as_deref(),
            },
            allowed_models: to_json(&definition.allowed_models),
            registered_at: endpoint.registered_at.timestamp_millis(),
        }
    }
}

impl EndpointRow {
    fn into_stored(self) -> Result<StoredEndpoint, String> {
        let wrong = |column: &str| format!("endpoint `{}` has a wrong `{column}`", self.name);
        let observation = Observation {
            kind: self.detected_kind.as_deref().and_then(EndpointKind::from_name),
            models: serde_json::from_str(&self.models).unwrap_or_else(|error| {
                log::warn!("models not restored endpoint={} error=\"{error}\"", self.name);
                Vec::new()
            }),
            latency_ms: self.latency_ms,
            last_seen: self.last_seen.and_then(DateTime::from_timestamp_millis),
        };
        Ok(StoredEndpoint {
            id: EndpointId(Uuid::parse_str(&self.id).map_err(|_| wrong("id"))?),
            source: match self.source.as_str() {
                "file" => EndpointSource::File,
                "api" => EndpointSource::Api,
                _ => return Err(wrong("source")),
            },
            registered_at: DateTime::from_timestamp_millis(self.registered_at).ok_or_else(|| wrong("registered_at"))?,
            observation,
            counters: Counters {
                total: self.total_requests,
                successful: self.successful_requests,
                failed: self.failed_requests,
            },
            definition: EndpointDefinition {
                kind: self.kind.as_deref().and_then(EndpointKind::from_name),
                max_concurrency: match self.max_concurrency_given {
                    true => Some(u32::try_from(self.max_concurrency).map_err(|_| wrong("max_concurrency"))?),
                    false => None,
                },
                capability_score: self.capability_score.and_then(|score| u32::try_from(score).ok()),
                allowed_models: serde_json::from_str(&self.allowed_models).map_err(|_| wrong("allowed_models"))?,
                name: self.name,
                base_url: self.base_url,
                api_key: self.api_key,
            },
        })
    }
}

fn to_json(list: &[String]) -> String {
    serde_json::to_string(list).expect("a list of texts is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> StoredEndpoint {
        StoredEndpoint {
            id: EndpointId(Uuid::new_v4()),
            definition: EndpointDefinition {
                name: name.to_owned(),
                base_url: format!("http://{name}:8080"),
                kind: Some(EndpointKind::Vllm),
                max_concurrency: Some(4),
                capability_score: Some(10),
                api_key: Some("secret".to_owned()),
                allowed_models: vec!["m".to_owned()],
            },
            source: EndpointSource::Api,
            registered_at: DateTime::from_timestamp_millis(1_700_000_000_123).expect("a time"),
            observation: Observation::default(),
            counters: Counters::default(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut store = Store::open("sqlite://:memory:").expect("a database in memory");
        let mut saved = endpoint("a");
        store.save_endpoints(&[saved.clone(), endpoint("b")], &[]).expect("saved");
        saved.observation = Observation {
            kind: Some(EndpointKind::Llamacpp),
            models: vec!["m".to_owned(), "n".to_owned()],
            latency_ms: Some(1.5),
            last_seen: DateTime::from_timestamp_millis(1_700_000_001_000),
        };
        store.save_observations(&[(saved.id, saved.observation.clone())]).expect("saved");
        let delta = Counters { total: 3, successful: 1, failed: 1 };
        let mut connection = store.connection().expect("a connection");
        add_counters(&mut connection, [(&saved.id, &delta), (&saved.id, &delta)]).expect("added");
        drop(connection);
        saved.definition.name = "c".to_owned();
        saved.definition.capability_score = None;
        saved.definition.max_concurrency = None;
        store.save_endpoints(std::slice::from_ref(&saved), &[]).expect("saved again");
        let loaded = store.load_endpoints().expect("loaded");
        let found = loaded.iter().find(|endpoint| endpoint.id == saved.id).expect("still there");
        assert!(found.definition == saved.definition);
        assert_eq!(found.observation, saved.observation);
        assert_eq!(found.counters, Counters { total: 6, successful: 2, failed: 2 });
        assert_eq!(found.registered_at, saved.registered_at);
        store.save_endpoints(&[], &[saved.id]).expect("removed");
        assert_eq!(store.load_endpoints().expect("loaded").len(), 1);
    }
    #[test]
    fn a_row_that_makes_no_sense_hides_no_other() {
        let mut store = Store::open("sqlite://:memory:").expect("a database in memory");
        let (good, odd, bad) = (endpoint("good"), endpoint("odd"), endpoint("bad"));
        store.save_endpoints(&[good, odd.clone(), bad.clone()], &[]).expect("saved");
        let mut connection = store.connection().expect("a connection");
        let broken = |id: EndpointId| diesel::update(endpoints::table.find(id.to_string()));
        broken(odd.id).set(endpoints::models.eq("not JSON")).execute(&mut connection).expect("updated");
        broken(bad.id).set(endpoints::max_concurrency.eq(-1)).execute(&mut connection).expect("updated");
        drop(connection);
        let mut names: Vec<String> =
            store.load_endpoints().expect("loaded").into_iter().map(|stored| stored.definition.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["good", "odd"]);
    }
}
