//! Forgets what is over: by age, and by size where the file grows beyond what it may.
//!
//! - Only events are removed of which nothing waits, runs or is a dead letter, with all that belongs to them.
//! - In small steps, bounded in events and time, so that intake never waits long behind one.
//! - An event that is younger than a day stays, however large the store is; what attempts at it recorded (calls, log)
//!   does not, so that a plugin can't fill the disk.
//! - The newest routed event stays, because numbers are given after the highest.
//!
//! Not here: a plugin's state, which has no age.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::space::Room;
use super::{Error, Handle, minutes};

/// Events that one step looks at.
const STEP: i64 = 128;
/// How long one step may hold the writer, but for the last event that it removes.
const STEP_TIME: Duration = Duration::from_millis(10);
/// However large the store is, what is younger is kept: the CRM's repetitions are recognised by it.
const KEPT: i64 = 24 * 3_600_000;
/// The pause between steps.
const BETWEEN_STEPS: Duration = Duration::from_millis(20);
/// The pause between rounds.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(60);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long events that are over are kept.
    pub age: Duration,
    /// Bytes that the store may use.
    pub size: u64,
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Events removed.
    pub removed: usize,
    /// Whether there is more to look at.
    pub more: bool,
    /// Whether the store is over its size.
    pub over: bool,
}

/// How far the present round has come.
#[derive(Debug)]
pub(super) struct Sweep {
    room: Arc<Room>,
    after: i64,
    /// Where it was before the present transaction.
    before: i64,
}

impl Sweep {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self { room, after: 0, before: 0 }
    }

    pub(super) fn begin(&mut self) {
        self.before = self.after;
    }

    /// What was not committed was not swept.
    pub(super) fn forget(&mut self) {
        self.after = self.before;
    }

    /// Leaves a damaged part of the store alone in this round: what is behind it is forgotten all the same.
    pub(super) fn skip(&mut self) {
        self.after += STEP;
    }

    pub(super) fn step(&mut self, connection: &Connection, retention: &Retention, now: i64) -> rusqlite::Result<Swept> {
        // The log counts as far as it has grown behind a reader: the rest of it is always there.
        let log = self.room.log_bytes().saturating_sub(self.room.most_log());
        let over = used(connection)?.saturating_add(log) > retention.size;
        let oldest = now.saturating_sub(i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX));
        let mut candidates = connection.prepare_cached(
            "SELECT e.seq, e.received_at,
                    EXISTS (SELECT 1 FROM delivery d WHERE d.event = e.seq AND d.state IN (0, 1, 2, 5))
               FROM event e WHERE e.seq > ?1 AND e.seq < (SELECT seq FROM cursor WHERE name = 'routed')
              ORDER BY e.seq LIMIT ?2",
        )?;
        let began = Instant::now();
        let rows: Vec<(i64, i64, bool)> = candidates
            .query_map(params![self.after, STEP], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut swept = Swept { more: rows.len() == usize::try_from(STEP).unwrap_or(0), over, ..Swept::default() };
        for (seq, received_at, needed) in rows {
            // One that seems to come from the future was stored while the clock was wrong; those behind it are looked at.
            if received_at < oldest || over && received_at < now - KEPT {
                if !needed {
                    remove(connection, seq)?;
                    swept.removed += 1;
                }
            } else if over && !needed {
                remove_records(connection, seq)?;
            } else if over {
                // It is needed, and so is what was recorded of it.
            } else if received_at <= now {
                swept.more = false;
                break;
            }
            self.after = seq;
            if began.elapsed() > STEP_TIME {
                swept.more = true;
                break;
            }
        }
        if !swept.more {
            self.after = 0;
            minutes::forget(connection, now)?;
        }
        Ok(swept)
    }
}

fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let ask = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let pages = ask("page_count")?.saturating_sub(ask("freelist_count")?);
    Ok(u64::try_from(pages.saturating_mul(ask("page_size")?)).unwrap_or(0))
}

/// Removes what attempts at an event recorded; that there were any stays.
fn remove_records(connection: &Connection, event: i64) -> rusqlite::Result<()> {
    for statement in [
        "DELETE FROM host_call WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1)",
        "UPDATE attempt SET lines = '[]' WHERE lines <> '[]' AND delivery IN (SELECT seq FROM delivery WHERE event = ?1)",
    ] {
        connection.prepare_cached(statement)?.execute([event])?;
    }
    Ok(())
}

/// Removes an event with all that became of it; tells how many calls, expected events, writes, attempts, deliveries.
pub(super) fn remove(connection: &Connection, event: i64) -> rusqlite::Result<[usize; 5]> {
    let mut removed = [0; 5];
    let statements = [
        "DELETE FROM host_call WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1)",
        "DELETE FROM effect WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1)",
        "DELETE FROM write WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1)",
        "DELETE FROM attempt WHERE delivery IN (SELECT seq FROM delivery WHERE event = ?1)",
        "DELETE FROM delivery WHERE event = ?1",
    ];
    for (removed, statement) in removed.iter_mut().zip(statements) {
        *removed = connection.prepare_cached(statement)?.execute([event])?;
    }
    connection.prepare_cached("DELETE FROM event WHERE seq = ?1")?.execute([event])?;
    Ok(removed)
}

/// Sweeps for as long as the journal is open; `told` hears of every round that removed something, could not make room, or
/// failed.
pub async fn keep(journal: Handle, retention: Retention, told: impl Fn(usize, bool, Option<&Error>)) {
    loop {
        let mut removed = 0;
        let over = loop {
            match journal.sweep(retention).await {
                Ok(swept) => {
                    removed += swept.removed;
                    if !swept.more {
                        break swept.over;
                    }
                }
                Err(Error::Closed) => return,
                // A store that refuses is asked again in the next round.
                Err(error) => {
                    told(removed, false, Some(&error));
                    break false;
                }
            }
            tokio::time::sleep(BETWEEN_STEPS).await;
        };
        if removed > 0 || over {
            told(removed, over, None);
        }
        tokio::time::sleep(BETWEEN_ROUNDS).await;
    }
}
