//! The vocabulary of the log: every line that the host writes is named here once.
//!
//! - ERROR means that data is lost or somebody must act; WARN that something is not as it should be.
//! - No line holds a token, a key, a payload or an address of the outside.
//! - A line about an event, a delivery or a call names both ids.
//! - What is logged is counted here as well (`metrics`).
//! - Lines that others can cause at will are bounded, and what was left out of them is told (`bounded`).

mod bounded;
pub mod log;
pub mod metrics;

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::event::EventId;
use crate::journal::{Claimed, DeliveryId, Migration, Queue, Restored, Whereabouts};
use crate::outcome::{Effects, FaultKind, Next, Outcome};
use crate::plugin::{Manifest, PluginName};
use crate::secret::Scrubber;
pub use log::Log;
pub use metrics::Metrics;

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// `error`, `warn`, `info`, `debug`, or directives per module.
    pub level: String,
    /// JSON lines instead of text.
    pub json: bool,
}

/// Starts the log, on standard error and without what `scrubber` knows, and the metrics. Whoever ends the process flushes
/// the log.
///
/// # Errors
/// When the level can't be read, or a log is running already.
pub fn start(options: &Options, scrubber: Scrubber) -> Result<(Log, Metrics), String> {
    let filter = filter(&options.level).ok_or("`telemetry.level` can't be read")?;
    let log = Log::start(log::StandardError, scrubber, log_lines_missing)
        .map_err(|error| format!("the thread that writes the log can't be started: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        // A colour is an escape sequence, and none gets through.
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(log.clone());
    let started = if options.json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(panicked));
    Ok((log, metrics::start()?))
}

/// What a panic leaves in the log. Only words that stand in the program are told: others may hold what was worked on.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let words = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("its words may hold data");
    error!(at, thread, words, "A part of the host failed.");
}

fn log_lines_missing(lines: u64) {
    warn!(lines, "Log lines before this one were lost: nobody read them, or they could not be written.");
}

/// Whether a text is a level, or directives per module.
pub fn is_level(text: &str) -> bool {
    filter(text).is_some()
}

fn filter(level: &str) -> Option<tracing_subscriber::EnvFilter> {
    // A plain level is ours; the libraries' own lines are of no use to an operator.
    let directives = if level.chars().all(char::is_alphabetic) {
        if !matches!(level.to_lowercase().as_str(), "error" | "warn" | "info" | "debug" | "trace" | "off") {
            return None;
        }
        format!("warn,salesman_host={level}")
    } else {
        level.to_owned()
    };
    tracing_subscriber::EnvFilter::try_new(directives).ok()
}

pub(crate) fn config_remark(remark: &str) {
    warn!(remark, "The configuration says something that may not be meant.");
}

pub(crate) fn listening(address: SocketAddr, accounts: usize) {
    info!(%address, accounts, "Listening.");
}

pub(crate) fn plugins_ready(plugins: usize) {
    info!(plugins, "Every plugin file is decided about.");
}

pub(crate) fn dev_grants() {
    warn!("Development mode: every plugin is granted what its manifest asks.");
}

pub(crate) fn plugin_loaded(manifest: &Manifest, missing: &[String], dev: bool) {
    let (plugin, version) = (manifest.name.as_str(), manifest.version.as_str());
    if missing.is_empty() || dev {
        info!(plugin, version, "Plugin loaded.");
    } else {
        let missing = missing.join(", ");
        warn!(plugin, version, missing, "Plugin loaded; it asks for more than it is granted.");
    }
}

pub(crate) fn compiling(file: &std::path::Path, plugin: Option<&PluginName>) {
    let (file, plugin) = (file.display(), plugin.map(PluginName::as_str));
    info!(%file, plugin, "Plugin is being compiled; an interpreter takes up to half a minute.");
}

pub(crate) fn plugin_disabled(plugin: &PluginName) {
    info!(plugin = plugin.as_str(), "Plugin disabled by the configuration.");
}

pub(crate) fn plugin_not_loaded(reason: &dyn Display, code: Option<&str>) {
    error!(code, %reason, "Plugin not loaded.");
}

pub(crate) fn plugin_removed(plugin: &PluginName) {
    info!(plugin = plugin.as_str(), "Plugin serves no longer; its events are kept until it returns.");
}

pub(crate) fn nobody_left() {
    warn!("No plugin wants an event any more: what comes is stored, and reaches nobody.");
}

pub(crate) fn record_damaged(file: &std::path::Path, restored: bool) {
    let file = file.display();
    if restored {
        warn!(%file, "A record of the host's own was damaged or gone; its copy is in its place, and nothing is lost.");
    } else {
        error!(%file, "A record of the host's own and its copy are damaged; what they said is lost.");
    }
}

pub(crate) fn version_restored(plugin: &PluginName, hash: &str) {
    warn!(plugin = plugin.as_str(), hash, "A version that was kept was damaged or gone, and is written again.");
}

pub(crate) fn version_not_kept(plugin: &PluginName, reason: &dyn Display) {
    warn!(plugin = plugin.as_str(), %reason, "The plugin's version can't be kept for a rollback.");
}

pub(crate) fn version_lost(plugin: &PluginName, hash: &str) {
    error!(plugin = plugin.as_str(), hash, "A version of the plugin that was kept can't be loaded.");
}

pub(crate) fn serving_not_recorded(reason: &dyn Display) {
    warn!(%reason, "Which versions serve can't be recorded; after a restart bad files have nothing to fall back to.");
}

pub(crate) fn config_read_again(needs_restart: bool) {
    if needs_restart {
        warn!(
            "Configuration read again: what it says of plugins is in force, secrets and users too; the rest of its changes needs a restart."
        );
    } else {
        info!("Configuration read again: what it says of plugins is in force, secrets and users too.");
    }
}

pub(crate) fn config_not_read(reason: &dyn Display) {
    error!(%reason, "Configuration changed and can't be used; the one before stays in force.");
}

pub(crate) fn event_accepted(account: &str, took: Duration) {
    metrics::accepted(account, took);
}

pub(crate) fn event_refused(code: &'static str, reason: &dyn Display) {
    metrics::refused(code);
    if bounded::may("Event refused.", code) {
        warn!(code, %reason, "Event refused.");
    }
}

pub(crate) fn key_reused(account: &str, first: EventId, event: &str) {
    if bounded::may("An event came under the key of another one, which stays.", "") {
        warn!(account, event, %first, "An event came under the key of another one, which stays.");
    }
}

pub(crate) fn connection_refused() {
    if bounded::may("Connection closed.", "") {
        warn!("Connection closed: too many are open, in all or from its address.");
    }
}

pub(crate) fn connection_made_room() {
    if bounded::may("Connection closed to make room.", "") {
        warn!(
            "Connection closed to make room for a new one: all places were taken, and it had brought nothing or was idle."
        );
    }
}

pub(crate) fn not_accepted(reason: &dyn Display) {
    if bounded::may("A connection can't be accepted.", "") {
        error!(%reason, "A connection can't be accepted.");
    }
}

pub(crate) fn event_not_stored(reason: &dyn Display) {
    if bounded::may("Event not stored; its sender was told so.", "ingress.not_stored") {
        error!(code = "ingress.not_stored", %reason, "Event not stored; its sender was told so.");
    }
}

pub(crate) fn delivered(claimed: &Claimed, outcome: &Outcome, next: Next, effects: &Effects, now: i64) {
    metrics::attempted(claimed, outcome, next, effects, now);
    let (event, name) = (claimed.event.id.to_string(), claimed.event.name.as_str());
    let (delivery, plugin, attempt) = (claimed.delivery.0, claimed.queue.plugin.as_str(), claimed.attempt);
    let took = effects.usage.wall;
    let reason = reason(outcome, effects);
    match (outcome, next) {
        (Outcome::Done | Outcome::Skipped { .. }, _) => {
            debug!(event, name, delivery, plugin, attempt, took, outcome = outcome.as_str(), "Delivered.");
        }
        (_, Next::Dead) => error!(event, name, delivery, plugin, attempt, reason, "Delivery is a dead letter."),
        _ => warn!(event, name, delivery, plugin, attempt, reason, "Delivery failed, to be tried again."),
    }
}

/// Why, in the host's own words. A plugin's may hold what the CRM or a chat answered: they are in the attempt. What the host
/// knows by itself is the last call that brought nothing good.
fn reason(outcome: &Outcome, effects: &Effects) -> String {
    const MORE: &str = "the attempt has the plugin's words";
    let call = failed_call(effects).map(|call| format!("after {call}; ")).unwrap_or_default();
    match outcome {
        Outcome::Failed(fault) if fault.kind == FaultKind::Trap => format!("{}: {call}{MORE}", fault.kind.code()),
        Outcome::Failed(fault) => format!("{}: {}", fault.kind.code(), fault.detail),
        other => format!("{}: {call}{MORE}", other.letter_code(effects)),
    }
}

/// The last call of an attempt that failed, and how; nothing of what was sent or answered.
fn failed_call(effects: &Effects) -> Option<String> {
    effects.calls.iter().rev().find_map(|call| {
        let mut words = call.call.split_whitespace();
        let (kind, name) = (words.next()?, words.next()?);
        let name: String = name.chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '.').collect();
        if kind == "http" {
            let status = call.answer.split_whitespace().next().and_then(|word| word.parse::<u16>().ok());
            return match status {
                _ if !call.good => Some(format!("`http {name}` failed")),
                Some(status @ 400..) => Some(format!("`http {name}` was answered {status}")),
                _ => None,
            };
        }
        if call.good || kind != "crm" {
            return None;
        }
        let how = match crate::crm::Error::from_words(&call.answer) {
            ref refused @ crate::crm::Error::Refused { .. } => match refused.code() {
                Some(code) => format!("was refused by the CRM with code {code}"),
                None => "was refused by the CRM".to_owned(),
            },
            crate::crm::Error::Transport(_) => "brought no answer".to_owned(),
            crate::crm::Error::Unsent(_) => "could not be sent".to_owned(),
            crate::crm::Error::BadAnswer(_) | crate::crm::Error::NotTheApi(_) => {
                "was answered with something that is not the API".to_owned()
            }
            crate::crm::Error::Invalid(_) => "was not sent".to_owned(),
        };
        Some(format!("`crm {name}` {how}"))
    })
}

pub(crate) fn state_conflict(claimed: &Claimed) {
    let (event, delivery, plugin) = (claimed.event.id, claimed.delivery.0, claimed.queue.plugin.as_str());
    debug!(%event, delivery, plugin, "State changed meanwhile, delivery runs again.");
}

pub(crate) fn plugin_paused(queue: &Queue, failures: usize, pause: i64) {
    let (plugin, account) = (queue.plugin.as_str(), queue.account.as_str());
    error!(plugin, account, failures, pause, "Plugin paused: it failed on many events in a row; its deliveries wait.");
}

pub(crate) fn plugin_resumed(queue: &Queue) {
    let (plugin, account) = (queue.plugin.as_str(), queue.account.as_str());
    info!(plugin, account, "Plugin resumed.");
}

pub(crate) fn crm_reachable(account: &str, why_away: Option<&crate::crm::Error>) {
    match why_away {
        None => info!(account, "The CRM answers again; its deliveries go on."),
        Some(why) => error!(account, why = why.known(), "The CRM can't be used; deliveries that need it wait."),
    }
}

pub(crate) fn forgotten(events: usize, over: bool, failure: Option<&crate::journal::Error>) {
    if let Some(reason) = failure {
        store_refused("forget", reason);
    } else if over {
        warn!(
            events,
            "The journal is over `retention.max_mib`, and what is over has been forgotten: the rest still waits."
        );
    } else {
        debug!(events, "Old events forgotten.");
    }
}

pub(crate) fn forgetting(told: crate::journal::Forgetting<'_>) {
    use crate::journal::Forgetting;
    match told {
        Forgetting::Erased(proof) => {
            info!(proof = proof.number, "A record is forgotten: no copy is left in the journal's files.")
        }
        Forgetting::Cleaned => info!("What was deleted before is overwritten in the journal's file."),
        Forgetting::HeldUp => warn!(
            "Somebody reads the journal's file: what was forgotten is overwritten as soon as that ends. Is `sqlite3` open, or a copy being made?"
        ),
        Forgetting::Refused(reason) => store_refused("forget", reason),
    }
}

pub(crate) fn letters_resolved(resolution: crate::journal::Resolution, letters: usize) {
    info!(letters, resolution = ?resolution, "An operator decided about dead letters.");
}

pub(crate) fn operator_did(who: &str, action: &str, object: &str) {
    info!(who, action, object, "An operator acted.");
}

pub(crate) fn logins_failed(name: &str, from: &str, times: u64) {
    warn!(name, from, times, "Somebody could not log in to the console.");
}

pub(crate) fn alerted(kind: &'static str, failure: Option<&str>) {
    metrics::alerted(kind, failure.is_none());
    match failure {
        None => debug!(kind, "Alert sent."),
        Some(reason) => error!(kind, reason, "Alert not sent."),
    }
}

pub(crate) fn spans_lost(spans: u64, failure: Option<&dyn Display>) {
    metrics::spans_lost(spans);
    match failure {
        None => debug!(spans, "Traces lag behind; some are not sent."),
        Some(reason) => warn!(spans, %reason, "Traces not sent."),
    }
}

pub(crate) fn waiting_dropped(plugin: &PluginName, deliveries: usize) {
    info!(plugin = plugin.as_str(), deliveries, "An operator dropped what waited for the plugin.");
}

pub(crate) fn store_refused(step: &'static str, reason: &dyn Display) {
    if bounded::may("The journal refused; it is asked again.", step) {
        error!(step, %reason, "The journal refused; it is asked again.");
    }
}

pub(crate) fn journal(news: &crate::journal::News) {
    use crate::journal::News;
    match news {
        News::Failing(trouble) => {
            error!(code = trouble.code(), reason = trouble.sentence(), "The journal fails; it is tried again.");
        }
        News::Works => info!("The journal works again."),
        News::Damaged(damage) => error!(
            part = damage.what(),
            words = damage.words.join("; "),
            meaning = damage.meaning(),
            remedy = damage.remedy(),
            "A part of the journal is damaged."
        ),
        News::Stuck(number) => {
            if bounded::may("An event can't be given to plugins; it is kept aside.", "") {
                error!(
                    number,
                    "An event can't be given to plugins; it is kept aside until the journal is mended and the host started again."
                );
            }
        }
        News::StatisticsFailed(table, reason) => {
            if bounded::may("Statistics can't be stored; events are stored without them.", table) {
                error!(table, reason, "Statistics can't be stored; events are stored without them.");
            }
        }
        News::StatisticsMended(table) => warn!(table, "Statistics are stored again."),
    }
}

pub(crate) fn host_fault(room: &'static str, reason: &dyn Display) {
    if bounded::may("The host failed.", room) {
        error!(room, %reason, "The host failed.");
    }
}

pub(crate) fn crm_called(
    (event, delivery): (EventId, DeliveryId),
    method: &str,
    action: &str,
    took: Duration,
    failure: Option<&crate::crm::Error>,
) {
    let (kind, code) = match failure {
        None => ("answered", None),
        Some(refused @ crate::crm::Error::Refused { .. }) => ("refused", refused.code()),
        Some(crate::crm::Error::Transport(_) | crate::crm::Error::Unsent(_)) => ("transport", None),
        Some(crate::crm::Error::NotTheApi(_)) => ("not_the_api", None),
        Some(crate::crm::Error::BadAnswer(_)) => ("bad_answer", None),
        Some(crate::crm::Error::Invalid(_)) => ("invalid", None),
    };
    metrics::called(method, crate::crm::is_read(action), took, kind);
    let (delivery, took) = (delivery.0, took.as_millis());
    match failure {
        None => debug!(%event, delivery, method, action, took, "CRM called."),
        Some(_) => warn!(%event, delivery, method, action, took, kind, code, "CRM call failed."),
    }
}

pub(crate) fn write_uncertain(event: EventId, delivery: DeliveryId, call: &str) {
    metrics::uncertain();
    let delivery = delivery.0;
    warn!(%event, delivery, call, "A write to the CRM was sent, and nobody knows whether it was done.");
}

pub(crate) fn own_user(account: &str, user: u64) {
    info!(account, user, "Events of this user are the host's own, where a write of a plugin fits.");
}

pub(crate) fn own_user_unknown(account: &str, why: &crate::crm::Error) {
    warn!(
        account,
        reason = why.known(),
        "The host's own user of the CRM is not known: set `user_id`; it is asked again."
    );
}

pub(crate) fn polled(account: &str, list: &str, events: usize) {
    debug!(account, list, events, "List polled.");
}

pub(crate) fn not_polled(account: &str, list: &str, reason: &dyn Display) {
    warn!(account, list, %reason, "List not polled; it is read again at the next pass.");
}

pub(crate) fn part_failed(part: &'static str, of: &str) {
    metrics::part_failed(part);
    let account = Some(of).filter(|of| !of.is_empty());
    error!(part, account, "A part of the host failed; it is started again.");
}

pub(crate) fn closed_to_others(paths: &[std::path::PathBuf]) {
    for path in paths {
        let path = path.display();
        warn!(%path, "It was open to other users of this machine, and is closed now.");
    }
}

pub(crate) fn replaceable(folder: &std::path::Path, above: &std::path::Path) {
    let (folder, above) = (folder.display(), above.display());
    warn!(%folder, %above, "Every user of this machine may rename what is in the folder above, the data folder too: move it, or `chmod o-w`.");
}

pub(crate) fn waits_for_go_on(restored: &Restored) {
    let (copied_at, restored_at) = (text_time(restored.copied_at), text_time(restored.restored_at));
    let (waiting, dead) = restored.open.iter().fold((0, 0), |(all, dead), of| (all + of.waiting, dead + of.dead));
    warn!(
        copied_at,
        restored_at,
        waiting,
        dead,
        "The store was restored from a backup: events are kept, and nothing runs until an operator says so; `salesman-host restore --status` shows what was open, `restore --go-on` lets it go on."
    );
}

pub(crate) fn went_on(who: &str) {
    info!(who, "The restored store goes on.");
}

fn text_time(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map(|time| time.to_string()).unwrap_or_default()
}

pub(crate) fn whereabouts(is: Whereabouts) {
    match is {
        Whereabouts::Here => info!("The data folder is where it was; the work goes on."),
        Whereabouts::Moved => error!(
            "The data folder was moved or replaced under the running host: events are refused until it is back; for another one restart the host."
        ),
        Whereabouts::Replaced => error!(
            "The journal's file was overwritten, cut or changed by another program under the running host: nothing is written to it any more, and events are refused. Stop the host, and put the right file back, or a copy with `salesman-host restore FILE`; what is there is taken with `salesman-host journal accept`."
        ),
    }
}

pub(crate) fn clock_stepped(milliseconds: i64) {
    let (seconds, back) = (milliseconds.abs() / 1_000, milliseconds < 0);
    warn!(seconds, back, "The machine's clock stepped.");
}

pub(crate) fn brought_forward(deliveries: usize) {
    warn!(
        deliveries,
        "The machine's clock went back: what waited for a time that is far away now waits as long as was meant."
    );
}

pub(crate) fn clock_doubted(doubted: bool) {
    if doubted {
        warn!(
            "The machine's clock went far ahead, or nothing came for more than a day: for an hour nothing is forgotten because of its age."
        );
    } else {
        info!("What is old is forgotten again.");
    }
}

pub(crate) fn migrating(migration: &Migration) {
    match migration {
        Migration::Begins { found, known, bytes } => {
            let mib = bytes >> 20;
            warn!(
                found,
                known, mib, "The journal is brought up to this version's format; events are refused until then."
            );
        }
        Migration::Done { version, known, took } => {
            let seconds = took.as_secs_f64();
            info!(version, known, seconds, "The journal has been brought up to this format.");
        }
    }
}

pub(crate) fn strangers_commits(count: u64) {
    warn!(count, "Another program changed the journal; open it read-only.");
}

pub(crate) fn address_not_there(address: &str, patience: Duration) {
    let patience = patience.as_secs();
    warn!(address, patience, "The address to listen on is not there yet; it is tried again for some seconds.");
}

pub(crate) fn reread_asked() {
    info!("SIGHUP: configuration, grants, secrets and plugins are read again.");
}

pub(crate) fn signal_ignored(signal: &str) {
    info!(signal, "This signal means nothing here; SIGHUP reads the configuration again, SIGTERM ends the host.");
}

pub(crate) fn broken(part: &str) {
    error!(part, "A part of the host ended by itself; the host ends, to be started again.");
}

pub(crate) fn stopping() {
    info!("Stopping: no new events, running plugins are waited for.");
}

pub(crate) fn stopped(graceful: bool) {
    if graceful {
        info!("Stopped; everything that ran has ended.");
    } else {
        warn!("Stopped; some plugins were cut off and run again at the next start.");
    }
}
