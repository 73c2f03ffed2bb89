//! Finds what the CRM never sends: reads its lists at a set pace, and hands the missing events to the journal.
//!
//! - Pages of leads, documents and acts fire no event at all, mass changes of deals neither (measured on version 2025.4).
//! - The first pass only remembers. After that a record that is new, changed or gone becomes an event, `via` poll.
//! - **What was told is not told again**: events that come are applied to what is known of their record, value by value
//!   (`journal`), and what the list says beyond that is told. An event that says nothing of a field covers nothing of it.
//! - Event and memory are stored together, and only where nothing came while the list was read: a crash, or an event in
//!   between, repeats and loses nothing.
//! - **Changes between two passes are one**: from what was told last to what the list says. What was changed and changed
//!   back is none. When events of one record come late and in another order, the last state is told once more.
//! - A list says of no enquiry whom it is given to; `lead.info` does. It is asked for enquiries that are new or changed,
//!   and in turn for those at work, at most 50 a pass: a change for which the calls do not suffice is told by a later one.
//!
//! It sees the state at each pass, not what lies between two; not who did it; and nothing that the list does not show.
//! One pass reads the whole list, 200 records a call (of acts 100).
//!
//! Not here: what becomes of the events. They take the path of all others.

mod lists;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::event::{Event, EventId, Via, entity_of};
use crate::journal::Finding;
use crate::{crm, journal, telemetry};
pub use lists::List;
use lists::Says;
use source::{Row, Source};

/// Pages of one list: beyond that the rest is not watched.
const MOST_PAGES: u32 = 500;
/// The pause between two pages, so that the CRM's own users come first.
const BETWEEN_PAGES: Duration = Duration::from_millis(100);
/// Enquiries that one pass looks at one by one.
const MOST_LOOKS: usize = 50;
/// The list as a whole, once it was read to its end; before that, that it is being read.
const KNOWN: &str = "known";
const READING: &str = "reading";

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
    reader: Reader<crm::Client>,
}

/// What one list was like in the passes before; a restart costs a repetition.
#[derive(Default)]
struct Memory {
    /// Records that were missing: of a list with several pages one can slip between two of them.
    missing: BTreeSet<String>,
    /// The enquiry that was looked at last.
    looked_at: u64,
    /// Enquiries at work that were not looked at since the store was restored; counted from the first pass on.
    unseen: Option<usize>,
}

/// Why a pass was given up; the next one begins anew.
#[derive(Debug)]
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

impl From<crm::Error> for Stop {
    fn from(error: crm::Error) -> Self {
        Self::Crm(error)
    }
}

impl Watch {
    /// A watcher; nothing is read yet.
    pub fn new(account: String, client: crm::Client, journal: journal::Handle, clock: Clock) -> Self {
        Self { reader: Reader { account, source: client, journal, clock } }
    }

    /// Reads the lists again and again, until the journal is closed.
    pub async fn run(mut self, options: Options) {
        let mut memory: BTreeMap<List, Memory> = BTreeMap::new();
        let mut pace = tokio::time::interval(options.pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            // What a list says is compared with what was told; after a restore somebody has to say first that it may be told.
            if self.reader.journal.waits_for_go_on() {
                continue;
            }
            for list in &options.lists {
                let account = self.reader.account.clone();
                match self.reader.pass(*list, memory.entry(*list).or_default()).await {
                    Ok(found) => telemetry::polled(&account, list.as_str(), found),
                    Err(Stop::Journal(journal::Error::Closed)) => return,
                    Err(Stop::Journal(error)) => telemetry::store_refused("poll", &error),
                    Err(Stop::Crm(error)) => telemetry::not_polled(&account, list.as_str(), &error.known()),
                    Err(Stop::Shrunk) => telemetry::not_polled(
                        &account,
                        list.as_str(),
                        &"more than half of the list is gone: the API user's rights may have changed; nothing is reported as deleted",
                    ),
                }
            }
        }
    }
}

/// Reads one account's lists.
struct Reader<S> {
    account: String,
    source: S,
    journal: journal::Handle,
    clock: Clock,
}

/// One pass over one list.
struct Pass {
    list: List,
    /// What is known, by the record's number.
    known: BTreeMap<String, String>,
    /// Whether the list was never read to its end: what is not known then is no news.
    first: bool,
    /// What the list held.
    seen: BTreeSet<String>,
    /// Enquiries at work, which can be given to somebody else unseen.
    at_work: BTreeMap<u64, Row>,
    /// How many enquiries can still be looked at.
    looks: usize,
    events: usize,
}

impl<S: Source> Reader<S> {
    /// Reads one list, and tells what changed; returns how many events that made.
    async fn pass(&mut self, list: List, memory: &mut Memory) -> Result<usize, Stop> {
        let known = self.known(list).await?;
        let mark = known.get("").cloned();
        if mark.is_none() {
            self.mark(list, READING).await?;
        }
        let mut pass = Pass {
            list,
            known,
            first: !matches!(mark.as_deref(), Some(KNOWN | journal::RESTORED)),
            seen: BTreeSet::new(),
            at_work: BTreeMap::new(),
            looks: MOST_LOOKS,
            events: 0,
        };
        let mut pages = 0;
        let whole = loop {
            let rows = self.source.page(list, list.first_page() + pages).await?;
            pages += 1;
            let last = rows.len() < list.rows_of_page();
            self.compare(&mut pass, rows).await?;
            if last || pages == MOST_PAGES {
                break last;
            }
            tokio::time::sleep(BETWEEN_PAGES).await;
        };
        let at_work = pass.at_work.len();
        self.look_at_some(&mut pass, memory).await?;
        if pass.first {
            self.mark(list, KNOWN).await?;
        } else if whole {
            self.gone(&mut pass, memory, pages > 1).await?;
        }
        if mark.as_deref() == Some(journal::RESTORED) {
            let unseen = memory.unseen.unwrap_or(at_work).saturating_sub(at_work - pass.at_work.len());
            memory.unseen = Some(unseen);
            let sure = !whole || pages == 1 || memory.missing.is_empty();
            if unseen == 0 && pass.looks > 0 && sure {
                // All that changed since the copy was told: what comes from now on is new.
                self.mark(list, KNOWN).await?;
            }
        }
        Ok(pass.events)
    }

    /// Compares one page with what is known.
    async fn compare(&mut self, pass: &mut Pass, rows: Vec<Row>) -> Result<(), Stop> {
        let mut findings = Vec::new();
        for mut row in rows {
            let Some(record) = lists::record(pass.list, &row) else { continue };
            pass.seen.insert(record.clone());
            let known = pass.known.get(&record).cloned();
            let before = known.as_deref().map(lists::parse);
            let unchanged = before.as_ref().is_some_and(|before| lists::agrees(before, &lists::says(pass.list, &row)));
            if pass.list == List::Leads {
                match (unchanged, pass.first) {
                    (true, _) => {
                        if lists::is_at_work(&row)
                            && let Ok(number) = record.parse()
                        {
                            pass.at_work.insert(number, row.clone());
                        }
                    }
                    (false, true) if before.is_none() => {}
                    // The rest of the list goes on; this one has its turn in a later pass.
                    (false, _) if pass.looks == 0 => continue,
                    (false, _) => {
                        pass.looks -= 1;
                        row.extend(self.source.lead(&record).await?.unwrap_or_default());
                    }
                }
            }
            findings.extend(self.finding(pass, record, known, before.as_ref(), &row));
        }
        self.store(pass, findings).await
    }

    /// What a record's row makes: an event for each change, and what is known from now on.
    fn finding(
        &self,
        pass: &Pass,
        record: String,
        known: Option<String>,
        before: Option<&Says>,
        row: &Row,
    ) -> Option<Finding> {
        let mut now = lists::says(pass.list, row);
        // What the row does not show stays as it was.
        for (key, value) in before.into_iter().flatten() {
            if !now.contains_key(key) {
                now.insert(key.clone(), value.clone());
            }
        }
        let told = match before {
            None if pass.first => Vec::new(),
            before => lists::changes(pass.list, row, before, &now),
        };
        let says = Value::Object(now).to_string();
        if known.as_ref() == Some(&says) {
            return None;
        }
        let events = told.into_iter().map(|(name, fields)| self.event(name, fields)).collect();
        Some(Finding { record, before: known, says: Some(says), events })
    }

    /// Looks at some of the enquiries at work, in turn: those of which nobody knows who has them first.
    async fn look_at_some(&mut self, pass: &mut Pass, memory: &mut Memory) -> Result<(), Stop> {
        let unknown = |number: &u64| {
            pass.known.get(&number.to_string()).is_some_and(|says| !lists::parse(says).contains_key("iduser"))
        };
        let turn =
            pass.at_work.range(memory.looked_at.saturating_add(1)..).chain(pass.at_work.range(..=memory.looked_at));
        let mut order: Vec<u64> = turn.map(|(number, _)| *number).collect();
        order.sort_by_key(|number| !unknown(number));
        order.truncate(pass.looks);
        let mut findings = Vec::new();
        for number in order {
            memory.looked_at = number;
            let record = number.to_string();
            let Some(mut row) = pass.at_work.remove(&number) else { continue };
            let seen = match self.source.lead(&record).await {
                Ok(Some(seen)) => seen,
                Ok(None) => continue,
                Err(error) => {
                    // What was found before is told all the same.
                    self.store(pass, findings).await?;
                    return Err(error.into());
                }
            };
            row.extend(seen);
            let known = pass.known.get(&record).cloned();
            let before = known.as_deref().map(lists::parse);
            findings.extend(self.finding(pass, record, known, before.as_ref(), &row));
        }
        self.store(pass, findings).await
    }

    /// Tells which records are no longer in a list that was read to its end.
    async fn gone(&mut self, pass: &mut Pass, memory: &mut Memory, many_pages: bool) -> Result<(), Stop> {
        let known = || pass.known.keys().filter(|record| !record.is_empty());
        let missing: BTreeSet<String> = known().filter(|record| !pass.seen.contains(*record)).cloned().collect();
        if missing.len() > 10 && missing.len() * 2 > known().count() {
            return Err(Stop::Shrunk);
        }
        let before = std::mem::replace(&mut memory.missing, missing.clone());
        let sure = missing.into_iter().filter(|record| !many_pages || before.contains(record));
        let findings = sure
            .map(|record| {
                let told = lists::deletion(pass.list, &record);
                let events = told.into_iter().map(|(name, fields)| self.event(name, fields)).collect();
                Finding { before: pass.known.get(&record).cloned(), record, says: None, events }
            })
            .collect();
        self.store(pass, findings).await
    }

    async fn store(&self, pass: &mut Pass, findings: Vec<Finding>) -> Result<(), Stop> {
        if !findings.is_empty() {
            pass.events += self.journal.polled(&self.account, pass.list.as_str(), findings).await?;
        }
        Ok(())
    }

    async fn mark(&self, list: List, word: &str) -> Result<(), Stop> {
        let finding = Finding { record: String::new(), before: None, says: Some(word.to_owned()), events: Vec::new() };
        self.journal.polled(&self.account, list.as_str(), vec![finding]).await?;
        Ok(())
    }

    async fn known(&self, list: List) -> Result<BTreeMap<String, String>, journal::Error> {
        let (journal, account) = (self.journal.clone(), self.account.clone());
        blocking(move || journal.polled_before(&account, list.as_str())).await
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
