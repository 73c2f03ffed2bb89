//! What serves, from what the folder holds, what served before, what was approved and what operators chose.
//!
//! - **A plugin has one file**, its home: the one that it served from last. As long as that is there, no other takes its place,
//!   whatever it is called; once it is gone, another version from elsewhere waits for an approval.
//! - Where the file is bad, waits for approval, or is still being made ready, the version that served goes on, also at the start.
//! - What waits for its first approval, or is being made ready at the start, has its events kept. So has what served and
//!   can't be had, whatever the cause; a file that is gone ends the plugin, because it may have been removed for that.
//!
//! Not here: looking at the files (`loader`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::Stamp;
use super::jobs::{Wish, read};
use super::loader::{Chosen, Kept, Loader};
use super::versions::{Home, Serving};
use super::{Error, MOST_KEPT, MOST_MISSED, Notice, Options, Snapshot, Start, live, not_approved};
use crate::journal::{Subscription, Subscriptions};
use crate::plugin::{Pattern, PluginName};
use crate::sandbox::CompiledPlugin;
use crate::telemetry;

/// What keeps files from serving, and what plugins want that do not serve yet.
#[derive(Default)]
struct Told {
    problems: Vec<Notice>,
    waiting: Waiting,
    missed: BTreeSet<PluginName>,
}

/// What plugins want that do not serve, and how many events of each CRM are kept for them.
#[derive(Default)]
struct Waiting(BTreeMap<PluginName, (Vec<Pattern>, Option<u32>)>);

impl Waiting {
    fn add(&mut self, name: &PluginName, events: &[Pattern], most: Option<u32>) {
        let (wanted, bound) = self.0.entry(name.clone()).or_insert_with(|| (Vec::new(), most));
        let new: Vec<Pattern> = events.iter().filter(|event| !wanted.contains(event)).cloned().collect();
        wanted.extend(new);
        *bound = bound.zip(most).map(|(one, other)| one.max(other));
    }
}

impl Loader {
    /// Which versions serve from now on.
    pub(super) fn decide(&mut self) {
        self.forget_unrecorded();
        self.fall_back();
        // What can't be read now is as it was.
        if let Ok(pins) = self.versions.pins() {
            self.pins = pins;
        }
        if let Ok(homes) = self.versions.homes() {
            self.homes = homes;
        }
        let homes = self.places();
        let mut told = Told::default();
        let mut good: BTreeMap<PluginName, (PathBuf, Arc<CompiledPlugin>)> = BTreeMap::new();
        let mut coming = BTreeSet::new();
        for (path, seen) in &self.seen {
            if seen.restless {
                told.problems.push(notice(seen.held.as_ref(), path, &Error::Restless { path: path.clone() }));
            }
            match &seen.found {
                Some(Ok(compiled)) => {
                    let name = &compiled.manifest.name;
                    let home = homes.get(name).map(|home| &home.file).filter(|home| self.holds(home, name));
                    // Of several that are new at the start the first by name is taken, not the first that is ready.
                    if home.is_none() && coming.contains(name) {
                        continue;
                    }
                    match good.entry(name.clone()) {
                        Entry::Vacant(place) if home.is_none_or(|home| home == path) => {
                            place.insert((path.clone(), Arc::clone(compiled)));
                        }
                        _ => {
                            let error = Error::Twice { path: path.clone(), name: name.clone() };
                            told.problems.push(notice(Some(name), path, &error));
                        }
                    }
                }
                Some(Err(error)) => told.problems.push(notice(seen.held.as_ref(), path, error)),
                None if self.start != Start::Over => {
                    coming.extend(seen.wish.as_ref().and_then(|wish| wish.name.as_ref()))
                }
                None => {}
            }
        }
        for error in self.unreadable.iter().chain(&self.lost) {
            let file = if let Error::RecordLost { path, .. } = error { path } else { &self.options.dir };
            told.problems.push(notice(None, file, error));
        }
        if self.left_out > 0 {
            let error = Error::TooMany { path: self.options.dir.clone(), left_out: self.left_out };
            told.problems.push(notice(None, &self.options.dir, &error));
        }
        let pins = self.pins.clone();
        // A copy: what serves must not be lost where something fails in between.
        let (mut before, mut chosen) = (self.chosen.clone(), BTreeMap::new());
        let names: BTreeSet<PluginName> = good.keys().chain(before.keys()).cloned().collect();
        for name in names {
            let serving = before.remove(&name);
            let next = match good.remove(&name) {
                Some((path, compiled)) => {
                    let pin = pins.get(&name).filter(|pin| pin.over == compiled.hash && pin.hash != compiled.hash);
                    let pinned = pin.map(|pin| pin.hash.as_str());
                    self.choose(serving, path, compiled, (homes.get(&name), pinned), &mut told)
                }
                // Its file is bad, or being written: what serves goes on. A file that is gone takes its plugin along.
                None => serving.filter(|chosen| self.holds(&chosen.file, &name)),
            };
            chosen.extend(next.map(|next| (name, next)));
        }
        self.chosen = chosen;
        self.tell_fallbacks(&mut told);
        self.tell_missed(&mut told);
        // Those that serve are held there.
        self.kept.retain(|_, kept| !matches!(kept, Kept::Here(_)));
        self.add_coming(&mut told.waiting);
        self.publish(told);
    }

    /// Where a file has been bad since the start, or holds another version than the one that served, that one goes on
    /// meanwhile.
    fn fall_back(&mut self) {
        for (name, serving) in self.serving.clone() {
            let path = self.options.dir.join(&serving.file);
            let Some(seen) = self.seen.get(&path).filter(|_| !self.chosen.contains_key(&name)) else { continue };
            let other = seen.hash.as_ref() != Some(&serving.hash);
            let wanted = match (&seen.found, &seen.wish) {
                (Some(Ok(compiled)), _) => other && compiled.manifest.name == name,
                (Some(Err(_)), _) => true,
                (None, Some(_)) => other,
                (None, None) => seen.restless,
            };
            if wanted && let Some(compiled) = self.kept(&name, &serving.hash) {
                if let Some(seen) = self.seen.get_mut(&path) {
                    seen.held.get_or_insert_with(|| name.clone());
                }
                self.chosen.insert(name, Chosen { compiled, file: path, newest: serving.newest });
            }
        }
    }

    /// Tells how a bad file is put right that a version which is kept stands in for.
    fn tell_fallbacks(&self, told: &mut Told) {
        for (name, chosen) in &self.chosen {
            let bad = self.seen.get(&chosen.file).is_some_and(|seen| matches!(seen.found, Some(Err(_))));
            for problem in told.problems.iter_mut().filter(|problem| bad && problem.file == chosen.file) {
                let kept = self.versions.path(name, &chosen.compiled.hash);
                problem.message += &format!(
                    "; version {} of `{name}` goes on serving, and its file is kept as `{}`",
                    chosen.compiled.manifest.version,
                    kept.display()
                );
            }
        }
    }

    /// Of a plugin whose file is there the file says more than a store that only knows its name.
    fn forget_unrecorded(&mut self) {
        let seen = &self.seen;
        let is_there = |name: &PluginName| {
            seen.values().any(|seen| match (&seen.found, &seen.wish) {
                (Some(Ok(compiled)), _) => compiled.manifest.name == *name,
                (_, Some(wish)) => wish.name.as_ref() == Some(name),
                _ => false,
            })
        };
        self.serving.retain(|name, serving| serving.is_known() || !is_there(name));
    }

    /// Tells what served and can't be had: its events are kept.
    fn tell_missed(&self, told: &mut Told) {
        for (name, serving) in self.serving.iter().filter(|(name, _)| !self.chosen.contains_key(*name)) {
            if self.is_disabled(name) {
                continue;
            }
            let path = self.options.dir.join(&serving.file);
            self.tell_lost(name, &serving.hash, &path, told);
            told.missed.insert(name.clone());
            let comes =
                self.seen.values().filter_map(|seen| seen.wish.as_ref()).any(|wish| wish.name.as_ref() == Some(name));
            // What is being made ready may take its time.
            let most = if comes { None } else { Some(MOST_MISSED) };
            told.waiting.add(name, &serving.events, most);
            let asks = told.problems.iter().any(|notice| notice.plugin.as_ref() == Some(name) && notice.asks.is_some());
            if !self.holds(&path, name) && !comes && !asks {
                let error = if serving.is_known() {
                    Error::Missing { path: path.clone(), name: name.clone() }
                } else {
                    Error::Unrecorded { dir: self.options.dir.clone(), name: name.clone() }
                };
                told.problems.push(notice(Some(name), &path, &error));
            }
        }
    }

    fn is_disabled(&self, name: &PluginName) -> bool {
        self.options.plugins.get(name).is_some_and(|own| own.disabled)
    }

    /// Where each plugin is at home.
    fn places(&self) -> BTreeMap<PluginName, Home> {
        let home = |serving: &Serving| Home { file: serving.file.clone(), hash: serving.newest.clone() };
        let mut homes: BTreeMap<PluginName, Home> = self
            .serving
            .iter()
            .filter(|(_, serving)| serving.is_known())
            .map(|(name, serving)| (name.clone(), home(serving)))
            .collect();
        homes.extend(self.homes.clone());
        homes.values_mut().for_each(|home| home.file = self.options.dir.join(&home.file));
        homes
    }

    /// Whether a file is there, and holds no other plugin as far as is known.
    fn holds(&self, path: &Path, name: &PluginName) -> bool {
        self.seen.get(path).is_some_and(|seen| match &seen.found {
            Some(Ok(compiled)) => compiled.manifest.name == *name,
            _ => true,
        })
    }

    fn choose(
        &mut self,
        serving: Option<Chosen>,
        file: PathBuf,
        compiled: Arc<CompiledPlugin>,
        (home, pinned): (Option<&Home>, Option<&str>),
        told: &mut Told,
    ) -> Option<Chosen> {
        let (name, newest) = (compiled.manifest.name.clone(), compiled.hash.clone());
        if let Some(hash) = pinned {
            let already = serving.as_ref().map(|chosen| &chosen.compiled).filter(|compiled| compiled.hash == *hash);
            let pinned = already.cloned().or_else(|| self.kept(&name, hash));
            if let Some(pinned) = pinned {
                let error = Error::RolledBack { path: file.clone(), name: name.clone(), pinned: pinned.hash.clone() };
                told.problems.push(notice(Some(&name), &file, &error));
                return Some(Chosen { compiled: pinned, file, newest });
            }
            // Nothing is put in the place of what an operator chose.
            self.tell_lost(&name, hash, &file, told);
            if serving.is_none() {
                told.waiting.add(&name, &compiled.manifest.events, self.bound(&name));
            }
            return serving;
        }
        // What comes from elsewhere is another's, until somebody says otherwise; what served is known by its hash.
        let moved = home.filter(|home| home.file != file && home.hash != newest && !self.options.dev);
        let serving = serving.filter(|_| moved.is_none());
        let other = serving.as_ref().filter(|chosen| chosen.compiled.hash != newest);
        let is_new = serving.is_none() || other.is_some();
        let mut more = not_approved(&compiled.manifest, other.map(|chosen| &chosen.compiled.manifest), &self.options);
        more.extend(
            moved.and_then(|home| home.file.file_name()).map(|home| format!("the place of `{}`", home.display())),
        );
        if is_new && !more.is_empty() {
            if serving.is_none() {
                told.waiting.add(&name, &compiled.manifest.events, self.bound(&name));
            }
            let first = serving.is_none() && !self.serving.contains_key(&name);
            let (asks, hash) = (Box::new(self.options.asks(&compiled.manifest)), newest.clone());
            let error = Error::WaitsForApproval { path: file.clone(), name: name.clone(), more, asks, hash, first };
            told.problems.push(notice(Some(&name), &file, &error));
            return serving.map(|chosen| Chosen { file, newest, ..chosen });
        }
        // The same bytes again: what is compiled already stays.
        let compiled = serving.map(|chosen| chosen.compiled).filter(|old| old.hash == newest).unwrap_or(compiled);
        Some(Chosen { compiled, file, newest })
    }

    /// How many events are kept for a plugin that does not serve.
    fn bound(&self, name: &PluginName) -> Option<u32> {
        Some(if self.serving.contains_key(name) { MOST_MISSED } else { MOST_KEPT })
    }

    /// Tells that a version which is to serve can't.
    fn tell_lost(&self, name: &PluginName, hash: &str, file: &Path, told: &mut Told) {
        let kept = self.kept.get(&self.versions.path(name, hash));
        let Some(Kept::Lost(cause) | Kept::Resting { why: cause, .. }) = kept else { return };
        let (hash, cause) = (hash.to_owned(), cause.clone());
        let error = Error::VersionLost { path: file.to_owned(), name: name.clone(), hash, cause };
        let notice = notice(Some(name), file, &error);
        if !told.problems.contains(&notice) {
            told.problems.push(notice);
        }
    }

    /// A version that was kept; none while it is being made ready, and where it is lost or not what its name says.
    fn kept(&mut self, name: &PluginName, hash: &str) -> Option<Arc<CompiledPlugin>> {
        let path = self.versions.path(name, hash);
        if !self.kept.contains_key(&path) {
            let kept = self
                .looked_for(name, &path, hash)
                .unwrap_or_else(|error| Kept::missing(Some(name), hash, &error, None));
            self.kept.insert(path.clone(), kept);
        }
        let Some(Kept::Here(compiled)) = self.kept.get(&path) else { return None };
        if compiled.hash == hash && compiled.manifest.name == *name {
            return Some(Arc::clone(compiled));
        }
        telemetry::version_lost(name, hash);
        self.kept.insert(path, Kept::Lost("what is kept under its hash is something else".to_owned()));
        None
    }

    fn looked_for(&self, name: &PluginName, path: &Path, hash: &str) -> Result<Kept, Error> {
        let own = || path.to_owned();
        if Stamp::of(path).is_none() {
            self.restored(name, path, hash);
        }
        let stamp = Stamp::of(path).ok_or_else(|| {
            let cause = std::fs::symlink_metadata(path).err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
            Error::File { path: own(), cause }
        })?;
        let bytes = match read(path, stamp) {
            Ok(bytes) if crate::sandbox::digest(&bytes) == hash => bytes,
            found => self.restored(name, path, hash).map_or(found, Ok)?,
        };
        match self.sandbox.known(&bytes) {
            Some(Ok(compiled)) => Ok(Kept::Here(Arc::new(compiled))),
            Some(Err(cause)) => Err(Error::Load { path: own(), cause }),
            None => Ok(Kept::Coming(Wish { name: Some(name.clone()), ..Wish::of(&bytes, hash.to_owned(), stamp) })),
        }
    }

    /// A version that was kept and is damaged or gone, from a file of the folder that holds the same.
    fn restored(&self, name: &PluginName, kept: &Path, hash: &str) -> Option<Vec<u8>> {
        let same = self.seen.iter().filter(|(_, seen)| seen.hash.as_deref() == Some(hash));
        let mut read = same.filter_map(|(path, _)| read(path, Stamp::of(path)?).ok());
        let bytes = read.find(|bytes| crate::sandbox::digest(bytes) == hash)?;
        telemetry::version_restored(name, hash);
        if let Err(error) = self.versions.keep(name, hash, &bytes, &self.hashes()) {
            telemetry::version_not_kept(name, &error);
        }
        // Only what is on disk is made ready.
        Stamp::of(kept).map(|_| bytes)
    }

    /// What plugins want that are being made ready.
    fn add_coming(&self, waiting: &mut Waiting) {
        let kept = self.kept.values().filter_map(|kept| match kept {
            Kept::Coming(wish) => Some(wish),
            Kept::Resting { wish, .. } => wish.as_ref(),
            Kept::Here(_) | Kept::Lost(_) => None,
        });
        let files = self.seen.values().filter(|_| self.start != Start::Over);
        for wish in files.filter_map(|seen| seen.wish.as_ref()).chain(kept) {
            let Some(name) = wish.name.as_ref().filter(|name| !self.chosen.contains_key(*name)) else { continue };
            // What served may take its time; what nobody knows gets no more than what waits for approval.
            waiting.add(name, &wish.events, self.bound(name).filter(|_| !self.serving.contains_key(name)));
        }
    }

    /// Makes what was decided known to everybody.
    fn publish(&mut self, told: Told) {
        let Told { problems, waiting, missed } = told;
        let before = Arc::clone(&self.sender.borrow());
        let mut plugins = BTreeMap::new();
        for (name, chosen) in &self.chosen {
            let old = before.plugins.get(name);
            if self.is_disabled(name) {
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
        let waiting =
            waiting.0.iter().filter(|(name, _)| !self.is_disabled(name)).map(|(name, (events, most_waiting))| {
                let ordered = !self.options.plugins.get(name).is_some_and(|own| own.unordered);
                Subscription { ordered, most_waiting: *most_waiting, ..subscription(name, events, &self.options) }
            });
        let subscriptions = Arc::new(Subscriptions(live.chain(waiting).collect()));
        let (compiling, start, notices) = (self.jobs.running(), self.start, problems.into());
        // A host for which nobody has written a plugin yet is as it should be.
        let nobody_left = start == Start::Over && subscriptions.0.is_empty() && !self.homes.is_empty();
        if nobody_left && !before.nobody_left {
            telemetry::nobody_left();
        }
        let snapshot = Snapshot { plugins, subscriptions, notices, missed, nobody_left, compiling, start };
        // What is seen to serve is on disk: a rollback asks there which version comes before it.
        self.remember();
        self.sender.send_replace(Arc::new(snapshot));
    }

    fn remember(&mut self) {
        let serving = self.chosen.iter().map(|(name, chosen)| {
            let file = chosen.file.file_name().map(PathBuf::from).unwrap_or_default();
            let (hash, newest) = (chosen.compiled.hash.clone(), chosen.newest.clone());
            (name.clone(), Serving { file, hash, newest, events: chosen.compiled.manifest.events.clone() })
        });
        // What served stays, whatever became of it, until somebody says that it is gone.
        let mut all = self.serving.clone();
        all.extend(serving);
        let serving = all;
        // An empty record says that nothing served, which no record does not.
        if serving == self.serving && (self.start != Start::Over || self.versions.is_recorded()) {
            return;
        }
        let homes = self.chosen.keys().filter_map(|name| {
            let Serving { file, newest, .. } = serving.get(name)?.clone();
            Some((name.clone(), Home { file, hash: newest }))
        });
        if let Err(error) = self.versions.serve(&serving).and_then(|()| self.versions.come_from(homes.collect())) {
            telemetry::serving_not_recorded(&error);
        }
        self.serving = serving;
    }

    /// The hashes of all that may be wanted compiled, or not compiled again.
    pub(super) fn hashes(&self) -> BTreeSet<String> {
        let mut hashes = self.versions.hashes();
        hashes.extend(self.chosen.values().map(|chosen| chosen.compiled.hash.clone()));
        hashes.extend(self.seen.values().filter_map(|seen| seen.hash.clone()));
        hashes.extend(self.jobs.hashes().cloned());
        hashes
    }
}

fn notice(plugin: Option<&PluginName>, file: &Path, error: &Error) -> Notice {
    let (asks, hash) = match error {
        Error::WaitsForApproval { asks, hash, .. } => (Some((**asks).clone()), Some(hash.clone())),
        _ => (None, None),
    };
    let (code, message) = (error.code(), error.to_string());
    Notice { plugin: plugin.cloned(), file: file.to_owned(), code, message, asks, hash }
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
