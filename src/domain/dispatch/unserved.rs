//! Which endpoints do not serve an API for a model, as they have answered 501 to a request for it.
//!
//! What is remembered is bounded by the models of the endpoints, times the APIs: an endpoint that loses a model loses what is
//! remembered with it.

use std::collections::HashMap;
use std::time::Duration;

use super::models::ModelNumber;
use crate::domain::ids::EndpointId;
use crate::domain::request::ApiKind;
use crate::domain::time::Moment;

/// How long what is remembered outlasts good probes.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// What a request asks for: an API of a model.
pub type Asked = (ModelNumber, ApiKind);

/// The APIs that endpoints do not serve.
#[derive(Debug, Default)]
pub struct UnservedApis {
    endpoints: HashMap<Asked, Vec<EndpointId>>,
    apis: HashMap<EndpointId, Apis>,
}

/// The APIs that one endpoint does not serve.
#[derive(Debug)]
struct Apis {
    asked: Vec<Asked>,
    /// When the first of them was learnt.
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

    /// Forgets what is remembered of an endpoint.
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

    /// Forgets what is remembered of an endpoint for [`REMEMBERED_FOR`].
    pub fn forget_old(&mut self, now: Moment, id: EndpointId) {
        if self.apis.get(&id).is_some_and(|apis| now.since(apis.since) >= REMEMBERED_FOR) {
            self.forget(id);
        }
    }

    /// Returns the endpoints that do not serve this.
    pub fn endpoints(&self, asked: Asked) -> &[EndpointId] {
        self.endpoints.get(&asked).map_or(&[], Vec::as_slice)
    }

    /// Returns what an endpoint does not serve.
    pub fn apis(&self, id: EndpointId) -> &[Asked] {
        self.apis.get(&id).map_or(&[], |apis| apis.asked.as_slice())
    }

    /// Tells whether nothing is remembered of any endpoint.
    pub fn is_empty(&self) -> bool {
        self.apis.is_empty()
    }

    /// Checks that both tables say the same.
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
