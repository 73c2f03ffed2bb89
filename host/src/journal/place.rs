//! Whether the store is still where it was opened, and still the same: somebody may move, delete, replace or overwrite it under a
//! running host.
//!
//! SQLite misses all of that: it has its files open, and pages of them in memory. Every commit would go well, and nothing of it
//! would be found again. So before each commit and after it, and once a second:
//!
//! - **The names** lead to the files that were opened (device and number). A file that comes back is the same file.
//! - **The store's file** has the size and time that the last copying of the log left, or it is read, past SQLite: its stamp must be
//!   this store's, no older than what was copied, no newer than what was committed.
//! - **The log** is no shorter than the last commit left it, unless all of it is in the store's file.
//! - **What other programs commit** through SQLite (`data_version`) leaves the stamp and the newest event alone.
//!
//! The stamp's beat goes up with each commit that changes something. So a copy that was made earlier has an older one, however short
//! ago that was and whatever has changed since; one that has the same holds the same.
//!
//! - While the store is **moved**, nothing new is taken in, claimed or intended: it would go into a file that nobody finds again. What
//!   runs may settle, in case the file comes back.
//! - A store that was **replaced** stays so until the host is started again: nothing at all is written to it, the log is not copied
//!   into it, and the marker says so, so that the next start refuses it.
//!
//! Not here: a file that is overwritten by the very bytes that it holds, which harms nothing; what changes within one copying of the
//! log, some milliseconds.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;

use super::marker::{self, Marker, State};
use super::{Error, layout, page};

/// How often the marker follows the store.
const MARKED_AGAIN: Duration = Duration::from_secs(5);
/// A page may be read while it is written: it is read again.
const READ_AGAIN: Duration = Duration::from_millis(20);
/// So often.
const READS: u32 = 3;
/// How long a file that says more of itself than it holds is taken for one that is being written.
const QUIET: Duration = Duration::from_secs(2);
/// The system's own clock for files moves on in steps: what is written within one of them has the same time.
const STEP: Duration = Duration::from_millis(20);
/// The bytes with which a log begins: they change when it begins anew.
const HEAD: usize = 32;

/// What tells one file from another.
type Identity = (u64, u64);
/// What shows that a file was written to: its size and time.
type Written = (u64, i64, i64);

/// Where the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Where it was opened.
    Here,
    /// Its names lead to other files, or nowhere.
    Moved,
    /// It was overwritten, cut, or changed by another program.
    Replaced,
}

/// The store's files, as they were opened.
#[derive(Debug)]
pub(super) struct Place {
    data_dir: PathBuf,
    files: Vec<(PathBuf, Identity)>,
    /// The file by which this process holds the folder.
    lock: Option<Identity>,
    /// The same, for a note with each commit: a killed process leaves it in the system's memory.
    note: Option<File>,
    store: Arc<File>,
    log: Option<File>,
    id: String,
    main: Mutex<Main>,
    own: Mutex<Own>,
    /// The beat of the last commit that raised it.
    committed: AtomicI64,
    /// Bytes that the log has at least.
    log_bytes: AtomicU64,
    /// How often the host's own copying emptied the log.
    cuts: AtomicU64,
    replaced: AtomicBool,
    /// Commits of other programs that left alone what is looked at.
    strangers: AtomicU64,
    marked: Mutex<Marked>,
}

/// The store's file, as it was last seen. Locked while the host itself writes it.
#[derive(Debug)]
struct Main {
    written: Written,
    /// Whether whatever is written to it from then on shows in its time.
    settled: bool,
    /// Its beat. None until it has a stamp.
    copied: Option<i64>,
    /// Whether the host's own copying broke off within the page of the stamp: the log still has it whole.
    torn: bool,
}

/// What the writer knows of its last commit.
#[derive(Debug, Default)]
struct Own {
    version: Option<i64>,
    changes: u64,
    cuts: u64,
    newest: i64,
    pending: Option<(i64, i64)>,
    head: Vec<u8>,
}

/// What the marker says.
#[derive(Debug)]
struct Marked {
    marker: Option<Marker>,
    at: Instant,
    /// The beat that is surely on the disk.
    synced: Option<i64>,
    /// The file in this one's place of which the folder was told.
    warned: Option<Identity>,
}

/// How far one copying of the log into the store came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Some of it, or nothing.
    Part,
    /// All of it, and synced.
    Whole,
    /// All of it, and the log was emptied.
    Cut,
}

/// What one copying came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) extent: Extent,
    /// Pages of the log that are not in the store yet; none where somebody was in the way of the copying.
    pub(super) left: Option<i64>,
}

impl Place {
    /// The place of a store that was just opened, and is changed by nobody else of this process yet. The marker says from now on
    /// that it is open.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Store`].
    pub(super) fn of(data_dir: &Path, connection: &Connection, marker: Option<Marker>) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::of_file(data_dir, &error);
        let file = layout::file(data_dir);
        let log = layout::log_of(&file);
        let store = Arc::new(File::options().read(true).write(true).open(&file).map_err(failed)?);
        // Such as a full disk: what is stored is worked on all the same.
        if let Err(error) = raise(connection)
            && !layout::is_passing(&error)
        {
            return Err(error.into());
        }
        let stamp = marker::stamp(connection)?;
        let page::Stamp { id, beat } = stamp.ok_or_else(|| Error::Store("it has no id".to_owned()))?;
        let mut synced = marker.as_ref().map(|marker| marker.beat);
        let mut copied = page::stamp(&store).map_err(failed)?;
        // The marker must not say what the file does not.
        if (synced.is_none() || copied.is_none()) && copy(connection, "PASSIVE").extent != Extent::Part {
            copied = page::stamp(&store).map_err(failed)?;
            synced = copied.as_ref().map(|stamp| stamp.beat);
        }
        let (written, version) = (written(&store).map_err(failed)?, ask(connection, "PRAGMA data_version")?);
        let files = [file, log.clone()].into_iter();
        let place = Self {
            data_dir: data_dir.to_owned(),
            files: files.filter_map(|path| identity(&path).map(|known| (path, known))).collect(),
            lock: identity(&data_dir.join("host.lock")),
            note: File::options().write(true).open(data_dir.join("host.lock")).ok(),
            store,
            log: File::open(&log).ok(),
            id,
            main: Mutex::new(Main { written, settled: false, copied: copied.map(|stamp| stamp.beat), torn: false }),
            own: Mutex::new(Own { version: Some(version), newest: newest(connection)?, ..Own::default() }),
            committed: AtomicI64::new(beat),
            log_bytes: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            replaced: AtomicBool::new(false),
            strangers: AtomicU64::new(0),
            marked: Mutex::new(Marked { marker: None, at: Instant::now(), synced, warned: None }),
        };
        // Before the marker, which is judged by it: this store may be behind the one of which it was.
        place.noted(beat);
        match place.mark(State::Open) {
            // It is written later.
            Err(error) if !is_full(&error) => Err(failed(error)),
            _ => Ok(place),
        }
    }

    /// The store's file. Whoever closes a handle of it ends the locks that SQLite holds in this process: it stays open for as
    /// long as there is a connection.
    pub(super) fn store(&self) -> &Arc<File> {
        &self.store
    }

    /// Looks whether it is there, and the same.
    pub(super) fn whereabouts(&self) -> Whereabouts {
        if self.replaced.load(Ordering::Acquire) || !self.looks_the_same(false) {
            Whereabouts::Replaced
        } else if self.is_found() {
            Whereabouts::Here
        } else {
            Whereabouts::Moved
        }
    }

    /// Why nothing new is taken in; none where it is as it should be.
    pub(super) fn refusal(&self) -> Option<Error> {
        match self.whereabouts() {
            Whereabouts::Here => None,
            Whereabouts::Moved => Some(Error::Misplaced),
            Whereabouts::Replaced => Some(Error::Replaced),
        }
    }

    /// Looks closely, and has the marker follow. To be called each second.
    pub(super) fn tick(&self) -> Whereabouts {
        if !self.replaced.load(Ordering::Acquire) {
            self.looks_the_same(true);
        }
        let is = self.whereabouts();
        let state = if is == Whereabouts::Replaced { State::Replaced } else { State::Open };
        if is == Whereabouts::Moved {
            self.warn_of_another();
        }
        if is != Whereabouts::Moved && self.is_to_be_marked(state) {
            // A disk that refuses is asked again; what was written before is no less true.
            self.mark(state).unwrap_or_default();
        }
        is
    }

    /// The writer's look within its transaction, which others can't change any more. `false`: the store was replaced.
    pub(super) fn is_ours(&self, transaction: &Connection) -> bool {
        let mut own = locked(&self.own);
        own.changes = transaction.total_changes();
        own.pending = None;
        let Ok(version) = ask(transaction, "PRAGMA data_version") else { return true };
        let (cuts, head) = (self.cuts.load(Ordering::Acquire), self.log_head());
        let (changed, emptied) = (own.version.is_some_and(|known| known != version), own.cuts != cuts);
        let stamp = if changed { marker::stamp(transaction).map(Some) } else { Ok(None) };
        let same = match stamp {
            Ok(Some(stamp)) => {
                let expected = page::Stamp { id: self.id.clone(), beat: self.committed.load(Ordering::Acquire) };
                stamp == Some(expected) && newest(transaction).is_ok_and(|newest| newest >= own.newest)
            }
            // Nobody committed anything, so the log is the one that it was.
            Ok(None) => emptied || own.head.is_empty() || head.is_empty() || own.head == head,
            Err(error) => layout::is_passing(&error),
        };
        if changed && same && !emptied {
            self.strangers.fetch_add(1, Ordering::Relaxed);
        }
        (own.version, own.cuts) = (Some(version), cuts);
        drop(own);
        if !same {
            self.found_replaced();
        }
        same
    }

    /// The writer's last statement before a commit that changes something: raises the beat.
    pub(super) fn sealed(&self, transaction: &Connection) {
        let mut own = locked(&self.own);
        // Who changes nothing need not wait for the disk.
        if transaction.total_changes() == own.changes {
            return;
        }
        // A damaged page here keeps nothing from being stored.
        let known = self.committed.load(Ordering::Acquire);
        let beat = raise(transaction).ok().flatten().unwrap_or(known);
        own.pending = Some((beat, newest(transaction).unwrap_or(own.newest)));
    }

    /// Called by the writer after each commit, or where there was none.
    pub(super) fn committed(&self, well: bool) {
        let mut own = locked(&self.own);
        let pending = own.pending.take();
        match pending {
            Some((beat, newest)) if well => {
                self.committed.store(beat, Ordering::Release);
                self.noted(beat);
                own.newest = newest;
            }
            _ => {}
        }
        own.head = self.log_head();
        let begins = own.head.is_empty() || own.head.starts_with(&[0x37, 0x7f, 0x06]);
        drop(own);
        // The copying may be about to empty it, and says so itself: nothing is known of it then.
        if let Ok(_main) = self.main.try_lock() {
            self.log_bytes.store(self.log_length(), Ordering::Release);
        }
        // It was cut under the commit, which then wrote behind a hole.
        if pending.is_some() && well && !begins {
            self.found_replaced();
        }
    }

    /// Has the log copied into the store, where that is the store that it belongs to.
    pub(super) fn copying<T>(&self, copy: impl FnOnce() -> (T, Extent)) -> Option<T> {
        if self.whereabouts() == Whereabouts::Replaced {
            return None;
        }
        let mut main = locked(&self.main);
        let (done, extent) = copy();
        if extent == Extent::Cut {
            self.log_bytes.store(0, Ordering::Release);
            self.cuts.fetch_add(1, Ordering::AcqRel);
        }
        // A disk that failed in the midst of it. Who looked before saw the right file, and nobody else looks meanwhile.
        main.torn = extent == Extent::Part && self.is_unreadable();
        let same = self.is_own(&mut main, true);
        let copied = main.copied;
        drop(main);
        if !same {
            self.found_replaced();
            return None;
        }
        if extent != Extent::Part {
            locked(&self.marked).synced = copied;
        }
        Some(done)
    }

    /// The same by SQLite alone.
    pub(super) fn copied(&self, connection: &Connection, how: &str) -> Option<Copied> {
        self.copying(|| {
            let copied = copy(connection, how);
            (copied, copied.extent)
        })
    }

    /// The writer's end: leaves one whole file behind, for whoever copies it, and says so. A store that is not where it was, or not
    /// the same, is left alone.
    pub(super) fn close(&self, connection: &Connection) {
        let is = self.whereabouts();
        if is == Whereabouts::Moved {
            self.warn_of_another();
        }
        let copied = if is == Whereabouts::Here { self.copied(connection, "TRUNCATE") } else { None };
        let cut = copied.is_some_and(|copied| copied.extent == Extent::Cut);
        // With a marker that still says `open`, and a log that is gone, the next start would ask: it goes only after the word is on
        // the disk.
        if self.replaced.load(Ordering::Acquire) {
            return;
        }
        if cut && self.mark(State::Closed).is_ok() {
            drop(layout::keep_log(connection, false));
        }
    }

    fn noted(&self, beat: i64) {
        if let Some(file) = &self.note {
            // What can't be written is behind, as after a loss of power.
            file.write_all_at(marker::note(&self.id, beat).as_bytes(), 0).unwrap_or_default();
        }
    }

    fn is_found(&self) -> bool {
        self.files.iter().all(|(path, known)| identity(path) == Some(*known))
    }

    fn looks_the_same(&self, closely: bool) -> bool {
        // The host itself writes the file: whoever does looks afterwards.
        let Ok(mut main) = self.main.try_lock() else { return true };
        let mut same = self.is_own(&mut main, closely);
        if same && self.log_length() < self.log_bytes.load(Ordering::Acquire) {
            // Another program may have had SQLite copy and empty it: then nothing is lost.
            same = self.is_own(&mut main, true) && main.copied >= Some(self.committed.load(Ordering::Acquire));
        }
        drop(main);
        if !same {
            self.found_replaced();
        }
        same
    }

    fn is_own(&self, main: &mut Main, closely: bool) -> bool {
        for read in 0..READS {
            if read > 0 {
                std::thread::sleep(READ_AGAIN);
            }
            // What can't be looked at is not known to be another.
            let Ok(written) = written(&self.store) else { return true };
            if written == main.written && main.settled && !closely {
                return true;
            }
            let stamp = match page::stamp(&self.store) {
                Ok(stamp) => stamp,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
                Err(_) => return true,
            };
            let is = match &stamp {
                // A commit is in the log a moment before it is known here.
                Some(page::Stamp { id, beat }) => {
                    *id == self.id
                        && main.copied.is_none_or(|copied| *beat >= copied)
                        && *beat <= self.committed.load(Ordering::Acquire).saturating_add(1)
                }
                None => main.copied.is_none() || main.torn,
            };
            if stamp.is_none() && !is && self.is_growing(main, written) {
                return true;
            }
            if is {
                let copied = stamp.map_or(main.copied, |stamp| Some(stamp.beat));
                *main = Main { written, settled: is_past(written), copied, torn: main.torn };
                return true;
            }
        }
        false
    }

    /// Whether another program's SQLite may be in the midst of copying the log into the file: its first page says already how many
    /// there will be. It is looked at again until it is quiet.
    fn is_growing(&self, main: &Main, written: Written) -> bool {
        let growing = || page::Layout::of(&self.store).ok().flatten().is_some_and(|layout| layout.is_short());
        written.0 >= main.written.0 && is_within(written, QUIET) && growing()
    }

    fn is_unreadable(&self) -> bool {
        match page::stamp(&self.store) {
            Ok(stamp) => stamp.is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        }
    }

    fn found_replaced(&self) {
        if !self.replaced.swap(true, Ordering::AcqRel) && self.is_found() {
            // A disk that refuses is asked again each second.
            self.mark(State::Replaced).unwrap_or_default();
        }
    }

    fn is_to_be_marked(&self, state: State) -> bool {
        let marked = locked(&self.marked);
        match &marked.marker {
            None => true,
            Some(marker) if marker.state != state => true,
            Some(marker) => {
                marked.at.elapsed() >= MARKED_AGAIN
                    && (marked.synced.is_some_and(|synced| synced > marker.beat)
                        || self.committed.load(Ordering::Acquire) > marker.committed)
            }
        }
    }

    /// Leaves a word where another store has taken this one's name: else the next start would take it without asking.
    fn warn_of_another(&self) {
        let Some((path, known)) = self.files.first() else { return };
        let mut marked = locked(&self.marked);
        let there = identity(path).filter(|found| found != known);
        // A folder without a store and a marker: an empty place to mount, which the next start would take for a new one's.
        let bare = || !path.exists() && self.data_dir.is_dir() && matches!(Marker::read(&self.data_dir), Ok(None));
        let known = there.map_or_else(|| !bare(), |found| marked.warned == Some(found));
        if known {
            return;
        }
        // Another host may be at work there already: it was told what it is.
        let lock = self.data_dir.join("host.lock");
        if identity(&lock) != self.lock && File::open(&lock).is_ok_and(|lock| lock.try_lock().is_err()) {
            return;
        }
        let marker = self.marker(marked.synced.unwrap_or(0), State::Replaced);
        // A folder that refuses is asked again each second.
        if marker.write(&self.data_dir).is_ok() {
            // The own one may come back to this name.
            (marked.marker, marked.warned) = (Some(marker), there);
        }
    }

    pub(super) fn mark(&self, state: State) -> std::io::Result<()> {
        let mut marked = locked(&self.marked);
        // A store whose file does not bear its stamp yet has no marker yet.
        let Some(beat) = marked.synced.or((state == State::Replaced).then_some(0)) else { return Ok(()) };
        let marker = self.marker(beat, state);
        marker.write(&self.data_dir)?;
        (marked.marker, marked.at) = (Some(marker), Instant::now());
        Ok(())
    }

    fn marker(&self, beat: i64, state: State) -> Marker {
        let committed = self.committed.load(Ordering::Acquire);
        Marker { store: self.id.clone(), beat, committed, found: 0, state }
    }

    fn log_length(&self) -> u64 {
        // What can't be looked at is not known to be shorter.
        self.log.as_ref().map_or(0, |log| log.metadata().map_or(u64::MAX, |metadata| metadata.len()))
    }

    pub(super) fn log_head(&self) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        let read = self.log.as_ref().is_some_and(|log| log.read_exact_at(&mut head, 0).is_ok());
        if read { head } else { Vec::new() }
    }
}

impl super::Handle {
    /// Where the store is: where it is not as it was opened, nothing new is taken in.
    pub fn whereabouts(&self) -> Whereabouts {
        self.place.whereabouts()
    }

    /// The same, looked at closely; to be called each second, because the folder's marker follows. With it how many commits of other
    /// programs there were since it was opened, which left alone what is looked at.
    pub fn look_after(&self) -> (Whereabouts, u64) {
        (self.place.tick(), self.place.strangers.load(Ordering::Relaxed))
    }
}

/// Has SQLite copy the log into the store.
pub(super) fn copy(connection: &Connection, how: &str) -> Copied {
    let row = connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.saturating_sub(row.get(2)?)))
    });
    let left = row.ok().filter(|(refused, _)| *refused == 0).map(|(_, left)| left);
    let extent = match left {
        Some(_) if how == "TRUNCATE" => Extent::Cut,
        Some(0) => Extent::Whole,
        _ => Extent::Part,
    };
    Copied { extent, left }
}

fn raise(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    use rusqlite::OptionalExtension as _;
    connection
        .prepare_cached("UPDATE store SET beat = beat + 1 RETURNING beat")?
        .query_row([], |row| row.get(0))
        .optional()
}

fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    ask(connection, "SELECT ifnull(max(seq), 0) FROM event")
}

fn ask(connection: &Connection, question: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached(question)?.query_row([], |row| row.get(0))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn written(file: &File) -> std::io::Result<Written> {
    file.metadata().map(|metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn is_past(written: Written) -> bool {
    age(written).is_some_and(|age| age > STEP)
}

fn is_within(written: Written, time: Duration) -> bool {
    age(written).is_some_and(|age| age <= time)
}

fn age((_, seconds, nanoseconds): Written) -> Option<Duration> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let written = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
    written.map(|(seconds, nanoseconds)| since.saturating_sub(Duration::new(seconds, nanoseconds)))
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
