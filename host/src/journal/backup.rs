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

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::layout;
use crate::clock::Clock;
use crate::files;

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
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// The last page of a copy: what it begins with, before the hash.
const SEAL: &[u8; 32] = b"SalesMan Plugin Host backup 1\n\0\0";
/// Bytes of that page.
pub(super) const SEAL_PAGE: usize = 4_096;

/// Why there is no copy, or no way back from one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to copy.
    #[error("there is no store in `{0}`: no host has run with this `server.data_dir`")]
    NoStore(PathBuf),
    /// The name is taken.
    #[error("`{0}` is there already: name another file, or say `--replace`")]
    Exists(PathBuf),
    /// The name is taken by something else.
    #[error("`{0}` is there and no backup of a host: it is not replaced")]
    Foreign(PathBuf),
    /// Another one writes it.
    #[error("`{0}` is being written by another `backup`: wait for it")]
    Busy(PathBuf),
    /// The disk has too little room.
    #[error(
        "the disk with `{path}` has {free} MiB free and {needed} MiB are needed, the growth of the journal's log meanwhile and what the host keeps free included: make room, or name a file on another disk"
    )]
    Room {
        /// On which disk.
        path: PathBuf,
        /// Mebibytes.
        needed: u64,
        /// Mebibytes.
        free: u64,
    },
    /// Somebody ended it.
    #[error("it was ended before the copy was complete: nothing is left of it")]
    Stopped,
    /// The store is damaged.
    #[error(
        "the store is damaged, and a copy of it would be no way back: {0}; keep the last good backup, and copy the data folder as it is while the host is stopped"
    )]
    Damaged(String),
    /// It is no copy of ours.
    #[error("`{0}` is no backup of this host: {1}")]
    NotOurs(PathBuf, &'static str),
    /// It is not what was written.
    #[error("`{0}` is damaged: its contents are not those that `backup` wrote; take another copy")]
    Broken(PathBuf),
    /// It is of a newer program.
    #[error("`{path}` was written by version {version}, whose format this program does not know: use that version")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Who wrote it.
        version: String,
    },
    /// A file can't be read or written.
    #[error("`{path}`: {cause}")]
    System {
        /// What.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The store can't be read or written.
    #[error("the store can't be copied: {0}")]
    Store(#[from] rusqlite::Error),
    /// The data folder can't be used.
    #[error(transparent)]
    Folder(#[from] super::Error),
    /// The data folder has a store already.
    #[error(
        "`{0}` has a store with events already: `--replace` moves it aside, within the folder, and puts this one in its place"
    )]
    Used(PathBuf),
}

pub(super) fn system(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    |cause| BackupError::System { path: path.to_owned(), cause }
}

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
    let log = data_dir.join("journal.sqlite-wal");
    let source = Source { connection: Connection::open_with_flags(&file, flags)?, log };
    let connection = &source.connection;
    connection.busy_timeout(PATIENCE)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096;")?;
    let known = i64::try_from(layout::STEPS.len()).unwrap_or(i64::MAX);
    let found: i64 = retried(|| connection.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
    if found > known {
        return Err(super::Error::Newer { path: data_dir.to_owned(), found, known }.into());
    }
    if found == 0 {
        return Err(BackupError::NoStore(data_dir.to_owned()));
    }
    Ok(source)
}

/// A connection that changes nothing in a store.
struct Source {
    connection: Connection,
    log: PathBuf,
}

impl Drop for Source {
    /// The last connection to a store brings its log back into it and removes it. A host that was killed is known by that log: it
    /// stays.
    fn drop(&mut self) {
        let log = std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        // What can't be said is not done: the log is brought back, as by any other program.
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, log > 0).ok();
    }
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
    let mut files = 0;
    for Part { kind, name, path } in wanted.parts {
        let contents = match files::read(path, MOST_FILE) {
            // An old version goes when a newer one comes.
            Err(error) if error.kind() == ErrorKind::NotFound && *kind == Kind::Version => continue,
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
    let found: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(BackupError::Damaged(found));
    }
    let copied = told(&copy)?.ok_or_else(|| BackupError::Damaged("the copy says nothing of itself".to_owned()))?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(Copied { files, ..copied })
}

/// What a copy says of itself; none where it is no copy.
fn told(connection: &Connection) -> rusqlite::Result<Option<Copied>> {
    let is_copy: bool =
        connection
            .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'backup')", [], |row| row.get(0))?;
    if !is_copy {
        return Ok(None);
    }
    connection
        .query_row(
            "SELECT copied_at, version, (SELECT count(*) FROM event),
                    (SELECT coalesce(sum(deliveries), 0) FROM tally), (SELECT count(*) FROM backup_file) FROM backup",
            [],
            |row| {
                let number = |index| row.get::<_, i64>(index).map(|number| u64::try_from(number).unwrap_or(0));
                let (copied_at, version) = (row.get(0)?, row.get(1)?);
                Ok(Copied { copied_at, version, events: number(2)?, open: number(3)?, files: number(4)?, bytes: 0 })
            },
        )
        .optional()
}

/// Looks at a copy: whether it is one, and of a format that this program knows. Whether it is whole shows when it is read.
///
/// # Errors
/// [`BackupError`]: it is none, or can't be used.
pub(super) fn look(file: &Path) -> Result<Copied, BackupError> {
    let no_store = |_| BackupError::NotOurs(file.to_owned(), "it is no file of SQLite's, or a part of one");
    let metadata = std::fs::metadata(file).map_err(system(file))?;
    if !metadata.is_file() {
        return Err(BackupError::NotOurs(file.to_owned(), "it is no file"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.execute_batch("PRAGMA trusted_schema = OFF;").map_err(no_store)?;
    let unnamed = || BackupError::NotOurs(file.to_owned(), "a store it may be, but `backup` did not write it");
    let row = connection.query_row("SELECT format, version FROM backup", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    });
    let (format, version) = match row {
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            return Err(no_store(error));
        }
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == rusqlite::ErrorCode::DatabaseCorrupt => {
            return Err(BackupError::Broken(file.to_owned()));
        }
        Err(_) => return Err(unnamed()),
        Ok(row) => row,
    };
    let steps: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if format > FORMAT || steps > i64::try_from(layout::STEPS.len()).unwrap_or(i64::MAX) {
        return Err(BackupError::Newer { path: file.to_owned(), version });
    }
    let damaged = |_| BackupError::Broken(file.to_owned());
    let copied = told(&connection).map_err(damaged)?.ok_or_else(unnamed)?;
    seal(file)?;
    Ok(Copied { bytes: metadata.len(), ..copied })
}

/// The files in a copy, one after the other.
pub(super) fn parts<E: From<BackupError>>(file: &Path, mut told: impl FnMut(Kept) -> Result<(), E>) -> Result<(), E> {
    let failed = |error: rusqlite::Error| E::from(BackupError::from(error));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(failed)?;
    let mut rows = connection
        .prepare("SELECT kind, name, modified, contents FROM backup_file ORDER BY kind, name")
        .map_err(failed)?;
    let mut rows = rows.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let kind: String = row.get(0).map_err(failed)?;
        // One that a later version knows.
        let Some(kind) = Kind::parse(&kind) else { continue };
        let name = row.get(1).map_err(failed)?;
        let (modified, contents) = (row.get(2).map_err(failed)?, row.get(3).map_err(failed)?);
        told(Kept { kind, name, modified, contents })?;
    }
    Ok(())
}

/// What a copy holds of one kind of file, after all of the copy was compared with its hash.
///
/// # Errors
/// [`BackupError`]: it is no copy, or damaged.
pub fn verified(file: &Path, kind: Kind) -> Result<Vec<Kept>, BackupError> {
    look(file)?;
    let (bytes, hash) = seal(file)?;
    let found = File::open(file).and_then(|mut from| hashed(&mut from, bytes, |_| Ok(())));
    if found.map_err(system(file))? != hash {
        return Err(BackupError::Broken(file.to_owned()));
    }
    let mut found = Vec::new();
    parts(file, |kept| {
        if kept.kind == kind {
            found.push(kept);
        }
        Ok::<(), BackupError>(())
    })?;
    Ok(found)
}

/// The hash that a copy ends with, and the bytes before it.
pub(super) fn seal(file: &Path) -> Result<(u64, [u8; 32]), BackupError> {
    let failed = system(file);
    let read = || -> Result<Option<(u64, [u8; 32])>, std::io::Error> {
        let mut handle = File::open(file)?;
        let page = i64::try_from(SEAL_PAGE).unwrap_or(0);
        if handle.metadata()?.len() < u64::try_from(2 * page).unwrap_or(0) {
            return Ok(None);
        }
        let before = handle.seek(SeekFrom::End(-page))?;
        let (mut words, mut hash) = ([0; 32], [0; 32]);
        handle.read_exact(&mut words)?;
        handle.read_exact(&mut hash)?;
        Ok((words == *SEAL).then_some((before, hash)))
    };
    let unsealed = || BackupError::NotOurs(file.to_owned(), "its end is missing, or `backup` did not write it");
    read().map_err(failed)?.ok_or_else(unsealed)
}

/// Reads so many bytes, hands them on, and tells their hash.
pub(super) fn hashed(
    from: &mut File,
    bytes: u64,
    mut to: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<[u8; 32]> {
    let (mut hash, mut left, mut chunk) = (Sha256::new(), bytes, vec![0; CHUNK]);
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let Some(part) = chunk.get_mut(..most) else { break };
        from.read_exact(part)?;
        hash.update(&*part);
        to(part)?;
        left -= u64::try_from(most).unwrap_or(left);
    }
    Ok(hash.finalize().into())
}

/// The copy, before it has its name; removed where it does not get it.
struct Beside {
    path: PathBuf,
    /// Holds the lock that keeps another `backup` away from it.
    handle: File,
    kept: bool,
}

impl Beside {
    /// One that an end of the process left behind is written over.
    fn new(to: &Path) -> Result<Self, BackupError> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let path = to.with_file_name(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let handle = options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(&path);
        let handle = handle.map_err(system(&path))?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::Busy(to.to_owned())),
            Err(TryLockError::Error(error)) => return Err(system(&path)(error)),
        }
        let beside = Self { path, handle, kept: false };
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        beside.handle.set_permissions(private).map_err(system(&beside.path))?;
        beside.handle.set_len(0).map_err(system(&beside.path))?;
        beside.without_logs();
        Ok(beside)
    }

    fn opened(&self, pragmas: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
        connection.execute_batch(pragmas)?;
        Ok(connection)
    }

    /// What SQLite kept beside it, and what an end of the process left behind.
    fn without_logs(&self) {
        for log in ["-journal", "-wal", "-shm"] {
            let mut path = self.path.clone().into_os_string();
            path.push(log);
            std::fs::remove_file(path).ok();
        }
    }

    /// Puts the hash behind it, and all of it on the disk; returns its bytes.
    fn sealed(&self) -> Result<u64, BackupError> {
        let write = || -> std::io::Result<u64> {
            let mut file = self.handle.try_clone()?;
            let bytes = file.metadata()?.len();
            file.seek(SeekFrom::Start(0))?;
            let hash = hashed(&mut file, bytes, |_| Ok(()))?;
            let mut page = [0; SEAL_PAGE];
            let words = SEAL.iter().chain(&hash);
            page.iter_mut().zip(words).for_each(|(to, from)| *to = *from);
            file.write_all(&page)?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        };
        write().map_err(system(&self.path))
    }

    fn named(mut self, wanted: &Wanted<'_>) -> Result<(), BackupError> {
        let to = wanted.to;
        if wanted.replace {
            std::fs::rename(&self.path, to).map_err(system(to))?;
        } else {
            // One that came meanwhile stays.
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            let (from, here) = (&self.path, rustix::fs::CWD);
            match rustix::fs::renameat_with(here, from, here, to, flags) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => return Err(BackupError::Exists(to.to_owned())),
                // The file system does not know it.
                Err(_) => std::fs::rename(from, to).map_err(system(to))?,
            }
        }
        self.kept = true;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        synced(folder).map_err(system(folder))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.without_logs();
        if !self.kept {
            // What failed is told; a rest that can't be removed is written over by the next one.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// A name is on the disk when its folder is. Some file systems can't do that, and need not.
pub(super) fn synced(folder: &Path) -> std::io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied) => Err(error),
        _ => Ok(()),
    }
}

/// The disks of the copy and of the store.
struct Room<'a> {
    wanted: &'a Wanted<'a>,
    folder: PathBuf,
    /// What must stay free where the copy is.
    kept: u64,
}

impl<'a> Room<'a> {
    fn of(wanted: &'a Wanted<'a>) -> Self {
        let folder = wanted.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let disk = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
        let same = disk(folder) == disk(wanted.data_dir);
        Self { wanted, folder: folder.to_owned(), kept: if same { wanted.least_free } else { 0 } }
    }

    /// Whether so much may still be written: a host whose disk has run full takes no events.
    fn has(&self, bytes: u64) -> Result<(), BackupError> {
        let data = self.wanted.data_dir;
        for (path, needed) in [(self.folder.as_path(), bytes.saturating_add(self.kept)), (data, self.wanted.least_free)]
        {
            let Some(free) = super::space::free(path) else { continue };
            if free < needed {
                let (path, needed, free) = (path.to_owned(), needed.div_ceil(1 << 20), free >> 20);
                return Err(BackupError::Room { path, needed, free });
            }
        }
        Ok(())
    }
}
