//! The endpoints that do not serve an API for a model, because they answered such a request with 501.
//!
//! The number of entries is bounded by the number of models of all endpoints times the number of APIs. If an endpoint
//! loses a model, the entries of this model are removed.

use std::time::Duration;

use foldhash::{HashMap, HashSet, HashSetExt};

use super::models::ModelNumber;
use crate::domain::ids::EndpointId;
use crate::domain::request::ApiKind;
use crate::domain::time::Moment;

/// How old the oldest entry of an endpoint must be for a good probe to remove the endpoint's entries.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(300);

/// What a request asks for: an API of a model.
pub type Asked = (ModelNumber, ApiKind);

/// The APIs that endpoints do not serve.
#[derive(Debug, Default)]
pub struct UnservedApis {
    /// The endpoints that do not serve each API of a model.
    unserving: HashMap<Asked, Unserving>,
    /// The same entries by endpoint.
    apis: HashMap<EndpointId, Apis>,
}

/// The endpoints that do not serve one API of a model.
#[derive(Debug)]
struct Unserving {
    endpoints: HashSet<EndpointId>,
    /// The sum of the endpoints' presences.
    presence: Presence,
}

/// The APIs that one endpoint does not serve.
#[derive(Debug)]
struct Apis {
    asked: Vec<Asked>,
    /// When the oldest of these entries was added.
    since: Moment,
    presence: Presence,
}

/// How many of some endpoints are online, and how many of these have a closed breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// The endpoints that are online.
    pub online: usize,
    /// The endpoints that are online and have a closed breaker.
    pub closed: usize,
}

impl UnservedApis {
    /// Remembers that an endpoint, which has this presence, does not serve an API of a model that it has. Returns false
    /// if that is known.
    pub fn learn(&mut self, now: Moment, id: EndpointId, presence: Presence, asked: Asked) -> bool {
        let apis = self.apis.entry(id).or_insert_with(|| Apis { asked: Vec::new(), since: now, presence });
        let unserving = self.unserving.entry(asked);
        let unserving =
            unserving.or_insert_with(|| Unserving { endpoints: HashSet::new(), presence: Presence::default() });
        if !unserving.endpoints.insert(id) {
            return false;
        }
        unserving.presence.change(Presence::default(), presence);
        apis.asked.push(asked);
        true
    }

    /// Learns whether an endpoint is online, and whether its breaker is closed.
    pub fn set_presence(&mut self, id: EndpointId, presence: Presence) {
        let Some(apis) = self.apis.get_mut(&id) else { return };
        let before = std::mem::replace(&mut apis.presence, presence);
        for asked in &apis.asked {
            if let Some(unserving) = self.unserving.get_mut(asked) {
                unserving.presence.change(before, presence);
            }
        }
    }

    /// Removes all entries of an endpoint.
    pub fn forget(&mut self, id: EndpointId) {
        let Some(apis) = self.apis.remove(&id) else { return };
        for asked in apis.asked {
            let Some(unserving) = self.unserving.get_mut(&asked) else { continue };
            unserving.endpoints.remove(&id);
            unserving.presence.change(apis.presence, Presence::default());
            if unserving.endpoints.is_empty() {
                self.unserving.remove(&asked);
            }
        }
    }

    /// Removes all entries of an endpoint whose oldest entry is at least [`REMEMBERED_FOR`] old.
    pub fn forget_old(&mut self, now: Moment, id: EndpointId) {
        if self.apis.get(&id).is_some_and(|apis| now.since(apis.since) >= REMEMBERED_FOR) {
            self.forget(id);
        }
    }

    /// Returns the endpoints that do not serve this API of a model; `None` if there are none.
    pub fn endpoints(&self, asked: Asked) -> Option<&HashSet<EndpointId>> {
        Some(&self.unserving.get(&asked)?.endpoints)
    }

    /// Returns how many online endpoints do not serve this API of a model.
    pub fn presence(&self, asked: Asked) -> Presence {
        self.unserving.get(&asked).map_or(Presence::default(), |unserving| unserving.presence)
    }

    /// Returns the APIs that an endpoint does not serve, each with its model.
    pub fn apis(&self, id: EndpointId) -> &[Asked] {
        self.apis.get(&id).map_or(&[], |apis| apis.asked.as_slice())
    }

    /// Tells whether no endpoint has an entry.
    pub fn is_empty(&self) -> bool {
        self.apis.is_empty()
    }

    /// Checks that both tables have the same entries, and that every endpoint has its presence.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_consistent(&self, presence: impl Fn(EndpointId) -> Presence) {
        let by_api: usize = self.unserving.values().map(|unserving| unserving.endpoints.len()).sum();
        assert_eq!(by_api, self.apis.values().map(|apis| apis.asked.len()).sum::<usize>());
        for (id, apis) in &self.apis {
            assert_eq!(apis.presence, presence(*id));
            assert!(apis.asked.iter().all(|asked| self.unserving[asked].endpoints.contains(id)));
        }
        for unserving in self.unserving.values() {
            let mut sum = Presence::default();
            unserving.endpoints.iter().for_each(|id| sum.change(Presence::default(), presence(*id)));
            assert_eq!(unserving.presence, sum);
        }
    }
}

impl Presence {
    /// Changes a sum of presences in which one endpoint's presence changes.
    fn change(&mut self, before: Self, after: Self) {
        self.online = self.online + after.online - before.online;
        self.closed = self.closed + after.closed - before.closed;
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
        let presence = Presence { online: 1, closed: 1 };
        let mut unserved = UnservedApis::default();
        let known = |unserved: &UnservedApis| {
            let mut ids: Vec<EndpointId> = unserved.endpoints(asked).into_iter().flatten().copied().collect();
            ids.sort_unstable();
            (ids, unserved.presence(asked).online)
        };
        assert!(unserved.learn(start, a, presence, asked) && unserved.learn(start, b, presence, asked));
        assert!(!unserved.learn(start, a, presence, asked));
        assert_eq!((known(&unserved), unserved.apis(b)), ((vec![a, b], 2), &[asked][..]));
        assert!(unserved.endpoints((ModelNumber(3), ApiKind::Responses)).is_none());
        unserved.set_presence(b, Presence { online: 1, closed: 0 });
        assert_eq!(unserved.presence(asked), Presence { online: 2, closed: 1 });
        unserved.forget_old(start.after(Duration::from_secs(299)), a);
        assert_eq!(known(&unserved), (vec![a, b], 2));
        unserved.forget_old(start.after(Duration::from_secs(300)), a);
        assert_eq!(known(&unserved), (vec![b], 1));
        unserved.set_presence(b, Presence::default());
        assert_eq!(known(&unserved), (vec![b], 0));
        unserved.forget(b);
        assert!(unserved.is_empty() && unserved.unserving.is_empty());
    }
}
