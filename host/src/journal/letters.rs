//! Dead letters: kept until an operator has them retried or dropped.
//!
//! - They are found on a reader's connection, page by page, and changed by number, some hundred a time, so that intake
//!   never waits behind a large choice.
//! - One that is retried takes its place in its record's lane again, behind whatever of it is under way.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::{DeliveryId, LetterFilter, Resolution};
use crate::event::EventId;

/// A dead letter in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// The delivery's number.
    pub delivery: i64,
    /// The event.
    pub event: EventId,
    /// Its name.
    pub name: String,
    /// Its CRM.
    pub account: String,
    /// The record, as `kind:id`.
    pub entity: Option<String>,
    /// For whom.
    pub plugin: String,
    /// When it was given up: milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// The fault's code, or `rejected`, or `retry`.
    pub code: Option<String>,
    /// The last reason.
    pub reason: Option<String>,
    /// Attempts so far.
    pub attempts: u32,
}

/// Dead letters behind `after`, by number; `most` rows are looked at for each that is returned at most.
pub(super) fn list(
    connection: &Connection,
    filter: &LetterFilter,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Letter>> {
    connection
        .prepare_cached(
            "SELECT d.seq, e.id, e.name, e.account, e.entity_kind || ':' || e.entity_id, p.name, d.at, d.code, d.reason, d.attempts
               FROM delivery d INDEXED BY delivery_dead
               JOIN event e ON e.seq = d.event JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin
              WHERE d.state = 5 AND d.seq > ?1 AND p.name = coalesce(?2, p.name) AND e.account = coalesce(?3, e.account)
                AND e.name = coalesce(?4, e.name) AND (?5 IS NULL OR d.code = ?5)
                AND d.at >= coalesce(?6, d.at) AND d.at < coalesce(?7, d.at + 1)
              ORDER BY d.seq LIMIT ?8",
        )?
        .query_map(
            params![
                after,
                filter.plugin.as_ref().map(crate::plugin::PluginName::as_str),
                filter.account,
                filter.event,
                filter.code,
                filter.since,
                filter.until,
                i64::try_from(limit).unwrap_or(i64::MAX),
            ],
            |row| {
                Ok(Letter {
                    delivery: row.get(0)?,
                    event: EventId::from_bytes(row.get(1)?),
                    name: row.get(2)?,
                    account: row.get(3)?,
                    entity: row.get(4)?,
                    plugin: row.get(5)?,
                    at: row.get(6)?,
                    code: row.get(7)?,
                    reason: row.get(8)?,
                    attempts: row.get(9)?,
                })
            },
        )?
        .collect()
}

/// Changes those of the letters that are still dead; tells how many.
pub(super) fn resolve(
    connection: &Connection,
    letters: &[DeliveryId],
    resolution: Resolution,
    now: i64,
) -> rusqlite::Result<usize> {
    let mut changed = 0;
    for DeliveryId(seq) in letters {
        changed += match resolution {
            Resolution::Drop => connection
                .prepare_cached("UPDATE delivery SET state = 6, at = ?2 WHERE seq = ?1 AND state = 5")?
                .execute(params![seq, now])?,
            Resolution::Retry => retry(connection, *seq, now)?,
        };
    }
    Ok(changed)
}

fn retry(connection: &Connection, seq: i64, now: i64) -> rusqlite::Result<usize> {
    let dead: Option<(i64, Option<String>)> = connection
        .prepare_cached("SELECT queue, lane FROM delivery WHERE seq = ?1 AND state = 5")?
        .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((queue, lane)) = dead else { return Ok(0) };
    connection
        .prepare_cached(
            "UPDATE delivery SET at = ?2, failures = 0, interruptions = 0, crashes = 0, code = NULL,
                    state = EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                     WHERE queue = ?3 AND lane = ?4 AND state IN (0, 1, 2))
              WHERE seq = ?1",
        )?
        .execute(params![seq, now, queue, lane])
}
