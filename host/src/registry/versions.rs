//! Versions of plugins, kept by their hash in the host's own folder, and which of them serve.
//!
//! ```text
//! versions/NAME/HASH.wasm   every version that was served; the newest by its time of modification
//! live.json                 which version of each plugin serves or last did, which one its file holds, what it wants
//! pins.json                 the versions that an operator chose
//! homes.json                the file in the plugin folder that each plugin comes from
//! ```
//!
//! - The running host writes `live.json` and the versions; `plugin rollback` writes `pins.json`; `homes.json` is written by the
//!   host for what serves, and by `plugin grant` for what is to serve from another file. Each in one step.
//! - A pin holds as long as the plugin's file is the one that it was made against.
//! - At most [`MOST`] versions of a plugin are kept. One that is kept again is compared with what is there, byte by byte.
//!
//! Not here: deciding what serves (`loader`).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::records::{self, Mended};
use crate::files;
use crate::plugin::{Pattern, PluginName};

/// Versions of one plugin that are kept.
pub const MOST: usize = 100;

/// Which version of a plugin serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The file's name in the plugin folder.
    #[serde(serialize_with = "crate::files::told")]
    pub file: PathBuf,
    /// The hash of what serves.
    pub hash: String,
    /// The hash of what the file held when it was last good.
    pub newest: String,
    /// The events that it wants: they are kept for it where it can't be had.
    #[serde(default)]
    pub events: Vec<Pattern>,
}

impl Serving {
    /// What is recorded of a plugin that had deliveries, where all records are lost: it is missed, and may want any event.
    pub(super) fn unknown() -> Self {
        let events = Pattern::try_from("*".to_owned()).into_iter().collect();
        Self { file: PathBuf::new(), hash: String::new(), newest: String::new(), events }
    }

    /// Whether it is known which file and version it was.
    pub(super) fn is_known(&self) -> bool {
        !self.file.as_os_str().is_empty()
    }
}

/// Where a plugin comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The file's name in the plugin folder.
    #[serde(serialize_with = "crate::files::told")]
    pub file: PathBuf,
    /// The hash of what it held when it served last, or was approved: the same may move.
    pub hash: String,
}

/// A version that an operator chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its hash.
    pub hash: String,
    /// The hash of the file that it stands in for.
    pub over: String,
}

/// A version that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its hash.
    pub hash: String,
    /// When it was last taken from the plugin folder.
    pub kept_at: SystemTime,
    /// Bytes.
    pub size: u64,
}

/// The folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Versions {
    folder: PathBuf,
    /// The folder that it is in, by device and number: elsewhere nothing is written.
    home: Option<(u64, u64)>,
}

impl Versions {
    /// The versions in a folder, which need not be there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), home: None }
    }

    /// The same for a running host: where the data folder is moved away, it is not made anew under its name, which the next start
    /// would take for that of a new host.
    pub fn held(folder: impl Into<PathBuf>) -> Self {
        let new = Self::new(folder);
        Self { home: new.home(), ..new }
    }

    fn home(&self) -> Option<(u64, u64)> {
        let metadata = std::fs::metadata(self.folder.parent()?).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    fn in_place(&self) -> Result<(), std::io::Error> {
        if self.home.is_none() || self.home == self.home() {
            return Ok(());
        }
        let words = "the data folder was moved or replaced under the running host: put it back, or restart the host";
        Err(std::io::Error::new(std::io::ErrorKind::NotFound, words))
    }

    fn record<T: Serialize>(&self, path: &Path, record: &records::Record<T>) -> Result<(), std::io::Error> {
        self.in_place()?;
        records::write(path, record)
    }

    /// The file with the operator's choices.
    pub fn pins_file(&self) -> PathBuf {
        self.folder.join("pins.json")
    }

    /// Which versions serve, or last did.
    ///
    /// # Errors
    /// It can't be read now.
    pub fn serving(&self) -> Result<BTreeMap<PluginName, Serving>, std::io::Error> {
        records::read(&self.serving_file())
    }

    fn serving_file(&self) -> PathBuf {
        self.folder.join("live.json")
    }

    /// Whether a host has recorded here what serves.
    pub(super) fn is_recorded(&self) -> bool {
        records::is_there(&self.serving_file())
    }

    /// Whether this is the record of what serves.
    pub(super) fn is_serving(&self, path: &Path) -> bool {
        path == self.serving_file()
    }

    /// Puts damaged records right; tells which those are, and whether what they said is lost.
    ///
    /// Where it is lost from which files plugins come, of no plugin that is known a file serves before somebody approves it.
    ///
    /// # Errors
    /// Which can't be read now, and why: nothing of it is changed.
    pub(super) fn mend(&self) -> Result<Vec<(PathBuf, Mended)>, (PathBuf, std::io::Error)> {
        let mut mended = Vec::new();
        let of = |path: PathBuf| move |error| (path, error);
        let mut tell = |path: PathBuf, found: Option<Mended>| mended.extend(found.map(|found| (path, found)));
        tell(self.serving_file(), records::mend::<Serving>(&self.serving_file()).map_err(of(self.serving_file()))?);
        tell(self.pins_file(), records::mend::<Pin>(&self.pins_file()).map_err(of(self.pins_file()))?);
        let homes = records::mend::<Home>(&self.homes_file()).map_err(of(self.homes_file()))?;
        if homes == Some(Mended::Lost) {
            let serving = self.serving().map_err(of(self.serving_file()))?;
            let unknown = || Home { file: PathBuf::from("?"), hash: String::new() };
            let known = self.names().filter(|name| !serving.contains_key(name)).map(|name| (name, unknown())).collect();
            // What can't be written shows when what serves is recorded.
            self.come_from(known).unwrap_or_default();
        }
        tell(self.homes_file(), homes);
        Ok(mended)
    }

    /// The records that are damaged, as they lie there.
    pub(super) fn damaged_records(&self) -> Vec<PathBuf> {
        let live = (self.serving_file(), records::is_whole::<Serving>(&self.serving_file()));
        let pins = (self.pins_file(), records::is_whole::<Pin>(&self.pins_file()));
        let homes = (self.homes_file(), records::is_whole::<Home>(&self.homes_file()));
        [live, pins, homes].into_iter().filter(|(_, whole)| !whole).map(|(path, _)| path).collect()
    }

    /// Where a damaged record is kept for a look.
    pub(super) fn aside(record: &Path) -> PathBuf {
        records::aside(record)
    }

    /// Remembers which versions serve.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn serve(&self, serving: &BTreeMap<PluginName, Serving>) -> Result<(), std::io::Error> {
        self.record(&self.serving_file(), serving)
    }

    /// The record of where plugins come from.
    pub fn homes_file(&self) -> PathBuf {
        self.folder.join("homes.json")
    }

    /// Where plugins come from, or came from last.
    ///
    /// # Errors
    /// It can't be read now.
    pub fn homes(&self) -> Result<BTreeMap<PluginName, Home>, std::io::Error> {
        records::read(&self.homes_file())
    }

    /// Says from which files plugins come from now on; of others nothing is changed.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn come_from(&self, files: BTreeMap<PluginName, Home>) -> Result<(), std::io::Error> {
        let before = self.homes()?;
        let mut homes = before.clone();
        homes.extend(files);
        if homes == before { Ok(()) } else { self.record(&self.homes_file(), &homes) }
    }

    /// The operator's choices.
    ///
    /// # Errors
    /// They can't be read now.
    pub fn pins(&self) -> Result<BTreeMap<PluginName, Pin>, std::io::Error> {
        records::read(&self.pins_file())
    }

    /// Chooses a version, or leaves the choice to the plugin folder again.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn pin(&self, name: &PluginName, pin: Option<Pin>) -> Result<(), std::io::Error> {
        let mut pins = self.pins()?;
        match pin {
            Some(pin) => pins.insert(name.clone(), pin),
            None => pins.remove(name),
        };
        self.record(&self.pins_file(), &pins)
    }

    /// Finds an earlier version: the one whose hash begins with `to`, or the one before the one that serves. Nothing is
    /// changed.
    ///
    /// # Errors
    /// A sentence: nothing serves, or there is no such version.
    pub fn earlier(&self, name: &PluginName, to: Option<&str>) -> Result<Pin, String> {
        self.known(name)?;
        let kept = self.list(name);
        let unreadable = |error| format!("what serves can't be read: {error}");
        let serving = self.serving().map_err(unreadable)?.remove(name);
        let serving = serving.ok_or_else(|| format!("no version of `{name}` serves: a host has to have run it"))?;
        let chosen = match to {
            Some(start) => {
                let mut fits = kept.iter().filter(|version| version.hash.starts_with(start));
                match (fits.next(), fits.next()) {
                    (Some(only), None) => Ok(only),
                    (Some(_), Some(_)) => Err(format!("several versions begin with `{start}`: give more of the hash")),
                    _ => Err(format!(
                        "no version of `{name}` begins with `{start}`: `plugin rollback {name} --list` shows them"
                    )),
                }
            }
            None => {
                let older = kept.iter().skip_while(|version| version.hash != serving.hash).nth(1);
                older.ok_or_else(|| format!("no version of `{name}` is older than the one that serves"))
            }
        }?;
        Ok(Pin { hash: chosen.hash.clone(), over: serving.newest })
    }

    /// Whether anything is kept, or was chosen, of a plugin.
    ///
    /// # Errors
    /// A sentence that names the plugins of which something is.
    pub fn known(&self, name: &PluginName) -> Result<(), String> {
        if !self.list(name).is_empty()
            || self.serving().is_ok_and(|serving| serving.contains_key(name))
            || self.pins().is_ok_and(|pins| pins.contains_key(name))
        {
            return Ok(());
        }
        let names: Vec<String> = self.names().map(|name| format!("`{name}`")).collect();
        let known = if names.is_empty() { "of no plugin".to_owned() } else { format!("of {}", names.join(", ")) };
        Err(format!("no version of a plugin `{name}` is kept; there are some {known}"))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = PluginName> {
        let folders = std::fs::read_dir(self.folder.join("versions")).into_iter().flatten().flatten();
        folders.filter_map(|entry| PluginName::try_from(entry.file_name().into_string().ok()?).ok())
    }

    /// Keeps a version as the newest one, in the place of what may have become of it; forgets the oldest beyond [`MOST`] that
    /// are not in use. Tells whether one was there and damaged.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn keep(
        &self,
        name: &PluginName,
        hash: &str,
        bytes: &[u8],
        in_use: &BTreeSet<String>,
    ) -> Result<bool, std::io::Error> {
        let path = self.path(name, hash);
        let kept = files::read(&path, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let damaged = match &kept {
            Ok(kept) => kept != bytes,
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        match std::fs::File::options().append(true).open(&path).ok().filter(|_| kept.is_ok() && !damaged) {
            Some(file) => file.set_modified(SystemTime::now())?,
            None => self.write(&path, bytes)?,
        }
        for old in self.list(name).iter().skip(MOST).filter(|old| !in_use.contains(&old.hash)) {
            std::fs::remove_file(self.path(name, &old.hash)).ok();
        }
        Ok(damaged)
    }

    /// What is kept of a plugin, the newest first.
    pub fn list(&self, name: &PluginName) -> Vec<Version> {
        let mut versions = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("versions").join(name.as_str())).into_iter().flatten().flatten()
        {
            let path = entry.path();
            let hash = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
            let is_one = path.extension().is_some_and(|extension| extension == "wasm");
            if let (true, Some(hash), Ok(metadata)) = (is_one, hash, entry.metadata())
                && let Ok(kept_at) = metadata.modified()
            {
                versions.push(Version { hash, kept_at, size: metadata.len() });
            }
        }
        versions.sort_by(|left, right| (right.kept_at, &right.hash).cmp(&(left.kept_at, &left.hash)));
        versions
    }

    /// The hashes of every version of every plugin.
    pub fn hashes(&self) -> BTreeSet<String> {
        self.names().flat_map(|name| self.list(&name)).map(|version| version.hash).collect()
    }

    /// The file of a version. Whoever runs it compares the hash.
    pub(super) fn path(&self, name: &PluginName, hash: &str) -> PathBuf {
        self.folder.join("versions").join(name.as_str()).join(format!("{hash}.wasm"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), std::io::Error> {
        self.in_place()?;
        if let Some(folder) = path.parent() {
            files::make_folder(folder, files::Readers::Owner)?;
        }
        files::replace(path, bytes, files::Readers::Owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_or_was_chosen_is_not_forgotten_for_newer_versions() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::new(folder.path());
        let name = PluginName::try_from("notify".to_owned()).unwrap();
        let in_use = BTreeSet::from(["h0".to_owned()]);
        for number in 0..MOST + 3 {
            versions.keep(&name, &format!("h{number}"), b"bytes", &in_use).unwrap();
        }
        let kept: BTreeSet<String> = versions.list(&name).into_iter().map(|version| version.hash).collect();
        assert_eq!((kept.len(), kept.contains("h0"), kept.contains("h1")), (MOST + 1, true, false));
        assert_eq!(versions.hashes(), kept);
    }

    #[test]
    fn a_file_name_that_is_no_text_keeps_nobodys_record_from_being_written() {
        use std::os::unix::ffi::OsStringExt as _;
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::new(folder.path());
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"b\xff.wasm".to_vec()));
        let named = |name: &str| PluginName::try_from(name.to_owned()).unwrap();
        let home = |file: PathBuf| Home { file, hash: "h".to_owned() };
        versions.come_from([(named("a"), home("a.wasm".into())), (named("b"), home(odd.clone()))].into()).unwrap();
        assert_eq!(versions.homes().unwrap().get(&named("a")), Some(&home("a.wasm".into())));
        let notice = crate::registry::Notice {
            plugin: None,
            file: odd,
            code: "registry.damaged",
            message: String::new(),
            asks: None,
            hash: None,
        };
        assert!(serde_json::to_string(&notice).unwrap().contains("b\u{fffd}.wasm"));
    }

    #[test]
    fn a_damaged_record_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::new(folder.path());
        std::fs::write(folder.path().join("live.json"), "{").unwrap();
        std::fs::write(versions.pins_file(), "[]").unwrap();
        assert!(
            versions.pins().is_err() && versions.pin(&PluginName::try_from("a".to_owned()).unwrap(), None).is_err()
        );
        assert_eq!(versions.mend().unwrap().len(), 2);
        assert_eq!((versions.serving().unwrap(), versions.pins().unwrap()), (BTreeMap::new(), BTreeMap::new()));
        let name = PluginName::try_from("notify".to_owned()).unwrap();
        let pin = Pin { hash: "a".to_owned(), over: "b".to_owned() };
        versions.pin(&name, Some(pin.clone())).unwrap();
        assert_eq!(versions.pins().unwrap(), BTreeMap::from([(name.clone(), pin)]));
        versions.pin(&name, None).unwrap();
        assert_eq!(versions.pins().unwrap(), BTreeMap::new());
    }

    #[test]
    fn a_kept_version_that_was_damaged_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::new(folder.path());
        let name = PluginName::try_from("notify".to_owned()).unwrap();
        let keep = || versions.keep(&name, "hash", b"bytes", &BTreeSet::new()).unwrap();
        assert!(!keep());
        let path = versions.path(&name, "hash");
        for harm in [&b""[..], b"byt", b"bytez", b"bytes and more"] {
            std::fs::write(&path, harm).unwrap();
            assert!(keep(), "{harm:?}");
            assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        }
        assert!(!keep(), "what is whole stays");
    }

    #[test]
    fn where_it_is_lost_from_which_files_plugins_come_no_new_file_is_taken_for_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let versions = Versions::new(folder.path());
        let name = PluginName::try_from("notify".to_owned()).unwrap();
        versions.keep(&name, "known", b"bytes", &BTreeSet::new()).unwrap();
        versions.come_from([(name.clone(), Home { file: "a.wasm".into(), hash: "known".to_owned() })].into()).unwrap();
        for file in ["homes.json", "homes.json.copy"] {
            std::fs::write(folder.path().join(file), "{").unwrap();
        }
        assert_eq!(versions.mend().unwrap(), [(versions.homes_file(), Mended::Lost)]);
        assert_eq!(versions.homes().unwrap().get(&name).map(|home| home.hash.as_str()), Some(""));
    }
}
