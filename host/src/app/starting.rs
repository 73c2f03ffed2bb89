//! What is answered before the host is ready: it listens at once, because whoever can't connect at all does not know why, and whoever
//! connects must not wait for a store that is brought up to a new format.
//!
//! - **An event is refused with a code** (`ingress.starting`) that says so: a sender that keeps its events sends it again. One that
//!   tries only once is held for a moment first, within bounds: most starts take less.
//! - Alive is said, ready is not.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, routing::get};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use crate::ingress;

/// How long an event is held for the host to be ready.
const HELD: Duration = Duration::from_secs(1);
/// So many at once: each has a connection, and what the system has received of it.
const MOST_HELD: usize = 128;
/// When to come again.
const AGAIN: HeaderValue = HeaderValue::from_static("1");
const WHY: &str =
    "the host is starting: the journal is opened, and brought up to this version's format where it is older";

/// What a listener serves: that it starts, and the real thing from a moment on.
#[derive(Clone)]
pub(super) struct Door {
    real: Arc<OnceLock<Router>>,
    open: Arc<watch::Sender<bool>>,
}

/// What is needed to answer in place of the real thing.
#[derive(Clone)]
struct Waiting {
    real: Arc<OnceLock<Router>>,
    open: watch::Receiver<bool>,
    held: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new() -> Self {
        Self { real: Arc::default(), open: Arc::new(watch::Sender::new(false)) }
    }

    /// What is asked for each request.
    pub(super) fn routes(&self) -> impl Fn() -> Router + Clone + Send + Sync + use<> {
        let waiting = Waiting {
            real: Arc::clone(&self.real),
            open: self.open.subscribe(),
            held: Arc::new(Semaphore::new(MOST_HELD)),
        };
        let (real, starting) = (Arc::clone(&self.real), starting(waiting));
        move || real.get().unwrap_or(&starting).clone()
    }

    /// From now on this is served.
    pub(super) fn opens(&self, router: Router) {
        drop(self.real.set(router));
        self.open.send_replace(true);
    }
}

fn starting(waiting: Waiting) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route(
            "/readyz",
            get(async || {
                let why = json!({ "ready": false, "reasons": [WHY], "remarks": [] });
                late((StatusCode::SERVICE_UNAVAILABLE, Json(why)).into_response())
            }),
        )
        .fallback(other)
        .with_state(waiting)
}

async fn other(State(mut waiting): State<Waiting>, request: Request) -> Response {
    let is_event = request.uri().path().split('/').find(|segment| !segment.is_empty()) == Some("events");
    if is_event && let Ok(_place) = waiting.held.try_acquire() {
        // Its end means that the host does not start.
        drop(tokio::time::timeout(HELD, waiting.open.wait_for(|open| *open)).await);
    }
    if let Some(real) = waiting.real.get() {
        let Ok(answer) = real.clone().oneshot(request).await;
        return answer;
    }
    if is_event {
        return late(ingress::starting());
    }
    let page = request.headers().get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/html"));
    let answer = if page {
        let text =
            format!("<!doctype html><meta http-equiv=refresh content=2><title>SalesMan Plugin Host</title><p>{WHY}.");
        (StatusCode::SERVICE_UNAVAILABLE, axum::response::Html(text)).into_response()
    } else {
        let why = json!({ "error": { "code": "host.starting", "message": WHY } });
        (StatusCode::SERVICE_UNAVAILABLE, Json(why)).into_response()
    };
    late(answer)
}

fn late(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::RETRY_AFTER, AGAIN);
    answer
}
