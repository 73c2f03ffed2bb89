//! The tables that are only counts of what other tables hold: stored as well as can be, and made anew where they are damaged.
//!
//! - **No event is refused for their sake.** They are stored at the end of a transaction, each within a savepoint: where that
//!   fails, the rest is committed all the same, and the table is left alone until it has been made anew.
//! - A damaged table is not dropped as SQLite drops one, which follows its pages and gives them away, those of other tables
//!   among them where a damaged page names such. It is struck out of the schema, and its pages stay unused until
//!   `journal compact`.
//! - `tally` and `state_use` are counted anew from what they count; `minute` begins anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::Error;
use super::condition::{Condition, News};
use super::minutes::{Minutes, Tally};

/// How long a table that can't be read, and need not be damaged, is left alone.
const UNREADABLE: Duration = Duration::from_secs(30);
/// The longest pause between two tries to make a table anew.
const LONGEST: Duration = Duration::from_secs(300);

/// A table of counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Minute,
    Tally,
    StateUse,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Minute, Self::Tally, Self::StateUse];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Tally => "tally",
            Self::StateUse => "state_use",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// What counts it anew; the second does without the indexes.
    pub(super) fn counted(self) -> [&'static str; 2] {
        match self {
            Self::Minute => [""; 2],
            Self::Tally => [
                "INSERT INTO tally SELECT queue, '', count(*) FROM delivery INDEXED BY delivery_lane
                  WHERE state IN (0, 1, 2) GROUP BY queue;
                 INSERT INTO tally SELECT queue, coalesce(code, '?'), count(*) FROM delivery INDEXED BY delivery_letters
                  WHERE state = 5 GROUP BY 1, 2;",
                "INSERT INTO tally SELECT queue, iif(state = 5, coalesce(code, '?'), ''), count(*) FROM delivery NOT INDEXED
                  WHERE state IN (0, 1, 2, 5) GROUP BY 1, 2;",
            ],
            Self::StateUse => [
                "INSERT INTO state_use SELECT plugin, account, count(*), sum(octet_length(key) + octet_length(value))
                   FROM state GROUP BY plugin, account;";
                2
            ],
        }
    }
}

/// A table that is left alone for now.
#[derive(Debug)]
pub(super) struct Off {
    damaged: bool,
    tries: u32,
    next: Instant,
}

impl Off {
    pub(super) fn because(error: &Error) -> Self {
        let damaged = matches!(error, Error::Damaged(_));
        let now = Instant::now();
        Self { damaged, tries: 0, next: if damaged { now } else { now + UNREADABLE } }
    }

    fn again(&mut self) {
        self.tries = self.tries.saturating_add(1);
        self.next =
            Instant::now() + Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(self.tries)).min(LONGEST);
    }
}

/// What the writer counts.
pub(super) struct Statistics {
    pub(super) minutes: Minutes,
    pub(super) tally: Tally,
    /// Counted by the store itself: nothing is left out, and it is made anew where it is damaged.
    uses: Option<Off>,
    condition: Arc<Condition>,
}

impl Statistics {
    pub(super) fn new(condition: Arc<Condition>) -> Self {
        Self { minutes: Minutes::default(), tally: Tally::default(), uses: None, condition }
    }

    pub(super) fn begin(&mut self) {
        self.minutes.clear();
        self.tally.clear();
    }

    /// Stores what the transaction brings.
    ///
    /// # Errors
    /// The transaction is over. A table that was the cause is left alone when it is repeated.
    pub(super) fn store(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.minutes.off.is_none() && !self.minutes.is_empty() {
            let stored = apart(connection, || self.minutes.store(connection));
            self.heed(Table::Minute, connection, stored)?;
        }
        if self.tally.off.is_none() && !self.tally.is_empty() {
            let stored = apart(connection, || self.tally.store(connection));
            self.heed(Table::Tally, connection, stored)?;
        }
        Ok(())
    }

    fn heed(&mut self, table: Table, connection: &Connection, stored: rusqlite::Result<()>) -> rusqlite::Result<()> {
        let Err(failed) = stored else { return Ok(()) };
        let error = Error::from(&failed);
        // A disk without room says nothing of the table.
        if !matches!(error, Error::Full | Error::Locked) {
            self.condition.say(News::StatisticsFailed(table.name(), error.to_string()));
            *self.off(table) = Some(Off::because(&error));
        }
        // Some failures end the transaction, and all that is in it has to be done again.
        if connection.is_autocommit() { Err(failed) } else { Ok(()) }
    }

    fn off(&mut self, table: Table) -> &mut Option<Off> {
        match table {
            Table::Minute => &mut self.minutes.off,
            Table::Tally => &mut self.tally.off,
            Table::StateUse => &mut self.uses,
        }
    }

    /// Somebody found a table damaged.
    pub(super) fn doubt(&mut self, table: Table) {
        self.off(table).get_or_insert(Off { damaged: true, tries: 0, next: Instant::now() });
    }

    /// Whether something that is left alone is due.
    pub(super) fn is_due(&self) -> bool {
        let all = [&self.minutes.off, &self.tally.off, &self.uses];
        all.into_iter().flatten().any(|off| off.next <= Instant::now())
    }

    /// Makes anew what is left alone and due.
    pub(super) fn mend(&mut self, connection: &mut Connection) {
        for table in Table::ALL {
            let Some(off) = self.off(table).as_ref().filter(|off| off.next <= Instant::now()) else { continue };
            // What could not be read for a moment is taken up again, but for a tally that has missed something.
            let readable = !off.damaged
                && table != Table::Tally
                && connection.query_row(&format!("SELECT count(*) FROM {}", table.name()), [], |_| Ok(())).is_ok();
            if readable || rebuild(connection, table).is_ok() {
                *self.off(table) = None;
                self.condition.say(News::StatisticsMended(table.name()));
            } else if let Some(off) = self.off(table) {
                off.again();
            }
        }
    }
}

/// Does something within a savepoint, so that the rest of the transaction can be committed without it.
fn apart(connection: &Connection, act: impl FnOnce() -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    let say = |words: &str| connection.prepare_cached(words)?.execute([]).map(drop);
    say("SAVEPOINT statistics")?;
    let done = act();
    if done.is_err() && !connection.is_autocommit() {
        let back = say("ROLLBACK TO statistics");
        if back.is_err() {
            // Half of it must not be committed.
            connection.execute_batch("ROLLBACK")?;
            return done;
        }
    }
    if !connection.is_autocommit() {
        say("RELEASE statistics")?;
    }
    done
}

/// Makes a table anew, in one transaction, without following its pages.
pub(super) fn rebuild(connection: &mut Connection, table: Table) -> rusqlite::Result<()> {
    let made = made_anew(connection, table);
    // Also where it failed: whatever was read of the schema meanwhile is read again.
    connection.execute_batch("PRAGMA writable_schema = RESET")?;
    made
}

fn made_anew(connection: &mut Connection, table: Table) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let known = transaction
        .query_row("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table.name()], |row| row.get(0))
        .optional()?;
    let Some(sql): Option<String> = known else { return Ok(()) };
    let version: i64 = transaction.query_row("PRAGMA schema_version", [], |row| row.get(0))?;
    transaction.execute_batch("PRAGMA writable_schema = ON")?;
    transaction.execute("DELETE FROM sqlite_schema WHERE tbl_name = ?1", [table.name()])?;
    // Whoever else has the store open reads the schema again.
    transaction.pragma_update(None, "schema_version", version + 1)?;
    transaction.execute_batch("PRAGMA writable_schema = RESET")?;
    transaction.execute_batch(&sql)?;
    let [quick, thorough] = table.counted();
    if apart(&transaction, || transaction.execute_batch(quick)).is_err() {
        transaction.execute_batch(thorough)?;
    }
    transaction.commit()
}
