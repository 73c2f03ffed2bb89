//! Forgets what is over: by age, and by size where the file grows beyond what it may.
//!
//! - Only events are removed of which nothing waits, runs or is a dead letter, with all that belongs to them.
//! - In small steps, bounded in events and time, so that intake never waits long behind one.
//! - An event that is younger than a day stays, however large the store is; what attempts at it recorded (calls, log)
//!   does not, so that a plugin can't fill the disk.
//! - The newest routed event stays, because numbers are given after the highest.
//!
//! - A clock that went far ahead is not believed for an hour: nothing is deleted by age meanwhile.
//!
//! Not here: a plugin's state, which has no age.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::space::Room;
use super::{Error, Handle, minutes};
use crate::clock::Clock;

/// Events that one step looks at.
const STEP: i64 = 128;
/// How long one step may hold the writer, but for the last event that it removes.
const STEP_TIME: Duration = Duration::from_millis(10);
/// However large the store is, what is younger is kept: the CRM's repetitions are recognised by it.
const KEPT: i64 = 24 * 3_600_000;
/// A step of the clock that is no ordinary one.
const FAR: i64 = 24 * HOUR;
const HOUR: i64 = 3_600_000;
/// How long a clock that seems to be wrong is not believed.
const PROVEN: Duration = Duration::from_secs(3_600);
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
                    OR EXISTS (SELECT 1 FROM stuck s WHERE s.event = e.seq)
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
            if retention.age != Duration::MAX {
                minutes::forget(connection, now)?;
            }
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

/// Whether the clock can be believed where it says that something is old: a machine that boots a year ahead would delete all that
/// it has. It is doubted where it went far ahead of time that passed, or of the last that came before, and believed after an hour.
struct Trust {
    since: Instant,
    looked: (i64, Instant),
}

impl Trust {
    fn new(now: i64, steady: Instant) -> Self {
        Self { since: steady, looked: (now, steady) }
    }

    /// `is_gap`: whether nothing at all came in the day before the last hour.
    fn is_doubted(&mut self, now: i64, steady: Instant, is_gap: impl FnOnce() -> bool) -> bool {
        let (then, before) = std::mem::replace(&mut self.looked, (now, steady));
        let passed = i64::try_from(steady.saturating_duration_since(before).as_millis()).unwrap_or(i64::MAX);
        if now.saturating_sub(then).saturating_sub(passed) > FAR {
            self.since = steady;
        }
        steady.saturating_duration_since(self.since) < PROVEN && is_gap()
    }
}

impl super::read::Readers {
    /// Whether nothing at all came in the day before the last hour, and there is something from before that.
    fn is_gap(&self, now: i64) -> Result<bool, Error> {
        let (hour_ago, day_before) = (now.saturating_sub(HOUR), now.saturating_sub(HOUR + FAR));
        self.read(|connection| {
            connection.query_row(
                "SELECT NOT EXISTS (SELECT 1 FROM minute WHERE at BETWEEN ?2 / 60000 AND ?1 / 60000)
                        AND (SELECT received_at FROM event ORDER BY seq LIMIT 1) < ?2",
                params![hour_ago, day_before],
                |row| row.get::<_, Option<bool>>(0).map(Option::unwrap_or_default),
            )
        })
    }
}

/// Sweeps for as long as the journal is open; `told` hears of every round that removed something, could not make room, or
/// failed, `doubted` when what is old is kept because the clock may be wrong, and when no more.
pub async fn keep(
    journal: Handle,
    clock: Clock,
    kept: Retention,
    told: impl Fn(usize, bool, Option<&Error>),
    doubted: impl Fn(bool),
) {
    let (mut trust, mut was) = (Trust::new(clock.now(), Instant::now()), false);
    loop {
        let (handle, now) = (journal.clone(), clock.now());
        let gap = tokio::task::spawn_blocking(move || handle.readers.is_gap(now)).await;
        // What can't be read is not deleted by age.
        let doubt = trust.is_doubted(now, Instant::now(), || gap.is_ok_and(|gap| gap.unwrap_or(true)));
        if std::mem::replace(&mut was, doubt) != doubt {
            doubted(doubt);
        }
        // For want of room it is deleted all the same.
        let retention = if doubt { Retention { age: Duration::MAX, ..kept } } else { kept };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_went_far_ahead_is_believed_after_an_hour_and_a_quiet_store_is_swept() {
        let begin = Instant::now();
        let after = |minutes: u64| begin + Duration::from_secs(minutes * 60);
        let (minute, year) = (60_000, 365 * 24 * HOUR);
        let mut trust = Trust::new(0, begin);
        // Nothing came for long before the start: it may be the clock, or the host was off.
        assert!(trust.is_doubted(minute, after(1), || true));
        assert!(!trust.is_doubted(2 * minute, after(2), || false), "all is as it should be");
        assert!(!trust.is_doubted(61 * minute, after(61), || true), "a quiet day is no reason for ever");
        // It goes ahead under way.
        assert!(trust.is_doubted(year + 62 * minute, after(62), || true));
        assert!(trust.is_doubted(year + 121 * minute, after(121), || true));
        assert!(!trust.is_doubted(year + 123 * minute, after(123), || true));
        // Back, and a little ahead: nothing to doubt.
        assert!(!trust.is_doubted(124 * minute, after(124), || true));
        assert!(!trust.is_doubted(124 * minute + 23 * HOUR, after(125), || true));
    }
}
