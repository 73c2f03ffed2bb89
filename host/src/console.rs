//! The operator's side: what arrived, what became of it, and what to do about it; as pages and as an API.
//!
//! - Reads go to the store on threads and connections of their own, in bounded time: intake never waits behind one.
//! - Who may see and change what is `access`; every change is in the operators' log before it is made (`actions`).
//! - The pages work without scripts; a script of this host's own only keeps them fresh (`live`). Nothing is asked of any
//!   other address.
//! - The API describes itself: `/api/v1/openapi.json` is made of the code that answers (`api`).
//!
//! Not here: running anything, and the command line, which asks this API.

mod access;
mod actions;
mod api;
mod bounds;
mod guesses;
mod jobs;
mod links;
mod live;
mod mask;
mod measures;
mod neighbour;
mod pages;
mod passwords;
mod problem;
mod vouch;
mod words;

use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::event::Event;
use crate::journal::{EventFilter, Found};
use crate::plugin::{Permissions, PluginName};
use crate::registry::versions::Versions;
use crate::secret::Scrubber;
use crate::server::Caller;
use crate::telemetry::Metrics;
use crate::{dispatcher, journal, registry};
use access::{Access, Refusal};
pub use access::{Keys, Options as AccessOptions, Role, Token, User, address_file};
use mask::Mask;
pub use passwords::{hash_password, is_hash};
use problem::Problem;

/// Rows of one page at most.
const MOST_ROWS: usize = 200;
/// Streams of live news at once.
const MOST_STREAMS: usize = 32;

/// What the room needs to be told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// An address of its own; none: where events come in.
    pub listen: Option<String>,
    /// Who may come in.
    pub access: AccessOptions,
    /// Names of fields whose values nobody is shown.
    pub mask: Vec<String>,
}

/// Records what a plugin may do.
pub type Approve = dyn Fn(&PluginName, Option<&Permissions>) -> Result<(), String> + Send + Sync;
/// Makes an event of an account out of a JSON body, as if the account had sent it.
pub type MakeEvent = dyn Fn(&str, &[u8], i64) -> Result<Event, String> + Send + Sync;

/// What the room works with.
pub struct Tools {
    /// The store.
    pub journal: journal::Handle,
    /// The live plugins.
    pub registry: registry::Handle,
    /// The loop.
    pub queues: dispatcher::Handle,
    /// The time.
    pub clock: Clock,
    /// The versions that are kept.
    pub versions: Versions,
    /// Where grants are recorded.
    pub approve: Arc<Approve>,
    /// How an event is made by hand.
    pub make_event: Arc<MakeEvent>,
    /// What is counted.
    pub metrics: Metrics,
    /// Turns true when the host stops: streams end then.
    pub stopping: watch::Receiver<bool>,
    /// What takes the configuration's secrets out of what is shown.
    pub scrubber: Scrubber,
}

/// What every answer needs.
#[derive(Clone)]
struct Console(Arc<Inner>);

struct Inner {
    tools: Tools,
    access: Access,
    mask: Arc<Mask>,
    jobs: jobs::Jobs,
    streams: Arc<Semaphore>,
    places: bounds::Places,
}

impl Deref for Console {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Deref for Inner {
    type Target = Tools;

    fn deref(&self) -> &Tools {
        &self.tools
    }
}

/// The routes of pages and API, and who is let in.
///
/// # Errors
/// A sentence: the file with the commands' token can't be written.
pub fn routes(options: Options, tools: Tools) -> Result<(Router, Keys), String> {
    let access = Access::new(options.access, tools.clock.clone(), &tools.scrubber)?;
    let keys = access.keys();
    let streams = Arc::new(Semaphore::new(MOST_STREAMS));
    let mask = Arc::new(Mask::new(options.mask));
    let console = Console(Arc::new(Inner {
        tools,
        access,
        mask,
        jobs: jobs::Jobs::default(),
        streams,
        places: bounds::Places::default(),
    }));
    let closed = api::routes().merge(live::routes()).merge(measures::routes()).merge(pages::routes());
    let closed = closed.layer(from_fn_with_state(console.clone(), admit));
    let open = pages::open_routes().layer(from_fn_with_state(console.clone(), bounds::strangers));
    Ok((closed.merge(open).layer(from_fn(guarded)).with_state(console), keys))
}

/// Lets in whoever may come in, and keeps viewers from changing anything.
async fn admit(State(console): State<Console>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let page = parts.uri.path().starts_with("/console");
    let operator = match console.access.admit(&parts) {
        Ok(operator) => operator,
        Err(Refusal::Unknown) if page && parts.method == Method::GET => {
            let next: String = url::form_urlencoded::byte_serialize(parts.uri.to_string().as_bytes()).collect();
            return Redirect::to(&format!("/console/login?next={next}")).into_response();
        }
        Err(refusal) => return answered(&parts, page, &refused(refusal)),
    };
    if !parts.method.is_safe() && operator.role < Role::Admin {
        return answered(&parts, page, &Problem::viewer());
    }
    parts.extensions.insert(operator);
    match console.places.known(Request::from_parts(parts.clone(), body)).await {
        Ok((_place, request)) => {
            // From here on the connection makes room for no stranger's: not before, for what never comes whole.
            let _served = parts.extensions.get::<Caller>().map(Caller::known);
            next.run(request).await
        }
        Err(problem) => answered(&parts, page, &problem),
    }
}

/// A refusal as people or programs read it.
fn answered(parts: &axum::http::request::Parts, page: bool, problem: &Problem) -> Response {
    if page { pages::refusal(parts, problem) } else { problem.clone().into_response() }
}

fn refused(refusal: Refusal) -> Problem {
    let (status, code, words) = match refusal {
        Refusal::Unknown => (
            StatusCode::UNAUTHORIZED,
            "console.login",
            "say who you are, from this machine too: log in at /console/login, or send `Authorization: Bearer` with a token; \
             the commands have that of the data folder, and `salesman-host console` opens the pages with it",
        ),
        Refusal::BadToken => (
            StatusCode::UNAUTHORIZED,
            "console.token",
            "this token is neither one of `[console.tokens.NAME]` nor that of the host's last start",
        ),
        Refusal::OtherOrigin => (
            StatusCode::FORBIDDEN,
            "console.origin",
            "a page of another address asks: use this host's own, or set `console.url`",
        ),
    };
    Problem::new(status, code, words)
}

/// What every answer tells the browser.
async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Console {
    /// Events of a filter as they are shown: what `console.mask` hides is not found either.
    async fn found(&self, filter: EventFilter, cursor: Option<i64>, limit: usize) -> Result<Found, journal::Error> {
        let (journal, mask) = (self.journal.clone(), Arc::clone(&self.mask));
        blocking(move || journal.events_behind(&*mask, &filter, cursor, limit)).await
    }
}

/// Reads of the store take a thread of their own, so that intake never waits behind them.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, journal::Error> + Send + 'static,
) -> Result<T, journal::Error> {
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(journal::Error::Closed))
}
