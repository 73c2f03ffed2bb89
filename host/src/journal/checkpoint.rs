//! Copies the log of changes (WAL) back into the store, beside the writer: done by the writer itself, it would hold up
//! every event that comes in for as long as two flushes of the disk take, or for as long as somebody reads.
//!
//! - **The writer never copies and never waits for readers.** The copying waits for nobody either: where a reader or the writer
//!   is in the way, it comes again, later and later.
//! - Copying alone lets the log start anew as soon as the writer finds all of it copied. Where changes come too fast for that,
//!   or the file has grown behind a long reader, it is emptied between two commits, once nearly all of it is copied.
//! - A log that nobody needs any more is cut off: behind a reader it may have grown to any size.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::place::Place;
use super::space::Room;

/// Commits from one copying to the next.
const COMMITS: u32 = 128;
/// Pages that may be copied while the writer has to wait: 2 MiB.
const FEW_PAGES: i64 = 512;
/// How long after the last try what is left is copied, when nobody changes anything.
const QUIET: Duration = Duration::from_secs(1);
/// The longest time between two tries while somebody is in the way.
const LONGEST: Duration = Duration::from_secs(5);

/// How long the writer stands aside at most. What is copied meanwhile are a few pages.
const ASIDE: Duration = Duration::from_millis(100);

pub(super) struct Checkpointer {
    signal: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    turn: Arc<Turn>,
    commits: u32,
}

/// The moment between two commits in which the log can be emptied.
#[derive(Default)]
struct Turn {
    state: Mutex<Wish>,
    changed: Condvar,
    /// Whether the writer is asked to stand aside: looked at after every commit.
    asked: AtomicBool,
}

#[derive(Default)]
struct Wish {
    aside: bool,
}

impl Turn {
    /// The writer's part: lets the copying go first, for a bounded time.
    fn give(&self) {
        if !self.asked.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.aside = true;
        self.changed.notify_all();
        let until = Instant::now() + ASIDE;
        while self.asked.load(Ordering::Acquire)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.aside = false;
    }

    /// The copying's part: does something while the writer is between two commits, or has nothing to do.
    fn take<T>(&self, act: impl FnOnce() -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.asked.store(true, Ordering::Release);
        let until = Instant::now() + ASIDE;
        while !state.aside
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        let acted = act();
        self.asked.store(false, Ordering::Release);
        // The lock, so that a writer which is about to wait has looked before or is woken.
        drop(self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        acted
    }
}

impl Checkpointer {
    /// Starts the thread; `writer` no longer copies by itself.
    pub(super) fn start(
        file: &Path,
        writer: &Connection,
        room: Arc<Room>,
        place: Arc<Place>,
    ) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        super::layout::keep_log(&connection, true)?;
        // Whoever is in the way is not waited for.
        connection.busy_timeout(Duration::ZERO)?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;")?;
        let (signal, signalled) = sync_channel(1);
        let turn = Arc::new(Turn::default());
        let copying = Copying { connection, room, place, turn: Arc::clone(&turn), left: true, refused: 0 };
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || copying.run(&signalled));
        // Without a thread the writer goes on copying by itself, as SQLite does: it waits for no reader then.
        if thread.is_ok() {
            writer.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        }
        Ok(Self { signal: Some(signal), thread: thread.ok(), turn, commits: 0 })
    }

    /// Called by the writer after each commit.
    pub(super) fn committed(&mut self, writer: &Connection) {
        self.turn.give();
        self.commits = self.commits.wrapping_add(1);
        if let Some(signal) = &self.signal
            && (self.commits == 1 || self.commits.is_multiple_of(COMMITS))
        {
            // One that waits already is enough.
            signal.try_send(()).unwrap_or_default();
        }
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            // It failed: the log must not grow for ever.
            self.thread = None;
            drop(writer.execute_batch("PRAGMA wal_autocheckpoint = 1000"));
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

struct Copying {
    connection: Connection,
    room: Arc<Room>,
    place: Arc<Place>,
    turn: Arc<Turn>,
    /// Whether something is still to be copied, or to be cut off.
    left: bool,
    /// How often in a row somebody was in the way.
    refused: u32,
}

impl Copying {
    fn run(mut self, signalled: &Receiver<()>) {
        loop {
            self.copy();
            let due = Instant::now() + if self.left { self.pause() } else { LONGEST };
            loop {
                match signalled.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    // Changes go on while somebody is in the way: a try in vain with each of them would only cost.
                    Ok(()) if self.refused > 0 => {}
                    Ok(()) | Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        QUIET.saturating_mul(2_u32.saturating_pow(self.refused)).min(LONGEST)
    }

    fn copy(&mut self) {
        // A disk that refuses shows in the writer's own commits; the copying is tried again.
        let Some(left) = self.checkpoint("PASSIVE") else { return self.in_the_way() };
        let bytes = self.room.log_bytes();
        // Where all of it is in the store, the writer begins it anew by itself: its room is there for it.
        self.room.reusable(if left == 0 { bytes } else { 0 });
        if bytes <= self.room.most_log() {
            (self.left, self.refused) = (left > 0, 0);
        } else if left > FEW_PAGES {
            // A reader holds the rest back.
            self.in_the_way();
        } else if self.turn.take(|| self.checkpoint("TRUNCATE")).is_some() {
            self.room.reusable(0);
            (self.left, self.refused) = (false, 0);
        } else {
            self.in_the_way();
        }
    }

    fn in_the_way(&mut self) {
        (self.left, self.refused) = (true, self.refused.saturating_add(1));
    }

    /// One copying, and the pages that it left; none where somebody was in the way of it, or the store is no longer the one that the
    /// log belongs to.
    fn checkpoint(&self, how: &str) -> Option<i64> {
        self.place.copied(&self.connection, how)?.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 1 << 20;

    struct Store {
        _folder: tempfile::TempDir,
        file: std::path::PathBuf,
        writer: Connection,
        room: Arc<Room>,
        checkpointer: Checkpointer,
        slowest: Duration,
    }

    impl Store {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("journal.sqlite");
            let writer = Connection::open(&file).unwrap();
            writer.busy_timeout(Duration::from_secs(2)).unwrap();
            writer.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
            writer
                .execute_batch(
                    "PRAGMA synchronous = OFF; CREATE TABLE t (a BLOB); CREATE TABLE event (seq INTEGER PRIMARY KEY);
                     CREATE TABLE store (one INTEGER PRIMARY KEY, id TEXT, beat INTEGER); INSERT INTO store VALUES (1, 'a', 0)",
                )
                .unwrap();
            let place = Arc::new(Place::of(folder.path(), &writer, None).unwrap());
            let room = Arc::new(Room::new(folder.path().to_owned(), 0).with_most_log(MOST));
            let checkpointer = Checkpointer::start(&file, &writer, Arc::clone(&room), place).unwrap();
            Self { _folder: folder, file, writer, room, checkpointer, slowest: Duration::ZERO }
        }

        fn write(&mut self, commits: usize) {
            for _ in 0..commits {
                let began = Instant::now();
                let row = "BEGIN IMMEDIATE; INSERT INTO t VALUES (zeroblob(16384)); COMMIT";
                self.writer.execute_batch(row).unwrap();
                self.checkpointer.committed(&self.writer);
                self.slowest = self.slowest.max(began.elapsed());
            }
        }

        /// Waits for the log to be cut off, with the writer idle.
        fn is_cut(&self) -> bool {
            let until = Instant::now() + Duration::from_secs(30);
            while self.room.log_bytes() > MOST && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            self.room.log_bytes() <= MOST
        }
    }

    #[test]
    fn a_reader_that_stays_holds_up_no_commit_and_the_log_is_cut_off_when_it_leaves() {
        let mut store = Store::new();
        store.write(1);
        let reader = Connection::open(&store.file).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        let rows = |reader: &Connection| reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(rows(&reader).unwrap(), 1);
        store.write(400);
        // Any wait for the reader would be the busy time-out: two seconds.
        assert!(store.slowest < Duration::from_millis(1_500), "{:?}", store.slowest);
        assert_eq!(rows(&reader).unwrap(), 1, "it sees what it saw");
        assert!(store.room.log_bytes() > 4 * MOST, "{}", store.room.log_bytes());
        drop(reader);
        assert!(store.is_cut(), "{}", store.room.log_bytes());
        store.write(1);
        assert_eq!(rows(&store.writer).unwrap(), 402);
    }

    #[test]
    fn changes_without_a_pause_do_not_let_the_log_grow_for_ever() {
        let mut store = Store::new();
        let (until, mut largest) = (Instant::now() + Duration::from_secs(30), 0);
        let mut cuts = 0;
        while cuts < 3 && Instant::now() < until {
            let before = store.room.log_bytes();
            store.write(8);
            largest = largest.max(before);
            cuts += usize::from(store.room.log_bytes() < before);
        }
        assert_eq!(cuts, 3, "the log reached {largest} bytes");
        let rows = store.writer.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
        assert_eq!(rows.unwrap(), "ok");
    }
}
