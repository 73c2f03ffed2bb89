//! The operator's API: what arrived, what became of it, and what to do about dead letters. For callers on this machine
//! only.
//!
//! - What changes something takes a JSON body: a page in a browser can't send one to another origin unasked.
//! - Large changes are made some hundred at a time.
//!
//! Not here: pages.

use std::net::SocketAddr;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::event::EventId;
use crate::journal::{DeliveryId, LetterFilter, Resolution};
use crate::plugin::PluginName;
use crate::{dispatcher, journal, registry, telemetry};

/// Rows of one page at most.
const MOST_ROWS: usize = 200;
/// Dead letters that are changed in one step.
const LETTERS_AT_ONCE: usize = 256;

#[derive(Clone)]
struct Console {
    journal: journal::Handle,
    registry: registry::Handle,
    queues: dispatcher::Handle,
}

/// The routes under `/api/v1`.
pub fn routes(journal: journal::Handle, registry: registry::Handle, queues: dispatcher::Handle) -> Router {
    Router::new()
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/{id}", get(event))
        .route("/api/v1/deliveries/{id}", get(delivery))
        .route("/api/v1/plugins", get(plugins))
        .route("/api/v1/notices", get(notices))
        .route("/api/v1/backlog", get(backlog))
        .route("/api/v1/queues", get(list_queues))
        .route("/api/v1/queues/drop", post(drop_waiting))
        .route("/api/v1/dead", get(dead))
        .route("/api/v1/dead/retry", post(retry_dead))
        .route("/api/v1/dead/drop", post(drop_dead))
        .layer(from_fn(loopback_only))
        .with_state(Console { journal, registry, queues })
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
    let limit = page.limit.unwrap_or(50).clamp(1, MOST_ROWS);
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

async fn delivery(State(console): State<Console>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        return problem(StatusCode::BAD_REQUEST, "console.bad_id", "this is not a delivery's number");
    };
    match blocking(move || console.journal.delivery(DeliveryId(id))).await {
        Ok(None) => problem(StatusCode::NOT_FOUND, "console.not_found", "there is no delivery with this number"),
        found => answer(found),
    }
}

async fn backlog(State(console): State<Console>) -> Response {
    answer(blocking(move || console.journal.backlog()).await)
}

async fn list_queues(State(console): State<Console>) -> Response {
    Json(console.queues.queues()).into_response()
}

/// Whose waiting deliveries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Abandoned {
    plugin: PluginName,
}

async fn drop_waiting(State(console): State<Console>, plugin: Result<Json<Abandoned>, JsonRejection>) -> Response {
    let Ok(Json(Abandoned { plugin })) = plugin else {
        return problem(StatusCode::BAD_REQUEST, "console.bad_filter", "send a JSON object with `plugin`");
    };
    if console.registry.snapshot().plugins.contains_key(&plugin) {
        return problem(
            StatusCode::CONFLICT,
            "console.plugin_is_live",
            "the plugin serves: remove its file from the plugin folder first",
        );
    }
    let changed = console.journal.drop_waiting(&plugin).await;
    if let Ok(changed) = &changed {
        telemetry::waiting_dropped(&plugin, *changed);
    }
    let of_it = |queue: &dispatcher::QueueView| queue.plugin == plugin.as_str();
    let running: usize = console.queues.queues().iter().filter(|queue| of_it(queue)).map(|queue| queue.claimed).sum();
    answer(changed.map(|changed| json!({ "changed": changed, "running": running })))
}

/// Which dead letters, as an operator says it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Choice {
    deliveries: Option<Vec<i64>>,
    all: bool,
    plugin: Option<PluginName>,
    account: Option<String>,
    event: Option<String>,
    code: Option<String>,
    since: Option<i64>,
    until: Option<i64>,
    after: Option<i64>,
    limit: Option<usize>,
}

impl Choice {
    fn filter(self) -> LetterFilter {
        let Self { plugin, account, event, code, since, until, .. } = self;
        LetterFilter { plugin, account, event, code, since, until }
    }
}

async fn dead(State(console): State<Console>, choice: Result<Query<Choice>, QueryRejection>) -> Response {
    let Ok(Query(choice)) = choice else {
        return problem(
            StatusCode::BAD_REQUEST,
            "console.bad_filter",
            "the filter can't be read: it knows plugin, account, event, code, since, until, after, limit",
        );
    };
    let (after, limit) = (choice.after.unwrap_or(0), choice.limit.unwrap_or(50).clamp(1, MOST_ROWS));
    let filter = choice.filter();
    answer(blocking(move || console.journal.letters(&filter, after, limit)).await)
}

async fn retry_dead(State(console): State<Console>, choice: Result<Json<Choice>, JsonRejection>) -> Response {
    resolve(&console, choice, Resolution::Retry).await
}

async fn drop_dead(State(console): State<Console>, choice: Result<Json<Choice>, JsonRejection>) -> Response {
    resolve(&console, choice, Resolution::Drop).await
}

async fn resolve(console: &Console, choice: Result<Json<Choice>, JsonRejection>, resolution: Resolution) -> Response {
    let bad = |words: &str| problem(StatusCode::BAD_REQUEST, "console.bad_filter", words);
    let Ok(Json(mut choice)) = choice else {
        return bad(
            "send a JSON object with `deliveries`, or with plugin, account, event, code, since, until, or `all`",
        );
    };
    if choice.after.is_some() || choice.limit.is_some() {
        return bad("`after` and `limit` are for lists: name `deliveries` to decide about some");
    }
    let (given, all) = (choice.deliveries.take(), choice.all);
    let filter = choice.filter();
    let changed = match given {
        Some(_) if filter != LetterFilter::default() || all => {
            return bad("name `deliveries` or a filter, not both");
        }
        Some(deliveries) => {
            let letters: Vec<DeliveryId> = deliveries.into_iter().map(DeliveryId).collect();
            in_steps(console, letters, resolution).await
        }
        None if filter == LetterFilter::default() && !all => {
            return bad("an empty filter would mean every dead letter: say `\"all\": true` for that");
        }
        None => every(console, filter, resolution).await,
    };
    if let Ok(changed) = &changed {
        telemetry::letters_resolved(resolution, *changed);
    }
    answer(changed.map(|changed| json!({ "changed": changed })))
}

async fn in_steps(
    console: &Console,
    letters: Vec<DeliveryId>,
    resolution: Resolution,
) -> Result<usize, journal::Error> {
    let mut changed = 0;
    for step in letters.chunks(LETTERS_AT_ONCE) {
        changed += console.journal.resolve(step.to_vec(), resolution).await?;
    }
    Ok(changed)
}

/// Those that die meanwhile have numbers behind it or none of the filter's: each letter is looked at once.
async fn every(console: &Console, filter: LetterFilter, resolution: Resolution) -> Result<usize, journal::Error> {
    let (mut changed, mut after) = (0, 0);
    loop {
        let (journal, filter) = (console.journal.clone(), filter.clone());
        let page = blocking(move || journal.letters(&filter, after, LETTERS_AT_ONCE)).await?;
        let Some(last) = page.last() else { return Ok(changed) };
        after = last.delivery;
        let letters = page.iter().map(|letter| DeliveryId(letter.delivery)).collect();
        changed += console.journal.resolve(letters, resolution).await?;
    }
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

/// Why files, or what they hold, are not served.
async fn notices(State(console): State<Console>) -> Response {
    Json(&*console.registry.snapshot().notices).into_response()
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
