//! The table of all routes: path, door, methods.

use actix_web::body::BoxBody;
use actix_web::dev::ServiceRequest;
use actix_web::error::QueryPayloadError;
use actix_web::guard;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, QueryConfig, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, Route};

use super::doors::Door::{self, Health, Inference, Private};
use super::error::ApiError;
use super::{
    HttpReply, Services, assets, dashboard, doors, endpoints, health, inference, models, queue, reports, statistics,
};

/// Adds all routes. Superfluous slashes are removed from a path before its route is looked up.
pub fn routes(config: &mut ServiceConfig) {
    let bad_query = |error: QueryPayloadError, _: &HttpRequest| ApiError::invalid(error.to_string()).into();
    config.app_data(QueryConfig::default().error_handler(bad_query));
    inference_routes(config);
    endpoint_routes(config);
    let mut at = |path: &str, door: Door, methods: Methods| add(config, path, door, methods);
    at("/api/load-balancer/stats", Private, get(queue::selections));
    at("/api/queue/stats", Private, get(queue::stats));
    at("/api/queue/waiting", Private, get(queue::waiting));
    at("/api/load-status", Private, get(queue::load_status));
    at("/api/dashboard/overview", Private, get(dashboard::overview));
    at("/api/dashboard/stats", Private, get(dashboard::stats));
    at("/api/dashboard/endpoints", Private, get(dashboard::endpoints));
    at("/api/dashboard/model-stats", Private, get(statistics::of_all_by_model));
    at("/api/dashboard/request-history", Private, get(dashboard::request_history));
    at("/", Private, get(assets::to_dashboard));
    at("/dashboard", Private, get(assets::page));
    at("/static/{path:.+}", Private, get(assets::file));
    at("/ws/dashboard", Private, get(dashboard::events));
    at("/health", Health, get(health::health));
    at("/ready", Private, get(health::ready));
    config.default_service(web::to(unknown_path));
}

/// Adds the inference API with and without `/v1`, because people set the base URL either way. Each path is a resource of its
/// own, since actix matches a resource of several paths by regular expressions.
fn inference_routes(config: &mut ServiceConfig) {
    for version in ["/v1", ""] {
        let mut at = |path: &str, methods: Methods| add(config, &format!("{version}{path}"), Inference, methods);
        at("/chat/completions", post(inference::chat_completions));
        at("/completions", post(inference::completions));
        at("/embeddings", post(inference::embeddings));
        at("/responses", post(inference::responses));
        at("/models", get(models::list));
        at("/models/{id:.+}", get(models::read));
    }
}

fn endpoint_routes(config: &mut ServiceConfig) {
    let mut at = |path: &str, methods: Methods| add(config, path, Private, methods);
    at("/api/endpoints", get(endpoints::list).post(endpoints::register));
    at("/api/endpoints/{id}", get(endpoints::read).put(endpoints::update).delete(endpoints::remove));
    at("/api/endpoints/{id}/sync", post(endpoints::sync));
    at("/api/endpoints/{id}/drain", post(endpoints::drain));
    at("/api/endpoints/{id}/resume", post(endpoints::resume));
    at("/api/endpoints/{id}/model-tps", get(endpoints::model_tps));
    at("/api/endpoints/{id}/model-stats", get(statistics::of_endpoint_by_model));
    at("/api/endpoints/{id}/daily-stats", get(statistics::of_endpoint_by_day));
    // Agents call an endpoint an endpoint, a node or an agent; load reports are taken under all three names.
    at("/api/endpoints/{id}/metrics", get(reports::list).post(reports::report));
    at("/api/nodes/{id}/metrics", get(reports::list).post(reports::report));
    at("/api/agents/{id}/metrics", get(reports::list).post(reports::report));
}

/// The methods of a path, each with its handler.
struct Methods {
    /// The value of the header `Allow`.
    allow: String,
    routes: Vec<Route>,
}

/// Makes `handler` answer `GET`, and `HEAD` with the same head.
fn get<F, Args>(handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let route = web::route().guard(guard::Any(guard::Get()).or(guard::Head())).to(handler);
    Methods { allow: "GET, HEAD".to_owned(), routes: vec![route] }
}

/// Makes `handler` answer `POST`.
fn post<F, Args>(handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Methods { allow: "POST".to_owned(), routes: vec![web::post().to(handler)] }
}

impl Methods {
    fn post<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.and("POST", web::post().to(handler))
    }

    fn put<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.and("PUT", web::put().to(handler))
    }

    fn delete<F, Args>(self, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.and("DELETE", web::delete().to(handler))
    }

    fn and(mut self, method: &str, route: Route) -> Self {
        self.allow = format!("{}, {method}", self.allow);
        self.routes.push(route);
        self
    }
}

/// Adds the methods at the path, behind the door.
fn add(config: &mut ServiceConfig, path: &str, door: Door, methods: Methods) {
    let Methods { allow, routes } = methods;
    let not_allowed = move |request: HttpRequest| {
        let (method, path, allow) = (request.method().to_string(), request.path().to_owned(), allow.clone());
        async move { Err::<HttpResponse, ApiError>(ApiError::MethodNotAllowed { method, path, allow }) }
    };
    let resource = routes.into_iter().fold(web::resource(path), Resource::route);
    let resource = resource.default_service(web::to(not_allowed));
    let pass = move |request: ServiceRequest, next: Next<BoxBody>| doors::pass(door, request, next);
    config.service(resource.wrap(from_fn(pass)));
}

async fn unknown_path(services: web::Data<Services>, request: HttpRequest) -> HttpReply {
    doors::check(Private, &request, &services)?;
    Err(ApiError::UnknownPath(request.path().to_owned()))
}
