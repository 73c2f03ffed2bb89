//! A look at a CRM: whether it answers, takes the key, whose login it is, how its clock goes, and which of the measured
//! quirks it has. Only reads are sent.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Client, Error, Way};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Checkup {
    /// Whether anything answered.
    pub reachable: bool,
    /// Milliseconds until the first answer.
    pub took_ms: u64,
    /// Whether login and key are taken.
    pub key_accepted: bool,
    /// The number of the login's user.
    pub user: Option<u64>,
    /// Seconds by which the CRM's clock is ahead of the host's; negative: behind.
    pub clock_ahead_s: Option<i64>,
    /// Its web server's own words: `Server` and `X-Powered-By`.
    pub server: Vec<String>,
    /// What is wrong, in sentences with what to do.
    pub problems: Vec<String>,
    /// What is peculiar, and what the host does about it.
    pub quirks: Vec<Quirk>,
}

/// A peculiarity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Quirk {
    /// Its name.
    pub name: &'static str,
    /// Whether this CRM has it; null: there was nothing to see it by.
    pub found: Option<bool>,
    /// What it means.
    pub meaning: &'static str,
}

impl Client {
    /// Looks at the CRM; `now` is the host's time in milliseconds since 1970-01-01 UTC.
    pub async fn check(&self, now: i64) -> Checkup {
        let began = Instant::now();
        let head = self.head().await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut checkup = Checkup {
            reachable: head.is_ok(),
            took_ms,
            key_accepted: false,
            user: None,
            clock_ahead_s: None,
            server: Vec::new(),
            problems: Vec::new(),
            quirks: Vec::new(),
        };
        match head {
            Err(words) => {
                checkup
                    .problems
                    .push(format!("it does not answer ({words}): look at `url`, the network and the web server"));
                return checkup;
            }
            Ok(head) => {
                checkup.clock_ahead_s = head.date.map(|date| date - now.div_euclid(1_000));
                checkup.server = head.server;
            }
        }
        if checkup.clock_ahead_s.is_some_and(|ahead| ahead.abs() > 30) {
            checkup.problems.push(
                "its clock and the host's differ by more than 30 seconds: set both by NTP, or times of tasks come out wrong".to_owned(),
            );
        }
        match self.call("client", "fields", &Map::new()).await {
            Ok(_) => checkup.key_accepted = true,
            Err(Error::Refused { code, text }) => checkup.problems.push(format!(
                "login or key is refused{}: {text}. Compare `login` and `api_key` with the CRM's panel",
                code.map(|code| format!(" with code {code}")).unwrap_or_default()
            )),
            Err(error) => checkup.problems.push(error.to_string()),
        }
        if checkup.key_accepted {
            match self.own_user().await {
                Ok(user) => checkup.user = Some(user),
                Err(error) => checkup.problems.push(format!("the login's user is not told ({error}): set `user_id`")),
            }
            checkup.quirks = self.quirks().await;
        }
        checkup
    }

    async fn quirks(&self) -> Vec<Quirk> {
        let deals = self.call("deal", "list", &Map::new()).await.ok();
        let first = deals.as_ref().and_then(|deals| deals.pointer("/data/0/did")).cloned();
        let hollow = match first {
            Some(did) => {
                let asked = [("did".to_owned(), did)].into_iter().collect();
                let info = self.call("deal", "info", &asked).await.ok();
                info.and_then(|info| info.get("data").map(|data| data.get("title").is_none_or(Value::is_null)))
            }
            None => None,
        };
        let page = deals.as_ref().and_then(|deals| deals.get("data")?.as_array().map(Vec::len));
        let asked = [("limit".to_owned(), Value::from("1"))].into_iter().collect();
        let limited = self.call("deal", "list", &asked).await.ok();
        let limited = limited.as_ref().and_then(|deals| deals.get("data")?.as_array().map(Vec::len));
        let ignores = page.zip(limited).filter(|(page, _)| *page > 1).map(|(_, limited)| limited > 1);
        let nameless = self.call("user", "user", &Map::new()).await;
        let fatal = Some(matches!(nameless, Err(Error::BadAnswer(_))));
        vec![
            Quirk {
                name: "deal.info is empty",
                found: hollow,
                meaning: "`deal.info` gives null for ordinary fields: plugins use `deal.list` with a filter",
            },
            Quirk {
                name: "pages have a fixed size",
                found: ignores,
                meaning: "`limit` is ignored, a page has 200 rows: the host pages by `offset`",
            },
            Quirk {
                name: "PHP errors are answers",
                found: fatal,
                meaning: "a PHP error comes as a page with status 200: the host judges answers by their body",
            },
        ]
    }

    /// What the web server says of itself, without login and key.
    async fn head(&self) -> Result<Head, String> {
        let http = match &self.inner.way {
            Way::Live(http) | Way::Dry(http, _) => http,
            Way::Scripted(_) => return Err("a script answers".to_owned()),
        };
        let asked = http.post(format!("{}/client", self.inner.base)).body("").send().await;
        let answer = asked.map_err(|error| super::safe_words(&error))?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let date = header("date").and_then(|date| jiff::fmt::rfc2822::parse(&date).ok());
        Ok(Head {
            date: date.map(|date| date.timestamp().as_second()),
            server: ["server", "x-powered-by"].iter().filter_map(|name| header(name)).collect(),
        })
    }
}

struct Head {
    date: Option<i64>,
    server: Vec<String>,
}
