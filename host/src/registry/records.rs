//! The host's own small records (`live.json`, `homes.json`, `pins.json`): a map by plugin, whole or not used at all.
//!
//! - A record holds the digest of what it says, under a key that is no plugin's name. What does not fit it is damaged.
//! - **What can't be read now is not damaged**: a lack of handles, rights or a disk that fails change nothing.
//! - **Each is written twice**, the copy (`live.json.copy`) first, each for good: whatever one comes to, the other is whole.
//! - Reading changes nothing. [`mend`], which the running host does at its start, sets aside what is damaged (`.damaged`) and
//!   puts the other in its place.
//!
//! Not here: what a record means (`versions`).

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::files;
use crate::plugin::PluginName;

/// Bytes of a record; thousands of plugins have fewer.
const MOST: u64 = 16 << 20;
/// The key of the digest.
const SUM: &str = "#sha256#";

pub(super) type Record<T> = BTreeMap<PluginName, T>;

/// What was done about a damaged record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mended {
    /// Its copy is in its place: nothing is lost.
    Restored,
    /// The copy is damaged too, or was never written: what it said is lost.
    Lost,
}

enum Found<T> {
    Missing,
    Whole(Record<T>),
    Damaged,
    /// Nobody knows what it says.
    Unreadable(Error),
}

/// What a record says, or its copy where it is damaged, gone or can't be read.
///
/// # Errors
/// Neither can be read now, or both are damaged.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Record<T>, Error> {
    let own = match look(path) {
        Found::Whole(record) => return Ok(record),
        own => own,
    };
    match (own, look(&copy(path))) {
        (_, Found::Whole(record)) => Ok(record),
        (Found::Missing, Found::Missing) => Ok(Record::new()),
        (Found::Unreadable(error), _) | (_, Found::Unreadable(error)) => Err(error),
        _ => {
            let words = "it and its copy are damaged: a host that starts sets them aside";
            Err(Error::new(ErrorKind::InvalidData, words))
        }
    }
}

/// Whether a record, or its copy, is there.
pub(super) fn is_there(path: &Path) -> bool {
    [path.to_owned(), copy(path)].iter().any(|path| std::fs::symlink_metadata(path).is_ok())
}

/// Writes a record for good, its copy first.
///
/// # Errors
/// When the folder can't be written to.
pub(super) fn write<T: Serialize>(path: &Path, record: &Record<T>) -> Result<(), Error> {
    let Value::Object(mut said) = serde_json::to_value(record)? else { return Err(ErrorKind::InvalidData.into()) };
    let sum = digest(&said);
    said.insert(SUM.to_owned(), sum.into());
    let bytes = serde_json::to_vec_pretty(&said)?;
    if let Some(folder) = path.parent() {
        files::make_folder(folder, files::Readers::Owner)?;
    }
    files::replace(&copy(path), &bytes, files::Readers::Owner)?;
    files::replace(path, &bytes, files::Readers::Owner)
}

/// Whether a record is whole, or was never written.
pub(super) fn is_whole<T: DeserializeOwned>(path: &Path) -> bool {
    !matches!(look::<T>(path), Found::Damaged)
}

/// Puts a damaged record right, as far as that can be; tells what was done where something was.
///
/// # Errors
/// It can't be read now, and no copy says what it holds. Nothing is changed.
pub(super) fn mend<T: DeserializeOwned + Serialize + PartialEq>(path: &Path) -> Result<Option<Mended>, Error> {
    match (look::<T>(path), look::<T>(&copy(path))) {
        (Found::Missing, Found::Missing)
        | (Found::Unreadable(_), Found::Whole(_))
        | (Found::Whole(_), Found::Unreadable(_)) => Ok(None),
        (Found::Unreadable(error), _) | (_, Found::Unreadable(error)) => Err(error),
        (Found::Whole(record), Found::Whole(copy)) if record == copy => Ok(None),
        // What could not be written is told by whoever writes next.
        (Found::Whole(record), _) => Ok(write(path, &record).ok().and(None)),
        (found, Found::Whole(record)) => {
            if matches!(found, Found::Damaged) {
                set_aside(path);
            }
            write(path, &record).unwrap_or_default();
            Ok(Some(Mended::Restored))
        }
        _ => {
            set_aside(path);
            set_aside(&copy(path));
            Ok(Some(Mended::Lost))
        }
    }
}

/// Where a damaged record is kept for a look.
pub(super) fn aside(path: &Path) -> PathBuf {
    beside(path, "damaged")
}

fn set_aside(path: &Path) {
    // One that can't be moved is written over, or found damaged again.
    std::fs::rename(path, aside(path)).unwrap_or_default();
}

fn copy(path: &Path) -> PathBuf {
    beside(path, "copy")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

fn look<T: DeserializeOwned>(path: &Path) -> Found<T> {
    match files::read(path, MOST) {
        Ok(bytes) => whole(&bytes).map_or(Found::Damaged, Found::Whole),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Found::Missing,
            // It is no file, or one that is larger than any record.
            ErrorKind::InvalidInput | ErrorKind::FileTooLarge => Found::Damaged,
            _ => Found::Unreadable(error),
        },
    }
}

/// A record without a digest was written by hand, or by an earlier host.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Option<Record<T>> {
    let all: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let sum = all.get(SUM).cloned();
    let said: Map<String, Value> = all.into_iter().filter(|(key, _)| key != SUM).collect();
    if sum.is_some_and(|sum| sum.as_str() != Some(&digest(&said))) {
        return None;
    }
    serde_json::from_value(Value::Object(said)).ok()
}

fn digest(said: &Map<String, Value>) -> String {
    crate::sandbox::digest(Value::Object(said.clone()).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Record<String> {
        [(PluginName::try_from("alpha".to_owned()).unwrap(), text.to_owned())].into()
    }

    #[test]
    fn what_one_flipped_bit_or_a_cut_made_of_a_record_is_not_used_and_its_copy_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.json");
        write(&path, &record("hash")).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut harms: Vec<Vec<u8>> = vec![Vec::new(), vec![0; good.len()], b"{}".to_vec(), b"[]".to_vec()];
        harms.extend((0..good.len()).map(|at| good[..at].to_vec()));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[at] ^= 1 << bit;
                harms.push(flipped);
            }
        }
        for (n, harm) in harms.iter().enumerate().filter(|(_, harm)| **harm != b"{}".to_vec()) {
            let understood = whole::<String>(harm);
            assert!(understood.is_none() || understood == Some(record("hash")), "{}", String::from_utf8_lossy(harm));
            // Each byte by itself is enough for what files are made of.
            if n % 37 == 0 && understood.is_none() {
                std::fs::write(&path, harm).unwrap();
                assert_eq!(read::<String>(&path).unwrap(), record("hash"));
                assert_eq!(mend::<String>(&path).unwrap(), Some(Mended::Restored));
                assert_eq!((&std::fs::read(&path).unwrap(), &std::fs::read(aside(&path)).unwrap()), (&good, harm));
                assert_eq!(mend::<String>(&path).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_record_that_is_gone_comes_back_and_a_damaged_copy_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("homes.json");
        assert_eq!(mend::<String>(&path).unwrap(), None, "nothing was ever written");
        write(&path, &record("first")).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mend::<String>(&path).unwrap(), Some(Mended::Restored));
        std::fs::write(copy(&path), "{").unwrap();
        assert_eq!((mend::<String>(&path).unwrap(), read(&path).unwrap()), (None, record("first")));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), record("first"), "the copy is whole again");
        // Both: it is told, and nothing is made up.
        std::fs::write(&path, "{").unwrap();
        std::fs::write(copy(&path), "{").unwrap();
        assert!(read::<String>(&path).is_err(), "nothing is not what it said");
        assert_eq!(mend::<String>(&path).unwrap(), Some(Mended::Lost));
        assert_eq!(read::<String>(&path).unwrap(), Record::new());
        assert!(aside(&path).exists());
        assert_eq!(mend::<String>(&path).unwrap(), None, "it is told once");
        // What is written by hand bears no digest.
        std::fs::write(&path, r#"{"alpha":"mine"}"#).unwrap();
        assert_eq!((read(&path).unwrap(), mend::<String>(&path).unwrap()), (record("mine"), None));
    }

    #[test]
    fn a_record_that_can_not_be_read_now_is_neither_damaged_nor_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("live.json");
        write(&path, &record("hash")).unwrap();
        // A link that leads to itself: whoever reads it fails, and the file system knows of no file that is not there.
        let unreadable = |path: &Path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap();
        };
        unreadable(&path);
        assert_eq!((read::<String>(&path).unwrap(), mend::<String>(&path).unwrap()), (record("hash"), None));
        unreadable(&copy(&path));
        assert!(read::<String>(&path).is_err() && mend::<String>(&path).is_err());
        assert!(!aside(&path).exists() && std::fs::symlink_metadata(&path).is_ok(), "nothing is changed");
    }
}
