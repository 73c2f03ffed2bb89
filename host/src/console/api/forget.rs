//! Forgetting a record, and the proofs of it.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::reads::{FIRST, PageQuery, cursor, record, rows};
use super::wishes::wish;
use crate::console::access::{Operator, Role};
use crate::console::problem::Refused;
use crate::console::{Console, Problem, blocking};
use crate::journal::{Forgettable, Proof, Record};

/// What else is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MentionsQuery {
    /// Whether events of other records that name it are meant too.
    #[serde(default)]
    mentions: bool,
}

/// What forgetting a record would delete: to be shown before. For admins, who alone may do it.
#[utoipa::path(get, path = "/api/v1/forget/{account}/{entity}", params(("account" = String, Path), ("entity" = String, Path), MentionsQuery), responses((status = 200, body = Forgettable), (status = "default", body = Refused)))]
pub(super) async fn forgettable(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path((account, entity)): Path<(String, String)>,
    query: Result<Query<MentionsQuery>, QueryRejection>,
) -> Result<Json<Forgettable>, Problem> {
    if who.role < Role::Admin {
        // It counts events in which a number stands, hidden or not.
        return Err(Problem::viewer());
    }
    let Query(query) = query.map_err(|_| Problem::bad_filter("the question knows `mentions`"))?;
    let entity = record(&entity)?;
    let record = Record { account, kind: entity.kind, id: entity.id };
    let journal = console.journal.clone();
    Ok(Json(blocking(move || journal.forgettable(&record, query.mentions, FIRST)).await?))
}

/// Which record.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Forgotten {
    /// The NAME of `[crm.NAME]`.
    account: String,
    /// The record, as `kind:id`.
    entity: String,
    /// Whether events of other records that name it go too, calls that name it are blanked, and keys of plugins' state whose
    /// values name it are deleted.
    #[serde(default)]
    mentions: bool,
}

/// What was forgotten.
#[derive(Serialize, ToSchema)]
pub(super) struct Forgot {
    /// Events, calls and keys of state that are gone or blank.
    forgotten: u64,
    /// Events that run just now, or have only just come: they go as soon as that is over.
    left: u64,
    /// Whether no copy is left in the store's files. Where it is not so yet, it is done later, and the proof tells when.
    erased: bool,
    /// Whether a reader of the store's file is in the way of that.
    held_up: bool,
    /// The proof, as far as it goes.
    proof: Proof,
}

/// Deletes everything about one record.
#[utoipa::path(post, path = "/api/v1/forget", request_body = Forgotten, responses((status = 200, body = Forgot), (status = "default", body = Refused)))]
pub(super) async fn forget(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    body: Result<Json<Forgotten>, JsonRejection>,
) -> Result<Json<Forgot>, Problem> {
    let Forgotten { account, entity, mentions } =
        wish(body, "send a JSON object with `account`, `entity` and perhaps `mentions`")?;
    let entity = record(&entity)?;
    let record = Record { account, kind: entity.kind, id: entity.id };
    let proof = console.forget(&who, record, mentions).await?;
    let count = |key: &str| proof.counts.get(key).copied().unwrap_or_default();
    let forgotten = count("events") + count("blanked") + count("state");
    let (erased, held_up) = (proof.erased_at.is_some(), console.journal.is_held_up());
    Ok(Json(Forgot { forgotten, left: proof.left, erased, held_up, proof }))
}

/// One page of proofs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProofPage {
    /// The newest first.
    items: Vec<Proof>,
    /// What to ask with for the next page; none at the end.
    next: Option<String>,
}

/// Which records were forgotten, when and for whom.
#[utoipa::path(get, path = "/api/v1/forgotten", params(PageQuery), responses((status = 200, body = ProofPage), (status = "default", body = Refused)))]
pub(super) async fn proofs(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<ProofPage>, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_filter("the list knows cursor and limit"))?;
    let (journal, before, limit) = (console.journal.clone(), cursor(query.cursor.as_deref())?, rows(query.limit));
    let mut items = blocking(move || journal.proofs(before, limit)).await?;
    items.iter_mut().for_each(|proof| masked(&console, &who, proof));
    let next = items.last().filter(|_| items.len() == limit).map(|proof| proof.number.to_string());
    Ok(Json(ProofPage { items, next }))
}

/// One proof that a record was forgotten.
#[utoipa::path(get, path = "/api/v1/forgotten/{number}", params(("number" = String, Path)), responses((status = 200, body = Proof), (status = "default", body = Refused)))]
pub(super) async fn proof(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(number): Path<String>,
) -> Result<Json<Proof>, Problem> {
    let missing = || Problem::not_found(format!("there is no proof with the number `{number}`"));
    let wanted = number.parse().map_err(|_| missing())?;
    let journal = console.journal.clone();
    let mut proof = blocking(move || journal.proof(wanted)).await?.ok_or_else(missing)?;
    masked(&console, &who, &mut proof);
    Ok(Json(proof))
}

/// A proof is a document for whoever ordered it; others see of the record what they see elsewhere.
fn masked(console: &Console, who: &Operator, proof: &mut Proof) {
    if who.role < Role::Admin {
        console.mask.lone_record(&mut proof.entity);
    }
}
