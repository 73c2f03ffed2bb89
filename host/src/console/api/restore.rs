//! A store that was restored from a backup: what was open, and letting it go on.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Query, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::reads::{PageQuery, cursor, rows};
use super::wishes::{Nothing, empty};
use crate::console::access::Operator;
use crate::console::problem::Refused;
use crate::console::{Console, Problem, blocking};
use crate::journal::{Doubted, Restored};

/// Whether the store was restored from a backup.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// Whether it waits for an operator: events are kept, and nothing runs.
    waits: bool,
    /// The last restore; null: there was none.
    restored: Option<Restored>,
}

/// Whether the store was restored from a backup, what was open then, and whether it waits.
#[utoipa::path(get, path = "/api/v1/restore", responses((status = 200, body = Status), (status = "default", body = Refused)))]
pub(super) async fn status(State(console): State<Console>) -> Result<Json<Status>, Problem> {
    let journal = console.journal.clone();
    let restored = blocking(move || journal.restored()).await?;
    Ok(Json(Status { waits: console.journal.waits_for_go_on(), restored }))
}

/// One page of deliveries that were open at the time of the copy.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DoubtedPage {
    /// By number.
    items: Vec<Doubted>,
    /// What to ask with for the next page; none at the end.
    next: Option<String>,
}

/// Deliveries that were open at the time of the copy and are not over: what they write is looked for first.
#[utoipa::path(get, path = "/api/v1/restore/deliveries", params(PageQuery), responses((status = 200, body = DoubtedPage), (status = "default", body = Refused)))]
pub(super) async fn doubted(
    State(console): State<Console>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<DoubtedPage>, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_filter("the list knows cursor and limit"))?;
    let (journal, limit) = (console.journal.clone(), rows(query.limit));
    let after = cursor(query.cursor.as_deref())?.unwrap_or(0);
    let mut items = blocking(move || journal.doubted(after, limit)).await?;
    for entity in items.iter_mut().filter_map(|delivery| delivery.entity.as_mut()) {
        console.mask.lone_record(entity);
    }
    let next = items.last().filter(|_| items.len() == limit).map(|last| last.delivery.to_string());
    Ok(Json(DoubtedPage { items, next }))
}

/// What was let go on.
#[derive(Serialize, ToSchema)]
pub(super) struct WentOn {
    /// Whether it still waits.
    waits: bool,
}

/// Lets a store that was restored from a backup go on.
#[utoipa::path(post, path = "/api/v1/restore/go-on", request_body = Nothing, responses((status = 200, body = WentOn), (status = "default", body = Refused)))]
pub(super) async fn go_on(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    nothing: Result<Json<Nothing>, JsonRejection>,
) -> Result<Json<WentOn>, Problem> {
    empty(nothing)?;
    console.go_on(&who).await?;
    Ok(Json(WentOn { waits: console.journal.waits_for_go_on() }))
}
