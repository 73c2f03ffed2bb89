//! The room on the disk: new events are refused while little is left, before the store or its neighbours are hurt.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;

/// How long one look at the disk is good for.
const GOOD_FOR: Duration = Duration::from_millis(500);
/// Free bytes below which a failed write is put down to the disk.
const HARDLY_ANY: u64 = 1 << 20;

pub(super) struct Space {
    folder: PathBuf,
    least: u64,
    looked: Option<(Instant, bool)>,
}

impl Space {
    pub(super) fn new(folder: PathBuf, least: u64) -> Self {
        Self { folder, least, looked: None }
    }

    /// Whether less is free than must be; `spare` bytes of the store are free for reuse.
    pub(super) fn is_low(&mut self, spare: impl FnOnce() -> u64) -> bool {
        if self.least == 0 {
            return false;
        }
        match self.looked {
            Some((at, low)) if at.elapsed() < GOOD_FOR => low,
            _ => {
                let low =
                    self.free().is_some_and(|free| free < self.least && free.saturating_add(spare()) < self.least);
                self.looked = Some((Instant::now(), low));
                low
            }
        }
    }

    /// What a failed commit means.
    pub(super) fn explain(&self, error: &rusqlite::Error) -> Error {
        match Error::from(error) {
            Error::Store(_) if self.free().is_some_and(|free| free < HARDLY_ANY) => Error::Full,
            explained => explained,
        }
    }

    fn free(&self) -> Option<u64> {
        free(&self.folder)
    }
}

/// Bytes that this process may still use; `None` where the system does not tell.
fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The disk with the store, as far as operators ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are free; `None` where the system does not tell.
    pub free: Option<u64>,
    /// Bytes that must be free.
    pub least: u64,
    /// Bytes of the store's files.
    pub used: u64,
}

impl Disk {
    pub(super) fn of(folder: &Path, least: u64) -> Self {
        let size = |name: &str| std::fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
        let used = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"].iter().map(|name| size(name)).sum();
        Self { free: free(folder), least, used }
    }

    /// Whether a new event would find room.
    pub fn has_room(&self) -> bool {
        self.least == 0 || self.free.is_none_or(|free| free >= self.least)
    }
}
