//! Dead letters: kept until an operator has them retried or dropped.
//!
//! - They are found on a reader's connection, page by page, and changed by number, some hundred a time, so that intake
//!   never waits behind a large choice.
//! - One that is retried takes its place in its record's lane again, behind whatever of it is under way.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::minutes::Tally;
use super::{Change, DeliveryId, Error, Handle};
use crate::event::EventId;
use crate::plugin::PluginName;

/// Which dead letters are meant; an empty filter means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// For this plugin.
    pub plugin: Option<PluginName>,
    /// Of this account.
    pub account: Option<String>,
    /// Of events of this name.
    pub event: Option<String>,
    /// With this code: a fault's, or `rejected`, or `retry`.
    pub code: Option<String>,
    /// Given up at this time or later, in milliseconds since 1970-01-01 UTC.
    pub since: Option<i64>,
    /// Given up before this time, in milliseconds since 1970-01-01 UTC.
    pub until: Option<i64>,
    /// Up to this delivery, by number.
    pub up_to: Option<i64>,
}

/// How many dead letters a filter means now, and which: what is decided about them is decided about these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Counted {
    /// How many.
    pub letters: u64,
    /// The first of them.
    pub first: Vec<Letter>,
    /// They were given up before this time: what dies from then on is not meant.
    pub until: i64,
    /// The highest delivery's number among them.
    pub up_to: i64,
}

/// What an operator decides about dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// They run again, with all their attempts before them.
    Retry,
    /// They are over.
    Drop,
}

/// A dead letter in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
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

/// Dead letters of one plugin and account with the same code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Group {
    /// For whom.
    pub plugin: String,
    /// Of which CRM.
    pub account: String,
    /// The fault's code, or `rejected`, or `retry`.
    pub code: String,
    /// How many.
    pub letters: u64,
    /// When the last of them was given up: milliseconds since 1970-01-01 UTC.
    pub last_at: i64,
    /// Its reason.
    pub last_reason: Option<String>,
}

impl Handle {
    /// Retries or drops those of some dead letters that are still dead; tells how many.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: none is changed.
    pub async fn resolve(&self, letters: Vec<DeliveryId>, resolution: Resolution) -> Result<usize, Error> {
        self.ask(|reply| Change::Resolve { letters, resolution, reply }).await
    }

    /// Dead letters behind `after`, by number.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn letters(&self, filter: &LetterFilter, after: i64, limit: usize) -> Result<Vec<Letter>, Error> {
        self.readers.read(|connection| list(connection, filter, after, limit))
    }

    /// How many dead letters a filter means at a moment, and the first few.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn count_letters(&self, filter: &LetterFilter, now: i64, shown: usize) -> Result<Counted, Error> {
        let until = filter.until.unwrap_or(i64::MAX).min(now);
        let filter = LetterFilter { until: Some(until), ..filter.clone() };
        self.readers.read(|connection| {
            let (letters, up_to) = count(connection, &filter)?;
            Ok(Counted { letters, first: list(connection, &filter, 0, shown)?, until, up_to })
        })
    }

    /// Dead letters by plugin, account and code, the largest group first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn letter_groups(&self) -> Result<Vec<Group>, Error> {
        self.readers.read(groups)
    }
}

fn groups(connection: &Connection) -> rusqlite::Result<Vec<Group>> {
    connection
        .prepare_cached(
            "SELECT p.name, q.account, t.code, t.deliveries, last.at, last.reason
               FROM tally t JOIN queue q ON q.number = t.queue JOIN plugin p ON p.number = q.plugin
               JOIN delivery last ON last.seq = (SELECT max(seq) FROM delivery INDEXED BY delivery_letters
                                                  WHERE state = 5 AND queue = t.queue AND code IS nullif(t.code, '?'))
              WHERE t.code <> '' AND t.deliveries > 0 ORDER BY t.deliveries DESC, p.name, t.code",
        )?
        .query_map([], |row| {
            Ok(Group {
                plugin: row.get(0)?,
                account: row.get(1)?,
                code: row.get(2)?,
                letters: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                last_at: row.get(4)?,
                last_reason: row.get(5)?,
            })
        })?
        .collect()
}

/// What a filter means, behind parameter 1 and up to parameter 9.
const MEANT: &str = "FROM delivery d INDEXED BY delivery_dead
               JOIN event e ON e.seq = d.event JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin
              WHERE d.state = 5 AND d.seq > ?1 AND p.name = coalesce(?2, p.name) AND e.account = coalesce(?3, e.account)
                AND e.name = coalesce(?4, e.name) AND (?5 IS NULL OR d.code = ?5)
                AND d.at >= coalesce(?6, d.at) AND d.at < coalesce(?7, d.at + 1) AND d.seq <= coalesce(?8, d.seq)";

fn count(connection: &Connection, filter: &LetterFilter) -> rusqlite::Result<(u64, i64)> {
    let LetterFilter { plugin, account, event, code, since, until, up_to } = filter;
    let plugin = plugin.as_ref().map(PluginName::as_str);
    connection
        .prepare_cached(&format!("SELECT count(*), coalesce(max(d.seq), 0) {MEANT}"))?
        .query_row(params![0, plugin, account, event, code, since, until, up_to], |row| {
            Ok((u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0), row.get(1)?))
        })
}

/// Dead letters behind `after`, by number; `most` rows are looked at for each that is returned at most.
pub(super) fn list(
    connection: &Connection,
    filter: &LetterFilter,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Letter>> {
    connection
        .prepare_cached(&format!(
            "SELECT d.seq, e.id, e.name, e.account, e.entity_kind || ':' || e.entity_id, p.name, d.at, d.code, d.reason, d.attempts
               {MEANT} ORDER BY d.seq LIMIT ?9"
        ))?
        .query_map(
            params![
                after,
                filter.plugin.as_ref().map(crate::plugin::PluginName::as_str),
                filter.account,
                filter.event,
                filter.code,
                filter.since,
                filter.until,
                filter.up_to,
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
    tally: &mut Tally,
) -> rusqlite::Result<usize> {
    let mut changed = 0;
    for DeliveryId(seq) in letters {
        changed += match resolution {
            Resolution::Drop => {
                let dropped: Option<(i64, Option<String>)> = connection
                    .prepare_cached(
                        "UPDATE delivery SET state = 6, at = ?2 WHERE seq = ?1 AND state = 5 RETURNING queue, code",
                    )?
                    .query_row(params![seq, now], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                if let Some((queue, code)) = &dropped {
                    tally.dead(*queue, code.as_deref(), -1);
                }
                usize::from(dropped.is_some())
            }
            Resolution::Retry => retry(connection, *seq, now, tally)?,
        };
    }
    Ok(changed)
}

pub(super) fn retry(connection: &Connection, seq: i64, now: i64, tally: &mut Tally) -> rusqlite::Result<usize> {
    let dead: Option<(i64, Option<String>, Option<String>)> = connection
        .prepare_cached("SELECT queue, lane, code FROM delivery WHERE seq = ?1 AND state = 5")?
        .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((queue, lane, code)) = dead else { return Ok(0) };
    tally.dead(queue, code.as_deref(), -1);
    tally.open(queue, 1);
    connection
        .prepare_cached(
            "UPDATE delivery SET at = ?2, failures = 0, interruptions = 0, crashes = 0, code = NULL,
                    state = EXISTS (SELECT 1 FROM delivery INDEXED BY delivery_lane
                                     WHERE queue = ?3 AND lane = ?4 AND state IN (0, 1, 2))
              WHERE seq = ?1",
        )?
        .execute(params![seq, now, queue, lane])
}
