//! The way back from a copy: verified, written beside, put in the store's place in one step.
//!
//! - **A crash leaves the old store or the new one.** The new one is whole and on the disk before the two change places.
//! - What was there is moved aside, within the folder: nothing is deleted.
//! - An old log of changes never meets the new store: it is copied back into its own first, or moved aside with it.
//! - The store is put in place as it was copied. The host that opens it sees that it is a copy, and waits (`restored`).
//!
//! Not here: the files that belong to it, which the caller puts in place between [`Restoring::begin`] and
//! [`Restoring::finish`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::backup::{self, BackupError, Copied, Kept, hashed, seal, system};
use super::{layout, marker};
use crate::clock::Clock;
use crate::files;

/// What is left free on the disk beyond what is needed.
const MARGIN: u64 = 64 << 20;

/// The folders in which a store that was replaced is kept begin with this.
pub const ASIDE: &str = "before-restore";

/// A store on its way back. Nobody else uses the data folder meanwhile.
pub struct Restoring {
    data_dir: PathBuf,
    /// The new store in it, until it changes places with the old one.
    aside: PathBuf,
    used: bool,
    /// What is put in place.
    pub copied: Copied,
    _lock: File,
}

impl Restoring {
    /// Verifies a copy, and writes its store beside the one that is there.
    ///
    /// # Errors
    /// [`BackupError`]: everything is as it was.
    pub fn begin(file: &Path, data_dir: &Path, replace: bool, clock: &Clock) -> Result<Self, BackupError> {
        let copied = backup::look(file)?;
        let lock = layout::lock(data_dir)?;
        let used = ["journal.sqlite", "journal.sqlite-wal"]
            .iter()
            .any(|name| std::fs::metadata(data_dir.join(name)).is_ok_and(|metadata| metadata.len() > 0));
        if used && !replace {
            return Err(BackupError::Used(data_dir.to_owned()));
        }
        let (bytes, hash) = seal(file)?;
        let needed = bytes.saturating_add(MARGIN);
        if let Some(free) = super::space::free(data_dir).filter(|free| *free < needed) {
            let (path, needed, free) = (data_dir.to_owned(), needed.div_ceil(1 << 20), free >> 20);
            return Err(BackupError::Room { path, needed, free });
        }
        let restoring =
            Self { aside: made(data_dir, clock)?, data_dir: data_dir.to_owned(), used, copied, _lock: lock };
        let to = layout::file(&restoring.aside);
        match copied_to(file, &to, bytes) {
            Ok(found) if found == hash => Ok(restoring),
            Ok(_) => {
                restoring.given_up();
                Err(BackupError::Broken(file.to_owned()))
            }
            Err(error) => {
                restoring.given_up();
                Err(system(&to)(error))
            }
        }
    }

    /// Where what is replaced goes; nothing where nothing is replaced.
    pub fn aside(&self) -> Option<&Path> {
        self.used.then_some(&*self.aside)
    }

    /// The files that belong to the store, one after the other.
    ///
    /// # Errors
    /// Those of `told`, and [`BackupError`].
    pub fn parts<E: From<BackupError>>(&self, told: impl FnMut(Kept) -> Result<(), E>) -> Result<(), E> {
        backup::parts(&layout::file(&self.aside), told)
    }

    /// Puts the store in place; returns where the old one is.
    ///
    /// # Errors
    /// [`BackupError`]: the old store is in place, or the new one.
    pub fn finish(self) -> Result<Option<PathBuf>, BackupError> {
        let (new, place) = (layout::file(&self.aside), layout::file(&self.data_dir));
        // It tells of the old store. Without one whichever of both is in place is taken.
        let fits = marker::judged(&self.data_dir).is_ok();
        marker::remove(&self.data_dir).map_err(system(&self.data_dir))?;
        if self.used {
            without_log(&self.data_dir, &self.aside, fits)?;
        }
        let here = rustix::fs::CWD;
        let moved = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(system(from));
        if !std::fs::exists(&place).map_err(system(&place))? {
            moved(&new, &place)?;
        } else if rustix::fs::renameat_with(here, &new, here, &place, rustix::fs::RenameFlags::EXCHANGE).is_err() {
            // The file system can't do it in one step. In between there is no store, which the next start says.
            let old = self.aside.join("journal.sqlite.old");
            moved(&place, &old)?;
            moved(&new, &place)?;
        }
        for folder in [&self.data_dir, &self.aside] {
            files::keep_names(folder).map_err(system(folder))?;
        }
        if self.used {
            return Ok(Some(self.aside.clone()));
        }
        self.given_up();
        Ok(None)
    }

    /// Removes what was written beside, and nothing else.
    fn given_up(&self) {
        std::fs::remove_file(layout::file(&self.aside)).ok();
        // Something else in it stays.
        std::fs::remove_dir(&self.aside).ok();
    }
}

fn made(data_dir: &Path, clock: &Clock) -> Result<PathBuf, BackupError> {
    let time = jiff::Timestamp::from_millisecond(clock.now()).unwrap_or_default();
    let name = format!("{ASIDE}-{}", time.strftime("%Y%m%d-%H%M%S"));
    let names = (0..100).map(|number| if number == 0 { name.clone() } else { format!("{name}-{number}") });
    let mut last = None;
    for folder in names.map(|name| data_dir.join(name)) {
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => last = Some((folder, error)),
            Err(error) => return Err(system(&folder)(error)),
        }
    }
    let (folder, error) = last.unwrap_or_else(|| (data_dir.to_owned(), std::io::ErrorKind::AlreadyExists.into()));
    Err(system(&folder)(error))
}

/// Copies the store out of a copy, without its last page; tells its hash.
fn copied_to(file: &Path, to: &Path, bytes: u64) -> std::io::Result<[u8; 32]> {
    let mut from = File::open(file)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let hash = hashed(&mut from, bytes, |part| target.write_all(part))?;
    target.sync_all()?;
    Ok(hash)
}

/// Brings the old store's log of changes back into it, so that it is one file; where that can't be done, the log is moved aside
/// before the store is.
fn without_log(data_dir: &Path, aside: &Path, fits: bool) -> Result<(), BackupError> {
    let copied_back = || -> rusqlite::Result<()> {
        let connection = Connection::open(layout::file(data_dir))?;
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        connection.close().map_err(|(_, error)| error)
    };
    // A damaged one stays as it is, and so does one that the log does not belong to.
    if fits {
        drop(copied_back());
    }
    for name in ["journal.sqlite-wal", "journal.sqlite-shm"] {
        let from = data_dir.join(name);
        match std::fs::rename(&from, aside.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(system(&from)(error)),
            _ => {}
        }
    }
    files::keep_names(data_dir).map_err(system(data_dir))
}
