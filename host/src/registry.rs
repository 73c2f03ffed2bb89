//! The live plugins: what is loaded, with its grants, settings and limits.
//!
//! - Readers get a snapshot, which does not change under them; a delivery ends on the version it began on.
//! - A file that can't be loaded is reported, and harms no other.
//!
//! Not here: running them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::journal::{Subscription, Subscriptions};
use crate::plugin::{Grants, Limits, LimitsPatch, Manifest, Pattern, Permissions, PluginName};
use crate::sandbox::{CompiledPlugin, LoadError, Sandbox};
use crate::secret::Secret;
use crate::telemetry;

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder with the plugins' files.
    pub dir: PathBuf,
    /// Whether every plugin is granted what it asks.
    pub dev: bool,
    /// Deliveries of one plugin at once, where it says nothing else.
    pub concurrency: usize,
    /// What is configured per plugin.
    pub plugins: BTreeMap<PluginName, PluginOptions>,
    /// The accounts that name their plugins: no others get their events.
    pub accounts: BTreeMap<String, BTreeSet<PluginName>>,
}

/// What an administrator can say about one plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginOptions {
    /// `false` keeps it from running.
    pub disabled: bool,
    /// Settings in place of the manifest's defaults, key by key.
    pub settings: Map<String, Value>,
    /// Those of the settings that came from the environment or a file: they are kept out of everything that is recorded.
    pub secrets: Vec<Secret>,
    /// Limits in place of the manifest's.
    pub limits: LimitsPatch,
    /// `true`: its events of one entity need no order.
    pub unordered: bool,
    /// `true`: events that it caused itself are delivered to it.
    pub own_events: bool,
    /// How many events in a row plugins may cause before it no longer gets them.
    pub most_depth: Option<u32>,
    /// Deliveries at once.
    pub concurrency: Option<usize>,
    /// What it may do.
    pub grants: Permissions,
    /// Origins that may lead to private addresses.
    pub http_private: Vec<String>,
}

/// A plugin that gets events.
pub struct Live {
    /// Ready to run.
    pub compiled: CompiledPlugin,
    /// What it may do.
    pub grants: Arc<Grants>,
    /// Its settings, as JSON.
    pub settings: Arc<str>,
    /// What of the settings must not be recorded.
    pub secrets: Arc<[Secret]>,
    /// Its bounds.
    pub limits: Limits,
    /// Deliveries at once.
    pub concurrency: usize,
    /// Whether its events of one entity are kept in order.
    pub ordered: bool,
}

impl Live {
    /// Its version and the start of its file's hash, for people.
    pub fn version(&self) -> String {
        let hash = crate::capabilities::shortened(&self.compiled.hash, 12);
        format!("{} ({hash})", self.compiled.manifest.version)
    }
}

/// The live plugins at one moment.
#[derive(Default)]
pub struct Snapshot {
    /// By name.
    pub plugins: BTreeMap<PluginName, Arc<Live>>,
    /// Who wants what.
    pub subscriptions: Arc<Subscriptions>,
}

/// Why a plugin is not live.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder can't be read.
    #[error("the plugin folder `{path}` can't be read: {cause}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file can't be read.
    #[error("`{path}` can't be read: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file is not a plugin that can run here.
    #[error("`{path}` is not loaded: {cause}")]
    Load {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: LoadError,
    },
    /// Two files of the same plugin.
    #[error("`{path}` is not loaded: another file holds the plugin `{name}` too; remove one of them")]
    Twice {
        /// Which.
        path: PathBuf,
        /// The plugin.
        name: PluginName,
    },
}

/// A door to the live plugins. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    current: watch::Receiver<Arc<Snapshot>>,
}

impl Handle {
    /// The live plugins now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells when they change.
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.clone()
    }
}

/// The one that loads.
pub struct Registry {
    sender: watch::Sender<Arc<Snapshot>>,
}

impl Registry {
    /// Loads every `.wasm` file of the folder. Files that can't be loaded are returned beside the registry.
    ///
    /// # Errors
    /// [`Error::Folder`].
    pub fn load(options: &Options, sandbox: &Sandbox) -> Result<(Self, Vec<Error>), Error> {
        let mut plugins = BTreeMap::new();
        let mut problems = Vec::new();
        for path in files(&options.dir)? {
            match load_file(&path, options, sandbox) {
                Ok(live) => {
                    let name = live.compiled.manifest.name.clone();
                    if options.plugins.get(&name).is_some_and(|plugin| plugin.disabled) {
                        telemetry::plugin_disabled(&name);
                        continue;
                    }
                    match plugins.entry(name) {
                        Entry::Occupied(first) => problems.push(Error::Twice { path, name: first.key().clone() }),
                        Entry::Vacant(place) => {
                            telemetry::plugin_loaded(&live.compiled.manifest, &live.grants.missing(), options.dev);
                            place.insert(Arc::new(live));
                        }
                    }
                }
                Err(error) => problems.push(error),
            }
        }
        let subscriptions = plugins.iter().map(|(name, live)| subscription(name, live, options));
        let subscriptions = Arc::new(Subscriptions(subscriptions.collect()));
        let (sender, _) = watch::channel(Arc::new(Snapshot { plugins, subscriptions }));
        Ok((Self { sender }, problems))
    }

    /// A door to it.
    pub fn handle(&self) -> Handle {
        Handle { current: self.sender.subscribe() }
    }
}

fn subscription(name: &PluginName, live: &Live, options: &Options) -> Subscription {
    let own = options.plugins.get(name);
    let others = options.accounts.iter().filter(|(_, plugins)| !plugins.contains(name));
    let plain = Subscription::new(name.clone(), live.compiled.manifest.events.clone());
    Subscription {
        ordered: live.ordered,
        own_events: own.is_some_and(|own| own.own_events),
        most_depth: own.and_then(|own| own.most_depth).unwrap_or(plain.most_depth),
        not_from: others.map(|(account, _)| account.clone()).collect(),
        ..plain
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |cause| Error::Folder { path: dir.to_owned(), cause };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn load_file(path: &Path, options: &Options, sandbox: &Sandbox) -> Result<Live, Error> {
    let bytes = std::fs::read(path).map_err(|cause| Error::File { path: path.to_owned(), cause })?;
    let compiled = sandbox.compile(&bytes).map_err(|cause| Error::Load { path: path.to_owned(), cause })?;
    Ok(live(compiled, options))
}

/// Whether two attempts at once could make each other run again after a write to the outside: those that keep state and
/// write elsewhere run one at a time, unless the administrator says otherwise.
fn careful(manifest: &Manifest) -> bool {
    let writes = |call: &Pattern| {
        let call = call.as_str();
        call.ends_with('*') || !call.split_once('.').is_some_and(|(_, action)| crate::crm::is_read(action))
    };
    let asked = &manifest.permissions;
    asked.state && (!asked.http.is_empty() || asked.crm.iter().any(writes))
}

/// A compiled plugin with what the manifest asks and the configuration says.
pub fn live(compiled: CompiledPlugin, options: &Options) -> Live {
    let manifest = &compiled.manifest;
    let own = options.plugins.get(&manifest.name).cloned().unwrap_or_default();
    let asked = manifest.permissions.clone();
    let grants = if options.dev {
        Grants::as_asked(manifest.name.clone(), asked, own.http_private)
    } else {
        Grants::new(manifest.name.clone(), asked, own.grants, own.http_private)
    };
    let mut settings = manifest.settings.clone();
    settings.extend(own.settings);
    Live {
        grants: Arc::new(grants),
        settings: Value::Object(settings).to_string().into(),
        secrets: own.secrets.into(),
        limits: Limits::default().with(&manifest.limits).with(&own.limits),
        concurrency: own.concurrency.unwrap_or(if careful(manifest) { 1 } else { options.concurrency }).max(1),
        ordered: !own.unordered,
        compiled,
    }
}
