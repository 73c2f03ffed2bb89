//! The file: tables, indexes, format version, migrations.
//!
//! - A migration is a step in [`STEPS`], applied in one transaction with its version; steps are never edited.
//! - Plugins and queues are numbered, because a delivery is stored for each.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};

use super::marker::{self, Marker, State};
use super::{Error, Options, backup, restored};
use crate::clock::Clock;
use crate::files::{self, private};

/// One step per format version, from 1.
pub(super) const STEPS: &[&str] = &["
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        account TEXT NOT NULL,
        name TEXT NOT NULL,
        received_at INTEGER NOT NULL,
        via TEXT NOT NULL,
        actor INTEGER,
        entity_kind TEXT,
        entity_id TEXT,
        fields TEXT NOT NULL
    ) STRICT;
    CREATE TABLE cursor (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO cursor VALUES ('routed', 0);
    CREATE TABLE plugin (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE delivery (
        seq INTEGER PRIMARY KEY,
        event INTEGER NOT NULL,
        plugin INTEGER NOT NULL,
        lane TEXT,
        state INTEGER NOT NULL,
        at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        reason TEXT
    ) STRICT;
    CREATE INDEX delivery_event ON delivery (event);
    CREATE INDEX delivery_ready ON delivery (plugin, at, seq) WHERE state = 0;
    CREATE INDEX delivery_lane ON delivery (plugin, lane, seq) WHERE state IN (0, 1, 2);
    CREATE INDEX delivery_running ON delivery (seq) WHERE state = 2;
    CREATE INDEX delivery_dead ON delivery (plugin, seq) WHERE state = 5;
    CREATE TABLE attempt (
        delivery INTEGER NOT NULL,
        number INTEGER NOT NULL,
        version TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT NOT NULL,
        code TEXT,
        cpu INTEGER NOT NULL,
        wall INTEGER NOT NULL,
        memory INTEGER NOT NULL,
        lines TEXT NOT NULL,
        lines_dropped INTEGER NOT NULL,
        PRIMARY KEY (delivery, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE host_call (
        delivery INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        ordinal INTEGER NOT NULL,
        at INTEGER NOT NULL,
        took INTEGER NOT NULL,
        call TEXT NOT NULL,
        request TEXT NOT NULL,
        answer TEXT NOT NULL,
        good INTEGER NOT NULL,
        PRIMARY KEY (delivery, attempt, ordinal)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE state (
        plugin INTEGER NOT NULL,
        account TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        version INTEGER NOT NULL,
        PRIMARY KEY (plugin, account, key)
    ) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE queue (
        number INTEGER PRIMARY KEY,
        plugin INTEGER NOT NULL,
        account TEXT NOT NULL,
        UNIQUE (plugin, account)
    ) STRICT;
    INSERT INTO queue (plugin, account)
        SELECT DISTINCT d.plugin, e.account FROM delivery d JOIN event e ON e.seq = d.event;
    CREATE TABLE delivery_2 (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        event INTEGER NOT NULL,
        queue INTEGER NOT NULL,
        lane TEXT,
        state INTEGER NOT NULL,
        at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        failures INTEGER NOT NULL DEFAULT 0,
        interruptions INTEGER NOT NULL DEFAULT 0,
        began INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        code TEXT
    ) STRICT;
    INSERT INTO delivery_2 (seq, event, queue, lane, state, at, attempts, failures, reason)
        SELECT d.seq, d.event, q.number, substr(d.lane, length(e.account) + 2), d.state, d.at, d.attempts, d.failures, d.reason
          FROM delivery d JOIN event e ON e.seq = d.event JOIN queue q ON q.plugin = d.plugin AND q.account = e.account;
    DROP TABLE delivery;
    ALTER TABLE delivery_2 RENAME TO delivery;
    CREATE INDEX delivery_event ON delivery (event);
    CREATE INDEX delivery_ready ON delivery (queue, at, seq) WHERE state = 0;
    CREATE INDEX delivery_lane ON delivery (queue, lane, seq) WHERE state IN (0, 1, 2);
    CREATE INDEX delivery_running ON delivery (seq) WHERE state = 2;
    CREATE INDEX delivery_dead ON delivery (seq) WHERE state = 5;
    ALTER TABLE event ADD COLUMN duplicate TEXT;
    ALTER TABLE event ADD COLUMN duplicate_of INTEGER;
    CREATE INDEX event_entity ON event (account, entity_kind, entity_id);
", "
    ALTER TABLE event ADD COLUMN key TEXT;
    ALTER TABLE event ADD COLUMN same_login INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE event ADD COLUMN cause INTEGER;
    ALTER TABLE event ADD COLUMN depth INTEGER NOT NULL DEFAULT 0;
    CREATE UNIQUE INDEX event_key ON event (account, key) WHERE key IS NOT NULL;
    CREATE INDEX event_cause ON event (cause) WHERE cause IS NOT NULL;
    CREATE TABLE account (name TEXT PRIMARY KEY, user INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE write (
        delivery INTEGER NOT NULL,
        digest BLOB NOT NULL,
        occurrence INTEGER NOT NULL,
        call TEXT NOT NULL,
        account TEXT NOT NULL,
        kind TEXT NOT NULL,
        record TEXT,
        sent_at INTEGER NOT NULL,
        answered_at INTEGER,
        answer TEXT,
        PRIMARY KEY (delivery, digest, occurrence)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX write_record ON write (account, kind, sent_at);
    CREATE INDEX write_uncertain ON write (delivery) WHERE answered_at IS NULL;
    CREATE TABLE polled (
        account TEXT NOT NULL,
        list TEXT NOT NULL,
        record TEXT NOT NULL,
        says TEXT NOT NULL,
        PRIMARY KEY (account, list, record)
    ) STRICT, WITHOUT ROWID;
", "
    CREATE INDEX event_name ON event (name);
    CREATE INDEX event_actor ON event (actor) WHERE actor IS NOT NULL;
    CREATE INDEX delivery_letters ON delivery (queue, code, seq) WHERE state = 5;
    CREATE INDEX attempt_failed ON attempt (ended_at) WHERE outcome NOT IN ('done', 'skipped', 'conflict');
    ALTER TABLE delivery ADD COLUMN replay INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE tally (
        queue INTEGER NOT NULL,
        code TEXT NOT NULL,
        deliveries INTEGER NOT NULL,
        PRIMARY KEY (queue, code)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO tally
        SELECT queue, iif(state = 5, coalesce(code, '?'), ''), count(*) FROM delivery WHERE state IN (0, 1, 2, 5) GROUP BY 1, 2;
    CREATE TABLE minute (
        at INTEGER NOT NULL,
        queue INTEGER NOT NULL,
        events INTEGER NOT NULL,
        good INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        waited INTEGER NOT NULL,
        slowest INTEGER NOT NULL,
        PRIMARY KEY (at, queue)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        who TEXT NOT NULL,
        action TEXT NOT NULL,
        object TEXT NOT NULL,
        details TEXT NOT NULL
    ) STRICT;
    CREATE TABLE hold (plugin TEXT PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE effect (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        delivery INTEGER NOT NULL,
        digest BLOB NOT NULL,
        occurrence INTEGER NOT NULL,
        account TEXT NOT NULL,
        name TEXT NOT NULL,
        record TEXT,
        added INTEGER NOT NULL,
        choice INTEGER NOT NULL,
        content TEXT NOT NULL,
        armed_at INTEGER NOT NULL,
        answered_at INTEGER,
        arrivals INTEGER NOT NULL,
        findings INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX effect_record ON effect (account, name, record, armed_at);
    CREATE INDEX effect_write ON effect (delivery, digest, occurrence);
    CREATE INDEX write_about ON write (account, kind, record) WHERE record IS NOT NULL;
    ALTER TABLE event ADD COLUMN known INTEGER NOT NULL DEFAULT 0;
", "
    CREATE TABLE state_use (
        plugin INTEGER NOT NULL,
        account TEXT NOT NULL,
        keys INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (plugin, account)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO state_use
        SELECT plugin, account, count(*), sum(octet_length(key) + octet_length(value)) FROM state GROUP BY plugin, account;
    CREATE TRIGGER state_added AFTER INSERT ON state BEGIN
        INSERT INTO state_use VALUES (NEW.plugin, NEW.account, 1, octet_length(NEW.key) + octet_length(NEW.value))
            ON CONFLICT (plugin, account) DO UPDATE SET keys = keys + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER state_changed AFTER UPDATE ON state BEGIN
        UPDATE state_use SET bytes = bytes + octet_length(NEW.value) - octet_length(OLD.value)
         WHERE plugin = NEW.plugin AND account = NEW.account;
    END;
    CREATE TRIGGER state_removed AFTER DELETE ON state BEGIN
        UPDATE state_use SET keys = keys - 1, bytes = bytes - octet_length(OLD.key) - octet_length(OLD.value)
         WHERE plugin = OLD.plugin AND account = OLD.account;
    END;
", "
    CREATE TABLE forgotten (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        who TEXT NOT NULL,
        account TEXT NOT NULL,
        kind TEXT NOT NULL,
        record TEXT NOT NULL,
        mentions INTEGER NOT NULL,
        version TEXT NOT NULL,
        up_to INTEGER NOT NULL,
        walks INTEGER NOT NULL DEFAULT 0,
        remaining INTEGER NOT NULL DEFAULT 0,
        counts TEXT NOT NULL DEFAULT '{}',
        deleted_at INTEGER,
        erased_at INTEGER
    ) STRICT;
    CREATE INDEX forgotten_unfinished ON forgotten (number) WHERE erased_at IS NULL;
    INSERT INTO cursor VALUES ('scrub', 1);
", "
    CREATE TABLE restored (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        copied_at INTEGER NOT NULL,
        restored_at INTEGER NOT NULL,
        version TEXT NOT NULL,
        up_to INTEGER NOT NULL,
        released_at INTEGER,
        released_by TEXT
    ) STRICT;
    ALTER TABLE event ADD COLUMN doubted_since INTEGER;
    ALTER TABLE delivery ADD COLUMN doubted_since INTEGER;
    CREATE INDEX delivery_doubted ON delivery (seq) WHERE doubted_since IS NOT NULL;
    ALTER TABLE write ADD COLUMN may_send INTEGER NOT NULL DEFAULT 0;
", "
    CREATE TABLE store (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, beat INTEGER NOT NULL) STRICT;
    INSERT INTO store VALUES (1, lower(hex(randomblob(16))), 0);
", "
    CREATE TABLE stuck (event INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
"];

/// The journal's file in a data folder.
pub(super) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("journal.sqlite")
}

/// A file that SQLite keeps beside a store's.
pub(super) fn beside(file: &Path, end: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(end);
    path.into()
}

/// The log of changes that belongs to a store's file.
pub(super) fn log_of(file: &Path) -> PathBuf {
    beside(file, "-wal")
}

/// A store that is open for writing, and ready for this program.
pub(super) struct Opened {
    /// Holds the data folder.
    pub(super) lock: File,
    pub(super) connection: Connection,
    /// What the folder's marker said.
    pub(super) marker: Option<Marker>,
}

pub(super) fn not_private(data_dir: &Path) -> impl FnOnce(private::Error) -> Error {
    |error| Error::Open { path: data_dir.to_owned(), cause: error.to_string(), passes: error.may_pass() }
}

/// Keeps every other host, and whoever puts another store in place, away from a data folder.
pub(super) fn lock(data_dir: &Path) -> Result<File, Error> {
    private::close(data_dir, &["journal.sqlite", "host.lock", "store.json"]).map_err(not_private(data_dir))?;
    let lock = private::open(&data_dir.join("host.lock")).map_err(not_private(data_dir))?;
    match lock.try_lock() {
        Ok(()) => {
            // Whoever writes one has the lock: these are of a host that was cut off.
            files::remove_unfinished(&data_dir.join("store.json"));
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => Err(Error::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::of_file(data_dir, &error)),
    }
}

/// What can't be one of the store's files: SQLite would only say that it can't open it, for ever.
fn foreign(data_dir: &Path) -> Option<Error> {
    let names = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "store.json"];
    let is_none = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file());
    let found = names.map(|name| data_dir.join(name)).into_iter().find(is_none)?;
    let cause = format!("`{}` is no regular file: move it away", found.display());
    Some(Error::Open { path: data_dir.to_owned(), cause, passes: false })
}

/// Opens the store for writing and makes it ready for this program.
pub(super) fn open(options: &Options, clock: &Clock) -> Result<Opened, Error> {
    let data_dir = &*options.data_dir;
    let lock = lock(data_dir)?;
    if let Some(error) = foreign(data_dir) {
        return Err(error);
    }
    // Before SQLite makes a new file, or applies a log to one that is not its own.
    let marker = marker::judged(data_dir)?;
    if marker.is_none() {
        // Whatever is there is taken, also where this start is cut short.
        marker::remove(data_dir).map_err(|error| Error::of_file(data_dir, &error))?;
        // A copy that was put here by hand is a store from now on: with its seal and a log it would be taken for one that was just put
        // here.
        if let Ok((bytes, _)) = backup::seal(&file(data_dir)) {
            let store = private::open(&file(data_dir)).map_err(not_private(data_dir))?;
            store.set_len(bytes).map_err(|error| Error::of_file(data_dir, &error))?;
        }
    }
    super::compact::clear(data_dir);
    // Made here, because SQLite gives a log the rights of its store. Closed before SQLite opens it: afterwards that would end
    // the locks that it holds.
    drop(private::open(&file(data_dir)).map_err(not_private(data_dir))?);
    let mut connection = Connection::open(file(data_dir))?;
    keep_log(&connection, true)?;
    configure(&connection)?;
    marker::matches(&connection, data_dir, marker.as_ref())?;
    // The log is there from here on, and what is changed goes into it: a start that is cut short leaves it.
    if let Some(marker) = marker.as_ref().filter(|marker| marker.state != State::Open) {
        let open = Marker { state: State::Open, ..marker.clone() };
        open.write(data_dir).map_err(|error| Error::of_file(data_dir, &error))?;
    }
    migrate(&mut connection, data_dir, options.told)?;
    restored::adopt(&mut connection, clock.now())?;
    recover(&mut connection, clock)?;
    Ok(Opened { lock, connection, marker })
}

/// Whether the same may go well later: somebody else holds the store, or the disk refuses.
pub(super) fn is_passing(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, SystemIoFailure};
    let passing = [DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, SystemIoFailure];
    error.sqlite_error_code().is_some_and(|code| passing.contains(&code))
}

/// The newest format that this program knows.
pub(super) fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// The format of a store, which this program knows.
pub(super) fn known(connection: &Connection, data_dir: &Path) -> Result<i64, Error> {
    let known = newest();
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known { Err(Error::Newer { path: data_dir.to_owned(), found, known }) } else { Ok(found) }
}

/// Whether the log stays when a connection that may write is closed. The last one would bring it back and remove it, and a marker that
/// says that the host has the store open would miss it, though nothing is lost: so it stays, until the marker says otherwise.
pub(super) fn keep_log(connection: &Connection, keep: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(drop)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(super::write::LONGEST_WAIT)?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; PRAGMA secure_delete = ON;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// How far a store of an older version has been brought.
#[derive(Debug, Clone, Copy)]
pub enum Migration {
    /// It is about to be changed.
    Begins {
        /// Its format.
        found: i64,
        /// This program's.
        known: i64,
        /// The size of its file.
        bytes: u64,
    },
    /// It has reached a format.
    Done {
        /// Which.
        version: i64,
        /// This program's.
        known: i64,
        /// How long that step took.
        took: Duration,
    },
}

fn migrate(connection: &mut Connection, data_dir: &Path, told: fn(&Migration)) -> Result<(), Error> {
    let (found, known) = (known(connection, data_dir)?, newest());
    // A new one is made at once.
    let old = (1..known).contains(&found);
    if old {
        let bytes = std::fs::metadata(file(data_dir)).map_or(0, |metadata| metadata.len());
        told(&Migration::Begins { found, known, bytes });
    }
    for (version, step) in (1_i64..).zip(STEPS).filter(|(version, _)| *version > found) {
        let began = Instant::now();
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
        if old {
            told(&Migration::Done { version, known, took: began.elapsed() });
        }
    }
    Ok(())
}

/// Deliveries that were running when the last process ended are ready again; the attempt is kept as interrupted.
///
/// One that had been marked as begun ran alone among those under suspicion: the end of the process counts against it.
fn recover(connection: &mut Connection, clock: &Clock) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    let now = clock.now();
    transaction.execute(
        "INSERT INTO attempt SELECT seq, attempts, '', at, max(at, ?1), 'interrupted', 'the host ended while it ran', NULL,
                0, 0, 0, '[]', 0
           FROM delivery INDEXED BY delivery_running WHERE state = 2",
        params![now],
    )?;
    transaction.execute(
        "UPDATE delivery INDEXED BY delivery_running
                SET state = 0, at = ?1, interruptions = interruptions + (began >= 0), crashes = crashes + (began = 1), began = 0
              WHERE state = 2",
        params![now],
    )?;
    transaction.commit()?;
    Ok(())
}

/// The number of a plugin; made when it is new.
pub(super) fn plugin_number(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    let known = connection
        .prepare_cached("SELECT number FROM plugin WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    match known {
        Some(number) => Ok(number),
        None => connection
            .prepare_cached("INSERT INTO plugin (name) VALUES (?1) RETURNING number")?
            .query_row([name], |row| row.get(0)),
    }
}

/// The number of a queue, and whether it is new.
pub(super) fn queue_number(connection: &Connection, plugin: i64, account: &str) -> rusqlite::Result<(i64, bool)> {
    let known = connection
        .prepare_cached("SELECT number FROM queue WHERE plugin = ?1 AND account = ?2")?
        .query_row(params![plugin, account], |row| row.get(0))
        .optional()?;
    match known {
        Some(number) => Ok((number, false)),
        None => connection
            .prepare_cached("INSERT INTO queue (plugin, account) VALUES (?1, ?2) RETURNING number")?
            .query_row(params![plugin, account], |row| Ok((row.get(0)?, true))),
    }
}
