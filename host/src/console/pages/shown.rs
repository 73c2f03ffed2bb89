//! What pages show of plugins, and what their forms ask, as plain texts.

use super::Words;
use super::frame::{Asked, Frame};
use crate::console::Problem;
use crate::console::api::{EventQuery, Plugin};
use crate::dispatcher::gate::Mode;
use crate::journal::{LetterFilter, Wanted};
use crate::plugin::{Grants, Permissions, PluginName};

/// A plugin in a list.
pub(super) struct Row {
    pub(super) name: PluginName,
    pub(super) version: String,
    pub(super) description: String,
    /// The class by which its state is coloured.
    pub(super) kind: &'static str,
    pub(super) words: &'static str,
    /// Whether the host holds it back by itself.
    pub(super) stopped: bool,
    /// Whether that is because of its failures.
    pub(super) failing: bool,
    pub(super) open: i64,
    pub(super) good: i64,
    pub(super) failed: i64,
    pub(super) dead: i64,
}

impl Row {
    pub(super) fn of(w: &'static Words, plugin: &Plugin) -> Self {
        let stop = plugin.queues.iter().map(|queue| queue.mode).find(|mode| *mode != Mode::Flowing);
        let failing = plugin.queues.iter().any(|queue| matches!(queue.mode, Mode::Paused { .. } | Mode::Probing));
        let (kind, words) = match (&plugin.serving, &plugin.held, stop) {
            _ if plugin.compiling => ("wait", w.compiling),
            (None, ..) if plugin.waits_for_approval => ("wait", w.waits_for_approval),
            (None, ..) if plugin.missing => ("dead", w.missing),
            (None, ..) => ("dead", w.not_serving),
            (_, Some(_), _) => ("wait", w.held),
            (_, None, Some(mode)) => (if failing { "dead" } else { "wait" }, w.mode(mode)),
            (_, None, None) => ("done", w.flowing),
        };
        let sum = |of: fn(&crate::journal::QueueMinutes) -> i64| plugin.hour.iter().map(of).sum();
        Self {
            name: plugin.name.clone(),
            version: plugin.serving.as_ref().map(|serving| serving.version.clone()).unwrap_or_default(),
            description: plugin.serving.as_ref().map(|serving| serving.description.clone()).unwrap_or_default(),
            kind,
            words,
            stopped: failing,
            failing,
            open: sum(|hour| hour.open),
            good: sum(|hour| hour.good),
            failed: sum(|hour| hour.failed),
            dead: sum(|hour| hour.dead),
        }
    }
}

pub(super) fn rows(w: &'static Words, plugins: &[Plugin]) -> Vec<Row> {
    plugins.iter().map(|plugin| Row::of(w, plugin)).collect()
}

/// Each thing that a plugin asks for, and whether it was granted.
pub(super) fn permissions(plugin: &Plugin) -> Vec<(String, bool)> {
    let Some((_, asked)) = plugin.asks() else { return Vec::new() };
    let given = match &plugin.serving {
        Some(serving) => serving.granted.clone(),
        None => Some(Permissions::default()),
    };
    let had = |one: Permissions| match &given {
        None => true,
        Some(given) => Grants::new(plugin.name.clone(), one, given.clone(), []).missing().is_empty(),
    };
    let mut list = Vec::new();
    for pattern in &asked.crm {
        let one = Permissions { crm: vec![pattern.clone()], ..Permissions::default() };
        list.push((format!("crm {}", pattern.as_str()), had(one)));
    }
    for origin in &asked.http {
        let one = Permissions { http: vec![origin.clone()], ..Permissions::default() };
        list.push((format!("http {origin}"), had(one)));
    }
    if asked.state {
        list.push(("state".to_owned(), had(Permissions { state: true, ..Permissions::default() })));
    }
    let granted = given.as_ref().map(|given| &given.limits);
    for (kind, limit) in asked.limits.set() {
        let missing = granted.map(|granted| asked.limits.missing(granted)).unwrap_or_default();
        let line = format!("limit {} = {limit}", kind.key);
        list.push((
            format!("{line} ({} {}, instead of {})", limit, kind.words, kind.default),
            !missing.contains(&line),
        ));
    }
    list
}

/// A time of a form, or why it can't be read.
fn time(frame: &Frame, text: &str) -> Result<Option<i64>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let words = || Problem::bad_filter(format!("`{text}` is no time such as 2026-01-31T12:00"));
    frame.parse(text).map(Some).ok_or_else(words)
}

fn plugin(name: &str) -> Result<Option<PluginName>, Problem> {
    let name = some(name);
    name.map(|name| PluginName::try_from(name).map_err(Problem::bad_filter)).transpose()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

macro_rules! asked {
    ($name:ident: $($field:ident),*) => {
        /// The fields of a search, as they were typed.
        pub(super) struct $name { $(pub(super) $field: String,)* }
        impl $name {
            pub(super) fn of(asked: &Asked) -> Self {
                Self { $($field: asked.get(stringify!($field)).to_owned(),)* }
            }

            /// What was typed, for hidden fields.
            pub(super) fn pairs(&self) -> Vec<(&'static str, &str)> {
                [$((stringify!($field), self.$field.as_str()),)*].into_iter().filter(|(_, value)| !value.is_empty()).collect()
            }
        }
    };
}

asked!(AskedEvents: name, entity, actor, account, since, until, text, plugin, outcome);
asked!(AskedLetters: plugin, account, event, code, since, until);

impl AskedEvents {
    pub(super) fn query(&self, frame: &Frame) -> Result<EventQuery, Problem> {
        let actor = match self.actor.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Problem::bad_filter(format!("`{text}` is no employee's number")))?),
        };
        Ok(EventQuery {
            name: some(&self.name),
            entity: some(&self.entity),
            actor,
            account: some(&self.account),
            since: time(frame, &self.since)?,
            until: time(frame, &self.until)?,
            text: some(&self.text),
            plugin: plugin(&self.plugin)?,
            outcome: match self.outcome.as_str() {
                "" => None,
                word => {
                    Some(Wanted::parse(word).ok_or_else(|| Problem::bad_filter(format!("`{word}` is no outcome")))?)
                }
            },
            cursor: None,
            limit: None,
            unmasked: false,
        })
    }
}

impl AskedLetters {
    pub(super) fn filter(&self, frame: &Frame) -> Result<LetterFilter, Problem> {
        Ok(LetterFilter {
            plugin: plugin(&self.plugin)?,
            account: some(&self.account),
            event: some(&self.event),
            code: some(&self.code),
            since: time(frame, &self.since)?,
            until: time(frame, &self.until)?,
            up_to: None,
        })
    }
}
