//! The dashboard's files, which are part of the binary.

use actix_web::http::header::{self, ETag, EntityTag, IfNoneMatch};
use actix_web::{HttpResponse, web};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::HttpReply;
use super::error::ApiError;

/// Allows the dashboard's page to load only what this server itself sends (https://www.w3.org/TR/CSP3/).
const SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// Redirects to the dashboard.
pub async fn to_dashboard() -> HttpResponse {
    HttpResponse::Found().insert_header((header::LOCATION, "/dashboard")).finish()
}

/// Returns the dashboard's page.
pub async fn page(known: Option<web::Header<IfNoneMatch>>) -> HttpReply {
    answer("index.html", known)
}

/// Returns one of the dashboard's files.
pub async fn file(path: web::Path<String>, known: Option<web::Header<IfNoneMatch>>) -> HttpReply {
    answer(&path, known)
}

fn answer(path: &str, known: Option<web::Header<IfNoneMatch>>) -> HttpReply {
    let file: EmbeddedFile = Files::get(path).ok_or_else(|| ApiError::UnknownPath(format!("/static/{path}")))?;
    let hash: String = file.metadata.sha256_hash()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = EntityTag::new_strong(hash);
    let is_known = known.is_some_and(|web::Header(known)| match known {
        IfNoneMatch::Any => true,
        IfNoneMatch::Items(tags) => tags.iter().any(|known| known.weak_eq(&tag)),
    });
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header(ETag(tag))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, SECURITY_POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"));
    if is_known {
        return Ok(response.finish());
    }
    Ok(response.insert_header((header::CONTENT_TYPE, content_type(path))).body(file.data))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
