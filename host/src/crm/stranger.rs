//! What answers in place of the API, and what helps: the CRM says 200 to everything, so only the body tells.
//!
//! - Every kind that was met has a name: a CRM without its database, a maintenance page, a proxy that turns calls away, a
//!   web server without the rewrite rule, PHP that failed.
//! - Nothing of a body is quoted: such pages hold paths, SQL and addresses.
//!
//! Not here: whether the CRM counts as away (`reachability`), and answers of the API itself (`answer`).

use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// The longest time for which a web server can ask to be left alone.
const LONGEST_AFTER: Duration = Duration::from_secs(3_600);

/// Something that is no answer of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stranger {
    /// The CRM's plain text when it has no database (measured: status 200, JSON content type).
    NoDatabase,
    /// A page of PHP's own about an error.
    Php(PhpError),
    /// Some other page with status 200: maintenance, a log-in form, another server.
    Page,
    /// Plain text with status 200.
    Text,
    /// JSON with status 200 and nothing of the API's in it: a gateway's word of maintenance.
    Json,
    /// Nothing, with status 200: `php -S` answers so for an address without a rewrite rule, PHP after a silent end.
    Empty,
    /// Another status.
    Status(u16),
    /// The web server sends callers elsewhere.
    Elsewhere(u16),
    /// The web server, or a proxy, is asked too much or is closed for a while.
    Busy {
        /// 429 or 503.
        status: u16,
        /// How long it asks to be left alone, an hour at most.
        after: Option<Duration>,
    },
}

/// Which error of PHP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhpError {
    /// The database refused a statement.
    Database,
    /// A division by zero.
    Division,
    /// A value of the wrong type.
    Type,
    /// Another one.
    Other,
}

/// How long a web server is left alone that turned a call away, and did not say for how long.
pub(super) const BRIEFLY: Duration = Duration::from_secs(1);

/// Whether a web server has turned a call away that names no time: a limit is nobody's failure, and passes. Nginx makes a page
/// of its own for 503 only of what it has turned away itself (a limit of requests or connections, a site that is switched
/// off): a backend's comes through as it is, and PHP sends none.
pub(super) fn turned_away(status: u16, page: &[u8]) -> bool {
    let page = String::from_utf8_lossy(page.get(..1_024).unwrap_or(page));
    let own = page.contains("<title>503 Service Temporarily Unavailable</title>") && page.contains("<center>nginx");
    status == 429 || status == 503 && own
}

impl Stranger {
    /// What a status says, where it is not that of an answer.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, now: jiff::Timestamp) -> Option<Self> {
        match status.as_u16() {
            200..=299 => None,
            status @ (429 | 503) => Some(Self::Busy { status, after: asked_to_wait(headers, now) }),
            status @ 300..=399 => Some(Self::Elsewhere(status)),
            status => Some(Self::Status(status)),
        }
    }

    /// What a text is that is no JSON; `None` where it begins like JSON.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Empty);
        }
        if let Some(error) = PhpError::of(text) {
            return Some(Self::Php(error));
        }
        if text.starts_with(['{', '[', '"']) || text.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        // Measured: `Ошибка подключения к БД: …`.
        if text.get(..512.min(text.len())).unwrap_or(text).contains("подключения к БД") {
            return Some(Self::NoDatabase);
        }
        Some(if text.starts_with('<') { Self::Page } else { Self::Text })
    }

    /// Whether a write that was answered so was surely not done: the CRM's own code never began with it.
    pub fn nothing_was_done(&self) -> bool {
        match self {
            Self::NoDatabase | Self::Elsewhere(_) => true,
            Self::Status(status) => matches!(status, 401 | 404 | 405 | 407),
            // A server that names a time has not begun, nor has one whose own page it is; a bare 503 may come from a backend that has.
            Self::Busy { status, after } => *status == 429 || after.is_some(),
            // A proxy may turn back an answer as well as a request.
            Self::Php(_) | Self::Page | Self::Text | Self::Json | Self::Empty => false,
        }
    }

    /// What was recorded in the words of an error.
    pub(super) fn from_words(words: &str) -> Option<Self> {
        let after = words.split_once(" for ").and_then(|(_, rest)| rest.split_once(" s (")).map(|(seconds, _)| seconds);
        let after = after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let php = [PhpError::Database, PhpError::Division, PhpError::Type, PhpError::Other].map(Self::Php);
        let busy = [429, 503].map(|status| Self::Busy { status, after });
        let plain = [Self::NoDatabase, Self::Page, Self::Text, Self::Json, Self::Empty];
        let statuses = (100..600).map(Self::Status).chain((300..400).map(Self::Elsewhere));
        let mut all = php.into_iter().chain(busy).chain(plain).chain(statuses);
        all.find(|stranger| words == format!("{stranger}: {}", stranger.remedy()))
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoDatabase => "start the CRM's database, or look at the CRM's `inc/config.php`",
            Self::Php(_) => "look at PHP's log on the CRM's machine; PHP 8 has known faults with this CRM",
            Self::Page | Self::Text | Self::Json => {
                "end the CRM's maintenance; or the CRM's own pages or another server answer: look at the rewrite rule for `/developer/v2`, and compare `url` with the address that browsers use"
            }
            Self::Empty | Self::Status(404) => {
                "the web server has no rewrite rule for `/developer/v2`. nginx: `location /developer/v2/ { rewrite ^/developer/v2/([a-z]+)/?$ /developer/v2/$1.php last; }`; Apache: `AllowOverride All` for the CRM's folder, so that its `.htaccess` counts. Or `url` is not the CRM's"
            }
            Self::Status(401 | 403) => {
                "the web server or a proxy keeps the host out: allow its address, or `/developer/v2` without a password"
            }
            Self::Status(_) => "look at the log of the CRM's web server",
            Self::Elsewhere(_) => {
                "set `url` to the address that browsers end up at (`https://` in place of `http://`, most often)"
            }
            Self::Busy { .. } => "end the maintenance, or raise the limit of requests that the proxy grants the host",
        }
    }
}

impl fmt::Display for Stranger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDatabase => formatter.write_str("the CRM has no connection to its database"),
            Self::Php(error) => write!(formatter, "the answer is a page, not JSON: {error}"),
            Self::Page => formatter.write_str("the answer is a page, not JSON"),
            Self::Text => formatter.write_str("the answer is plain text, not JSON"),
            Self::Json => formatter.write_str("the answer is JSON, and not the CRM's API's"),
            Self::Empty => formatter.write_str("the answer is empty"),
            Self::Status(status) => write!(formatter, "the CRM's web server answered {status}"),
            Self::Elsewhere(status) => write!(formatter, "the CRM's web server sends callers elsewhere ({status})"),
            Self::Busy { status, after: None } => write!(formatter, "the CRM's web server turns calls away ({status})"),
            Self::Busy { status, after: Some(after) } => {
                write!(formatter, "the CRM's web server turns calls away for {} s ({status})", after.as_secs())
            }
        }
    }
}

impl PhpError {
    /// The error that a text of PHP's own tells of.
    pub(super) fn of(text: &str) -> Option<Self> {
        const KINDS: [(&str, PhpError); 4] = [
            ("mysqli_sql_exception", PhpError::Database),
            ("DivisionByZeroError", PhpError::Division),
            ("TypeError", PhpError::Type),
            ("Fatal error", PhpError::Other),
        ];
        // PHP's own pages begin so; a record's text may hold the same words.
        let own = text.starts_with("<br />") || text.starts_with("<b>") || text.contains("<b>Fatal error</b>");
        own.then(|| KINDS.iter().find(|(mark, _)| text.contains(mark)).map(|(_, error)| *error)).flatten()
    }
}

impl fmt::Display for PhpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Database => "PHP failed with a database error",
            Self::Division => "PHP failed with a division by zero",
            Self::Type => "PHP failed with a type error",
            Self::Other => "PHP failed",
        })
    }
}

/// `Retry-After`, as seconds or as a date.
fn asked_to_wait(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let asked = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match asked.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(asked).ok()?.timestamp();
            Duration::from_secs(u64::try_from(at.as_second().saturating_sub(now.as_second())).unwrap_or(0))
        }
    };
    Some(wait.min(LONGEST_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_answers_in_place_of_the_api_is_known_by_its_body() {
        let cases = [
            ("Ошибка подключения к БД: Connection refused", Some(Stranger::NoDatabase)),
            ("<!DOCTYPE html><html><body>Ведутся работы</body></html>", Some(Stranger::Page)),
            ("<html><head><title>Login</title></head></html>", Some(Stranger::Page)),
            ("Service is down", Some(Stranger::Text)),
            ("", Some(Stranger::Empty)),
            ("<br />\n<b>Fatal error</b>:  Uncaught DivisionByZeroError", Some(Stranger::Php(PhpError::Division))),
            ("<br />\n<b>Fatal error</b>:  Uncaught Error", Some(Stranger::Php(PhpError::Other))),
            ("{\"data\":1}", None),
            ("[]", None),
            ("{\"data\":\"a TypeError that a client wrote about\"", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Stranger::of_text(text), expected, "{text}");
        }
    }

    #[test]
    fn a_web_servers_wish_to_be_left_alone_is_understood_and_bounded() {
        let now: jiff::Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        let check = |status: u16, asked: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(asked) = asked {
                headers.insert(RETRY_AFTER, asked.parse().unwrap());
            }
            Stranger::of_status(StatusCode::from_u16(status).unwrap(), &headers, now)
        };
        let busy =
            |status, seconds: Option<u64>| Some(Stranger::Busy { status, after: seconds.map(Duration::from_secs) });
        assert_eq!(check(200, Some("5")), None);
        assert_eq!(check(429, Some("5")), busy(429, Some(5)));
        assert_eq!(check(503, None), busy(503, None));
        assert_eq!(check(503, Some("Thu, 26 Nov 2026 00:01:00 GMT")), busy(503, Some(60)));
        assert_eq!(check(503, Some("Wed, 25 Nov 2026 00:01:00 GMT")), busy(503, Some(0)));
        assert_eq!(check(429, Some("99999999")), busy(429, Some(3_600)));
        assert_eq!(check(429, Some("soon")), busy(429, None));
        assert_eq!(check(403, None), Some(Stranger::Status(403)));
        assert_eq!(check(301, None), Some(Stranger::Elsewhere(301)));
    }
}
