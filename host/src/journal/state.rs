//! What plugins keep: written with the outcome, within a bound for each plugin and account, and one for all together.
//!
//! - **What is kept is counted as it changes** (`state_use`), by the store itself and in the same transaction, so the count is
//!   right whoever changes state: an attempt, or an operator who has a record forgotten.
//! - A key counts with its own bytes and its value's; a value that is replaced no longer counts. An attempt that leaves no
//!   more than was there is never refused, so a plugin can always get below its bound again.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::{DeliveryId, Error, Handle, Settlement};
use crate::outcome::{Effects, StateWrite};

/// What one plugin keeps of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateUse {
    /// How many keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// What one plugin keeps of one account, for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StateOf {
    /// The plugin.
    pub plugin: String,
    /// The CRM.
    pub account: String,
    /// How many keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Handle {
    /// What each plugin keeps.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn state_uses(&self) -> Result<Vec<StateOf>, Error> {
        self.readers.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT p.name, u.account, u.keys, u.bytes FROM state_use u JOIN plugin p ON p.number = u.plugin
                      WHERE u.keys > 0 ORDER BY 1, 2",
                )?
                .query_map([], |row| {
                    let (keys, bytes) = (number(row.get(2)?), number(row.get(3)?));
                    Ok(StateOf { plugin: row.get(0)?, account: row.get(1)?, keys, bytes })
                })?
                .collect()
        })
    }
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// What writing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrittenState {
    /// As asked.
    Applied,
    /// The plugin would keep more than it may: nothing is written.
    Full,
    /// All plugins together would: nothing is written.
    AllFull,
}

/// Whether a value that the attempt saw, or adds to, is another by now.
pub(super) fn moved(connection: &Connection, plugin: i64, account: &str, effects: &Effects) -> rusqlite::Result<bool> {
    let mut version =
        connection.prepare_cached("SELECT version FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?;
    for (key, seen) in &effects.state.seen {
        let stored: Option<i64> = version.query_row(params![plugin, account, key], |row| row.get(0)).optional()?;
        if stored != seen.map(|seen| i64::try_from(seen).unwrap_or(i64::MAX)) {
            return Ok(true);
        }
    }
    // A number that another delivery has replaced by something else can't be added to.
    for (key, write) in &effects.state.writes {
        if let StateWrite::Add(amount) = write
            && grown(connection, plugin, account, key, *amount)?.is_none()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number at `key` with `amount` added; `None` where there is no number, or none that can grow so far.
fn grown(connection: &Connection, plugin: i64, account: &str, key: &str, amount: i64) -> rusqlite::Result<Option<i64>> {
    let stored: Option<String> = connection
        .prepare_cached("SELECT value FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?
        .query_row(params![plugin, account, key], |row| row.get(0))
        .optional()?;
    Ok(stored.map_or(Some(0), |text| text.parse::<i64>().ok()).and_then(|number| number.checked_add(amount)))
}

fn used(connection: &Connection, plugin: i64, account: &str) -> rusqlite::Result<StateUse> {
    let used = connection
        .prepare_cached("SELECT keys, bytes FROM state_use WHERE plugin = ?1 AND account = ?2")?
        .query_row(params![plugin, account], |row| {
            Ok(StateUse { keys: number(row.get(0)?), bytes: number(row.get(1)?) })
        });
    Ok(used.optional()?.unwrap_or_default())
}

/// Writes what the attempt wrote, if there is room for it. `most`: bytes of all plugins together.
pub(super) fn write(
    connection: &Connection,
    (plugin, account): (i64, &str),
    settlement: &Settlement,
    most: u64,
) -> rusqlite::Result<WrittenState> {
    let before = used(connection, plugin, account)?;
    connection.execute_batch("SAVEPOINT state")?;
    apply(connection, plugin, account, settlement)?;
    let after = used(connection, plugin, account)?;
    let written = match settlement.effects.state.quota {
        Some(quota) if after.bytes > quota.bytes.max(before.bytes) || after.keys > quota.keys.max(before.keys) => {
            WrittenState::Full
        }
        _ if after.bytes > before.bytes && all(connection)? > most => WrittenState::AllFull,
        _ => WrittenState::Applied,
    };
    if written != WrittenState::Applied {
        connection.execute_batch("ROLLBACK TO state")?;
    }
    connection.execute_batch("RELEASE state")?;
    Ok(written)
}

fn all(connection: &Connection) -> rusqlite::Result<u64> {
    let sum =
        connection.prepare_cached("SELECT coalesce(sum(bytes), 0) FROM state_use")?.query_row([], |row| row.get(0));
    sum.map(number)
}

fn apply(connection: &Connection, plugin: i64, account: &str, settlement: &Settlement) -> rusqlite::Result<()> {
    // No two settlements share a delivery and an attempt, so a version never comes back.
    let DeliveryId(seq) = settlement.delivery;
    let version = (seq << 16) | i64::from(settlement.attempt & 0xffff);
    // Not `OR REPLACE`: the row that it takes away would not be told to the count.
    let set = |key: &str, value: &str| {
        connection
            .prepare_cached(
                "INSERT INTO state VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (plugin, account, key) DO UPDATE SET value = excluded.value, version = excluded.version",
            )?
            .execute(params![plugin, account, key, value, version])
    };
    for (key, write) in &settlement.effects.state.writes {
        match write {
            StateWrite::Set(value) => set(key, value)?,
            StateWrite::Add(amount) => {
                let sum = grown(connection, plugin, account, key, *amount)?.unwrap_or_default();
                set(key, &sum.to_string())?
            }
            StateWrite::Delete => connection
                .prepare_cached("DELETE FROM state WHERE plugin = ?1 AND account = ?2 AND key = ?3")?
                .execute(params![plugin, account, key])?,
        };
    }
    Ok(())
}
