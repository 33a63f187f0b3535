//! One viewer: a WebSocket that is told every event.

use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Handler, StreamHandler};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws;

use crate::actors::event_hub::{Broadcast, EventHub, Subscribe};
use crate::clock;
use crate::domain::time::Moment;

const PING_INTERVAL: Duration = Duration::from_secs(15);

/// A peer that has been silent for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// A viewer's session.
pub struct Session {
    events: Addr<EventHub>,
    heard: Moment,
}

impl Session {
    /// Answers a WebSocket handshake.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(
        events: Addr<EventHub>,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> actix_web::Result<HttpResponse> {
        ws::start(Self { events, heard: clock::now() }, request, payload)
    }
}

impl Actor for Session {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.text(r#"{"type":"connected"}"#);
        self.events.do_send(Subscribe(ctx.address().recipient()));
        ctx.run_interval(PING_INTERVAL, |session, ctx| {
            if clock::now().since(session.heard) > SILENCE_MAX {
                ctx.stop();
            } else {
                ctx.ping(b"");
            }
        });
    }
}

impl Handler<Broadcast> for Session {
    type Result = ();

    fn handle(&mut self, message: Broadcast, ctx: &mut Self::Context) {
        match message {
            Broadcast::Event(text) => ctx.text(&*text),
            Broadcast::Close => {
                ctx.close(Some(ws::CloseCode::Away.into()));
                ctx.stop();
            }
        }
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Session {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        self.heard = clock::now();
        match message {
            Ok(ws::Message::Ping(payload)) => ctx.pong(&payload),
            Ok(ws::Message::Close(reason)) => {
                ctx.close(reason);
                ctx.stop();
            }
            Ok(_) => {}
            Err(_) => ctx.stop(),
        }
    }
}
