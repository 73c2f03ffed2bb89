//! A store that came out of a copy: it waits for an operator, and knows what may have been done since the copy.
//!
//! ```text
//! restored  number ─ when it was copied, when it came back, up to which event; when and by whom it was let go on
//! event, delivery.doubted_since ─ it was open when the copy was made: what it writes may have been done afterwards
//! write.may_send ─ an operator said of a write in doubt that it is to be sent
//! ```
//!
//! - **Nothing is routed, claimed or read from lists** before an operator says so; events are taken in.
//! - **A write of a doubted delivery that the ledger does not know counts as sent at the time of the copy, with its answer lost.**
//!   So it takes the way of all such writes: looked for, or sent again where that does no harm, or told as uncertain.
//! - Doubted are: deliveries that were not over, dead letters among them; deliveries of events that were not routed; deliveries
//!   of what a watched list shows until it was read once after the copy came back.
//! - What came after the copy is gone. Only how long that was is known.
//!
//! Not here: making the copy (`backup`) and putting it in place (`restore`). Whichever way it came there, it is recognised.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::read::DeliveryState;
use super::{Error, Handle, backup};
use crate::event::EventId;

/// What is known of a list, as a whole, while its first pass after a restore is not over.
pub const RESTORED: &str = "restored";

/// A store that came out of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Restored {
    /// Which of such.
    pub number: i64,
    /// When the copy was made: milliseconds since 1970-01-01 UTC. What came after it is not in the store.
    pub copied_at: i64,
    /// When a host first opened it.
    pub restored_at: i64,
    /// The version of the program that made the copy.
    pub version: String,
    /// When it was let go on; null: it waits.
    pub released_at: Option<i64>,
    /// By whom.
    pub released_by: Option<String>,
    /// Events in the copy that no plugin has been given yet.
    pub unrouted: u64,
    /// Events that came since, and wait.
    pub arrived: u64,
    /// Deliveries that were open at the time of the copy and are not over, by plugin and CRM.
    pub open: Vec<OpenOf>,
}

/// Deliveries of one plugin and CRM that were open at the time of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct OpenOf {
    /// For whom.
    pub plugin: String,
    /// Of which CRM.
    pub account: String,
    /// That wait or run.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
}

/// A delivery that was open at the time of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Doubted {
    /// Its number.
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
    /// Where it stands.
    pub state: DeliveryState,
}

impl Handle {
    /// Whether the store came out of a copy, and waits for an operator.
    pub fn waits_for_go_on(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// The last time that the store came out of a copy.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn restored(&self) -> Result<Option<Restored>, Error> {
        self.readers.read(restored)
    }

    /// When the copy was made of which the store came, and how many deliveries were open then: of a store that waits.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn waiting_since_copy(&self) -> Result<Option<(i64, u64)>, Error> {
        if !self.waits_for_go_on() {
            return Ok(None);
        }
        // While it waits none of them changes: the count of all that is open is theirs.
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT copied_at, (SELECT coalesce(sum(deliveries), 0) FROM tally) FROM restored
                      WHERE released_at IS NULL ORDER BY number DESC LIMIT 1",
                )?
                .query_row([], |row| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))
                .optional()
        })
    }

    /// Deliveries that were open at the time of the copy and are not over, behind `after`, by number.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn doubted(&self, after: i64, limit: usize) -> Result<Vec<Doubted>, Error> {
        self.readers.read(|connection| doubted(connection, after, limit))
    }

    /// Lets a store that came out of a copy go on; tells whether it waited.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Closed`]: it still waits.
    pub async fn go_on(&self, who: &str) -> Result<bool, Error> {
        let released = self.operate(super::operate::Operation::GoOn { who: who.to_owned() }).await?.changed > 0;
        self.waits.store(false, Ordering::Relaxed);
        self.bell.ring();
        Ok(released)
    }
}

fn restored(connection: &Connection) -> rusqlite::Result<Option<Restored>> {
    let found = connection
        .prepare_cached(
            "SELECT number, copied_at, restored_at, version, released_at, released_by, up_to FROM restored
              ORDER BY number DESC LIMIT 1",
        )?
        .query_row([], |row| {
            let restored = Restored {
                number: row.get(0)?,
                copied_at: row.get(1)?,
                restored_at: row.get(2)?,
                version: row.get(3)?,
                released_at: row.get(4)?,
                released_by: row.get(5)?,
                unrouted: 0,
                arrived: 0,
                open: Vec::new(),
            };
            Ok((restored, row.get::<_, i64>(6)?))
        })
        .optional()?;
    let Some((restored, up_to)) = found else { return Ok(None) };
    let count =
        |row: &rusqlite::Row<'_>, index| row.get::<_, i64>(index).map(|number| u64::try_from(number).unwrap_or(0));
    let (unrouted, arrived) = connection
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE seq <= ?1), count(*) FILTER (WHERE seq > ?1) FROM event
              WHERE seq > (SELECT seq FROM cursor WHERE name = 'routed')",
        )?
        .query_row([up_to], |row| Ok((count(row, 0)?, count(row, 1)?)))?;
    let open = connection
        .prepare_cached(
            "SELECT p.name, q.account, count(*) FILTER (WHERE d.state <> 5), count(*) FILTER (WHERE d.state = 5)
               FROM delivery d INDEXED BY delivery_doubted
               JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin
              WHERE d.doubted_since IS NOT NULL AND d.state IN (0, 1, 2, 5) GROUP BY d.queue ORDER BY 1, 2",
        )?
        .query_map([], |row| {
            Ok(OpenOf { plugin: row.get(0)?, account: row.get(1)?, waiting: count(row, 2)?, dead: count(row, 3)? })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Some(Restored { unrouted, arrived, open, ..restored }))
}

fn doubted(connection: &Connection, after: i64, limit: usize) -> rusqlite::Result<Vec<Doubted>> {
    connection
        .prepare_cached(
            "SELECT d.seq, e.id, e.name, e.account, e.entity_kind || ':' || e.entity_id, p.name, d.state
               FROM delivery d INDEXED BY delivery_doubted JOIN event e ON e.seq = d.event
               JOIN queue q ON q.number = d.queue JOIN plugin p ON p.number = q.plugin
              WHERE d.doubted_since IS NOT NULL AND d.seq > ?1 AND d.state IN (0, 1, 2, 5) ORDER BY d.seq LIMIT ?2",
        )?
        .query_map(params![after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok(Doubted {
                delivery: row.get(0)?,
                event: EventId::from_bytes(row.get(1)?),
                name: row.get(2)?,
                account: row.get(3)?,
                entity: row.get(4)?,
                plugin: row.get(5)?,
                state: DeliveryState::from_number(row.get(6)?),
            })
        })?
        .collect()
}

/// Recognises a copy, whichever way it came here: from now on it is a store that waits.
pub(super) fn adopt(connection: &mut Connection, now: i64) -> rusqlite::Result<()> {
    if !backup::is_copy(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    let copied_at: i64 = transaction.query_row("SELECT copied_at FROM backup", [], |row| row.get(0))?;
    transaction.execute(
        "INSERT INTO restored (copied_at, restored_at, version, up_to) SELECT copied_at, ?1, version, up_to FROM backup",
        [now],
    )?;
    // What was doubted before stays so from then on: it has not been settled.
    transaction.execute(
        "UPDATE delivery SET doubted_since = ?1 WHERE state IN (0, 1, 2, 5) AND doubted_since IS NULL",
        [copied_at],
    )?;
    transaction.execute(
        "UPDATE event SET doubted_since = ?1 WHERE doubted_since IS NULL AND seq > (SELECT seq FROM cursor WHERE name = 'routed')",
        [copied_at],
    )?;
    // Its process did not end: it was copied while it ran.
    transaction.execute("UPDATE delivery INDEXED BY delivery_running SET began = -1 WHERE state = 2", [])?;
    transaction.execute("UPDATE polled SET says = ?1 WHERE record = '' AND says = 'known'", [RESTORED])?;
    transaction.execute_batch("DROP TABLE backup_file; DROP TABLE backup;")?;
    transaction.commit()
}

/// Whether the store waits for an operator.
pub(super) fn waits(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM restored WHERE released_at IS NULL)", [], |row| row.get(0))
}

pub(super) fn go_on(connection: &Connection, who: &str, now: i64) -> rusqlite::Result<usize> {
    connection
        .execute("UPDATE restored SET released_at = ?1, released_by = ?2 WHERE released_at IS NULL", params![now, who])
}

/// Since when a delivery's writes may have been done without the ledger's knowledge.
pub(super) fn since(connection: &Connection, delivery: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT doubted_since FROM delivery WHERE seq = ?1")?
        .query_row([delivery], |row| row.get(0))
        .optional()
        .map(Option::flatten)
}

/// What a watched list shows before it was read once after a restore may have been told, and worked on, before.
pub(super) fn doubt_found(connection: &Connection, account: &str, list: &str, event: EventId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE event SET doubted_since = (SELECT copied_at FROM restored ORDER BY number DESC LIMIT 1)
              WHERE id = ?1 AND EXISTS (SELECT 1 FROM polled WHERE account = ?2 AND list = ?3 AND record = '' AND says = ?4)",
        )?
        .execute(params![event.as_bytes(), account, list, RESTORED])?;
    Ok(())
}
