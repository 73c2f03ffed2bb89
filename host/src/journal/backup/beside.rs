//! The copy while it is made: a file beside the one that it becomes, and the room on both disks.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{BackupError, SEAL, SEAL_PAGE, Wanted, hashed, system};
use crate::files;
use crate::journal::{layout, space};

/// The copy, before it has its name; removed where it does not get it.
pub(super) struct Beside {
    pub(super) path: PathBuf,
    /// Holds the lock that keeps another `backup` away from it.
    pub(super) handle: File,
    kept: bool,
}

impl Beside {
    /// One that an end of the process left behind is written over.
    pub(super) fn new(to: &Path) -> Result<Self, BackupError> {
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

    pub(super) fn opened(&self, pragmas: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NOFOLLOW)?;
        connection.execute_batch(pragmas)?;
        Ok(connection)
    }

    /// What SQLite kept beside it, and what an end of the process left behind.
    fn without_logs(&self) {
        for log in ["-journal", "-wal", "-shm"] {
            std::fs::remove_file(layout::beside(&self.path, log)).ok();
        }
    }

    /// Puts the hash behind it, and all of it on the disk; returns its bytes.
    pub(super) fn sealed(&self) -> Result<u64, BackupError> {
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

    pub(super) fn named(mut self, wanted: &Wanted<'_>) -> Result<(), BackupError> {
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
        files::keep_names(folder).map_err(system(folder))
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

/// The disks of the copy and of the store.
pub(super) struct Room<'a> {
    wanted: &'a Wanted<'a>,
    folder: PathBuf,
    /// What must stay free where the copy is.
    kept: u64,
}

impl<'a> Room<'a> {
    pub(super) fn of(wanted: &'a Wanted<'a>) -> Self {
        let folder = wanted.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let disk = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
        let same = disk(folder) == disk(wanted.data_dir);
        Self { wanted, folder: folder.to_owned(), kept: if same { wanted.least_free } else { 0 } }
    }

    /// Whether so much may still be written: a host whose disk has run full takes no events.
    pub(super) fn has(&self, bytes: u64) -> Result<(), BackupError> {
        let data = self.wanted.data_dir;
        for (path, needed) in [(self.folder.as_path(), bytes.saturating_add(self.kept)), (data, self.wanted.least_free)]
        {
            let Some(free) = space::free(path) else { continue };
            if free < needed {
                let (path, needed, free) = (path.to_owned(), needed.div_ceil(1 << 20), free >> 20);
                return Err(BackupError::Room { path, needed, free });
            }
        }
        Ok(())
    }
}
