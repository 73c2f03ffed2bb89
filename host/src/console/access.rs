//! Who asks, and what they may do.
//!
//! - **Being on this machine is not a password**: a proxy on it, or a CRM that posts where it is told to, speaks for people
//!   outside. Everybody must say who they are; but as long as the configuration names nobody, a program that could read the
//!   data folder anyway may look (`neighbour`).
//! - Whoever may read the data folder is this host's administrator: the commands use a token that lies there, made anew
//!   at every start and gone with the host. Beside it stands the address that it is for: it is sent nowhere else, and
//!   somebody who listens there while the host is down gets one that opens nothing any more.
//! - That token also opens the console in a browser, by a word that is good once (`links`).
//! - A session is a random cookie of which only a digest is kept, in memory: a restart ends all of them.
//! - What changes something needs the role `admin`, comes from a page of this host, and bears the session's own word
//!   (forms) or JSON (the API), which no other page can send.
//! - Wrong passwords cost the time of a right one, and after a few of them the sender waits (`guesses`).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::guesses::Guesses;
use super::links::Links;
use super::neighbour;
use super::passwords::{self, Passwords};
use crate::clock::Clock;
use crate::secret::{Renewable, Scrubber, Secret};
use crate::{files, sender};

/// The cookie that holds a session.
pub(super) const COOKIE: &str = "salesman_session";
/// Milliseconds by which the clock may go back without ending sessions.
const CLOCK_MAY_LACK: i64 = 60_000;
/// Sessions at once; the one that was used longest ago makes room.
const MOST_SESSIONS: usize = 1_000;
/// Seconds to wait where too many passwords are being checked.
const BUSY: u64 = 1;

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
    /// Where the host listens.
    pub address: Option<SocketAddr>,
    /// Whose word about a sender's address is taken.
    pub proxies: Vec<IpNet>,
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
    /// Nobody has said who they are.
    Unknown,
    /// A token that is none.
    BadToken,
    /// A page of somebody else asks.
    OtherOrigin,
}

/// The name in the log of whoever holds the data folder's token.
pub(super) const COMMANDS: &str = "command line";
/// The same, in a browser.
const BROWSER: &str = "this machine";

/// The file with the address that the token in `token_file` is for.
pub fn address_file(token_file: &Path) -> PathBuf {
    token_file.with_extension("address")
}

/// Who may come in. They may be changed while the host runs.
#[derive(Clone)]
pub struct Keys {
    who: Renewable<Who>,
    links: std::sync::Arc<Links>,
    /// Where browsers find the pages.
    base: String,
}

struct Who {
    users: BTreeMap<String, User>,
    tokens: Vec<(String, [u8; 32], Role)>,
}

impl Keys {
    fn new(options: &Options) -> Self {
        let listens = options.address.map(|address| format!("http://{address}"));
        let base = options.url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()).or(listens);
        Self { who: Renewable::new(who(options)), links: std::sync::Arc::default(), base: base.unwrap_or_default() }
    }

    /// An address that lets its bearer in as an administrator: once, and until it is `milliseconds` old.
    pub fn link(&self, now: i64, milliseconds: i64) -> String {
        format!("{}/console/enter?word={}", self.base, self.links.make(now, milliseconds))
    }

    /// From the next request on, these users and tokens. Sessions of users who are no longer among them end.
    pub fn renew(&self, options: &Options) {
        self.who.set(who(options));
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
    /// The token that the commands use.
    own: Option<Secret>,
    sessions: Mutex<HashMap<[u8; 32], Session>>,
    pub(super) guesses: Guesses,
    passwords: Passwords,
    /// Compared where there is no such user, so that this takes as long.
    nobody: String,
}

struct Session {
    name: String,
    /// As it was when the session began; none for a bearer of the data folder's token.
    user: Option<User>,
    csrf: String,
    used: i64,
}

/// A random word that nobody guesses.
pub(super) fn random() -> String {
    use std::fmt::Write as _;
    let bytes: [u8; 32] = rand::random();
    bytes.iter().fold(String::with_capacity(64), |mut word, byte| {
        // Writing into a text never fails.
        write!(word, "{byte:02x}").ok();
        word
    })
}

pub(super) fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

impl Access {
    /// # Errors
    /// When the token's file can't be written, or the system gives no random numbers.
    pub(super) fn new(options: Options, clock: Clock, scrubber: &Scrubber) -> Result<Self, String> {
        let mut own = None;
        if let Some(file) = &options.token_file {
            let token = Secret::new(random());
            let write = |file: &Path, text: &str| {
                // The data folder is this host's: nobody else writes them.
                files::remove_unfinished(file);
                files::replace(file, text.as_bytes(), files::Readers::Owner)
                    .map_err(|error| format!("`{}` can't be written: {error}", file.display()))
            };
            let address = options.address.map(|address| format!("http://{address}")).unwrap_or_default();
            write(&address_file(file), &address)?;
            write(file, token.expose())?;
            scrubber.learn([token.clone()]);
            own = Some(token);
        }
        let nobody = passwords::nobodys(&random());
        let (sessions, guesses) = (Mutex::default(), Guesses::default());
        let keys = Keys::new(&options);
        Ok(Self { options, clock, keys, own, sessions, guesses, passwords: Passwords::default(), nobody })
    }

    /// What lets others in.
    pub(super) fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Whether nobody is named who could say who they are.
    fn is_open_for_neighbours(&self) -> bool {
        let who = self.keys.who.get();
        who.users.is_empty() && who.tokens.is_empty()
    }

    pub(super) fn has_users(&self) -> bool {
        !self.keys.who.get().users.is_empty()
    }

    /// Whether a name is a user's: of others nothing is told, they may be passwords.
    pub(super) fn is_user(&self, name: &str) -> bool {
        self.keys.who.get().users.contains_key(name)
    }

    /// Whose wrong passwords are counted: the peer, or who a trusted proxy says it was.
    pub(super) fn sender(&self, parts: &Parts) -> IpAddr {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical();
        let lines = parts.headers.get_all(sender::HEADER).iter().map(HeaderValue::as_bytes);
        sender::sender(peer, lines, &self.options.proxies).unwrap_or(peer)
    }

    /// Lets somebody in.
    pub(super) fn admit(&self, parts: &Parts) -> Result<Operator, Refusal> {
        if let Some(token) = bearer(&parts.headers) {
            let given = digest(token);
            let (who, mut found) = (self.keys.who.get(), None);
            let own = self.own.as_ref().map(|own| (COMMANDS.to_owned(), digest(own.expose()), Role::Admin));
            for (name, known, role) in who.tokens.iter().chain(&own) {
                if bool::from(known.ct_eq(&given)) {
                    found = Some((name, *role));
                }
            }
            let (name, role) = found.ok_or(Refusal::BadToken)?;
            return Ok(Operator { name: name.clone(), role, csrf: String::new(), session: false });
        }
        let reader = || self.is_open_for_neighbours() && parts.method.is_safe() && neighbour::reads_the_folder(parts);
        let operator = match self.session_of(&parts.headers) {
            Some(operator) => operator,
            None if reader() => {
                Operator { name: BROWSER.to_owned(), role: Role::Viewer, csrf: String::new(), session: false }
            }
            None => return Err(Refusal::Unknown),
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
        // One from the future is from before the clock went back: nobody knows how old it is.
        if !(-CLOCK_MAY_LACK..=milliseconds(self.options.session)).contains(&now.saturating_sub(session.used)) {
            sessions.remove(&key);
            return None;
        }
        // Whoever is no longer a user, or has another password or role, comes in anew.
        if session.user.is_some() && self.keys.who.get().users.get(&session.name) != session.user.as_ref() {
            sessions.remove(&key);
            return None;
        }
        session.used = now;
        let Session { name, user, csrf, .. } = session;
        let role = user.as_ref().map_or(Role::Admin, |user| user.role);
        Some(Operator { name: name.clone(), role, csrf: csrf.clone(), session: true })
    }

    /// Checks a password; returns the cookie of a new session, or how many seconds the sender has to wait.
    pub(super) async fn login(&self, from: IpAddr, name: &str, password: &str) -> Result<Option<String>, u64> {
        let user = self.keys.who.get().users.get(name).cloned();
        let guess = self.guesses.begin(from, name, user.is_some(), self.clock.now())?;
        let hash = user.as_ref().map_or(self.nobody.as_str(), |user| user.password.expose());
        let Some(right) = self.passwords.fits(hash, password).await else {
            self.guesses.unlooked(&guess);
            return Err(BUSY);
        };
        let Some(user) = user.filter(|_| right) else { return Ok(None) };
        self.guesses.right(guess, self.clock.now());
        Ok(Some(self.open_session(name, Some(user))))
    }

    /// Lets the bearer of a link's word in; returns the cookie of a new session and whose it is.
    pub(super) fn enter(&self, word: &str) -> Option<(String, &'static str)> {
        let good = self.keys.links.take(word, self.clock.now());
        good.then(|| (self.open_session(BROWSER, None), BROWSER))
    }

    fn open_session(&self, name: &str, user: Option<User>) -> String {
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
}

impl Drop for Access {
    /// The token ends with the host; one of a host that was started meanwhile stays.
    fn drop(&mut self) {
        let (Some(file), Some(own)) = (&self.options.token_file, &self.own) else { return };
        if std::fs::read_to_string(file).is_ok_and(|token| token == own.expose()) {
            // One that stays opens nothing.
            drop((std::fs::remove_file(file), std::fs::remove_file(address_file(file))));
        }
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
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
        Access::new(options, clock, &Scrubber::default()).unwrap()
    }

    #[test]
    fn without_users_nobody_comes_in_from_wherever_but_by_a_link_that_is_good_once() {
        let clock = Clock::manual(1_000_000);
        let options = Options { session: Duration::from_secs(3_600), ..Options::default() };
        let access = Access::new(options, clock.clone(), &Scrubber::default()).unwrap();
        let host = ("host", "127.0.0.1:8787");
        for method in ["GET", "POST"] {
            for (peer, headers) in [
                // What a proxy on this machine sends on for anybody is no other than this.
                ("127.0.0.1", &[host][..]),
                ("127.0.0.1", &[("host", "localhost")]),
                ("127.0.0.1", &[host, ("origin", "http://127.0.0.1:8787")]),
                ("192.168.0.5", &[host]),
            ] {
                let refused = access.admit(&parts(method, peer, headers));
                assert_eq!(refused.err(), Some(Refusal::Unknown), "{method} {peer} {headers:?}");
            }
        }
        let word = |link: String| link.rsplit_once("word=").unwrap().1.to_owned();
        let (good, late) = (word(access.keys().link(clock.now(), 1_000)), word(access.keys().link(clock.now(), 1_000)));
        assert!(access.enter("").is_none() && access.enter("x").is_none());
        let (cookie, _) = access.enter(&good).unwrap();
        assert!(access.enter(&good).is_none(), "it was good once");
        clock.advance(1_001);
        assert!(access.enter(&late).is_none(), "and for a while");
        let cookie = cookie.split(';').next().unwrap();
        let ask = |more: &[(&str, &str)]| {
            let headers: Vec<_> = [host, ("cookie", cookie)].into_iter().chain(more.iter().copied()).collect();
            access.admit(&parts("POST", "127.0.0.1", &headers))
        };
        assert_eq!(ask(&[]).map(|operator| (operator.name, operator.role)), Ok((BROWSER.to_owned(), Role::Admin)));
        for (headers, refusal) in [
            (("origin", "http://127.0.0.1:8787"), None),
            (("origin", "http://127.0.0.1:9999"), Some(Refusal::OtherOrigin)),
            (("sec-fetch-site", "cross-site"), Some(Refusal::OtherOrigin)),
            (("authorization", "Bearer nonsense"), Some(Refusal::BadToken)),
        ] {
            assert_eq!(ask(&[headers]).err(), refusal, "{headers:?}");
        }
    }

    #[test]
    fn behind_a_trusted_proxy_the_real_sender_counts() {
        let proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let options = Options { proxies, ..Options::default() };
        let access = Access::new(options, Clock::Wall, &Scrubber::default()).unwrap();
        let of = |peer: &str, forwarded: &str| {
            access.sender(&parts("POST", peer, &[("x-forwarded-for", forwarded)])).to_string()
        };
        assert_eq!(of("127.0.0.1", "198.51.100.7"), "198.51.100.7");
        assert_eq!(of("127.0.0.1", "1.1.1.1, 198.51.100.7"), "198.51.100.7");
        assert_eq!(of("192.168.0.5", "198.51.100.7"), "192.168.0.5", "who is not trusted is not believed");
        assert_eq!(of("127.0.0.1", "nonsense"), "127.0.0.1");
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
    fn the_commands_token_is_for_the_hosts_user_alone_and_ends_with_the_host() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("console.token");
        let address = Some("127.0.0.1:8787".parse().unwrap());
        let start = |scrubber: &Scrubber| {
            let options = Options { token_file: Some(file.clone()), address, ..Options::default() };
            Access::new(options, Clock::Wall, scrubber).unwrap()
        };
        let scrubber = Scrubber::default();
        let access = start(&scrubber);
        for file in [file.clone(), address_file(&file)] {
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_to_string(address_file(&file)).unwrap(), "http://127.0.0.1:8787");
        let token = std::fs::read_to_string(&file).unwrap();
        assert!(scrubber.finds(&token));
        let bearer = format!("Bearer {token}");
        let asked = parts("POST", "127.0.0.1", &[("host", "h"), ("authorization", &bearer)]);
        assert_eq!(access.admit(&asked).map(|operator| operator.name), Ok(COMMANDS.to_owned()));
        let next = start(&scrubber);
        assert_eq!(next.admit(&asked).err(), Some(Refusal::BadToken), "that of the start before opens nothing");
        drop(access);
        assert!(file.exists(), "it is another host's by now");
        drop(next);
        assert!(!file.exists() && !address_file(&file).exists());
    }
}
