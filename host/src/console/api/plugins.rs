//! Plugins: what serves, with what it may do and how it does; pause, resume, grant, roll back.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::console::access::Operator;
use crate::console::problem::Refused;
use crate::console::{Console, Problem, blocking};
use crate::dispatcher::QueueView;
use crate::journal::{Held, QueueMinutes, StateOf};
use crate::plugin::{Limits, Pattern, Permissions, PluginName};
use crate::registry::Notice;

/// A plugin, live or with something that keeps it from being live.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct Plugin {
    /// Its name.
    pub(in crate::console) name: PluginName,
    /// What serves; null where nothing does.
    #[serde(flatten)]
    pub(in crate::console) serving: Option<Serving>,
    /// Who paused it, where somebody did.
    pub(in crate::console) held: Option<Held>,
    /// Its queues, one per CRM.
    pub(in crate::console) queues: Vec<QueueView>,
    /// What it did in the last hour, and what waits for it, per CRM.
    pub(in crate::console) hour: Vec<QueueMinutes>,
    /// What it keeps, per CRM.
    pub(in crate::console) state: Vec<StateOf>,
    /// Why its file, or a version, is not served.
    pub(in crate::console) notices: Vec<Notice>,
    /// Whether its file is being compiled just now.
    pub(in crate::console) compiling: bool,
    /// Whether it waits for its first approval: what is open in `hour` is kept for it.
    pub(in crate::console) waits_for_approval: bool,
    /// Whether it served and can't now, because its file is missing or nothing of it can be loaded: its events are kept.
    pub(in crate::console) missing: bool,
}

impl Plugin {
    /// What can be granted, and the hash of the version that asks it: the one that waits, else the one that serves.
    pub(in crate::console) fn asks(&self) -> Option<(&str, &Permissions)> {
        let waiting = self.notices.iter().find_map(|notice| notice.hash.as_deref().zip(notice.asks.as_ref()));
        waiting.or_else(|| self.serving.as_ref().map(|serving| (serving.hash.as_str(), &serving.asks)))
    }
}

/// What serves.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct Serving {
    /// Its own version.
    pub(in crate::console) version: String,
    /// What it does.
    pub(in crate::console) description: String,
    /// The SHA-256 of its file.
    pub(in crate::console) hash: String,
    /// Bytes of its file.
    pub(in crate::console) size: u64,
    /// Which events it wants.
    pub(in crate::console) events: Vec<Pattern>,
    /// What it asks for.
    pub(in crate::console) asks: Permissions,
    /// What was granted; null: all that it asks, as `--dev` gives it.
    pub(in crate::console) granted: Option<Permissions>,
    /// What it asks for and was not granted.
    pub(in crate::console) not_granted: Vec<String>,
    /// The bounds of one attempt.
    pub(in crate::console) limits: LimitsView,
    /// Deliveries at once, per CRM.
    pub(in crate::console) concurrency: usize,
    /// Whether events of one record reach it in order.
    pub(in crate::console) ordered: bool,
}

/// The bounds of one attempt.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct LimitsView {
    /// Bytes of memory.
    pub(in crate::console) memory: u64,
    /// Milliseconds of processor time.
    pub(in crate::console) cpu_ms: u128,
    /// Milliseconds with all waiting.
    pub(in crate::console) time_ms: u128,
    /// Calls to the host.
    pub(in crate::console) calls: u32,
    /// Bytes of log.
    pub(in crate::console) log: u64,
    /// Bytes of the reply's text.
    pub(in crate::console) reply: u64,
    /// Bytes of state for each CRM.
    pub(in crate::console) state: u64,
    /// Keys of state for each CRM.
    pub(in crate::console) state_keys: u64,
}

impl From<&Limits> for LimitsView {
    fn from(limits: &Limits) -> Self {
        let Limits { memory, cpu, time, calls, log, reply, state, keys: state_keys } = limits.clone();
        let (cpu_ms, time_ms) = (cpu.as_millis(), time.as_millis());
        Self { memory, cpu_ms, time_ms, calls, log, reply, state, state_keys }
    }
}

/// A version that is kept.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct VersionView {
    /// The SHA-256 of its file.
    pub(in crate::console) hash: String,
    /// When it was last taken from the plugin folder.
    pub(in crate::console) kept_at: i64,
    /// Bytes.
    pub(in crate::console) size: u64,
    /// Whether it serves.
    pub(in crate::console) serves: bool,
}

/// One plugin with its versions.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::console) struct PluginPath {
    /// The plugin.
    #[serde(flatten)]
    pub(in crate::console) plugin: Plugin,
    /// The versions that are kept, the newest first.
    pub(in crate::console) versions: Vec<VersionView>,
}

/// Every plugin that serves, has something waiting, or can't be served.
pub(in crate::console) async fn views(console: &Console) -> Result<Vec<Plugin>, Problem> {
    let (journal, from) = (console.journal.clone(), console.clock.now() - 3_600_000);
    let read = move || Ok((journal.queue_minutes(from)?, journal.held()?, journal.state_uses()?));
    let (hours, held, state) = blocking(read).await?;
    let snapshot = console.registry.snapshot();
    let mut plugins: BTreeMap<PluginName, Plugin> = BTreeMap::new();
    let mut entry = |name: &PluginName, change: &mut dyn FnMut(&mut Plugin)| {
        let empty = || Plugin {
            name: name.clone(),
            serving: None,
            held: held.get(name).cloned(),
            queues: Vec::new(),
            hour: Vec::new(),
            state: Vec::new(),
            notices: Vec::new(),
            compiling: false,
            waits_for_approval: false,
            missing: snapshot.missed.contains(name),
        };
        change(plugins.entry(name.clone()).or_insert_with(empty));
    };
    for (name, live) in &snapshot.plugins {
        let manifest = &live.compiled.manifest;
        let serving = Serving {
            version: manifest.version.clone(),
            description: manifest.description.clone(),
            hash: live.compiled.hash.clone(),
            size: live.compiled.size,
            events: manifest.events.clone(),
            asks: live.grants.asked().clone(),
            granted: live.grants.given().cloned(),
            not_granted: live.grants.missing(),
            limits: LimitsView::from(&live.limits),
            concurrency: live.concurrency,
            ordered: live.ordered,
        };
        entry(name, &mut |plugin| plugin.serving = Some(serving.clone()));
    }
    for notice in snapshot.notices.iter() {
        if let Some(name) = &notice.plugin {
            entry(name, &mut |plugin| plugin.notices.push(notice.clone()));
        }
    }
    for name in snapshot.compiling.iter().filter_map(|(_, name)| name.as_ref()) {
        entry(name, &mut |plugin| plugin.compiling = true);
    }
    for hour in hours {
        // What is gone and has nothing left is no longer told about.
        let told = snapshot.plugins.keys().any(|name| name.as_str() == hour.plugin) || hour.open > 0 || hour.dead > 0;
        if let (true, Ok(name)) = (told, PluginName::try_from(hour.plugin.clone())) {
            entry(&name, &mut |plugin| plugin.hour.push(hour.clone()));
        }
    }
    let queues = console.queues.queues();
    let mut plugins: Vec<Plugin> = plugins.into_values().collect();
    for plugin in &mut plugins {
        let waits = plugin.notices.iter().any(|notice| notice.asks.is_some());
        plugin.waits_for_approval = plugin.serving.is_none() && waits;
        plugin.state = state.iter().filter(|of| of.plugin == plugin.name.as_str()).cloned().collect();
        plugin.queues = queues.iter().filter(|queue| queue.plugin == plugin.name.as_str()).cloned().collect();
    }
    Ok(plugins)
}

pub(in crate::console) async fn path(console: &Console, name: &PluginName) -> Result<PluginPath, Problem> {
    let plugin = views(console).await?.into_iter().find(|plugin| plugin.name == *name);
    let plugin = plugin.ok_or_else(|| Problem::not_found("there is no plugin of this name"))?;
    let (versions, of) = (console.versions.clone(), name.clone());
    let list = tokio::task::spawn_blocking(move || versions.list(&of)).await.unwrap_or_default();
    let serves = plugin.serving.as_ref().map(|serving| serving.hash.clone());
    let versions = list
        .into_iter()
        .map(|version| VersionView {
            serves: serves.as_deref() == Some(&version.hash),
            kept_at: milliseconds(version.kept_at),
            size: version.size,
            hash: version.hash,
        })
        .collect();
    Ok(PluginPath { plugin, versions })
}

fn milliseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

pub(in crate::console) fn named(text: String) -> Result<PluginName, Problem> {
    PluginName::try_from(text).map_err(|words| Problem::bad_id(&words))
}

/// Every plugin that serves, has something waiting, or can't be served.
#[utoipa::path(get, path = "/api/v1/plugins", responses((status = 200, body = Vec<Plugin>), (status = "default", body = Refused)))]
pub(super) async fn list(State(console): State<Console>) -> Result<Json<Vec<Plugin>>, Problem> {
    Ok(Json(views(&console).await?))
}

/// One plugin with its versions.
#[utoipa::path(get, path = "/api/v1/plugins/{name}", params(("name" = String, Path)), responses((status = 200, body = PluginPath), (status = "default", body = Refused)))]
pub(super) async fn one(State(console): State<Console>, Path(name): Path<String>) -> Result<Json<PluginPath>, Problem> {
    Ok(Json(path(&console, &named(name)?).await?))
}

/// That it was done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    /// Always true.
    done: bool,
}

/// Holds a plugin's deliveries back until it is resumed; what runs ends as it does.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/pause", params(("name" = String, Path)), request_body = super::wishes::Nothing, responses((status = 200, body = Done), (status = "default", body = Refused)))]
pub(super) async fn pause(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(name): Path<String>,
    nothing: Result<Json<super::wishes::Nothing>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    super::wishes::empty(nothing)?;
    console.hold(&who, &named(name)?, true).await?;
    Ok(Json(Done { done: true }))
}

/// Lets a plugin's deliveries go on; ends the host's own pause after failures too.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/resume", params(("name" = String, Path)), request_body = super::wishes::Nothing, responses((status = 200, body = Done), (status = "default", body = Refused)))]
pub(super) async fn resume(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(name): Path<String>,
    nothing: Result<Json<super::wishes::Nothing>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    super::wishes::empty(nothing)?;
    console.hold(&who, &named(name)?, false).await?;
    Ok(Json(Done { done: true }))
}

/// Which version.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Wanted {
    /// By the start of its hash; the one before the one that serves by default.
    to: Option<String>,
    /// The one in the plugin folder.
    newest: bool,
}

/// Which version serves from now on.
#[derive(Serialize, ToSchema)]
pub(super) struct RolledBack {
    /// Its hash; null: the one in the plugin folder.
    hash: Option<String>,
}

/// Lets an earlier version serve until the plugin's file changes.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/rollback", params(("name" = String, Path)), request_body = Wanted, responses((status = 200, body = RolledBack), (status = "default", body = Refused)))]
pub(super) async fn roll_back(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(name): Path<String>,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<Json<RolledBack>, Problem> {
    let Json(Wanted { to, newest }) =
        wanted.map_err(|_| Problem::bad_filter("send a JSON object, with `to` or `newest` where needed"))?;
    let hash = console.roll_back(&who, &named(name)?, to, newest).await?;
    Ok(Json(RolledBack { hash }))
}

/// Which version's wishes are granted, and what beyond them.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Granted {
    /// The SHA-256 of the version whose wishes were looked at: the notice's that waits for approval, else the plugin's own.
    hash: String,
    /// Addresses for a plugin that leaves the choice to you (`http = ["*"]`).
    #[serde(default)]
    http: Vec<String>,
}

/// Grants a plugin what the version that was looked at asks for: permissions, and limits above the host's defaults.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/grant", params(("name" = String, Path)), request_body = Granted, responses((status = 200, body = Done), (status = "default", body = Refused)))]
pub(super) async fn grant(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(name): Path<String>,
    granted: Result<Json<Granted>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let Json(Granted { hash, http }) = granted.map_err(|_| {
        Problem::bad_filter(
            "send a JSON object with `hash`, of the version that was looked at, and `http` where needed",
        )
    })?;
    console.grant(&who, &named(name)?, Some((hash, http))).await?;
    Ok(Json(Done { done: true }))
}

/// Takes back what was granted.
#[utoipa::path(post, path = "/api/v1/plugins/{name}/revoke", params(("name" = String, Path)), request_body = super::wishes::Nothing, responses((status = 200, body = Done), (status = "default", body = Refused)))]
pub(super) async fn revoke(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    Path(name): Path<String>,
    nothing: Result<Json<super::wishes::Nothing>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    super::wishes::empty(nothing)?;
    console.grant(&who, &named(name)?, None).await?;
    Ok(Json(Done { done: true }))
}

/// Whose waiting deliveries.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Abandoned {
    /// The plugin.
    plugin: PluginName,
}

/// What was given up.
#[derive(Serialize, ToSchema)]
pub(super) struct GivenUp {
    /// How many deliveries.
    changed: usize,
    /// How many run still.
    running: usize,
}

/// Keeps no event any more for a plugin that is gone, and gives up what waits for it.
#[utoipa::path(post, path = "/api/v1/queues/drop", request_body = Abandoned, responses((status = 200, body = GivenUp), (status = "default", body = Refused)))]
pub(super) async fn drop_waiting(
    State(console): State<Console>,
    Extension(who): Extension<Operator>,
    plugin: Result<Json<Abandoned>, JsonRejection>,
) -> Result<Json<GivenUp>, Problem> {
    let Json(Abandoned { plugin }) = plugin.map_err(|_| Problem::bad_filter("send a JSON object with `plugin`"))?;
    let changed = console.abandon(&who, &plugin).await?;
    let of_it = |queue: &QueueView| queue.plugin == plugin.as_str();
    let running = console.queues.queues().iter().filter(|queue| of_it(queue)).map(|queue| queue.claimed).sum();
    Ok(Json(GivenUp { changed, running }))
}
