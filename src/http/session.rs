//! One viewer's session: a WebSocket that gets the overview once, and then every event.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Handler, StreamHandler, WrapFuture};
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, web};
use actix_web_actors::ws;
use serde::Serialize;

use super::auth;
use super::error::ApiError;
use super::frames::ShortFrames;
use super::overview::Overview;
use super::{HttpReply, Services};
use crate::actors::event_hub::{Broadcast, Subscribe};
use crate::clock;
use crate::domain::keys::Scope;
use crate::domain::time::Moment;

/// How often a viewer is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(15);

/// How often the viewer's key is checked: a revoked key may look on for so long.
const KEY_INTERVAL: Duration = Duration::from_secs(1);

/// A viewer that has sent nothing for this long, not even a pong, is taken to be gone.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// The first messages of a session, in the form of events.
#[derive(Serialize)]
#[serde(tag = "type", content = "data")]
enum First {
    /// Everything that the viewer sees first.
    Snapshot(Overview),
}

/// The actor of one viewer's session.
pub struct Session {
    services: web::Data<Services>,
    /// The headers of the handshake, which have the viewer's key or cookie.
    headers: HeaderMap,
    /// Events that come while the overview is being read, sent after it; `None` while no overview is being read. Their number
    /// is bounded by the time that reading takes, at most [`super::ANSWER_TIMEOUT`] for each question, and by the ten events of
    /// one key that the hub sends in a second.
    held: Option<Vec<Arc<[String]>>>,
    /// The viewer missed events while the overview was being read, so that the overview must be read again.
    is_stale: bool,
    /// When the viewer last sent anything.
    heard: Moment,
}

impl Session {
    /// Answers a WebSocket handshake.
    ///
    /// # Errors
    /// If the request is not a WebSocket handshake.
    pub fn open(services: web::Data<Services>, request: &HttpRequest, payload: web::Payload) -> HttpReply {
        let headers = request.headers().clone();
        let session = Self { services, headers, held: None, is_stale: false, heard: clock::now() };
        ws::start(session, request, ShortFrames::new(payload)).map_err(|error| ApiError::invalid(error.to_string()))
    }

    /// Sends the overview, and then the events that have come while it was read.
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
                    log::debug!("viewer's session closed, the overview cannot be read error=\"{error}\"");
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
        ctx.run_interval(KEY_INTERVAL, |session, ctx| {
            if !auth::may_still(Scope::Read, &session.headers, &session.services) {
                leave(ctx, ws::CloseCode::Policy);
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
            // `ShortFrames` refuses a frame that is too long with an I/O error. A broken connection comes here, too, and nobody
            // reads its close code.
            Err(ws::ProtocolError::Io(_)) => leave(ctx, ws::CloseCode::Size),
            Err(_) => leave(ctx, ws::CloseCode::Protocol),
        }
    }
}
