//! The thread that decides what serves: it compares the folder with what it knows, and publishes what follows.
//!
//! - A file is looked into when it was quiet for [`QUIET`]; what is wrong with it counts, and a file that is gone is taken
//!   for removed, only after [`SURE`]: an author's build or a slow copy may still be at it.
//! - What was read is compared with the file's state afterwards: half of two versions is never loaded.
//! - **It waits for no plugin.** What was compiled before is loaded at once; the rest is made ready beside it (`jobs`), and
//!   what served goes on meanwhile.
//! - At the start, events wait until the wishes of all files are known; those of plugins that are being made ready are kept.
//! - A folder that is not there holds nothing; one that can't be read says nothing about what runs, and is told.
//! - A file that goes on changing, or costs much, is looked into less often, and told about.
//!
//! Not here: notifications (`folder`), what follows from what was found (`decision`), where versions are kept (`versions`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::folder::{Files, Stamp, scan};
use super::jobs::{Done, Jobs, Wish, read};
use super::records::Mended;
use super::versions::{Home, Pin, Serving, Versions};
use super::{Bell, Error, Options, Reread, Snapshot, Start};
use crate::parts::Parts;
use crate::plugin::PluginName;
use crate::sandbox::{CompiledPlugin, Sandbox, manifest_of};
use crate::telemetry;

/// How long a file must not have changed before it is looked into.
const QUIET: Duration = Duration::from_millis(100);
/// How long it must not have changed before it is called broken or gone.
const SURE: Duration = Duration::from_secs(1);
/// The longest time without a look of its own: notifications are lost on some file systems.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The time between looks while something is not decided yet.
const SOON: Duration = Duration::from_millis(20);
/// How long files are read in one look, before what was found is acted on.
const STRETCH: Duration = Duration::from_millis(200);
/// How long a file may go on changing before it is told about.
const RESTLESS: Duration = Duration::from_secs(10);
/// The longest rest of a file that has just been looked into: as long as that took, and no longer than this.
const REST: Duration = Duration::from_secs(5);
/// When a file is tried again that the machine had no means for.
const MEANS_AGAIN: Duration = Duration::from_secs(60);
/// How long events wait at the start for the wishes of files that can't be read sooner.
const FIRST: Duration = Duration::from_secs(10);

/// One file of the folder.
pub(super) struct Seen {
    stamp: Stamp,
    changed_at: Instant,
    /// Since when nothing was decided about it.
    open_since: Instant,
    /// When it was missed first.
    gone_at: Option<Instant>,
    /// When it may be looked into again.
    rests_until: Option<Instant>,
    /// Whether it was looked into in vain, too soon to be sure.
    tried: bool,
    /// Whether it goes on changing.
    pub(super) restless: bool,
    /// The hash of what was looked into last.
    pub(super) hash: Option<String>,
    /// What is to be made ready.
    pub(super) wish: Option<Wish>,
    /// What came of looking into this state of it.
    pub(super) found: Option<Result<Arc<CompiledPlugin>, Error>>,
    /// The plugin that it held when it was last good.
    pub(super) held: Option<PluginName>,
}

impl Seen {
    fn new(stamp: Stamp, now: Instant) -> Self {
        // A file that has been as it is for long need not be waited for.
        let changed_at = now.checked_sub(stamp.age().min(SURE)).unwrap_or(now);
        Self {
            stamp,
            changed_at,
            open_since: now,
            gone_at: None,
            rests_until: None,
            tried: false,
            restless: false,
            hash: None,
            wish: None,
            found: None,
            held: None,
        }
    }

    fn changed(&mut self, stamp: Stamp, now: Instant) {
        if self.found.is_some() {
            self.open_since = now;
        }
        (self.stamp, self.changed_at, self.tried) = (stamp, now, false);
        (self.found, self.wish, self.rests_until) = (None, None, self.rests_until.filter(|until| *until > now));
    }

    /// Whether somebody has to look into it.
    fn is_open(&self) -> bool {
        self.found.is_none() && self.wish.is_none()
    }
}

/// A version that is kept and is to serve.
pub(super) enum Kept {
    /// It is being made ready.
    Coming(Wish),
    Here(Arc<CompiledPlugin>),
    /// The machine had no means for it, and may have them later.
    Resting {
        until: Instant,
        /// What is known of it.
        wish: Option<Wish>,
        why: String,
    },
    /// It is not there, or not what its name says.
    Lost(String),
}

impl Kept {
    /// A version that can't be had, by what was found.
    pub(super) fn missing(name: Option<&PluginName>, hash: &str, error: &Error, wish: Option<Wish>) -> Self {
        if error.lacks_means() {
            let why = format!("{error} (it is tried again)");
            return Self::Resting { until: Instant::now() + MEANS_AGAIN, wish, why };
        }
        if let Some(name) = name {
            telemetry::version_lost(name, hash);
        }
        Self::Lost(error.to_string())
    }
}

/// The version of a plugin that serves.
#[derive(Clone)]
pub(super) struct Chosen {
    pub(super) compiled: Arc<CompiledPlugin>,
    pub(super) file: PathBuf,
    pub(super) newest: String,
}

pub(super) struct Loader {
    pub(super) options: Options,
    pub(super) sandbox: Arc<Sandbox>,
    reread: Option<Reread>,
    pub(super) sender: watch::Sender<Arc<Snapshot>>,
    pub(super) versions: Versions,
    pub(super) jobs: Jobs,
    pub(super) seen: BTreeMap<PathBuf, Seen>,
    /// Files beyond those that are looked at.
    pub(super) left_out: usize,
    /// Why the folder can't be read.
    pub(super) unreadable: Option<Error>,
    /// Records of which nothing was whole.
    pub(super) lost: Vec<Error>,
    pub(super) chosen: BTreeMap<PluginName, Chosen>,
    /// Versions of the host's own that are to serve, by their files.
    pub(super) kept: BTreeMap<PathBuf, Kept>,
    /// The states of the configuration's files, and of the operators' choices.
    settings: BTreeMap<PathBuf, Option<Stamp>>,
    choices: Vec<Option<Stamp>>,
    /// What others want of it.
    bell: Bell,
    /// What serves, or did last: until somebody says that it is gone.
    pub(super) serving: BTreeMap<PluginName, Serving>,
    /// What operators chose, and where plugins come from, as it was read last.
    pub(super) pins: BTreeMap<PluginName, Pin>,
    pub(super) homes: BTreeMap<PluginName, Home>,
    pub(super) generation: u64,
    pub(super) start: Start,
    began: Instant,
    passes: watch::Sender<u64>,
}

impl Loader {
    pub(super) fn new(
        options: Options,
        jobs: Jobs,
        sandbox: Arc<Sandbox>,
        reread: Option<Reread>,
        (sender, passes): (watch::Sender<Arc<Snapshot>>, watch::Sender<u64>),
        bell: Bell,
    ) -> Result<Self, Error> {
        let versions = Versions::held(&options.store);
        let unreadable = |(path, cause)| Error::File { path, cause };
        let (mut lost, recorded) = (Vec::new(), versions.is_recorded());
        for (path, mended) in versions.mend().map_err(unreadable)? {
            telemetry::record_damaged(&path, mended == Mended::Restored);
            if mended == Mended::Lost {
                lost.push(Error::RecordLost { aside: Versions::aside(&path), path });
            }
        }
        let settings = stamps(reread.as_ref());
        let choices = choices(&versions);
        let of = |cause| Error::File { path: options.store.clone(), cause };
        let (mut serving, pins, homes) =
            (versions.serving().map_err(of)?, versions.pins().map_err(of)?, versions.homes().map_err(of)?);
        if !recorded
            || lost.iter().any(|error| matches!(error, Error::RecordLost { path, .. } if versions.is_serving(path)))
        {
            let unknown = |name: &PluginName| (name.clone(), Serving::unknown());
            serving = options.had_deliveries.iter().map(unknown).collect();
        }
        // A host before this one did not record what they want.
        for (name, serving) in serving.iter_mut().filter(|(_, serving)| serving.events.is_empty() && serving.is_known())
        {
            let bytes = crate::sandbox::read_file(&versions.path(name, &serving.hash)).ok();
            let whole = bytes.filter(|bytes| crate::sandbox::digest(bytes) == serving.hash);
            serving.events =
                whole.and_then(|bytes| manifest_of(&bytes)).map_or_else(Vec::new, |manifest| manifest.events);
        }
        Ok(Self {
            options,
            sandbox,
            reread,
            sender,
            versions,
            jobs,
            seen: BTreeMap::new(),
            left_out: 0,
            unreadable: None,
            lost,
            chosen: BTreeMap::new(),
            kept: BTreeMap::new(),
            settings,
            choices,
            bell,
            serving,
            pins,
            homes,
            generation: 0,
            start: Start::Reading,
            began: Instant::now(),
            passes,
        })
    }

    /// Goes on until nobody looks at the snapshots any more.
    pub(super) fn run(&mut self, bell: &Receiver<()>, parts: &Parts) {
        loop {
            let wait = if self.pass() { SOON } else { LOOK_AGAIN };
            parts.well(super::PART);
            self.passes.send_modify(|passes| *passes = passes.wrapping_add(1));
            if self.sender.is_closed() {
                return;
            }
            match bell.recv_timeout(wait) {
                // Notifications come in swarms: one look is enough for all of them.
                Ok(()) => std::thread::sleep(SOON),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// One comparison; tells whether something is to be looked at soon.
    fn pass(&mut self) -> bool {
        let mut changed = self.read_settings();
        let choices = choices(&self.versions);
        changed |= std::mem::replace(&mut self.choices, choices.clone()) != choices;
        for done in self.jobs.ended() {
            changed |= self.take(done);
        }
        let (resting, now) = (self.kept.len(), Instant::now());
        self.kept.retain(|_, kept| !matches!(kept, Kept::Resting { until, .. } if *until <= now));
        changed |= self.kept.len() != resting;
        changed |= self.abandon();
        let (found, unreadable) = self.scanned();
        changed |= self.unreadable.is_some() != unreadable.is_some();
        self.unreadable = unreadable;
        let mut open = false;
        if let Some((files, left_out)) = found {
            changed |= std::mem::replace(&mut self.left_out, left_out) != left_out;
            changed |= self.look(files, Instant::now());
            open = self.seen.values().any(|seen| seen.is_open() || seen.gone_at.is_some());
        }
        changed |= self.go_on();
        if changed {
            self.decide();
        }
        self.start_jobs();
        self.tell_compiling();
        open
    }

    /// Brings the start to its end; tells whether a step was made.
    fn go_on(&mut self) -> bool {
        let next = match self.start {
            Start::Reading => {
                let known = self.seen.values().all(|seen| !seen.is_open() || seen.restless);
                if known || self.began.elapsed() > FIRST { Start::Compiling } else { Start::Reading }
            }
            Start::Compiling => {
                let over = self.seen.values().all(|seen| seen.found.is_some() || seen.restless);
                let coming = self.kept.values().any(|kept| matches!(kept, Kept::Coming(_)));
                if over && !coming { Start::Over } else { Start::Compiling }
            }
            Start::Over => Start::Over,
        };
        let step = std::mem::replace(&mut self.start, next) != next;
        if step && next == Start::Over {
            self.sandbox.forget_compiled_except(&self.hashes());
        }
        step
    }

    /// The folder's files where that can be told, and why it can't be read. One that is gone holds nothing; one that can't be
    /// read says nothing about the plugins in it.
    fn scanned(&self) -> (Option<Files>, Option<Error>) {
        let known = |path: &Path| self.seen.get(path).is_some_and(|seen| seen.held.is_some()) || self.has_served(path);
        match scan(&self.options.dir, known) {
            Ok(found) => (Some(found), None),
            Err(error) if error.is_missing() => (Some(Default::default()), Some(error)),
            Err(error) => (None, Some(error)),
        }
    }

    /// Forgets what somebody says is gone, where it does not serve; tells whether something was.
    fn abandon(&mut self) -> bool {
        let mut left = self.serving.clone();
        let gone = std::mem::take(&mut *self.bell.gone.lock().unwrap_or_else(PoisonError::into_inner));
        left.retain(|name, _| !gone.contains(name) || self.chosen.contains_key(name));
        if left.len() == self.serving.len() {
            return false;
        }
        match self.versions.serve(&left) {
            Ok(()) => self.serving = left,
            // Whoever asked sees that it is still waited for.
            Err(error) => telemetry::serving_not_recorded(&error),
        }
        true
    }

    /// Whether what serves, or did last, came from this file.
    fn has_served(&self, path: &Path) -> bool {
        self.serving.values().any(|serving| path.file_name() == Some(serving.file.as_os_str()))
    }

    fn start_jobs(&mut self) {
        let mut wishes: Vec<(bool, Instant, &Path, &Wish)> = Vec::new();
        for (path, seen) in &self.seen {
            if let Some(wish) = &seen.wish {
                let known = seen.held.is_some() || self.has_served(path);
                wishes.push((known, seen.changed_at, path, wish));
            }
        }
        for (path, kept) in &self.kept {
            if let Kept::Coming(wish) = kept {
                wishes.push((true, self.began, path, wish));
            }
        }
        // Whose plugin is known, and among those whoever changed last: somebody waits for it.
        wishes.sort_by_key(|(known, changed_at, ..)| std::cmp::Reverse((*known, *changed_at)));
        for (known, _, path, wish) in wishes {
            self.jobs.start(path, wish, known);
        }
    }

    /// Tells which files are being made ready: an interpreter takes half a minute.
    fn tell_compiling(&self) {
        let before = Arc::clone(&self.sender.borrow());
        let compiling = self.jobs.running();
        if before.compiling != compiling {
            self.sender.send_replace(Arc::new(Snapshot { compiling, ..Snapshot::clone(&before) }));
        }
    }

    /// Reads the configuration again where one of its files changed.
    fn read_settings(&mut self) -> bool {
        let (asked, mut now) = (self.bell.asked.swap(false, Ordering::SeqCst), stamps(self.reread.as_ref()));
        if asked {
            // What could not be loaded may have had a cause that is gone.
            let failed = self.seen.values_mut().filter(|seen| matches!(seen.found, Some(Err(_))));
            failed.for_each(|seen| seen.found = None);
            self.kept.retain(|_, kept| !matches!(kept, Kept::Lost(_) | Kept::Resting { .. }));
        }
        let Some(reread) = self.reread.as_mut().filter(|_| asked || now != self.settings) else { return asked };
        let read = (reread.read)();
        if let Some(files) = read.files {
            // Those that are known keep the state that they had before they were read.
            now =
                files.iter().map(|file| (file.clone(), now.remove(file).unwrap_or_else(|| Stamp::of(file)))).collect();
            reread.files = files;
        }
        self.settings = now;
        let Some(options) = read.options else { return asked };
        // Folders are fixed while the host runs.
        let (dir, store) = (self.options.dir.clone(), self.options.store.clone());
        self.options = Options { dir, store, ..options };
        true
    }

    /// Brings what is known of the files up to date; tells whether something was decided.
    fn look(&mut self, mut files: BTreeMap<PathBuf, Stamp>, now: Instant) -> bool {
        let mut changed = false;
        self.seen.retain(|path, seen| {
            let Some(stamp) = files.remove(path) else {
                let gone_at = *seen.gone_at.get_or_insert(now);
                let stays = now.duration_since(gone_at) < SURE;
                changed |= !stays;
                return stays;
            };
            seen.gone_at = None;
            if stamp != seen.stamp {
                seen.changed(stamp, now);
            }
            true
        });
        self.seen.extend(files.into_iter().map(|(path, stamp)| (path, Seen::new(stamp, now))));
        let mut due = Vec::new();
        for (path, seen) in self.seen.iter_mut().filter(|(_, seen)| seen.gone_at.is_none()) {
            let quiet = now.duration_since(seen.changed_at);
            let again = seen.rests_until.is_some_and(|until| until <= now) && seen.lacked_means();
            let ready =
                quiet >= if seen.tried { SURE } else { QUIET } && seen.rests_until.is_none_or(|until| until <= now);
            if again && seen.wish.is_none() || seen.is_open() && ready {
                due.push((seen.held.is_none(), path.clone()));
            }
            let restless = seen.is_open() && !ready && now.duration_since(seen.open_since) > RESTLESS;
            changed |= std::mem::replace(&mut seen.restless, restless) != restless;
        }
        due.sort();
        for (_, path) in due {
            changed |= self.look_into(&path);
            if now.elapsed() > STRETCH {
                break;
            }
        }
        changed
    }

    /// Looks into one file, without compiling it; tells whether something was decided.
    fn look_into(&mut self, path: &Path) -> bool {
        let Some(seen) = self.seen.get_mut(path) else { return false };
        let (began, stamp) = (Instant::now(), seen.stamp);
        let found = read(path, stamp);
        // Somebody wrote while it was read: what was read may be of two versions.
        if Stamp::of(path) != Some(stamp) {
            return false;
        }
        let found = match found {
            Err(error) => Err(error),
            Ok(bytes) => {
                let hash = crate::sandbox::digest(&bytes);
                seen.hash = Some(hash.clone());
                match self.sandbox.known(&bytes) {
                    None => {
                        seen.wish = Some(Wish::of(&bytes, hash, stamp));
                        // At the start, what it wants may be news.
                        return self.start != Start::Over;
                    }
                    Some(Ok(compiled)) => Ok((compiled, bytes)),
                    Some(Err(cause)) => Err(Error::Load { path: path.to_owned(), cause }),
                }
            }
        };
        self.settle(path, found, began.elapsed())
    }

    /// Takes what a job has come to; tells whether something was decided.
    fn take(&mut self, done: Done) -> bool {
        let Done { path, stamp, found, took } = done;
        if let Some(kept) = self.kept.get_mut(&path) {
            match (found, &*kept) {
                (Ok((compiled, _)), _) => *kept = Kept::Here(Arc::new(compiled)),
                (Err(error), Kept::Coming(wish)) => {
                    *kept = Kept::missing(wish.name.as_ref(), &wish.hash, &error, Some(wish.clone()));
                }
                (Err(_), _) => {}
            }
            return true;
        }
        let now = Stamp::of(&path);
        match self.seen.get_mut(&path) {
            Some(seen) if seen.stamp == stamp && now == Some(stamp) => {
                seen.wish = None;
                self.settle(&path, found, took)
            }
            Some(seen) => {
                seen.rests_until = Some(Instant::now() + took.min(REST));
                false
            }
            None => false,
        }
    }

    fn settle(&mut self, path: &Path, found: Result<(CompiledPlugin, Vec<u8>), Error>, took: Duration) -> bool {
        let in_use = self.serving.values().map(|serving| serving.hash.clone()).collect();
        let Some(seen) = self.seen.get_mut(path) else { return false };
        let now = Instant::now();
        seen.rests_until = Some(now + took.min(REST));
        match found {
            Err(error) if error.may_pass() && now.duration_since(seen.changed_at) < SURE => {
                seen.tried = true;
                return false;
            }
            Ok((compiled, bytes)) => {
                let name = &compiled.manifest.name;
                match self.versions.keep(name, &compiled.hash, &bytes, &in_use) {
                    Ok(true) => telemetry::version_restored(name, &compiled.hash),
                    Ok(false) => {}
                    Err(error) => telemetry::version_not_kept(name, &error),
                }
                // It may have been found damaged, or gone, before.
                let of_it = self.versions.path(name, &compiled.hash);
                self.kept.retain(|path, kept| *path != of_it || !matches!(kept, Kept::Lost(_)));
                seen.held = Some(name.clone());
                seen.found = Some(Ok(Arc::new(compiled)));
            }
            Err(error) => {
                seen.found = Some(Err(error));
                if seen.lacked_means() {
                    seen.rests_until = Some(now + MEANS_AGAIN);
                } else if self.start == Start::Over {
                    // What is remembered of files that are no more must not grow.
                    self.sandbox.forget_compiled_except(&self.hashes());
                }
            }
        }
        true
    }
}

impl Seen {
    /// Whether it could not be made ready for want of something that the machine may have later.
    fn lacked_means(&self) -> bool {
        matches!(&self.found, Some(Err(error)) if error.lacks_means())
    }
}

fn choices(versions: &Versions) -> Vec<Option<Stamp>> {
    [versions.pins_file(), versions.homes_file()].iter().map(|file| Stamp::of(file)).collect()
}

fn stamps(reread: Option<&Reread>) -> BTreeMap<PathBuf, Option<Stamp>> {
    reread.iter().flat_map(|reread| &reread.files).map(|file| (file.clone(), Stamp::of(file))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::LoadError;

    #[test]
    fn a_kept_version_that_the_machine_had_no_means_for_is_tried_again() {
        let path = || PathBuf::from("alpha.wasm");
        let load = |cause| Error::Load { path: path(), cause };
        let file = |kind: std::io::ErrorKind| Error::File { path: path(), cause: kind.into() };
        let rests = |error: Error| matches!(Kept::missing(None, "hash", &error, None), Kept::Resting { .. });
        assert!(rests(load(LoadError::Compiler("no process".to_owned()))));
        assert!(rests(file(std::io::ErrorKind::PermissionDenied)));
        assert!(!rests(load(LoadError::Empty)));
        assert!(!rests(file(std::io::ErrorKind::NotFound)));
    }
}
