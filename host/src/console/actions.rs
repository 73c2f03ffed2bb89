//! What an operator can do. The API and the pages both come here, and every deed is in the log before it is done.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::access::Operator;
use super::jobs::{Job, JobState, Order};
use super::mask::Mask;
use super::problem::Problem;
use super::{Console, blocking};
use crate::event::{Event, EventId};
use crate::journal::{self, DeliveryId, EventFilter, Forget, LetterFilter, Proof, Record, Resolution};
use crate::plugin::{Permissions, PluginName};
use crate::registry::versions::Home;
use crate::telemetry;

/// Dead letters that are read in one step.
const LETTERS_AT_ONCE: usize = 256;
/// Events that one replay may hold.
const MOST_REPLAYED: usize = 100_000;
/// How long somebody waits until everything of a record was looked at.
const GONE_THROUGH_IN: Duration = Duration::from_secs(20);
/// How long somebody waits after that until no copy is left in the file.
const ERASED_IN: Duration = Duration::from_secs(5);
/// The pause between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The word in the log for a resolution.
fn word(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::Retry => "retry",
        Resolution::Drop => "drop",
    }
}

impl Console {
    pub(super) async fn audit(
        &self,
        who: &Operator,
        action: &str,
        object: &str,
        details: &str,
    ) -> Result<(), journal::Error> {
        self.journal.audit(&who.name, action, object, details).await?;
        telemetry::operator_did(&who.name, action, object);
        Ok(())
    }

    /// Tells the operators' log that somebody did not get in, together with others like it: it is not to grow with each guess.
    pub(super) fn login_failed(&self, name: &str, from: IpAddr) {
        let user = Some(name).filter(|name| self.access.is_user(name));
        let Some(wait) = self.access.guesses.failed(user, from, self.clock.now()) else { return };
        let console = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(0))).await;
            for (name, from, times) in console.access.guesses.told(console.clock.now()) {
                telemetry::logins_failed(&name, &from, times);
                let details = format!("{times} times");
                if let Err(error) = console.journal.audit(&name, "login.failed", &from, &details).await {
                    telemetry::host_fault("console", &error);
                }
            }
        });
    }

    /// A deed that was announced did not come about: the log must not end with it.
    pub(super) async fn not_done<T>(
        &self,
        who: &Operator,
        (action, object): (&str, &str),
        done: Result<T, Problem>,
    ) -> Result<T, Problem> {
        if let Err(problem) = &done {
            // Where the log can't be written the refusal itself is told.
            drop(self.audit(who, action, object, &format!("not done: {} ({})", problem.message, problem.code)).await);
        }
        done
    }

    /// Runs a delivery again, or gives it up.
    pub(super) async fn decide(&self, who: &Operator, id: i64, resolution: Resolution) -> Result<(), Problem> {
        let journal = self.journal.clone();
        let found = blocking(move || journal.delivery(DeliveryId(id))).await?;
        let state = found.map(|found| found.delivery.state);
        let state = state.ok_or_else(|| Problem::not_found(format!("there is no delivery with the number {id}")))?;
        if !state.can_be_decided() {
            return Err(undecidable(resolution));
        }
        let (action, object) = (format!("delivery.{}", word(resolution)), id.to_string());
        self.audit(who, &action, &object, "").await?;
        let done = match self.journal.decide(DeliveryId(id), resolution).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(undecidable(resolution)),
            Err(error) => Err(error.into()),
        };
        self.not_done(who, (&action, &object), done).await
    }

    /// Decides about dead letters by number.
    pub(super) async fn resolve_these(
        &self,
        who: &Operator,
        letters: Vec<DeliveryId>,
        resolution: Resolution,
    ) -> Result<usize, Problem> {
        let object = format!("{} by number", letters.len());
        self.audit(who, &format!("dead.{}", word(resolution)), &object, &numbers(&letters)).await?;
        let mut changed = 0;
        for step in letters.chunks(LETTERS_AT_ONCE) {
            changed += self.journal.resolve(step.to_vec(), resolution).await?;
        }
        telemetry::letters_resolved(resolution, changed);
        Ok(changed)
    }

    /// Decides about all dead letters of a filter, at a pace.
    pub(super) async fn resolve_all(
        &self,
        who: &Operator,
        filter: LetterFilter,
        resolution: Resolution,
        pace: Option<f64>,
    ) -> Result<Job, Problem> {
        let object = letters_in_words(&filter);
        let action = if resolution == Resolution::Retry { "dead.retry" } else { "dead.drop" };
        self.audit(who, action, &object, &paced(pace)).await?;
        let (journal, order) = (self.journal.clone(), self.order(who, action, object, pace)?);
        let collect = move || every_letter(&journal, &filter);
        let journal = self.journal.clone();
        let one = move |letters| {
            let journal = journal.clone();
            async move { journal.resolve(letters, resolution).await }
        };
        self.jobs.start(order, collect, one).ok_or_else(busy)
    }

    /// The same, as fast as it goes, and waited for.
    pub(super) async fn resolve_now(
        &self,
        who: &Operator,
        filter: LetterFilter,
        resolution: Resolution,
    ) -> Result<usize, Problem> {
        self.audit(who, &format!("dead.{}", word(resolution)), &letters_in_words(&filter), "").await?;
        let journal = self.journal.clone();
        let letters = blocking(move || every_letter(&journal, &filter)).await?;
        let mut changed = 0;
        for step in letters.chunks(LETTERS_AT_ONCE) {
            changed += self.journal.resolve(step.to_vec(), resolution).await?;
        }
        telemetry::letters_resolved(resolution, changed);
        Ok(changed)
    }

    /// Stops a large change.
    pub(super) async fn stop_job(&self, who: &Operator, id: u64) -> Result<(), Problem> {
        let missing = || Problem::not_found("no such job goes on");
        if !self.jobs.all().iter().any(|job| job.id == id && job.state == JobState::Running) {
            return Err(missing());
        }
        let object = id.to_string();
        self.audit(who, "job.stop", &object, "").await?;
        let done = if self.jobs.stop(id) { Ok(()) } else { Err(missing()) };
        self.not_done(who, ("job.stop", &object), done).await
    }

    fn order(&self, who: &Operator, action: &'static str, object: String, pace: Option<f64>) -> Result<Order, Problem> {
        if pace.is_some_and(|pace| !(0.01..=100_000.0).contains(&pace)) {
            return Err(Problem::bad_filter("`pace` is a number of things a second, from 0.01 to 100000"));
        }
        Ok(Order { action, object, who: who.name.clone(), began_at: self.clock.now(), pace })
    }

    /// Whether a plugin serves, and in order.
    fn serving(&self, plugin: &PluginName) -> Result<bool, Problem> {
        let snapshot = self.registry.snapshot();
        let live = snapshot.plugins.get(plugin).map(|live| live.ordered);
        live.ok_or_else(|| Problem::refused(format!("no plugin `{plugin}` serves: see `plugin list`")))
    }

    /// Makes another delivery of an event.
    pub(super) async fn replay(&self, who: &Operator, event: EventId, plugin: &PluginName) -> Result<i64, Problem> {
        let ordered = self.serving(plugin)?;
        let object = event.to_string();
        self.audit(who, "event.replay", &object, plugin.as_str()).await?;
        let missing = || Problem::not_found("there is no event with this id, or it has only just come");
        let done = match self.journal.replay(event, plugin, ordered).await {
            Ok(delivery) => delivery.ok_or_else(missing),
            Err(error) => Err(error.into()),
        };
        self.not_done(who, ("event.replay", &object), done).await
    }

    /// Makes another delivery of every event of a filter, the oldest first.
    pub(super) async fn replay_all(
        &self,
        who: &Operator,
        filter: EventFilter,
        plugin: PluginName,
        pace: Option<f64>,
    ) -> Result<Job, Problem> {
        let ordered = self.serving(&plugin)?;
        let object = format!("{} → {plugin}", events_in_words(&filter));
        let order = self.order(who, "event.replay", object.clone(), pace)?;
        self.audit(who, "event.replay", &object, &paced(pace)).await?;
        // Nothing that comes from now on: replaying must have an end.
        let filter = self.up_to_now(filter);
        let (journal, mask) = (self.journal.clone(), Arc::clone(&self.mask));
        let events = blocking(move || every_event(&journal, &mask, &filter)).await?;
        if events.len() > MOST_REPLAYED {
            return Err(too_many());
        }
        let journal = self.journal.clone();
        let one = move |events: Vec<EventId>| {
            let (journal, plugin) = (journal.clone(), plugin.clone());
            async move {
                let mut changed = 0;
                for event in events {
                    changed += usize::from(journal.replay(event, &plugin, ordered).await?.is_some());
                }
                Ok(changed)
            }
        };
        self.jobs.start(order, move || Ok(events), one).ok_or_else(busy)
    }

    /// A filter without what comes from now on.
    pub(super) fn up_to_now(&self, filter: EventFilter) -> EventFilter {
        let until = filter.until.unwrap_or(i64::MAX).min(self.clock.now().saturating_add(1));
        EventFilter { until: Some(until), ..filter }
    }

    /// How many events a filter means, and the first few: to be shown before they are replayed.
    pub(super) async fn count_events(
        &self,
        filter: EventFilter,
        shown: usize,
    ) -> Result<(usize, Vec<journal::EventSummary>), Problem> {
        let (journal, mask) = (self.journal.clone(), Arc::clone(&self.mask));
        let found = blocking(move || {
            let events = every_event(&journal, &mask, &filter)?;
            Ok((events.len(), journal.events_behind(&*mask, &filter, None, shown)?.items))
        });
        let (count, first) = found.await?;
        if count > MOST_REPLAYED {
            return Err(too_many());
        }
        Ok((count, first))
    }

    /// Stores an event that an operator made.
    pub(super) async fn send(
        &self,
        who: &Operator,
        account: &str,
        name: &str,
        fields: Map<String, Value>,
    ) -> Result<EventId, Problem> {
        if !self.queues.crms().iter().any(|(known, _)| known == account) {
            return Err(Problem::bad_filter(format!(
                "there is no account `{account}`: it is the NAME of `[crm.NAME]`"
            )));
        }
        let mut fields = fields;
        fields.insert("event".to_owned(), name.into());
        let event: Event = (self.make_event)(account, Value::Object(fields).to_string().as_bytes(), self.clock.now())
            .map_err(Problem::bad_filter)?;
        self.audit(who, "event.send", &event.id.to_string(), name).await?;
        let id = event.id;
        self.journal.append(event).await?;
        Ok(id)
    }

    pub(super) async fn hold(&self, who: &Operator, plugin: &PluginName, held: bool) -> Result<(), Problem> {
        let action = if held { "plugin.pause" } else { "plugin.resume" };
        // One that is missing may be held back before it returns.
        if held && !self.registry.snapshot().missed.contains(plugin) {
            self.serving(plugin)?;
        }
        self.audit(who, action, plugin.as_str(), "").await?;
        Ok(self.queues.hold(plugin, held.then_some(who.name.as_str())).await?)
    }

    /// Keeps no event any more for a plugin that is gone, and gives up what waits for it; tells how much that was.
    pub(super) async fn abandon(&self, who: &Operator, plugin: &PluginName) -> Result<usize, Problem> {
        if self.registry.snapshot().plugins.contains_key(plugin) {
            let words = "the plugin serves: remove its file from the plugin folder first";
            return Err(Problem::new(StatusCode::CONFLICT, "console.plugin_is_live", words));
        }
        self.audit(who, "queue.drop", plugin.as_str(), "").await?;
        let done = if self.registry.abandon(plugin).await {
            self.journal.drop_waiting(plugin).await.map_err(Problem::from)
        } else {
            Err(Problem::refused(
                "it can't be recorded that the plugin is gone: the host's log says why; its events are still kept"
                    .to_owned(),
            ))
        };
        if let Ok(changed) = &done {
            telemetry::waiting_dropped(plugin, *changed);
        }
        self.not_done(who, ("queue.drop", plugin.as_str()), done).await
    }

    /// Lets an earlier version serve, or (`newest`) the one in the plugin folder. Returns the version's hash.
    pub(super) async fn roll_back(
        &self,
        who: &Operator,
        plugin: &PluginName,
        to: Option<String>,
        newest: bool,
    ) -> Result<Option<String>, Problem> {
        let (versions, of) = (self.versions.clone(), plugin.clone());
        let found = tokio::task::spawn_blocking(move || {
            versions.known(&of)?;
            if newest { Ok(None) } else { versions.earlier(&of, to.as_deref()).map(Some) }
        });
        let pin = found.await.unwrap_or_else(|error| Err(error.to_string())).map_err(Problem::refused)?;
        let hash = pin.as_ref().map(|pin| pin.hash.clone());
        let wanted = hash.as_deref().map_or("newest", |hash| hash.get(..12).unwrap_or(hash));
        self.audit(who, "plugin.rollback", plugin.as_str(), wanted).await?;
        let (versions, of) = (self.versions.clone(), plugin.clone());
        let done = tokio::task::spawn_blocking(move || versions.pin(&of, pin).map_err(|error| error.to_string()));
        let done = done.await.unwrap_or_else(|error| Err(error.to_string()));
        let done =
            done.map(|()| hash).map_err(|error| Problem::refused(format!("the choice can't be recorded: {error}")));
        self.not_done(who, ("plugin.rollback", plugin.as_str()), done).await
    }

    /// Grants a plugin what the version of this hash asks for, with these addresses in place of `*`; or (`None`) takes
    /// everything back.
    pub(super) async fn grant(
        &self,
        who: &Operator,
        plugin: &PluginName,
        shown: Option<(String, Vec<String>)>,
    ) -> Result<(), Problem> {
        let action = if shown.is_some() { "plugin.grant" } else { "plugin.revoke" };
        let asked = shown.map(|(hash, origins)| self.asked(plugin, &hash, &origins)).transpose()?;
        let (permissions, home) = asked.map_or((None, None), |(permissions, home)| (Some(permissions), home));
        let details = permissions.as_ref().and_then(|given| serde_json::to_string(given).ok()).unwrap_or_default();
        self.audit(who, action, plugin.as_str(), &details).await?;
        let (approve, of) = (Arc::clone(&self.approve), plugin.clone());
        let versions = self.versions.clone();
        let done = tokio::task::spawn_blocking(move || {
            approve(&of, permissions.as_ref())?;
            let home = home.map(|file| (of, file)).into_iter().collect();
            versions.come_from(home).map_err(|error| format!("where it comes from can't be recorded: {error}"))
        });
        let mut done = done.await.unwrap_or_else(|error| Err(error.to_string())).map_err(Problem::refused);
        if done.is_ok() && !self.registry.looks_again().await {
            done = Err(Problem::refused(
                "it is written down, and not in force: the part of the host that looks after plugins does not answer; \
                 `/readyz` tells of it, and a restart helps"
                    .to_owned(),
            ));
        }
        self.not_done(who, (action, plugin.as_str()), done).await
    }

    /// What is granted, and the file that waits for it: the wishes that were shown, of no version that came since.
    fn asked(
        &self,
        plugin: &PluginName,
        shown: &str,
        origins: &[String],
    ) -> Result<(Permissions, Option<Home>), Problem> {
        let snapshot = self.registry.snapshot();
        let mut waiting = snapshot.notices.iter().filter(|notice| notice.plugin.as_ref() == Some(plugin));
        let waiting = waiting.find_map(|notice| notice.hash.clone().zip(notice.asks.clone()));
        let serving = snapshot.plugins.get(plugin);
        let asks = waiting.or_else(|| serving.map(|live| (live.compiled.hash.clone(), live.grants.asked().clone())));
        let (hash, asked) =
            asks.ok_or_else(|| Problem::not_found("no plugin of this name serves or waits for approval"))?;
        if hash != shown {
            let words = "another version of the plugin is there now: look at what it asks for, then grant it";
            return Err(Problem::new(StatusCode::CONFLICT, "console.other_version", words));
        }
        let permissions = asked.chosen(origins).map_err(|refusal| Problem::bad_filter(refusal.to_string()))?;
        Ok((permissions, snapshot.waits_in(plugin).filter(|home| home.hash == shown)))
    }

    /// Lets a store that was restored from a backup go on; refused where none waits.
    pub(super) async fn go_on(&self, who: &Operator) -> Result<(), Problem> {
        if !self.journal.waits_for_go_on() {
            return Err(Problem::refused("nothing waits: the store goes on already".to_owned()));
        }
        self.audit(who, "restore.go_on", "the store", "").await?;
        let done = match self.journal.go_on(&who.name).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if done.is_ok() {
            telemetry::went_on(&who.name);
        }
        self.not_done(who, ("restore.go_on", "the store"), done).await
    }

    /// Forgets everything about a record, and waits for it as long as somebody may wait: what is left is done later.
    pub(super) async fn forget(&self, who: &Operator, record: Record, mentions: bool) -> Result<Proof, Problem> {
        let name = format!("{}:{}", record.kind, record.id);
        let object = format!("{} {name}", record.account);
        self.audit(who, "record.forget", &object, if mentions { "with mentions" } else { "" }).await?;
        self.jobs.forget(&name);
        let (who, version) = (who.name.clone(), env!("CARGO_PKG_VERSION").to_owned());
        let number = self.journal.forget(Forget { record, mentions, who, version }).await?;
        let began = Instant::now();
        let mut gone_through = None;
        loop {
            let journal = self.journal.clone();
            let proof = blocking(move || journal.proof(number)).await?;
            let proof = proof.ok_or_else(|| Problem::not_found("the proof of it is gone"))?;
            if proof.walks > 0 {
                gone_through.get_or_insert_with(Instant::now);
            }
            let given_up = gone_through.map_or(began.elapsed() > GONE_THROUGH_IN, |since| {
                proof.left > 0 || self.journal.is_held_up() || since.elapsed() > ERASED_IN
            });
            if proof.erased_at.is_some() || given_up {
                return Ok(proof);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn too_many() -> Problem {
    Problem::refused(format!("these are more than {MOST_REPLAYED} events: narrow the time, and replay part by part"))
}

fn undecidable(resolution: Resolution) -> Problem {
    Problem::refused(match resolution {
        Resolution::Retry => "only a delivery that waits or is a dead letter can be run again: replay its event",
        Resolution::Drop => "only a delivery that waits or is a dead letter can be given up",
    })
}

fn busy() -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "console.busy", "other large changes go on: wait, or stop one")
}

fn numbers(letters: &[DeliveryId]) -> String {
    let shown: Vec<String> = letters.iter().take(100).map(|DeliveryId(number)| number.to_string()).collect();
    shown.join(" ")
}

fn paced(pace: Option<f64>) -> String {
    pace.map(|pace| format!("{pace} a second")).unwrap_or_default()
}

/// A filter for the log and the list of jobs.
fn in_words(parts: &[(&str, Option<String>)]) -> String {
    let said: Vec<String> =
        parts.iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={value}"))).collect();
    if said.is_empty() { "all".to_owned() } else { said.join(" ") }
}

fn letters_in_words(filter: &LetterFilter) -> String {
    let LetterFilter { plugin, account, event, code, since, until, up_to } = filter;
    in_words(&[
        ("plugin", plugin.as_ref().map(ToString::to_string)),
        ("account", account.clone()),
        ("event", event.clone()),
        ("code", code.clone()),
        ("since", since.map(|time| time.to_string())),
        ("until", until.map(|time| time.to_string())),
        ("up to", up_to.map(|number| number.to_string())),
    ])
}

fn events_in_words(filter: &EventFilter) -> String {
    let EventFilter { name, entity, actor, account, since, until, text, plugin, outcome } = filter;
    in_words(&[
        ("name", name.clone()),
        ("record", entity.as_ref().map(ToString::to_string)),
        ("actor", actor.map(|actor| actor.to_string())),
        ("account", account.clone()),
        ("since", since.map(|time| time.to_string())),
        ("until", until.map(|time| time.to_string())),
        ("plugin", plugin.as_ref().map(ToString::to_string)),
        ("outcome", outcome.map(|outcome| outcome.word().to_owned())),
        // What was looked for may be what nobody is to see.
        ("text", text.as_ref().map(|_| "…".to_owned())),
    ])
}

fn every_letter(journal: &journal::Handle, filter: &LetterFilter) -> Result<Vec<DeliveryId>, journal::Error> {
    let mut letters = Vec::new();
    loop {
        let after = letters.last().map_or(0, |DeliveryId(last)| *last);
        let page = journal.letters(filter, after, LETTERS_AT_ONCE)?;
        if page.is_empty() {
            return Ok(letters);
        }
        letters.extend(page.iter().map(|letter| DeliveryId(letter.delivery)));
    }
}

/// The oldest first; one more than may be replayed at most. They are those that the list shows: what is hidden there can't
/// be found out by counting, or replaying, what holds it.
fn every_event(journal: &journal::Handle, mask: &Mask, filter: &EventFilter) -> Result<Vec<EventId>, journal::Error> {
    let (mut events, mut cursor) = (Vec::new(), None);
    while events.len() <= MOST_REPLAYED {
        let found = journal.events_behind(mask, filter, cursor, LETTERS_AT_ONCE)?;
        events.extend(found.items.iter().map(|event| event.id));
        match found.next.and_then(|next| next.parse().ok()) {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    events.reverse();
    // A search over several accounts may bring an event twice.
    events.sort_unstable();
    events.dedup();
    Ok(events)
}
