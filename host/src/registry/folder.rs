//! The plugin folder: which files there are and whether they changed, and a bell for when somebody touched it.
//!
//! - Whatever is called `.wasm` is listed, also what is no file: whoever put it there is told so.
//! - No more than [`MOST`] are looked at. Those that were known before come first.
//!
//! Not here: what a change means (`loader`).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, UNIX_EPOCH};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Error, Options};

/// Files of one folder that are looked at.
pub(super) const MOST: usize = 500;

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
        // A link that leads nowhere is there all the same.
        let metadata = std::fs::metadata(path).or_else(|_| std::fs::symlink_metadata(path)).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// How long it has been as it is; nothing where the clocks disagree.
    pub(super) fn age(&self) -> Duration {
        let since = |(seconds, nanos): (i64, i64)| {
            let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
            (UNIX_EPOCH + since).elapsed().ok()
        };
        since(self.changed).unwrap_or_default()
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// The `.wasm` files of a folder, and how many were left out.
pub(super) type Files = (BTreeMap<PathBuf, Stamp>, usize);

/// Looks for a folder's files. `first` tells which must not be left out.
pub(super) fn scan(folder: &Path, first: impl Fn(&Path) -> bool) -> Result<Files, Error> {
    let failed = |cause| Error::Folder { path: folder.to_owned(), cause };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            paths.push((!first(&path), path));
        }
    }
    let left_out = paths.len().saturating_sub(MOST);
    if left_out > 0 {
        paths.sort();
        paths.truncate(MOST);
    }
    // One that is gone by now is not there.
    let files = paths.into_iter().filter_map(|(_, path)| Some((Stamp::of(&path)?, path)));
    Ok((files.map(|(stamp, path)| (path, stamp)).collect(), left_out))
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
    crate::files::make_folder(&options.store, crate::files::Readers::Owner).ok();
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
