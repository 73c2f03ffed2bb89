//! What the records of watched lists say, as far as it was told: by events that came, or by the watcher.
//!
//! - An event that comes is **applied** when it is stored: of its record, what it says and nothing else. So whatever the
//!   list says besides is still to be told.
//! - What the watcher found is stored **with its events**, and only where nothing came since it looked: it looks again then.
//! - An event that comes late, with what the watcher has told already, is **found before**: kept, not applied, not
//!   delivered. Each event that the watcher told covers each of its values once.
//! - A field that nobody told is not there, and is taken from the list silently.
//!
//! Not here: reading lists (`watch`).

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value};

use super::append::append;
use super::restored;
use crate::event::told::{Told, What, same, told};
use crate::event::{Event, Via};

/// Milliseconds for which an event may have waited in the CRM's spool.
const SPOOLED: i64 = 3_600_000;
/// Earlier events of a record among which the watcher's own is looked for.
const MOST_EARLIER: i64 = 64;

/// What the watcher found of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The record's number; empty for the list as a whole.
    pub record: String,
    /// What was known when it looked.
    pub before: Option<String>,
    /// What the list says; nothing: the record is gone.
    pub says: Option<String>,
    /// The events that this makes.
    pub events: Vec<Event>,
}

/// The accounts' lists that are watched.
#[derive(Debug, Default)]
pub(super) struct Lists {
    known: BTreeSet<(String, String)>,
    /// Those that the present transaction brought.
    new: Vec<(String, String)>,
}

/// What an event that came is to the lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    /// The watcher's event that told the same before.
    pub(super) found_as: Option<i64>,
    /// Whether an `*.add` is of a record that is in a list.
    pub(super) listed: bool,
}

impl Lists {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut lists = connection.prepare("SELECT account, list FROM polled WHERE record = ''")?;
        lists
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()
            .map(|known| Self { known, new: Vec::new() })
    }

    /// What was learnt before is committed.
    pub(super) fn begin(&mut self) {
        self.new.clear();
    }

    /// What was not committed was not learnt.
    pub(super) fn forget(&mut self) {
        for new in self.new.drain(..) {
            self.known.remove(&new);
        }
    }

    fn told(&self, event: &Event) -> Vec<Told> {
        if event.via == Via::Poll || !self.known.iter().any(|(account, _)| *account == event.account) {
            return Vec::new();
        }
        let mut all = told(&event.name, &parse(&event.fields));
        all.retain(|told| self.known.contains(&(event.account.clone(), told.list.to_owned())));
        all
    }

    /// Applies an event that came.
    pub(super) fn arrived(&self, connection: &Connection, event: &Event) -> rusqlite::Result<Arrival> {
        let all = self.told(event);
        if let [one] = &all[..]
            && let Some(seq) = found_as(connection, event, one)?
        {
            return Ok(Arrival { found_as: Some(seq), listed: false });
        }
        let mut listed = false;
        for told in &all {
            listed |= apply(connection, &event.account, told)? && event.name.ends_with(".add");
        }
        Ok(Arrival { found_as: None, listed })
    }

    /// Stores what the watcher found, and its events; returns how many those are.
    pub(super) fn found(
        &mut self,
        connection: &Connection,
        account: &str,
        list: &str,
        findings: &[Finding],
    ) -> rusqlite::Result<usize> {
        let mut events = 0;
        for Finding { record, before, says, events: told } in findings {
            let whole = record.is_empty();
            if whole {
                let of = (account.to_owned(), list.to_owned());
                if self.known.insert(of.clone()) {
                    self.new.push(of);
                }
            } else if stored(connection, account, list, record)? != *before {
                continue;
            }
            for event in told {
                append(connection, event, None, self)?;
                restored::doubt_found(connection, account, list, event.id)?;
            }
            events += told.len();
            store(connection, account, list, record, says.as_deref())?;
        }
        Ok(events)
    }
}

/// Applies what was told of a record; returns whether it was in the list before.
fn apply(connection: &Connection, account: &str, told: &Told) -> rusqlite::Result<bool> {
    let before = stored(connection, account, told.list, &told.record)?;
    let merged = |before: &str| {
        let mut fields = parse(before);
        for (key, value) in &told.says {
            match value {
                Some(value) => drop(fields.insert((*key).to_owned(), value.as_str().into())),
                None => drop(fields.remove(*key)),
            }
        }
        Value::Object(fields).to_string()
    };
    let now = match (told.what, before.as_deref()) {
        (What::Gone, _) => None,
        (What::Changed, None) => return Ok(false),
        (_, before) => Some(merged(before.unwrap_or("{}"))),
    };
    if now != before {
        store(connection, account, told.list, &told.record, now.as_deref())?;
    }
    Ok(before.is_some())
}

/// The watcher's event that told what this one does, value by value, and not yet for another.
fn found_as(connection: &Connection, event: &Event, told_now: &Told) -> rusqlite::Result<Option<i64>> {
    let values = values(told_now);
    let Some(entity) = event.entity.as_ref().filter(|_| !told_now.more && !event.name.ends_with(".add")) else {
        return Ok(None);
    };
    if told_now.what != What::Gone && values.is_empty() {
        return Ok(None);
    }
    let mut earlier = connection.prepare_cached(
        "SELECT seq, fields, via = 'poll', duplicate = 'found', duplicate_of, received_at FROM event INDEXED BY event_entity
          WHERE account = ?1 AND entity_kind = ?2 AND entity_id = ?3 AND name = ?4 ORDER BY seq DESC LIMIT ?5",
    )?;
    let mut rows = earlier.query(params![event.account, entity.kind, entity.id, event.name, MOST_EARLIER])?;
    let (mut own, mut used) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let says: Vec<_> = told(&event.name, &parse(&row.get::<_, String>(1)?)).iter().flat_map(values_of).collect();
        if row.get::<_, Option<bool>>(3)? == Some(true) {
            used.push((row.get::<_, Option<i64>>(4)?, says));
        } else if row.get(2)? && row.get::<_, i64>(5)? >= event.received_at - SPOOLED {
            own.push((row.get::<_, i64>(0)?, says));
        }
    }
    // The oldest first: the CRM's own come in the order of the changes, mostly.
    let covers = |seq: i64, says: &[(&'static str, String)]| {
        let all = values.iter().all(|(key, value)| says.iter().any(|(other, told)| other == key && same(told, value)));
        let free = used.iter().filter(|(of, _)| *of == Some(seq)).all(|(_, taken)| {
            !taken.is_empty() && !taken.iter().any(|(key, _)| values.iter().any(|(other, _)| other == key))
        });
        all && free
    };
    Ok(own.iter().rev().find(|(seq, says)| covers(*seq, says)).map(|(seq, _)| *seq))
}

fn values(told: &Told) -> Vec<(&'static str, String)> {
    values_of(told).collect()
}

fn values_of(told: &Told) -> impl Iterator<Item = (&'static str, String)> {
    told.says.iter().filter_map(|(key, value)| Some((*key, value.clone()?)))
}

fn stored(connection: &Connection, account: &str, list: &str, record: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT says FROM polled WHERE account = ?1 AND list = ?2 AND record = ?3")?
        .query_row(params![account, list, record], |row| row.get(0))
        .optional()
}

fn store(connection: &Connection, account: &str, list: &str, record: &str, says: Option<&str>) -> rusqlite::Result<()> {
    match says {
        Some(says) => connection
            .prepare_cached("INSERT OR REPLACE INTO polled VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![account, list, record, says])?,
        None => connection
            .prepare_cached("DELETE FROM polled WHERE account = ?1 AND list = ?2 AND record = ?3")?
            .execute(params![account, list, record])?,
    };
    Ok(())
}

fn parse(fields: &str) -> Map<String, Value> {
    serde_json::from_str(fields).unwrap_or_default()
}
