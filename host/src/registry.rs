//! The live plugins: what is loaded, with its grants, settings and limits.
//!
//! - Readers get a snapshot, which does not change under them; a delivery ends on the version it began on.
//! - **One thread decides** (`loader`, `decision`). It looks at the folder itself; notifications only wake it up, so a lost
//!   one costs seconds and no version. It waits for nobody: files are made ready beside it (`jobs`).
//! - **A version that can't run changes nothing**: the one before goes on serving, and a notice says why. Every version
//!   that ran is kept by its hash (`versions`), so this holds across a restart as well.
//! - **A version that asks for more than was approved waits** until an administrator has agreed.
//! - **What served and can't be had has its events kept**, over restarts, until it is back or somebody says that it is gone: a
//!   folder that is not mounted loses nobody's events.
//!
//! Not here: running them, reading the configuration, asking the administrator.

mod decision;
mod folder;
mod jobs;
mod loader;
mod records;
pub mod verify;
pub mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::journal::Subscriptions;
use crate::parts::Parts;
use crate::plugin::{Grants, Limits, LimitsPatch, Manifest, Pattern, Permissions, PluginName};
use crate::sandbox::{CompiledPlugin, LoadError, Sandbox};
use versions::Versions;

/// How soon what was written must be heeded.
const LOOKS_WITHIN: Duration = Duration::from_secs(5);
/// When the loader is woken a second time, for a look that began after what was written.
const RING_AGAIN: Duration = Duration::from_millis(100);

/// The thread's name among the host's parts.
const PART: &str = "plugins";

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder with the plugins' files.
    pub dir: PathBuf,
    /// The folder of the host's own in which versions are kept.
    pub store: PathBuf,
    /// The file with what was approved.
    pub approvals: PathBuf,
    /// What was approved with `plugin grant`.
    pub approved: BTreeMap<PluginName, Permissions>,
    /// Whether every plugin is granted what it asks.
    pub dev: bool,
    /// Deliveries of one plugin at once, where it says nothing else.
    pub concurrency: usize,
    /// What is configured per plugin.
    pub plugins: BTreeMap<PluginName, PluginOptions>,
    /// The accounts that name their plugins: no others get their events.
    pub accounts: BTreeMap<String, BTreeSet<PluginName>>,
    /// Plugins that the store has deliveries of: where the host's own records are lost, nothing else tells who served.
    pub had_deliveries: BTreeSet<PluginName>,
}

/// What an administrator can say about one plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PluginOptions {
    /// `false` keeps it from running.
    pub disabled: bool,
    /// Settings in place of the manifest's defaults, key by key.
    pub settings: Map<String, Value>,
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
    /// What it may do, besides what was approved; `None` where the configuration says nothing.
    pub grants: Option<Permissions>,
    /// Origins that may lead to private addresses.
    pub http_private: Vec<String>,
}

/// A plugin that gets events.
pub struct Live {
    /// Ready to run.
    pub compiled: Arc<CompiledPlugin>,
    /// Another number for every change of the version, the settings, the limits or the grants.
    pub generation: u64,
    /// What it may do.
    pub grants: Arc<Grants>,
    /// Its settings, as JSON.
    pub settings: Arc<str>,
    /// Its bounds.
    pub limits: Limits,
    /// Deliveries at once.
    pub concurrency: usize,
    /// Whether its events of one entity are kept in order.
    pub ordered: bool,
}

impl Live {
    fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.compiled, &other.compiled)
            && (&self.grants, &self.settings, &self.limits) == (&other.grants, &other.settings, &other.limits)
            && (self.concurrency, self.ordered) == (other.concurrency, other.ordered)
    }

    /// Its version and the start of its file's hash, for people.
    pub fn version(&self) -> String {
        let hash = crate::capabilities::shortened(&self.compiled.hash, 12);
        format!("{} ({hash})", self.compiled.manifest.version)
    }
}

/// The live plugins at one moment.
#[derive(Default, Clone)]
pub struct Snapshot {
    /// By name.
    pub plugins: BTreeMap<PluginName, Arc<Live>>,
    /// Who wants what.
    pub subscriptions: Arc<Subscriptions>,
    /// What an administrator should know about files that are not served.
    pub notices: Arc<[Notice]>,
    /// Plugins that served and can't now: their events are kept for them.
    pub missed: BTreeSet<PluginName>,
    /// Whether plugins served, and no event is wanted any more.
    pub nobody_left: bool,
    /// The files that are being made ready, and the plugins in them.
    pub compiling: Vec<(PathBuf, Option<PluginName>)>,
    /// How far the start is.
    pub start: Start,
}

impl Snapshot {
    /// The file in which a plugin waits for approval.
    pub fn waits_in(&self, plugin: &PluginName) -> Option<versions::Home> {
        let mut waiting = self.notices.iter().filter(|notice| notice.plugin.as_ref() == Some(plugin));
        let (file, hash) = waiting.find_map(|notice| Some((&notice.file, notice.hash.clone()?)))?;
        Some(versions::Home { file: PathBuf::from(file.file_name()?), hash })
    }
}

/// How far the start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// Not all files have been read: who wants an event is not known yet.
    #[default]
    Reading,
    /// Some plugins are being made ready: their events are kept for them.
    Compiling,
    /// Every file is decided about.
    Over,
}

/// Why a file, or what it holds, is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Notice {
    /// The plugin, where it is known.
    pub plugin: Option<PluginName>,
    /// The file.
    #[serde(serialize_with = "crate::files::told")]
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// A stable code.
    pub code: &'static str,
    /// The cause and the next step.
    pub message: String,
    /// What it asks for, where it waits for approval.
    pub asks: Option<Permissions>,
    /// The SHA-256 of the version that asks.
    pub hash: Option<String>,
}

/// Why a plugin, or a version of it, is not live.
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
    /// What served, and whose file is not there.
    #[error(
        "`{path}`, from which `{name}` served, is gone or holds another plugin: its events are kept, the first {MOST_MISSED} of each CRM, until the file is back; if the plugin is gone for good, say so with `salesman-host plugin drop {name}`"
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The plugin.
        name: PluginName,
    },
    /// What had deliveries, and of which the host's own records are lost.
    #[error(
        "`{name}` had deliveries, and neither `{dir}` nor the host's own records, which are lost, know it: all events are kept for it, the first {MOST_MISSED} of each CRM, until a file with it is there; if the plugin is gone for good, say so with `salesman-host plugin drop {name}`"
    )]
    Unrecorded {
        /// The plugin folder.
        dir: PathBuf,
        /// The plugin.
        name: PluginName,
    },
    /// A record of the host's own of which nothing was whole.
    #[error(
        "`{path}` and its copy were damaged, and what they said is lost: look at what serves, and choose versions with `plugin rollback` anew; what is left of it is in `{aside}`"
    )]
    RecordLost {
        /// Which.
        path: PathBuf,
        /// Where the damaged one is now.
        aside: PathBuf,
    },
    /// Two files of the same plugin.
    #[error(
        "`{path}` is not loaded: another file holds the plugin `{name}` too, and served before; remove one of them"
    )]
    Twice {
        /// Which.
        path: PathBuf,
        /// The plugin.
        name: PluginName,
    },
    /// A file that nobody lets be.
    #[error(
        "`{path}` is not loaded: it goes on changing; it is looked into as soon as nobody writes to it for a moment"
    )]
    Restless {
        /// Which.
        path: PathBuf,
    },
    /// More files than are looked at.
    #[error("`{path}` holds too many `.wasm` files: {left_out} of them are not looked at; remove what is no plugin", path = path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// How many are left out.
        left_out: usize,
    },
    /// It asks for more than was approved.
    #[error("`{path}` waits for approval, it asks for more than was granted ({}): run `salesman-host plugin grant {name}`{}", more.join(", "), kept(*first))]
    WaitsForApproval {
        /// Which.
        path: PathBuf,
        /// The plugin.
        name: PluginName,
        /// What it asks for beyond what was granted.
        more: Vec<String>,
        /// All that it asks for.
        asks: Box<Permissions>,
        /// The version's hash.
        hash: String,
        /// Whether no version of it serves meanwhile.
        first: bool,
    },
    /// An operator chose another version.
    #[error("`{path}` is not served: version {pinned} was chosen by `plugin rollback {name}`; `--newest` undoes it")]
    RolledBack {
        /// Which.
        path: PathBuf,
        /// The plugin.
        name: PluginName,
        /// The hash of what serves.
        pinned: String,
    },
    /// A version that was kept can't serve in the place of a file.
    #[error(
        "version {hash} of `{name}` is to serve in place of `{path}`, and can't be loaded: {cause}; choose another with `salesman-host plugin rollback {name}`, or the file's with `--newest`"
    )]
    VersionLost {
        /// The file that it stands in for.
        path: PathBuf,
        /// The plugin.
        name: PluginName,
        /// The version's hash.
        hash: String,
        /// Why.
        cause: String,
    },
    /// The loader's thread can't be started.
    #[error("the thread that loads plugins can't be started: {0}")]
    Thread(std::io::Error),
}

/// Events of one CRM that are kept for a plugin which served and can't be had: they take about 300 MiB, and one that was removed
/// on purpose must not fill the disk.
const MOST_MISSED: u32 = 1_000_000;
/// Events of one CRM that are kept for a plugin which waits for its first approval.
const MOST_KEPT: u32 = 10_000;

fn kept(first: bool) -> String {
    if first {
        format!("; until then its events are kept for it, the first {MOST_KEPT} of each CRM")
    } else {
        String::new()
    }
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Load { cause, .. } => cause.code(),
            Self::Missing { .. } | Self::Unrecorded { .. } => "registry.missing",
            Self::RecordLost { .. } => "registry.record_lost",
            Self::Twice { .. } => "registry.twice",
            Self::Restless { .. } => "registry.restless",
            Self::TooMany { .. } => "registry.too_many",
            Self::WaitsForApproval { .. } => "registry.waits_for_approval",
            Self::RolledBack { .. } => "registry.rolled_back",
            Self::VersionLost { .. } => "registry.version_lost",
            Self::Folder { .. } | Self::File { .. } | Self::Thread(_) => "registry.file",
        }
    }

    /// Whether the folder is not there.
    fn is_missing(&self) -> bool {
        matches!(self, Self::Folder { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether an author who is still writing the file could be the cause.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Load { .. } | Self::File { .. })
    }

    /// Whether it failed for want of something that the machine may have later.
    fn lacks_means(&self) -> bool {
        use std::io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
        match self {
            Self::Load { cause, .. } => matches!(cause, LoadError::Compiler(_)),
            Self::File { cause, .. } => !matches!(cause.kind(), NotFound | InvalidInput | NotADirectory),
            _ => false,
        }
    }
}

/// A door to the live plugins. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    current: watch::Receiver<Arc<Snapshot>>,
    passes: watch::Receiver<u64>,
    bell: Bell,
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

    /// Waits until every file that was there at the start is decided about.
    pub async fn started(&self) {
        // One that ends before has nothing more to tell.
        drop(self.current.clone().wait_for(|snapshot| snapshot.start == Start::Over).await);
    }

    /// Says that a plugin which can't be had is gone for good: no event is kept for it from now on, also after a restart.
    /// Tells whether that is so; one that serves stays.
    pub async fn abandon(&self, plugin: &PluginName) -> bool {
        self.bell.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(plugin.clone());
        self.looks_again().await && !self.snapshot().missed.contains(plugin)
    }

    /// Whether what was written before is heeded within a moment: what has to be obeyed must not be taken for done because
    /// it stands in a file.
    pub async fn looks_again(&self) -> bool {
        let mut passes = self.passes.clone();
        let before = *passes.borrow_and_update();
        self.bell.ring();
        // The next to end may have begun before.
        let after = passes.wait_for(|passes| passes.wrapping_sub(before) >= 2);
        let again = async {
            tokio::time::sleep(RING_AGAIN).await;
            self.bell.ring();
            std::future::pending::<()>().await;
        };
        let both = async {
            tokio::select! { found = after => found.is_ok(), () = again => false }
        };
        tokio::time::timeout(LOOKS_WITHIN, both).await.unwrap_or(false)
    }
}

/// How the configuration is read again.
pub struct Reread {
    /// The files that it comes from, those with secrets among them.
    pub files: Vec<PathBuf>,
    /// Reads it. Says what is wrong, once; the loader goes on with what it has.
    pub read: Box<dyn FnMut() -> ReadAgain + Send>,
}

/// What reading the configuration again brought.
#[derive(Default)]
pub struct ReadAgain {
    /// What it says of plugins; none where it can't be used.
    pub options: Option<Options>,
    /// The files that it comes from now; none where that can't be told.
    pub files: Option<Vec<PathBuf>>,
}

/// The one that loads, as long as it lives.
pub struct Registry {
    handle: Handle,
}

/// Wakes the loader up. Cheap to clone. Keeps its line open where the system can't watch.
#[derive(Clone)]
pub struct Bell {
    line: SyncSender<()>,
    /// Whether somebody wants everything to be read again.
    asked: Arc<AtomicBool>,
    /// Plugins of which somebody says that they are gone.
    gone: Arc<Mutex<BTreeSet<PluginName>>>,
}

impl Bell {
    /// Has everything read again, whether or not it looks changed.
    pub fn reread(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        // One that waits already is enough.
        self.line.try_send(()).unwrap_or_default();
    }
}

impl Registry {
    /// Begins to load every `.wasm` file of the folder, and watches it from then on. Returns before anything is loaded
    /// ([`Handle::started`]). Files that can't be loaded are in the snapshot's notices; so is a folder that can't be read,
    /// where plugins served before.
    ///
    /// # Errors
    /// [`Error::Folder`], [`Error::Thread`]; [`Error::File`] for a record of the host's own that can't be read now.
    pub fn start(options: Options, sandbox: Arc<Sandbox>, reread: Option<Reread>, parts: Parts) -> Result<Self, Error> {
        let (line, bell) = std::sync::mpsc::sync_channel(1);
        let watched = reread.iter().flat_map(|reread| &reread.files).cloned();
        let watcher = folder::watcher(&options, watched, line.clone());
        let had_none = Versions::new(&options.store).serving().is_ok_and(|serving| serving.is_empty());
        if had_none && options.had_deliveries.is_empty() {
            folder::scan(&options.dir, |_| false)?;
        }
        let (sender, current) = watch::channel(Arc::default());
        let (counter, passes) = watch::channel(0);
        let jobs = jobs::Jobs::new(Arc::clone(&sandbox), line.clone());
        let own = Bell { line, asked: Arc::default(), gone: Arc::default() };
        let mut loader = loader::Loader::new(options, jobs, sandbox, reread, (sender, counter), own.clone())?;
        let run = move || {
            // What it knows is changed as a whole, or not at all: it can go on after a failure.
            while std::panic::catch_unwind(AssertUnwindSafe(|| loader.run(&bell, &parts))).is_err() {
                std::thread::sleep(parts.failed(PART));
            }
            drop(watcher);
        };
        std::thread::Builder::new().name("plugins".to_owned()).spawn(run).map_err(Error::Thread)?;
        Ok(Self { handle: Handle { current, passes, bell: own } })
    }

    /// What wakes it up.
    pub fn bell(&self) -> Bell {
        self.handle.bell.clone()
    }

    /// A door to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
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

/// What the configuration gives a plugin, and what was approved.
fn given(name: &PluginName, options: &Options) -> Permissions {
    let by_hand = options.plugins.get(name).and_then(|own| own.grants.clone()).unwrap_or_default();
    match options.approved.get(name) {
        Some(approved) => by_hand.and(approved),
        None => by_hand,
    }
}

/// What of a version's wishes an administrator has still to agree to. What the version that serves asks was weighed
/// when it came; a `[plugins.NAME.grants]` section weighs it for a first version.
fn not_approved(manifest: &Manifest, serving: Option<&Manifest>, options: &Options) -> Vec<String> {
    let name = &manifest.name;
    let has_section = options.plugins.get(name).is_some_and(|own| own.grants.is_some());
    // Limits are weighed nowhere but in a grant, or in the configuration's own limits.
    let weighed = match serving {
        _ if options.dev => return Vec::new(),
        Some(serving) => serving.permissions.clone(),
        None if has_section => manifest.permissions.clone(),
        None => Permissions::default(),
    };
    let agreed = given(name, options).and(&weighed);
    Grants::new(name.clone(), options.asks(manifest), agreed, []).missing()
}

impl Options {
    /// What a plugin asks for that has to be granted.
    pub fn asks(&self, manifest: &Manifest) -> Permissions {
        let nothing = LimitsPatch::default();
        manifest.asks(self.plugins.get(&manifest.name).map_or(&nothing, |own| &own.limits))
    }
}

/// A compiled plugin with what the manifest asks and the configuration says.
pub fn live(compiled: Arc<CompiledPlugin>, options: &Options) -> Live {
    let manifest = &compiled.manifest;
    let own = options.plugins.get(&manifest.name).cloned().unwrap_or_default();
    let (asked, own_limits) = (options.asks(manifest), own.limits.clone());
    let (grants, limits) = if options.dev {
        (Grants::as_asked(manifest.name.clone(), asked, own.http_private), manifest.limits.clone())
    } else {
        let given = given(&manifest.name, options);
        let limits = manifest.limits.within(&given.limits);
        (Grants::new(manifest.name.clone(), asked, given, own.http_private), limits)
    };
    let mut settings = manifest.settings.clone();
    settings.extend(own.settings);
    Live {
        grants: Arc::new(grants),
        settings: Value::Object(settings).to_string().into(),
        limits: Limits::default().with(&limits).with(&own_limits),
        concurrency: own.concurrency.unwrap_or(if careful(manifest) { 1 } else { options.concurrency }).max(1),
        ordered: !own.unordered,
        generation: 0,
        compiled,
    }
}
