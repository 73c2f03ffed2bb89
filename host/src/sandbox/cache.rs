//! Compiled plugins on disk, by the hash of their file and the engine that made them.
//!
//! ```text
//! HASH-ENGINE.cwasm   native code, mapped into memory as it is
//! HASH-ENGINE.sum     the SHA-256 of that file, the plugin's manifest as JSON, and the SHA-256 of both, a line each
//! HASH-ENGINE.bad     why a file can't be made ready, as this very program found it
//! ```
//!
//! - **Compiled code is trusted as the host's own**, so it must be: the folder and the files belong to the host's user
//!   and are open to nobody else. What is not so is not used.
//! - **A damaged file is no failure**: it is removed, and the plugin compiled again. The sum is written last.
//! - Files are replaced by renaming, never in place: one that is mapped does not change.
//! - No code is held in memory: it is written as it comes, and mapped.
//! - **What was found bad is not tried again**, also after a restart, unless the program is another.
//!
//! Not here: which plugins are wanted (`registry`). A cache that can't be written costs time and nothing else.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::component::{LoadError, digest, hexadecimal};
use crate::plugin::Manifest;

/// Access for the owner alone.
const OWNER_ONLY: u32 = 0o700;

pub(super) struct Cache {
    folder: PathBuf,
    engine: String,
    program: String,
}

impl Cache {
    /// The cache in `folder`, which is made when it is not there; `None` when it can't be used.
    pub(super) fn open(folder: &Path, engine: String) -> Option<Self> {
        crate::files::make_folder(folder, crate::files::Readers::Owner).ok()?;
        fs::set_permissions(folder, fs::Permissions::from_mode(OWNER_ONLY)).ok()?;
        is_own(&fs::symlink_metadata(folder).ok()?).then(|| Self {
            folder: folder.to_owned(),
            engine,
            program: program(),
        })
    }

    /// The manifest and the compiled form of the plugin file with this hash.
    pub(super) fn get(&self, engine: &wasmtime::Engine, hash: &str) -> Option<(Manifest, Component)> {
        let (code, sum) = self.files(hash);
        let found = whole(&code, &sum).and_then(|manifest| Some((manifest, load(engine, &code)?)));
        if found.is_none() {
            // Not there, or not to be used: what is left of it must not be looked at again.
            drop((fs::remove_file(code), fs::remove_file(sum)));
        }
        found
    }

    /// A place for the compiled form of this hash.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn writing(&self, hash: &str) -> std::io::Result<Writing> {
        let (code, _) = self.files(hash);
        let beside = code.with_extension("new");
        Ok(Writing { file: created(&beside)?, beside, digest: Sha256::default() })
    }

    /// Keeps what was written.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn keep(&self, hash: &str, manifest: &Manifest, written: &Writing) -> std::io::Result<()> {
        let (code, sum) = self.files(hash);
        let said =
            format!("{}\n{}\n", hexadecimal(&written.digest.clone().finalize()), serde_json::to_string(manifest)?);
        fs::rename(&written.beside, code)?;
        self.write(&sum, format!("{said}{}\n", digest(said.as_bytes())).as_bytes())
    }

    /// Why the file with this hash can't be made ready, where that is known.
    pub(super) fn verdict(&self, hash: &str) -> Option<LoadError> {
        let text = safely_open(&self.bad(hash)).and_then(|file| std::io::read_to_string(file).ok())?;
        let (program, error) = text.split_once('\n')?;
        (program == self.program).then(|| serde_json::from_str(error).ok()).flatten()
    }

    /// Remembers why the file with this hash can't be made ready; where that fails it is tried again at the next start.
    pub(super) fn condemn(&self, hash: &str, error: &LoadError) {
        if let Ok(error) = serde_json::to_string(error) {
            drop(self.write(&self.bad(hash), format!("{}\n{error}", self.program).as_bytes()));
        }
    }

    fn bad(&self, hash: &str) -> PathBuf {
        self.folder.join(format!("{hash}-{}.bad", self.engine))
    }

    /// Removes everything else.
    pub(super) fn keep_only(&self, hashes: &BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let kept =
                stem.split_once('-').is_some_and(|(hash, engine)| engine == self.engine && hashes.contains(hash));
            if !kept {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// Whether there is a compiled form; whether it can be used shows when it is loaded.
    pub(super) fn has(&self, hash: &str) -> bool {
        let (code, sum) = self.files(hash);
        code.is_file() && sum.is_file()
    }

    /// Removes the oldest beyond so many, and those of other engines.
    pub(super) fn keep_newest(&self, most: usize) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut hashes = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if let Some((hash, engine)) = stem.split_once('-')
                && engine == self.engine
                && path.extension().is_some_and(|extension| extension == "sum")
            {
                let written = entry.metadata().and_then(|metadata| metadata.modified()).ok();
                hashes.push((written, hash.to_owned()));
            }
        }
        hashes.sort();
        hashes.reverse();
        self.keep_only(&hashes.into_iter().take(most).map(|(_, hash)| hash).collect());
    }

    fn files(&self, hash: &str) -> (PathBuf, PathBuf) {
        let name = format!("{hash}-{}", self.engine);
        (self.folder.join(format!("{name}.cwasm")), self.folder.join(format!("{name}.sum")))
    }

    fn write(&self, to: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let beside = to.with_extension("new");
        created(&beside)?.write_all(bytes)?;
        fs::rename(beside, to)
    }
}

/// A compiled form that is being written. What is not kept is removed.
pub(super) struct Writing {
    file: File,
    beside: PathBuf,
    digest: Sha256,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Not there after it was kept.
        drop(fs::remove_file(&self.beside));
    }
}

fn created(path: &Path) -> std::io::Result<File> {
    // One that a crash left behind may have other rights.
    drop(fs::remove_file(path));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Tells this program from every other, and from itself after it was built anew.
fn program() -> String {
    let metadata = fs::metadata("/proc/self/exe");
    metadata.map(|file| format!("{} {}.{}", file.len(), file.mtime(), file.mtime_nsec())).unwrap_or_default()
}

/// Whether a file belongs to this process's user and is open to nobody else.
fn is_own(metadata: &fs::Metadata) -> bool {
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    own && metadata.mode() & 0o077 == 0 && !metadata.file_type().is_symlink()
}

/// A file that belongs to this process's user and is open to nobody else.
fn safely_open(path: &Path) -> Option<File> {
    let safe = fs::symlink_metadata(path).ok().is_some_and(|metadata| metadata.is_file() && is_own(&metadata));
    safe.then(|| File::open(path).ok()).flatten()
}

/// The manifest, where neither file is damaged, foreign or open to others.
fn whole(code: &Path, sum: &Path) -> Option<Manifest> {
    let sum = std::io::read_to_string(safely_open(sum)?).ok()?;
    let (of_code, rest) = sum.split_once('\n')?;
    let (manifest, of_both) = rest.split_once('\n')?;
    let said = format!("{of_code}\n{manifest}\n");
    if of_both.trim_end() != digest(said.as_bytes()) {
        return None;
    }
    let (mut code, mut sum) = (safely_open(code)?, Sha256::default());
    let mut piece = vec![0; 64 << 10];
    loop {
        match code.read(&mut piece).ok()? {
            0 => break,
            read => sum.update(piece.get(..read)?),
        }
    }
    let right = of_code == hexadecimal(&sum.finalize());
    // One that an earlier host took may hold what this one refuses.
    let manifest = right.then(|| serde_json::from_str::<Manifest>(manifest).ok()).flatten()?;
    manifest.checked().ok()
}

/// Code that the host's own compiler made a moment ago.
pub(super) fn trusted(engine: &wasmtime::Engine, code: &[u8]) -> Result<Component, wasmtime::Error> {
    #[expect(unsafe_code, reason = "compiled code can only be loaded on trust: it comes from the host's own process")]
    // SAFETY: the bytes are what `compiler` answered, a process of this very program that nobody else can write to.
    unsafe {
        Component::deserialize(engine, code)
    }
}

fn load(engine: &wasmtime::Engine, code: &Path) -> Option<Component> {
    File::open(code).ok()?;
    #[expect(unsafe_code, reason = "compiled code can only be loaded on trust, which `is_own` and `whole` establish")]
    // SAFETY: the file was written by this user's host for an engine with these settings (its name says so, and the
    // engine looks too), nobody else can write it, its sum is right, and it is only ever replaced, not changed.
    let loaded = unsafe { Component::deserialize_file(engine, code) };
    loaded.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled() -> (wasmtime::Engine, Vec<u8>) {
        let engine = wasmtime::Engine::default();
        let code = engine.precompile_component(&wat::parse_str("(component)").unwrap()).unwrap();
        (engine, code)
    }

    fn put(cache: &Cache, hash: &str, code: &[u8]) {
        let mut written = cache.writing(hash).unwrap();
        written.write_all(code).unwrap();
        cache.keep(hash, &manifest(), &written).unwrap();
    }

    fn manifest() -> Manifest {
        Manifest::parse(b"name = \"a\"\nevents = [\"*\"]").unwrap()
    }

    #[test]
    fn what_is_damaged_foreign_or_open_to_others_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let (engine, component) = compiled();
        let cache = Cache::open(&folder.path().join("compiled"), "engine".to_owned()).unwrap();
        let (code, sum) = cache.files("abc");
        type Harm<'a> = Box<dyn Fn() + 'a>;
        let harms: [(&str, Harm<'_>); 7] = [
            (
                "another manifest",
                Box::new(|| {
                    let said = fs::read_to_string(&sum).unwrap();
                    fs::write(&sum, said.replace("\"*\"", "\"client.*\"")).unwrap();
                }),
            ),
            ("nothing", Box::new(|| {})),
            ("cut", Box::new(|| fs::write(&code, b"\x7fELF").unwrap())),
            (
                "one byte",
                Box::new(|| {
                    let mut bytes = fs::read(&code).unwrap();
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 1;
                    fs::write(&code, bytes).unwrap();
                }),
            ),
            ("no sum", Box::new(|| fs::remove_file(&sum).unwrap())),
            ("open to others", Box::new(|| fs::set_permissions(&code, fs::Permissions::from_mode(0o644)).unwrap())),
            (
                "a link",
                Box::new(|| {
                    fs::rename(&code, folder.path().join("elsewhere")).unwrap();
                    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &code).unwrap();
                }),
            ),
        ];
        for (name, harm) in harms {
            put(&cache, "abc", &component);
            harm();
            let found = cache.get(&engine, "abc").map(|(manifest, _)| manifest);
            assert_eq!(found, (name == "nothing").then(manifest), "{name}");
            if name != "nothing" {
                assert!(!code.exists() && !sum.exists(), "{name}: what can't be used is gone");
            }
        }
        let other = Cache::open(&folder.path().join("compiled"), "another".to_owned()).unwrap();
        put(&cache, "abc", &component);
        assert!(other.get(&engine, "abc").is_none(), "made by another engine");
    }

    #[test]
    fn what_nobody_wants_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (_, component) = compiled();
        let cache = Cache::open(folder.path(), "engine".to_owned()).unwrap();
        let old = Cache::open(folder.path(), "old".to_owned()).unwrap();
        for hash in ["a", "b"] {
            put(&cache, hash, &component);
            put(&old, hash, &component);
        }
        cache.keep_only(&BTreeSet::from(["b".to_owned()]));
        let mut left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["b-engine.cwasm", "b-engine.sum"]);
    }

    #[test]
    fn what_was_found_bad_is_remembered_by_this_program_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = Cache::open(folder.path(), "engine".to_owned()).unwrap();
        let error = LoadError::TooMuch("more than 10 s of processor time".to_owned());
        assert_eq!(cache.verdict("abc"), None);
        cache.condemn("abc", &error);
        assert_eq!((cache.verdict("abc"), cache.verdict("abd")), (Some(error), None));
        cache.program.push('x');
        assert_eq!(cache.verdict("abc"), None, "another program may find otherwise");
        // What was begun and not ended leaves nothing behind.
        drop(cache.writing("abc").unwrap());
        cache.keep_only(&BTreeSet::new());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
