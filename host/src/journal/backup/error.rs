//! Why there is no copy, or no way back from one.

use std::path::{Path, PathBuf};

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
    Folder(#[from] crate::journal::Error),
    /// The data folder has a store already.
    #[error(
        "`{0}` has a store with events already: `--replace` moves it aside, within the folder, and puts this one in its place"
    )]
    Used(PathBuf),
}

pub(in crate::journal) fn system(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    |cause| BackupError::System { path: path.to_owned(), cause }
}
