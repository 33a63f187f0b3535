use std::collections::BTreeSet;

use actix::{Addr, MessageResult};
use futures_util::FutureExt;
use tokio::time::{advance, pause};
use uuid::Uuid;

use super::*;
use crate::actors::facts::{KeysChanged, TokensUsed};
use crate::domain::dispatch::admission::Admission;
use crate::domain::dispatch::{Queued, RateLimit};
use crate::domain::endpoint::{EndpointDefinition, EndpointFacts, EndpointStatus};
use crate::domain::ids::{ClientId, EndpointId, KeyId, ModelId, RequestId};
use crate::domain::keys::KeyLimits;
use crate::domain::request::{ApiKind, Failure, LeaseRequest, Outcome, Refusal, UnservedRequest};
use crate::domain::target::Target;

/// A neighbour that keeps the messages it gets.
#[derive(Default)]
struct Probe {
    ended: Vec<Arc<EndedLease>>,
    unserved: Vec<UnservedRequest>,
}

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<LeasesEnded> for Probe {
    type Result = ();

    fn handle(&mut self, LeasesEnded(ended): LeasesEnded, _: &mut Context<Self>) {
        self.ended.extend(ended);
    }
}

impl Handler<RequestUnserved> for Probe {
    type Result = ();

    fn handle(&mut self, RequestUnserved(unserved): RequestUnserved, _: &mut Context<Self>) {
        self.unserved.push(unserved);
    }
}

impl Handler<Publish> for Probe {
    type Result = ();

    fn handle(&mut self, _: Publish, _: &mut Context<Self>) {}
}

#[derive(Message)]
#[rtype(result = "Vec<Outcome>")]
struct Outcomes;

impl Handler<Outcomes> for Probe {
    type Result = Vec<Outcome>;

    fn handle(&mut self, _: Outcomes, _: &mut Context<Self>) -> Vec<Outcome> {
        self.ended.iter().map(|ended| ended.outcome.clone()).collect()
    }
}

struct Scene {
    manager: Addr<LoadManager>,
    desk: LeaseDesk,
    probe: Addr<Probe>,
}

/// An endpoint that serves `m` with one slot.
fn facts(id: u128) -> EndpointFacts {
    let definition = EndpointDefinition::new(id.to_string(), format!("http://{id}"));
    EndpointFacts {
        target: Arc::new(Target::new(EndpointId(Uuid::from_u128(id)), &definition)),
        max_concurrency: 1,
        capability_score: None,
        models: Arc::new(BTreeSet::from([ModelId::from("m")])),
        may_serve_any: false,
        status: EndpointStatus::Online,
    }
}

/// Starts a manager with one endpoint that serves `m` with one slot, in paused time.
async fn scene() -> Scene {
    pause();
    let probe = Probe::default().start();
    let admission = Admission { delay_threshold: 1.0, reject_threshold: 1.0, max_delay: Duration::ZERO };
    let rules = QueueRules { max_waiting: 10, admission, warm_up: Duration::ZERO };
    let manager =
        LoadManager::new(rules, Balancing::default(), probe.clone().recipient(), probe.clone().recipient()).start();
    manager.do_send(Observe(probe.clone().recipient()));
    manager.send(EndpointsChanged { updated: vec![facts(1)], removed: Vec::new() }).await.expect("alive");
    let desk = LeaseDesk::new(manager.clone(), Duration::from_secs(5));
    Scene { manager, desk, probe }
}

fn request() -> LeaseRequest {
    LeaseRequest::new(
        RequestId::from("r"),
        ModelId::from("m"),
        ApiKind::ChatCompletions,
        ClientId::Named((*b"c").into()),
    )
}

impl Scene {
    fn acquire(&self) -> impl Future<Output = LeaseAnswer> {
        self.desk.acquire(Ask::First(Arc::new(request())), self.desk.deadline(), None)
    }

    async fn in_flight(&self) -> u32 {
        self.manager.send(ReadOccupancy).await.expect("alive").values().map(|occupancy| occupancy.in_flight).sum()
    }

    async fn outcomes(&self) -> Vec<Outcome> {
        self.in_flight().await;
        self.probe.send(Outcomes).await.expect("alive")
    }
}

#[actix::test]
async fn a_lease_reports_its_end_exactly_once() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    assert_eq!(scene.in_flight().await, 1);
    lease.end(Outcome::Succeeded { tokens: None });
    assert_eq!(scene.in_flight().await, 0);
    drop(scene.acquire().await.expect("free again"));
    assert_eq!(scene.outcomes().await, [Outcome::Succeeded { tokens: None }, Outcome::Abandoned]);
}

#[actix::test]
async fn who_waits_too_long_is_refused_on_time() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    let mut waiting = Box::pin(scene.acquire());
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(scene.in_flight().await, 1, "the request has arrived");
    advance(Duration::from_millis(4900)).await;
    assert!(waiting.as_mut().now_or_never().is_none());
    advance(Duration::from_millis(200)).await;
    let refusal = waiting.await.expect_err("too late");
    let Refusal::QueueTimeout { waited } = refusal else { panic!("{refusal:?}") };
    assert!((5.0..5.2).contains(&waited.as_secs_f64()), "{waited:?}");
    lease.end(Outcome::Abandoned);
    assert_eq!(scene.in_flight().await, 0);
}

#[actix::test]
async fn one_who_leaves_gives_back_whatever_it_has() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    let mut left_while_waiting = Box::pin(scene.acquire());
    assert!(left_while_waiting.as_mut().now_or_never().is_none());
    let mut left_when_granted = Box::pin(scene.acquire());
    assert!(left_when_granted.as_mut().now_or_never().is_none());
    assert_eq!(scene.in_flight().await, 1, "both requests have arrived");
    drop(left_while_waiting);
    lease.end(Outcome::Succeeded { tokens: None });
    assert_eq!(scene.in_flight().await, 1, "granted to the one that still waits");
    drop(left_when_granted);
    assert_eq!(scene.in_flight().await, 0);
    assert_eq!(scene.outcomes().await, [Outcome::Succeeded { tokens: None }, Outcome::Abandoned]);
}

#[actix::test]
async fn a_drain_refuses_waits_and_ends_what_is_left_after_its_grace() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    let mut waiting = Box::pin(scene.acquire());
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut drain = Box::pin(scene.manager.send(Drain { grace: Duration::from_secs(30) }));
    assert!(drain.as_mut().now_or_never().is_none());
    assert_eq!(waiting.await.expect_err("draining"), Refusal::Draining);
    assert_eq!(scene.acquire().await.expect_err("draining"), Refusal::Draining);
    advance(Duration::from_secs(29)).await;
    assert!(drain.as_mut().now_or_never().is_none());
    advance(Duration::from_secs(2)).await;
    assert_eq!(drain.await, Ok(1), "one was cut");
    drop(lease);
    assert_eq!(scene.outcomes().await, [Outcome::Failed(Failure::ShutDown)], "its later end is ignored");
}

#[actix::test]
async fn a_drain_is_over_with_the_last_lease() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    let mut drain = Box::pin(scene.manager.send(Drain { grace: Duration::from_secs(30) }));
    assert!(drain.as_mut().now_or_never().is_none());
    lease.end(Outcome::Abandoned);
    assert_eq!(drain.await, Ok(0), "nothing was cut");
}

#[derive(Message)]
#[rtype(result = "(Vec<bool>, Vec<Option<Refusal>>)")]
struct Ends;

impl Handler<Ends> for Probe {
    type Result = MessageResult<Ends>;

    fn handle(&mut self, _: Ends, _: &mut Context<Self>) -> Self::Result {
        let finals = self.ended.iter().map(|ended| ended.is_final).collect();
        MessageResult((finals, self.unserved.iter().map(|unserved| unserved.refusal.clone()).collect()))
    }
}

impl Scene {
    /// Returns for each ended lease whether it ended its request, and how requests without a lease ended.
    async fn ends(&self) -> (Vec<bool>, Vec<Option<Refusal>>) {
        self.in_flight().await;
        self.probe.send(Ends).await.expect("alive")
    }

    /// Hands in a lease as failed and asks for another.
    fn retry(&self, mut lease: Lease) -> impl Future<Output = LeaseAnswer> {
        lease.fail(Failure::Status(500));
        self.desk.acquire(Ask::Again(lease), self.desk.deadline(), None)
    }
}

#[actix::test]
async fn a_request_ends_once_however_many_leases_it_took() {
    let scene = scene().await;
    scene.manager.send(EndpointsChanged { updated: vec![facts(2)], removed: Vec::new() }).await.expect("alive");
    let lease = scene.acquire().await.expect("free");
    let lease = scene.retry(lease).await.expect("another endpoint is free");
    assert_eq!(scene.ends().await, (vec![false], vec![]));
    let refusal = scene.retry(lease).await.expect_err("there is no other");
    assert!(matches!(refusal, Refusal::NothingUntried { .. }));
    assert_eq!(scene.ends().await, (vec![false, true], vec![]), "the failure is the answer");
    let removed = vec![EndpointId(Uuid::from_u128(2))];
    scene.manager.send(EndpointsChanged { updated: Vec::new(), removed }).await.expect("alive");
    let holder = scene.acquire().await.expect("free");
    let mut left = Box::pin(scene.acquire());
    assert!(left.as_mut().now_or_never().is_none());
    scene.in_flight().await;
    drop(left);
    assert_eq!(scene.ends().await.1, [None], "it left while it waited");
    drop(holder);
    assert_eq!(scene.in_flight().await, 0);
}

#[actix::test]
async fn what_the_shutdown_has_cut_off_is_not_tried_again() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    assert_eq!(scene.manager.send(Drain { grace: Duration::ZERO }).await, Ok(1), "one was cut");
    assert_eq!(scene.retry(lease).await.expect_err("it is over"), Refusal::Draining);
    assert_eq!(scene.ends().await, (vec![true], vec![]), "it has ended once");
}

#[actix::test]
async fn updates_end_with_the_wait() {
    let scene = scene().await;
    let lease = scene.acquire().await.expect("free");
    let wait =
        |sender| Box::pin(scene.desk.acquire(Ask::First(Arc::new(request())), scene.desk.deadline(), Some(sender)));
    let (sender, served_updates) = tokio::sync::watch::channel(None);
    let mut served = wait(sender);
    assert!(served.as_mut().now_or_never().is_none());
    let (sender, left_updates) = tokio::sync::watch::channel(None);
    let mut left = wait(sender);
    assert!(left.as_mut().now_or_never().is_none());
    scene.in_flight().await;
    let place = |updates: &tokio::sync::watch::Receiver<Option<Queued>>| updates.borrow().map(|queued| queued.position);
    assert_eq!((place(&served_updates), place(&left_updates)), (Some(1), Some(2)));
    drop(left);
    lease.end(Outcome::Succeeded { tokens: None });
    scene.in_flight().await;
    for updates in [served_updates, left_updates] {
        assert_eq!(place(&updates), None);
        assert!(updates.has_changed().is_err(), "nobody can send to it any more");
    }
    drop(served.await.expect("granted"));
    scene.in_flight().await;
}

#[actix::test]
async fn a_key_that_has_used_its_day_is_refused_and_a_raised_cap_serves_who_waits() {
    let scene = scene().await;
    let key = KeyId(Uuid::from_u128(7));
    let ask = || {
        let request = LeaseRequest { client: ClientId::Key(key), ..request() }.with_key(key, "k".into(), 4);
        scene.desk.acquire(Ask::First(Arc::new(request)), scene.desk.deadline(), None)
    };
    let change = |limits| scene.manager.send(KeysChanged { updated: vec![(key, limits)], removed: Vec::new() });
    let limits = KeyLimits { tokens_per_day: Some(100), ..KeyLimits::default() };
    change(limits).await.expect("alive");
    let (today, yesterday) = (clock::today().0, clock::today().0.pred_opt().expect("a date"));
    let used = |date, tokens| TokensUsed { date, used: vec![(key, tokens)] };
    scene.manager.send(used(yesterday, 100)).await.expect("alive");
    ask().await.expect("nothing was used today").end(Outcome::Succeeded { tokens: None });
    scene.manager.send(used(today, 99)).await.expect("alive");
    let refusal = ask().await.expect_err("all is used");
    let Refusal::RateLimitExceeded { limit: RateLimit::TokensPerDay, value: 100, retry_after, .. } = refusal else {
        panic!("{refusal:?}")
    };
    assert!(retry_after <= Duration::from_secs(25 * 60 * 60));
    change(KeyLimits { max_concurrency: Some(1), ..KeyLimits::default() }).await.expect("alive");
    scene.manager.send(EndpointsChanged { updated: vec![facts(2)], removed: Vec::new() }).await.expect("alive");
    let first = ask().await.expect("free");
    let mut second = Box::pin(ask());
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(scene.in_flight().await, 1, "the second waits although an endpoint is free");
    change(KeyLimits { max_concurrency: Some(2), ..KeyLimits::default() }).await.expect("alive");
    drop((first, second.await.expect("the cap was raised")));
    assert_eq!(scene.in_flight().await, 0);
}
