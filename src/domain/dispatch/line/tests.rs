use std::borrow::Cow;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::dispatch::limits::Limits;
use crate::domain::ids::{EndpointId, KeyId, ModelId, RequestId};
use crate::domain::keys::KeyLimits;
use crate::domain::request::ApiKind;

const MODELS: [&str; 3] = ["a", "b", "c"];

/// One action: a request of a client for a model joins, or a slot for some models takes one out.
type Action = (bool, u8, usize);

fn actions() -> impl Strategy<Value = Vec<Action>> {
    proptest::collection::vec((proptest::bool::weighted(0.75), 0_u8..4, 0_usize..3), 0..60)
}

struct Scene {
    line: Line,
    next_ticket: u64,
    /// The account of the key that client 3 belongs to.
    account: AccountNumber,
}

impl Scene {
    /// Returns a line after these actions. The models have the numbers of their places.
    fn after(actions: &[Action]) -> Self {
        let account = Limits::default().change(Moment::from_micros(0), KeyId(Uuid::nil()), KeyLimits::default());
        let mut scene = Self { line: Line::default(), next_ticket: 0, account };
        for (joins, client, model) in actions {
            if *joins {
                scene.join(*client, *model);
            } else {
                scene.take_next(&ModelSet::of(*model));
            }
        }
        scene
    }

    fn take_next(&mut self, models: &ModelSet) -> Option<WaitingRequest> {
        let slot = Slot { endpoint: EndpointId(Uuid::nil()), models: Cow::Borrowed(models), unserved: &[] };
        self.line.take_next(&slot)
    }

    fn request(client: ClientId, model: usize) -> LeaseRequest {
        let (model, api_kind) = (ModelId::from(MODELS[model]), ApiKind::ChatCompletions);
        LeaseRequest::new(RequestId::from("r"), model, api_kind, client)
    }

    fn join(&mut self, client: u8, model: usize) -> Ticket {
        self.join_as(ClientId::Named([client].into()), model)
    }

    fn join_as(&mut self, client: ClientId, model: usize) -> Ticket {
        let request = Self::request(client, model);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let (arrived, deadline) = (Moment::from_micros(0), Moment::from_micros(1));
        let charge = Charge { account: self.account, tokens: 0, is_sent: false };
        let charge = (request.client == ClientId::Named([3].into())).then_some(charge);
        let request = (Arc::new(request), ModelNumber(model));
        self.line.join(WaitingRequest::new(arrived, ticket, request, deadline, charge), deadline, false);
        ticket
    }
}

proptest! {
    #[test]
    fn the_position_is_the_place_in_the_order_of_service(
        actions in actions(),
        (client, model) in (0_u8..4, 0_usize..3),
        competing in proptest::collection::vec(0_usize..3, 0..3),
    ) {
        let mut scene = Scene::after(&actions);
        let mut models = ModelSet::of(model);
        competing.into_iter().for_each(|model| models.insert(model));
        let request = Scene::request(ClientId::Named([client].into()), model);
        let position = scene.line.position_of_next(&request, &models, None);
        let ticket = scene.join(client, model);
        prop_assert_eq!(scene.line.position_of(ticket, &models), Some(position));
        let mut served = std::iter::from_fn(|| scene.take_next(&models));
        prop_assert_eq!(served.position(|waiting| waiting.ticket == ticket), Some(position - 1));
    }

    #[test]
    fn clients_that_stand_aside_are_passed_over_and_not_counted(
        actions in actions(),
        (client, model) in (0_u8..3, 0_usize..3),
    ) {
        let mut scene = Scene::after(&actions);
        scene.line.set_aside(scene.account, true);
        let mut models = ModelSet::default();
        (0..MODELS.len()).for_each(|model| models.insert(model));
        let request = Scene::request(ClientId::Named([client].into()), model);
        let position = scene.line.position_of_next(&request, &models, None);
        let ticket = scene.join(client, model);
        scene.line.assert_consistent(|_| true);
        prop_assert_eq!(scene.line.position_of(ticket, &models), Some(position));
        let aside = scene.line.waiting_of(scene.account);
        let of_key = Scene::request(ClientId::Named([3].into()), model);
        prop_assert_eq!(scene.line.position_of_next(&of_key, &models, Some(scene.account)), aside + 1);
        let served: Vec<WaitingRequest> = std::iter::from_fn(|| scene.take_next(&models)).collect();
        prop_assert_eq!(served.iter().position(|waiting| waiting.ticket == ticket), Some(position - 1));
        prop_assert!(served.iter().all(|waiting| waiting.charge.is_none()));
        prop_assert_eq!(scene.line.len(), aside);
        scene.line.set_aside(scene.account, false);
        prop_assert_eq!(std::iter::from_fn(|| scene.take_next(&models)).count(), aside);
    }

    #[test]
    fn between_two_turns_of_a_client_every_other_has_at_most_one(actions in actions()) {
        let mut scene = Scene::after(&actions);
        let mut models = ModelSet::default();
        (0..MODELS.len()).for_each(|model| models.insert(model));
        let mut turns: Vec<ClientId> = Vec::new();
        while let Some(waiting) = scene.take_next(&models) {
            let client = waiting.request.client.clone();
            let since = turns.iter().rposition(|earlier| *earlier == client).map_or(0, |last| last + 1);
            let others = &turns[since..];
            let twice = others.iter().enumerate().find(|(at, other)| others[..*at].contains(other));
            prop_assert!(twice.is_none(), "{twice:?} had two turns while {client:?} waited");
            turns.push(client);
        }
        prop_assert_eq!(scene.line.len(), 0);
        prop_assert!(scene.line.clients.is_empty() && scene.line.ring.is_empty() && scene.line.demand.is_empty());
    }
}

#[test]
fn a_hundred_thousand_clients_leave_nothing_behind() {
    let mut scene = Scene::after(&[]);
    for number in 0..100_000_u32 {
        scene.join_as(ClientId::Named(number.to_be_bytes().into()), 0);
    }
    while scene.take_next(&ModelSet::of(0)).is_some() {}
    assert_eq!((scene.line.entries.capacity(), scene.line.clients.capacity()), (0, 0));
}
