//! Whether the host is there (`/healthz`), and whether it can take events (`/readyz`, with reasons). Open to everybody:
//! the reasons name no record, no address and no plugin.
//!
//! - Not ready means that an event sent now would be refused: by what is looked at, and by what the last commits did. A CRM that is away, or a plugin that is paused, does not make
//!   the host unready: events wait, and nothing is lost; both are told as remarks.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::clock::Clock;
use crate::dispatcher::gate::Mode;
use crate::journal::Whereabouts;
use crate::parts::Parts;
use crate::{dispatcher, journal, registry};

/// What the room asks.
#[derive(Clone)]
pub struct Tools {
    /// The store.
    pub journal: journal::Handle,
    /// The loop.
    pub queues: dispatcher::Handle,
    /// The plugins.
    pub registry: registry::Handle,
    /// What else has to be there.
    pub parts: Parts,
    /// The time.
    pub clock: Clock,
}

/// How the host is.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    /// Why not.
    reasons: Vec<&'static str>,
    /// What is not as it should be, and loses nothing.
    remarks: Vec<Cow<'static, str>>,
    /// How many seconds ago the oldest event came that no plugin has been given yet.
    oldest_unrouted_s: Option<i64>,
}

/// Seconds from which on that is remarkable, once all plugins are ready.
const LONG: i64 = 60;

/// The routes.
pub fn routes(tools: Tools) -> Router {
    let ready = Router::new().route("/readyz", get(readiness)).with_state(tools);
    Router::new().route("/healthz", get(async || "ok")).merge(ready)
}

async fn readiness(State(tools): State<Tools>) -> Response {
    let journal = tools.journal.clone();
    // A read takes a thread of its own; one that hangs says as much as one that fails.
    let look = tokio::task::spawn_blocking(move || {
        (journal.unrouted_since(), journal.disk().has_room(), journal.whereabouts())
    });
    let look = tokio::time::timeout(std::time::Duration::from_secs(2), look).await;
    let (mut reasons, mut remarks, mut oldest) = (Vec::new(), Vec::new(), None);
    match look {
        Ok(Ok((unrouted, room, whereabouts))) => {
            match whereabouts {
                Whereabouts::Here => {}
                Whereabouts::Moved => reasons.push("the data folder was moved or replaced under the running host"),
                Whereabouts::Replaced => reasons.push("the journal's file was overwritten under the running host"),
            }
            match unrouted {
                Ok(since) => oldest = since.map(|since| tools.clock.now().saturating_sub(since).max(0) / 1_000),
                Err(_) => reasons.push("the journal can't be read"),
            }
            if !room {
                reasons.push("the disk with the data folder has less room than `server.min_free_mib`");
            }
        }
        _ => reasons.push("the journal does not answer"),
    }
    if tools.journal.is_closed() {
        reasons.push("the journal is closed");
    }
    if tools.journal.waits_for_go_on() {
        remarks.push(Cow::Borrowed(
            "the store was restored from a backup and waits for an operator: events are kept, and nothing runs; see `salesman-host restore --status`",
        ));
    }
    reasons.extend(tools.journal.trouble().map(journal::Trouble::sentence));
    for damage in &tools.journal.alarm().borrow().damaged {
        remarks.push(format!("{} is damaged: {}; {}", damage.what(), damage.meaning(), damage.remedy()).into());
    }
    if tools.queues.crms().iter().any(|(_, client)| client.as_ref().is_some_and(|client| !*client.reachable().borrow()))
    {
        remarks.push(Cow::Borrowed("a CRM can't be reached: deliveries that need it wait"));
    }
    if tools.queues.queues().iter().any(|queue| matches!(queue.mode, Mode::Paused { .. } | Mode::Probing)) {
        remarks.push(Cow::Borrowed("a plugin is paused after failures: its deliveries wait"));
    }
    if tools.queues.queues().iter().any(|queue| queue.mode == Mode::Held) {
        remarks.push(Cow::Borrowed("an operator paused a plugin"));
    }
    let plugins = tools.registry.snapshot();
    if plugins.start != registry::Start::Over {
        remarks.push(Cow::Borrowed("plugins are being made ready: their events are kept"));
    } else if let Some(seconds) = oldest.filter(|seconds| *seconds > LONG) {
        remarks.push(format!("events have waited for {seconds} s to be given to plugins").into());
    }
    if plugins.start == registry::Start::Over && !plugins.missed.is_empty() {
        remarks.push(Cow::Borrowed(
            "a plugin that served is missing or can't be loaded: its events are kept; `plugin list` names it",
        ));
    }
    if plugins.nobody_left {
        remarks.push(Cow::Borrowed("no plugin wants an event any more: what comes is stored, and reaches nobody"));
    }
    let down = tools.parts.down();
    remarks.extend(down.iter().map(|part| format!("a part of the host failed and is started again: {part}").into()));
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons, remarks, oldest_unrouted_s: oldest })).into_response()
}
