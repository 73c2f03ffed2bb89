//! The operator's read-only API: what arrived, and what became of it. For callers on this machine only.
//!
//! Not here: changing anything.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::event::EventId;
use crate::{journal, registry, telemetry};

/// Events of one page at most.
const MOST_EVENTS: usize = 200;

#[derive(Clone)]
struct Console {
    journal: journal::Handle,
    registry: registry::Handle,
}

/// The routes under `/api/v1`.
pub fn routes(journal: journal::Handle, registry: registry::Handle) -> Router {
    Router::new()
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/{id}", get(event))
        .route("/api/v1/plugins", get(plugins))
        .route("/api/v1/backlog", get(backlog))
        .layer(from_fn(loopback_only))
        .with_state(Console { journal, registry })
}

async fn loopback_only(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    // A proxy on this machine would make everybody local: what it forwards is refused.
    let forwarded =
        ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| request.headers().contains_key(*name));
    // A page in a browser on this machine reaches loopback too, but not under a loopback name.
    let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let named = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    if named && peer.is_some_and(|peer| peer.to_canonical().is_loopback()) && !forwarded {
        return next.run(request).await;
    }
    problem(StatusCode::FORBIDDEN, "console.loopback_only", "the API answers callers on this machine only")
}

fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "code": code, "message": message }))).into_response()
}

#[derive(Deserialize)]
struct Page {
    before: Option<String>,
    limit: Option<usize>,
}

async fn events(State(console): State<Console>, Query(page): Query<Page>) -> Response {
    let before = match page.before.map(|text| EventId::parse(&text)) {
        Some(None) => return problem(StatusCode::BAD_REQUEST, "console.bad_id", "`before` is not an event's id"),
        before => before.flatten(),
    };
    let limit = page.limit.unwrap_or(50).clamp(1, MOST_EVENTS);
    answer(blocking(move || console.journal.events(before, limit)).await)
}

async fn event(State(console): State<Console>, Path(id): Path<String>) -> Response {
    let Some(id) = EventId::parse(&id) else {
        return problem(StatusCode::BAD_REQUEST, "console.bad_id", "this is not an event's id");
    };
    match blocking(move || console.journal.path_of(id)).await {
        Ok(None) => problem(StatusCode::NOT_FOUND, "console.not_found", "there is no event with this id"),
        found => answer(found),
    }
}

async fn backlog(State(console): State<Console>) -> Response {
    answer(blocking(move || console.journal.backlog()).await)
}

async fn plugins(State(console): State<Console>) -> Response {
    let snapshot = console.registry.snapshot();
    let list: Vec<_> = snapshot
        .plugins
        .values()
        .map(|live| {
            let manifest = &live.compiled.manifest;
            json!({
                "name": manifest.name,
                "version": manifest.version,
                "description": manifest.description,
                "hash": live.compiled.hash,
                "size": live.compiled.size,
                "events": manifest.events,
                "asks": manifest.permissions,
                "not_granted": live.grants.missing(),
            })
        })
        .collect();
    Json(list).into_response()
}

/// Reads of the store take a thread of their own, so that intake never waits behind them.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, journal::Error> + Send + 'static,
) -> Result<T, journal::Error> {
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(journal::Error::Closed))
}

fn answer<T: serde::Serialize>(result: Result<T, journal::Error>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            telemetry::host_fault("console", &error);
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "console.store",
                "the journal can't be read now: the host's log says why",
            )
        }
    }
}
