//! What is damaged in the store's file: which table or index, by SQLite's own check of each, within a bounded time.
//!
//! - What is said names tables, indexes and numbers of pages and rows, and nothing that is in them.
//! - Small tables first, so that a short look sees most of them; what was not looked at is said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::Serialize;

use super::space;
use super::statistics::Table;

/// Looked at last, because they are the largest, in this order.
const LARGE: [&str; 6] = ["delivery", "effect", "write", "event", "attempt", "host_call"];
/// Sentences of SQLite's that are kept of each.
const MOST_WORDS: usize = 3;
/// How often it is looked whether a look is over.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of the log that are always there, and of the disk that a look leaves beyond what must be free.
const MARGIN: u64 = 64 << 20;

/// A damaged table or index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The table.
    pub table: String,
    /// The damaged index of it; none where the table itself is.
    pub index: Option<String>,
    /// SQLite's words.
    pub words: Vec<String>,
}

impl Damage {
    /// What it is.
    pub fn what(&self) -> String {
        match &self.index {
            Some(index) => format!("the index `{index}` of the table `{}`", self.table),
            None => format!("the table `{}`", self.table),
        }
    }

    /// What it means.
    pub fn meaning(&self) -> &'static str {
        match (&self.index, Table::of(&self.table)) {
            (_, Some(_)) => "counts are wrong or missing; no event is lost",
            (Some(_), None) => "what is looked for by it is refused; nothing in the table is lost",
            (None, None) => "some of what it holds is lost",
        }
    }

    /// The way back.
    pub fn remedy(&self) -> &'static str {
        match (&self.index, Table::of(&self.table)) {
            (_, Some(_)) => "a running host makes it anew by itself, `salesman-host journal compact` as well",
            (Some(_), None) => {
                "stop the host, run `salesman-host journal compact`, which makes it anew, and start the host"
            }
            (None, None) => "stop the host and bring back a copy with `salesman-host restore`",
        }
    }
}

/// What one look came to.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// What is damaged.
    pub(super) damaged: Vec<Damage>,
    /// The tables that were looked at, with their indexes.
    pub(super) looked_at: Vec<String>,
    /// Those for which there was no time.
    pub(super) left: Vec<String>,
}

/// Looks at every table with its indexes, as long as it may.
pub(super) fn look(connection: &Connection, bound: &Bound) -> Looked {
    let mut looked = Looked::default();
    let tables = match tables(connection) {
        Ok(tables) => tables,
        Err(error) => {
            looked.damaged.push(Damage {
                table: "sqlite_schema".to_owned(),
                index: None,
                words: vec![error.to_string()],
            });
            return looked;
        }
    };
    for table in tables {
        if bound.is_over() {
            looked.left.push(table);
            continue;
        }
        match bound.within(connection, || check(connection, &table)) {
            Ok(damaged) => {
                looked.damaged.extend(damaged);
                looked.looked_at.push(table);
            }
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
                looked.left.push(table);
            }
            Err(error) => looked.damaged.push(Damage { table, index: None, words: vec![error.to_string()] }),
        }
    }
    looked
}

/// How long a look may take. It holds a snapshot, behind which the log of changes grows.
pub(super) struct Bound {
    until: Instant,
    folder: PathBuf,
    least_free: u64,
}

impl Bound {
    /// No longer than `most`, nor where the log has grown and less than `least_free` bytes and some are free.
    pub(super) fn new(most: Duration, folder: &Path, least_free: u64) -> Self {
        Self { until: Instant::now() + most, folder: folder.to_owned(), least_free: least_free.saturating_add(MARGIN) }
    }

    fn is_over(&self) -> bool {
        let log = || std::fs::metadata(self.folder.join("journal.sqlite-wal")).map_or(0, |log| log.len());
        Instant::now() >= self.until
            || log() > MARGIN && space::free(&self.folder).is_some_and(|free| free < self.least_free)
    }

    /// Does something with a connection that is broken off when it takes too long.
    pub(super) fn within<T>(&self, connection: &Connection, act: impl FnOnce() -> T) -> T {
        let interrupt = connection.get_interrupt_handle();
        std::thread::scope(|scope| {
            let (done, ended) = channel::<()>();
            scope.spawn(move || {
                let mut left = LOOK.min(self.until.saturating_duration_since(Instant::now()));
                while ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                    left = LOOK.min(self.until.saturating_duration_since(Instant::now()));
                    if self.is_over() {
                        // One that comes between two statements is not heard.
                        interrupt.interrupt();
                        left = Duration::from_millis(20);
                    }
                }
            });
            let acted = act();
            drop(done);
            acted
        })
    }
}

/// All tables, the large ones last.
pub(super) fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let mut names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    names.sort_by_key(|name| LARGE.iter().position(|large| large == name).map_or(0, |place| place + 1));
    Ok(names)
}

/// One table with its indexes.
fn check(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Damage>> {
    let mut roots: BTreeMap<i64, Option<String>> = BTreeMap::new();
    let mut trees = connection
        .prepare("SELECT rootpage, iif(type = 'index', name, NULL) FROM sqlite_schema WHERE tbl_name = ?1")?;
    let trees = trees.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for tree in trees {
        let (root, index) = tree?;
        roots.insert(root, index);
    }
    let mut found: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check(\"{table}\")"))?;
    let mut rows = statement.query([])?;
    loop {
        let line: String = match rows.next() {
            Ok(Some(row)) => row.get(0)?,
            Ok(None) => break,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
                return Err(error);
            }
            // After what it has said already, this says no more.
            Err(error) if found.is_empty() => return Err(error),
            Err(_) => break,
        };
        for line in line.lines().filter(|line| *line != "ok" && !line.starts_with("***")) {
            let words = found.entry(about(line, &roots)).or_default();
            if words.len() < MOST_WORDS {
                words.push(line.to_owned());
            }
        }
    }
    // What its indexes lack, where the table itself is damaged, is the table's.
    if let Some(words) = found.remove(&None) {
        found = BTreeMap::from([(None, words)]);
    }
    let damage = |(index, words)| Damage { table: table.to_owned(), index, words };
    Ok(found.into_iter().map(damage).collect())
}

/// The index of which SQLite speaks; none where it speaks of the table.
fn about(line: &str, roots: &BTreeMap<i64, Option<String>>) -> Option<String> {
    let tree = line.strip_prefix("Tree ").and_then(|rest| rest.split(' ').next()?.parse::<i64>().ok());
    if let Some(of) = tree.and_then(|root| roots.get(&root)) {
        return of.clone();
    }
    let named = line.rsplit_once("index ").map(|(_, name)| name.trim());
    roots.values().flatten().find(|index| Some(index.as_str()) == named).cloned()
}
