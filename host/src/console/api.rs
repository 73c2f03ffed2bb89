//! `/api/v1`: what pages and commands use, and scripts may. Described by itself as OpenAPI.
//!
//! - Lists that grow are paged by cursor: `{"items": […], "next": "…"}`; what `next` holds is the host's own business.
//! - What changes something takes JSON: a page in a browser can't send that to another origin unasked.
//! - Times are milliseconds since 1970-01-01 UTC.

mod forget;
mod plugins;
mod reads;
mod restore;
mod wishes;

use std::sync::OnceLock;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Console, Problem};

/// How callers say who they are.
struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "SalesMan Plugin Host", description = "What arrived, what became of it, and what to do about it."),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Description;

fn documented() -> OpenApiRouter<Console> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(reads::events, wishes::send_event))
        .routes(routes!(reads::event))
        .routes(routes!(wishes::replay_event))
        .routes(routes!(wishes::replay_events))
        .routes(routes!(reads::delivery))
        .routes(routes!(wishes::retry_delivery))
        .routes(routes!(wishes::drop_delivery))
        .routes(routes!(wishes::was_done))
        .routes(routes!(wishes::send_again))
        .routes(routes!(reads::overview))
        .routes(routes!(reads::backlog))
        .routes(routes!(reads::queues))
        .routes(routes!(plugins::drop_waiting))
        .routes(routes!(reads::dead))
        .routes(routes!(reads::dead_groups))
        .routes(routes!(reads::count_dead))
        .routes(routes!(wishes::retry_dead))
        .routes(routes!(wishes::drop_dead))
        .routes(routes!(reads::failures))
        .routes(routes!(reads::jobs))
        .routes(routes!(wishes::stop_job))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::one))
        .routes(routes!(plugins::pause))
        .routes(routes!(plugins::resume))
        .routes(routes!(plugins::roll_back))
        .routes(routes!(plugins::grant))
        .routes(routes!(plugins::revoke))
        .routes(routes!(reads::notices))
        .routes(routes!(reads::crms))
        .routes(routes!(reads::check_crm))
        .routes(routes!(reads::audit, wishes::note))
        .routes(routes!(forget::forget))
        .routes(routes!(forget::forgettable))
        .routes(routes!(forget::proofs))
        .routes(routes!(forget::proof))
        .routes(routes!(restore::status))
        .routes(routes!(restore::doubted))
        .routes(routes!(restore::go_on))
        .routes(routes!(reads::me))
        .routes(routes!(wishes::link))
}

/// What the framework refuses by itself (a path that is no text, a method that is none) has a code as well.
async fn coded(response: Response) -> Response {
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|of| of.as_bytes().starts_with(b"application/json"));
    if json || !response.status().is_client_error() {
        return response;
    }
    let words = "the address, the method or the question can't be read: `/api/v1/openapi.json` describes them";
    Problem::new(response.status(), "console.bad_filter", words).into_response()
}

pub(super) fn routes() -> Router<Console> {
    let (router, _) = documented().split_for_parts();
    let unknown = async || Problem::not_found("the API has no such address: `/api/v1/openapi.json` describes all");
    let router = router.route("/api/v1/{*rest}", axum::routing::any(unknown));
    let router = router.layer(axum::middleware::map_response(coded));
    router.route("/api/v1/openapi.json", axum::routing::get(description))
}

/// What describes the API. It is made once: it stays the same, and takes as long as twenty other answers.
async fn description() -> Response {
    static MADE: OnceLock<Bytes> = OnceLock::new();
    // Nothing in it can't be written as JSON.
    let make = || serde_json::to_vec(&documented().split_for_parts().1).unwrap_or_default().into();
    ([(CONTENT_TYPE, "application/json")], MADE.get_or_init(make).clone()).into_response()
}

pub(super) use plugins::{Plugin, PluginPath, named, path, views};
pub(super) use reads::{
    AuditPage, EventQuery, FIRST, Overview, audit_page, count_of, delivery_id, event_id, failures_of, groups_of,
    jobs_of, letters_of, overview_of,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_api_is_described() {
        let (_, description) = documented().split_for_parts();
        let description = serde_json::to_value(&description).unwrap();
        let mut undescribed = Vec::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let said = operation["summary"].as_str().or(operation["description"].as_str()).unwrap_or_default();
                let answers = operation["responses"].as_object().is_some_and(|answers| answers.contains_key("default"));
                let body = &operation["responses"]["200"]["content"]["application/json"]["schema"];
                if said.is_empty() || !answers || !body.is_object() {
                    undescribed.push(format!("{method} {path}"));
                }
            }
        }
        assert_eq!(undescribed, Vec::<String>::new());
    }
}
