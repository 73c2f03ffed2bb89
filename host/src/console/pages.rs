//! The pages: made here, whole, for every request; a script only asks for them again.
//!
//! - A page is a template (`../templates`) and a value; what it shows is escaped by the template.
//! - Forms bear the session's word and go back to the page that they came from.
//!
//! Not here: what a wish does (`actions`), and what is read (`api`).

mod chain;
mod charts;
mod confirm;
mod forms;
mod frame;
mod shown;

use askama::Template;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

use self::chain::Chain;
use self::charts::Chart;
use self::frame::{Asked, Frame, Seen};
use self::shown::{Row, rows};
use super::access::{Operator, Role};
use super::api::{self, AuditPage, Overview, PluginPath};
use super::jobs::{Job, JobState};
use super::words::{Language, Words};
use super::{Console, Problem, blocking};
use crate::journal::{EventPath, FailedAttempt, Found, Group, Letter, LetterFilter, Wanted};
use crate::plugin::PluginName;
use crate::registry::Notice;

/// Rows of one page.
const ROWS: usize = 50;

/// Pages that only those see who were let in.
pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/console", get(overview))
        .route("/console/events", get(events))
        .route("/console/events/{id}", get(event))
        .route("/console/plugins", get(plugins))
        .route("/console/plugins/{name}", get(plugin))
        .route("/console/dead", get(dead))
        .route("/console/audit", get(audit))
        .merge(forms::routes())
}

/// What everybody may see.
pub(super) fn open_routes() -> Router<Console> {
    let file = |kind: &'static str, text: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")], text))
    };
    Router::new()
        .route("/", get(async || Redirect::to("/console")))
        .route("/console/style.css", file("text/css; charset=utf-8", include_str!("../../assets/style.css")))
        .route("/console/live.js", file("text/javascript; charset=utf-8", include_str!("../../assets/live.js")))
        .route("/console/icon.svg", file("image/svg+xml", include_str!("../../assets/icon.svg")))
        .route("/console/language", get(language))
        .route("/console/enter", get(forms::enter))
        .route("/console/login", get(login_page).post(forms::login))
        .route("/console/logout", post(forms::logout))
}

/// A page, or why there is none.
type Page = Result<Response, Refused>;

/// A page that tells why there is no other.
struct Refused(Box<Response>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

fn page<T: Template>(template: &T) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            crate::telemetry::host_fault("console", &error);
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    message: String,
    code: &'a str,
    back: String,
}

/// A refusal as a page.
fn problem_page(frame: &Frame, problem: &Problem) -> Response {
    let w = frame.words();
    let message = w.problem(problem.code, &problem.message).to_owned();
    let shown = ProblemPage { frame, w, message, code: problem.code, back: frame.back() };
    let mut response = page(&shown);
    *response.status_mut() = problem.status;
    response
}

/// A refusal as a page, for somebody who may not even be in.
pub(super) fn refusal(parts: &axum::http::request::Parts, problem: &Problem) -> Response {
    problem_page(&Frame::outside(&Seen::of(parts)), problem)
}

impl Frame {
    fn refuse<P: Into<Problem>>(&self) -> impl Fn(P) -> Refused {
        |problem| Refused(Box::new(problem_page(self, &problem.into())))
    }
}

/// Whether a path is one of this host's pages: nobody is sent elsewhere.
fn own_page(path: &str) -> bool {
    path.starts_with("/console") && !path.contains(['\\', '\r', '\n'])
}

async fn language(RawQuery(query): RawQuery) -> Response {
    let asked = Asked::of(query.as_deref());
    let language = Language::parse(asked.get("to")).unwrap_or(Language::English);
    let next = Some(asked.get("next")).filter(|next| own_page(next)).unwrap_or("/console");
    let cookie =
        format!("{}={}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax", super::words::COOKIE, language.code());
    ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response()
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    /// Whether there is anybody who could log in.
    users: bool,
    next: &'a str,
    wrong: Option<String>,
}

async fn login_page(State(console): State<Console>, seen: Seen, RawQuery(query): RawQuery) -> Response {
    let asked = Asked::of(query.as_deref());
    login_form(&Frame::outside(&seen), console.access.has_users(), asked.get("next"), None)
}

fn login_form(frame: &Frame, users: bool, next: &str, wrong: Option<String>) -> Response {
    page(&LoginPage { frame, w: frame.words(), users, next, wrong })
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    overview: Overview,
    troubles: Vec<String>,
    spans: Vec<(i64, &'static str, bool)>,
    charts: Vec<Chart>,
    plugins: Vec<Row>,
    failures: Vec<FailedAttempt>,
}

/// Minutes of a chart, and of one bar.
const SPANS: [(i64, i64); 3] = [(60, 1), (1_440, 20), (10_080, 120)];

async fn overview(State(console): State<Console>, seen: Seen) -> Page {
    let frame = Frame::new(&console, &seen, "/console").await;
    let w = frame.words();
    let wanted: i64 = frame.asked.get("span").parse().unwrap_or(60);
    let (span, step) = SPANS.into_iter().find(|(span, _)| *span == wanted).unwrap_or((60, 1));
    let overview = api::overview_of(&console, span, step).await.map_err(frame.refuse())?;
    let plugins = rows(w, &api::views(&console).await.map_err(frame.refuse())?);
    let failures = api::failures_of(&console, None, 10).await.map_err(frame.refuse())?;
    let mut troubles = Vec::new();
    for crm in overview.crms.iter().filter(|crm| crm.reachable == Some(false)) {
        troubles.push(format!("{} {}", w.stopped_crm, crm.account));
    }
    for row in plugins.iter().filter(|row| row.failing) {
        troubles.push(format!("{} {}", w.stopped_plugin, row.name));
    }
    troubles.extend(console.registry.snapshot().notices.iter().map(|notice| notice.message.clone()));
    let names = [w.hour, w.day, w.week];
    let spans = SPANS.iter().zip(names).map(|((minutes, _), words)| (*minutes, words, *minutes == span)).collect();
    let charts = charts::all(&frame, &overview.minutes, console.clock.now(), span, step);
    Ok(page(&OverviewPage { frame: &frame, w, overview, troubles, spans, charts, plugins, failures }))
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    asked: shown::AskedEvents,
    found: Found,
    next: Option<String>,
    plugins: Vec<PluginName>,
}

fn live_plugins(console: &Console) -> Vec<PluginName> {
    console.registry.snapshot().plugins.keys().cloned().collect()
}

async fn events(State(console): State<Console>, seen: Seen) -> Page {
    let frame = Frame::new(&console, &seen, "/console/events").await;
    let asked = shown::AskedEvents::of(&frame.asked);
    let filter = asked.query(&frame).and_then(|query| query.filter()).map_err(frame.refuse())?;
    let cursor = frame.asked.get("cursor").parse().ok();
    let found = console.found(filter, cursor, ROWS).await.map_err(frame.refuse())?;
    let next = found.next.as_ref().map(|cursor| frame.asked.with("/console/events", "cursor", cursor));
    let plugins = live_plugins(&console);
    Ok(page(&EventsPage { frame: &frame, w: frame.words(), asked, found, next, plugins }))
}

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    path: EventPath,
    fields: String,
    chain: Option<Chain>,
    plugins: Vec<PluginName>,
}

async fn event(State(console): State<Console>, seen: Seen, Path(id): Path<String>) -> Page {
    let frame = Frame::new(&console, &seen, "/console/events").await;
    let id = api::event_id(&id).map_err(frame.refuse())?;
    let journal = console.journal.clone();
    let path = blocking(move || journal.path_of(id)).await.map_err(frame.refuse())?;
    let missing = || Problem::not_found("there is no event with this id");
    let mut path = path.ok_or_else(missing).map_err(frame.refuse())?;
    console.mask.path(&mut path);
    let fields = serde_json::to_string_pretty(&path.fields).unwrap_or_default();
    let (chain, plugins) = (Chain::of(frame.words(), &path), live_plugins(&console));
    Ok(page(&EventPage { frame: &frame, w: frame.words(), path, fields, chain, plugins }))
}

#[derive(Template)]
#[template(path = "plugins.html")]
struct PluginsPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    plugins: Vec<Row>,
    notices: Vec<Notice>,
}

async fn plugins(State(console): State<Console>, seen: Seen) -> Page {
    let frame = Frame::new(&console, &seen, "/console/plugins").await;
    let plugins = rows(frame.words(), &api::views(&console).await.map_err(frame.refuse())?);
    let notices = console.registry.snapshot().notices.to_vec();
    Ok(page(&PluginsPage { frame: &frame, w: frame.words(), plugins, notices }))
}

#[derive(Template)]
#[template(path = "plugin.html")]
struct PluginPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    row: Row,
    path: PluginPath,
    permissions: Vec<(String, bool)>,
    shown_hash: String,
    open_choice: bool,
    something_missing: bool,
    failures: Vec<FailedAttempt>,
}

async fn plugin(State(console): State<Console>, seen: Seen, Path(name): Path<String>) -> Page {
    let frame = Frame::new(&console, &seen, "/console/plugins").await;
    let name = api::named(name).map_err(frame.refuse())?;
    let path = api::path(&console, &name).await.map_err(frame.refuse())?;
    let row = Row::of(frame.words(), &path.plugin);
    let failures = api::failures_of(&console, Some(name), 10).await.map_err(frame.refuse())?;
    let permissions = shown::permissions(&path.plugin);
    let asks = path.plugin.asks().map(|(hash, asks)| (hash.to_owned(), asks.http.iter().any(|origin| origin == "*")));
    let (shown_hash, open_choice) = asks.unwrap_or_default();
    let (w, something_missing) = (frame.words(), permissions.iter().any(|(_, granted)| !granted));
    Ok(page(&PluginPage {
        frame: &frame,
        w,
        row,
        path,
        permissions,
        shown_hash,
        open_choice,
        something_missing,
        failures,
    }))
}

#[derive(Template)]
#[template(path = "dead.html")]
struct DeadPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    jobs: Vec<Job>,
    groups: Vec<Group>,
    asked: shown::AskedLetters,
    letters: Vec<Letter>,
    next: Option<String>,
}

async fn dead(State(console): State<Console>, seen: Seen) -> Page {
    let frame = Frame::new(&console, &seen, "/console/dead").await;
    let asked = shown::AskedLetters::of(&frame.asked);
    let filter: LetterFilter = asked.filter(&frame).map_err(frame.refuse())?;
    let after = frame.asked.get("cursor").parse().unwrap_or(0);
    let letters = api::letters_of(&console, filter, after, ROWS).await.map_err(frame.refuse())?;
    let groups = api::groups_of(&console).await.map_err(frame.refuse())?;
    let last = letters.last().filter(|_| letters.len() == ROWS);
    let next = last.map(|letter| frame.asked.with("/console/dead", "cursor", &letter.delivery.to_string()));
    let jobs = api::jobs_of(&console);
    Ok(page(&DeadPage { frame: &frame, w: frame.words(), jobs, groups, asked, letters, next }))
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditLogPage<'a> {
    frame: &'a Frame,
    w: &'static Words,
    page: AuditPage,
}

async fn audit(State(console): State<Console>, seen: Seen) -> Page {
    let frame = Frame::new(&console, &seen, "/console/audit").await;
    let cursor = Some(frame.asked.get("cursor")).filter(|cursor| !cursor.is_empty());
    let lines = api::audit_page(&console, cursor, ROWS).await.map_err(frame.refuse())?;
    Ok(page(&AuditLogPage { frame: &frame, w: frame.words(), page: lines }))
}
