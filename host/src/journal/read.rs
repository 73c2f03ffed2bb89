//! Views of the store, on connections of their own: a reader never waits for the writer, nor the writer for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde::Serialize;

use super::StateUse;
use super::causes::{self, Cause};
use super::condition::Condition;
use super::search::Fate;
use super::writes::{self, Intended, Write, WriteView};
use super::{DeliveryId, Error, Queue};
use crate::event::{Entity, Event, EventId, Via};
use crate::outcome::{HostCall, LogLine, Usage};
use crate::plugin::PluginName;

/// Connections that are kept open for the next reader.
const MOST_KEPT: usize = 8;

pub(super) const EVENT_COLUMNS: &str = "id, account, name, received_at, via, actor, entity_kind, entity_id, fields";

pub(super) fn event_from_row(row: &Row<'_>) -> rusqlite::Result<Event> {
    let entity = row.get::<_, Option<String>>(6)?.zip(row.get(7)?).map(|(kind, id)| Entity { kind, id });
    Ok(Event {
        id: EventId::from_bytes(row.get(0)?),
        account: row.get(1)?,
        name: row.get(2)?,
        received_at: row.get(3)?,
        via: Via::parse(&row.get::<_, String>(4)?).unwrap_or(Via::Json),
        actor: row.get::<_, Option<i64>>(5)?.and_then(|actor| u64::try_from(actor).ok()),
        entity,
        fields: row.get(8)?,
    })
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Waits for its time or a free place.
    Ready,
    /// Waits for an earlier event of its entity.
    Behind,
    /// Runs.
    Running,
    /// Over: handled.
    Done,
    /// Over: nothing to do.
    Skipped,
    /// Over until an operator looks.
    Dead,
    /// Over: an operator gave it up.
    Dropped,
}

impl DeliveryState {
    pub(super) fn from_number(number: i64) -> Self {
        match number {
            0 => Self::Ready,
            1 => Self::Behind,
            2 => Self::Running,
            3 => Self::Done,
            4 => Self::Skipped,
            5 => Self::Dead,
            _ => Self::Dropped,
        }
    }

    /// The word that is shown to programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Behind => "behind",
            Self::Running => "running",
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }

    /// Whether an operator can have it run again or give it up.
    pub fn can_be_decided(self) -> bool {
        matches!(self, Self::Ready | Self::Behind | Self::Dead)
    }

    /// Whether nothing more happens by itself.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Skipped | Self::Dead | Self::Dropped)
    }
}

/// An event in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct EventSummary {
    /// Its id.
    pub id: EventId,
    /// Which CRM.
    pub account: String,
    /// Its name.
    pub name: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub received_at: i64,
    /// How it came in.
    pub via: Via,
    /// Who caused it.
    pub actor: Option<u64>,
    /// The record, as `kind:id`.
    pub entity: Option<String>,
    /// Why it has no deliveries of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Duplicate>,
    /// Whether the host's own user of the CRM caused it, by none of the host's writes: another program's doing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub same_login: bool,
    /// How many events in a row plugins caused before it; 0: none, somebody else did.
    #[serde(skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// Of an `*.add`: whether the host knows that the record was there before, as after an express form that only changed it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub known: bool,
    /// In lists: what became of it at each plugin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Fate>,
}

fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

/// What an event repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Duplicate {
    /// `folded`: it said the same as one that still waited. `repeated`: a second `*.add` of its record within a day.
    /// `found`: the host had found the same change in a list before it came.
    pub how: String,
    /// The first one, where it is still kept.
    pub of: Option<EventId>,
}

/// An event with everything that became of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct EventPath {
    /// The event.
    pub event: EventSummary,
    /// Its other fields.
    pub fields: serde_json::Value,
    /// Whether its deliveries have been made.
    pub routed: bool,
    /// The chain of deliveries that led to it, the nearest first; empty where none did.
    pub caused_by: Vec<Cause>,
    /// One per subscribed plugin.
    pub deliveries: Vec<DeliveryView>,
}

/// A delivery with the whole event that it is about: what is needed to run it again elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeliveryPath {
    /// The event.
    pub event: EventSummary,
    /// Its other fields.
    pub fields: serde_json::Value,
    /// The delivery.
    pub delivery: DeliveryView,
}

/// A delivery with its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct DeliveryView {
    /// Its number.
    pub id: i64,
    /// For whom.
    pub plugin: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// The last reason.
    pub reason: Option<String>,
    /// Once it is over: the fault's code, or what the plugin answered.
    pub code: Option<String>,
    /// When it is due, began or ended, as its state says.
    pub at: i64,
    /// Whether an operator asked for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replay: bool,
    /// In order.
    pub attempts: Vec<AttemptView>,
    /// What it wrote into the CRM.
    pub writes: Vec<WriteView>,
    /// The events that its writes caused.
    pub caused: Vec<Caused>,
}

/// An event that a delivery's write caused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Caused {
    /// Which.
    pub event: EventId,
    /// Its name.
    pub name: String,
    /// Its record, as `kind:id`.
    pub entity: Option<String>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AttemptView {
    /// From 1.
    pub number: u32,
    /// The plugin's version.
    pub version: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub started_at: i64,
    /// Milliseconds since 1970-01-01 UTC.
    pub ended_at: i64,
    /// `done`, `skipped`, `retry`, `rejected`, `failed`, `interrupted`, `conflict`.
    pub outcome: String,
    /// Why.
    pub reason: String,
    /// The fault's stable code.
    pub code: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// Its log.
    pub lines: Vec<LogLine>,
    /// Lines that did not fit.
    pub lines_dropped: u64,
    /// Its calls.
    pub calls: Vec<HostCall>,
}

/// How much waits, per state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Backlog {
    /// Events whose deliveries have not been made.
    pub unrouted: u64,
    /// Deliveries that wait or run.
    pub open: u64,
    /// Dead letters.
    pub dead: u64,
    /// Writes of which nobody knows whether they were done, those under way included.
    pub uncertain_writes: u64,
}

/// A connection that changes nothing.
pub(super) fn reader(file: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(std::time::Duration::from_secs(2))?;
    connection.execute_batch("PRAGMA cache_size = -1024")?;
    Ok(connection)
}

pub(super) struct Readers {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    condition: Arc<Condition>,
    /// Last: closing any handle of the file ends the locks that these connections hold on it.
    _scrubbed: Arc<File>,
}

/// The id that sorts after all others.
pub(super) fn newest_id(connection: &Connection) -> rusqlite::Result<Option<EventId>> {
    let newest = connection.query_row("SELECT max(id) FROM event", [], |row| row.get::<_, Option<Vec<u8>>>(0))?;
    Ok(newest.and_then(|id| id.try_into().ok()).map(EventId::from_bytes))
}

impl Readers {
    pub(super) fn new(file: PathBuf, scrubbed: Arc<File>, condition: Arc<Condition>) -> Self {
        Self { file, idle: Mutex::new(Vec::new()), condition, _scrubbed: scrubbed }
    }

    /// A connection of its own, for a long look.
    pub(super) fn another(&self) -> rusqlite::Result<Connection> {
        reader(&self.file)
    }

    pub(super) fn read<T>(&self, view: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => reader(&self.file)?,
        };
        let result = view(&connection).map_err(|error| {
            let error = Error::from(error);
            self.condition.seen(&error);
            error
        })?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_KEPT {
            idle.push(connection);
        }
        Ok(result)
    }

    pub(super) fn path_of(&self, id: EventId) -> Result<Option<EventPath>, Error> {
        self.read(|connection| {
            let found = connection
                .prepare_cached(&format!(
                    "SELECT {EVENT_COLUMNS}, {MORE_COLUMNS}, cause, seq, seq <= (SELECT seq FROM cursor WHERE name = 'routed')
                       FROM event WHERE id = ?1"
                ))?
                .query_row([id.as_bytes()], |row| {
                    let fields: String = row.get(8)?;
                    let (cause, seq, routed): (Option<i64>, i64, bool) = (row.get(14)?, row.get(15)?, row.get(16)?);
                    Ok((summary_from_row(row)?, fields, cause, seq, routed))
                })
                .optional()?;
            let Some((event, fields, cause, seq, routed)) = found else { return Ok(None) };
            let fields = serde_json::from_str(&fields).unwrap_or_default();
            let caused_by = cause.map_or(Ok(Vec::new()), |cause| causes::chain(connection, cause))?;
            let deliveries = deliveries(connection, "d.event", seq)?;
            Ok(Some(EventPath { event, fields, routed, caused_by, deliveries }))
        })
    }

    pub(super) fn delivery(&self, DeliveryId(delivery): DeliveryId) -> Result<Option<DeliveryPath>, Error> {
        self.read(|connection| {
            let found = connection
                .prepare_cached(&format!(
                    "SELECT {EVENT_COLUMNS}, {MORE_COLUMNS} FROM event
                      WHERE seq = (SELECT event FROM delivery WHERE seq = ?1)"
                ))?
                .query_row([delivery], |row| Ok((summary_from_row(row)?, row.get::<_, String>(8)?)))
                .optional()?;
            let Some((event, fields)) = found else { return Ok(None) };
            let fields = serde_json::from_str(&fields).unwrap_or_default();
            let delivery = deliveries(connection, "d.seq", delivery)?.pop();
            Ok(delivery.map(|delivery| DeliveryPath { event, fields, delivery }))
        })
    }

    pub(super) fn known_write(&self, write: &Write) -> Result<Option<Intended>, Error> {
        self.read(|connection| writes::known(connection, write))
    }

    pub(super) fn added_by(&self, DeliveryId(delivery): DeliveryId, kind: &str) -> Result<Vec<String>, Error> {
        self.read(|connection| writes::added_by(connection, delivery, kind))
    }

    pub(super) fn added_before(&self, account: &str, kind: &str, time: i64) -> Result<Option<u64>, Error> {
        self.read(|connection| writes::added_before(connection, account, kind, time))
    }

    pub(super) fn added_since(&self, account: &str, kind: &str, time: i64) -> Result<BTreeSet<u64>, Error> {
        self.read(|connection| writes::added_since(connection, account, kind, time))
    }

    pub(super) fn polled_before(&self, account: &str, list: &str) -> Result<BTreeMap<String, String>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT record, says FROM polled WHERE account = ?1 AND list = ?2")?
                .query_map([account, list], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    pub(super) fn same_login(&self, account: &str) -> Result<u32, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM (SELECT account, same_login FROM event ORDER BY seq DESC LIMIT 10000)
                      WHERE account = ?1 AND same_login",
                )?
                .query_row([account], |row| row.get(0))
        })
    }

    pub(super) fn queues(&self) -> Result<Vec<Queue>, Error> {
        self.read(|connection| {
            let mut queues = connection
                .prepare_cached("SELECT p.name, q.account FROM queue q JOIN plugin p ON p.number = q.plugin")?;
            let rows = queues.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
            // Only names that were checked are stored.
            rows.filter_map(|row| {
                row.map(|(name, account)| PluginName::try_from(name).ok().map(|plugin| Queue { plugin, account }))
                    .transpose()
            })
            .collect()
        })
    }
}

/// What an event repeats and where it comes from, behind [`EVENT_COLUMNS`].
pub(super) const MORE_COLUMNS: &str =
    "duplicate, (SELECT first.id FROM event first WHERE first.seq = event.duplicate_of), same_login, depth, known";

pub(super) fn summary_from_row(row: &Row<'_>) -> rusqlite::Result<EventSummary> {
    let event = event_from_row(row)?;
    let of = row.get::<_, Option<[u8; 16]>>(10)?.map(EventId::from_bytes);
    Ok(EventSummary {
        id: event.id,
        account: event.account,
        name: event.name,
        received_at: event.received_at,
        via: event.via,
        actor: event.actor,
        entity: event.entity.map(|entity| entity.to_string()),
        duplicate: row.get::<_, Option<String>>(9)?.map(|how| Duplicate { how, of }),
        same_login: row.get(11)?,
        depth: row.get(12)?,
        known: row.get(13)?,
        deliveries: Vec::new(),
    })
}

/// The deliveries whose `column` has this number.
fn deliveries(connection: &Connection, column: &str, number: i64) -> rusqlite::Result<Vec<DeliveryView>> {
    let mut views: Vec<DeliveryView> = connection
        .prepare_cached(&format!(
            "SELECT d.seq, p.name, d.state, d.reason, d.at, d.code, d.replay FROM delivery d
               JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin
              WHERE {column} = ?1 ORDER BY d.seq"
        ))?
        .query_map([number], |row| {
            Ok(DeliveryView {
                id: row.get(0)?,
                plugin: row.get(1)?,
                state: DeliveryState::from_number(row.get(2)?),
                reason: row.get(3)?,
                at: row.get(4)?,
                code: row.get(5)?,
                replay: row.get(6)?,
                attempts: Vec::new(),
                writes: Vec::new(),
                caused: Vec::new(),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    for view in &mut views {
        view.attempts = attempts(connection, DeliveryId(view.id))?;
        view.writes = writes::of_delivery(connection, view.id)?;
        view.caused = connection
            .prepare_cached(
                "SELECT id, name, entity_kind || ':' || entity_id FROM event INDEXED BY event_cause
                  WHERE cause = ?1 ORDER BY seq",
            )?
            .query_map([view.id], |row| {
                Ok(Caused { event: EventId::from_bytes(row.get(0)?), name: row.get(1)?, entity: row.get(2)? })
            })?
            .collect::<rusqlite::Result<_>>()?;
    }
    Ok(views)
}

fn attempts(connection: &Connection, DeliveryId(delivery): DeliveryId) -> rusqlite::Result<Vec<AttemptView>> {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let mut views: Vec<AttemptView> = connection
        .prepare_cached(
            "SELECT number, version, started_at, ended_at, outcome, reason, code, cpu, wall, memory, lines, lines_dropped
               FROM attempt WHERE delivery = ?1 ORDER BY number",
        )?
        .query_map([delivery], |row| {
            Ok(AttemptView {
                number: row.get(0)?,
                version: row.get(1)?,
                started_at: row.get(2)?,
                ended_at: row.get(3)?,
                outcome: row.get(4)?,
                reason: row.get(5)?,
                code: row.get(6)?,
                usage: Usage { cpu: number(row.get(7)?), wall: number(row.get(8)?), memory: number(row.get(9)?) },
                lines: serde_json::from_str(&row.get::<_, String>(10)?).unwrap_or_default(),
                lines_dropped: number(row.get(11)?),
                calls: Vec::new(),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    for view in &mut views {
        view.calls = connection
            .prepare_cached(
                "SELECT at, took, call, request, answer, good FROM host_call
                  WHERE delivery = ?1 AND attempt = ?2 ORDER BY ordinal",
            )?
            .query_map(params![delivery, view.number], |row| {
                Ok(HostCall {
                    at: number(row.get(0)?),
                    took: number(row.get(1)?),
                    call: row.get(2)?,
                    request: row.get(3)?,
                    answer: row.get(4)?,
                    good: row.get(5)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
    }
    Ok(views)
}

/// A plugin's state for one account, read-only.
#[derive(Clone)]
pub struct StateView {
    readers: Arc<Readers>,
    plugin: PluginName,
    account: String,
}

impl StateView {
    pub(super) fn new(readers: Arc<Readers>, plugin: PluginName, account: String) -> Self {
        Self { readers, plugin, account }
    }

    /// The stored value of `key` and its version.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn get(&self, key: &str) -> Result<Option<(String, u64)>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT value, version FROM state
                      WHERE plugin = (SELECT number FROM plugin WHERE name = ?1) AND account = ?2 AND key = ?3",
                )?
                .query_row(params![self.plugin.as_str(), self.account, key], |row| {
                    Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)))
                })
                .optional()
        })
    }

    /// Bytes of `key` and its stored value; 0 where there is none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn size(&self, key: &str) -> Result<u64, Error> {
        self.readers.read(|connection| {
            let size = connection
                .prepare_cached(
                    "SELECT octet_length(key) + octet_length(value) FROM state
                      WHERE plugin = (SELECT number FROM plugin WHERE name = ?1) AND account = ?2 AND key = ?3",
                )?
                .query_row(params![self.plugin.as_str(), self.account, key], |row| row.get::<_, i64>(0))
                .optional()?;
            Ok(size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0))
        })
    }

    /// What is kept.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn used(&self) -> Result<StateUse, Error> {
        self.readers.read(|connection| {
            let number = |value: i64| u64::try_from(value).unwrap_or(0);
            let used = connection
                .prepare_cached(
                    "SELECT keys, bytes FROM state_use
                      WHERE plugin = (SELECT number FROM plugin WHERE name = ?1) AND account = ?2",
                )?
                .query_row(params![self.plugin.as_str(), self.account], |row| {
                    Ok(StateUse { keys: number(row.get(0)?), bytes: number(row.get(1)?) })
                })
                .optional()?;
            Ok(used.unwrap_or_default())
        })
    }

    /// Stored keys that start with `prefix`, sorted, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn keys(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT key FROM state
                      WHERE plugin = (SELECT number FROM plugin WHERE name = ?1) AND account = ?2
                        AND key > ?4 AND key >= ?3 AND substr(key, 1, length(?3)) = ?3
                      ORDER BY key LIMIT ?5",
                )?
                .query_map(
                    params![
                        self.plugin.as_str(),
                        self.account,
                        prefix,
                        after,
                        i64::try_from(limit).unwrap_or(i64::MAX)
                    ],
                    |row| row.get(0),
                )?
                .collect()
        })
    }
}
