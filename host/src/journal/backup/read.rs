//! A copy, looked at: whether it is one, whether it is whole, and what is in it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

use super::{BackupError, Copied, FORMAT, Kept, Kind, SEAL, SEAL_PAGE, system};
use crate::journal::layout;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Whether a store is a copy.
pub(in crate::journal) fn is_copy(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'backup')", [], |row| row.get(0))
}

/// What a copy says of itself; none where it is no copy.
pub(super) fn told(connection: &Connection) -> rusqlite::Result<Option<Copied>> {
    if !is_copy(connection)? {
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
                Ok(Copied {
                    copied_at,
                    version,
                    events: number(2)?,
                    open: number(3)?,
                    files: number(4)?,
                    bytes: 0,
                    remarks: Vec::new(),
                })
            },
        )
        .optional()
}

/// Looks at a copy: whether it is one, and of a format that this program knows. Whether it is whole shows when it is read.
///
/// # Errors
/// [`BackupError`]: it is none, or can't be used.
pub(in crate::journal) fn look(file: &Path) -> Result<Copied, BackupError> {
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
    if format > FORMAT || steps > layout::newest() {
        return Err(BackupError::Newer { path: file.to_owned(), version });
    }
    let damaged = |_| BackupError::Broken(file.to_owned());
    let copied = told(&connection).map_err(damaged)?.ok_or_else(unnamed)?;
    seal(file)?;
    Ok(Copied { bytes: metadata.len(), ..copied })
}

/// The files in a copy, one after the other.
pub(in crate::journal) fn parts<E: From<BackupError>>(
    file: &Path,
    mut told: impl FnMut(Kept) -> Result<(), E>,
) -> Result<(), E> {
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
pub(in crate::journal) fn seal(file: &Path) -> Result<(u64, [u8; 32]), BackupError> {
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
pub(in crate::journal) fn hashed(
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
