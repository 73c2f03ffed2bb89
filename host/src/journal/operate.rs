//! What an operator changes: deliveries run again or given up, events replayed, plugins paused; and the log of who did it.
//!
//! Every change is small; a large choice is made of many, so that intake never waits behind one.
//!
//! Not here: forgetting a record (`forget`).

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::layout::{plugin_number, queue_number};
use super::minutes::Tally;
use super::{Change, DeliveryId, Error, Handle, Resolution, letters, restored, settle, vouch};
use crate::event::EventId;
use crate::plugin::PluginName;
use vouch::Word;

pub(super) enum Operation {
    Audit { who: String, action: String, object: String, details: String },
    Hold { plugin: PluginName, who: Option<String> },
    Decide(DeliveryId, Resolution),
    Replay { event: EventId, plugin: PluginName, ordered: bool },
    GoOn { who: String },
    Vouch(DeliveryId, Vec<(String, Word)>),
}

/// What one change came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operated {
    /// How many things were changed.
    pub changed: usize,
    /// How many could not be changed now: they have not been routed.
    pub left: usize,
    /// The delivery that was made.
    pub delivery: Option<i64>,
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

    pub(super) async fn operate(&self, operation: Operation) -> Result<Operated, Error> {
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
        Operation::GoOn { who } => restored::go_on(connection, who, now)?,
        Operation::Vouch(delivery, words) => return vouch::vouch(connection, *delivery, words, now, tally),
        Operation::Replay { event, plugin, ordered } => {
            return replay(connection, (*event, plugin, *ordered), now, tally);
        }
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
        settle::promote(connection, queue, &lane)?;
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
