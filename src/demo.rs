//! `leaseway demo`: runs a whole system on a machine without a GPU.
//!
//! It has three simulated endpoints of different speeds, which are real HTTP servers with real token streams, an agent beside
//! each that reports its load, and a few clients that keep the endpoints lightly busy. Nothing is kept on disk.

mod engine;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::engine::{Engine, Running};
use crate::app::{self, Leaseway, StartError};
use crate::config::{Config, UpstreamConfig};
use crate::domain::endpoint::EndpointDefinition;
use crate::upstream::client::{Client, build_client};

/// The simulated endpoints.
const ENGINES: [Engine; 3] = [
    Engine { name: "demo-fast", models: &["demo-small"], slots: 4, tokens_per_second: 80 },
    Engine { name: "demo-medium", models: &["demo-small", "demo-large"], slots: 2, tokens_per_second: 40 },
    Engine { name: "demo-slow", models: &["demo-small"], slots: 1, tokens_per_second: 12 },
];

/// How often an agent reports the load of its endpoint.
const REPORT_INTERVAL: Duration = Duration::from_secs(3);

/// The clients: the model that each asks for, and how long it rests between two requests.
const CLIENTS: [(&str, Duration); 4] = [
    ("demo-small", Duration::from_millis(300)),
    ("demo-small", Duration::from_millis(900)),
    ("demo-small", Duration::from_millis(1700)),
    ("demo-large", Duration::from_millis(1100)),
];

/// Starts the endpoints, Leaseway in front of them, and the traffic, and prints on stdout what to try.
///
/// # Errors
/// If Leaseway cannot start, or no port is free for an endpoint.
pub fn start(mut config: Config) -> Result<Leaseway, StartError> {
    config.database.url = "sqlite://:memory:".to_owned();
    // Its clients would not know the authority of a certificate.
    config.tls = None;
    (config.endpoints, config.keys) = (Vec::new(), Vec::new());
    let mut engines = Vec::new();
    for engine in &ENGINES {
        let (address, running) = engine.start()?;
        engines.push((engine.name, running));
        config.endpoints.push(EndpointDefinition {
            max_concurrency: Some(engine.slots),
            ..EndpointDefinition::new(engine.name, format!("http://{address}"))
        });
    }
    let upstream = config.upstream.clone();
    let endpoints = config.endpoints.clone();
    let leaseway = app::start(config)?;
    introduce(leaseway.address, &endpoints);
    for (name, running) in engines {
        actix_web::rt::spawn(agent(leaseway.address, upstream.clone(), name, running));
    }
    for (number, (model, rest)) in CLIENTS.into_iter().enumerate() {
        actix_web::rt::spawn(client(leaseway.address, upstream.clone(), number, model, rest));
    }
    Ok(leaseway)
}

fn introduce(address: SocketAddr, endpoints: &[EndpointDefinition]) {
    println!("Leaseway listens on http://{address} in front of three simulated endpoints:");
    for (endpoint, engine) in endpoints.iter().zip(&ENGINES) {
        let (name, url, models) = (&endpoint.name, &endpoint.base_url, engine.models.join(", "));
        println!("  {name:<12} {url}  {} slots, {} tokens/s, {models}", engine.slots, engine.tokens_per_second);
    }
    println!("Watch them at http://{address}/dashboard");
    println!("Try:");
    println!(
        "  curl -N http://{address}/v1/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"model\":\"demo-small\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'"
    );
    println!("  curl http://{address}/api/endpoints");
    println!("Stop with Ctrl-C.");
}

/// Sends a request, reads the answer, rests, and repeats this for as long as the process lives.
async fn client(address: SocketAddr, config: UpstreamConfig, number: usize, model: &'static str, rest: Duration) {
    let client = build_client(&config, false);
    let url = format!("http://{address}/v1/chat/completions");
    for round in 0.. {
        let question = json!({
            "model": model,
            "stream": !(number + round).is_multiple_of(3),
            "max_tokens": 20 + (number * 37 + round * 11) % 60,
            "messages": [{ "role": "user", "content": format!("Question {round} of client {number}") }],
        });
        match client.request(Method::POST, &url).send_json(&question).await {
            Ok(mut answer) => while answer.next().await.is_some_and(|piece| piece.is_ok()) {},
            Err(error) => log::debug!("demo client got no answer error=\"{error}\""),
        }
        sleep(rest).await;
    }
}

/// Reports an endpoint's load every [`REPORT_INTERVAL`] for as long as the process lives.
async fn agent(address: SocketAddr, config: UpstreamConfig, name: &'static str, running: Arc<Running>) {
    let client = build_client(&config, false);
    loop {
        if let Err(error) = report(&client, address, name, &running).await {
            log::debug!("demo agent could not report endpoint={name} error=\"{error}\"");
        }
        sleep(REPORT_INTERVAL).await;
    }
}

/// Finds an endpoint's id by its name and reports its load.
async fn report(client: &Client, address: SocketAddr, name: &str, running: &Running) -> Result<(), Box<dyn Error>> {
    let endpoints: Vec<Value> = client.get(format!("http://{address}/api/endpoints")).send().await?.json().await?;
    let endpoint = endpoints.iter().find(|endpoint| endpoint["name"] == name).ok_or("the endpoint is gone")?;
    let id = endpoint["id"].as_str().ok_or("the endpoint has no id")?;
    client.post(format!("http://{address}/api/endpoints/{id}/metrics")).send_json(&running.report()).await?;
    Ok(())
}
