//! Talking to endpoints. The only place that names awc.

pub mod client;
mod headers;
pub mod request_body;
mod stream;
mod usage;
