//! `/metrics`, for Prometheus: what was counted, and what stands at the moment of asking.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Console, Problem, blocking};
use crate::dispatcher::gate::Mode;
use crate::telemetry::metrics::Standing;

pub(super) fn routes() -> Router<Console> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(console): State<Console>) -> Result<Response, Problem> {
    let (journal, now) = (console.journal.clone(), console.clock.now());
    let read = move || {
        Ok((
            journal.backlog()?,
            journal.queue_minutes(now)?,
            journal.disk(),
            journal.state_uses()?,
            journal.unrouted_since()?,
        ))
    };
    let (backlog, queues, disk, state, unrouted) = blocking(read).await?;
    let snapshot = console.registry.snapshot();
    let serves = |name: &str| snapshot.plugins.keys().any(|plugin| plugin.as_str() == name);
    let places = console.queues.standing();
    let standing = Standing {
        state: state.into_iter().map(|of| (of.plugin, of.account, of.bytes)).collect(),
        plugin_memory: (places.memory, places.memory_taken),
        waiting: u64::try_from(places.waiting).unwrap_or(u64::MAX),
        backlog: vec![
            ("unrouted", backlog.unrouted),
            ("open", backlog.open),
            ("dead", backlog.dead),
            ("uncertain_writes", backlog.uncertain_writes),
        ],
        oldest_unrouted: unrouted.map_or(0, |since| u64::try_from(now.saturating_sub(since) / 1_000).unwrap_or(0)),
        queues: queues
            .into_iter()
            .filter(|queue| queue.open > 0 || queue.dead > 0 || serves(&queue.plugin))
            .map(|queue| (queue.plugin, queue.account, queue.open, queue.dead))
            .collect(),
        modes: console
            .queues
            .queues()
            .into_iter()
            .filter(|queue| serves(&queue.plugin))
            .map(|queue| (queue.plugin, queue.account, word(queue.mode)))
            .collect(),
        crms: console
            .queues
            .crms()
            .into_iter()
            .filter_map(|(account, client)| client.map(|client| (account, *client.reachable().borrow())))
            .collect(),
        notices: snapshot.notices.len(),
        disk_free: disk.free,
        store: disk.used,
    };
    let text = console.metrics.render(&standing);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Flowing => "flowing",
        Mode::Paused { .. } => "paused",
        Mode::Probing => "probing",
        Mode::WaitingForCrm => "waiting_for_crm",
        Mode::Held => "held",
    }
}
