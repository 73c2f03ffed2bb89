//! A copy of the store in one file, made while the host runs or stands, with the files that belong to it.
//!
//! ```text
//! FILE    the store's tables, as they were at one moment
//!         backup        one row: when, by which version, up to which event
//!         backup_file   what else belongs to it: configuration, grants, plugins, their versions and what was decided about them
//!         one more page, which SQLite does not look at: the hash of all before it
//! ```
//!
//! - **One read transaction for the whole copy**: the host's commits neither show in it nor make it begin anew. The writer
//!   waits for no reader; the log of changes grows meanwhile, and is cut off afterwards.
//! - Copied in small steps with pauses, and brought to the disk as it goes: a disk that is busy for seconds would hold up
//!   the host's own commits.
//! - Nothing stands under the file's name before all of it is on the disk and was looked through.
//! - A file that holds `backup` is a copy wherever it is found: a host that opens one as its store waits (`restored`).
//!
//! Not here: which files belong to it, and where they are (`cli`); the way back (`restore`).

mod beside;
mod error;
mod read;

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};

use super::statistics::Table;
use super::{damage, layout};
use crate::clock::Clock;
use crate::files;
use beside::{Beside, Room};
pub use error::BackupError;
pub(super) use error::system;
use read::told;
pub use read::verified;
pub(super) use read::{hashed, is_copy, look, parts, seal};

/// The format of what surrounds the store in a copy.
const FORMAT: i64 = 1;
/// Pages of one step: 1 MiB.
const STEP: i32 = 256;
/// The shortest pause between two steps.
const PAUSE: Duration = Duration::from_millis(1);
/// Steps after which the copy is brought to the disk, and the disk is looked at.
const STEPS_TO_DISK: u32 = 8;
/// How long a store that is locked as a whole (a host that just starts or ends) is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the log of changes may grow by meanwhile, and what is left free beyond what is needed.
const MARGIN: u64 = 128 << 20;
/// Bytes of one file that belongs to the store.
const MOST_FILE: u64 = 256 << 20;
/// How long the copy is looked through at most; nobody waits for it.
const LONGEST_LOOK: Duration = Duration::from_secs(24 * 3_600);
/// The last page of a copy: what it begins with, before the hash.
const SEAL: &[u8; 32] = b"SalesMan Plugin Host backup 1\n\0\0";
/// Bytes of that page.
const SEAL_PAGE: usize = 4_096;

/// What a file beside the store is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The configuration.
    Config,
    /// What was approved with `plugin grant`.
    Grants,
    /// A file of the plugin folder.
    Plugin,
    /// A version that is kept, as `NAME/HASH.wasm`.
    Version,
    /// What is recorded about versions, such as `live.json`.
    Record,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Config, Self::Grants, Self::Plugin, Self::Version, Self::Record];

    /// The word that is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Grants => "grants",
            Self::Plugin => "plugin",
            Self::Version => "version",
            Self::Record => "record",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A file that belongs to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Its name, without the folder.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// A file out of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What it is.
    pub kind: Kind,
    /// Its name, without the folder.
    pub name: String,
    /// When it was last written: milliseconds since 1970-01-01 UTC.
    pub modified: i64,
    /// What it holds.
    pub contents: Vec<u8>,
}

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// When: milliseconds since 1970-01-01 UTC.
    pub copied_at: i64,
    /// The version of the program that made it.
    pub version: String,
    /// Events in it.
    pub events: u64,
    /// Deliveries that were open, dead letters included.
    pub open: u64,
    /// Files in it, besides the store.
    pub files: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// What whoever made it should know.
    pub remarks: Vec<String>,
}

/// What is to be copied.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The folder with the store.
    pub data_dir: &'a Path,
    /// The copy.
    pub to: &'a Path,
    /// Whether an earlier copy may be replaced.
    pub replace: bool,
    /// What else belongs to it.
    pub parts: &'a [Part],
    /// Bytes that the host keeps free on the disk with the store.
    pub least_free: u64,
    /// Turns true when somebody wants it to end.
    pub stop: &'a AtomicBool,
}

/// Copies a store with what belongs to it.
///
/// # Errors
/// [`BackupError`]: there is no copy; an earlier one stays.
pub fn back_up(wanted: &Wanted<'_>, clock: &Clock) -> Result<Copied, BackupError> {
    free_name(wanted)?;
    let opened = opened(wanted.data_dir)?;
    let source = &opened.connection;
    let copied_at = clock.now();
    source.execute_batch("BEGIN")?;
    // The first look is what the transaction shows until its end.
    let (routed, events): (i64, i64) = retried(|| {
        source.query_row(
            "SELECT (SELECT seq FROM cursor WHERE name = 'routed'), (SELECT coalesce(max(seq), 0) FROM event)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    })?;
    let beside = Beside::new(wanted.to)?;
    let ask = |pragma: &str| source.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
    let store = u64::try_from(ask("page_count")?.saturating_mul(ask("page_size")?)).unwrap_or(0);
    let parts: u64 = wanted.parts.iter().filter_map(|part| Some(std::fs::metadata(&part.path).ok()?.len())).sum();
    let room = Room::of(wanted);
    room.has(store.saturating_add(parts).saturating_add(MARGIN))?;
    pages(source, &beside, wanted.stop, &room)?;
    source.execute_batch("ROLLBACK")?;
    drop(opened);
    let mut copied = completed(&beside, wanted, copied_at, routed.max(events))?;
    copied.bytes = beside.sealed()?;
    if wanted.stop.load(Ordering::Relaxed) {
        return Err(BackupError::Stopped);
    }
    beside.named(wanted)?;
    Ok(copied)
}

/// Whether the copy may have its name.
fn free_name(wanted: &Wanted<'_>) -> Result<(), BackupError> {
    match std::fs::symlink_metadata(wanted.to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system(wanted.to)(error)),
        Ok(_) if !wanted.replace => Err(BackupError::Exists(wanted.to.to_owned())),
        Ok(metadata) if metadata.is_file() && seal(wanted.to).is_ok() => Ok(()),
        Ok(_) => Err(BackupError::Foreign(wanted.to.to_owned())),
    }
}

/// The store, on a connection that changes nothing in it. Where no host has it open, SQLite makes the log's files, which get
/// the store's owner, and removes them when it is closed.
fn opened(data_dir: &Path) -> Result<Source, BackupError> {
    let file = layout::file(data_dir);
    match std::fs::metadata(&file) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(system(&file)(error)),
        _ => return Err(BackupError::NoStore(data_dir.to_owned())),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // The last connection to a store brings its log back into it and removes it. A host that was killed is known by that log: it stays.
    let had_log = layout::log_of(&file).exists();
    let source = Source { connection: Connection::open_with_flags(&file, flags)? };
    layout::keep_log(&source.connection, had_log)?;
    let connection = &source.connection;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096;")?;
    retried(|| connection.query_row("PRAGMA user_version", [], |_| Ok(())))?;
    if layout::known(connection, data_dir)? == 0 {
        return Err(BackupError::NoStore(data_dir.to_owned()));
    }
    Ok(source)
}

/// A connection that changes nothing in a store.
struct Source {
    connection: Connection,
}

/// A host that starts or ends holds the whole store for a moment.
fn retried<T>(ask: impl Fn() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            asked => return asked,
        }
    }
}

/// Copies page by page.
fn pages(source: &Connection, beside: &Beside, stop: &AtomicBool, room: &Room) -> Result<(), BackupError> {
    let mut target = beside.opened(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4096;",
    )?;
    let copying = Backup::new(source, &mut target)?;
    let mut steps = 0_u32;
    loop {
        let began = Instant::now();
        match copying.step(STEP)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
        steps = steps.wrapping_add(1);
        if stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        if steps.is_multiple_of(STEPS_TO_DISK) {
            beside.handle.sync_data().map_err(system(&beside.path))?;
            room.has(0)?;
        }
        // As long as it took: half of the disk's and the processor's time is others'.
        std::thread::sleep(began.elapsed().max(PAUSE));
    }
}

/// Puts what belongs to the store beside it, and looks all of it through.
fn completed(beside: &Beside, wanted: &Wanted<'_>, copied_at: i64, up_to: i64) -> Result<Copied, BackupError> {
    // One file: the store's way of keeping a log beside it is not the copy's.
    let copy = beside.opened("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF;")?;
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    copy.close().map_err(|(_, error)| error)?;
    let mut copy = beside.opened("PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;")?;
    copy.query_row("PRAGMA journal_mode = MEMORY", [], |_| Ok(()))?;
    let version = env!("CARGO_PKG_VERSION");
    let transaction = copy.transaction()?;
    transaction.execute_batch(
        "DROP TABLE IF EXISTS backup; DROP TABLE IF EXISTS backup_file;
         CREATE TABLE backup (format INTEGER NOT NULL, copied_at INTEGER NOT NULL, version TEXT NOT NULL, up_to INTEGER NOT NULL) STRICT;
         CREATE TABLE backup_file (
             kind TEXT NOT NULL, name TEXT NOT NULL, modified INTEGER NOT NULL, contents BLOB NOT NULL,
             PRIMARY KEY (kind, name)
         ) STRICT;",
    )?;
    transaction.execute("INSERT INTO backup VALUES (?1, ?2, ?3, ?4)", params![FORMAT, copied_at, version, up_to])?;
    let (mut files, mut remarks) = (0, Vec::new());
    for Part { kind, name, path } in wanted.parts {
        let contents = match files::read(path, MOST_FILE) {
            // An old version goes when a newer one comes; an operator may remove a plugin.
            Err(error) if error.kind() == ErrorKind::NotFound && matches!(kind, Kind::Version | Kind::Plugin) => {
                remarks.push(format!("`{}` was removed meanwhile, and is not in it", path.display()));
                continue;
            }
            read => read.map_err(system(path))?,
        };
        let modified = std::fs::metadata(path)
            .map(|metadata| metadata.mtime().saturating_mul(1_000) + metadata.mtime_nsec() / 1_000_000);
        transaction.execute(
            "INSERT OR REPLACE INTO backup_file VALUES (?1, ?2, ?3, ?4)",
            params![kind.as_str(), name, modified.map_err(system(path))?, contents],
        )?;
        files += 1;
    }
    transaction.commit()?;
    // Table by table: pages that nothing leads to any more are no damage.
    // Nobody's log grows for it.
    let bound = damage::Bound::new(LONGEST_LOOK, wanted.to.parent().unwrap_or(wanted.to), 0);
    let looked = damage::look(&copy, &bound);
    if !looked.left.is_empty() {
        return Err(BackupError::Stopped);
    }
    for damage in looked.damaged {
        // What it is made of is there: it can be made anew.
        if damage.index.is_some() || Table::of(&damage.table).is_some() {
            remarks.push(format!("{} is damaged, in the store as well: {}", damage.what(), damage.remedy()));
        } else {
            return Err(BackupError::Damaged(format!("{}, {}", damage.what(), damage.words.join("; "))));
        }
    }
    let copied = told(&copy)?.ok_or_else(|| BackupError::Damaged("the copy says nothing of itself".to_owned()))?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(Copied { files, remarks, ..copied })
}
