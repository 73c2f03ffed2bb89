//! What a request may take before and while it is answered: bytes and time for its body, a place among others.
//!
//! - A body is read whole before anything is done, within [`BODY_TIME`]: whoever dawdles holds little, and not for long. What
//!   comes with a question that changes nothing is not read at all.
//! - Strangers, who may only log in, have few places of their own, which they take with a small body that came whole: they
//!   take none of the others', and whoever dawdles takes none of theirs.
//! - Where there are no users there is no login: the page says how else somebody comes in.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Console, Problem, answered};

/// Requests at once of those who were let in. Streams of news count only until they begin.
const MOST_AT_ONCE: usize = 64;
/// Strangers' logins at once.
const MOST_STRANGERS: usize = 32;
/// Bytes of a body of somebody who was let in: more than an event may have by default.
const MOST_BODY: usize = 2 << 20;
/// Bytes of a login.
const MOST_LOGIN: usize = 8 << 10;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long a place is waited for.
const MOMENT: Duration = Duration::from_secs(2);
/// The form that strangers may send.
const LOGIN: &str = "/console/login";

/// Places for requests.
pub(super) struct Places {
    known: Semaphore,
    strangers: Semaphore,
}

impl Default for Places {
    fn default() -> Self {
        Self { known: Semaphore::new(MOST_AT_ONCE), strangers: Semaphore::new(MOST_STRANGERS) }
    }
}

impl Places {
    /// A place for somebody who was let in, and then the request with its body: bodies are large, so they need the place.
    pub(super) async fn known(&self, request: Request) -> Result<(SemaphorePermit<'_>, Request), Problem> {
        let place = tokio::time::timeout(MOMENT, self.known.acquire()).await;
        let Ok(Ok(place)) = place else { return Err(busy()) };
        if request.method().is_safe() {
            return Ok((place, request.map(|_| Body::empty())));
        }
        Ok((place, whole(request, MOST_BODY).await?))
    }
}

fn busy() -> Problem {
    let words = "too many requests at once: try again in a moment";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "console.busy", words)
}

async fn whole(request: Request, most: usize) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let too_large = || {
        let words = format!("the body is over the limit of {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "console.too_large", words)
    };
    if axum::body::HttpBody::size_hint(&body).lower() > most as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, Body::from(body.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        _ => {
            let words = "the body did not arrive whole and in time: send it again";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "console.incomplete", words))
        }
    }
}

/// Lets strangers' requests through, one by one.
pub(super) async fn strangers(State(console): State<Console>, request: Request, next: Next) -> Response {
    let is_login = request.uri().path() == LOGIN;
    let is_safe = request.method().is_safe();
    if is_login && !is_safe && !console.access.has_users() {
        return StatusCode::NOT_FOUND.into_response();
    }
    if is_safe {
        // Nothing of its body is read.
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let request = match whole(Request::from_parts(parts.clone(), body), MOST_LOGIN).await {
        Ok(request) => request,
        Err(problem) => return answered(&parts, true, &problem),
    };
    let Ok(_place) = console.places.strangers.try_acquire() else { return answered(&parts, true, &busy()) };
    next.run(request).await
}
