//! Sends requests and probes to endpoints. No other part of the crate uses awc.

mod answer;
pub mod body;
pub mod client;
mod engine_load;
pub mod forward;
mod headers;
mod json_meter;
pub mod look;
pub mod operator;
mod page;
pub mod probe;
pub mod request_body;
mod socket;
mod stream_meter;
pub mod via;
mod wire;
