//! The table of all routes: path, door, methods, and who may use each method.

use std::rc::Rc;

use actix_web::body::BoxBody;
use actix_web::dev::ServiceRequest;
use actix_web::error::QueryPayloadError;
use actix_web::guard;
use actix_web::http::Method;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, QueryConfig, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, Route};

use super::auth::Access;
use super::doors::Door::{self, Health, Inference, Private};
use super::doors::Gate;
use super::error::ApiError;
use super::{
    HttpReply, Services, assets, dashboard, doors, endpoints, health, inference, keys, login, models, queue, reports,
    statistics,
};
use crate::domain::keys::Scope;

/// Everybody may use the route.
const OPEN: Access = Access::Open;
/// Inference and the lists of models.
const INFERENCE: Access = Access::Needs(Scope::Inference);
/// Reading, and the dashboard.
const READ: Access = Access::Needs(Scope::Read);
/// Load reports.
const REPORT: Access = Access::Needs(Scope::Report);
/// Changes.
const ADMIN: Access = Access::Needs(Scope::Admin);

/// Adds all routes. Superfluous slashes are removed from a path before its route is looked up.
pub fn routes(config: &mut ServiceConfig) {
    let bad_query = |error: QueryPayloadError, _: &HttpRequest| ApiError::invalid(error.to_string()).into();
    config.app_data(QueryConfig::default().error_handler(bad_query));
    inference_routes(config);
    endpoint_routes(config);
    let mut at = |path: &str, door: Door, methods: Methods| add(config, path, door, methods);
    at("/api/load-balancer/stats", Private, get(READ, queue::selections));
    at("/api/queue/stats", Private, get(READ, queue::stats));
    at("/api/queue/waiting", Private, get(READ, queue::waiting));
    at("/api/load-status", Private, get(READ, queue::load_status));
    at("/api/dashboard/overview", Private, get(READ, dashboard::overview));
    at("/api/dashboard/stats", Private, get(READ, dashboard::stats));
    at("/api/dashboard/endpoints", Private, get(READ, dashboard::endpoints));
    at("/api/dashboard/model-stats", Private, get(READ, statistics::of_all_by_model));
    at("/api/dashboard/request-history", Private, get(READ, dashboard::request_history));
    at("/api/keys", Private, get(READ, keys::list).post(ADMIN, keys::make));
    at("/api/keys/{id}", Private, get(READ, keys::read).put(ADMIN, keys::change).delete(ADMIN, keys::revoke));
    at("/api/keys/{id}/rotate", Private, post(ADMIN, keys::rotate));
    at("/api/keys/{id}/usage", Private, get(READ, statistics::of_key));
    at("/api/session", Private, get(READ, login::read).post(OPEN, login::begin).delete(OPEN, login::end));
    at("/", Private, get(OPEN, assets::to_dashboard));
    at("/dashboard", Private, get(OPEN, assets::page));
    at("/static/{path:.+}", Private, get(OPEN, assets::file));
    at("/ws/dashboard", Private, get(READ, dashboard::events));
    at("/health", Health, get(OPEN, health::health));
    at("/ready", Private, get(OPEN, health::ready));
    config.default_service(web::to(unknown_path));
}

/// Adds the inference API with and without `/v1`, because people set the base URL either way. Each path is a resource of its
/// own, since actix matches a resource of several paths by regular expressions.
fn inference_routes(config: &mut ServiceConfig) {
    for version in ["/v1", ""] {
        let mut at = |path: &str, methods: Methods| add(config, &format!("{version}{path}"), Inference, methods);
        at("/chat/completions", post(INFERENCE, inference::chat_completions));
        at("/completions", post(INFERENCE, inference::completions));
        at("/embeddings", post(INFERENCE, inference::embeddings));
        at("/responses", post(INFERENCE, inference::responses));
        at("/models", get(INFERENCE, models::list));
        at("/models/{id:.+}", get(INFERENCE, models::read));
    }
}

fn endpoint_routes(config: &mut ServiceConfig) {
    let mut at = |path: &str, methods: Methods| add(config, path, Private, methods);
    at("/api/endpoints", get(READ, endpoints::list).post(ADMIN, endpoints::register));
    at(
        "/api/endpoints/{id}",
        get(READ, endpoints::read).put(ADMIN, endpoints::update).delete(ADMIN, endpoints::remove),
    );
    at("/api/endpoints/{id}/sync", post(ADMIN, endpoints::sync));
    at("/api/endpoints/{id}/drain", post(ADMIN, endpoints::drain));
    at("/api/endpoints/{id}/resume", post(ADMIN, endpoints::resume));
    at("/api/endpoints/{id}/model-tps", get(READ, endpoints::model_tps));
    at("/api/endpoints/{id}/model-stats", get(READ, statistics::of_endpoint_by_model));
    at("/api/endpoints/{id}/daily-stats", get(READ, statistics::of_endpoint_by_day));
    // Agents call an endpoint an endpoint, a node or an agent; load reports are taken under all three names.
    at("/api/endpoints/{id}/metrics", get(READ, reports::list).post(REPORT, reports::report));
    at("/api/nodes/{id}/metrics", get(READ, reports::list).post(REPORT, reports::report));
    at("/api/agents/{id}/metrics", get(READ, reports::list).post(REPORT, reports::report));
}

/// The methods of a path, each with its handler and those who may use it.
struct Methods {
    /// The value of the header `Allow`.
    allow: String,
    routes: Vec<Route>,
    access: Vec<(Method, Access)>,
}

/// Makes `handler` answer `GET`, and `HEAD` with the same head.
fn get<F, Args>(access: Access, handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let route = web::route().guard(guard::Any(guard::Get()).or(guard::Head())).to(handler);
    let access = vec![(Method::GET, access), (Method::HEAD, access)];
    Methods { allow: "GET, HEAD".to_owned(), routes: vec![route], access }
}

/// Makes `handler` answer `POST`.
fn post<F, Args>(access: Access, handler: F) -> Methods
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Methods { allow: "POST".to_owned(), routes: vec![web::post().to(handler)], access: vec![(Method::POST, access)] }
}

impl Methods {
    fn post<F, Args>(self, access: Access, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.and(Method::POST, access, web::post().to(handler))
    }

    fn put<F, Args>(self, access: Access, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.and(Method::PUT, access, web::put().to(handler))
    }

    fn delete<F, Args>(self, access: Access, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        self.and(Method::DELETE, access, web::delete().to(handler))
    }

    fn and(mut self, method: Method, access: Access, route: Route) -> Self {
        self.allow = format!("{}, {method}", self.allow);
        self.routes.push(route);
        self.access.push((method, access));
        self
    }
}

/// Adds the methods at the path, behind the door.
fn add(config: &mut ServiceConfig, path: &str, door: Door, methods: Methods) {
    let Methods { allow, routes, access } = methods;
    let not_allowed = move |request: HttpRequest| {
        let (method, path, allow) = (request.method().to_string(), request.path().to_owned(), allow.clone());
        async move { Err::<HttpResponse, ApiError>(ApiError::MethodNotAllowed { method, path, allow }) }
    };
    let resource = routes.into_iter().fold(web::resource(path), Resource::route);
    let resource = resource.default_service(web::to(not_allowed));
    let gate: Rc<Gate> = Rc::new(Gate { door, access });
    let pass = move |request: ServiceRequest, next: Next<BoxBody>| doors::pass(gate.clone(), request, next);
    config.service(resource.wrap(from_fn(pass)));
}

async fn unknown_path(services: web::Data<Services>, request: HttpRequest) -> HttpReply {
    doors::check(Private, &request, &services)?;
    Err(ApiError::UnknownPath(request.path().to_owned()))
}
