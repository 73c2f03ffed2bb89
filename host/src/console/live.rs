//! News as they happen, by server-sent events.
//!
//! - `/console/live` only says that something has changed, once a second at most: the page asks for itself again.
//! - `/api/v1/live` brings each attempt as it ends; whoever reads too slowly is told how many it missed.
//! - Streams are bounded in number, and end with the host.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::mask::Mask;
use super::{Console, Problem};
use crate::dispatcher::Delivered;

/// How often a page may ask for itself again.
const EVERY: Duration = Duration::from_secs(1);
/// What keeps proxies from closing a quiet stream.
const STILL_THERE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/console/live", get(changes)).route("/api/v1/live", get(attempts))
}

fn too_many() -> Response {
    let words = "too many pages are open: close some";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "console.busy", words).into_response()
}

/// A number that is another whenever something that pages show has changed.
fn mark(console: &Console) -> (u64, Vec<crate::dispatcher::QueueView>, usize) {
    let moving = console.jobs.all().iter().map(|job| job.done + 1).sum();
    (console.journal.changes(), console.queues.queues(), moving)
}

/// Returns when the host stops.
async fn stopped(console: &Console) {
    // A sender that is gone has stopped as well.
    drop(console.stopping.clone().wait_for(|stopping| *stopping).await);
}

async fn changes(State(console): State<Console>) -> Response {
    let Ok(place) = Arc::clone(&console.streams).try_acquire_owned() else { return too_many() };
    let seen = mark(&console);
    let news = stream::unfold((console, seen, place), async |(console, seen, place)| {
        loop {
            tokio::select! {
                () = stopped(&console) => return None,
                () = tokio::time::sleep(EVERY) => {}
            }
            let now = mark(&console);
            if now != seen {
                // Without data a browser takes no notice.
                let changed = Event::default().event("changed").data("now");
                return Some((Ok::<_, Infallible>(changed), (console, now, place)));
            }
        }
    });
    Sse::new(news).keep_alive(KeepAlive::new().interval(STILL_THERE)).into_response()
}

/// An attempt that has ended.
#[derive(Serialize)]
struct Ended<'a> {
    event: String,
    name: &'a str,
    entity: Option<String>,
    plugin: &'a str,
    account: &'a str,
    delivery: i64,
    attempt: u32,
    version: &'a str,
    outcome: &'a str,
    code: Option<&'a str>,
    reason: Option<String>,
    ended_at: i64,
    took_ms: i64,
}

fn ended(delivered: &Delivered, mask: &Mask) -> Option<Event> {
    let Delivered { queue, event, settlement, .. } = delivered;
    let mut entity = event.entity.as_ref().map(ToString::to_string);
    mask.record_of(&mut entity, &event.fields);
    let reason = settlement.outcome.reason();
    let ended = Ended {
        event: event.id.to_string(),
        name: &event.name,
        entity,
        plugin: queue.plugin.as_str(),
        account: &queue.account,
        delivery: settlement.delivery.0,
        attempt: settlement.attempt,
        version: &settlement.version,
        outcome: settlement.outcome.as_str(),
        code: settlement.outcome.code(),
        reason: Some(reason).filter(|reason| !reason.is_empty() && mask.is_empty()),
        ended_at: settlement.ended_at,
        took_ms: settlement.ended_at.saturating_sub(settlement.started_at),
    };
    Event::default().event("attempt").json_data(ended).ok()
}

async fn attempts(State(console): State<Console>) -> Response {
    let Ok(place) = Arc::clone(&console.streams).try_acquire_owned() else { return too_many() };
    let feed = console.queues.delivered();
    let news = stream::unfold((feed, place, console), async |(mut feed, place, console)| {
        loop {
            let ended_one = tokio::select! {
                () = stopped(&console) => return None,
                ended_one = feed.recv() => ended_one,
            };
            let event = match ended_one {
                Ok(delivered) => ended(&delivered, &console.mask),
                Err(RecvError::Lagged(missed)) => Some(Event::default().event("missed").data(missed.to_string())),
                Err(RecvError::Closed) => return None,
            };
            if let Some(event) = event {
                return Some((Ok::<_, Infallible>(event), (feed, place, console)));
            }
        }
    });
    Sse::new(news).keep_alive(KeepAlive::new().interval(STILL_THERE)).into_response()
}
