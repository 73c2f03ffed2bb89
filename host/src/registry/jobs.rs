//! Plugins that are being made ready: several side by side, each by a thread that waits for a process of its own.
//!
//! - What they may take together is bounded: in number by the processors, in memory by [`MOST_MEMORY`].
//! - **One place is kept for files whose plugin is known**: whatever lies in the folder, a new version of what serves does
//!   not wait behind it. So is the memory that a small one takes.
//! - A thread that fails is its file's error.
//!
//! Not here: which files are to be made ready, and what becomes of them (`loader`).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use super::Error;
use super::folder::Stamp;
use crate::plugin::{Pattern, PluginName};
use crate::sandbox::{self, Allowance, CompiledPlugin, LoadError, Sandbox};
use crate::telemetry;

/// Bytes of memory of all processes together: an interpreter and a small plugin beside it. One always runs.
const MOST_MEMORY: u64 = 720 << 20;
/// Bytes of a small plugin's file: memory is kept for one whose plugin is known.
const SMALL: u64 = 1 << 20;
/// Processes at once.
const MOST: usize = 4;

/// A file that is to be made ready, and what it says of itself.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) stamp: Stamp,
    pub(super) hash: String,
    pub(super) name: Option<PluginName>,
    pub(super) events: Vec<Pattern>,
}

impl Wish {
    pub(super) fn of(bytes: &[u8], hash: String, stamp: Stamp) -> Self {
        let said = sandbox::manifest_of(bytes).map(|manifest| (manifest.name, manifest.events));
        let (name, events) = said.map_or((None, Vec::new()), |(name, events)| (Some(name), events));
        Self { stamp, hash, name, events }
    }

    fn memory(&self) -> u64 {
        Allowance::of(self.stamp.size()).memory
    }
}

/// What came of one.
pub(super) struct Done {
    pub(super) path: PathBuf,
    /// The state of the file that this is about.
    pub(super) stamp: Stamp,
    pub(super) found: Result<(CompiledPlugin, Vec<u8>), Error>,
    pub(super) took: Duration,
}

/// A job that runs.
struct Running {
    wish: Wish,
    known: bool,
}

pub(super) struct Jobs {
    sandbox: Arc<Sandbox>,
    running: BTreeMap<PathBuf, Running>,
    places: usize,
    done: (Sender<Done>, Receiver<Done>),
    bell: SyncSender<()>,
}

impl Jobs {
    pub(super) fn new(sandbox: Arc<Sandbox>, bell: SyncSender<()>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { sandbox, running: BTreeMap::new(), places: processors.clamp(2, MOST), done: channel(), bell }
    }

    /// Starts one where there is room for it; `known`: its plugin has served.
    pub(super) fn start(&mut self, path: &Path, wish: &Wish, known: bool) {
        let others = self.running.values().filter(|running| !running.known).count();
        let taken: u64 = self.running.values().map(|running| running.wish.memory()).sum();
        let room = has_room(taken, wish.memory(), known);
        let place = self.running.len() < self.places && (known || others + 1 < self.places);
        // Of the same bytes one is enough: the other finds what the first made.
        let is_made = self.running.iter().any(|(other, running)| other == path || running.wish.hash == wish.hash);
        if !room || !place || is_made {
            return;
        }
        telemetry::compiling(path, wish.name.as_ref());
        self.running.insert(path.to_owned(), Running { wish: wish.clone(), known });
        let (sandbox, done, bell) = (Arc::clone(&self.sandbox), self.done.0.clone(), self.bell.clone());
        let (own, stamp) = (path.to_owned(), wish.stamp);
        let tell = move |found: Result<(CompiledPlugin, Vec<u8>), Error>, path: PathBuf, took: Duration| {
            // Nobody waits for it any more where the host ends.
            done.send(Done { path, stamp, found, took }).unwrap_or_default();
            bell.try_send(()).unwrap_or_default();
        };
        let (failed, tell_failure) = (path.to_owned(), tell.clone());
        let run = move || {
            let began = Instant::now();
            let made = std::panic::catch_unwind(AssertUnwindSafe(|| load(&own, stamp, &sandbox)));
            let found = made.unwrap_or_else(|_| {
                let cause = LoadError::Damaged("what reads it failed on it".to_owned());
                Err(Error::Load { path: own.clone(), cause })
            });
            tell(found, own, began.elapsed());
        };
        if let Err(error) = std::thread::Builder::new().name("plugin".to_owned()).spawn(run) {
            let cause = LoadError::Compiler(format!("no thread can be started: {error}"));
            tell_failure(Err(Error::Load { path: failed.clone(), cause }), failed, Duration::ZERO);
        }
    }

    /// What has ended since.
    pub(super) fn ended(&mut self) -> Vec<Done> {
        let ended: Vec<Done> = self.done.1.try_iter().collect();
        for done in &ended {
            self.running.remove(&done.path);
        }
        ended
    }

    /// The files that are being made ready, and the plugins in them.
    pub(super) fn running(&self) -> Vec<(PathBuf, Option<PluginName>)> {
        self.running.iter().map(|(path, running)| (path.clone(), running.wish.name.clone())).collect()
    }

    /// The hashes of what is being made ready.
    pub(super) fn hashes(&self) -> impl Iterator<Item = &String> {
        self.running.values().map(|running| &running.wish.hash)
    }
}

/// Whether there is memory for one more; `taken` is nothing where none runs.
fn has_room(taken: u64, wanted: u64, known: bool) -> bool {
    let kept = if known { 0 } else { Allowance::of(SMALL).memory };
    taken == 0 || taken + wanted + kept <= MOST_MEMORY
}

fn load(path: &Path, stamp: Stamp, sandbox: &Sandbox) -> Result<(CompiledPlugin, Vec<u8>), Error> {
    let bytes = read(path, stamp)?;
    let compiled = sandbox.compile(&bytes).map_err(|cause| Error::Load { path: path.to_owned(), cause })?;
    Ok((compiled, bytes))
}

/// Reads a file that has this state.
pub(super) fn read(path: &Path, stamp: Stamp) -> Result<Vec<u8>, Error> {
    let path = || path.to_owned();
    sandbox::read_file(&path()).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::FileTooLarge => Error::Load { path: path(), cause: LoadError::TooLarge(stamp.size()) },
        _ => Error::File { path: path(), cause },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_strangers_leave_memory_for_a_new_version_of_what_serves() {
        let of = |mib: u64| Allowance::of(mib << 20).memory;
        assert!(has_room(0, of(64), false), "alone, anything may run");
        for first in 1..=18 {
            // Whatever strangers are let in side by side.
            let mut taken = of(first);
            for next in (1..=18).rev() {
                if has_room(taken, of(next), false) {
                    taken += of(next);
                }
            }
            assert!(has_room(taken, of(1), true), "behind one of {first} MiB");
        }
        assert!(!has_room(of(1), of(18), false), "it would leave nothing");
        assert!(has_room(of(1), of(18), true));
    }
}
