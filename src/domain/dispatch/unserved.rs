//! The endpoints that do not serve an API for a model, because they answered such a request with 501.
//!
//! The number of entries is bounded by the number of models of all endpoints times the number of APIs. If an endpoint
//! loses a model, the entries of this model are removed.

use std::collections::HashMap;
use std::time::Duration;

use super::models::ModelNumber;
use crate::domain::ids::EndpointId;
use crate::domain::request::ApiKind;
use crate::domain::time::Moment;

/// How old the oldest entry of an endpoint must be for a good probe to remove the endpoint's entries.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// What a request asks for: an API of a model.
pub type Asked = (ModelNumber, ApiKind);

/// The APIs that endpoints do not serve.
#[derive(Debug, Default)]
pub struct UnservedApis {
    /// The endpoints that do not serve each API of a model.
    endpoints: HashMap<Asked, Vec<EndpointId>>,
    /// The same entries by endpoint.
    apis: HashMap<EndpointId, Apis>,
}

/// The APIs that one endpoint does not serve.
#[derive(Debug)]
struct Apis {
    asked: Vec<Asked>,
    /// When the oldest of these entries was added.
    since: Moment,
}

impl UnservedApis {
    /// Remembers that an endpoint does not serve an API of a model that it has. Returns false if that is known.
    pub fn learn(&mut self, now: Moment, id: EndpointId, asked: Asked) -> bool {
        let apis = self.apis.entry(id).or_insert_with(|| Apis { asked: Vec::new(), since: now });
        if apis.asked.contains(&asked) {
            return false;
        }
        apis.asked.push(asked);
        self.endpoints.entry(asked).or_default().push(id);
        true
    }

    /// Removes all entries of an endpoint.
    pub fn forget(&mut self, id: EndpointId) {
        let Some(apis) = self.apis.remove(&id) else { return };
        for asked in apis.asked {
            let Some(endpoints) = self.endpoints.get_mut(&asked) else { continue };
            endpoints.retain(|other| *other != id);
            if endpoints.is_empty() {
                self.endpoints.remove(&asked);
            }
        }
    }

    /// Removes all entries of an endpoint whose oldest entry is at least [`REMEMBERED_FOR`] old.
    pub fn forget_old(&mut self, now: Moment, id: EndpointId) {
        if self.apis.get(&id).is_some_and(|apis| now.since(apis.since) >= REMEMBERED_FOR) {
            self.forget(id);
        }
    }

    /// Returns the endpoints that do not serve this API of a model.
    pub fn endpoints(&self, asked: Asked) -> &[EndpointId] {
        self.endpoints.get(&asked).map_or(&[], Vec::as_slice)
    }

    /// Returns the APIs that an endpoint does not serve, each with its model.
    pub fn apis(&self, id: EndpointId) -> &[Asked] {
        self.apis.get(&id).map_or(&[], |apis| apis.asked.as_slice())
    }

    /// Tells whether no endpoint has an entry.
    pub fn is_empty(&self) -> bool {
        self.apis.is_empty()
    }

    /// Checks that both tables have the same entries.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self) {
        let by_api: usize = self.endpoints.values().map(Vec::len).sum();
        assert_eq!(by_api, self.apis.values().map(|apis| apis.asked.len()).sum::<usize>());
        for (id, apis) in &self.apis {
            assert!(apis.asked.iter().all(|asked| self.endpoints(*asked).contains(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_remembered_is_forgotten_by_the_endpoint() {
        let [a, b] = [1, 2].map(|number| EndpointId(Uuid::from_u128(number)));
        let asked = (ModelNumber(3), ApiKind::Embeddings);
        let start = Moment::from_micros(0);
        let mut unserved = UnservedApis::default();
        assert!(unserved.learn(start, a, asked) && unserved.learn(start, b, asked));
        assert!(!unserved.learn(start, a, asked));
        assert_eq!((unserved.endpoints(asked), unserved.apis(b)), (&[a, b][..], &[asked][..]));
        assert!(unserved.endpoints((ModelNumber(3), ApiKind::Responses)).is_empty());
        unserved.forget_old(start.after(Duration::from_secs(299)), a);
        assert_eq!(unserved.endpoints(asked), [a, b]);
        unserved.forget_old(start.after(Duration::from_secs(300)), a);
        assert_eq!(unserved.endpoints(asked), [b]);
        unserved.assert_consistent();
        unserved.forget(b);
        assert!(unserved.is_empty() && unserved.endpoints.is_empty());
    }
}
