//! Which endpoints can serve a request, now or later.

use std::borrow::Cow;
use std::sync::Arc;

use foldhash::HashSet;

use super::{Endpoint, Fleet};
use crate::domain::dispatch::decision::GrantReason;
use crate::domain::dispatch::index::Availability;
use crate::domain::dispatch::model_set::ModelSet;
use crate::domain::dispatch::models::ModelNumber;
use crate::domain::dispatch::unserved::Asked;
use crate::domain::ids::EndpointId;
use crate::domain::request::{LeaseRequest, Refusal};
use crate::domain::target::Target;
use crate::domain::time::Moment;

/// What a request that finds no free slot can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// An online endpoint serves the model, or an endpoint that was not probed yet may serve it.
    Possible,
    /// No endpoint serves the model, but a loading endpoint will or may serve it.
    Loading,
    /// Endpoints have the model, but none of them is online.
    NothingOnline,
    /// No endpoint has the model.
    Unknown,
}

/// A free slot.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The endpoint that has the slot.
    pub endpoint: EndpointId,
    /// The models that the slot can serve.
    pub models: Cow<'a, ModelSet>,
    /// The APIs of these models that the endpoint does not serve.
    pub unserved: &'a [Asked],
}

impl Fleet {
    /// Chooses an endpoint for a request for `model` among those with a free slot that have not failed the request, and
    /// gives the reason. `None` if there is no such endpoint.
    pub fn choose(&self, model: ModelNumber, request: &LeaseRequest) -> Option<(EndpointId, GrantReason)> {
        let asked = (model, request.api_kind);
        if self.unserved.presence(asked).online == self.index.members(model).0 {
            return None;
        }
        let unserving = self.unserved.endpoints(asked);
        let excluded =
            |id: &EndpointId| request.tried.contains(id) || unserving.is_some_and(|unserving| unserving.contains(id));
        self.policy.pick(&self.index.shortlist(model, &excluded))
    }

    /// Tells whether an endpoint that serves a model has a free slot that may be used.
    pub fn is_free(&self, model: ModelNumber) -> bool {
        self.index.shortlist(model, &|_| false).best().is_some()
    }

    /// Learns that an endpoint has served the API of a request that went to `target`.
    pub fn learn_served(&mut self, now: Moment, target: &Arc<Target>, model: ModelNumber, request: &LeaseRequest) {
        let Some(endpoint) = self.endpoints.get_mut(&target.id).filter(|endpoint| endpoint.is_at(target)) else {
            return;
        };
        if let Ok(place) = endpoint.models.binary_search(&model) {
            endpoint.served_apis.learn(now, endpoint.models.len(), place, request.api_kind);
        }
    }

    /// Learns that an endpoint does not serve the API of a request that went to `target`. Returns false if that is
    /// known, or says nothing about the endpoint as it is now, because the endpoint is another server, has lost the
    /// model or has served the API.
    pub fn learn_unserved(
        &mut self,
        now: Moment,
        target: &Arc<Target>,
        model: ModelNumber,
        request: &LeaseRequest,
    ) -> bool {
        let Some(endpoint) = self.endpoints.get(&target.id).filter(|endpoint| endpoint.is_at(target)) else {
            return false;
        };
        let api_kind = request.api_kind;
        let place = endpoint.models.binary_search(&model);
        place.is_ok_and(|place| !endpoint.served_apis.contains(place, api_kind))
            && self.unserved.learn(now, target.id, self.presence(endpoint), (model, api_kind))
    }

    /// Returns the refusal of a request whose API no online endpoint with the model serves, although there are such
    /// endpoints; `None` if one serves the API, or an endpoint that is loading or not probed yet may serve it.
    pub fn unserved(&self, model: ModelNumber, request: &LeaseRequest) -> Option<Refusal> {
        let asked = (model, request.api_kind);
        let may_serve = |id: &EndpointId| self.may_serve(*id, model);
        let online = self.index.members(model).0;
        let is_served = online == 0 || self.unserved.presence(asked).online < online;
        if is_served || self.pending.iter().chain(&self.loading).any(may_serve) {
            return None;
        }
        let is_known_of_all = self.unserved.endpoints(asked).map(HashSet::len) == self.known.get(&model).copied();
        Some(if is_known_of_all { Refusal::ApiNotSupported(request.api_kind) } else { Refusal::NoEndpointOnline })
    }

    /// Tells whether an endpoint that is loading or not probed yet may serve a model.
    fn may_serve(&self, id: EndpointId, model: ModelNumber) -> bool {
        let Endpoint { facts, models, .. } = &self.endpoints[&id];
        facts.may_serve_any || models.binary_search(&model).is_ok()
    }

    /// Tells whether nothing is remembered of APIs that endpoints do not serve.
    pub fn serves_all_apis(&self) -> bool {
        self.unserved.is_empty()
    }

    /// Returns a free slot of an endpoint; `None` if it is not online or has no free slot. A skipped endpoint serves
    /// only models of which no endpoint has a closed breaker.
    pub fn free_slot(&self, id: EndpointId) -> Option<Slot<'_>> {
        let endpoint = self.endpoints.get(&id)?;
        let models = match self.index.position(endpoint.key?).availability {
            Availability::Full => return None,
            Availability::Free => {
                Cow::Borrowed(endpoint.model_set.get_or_init(|| ModelSet::from_iter(endpoint.models.iter())))
            }
            Availability::Skipped => {
                let served = endpoint.models.iter().filter(|model| self.index.members(**model).1 == 0);
                Cow::Owned(ModelSet::from_iter(served))
            }
        };
        Some(Slot { endpoint: id, models, unserved: self.unserved.apis(id) })
    }

    /// Returns how many slots, free or not, could serve a model, and all models that compete for these slots, including
    /// the model itself.
    pub fn competition(&self, model: ModelNumber) -> (u64, Cow<'_, ModelSet>) {
        self.index.competition(model)
    }

    /// Tells whether an online endpoint could serve a request for `model`, serves the request's API and has not failed
    /// the request. The endpoint need not have a free slot. An endpoint whose breaker is not closed counts only if the
    /// model has no other.
    pub fn has_untried(&self, model: ModelNumber, request: &LeaseRequest) -> bool {
        let (members, closed) = self.index.members(model);
        let asked = (model, request.api_kind);
        let (unserving, unserved) = (self.unserved.endpoints(asked), self.unserved.presence(asked));
        let serving = if closed == 0 { members - unserved.online } else { closed - unserved.closed };
        let is_among = |id: &&EndpointId| {
            self.endpoints.get(id).is_some_and(|endpoint| {
                let counts = |key| closed == 0 || self.index.position(key).is_closed;
                endpoint.key.is_some_and(counts) && endpoint.models.binary_search(&model).is_ok()
            })
        };
        let serves = |id: &&EndpointId| !unserving.is_some_and(|unserving| unserving.contains(*id));
        serving > request.tried.iter().filter(serves).filter(is_among).count()
    }

    /// Tells what a request for `model` can wait for if no slot is free.
    pub fn prospect(&self, model: ModelNumber) -> Prospect {
        let may_serve = |id: &EndpointId| self.may_serve(*id, model);
        if self.index.serves(model) || self.pending.iter().any(may_serve) {
            Prospect::Possible
        } else if self.loading.iter().any(may_serve) {
            Prospect::Loading
        } else if self.known.contains_key(&model) {
            Prospect::NothingOnline
        } else {
            Prospect::Unknown
        }
    }
}
