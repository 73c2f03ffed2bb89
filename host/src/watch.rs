//! Finds what the CRM never sends: reads its lists at a set pace, and hands the missing events to the journal.
//!
//! - Pages of leads, documents and acts fire no event at all, mass changes of deals neither (measured on version 2025.4).
//! - The first pass only remembers. After that a record that is new, changed or gone becomes an event, `via` poll.
//! - What did arrive is not told again: a record of which an event came since the last pass is only remembered.
//! - Event and memory are stored together: a crash repeats and loses nothing.
//!
//! It sees the state at each pass, not what lies between two; not who did it; and nothing that the list does not show.
//! One pass reads the whole list, 200 records a call.
//!
//! Not here: what becomes of the events. They take the path of all others.

mod lists;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::event::{Event, EventId, Via, entity_of};
use crate::{crm, journal, telemetry};
pub use lists::List;

/// Rows of one page of the CRM's lists (measured).
const ROWS_OF_PAGE: usize = 200;
/// Pages of one list: beyond that the rest is not watched.
const MOST_PAGES: u32 = 500;
/// The pause between two pages, so that the CRM's own users come first.
const BETWEEN_PAGES: Duration = Duration::from_millis(100);
/// An event that came so many milliseconds before a pass may be of the same change.
const OVERLAP: i64 = 5_000;

/// What the room needs to be told about one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which lists.
    pub lists: BTreeSet<List>,
    /// From the start of one pass to the next.
    pub pace: Duration,
}

/// The watcher of one account.
pub struct Watch {
    account: String,
    client: crm::Client,
    journal: journal::Handle,
    clock: Clock,
}

/// Why a pass was given up; the next one begins anew.
enum Stop {
    Crm(crm::Error),
    Journal(journal::Error),
    Shrunk,
}

impl From<journal::Error> for Stop {
    fn from(error: journal::Error) -> Self {
        Self::Journal(error)
    }
}

impl Watch {
    /// A watcher; nothing is read yet.
    pub fn new(account: String, client: crm::Client, journal: journal::Handle, clock: Clock) -> Self {
        Self { account, client, journal, clock }
    }

    /// Reads the lists again and again, until the journal is closed.
    pub async fn run(self, options: Options) {
        let mut last_pass: BTreeMap<List, i64> = BTreeMap::new();
        let mut pace = tokio::time::interval(options.pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            for list in &options.lists {
                let began = self.clock.now();
                // Before the first pass of this process: the one before it may be as long ago as a night.
                let since = last_pass.get(list).copied().unwrap_or(0);
                match self.pass(*list, since).await {
                    Ok(found) => {
                        last_pass.insert(*list, began);
                        telemetry::polled(&self.account, list.as_str(), found);
                    }
                    Err(Stop::Journal(journal::Error::Closed)) => return,
                    Err(Stop::Journal(error)) => telemetry::store_refused("poll", &error),
                    Err(Stop::Crm(error)) => telemetry::not_polled(&self.account, list.as_str(), &error),
                    Err(Stop::Shrunk) => telemetry::not_polled(
                        &self.account,
                        list.as_str(),
                        &"more than half of the list is gone: the API user's rights may have changed; nothing is reported as deleted",
                    ),
                }
            }
        }
    }

    /// Reads one list, and tells what changed; returns how many events that made.
    async fn pass(&self, list: List, since: i64) -> Result<usize, Stop> {
        let known = self.known(list).await?;
        let first = known.is_empty();
        let mut seen = BTreeSet::new();
        let mut events = 0;
        let mut whole = false;
        for page in 0..MOST_PAGES {
            let rows = self.page(list, page).await.map_err(Stop::Crm)?;
            let last = rows.len() < ROWS_OF_PAGE;
            let (mut remembered, mut told) = (Vec::new(), Vec::new());
            for row in rows {
                let Some(record) = lists::record(list, &row) else { continue };
                let says = lists::says(list, &row);
                let before = known.get(&record);
                seen.insert(record.clone());
                if before.is_some_and(|before| *before == says) {
                    continue;
                }
                if !first && !self.arrived(list, &record, since).await? {
                    for (name, fields) in lists::changes(list, &row, before.map(String::as_str), &says) {
                        told.push(self.event(name, fields));
                    }
                }
                remembered.push((record, says));
            }
            events += told.len();
            if !remembered.is_empty() {
                self.journal.polled(&self.account, list.as_str(), remembered, told).await?;
            }
            if last {
                whole = true;
                break;
            }
            tokio::time::sleep(BETWEEN_PAGES).await;
        }
        if first {
            // Marks the list as known, even when it is empty.
            self.journal
                .polled(&self.account, list.as_str(), vec![(String::new(), "known".to_owned())], Vec::new())
                .await?;
        } else if whole {
            events += self.gone(list, &known, &seen, since).await?;
        }
        Ok(events)
    }

    /// Tells which records are no longer in a list that was read to its end.
    async fn gone(
        &self,
        list: List,
        known: &BTreeMap<String, String>,
        seen: &BTreeSet<String>,
        since: i64,
    ) -> Result<usize, Stop> {
        let gone: Vec<&String> = known.keys().filter(|record| !record.is_empty() && !seen.contains(*record)).collect();
        if gone.len() > 10 && gone.len() * 2 > known.len() {
            return Err(Stop::Shrunk);
        }
        let mut events = 0;
        for record in gone {
            let mut told = Vec::new();
            if let Some((name, fields)) = lists::deletion(list, record)
                && !self.arrived(list, record, since).await?
            {
                told.push(self.event(name, fields));
            }
            events += told.len();
            self.journal.polled(&self.account, list.as_str(), vec![(record.clone(), String::new())], told).await?;
        }
        Ok(events)
    }

    async fn page(&self, list: List, page: u32) -> Result<Vec<Map<String, Value>>, crm::Error> {
        let mut arguments = Map::new();
        arguments.insert("offset".to_owned(), page.into());
        let answer = match self.client.call(list.method(), "list", &arguments).await {
            Ok(answer) => answer,
            // An empty list of leads is refused as not found (measured).
            Err(crm::Error::Refused { code: Some(code), .. }) if code == "404" => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let rows = match answer {
            Value::Array(rows) => rows,
            Value::Object(mut body) => match body.remove("data") {
                Some(Value::Array(rows)) => rows,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        Ok(rows.into_iter().filter_map(|row| if let Value::Object(row) = row { Some(row) } else { None }).collect())
    }

    async fn known(&self, list: List) -> Result<BTreeMap<String, String>, journal::Error> {
        let (journal, account) = (self.journal.clone(), self.account.clone());
        blocking(move || journal.polled_before(&account, list.as_str())).await
    }

    /// Whether the CRM itself told about the record since the last pass.
    async fn arrived(&self, list: List, record: &str, since: i64) -> Result<bool, journal::Error> {
        if since == 0 {
            return Ok(false);
        }
        let (journal, account, record) = (self.journal.clone(), self.account.clone(), record.to_owned());
        blocking(move || {
            for kind in list.kinds() {
                if journal.came_since(&account, kind, &record, since - OVERLAP)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    fn event(&self, name: &str, fields: Map<String, Value>) -> Event {
        Event {
            id: EventId::new(),
            account: self.account.clone(),
            name: name.to_owned(),
            received_at: self.clock.now(),
            via: Via::Poll,
            actor: None,
            entity: entity_of(name, &fields),
            fields: Value::Object(fields).to_string(),
        }
    }
}

/// Reads of the store take a thread of their own.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, journal::Error> + Send + 'static,
) -> Result<T, journal::Error> {
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(journal::Error::Closed))
}
