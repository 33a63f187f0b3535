//! TpsTracker: measures how fast each endpoint answers with each model.

use std::collections::{BTreeMap, BTreeSet};

use actix::{Actor, Context, Handler, Message, MessageResult, Recipient};

use super::event_hub::Publish;
use super::facts::{EndpointsChanged, LeasesEnded};
use crate::domain::event::{EndpointTps, Event, TpsUpdated};
use crate::domain::ids::{EndpointId, ModelId};
use crate::domain::request::{ApiKind, EndedLease, Outcome};
use crate::domain::tps::{Aggregate, Measured, Speed};

/// How many speeds an endpoint may have before speeds of models that it no longer serves are dropped.
///
/// Clients cannot make up names, since requests are leased only for models that an endpoint serves. But without this bound
/// the speeds of an endpoint that lists other models with each sync would grow without end.
const SPEEDS_MAX: usize = 1000;

/// The speeds of one endpoint by model and API.
pub type ModelSpeeds = BTreeMap<(ModelId, ApiKind), Speed>;

/// Owns the speeds by endpoint, model and API. The speeds of an endpoint are dropped when it is removed.
pub struct TpsTracker {
    alpha: f64,
    events: Recipient<Publish>,
    speeds: BTreeMap<EndpointId, ModelSpeeds>,
}

impl TpsTracker {
    /// Creates a tracker that starts with `speeds`, which has an entry for each existing endpoint. Its moving means give the
    /// newest value the weight `alpha` (above 0, up to 1).
    pub fn new(alpha: f64, speeds: BTreeMap<EndpointId, ModelSpeeds>, events: Recipient<Publish>) -> Self {
        Self { alpha, events, speeds }
    }
}

/// Sums up the speeds of one endpoint over all its models.
fn endpoint_tps(endpoint_id: EndpointId, speeds: &ModelSpeeds) -> EndpointTps {
    let mut aggregate = Aggregate::default();
    speeds.values().for_each(|speed| aggregate.add(speed));
    EndpointTps {
        endpoint_id,
        model_count: speeds.keys().map(|(model, _)| model).collect::<BTreeSet<_>>().len(),
        aggregate_tps: aggregate.tps(),
        total_output_tokens: aggregate.output_tokens(),
        total_requests: aggregate.request_count(),
    }
}

impl Actor for TpsTracker {
    type Context = Context<Self>;
}

impl Handler<EndpointsChanged> for TpsTracker {
    type Result = ();

    fn handle(&mut self, changed: EndpointsChanged, _: &mut Context<Self>) {
        for facts in &changed.updated {
            let speeds = self.speeds.entry(facts.id()).or_default();
            if speeds.len() > SPEEDS_MAX && !facts.may_serve_any {
                speeds.retain(|(model, _), _| facts.models.contains(model));
            }
        }
        for endpoint in &changed.removed {
            self.speeds.remove(endpoint);
        }
    }
}

impl Handler<LeasesEnded> for TpsTracker {
    type Result = ();

    fn handle(&mut self, LeasesEnded(ended): LeasesEnded, _: &mut Context<Self>) {
        ended.iter().for_each(|ended| self.record(ended));
    }
}

impl TpsTracker {
    fn record(&mut self, ended: &EndedLease) {
        let Outcome::Succeeded { tokens: Some(tokens) } = ended.outcome else { return };
        let Some(speeds) = self.speeds.get_mut(&ended.target.id) else { return };
        let (model, api_kind) = (ended.request.model.clone(), ended.request.api_kind);
        let key = (model.clone(), api_kind);
        let mut speed = speeds.get(&key).copied().unwrap_or_default();
        let EndedLease { duration, first_token, .. } = *ended;
        let measured = Measured { output_tokens: tokens.output, duration, first_token, is_estimated: tokens.estimated };
        let Some(tps) = speed.record(self.alpha, measured) else { return };
        speeds.insert(key, speed);
        self.events.do_send(Publish(Event::TpsUpdated(TpsUpdated {
            endpoint_id: ended.target.id,
            model_id: model,
            api_kind,
            tps,
            output_tokens: tokens.output,
            duration_ms: u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX),
            endpoint_tps: endpoint_tps(ended.target.id, speeds),
        })));
    }
}

/// Asks for the speeds of one endpoint.
#[derive(Message)]
#[rtype(result = "ModelSpeeds")]
pub struct ReadSpeeds(pub EndpointId);

impl Handler<ReadSpeeds> for TpsTracker {
    type Result = MessageResult<ReadSpeeds>;

    fn handle(&mut self, ReadSpeeds(endpoint): ReadSpeeds, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.speeds.get(&endpoint).cloned().unwrap_or_default())
    }
}

/// Asks for the speed of every endpoint over all its models.
#[derive(Message)]
#[rtype(result = "BTreeMap<EndpointId, EndpointTps>")]
pub struct ReadEndpointSpeeds;

impl Handler<ReadEndpointSpeeds> for TpsTracker {
    type Result = MessageResult<ReadEndpointSpeeds>;

    fn handle(&mut self, _: ReadEndpointSpeeds, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.speeds.iter().map(|(id, speeds)| (*id, endpoint_tps(*id, speeds))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::actors::event_hub::EventHub;
    use crate::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointStatus};
    use crate::domain::ids::{ClientId, RequestId};
    use crate::domain::request::{LeaseRequest, TokenCount};
    use crate::domain::target::Target;
    use crate::domain::time::Moment;

    fn ended(endpoint: EndpointId, model: &str) -> LeasesEnded {
        let (id, model) = (RequestId::from("r"), ModelId::from(model));
        let request = LeaseRequest::new(id, model, ApiKind::ChatCompletions, ClientId::Named((*b"c").into()));
        LeasesEnded(vec![Arc::new(EndedLease {
            request: Arc::new(request),
            target: Arc::new(Target::new(endpoint, &EndpointDefinition::new("a", "http://a"))),
            outcome: Outcome::Succeeded { tokens: Some(TokenCount { input: None, output: 50, estimated: false }) },
            is_final: true,
            granted: Moment::default(),
            duration: Duration::from_secs(1),
            first_token: None,
            answered_model: None,
            waited: Duration::ZERO,
        })])
    }

    #[actix::test]
    async fn speeds_of_models_that_an_endpoint_no_longer_serves_are_bounded() {
        let id = EndpointId(Uuid::from_u128(1));
        let present = BTreeMap::from([(id, ModelSpeeds::default())]);
        let tracker = TpsTracker::new(0.2, present, EventHub::default().start().recipient()).start();
        let definition = EndpointDefinition::new("a".to_owned(), "http://a".to_owned());
        let facts = |models: &[&str], may_serve_any| EndpointFacts {
            target: Arc::new(Target::new(id, &definition)),
            max_concurrency: 1,
            capability_score: None,
            models: Arc::new(models.iter().map(|model| ModelId::from(*model)).collect()),
            may_serve_any,
            status: EndpointStatus::Online,
        };
        let too_many = SPEEDS_MAX + 1;
        for (measured, facts, kept) in [
            (SPEEDS_MAX, facts(&["7"], false), SPEEDS_MAX),
            (too_many, facts(&[], true), too_many),
            (too_many, facts(&["7"], false), 1),
            (too_many, facts(&[], false), 0),
        ] {
            for model in 0..measured {
                tracker.send(ended(id, &model.to_string())).await.expect("alive");
            }
            let changed = EndpointsChanged { updated: vec![facts], removed: Vec::new() };
            tracker.send(changed).await.expect("alive");
            assert_eq!(tracker.send(ReadSpeeds(id)).await.expect("alive").len(), kept);
        }
    }

    #[actix::test]
    async fn a_removed_endpoint_takes_its_speeds_along_and_what_ends_later_is_not_measured() {
        let (kept, removed) = (EndpointId(Uuid::from_u128(1)), EndpointId(Uuid::from_u128(2)));
        let present = [kept, removed].map(|id| (id, ModelSpeeds::default()));
        let tracker = TpsTracker::new(0.2, present.into(), EventHub::default().start().recipient()).start();
        for endpoint in [kept, removed] {
            tracker.send(ended(endpoint, "m")).await.expect("alive");
            let speeds = tracker.send(ReadSpeeds(endpoint)).await.expect("alive");
            assert_eq!(speeds.values().map(Speed::tps).collect::<Vec<_>>(), [Some(50.0)]);
        }
        tracker.send(EndpointsChanged { updated: Vec::new(), removed: vec![removed] }).await.expect("alive");
        tracker.send(ended(removed, "m")).await.expect("alive");
        let speeds = tracker.send(ReadEndpointSpeeds).await.expect("alive");
        assert_eq!(speeds.keys().collect::<Vec<_>>(), [&kept]);
    }
}
