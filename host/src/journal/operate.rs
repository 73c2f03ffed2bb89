//! What an operator changes: deliveries run again or given up, events replayed, plugins paused, records forgotten; and
//! the log of who did it.
//!
//! - Every change is small; a large choice is made of many, so that intake never waits behind one.
//! - A record is forgotten with its bytes: what is freed is overwritten.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::layout::{plugin_number, queue_number};
use super::minutes::Tally;
use super::{Change, DeliveryId, Error, EventFilter, EventSummary, Handle, Resolution, letters, retention, write};
use crate::event::{Entity, EventId};
use crate::plugin::PluginName;

/// Events that one step of forgetting looks at.
const STEP: i64 = 500;

pub(super) enum Operation {
    Audit { who: String, action: String, object: String, details: String },
    Hold { plugin: PluginName, who: Option<String> },
    Decide(DeliveryId, Resolution),
    Replay { event: EventId, plugin: PluginName, ordered: bool },
    Forget(Forget),
}

/// What one change came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operated {
    /// How many things were changed.
    pub changed: usize,
    /// How many could not be changed now: they run, or have not been routed.
    pub left: usize,
    /// Where the next step begins; none at the end.
    pub next: Option<i64>,
    /// The delivery that was made.
    pub delivery: Option<i64>,
}

/// A record, wherever its CRM keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which CRM.
    pub account: String,
    /// The family, such as `client`.
    pub kind: String,
    /// The number.
    pub id: String,
}

/// One step of forgetting a record.
#[derive(Debug, Clone)]
pub struct Forget {
    /// Which.
    pub record: Record,
    /// Whether events of other records that name it go too, and calls that name it are blanked.
    pub mentions: bool,
    /// Where to begin; 0 at first.
    pub after: i64,
}

/// What forgetting a record would delete, with everything that became of it.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Forgettable {
    /// How many events of the record.
    pub events: u64,
    /// How many events of other records that name it.
    pub others: u64,
    /// The newest of its own.
    pub first: Vec<EventSummary>,
}

/// A line of the operators' log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Audited {
    /// Its number.
    pub number: i64,
    /// When: milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// Who.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// With what.
    pub details: String,
}

/// A plugin that an operator paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Held {
    /// When: milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// Who.
    pub who: String,
}

impl Handle {
    /// Writes a line into the operators' log.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: what was to be done must not be done.
    pub async fn audit(&self, who: &str, action: &str, object: &str, details: &str) -> Result<(), Error> {
        let [who, action, object, details] = [who, action, object, details].map(str::to_owned);
        self.operate(Operation::Audit { who, action, object, details }).await.map(drop)
    }

    /// Remembers that an operator paused a plugin, or (without a name) no longer does.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`].
    pub async fn hold(&self, plugin: &PluginName, who: Option<&str>) -> Result<(), Error> {
        let (plugin, who) = (plugin.clone(), who.map(str::to_owned));
        self.operate(Operation::Hold { plugin, who }).await.map(drop)
    }

    /// Runs a delivery that waits or is a dead letter at once, or gives it up; tells whether it was one of these.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`].
    pub async fn decide(&self, delivery: DeliveryId, resolution: Resolution) -> Result<bool, Error> {
        self.operate(Operation::Decide(delivery, resolution)).await.map(|operated| operated.changed > 0)
    }

    /// Makes another delivery of an event for a plugin; none where there is no such event, or it has not been routed.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`].
    pub async fn replay(&self, event: EventId, plugin: &PluginName, ordered: bool) -> Result<Option<i64>, Error> {
        let plugin = plugin.clone();
        self.operate(Operation::Replay { event, plugin, ordered }).await.map(|operated| operated.delivery)
    }

    /// One step of forgetting a record.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: the steps before were done.
    pub async fn forget(&self, step: Forget) -> Result<Operated, Error> {
        self.operate(Operation::Forget(step)).await
    }

    /// What forgetting a record would delete.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn forgettable(&self, record: &Record, mentions: bool, shown: usize) -> Result<Forgettable, Error> {
        let entity = Some(Entity { kind: record.kind.clone(), id: record.id.clone() });
        let filter = EventFilter { entity, account: Some(record.account.clone()), ..EventFilter::default() };
        let first = self.events(&filter, None, shown)?.items;
        let (events, others) = self.readers.read(|connection| {
            let Record { account, kind, id } = record;
            let named = format!("\"{}\":\"{id}\"", field_of(kind));
            let count = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| {
                connection.prepare_cached(sql)?.query_row(parameters, |row| row.get::<_, i64>(0))
            };
            let about = "account = ?1 AND entity_kind = ?2 AND entity_id = ?3";
            let its = count(
                &format!("SELECT count(*) FROM event INDEXED BY event_entity WHERE {about}"),
                &[account, kind, id],
            )?;
            let sql = format!(
                "SELECT count(*) FROM event WHERE account = ?1 AND instr(fields, ?4) > 0 AND NOT coalesce({about}, 0)"
            );
            let others = if mentions { count(&sql, &[account, kind, id, &named])? } else { 0 };
            Ok((u64::try_from(its).unwrap_or(0), u64::try_from(others).unwrap_or(0)))
        })?;
        Ok(Forgettable { events, others, first })
    }

    async fn operate(&self, operation: Operation) -> Result<Operated, Error> {
        self.ask(|reply| Change::Operate(Box::new(operation), reply)).await
    }

    /// The operators' log, the newest first; before a line's number where it is given.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn audited(&self, before: Option<i64>, limit: usize) -> Result<Vec<Audited>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT seq, at, who, action, object, details FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
                )?
                .query_map(params![before.unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                    Ok(Audited {
                        number: row.get(0)?,
                        at: row.get(1)?,
                        who: row.get(2)?,
                        action: row.get(3)?,
                        object: row.get(4)?,
                        details: row.get(5)?,
                    })
                })?
                .collect()
        })
    }

    /// The plugins that an operator paused.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn held(&self) -> Result<BTreeMap<PluginName, Held>, Error> {
        self.readers.read(|connection| {
            let mut held = connection.prepare_cached("SELECT plugin, at, who FROM hold")?;
            let rows =
                held.query_map([], |row| Ok((row.get::<_, String>(0)?, Held { at: row.get(1)?, who: row.get(2)? })))?;
            // Only names that were checked are stored.
            rows.filter_map(|row| {
                row.map(|(name, held)| PluginName::try_from(name).ok().map(|name| (name, held))).transpose()
            })
            .collect()
        })
    }
}

pub(super) fn apply(
    connection: &Connection,
    operation: &Operation,
    now: i64,
    tally: &mut Tally,
) -> rusqlite::Result<Operated> {
    let changed = match operation {
        Operation::Audit { who, action, object, details } => connection
            .prepare_cached("INSERT INTO audit (at, who, action, object, details) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![now, who, action, object, details])?,
        Operation::Hold { plugin, who: Some(who) } => connection
            .prepare_cached("INSERT OR REPLACE INTO hold VALUES (?1, ?2, ?3)")?
            .execute(params![plugin.as_str(), now, who])?,
        Operation::Hold { plugin, who: None } => {
            connection.prepare_cached("DELETE FROM hold WHERE plugin = ?1")?.execute([plugin.as_str()])?
        }
        Operation::Decide(DeliveryId(seq), Resolution::Retry) => retry(connection, *seq, now, tally)?,
        Operation::Decide(DeliveryId(seq), Resolution::Drop) => give_up(connection, *seq, now, tally)?,
        Operation::Replay { event, plugin, ordered } => {
            return replay(connection, (*event, plugin, *ordered), now, tally);
        }
        Operation::Forget(step) => return forget(connection, step, tally),
    };
    Ok(Operated { changed, ..Operated::default() })
}

fn retry(connection: &Connection, seq: i64, now: i64, tally: &mut Tally) -> rusqlite::Result<usize> {
    let sooner = connection
        .prepare_cached("UPDATE delivery SET at = min(at, ?2) WHERE seq = ?1 AND state = 0")?
        .execute(params![seq, now])?;
    Ok(sooner + letters::retry(connection, seq, now, tally)?)
}

fn give_up(connection: &Connection, seq: i64, now: i64, tally: &mut Tally) -> rusqlite::Result<usize> {
    let before: Option<(i64, i64, Option<String>, Option<String>)> = connection
        .prepare_cached("SELECT state, queue, lane, code FROM delivery WHERE seq = ?1 AND state IN (0, 1, 5)")?
        .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    let Some((state, queue, lane, code)) = before else { return Ok(0) };
    tally.state(state, queue, code.as_deref(), -1);
    let changed = connection
        .prepare_cached("UPDATE delivery SET state = 6, at = ?2 WHERE seq = ?1")?
        .execute(params![seq, now])?;
    // Only the head of a lane leaves a place: one that is behind has somebody else before it.
    if let (0, Some(lane)) = (state, lane) {
        write::promote(connection, queue, &lane)?;
    }
    Ok(changed)
}

fn replay(
    connection: &Connection,
    (event, plugin, ordered): (EventId, &PluginName, bool),
    now: i64,
    tally: &mut Tally,
) -> rusqlite::Result<Operated> {
    let found: Option<(i64, String, Option<String>)> = connection
        .prepare_cached(
            "SELECT seq, account, entity_kind || ':' || entity_id FROM event
              WHERE id = ?1 AND seq <= (SELECT seq FROM cursor WHERE name = 'routed')",
        )?
        .query_row([event.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((seq, account, lane)) = found else { return Ok(Operated { left: 1, ..Operated::default() }) };
    let plugin = plugin_number(connection, plugin.as_str())?;
    let (queue, _) = queue_number(connection, plugin, &account)?;
    let delivery = connection
        .prepare_cached(
            "INSERT INTO delivery (event, queue, lane, state, at, replay)
             VALUES (?1, ?2, ?3, EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                          WHERE queue = ?2 AND lane = ?3 AND state IN (0, 1, 2)), ?4, 1) RETURNING seq",
        )?
        .query_row(params![seq, queue, lane.filter(|_| ordered), now], |row| row.get(0))?;
    tally.open(queue, 1);
    Ok(Operated { changed: 1, delivery: Some(delivery), ..Operated::default() })
}

fn forget(connection: &Connection, step: &Forget, tally: &mut Tally) -> rusqlite::Result<Operated> {
    // What is freed is overwritten, for as long as this step takes: elsewhere the writes would be wasted.
    connection.pragma_update(None, "secure_delete", true)?;
    let operated = forget_step(connection, step, tally);
    connection.pragma_update(None, "secure_delete", false)?;
    operated
}

fn forget_step(connection: &Connection, step: &Forget, tally: &mut Tally) -> rusqlite::Result<Operated> {
    let Record { account, kind, id } = &step.record;
    let about = "account = ?1 AND entity_kind = ?2 AND entity_id = ?3";
    let source = if step.mentions {
        format!("(SELECT *, {about} AS its FROM event WHERE seq > ?4 ORDER BY seq LIMIT ?5)")
    } else {
        format!(
            "(SELECT *, 1 AS its FROM event INDEXED BY event_entity WHERE {about} AND seq > ?4 ORDER BY seq LIMIT ?5)"
        )
    };
    let mut candidates = connection.prepare_cached(&format!(
        "SELECT seq, coalesce(its, 0) OR (account = ?1 AND instr(fields, ?6) > 0),
                seq > (SELECT seq FROM cursor WHERE name = 'routed'),
                EXISTS (SELECT 1 FROM delivery d WHERE d.event = e.seq AND d.state = 2)
           FROM {source} e"
    ))?;
    let named = format!("\"{}\":\"{id}\"", field_of(kind));
    let rows: Vec<(i64, bool, bool, bool)> = candidates
        .query_map(params![account, kind, id, step.after, STEP, named], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut operated = Operated {
        next: rows.last().filter(|_| rows.len() == usize::try_from(STEP).unwrap_or(0)).map(|row| row.0),
        ..Operated::default()
    };
    for (seq, meant, unrouted, running) in &rows {
        match (meant, unrouted, running) {
            (true, _, true) => operated.left += 1,
            // It has only just come: routing is about to look at it.
            (true, true, false) => operated.left += 1,
            (true, false, false) => {
                uncount(connection, *seq, tally)?;
                retention::remove(connection, *seq)?;
                operated.changed += 1;
            }
            (false, ..) => operated.changed += blank_calls(connection, *seq, kind, id)?,
        }
    }
    if step.after == 0 {
        operated.changed += forget_state(connection, &step.record)?;
    }
    Ok(operated)
}

/// Takes an event's deliveries out of what is counted, before they go.
fn uncount(connection: &Connection, event: i64, tally: &mut Tally) -> rusqlite::Result<()> {
    let mut counted = connection.prepare_cached("SELECT state, queue, code FROM delivery WHERE event = ?1")?;
    let mut rows = counted.query([event])?;
    while let Some(row) = rows.next()? {
        tally.state(row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?.as_deref(), -1);
    }
    Ok(())
}

/// The field by which other records name one of this family.
fn field_of(kind: &str) -> &str {
    match kind {
        "client" => "clid",
        "person" => "pid",
        "deal" => "did",
        "contract" => "deid",
        _ => "id",
    }
}

/// Calls of an event's deliveries that name the record lose what was sent and answered.
fn blank_calls(connection: &Connection, event: i64, kind: &str, id: &str) -> rusqlite::Result<usize> {
    let field = field_of(kind);
    let [text, number] = [format!("\"{field}\":\"{id}\""), format!("\"{field}\":{id}")];
    let names = |column: &str| {
        format!("instr({column}, ?2) > 0 OR instr({column}, ?3 || ',') > 0 OR instr({column}, ?3 || '}}') > 0")
    };
    let (request, answer) = (names("request"), names("answer"));
    connection
        .prepare_cached(&format!(
            "UPDATE host_call SET request = '\"forgotten\"', answer = '\"forgotten\"'
              WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1) AND ({request} OR {answer})"
        ))?
        .execute(params![event, text, number])
}

/// What plugins keep under keys that name the record as `kind:id`.
fn forget_state(connection: &Connection, record: &Record) -> rusqlite::Result<usize> {
    let name = format!("{}:{}", record.kind, record.id);
    let mut keys = connection.prepare("SELECT plugin, key FROM state WHERE account = ?1 AND instr(key, ?2) > 0")?;
    let found: Vec<(i64, String)> = keys
        .query_map(params![record.account, name], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let edge = |character: Option<char>| character.is_none_or(|character| !character.is_alphanumeric());
    let mut forgotten = 0;
    for (plugin, key) in found {
        let whole = key.match_indices(&name).any(|(at, part)| {
            let (before, behind) = (key.get(..at), key.get(at + part.len()..));
            edge(before.and_then(|text| text.chars().next_back())) && edge(behind.and_then(|text| text.chars().next()))
        });
        if whole {
            forgotten += connection
                .prepare_cached("DELETE FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?
                .execute(params![plugin, record.account, key])?;
        }
    }
    Ok(forgotten)
}
