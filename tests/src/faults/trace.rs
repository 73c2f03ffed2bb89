//! A host's trace, read back, and the disk as it may be after a loss of power at any place of it.
//!
//! - What was synced is there. Of the rest, each sector of 512 bytes is there or not, in any order; so are lengths of files.
//! - A name (made, renamed, removed) is safe once its folder was synced after it; before that it is there or not.
//! - After a sync that failed, what it was for is in doubt for good: later syncs don't bring it back.
//!
//! Not here: what writes the trace (`shim.c`), and what is looked for on the disk (`power`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rand::Rng;

const SECTOR: usize = 512;

/// One thing that the host did to its disk.
enum Step {
    Create(PathBuf, u64),
    Open(PathBuf, u64),
    Write(u64, usize, Vec<u8>),
    Length(u64, usize),
    Sync { file: u64, begun: u64, failed: bool },
    SyncFolder { folder: PathBuf, begun: u64 },
    Rename(PathBuf, PathBuf),
    Gone(PathBuf),
    Folder(PathBuf),
    FolderGone(PathBuf),
}

/// Reads step by step.
pub(super) struct Reader {
    trace: BufReader<File>,
    position: u64,
    /// The trace's length when it was opened.
    end: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("no trace was written to `{}`", path.display()))?;
        let end = file.metadata()?.len();
        Ok(Self { trace: BufReader::with_capacity(1 << 20, file), position: 0, end })
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    fn bytes(&mut self, length: u64) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length)?];
        self.trace.read_exact(&mut bytes).context("the trace ends within a step")?;
        self.position += length;
        Ok(bytes)
    }

    /// The next step, as long as it ends before `limit`.
    fn next(&mut self, limit: u64) -> anyhow::Result<Option<Step>> {
        const HEAD: u64 = 32;
        if self.position + HEAD > limit.min(self.end) {
            return Ok(None);
        }
        let head = self.bytes(HEAD)?;
        let number = |from: usize, length: usize| {
            let mut value = [0; 8];
            for (to, byte) in value.iter_mut().zip(head.iter().skip(from).take(length)) {
                *to = *byte;
            }
            u64::from_le_bytes(value)
        };
        let (op, file, at, length) = (number(0, 4), number(8, 8), number(16, 8), number(24, 8));
        let path = self.bytes(number(4, 4))?;
        let path = || PathBuf::from(String::from_utf8_lossy(&path).into_owned());
        Ok(Some(match op {
            1 => Step::Create(path(), file),
            2 => Step::Open(path(), file),
            3 => Step::Write(file, usize::try_from(at)?, self.bytes(length)?),
            4 => Step::Length(file, usize::try_from(at)?),
            5 => Step::Sync { file, begun: at, failed: !path().as_os_str().is_empty() },
            6 => Step::SyncFolder { folder: path(), begun: at },
            7 => {
                let target = self.bytes(length)?;
                Step::Rename(path(), PathBuf::from(String::from_utf8_lossy(&target).into_owned()))
            }
            8 => Step::Gone(path()),
            9 => Step::Folder(path()),
            10 => Step::FolderGone(path()),
            other => bail!("the trace holds a step {other} at {}", self.position),
        }))
    }
}

/// What was done to a file.
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

struct Pending {
    /// The trace's length after it.
    position: u64,
    change: Change,
    /// Whether a sync of it failed.
    in_doubt: bool,
}

/// A file, whatever it is called.
#[derive(Default)]
struct Object {
    safe: Vec<u8>,
    pending: Vec<Pending>,
}

/// What was done to names.
enum Naming {
    Put(PathBuf, usize),
    Renamed(PathBuf, PathBuf, usize),
    Gone(PathBuf),
    Folder(PathBuf),
    FolderGone(PathBuf),
}

impl Naming {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Put(path, _) | Self::Renamed(_, path, _) | Self::Gone(path) => path.parent(),
            Self::Folder(path) | Self::FolderGone(path) => path.parent(),
        }
    }
}

/// Names as they are, or may be.
#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, naming: &Naming) {
        match naming {
            Naming::Put(path, object) => drop(self.files.insert(path.clone(), *object)),
            Naming::Renamed(from, to, object) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *object);
            }
            Naming::Gone(path) => drop(self.files.remove(path)),
            Naming::Folder(path) => drop(self.folders.insert(path.clone())),
            Naming::FolderGone(path) => drop(self.folders.remove(path)),
        }
    }
}

/// How much of what was not synced is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Luck {
    /// Nothing of it.
    None,
    /// This share of it, sector by sector.
    Some(f64),
    /// All of it.
    All,
}

impl Luck {
    pub(super) fn of(random: &mut impl Rng) -> Self {
        match random.random_range(0..6) {
            0 => Self::None,
            1 => Self::All,
            2 => Self::Some(0.05),
            3 => Self::Some(0.95),
            _ => Self::Some(0.5),
        }
    }

    fn has(self, random: &mut impl Rng) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(share) => random.random_bool(share),
        }
    }
}

/// Writes the sectors of a change that luck leaves.
fn put(content: &mut Vec<u8>, change: &Change, luck: Luck, random: &mut impl Rng) {
    match change {
        Change::Length(length) => {
            if luck.has(random) {
                content.resize(*length, 0);
            }
        }
        Change::Bytes(at, bytes) => {
            let (mut at, mut rest) = (*at, bytes.as_slice());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                if luck.has(random) {
                    if content.len() < at + piece.len() {
                        content.resize(at + piece.len(), 0);
                    }
                    if let Some(place) = content.get_mut(at..at + piece.len()) {
                        place.copy_from_slice(piece);
                    }
                }
                at += piece.len();
                rest = behind;
            }
        }
    }
}

/// The disk while the host runs.
#[derive(Default)]
pub(super) struct Disk {
    objects: Vec<Object>,
    by_file: BTreeMap<u64, usize>,
    now: Names,
    safe: Names,
    naming: Vec<(u64, Naming)>,
}

impl Disk {
    /// Goes on to a place of the trace.
    pub(super) fn go_to(&mut self, limit: u64, reader: &mut Reader, random: &mut impl Rng) -> anyhow::Result<()> {
        while let Some(step) = reader.next(limit)? {
            self.follow(step, reader.position, random)?;
        }
        Ok(())
    }

    fn name(&mut self, position: u64, naming: Naming) {
        self.now.apply(&naming);
        self.naming.push((position, naming));
    }

    fn change(&mut self, file: u64, position: u64, change: Change) -> anyhow::Result<()> {
        let object = self.by_file.get(&file).context("the trace writes to a file that nobody opened")?;
        let object = self.objects.get_mut(*object).context("no such file")?;
        object.pending.push(Pending { position, change, in_doubt: false });
        Ok(())
    }

    fn follow(&mut self, step: Step, position: u64, random: &mut impl Rng) -> anyhow::Result<()> {
        match step {
            Step::Create(path, file) => {
                let object = self.objects.len();
                self.objects.push(Object::default());
                self.by_file.insert(file, object);
                self.name(position, Naming::Put(path, object));
            }
            Step::Open(path, file) => {
                let object = match self.now.files.get(&path) {
                    Some(object) => *object,
                    // It was there before: the test put it there.
                    None => {
                        let safe = std::fs::read(&path).unwrap_or_default();
                        self.objects.push(Object { safe, pending: Vec::new() });
                        for names in [&mut self.now, &mut self.safe] {
                            names.files.insert(path.clone(), self.objects.len() - 1);
                        }
                        self.objects.len() - 1
                    }
                };
                self.by_file.insert(file, object);
            }
            Step::Write(file, at, bytes) => self.change(file, position, Change::Bytes(at, bytes))?,
            Step::Length(file, length) => self.change(file, position, Change::Length(length))?,
            Step::Sync { file, begun, failed } => {
                let object = self.by_file.get(&file).and_then(|object| self.objects.get_mut(*object));
                let object = object.context("the trace syncs a file that nobody opened")?;
                let covered = object.pending.partition_point(|pending| pending.position <= begun);
                if failed {
                    object.pending.iter_mut().take(covered).for_each(|pending| pending.in_doubt = true);
                    return Ok(());
                }
                for Pending { change, in_doubt, .. } in object.pending.drain(..covered) {
                    put(&mut object.safe, &change, if in_doubt { Luck::Some(0.5) } else { Luck::All }, random);
                }
            }
            Step::SyncFolder { folder, begun } => {
                let covers = |(position, naming): &(u64, Naming)| {
                    *position <= begun && naming.folder() == Some(folder.as_path())
                };
                let (safe, left) = std::mem::take(&mut self.naming).into_iter().partition(covers);
                self.naming = left;
                let safe: Vec<(u64, Naming)> = safe;
                safe.iter().for_each(|(_, naming)| self.safe.apply(naming));
            }
            Step::Rename(from, to) => match self.now.files.get(&from) {
                Some(object) => {
                    let object = *object;
                    self.name(position, Naming::Renamed(from, to, object));
                }
                // A folder's, with all that is in it.
                None => bail!("the trace renames `{}`, which is no file", from.display()),
            },
            Step::Gone(path) => self.name(position, Naming::Gone(path)),
            Step::Folder(path) => self.name(position, Naming::Folder(path)),
            Step::FolderGone(path) => self.name(position, Naming::FolderGone(path)),
        }
        Ok(())
    }

    /// The files as they may be after a loss of power now, with the folders that are there.
    pub(super) fn image(&self, luck: Luck, random: &mut impl Rng) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut names = self.safe.clone();
        for (_, naming) in &self.naming {
            if luck.has(random) {
                names.apply(naming);
            }
        }
        let mut files = BTreeMap::new();
        for (path, object) in &names.files {
            // What is in a folder that is not there is not there. Folders of before the trace are not in it.
            let made: BTreeSet<&Path> = self.now.folders.iter().map(PathBuf::as_path).collect();
            let missing =
                path.ancestors().skip(1).any(|folder| made.contains(folder) && !names.folders.contains(folder));
            let Some(object) = self.objects.get(*object).filter(|_| !missing) else { continue };
            let mut content = object.safe.clone();
            for pending in &object.pending {
                put(&mut content, &pending.change, luck, random);
            }
            files.insert(path.clone(), content);
        }
        files
    }

    /// Whether the trace tells all: with everything done, it must be what is on the real disk.
    pub(super) fn is_all(&self, but: &[&str], random: &mut impl Rng) -> anyhow::Result<()> {
        for (path, content) in self.image(Luck::All, random) {
            if but.iter().any(|part| path.components().any(|component| component.as_os_str() == *part)) {
                continue;
            }
            let real = std::fs::read(&path).with_context(|| format!("the trace knows `{}`", path.display()))?;
            ensure!(real == content, "the trace does not tell all that was written to `{}`", path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn what_was_synced_is_there_and_the_rest_in_any_part() {
        let mut random = StdRng::seed_from_u64(1);
        let mut disk = Disk::default();
        let (path, new) = (PathBuf::from("/d/a"), PathBuf::from("/d/b"));
        let steps = [
            Step::Folder("/d".into()),
            Step::SyncFolder { folder: "/".into(), begun: 1 },
            Step::Create(path.clone(), 7),
            Step::Write(7, 0, vec![1; 2_048]),
            Step::Sync { file: 7, begun: 4, failed: false },
            Step::Write(7, 0, vec![2; 2_048]),
        ];
        for (position, step) in (1..).zip(steps) {
            disk.follow(step, position, &mut random).unwrap();
        }
        // Its name is not safe yet.
        assert!(disk.image(Luck::None, &mut random).is_empty());
        disk.follow(Step::SyncFolder { folder: "/d".into(), begun: 6 }, 7, &mut random).unwrap();
        assert_eq!(disk.image(Luck::None, &mut random)[&path], vec![1; 2_048]);
        assert_eq!(disk.image(Luck::All, &mut random)[&path], vec![2; 2_048]);
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let image = disk.image(Luck::Some(0.5), &mut random);
            let sectors: Vec<u8> = image[&path].chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(image[&path].chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.insert(sectors);
        }
        assert_eq!(seen.len(), 16, "each of four sectors, or not");

        // A sync that failed: a later one does not bring it back for sure.
        disk.follow(Step::Sync { file: 7, begun: 7, failed: true }, 8, &mut random).unwrap();
        disk.follow(Step::Sync { file: 7, begun: 8, failed: false }, 9, &mut random).unwrap();
        let after = &disk.image(Luck::None, &mut random)[&path];
        assert!(after.contains(&1) || after.contains(&2));
        disk.follow(Step::Rename(path.clone(), new.clone()), 10, &mut random).unwrap();
        let names = |disk: &Disk, luck, random: &mut StdRng| disk.image(luck, random).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&disk, Luck::None, &mut random), [path]);
        assert_eq!(names(&disk, Luck::All, &mut random), [new]);
    }
}
