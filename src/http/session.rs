//! One viewer: a WebSocket that is told everything once, and then every event.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, StreamHandler, WrapFuture};
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws;
use serde::Serialize;

use super::Services;
use super::error::ApiError;
use super::frames::ShortFrames;
use super::overview::Overview;
use crate::actors::event_hub::{Broadcast, Subscribe};
use crate::clock;
use crate::domain::time::Moment;

const PING_INTERVAL: Duration = Duration::from_secs(15);

/// A peer that has been silent for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// What comes before every event, and looks like one.
#[derive(Serialize)]
#[serde(tag = "type", content = "data")]
enum First {
    Snapshot(Overview),
}

/// A viewer's session.
pub struct Session {
    services: web::Data<Services>,
    /// Events that came while the overview was read, which may be older than they are; `None` when it is not being read. They
    /// are those of the time that reading takes, [`super::ANSWER_TIMEOUT`] for each question at most, at ten a second of one
    /// key.
    held: Option<Vec<Arc<[String]>>>,
    /// Events were missed while the overview was read, parts of which may be older than they are.
    is_stale: bool,
    heard: Moment,
}

impl Session {
    /// Answers a WebSocket handshake.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(
        services: web::Data<Services>,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<HttpResponse, ApiError> {
        let session = Self { services, held: None, is_stale: false, heard: clock::now() };
        ws::start(session, request, ShortFrames::new(payload)).map_err(|error| ApiError::invalid(error.to_string()))
    }

    /// Sends everything there is to see, and then the events that have come meanwhile.
    fn send_snapshot(&mut self, ctx: &mut ws::WebsocketContext<Self>) {
        if self.held.is_some() {
            self.is_stale = true;
            return;
        }
        self.held = Some(Vec::new());
        let services = self.services.clone();
        let read = async move { Overview::read(&services).await };
        ctx.spawn(read.into_actor(self).map(|overview, session, ctx| {
            let held = session.held.take().unwrap_or_default();
            match overview {
                Ok(overview) => ctx.text(serde_json::to_string(&First::Snapshot(overview)).expect("text keys only")),
                Err(error) => {
                    log::debug!("viewer let go error=\"{error}\"");
                    return leave(ctx, ws::CloseCode::Again);
                }
            }
            held.iter().for_each(|events| send(ctx, events));
            if std::mem::take(&mut session.is_stale) {
                session.send_snapshot(ctx);
            }
        }));
    }
}

fn send(ctx: &mut ws::WebsocketContext<Session>, events: &[String]) {
    events.iter().for_each(|event| ctx.text(event.as_str()));
}

fn leave(ctx: &mut ws::WebsocketContext<Session>, code: ws::CloseCode) {
    ctx.close(Some(code.into()));
    ctx.stop();
}

impl Actor for Session {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.text(r#"{"type":"connected"}"#);
        self.services.events.do_send(Subscribe(ctx.address().recipient()));
        self.send_snapshot(ctx);
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
        match (message, &mut self.held) {
            (Broadcast::Events(events), Some(held)) => held.push(events),
            (Broadcast::Events(events), None) => send(ctx, &events),
            (Broadcast::StartAfresh, _) => self.send_snapshot(ctx),
            (Broadcast::Close, _) => leave(ctx, ws::CloseCode::Away),
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
            // The bytes ended badly: a frame that declared itself too long.
            Err(ws::ProtocolError::Io(_)) => leave(ctx, ws::CloseCode::Size),
            Err(_) => leave(ctx, ws::CloseCode::Protocol),
        }
    }
}
