//! The room on the disk: new events are refused while little is left, before the store or its neighbours are hurt.

use std::path::PathBuf;
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

    /// Bytes that this process may still use; `None` where the system does not tell.
    fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.folder).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}
