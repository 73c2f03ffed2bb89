//! Requests to the outside: granted origins only, and private addresses only where they are granted by name.
//!
//! - The address is checked where the connection is made, so a name that changes its address between two look-ups
//!   gains nothing.
//! - Redirects are followed within the same origin only.
//! - Sizes and times are bounded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::Value;
use url::{Host as UrlHost, Url};

use super::{Attempt, LimitHit};
use crate::contract::http::{Error, Host, Request, Response};
use crate::crm::safe_words;
use crate::crm::target::{Repeat, Target};
use crate::journal::{self, Intended, Intent, Write, Written};
use crate::outcome::FaultKind;
use crate::plugin::Grants;
use crate::telemetry;

/// Bytes of a request's body.
const MOST_REQUEST: usize = 1 << 20;
/// Bytes of an answer's body.
const MOST_ANSWER: usize = 1 << 20;
/// Redirects that are followed.
const MOST_REDIRECTS: usize = 5;
/// The longest that one request may take.
const LONGEST: Duration = Duration::from_secs(10);
/// Headers that belong to the connection, not to the plugin.
const OWN_HEADERS: [&str; 5] = ["connection", "content-length", "host", "te", "transfer-encoding"];

/// The way to the outside.
#[derive(Clone)]
pub struct Outside {
    way: Way,
}

#[derive(Clone)]
enum Way {
    /// To where the request says.
    Live(Clients),
    /// Nowhere: a script answers.
    Scripted(Arc<dyn OutsideAnswers>),
    /// `GET` and `HEAD` to where they say, others nowhere.
    Dry(Clients, Arc<dyn OutsideAnswers>),
}

/// One client that can't reach private addresses, one that can.
#[derive(Clone)]
struct Clients {
    public: reqwest::Client,
    any: reqwest::Client,
}

/// Who answers in place of the outside, in a rehearsal.
pub trait OutsideAnswers: Send + Sync {
    /// What the other side would answer.
    ///
    /// # Errors
    /// Words for the plugin, as when nobody can be reached.
    fn answer(&self, request: &OutsideRequest<'_>) -> Result<OutsideAnswer, String>;
}

/// A request that is not sent.
#[derive(Debug, Clone, Copy)]
pub struct OutsideRequest<'a> {
    /// In capital letters.
    pub method: &'a str,
    /// The whole address.
    pub url: &'a str,
    /// `https://host` or `https://host:port`.
    pub origin: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// An answer that did not come from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutsideAnswer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Outside {
    /// Sets up both clients; nothing is sent.
    ///
    /// # Errors
    /// When the TLS library can't be set up; the text says why.
    pub fn new() -> Result<Self, String> {
        Clients::new().map(|clients| Self { way: Way::Live(clients) })
    }

    /// A way that leads to a script. Grants and addresses are checked as always; names are not resolved.
    pub fn scripted(answers: Arc<dyn OutsideAnswers>) -> Self {
        Self { way: Way::Scripted(answers) }
    }

    /// A way on which `GET` and `HEAD` go out, and a script answers all others.
    ///
    /// # Errors
    /// As [`Outside::new`].
    pub fn dry(answers: Arc<dyn OutsideAnswers>) -> Result<Self, String> {
        Clients::new().map(|clients| Self { way: Way::Dry(clients, answers) })
    }
}

impl Clients {
    fn new() -> Result<Self, String> {
        let builder = || crate::tls::client_builder().timeout(LONGEST).redirect(reqwest::redirect::Policy::none());
        let failed = |error: reqwest::Error| format!("failed to set up the HTTP client: {error}");
        Ok(Self {
            public: builder().dns_resolver(Arc::new(PublicOnly)).build().map_err(failed)?,
            any: builder().build().map_err(failed)?,
        })
    }
}

/// Resolves names, and leaves out addresses that are not public.
struct PublicOnly;

const PRIVATE: &str = "the name leads to a private address";

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<_> = found.iter().copied().filter(|address| is_public(address.ip())).collect();
            if public.is_empty() && !found.is_empty() {
                return Err(PRIVATE.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is on the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let reserved = a == 0
        || a >= 224
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !(reserved
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, _, _, _, _, g, h] = address.segments();
    let embedded = || {
        let [g0, g1] = g.to_be_bytes();
        let [h0, h1] = h.to_be_bytes();
        Ipv4Addr::new(g0, g1, h0, h1)
    };
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    match a {
        // Translated (64:ff9b::/96) addresses are what they translate to; 6to4 and Teredo are not used any more.
        0x0064 => b == 0xff9b && is_public_v4(embedded()),
        0x2001 if b == 0 || b == 0x0db8 => false,
        0x2002 => false,
        _ => (0x2000..0x4000).contains(&a),
    }
}

/// `https://host` or `https://host:port`, as grants name it.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// A request that may be sent more than once, because of redirects.
struct Prepared {
    method: reqwest::Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
    limit: Duration,
}

impl Prepared {
    fn new(request: Request) -> Result<Self, Error> {
        let method = match request.method.to_ascii_uppercase().as_str() {
            "GET" => reqwest::Method::GET,
            "POST" => reqwest::Method::POST,
            "PUT" => reqwest::Method::PUT,
            "PATCH" => reqwest::Method::PATCH,
            "DELETE" => reqwest::Method::DELETE,
            "HEAD" => reqwest::Method::HEAD,
            _ => return Err(Error::Invalid("the method is none of GET, POST, PUT, PATCH, DELETE, HEAD".into())),
        };
        if request.body.len() > MOST_REQUEST {
            return Err(Error::Invalid(format!("a body has at most {MOST_REQUEST} bytes")));
        }
        let mut headers = Vec::with_capacity(request.headers.len());
        for (name, value) in request.headers {
            if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(Error::Invalid(format!("the header `{name}` is the host's own")));
            }
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(&value).ok());
            headers
                .push(parsed.ok_or_else(|| Error::Invalid("a header's name or value is not allowed by HTTP".into()))?);
        }
        let limit = request.timeout.map_or(LONGEST, |timeout| Duration::from_millis(timeout.into()).min(LONGEST));
        Ok(Self { method, headers, body: request.body, limit })
    }

    async fn send(&self, client: &reqwest::Client, url: Url) -> Result<reqwest::Response, reqwest::Error> {
        let mut request = client.request(self.method.clone(), url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(self.body.clone()).send().await
    }

    /// As browsers do it: 303 always, 301 and 302 after a POST, become a GET without a body.
    fn redirected(&mut self, status: u16) {
        if status == 303 || (matches!(status, 301 | 302) && self.method == reqwest::Method::POST) {
            self.method = reqwest::Method::GET;
            self.body.clear();
            self.headers.retain(|(name, _)| name != "content-type");
        }
    }
}

/// The address in its parts, and whether the plugin may go there.
fn target(url: &str) -> Result<(Url, String), Error> {
    // The address itself is not quoted: chat services put tokens into it.
    let url = Url::parse(url).map_err(|error| Error::Invalid(format!("the address is not one: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::Invalid("only `http` and `https` addresses can be reached".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Invalid("put credentials into a header, not into the address".into()));
    }
    let origin = origin(&url);
    Ok((url, origin))
}

async fn collected(mut response: reqwest::Response) -> Result<Response, Error> {
    let status = response.status().as_u16();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Error::Transport(safe_words(&error)))? {
        if body.len() + chunk.len() > MOST_ANSWER {
            return Err(Error::Transport(format!("the answer is larger than {MOST_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status, headers, body })
}

impl Outside {
    async fn request(&self, grants: &Grants, url: Url, origin: &str, prepared: Prepared) -> Result<Response, Error> {
        let limit = prepared.limit;
        tokio::time::timeout(limit, self.follow(grants, url, origin, prepared))
            .await
            .unwrap_or_else(|_| Err(Error::Transport("no answer in time".into())))
    }

    async fn follow(
        &self,
        grants: &Grants,
        mut url: Url,
        origin: &str,
        mut prepared: Prepared,
    ) -> Result<Response, Error> {
        grants.http(origin).map_err(|refusal| Error::NotGranted(refusal.to_string()))?;
        let private = grants.private(origin);
        let refused = || Error::NotGranted(grants.private_refusal(origin).to_string());
        let literal = match url.host() {
            Some(UrlHost::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(UrlHost::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        // A literal address never reaches the resolver. What goes nowhere can't go to a private address.
        let goes_out = match &self.way {
            Way::Live(_) => true,
            Way::Dry(..) => matches!(prepared.method.as_str(), "GET" | "HEAD"),
            Way::Scripted(_) => false,
        };
        if goes_out && !private && literal.is_some_and(|address| !is_public(address)) {
            return Err(refused());
        }
        let clients = match &self.way {
            Way::Live(clients) => clients,
            Way::Dry(clients, _) if matches!(prepared.method.as_str(), "GET" | "HEAD") => clients,
            Way::Dry(_, answers) | Way::Scripted(answers) => {
                let (method, body) = (prepared.method.as_str(), &*prepared.body);
                let OutsideAnswer { status, headers, body } = answers
                    .answer(&OutsideRequest { method, url: url.as_str(), origin, body })
                    .map_err(Error::Transport)?;
                return Ok(Response { status, headers, body });
            }
        };
        let client = if private { &clients.any } else { &clients.public };
        for _ in 0..=MOST_REDIRECTS {
            let response = prepared.send(client, url.clone()).await.map_err(|error| {
                let words = safe_words(&error);
                if words.contains(PRIVATE) { refused() } else { Error::Transport(words) }
            })?;
            let status = response.status().as_u16();
            let redirect = response.headers().get("location").filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
            let Some(redirect) = redirect.and_then(|target| target.to_str().ok()) else {
                return collected(response).await;
            };
            let next = url.join(redirect).map_err(|_| Error::Transport("a redirect leads to no address".into()))?;
            if self::origin(&next) != origin {
                return Err(Error::Transport(format!("a redirect leads to another origin, `{}`", self::origin(&next))));
            }
            prepared.redirected(status);
            url = next;
        }
        Err(Error::Transport(format!("there were more than {MOST_REDIRECTS} redirects")))
    }
}

impl Attempt {
    /// A request that changes something, of a delivery that may have been carried out after its store was copied: nobody can
    /// be asked whether it was sent, but somebody may have said it.
    async fn known_before(&mut self, method: reqwest::Method, url: &Url, origin: &str) -> Result<Known, LimitHit> {
        let call = format!("http {method} {}", self.label(origin, 1_024));
        // Not by its body: that may hold the time.
        let write = self.write(&call, &Value::from(url.as_str()));
        let target = Target { kind: "other", record: None, repeat: Repeat::Ask };
        let intent = self.intent(write.clone(), &call, &target);
        match self.reach.journal.known_write(&write).map_err(trouble)? {
            None => Ok(Known::Free),
            Some(Intended::New) => {
                // The word that it is to be sent holds for this once.
                self.reach.journal.intend(Intent { not_done: true, ..intent }).await.map_err(trouble)?;
                Ok(Known::ToSend(write))
            }
            Some(Intended::Answered(answer)) => {
                self.record_again(&call, &Value::Null, Ok(&answer), "was done");
                Ok(Known::Done(Response { status: 200, headers: Vec::new(), body: answer.into_bytes() }))
            }
            Some(Intended::Uncertain { .. }) => {
                self.reach.journal.intend(intent).await.map_err(trouble)?;
                let detail = format!(
                    "`{call}` may have been sent after the copy that this store was restored from, and nobody can be asked: find out where it leads, then have it sent or say that it was"
                );
                self.record_again(&call, &Value::Null, Err(&detail), "uncertain");
                telemetry::write_uncertain(self.reach.event, self.reach.delivery, &call);
                Err(LimitHit { kind: FaultKind::Uncertain, detail })
            }
        }
    }
}

impl Attempt {
    /// What became of a request that somebody had sent: only a good answer says that it was done, and only silence leaves it open.
    async fn sent(&mut self, write: Write, result: &Result<Response, Error>) -> Result<(), LimitHit> {
        let written = match result {
            Ok(response) if (200..300).contains(&response.status) => {
                let body = response.body.get(..response.body.len().min(super::MOST_KEPT)).unwrap_or_default();
                let answer = self.reach.scrubber.scrub(&String::from_utf8_lossy(body)).into_owned();
                Written::Answered { answer, record: None }
            }
            Err(Error::Transport(_)) => return Ok(()),
            _ => Written::Withdrawn,
        };
        self.reach.journal.written(write, written).await.map_err(trouble)
    }
}

/// What is known of a request before it is sent.
enum Known {
    /// Nothing, and nothing has to be.
    Free,
    /// Somebody has it sent.
    ToSend(Write),
    /// It was done; this stands for its answer.
    Done(Response),
}

fn trouble(error: journal::Error) -> LimitHit {
    telemetry::host_fault("http", &error);
    let detail = "what is known of a request can't be read or recorded now: the host's log says why";
    LimitHit { kind: FaultKind::Host, detail: detail.to_owned() }
}

impl Host for Attempt {
    async fn send(&mut self, request: Request) -> wasmtime::Result<Result<Response, Error>> {
        self.count()?;
        let at = self.since_start();
        // More than is kept, so that no secret is cut before it is found.
        let start = request.body.get(..request.body.len().min(2 * super::MOST_KEPT)).unwrap_or_default();
        let sent = String::from_utf8_lossy(start).into_owned();
        let method = request.method.clone();
        let (url, origin) = match target(&request.url) {
            Ok(target) => target,
            Err(error) => return Ok(Err(error)),
        };
        let prepared = Prepared::new(request);
        let mut open = None;
        if let Ok(Prepared { method, .. }) = &prepared
            && !matches!(method.as_str(), "GET" | "HEAD")
            && self.reach.grants.http(&origin).is_ok()
        {
            match self.known_before(method.clone(), &url, &origin).await? {
                Known::Free => {}
                Known::ToSend(write) => open = Some(write),
                Known::Done(answer) => return Ok(Ok(answer)),
            }
        }
        let result = match prepared {
            Ok(prepared) => self.reach.outside.request(&self.reach.grants, url, &origin, prepared).await,
            Err(error) => Err(error),
        };
        if let Some(write) = open {
            self.sent(write, &result).await?;
        }
        let call = format!("http {} {}", self.label(&method, 16), self.label(&origin, 1_024));
        match &result {
            Ok(response) => {
                let start = response.body.get(..response.body.len().min(2 * super::MOST_KEPT)).unwrap_or_default();
                let answer = format!("{} {}", response.status, String::from_utf8_lossy(start));
                self.record(at, call, &sent, Ok(&answer));
            }
            Err(Error::NotGranted(text) | Error::Transport(text) | Error::Invalid(text)) => {
                let text = text.clone();
                self.record(at, call, &sent, Err(&text));
            }
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_inside_the_house_is_never_taken_for_a_public_one() {
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ];
        for address in private {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["1.1.1.1", "149.154.167.220", "172.32.0.1", "2a00:1450:4010:c0e::8a", "::ffff:8.8.8.8", "64:ff9b::808:808"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_address_with_credentials_or_another_scheme_is_refused() {
        for wrong in
            ["file:///etc/passwd", "ftp://a.example", "https://user:pass@a.example/", "//a.example", "not an address"]
        {
            assert!(matches!(target(wrong), Err(Error::Invalid(_))), "{wrong}");
        }
        assert_eq!(
            target("https://A.example:443/x?y").map(|(_, origin)| origin).ok().as_deref(),
            Some("https://a.example")
        );
    }
}
