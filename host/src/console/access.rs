//! Who asks, and what they may do.
//!
//! - **Closed by default**: without a user or a token in the configuration only this machine is answered, under a loopback
//!   name and through no proxy. With one, everybody must say who they are, this machine included.
//! - Whoever may read the data folder is this host's administrator: the commands use a token that lies there, made anew
//!   at every start.
//! - A session is a random cookie of which only a digest is kept, in memory: a restart ends all of them.
//! - What changes something needs the role `admin`, comes from a page of this host, and bears the session's own word
//!   (forms) or JSON (the API), which no other page can send.
//! - Wrong passwords cost the time of a right one, and after a few of them the sender waits.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::passwords::{self, Passwords};
use crate::clock::Clock;
use crate::files;
use crate::secret::{Renewable, Secret};

/// The cookie that holds a session.
pub(super) const COOKIE: &str = "salesman_session";
/// Sessions at once; the one that was used longest ago makes room.
const MOST_SESSIONS: usize = 1_000;
/// Wrong passwords of one sender for one name, and of one sender, before it waits.
const MOST_WRONG: [u32; 2] = [5, 50];
/// The first wait after too many wrong passwords; it doubles.
const FIRST_WAIT: i64 = 60_000;
/// The longest wait, and the time after which wrong passwords are forgotten.
const LONGEST_WAIT: i64 = 15 * 60_000;
/// Seconds to wait where too many passwords are being checked.
const BUSY: u64 = 1;
/// Senders whose wrong passwords are remembered.
const MOST_SENDERS: usize = 10_000;

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and change.
    Admin,
}

/// A user with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The password's hash, as `salesman-host password` prints it.
    pub password: Secret,
    /// What they may do.
    pub role: Role,
}

/// A token, for programs.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub token: Secret,
    /// What its bearer may do.
    pub role: Role,
}

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Tokens by name.
    pub tokens: BTreeMap<String, Token>,
    /// How long a session lasts that is not used.
    pub session: Duration,
    /// The address under which browsers see the host, where a proxy with TLS stands before it.
    pub url: Option<url::Url>,
    /// The file with the token of this start; none: there is no such token.
    pub token_file: Option<PathBuf>,
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operator {
    pub(super) name: String,
    pub(super) role: Role,
    /// The word that forms bear.
    pub(super) csrf: String,
    /// Whether there is a session that can be ended.
    pub(super) session: bool,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There are no users, and this is not a caller on this machine.
    NotLocal,
    /// Nobody has said who they are.
    Unknown,
    /// A token that is none.
    BadToken,
    /// A page of somebody else asks.
    OtherOrigin,
}

/// Who may come in. They may be changed while the host runs.
#[derive(Clone)]
pub struct Keys(Renewable<Who>);

struct Who {
    users: BTreeMap<String, User>,
    tokens: Vec<(String, [u8; 32], Role)>,
}

impl Keys {
    fn new(options: &Options) -> Self {
        Self(Renewable::new(who(options)))
    }

    /// From the next request on, these users and tokens. Sessions of users who are no longer among them end.
    pub fn renew(&self, options: &Options) {
        self.0.set(who(options));
    }
}

fn who(options: &Options) -> Who {
    let token = |(name, token): (&String, &Token)| (format!("token {name}"), digest(token.token.expose()), token.role);
    Who { users: options.users.clone(), tokens: options.tokens.iter().map(token).collect() }
}

pub(super) struct Access {
    options: Options,
    clock: Clock,
    keys: Keys,
    /// The digest of the token that the commands use.
    own: Option<[u8; 32]>,
    /// The word of forms where there are no users.
    csrf: String,
    sessions: Mutex<HashMap<[u8; 32], Session>>,
    wrong: Mutex<HashMap<(IpAddr, String), Wrong>>,
    passwords: Passwords,
    /// Compared where there is no such user, so that this takes as long.
    nobody: String,
}

struct Session {
    name: String,
    /// As it was when the session began.
    user: User,
    csrf: String,
    used: i64,
}

#[derive(Default, Clone, Copy)]
struct Wrong {
    count: u32,
    last: i64,
    until: i64,
}

/// A random word that nobody guesses.
fn random() -> String {
    use std::fmt::Write as _;
    let bytes: [u8; 32] = rand::random();
    bytes.iter().fold(String::with_capacity(64), |mut word, byte| {
        // Writing into a text never fails.
        write!(word, "{byte:02x}").ok();
        word
    })
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl Access {
    /// # Errors
    /// When the token's file can't be written, or the system gives no random numbers.
    pub(super) fn new(options: Options, clock: Clock) -> Result<Self, String> {
        let mut own = None;
        if let Some(file) = &options.token_file {
            let token = random();
            files::replace(file, token.as_bytes(), files::Readers::Owner)
                .map_err(|error| format!("`{}` can't be written: {error}", file.display()))?;
            own = Some(digest(&token));
        }
        let nobody = passwords::nobodys(&random());
        let (sessions, wrong) = (Mutex::default(), Mutex::default());
        let keys = Keys::new(&options);
        Ok(Self { options, clock, keys, own, csrf: random(), sessions, wrong, passwords: Passwords::default(), nobody })
    }

    /// What lets others in.
    pub(super) fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Whether anybody can say who they are.
    pub(super) fn is_open(&self) -> bool {
        let who = self.keys.0.get();
        who.users.is_empty() && who.tokens.is_empty()
    }

    pub(super) fn has_users(&self) -> bool {
        !self.keys.0.get().users.is_empty()
    }

    /// Lets somebody in.
    pub(super) fn admit(&self, parts: &Parts) -> Result<Operator, Refusal> {
        let local = is_local(parts);
        if let Some(token) = bearer(&parts.headers) {
            let given = digest(token);
            let (who, mut found) = (self.keys.0.get(), None);
            let own = self.own.map(|own| ("command line".to_owned(), own, Role::Admin));
            for (name, known, role) in who.tokens.iter().chain(&own) {
                if bool::from(known.ct_eq(&given)) {
                    found = Some((name, *role));
                }
            }
            let (name, role) = found.ok_or(Refusal::BadToken)?;
            return Ok(Operator { name: name.clone(), role, csrf: String::new(), session: false });
        }
        let operator = if self.is_open() {
            if !local {
                return Err(Refusal::NotLocal);
            }
            let (name, csrf) = ("this machine".to_owned(), self.csrf.clone());
            Operator { name, role: Role::Admin, csrf, session: false }
        } else {
            self.session_of(&parts.headers).ok_or(Refusal::Unknown)?
        };
        if !parts.method.is_safe() && !self.is_same_origin(&parts.headers) {
            return Err(Refusal::OtherOrigin);
        }
        Ok(operator)
    }

    /// Whether a request that changes something comes from one of this host's own pages, or from no page at all.
    pub(super) fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        if let Some(site) = text("sec-fetch-site")
            && !matches!(site, "same-origin" | "none")
        {
            return false;
        }
        let Some(origin) = text("origin") else { return true };
        match &self.options.url {
            Some(url) => origin == url.origin().ascii_serialization(),
            None => origin.split_once("://").is_some_and(|(_, host)| Some(host) == text("host")),
        }
    }

    fn session_of(&self, headers: &HeaderMap) -> Option<Operator> {
        let key = digest(cookie(headers, COOKIE)?);
        let now = self.clock.now();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get_mut(&key)?;
        if now.saturating_sub(session.used) > milliseconds(self.options.session) {
            sessions.remove(&key);
            return None;
        }
        // Whoever is no longer a user, or has another password or role, comes in anew.
        if self.keys.0.get().users.get(&session.name) != Some(&session.user) {
            sessions.remove(&key);
            return None;
        }
        session.used = now;
        let Session { name, user, csrf, .. } = session;
        let role = &user.role;
        Some(Operator { name: name.clone(), role: *role, csrf: csrf.clone(), session: true })
    }

    /// Checks a password; returns the cookie of a new session, or how many seconds the sender has to wait.
    pub(super) async fn login(&self, from: IpAddr, name: &str, password: &str) -> Result<Option<String>, u64> {
        let keys = [(from, name.chars().take(64).collect()), (from, String::new())];
        self.may_try(&keys)?;
        let user = self.keys.0.get().users.get(name).cloned();
        let hash = user.as_ref().map_or(self.nobody.as_str(), |user| user.password.expose());
        let right = self.passwords.fits(hash, password).await.ok_or(BUSY)?;
        let Some(user) = user.filter(|_| right) else {
            self.note_wrong(&keys);
            return Ok(None);
        };
        {
            let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
            for key in &keys {
                wrong.remove(key);
            }
        }
        Ok(Some(self.open_session(name, user)))
    }

    fn open_session(&self, name: &str, user: User) -> String {
        let word = random();
        let session = Session { name: name.to_owned(), user, csrf: random(), used: self.clock.now() };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MOST_SESSIONS
            && let Some(oldest) = sessions.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(digest(&word), session);
        self.cookie(&word, milliseconds(self.options.session) / 1_000)
    }

    /// Ends the session of a request; returns the cookie that says so.
    pub(super) fn logout(&self, headers: &HeaderMap) -> String {
        if let Some(word) = cookie(headers, COOKIE) {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest(word));
        }
        self.cookie("", 0)
    }

    fn cookie(&self, word: &str, seconds: i64) -> String {
        let secure = if self.options.url.as_ref().is_some_and(|url| url.scheme() == "https") { "; Secure" } else { "" };
        format!("{COOKIE}={word}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    fn may_try(&self, keys: &[(IpAddr, String)]) -> Result<(), u64> {
        let now = self.clock.now();
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let until = keys.iter().filter_map(|key| wrong.get(key)).map(|wrong| wrong.until).max().unwrap_or(0);
        if until > now { Err(u64::try_from(until - now).unwrap_or(0).div_ceil(1_000)) } else { Ok(()) }
    }

    fn note_wrong(&self, keys: &[(IpAddr, String)]) {
        let now = self.clock.now();
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= MOST_SENDERS {
            wrong.retain(|_, wrong| now.saturating_sub(wrong.last) < LONGEST_WAIT);
        }
        for (key, most) in keys.iter().zip(MOST_WRONG) {
            let known = wrong.get(key).copied().filter(|wrong| now.saturating_sub(wrong.last) < 2 * LONGEST_WAIT);
            let mut one = known.unwrap_or_default();
            (one.count, one.last) = (one.count.saturating_add(1), now);
            if one.count >= most {
                let wait = FIRST_WAIT << (one.count - most).min(4);
                one.until = now.saturating_add(wait.min(LONGEST_WAIT));
            }
            if known.is_some() || wrong.len() < 2 * MOST_SENDERS {
                wrong.insert(key.clone(), one);
            }
        }
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Whether the caller is on this machine, by no detour.
pub(super) fn is_local(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    // A proxy on this machine would make everybody local: what it forwards is refused.
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| parts.headers.contains_key(*name));
    // A page in a browser on this machine reaches loopback too, but not under a loopback name.
    let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let named = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
    named && peer.is_some_and(|peer| peer.to_canonical().is_loopback()) && !forwarded
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A cookie's value.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::console::hash_password;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn parts(method: &str, peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/console");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        parts.extensions.insert(ConnectInfo(format!("{peer}:1").parse::<SocketAddr>().unwrap()));
        parts
    }

    fn with_user(clock: Clock) -> Access {
        let user = User { password: Secret::new(hash_password("right horse").unwrap()), role: Role::Viewer };
        let token = Token { token: Secret::new("a-token-of-16-or-more".to_owned()), role: Role::Admin };
        let options = Options {
            users: BTreeMap::from([("anna".to_owned(), user)]),
            tokens: BTreeMap::from([("script".to_owned(), token)]),
            session: Duration::from_secs(3_600),
            ..Options::default()
        };
        Access::new(options, clock).unwrap()
    }

    #[test]
    fn without_users_only_this_machine_comes_in_and_no_page_of_others() {
        let access = Access::new(Options::default(), Clock::Wall).unwrap();
        let host = ("host", "127.0.0.1:8787");
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<Refusal>);
        let cases: [Case<'_>; 10] = [
            ("GET", "127.0.0.1", &[host], None),
            ("GET", "127.0.0.1", &[("host", "localhost")], None),
            ("GET", "192.168.0.5", &[host], Some(Refusal::NotLocal)),
            ("GET", "127.0.0.1", &[("host", "evil.example")], Some(Refusal::NotLocal)),
            ("GET", "127.0.0.1", &[host, ("x-forwarded-for", "10.0.0.1")], Some(Refusal::NotLocal)),
            ("GET", "127.0.0.1", &[host, ("authorization", "Bearer nonsense")], Some(Refusal::BadToken)),
            ("POST", "127.0.0.1", &[host], None),
            ("POST", "127.0.0.1", &[host, ("origin", "http://127.0.0.1:8787")], None),
            ("POST", "127.0.0.1", &[host, ("origin", "http://127.0.0.1:9999")], Some(Refusal::OtherOrigin)),
            ("POST", "127.0.0.1", &[host, ("sec-fetch-site", "cross-site")], Some(Refusal::OtherOrigin)),
        ];
        for (method, peer, headers, refusal) in cases {
            assert_eq!(access.admit(&parts(method, peer, headers)).err(), refusal, "{method} {peer} {headers:?}");
        }
    }

    #[tokio::test]
    async fn a_session_is_had_for_the_right_password_only_and_ends() {
        let clock = Clock::manual(1_000_000);
        let access = with_user(clock.clone());
        let ask = |cookie: &str| access.admit(&parts("GET", "10.0.0.9", &[("host", "h"), ("cookie", cookie)]));
        assert_eq!(ask("").unwrap_err(), Refusal::Unknown);
        for (name, password) in [("anna", "wrong"), ("anna", ""), ("nobody", "right horse")] {
            assert_eq!(access.login(HERE, name, password).await, Ok(None));
        }
        let cookie = access.login(HERE, "anna", "right horse").await.unwrap().unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap();
        let operator = ask(cookie).unwrap();
        assert_eq!((operator.name.as_str(), operator.role, operator.session), ("anna", Role::Viewer, true));
        assert_eq!(ask(&format!("{cookie}0")).unwrap_err(), Refusal::Unknown);
        clock.advance(3_600_000);
        assert!(ask(cookie).is_ok());
        clock.advance(3_600_001);
        assert_eq!(ask(cookie).unwrap_err(), Refusal::Unknown);
        let again = access.login(HERE, "anna", "right horse").await.unwrap().unwrap();
        let again = again.split(';').next().unwrap();
        assert!(ask(again).is_ok());
        access.logout(&parts("POST", "10.0.0.9", &[("cookie", again)]).headers);
        assert_eq!(ask(again).unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn a_token_comes_in_with_its_role_from_anywhere() {
        let access = with_user(Clock::Wall);
        let ask = |token: &str| {
            access.admit(&parts("POST", "10.0.0.9", &[("host", "h"), ("authorization", &format!("Bearer {token}"))]))
        };
        assert_eq!(ask("a-token-of-16-or-more").map(|operator| operator.role), Ok(Role::Admin));
        assert_eq!(ask("a-token-of-16-or-mor"), Err(Refusal::BadToken));
    }

    #[tokio::test]
    async fn guessing_passwords_takes_longer_and_longer() {
        let clock = Clock::manual(1_000_000);
        let access = with_user(clock.clone());
        for _ in 0..5 {
            assert_eq!(access.login(HERE, "anna", "guess").await, Ok(None));
        }
        // The right one waits as well; another sender does not.
        assert_eq!(access.login(HERE, "anna", "right horse").await, Err(60));
        let other = "10.1.1.1".parse().unwrap();
        assert!(access.login(other, "anna", "right horse").await.unwrap().is_some());
        clock.advance(60_001);
        assert_eq!(access.login(HERE, "anna", "guess").await, Ok(None));
        assert_eq!(access.login(HERE, "anna", "right horse").await, Err(120));
        clock.advance(120_001);
        assert!(access.login(HERE, "anna", "right horse").await.unwrap().is_some());
    }

    #[test]
    fn the_commands_token_is_for_the_hosts_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("console.token");
        let options = Options { token_file: Some(file.clone()), ..Options::default() };
        let access = Access::new(options, Clock::Wall).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let token = format!("Bearer {}", std::fs::read_to_string(&file).unwrap());
        let asked = parts("POST", "127.0.0.1", &[("host", "h"), ("authorization", &token)]);
        assert_eq!(access.admit(&asked).map(|operator| operator.name), Ok("command line".to_owned()));
    }
}
