//! The store's file as bytes: where its pages are, and whose store it is, read past SQLite.
//!
//! SQLite believes what it has in its memory and what its log says. Who wants to know what the file itself holds has to look at
//! the file: whether it was overwritten, and whether a log that lies beside it is its own.
//!
//! - **Nothing that is read is believed**: a file of nonsense has no stamp, and costs a bounded number of pages.
//!
//! Not here: what is overwritten ([`scrub`](super::scrub)), what is made of a stamp ([`marker`](super::marker),
//! [`place`](super::place)).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pages of the schema that are looked through at most.
const MOST_PAGES: usize = 1_000;

/// Whose store a file is, and how far it had come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The store's own id.
    pub(super) id: String,
    /// Goes up with each commit that changes something.
    pub(super) beat: i64,
}

/// Where pages begin and end in a file.
pub(super) struct Layout {
    pub(super) page: usize,
    /// Bytes of a page that SQLite uses.
    pub(super) usable: usize,
    pub(super) pages: u32,
    /// How many the file should have, as it says itself.
    said: u32,
}

impl Layout {
    /// None where there is nothing that could be gone through.
    pub(super) fn of(file: &File) -> io::Result<Option<Self>> {
        let mut head = [0; 100];
        if file.metadata()?.len() < 512 {
            return Ok(None);
        }
        file.read_exact_at(&mut head, 0)?;
        let page = match number(&head, 16, 2) {
            Some(1) => 65_536,
            Some(size) if size >= 512 && size.is_power_of_two() => size,
            _ => return Ok(None),
        };
        let reserved = number(&head, 20, 1).unwrap_or_default();
        let pages = file.metadata()?.len() / page as u64;
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        let said = page_number(&head, 28);
        Ok(head.starts_with(b"SQLite format 3\0").then_some(Self { page, usable: page - reserved, pages, said }))
    }

    /// Whether the file has fewer pages than it says.
    pub(super) fn is_short(&self) -> bool {
        self.said > self.pages
    }
}

/// The stamp of a store's file as it is on the disk, without what the log holds. None: it is of no store of the host's, or cut.
pub(super) fn stamp(file: &File) -> io::Result<Option<Stamp>> {
    Ok(found(file)?.map(|(stamp, ..)| stamp))
}

/// The beats with which a log begins and ends, as far as it says anything of the store in a file. One that begins later than with the
/// beat after the file's belongs to a newer file, one that ends before it to an older: with either, SQLite makes nonsense of the file.
pub(super) fn beats(file: &File, log: &File) -> io::Result<Option<(i64, i64)>> {
    let Some((stamp, root, layout)) = found(file)? else { return Ok(None) };
    let mut head = [0; 32];
    if log.metadata()?.len() < 32 {
        return Ok(None);
    }
    log.read_exact_at(&mut head, 0)?;
    let salts = head.get(16..24).unwrap_or_default().to_vec();
    let (mut frame, mut at, mut page, mut beats) = ([0; 24], 32, vec![0; layout.page], None);
    // Frames of an earlier round have other salts.
    while log.read_exact_at(&mut frame, at).is_ok() && frame.get(8..16) == Some(&*salts) {
        if page_number(&frame, 0) == root
            && log.read_exact_at(&mut page, at + 24).is_ok()
            && let Some(found) = parsed(&page, root).filter(|found| found.id == stamp.id)
        {
            beats = Some((beats.map_or(found.beat, |(first, _)| first), found.beat));
        }
        at += 24 + layout.page as u64;
    }
    Ok(beats)
}

fn found(file: &File) -> io::Result<Option<(Stamp, u32, Layout)>> {
    let Some(layout) = Layout::of(file)? else { return Ok(None) };
    if layout.is_short() {
        return Ok(None);
    }
    let mut page = vec![0; layout.page];
    let (mut left, mut seen) = (vec![1], 0);
    while let Some(next) = left.pop() {
        seen += 1;
        if next == 0 || next > layout.pages || seen > MOST_PAGES {
            return Ok(None);
        }
        file.read_exact_at(&mut page, place(&layout, next))?;
        let Some(tree) = Tree::of(&page, next) else { return Ok(None) };
        if tree.leaf {
            let root = tree.cells().find_map(|cell| {
                let columns = columns::<4>(&page, cell)?;
                match columns {
                    [Value::Text(b"table"), Value::Text(b"store"), _, Value::Number(root)] => u32::try_from(root).ok(),
                    _ => None,
                }
            });
            if let Some(root) = root {
                let stamp = row(file, &layout, root)?;
                return Ok(stamp.map(|stamp| (stamp, root, layout)));
            }
        } else {
            left.extend(tree.cells().map(|cell| page_number(&page, cell)));
            left.push(tree.last);
        }
    }
    Ok(None)
}

/// The one row of the table that begins at a page.
fn row(file: &File, layout: &Layout, root: u32) -> io::Result<Option<Stamp>> {
    if root == 0 || root > layout.pages {
        return Ok(None);
    }
    let mut page = vec![0; layout.page];
    file.read_exact_at(&mut page, place(layout, root))?;
    Ok(parsed(&page, root))
}

fn parsed(page: &[u8], root: u32) -> Option<Stamp> {
    let tree = Tree::of(page, root).filter(|tree| tree.leaf)?;
    match columns::<3>(page, tree.cells().next()?)? {
        [_, Value::Text(id), Value::Number(beat)] => {
            Some(Stamp { id: String::from_utf8(id.to_vec()).ok().filter(|id| !id.is_empty())?, beat })
        }
        _ => None,
    }
}

fn place(layout: &Layout, number: u32) -> u64 {
    u64::from(number.saturating_sub(1)).saturating_mul(layout.page as u64)
}

/// A page of a table's tree.
struct Tree<'a> {
    page: &'a [u8],
    leaf: bool,
    /// Where the places of its cells are.
    pointers: usize,
    count: usize,
    /// The last page below, of one that is no leaf.
    last: u32,
}

impl<'a> Tree<'a> {
    fn of(page: &'a [u8], number_of: u32) -> Option<Self> {
        let head = if number_of == 1 { 100 } else { 0 };
        let leaf = match *page.get(head)? {
            13 => true,
            5 => false,
            _ => return None,
        };
        let pointers = head + if leaf { 8 } else { 12 };
        let count = number(page, head + 3, 2)?;
        Some(Self { page, leaf, pointers, count, last: page_number(page, head + 8) })
    }

    fn cells(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (page, pointers) = (self.page, self.pointers);
        (0..self.count).map_while(move |index| number(page, pointers + 2 * index, 2))
    }
}

enum Value<'a> {
    Number(i64),
    Text(&'a [u8]),
    Other,
}

/// The first columns of a row of a leaf, as far as they are on the page.
fn columns<const COUNT: usize>(page: &[u8], cell: usize) -> Option<[Value<'_>; COUNT]> {
    let (_, at) = varint(page, cell)?;
    let (_, start) = varint(page, at)?;
    let (header, mut kinds) = varint(page, start)?;
    let mut at = start.checked_add(usize::try_from(header).ok()?)?;
    let mut columns = [const { Value::Other }; COUNT];
    for column in &mut columns {
        let (kind, next) = varint(page, kinds)?;
        kinds = next;
        let width = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            _ => usize::try_from(kind.checked_sub(12)? / 2).ok()?,
        };
        let bytes = page.get(at..at.checked_add(width)?)?;
        at += width;
        *column = match kind {
            1..=6 => {
                let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
                Value::Number(bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte)))
            }
            8 => Value::Number(0),
            9 => Value::Number(1),
            13.. if kind % 2 == 1 => Value::Text(bytes),
            _ => Value::Other,
        };
    }
    Some(columns)
}

/// A number of some bytes; none beyond the end.
pub(super) fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    Some(bytes.get(at..at.checked_add(width)?)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

pub(super) fn page_number(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at, 4).and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

/// A number of one to nine bytes, and what is behind it.
pub(super) fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for index in 0..9 {
        let byte = *bytes.get(at.checked_add(index)?)?;
        if index == 8 {
            return Some((value << 8 | u64::from(byte), at + 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn the_stamp_of_a_file_is_read_as_sqlite_reads_it_however_large_the_schema_is() {
        for (tables, beat) in [(0, 0_i64), (3, 1), (400, 127), (400, 128), (5, -3), (5, 1 << 45), (5, i64::MAX)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            let store = Connection::open(&path).unwrap();
            for table in 0..tables {
                // Some of them are longer than a page.
                let name = "x".repeat(if table % 7 == 0 { 5_000 } else { 20 });
                store
                    .execute_batch(&format!(
                        "CREATE TABLE t{table} ({name} TEXT); CREATE INDEX i{table} ON t{table} ({name})"
                    ))
                    .unwrap();
            }
            let file = File::open(&path).unwrap();
            assert_eq!(stamp(&file).unwrap(), None);
            store.execute_batch("CREATE TABLE stores (a); CREATE TABLE store (one INTEGER PRIMARY KEY, id TEXT NOT NULL, beat INTEGER NOT NULL) STRICT").unwrap();
            assert_eq!(stamp(&file).unwrap(), None);
            store.execute("INSERT INTO store VALUES (1, 'abc', ?1)", [beat]).unwrap();
            store.execute_batch("CREATE TABLE later (a)").unwrap();
            assert_eq!(stamp(&file).unwrap(), Some(Stamp { id: "abc".to_owned(), beat }), "{tables} {beat}");
            let whole = std::fs::read(&path).unwrap();
            drop(store);
            // Cut, or nonsense: no stamp, and no panic.
            for (length, wrong) in [(whole.len() - 4_096, 0), (100, 0), (whole.len(), 105), (whole.len(), 28)] {
                let mut bytes = whole[..length].to_vec();
                bytes[wrong] ^= 0xff;
                std::fs::write(&path, bytes).unwrap();
                drop(stamp(&File::open(&path).unwrap()).unwrap());
            }
            std::fs::write(&path, &whole[..whole.len() - 4_096]).unwrap();
            assert_eq!(stamp(&File::open(&path).unwrap()).unwrap(), None, "it is cut");
        }
    }
}
