//! The models that clients can ask for now, as the model list shows them.
//!
//! A change takes time proportional to the number of the endpoint's models, whatever the number of other models. A copy
//! takes constant time, because the map is persistent: the copy shares all nodes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use super::ids::{EndpointId, ModelId};

/// The models of the online endpoints, each with the time (Unix seconds) at which the first endpoint that serves the
/// model was registered.
pub type ModelList = OrdMap<ModelId, i64>;

/// Keeps the model list while endpoints come, change and go.
#[derive(Debug, Default)]
pub struct Catalog {
    list: ModelList,
    /// The models and the registration of each online endpoint.
    served: HashMap<EndpointId, Server>,
    /// The endpoints that serve each model, the first registered first.
    servers: HashMap<ModelId, BTreeSet<(i64, EndpointId)>>,
}

/// The models that an online endpoint serves, and when the endpoint was registered.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// When the endpoint was registered, in Unix seconds; the same for the endpoint's whole life.
    pub registered_at: i64,
    /// The models that the endpoint serves.
    pub models: Arc<BTreeSet<ModelId>>,
}

impl Catalog {
    /// Sets what an endpoint serves now; `None` if the endpoint is removed or not online. Returns whether the list has
    /// changed.
    pub fn set(&mut self, id: EndpointId, server: Option<Server>) -> bool {
        let before = self.served.remove(&id).unwrap_or_default();
        let now = server.unwrap_or_default();
        let mut is_changed = false;
        for model in before.models.difference(&now.models) {
            if let Some(servers) = self.servers.get_mut(model) {
                servers.remove(&(before.registered_at, id));
            }
            is_changed |= self.show(model);
        }
        for model in now.models.difference(&before.models) {
            self.servers.entry(model.clone()).or_default().insert((now.registered_at, id));
            is_changed |= self.show(model);
        }
        if !now.models.is_empty() {
            self.served.insert(id, now);
        }
        is_changed
    }

    /// Returns the list as it is now.
    pub fn list(&self) -> ModelList {
        self.list.clone()
    }

    /// Brings one entry of the list up to date. Returns whether the entry has changed.
    fn show(&mut self, model: &ModelId) -> bool {
        let first = self.servers.get(model).and_then(BTreeSet::first).map(|(registered_at, _)| *registered_at);
        match first {
            Some(registered_at) => self.list.insert(model.clone(), registered_at) != Some(registered_at),
            None => {
                self.servers.remove(model);
                self.list.remove(model).is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_list_is_the_union_with_the_oldest_registration_of_each() {
        let mut catalog = Catalog::default();
        let mut set = |id: u8, models: &[&str], is_changed, expected: &[(&str, i64)]| {
            let names = Arc::new(models.iter().map(|model| ModelId::from(*model)).collect());
            let server = Server { registered_at: i64::from(id) * 10, models: names };
            let id = EndpointId(Uuid::from_u128(id.into()));
            let changed = catalog.set(id, (!models.is_empty()).then_some(server));
            let list = catalog.list();
            let list: Vec<(&str, i64)> = list.iter().map(|(model, time)| (model.as_str(), *time)).collect();
            assert_eq!((changed, list.as_slice()), (is_changed, expected));
        };
        set(2, &["m", "n"], true, &[("m", 20), ("n", 20)]);
        set(2, &["m", "n"], false, &[("m", 20), ("n", 20)]);
        set(3, &["n"], false, &[("m", 20), ("n", 20)]);
        set(1, &["n"], true, &[("m", 20), ("n", 10)]);
        set(2, &["o"], true, &[("n", 10), ("o", 20)]);
        set(1, &[], true, &[("n", 30), ("o", 20)]);
        set(3, &[], true, &[("o", 20)]);
        set(4, &[], false, &[("o", 20)]);
        set(2, &[], true, &[]);
    }
}
