//! A rehearsal: one event through the real sandbox, without a server and without changing anything outside.
//!
//! - Everything is the real thing but the connections: limits, grants, argument checks, `update`'s read-merge-write, the
//!   journal with its intents and state. The journal is thrown away afterwards.
//! - Nothing is written to a CRM or to the outside, whatever the source of answers. In a dry run reads go out.
//! - What a host would do afterwards (retry, dead letter, state) is not done; the state that would be stored is shown.
//!
//! Not here: where files, configuration and recordings come from, and how a report looks (`cli`).

mod answers;
pub mod compare;
pub mod event;
mod record;
mod script;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::capabilities::{Outside, Reach};
use crate::clock::Clock;
use crate::crm;
use crate::event::content::Content;
use crate::event::{Event, EventId, Via};
use crate::journal::{self, Intent, Journal, Queue, Settlement, Subscription, Subscriptions, Write};
use crate::outcome::{Effects, HostCall, LogLine, Next, Outcome, StateWrite};
use crate::plugin::{Limits, Pattern, PluginName};
use crate::registry::{self, Live};
use crate::sandbox::compiler::Compiler;
use crate::sandbox::{self, CompiledPlugin, LoadError, Sandbox};
use crate::secret::{Scrubber, Secret};
pub use answers::Answers;
pub use record::Recording;
use script::Script;

/// Compiled plugins that an author's cache keeps.
const MOST_KEPT: usize = 20;

/// Why there was no rehearsal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("`{path}` can't be read: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Neither a sample nor a file.
    #[error("`{wanted}` is neither a file nor the name of a sample event; samples are {names}")]
    NoEvent {
        /// What was asked for.
        wanted: String,
        /// The samples.
        names: String,
    },
    /// A file that holds no event.
    #[error("`{path}` holds no event: {cause}")]
    Event {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A file of answers that can't be used.
    #[error("the answers can't be used: {0}")]
    Answers(String),
    /// A recorded delivery that can't be used.
    #[error("the recorded delivery can't be used: {0}")]
    Recording(String),
    /// The plugin can't be loaded.
    #[error("the plugin can't be loaded: {0}")]
    Load(#[from] LoadError),
    /// The sandbox, the folder or the HTTP client can't be set up.
    #[error("the rehearsal can't be set up: {0}")]
    SetUp(String),
    /// The throw-away journal failed.
    #[error("the rehearsal's own journal failed: {0}")]
    Journal(#[from] journal::Error),
}

/// Where the answers to a plugin's calls come from.
pub enum Source {
    /// Nowhere: each call fails and says so.
    Nothing,
    /// From a file.
    Answers(Answers),
    /// Reads from the CRM itself; writes are not sent.
    DryRun(crm::Options),
    /// From a recorded delivery.
    Recording(Box<Recording>),
}

/// What is rehearsed.
pub struct Plan {
    /// The plugin's file.
    pub bytes: Vec<u8>,
    /// The event.
    pub event: Event,
    /// Which attempt the plugin is told that this is.
    pub attempt: u32,
    /// Grants, limits and settings, as a host would be told.
    pub options: registry::Options,
    /// What takes the configuration's secrets out of what is recorded.
    pub scrubber: Scrubber,
    /// Settings over all others, key by key.
    pub settings: Map<String, Value>,
    /// Where answers come from.
    pub source: Source,
    /// Where compiled plugins are kept; none: it is compiled each time.
    pub cache: Option<PathBuf>,
    /// Hears that the plugin has to be compiled, and (`Some`) how long that took.
    pub compiling: fn(Option<Duration>),
}

/// What a rehearsal came to.
#[derive(Debug, Serialize)]
pub struct Rehearsal {
    /// The plugin's name.
    pub plugin: String,
    /// Its version, and the start of its file's hash.
    pub version: String,
    /// The event's name.
    pub event: String,
    /// The record that it is about, as `kind:id`.
    pub entity: Option<String>,
    /// Which CRM it is of.
    pub account: String,
    /// The other fields of the event.
    pub fields: Value,
    /// Which attempt.
    pub attempt: u32,
    /// `done`, `skipped`, `retry`, `rejected`, `failed`.
    pub outcome: String,
    /// Why; may be empty.
    pub reason: String,
    /// A fault's stable code.
    pub code: Option<&'static str>,
    /// The log.
    pub lines: Vec<LogLine>,
    /// Lines that did not fit.
    pub lines_dropped: u64,
    /// Every call, in order.
    pub calls: Vec<Called>,
    /// What it would write into the CRM and to the outside.
    pub writes: Vec<Written>,
    /// What it would store in its state; nothing where the outcome is not good.
    pub state: Vec<Stored>,
    /// What it used, against the limits.
    pub used: Vec<Used>,
    /// Answers that nobody asked for.
    pub unused: Vec<String>,
    /// What else should be known.
    pub notes: Vec<String>,
}

/// A call of the plugin.
#[derive(Debug, Serialize)]
pub struct Called {
    /// Microseconds since the attempt began.
    pub at: u64,
    /// How long it took, in microseconds.
    pub took: u64,
    /// What was called.
    pub call: String,
    /// What was sent, or would be.
    pub request: String,
    /// What came back, or the error's words.
    pub answer: String,
    /// Whether it brought a good answer.
    pub good: bool,
    /// A write that a dry run kept back: the answer is made up.
    pub not_sent: bool,
    /// Nobody had an answer for it.
    pub unanswered: bool,
}

/// A write to the CRM or the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// `crm task.add`, `http POST https://chat.example.com`.
    pub call: String,
    /// Arguments or body.
    pub request: String,
}

/// A change of the plugin's state.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Which key.
    pub key: String,
    /// `set`, `add`, `delete`.
    pub how: &'static str,
    /// The value, or what is added.
    pub value: Option<String>,
}

/// What was used of one thing.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Used {
    /// `processor`, `memory`, `calls`, `log`, `time`.
    pub what: &'static str,
    /// How much.
    pub used: u64,
    /// How much there may be.
    pub most: u64,
    /// `us`, `bytes`, or empty.
    pub unit: &'static str,
    /// The key under `[limits]`.
    pub limit: &'static str,
    /// Whether this limit ended the attempt.
    pub reached: bool,
}

impl Rehearsal {
    /// Whether a host would be content: done, or nothing to do.
    pub fn is_good(&self) -> bool {
        matches!(self.outcome.as_str(), "done" | "skipped")
    }
}

/// Runs a plan to its end.
///
/// # Errors
/// [`Error::Load`], [`Error::SetUp`], [`Error::Journal`]. Whatever the plugin does is no error.
pub async fn rehearse(plan: Plan) -> Result<Rehearsal, Error> {
    let Plan { bytes, event, attempt, options, scrubber, settings, source, cache, compiling } = plan;
    let sandbox =
        Sandbox::new(&sandbox::Options { instances: 1, cache, compiler: Compiler::Here }).map_err(Error::SetUp)?;
    let mut live = registry::live(Arc::new(compiled(&sandbox, &bytes, compiling)?), &options);
    sandbox.forget_oldest_compiled(MOST_KEPT);
    if !settings.is_empty() {
        let mut all: Map<String, Value> = serde_json::from_str(&live.settings).unwrap_or_default();
        all.extend(settings);
        live.settings = Value::Object(all).to_string().into();
    }
    let mut notes = notes(&live, &options, &event);
    let folder = tempfile::tempdir().map_err(|error| Error::SetUp(format!("no temporary folder: {error}")))?;
    let journal = Journal::open(&journal::Options::in_folder(folder.path()), Clock::Wall)?;
    let delivery = prepare(journal.handle(), &live, &event, &source).await?;
    let dry = matches!(source, Source::DryRun(_));
    if let Source::Recording(recording) = &source {
        notes.extend(recording.gaps());
        if recording.plugin != live.compiled.manifest.name.as_str() {
            notes.push(format!("the delivery was for the plugin `{}`", recording.plugin));
        }
    }
    let (script, client, outside) = ways(source)?;
    let reach = Reach {
        grants: Arc::clone(&live.grants),
        crm: Some(client),
        account: event.account.clone(),
        event: event.id,
        delivery,
        journal: journal.handle(),
        state: journal.handle().state(&live.compiled.manifest.name, &event.account),
        outside,
        settings: Arc::clone(&live.settings),
        scrubber: scrubber.clone(),
    };
    let (outcome, effects) = sandbox.invoke(&live.compiled, event.clone(), attempt, reach, &live.limits).await;
    journal.close();
    notes.extend(after(&outcome, &effects));
    let mut rehearsal = Rehearsal::new(&live, &event, attempt, &outcome, effects);
    for call in rehearsal.calls.iter_mut().filter(|call| dry && call.good) {
        call.not_sent = record::is_write(&call.call) && !call.call.ends_with(')');
    }
    notes.extend(script.guesses(&rehearsal.calls));
    Ok(Rehearsal { unused: script.unused(), notes, ..rehearsal })
}

/// The plugin, from the cache where it is there.
fn compiled(sandbox: &Sandbox, bytes: &[u8], compiling: fn(Option<Duration>)) -> Result<CompiledPlugin, LoadError> {
    if sandbox.is_compiled(bytes) {
        return sandbox.compile(bytes);
    }
    compiling(None);
    let began = Instant::now();
    let compiled = sandbox.compile(bytes)?;
    compiling(Some(began.elapsed()));
    Ok(compiled)
}

/// The script, and the two ways that lead to it.
fn ways(source: Source) -> Result<(Arc<Script>, crm::Client, Outside), Error> {
    let (script, live) = match source {
        Source::Nothing => (Script::Nothing, None),
        Source::Answers(answers) => (Script::File(Mutex::new(answers)), None),
        Source::Recording(recording) => (Script::Recording(Box::new(Mutex::new(*recording))), None),
        Source::DryRun(options) => (Script::made_up(), Some(options)),
    };
    let script = Arc::new(script);
    let (for_crm, for_outside) = (Arc::<Script>::clone(&script), Arc::<Script>::clone(&script));
    let (client, outside) = match live {
        None => (crm::Client::scripted(nowhere()?, for_crm), Outside::scripted(for_outside)),
        Some(options) => (
            crm::Client::dry(options, for_crm).map_err(|error| Error::SetUp(error.to_string()))?,
            Outside::dry(for_outside).map_err(Error::SetUp)?,
        ),
    };
    Ok((script, client, outside))
}

/// A CRM and an outside that answer from a file, for a host without them.
///
/// # Errors
/// [`Error::SetUp`].
pub fn stand_in(answers: Answers) -> Result<(crm::Client, Outside), Error> {
    let script = Arc::new(Script::File(Mutex::new(answers)));
    let client = crm::Client::scripted(nowhere()?, Arc::new(script::Standing(Arc::clone(&script))));
    Ok((client, Outside::scripted(script)))
}

/// A CRM that is never called: the script stands before the connection.
fn nowhere() -> Result<crm::Options, Error> {
    let url = url::Url::parse("http://rehearsal.invalid").map_err(|error| Error::SetUp(error.to_string()))?;
    let (login, api_key) = ("rehearsal".to_owned(), Secret::new(String::new()));
    let authorities = crm::connection::Authorities::default();
    Ok(crm::Options {
        url,
        login,
        api_key,
        concurrency: 1,
        timeout: Duration::from_secs(20),
        linger: Duration::from_secs(20),
        authorities,
        large: crm::Large::default(),
    })
}

/// Makes the delivery in the journal, with the state and the writes that the attempt is to find there.
async fn prepare(
    journal: journal::Handle,
    live: &Live,
    event: &Event,
    source: &Source,
) -> Result<journal::DeliveryId, Error> {
    let name = live.compiled.manifest.name.clone();
    let Source::Recording(recording) = source else { return delivery(&journal, name, event.clone()).await };
    let state = recording.state();
    if !state.is_empty() {
        let entity = None;
        let seed =
            Event { id: EventId::new(), name: "rehearsal.state".into(), via: Via::Json, entity, ..event.clone() };
        let mut effects = Effects::default();
        effects.state.writes = state.into_iter().map(|(key, value)| (key, StateWrite::Set(value))).collect();
        let settlement = Settlement {
            delivery: delivery(&journal, name.clone(), seed).await?,
            attempt: 1,
            version: String::new(),
            started_at: 0,
            ended_at: 0,
            outcome: Outcome::Done,
            effects,
            next: Next::Done,
        };
        journal.settle(settlement).await?;
    }
    let delivery = delivery(&journal, name, event.clone()).await?;
    for (digest, occurrence, call, answer) in recording.done_before() {
        let write = Write { delivery, digest, occurrence };
        let (account, kind) = (event.account.clone(), "other".to_owned());
        let (content, effects) = (Content::default(), Vec::new());
        let intent =
            Intent { write: write.clone(), call, account, kind, record: None, content, effects, not_done: false };
        journal.intend(intent).await?;
        journal.written(write, journal::Written::Answered { answer, record: None }).await?;
    }
    Ok(delivery)
}

/// Appends an event and claims its delivery to the plugin, whatever its manifest wants.
async fn delivery(journal: &journal::Handle, plugin: PluginName, event: Event) -> Result<journal::DeliveryId, Error> {
    let every = Pattern::try_from("*".to_owned()).map_err(Error::SetUp)?;
    let subscription = Subscription { own_events: true, ..Subscription::new(plugin.clone(), vec![every]) };
    let queue = Queue { plugin, account: event.account.clone() };
    journal.append(event).await?;
    let taken = journal.take(Arc::new(Subscriptions(vec![subscription])), vec![(queue, 1)]).await?;
    let claimed = taken.claimed.first().map(|claimed| claimed.delivery);
    claimed.ok_or_else(|| Error::SetUp("the journal made no delivery of the event".to_owned()))
}

/// What should be known before anything has run.
fn notes(live: &Live, options: &registry::Options, event: &Event) -> Vec<String> {
    let manifest = &live.compiled.manifest;
    let mut notes = Vec::new();
    if !manifest.wants(&event.name) {
        notes.push(format!("the manifest does not ask for `{}`: a host would not deliver this event", event.name));
    }
    if options.dev {
        notes.push("every permission that the manifest asks is granted, as `serve --dev` does".to_owned());
    }
    if options.plugins.get(&manifest.name).is_some_and(|own| own.disabled) {
        notes.push(format!("`plugins.{}.enabled` is false: a host would not deliver this event", manifest.name));
    }
    notes.extend(live.grants.missing().into_iter().map(|missing| format!("not granted: {missing}")));
    notes
}

/// What should be known afterwards.
fn after(outcome: &Outcome, effects: &Effects) -> Option<String> {
    let good = matches!(outcome, Outcome::Done | Outcome::Skipped { .. });
    let lost = !good && !effects.state.writes.is_empty();
    lost.then(|| "state was written and would not be stored, because the outcome is not good".to_owned())
}

impl Rehearsal {
    fn new(live: &Live, event: &Event, attempt: u32, outcome: &Outcome, effects: Effects) -> Self {
        let used = used(&effects, outcome, &live.limits);
        let writes = compare::written(&effects.calls);
        let mut rehearsal = Self {
            plugin: live.compiled.manifest.name.to_string(),
            version: live.version(),
            event: event.name.clone(),
            entity: event.entity.as_ref().map(ToString::to_string),
            account: event.account.clone(),
            fields: serde_json::from_str(&event.fields).unwrap_or_default(),
            attempt,
            outcome: outcome.as_str().to_owned(),
            reason: outcome.reason(),
            code: outcome.code(),
            lines: effects.lines,
            lines_dropped: effects.lines_dropped,
            calls: effects.calls.into_iter().map(called).collect(),
            writes,
            state: Vec::new(),
            used,
            unused: Vec::new(),
            notes: Vec::new(),
        };
        if rehearsal.is_good() {
            rehearsal.state = effects.state.writes.into_iter().map(stored).collect();
        }
        rehearsal
    }
}

fn called(call: HostCall) -> Called {
    let HostCall { at, took, call, request, answer, good } = call;
    let unanswered = !good && answer.starts_with(script::NO_ANSWER);
    Called { at, took, call, request, answer, good, not_sent: false, unanswered }
}

fn stored((key, write): (String, StateWrite)) -> Stored {
    let (how, value) = match write {
        StateWrite::Set(value) => ("set", Some(value)),
        StateWrite::Add(amount) => ("add", Some(amount.to_string())),
        StateWrite::Delete => ("delete", None),
    };
    Stored { key, how, value }
}

fn used(effects: &Effects, outcome: &Outcome, limits: &Limits) -> Vec<Used> {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let code = outcome.code().unwrap_or_default();
    let usage = effects.usage;
    let used = |what, used, most, unit, limit, reached| Used { what, used, most, unit, limit, reached };
    vec![
        used("processor", usage.cpu, micros(limits.cpu), "us", "cpu_ms", code == "plugin.cpu_limit"),
        used("memory", usage.memory, limits.memory, "bytes", "memory_mib", code == "plugin.memory_limit"),
        used("calls", effects.counted.into(), limits.calls.into(), "", "calls", code == "plugin.call_limit"),
        used("log", effects.logged, limits.log, "bytes", "log_kib", effects.lines_dropped > 0),
        used("time", usage.wall, micros(limits.time), "us", "time_ms", code == "plugin.time_limit"),
    ]
}
