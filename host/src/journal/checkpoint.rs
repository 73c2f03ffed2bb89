//! Copies the log of changes (WAL) back into the store, beside the writer: done by the writer itself, it would hold up
//! every event that comes in for as long as two flushes of the disk take.
//!
//! - The copying never waits for the writer, nor the writer for it. Only when changes come so fast that the log never
//!   gets empty, the writer lets it start anew, once per 64 MiB.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Commits from one copying to the next.
const COMMITS: u32 = 128;
/// Pages of the log at which the writer lets it start anew: 64 MiB.
const MOST_PAGES: i64 = 16_384;

pub(super) struct Checkpointer {
    signal: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    full: Arc<AtomicBool>,
    commits: u32,
}

impl Checkpointer {
    /// Starts the thread; `writer` no longer copies by itself.
    pub(super) fn start(file: &Path, writer: &Connection) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;")?;
        let full = Arc::new(AtomicBool::new(false));
        let (signal, signalled) = sync_channel(1);
        let told = Arc::clone(&full);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&connection, &signalled, &told));
        // Without a thread the writer goes on copying by itself, as SQLite does.
        if thread.is_ok() {
            writer.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        }
        Ok(Self { signal: Some(signal), thread: thread.ok(), full, commits: 0 })
    }

    /// Called by the writer after each commit.
    pub(super) fn committed(&mut self, writer: &Connection) {
        self.commits += 1;
        if self.full.swap(false, Ordering::SeqCst) {
            // Nearly all of it is copied already. Where a reader is in the way, it is tried again later.
            drop(writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())));
        }
        if self.commits.is_multiple_of(COMMITS)
            && let Some(signal) = &self.signal
        {
            // One that waits already is enough.
            signal.try_send(()).unwrap_or_default();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.signal = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing to tell: the log is copied at the next start.
            drop(thread.join());
        }
    }
}

fn run(connection: &Connection, signalled: &Receiver<()>, full: &AtomicBool) {
    while signalled.recv().is_ok() {
        // A disk that refuses shows in the writer's own commits; the copying is tried again.
        let pages = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1));
        if pages.is_ok_and(|pages| pages > MOST_PAGES) {
            full.store(true, Ordering::SeqCst);
        }
    }
}
