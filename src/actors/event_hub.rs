//! EventHub: sends events to the viewers.
//!
//! Events are gathered for 100 ms, so that a viewer gets at most ten events of one key in a second, and each event is turned
//! into JSON once for all viewers. A viewer that does not keep up gets nothing more until its mailbox has room, and then
//! reads everything anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::SendError;
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};

use crate::domain::event::{Event, EventKey};

/// How long events are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(100);

/// The most events that are gathered. When there are more, events that were replaced are removed; if that is not enough, all
/// are removed and every viewer reads everything anew.
const GATHERED_MAX: usize = 10_000;

/// Owns the list of viewers.
#[derive(Default)]
pub struct EventHub {
    /// One viewer for each WebSocket, so that the number of the server's connections is their bound. A viewer that has gone is
    /// removed when the next events are sent or the next viewer comes.
    viewers: Vec<Viewer>,
    /// The events to send, in order; `None` where a newer event of the same key has replaced an event. At most
    /// [`GATHERED_MAX`].
    gathered: Vec<Option<Event>>,
    /// The index in `gathered` of the newest event of each key.
    places: HashMap<EventKey, usize>,
    /// True while a [`GatherDue`] is scheduled.
    is_due: bool,
}

/// One WebSocket session.
struct Viewer {
    mailbox: Recipient<Broadcast>,
    /// True if the viewer has missed events.
    is_behind: bool,
}

impl Actor for EventHub {
    type Context = Context<Self>;
}

/// A message to a viewer.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub enum Broadcast {
    /// Events, each as JSON, in order.
    Events(Arc<[String]>),
    /// The viewer has missed events and must read everything anew.
    StartAfresh,
    /// Leaseway is stopping; the viewer must close its connection.
    Close,
}

/// Adds a viewer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<Broadcast>);

impl Handler<Subscribe> for EventHub {
    type Result = ();

    fn handle(&mut self, Subscribe(mailbox): Subscribe, _: &mut Context<Self>) {
        self.viewers.retain(|viewer| viewer.mailbox.connected());
        self.viewers.push(Viewer { mailbox, is_behind: false });
    }
}

/// Sends an event to every viewer; the newest event of a key replaces older ones that have not been sent.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Publish(pub Event);

impl Handler<Publish> for EventHub {
    type Result = ();

    fn handle(&mut self, Publish(event): Publish, ctx: &mut Context<Self>) {
        if self.viewers.is_empty() {
            return;
        }
        self.arm(ctx);
        if self.gathered.len() >= GATHERED_MAX {
            self.make_room();
        }
        if let Some(key) = event.key()
            && let Some(place) = self.places.insert(key, self.gathered.len())
        {
            self.gathered[place] = None;
        }
        self.gathered.push(Some(event));
    }
}

/// It is time to send the gathered events.
#[derive(Message)]
#[rtype(result = "()")]
struct GatherDue;

impl Handler<GatherDue> for EventHub {
    type Result = ();

    fn handle(&mut self, _: GatherDue, ctx: &mut Context<Self>) {
        self.is_due = false;
        self.send_gathered();
        if self.viewers.iter().any(|viewer| viewer.is_behind) {
            self.arm(ctx);
        }
    }
}

/// Sends the gathered events, then closes the session of every viewer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseViewers;

impl Handler<CloseViewers> for EventHub {
    type Result = ();

    fn handle(&mut self, _: CloseViewers, _: &mut Context<Self>) {
        self.send_gathered();
        for viewer in self.viewers.drain(..) {
            viewer.mailbox.do_send(Broadcast::Close);
        }
    }
}

impl EventHub {
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_due, true) {
            ctx.notify_later(GatherDue, GATHER);
        }
    }

    /// Removes the gaps of replaced events. If more than half of the room is still taken, removes all events and makes every
    /// viewer read everything anew.
    fn make_room(&mut self) {
        self.gathered.retain(Option::is_some);
        if self.gathered.len() > GATHERED_MAX / 2 {
            self.gathered.clear();
            self.viewers.iter_mut().for_each(|viewer| viewer.is_behind = true);
        }
        let keys = self.gathered.iter().map(|event| event.as_ref().and_then(Event::key));
        self.places = keys.enumerate().filter_map(|(place, key)| Some((key?, place))).collect();
    }

    fn send_gathered(&mut self) {
        self.places.clear();
        let write = |event: Event| serde_json::to_string(&event).expect("an event has text keys only");
        let events: Arc<[String]> = self.gathered.drain(..).flatten().map(write).collect();
        self.viewers.retain_mut(|viewer| viewer.send(&events));
    }
}

impl Viewer {
    /// Sends events. Returns false if the viewer has gone. The mailbox of a viewer that does not read is full.
    fn send(&mut self, events: &Arc<[String]>) -> bool {
        let message = match self.is_behind {
            true => Broadcast::StartAfresh,
            false if events.is_empty() => return true,
            false => Broadcast::Events(events.clone()),
        };
        match self.mailbox.try_send(message) {
            Ok(()) => self.is_behind = false,
            Err(SendError::Full(_)) => self.is_behind = true,
            Err(SendError::Closed(_)) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::event::QueueDepth;
    use crate::domain::ids::EndpointId;

    struct Listener(Vec<Broadcast>);

    impl Actor for Listener {
        type Context = Context<Self>;
    }

    impl Handler<Broadcast> for Listener {
        type Result = ();

        fn handle(&mut self, message: Broadcast, _: &mut Context<Self>) {
            self.0.push(message);
        }
    }

    #[derive(Message)]
    #[rtype(result = "Vec<String>")]
    struct Seen;

    impl Handler<Seen> for Listener {
        type Result = Vec<String>;

        fn handle(&mut self, _: Seen, _: &mut Context<Self>) -> Vec<String> {
            let show = |message: &Broadcast| match message {
                Broadcast::Events(texts) => texts.join(" "),
                Broadcast::StartAfresh => "afresh".to_owned(),
                Broadcast::Close => "close".to_owned(),
            };
            self.0.iter().map(show).collect()
        }
    }

    #[actix::test]
    async fn of_events_with_the_same_key_only_the_newest_is_sent() {
        let hub = EventHub::default().start();
        let viewer = Listener(Vec::new()).start();
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

    #[actix::test]
    async fn what_is_gathered_is_bounded() {
        tokio::time::pause();
        let hub = EventHub::default().start();
        let viewer = Listener(Vec::new()).start();
        hub.send(Subscribe(viewer.clone().recipient())).await.expect("alive");
        let publish = |event: Event| hub.send(Publish(event));
        for waiting in 0..=GATHERED_MAX {
            let depth = QueueDepth { waiting, ..QueueDepth::default() };
            publish(Event::QueueDepth(depth)).await.expect("alive");
        }
        let sent = async || {
            tokio::time::advance(GATHER * 2).await;
            hub.send(Subscribe(Listener(Vec::new()).start().recipient())).await.expect("alive");
            hub.send(Subscribe(Listener(Vec::new()).start().recipient())).await.expect("alive");
            viewer.send(Seen).await.expect("alive")
        };
        let seen = sent().await;
        assert_eq!(seen.len(), 1, "what was replaced takes no room: {seen:?}");
        assert!(seen[0].contains(&format!(r#""waiting":{GATHERED_MAX},"#)), "{seen:?}");
        for number in 0..=GATHERED_MAX as u128 {
            let endpoint_id = EndpointId(Uuid::from_u128(number));
            publish(Event::EndpointRemoved { endpoint_id }).await.expect("alive");
        }
        assert_eq!(sent().await[1..], ["afresh"]);
    }

    #[actix::test]
    async fn one_who_does_not_keep_up_starts_afresh_and_slows_nobody() {
        tokio::time::pause();
        let hub = EventHub::default().start();
        let (sender, receiver) = actix::dev::channel::channel(2);
        let (stalled, reading) = (actix::Addr::new(sender), Listener(Vec::new()).start());
        hub.send(Subscribe(stalled.clone().recipient())).await.expect("alive");
        hub.send(Subscribe(reading.clone().recipient())).await.expect("alive");
        for waiting in 0..10 {
            hub.send(Publish(Event::QueueDepth(QueueDepth { waiting, ..QueueDepth::default() }))).await.expect("alive");
            tokio::time::advance(GATHER * 2).await;
            reading.send(Seen).await.expect("alive");
        }
        let seen = reading.send(Seen).await.expect("alive");
        assert_eq!(seen.len(), 10, "{seen:?}");
        // From now on the stalled viewer reads.
        Context::with_receiver(receiver).run(Listener(Vec::new()));
        tokio::time::advance(GATHER * 2).await;
        hub.send(Publish(Event::QueueDepth(QueueDepth::default()))).await.expect("alive");
        tokio::time::advance(GATHER * 2).await;
        hub.send(CloseViewers).await.expect("alive");
        let seen = stalled.send(Seen).await.expect("alive");
        assert!(seen.len() < 7 && seen.contains(&"afresh".to_owned()), "{seen:?}");
        assert_eq!(seen.last().map(String::as_str), Some("close"));
    }
}
