//! Wishes: send, replay, retry, drop.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::reads::{EventQuery, delivery_id, event_id};
use crate::console::access::{COMMANDS, Operator};
use crate::console::jobs::Job;
use crate::console::problem::Refused;
use crate::console::vouch::Said;
use crate::console::{Console, Problem};
use crate::event::EventId;
use crate::journal::{DeliveryId, EventFilter, LetterFilter, Resolution};
use crate::plugin::PluginName;
use crate::text;

/// An event made by hand.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Handmade {
    /// The NAME of `[crm.NAME]`.
    account: String,
    /// The event's name.
    event: String,
    /// Its fields, as the CRM would send them.
    #[serde(default)]
    #[schema(value_type = Object)]
    fields: Map<String, Value>,
}

/// What was made.
#[derive(Serialize, ToSchema)]
pub(super) struct Sent {
    /// The event's id.
    id: EventId,
}

/// JSON whose numbers are text, digit for digit, as the intake reads them.
pub(super) struct Digits<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Digits<T> {
    type Rejection = JsonRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, JsonRejection> {
        let (parts, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await?;
        let body = match std::str::from_utf8(text::unmarked_bytes(&bytes)) {
            Ok(written) => Body::from(text::with_numbers_as_text(written).into_owned()),
            // What is no text is refused by the reader behind.
            Err(_) => Body::from(bytes),
        };
        Json::from_request(Request::from_parts(parts, body), state).await.map(|Json(wish)| Self(wish))
    }
}

pub(super) fn wish<T>(wish: Result<Json<T>, JsonRejection>, words: &str) -> Result<T, Problem> {
    wish.map(|Json(wish)| wish).map_err(|_| Problem::bad_filter(words))
}

/// Stores an event as if the CRM had sent it.
#[utoipa::path(post, path = "/api/v1/events", request_body = Handmade, responses((status = 200, body = Sent), (status = "default", body = Refused)))]
pub(super) async fn send_event(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    body: Result<Digits<Handmade>, JsonRejection>,
) -> Result<Json<Sent>, Problem> {
    let body = body.map(|Digits(made)| Json(made));
    let Handmade { account, event, fields } = wish(body, "send a JSON object with `account`, `event` and `fields`")?;
    let id = console.send(&who, &account, &event, fields).await?;
    Ok(Json(Sent { id }))
}

/// For whom.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct For {
    /// The plugin.
    plugin: PluginName,
}

/// A new delivery.
#[derive(Serialize, ToSchema)]
pub(super) struct Replayed {
    /// Its number.
    delivery: i64,
}

/// Makes another delivery of an event for one plugin.
#[utoipa::path(post, path = "/api/v1/events/{id}/replay", params(("id" = String, Path)), request_body = For, responses((status = 200, body = Replayed), (status = "default", body = Refused)))]
pub(super) async fn replay_event(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    body: Result<Json<For>, JsonRejection>,
) -> Result<Json<Replayed>, Problem> {
    let For { plugin } = wish(body, "send a JSON object with `plugin`")?;
    let delivery = console.replay(&who, event_id(&id)?, &plugin).await?;
    Ok(Json(Replayed { delivery }))
}

/// Which events, for whom, how fast.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    /// The plugin.
    plugin: PluginName,
    /// Events a second; as fast as it goes without.
    pace: Option<f64>,
    /// Which events, as in their list.
    #[serde(default)]
    filter: EventQuery,
    /// Every event that is kept: an empty filter is refused without it.
    #[serde(default)]
    all: bool,
}

/// Makes another delivery of every event of a filter for one plugin, the oldest first.
#[utoipa::path(post, path = "/api/v1/events/replay", request_body = Range, responses((status = 200, body = Job), (status = "default", body = Refused)))]
pub(super) async fn replay_events(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    body: Result<Json<Range>, JsonRejection>,
) -> Result<Json<Job>, Problem> {
    let words = "send a JSON object with `plugin`, with `filter` or `all`, and perhaps `pace`";
    let Range { plugin, pace, filter, all } = wish(body, words)?;
    if filter.unmasked {
        return Err(Problem::bad_filter("what is hidden can't be searched for here: leave out `unmasked`"));
    }
    let filter = filter.filter()?;
    if filter == EventFilter::default() && !all {
        return Err(Problem::bad_filter("an empty filter would mean every event: say `\"all\": true` for that"));
    }
    Ok(Json(console.replay_all(&who, filter, plugin, pace).await?))
}

/// What was changed.
#[derive(Serialize, ToSchema)]
pub(super) struct Changed {
    /// How many.
    changed: usize,
}

/// Runs a delivery that waits or is a dead letter at once.
#[utoipa::path(post, path = "/api/v1/deliveries/{id}/retry", params(("id" = i64, Path)), request_body = Nothing, responses((status = 200, body = Changed), (status = "default", body = Refused)))]
pub(super) async fn retry_delivery(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    nothing: Result<Json<Nothing>, JsonRejection>,
) -> Result<Json<Changed>, Problem> {
    empty(nothing)?;
    console.decide(&who, delivery_id(&id)?, Resolution::Retry).await?;
    Ok(Json(Changed { changed: 1 }))
}

/// Gives up a delivery that waits or is a dead letter.
#[utoipa::path(post, path = "/api/v1/deliveries/{id}/drop", params(("id" = i64, Path)), request_body = Nothing, responses((status = 200, body = Changed), (status = "default", body = Refused)))]
pub(super) async fn drop_delivery(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    nothing: Result<Json<Nothing>, JsonRejection>,
) -> Result<Json<Changed>, Problem> {
    empty(nothing)?;
    console.decide(&who, delivery_id(&id)?, Resolution::Drop).await?;
    Ok(Json(Changed { changed: 1 }))
}

/// What was done about a write in doubt.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WasDone {
    /// The write, by its `key`; all that are in doubt by default.
    write: Option<String>,
    /// The number of the record that it added: the plugin gets it for an answer.
    record: Option<u64>,
}

/// Which write in doubt.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Again {
    /// The write, by its `key`; all that are in doubt by default.
    write: Option<String>,
}

/// On what the word was taken.
#[derive(Serialize, ToSchema)]
pub(super) struct Taken {
    /// On how many writes.
    changed: usize,
    /// How many of the delivery's writes are still in doubt; with none it runs again.
    uncertain: usize,
}

/// An operator says that a dead letter's write in doubt was done: the plugin is run again, and gets that for an answer.
#[utoipa::path(post, path = "/api/v1/deliveries/{id}/done", params(("id" = i64, Path)), request_body = WasDone, responses((status = 200, body = Taken), (status = "default", body = Refused)))]
pub(super) async fn was_done(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    body: Result<Json<WasDone>, JsonRejection>,
) -> Result<Json<Taken>, Problem> {
    let WasDone { write, record } = wish(body, "send a JSON object, with `record` and `write` where needed")?;
    let taken = console.vouch(&who, delivery_id(&id)?, write.as_deref(), Said::Done(record)).await?;
    Ok(Json(Taken { changed: taken.0, uncertain: taken.1 }))
}

/// An operator has a dead letter's write in doubt sent all the same: the plugin is run again.
#[utoipa::path(post, path = "/api/v1/deliveries/{id}/send", params(("id" = i64, Path)), request_body = Again, responses((status = 200, body = Taken), (status = "default", body = Refused)))]
pub(super) async fn send_again(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    body: Result<Json<Again>, JsonRejection>,
) -> Result<Json<Taken>, Problem> {
    let Again { write } = wish(body, "send a JSON object, with `write` where needed")?;
    let taken = console.vouch(&who, delivery_id(&id)?, write.as_deref(), Said::Send).await?;
    Ok(Json(Taken { changed: taken.0, uncertain: taken.1 }))
}

/// An empty object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// Takes an empty object, which only this host's own pages and programs can send.
pub(super) fn empty(nothing: Result<Json<Nothing>, JsonRejection>) -> Result<(), Problem> {
    wish(nothing, "send an empty JSON object: `{}`").map(drop)
}

/// Which dead letters, as an operator says it.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Choice {
    /// These, by number.
    deliveries: Option<Vec<i64>>,
    /// Every one: an empty filter is refused without it.
    all: bool,
    /// Of this plugin.
    plugin: Option<PluginName>,
    /// Of this CRM.
    account: Option<String>,
    /// Of events of this name.
    event: Option<String>,
    /// With this code.
    code: Option<String>,
    /// Given up at this time or later.
    since: Option<i64>,
    /// Given up before this time.
    until: Option<i64>,
    /// Up to this delivery, by number: with `until`, what `/api/v1/dead/count` counted.
    up_to: Option<i64>,
    /// Letters a second: then the answer comes at once and holds a `job`. Without it the answer comes when all is done.
    pace: Option<f64>,
}

/// What was decided.
#[derive(Serialize, ToSchema)]
pub(super) struct Decided {
    /// How many were changed; null: a job does it.
    changed: Option<usize>,
    /// The job, where a pace was given.
    job: Option<Job>,
}

/// Runs dead letters again.
#[utoipa::path(post, path = "/api/v1/dead/retry", request_body = Choice, responses((status = 200, body = Decided), (status = "default", body = Refused)))]
pub(super) async fn retry_dead(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    choice: Result<Json<Choice>, JsonRejection>,
) -> Result<Json<Decided>, Problem> {
    decide(&console, &who, choice, Resolution::Retry).await
}

/// Gives up dead letters.
#[utoipa::path(post, path = "/api/v1/dead/drop", request_body = Choice, responses((status = 200, body = Decided), (status = "default", body = Refused)))]
pub(super) async fn drop_dead(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    choice: Result<Json<Choice>, JsonRejection>,
) -> Result<Json<Decided>, Problem> {
    decide(&console, &who, choice, Resolution::Drop).await
}

async fn decide(
    console: &Console,
    who: &Operator,
    choice: Result<Json<Choice>, JsonRejection>,
    resolution: Resolution,
) -> Result<Json<Decided>, Problem> {
    let words = "send a JSON object with `deliveries`, or with plugin, account, event, code, since, until, or `all`; perhaps `up_to` and `pace`";
    let Choice { deliveries, all, plugin, account, event, code, since, until, up_to, pace } = wish(choice, words)?;
    let filter = LetterFilter { plugin, account, event, code, since, until, up_to };
    // Bounds alone choose nothing.
    let empty = LetterFilter { up_to: None, ..filter.clone() } == LetterFilter::default();
    match (deliveries, pace) {
        (Some(_), _) if !empty || all => Err(Problem::bad_filter("name `deliveries` or a filter, not both")),
        (Some(_), Some(_)) => Err(Problem::bad_filter("`pace` is for filters")),
        (Some(deliveries), None) => {
            let letters = deliveries.into_iter().map(DeliveryId).collect();
            let changed = console.resolve_these(who, letters, resolution).await?;
            Ok(Json(Decided { changed: Some(changed), job: None }))
        }
        (None, _) if empty && !all => {
            Err(Problem::bad_filter("an empty filter would mean every dead letter: say `\"all\": true` for that"))
        }
        (None, None) => {
            let changed = console.resolve_now(who, filter, resolution).await?;
            Ok(Json(Decided { changed: Some(changed), job: None }))
        }
        (None, pace) => {
            let job = console.resolve_all(who, filter, resolution, pace).await?;
            Ok(Json(Decided { changed: None, job: Some(job) }))
        }
    }
}

/// Stops a large change; what it has done stays done.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/stop", params(("id" = u64, Path)), request_body = Nothing, responses((status = 200, body = Changed), (status = "default", body = Refused)))]
pub(super) async fn stop_job(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<u64>,
    nothing: Result<Json<Nothing>, JsonRejection>,
) -> Result<Json<Changed>, Problem> {
    empty(nothing)?;
    console.stop_job(&who, id).await?;
    Ok(Json(Changed { changed: 1 }))
}

/// What an operator does beside the host.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// `plugin.grant`, `plugin.revoke` or `plugin.rollback`.
    action: String,
    /// To what.
    object: String,
    /// With what.
    #[serde(default)]
    details: String,
}

/// Puts a line into the operators' log, for the commands that write the host's files themselves.
#[utoipa::path(post, path = "/api/v1/audit", request_body = Note, responses((status = 200, body = Changed), (status = "default", body = Refused)))]
pub(super) async fn note(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    body: Result<Json<Note>, JsonRejection>,
) -> Result<Json<Changed>, Problem> {
    let Note { action, object, details } = wish(body, "send a JSON object with `action`, `object` and `details`")?;
    if !matches!(action.as_str(), "plugin.grant" | "plugin.revoke" | "plugin.rollback") {
        return Err(Problem::bad_filter("`action` is `plugin.grant`, `plugin.revoke` or `plugin.rollback`"));
    }
    console.audit(&who, &action, &object, &details).await?;
    Ok(Json(Changed { changed: 1 }))
}

/// A way in for a browser.
#[derive(Serialize, ToSchema)]
pub(super) struct Link {
    /// An address that opens the console as an administrator, once and within ten minutes.
    link: String,
}

/// How long a link is good.
const LINK: i64 = 10 * 60_000;

/// Makes an address that opens the console in a browser. Only for the token of the data folder: a session of such a link
/// belongs to no user, and would outlive one.
#[utoipa::path(post, path = "/api/v1/console/link", request_body = Nothing, responses((status = 200, body = Link), (status = "default", body = Refused)))]
pub(super) async fn link(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    nothing: Result<Json<Nothing>, JsonRejection>,
) -> Result<Json<Link>, Problem> {
    empty(nothing)?;
    if who.name != COMMANDS {
        let words =
            "a link is made for whoever may read the data folder: run `salesman-host console` on the host's machine";
        return Err(Problem::new(StatusCode::FORBIDDEN, "console.link", words));
    }
    console.audit(&who, "console.link", "", "").await?;
    Ok(Json(Link { link: console.access.keys().link(console.clock.now(), LINK) }))
}
