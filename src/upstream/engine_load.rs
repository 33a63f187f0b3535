//! Reads the load that engines tell on pages of their own. Pure; a page that makes no sense yields no report.
//!
//! Only gauges of Prometheus pages (text format 0.0.4) are needed, and this file reads their lines itself. Of the crates that
//! parse the format, one does not accept the colons in these engines' names, and the other has a licence that does not fit this project's.

use serde::Deserialize;

use crate::domain::endpoint::{EndpointKind, MODEL_NAME_MAX};
use crate::domain::load::{LOADED_MODELS_MAX, LoadReport};

/// Reads the load from the body of a page; `None` if the page makes no sense.
pub type Reader = fn(&[u8]) -> Option<LoadReport>;

/// Returns the paths on which a kind of engine tells its load, with their readers. Each is a `GET` that costs no tokens; the
/// first page that can be read counts.
pub fn pages(kind: EndpointKind) -> &'static [(&'static str, Reader)] {
    match kind {
        // The operator of the engine may switch off either page. `/metrics` is off by default, but tells waiting requests, too.
        EndpointKind::Llamacpp => &[("/metrics", llamacpp_metrics), ("/slots", llamacpp_slots)],
        EndpointKind::Vllm => &[("/metrics", vllm_metrics)],
        EndpointKind::Ollama => &[("/api/ps", ollama_ps)],
        EndpointKind::LmStudio | EndpointKind::Sglang | EndpointKind::Xllm | EndpointKind::OpenaiCompatible => &[],
    }
}

/// Reads vLLM's Prometheus page: running and waiting requests, and the used part of the KV cache. vLLM reserves all its VRAM
/// at its start, so that the KV cache is the part of VRAM that can run out.
fn vllm_metrics(page: &[u8]) -> Option<LoadReport> {
    let page = std::str::from_utf8(page).ok()?;
    let running = gauges(page, "vllm:num_requests_running").reduce(|a, b| a + b)?;
    let waiting: f64 = gauges(page, "vllm:num_requests_waiting").sum();
    // The engine of vLLM's version 0 uses the second name.
    let cache = ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];
    let cache = cache.iter().find_map(|name| gauges(page, name).reduce(f64::max));
    Some(LoadReport {
        active_requests: count(running + waiting),
        vram_usage: cache.and_then(percent),
        ..LoadReport::default()
    })
}

/// Reads llama.cpp's Prometheus page: the requests in slots and the requests that wait for a slot.
fn llamacpp_metrics(page: &[u8]) -> Option<LoadReport> {
    let page = std::str::from_utf8(page).ok()?;
    let processing = gauges(page, "llamacpp:requests_processing").next()?;
    let deferred = gauges(page, "llamacpp:requests_deferred").next().unwrap_or(0.0);
    Some(LoadReport { active_requests: count(processing + deferred), ..LoadReport::default() })
}

#[derive(Deserialize)]
struct Slot {
    is_processing: bool,
}

/// Reads llama.cpp's list of slots, of which those that process a request count.
fn llamacpp_slots(page: &[u8]) -> Option<LoadReport> {
    let slots: Vec<Slot> = serde_json::from_slice(page).ok()?;
    let active = slots.iter().filter(|slot| slot.is_processing).count();
    Some(LoadReport { active_requests: u32::try_from(active).ok(), ..LoadReport::default() })
}

#[derive(Deserialize)]
struct LoadedModels {
    models: Vec<LoadedModel>,
}

#[derive(Deserialize)]
struct LoadedModel {
    name: String,
    #[serde(default)]
    size_vram: u64,
}

/// Reads Ollama's list of loaded models and the VRAM that they take.
fn ollama_ps(page: &[u8]) -> Option<LoadReport> {
    let LoadedModels { models } = serde_json::from_slice(page).ok()?;
    Some(LoadReport {
        vram_bytes: Some(models.iter().fold(0, |sum, model| sum.saturating_add(model.size_vram))),
        loaded_models: Some(
            models
                .into_iter()
                .map(|model| model.name)
                .filter(|name| name.len() <= MODEL_NAME_MAX)
                .take(LOADED_MODELS_MAX)
                .collect(),
        ),
        ..LoadReport::default()
    })
}

/// Returns the values of a gauge, one for each set of labels.
fn gauges<'a>(page: &'a str, name: &'a str) -> impl Iterator<Item = f64> + 'a {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let values = match rest.chars().next()? {
            '{' => rest.rsplit_once('}')?.1,
            ' ' | '\t' => rest,
            _ => return None,
        };
        values.split_whitespace().next()?.parse().ok()
    })
}

fn count(value: f64) -> Option<u32> {
    (0.0..=f64::from(u32::MAX)).contains(&value).then_some(value as u32)
}

/// Returns a part of 0 to 1 in percent; `None` for any other number.
fn percent(part: f64) -> Option<f64> {
    (0.0..=1.0).contains(&part).then_some(part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(report: Option<LoadReport>) -> Option<u32> {
        report.and_then(|report| report.active_requests)
    }

    /// A part of the page of vLLM 0.11 after ten requests; the label of the model is shortened.
    const VLLM: &str = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="Qwen/Qwen3-0.6B"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="Qwen/Qwen3-0.6B"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="Qwen/Qwen3-0.6B",reason="capacity"} 1.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="Qwen/Qwen3-0.6B"} 0.25
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="Qwen/Qwen3-0.6B"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="Qwen/Qwen3-0.6B"} 10.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="Qwen/Qwen3-0.6B"} 10.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="Qwen/Qwen3-0.6B"} 0.205
"#;

    #[test]
    fn vllm_tells_its_requests_and_its_cache() {
        let expected = LoadReport { active_requests: Some(4), vram_usage: Some(25.0), ..LoadReport::default() };
        assert_eq!(vllm_metrics(VLLM.as_bytes()), Some(expected.clone()));
        let older = VLLM.replace("kv_cache_usage_perc", "gpu_cache_usage_perc");
        assert_eq!(vllm_metrics(older.as_bytes()), Some(expected));
        let two_engines = format!("{VLLM}vllm:num_requests_running{{engine=\"1\"}} 5.0\n");
        assert_eq!(active(vllm_metrics(two_engines.as_bytes())), Some(9));
        let odd_cache = vllm_metrics(VLLM.replace("} 0.25", "} NaN").as_bytes()).expect("a report");
        assert_eq!((odd_cache.active_requests, odd_cache.vram_usage), (Some(4), None));
    }

    #[test]
    fn llamacpp_tells_its_requests_on_either_page() {
        // Parts of the pages of llama-server with two slots and three requests.
        let metrics = "# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots per llama_decode() call\n\
            # TYPE llamacpp:n_busy_slots_per_decode counter\nllamacpp:n_busy_slots_per_decode 1.95\n\
            # HELP llamacpp:requests_processing Number of requests processing.\n\
            # TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 2\n\
            # HELP llamacpp:requests_deferred Number of requests deferred.\n\
            # TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 1\n";
        assert_eq!(active(llamacpp_metrics(metrics.as_bytes())), Some(3));
        let slots = br#"[{"id":0,"id_task":7,"n_ctx":2048,"speculative":false,"is_processing":true,
            "next_token":{"has_next_token":true,"has_new_line":false,"n_remain":75,"n_decoded":45,"stopping_word":""}},
            {"id":1,"id_task":9,"n_ctx":2048,"speculative":false,"is_processing":false}]"#;
        assert_eq!(active(llamacpp_slots(slots)), Some(1));
    }

    #[test]
    fn ollama_tells_what_it_has_loaded() {
        let page = r#"{"models":[{"name":"gemma3:4b","model":"gemma3:4b","size":6591830464,
            "digest":"a2af6cc3eb7fa8be8504abaf9b04e88f17a119ec3f04a3addf55f92841195f5a",
            "details":{"parent_model":"","format":"gguf","family":"gemma3","families":["gemma3"],
            "parameter_size":"4.3B","quantization_level":"Q4_K_M"},
            "expires_at":"2025-10-17T16:47:07.93355-07:00","size_vram":5333539264,"context_length":4096}]}"#;
        let report = ollama_ps(page.as_bytes()).expect("a report");
        assert_eq!(report.loaded_models, Some(vec!["gemma3:4b".to_owned()]));
        assert_eq!(report.vram_bytes, Some(5_333_539_264));
        assert_eq!(ollama_ps(b"{\"models\":[]}").and_then(|report| report.vram_bytes), Some(0));
    }

    #[test]
    fn what_makes_no_sense_is_no_report() {
        let unsupported = b"{\"error\":{\"code\":501,\"message\":\"not supported\",\"type\":\"not_supported_error\"}}";
        for kind in EndpointKind::ALL {
            for (path, read) in pages(kind) {
                for odd in [&b""[..], b"\xff\xfe", b"<html>", b"null", b"{}", b"7", unsupported] {
                    assert_eq!(read(odd), None, "{path} {odd:?}");
                }
            }
        }
        assert_eq!(vllm_metrics(b"vllm:num_requests_running -1\n").and_then(|report| report.active_requests), None);
    }
}
