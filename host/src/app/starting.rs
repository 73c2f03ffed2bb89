//! What is answered before the host is ready: it listens at once, because whoever can't connect at all does not know why, and whoever
//! connects must not wait for a store that is brought up to a new format.
//!
//! - **Whatever comes while a start takes no longer than usual is held until it is over**, as if nobody had listened yet: many senders
//!   try only once. They are as many as there may be connections.
//! - **An event is refused with a code** (`ingress.starting`) where it takes longer: a sender that keeps its events sends it again.
//!   It is held for a moment first, within bounds.
//! - Alive is said, ready is not.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, routing::get};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use crate::ingress;

/// How long after the beginning of the start whatever comes is held: nearly every start is over by then.
const GRACE: Duration = Duration::from_secs(5);
/// How long an event that comes later is held.
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
    began: Instant,
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
            began: Instant::now(),
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
    let grace = GRACE.saturating_sub(waiting.began.elapsed());
    // The end of either wait without a word means that the host does not start.
    if !grace.is_zero() {
        drop(tokio::time::timeout(grace, waiting.open.wait_for(|open| *open)).await);
    } else if is_event && let Ok(_place) = waiting.held.try_acquire() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_that_takes_long_refuses_events_with_the_hosts_own_word_and_does_not_keep_them_waiting() {
        let door = Door::new();
        let waiting = Waiting {
            real: Arc::clone(&door.real),
            open: door.open.subscribe(),
            held: Arc::new(Semaphore::new(1)),
            began: Instant::now().checked_sub(GRACE).unwrap(),
        };
        let request = |path: &str| Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        let asked = async |path: &str| other(State(waiting.clone()), request(path)).await;
        let began = Instant::now();
        let (event, page) = tokio::join!(asked("/events/x?event=a.b"), asked("/console"));
        assert!(began.elapsed() < 5 * HELD, "{:?}", began.elapsed());
        for answer in [&event, &page] {
            assert_eq!((answer.status(), &answer.headers()["retry-after"]), (StatusCode::SERVICE_UNAVAILABLE, &AGAIN));
        }
        assert!(event.headers().contains_key("x-salesman-host"));
        door.opens(Router::new().fallback(async || "real"));
        assert_eq!(asked("/console").await.status(), StatusCode::OK);
    }
}
