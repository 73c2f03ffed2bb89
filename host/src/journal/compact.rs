//! The store written anew, without the room that nothing uses any more, and with every index built from its table.
//!
//! - With the host stopped, and other programs kept from writing: the copy is of all that is there.
//! - **Rows are copied, and indexes are not:** SQLite's own `VACUUM` copies an index as it is, with what is wrong in it.
//! - What counts other tables is counted anew.
//! - **A good store at any moment:** the copy is whole, looked at and on the disk before it takes the name; the old file's log
//!   is emptied and removed before, so that it is never read as the new one's.
//!
//! Not here: what is lost in a table that is damaged itself (`restore`).

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::marker::{self, Marker, State};
use super::statistics::Table;
use super::{Error, damage, layout, space};
use crate::files::private;

/// Bytes that stay free beside the copy.
const SPARE: u64 = 16 << 20;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the store's files.
    pub before: u64,
    /// Bytes of them that hold nothing.
    pub spare: u64,
    /// Bytes that the copy takes at most, beside the store, until it has its place.
    pub needed: u64,
    /// Bytes that are free; `None` where the system does not tell.
    pub free: Option<u64>,
}

/// Why the store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum NotCompacted {
    /// It can't be opened, or is in use.
    #[error(transparent)]
    Journal(#[from] Error),
    /// Another program has it open.
    #[error("another program reads the journal's file: end it (`fuser {0}` names it), and run this again")]
    Read(PathBuf),
    /// There is no room for the copy.
    #[error("the copy needs up to {needed} MiB for a while, and {free} MiB are free: make room, and run this again")]
    Room {
        /// What is needed.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// A table can't be copied as a whole.
    #[error("the table `{table}` can't be copied ({cause}): bring back a copy with `salesman-host restore`")]
    Table {
        /// Which.
        table: String,
        /// Why.
        cause: String,
    },
    /// The copy is not what it should be.
    #[error(
        "the copy is not as the journal is ({0}), and was thrown away: `salesman-host journal check` looks at the journal"
    )]
    Differs(String),
    /// The disk refused.
    #[error("the copy could not be written: {0}")]
    Disk(#[from] std::io::Error),
}

impl From<rusqlite::Error> for NotCompacted {
    fn from(error: rusqlite::Error) -> Self {
        Self::Journal(error.into())
    }
}

/// The copy, until it has its place.
pub(super) fn beside(data_dir: &Path) -> PathBuf {
    data_dir.join("journal.sqlite.compact")
}

/// Removes what a compaction that was broken off has left.
pub(super) fn clear(data_dir: &Path) {
    for end in ["", "-journal", "-wal", "-shm"] {
        drop(std::fs::remove_file(layout::beside(&beside(data_dir), end)));
    }
}

/// Writes the store in a folder anew; `begins` hears what it takes. Returns the bytes of the new file.
///
/// # Errors
/// [`NotCompacted`]: the store is as it was.
pub fn compact(data_dir: &Path, begins: impl FnOnce(&Plan)) -> Result<u64, NotCompacted> {
    let file = layout::file(data_dir);
    // Nothing is made where nothing is.
    std::fs::metadata(&file).map_err(|error| Error::of_file(data_dir, &error))?;
    // Held to the end.
    let lock = layout::lock(data_dir)?;
    let marker = marker::judged(data_dir)?;
    clear(data_dir);
    let mut old = Connection::open(&file)?;
    layout::keep_log(&old, true)?;
    marker::matches(&old, data_dir, marker.as_ref())?;
    layout::known(&old, data_dir)?;
    let busy: i64 = old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        return Err(NotCompacted::Read(file));
    }
    // Nobody else writes from here on.
    let held = old.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if std::fs::metadata(layout::log_of(&file)).is_ok_and(|log| log.len() > 0) {
        return Err(NotCompacted::Read(file));
    }
    // All of it is in the file: where the host was killed, its log is not missed any more, whatever happens from here on.
    if let Some(marker) = marker {
        Marker { state: State::Closed, ..marker }.write(data_dir)?;
    }
    let ask = |pragma: &str| held.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, u32>(0)).map(u64::from);
    let (page, pages, spare) = (ask("page_size")?, ask("page_count")?, ask("freelist_count")?);
    let plan = Plan {
        before: page * pages,
        spare: page * spare,
        needed: page * pages.saturating_sub(spare) + SPARE,
        free: space::free(data_dir),
    };
    begins(&plan);
    if let Some(free) = plan.free.filter(|free| *free < plan.needed) {
        return Err(NotCompacted::Room { needed: plan.needed.div_ceil(1 << 20), free: free >> 20 });
    }
    let made = make(&file, &beside(data_dir));
    if made.is_err() {
        clear(data_dir);
    }
    made?;
    let folder = File::open(data_dir)?;
    // Emptied above, and not there any more before another store has its name.
    for name in ["-wal", "-shm"].map(|end| layout::beside(&file, end)) {
        match std::fs::remove_file(name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    folder.sync_all()?;
    std::fs::rename(beside(data_dir), &file)?;
    folder.sync_all()?;
    held.rollback()?;
    drop(old);
    let size = std::fs::metadata(&file)?.len();
    drop(lock);
    Ok(size)
}

/// Makes the copy, looks at it, and brings it onto the disk.
fn make(from: &Path, to: &Path) -> Result<(), NotCompacted> {
    drop(private::open(to).map_err(layout::not_private(to))?);
    let new = Connection::open(to)?;
    new.execute("ATTACH DATABASE ?1 AS old", [from.to_string_lossy()])?;
    let ask = |pragma: &str| new.query_row(&format!("PRAGMA old.{pragma}"), [], |row| row.get::<_, i64>(0));
    let (page, version, application) = (ask("page_size")?, ask("user_version")?, ask("application_id")?);
    // Nothing of it counts before all of it is there.
    new.execute_batch(&format!(
        "PRAGMA main.page_size = {page}; PRAGMA main.journal_mode = MEMORY; PRAGMA main.synchronous = OFF;
         PRAGMA main.cache_size = -65536; BEGIN;
         PRAGMA main.user_version = {version}; PRAGMA main.application_id = {application};"
    ))?;
    for table in schema(&new, "table")? {
        new.execute_batch(&table.1)?;
    }
    for table in damage::tables(&new)?.iter().filter(|table| *table != "sqlite_sequence") {
        copy(&new, table)?;
    }
    // No number is given twice, that of a row which is gone included.
    new.execute_batch(
        "DELETE FROM main.sqlite_sequence; INSERT INTO main.sqlite_sequence SELECT * FROM old.sqlite_sequence",
    )?;
    for kind in ["index", "view"] {
        for (_, sql) in schema(&new, kind)? {
            new.execute_batch(&sql)?;
        }
    }
    for table in Table::ALL {
        new.execute_batch(table.counted()[0])?;
    }
    for (_, sql) in schema(&new, "trigger")? {
        new.execute_batch(&sql)?;
    }
    new.execute_batch("COMMIT")?;
    let sound: String = new.query_row("PRAGMA main.quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(NotCompacted::Differs(sound));
    }
    new.execute_batch("DETACH DATABASE old")?;
    let mode: String = new.query_row("PRAGMA main.journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(NotCompacted::Differs(format!("its journal mode is `{mode}`")));
    }
    new.close().map_err(|(_, error)| error)?;
    File::open(to)?.sync_all()?;
    Ok(())
}

/// What the old store's schema has of a kind, in the order in which it was made: name and words.
fn schema(new: &Connection, kind: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut all = new.prepare(
        "SELECT name, sql FROM old.sqlite_schema WHERE type = ?1 AND sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
          ORDER BY rowid",
    )?;
    all.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Copies a table's rows, and compares how many there are.
fn copy(new: &Connection, table: &str) -> Result<(), NotCompacted> {
    match Table::of(table) {
        Some(Table::Tally | Table::StateUse) => return Ok(()),
        // It begins anew.
        Some(Table::Minute) if !is_sound(new, table) => return Ok(()),
        _ => {}
    }
    let failed = |error: rusqlite::Error| match Error::from(&error) {
        other @ (Error::Full | Error::Disk(_) | Error::Locked) => NotCompacted::Journal(other),
        _ => NotCompacted::Table { table: table.to_owned(), cause: error.to_string() },
    };
    // With a condition it goes row by row, and not by whole pages of the indexes that SQLite made for the table.
    let rows = new
        .execute(&format!("INSERT INTO main.\"{table}\" SELECT * FROM old.\"{table}\" NOT INDEXED WHERE true"), [])
        .map_err(failed)?;
    let there: i64 = new
        .query_row(&format!("SELECT count(*) FROM old.\"{table}\" NOT INDEXED"), [], |row| row.get(0))
        .map_err(failed)?;
    if u64::try_from(there).ok() == u64::try_from(rows).ok() {
        Ok(())
    } else {
        Err(NotCompacted::Differs(format!("of `{table}` {rows} of {there} rows")))
    }
}

fn is_sound(new: &Connection, table: &str) -> bool {
    let said = new.query_row(&format!("PRAGMA old.integrity_check(\"{table}\")"), [], |row| row.get::<_, String>(0));
    said.is_ok_and(|said| said == "ok")
}
