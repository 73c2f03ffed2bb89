//! Whether the store is still where it was opened: somebody may move, delete or replace the folder under a running host.
//!
//! - Looked at with every commit, before it and after: two questions to the system, a thousandth of what a flush takes.
//! - While it is not, nothing new is taken in, claimed or intended: it would go into a file that nobody finds again. What runs
//!   may settle, in case the file comes back.
//! - A file that comes back is the same file (device and number); a copy is another, and needs a restart.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What tells one file from another.
type Identity = (u64, u64);

/// The store's files, as they were opened.
#[derive(Debug)]
pub(super) struct Place {
    files: Vec<(PathBuf, Identity)>,
    store: Arc<File>,
}

impl Place {
    /// The place of the store's file and of its log, which are open.
    ///
    /// # Errors
    /// When the file can't be opened once more.
    pub(super) fn of(file: &Path) -> std::io::Result<Self> {
        let store = Arc::new(File::options().read(true).write(true).open(file)?);
        let mut log = file.as_os_str().to_owned();
        log.push("-wal");
        let files = [file.to_owned(), PathBuf::from(log)].into_iter();
        let files = files.filter_map(|path| identity(&path).map(|known| (path, known))).collect();
        Ok(Self { files, store })
    }

    /// The store's file. Whoever closes a handle of it ends the locks that SQLite holds in this process: it stays open for as
    /// long as there is a connection.
    pub(super) fn store(&self) -> &Arc<File> {
        &self.store
    }

    /// Looks whether they are there.
    pub(super) fn holds(&self) -> bool {
        self.files.iter().all(|(path, known)| identity(path) == Some(*known))
    }
}

impl super::Handle {
    /// Whether the store's files are where they were opened: else nothing new is taken in.
    pub fn is_in_place(&self) -> bool {
        self.place.holds()
    }
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
