//! Registry beside neighbours that only listen, so that the order of its messages is the test's own.

use std::sync::Arc;
use std::time::Duration;

use actix::dev::Request;
use actix::{Actor, Addr, Context, Handler, MailboxError, Message};
use futures_util::future::join_all;
use leaseway::actors::event_hub::Publish;
use leaseway::actors::facts::{EndpointAnswered, EndpointBlamed, EndpointsChanged, LeasesEnded, LoadReported};
use leaseway::actors::persistence::{Persistence, StoreDesk};
use leaseway::actors::registry::{
    ApplyFile, EndpointChange, ListEndpoints, ListReports, ModelCatalog, Neighbours, RegisterEndpoint, Registry,
    RegistryError, ReportLoad, SyncEndpoint, UpdateEndpoint,
};
use leaseway::config;
use leaseway::domain::blame::Blamed;
use leaseway::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointKind, EndpointView};
use leaseway::domain::ids::{ClientId, EndpointId, ModelId, RequestId};
use leaseway::domain::load::LoadReport;
use leaseway::domain::request::{ApiKind, EndedLease, Failure, LeaseRequest, Outcome};
use leaseway::domain::stored_endpoint::StoredEndpoint;
use leaseway::domain::target::Target;
use leaseway::domain::time::Moment;
use leaseway::store::Store;
use leaseway::upstream::probe::Prober;
use tempfile::TempDir;

use crate::support::database::Database;
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

/// A neighbour that keeps the facts of the endpoint that has changed last.
#[derive(Default)]
struct Dispatcher(Option<EndpointFacts>);

impl Actor for Dispatcher {
    type Context = Context<Self>;
}

impl Handler<EndpointsChanged> for Dispatcher {
    type Result = ();

    fn handle(&mut self, changed: EndpointsChanged, _: &mut Context<Self>) {
        self.0 = changed.updated.into_iter().last().or(self.0.take());
    }
}

/// Asks for the target of the endpoint that has changed last.
#[derive(Message)]
#[rtype(result = "Option<Arc<Target>>")]
struct LastTarget;

impl Handler<LastTarget> for Dispatcher {
    type Result = Option<Arc<Target>>;

    fn handle(&mut self, _: LastTarget, _: &mut Context<Self>) -> Self::Result {
        self.0.as_ref().map(|facts| facts.target.clone())
    }
}

struct Scene {
    registry: Addr<Registry>,
    dispatcher: Addr<Dispatcher>,
    endpoint: FakeEndpoint,
    folder: TempDir,
}

fn store_in(folder: &TempDir) -> Store {
    Store::open(&format!("sqlite://{}", folder.path().join("test.db").display())).expect("a database")
}

const MODELS: &str = "/v1/models";

impl Scene {
    async fn new() -> Self {
        let (config, _) = config::load(None, &[]).expect("the defaults");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let persistence = Persistence::start(store_in(&folder));
        let (neighbour, dispatcher) = (Neighbour.start(), Dispatcher::default().start());
        let neighbours = Neighbours {
            store: StoreDesk::new(persistence.clone()),
            persistence,
            dispatcher: dispatcher.clone().recipient(),
            speeds: neighbour.clone().recipient::<EndpointsChanged>(),
            loads: neighbour.clone().recipient::<LoadReported>(),
            answers: neighbour.clone().recipient::<EndpointAnswered>(),
            events: neighbour.recipient::<Publish>(),
            catalog: Arc::new(ModelCatalog::default()),
        };
        let prober = Prober::new(config.upstream, config.health.timeout);
        let registry = Registry::new(Vec::new(), prober, config.health, Duration::from_secs(120), neighbours).start();
        Self { registry, dispatcher, endpoint: FakeEndpoint::start(&["m"]).await, folder }
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

    /// Applies a config file with these endpoints, whose addresses do not answer.
    fn apply(&self, file: &[(&str, &str)]) -> Request<Registry, ApplyFile> {
        self.registry.send(ApplyFile(file.iter().map(|(name, url)| EndpointDefinition::new(*name, *url)).collect()))
    }

    fn change(&self, id: EndpointId, change: EndpointChange) -> Request<Registry, UpdateEndpoint> {
        self.registry.send(UpdateEndpoint { id, change })
    }

    /// Returns the target that leases on the only endpoint have.
    async fn target(&self) -> Arc<Target> {
        self.registry.send(ListEndpoints).await.expect("alive");
        self.dispatcher.send(LastTarget).await.expect("alive").expect("an endpoint")
    }

    /// Returns the only endpoint as it is after a fact was told.
    async fn after(&self, told: impl Future<Output = Result<(), MailboxError>>) -> EndpointView {
        told.await.expect("alive");
        self.registry.send(ListEndpoints).await.expect("alive").remove(0)
    }

    /// Locks the database, sends messages, and unlocks the database once Registry has heard them.
    async fn while_locked<T>(&self, send: impl FnOnce() -> T) -> T {
        let mut database = Database::open(&self.folder.path().join("test.db"));
        database.execute("BEGIN IMMEDIATE");
        let sent = send();
        self.registry.send(ListEndpoints).await.expect("alive");
        database.execute("ROLLBACK");
        sent
    }

    /// Returns the names and addresses of all endpoints in memory, after checking that the database has the same.
    async fn endpoints(&self) -> Vec<(String, String)> {
        let views = self.registry.send(ListEndpoints).await.expect("alive");
        let mut known: Vec<_> = views.into_iter().map(|view| (view.name, view.base_url)).collect();
        let stored = store_in(&self.folder).load_endpoints().expect("loaded");
        let mut saved: Vec<_> = stored
            .into_iter()
            .map(|StoredEndpoint { definition, .. }| (definition.name, definition.base_url))
            .collect();
        known.sort();
        saved.sort();
        assert_eq!(known, saved, "memory and database");
        known
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

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, url)| ((*name).to_owned(), (*url).to_owned())).collect()
}

/// The end of a lease on this target, whose answer may have named another model than the one asked for.
fn served(target: &Arc<Target>, answered_model: Option<&str>) -> LeasesEnded {
    let granted = Moment::default();
    let (id, client) = (RequestId::from("r"), ClientId::Named((*b"c").into()));
    LeasesEnded(vec![Arc::new(EndedLease {
        request: Arc::new(LeaseRequest::new(id, ModelId::from("m"), ApiKind::ChatCompletions, client)),
        target: target.clone(),
        outcome: Outcome::Succeeded { tokens: None },
        is_final: true,
        granted,
        duration: Duration::ZERO,
        first_token: None,
        answered_model: answered_model.map(ModelId::from),
        waited: Duration::ZERO,
    })])
}

fn blamed(target: &Arc<Target>) -> EndpointBlamed {
    EndpointBlamed(Blamed { target: target.clone(), since: Moment::default(), failure: Failure::Status(500) })
}

#[actix_web::test]
async fn what_one_server_has_shown_says_nothing_about_the_next_one() {
    let scene = Scene::new().await;
    let id = scene.register().await.id;
    scene.registry.send(SyncEndpoint(id)).await.expect("alive").expect("known");
    let report = LoadReport { active_requests: Some(9), ..LoadReport::default() };
    scene.registry.send(ReportLoad { endpoint: id, report }).await.expect("alive").expect("known");
    let old = scene.target().await;
    let next = FakeEndpoint::start(&["m"]).await;
    let moved = EndpointChange { base_url: Some(next.url()), ..EndpointChange::default() };
    scene.change(id, moved).await.expect("alive").expect("changed");
    scene.registry.send(SyncEndpoint(id)).await.expect("alive").expect("known");
    assert_eq!(scene.registry.send(ListReports(id)).await.expect("alive"), Ok(Vec::new()));
    let new = scene.target().await;

    assert_eq!(scene.after(scene.registry.send(blamed(&old))).await.last_error, None);
    assert!(scene.after(scene.registry.send(blamed(&new))).await.last_error.is_some());
    let view = scene.after(scene.registry.send(served(&old, Some("odd")))).await;
    assert!(view.last_error.is_some(), "another server has served it");
    assert_eq!(view.successful_requests, 1, "the endpoint's requests are counted whatever its server was");
    let view = scene.after(scene.registry.send(served(&new, None))).await;
    assert_eq!((view.last_error, view.successful_requests), (None, 2));
    let asked = next.page_asked(MODELS);
    scene.after(scene.registry.send(served(&new, Some("odd")))).await;
    next.until_page_asked(MODELS, asked + 1).await;
}

#[actix_web::test]
async fn an_endpoint_that_a_file_removes_is_not_changed_meanwhile_and_stays_removed() {
    let scene = Scene::new().await;
    scene.apply(&[("a", "http://127.0.0.1:1")]).await.expect("alive").expect("applied");
    let definition = EndpointDefinition::new("b", "http://127.0.0.1:2");
    let b = scene.registry.send(RegisterEndpoint(definition)).await.expect("alive").expect("registered").id;
    let moved = EndpointChange { base_url: Some("http://127.0.0.1:3".to_owned()), ..EndpointChange::default() };
    let send = || (scene.apply(&[("a", "http://127.0.0.1:2")]), scene.change(b, moved));
    let (applied, changed) = scene.while_locked(send).await;
    applied.await.expect("alive").expect("applied");
    let refusal = changed.await.expect("alive").expect_err("it is being removed");
    assert_eq!(refusal, RegistryError::BeingChanged("b".to_owned()));
    assert_eq!(scene.endpoints().await, pairs(&[("a", "http://127.0.0.1:2")]));
}

#[actix_web::test]
async fn a_file_that_comes_while_a_change_is_being_saved_is_applied_after_it() {
    let scene = Scene::new().await;
    let definition = EndpointDefinition::new("a", "http://127.0.0.1:1");
    let a = scene.registry.send(RegisterEndpoint(definition)).await.expect("alive").expect("registered").id;
    let renamed = EndpointChange { name: Some("b".to_owned()), ..EndpointChange::default() };
    let files = [[("b", "http://127.0.0.1:2")], [("b", "http://127.0.0.1:3")]];
    let send = || (scene.change(a, renamed), scene.apply(&files[0]), scene.apply(&files[1]));
    let (changed, older, newer) = scene.while_locked(send).await;
    assert_eq!(changed.await.expect("alive").expect("changed").name, "b");
    assert_eq!(older.await.expect("alive"), Ok(None), "a newer file has come");
    assert_eq!(newer.await.expect("alive"), Ok(Some((1, 0))));
    assert_eq!(scene.endpoints().await, pairs(&files[1]), "the file has taken it over");
}
