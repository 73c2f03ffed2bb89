//! Overwrites what the store's file still holds of what was deleted.
//!
//! SQLite's `secure_delete` zeroes what is freed, and not the copies of rows that it leaves in the gap of a page when it moves
//! them to another (measured: some hundreds in a million). Nothing is known of where those are, so the whole file is gone
//! through, some pages at a time:
//!
//! - the gap between a page's pointers and its rows, and what lies free between these;
//! - pages that are free, which an earlier version left as they were;
//! - what is behind the end of a long value on its last page.
//!
//! - **Only while the log is empty and the writer's lock is held**: then no page is newer elsewhere, and none changes. The
//!   writer's own copies of pages are thrown away before, or they would be written back as they were.
//! - **What is live is not written to**, so a loss of power hurts nothing.
//! - A page whose structure is not understood is left alone.
//!
//! Not here: copies of up to three bytes between rows, which SQLite counts and does not list.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::Error;
use super::page::{Layout, number, page_number, varint};
use super::place::{self, Extent, Place};
use super::space::Room;
use super::write::LONGEST_WAIT;

/// Pages that are gone through while the writer waits: 4 MiB of them.
const STEP: u32 = 1_024;

/// What came of looking through some pages of the file.
#[derive(Debug, Clone, Copy)]
pub(in crate::journal) enum Scrubbed {
    /// Somebody reads what the log holds.
    InTheWay,
    /// Go on at this page.
    Next(u32),
    /// That was the last.
    End,
}

/// Overwrites what is left of deleted rows in some pages of the store, where nobody is in the way. The writer's part.
pub(super) fn some(connection: &mut Connection, place: &Place, room: &Room, from: u32) -> Result<Scrubbed, Error> {
    // It writes the file past SQLite, which must not look as if somebody else did.
    let scrubbed = place.copying(|| {
        let done = scrubbed(connection, place.store(), room, from);
        let extent = if matches!(done, Ok(Scrubbed::Next(_) | Scrubbed::End)) { Extent::Cut } else { Extent::Part };
        (done, extent)
    });
    scrubbed.unwrap_or(Err(Error::Replaced))
}

fn scrubbed(connection: &mut Connection, file: &File, room: &Room, from: u32) -> Result<Scrubbed, Error> {
    // Nobody is waited for: whoever is in the way is in the way the next time, or not.
    connection.busy_timeout(Duration::ZERO)?;
    let cut = place::copy(connection, "TRUNCATE");
    connection.busy_timeout(LONGEST_WAIT)?;
    if cut.extent == Extent::Part {
        return Ok(Scrubbed::InTheWay);
    }
    room.reusable(0);
    // Its own copies of pages would be written back as they were.
    connection.execute_batch("PRAGMA shrink_memory")?;
    let held = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Somebody else may have written in between.
    if room.log_bytes() > 0 {
        return Ok(Scrubbed::InTheWay);
    }
    let (next, _) = step(file, from).map_err(|error| Error::Store(error.to_string()))?;
    if next.is_none() {
        file.sync_data().map_err(|error| Error::Store(error.to_string()))?;
    }
    held.rollback()?;
    Ok(next.map_or(Scrubbed::End, Scrubbed::Next))
}

/// Goes through some pages; returns the one at which to go on, and how many bytes were overwritten.
fn step(file: &File, from: u32) -> io::Result<(Option<u32>, u64)> {
    let Some(layout) = Layout::of(file)? else { return Ok((None, 0)) };
    let from = from.max(1);
    let to = from.saturating_add(STEP).min(layout.pages.saturating_add(1));
    let mut pass = Pass { file, layout, overwritten: 0 };
    let free = pass.free(from..to)?;
    let mut page = vec![0; pass.layout.page];
    for number in from..to {
        let place = pass.place(number);
        file.read_exact_at(&mut page, place)?;
        if free.contains(&number) {
            pass.zero(place, &page, 0..page.len())?;
        } else {
            pass.tree(number, &page)?;
        }
    }
    Ok(((to <= pass.layout.pages).then_some(to), pass.overwritten))
}

struct Pass<'a> {
    file: &'a File,
    layout: Layout,
    overwritten: u64,
}

impl Pass<'_> {
    fn place(&self, number: u32) -> u64 {
        u64::from(number.saturating_sub(1)).saturating_mul(self.layout.page as u64)
    }

    fn is_page(&self, number: u32) -> bool {
        (2..=self.layout.pages).contains(&number)
    }

    /// Overwrites a part of what was read from a place, where it is not empty already.
    fn zero(&mut self, place: u64, read: &[u8], part: Range<usize>) -> io::Result<()> {
        let Some(bytes) = read.get(part.clone()).filter(|bytes| bytes.iter().any(|byte| *byte != 0)) else {
            return Ok(());
        };
        self.overwritten += bytes.len() as u64;
        self.file.write_all_at(&vec![0; bytes.len()], place + part.start as u64)
    }

    /// The free pages of a range. Those that list others keep their lists, and lose what is behind.
    fn free(&mut self, range: Range<u32>) -> io::Result<BTreeSet<u32>> {
        let mut head = [0; 100];
        self.file.read_exact_at(&mut head, 0)?;
        let mut free = BTreeSet::new();
        let mut next = page_number(&head, 32);
        let mut list = vec![0; self.layout.page];
        // Each is listed once: a file that says otherwise is damaged.
        for _ in 0..self.layout.pages {
            if !self.is_page(next) {
                break;
            }
            let place = self.place(next);
            self.file.read_exact_at(&mut list, place)?;
            let count = number(&list, 4, 4).unwrap_or_default();
            let end = count.saturating_mul(4).saturating_add(8);
            if end > self.layout.usable {
                break;
            }
            free.extend((0..count).map(|index| page_number(&list, 8 + 4 * index)).filter(|leaf| range.contains(leaf)));
            if range.contains(&next) {
                self.zero(place, &list, end..self.layout.usable)?;
            }
            next = page_number(&list, 0);
        }
        free.retain(|leaf| self.is_page(*leaf));
        Ok(free)
    }

    /// A page of a tree: the gap, what lies free between rows, and the ends of long values. Others are left alone: those of
    /// long values begin with the number of another page, which is below 2^25 up to 128 GiB.
    fn tree(&mut self, number_of: u32, page: &[u8]) -> io::Result<()> {
        let head = if number_of == 1 { 100 } else { 0 };
        let kind = page.get(head).copied().unwrap_or_default();
        let Some(width) =
            [(2, 12), (5, 12), (10, 8), (13, 8)].iter().find(|(of, _)| *of == kind).map(|(_, width)| *width)
        else {
            return Ok(());
        };
        let read = |at: usize| number(page, head + at, 2).unwrap_or_default();
        let (freed, cells, content) = (read(1), read(3), if read(5) == 0 { 65_536 } else { read(5) });
        let pointers = head + width;
        let gap = pointers + 2 * cells..content;
        if gap.start > gap.end || gap.end > self.layout.usable {
            return Ok(());
        }
        let place = self.place(number_of);
        self.zero(place, page, gap.clone())?;
        let mut block = freed;
        while block >= gap.end && block + 4 <= self.layout.usable {
            let (next, size) =
                (number(page, block, 2).unwrap_or_default(), number(page, block + 2, 2).unwrap_or_default());
            if block + size > self.layout.usable {
                break;
            }
            self.zero(place, page, block + 4..block + size)?;
            // They stand in order.
            if next <= block {
                break;
            }
            block = next;
        }
        if kind == 5 {
            return Ok(());
        }
        for index in 0..cells {
            let cell = number(page, pointers + 2 * index, 2).unwrap_or_default();
            if let Some((first, rest)) = self.long(kind, page, cell) {
                self.end_of(first, rest)?;
            }
        }
        Ok(())
    }

    /// The first further page of a row that is longer than its page takes, and how many bytes are on such pages.
    fn long(&self, kind: u8, page: &[u8], cell: usize) -> Option<(u32, usize)> {
        // A page within a tree begins each row with the number of another.
        let start = if kind == 2 { cell + 4 } else { cell };
        let (size, mut at) = varint(page, start)?;
        if kind == 13 {
            at = varint(page, at)?.1;
        }
        let (size, usable) = (usize::try_from(size).ok()?, self.layout.usable);
        let least = (usable - 12) * 32 / 255 - 23;
        let most = if kind == 13 { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        if size <= most {
            return None;
        }
        let here = least + (size - least) % (usable - 4);
        let here = if here <= most { here } else { least };
        Some((page_number(page, at + here), size - here))
    }

    /// What is behind the end of a long value.
    fn end_of(&mut self, first: u32, size: usize) -> io::Result<()> {
        let each = self.layout.usable - 4;
        let (mut page, mut left) = (first, size);
        while self.is_page(page) && left > each {
            let mut next = [0; 4];
            self.file.read_exact_at(&mut next, self.place(page))?;
            (page, left) = (u32::from_be_bytes(next), left - each);
        }
        if !self.is_page(page) || left > each {
            return Ok(());
        }
        let mut last = vec![0; self.layout.usable];
        let place = self.place(page);
        self.file.read_exact_at(&mut last, place)?;
        // The last one names no other.
        if page_number(&last, 0) == 0 {
            self.zero(place, &last, 4 + left..self.layout.usable)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;

    /// Reproducible, without a library.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// A store in which planted rows come, grow, move and go.
    fn churned(path: &std::path::Path, secure: bool) -> Connection {
        let store = Connection::open(path).unwrap();
        store.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        store.pragma_update(None, "secure_delete", secure).unwrap();
        store
            .execute_batch(
                "PRAGMA synchronous = OFF;
                 CREATE TABLE a (seq INTEGER PRIMARY KEY, name TEXT, text TEXT); CREATE INDEX b ON a (name);
                 CREATE TABLE c (key TEXT PRIMARY KEY, text TEXT) STRICT, WITHOUT ROWID; BEGIN",
            )
            .unwrap();
        let mut dice = Dice(7);
        for round in 0_i64..6_000 {
            let planted = dice.roll(5) == 0;
            let lengths = [20, 60, 200, 700, 3_000, 9_000, 30_000];
            let length = lengths[usize::try_from(dice.roll(7)).unwrap()];
            let text = (if planted { "planted!" } else { "ordinary" }).repeat(length / 8);
            let name = format!("{}{round}", if planted { "planted!" } else { "n" });
            store.execute("INSERT INTO a VALUES (?1, ?2, ?3)", params![round, name, text]).unwrap();
            let key = format!("k{}", dice.roll(900));
            store.execute("INSERT OR REPLACE INTO c VALUES (?1, ?2)", params![key, text]).unwrap();
            store
                .execute("UPDATE a SET text = 'short' WHERE seq = ?1", [i64::try_from(dice.roll(6_000)).unwrap()])
                .unwrap();
            store.execute("DELETE FROM a WHERE seq = ?1", [i64::try_from(dice.roll(6_000)).unwrap()]).unwrap();
        }
        store
            .execute_batch(
                "DELETE FROM a WHERE instr(name, 'planted') OR instr(text, 'planted');
                 DELETE FROM c WHERE instr(text, 'planted'); COMMIT",
            )
            .unwrap();
        store
    }

    fn planted(path: &std::path::Path) -> usize {
        std::fs::read(path).unwrap().windows(8).filter(|bytes| bytes == b"planted!").count()
    }

    #[test]
    fn nothing_of_what_was_deleted_is_left_and_everything_that_is_stored_is() {
        for secure in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            let store = churned(&path, secure);
            store.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            assert!(planted(&path) > 0, "SQLite alone leaves nothing: this room is not needed any more");
            let sum = |store: &Connection| {
                let all = "SELECT count(*), sum(length(text)), group_concat(substr(text, -9), '') FROM";
                ["a", "c"].map(|table| {
                    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                    store.query_row::<(i64, i64, String), _, _>(&format!("{all} {table}"), [], row).unwrap()
                })
            };
            let before = sum(&store);
            store.execute_batch("PRAGMA shrink_memory; BEGIN IMMEDIATE").unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let (mut next, mut steps) = (Some(1), 0);
            while let Some(from) = next {
                next = step(&file, from).unwrap().0;
                steps += 1;
            }
            store.execute_batch("ROLLBACK").unwrap();
            assert_eq!((planted(&path), steps > 1), (0, true), "secure_delete {secure}");
            // A second time there is nothing to do.
            assert_eq!(step(&file, 1).unwrap().1, 0);
            let whole = |store: &Connection| {
                store.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap()
            };
            assert_eq!((whole(&store), sum(&store)), ("ok".to_owned(), before.clone()));
            // It goes on being a store.
            store.execute_batch("DELETE FROM a WHERE seq % 3 = 0; INSERT INTO c VALUES ('new', 'x')").unwrap();
            drop(store);
            assert_eq!(whole(&Connection::open(&path).unwrap()), "ok");
            drop(file);
        }
    }

    #[test]
    fn a_file_of_nonsense_is_left_alone() {
        let mut dice = Dice(3);
        for length in [0, 511, 512, 4_096, 40_960] {
            for head in [false, true] {
                let file = tempfile::tempfile().unwrap();
                let mut bytes: Vec<u8> = (0..length).map(|_| u8::try_from(dice.roll(16)).unwrap()).collect();
                if head && length > 100 {
                    bytes[..18].copy_from_slice(b"SQLite format 3\0\x02\x00");
                    bytes[20] = 0;
                }
                file.write_all_at(&bytes, 0).unwrap();
                let mut next = Some(1);
                while let Some(from) = next {
                    next = step(&file, from).unwrap().0;
                }
                assert_eq!(file.metadata().unwrap().len(), length);
            }
        }
    }
}
