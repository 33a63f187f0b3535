//! Registry beside neighbours that only listen, so that the order of its messages is the test's own.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::Request;
use actix::{Actor, Addr, Context, Handler, Message};
use futures_util::future::join_all;
use leaseway::actors::event_hub::Publish;
use leaseway::actors::facts::{EndpointAnswered, EndpointsChanged, LoadReported};
use leaseway::actors::persistence::{Persistence, StoreDesk};
use leaseway::actors::registry::{ListEndpoints, ModelCatalog, Neighbours, RegisterEndpoint, Registry, SyncEndpoint};
use leaseway::config;
use leaseway::domain::endpoint::{EndpointDefinition, EndpointKind, EndpointView};
use leaseway::domain::ids::EndpointId;
use leaseway::store::Store;
use leaseway::upstream::probe::Prober;

use crate::support::{FakeEndpoint, soon};

/// A neighbour that Registry tells its facts.
struct Neighbour;

impl Actor for Neighbour {
    type Context = Context<Self>;
}

impl<F: Message<Result = ()>> Handler<F> for Neighbour {
    type Result = ();

    fn handle(&mut self, _: F, _: &mut Context<Self>) {}
}

struct Scene {
    registry: Addr<Registry>,
    endpoint: FakeEndpoint,
}

const MODELS: &str = "/v1/models";

impl Scene {
    async fn new() -> Self {
        let (config, _) = config::load(None, &[]).expect("the defaults");
        let persistence = Persistence::start(Store::open("sqlite://:memory:").expect("a database"));
        let neighbour = Neighbour.start();
        let neighbours = Neighbours {
            store: StoreDesk::new(persistence.clone()),
            persistence,
            dispatcher: neighbour.clone().recipient::<EndpointsChanged>(),
            speeds: neighbour.clone().recipient::<EndpointsChanged>(),
            loads: neighbour.clone().recipient::<LoadReported>(),
            answers: neighbour.clone().recipient::<EndpointAnswered>(),
            events: neighbour.recipient::<Publish>(),
            catalog: Arc::new(ModelCatalog::default()),
        };
        let prober = Prober::new(config.upstream, config.health.timeout);
        let registry = Registry::new(Vec::new(), prober, config.health, Duration::from_secs(120), neighbours).start();
        Self { registry, endpoint: FakeEndpoint::start(&["m"]).await }
    }

    /// Registers the endpoint, which needs nothing but probes.
    async fn register(&self) -> EndpointView {
        let definition = EndpointDefinition {
            kind: Some(EndpointKind::OpenaiCompatible),
            max_concurrency: Some(1),
            ..EndpointDefinition::new("a", self.endpoint.url())
        };
        self.registry.send(RegisterEndpoint(definition)).await.expect("alive").expect("registered")
    }

    /// Asks 20 times for a sync. Returns those who ask, once Registry has heard all of them.
    async fn ask_for_syncs(&self, id: EndpointId) -> Vec<Request<Registry, SyncEndpoint>> {
        let syncs = (0..20).map(|_| self.registry.send(SyncEndpoint(id))).collect();
        self.registry.send(ListEndpoints).await.expect("alive");
        syncs
    }
}

#[actix_web::test]
async fn one_probe_answers_all_who_ask_for_a_sync_before_it_begins() {
    let scene = Scene::new().await;
    scene.endpoint.hold_page(MODELS);
    let id = scene.register().await.id;
    scene.endpoint.until_page_asked(MODELS, 1).await;
    drop(scene.ask_for_syncs(id).await);
    let syncs = scene.ask_for_syncs(id).await;
    scene.endpoint.list_models(&["new"]);
    scene.endpoint.let_page(MODELS);
    for synced in soon("the answers", join_all(syncs)).await {
        let view = synced.expect("alive").expect("known");
        assert_eq!(view.models.iter().map(|model| model.as_str()).collect::<Vec<_>>(), ["new"]);
    }
    assert_eq!(scene.endpoint.page_asked(MODELS), 2, "the first probe began before the syncs were asked for");
}
