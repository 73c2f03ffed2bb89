//! A look at a CRM: whether it answers, takes the key, whose login it is, how its clock goes, and which of the measured
//! quirks it has. Only reads are sent.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::stranger::Stranger;
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
                    .push(format!("it does not answer ({words}). Look at `url`, the network and the web server"));
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
        // Not by `call`, which does not ask a CRM that counts as away.
        match self.inner.send("client", "fields", &Map::new()).await {
            Ok(_) => checkup.key_accepted = true,
            Err(Error::Refused { code, text }) => checkup.problems.push(format!(
                "login or key is refused{}: {text}. Compare `login` and `api_key` with the CRM's panel",
                code.map(|code| format!(" with code {code}")).unwrap_or_default()
            )),
            Err(error) => checkup.problems.push(error.to_string()),
        }
        if checkup.key_accepted {
            match self.login().await {
                Ok(login) => {
                    checkup.user = Some(login.number);
                    if login.blocked {
                        checkup.problems.push(
                            "the login's user is blocked in the CRM, which takes calls all the same and may not do so tomorrow: make it active in the panel"
                                .to_owned(),
                        );
                    }
                }
                Err(error) => checkup.problems.push(format!("the login's user is not told ({error}): set `user_id`")),
            }
            checkup.quirks = self.quirks(php_8(&checkup.server)).await;
        }
        checkup
    }

    async fn quirks(&self, php_8: Option<bool>) -> Vec<Quirk> {
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
        let fatal = Some(matches!(nameless, Err(Error::NotTheApi(Stranger::Php(_)))));
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
            Quirk {
                name: "PHP 8",
                found: php_8,
                meaning: "contacts are written and then answered with a PHP error, tasks are listed with `active=yes` only, invoices of a deal without positions fail: the host looks again after such a write",
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
        let answer = asked.map_err(|error| super::connection::unanswered(&error).to_string())?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let date = header("date").and_then(|date| jiff::fmt::rfc2822::parse(&date).ok());
        Ok(Head {
            date: date.map(|date| date.timestamp().as_second()),
            server: ["server", "x-powered-by"].iter().filter_map(|name| header(name)).collect(),
        })
    }
}

/// Whether the web server says that PHP is of version 8 or later.
fn php_8(server: &[String]) -> Option<bool> {
    let version = server.iter().find_map(|words| words.split_once("PHP/"))?.1;
    Some(version.split('.').next()?.parse::<u32>().ok()? >= 8)
}

struct Head {
    date: Option<i64>,
    server: Vec<String>,
}
