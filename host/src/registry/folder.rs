//! The plugin folder: which files there are and whether they changed, and a bell for when somebody touched it.
//!
//! Not here: what a change means (`loader`).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Error, Options};

/// What tells one state of a file from another, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The state of the file now; none where it is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The `.wasm` files of a folder.
pub(super) fn scan(folder: &Path) -> Result<BTreeMap<PathBuf, Stamp>, Error> {
    let failed = |cause| Error::Folder { path: folder.to_owned(), cause };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            // One that is gone by now is not there.
            files.extend(Stamp::of(&path).map(|stamp| (path, stamp)));
        }
    }
    Ok(files)
}

/// Rings when something happens in the plugin folder, in the store's folder, or beside one of the files.
/// Where the system can't watch, the loader's own looks have to do.
pub(super) fn watcher(
    options: &Options,
    files: impl Iterator<Item = PathBuf>,
    bell: SyncSender<()>,
) -> Option<RecommendedWatcher> {
    // Reading is no change; the loader's own reads would wake it up for ever.
    let ring = move |event: notify::Result<notify::Event>| {
        if !event.is_ok_and(|event| event.kind.is_access()) {
            bell.try_send(()).ok();
        }
    };
    let mut watcher = notify::recommended_watcher(ring).ok()?;
    std::fs::create_dir_all(&options.store).ok();
    let mut folders = vec![options.dir.clone(), options.store.clone()];
    folders.extend(files.filter_map(|file| {
        let folder = file.parent()?;
        Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
    }));
    folders.sort();
    folders.dedup();
    for folder in folders {
        drop(watcher.watch(&folder, RecursiveMode::NonRecursive));
    }
    Some(watcher)
}
