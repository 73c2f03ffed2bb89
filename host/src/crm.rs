//! The client of one CRM's REST API v2.
//!
//! - Credentials travel in the POST body, never in an address, and never into an error or a log.
//! - An answer is judged by its body: the CRM says 200 to everything (`answer`).
//! - Calls at once are bounded, because each holds a PHP worker of the CRM.
//! - A read is repeated after a transport fault; a write is not, because it may have happened.
//! - While the CRM can't be reached by anybody, calls fail at once (`reachability`).
//! - Changing a record goes through `update`, which loses nothing.
//!
//! Not here: who may call what, and the record of calls (`capabilities`).

pub mod answer;
pub mod check;
pub mod connection;
pub mod effects;
mod form;
pub mod lookup;
mod reachability;
pub mod scripted;
pub mod stranger;
pub mod target;
pub mod update;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{OnceCell, Semaphore, watch};

use crate::secret::{Renewable, Scrubber, Secret};
pub use answer::{Answer, Large};
use connection::{Authorities, connections};
use reachability::Reachability;
use scripted::{Answers, Way};
use stranger::Stranger;

/// Bytes of an answer that are read at most.
const MOST_ANSWER: usize = 16 << 20;
/// The same of the answer to a write, which is kept.
const MOST_WRITE_ANSWER: usize = 1 << 20;
/// Fields of one call, nested ones counted: PHP's default limit less the host's own.
const MOST_ARGUMENTS: usize = 990;
/// Waits before a read is repeated.
const READ_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

/// How to reach one CRM.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its address, without `/developer/v2`.
    pub url: url::Url,
    /// The login of the API's own user.
    pub login: String,
    /// The account's key.
    pub api_key: Secret,
    /// Calls at once.
    pub concurrency: usize,
    /// How long one call may take.
    pub timeout: Duration,
    /// How long the CRM may go on with a call whose caller has gone.
    pub linger: Duration,
    /// Authorities whose certificates are taken beside those that the machine knows.
    pub authorities: Authorities,
    /// The place for a large answer, which all clients share.
    pub large: Large,
}

/// Why a call brought no good answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The CRM refused.
    #[error("the CRM refused{}: {text}", code.as_ref().map(|code| format!(" with code {code}")).unwrap_or_default())]
    Refused {
        /// Its code, as text.
        code: Option<String>,
        /// Its words.
        text: String,
    },
    /// It did not answer in time, or its web server said that it is down: a write may have happened all the same.
    #[error("{0}")]
    Transport(String),
    /// It could not be reached: nothing was sent.
    #[error("{0}")]
    Unsent(String),
    /// Something else answered in place of the API: a write may have happened all the same.
    #[error("{0}: {remedy}", remedy = .0.remedy())]
    NotTheApi(Stranger),
    /// An answer that the API does not give.
    #[error("{0}")]
    BadAnswer(String),
    /// The call makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// What the host itself says of it, with the CRM's code: for the log, and for whoever may not see records. The CRM's own
    /// words may quote a field; they are in the attempt.
    pub fn known(&self) -> String {
        match self {
            Self::Refused { .. } => match self.code() {
                Some(code) => format!("the CRM refused with code {code}"),
                None => "the CRM refused".to_owned(),
            },
            // The others hold the host's own words alone.
            other => other.to_string(),
        }
    }

    /// The code of a refusal, where it looks like one: the CRM may put anything in its place.
    pub fn code(&self) -> Option<&str> {
        let Self::Refused { code: Some(code), .. } = self else { return None };
        (code.len() <= 6 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
    }

    /// Whether a write that ended so was surely not done. A PHP error page may come after the record was written (measured
    /// for contacts under PHP 8).
    pub fn nothing_was_done(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Unsent(_) | Self::Invalid(_) => true,
            Self::NotTheApi(stranger) => stranger.nothing_was_done(),
            Self::Transport(_) | Self::BadAnswer(_) => false,
        }
    }

    /// Whether the API gave no answer that says anything about the call: nobody may be able to use the CRM now. A key that
    /// is refused (401; the documented 400 was never seen) is the same to all calls.
    pub fn is_no_answer(&self) -> bool {
        match self {
            Self::Transport(_) | Self::Unsent(_) | Self::NotTheApi(_) | Self::BadAnswer(_) => true,
            Self::Refused { code, .. } => matches!(code.as_deref(), Some("400" | "401")),
            Self::Invalid(_) => false,
        }
    }
}

/// A client of one CRM. Cheap to clone; all clones share the bound on calls.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// The user whose login the host uses.
struct Login {
    number: u64,
    /// The API takes a blocked user's login all the same (measured).
    blocked: bool,
}

struct Inner {
    base: String,
    options: Options,
    /// The key, which may be changed while the host runs.
    key: Renewable<Secret>,
    /// It and those before it, to be taken out of what the CRM says.
    keys: Scrubber,
    way: Way,
    places: Semaphore,
    reachability: Reachability,
    /// The number of its own user, once it is known.
    user: OnceCell<u64>,
}

impl Client {
    /// A client; nothing is sent.
    ///
    /// # Errors
    /// When the TLS library can't be set up.
    pub fn new(options: Options) -> Result<Self, Error> {
        let http = connections(&options)?;
        Ok(Self::going(options, Way::Live(http)))
    }

    /// A client whose calls are answered by a script; nothing is ever sent.
    pub fn scripted(options: Options, answers: Arc<dyn Answers>) -> Self {
        Self::going(options, Way::Scripted(answers))
    }

    /// A client whose reads go to the CRM, and whose writes are answered by a script and never sent.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn dry(options: Options, answers: Arc<dyn Answers>) -> Result<Self, Error> {
        let http = connections(&options)?;
        Ok(Self::going(options, Way::Dry(http, answers)))
    }

    fn going(options: Options, way: Way) -> Self {
        let base = format!("{}/developer/v2", options.url.as_str().trim_end_matches('/'));
        let places = Semaphore::new(options.concurrency.max(1));
        let (key, user) = (Renewable::new(options.api_key.clone()), OnceCell::new());
        let keys = Scrubber::of([options.api_key.clone()]);
        let reachability = Reachability::new();
        Self { inner: Arc::new(Inner { base, options, key, keys, way, places, reachability, user }) }
    }

    /// Goes on with another key, from the next call on.
    pub fn renew(&self, key: Secret) {
        self.inner.keys.learn([key.clone()]);
        self.inner.key.set(key);
    }

    /// What a plugin is given of an answer: a CRM that sends back what it was sent gives no plugin the key.
    pub fn without_key<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        self.inner.keys.scrub(answer)
    }

    /// How long one call may take.
    pub fn timeout(&self) -> Duration {
        self.inner.options.timeout
    }

    /// The number of the user whose login the host uses.
    ///
    /// # Errors
    /// [`Error`]; [`Error::BadAnswer`] when the CRM names no number.
    pub async fn own_user(&self) -> Result<u64, Error> {
        self.login().await.map(|login| login.number)
    }

    /// The same, asked once.
    ///
    /// # Errors
    /// As [`Client::own_user`].
    pub async fn known_user(&self) -> Result<u64, Error> {
        self.inner.user.get_or_try_init(|| self.own_user()).await.copied()
    }

    async fn login(&self) -> Result<Login, Error> {
        let mut arguments = Map::new();
        arguments.insert("user".into(), self.inner.options.login.clone().into());
        let answer = self.call("user", "user", &arguments).await?;
        let user = answer.pointer("/data/iduser");
        let number = user
            .and_then(|user| user.as_u64().or_else(|| user.as_str()?.parse().ok()))
            .ok_or_else(|| Error::BadAnswer("`user.user` names no `iduser`".into()))?;
        let active = answer.pointer("/data/active").and_then(Value::as_str);
        Ok(Login { number, blocked: active.is_some_and(|active| active != "yes") })
    }

    /// Whether nobody can reach the CRM now. Tries a cheap read where that is not known, for 5 seconds or as long as a call may take.
    pub async fn is_away(&self) -> bool {
        self.inner.is_away().await
    }

    /// Why the CRM counts as away; `None` while it does not.
    pub fn why_away(&self) -> Option<Error> {
        self.inner.reachability.why()
    }

    /// How long the CRM may go on with a call whose caller has gone: what is not there by then was not done.
    pub fn linger(&self) -> Duration {
        self.inner.options.linger.max(self.inner.options.timeout)
    }

    /// Whether a read shows what was written before it: in a rehearsal nothing is.
    pub fn shows_writes(&self) -> bool {
        matches!(self.inner.way, Way::Live(_))
    }

    /// Tells when the CRM goes away (`false`) and comes back (`true`), as far as [`Client::is_away`] was asked.
    pub fn reachable(&self) -> watch::Receiver<bool> {
        self.inner.reachability.subscribe()
    }

    /// Calls `method.action`; returns the whole body of a good answer, to look into.
    ///
    /// # Errors
    /// [`Error`], all variants.
    pub async fn call(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<Value, Error> {
        self.answer(method, action, arguments).await?.value()
    }

    /// Calls `method.action`; returns a good answer as it is. While a large one is held, no other client gets any.
    ///
    /// # Errors
    /// [`Error`], all variants.
    pub async fn answer(&self, method: &str, action: &str, arguments: &Map<String, Value>) -> Result<Answer, Error> {
        let name = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !name(method) || !name(action) || method.contains('.') {
            return Err(Error::Invalid("method and action are names such as `deal` and `change.step`".into()));
        }
        checked(arguments)?;
        // A script says the same the next time.
        let again = is_read(action) && !matches!(self.inner.way, Way::Scripted(_));
        let mut waits = READ_AGAIN_AFTER.iter().filter(|_| again);
        loop {
            if !self.inner.reachability.answers() {
                return Err(Error::Unsent("the CRM can't be reached: the call was not sent".into()));
            }
            let answer = {
                // The semaphore is never closed.
                let _place =
                    self.inner.places.acquire().await.map_err(|_| Error::Unsent("the client is closed".into()))?;
                // It may have gone away meanwhile.
                if !self.inner.reachability.answers() {
                    continue;
                }
                self.inner.send(method, action, arguments).await
            };
            match answer {
                Err(Error::Transport(_) | Error::Unsent(_) | Error::NotTheApi(Stranger::Status(504)))
                    if let Some(wait) = waits.next() =>
                {
                    tokio::time::sleep(*wait).await
                }
                answer => return answer,
            }
        }
    }
}

impl Inner {
    /// An error's words go into logs, to plugins and on pages.
    fn without_key(&self, error: Error) -> Error {
        match error {
            Error::Refused { code, text } => Error::Refused {
                code: code.map(|code| self.keys.scrub(&code).into_owned()),
                text: self.keys.scrub(&text).into_owned(),
            },
            other => other,
        }
    }

    async fn send(
        self: &Arc<Self>,
        method: &str,
        action: &str,
        arguments: &Map<String, Value>,
    ) -> Result<Answer, Error> {
        let Self { base, options, key, way, .. } = &**self;
        let http = match way {
            Way::Live(http) => http,
            Way::Dry(http, _) if is_read(action) => http,
            Way::Dry(_, answers) | Way::Scripted(answers) => {
                return answers.answer(method, action, arguments).and_then(|text| answer::judged(text.as_bytes()));
            }
        };
        let mut body = Map::new();
        body.insert("login".into(), options.login.clone().into());
        body.insert("apikey".into(), key.get().expose().into());
        body.insert("action".into(), action.into());
        body.extend(arguments.clone());
        // PHP turns dots in the names of form fields into `_`; in JSON they survive. JSON is only recognised with
        // exactly this content type.
        let dotted = arguments.keys().any(|key| key.contains('.'));
        // Of a form the CRM makes `'` the text `&acute;`, also where it was stored as `'` and is only sent along.
        let quoted = action == "update"
            && arguments.values().any(|value| value.as_str().is_some_and(|text| text.contains('\'')));
        let (content_type, body) = if dotted || quoted {
            ("application/json", Value::Object(body).to_string())
        } else {
            ("application/x-www-form-urlencoded", form::encode(&body))
        };
        let request = http.post(format!("{base}/{method}")).header("content-type", content_type).body(body);
        let transport = |error: reqwest::Error| connection::unanswered(&error);
        let mut response = request.send().await.map_err(transport)?;
        let status = response.status();
        match Stranger::of_status(status, response.headers(), jiff::Timestamp::now()) {
            None => {}
            // Its backend closed the connection. A 504 says only that the proxy waits no longer.
            Some(Stranger::Status(502)) => {
                return Err(Error::Transport("the CRM's web server answered 502".to_owned()));
            }
            Some(Stranger::Busy { status, mut after }) => {
                if after.is_none() {
                    let page = response.chunk().await.ok().flatten().unwrap_or_default();
                    after = stranger::turned_away(status, &page).then_some(stranger::BRIEFLY);
                }
                let error = Error::NotTheApi(Stranger::Busy { status, after });
                if after.is_some() {
                    self.leave(error.clone());
                }
                return Err(error);
            }
            Some(stranger) => return Err(Error::NotTheApi(stranger)),
        }
        let most = if is_read(action) { MOST_ANSWER } else { MOST_WRITE_ANSWER };
        let (mut bytes, mut place) = (Vec::new(), None);
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            let whole = bytes.len() + chunk.len();
            if whole > most {
                return Err(Error::BadAnswer(format!("the answer is larger than {most} bytes")));
            }
            if whole > answer::LARGE && place.is_none() {
                place = options.large.place().await;
                // What is said to come is taken in one piece.
                let said = response.content_length().and_then(|said| usize::try_from(said).ok()).unwrap_or_default();
                bytes.reserve_exact(said.min(most).saturating_sub(bytes.len()));
            }
            bytes.extend_from_slice(&chunk);
        }
        if place.is_none() {
            return answer::judged(&bytes).map_err(|error| self.without_key(error));
        }
        // It takes a processor for a while, which senders wait for as well.
        let judged = tokio::task::spawn_blocking(move || answer::judged(&bytes));
        let broken = |_| Error::BadAnswer("the answer could not be read".to_owned());
        let judged = judged.await.map_err(broken)?.map_err(|error| self.without_key(error))?;
        Ok(judged.held_by(place))
    }
}

/// PHP trims a field's name, cuts it at a NUL and takes brackets for groups, so ` action` would replace the host's own
/// `action`; and it drops what comes after 1,000 fields. Neither gets out.
pub(crate) fn checked(arguments: &Map<String, Value>) -> Result<(), Error> {
    let plain = |name: &str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    };
    if let Some(name) = arguments.keys().find(|name| !plain(name)) {
        let shown: String = name.chars().take(32).collect();
        return Err(Error::Invalid(format!("`{}` is no name of an argument", shown.escape_debug())));
    }
    if ["login", "apikey", "action"].iter().any(|key| arguments.contains_key(*key)) {
        return Err(Error::Invalid("`login`, `apikey` and `action` are the host's own: leave them out".into()));
    }
    let mut waiting: Vec<&Value> = arguments.values().collect();
    let mut fields = 0;
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(object) => waiting.extend(object.values()),
            _ => fields += 1,
        }
        if fields > MOST_ARGUMENTS {
            return Err(Error::Invalid(format!(
                "the CRM reads at most 1,000 fields: send {MOST_ARGUMENTS} or fewer at once"
            )));
        }
    }
    Ok(())
}

/// The library's errors quote addresses, which a proxy's might hold credentials: only the kind and the cause are told.
pub(crate) fn safe_words(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let cause = root.to_string();
    if std::ptr::eq(root, error as &dyn std::error::Error) || cause.contains("://") {
        return kind.to_owned();
    }
    format!("{kind}: {cause}")
}

/// Whether an action only reads, by the API's own list of actions; in doubt it does not.
pub fn is_read(action: &str) -> bool {
    const READS: [&str; 20] = [
        "category",
        "clientpath",
        "clients",
        "dealsClose",
        "dealsNew",
        "direction",
        "fields",
        "funnel",
        "info",
        "invoices",
        "list",
        "payments",
        "relations",
        "stat",
        "statusclose",
        "statuses",
        "steplist",
        "territory",
        "tips",
        "type",
    ];
    match action.split_once('.') {
        Some((what, "list")) => what != "add",
        Some((_, last)) => matches!(last, "bank" | "info" | "listfull" | "signers" | "templates"),
        None => READS.contains(&action) || matches!(action, "templates" | "user"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_an_argument_reads_as_one_of_the_hosts_own() {
        let check = |name: &str| {
            let mut arguments = Map::new();
            arguments.insert(name.to_owned(), "delete".into());
            checked(&arguments)
        };
        for wrong in [" action", "action\0", "action[x]", "\u{a0}login", "", "a b", "1a", "+apikey", "action\n"] {
            assert!(matches!(check(wrong), Err(Error::Invalid(_))), "{wrong:?}");
        }
        for good in ["did", "date.plan", "input7", "_x", "pid_list"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let many: Map<String, Value> =
            [("ids".to_owned(), (0..1_000).collect::<Vec<_>>().into())].into_iter().collect();
        assert!(matches!(checked(&many), Err(Error::Invalid(_))));
    }

    #[test]
    fn a_write_is_never_taken_for_a_read() {
        for write in [
            "add",
            "add.list",
            "update",
            "delete",
            "change.step",
            "change.user",
            "invoice.do",
            "invoice.add",
            "doit",
            "status.change",
            "status",
            "user.add",
            "category.add",
            "mail",
            "addCategory",
            "history",
            "move",
            "addlist",
        ] {
            assert!(!is_read(write), "{write}");
        }
        for read in ["list", "info", "fields", "user.list", "company.listfull", "invoice.info", "steplist", "tips"] {
            assert!(is_read(read), "{read}");
        }
    }
}
