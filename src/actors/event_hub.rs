//! EventHub: who listens.
//!
//! Events are gathered for a moment, so that a viewer gets at most ten a second of one kind and each is written once for
//! all viewers. A viewer that does not keep up is let go; it reconnects and starts afresh.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};

use crate::domain::event::{Event, EventKey};

const GATHER: Duration = Duration::from_millis(100);

/// Owns the list of viewers.
#[derive(Default)]
pub struct EventHub {
    viewers: Vec<Recipient<Broadcast>>,
    gathered: Vec<Event>,
    places: HashMap<EventKey, usize>,
}

impl Actor for EventHub {
    type Context = Context<Self>;
}

/// What a viewer is sent.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Broadcast {
    /// One event as JSON.
    Event(Arc<str>),
    /// Leaseway is stopping.
    Close,
}

/// Adds a viewer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<Broadcast>);

impl Handler<Subscribe> for EventHub {
    type Result = ();

    fn handle(&mut self, Subscribe(viewer): Subscribe, _: &mut Context<Self>) {
        self.viewers.push(viewer);
    }
}

/// Tells every viewer of an event.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Publish(pub Event);

impl Handler<Publish> for EventHub {
    type Result = ();

    fn handle(&mut self, Publish(event): Publish, ctx: &mut Context<Self>) {
        if self.viewers.is_empty() {
            return;
        }
        if self.gathered.is_empty() {
            ctx.notify_later(GatherDue, GATHER);
        }
        match event.key() {
            Some(key) => match self.places.get(&key) {
                Some(place) => self.gathered[*place] = event,
                None => {
                    self.places.insert(key, self.gathered.len());
                    self.gathered.push(event);
                }
            },
            None => self.gathered.push(event),
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct GatherDue;

impl Handler<GatherDue> for EventHub {
    type Result = ();

    fn handle(&mut self, _: GatherDue, _: &mut Context<Self>) {
        self.send_gathered();
    }
}

/// Sends what is gathered, then takes leave of every viewer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseViewers;

impl Handler<CloseViewers> for EventHub {
    type Result = ();

    fn handle(&mut self, _: CloseViewers, _: &mut Context<Self>) {
        self.send_gathered();
        for viewer in self.viewers.drain(..) {
            viewer.do_send(Broadcast::Close);
        }
    }
}

impl EventHub {
    fn send_gathered(&mut self) {
        self.places.clear();
        for event in self.gathered.drain(..) {
            let text: Arc<str> = match serde_json::to_string(&event) {
                Ok(text) => text.into(),
                Err(error) => {
                    log::error!("event cannot be written error={error}");
                    continue;
                }
            };
            // A full mailbox is a viewer that does not read.
            self.viewers.retain(|viewer| viewer.try_send(Broadcast::Event(text.clone())).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::QueueDepth;

    struct Viewer(Vec<Broadcast>);

    impl Actor for Viewer {
        type Context = Context<Self>;
    }

    impl Handler<Broadcast> for Viewer {
        type Result = ();

        fn handle(&mut self, message: Broadcast, _: &mut Context<Self>) {
            self.0.push(message);
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<String>")]
    struct Seen;

    impl Handler<Seen> for Viewer {
        type Result = Vec<String>;

        fn handle(&mut self, _: Seen, _: &mut Context<Self>) -> Vec<String> {
            let show = |message: &Broadcast| match message {
                Broadcast::Event(text) => text.to_string(),
                Broadcast::Close => "close".to_owned(),
            };
            self.0.iter().map(show).collect()
        }
    }

    #[actix::test]
    async fn of_events_with_the_same_key_only_the_newest_is_sent() {
        let hub = EventHub::default().start();
        let viewer = Viewer(Vec::new()).start();
        hub.send(Subscribe(viewer.clone().recipient())).await.expect("alive");
        for waiting in 1..=3 {
            let depth = QueueDepth { waiting, ..QueueDepth::default() };
            hub.send(Publish(Event::QueueDepth(depth))).await.expect("alive");
        }
        hub.send(CloseViewers).await.expect("alive");
        let seen = viewer.send(Seen).await.expect("alive");
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].contains(r#""waiting":3"#), "{seen:?}");
        assert_eq!(seen[1], "close");
    }
}
