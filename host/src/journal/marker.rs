//! Which store a data folder belongs to: `store.json` beside the store, judged before SQLite touches anything.
//!
//! SQLite makes a new store where there is none, applies a log to whichever file lies beside it, and misses none that is gone.
//! So a file that was mislaid, emptied or put in another's place would start as if nothing had been acknowledged. The marker says
//! what was here:
//!
//! - the store's id, and a beat that its file has reached at least ([`place`](super::place) counts it);
//! - whether the host has it open: then a log lies beside it (SQLite makes it with the first look, and removes it with the last
//!   connection), or what it held is lost; said before the first change goes into the log;
//! - whether it was found replaced while the host ran.
//!
//! - **A folder without a marker is believed**: an older version's, or a new one. Who accepts what is there removes the marker.
//! - **The marker is never ahead of the store's file**: its beat was copied and synced before it was written.
//!
//! Not here: a whole folder that was put back as it was at some time. It fits together, and nobody can tell.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::layout::log_of;
use super::{Error, backup, layout, page};
use crate::files::{self, Readers};

/// The marker's name in a data folder.
const NAME: &str = "store.json";
/// No marker is longer.
const MOST: u64 = 4 << 10;

/// What became of a store, as its marker tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The host has it open, or was killed.
    Open,
    /// The host closed it, with its log in the file.
    Closed,
    /// It was replaced, or changed by another program, while the host ran.
    Replaced,
}

/// What is known of a data folder's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The store's id.
    pub(super) store: String,
    /// What its file has reached at least.
    pub(super) beat: i64,
    /// What it has reached at least with its log.
    #[serde(default)]
    pub(super) committed: i64,
    /// What its file had reached when it was judged.
    #[serde(skip)]
    pub(super) found: i64,
    /// What became of it.
    pub(super) state: State,
}

impl Marker {
    /// The marker of a data folder; none where there is none.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, Error> {
        match files::read(&data_dir.join(NAME), MOST) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| Strange::Unreadable.in_folder(data_dir)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(data_dir)(error)),
        }
    }

    /// Writes it; it is on disk afterwards.
    pub(super) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        files::replace(&data_dir.join(NAME), &text, Readers::Owner)
    }
}

/// Forgets which store a folder was used with: the next start takes what lies there.
pub(super) fn remove(data_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(data_dir.join(NAME)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    files::keep_names(data_dir)
}

/// Why a folder's store is not the one that it was used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Strange {
    /// It is not there.
    #[error("`journal.sqlite` is missing")]
    Missing,
    /// It has no byte.
    #[error("`journal.sqlite` is empty")]
    Empty,
    /// Its pages can't be read.
    #[error("`journal.sqlite` is damaged: its first pages can't be read")]
    Damaged,
    /// Another id, or none.
    #[error("`journal.sqlite` is of another store, or no store, or cut off")]
    Foreign,
    /// It has been further.
    #[error("`journal.sqlite` is an older copy: what was acknowledged since it was made is not in it")]
    Older,
    /// Killed, and no log beside it.
    #[error(
        "the host was ended from outside, and `journal.sqlite-wal` is missing, with the last changes in it (unless another program, such as `sqlite3`, opened the store since: then they are in `journal.sqlite`)"
    )]
    LogLost,
    /// A store that has no log, and one beside it.
    #[error(
        "`journal.sqlite` is whole without a log (a copy, or closed in order), and `journal.sqlite-wal` beside it is another's"
    )]
    LogOfAnother,
    /// It has been further.
    #[error("`journal.sqlite-wal` is older than it was, or cut: what was acknowledged since is not in it")]
    LogOlder,
    /// Noticed while the host ran.
    #[error("`journal.sqlite` or its log was overwritten while the host ran")]
    Replaced,
    /// The marker is none.
    #[error("`store.json` was changed")]
    Unreadable,
}

impl Strange {
    fn in_folder(self, folder: &Path) -> Error {
        Error::Strange { path: folder.to_owned(), what: self }
    }
}

fn failed(data_dir: &Path) -> impl FnOnce(std::io::Error) -> Error {
    |error| Error::of_file(data_dir, &error)
}

/// Whether a folder's store is the one that it was used with, as far as its files tell; nothing is changed, and SQLite is not
/// asked. To be called while no host runs, before the store is opened.
///
/// # Errors
/// [`Error::Strange`]: an administrator has to say what is meant. [`Error::Open`]: the files can't be looked at.
pub(super) fn judged(data_dir: &Path) -> Result<Option<Marker>, Error> {
    let Some(mut marker) = Marker::read(data_dir)? else { return Ok(None) };
    let noted = noted(data_dir, &marker.store);
    marker.committed = marker.committed.max(noted.unwrap_or(marker.committed));
    let file = layout::file(data_dir);
    // A copy that somebody put here by hand waits for an operator, which says it all. It has no log: SQLite would make nonsense of
    // it with one.
    if backup::seal(&file).is_ok() {
        return if is_empty(&log_of(&file)) { Ok(None) } else { Err(Strange::LogOfAnother.in_folder(data_dir)) };
    }
    match strange(&file, &mut marker, noted.is_some()).map_err(failed(data_dir))? {
        Some(strange) => Err(strange.in_folder(data_dir)),
        None => Ok(Some(marker)),
    }
}

/// What the host noted with each commit in the file by which it holds the folder. It is not synced: the marker follows for what a loss
/// of power takes of it.
pub(super) fn note(store: &str, beat: i64) -> String {
    format!("{store} {beat:020}\n")
}

fn noted(data_dir: &Path, store: &str) -> Option<i64> {
    let bytes = files::read(&data_dir.join("host.lock"), MOST).ok()?;
    let (id, beat) = std::str::from_utf8(&bytes).ok()?.strip_suffix('\n')?.split_once(' ')?;
    (id == store).then(|| beat.parse().ok()).flatten()
}

fn is_empty(file: &Path) -> bool {
    std::fs::metadata(file).map_or(true, |metadata| metadata.len() == 0)
}

/// `noted`: what was committed is known to the last commit.
fn strange(file: &Path, marker: &mut Marker, noted: bool) -> std::io::Result<Option<Strange>> {
    if marker.state == State::Replaced {
        return Ok(Some(Strange::Replaced));
    }
    match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Strange::Missing)),
        Err(error) => return Err(error),
        // Whoever opens it tells.
        Ok(metadata) if !metadata.is_file() => return Ok(None),
        Ok(metadata) if metadata.len() == 0 => return Ok(Some(Strange::Empty)),
        Ok(_) => {}
    }
    // Closed again before SQLite has a lock on it in this process.
    let stamp = page::stamp(&File::open(file)?)?;
    marker.found = stamp.as_ref().map_or(0, |stamp| stamp.beat);
    let log = match std::fs::metadata(log_of(file)) {
        Ok(metadata) => Some(metadata.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let beats = match log {
        Some(_) => page::beats(&File::open(file)?, &File::open(log_of(file))?)?,
        None => None,
    };
    let (first, last) = beats.unzip();
    Ok(match stamp {
        Some(stamp) if stamp.id != marker.store => Some(Strange::Foreign),
        Some(stamp) if stamp.beat < marker.beat => Some(Strange::Older),
        Some(_) if first.is_some_and(|first| first > marker.found.saturating_add(1)) => Some(Strange::Older),
        Some(_) if last.is_some_and(|last| last < marker.found) => Some(Strange::LogOlder),
        Some(_) if log.is_some() && last.unwrap_or(marker.found) < marker.committed => Some(Strange::LogOlder),
        // A copying that was cut short may have left half of a page, and the log has it whole.
        None if log.unwrap_or(0) == 0 && is_damaged(file) => Some(Strange::Damaged),
        None if log.unwrap_or(0) == 0 => Some(Strange::Foreign),
        // All of it was in the file.
        _ if marker.state == State::Closed && log.unwrap_or(0) > 0 => Some(Strange::LogOfAnother),
        // Another program's connection may have been the last, and brought all of it into the file.
        _ if marker.state == State::Open && log.is_none() && !(noted && marker.found >= marker.committed) => {
            Some(Strange::LogLost)
        }
        _ => None,
    })
}

/// A store as a file that nobody changes: its log may be another's, and would be taken for its own.
fn unchanged(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut address = String::from("file:");
    for byte in file.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            address.push(char::from(*byte));
        } else {
            address.push_str(&format!("%{byte:02x}"));
        }
    }
    address.push_str("?immutable=1");
    Connection::open_with_flags(address, flags)
}

/// Whether SQLite can't read a file's first pages.
fn is_damaged(file: &Path) -> bool {
    let look = |store: Connection| store.query_row("SELECT count(*) FROM store", [], |_| Ok(()));
    unchanged(file).and_then(look).is_err_and(|error| is_damage(&error))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(Error::from(error), Error::Damaged(_))
}

/// The same, as the open store tells, with its log; before anything in it is changed.
pub(super) fn matches(connection: &Connection, data_dir: &Path, marker: Option<&Marker>) -> Result<(), Error> {
    let Some(marker) = marker else { return Ok(()) };
    match stamp(connection) {
        Ok(Some(stamp)) if stamp.id == marker.store => {
            // A log that was cut or damaged inside takes it back.
            let reached = stamp.beat >= marker.committed.max(marker.beat).max(marker.found);
            if reached { Ok(()) } else { Err(Strange::LogOlder.in_folder(data_dir)) }
        }
        Err(error) if layout::is_passing(&error) => Err(error.into()),
        Err(error) if is_damage(&error) => Err(Strange::Damaged.in_folder(data_dir)),
        _ => Err(Strange::Foreign.in_folder(data_dir)),
    }
}

/// The stamp of an open store.
pub(super) fn stamp(connection: &Connection) -> rusqlite::Result<Option<page::Stamp>> {
    let row = |row: &rusqlite::Row<'_>| Ok(page::Stamp { id: row.get(0)?, beat: row.get(1)? });
    connection.prepare_cached("SELECT id, beat FROM store")?.query_row([], row).optional()
}

/// Whether the next start will take a folder's store for the one that it was used with. While a host runs, it knows better.
///
/// # Errors
/// As [`Journal::open`](super::Journal::open) would have them.
pub fn examine(data_dir: &Path) -> Result<(), Error> {
    judged(data_dir).map(drop)
}

/// What lies in a data folder, for whoever has to say that it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lying {
    /// Why it would be refused; none where it would not.
    pub strange: Option<Strange>,
    /// The store: how many events it holds and when the last came, without what the log holds. None where there is none.
    pub store: Option<(u64, Option<i64>)>,
    /// Bytes of the log beside it.
    pub log: u64,
}

/// A data folder that no host uses, held until it is dropped.
pub struct Accepting {
    data_dir: PathBuf,
    _lock: File,
}

impl Accepting {
    /// Takes the folder.
    ///
    /// # Errors
    /// [`Error::InUse`] while a host runs; [`Error::Open`].
    pub fn new(data_dir: &Path) -> Result<Self, Error> {
        Ok(Self { data_dir: data_dir.to_owned(), _lock: layout::lock(data_dir)? })
    }

    /// What lies there; nothing is changed.
    ///
    /// # Errors
    /// [`Error::Open`].
    pub fn look(&self) -> Result<Lying, Error> {
        let strange = match judged(&self.data_dir) {
            Ok(_) => None,
            Err(Error::Strange { what, .. }) => Some(what),
            Err(error) => return Err(error),
        };
        let file = layout::file(&self.data_dir);
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let store = (size(&file) > 0).then(|| {
            let store = unchanged(&file).ok()?;
            let events = store.query_row("SELECT count(*), max(received_at) FROM event", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get(1)?))
            });
            events.ok().map(|(events, last)| (u64::try_from(events).unwrap_or(0), last))
        });
        Ok(Lying { strange, store: store.flatten(), log: size(&log_of(&file)) })
    }

    /// Says that what lies there is meant: the next start takes it, or makes a new store where there is none. The log beside it is
    /// taken as its own, or put aside, with the name that is returned.
    ///
    /// # Errors
    /// [`Error::Open`]: it is as it was.
    pub fn accept(self, with_log: bool) -> Result<Option<PathBuf>, Error> {
        let refused = failed(&self.data_dir);
        let done = || {
            let log = log_of(&layout::file(&self.data_dir));
            let mut aside = None;
            if !with_log && log.exists() {
                let free = (1..).map(|number| self.data_dir.join(format!("journal.sqlite-wal.aside-{number}")));
                let free = free.into_iter().find(|path| !path.exists()).unwrap_or_else(|| log.clone());
                std::fs::rename(&log, &free)?;
                aside = Some(free);
            }
            remove(&self.data_dir)?;
            Ok(aside)
        };
        done().map_err(refused)
    }
}
