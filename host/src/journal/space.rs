//! The room on the disk: new events are refused while little is left, before the store or its neighbours are hurt.
//!
//! - Intake and readiness look at the same number: what is free on the disk, and what lies free within the store's own files.
//! - **What the log holds has a place kept for it in the store's file**: a log that fills the disk behind a reader could not be
//!   copied back when that one leaves, nor cut off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Error;
use super::damage::Bound;

/// How long one look at the disk is good for: a fast disk takes 70 MB a second.
const GOOD_FOR: Duration = Duration::from_millis(10);
/// Free bytes below which a failed write is put down to the disk.
const HARDLY_ANY: u64 = 1 << 20;
/// Bytes of the log of changes that are left alone.
const MOST_LOG: u64 = 64 << 20;

/// The store's place on the disk, as far as all that use it have to agree.
#[derive(Debug)]
pub(super) struct Room {
    folder: PathBuf,
    /// Bytes that must be free; 0: the disk is not looked at.
    least: u64,
    /// Bytes of the store's file that hold nothing any more.
    spare: AtomicU64,
    /// Bytes that the store's file will have when all of the log is copied into it.
    whole: AtomicU64,
    /// Bytes of the log of changes that will be written over.
    reusable: AtomicU64,
    /// The size of that log from which on it is cut off.
    most_log: u64,
}

impl Room {
    pub(super) fn new(folder: PathBuf, least: u64) -> Self {
        // On a small disk that is less.
        let all = rustix::fs::statvfs(&folder).map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        let most_log = MOST_LOG.min(all / 8).max(1 << 20);
        let [spare, whole, reusable] = std::array::from_fn(|_| AtomicU64::new(0));
        Self { folder, least, spare, whole, reusable, most_log }
    }

    /// With a bound on the log of the test's own.
    #[cfg(test)]
    pub(super) fn with_most_log(self, most_log: u64) -> Self {
        Self { most_log, ..self }
    }

    /// The size of the log of changes.
    pub(super) fn log_bytes(&self) -> u64 {
        size(&self.folder, "journal.sqlite-wal")
    }

    /// The size of that log from which on it is cut off.
    pub(super) fn most_log(&self) -> u64 {
        self.most_log
    }

    /// Says how much of the log will be written over.
    pub(super) fn reusable(&self, bytes: u64) {
        self.reusable.store(bytes, Ordering::Relaxed);
    }

    /// Says what the store's file will have, and how much of it holds nothing.
    fn within(&self, pages: Pages) {
        self.spare.store(pages.spare, Ordering::Relaxed);
        self.whole.store(pages.whole, Ordering::Relaxed);
    }

    fn is_low(&self) -> bool {
        if self.least == 0 {
            return false;
        }
        let within = self.spare.load(Ordering::Relaxed).saturating_add(self.reusable.load(Ordering::Relaxed));
        let owed = self.whole.load(Ordering::Relaxed).saturating_sub(size(&self.folder, "journal.sqlite"));
        free(&self.folder).is_some_and(|free| free.saturating_add(within) < self.least.saturating_add(owed))
    }

    /// A bound on a long look at the store.
    pub(super) fn bound(&self, most: Duration) -> Bound {
        Bound::new(most, &self.folder, self.least)
    }

    /// The disk, for whoever asks.
    pub(super) fn disk(&self) -> Disk {
        let used = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"];
        let used = used.iter().map(|name| size(&self.folder, name)).sum();
        Disk { free: free(&self.folder), least: self.least, used, low: self.is_low() }
    }
}

impl super::Handle {
    /// The room on the disk.
    pub fn disk(&self) -> Disk {
        self.room.disk()
    }
}

/// Bytes of the store, the log included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages {
    /// All.
    pub(super) whole: u64,
    /// Those that hold nothing any more.
    pub(super) spare: u64,
}

/// The writer's view of the room.
pub(super) struct Space {
    room: Arc<Room>,
    looked: Option<(Instant, bool)>,
}

impl Space {
    pub(super) fn new(room: Arc<Room>) -> Self {
        Self { room, looked: None }
    }

    /// What it looks at.
    pub(super) fn room(&self) -> Arc<Room> {
        Arc::clone(&self.room)
    }

    /// Whether less is free than must be.
    pub(super) fn is_low(&mut self, pages: impl FnOnce() -> Pages) -> bool {
        match self.looked {
            Some((at, low)) if at.elapsed() < GOOD_FOR => low,
            _ => {
                if self.room.least > 0 {
                    self.room.within(pages());
                }
                let low = self.room.is_low();
                self.looked = Some((Instant::now(), low));
                low
            }
        }
    }

    /// What a failed commit means.
    pub(super) fn explain(&self, error: &rusqlite::Error) -> Error {
        match Error::from(error) {
            Error::Store(_) | Error::Disk(_) if free(&self.room.folder).is_some_and(|free| free < HARDLY_ANY) => {
                Error::Full
            }
            explained => explained,
        }
    }
}

/// Bytes that this process may still use; `None` where the system does not tell.
pub(super) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn size(folder: &Path, name: &str) -> u64 {
    std::fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len())
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
    low: bool,
}

impl Disk {
    /// Whether a new event would find room.
    pub fn has_room(&self) -> bool {
        !self.low
    }
}
