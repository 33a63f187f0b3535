//! TpsTracker: how fast each endpoint answers with each model.

use std::collections::{BTreeMap, BTreeSet};

use actix::{Actor, Context, Handler, Message, MessageResult, Recipient};

use super::event_hub::Publish;
use super::facts::LeaseEnded;
use crate::domain::event::{EndpointTps, Event, TpsUpdated};
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::{ApiKind, EndedLease, Outcome};
use crate::domain::tps::{Aggregate, Measured, Speed};

/// Speeds by endpoint, model and API.
pub type Speeds = BTreeMap<(EndpointId, ModelId, ApiKind), Speed>;

/// Owns the speeds, per endpoint, model and API.
pub struct TpsTracker {
    alpha: f64,
    events: Recipient<Publish>,
    speeds: Speeds,
}

impl TpsTracker {
    /// Creates a tracker that goes on from `speeds`, and whose means give `alpha` (above 0, up to 1) as weight to the
    /// newest value.
    pub fn new(alpha: f64, speeds: Speeds, events: Recipient<Publish>) -> Self {
        Self { alpha, events, speeds }
    }
}

impl TpsTracker {
    /// Returns what was measured of one endpoint.
    fn of(&self, endpoint: EndpointId) -> impl Iterator<Item = (&ModelId, ApiKind, &Speed)> {
        let first = (endpoint, ModelId::from(""), ApiKind::ChatCompletions);
        let known = self.speeds.range(first..).take_while(move |((id, ..), _)| *id == endpoint);
        known.map(|((_, model, api_kind), speed)| (model, *api_kind, speed))
    }

    fn endpoint_tps(&self, endpoint_id: EndpointId) -> EndpointTps {
        let mut aggregate = Aggregate::default();
        let mut models = BTreeSet::new();
        for (model, _, speed) in self.of(endpoint_id) {
            models.insert(model);
            aggregate.add(speed);
        }
        EndpointTps {
            endpoint_id,
            model_count: models.len(),
            aggregate_tps: aggregate.tps(),
            total_output_tokens: aggregate.output_tokens(),
            total_requests: aggregate.request_count(),
        }
    }
}

impl Actor for TpsTracker {
    type Context = Context<Self>;
}

impl Handler<LeaseEnded> for TpsTracker {
    type Result = ();

    fn handle(&mut self, LeaseEnded(ended): LeaseEnded, _: &mut Context<Self>) {
        let Outcome::Succeeded { tokens: Some(tokens) } = ended.outcome else { return };
        let (model, api_kind) = (ended.request.model.clone(), ended.request.api_kind);
        let key = (ended.endpoint, model.clone(), api_kind);
        let mut speed = self.speeds.get(&key).copied().unwrap_or_default();
        let EndedLease { duration, first_token, .. } = *ended;
        let measured = Measured { output_tokens: tokens.output, duration, first_token, is_estimated: tokens.estimated };
        let Some(tps) = speed.record(self.alpha, measured) else { return };
        self.speeds.insert(key, speed);
        self.events.do_send(Publish(Event::TpsUpdated(TpsUpdated {
            endpoint_id: ended.endpoint,
            model_id: model,
            api_kind,
            tps,
            output_tokens: tokens.output,
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            endpoint_tps: self.endpoint_tps(ended.endpoint),
        })));
    }
}

/// Asks for the speeds of one endpoint, by model and API.
#[derive(Message)]
#[rtype(result = "Vec<(ModelId, ApiKind, Speed)>")]
pub struct ReadSpeeds(pub EndpointId);

impl Handler<ReadSpeeds> for TpsTracker {
    type Result = Vec<(ModelId, ApiKind, Speed)>;

    fn handle(&mut self, ReadSpeeds(endpoint): ReadSpeeds, _: &mut Context<Self>) -> Self::Result {
        self.of(endpoint).map(|(model, api_kind, speed)| (model.clone(), api_kind, *speed)).collect()
    }
}

/// Asks for the speed of every endpoint that was measured, over all its models.
#[derive(Message)]
#[rtype(result = "BTreeMap<EndpointId, EndpointTps>")]
pub struct ReadEndpointSpeeds;

impl Handler<ReadEndpointSpeeds> for TpsTracker {
    type Result = MessageResult<ReadEndpointSpeeds>;

    fn handle(&mut self, _: ReadEndpointSpeeds, _: &mut Context<Self>) -> Self::Result {
        let endpoints: BTreeSet<EndpointId> = self.speeds.keys().map(|(endpoint, ..)| *endpoint).collect();
        MessageResult(endpoints.into_iter().map(|endpoint| (endpoint, self.endpoint_tps(endpoint))).collect())
    }
}
