//! Questions: events, deliveries, dead letters, queues, CRMs, the operators' log.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::console::access::{Operator, Role};
use crate::console::jobs::Job;
use crate::console::problem::Refused;
use crate::console::{Console, MOST_ROWS, Problem, blocking};
use crate::crm::check::Checkup;
use crate::dispatcher::{QueueView, Standing};
use crate::event::{Entity, EventId};
use crate::journal::{
    Audited, Backlog, Counted, DeliveryId, DeliveryPath, EventFilter, EventPath, FailedAttempt, Found, Group, Letter,
    LetterFilter, Minute, QueueMinutes, Wanted,
};
use crate::plugin::PluginName;
use crate::registry::Notice;

/// Which events.
#[derive(Debug, Clone, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(in crate::console) struct EventQuery {
    /// Of this name, or of a family: `deal.*`.
    pub(in crate::console) name: Option<String>,
    /// About this record, as `kind:id`.
    pub(in crate::console) entity: Option<String>,
    /// Caused by this employee.
    pub(in crate::console) actor: Option<u64>,
    /// Of this CRM.
    pub(in crate::console) account: Option<String>,
    /// Arrived at this time or later.
    pub(in crate::console) since: Option<i64>,
    /// Arrived before this time.
    pub(in crate::console) until: Option<i64>,
    /// With this text in the fields.
    pub(in crate::console) text: Option<String>,
    /// With a delivery to this plugin.
    #[param(value_type = Option<String>)]
    pub(in crate::console) plugin: Option<PluginName>,
    /// With a delivery of this outcome (to that plugin): `done`, `skipped`, `dead`, `dropped`, `waiting`, `running`, or
    /// `failed`, which is dead or waiting after a failure.
    #[param(value_type = Option<String>)]
    pub(in crate::console) outcome: Option<Wanted>,
    /// `next` of the page before.
    pub(in crate::console) cursor: Option<String>,
    /// Rows, at most 200; 50 by default.
    pub(in crate::console) limit: Option<usize>,
    /// Look into what `console.mask` hides as well, and show it; for admins, and noted in the operators' log.
    pub(in crate::console) unmasked: bool,
}

impl EventQuery {
    pub(in crate::console) fn filter(&self) -> Result<EventFilter, Problem> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let entity = match said(&self.entity) {
            Some(text) => Some(record(&text)?),
            None => None,
        };
        let Self { actor, since, until, .. } = *self;
        let (name, account, text) = (said(&self.name), said(&self.account), said(&self.text));
        let (plugin, outcome) = (self.plugin.clone(), self.outcome);
        Ok(EventFilter { name, entity, actor, account, since, until, text, plugin, outcome })
    }
}

/// Reads `client:123`.
pub(in crate::console) fn record(text: &str) -> Result<Entity, Problem> {
    match text.trim().split_once(':') {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {
            Ok(Entity { kind: kind.to_owned(), id: id.to_owned() })
        }
        _ => Err(Problem::bad_filter(format!("`{text}` is no record: write `kind:id`, such as `client:123`"))),
    }
}

pub(super) fn cursor(text: Option<&str>) -> Result<Option<i64>, Problem> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::bad_filter("`cursor` is `next` of the page before")),
    }
}

pub(super) fn rows(limit: Option<usize>) -> usize {
    limit.unwrap_or(50).clamp(1, MOST_ROWS)
}

/// Events, the newest first.
#[utoipa::path(get, path = "/api/v1/events", params(EventQuery), responses((status = 200, body = Found), (status = "default", body = Refused)))]
pub(super) async fn events(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Json<Found>, Problem> {
    let words = "the filter can't be read: it knows name, entity, actor, account, since, until, text, plugin, outcome (done, skipped, dead, dropped, waiting, running, failed), cursor, limit, unmasked";
    let Query(query) = query.map_err(|_| Problem::bad_filter(words))?;
    let (filter, cursor, limit) = (query.filter()?, cursor(query.cursor.as_deref())?, rows(query.limit));
    let shown = Unmasked { unmasked: query.unmasked }.allowed(&console, &who, "search").await?;
    if shown {
        return Ok(Json(blocking(move || console.journal.events(&filter, cursor, limit)).await?));
    }
    Ok(Json(console.found(filter, cursor, limit).await?))
}

/// Whether fields that are hidden are shown.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Unmasked {
    /// Show what `console.mask` hides; for admins, and noted in the operators' log.
    #[serde(default)]
    unmasked: bool,
}

impl Unmasked {
    async fn allowed(&self, console: &Console, who: &Operator, object: &str) -> Result<bool, Problem> {
        let wanted = self.unmasked && who.role == Role::Admin && !console.mask.is_empty();
        if wanted {
            console.audit(who, "event.unmasked", object, "").await?;
        }
        Ok(wanted)
    }
}

/// An event with everything that became of it.
#[utoipa::path(get, path = "/api/v1/events/{id}", params(("id" = String, Path), Unmasked), responses((status = 200, body = EventPath), (status = "default", body = Refused)))]
pub(super) async fn event(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    Query(unmasked): Query<Unmasked>,
) -> Result<Json<EventPath>, Problem> {
    let found = event_id(&id)?;
    let shown = unmasked.allowed(&console, &who, &id).await?;
    let journal = console.journal.clone();
    let path = blocking(move || journal.path_of(found)).await?;
    let mut path = path.ok_or_else(|| Problem::not_found("there is no event with this id"))?;
    if !shown {
        console.mask.path(&mut path);
    }
    Ok(Json(path))
}

pub(in crate::console) fn event_id(text: &str) -> Result<EventId, Problem> {
    EventId::parse(text).ok_or_else(|| Problem::bad_id("this is not an event's id"))
}

pub(in crate::console) fn delivery_id(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| Problem::bad_id("this is not a delivery's number"))
}

/// A delivery with its event.
#[utoipa::path(get, path = "/api/v1/deliveries/{id}", params(("id" = i64, Path), Unmasked), responses((status = 200, body = DeliveryPath), (status = "default", body = Refused)))]
pub(super) async fn delivery(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(id): Path<String>,
    Query(unmasked): Query<Unmasked>,
) -> Result<Json<DeliveryPath>, Problem> {
    let number = delivery_id(&id)?;
    let shown = unmasked.allowed(&console, &who, &id).await?;
    let journal = console.journal.clone();
    let path = blocking(move || journal.delivery(DeliveryId(number))).await?;
    let mut path = path.ok_or_else(|| Problem::not_found("there is no delivery with this number"))?;
    if !shown {
        console.mask.delivery(&mut path);
    }
    Ok(Json(path))
}

/// How things stand.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct Overview {
    /// How much waits.
    pub(in crate::console) backlog: Backlog,
    /// The last hour, minute by minute.
    pub(in crate::console) minutes: Vec<Minute>,
    /// Each plugin and CRM, with the last hour's counts.
    pub(in crate::console) queues: Vec<QueueMinutes>,
    /// Each CRM.
    pub(in crate::console) crms: Vec<CrmView>,
    /// The places in which plugins run, and their memory.
    pub(in crate::console) places: Standing,
}

/// A CRM.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct CrmView {
    /// The account's name.
    pub(in crate::console) account: String,
    /// Whether it answers, as far as anybody has noticed; null: the account has no address.
    pub(in crate::console) reachable: Option<bool>,
    /// Why it does not, and what helps.
    pub(in crate::console) why: Option<String>,
}

fn crm_views(console: &Console) -> Vec<CrmView> {
    let view = |(account, client): (String, Option<crate::crm::Client>)| {
        let why = client.as_ref().and_then(crate::crm::Client::why_away).map(|why| why.known());
        CrmView { account, reachable: client.map(|client| *client.reachable().borrow()), why }
    };
    console.queues.crms().into_iter().map(view).collect()
}

pub(in crate::console) async fn overview_of(console: &Console, span: i64, step: i64) -> Result<Overview, Problem> {
    let (journal, from) = (console.journal.clone(), console.clock.now() - span * 60_000);
    let read = move || Ok((journal.backlog()?, journal.minutes(from, step)?, journal.queue_minutes(from)?));
    let (backlog, minutes, queues) = blocking(read).await?;
    Ok(Overview { backlog, minutes, queues, crms: crm_views(console), places: console.queues.standing() })
}

/// How things stand: backlog, the last hour minute by minute, plugins, CRMs.
#[utoipa::path(get, path = "/api/v1/overview", responses((status = 200, body = Overview), (status = "default", body = Refused)))]
pub(super) async fn overview(State(console): State<Console>) -> Result<Json<Overview>, Problem> {
    Ok(Json(overview_of(&console, 60, 1).await?))
}

/// How much waits.
#[utoipa::path(get, path = "/api/v1/backlog", responses((status = 200, body = Backlog), (status = "default", body = Refused)))]
pub(super) async fn backlog(State(console): State<Console>) -> Result<Json<Backlog>, Problem> {
    Ok(Json(blocking(move || console.journal.backlog()).await?))
}

/// Each plugin and CRM: whether its deliveries flow, and if not, why.
#[utoipa::path(get, path = "/api/v1/queues", responses((status = 200, body = Vec<QueueView>), (status = "default", body = Refused)))]
pub(super) async fn queues(State(console): State<Console>) -> Json<Vec<QueueView>> {
    Json(console.queues.queues())
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct LetterQuery {
    /// Of this plugin.
    #[param(value_type = Option<String>)]
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
    /// `next` of the page before.
    cursor: Option<String>,
    /// Rows, at most 200; 50 by default.
    limit: Option<usize>,
}

/// One page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Letters {
    /// By number.
    items: Vec<Letter>,
    /// What to ask with for the next page; none at the end.
    next: Option<String>,
}

/// Dead letters.
#[utoipa::path(get, path = "/api/v1/dead", params(LetterQuery), responses((status = 200, body = Letters), (status = "default", body = Refused)))]
pub(super) async fn dead(
    State(console): State<Console>,
    query: Result<Query<LetterQuery>, QueryRejection>,
) -> Result<Json<Letters>, Problem> {
    let words = "the filter can't be read: it knows plugin, account, event, code, since, until, cursor, limit";
    let Query(query) = query.map_err(|_| Problem::bad_filter(words))?;
    let (after, limit) = (cursor(query.cursor.as_deref())?.unwrap_or(0), rows(query.limit));
    let LetterQuery { plugin, account, event, code, since, until, .. } = query;
    let filter = LetterFilter { plugin, account, event, code, since, until, up_to: None };
    let items = letters_of(&console, filter, after, limit).await?;
    let next = items.last().filter(|_| items.len() == limit).map(|letter| letter.delivery.to_string());
    Ok(Json(Letters { items, next }))
}

/// How many dead letters a filter means now, and the first of them: to be shown before something is decided about them.
/// `until` and `up_to` of the answer, sent with the decision, mean just these.
#[utoipa::path(get, path = "/api/v1/dead/count", params(LetterQuery), responses((status = 200, body = Counted), (status = "default", body = Refused)))]
pub(super) async fn count_dead(
    State(console): State<Console>,
    query: Result<Query<LetterQuery>, QueryRejection>,
) -> Result<Json<Counted>, Problem> {
    let words = "the filter can't be read: it knows plugin, account, event, code, since, until, limit";
    let Query(query) = query.map_err(|_| Problem::bad_filter(words))?;
    let LetterQuery { plugin, account, event, code, since, until, limit, .. } = query;
    let filter = LetterFilter { plugin, account, event, code, since, until, up_to: None };
    Ok(Json(count_of(&console, filter, limit.unwrap_or(FIRST).min(MOST_ROWS)).await?))
}

/// Things that are shown of many before something is decided about them.
pub(in crate::console) const FIRST: usize = 10;

pub(in crate::console) async fn count_of(
    console: &Console,
    filter: LetterFilter,
    shown: usize,
) -> Result<Counted, Problem> {
    let (journal, now) = (console.journal.clone(), console.clock.now());
    let mut counted = blocking(move || journal.count_letters(&filter, now, shown)).await?;
    counted.first.iter_mut().for_each(|letter| masked(console, letter));
    Ok(counted)
}

pub(in crate::console) async fn letters_of(
    console: &Console,
    filter: LetterFilter,
    after: i64,
    limit: usize,
) -> Result<Vec<Letter>, Problem> {
    let journal = console.journal.clone();
    let mut letters = blocking(move || journal.letters(&filter, after, limit)).await?;
    letters.iter_mut().for_each(|letter| masked(console, letter));
    Ok(letters)
}

/// A plugin's own words may hold what is hidden.
fn masked(console: &Console, letter: &mut Letter) {
    if !console.mask.is_empty() {
        letter.reason = None;
        letter.entity.iter_mut().for_each(|entity| console.mask.lone_record(entity));
    }
}

/// Dead letters by plugin, CRM and code.
#[utoipa::path(get, path = "/api/v1/dead/groups", responses((status = 200, body = Vec<Group>), (status = "default", body = Refused)))]
pub(super) async fn dead_groups(State(console): State<Console>) -> Result<Json<Vec<Group>>, Problem> {
    Ok(Json(groups_of(&console).await?))
}

pub(in crate::console) async fn groups_of(console: &Console) -> Result<Vec<Group>, Problem> {
    let journal = console.journal.clone();
    let mut groups = blocking(move || journal.letter_groups()).await?;
    if !console.mask.is_empty() {
        groups.iter_mut().for_each(|group| group.last_reason = None);
    }
    Ok(groups)
}

/// Whose failures.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FailureQuery {
    /// Of this plugin.
    #[param(value_type = Option<String>)]
    plugin: Option<PluginName>,
    /// Rows, at most 200; 50 by default.
    limit: Option<usize>,
}

/// The last attempts that did not end well.
#[utoipa::path(get, path = "/api/v1/failures", params(FailureQuery), responses((status = 200, body = Vec<FailedAttempt>), (status = "default", body = Refused)))]
pub(super) async fn failures(
    State(console): State<Console>,
    query: Result<Query<FailureQuery>, QueryRejection>,
) -> Result<Json<Vec<FailedAttempt>>, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_filter("the filter knows plugin and limit"))?;
    Ok(Json(failures_of(&console, query.plugin, rows(query.limit)).await?))
}

pub(in crate::console) async fn failures_of(
    console: &Console,
    plugin: Option<PluginName>,
    limit: usize,
) -> Result<Vec<FailedAttempt>, Problem> {
    let journal = console.journal.clone();
    let mut failed = blocking(move || journal.failed_attempts(plugin.as_ref(), limit)).await?;
    if !console.mask.is_empty() {
        failed.iter_mut().for_each(|attempt| attempt.reason.clear());
    }
    Ok(failed)
}

/// Large changes under way, and the last that ended.
#[utoipa::path(get, path = "/api/v1/jobs", responses((status = 200, body = Vec<Job>), (status = "default", body = Refused)))]
pub(super) async fn jobs(State(console): State<Console>) -> Json<Vec<Job>> {
    Json(jobs_of(&console))
}

pub(in crate::console) fn jobs_of(console: &Console) -> Vec<Job> {
    let mut jobs = console.jobs.all();
    jobs.iter_mut().for_each(|job| console.mask.deed(&mut job.object));
    jobs
}

/// Why files, or what they hold, are not served.
#[utoipa::path(get, path = "/api/v1/notices", responses((status = 200, body = Vec<Notice>), (status = "default", body = Refused)))]
pub(super) async fn notices(State(console): State<Console>) -> Json<Vec<Notice>> {
    Json(console.registry.snapshot().notices.to_vec())
}

/// Each CRM, and whether it answers.
#[utoipa::path(get, path = "/api/v1/crm", responses((status = 200, body = Vec<CrmView>), (status = "default", body = Refused)))]
pub(super) async fn crms(State(console): State<Console>) -> Json<Vec<CrmView>> {
    Json(crm_views(&console))
}

/// Asks a CRM a few harmless questions: whether it answers, takes the key, and which quirks it has.
#[utoipa::path(post, path = "/api/v1/crm/{account}/check", params(("account" = String, Path)), request_body = super::wishes::Nothing, responses((status = 200, body = Checkup), (status = "default", body = Refused)))]
pub(super) async fn check_crm(
    State(console): State<Console>,
    Path(account): Path<String>,
    nothing: Result<Json<super::wishes::Nothing>, JsonRejection>,
) -> Result<Json<Checkup>, Problem> {
    super::wishes::empty(nothing)?;
    let client = console.queues.crms().into_iter().find(|(name, _)| *name == account);
    match client {
        Some((_, Some(client))) => {
            let mut checkup = client.check(console.clock.now()).await;
            let journal = console.journal.clone();
            let others = blocking(move || journal.same_login(&account)).await?;
            if others > 0 {
                checkup.problems.push(format!(
                    "{others} of the last events were caused by the login's user and by none of the host's writes: a human, or another program, uses the same login. Make a CRM user for the host alone"
                ));
            }
            Ok(Json(checkup))
        }
        Some((_, None)) => {
            Err(Problem::refused(format!("`[crm.{account}]` has no `url`: events come in, and nothing can be called")))
        }
        None => Err(Problem::not_found("there is no account of this name")),
    }
}

/// Where a page begins.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// `next` of the page before.
    pub(super) cursor: Option<String>,
    /// Rows, at most 200; 50 by default.
    pub(super) limit: Option<usize>,
}

/// One page of the operators' log.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::console) struct AuditPage {
    /// The newest first.
    pub(in crate::console) items: Vec<Audited>,
    /// What to ask with for the next page; none at the end.
    pub(in crate::console) next: Option<String>,
}

/// What operators did, and when.
#[utoipa::path(get, path = "/api/v1/audit", params(PageQuery), responses((status = 200, body = AuditPage), (status = "default", body = Refused)))]
pub(super) async fn audit(
    State(console): State<Console>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<AuditPage>, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_filter("the list knows cursor and limit"))?;
    Ok(Json(audit_page(&console, query.cursor.as_deref(), rows(query.limit)).await?))
}

pub(in crate::console) async fn audit_page(
    console: &Console,
    from: Option<&str>,
    limit: usize,
) -> Result<AuditPage, Problem> {
    let (journal, before) = (console.journal.clone(), cursor(from)?);
    let mut items = blocking(move || journal.audited(before, limit)).await?;
    items.iter_mut().for_each(|line| console.mask.audited(line));
    let next = items.last().filter(|_| items.len() == limit).map(|line| line.number.to_string());
    Ok(AuditPage { items, next })
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// The name.
    name: String,
    /// What they may do.
    role: Role,
    /// The host's version.
    version: &'static str,
}

/// Who you are to this host.
#[utoipa::path(get, path = "/api/v1/me", responses((status = 200, body = Me), (status = "default", body = Refused)))]
pub(super) async fn me(Extension(who): Extension<Operator>) -> Json<Me> {
    Json(Me { name: who.name, role: who.role, version: env!("CARGO_PKG_VERSION") })
}
