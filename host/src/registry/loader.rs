//! The thread that decides what serves: it compares the folder with what it knows, and publishes what follows.
//!
//! - A file is looked into when it was quiet for [`QUIET`]; what is wrong with it counts, and a file that is gone is taken
//!   for removed, only after [`SURE`]: an author's build or a slow copy may still be at it.
//! - What was read is compared with the file's state afterwards: half of two versions is never loaded.
//! - The first pass waits for nothing, and falls back to the version that served last where a file is bad.
//!
//! Not here: notifications (`folder`), where versions are kept (`versions`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::folder::{Stamp, scan};
use super::versions::{Serving, Versions};
use super::{Error, MOST_KEPT, Notice, Options, Reread, Snapshot, live, not_approved};
use crate::journal::{Subscription, Subscriptions};
use crate::parts::Parts;
use crate::plugin::{Pattern, PluginName};
use crate::sandbox::{self, CompiledPlugin, Sandbox};
use crate::telemetry;

/// How long a file must not have changed before it is looked into.
const QUIET: Duration = Duration::from_millis(100);
/// How long it must not have changed before it is called broken or gone.
const SURE: Duration = Duration::from_secs(1);
/// The longest time without a look of its own: notifications are lost on some file systems.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The time between looks while something is not decided yet.
const SOON: Duration = Duration::from_millis(20);

/// One file of the folder.
struct Seen {
    stamp: Stamp,
    changed_at: Instant,
    /// When it was missed first.
    gone_at: Option<Instant>,
    /// Whether it was looked into in vain, too soon to be sure.
    tried: bool,
    /// What came of looking into this state of it.
    found: Option<Result<Arc<CompiledPlugin>, Error>>,
    /// The plugin that it held when it was last good.
    held: Option<PluginName>,
}

/// The version of a plugin that serves.
#[derive(Clone)]
struct Chosen {
    compiled: Arc<CompiledPlugin>,
    file: PathBuf,
    newest: String,
}

pub(super) struct Loader {
    options: Options,
    sandbox: Arc<Sandbox>,
    reread: Option<Reread>,
    sender: watch::Sender<Arc<Snapshot>>,
    versions: Versions,
    seen: BTreeMap<PathBuf, Seen>,
    chosen: BTreeMap<PluginName, Chosen>,
    /// The states of the configuration's files and of the pins.
    settings: BTreeMap<PathBuf, Option<Stamp>>,
    /// Whether somebody wants everything to be read again.
    asked: Arc<AtomicBool>,
    pins: Option<Stamp>,
    serving: BTreeMap<PluginName, Serving>,
    generation: u64,
}

impl Loader {
    pub(super) fn new(
        options: Options,
        sandbox: Arc<Sandbox>,
        reread: Option<Reread>,
        sender: watch::Sender<Arc<Snapshot>>,
        asked: Arc<AtomicBool>,
    ) -> Self {
        let versions = Versions::new(&options.store);
        let settings = stamps(reread.as_ref());
        let (pins, serving) = (Stamp::of(&versions.pins_file()), versions.serving());
        Self {
            options,
            sandbox,
            reread,
            sender,
            versions,
            seen: BTreeMap::new(),
            chosen: BTreeMap::new(),
            settings,
            asked,
            pins,
            serving,
            generation: 0,
        }
    }

    /// Loads what is there.
    pub(super) fn first_pass(&mut self) -> Result<(), Error> {
        let files = scan(&self.options.dir)?;
        self.look(files, Instant::now(), true);
        self.fall_back();
        self.decide();
        self.sandbox.forget_compiled_except(&self.hashes());
        Ok(())
    }

    /// Goes on until nobody looks at the snapshots any more.
    pub(super) fn run(&mut self, bell: &Receiver<()>, parts: &Parts) {
        let mut wait = SOON;
        loop {
            match bell.recv_timeout(wait) {
                // Notifications come in swarms: one look is enough for all of them.
                Ok(()) => std::thread::sleep(SOON),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            wait = if self.pass() { SOON } else { LOOK_AGAIN };
            parts.well(super::PART);
            if self.sender.is_closed() {
                return;
            }
        }
    }

    /// One comparison; tells whether something is not decided yet.
    fn pass(&mut self) -> bool {
        let mut changed = self.read_settings();
        let pins = Stamp::of(&self.versions.pins_file());
        changed |= std::mem::replace(&mut self.pins, pins) != pins;
        // A folder that can't be read now says nothing about the plugins in it.
        let mut open = false;
        if let Ok(files) = scan(&self.options.dir) {
            changed |= self.look(files, Instant::now(), false);
            open = self.seen.values().any(|seen| seen.found.is_none() || seen.gone_at.is_some());
        }
        if changed {
            self.decide();
        }
        open
    }

    /// Reads the configuration again where one of its files changed.
    fn read_settings(&mut self) -> bool {
        let (asked, mut now) = (self.asked.swap(false, Ordering::SeqCst), stamps(self.reread.as_ref()));
        if asked {
            // What could not be loaded may have had a cause that is gone.
            let failed = self.seen.values_mut().filter(|seen| matches!(seen.found, Some(Err(_))));
            failed.for_each(|seen| seen.found = None);
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
    fn look(&mut self, mut files: BTreeMap<PathBuf, Stamp>, now: Instant, at_once: bool) -> bool {
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
                (seen.stamp, seen.changed_at, seen.tried, seen.found) = (stamp, now, false, None);
            }
            true
        });
        for (path, stamp) in files {
            self.seen
                .insert(path, Seen { stamp, changed_at: now, gone_at: None, tried: false, found: None, held: None });
        }
        for (path, seen) in self.seen.iter_mut().filter(|(_, seen)| seen.found.is_none() && seen.gone_at.is_none()) {
            let quiet = now.duration_since(seen.changed_at);
            if !at_once && quiet < if seen.tried { SURE } else { QUIET } {
                continue;
            }
            let found = read(path).and_then(|bytes| {
                if !self.sandbox.is_compiled(&bytes)
                    && let Some(manifest) = sandbox::manifest_of(&bytes)
                {
                    announce(&self.sender, path, manifest.name);
                }
                load(path, bytes, &self.sandbox)
            });
            let in_use: BTreeSet<String> = self.serving.values().map(|serving| serving.hash.clone()).collect();
            match found {
                // Somebody wrote while it was read: what was read may be of two versions.
                _ if Stamp::of(path) != Some(seen.stamp) && !at_once => {}
                Err(error) if error.may_pass() && !at_once && quiet < SURE => seen.tried = true,
                Ok((compiled, bytes)) => {
                    let name = &compiled.manifest.name;
                    if let Err(error) = self.versions.keep(name, &compiled.hash, &bytes, &in_use) {
                        telemetry::version_not_kept(name, &error);
                    }
                    seen.held = Some(name.clone());
                    seen.found = Some(Ok(Arc::new(compiled)));
                    changed = true;
                }
                Err(error) => {
                    seen.found = Some(Err(error));
                    changed = true;
                }
            }
        }
        if self.sender.borrow().compiling.is_some() {
            tell_compiling(&self.sender, None);
        }
        changed
    }

    /// At the start: where a file is bad, or holds what waits for approval, the version that served last goes on.
    fn fall_back(&mut self) {
        for (name, serving) in self.serving.clone() {
            let path = self.options.dir.join(&serving.file);
            let Some(seen) = self.seen.get_mut(&path) else { continue };
            let is_other = match &seen.found {
                Some(Ok(compiled)) => compiled.manifest.name == name && compiled.hash != serving.hash,
                Some(Err(_)) => true,
                None => false,
            };
            if let Some(compiled) =
                is_other.then(|| kept(&self.versions, &self.sandbox, &name, &serving.hash)).flatten()
            {
                seen.held.get_or_insert_with(|| name.clone());
                self.chosen.insert(name, Chosen { compiled, file: path, newest: serving.newest });
            }
        }
    }

    /// Which versions serve from now on.
    fn decide(&mut self) {
        let mut problems: Vec<Notice> = Vec::new();
        // A copy: what serves must not be lost where something fails in between.
        let (mut before, mut chosen) = (self.chosen.clone(), BTreeMap::new());
        let mut good: BTreeMap<PluginName, (PathBuf, Arc<CompiledPlugin>)> = BTreeMap::new();
        for (path, seen) in &self.seen {
            match &seen.found {
                Some(Ok(compiled)) => match good.entry(compiled.manifest.name.clone()) {
                    Entry::Vacant(place) => {
                        place.insert((path.clone(), Arc::clone(compiled)));
                    }
                    Entry::Occupied(mut first) => {
                        let name = first.key().clone();
                        // Of two files the one that served goes on.
                        let served = before.get(&name).is_some_and(|chosen| chosen.file == *path);
                        let other =
                            if served { first.insert((path.clone(), Arc::clone(compiled))).0 } else { path.clone() };
                        problems.push(notice(
                            Some(&name),
                            &other,
                            &Error::Twice { path: other.clone(), name: name.clone() },
                        ));
                    }
                },
                Some(Err(error)) => problems.push(notice(seen.held.as_ref(), path, error)),
                None => {}
            }
        }
        let mut waiting = BTreeMap::new();
        let pins = self.versions.pins();
        let names: BTreeSet<PluginName> = good.keys().chain(before.keys()).cloned().collect();
        for name in names {
            let serving = before.remove(&name);
            let next = match good.remove(&name) {
                Some((path, compiled)) => {
                    let pin = pins.get(&name).filter(|pin| pin.over == compiled.hash && pin.hash != compiled.hash);
                    self.choose(
                        serving,
                        path,
                        compiled,
                        pin.map(|pin| pin.hash.as_str()),
                        (&mut problems, &mut waiting),
                    )
                }
                // Its file is bad, or being written: what serves goes on. A file that is gone takes its plugin along.
                None => serving.filter(|chosen| {
                    self.seen.get(&chosen.file).is_some_and(|seen| !matches!(seen.found, Some(Ok(_))))
                }),
            };
            chosen.extend(next.map(|next| (name, next)));
        }
        self.chosen = chosen;
        self.publish(problems, &waiting);
    }

    fn choose(
        &self,
        serving: Option<Chosen>,
        file: PathBuf,
        compiled: Arc<CompiledPlugin>,
        pinned: Option<&str>,
        (problems, waiting): (&mut Vec<Notice>, &mut BTreeMap<PluginName, Vec<Pattern>>),
    ) -> Option<Chosen> {
        let (name, newest) = (compiled.manifest.name.clone(), compiled.hash.clone());
        if let Some(hash) = pinned {
            let already = serving.as_ref().map(|chosen| &chosen.compiled).filter(|compiled| compiled.hash == *hash);
            let pinned = already.cloned().or_else(|| kept(&self.versions, &self.sandbox, &name, hash));
            if let Some(pinned) = pinned {
                let error = Error::RolledBack { path: file.clone(), name: name.clone(), pinned: pinned.hash.clone() };
                problems.push(notice(Some(&name), &file, &error));
                return Some(Chosen { compiled: pinned, file, newest });
            }
        }
        let other = serving.as_ref().filter(|chosen| chosen.compiled.hash != newest);
        let is_new = serving.is_none() || other.is_some();
        let more = not_approved(&compiled.manifest, other.map(|chosen| &chosen.compiled.manifest), &self.options);
        if is_new && !more.is_empty() {
            let first = serving.is_none();
            if first {
                waiting.insert(name.clone(), compiled.manifest.events.clone());
            }
            problems.push(notice(
                Some(&name),
                &file,
                &Error::WaitsForApproval {
                    path: file.clone(),
                    name: name.clone(),
                    more,
                    asks: Box::new(self.options.asks(&compiled.manifest)),
                    hash: compiled.hash.clone(),
                    first,
                },
            ));
            return serving.map(|chosen| Chosen { file, newest, ..chosen });
        }
        // The same bytes again: what is compiled already stays.
        let compiled = serving.map(|chosen| chosen.compiled).filter(|old| old.hash == newest).unwrap_or(compiled);
        Some(Chosen { compiled, file, newest })
    }

    /// `waiting`: what plugins want that wait for their first approval. It is kept for them.
    fn publish(&mut self, problems: Vec<Notice>, waiting: &BTreeMap<PluginName, Vec<Pattern>>) {
        let before = Arc::clone(&self.sender.borrow());
        let mut plugins = BTreeMap::new();
        for (name, chosen) in &self.chosen {
            let old = before.plugins.get(name);
            if self.options.plugins.get(name).is_some_and(|own| own.disabled) {
                telemetry::plugin_disabled(name);
                continue;
            }
            let mut new = live(Arc::clone(&chosen.compiled), &self.options);
            if let Some(old) = old.filter(|old| old.is_like(&new)) {
                plugins.insert(name.clone(), Arc::clone(old));
                continue;
            }
            self.generation += 1;
            new.generation = self.generation;
            telemetry::plugin_loaded(&new.compiled.manifest, &new.grants.missing(), self.options.dev);
            plugins.insert(name.clone(), Arc::new(new));
        }
        for gone in before.plugins.keys().filter(|name| !plugins.contains_key(name)) {
            telemetry::plugin_removed(gone);
        }
        for new in problems.iter().filter(|problem| !before.notices.contains(problem)) {
            telemetry::plugin_not_loaded(&new.message, Some(new.code));
        }
        let live = plugins.iter().map(|(name, live)| {
            let plain = subscription(name, &live.compiled.manifest.events, &self.options);
            Subscription { ordered: live.ordered, ..plain }
        });
        let disabled = |name: &PluginName| self.options.plugins.get(name).is_some_and(|own| own.disabled);
        let waiting = waiting.iter().filter(|(name, _)| !disabled(name)).map(|(name, events)| {
            let ordered = !self.options.plugins.get(name).is_some_and(|own| own.unordered);
            Subscription { ordered, most_waiting: Some(MOST_KEPT), ..subscription(name, events, &self.options) }
        });
        let subscriptions = Arc::new(Subscriptions(live.chain(waiting).collect()));
        let snapshot = Snapshot { plugins, subscriptions, notices: problems.into(), compiling: None };
        self.sender.send_replace(Arc::new(snapshot));
        self.remember();
    }

    fn remember(&mut self) {
        let serving = self.chosen.iter().map(|(name, chosen)| {
            let file = chosen.file.file_name().map(PathBuf::from).unwrap_or_default();
            (name.clone(), Serving { file, hash: chosen.compiled.hash.clone(), newest: chosen.newest.clone() })
        });
        let serving = serving.collect();
        if serving != self.serving {
            if let Err(error) = self.versions.serve(&serving) {
                telemetry::serving_not_recorded(&error);
            }
            self.serving = serving;
        }
    }

    fn hashes(&self) -> BTreeSet<String> {
        let mut hashes = self.versions.hashes();
        hashes.extend(self.chosen.values().map(|chosen| chosen.compiled.hash.clone()));
        hashes
    }
}

fn stamps(reread: Option<&Reread>) -> BTreeMap<PathBuf, Option<Stamp>> {
    reread.iter().flat_map(|reread| &reread.files).map(|file| (file.clone(), Stamp::of(file))).collect()
}

fn notice(plugin: Option<&PluginName>, file: &Path, error: &Error) -> Notice {
    let (asks, hash) = match error {
        Error::WaitsForApproval { asks, hash, .. } => (Some((**asks).clone()), Some(hash.clone())),
        _ => (None, None),
    };
    Notice {
        plugin: plugin.cloned(),
        file: file.to_owned(),
        code: error.code(),
        message: error.to_string(),
        asks,
        hash,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    sandbox::read_file(path).map_err(|cause| Error::File { path: path.to_owned(), cause })
}

/// Tells that a file is being compiled: an interpreter takes half a minute.
fn announce(sender: &watch::Sender<Arc<Snapshot>>, path: &Path, name: PluginName) {
    telemetry::compiling(path, Some(&name));
    tell_compiling(sender, Some((path.to_owned(), Some(name))));
}

fn tell_compiling(sender: &watch::Sender<Arc<Snapshot>>, compiling: Option<(PathBuf, Option<PluginName>)>) {
    let before = Arc::clone(&sender.borrow());
    let Snapshot { plugins, subscriptions, notices, .. } = &*before;
    let (plugins, subscriptions, notices) = (plugins.clone(), Arc::clone(subscriptions), Arc::clone(notices));
    sender.send_replace(Arc::new(Snapshot { plugins, subscriptions, notices, compiling }));
}

fn load(path: &Path, bytes: Vec<u8>, sandbox: &Sandbox) -> Result<(CompiledPlugin, Vec<u8>), Error> {
    let compiled = sandbox.compile(&bytes).map_err(|cause| Error::Load { path: path.to_owned(), cause })?;
    Ok((compiled, bytes))
}

/// A version that was kept; none where it is lost or not what its name says.
fn kept(versions: &Versions, sandbox: &Sandbox, name: &PluginName, hash: &str) -> Option<Arc<CompiledPlugin>> {
    let compiled = versions.read(name, hash).ok().and_then(|bytes| sandbox.compile(&bytes).ok());
    let compiled = compiled.filter(|compiled| compiled.hash == hash && compiled.manifest.name == *name);
    if compiled.is_none() {
        telemetry::version_lost(name, hash);
    }
    compiled.map(Arc::new)
}

fn subscription(name: &PluginName, events: &[Pattern], options: &Options) -> Subscription {
    let own = options.plugins.get(name);
    let others = options.accounts.iter().filter(|(_, plugins)| !plugins.contains(name));
    let plain = Subscription::new(name.clone(), events.to_vec());
    Subscription {
        own_events: own.is_some_and(|own| own.own_events),
        most_depth: own.and_then(|own| own.most_depth).unwrap_or(plain.most_depth),
        not_from: others.map(|(account, _)| account.clone()).collect(),
        ..plain
    }
}
