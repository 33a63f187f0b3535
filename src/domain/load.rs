//! The load report that an endpoint, or an agent beside it, sends.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::endpoint::{CAPABILITY_SCORE, MODEL_NAME_MAX};

/// Percentages a report may give.
const PERCENT: RangeInclusive<f64> = 0.0..=100.0;

/// Temperatures a report may give, in degrees Celsius.
const TEMPERATURE: RangeInclusive<f64> = -50.0..=200.0;

/// How many loaded models a report may name.
pub const LOADED_MODELS_MAX: usize = 100;

/// A load report. A value that the reporter left out is `None`; unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Load of the CPU in percent, 0 to 100.
    pub cpu_usage: Option<f64>,
    /// Memory in use in percent, 0 to 100.
    pub memory_usage: Option<f64>,
    /// Requests that the endpoint works on.
    pub active_requests: Option<u32>,
    /// Mean duration of an answer in milliseconds, 0 or more.
    pub avg_response_time_ms: Option<f64>,
    /// Load of the GPU in percent, 0 to 100.
    pub gpu_usage: Option<f64>,
    /// GPU memory in use in percent, 0 to 100.
    pub vram_usage: Option<f64>,
    /// Temperature of the GPU in degrees Celsius, −50 to 200.
    pub gpu_temperature: Option<f64>,
    /// 0 to 10000, more is better.
    pub capability_score: Option<u32>,
    /// GPU memory that loaded models take, in bytes.
    pub vram_bytes: Option<u64>,
    /// The models in memory, [`LOADED_MODELS_MAX`] at most, if the server loads models on demand.
    pub loaded_models: Option<Vec<String>>,
    /// When the reporter made the report, by its own clock: RFC 3339 text or a number.
    pub timestamp: Option<Value>,
}

/// A value of a report that is not allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// The name of the field.
    pub field: &'static str,
    /// The given value and what is allowed, as the predicate of a sentence about the field.
    pub reason: String,
}

impl LoadReport {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that is not allowed.
    pub fn check(&self) -> Result<(), OutOfRange> {
        within("cpu_usage", self.cpu_usage, &PERCENT)?;
        within("memory_usage", self.memory_usage, &PERCENT)?;
        within("gpu_usage", self.gpu_usage, &PERCENT)?;
        within("vram_usage", self.vram_usage, &PERCENT)?;
        within("gpu_temperature", self.gpu_temperature, &TEMPERATURE)?;
        within("avg_response_time_ms", self.avg_response_time_ms, &(0.0..=f64::MAX))?;
        if let Some(score) = self.capability_score.filter(|score| !CAPABILITY_SCORE.contains(score)) {
            return Err(OutOfRange { field: "capability_score", reason: not_within(score, &CAPABILITY_SCORE) });
        }
        let loaded = self.loaded_models.as_deref().unwrap_or_default();
        if loaded.len() > LOADED_MODELS_MAX || loaded.iter().any(|name| name.len() > MODEL_NAME_MAX) {
            let allowed = format!("up to {LOADED_MODELS_MAX} names of up to {MODEL_NAME_MAX} bytes");
            let reason = format!("has {} names; allowed are {allowed}", loaded.len());
            return Err(OutOfRange { field: "loaded_models", reason });
        }
        match &self.timestamp {
            Some(Value::String(text)) if chrono::DateTime::parse_from_rfc3339(text).is_err() => {
                Err(OutOfRange { field: "timestamp", reason: format!("is {text:?}; allowed is RFC 3339 or a number") })
            }
            Some(Value::String(_) | Value::Number(_)) | None => Ok(()),
            Some(other) => {
                Err(OutOfRange { field: "timestamp", reason: format!("is {other}; allowed is RFC 3339 or a number") })
            }
        }
    }
}

fn within(field: &'static str, value: Option<f64>, allowed: &RangeInclusive<f64>) -> Result<(), OutOfRange> {
    match value.filter(|value| !allowed.contains(value)) {
        Some(value) if *allowed.end() == f64::MAX => {
            Err(OutOfRange { field, reason: format!("is {value}; allowed is {} or more", allowed.start()) })
        }
        Some(value) => Err(OutOfRange { field, reason: not_within(value, allowed) }),
        None => Ok(()),
    }
}

fn not_within<T: std::fmt::Display>(value: T, allowed: &RangeInclusive<T>) -> String {
    format!("is {value}; allowed is {} to {}", allowed.start(), allowed.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_range() {
        let check = |report: LoadReport, field: Option<&str>| {
            assert_eq!(report.check().err().map(|error| error.field), field, "{report:?}");
        };
        let percent = |value| LoadReport { cpu_usage: Some(value), ..LoadReport::default() };
        check(LoadReport::default(), None);
        for allowed in [0.0, 99.9, 100.0] {
            check(percent(allowed), None);
        }
        for wrong in [-0.1, 100.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            check(percent(wrong), Some("cpu_usage"));
            check(LoadReport { memory_usage: Some(wrong), ..LoadReport::default() }, Some("memory_usage"));
            check(LoadReport { gpu_usage: Some(wrong), ..LoadReport::default() }, Some("gpu_usage"));
            check(LoadReport { vram_usage: Some(wrong), ..LoadReport::default() }, Some("vram_usage"));
        }
        check(LoadReport { gpu_temperature: Some(201.0), ..LoadReport::default() }, Some("gpu_temperature"));
        for wrong in [-1.0, f64::NAN, f64::INFINITY] {
            let report = LoadReport { avg_response_time_ms: Some(wrong), ..LoadReport::default() };
            check(report, Some("avg_response_time_ms"));
        }
        check(LoadReport { capability_score: Some(10_000), ..LoadReport::default() }, None);
        check(LoadReport { capability_score: Some(10_001), ..LoadReport::default() }, Some("capability_score"));
        let loaded = |names: Vec<String>| LoadReport { loaded_models: Some(names), ..LoadReport::default() };
        check(loaded(vec!["m".to_owned(); LOADED_MODELS_MAX]), None);
        check(loaded(vec!["m".to_owned(); LOADED_MODELS_MAX + 1]), Some("loaded_models"));
        check(loaded(vec!["m".repeat(MODEL_NAME_MAX + 1)]), Some("loaded_models"));
        let timed = |timestamp| LoadReport { timestamp: Some(timestamp), ..LoadReport::default() };
        check(timed("2026-01-02T03:04:05Z".into()), None);
        check(timed(1_767_323_045.into()), None);
        check(timed("yesterday".into()), Some("timestamp"));
        check(timed(true.into()), Some("timestamp"));
    }
}
