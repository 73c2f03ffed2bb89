//! Why the journal could not do what it was asked.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::files;

/// Why the journal could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The folder or file can't be used.
    #[error("failed to open the journal in `{path}`: {cause}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        cause: String,
        /// Whether the same may go well later, with nothing changed by an administrator.
        passes: bool,
    },
    /// Another host has it open.
    #[error("the data folder `{0}` is in use by another host: stop that one, or set another `server.data_dir`")]
    InUse(PathBuf),
    /// The file is of a newer program.
    #[error("the journal in `{path}` has format {found}, this program knows up to {known}: use the newer program")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The file's format.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// The folder's store is not the one that it was used with.
    #[error(
        "the data folder `{path}` was used with another store: {what}: put the right file back, or a copy with \
         `salesman-host restore FILE`, or say that what is there is meant with `salesman-host journal accept`"
    )]
    Strange {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: super::Strange,
    },
    /// The disk is full, or nearly.
    #[error("the disk with the data folder is full, or has less room than `server.min_free_mib`: make room")]
    Full,
    /// The store's files are not where they were opened.
    #[error("the data folder was moved or replaced under the running host: put it back, or restart the host")]
    Misplaced,
    /// The store is not the one that was opened.
    #[error(
        "the journal's file was overwritten, cut or changed by another program under the running host: stop the host, put \
         the right file back, or a copy with `salesman-host restore FILE`"
    )]
    Replaced,
    /// The disk refuses to write or to read.
    #[error("the disk with the data folder refuses: {0}: look at the disk and at the rights of the folder")]
    Disk(String),
    /// Pages of the store are not what they were.
    #[error(
        "the journal is damaged ({0}): `salesman-host journal check` says where, and whether `salesman-host journal compact` \
         heals it or a copy has to be brought back with `salesman-host restore`"
    )]
    Damaged(String),
    /// Another program writes.
    #[error("another program holds the journal's file for writing: end it")]
    Locked,
    /// The store refused.
    #[error("the journal can't be written or read: {0}")]
    Store(String),
    /// The writer is gone.
    #[error("the journal is closed")]
    Closed,
}

impl From<&rusqlite::Error> for Error {
    fn from(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed,
            ) => Self::Disk(error.to_string()),
            _ => Self::Store(error.to_string()),
        }
    }
}

impl Error {
    pub(super) fn of_file(path: &Path, error: &std::io::Error) -> Self {
        Self::Open { path: path.to_owned(), cause: error.to_string(), passes: files::may_pass(error) }
    }

    /// Whether the same may go well later, with nothing changed by an administrator.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Open { passes, .. } => *passes,
            Self::Newer { .. } | Self::Strange { .. } | Self::Damaged(_) => false,
            _ => true,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::from(&error)
    }
}
