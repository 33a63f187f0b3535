//! A simulated inference server. It answers at its own speed, and with 429 when all its slots are taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::app::StartError;

const WORDS: [&str; 16] = [
    "a", "lease", "is", "the", "right", "to", "use", "one", "slot", "of", "an", "endpoint", "for", "one", "request",
    "only",
];

/// The length of an answer if the request has no `max_tokens`, in tokens.
const TOKENS_DEFAULT: u32 = 48;

/// The longest answer, in tokens.
const TOKENS_MAX: u32 = 500;

/// The properties of a simulated server.
pub struct Engine {
    /// The name of its endpoint.
    pub name: &'static str,
    /// The models that it lists.
    pub models: &'static [&'static str],
    /// How many requests it works on at one time, at least 1.
    pub slots: u32,
    /// The speed of each answer, at least 1.
    pub tokens_per_second: u32,
}

#[derive(Deserialize)]
struct Question {
    model: String,
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u32>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// A server that has been started.
pub struct Running {
    models: &'static [&'static str],
    slots: u32,
    token_time: Duration,
    active: AtomicU32,
}

/// One slot in use; dropping it frees the slot.
struct Slot(Arc<Running>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts the server on a free port of the loopback interface, and returns its address.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(&self) -> Result<(SocketAddr, Arc<Running>), StartError> {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = web::Data::new(Running {
            models: self.models,
            slots: self.slots,
            token_time: Duration::from_secs(1) / self.tokens_per_second,
            active: AtomicU32::new(0),
        });
        let shared = running.clone();
        let app = move || {
            App::new()
                .app_data(shared.clone())
                .route("/v1/models", web::get().to(models))
                .route("/v1/chat/completions", web::post().to(chat))
        };
        let failed = |reason| StartError::Bind { address, reason };
        let server = HttpServer::new(app).workers(1).disable_signals().bind(address).map_err(failed)?;
        let bound = server.addrs().first().copied().unwrap_or(address);
        actix_web::rt::spawn(server.run());
        Ok((bound, running.into_inner()))
    }
}

impl Running {
    /// Returns a load report. The load of the simulated machine follows from the part of its slots that is taken.
    pub fn report(&self) -> Value {
        let active = self.active.load(Ordering::Relaxed);
        let taken = f64::from(active) / f64::from(self.slots);
        json!({
            "cpu_usage": 5.0 + 20.0 * taken,
            "memory_usage": 40.0,
            "gpu_usage": 70.0 * taken,
            "vram_usage": 60.0,
            "active_requests": active,
        })
    }
}

async fn models(running: web::Data<Running>) -> HttpResponse {
    let models = running.models.iter().map(|id| json!({ "id": id, "object": "model", "owned_by": "demo" }));
    HttpResponse::Ok().json(json!({ "object": "list", "data": models.collect::<Vec<Value>>() }))
}

async fn chat(running: web::Data<Running>, question: web::Json<Question>) -> HttpResponse {
    let running = running.into_inner();
    let slot = Slot(running.clone());
    if running.active.fetch_add(1, Ordering::Relaxed) >= running.slots {
        let error = json!({ "message": "all slots are busy", "type": "rate_limit_exceeded", "code": "busy" });
        return HttpResponse::TooManyRequests().json(json!({ "error": error }));
    }
    let question = question.into_inner();
    let tokens = question.max_tokens.unwrap_or(TOKENS_DEFAULT).clamp(1, TOKENS_MAX);
    if question.stream { stream_answer(slot, question, tokens) } else { whole_answer(slot, question, tokens).await }
}

async fn whole_answer(slot: Slot, question: Question, tokens: u32) -> HttpResponse {
    sleep(slot.0.token_time * tokens).await;
    let text: String = (0..tokens).map(word).collect();
    HttpResponse::Ok().json(json!({
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": 0,
        "model": question.model,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": "length",
        }],
        "usage": usage(tokens),
    }))
}

fn stream_answer(slot: Slot, question: Question, tokens: u32) -> HttpResponse {
    let model = question.model;
    let include_usage = question.stream_options.is_some_and(|options| options.include_usage);
    let chunk = move |choices: Value, usage: Value| {
        json!({
            "id": "chatcmpl-demo",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": model,
            "choices": choices,
            "usage": usage,
        })
    };
    let events = stream::unfold((slot, 0), move |(slot, token)| {
        let event = if token < tokens {
            let delta = json!({ "content": word(token) });
            event(&chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]), Value::Null))
        } else if token == tokens {
            let finish = chunk(json!([{ "index": 0, "delta": {}, "finish_reason": "length" }]), Value::Null);
            let usage = if include_usage { event(&chunk(json!([]), usage(tokens))) } else { String::new() };
            event(&finish) + &usage + "data: [DONE]\n\n"
        } else {
            String::new()
        };
        async move {
            if event.is_empty() {
                return None;
            }
            sleep(slot.0.token_time).await;
            Some((Ok::<_, actix_web::Error>(Bytes::from(event)), (slot, token + 1)))
        }
    });
    HttpResponse::Ok().content_type("text/event-stream").streaming(events)
}

fn event(chunk: &Value) -> String {
    format!("data: {chunk}\n\n")
}

fn word(token: u32) -> String {
    format!("{} ", WORDS[token as usize % WORDS.len()])
}

fn usage(tokens: u32) -> Value {
    json!({ "prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens })
}
