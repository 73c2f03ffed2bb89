//! Where an event comes in: check the token, decode, append to the journal, answer 202.
//!
//! - The answer comes after the event is on disk, and before anything is done about it: the CRM's user waits for it.
//! - `ses` is dropped while decoding; tokens and addresses are never logged.
//! - Body size, the size of all bodies at once, decoding work, waiting senders and the time for a body are bounded.
//! - A sender can name its event (`Idempotency-Key`): sent again, it is the same event.
//!
//! Not here: plugins. This room does not know that they exist; the journal wakes the dispatcher.

pub mod decode;
pub mod problem;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::{Semaphore, mpsc};

use crate::clock::Clock;
use crate::event::{Event, EventId, Via, entity_of};
use crate::journal;
use crate::telemetry;
use problem::Problem;

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The accounts by name.
    pub accounts: BTreeMap<String, Account>,
    /// Whose word about the sender's address is taken (`X-Forwarded-For`).
    pub proxies: Vec<IpNet>,
    /// Bytes of one body.
    pub max_body: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Senders served at once; more are told to come again.
    pub max_senders: usize,
    /// Who is told of each event that was stored; whoever reads too slowly misses some.
    pub told: Option<mpsc::Sender<Accepted>>,
}

/// An event that was stored.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// Its id.
    pub id: EventId,
    /// Its name.
    pub name: String,
    /// Which CRM sent it.
    pub account: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub received_at: i64,
    /// From the decoded body to the commit.
    pub took: Duration,
}

/// One CRM, as far as its events are concerned.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The tokens; several are valid at a time, so that one can be changed without a gap.
    pub tokens: Vec<String>,
    /// The addresses that may send; empty: all.
    pub allow: Vec<IpNet>,
}

/// Bytes of bodies that are read at once, all senders together.
const MOST_READ_AT_ONCE: usize = 64 << 20;
/// Bytes of the header that names an event.
const MOST_KEY: usize = 128;

/// The event that a JSON body makes, as if `account` had sent it now: for rehearsals, which store nothing.
///
/// # Errors
/// [`Problem`] as it would be answered.
pub fn event_of(account: &str, body: &[u8], now: i64) -> Result<Event, Problem> {
    normal_event(account.to_owned(), Via::Json, decode::json(body)?, now)
}

struct Ingress {
    journal: journal::Handle,
    clock: Clock,
    accounts: Vec<(String, [u8; 32], Arc<[IpNet]>)>,
    proxies: Vec<IpNet>,
    /// Kibibytes of bodies that may still be read.
    room: Semaphore,
    max_body: usize,
    body_timeout: Duration,
    senders: Semaphore,
    told: Option<mpsc::Sender<Accepted>>,
}

/// The routes `/events` and `/events/{token}`.
pub fn routes(options: Options, journal: journal::Handle, clock: Clock) -> Router {
    let tokens = options.accounts.into_iter().flat_map(|(name, account)| {
        let allow: Arc<[IpNet]> = account.allow.into();
        let digest = |token: String| Sha256::digest(token.as_bytes()).into();
        account.tokens.into_iter().map(move |token| (name.clone(), digest(token), Arc::clone(&allow)))
    });
    let ingress = Arc::new(Ingress {
        journal,
        clock,
        accounts: tokens.collect(),
        proxies: options.proxies,
        room: Semaphore::new(MOST_READ_AT_ONCE.max(options.max_body) >> 10),
        max_body: options.max_body,
        body_timeout: options.body_timeout,
        senders: Semaphore::new(options.max_senders),
        told: options.told,
    });
    Router::new().route("/events", any(by_header)).route("/events/{token}", any(by_path)).with_state(ingress)
}

async fn by_path(State(ingress): State<Arc<Ingress>>, Path(token): Path<String>, request: Request) -> Response {
    ingress.answer(&token, request).await
}

async fn by_header(State(ingress): State<Arc<Ingress>>, request: Request) -> Response {
    let token = bearer(request.headers()).unwrap_or_default().to_owned();
    ingress.answer(&token, request).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Ingress {
    async fn answer(&self, token: &str, request: Request) -> Response {
        match self.accept(token, request).await {
            Ok((id, name)) => {
                let body = json!({ "id": id.to_string(), "event": name, "status": "accepted" });
                (StatusCode::ACCEPTED, axum::Json(body)).into_response()
            }
            Err(problem) => {
                telemetry::event_refused(problem.code(), &problem.to_string());
                problem.into_response()
            }
        }
    }

    async fn accept(&self, token: &str, request: Request) -> Result<(EventId, String), Problem> {
        let began = Instant::now();
        let (account, allow) = self.account(token).ok_or(Problem::UnknownToken)?;
        let account = account.to_owned();
        if !allow.is_empty() && !self.sender(&request).is_some_and(|from| allow.iter().any(|net| net.contains(&from))) {
            return Err(Problem::Address);
        }
        let _sender = self.senders.try_acquire().map_err(|_| Problem::Busy)?;
        let length =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let room = length.unwrap_or(self.max_body).min(self.max_body).div_ceil(1 << 10);
        let _room = self.room.try_acquire_many(u32::try_from(room).unwrap_or(u32::MAX)).map_err(|_| Problem::Busy)?;
        let key = key(request.headers())?;
        let (via, fields) = self.read(request).await?;
        let event = normal_event(account, via, fields, self.clock.now())?;
        let (name, account, received_at) = (event.name.clone(), event.account.clone(), event.received_at);
        let decoded = Instant::now();
        let id = self.journal.append_once(event, key).await.map_err(|error| {
            telemetry::event_not_stored(&error);
            if matches!(error, journal::Error::Full) { Problem::DiskFull } else { Problem::NotStored }
        })?;
        telemetry::event_accepted(&account, began.elapsed());
        if let Some(told) = &self.told {
            let accepted = Accepted { id, name: name.clone(), account, received_at, took: decoded.elapsed() };
            // Whoever listens too slowly misses it: intake waits for nobody.
            told.try_send(accepted).ok();
        }
        Ok((id, name))
    }

    /// Where the event comes from: the peer, or who a trusted proxy says it was, the last one that is no such proxy.
    fn sender(&self, request: &Request) -> Option<IpAddr> {
        let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
        let trusted = |address: &IpAddr| self.proxies.iter().any(|net| net.contains(address));
        let mut sender = peer.ip().to_canonical();
        let forwarded: Vec<&str> =
            request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
        for hop in forwarded.join(",").rsplit(',').map(str::trim).filter(|hop| !hop.is_empty()) {
            if !trusted(&sender) {
                break;
            }
            sender = hop.parse::<IpAddr>().ok()?.to_canonical();
        }
        Some(sender)
    }

    /// Looks at every token and compares digests, so that neither a token's length nor its place shows in the time.
    fn account(&self, token: &str) -> Option<(&str, &[IpNet])> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = u32::MAX;
        for (index, (_, known, _)) in (0_u32..).zip(&self.accounts) {
            let same: Choice = known.ct_eq(&digest);
            found.conditional_assign(&index, same);
        }
        self.accounts.get(usize::try_from(found).ok()?).map(|(account, _, allow)| (account.as_str(), &**allow))
    }

    async fn read(&self, request: Request) -> Result<(Via, Map<String, Value>), Problem> {
        let (parts, body) = request.into_parts();
        match parts.method {
            Method::GET => {
                if !self.body(body).await?.is_empty() {
                    return Err(Problem::BodyOnGet);
                }
                Ok((Via::Query, decode::form(parts.uri.query().unwrap_or_default().as_bytes())?))
            }
            Method::POST => {
                let via = content_type(&parts.headers).ok_or(Problem::ContentType)?;
                let body = self.body(body).await?;
                let fields = if via == Via::Json { decode::json(&body)? } else { decode::form(&body)? };
                Ok((via, fields))
            }
            _ => Err(Problem::Method),
        }
    }

    async fn body(&self, body: Body) -> Result<axum::body::Bytes, Problem> {
        let whole = Limited::new(body, self.max_body).collect();
        match tokio::time::timeout(self.body_timeout, whole).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::TooLarge(self.max_body)),
            _ => Err(Problem::Incomplete),
        }
    }
}

/// The sender's own name of the event: what comes again under it is the same event.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(str::trim).filter(|key| !key.is_empty() && key.len() <= MOST_KEY);
    key.map(|key| Some(key.to_owned())).ok_or(Problem::BadKey)
}

fn content_type(headers: &HeaderMap) -> Option<Via> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let mut parts = value.split(';').map(str::trim);
    let via = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" => Via::Form,
        "application/json" => Via::Json,
        _ => return None,
    };
    let utf8 = parts.filter_map(|part| part.split_once('=')).all(|(name, value)| {
        !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    utf8.then_some(via)
}

/// Takes the fields that have a place of their own out of the others.
///
/// # Errors
/// [`Problem::NoEvent`], [`Problem::BadEvent`].
pub fn normal_event(account: String, via: Via, mut fields: Map<String, Value>, now: i64) -> Result<Event, Problem> {
    let name = match fields.shift_remove("event") {
        None => return Err(Problem::NoEvent),
        Some(Value::String(name)) if name.is_empty() => return Err(Problem::NoEvent),
        Some(Value::String(name)) => name,
        Some(_) => return Err(Problem::BadEvent),
    };
    let allowed = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_' | '-');
    if name.len() > 128 || !name.chars().all(allowed) {
        return Err(Problem::BadEvent);
    }
    // An actor that is not a number stays among the other fields: nothing of what was sent is lost.
    let actor = fields.get("iduser1").and_then(Value::as_str).and_then(|text| text.parse().ok());
    if actor.is_some() {
        fields.shift_remove("iduser1");
    }
    Ok(Event {
        id: EventId::new(),
        account,
        entity: entity_of(&name, &fields),
        name,
        received_at: now,
        via,
        actor,
        fields: Value::Object(fields).to_string(),
    })
}
