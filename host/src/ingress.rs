//! Where an event comes in: check the token, decode, append to the journal, answer 202.
//!
//! - The answer comes after the event is on disk, and before anything is done about it: the CRM's user waits for it.
//! - `ses` is dropped while decoding; tokens and addresses are never logged.
//! - Body size (of a packed one: unpacked), what an account's bodies hold at once (`share`), decoding work, waiting senders
//!   and the time for a body are bounded.
//! - A sender can name its event (`Idempotency-Key`): sent again, it is the same event; another one under its name is refused.
//! - Every answer of this room says that it is the host's own ([`OWN`]), and no proxy's.
//! - Fields of the query complete those of a body, as PHP's `$_REQUEST` has them. A token among them is dropped.
//!
//! Not here: plugins. This room does not know that they exist; the journal wakes the dispatcher.

pub mod decode;
mod multipart;
mod packed;
pub mod problem;
mod shape;
mod share;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::BodyExt as _;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::event::{Appended, Event, EventId, Via, entity_of};
use crate::journal;
use crate::secret::Renewable;
use crate::server::Caller;
use crate::text;
use crate::{sender, telemetry};
use problem::Problem;
use shape::Shape;
use share::{Sender, Shares};

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
    /// Senders served at once, each account with its share; more are told to come again.
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

/// Bytes of the header that names an event.
const MOST_KEY: usize = 128;
/// How many times the bound of a body is read of one that is refused, and for how long.
const MOST_DRAINED: usize = 4;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The header by which a sender knows the host's answers from those of a proxy between them.
pub const OWN: HeaderName = HeaderName::from_static("x-salesman-host");
/// Fields that hold the number of a record or a user.
const NUMBERS: [&str; 7] = ["clid", "pid", "did", "id", "tid", "deid", "iduser1"];
/// How long tokens are, as far as they are looked for among fields.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;
/// The largest number that every reader of JSON keeps.
const MOST_EXACT: u64 = (1 << 53) - 1;

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
    doors: Doors,
    proxies: Vec<IpNet>,
    shares: Shares,
    max_body: usize,
    body_timeout: Duration,
    told: Option<mpsc::Sender<Accepted>>,
}

/// Each token's digest, with its account and who may send with it.
type Tokens = Vec<(Arc<str>, [u8; 32], Arc<[IpNet]>)>;

/// Which tokens open, for whom. They may be changed while the host runs.
#[derive(Clone)]
pub struct Doors(Renewable<Tokens>);

impl Doors {
    /// The doors of these accounts.
    pub fn new(accounts: &BTreeMap<String, Account>) -> Self {
        Self(Renewable::new(tokens(accounts)))
    }

    /// From the next event on, these.
    pub fn renew(&self, accounts: &BTreeMap<String, Account>) {
        self.0.set(tokens(accounts));
    }
}

fn tokens(accounts: &BTreeMap<String, Account>) -> Tokens {
    let tokens = accounts.iter().flat_map(|(name, account)| {
        let (name, allow): (Arc<str>, Arc<[IpNet]>) = (name.as_str().into(), account.allow.as_slice().into());
        let digest = |token: &String| Sha256::digest(token.as_bytes()).into();
        account.tokens.iter().map(move |token| (Arc::clone(&name), digest(token), Arc::clone(&allow)))
    });
    tokens.collect()
}

/// The routes `/events` and `/events/{token}`.
pub fn routes(options: Options, doors: Doors, journal: journal::Handle, clock: Clock) -> Router {
    let ingress = Arc::new(Ingress {
        journal,
        clock,
        doors,
        proxies: options.proxies,
        shares: Shares::new(options.accounts.keys(), options.max_senders, options.max_body),
        max_body: options.max_body,
        body_timeout: options.body_timeout,
        told: options.told,
    });
    Router::new().route("/events", any(hook)).route("/events/{*rest}", any(hook)).fallback(hook).with_state(ingress)
}

/// Takes an event at `/events` and `/events/<token>`, whatever slashes a proxy or a person put around them: a redirect
/// would lose the event.
async fn hook(State(ingress): State<Arc<Ingress>>, request: Request) -> Response {
    let mut segments = request.uri().path().split('/').filter(|segment| !segment.is_empty());
    if segments.next() != Some("events") {
        return StatusCode::NOT_FOUND.into_response();
    }
    let token = match (segments.next(), segments.next()) {
        (None, _) => Some(bearer(request.headers()).unwrap_or_default().to_owned()),
        (Some(token), None) => {
            Some(percent_encoding::percent_decode_str(token).decode_utf8().unwrap_or_default().into_owned())
        }
        (Some(_), Some(_)) => None,
    };
    let mut response = match token {
        Some(token) => ingress.answer(&token, request).await,
        None => refused(Problem::Path),
    };
    response.headers_mut().insert(OWN, HeaderValue::from_static("1"));
    response
}

/// The answer to an event while the host starts.
pub fn starting() -> Response {
    let mut response = refused(Problem::Starting);
    response.headers_mut().insert(OWN, HeaderValue::from_static("1"));
    response
}

fn refused(problem: Problem) -> Response {
    telemetry::event_refused(problem.code(), &problem);
    problem.into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl Ingress {
    async fn answer(&self, token: &str, request: Request) -> Response {
        let (parts, mut body) = request.into_parts();
        match self.accept(token, &parts, &mut body).await {
            Ok((id, name)) => {
                let body = json!({ "id": id.to_string(), "event": name, "status": "accepted" });
                (StatusCode::ACCEPTED, axum::Json(body)).into_response()
            }
            Err(problem) => {
                // Else the connection is reset while a proxy still sends, and the proxy answers in the host's place.
                // Who waits to be asked for the body sends none.
                let waits =
                    [header::EXPECT, header::CONTENT_LENGTH].iter().all(|name| parts.headers.contains_key(name));
                if problem != Problem::Incomplete && !waits {
                    let rest = drained(body, self.max_body.saturating_mul(MOST_DRAINED));
                    drop(tokio::time::timeout(DRAIN_TIMEOUT.min(self.body_timeout), rest).await);
                }
                refused(problem)
            }
        }
    }

    async fn accept(&self, token: &str, head: &Parts, body: &mut Body) -> Result<(EventId, String), Problem> {
        let began = Instant::now();
        let (account, allow) = self.account(token).ok_or(Problem::UnknownToken)?;
        let account = account.to_string();
        if !allow.is_empty() && !self.may_send(head, &allow) {
            return Err(Problem::Address);
        }
        let mut sender = self.shares.sender(&account).await?;
        let _served = head.extensions.get::<Caller>().map(Caller::known);
        let packing = shape::packing(&head.headers)?;
        let key = key(&head.headers)?;
        let (via, fields) = self.read(head, body, packing, &mut sender).await?;
        let event = normal_event(account, via, fields, self.clock.now())?;
        let (name, account, received_at) = (event.name.clone(), event.account.clone(), event.received_at);
        let decoded = Instant::now();
        let appended = self.journal.append_once(event, key).await.map_err(|error| {
            telemetry::event_not_stored(&error);
            if matches!(error, journal::Error::Full) { Problem::DiskFull } else { Problem::NotStored }
        })?;
        let id = match appended {
            Appended::New(id) => id,
            Appended::Known(id) => return Ok((id, name)),
            Appended::KeyReused(first) => {
                telemetry::key_reused(&account, first, &name);
                return Err(Problem::KeyReused);
            }
        };
        telemetry::event_accepted(&account, began.elapsed());
        if let Some(told) = &self.told {
            let accepted = Accepted { id, name: name.clone(), account, received_at, took: decoded.elapsed() };
            // Whoever listens too slowly misses it: intake waits for nobody.
            told.try_send(accepted).ok();
        }
        Ok((id, name))
    }

    fn may_send(&self, head: &Parts, allow: &[IpNet]) -> bool {
        let peer = head.extensions.get::<ConnectInfo<SocketAddr>>();
        let from = peer.and_then(|ConnectInfo(peer)| {
            sender::sender(
                peer.ip(),
                head.headers.get_all(sender::HEADER).iter().map(HeaderValue::as_bytes),
                &self.proxies,
            )
        });
        from.is_some_and(|from| allow.iter().any(|net| net.contains(&from)))
    }

    /// Looks at every token and compares digests, so that neither a token's length nor its place shows in the time.
    fn account(&self, token: &str) -> Option<(Arc<str>, Arc<[IpNet]>)> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let tokens = self.doors.0.get();
        let mut found = u32::MAX;
        for (index, (_, known, _)) in (0_u32..).zip(tokens.iter()) {
            let same: Choice = known.ct_eq(&digest);
            found.conditional_assign(&index, same);
        }
        tokens.get(usize::try_from(found).ok()?).map(|(account, _, allow)| (Arc::clone(account), Arc::clone(allow)))
    }

    async fn read(
        &self,
        head: &Parts,
        body: &mut Body,
        packing: Option<shape::Packing>,
        sender: &mut Sender<'_>,
    ) -> Result<(Via, Map<String, Value>), Problem> {
        let query = query(head.uri.query().unwrap_or_default());
        let (via, mut fields) = match head.method {
            Method::GET => {
                if !self.body(body, sender).await?.is_empty() {
                    return Err(Problem::BodyOnGet);
                }
                (Via::Query, query?)
            }
            Method::POST => {
                let (shape, query) = (shape::shape(&head.headers), query?);
                if query.is_empty() {
                    shape.as_ref().map_err(Clone::clone)?;
                }
                let body = self.body(body, sender).await?;
                let body = match packing {
                    Some(packing) => {
                        let unpacked = packed::unpacked(packing, &body, self.max_body)?;
                        sender.holds(unpacked.len()).await?;
                        unpacked
                    }
                    None => body,
                };
                if body.is_empty() && !query.is_empty() {
                    (Via::Query, query)
                } else {
                    let (via, mut fields) = decoded(shape?, body).await?;
                    for (name, value) in query {
                        fields.entry(name).or_insert(value);
                    }
                    (via, fields)
                }
            }
            _ => return Err(Problem::Method),
        };
        // Whoever sends it as a field as well does not mean it to be kept.
        let token = |text: &str| TOKEN_BYTES.contains(&text.len()) && self.account(text).is_some();
        fields.retain(|_, value| !value.as_str().is_some_and(token));
        Ok((via, fields))
    }

    async fn body(&self, body: &mut Body, sender: &mut Sender<'_>) -> Result<Bytes, Problem> {
        tokio::time::timeout(self.body_timeout, sender.body(body)).await.unwrap_or(Err(Problem::Incomplete))
    }
}

/// Reads the rest of a body that nobody wants, within a bound.
async fn drained(mut body: Body, most: usize) {
    let mut read = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if read > most {
            return;
        }
    }
}

/// The sender's own name of the event: what comes again under it is the same event.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.any(|other| other != value) {
        return Err(Problem::BadKey);
    }
    let key = value.to_str().ok().map(str::trim).filter(|key| !key.is_empty() && key.len() <= MOST_KEY);
    key.map(|key| Some(key.to_owned())).ok_or(Problem::BadKey)
}

async fn decoded(shape: Shape, body: Bytes) -> Result<(Via, Map<String, Value>), Problem> {
    Ok(match shape {
        Shape::Json => (Via::Json, decode::json(&body)?),
        Shape::Form => (Via::Form, decode::form(&body)?),
        Shape::Multipart(boundary) => (Via::Form, multipart::fields(body, boundary).await?),
    })
}

/// The fields of a query, without what some programs call their key.
fn query(text: &str) -> Result<Map<String, Value>, Problem> {
    let mut fields = decode::form(text.as_bytes())?;
    fields.retain(|name, _| !matches!(name.as_str(), "token" | "access_token"));
    Ok(fields)
}

/// Takes the fields that have a place of their own out of the others.
///
/// # Errors
/// [`Problem::NoEvent`], [`Problem::BadEvent`].
pub fn normal_event(account: String, via: Via, mut fields: Map<String, Value>, now: i64) -> Result<Event, Problem> {
    let name = match fields.shift_remove("event") {
        None => return Err(Problem::NoEvent),
        Some(Value::String(name)) => text::trimmed(&name).to_owned(),
        Some(_) => return Err(Problem::BadEvent),
    };
    if name.is_empty() {
        return Err(Problem::NoEvent);
    }
    let allowed = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_' | '-');
    if name.len() > 128 || !name.chars().all(allowed) {
        return Err(Problem::BadEvent);
    }
    for field in NUMBERS {
        if let Some(Value::String(text)) = fields.get_mut(field) {
            *text = number(field, text)?;
        }
    }
    // An actor that is not such a number stays among the other fields: nothing of what was sent is lost.
    let actor = fields.get("iduser1").and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok());
    let actor = actor.filter(|actor| *actor <= MOST_EXACT);
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

/// A record's number as it is meant: `5` of ` 5\n` and of `5.0`. It tells which record an event is about.
fn number(field: &'static str, text: &str) -> Result<String, Problem> {
    let text = text::trimmed(text);
    if let Some(found) = text::invisible(text) {
        return Err(Problem::Invisible(field, found));
    }
    let digits = |text: &str, what: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(what);
    Ok(match text.split_once('.') {
        Some((whole, zeros)) if digits(whole, u8::is_ascii_digit) && digits(zeros, |byte| *byte == b'0') => {
            whole.to_owned()
        }
        _ => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &[u8]) -> Result<Event, Problem> {
        event_of("main", body, 0)
    }

    #[test]
    fn a_record_is_known_by_its_number_however_it_is_written() {
        for did in ["5", "\"5\"", "5.0", "\" 5\\r\\n\"", "\"\u{feff}5\"", "\"5\u{200b}\"", "\"5.00\""] {
            let event = of(format!("{{\"event\":\" deal.edit\u{200b}\",\"did\":{did}}}").as_bytes()).unwrap();
            assert_eq!((event.name.as_str(), event.fields.as_str()), ("deal.edit", "{\"did\":\"5\"}"), "{did}");
            assert_eq!(event.entity.map(|entity| entity.to_string()).as_deref(), Some("deal:5"), "{did}");
        }
        for (id, kept) in [("\"A-17\"", "A-17"), ("5.5", "5.5"), ("\".0\"", ".0"), ("1e3", "1e3"), ("\"5.\"", "5.")] {
            let event = of(format!("{{\"event\":\"order.paid\",\"id\":{id}}}").as_bytes()).unwrap();
            assert_eq!(event.entity.map(|entity| entity.id).as_deref(), Some(kept));
        }
        let unseen = of("{\"event\":\"deal.edit\",\"did\":\"5\u{200b}6\"}".as_bytes());
        assert!(matches!(unseen, Err(Problem::Invisible("did", _))), "{unseen:?}");
    }

    #[test]
    fn an_actor_that_not_everybody_can_count_to_stays_a_field() {
        let actor = |iduser: &str| {
            let event = of(format!("{{\"event\":\"a.b\",\"iduser1\":{iduser}}}").as_bytes()).unwrap();
            (event.actor, event.fields)
        };
        assert_eq!(actor("9007199254740991"), (Some(9_007_199_254_740_991), "{}".to_owned()));
        for large in ["9007199254740993", "18446744073709551616", "-1", "\"anna\""] {
            let kept = format!("{{\"iduser1\":\"{}\"}}", large.trim_matches('"'));
            assert_eq!(actor(large), (None, kept), "{large}");
        }
    }

    #[test]
    fn a_key_that_says_two_things_names_no_event() {
        let of = |values: &[&'static str]| {
            key(&values
                .iter()
                .map(|value| (HeaderName::from_static("idempotency-key"), value.parse().unwrap()))
                .collect())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[" a ", " a "]), Ok(Some("a".to_owned())));
        for wrong in [&["a", "b"][..], &["", "a"], &[" "], &["\u{439}"]] {
            assert_eq!(of(wrong), Err(Problem::BadKey), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_accepted_has_a_name_and_a_number_that_are_what_they_look(
            name in "\\PC{0,12}|[a-z.]{1,9}[ \u{200b}\u{feff}\\r\\n]{0,2}",
            id in "\\PC{0,8}|[0-9.]{1,6}[ \u{200b}\u{feff}\\r\\n]{0,2}",
        ) {
            let body = json!({ "event": name, "id": id, "did": id }).to_string();
            if let Ok(event) = of(body.as_bytes()) {
                proptest::prop_assert_eq!(text::invisible(&event.name), None);
                proptest::prop_assert!(!event.name.contains(char::is_whitespace));
                if let Some(entity) = event.entity {
                    proptest::prop_assert_eq!(text::trimmed(&entity.id), entity.id.as_str());
                    proptest::prop_assert_eq!(text::invisible(&entity.id), None);
                }
            }
        }
    }
}
