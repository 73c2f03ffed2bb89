//! What came and what ended, minute by minute, and how much waits: what charts and counters are made of.
//!
//! - Counted by the writer in the commit that it counts, so a crash loses and repeats nothing; without it where a table is
//!   damaged (`statistics`).
//! - A reader looks at some thousand rows at most, whatever the store holds.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::read::Readers;
use super::statistics::Off;
use super::{Backlog, Error, Handle, Settlement};
use crate::outcome::Next;

/// Milliseconds.
const MINUTE: i64 = 60_000;
/// Minutes that are kept: eight days.
const KEPT: i64 = 8 * 24 * 60;

/// The number of the minute in which a time lies.
fn minute_of(time: i64) -> i64 {
    time.div_euclid(MINUTE)
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    events: i64,
    good: i64,
    failed: i64,
    dead: i64,
    waited: i64,
    slowest: i64,
}

/// What one commit brings.
#[derive(Debug, Default)]
pub(super) struct Minutes {
    counts: HashMap<(i64, i64), Counts>,
    /// Where the table can't be used: nothing is stored.
    pub(super) off: Option<Off>,
}

impl Minutes {
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.counts.clear();
    }

    pub(super) fn came(&mut self, at: i64) {
        self.counts.entry((minute_of(at), 0)).or_default().events += 1;
    }

    /// An attempt ended; `since` is when its event came.
    pub(super) fn ended(&mut self, queue: i64, settlement: &Settlement, since: i64) {
        let counts = self.counts.entry((minute_of(settlement.ended_at), queue)).or_default();
        match settlement.next {
            Next::Done | Next::Skipped => {
                let waited = settlement.ended_at.saturating_sub(since).max(0);
                counts.good += 1;
                counts.waited = counts.waited.saturating_add(waited);
                counts.slowest = counts.slowest.max(waited);
            }
            Next::Dead => {
                counts.failed += 1;
                counts.dead += 1;
            }
            Next::Again { .. } => counts.failed += 1,
        }
    }

    pub(super) fn store(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for ((at, queue), counts) in self.counts.drain() {
            let Counts { events, good, failed, dead, waited, slowest } = counts;
            connection
                .prepare_cached(
                    "INSERT INTO minute VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET
                       events = events + ?3, good = good + ?4, failed = failed + ?5, dead = dead + ?6,
                       waited = waited + ?7, slowest = max(slowest, ?8)",
                )?
                .execute(params![at, queue, events, good, failed, dead, waited, slowest])?;
        }
        Ok(())
    }
}

/// How many deliveries are open, and how many are dead letters of which code: what one commit changes of it. Triggers would
/// do the same, and cost a third of a delivery's way through the store.
#[derive(Debug, Default)]
pub(super) struct Tally {
    changes: HashMap<(i64, String), i64>,
    /// Where the table can't be used: nothing is stored, and it is counted anew.
    pub(super) off: Option<Off>,
}

impl Tally {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How much waits in a queue, as of the last commit; none where the table can't tell.
    pub(super) fn waiting(&mut self, connection: &Connection, queue: i64) -> rusqlite::Result<Option<i64>> {
        if self.off.is_some() {
            return Ok(None);
        }
        let read = connection
            .prepare_cached("SELECT deliveries FROM tally WHERE queue = ?1 AND code = ''")
            .and_then(|mut statement| statement.query_row([queue], |row| row.get(0)).optional());
        match read {
            Ok(count) => Ok(Some(count.unwrap_or(0))),
            Err(error) => {
                self.off = Some(Off::because(&Error::from(&error)));
                // The transaction may have ended with it: then all of it is done again.
                if connection.is_autocommit() { Err(error) } else { Ok(None) }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.changes.clear();
    }

    /// Deliveries of a queue that are open by now (or, negative, no longer).
    pub(super) fn open(&mut self, queue: i64, change: i64) {
        *self.changes.entry((queue, String::new())).or_default() += change;
    }

    /// Its dead letters by now (or, negative, no longer), by their code.
    pub(super) fn dead(&mut self, queue: i64, code: Option<&str>, change: i64) {
        *self.changes.entry((queue, code.unwrap_or("?").to_owned())).or_default() += change;
    }

    /// A delivery in this state is there by now (or, negative, no longer).
    pub(super) fn state(&mut self, state: i64, queue: i64, code: Option<&str>, change: i64) {
        match state {
            0..=2 => self.open(queue, change),
            5 => self.dead(queue, code, change),
            _ => {}
        }
    }

    pub(super) fn store(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for ((queue, code), change) in self.changes.drain().filter(|(_, change)| *change != 0) {
            connection
                .prepare_cached(
                    "INSERT INTO tally VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET deliveries = deliveries + ?3",
                )?
                .execute(params![queue, code, change])?;
        }
        Ok(())
    }
}

/// Forgets the minutes that are too old to be shown.
pub(super) fn forget(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM minute WHERE at < ?1")?.execute([minute_of(now) - KEPT])?;
    Ok(())
}

/// What came and ended in a span of time, of all plugins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Minute {
    /// Its beginning: milliseconds since 1970-01-01 UTC.
    pub at: i64,
    /// Events that came.
    pub events: i64,
    /// Deliveries that ended well.
    pub good: i64,
    /// Attempts that failed.
    pub failed: i64,
    /// Deliveries that became dead letters.
    pub dead: i64,
    /// The average time in milliseconds from an event's arrival to the good end of a delivery.
    pub waited_ms: i64,
    /// The longest of these times in milliseconds.
    pub slowest_ms: i64,
}

/// One queue's share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QueueMinutes {
    /// Whose.
    pub plugin: String,
    /// Of which CRM.
    pub account: String,
    /// Deliveries that wait or run now.
    pub open: i64,
    /// Its dead letters now.
    pub dead: i64,
    /// Deliveries that ended well in the time that was asked about.
    pub good: i64,
    /// Attempts that failed in that time.
    pub failed: i64,
}

impl Handle {
    /// What came and ended since `from`, in spans of `step` minutes, without the spans in which nothing did.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn minutes(&self, from: i64, step: i64) -> Result<Vec<Minute>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT at / ?2 * ?2, sum(events), sum(good), sum(failed), sum(dead), sum(waited), max(slowest)
                       FROM minute WHERE at >= ?1 GROUP BY 1 ORDER BY 1",
                )?
                .query_map(params![minute_of(from), step.max(1)], |row| {
                    let (good, waited): (i64, i64) = (row.get(2)?, row.get(5)?);
                    Ok(Minute {
                        at: row.get::<_, i64>(0)? * MINUTE,
                        events: row.get(1)?,
                        good,
                        failed: row.get(3)?,
                        dead: row.get(4)?,
                        waited_ms: waited / good.max(1),
                        slowest_ms: row.get(6)?,
                    })
                })?
                .collect()
        })
    }

    /// Every queue with what it did since `from`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn queue_minutes(&self, from: i64) -> Result<Vec<QueueMinutes>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT p.name, q.account,
                            (SELECT coalesce(sum(deliveries), 0) FROM tally WHERE queue = q.number AND code = ''),
                            (SELECT coalesce(sum(deliveries), 0) FROM tally WHERE queue = q.number AND code <> ''),
                            coalesce(m.good, 0), coalesce(m.failed, 0)
                       FROM queue q JOIN plugin p ON p.number = q.plugin
                       LEFT JOIN (SELECT queue, sum(good) AS good, sum(failed) AS failed FROM minute
                                   WHERE at >= ?1 GROUP BY queue) m ON m.queue = q.number
                      ORDER BY p.name, q.account",
                )?
                .query_map([minute_of(from)], |row| {
                    Ok(QueueMinutes {
                        plugin: row.get(0)?,
                        account: row.get(1)?,
                        open: row.get(2)?,
                        dead: row.get(3)?,
                        good: row.get(4)?,
                        failed: row.get(5)?,
                    })
                })?
                .collect()
        })
    }

    /// How much waits.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn backlog(&self) -> Result<Backlog, Error> {
        self.readers.backlog()
    }

    /// When the oldest event came whose deliveries have not been made: milliseconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`Error::Store`] and its like: the store can't be read.
    pub fn unrouted_since(&self) -> Result<Option<i64>, Error> {
        self.readers.unrouted_since()
    }
}

impl Readers {
    /// When the oldest event came that no plugin has been given yet.
    pub(super) fn unrouted_since(&self) -> Result<Option<i64>, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT received_at FROM event WHERE seq > (SELECT seq FROM cursor WHERE name = 'routed')
                      ORDER BY seq LIMIT 1",
                )?
                .query_row([], |row| row.get(0))
                .optional()
        })
    }

    fn backlog(&self) -> Result<Backlog, Error> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT max(coalesce((SELECT max(seq) FROM event), 0) - (SELECT seq FROM cursor WHERE name = 'routed'), 0),
                            (SELECT coalesce(sum(deliveries), 0) FROM tally WHERE code = ''),
                            (SELECT coalesce(sum(deliveries), 0) FROM tally WHERE code <> ''),
                            (SELECT count(*) FROM write INDEXED BY write_uncertain WHERE answered_at IS NULL AND may_send = 0)",
                )?
                .query_row([], |row| {
                    let count = |column| row.get::<_, i64>(column).map(|count| u64::try_from(count).unwrap_or(0));
                    Ok(Backlog { unrouted: count(0)?, open: count(1)?, dead: count(2)?, uncertain_writes: count(3)? })
                })
        })
    }
}
