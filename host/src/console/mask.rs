//! Fields that nobody needs to see: their values are hidden wherever an event's path is shown, and can't be searched for.
//!
//! - A field is hidden by its name, at any depth, upper and lower case alike: in JSON, in JSON within JSON, and where the name
//!   stands as a value beside the field's (`{"field": "phone", "value": …}`). A text in which the name stands, and which is
//!   no JSON (a form, XML, something cut off), is hidden whole, and so is one in which it stands as base64 or in hexadecimal,
//!   or something encoded that can't be looked into (`wrapped`). Lists beside a list of names are rows of a table: hidden.
//! - Its value is hidden wherever else it stands in the same path, also encoded, and as the same digits with other signs
//!   between them (`cover`).
//! - What can't be looked into is hidden whole: plugins' log lines and reasons, their state, calls and answers that are no
//!   JSON. What the host itself says of an attempt stays.
//! - A record's number is shown where it looks like one, and none of the fields that it comes from is hidden.
//! - What is stored stays as it is, and plugins see it. An admin sees it who asks for it, which is in the operators' log.

mod cover;
mod wrapped;

use std::collections::BTreeSet;

use serde_json::Value;

use self::cover::Cover;
use self::wrapped::Wrapped;
use crate::event::{ACTOR_FIELD, RECORD_FIELDS};
use crate::journal::{Audited, DeliveryPath, DeliveryView, EventPath, EventSummary, Veil};
use crate::outcome::HostCall;

/// What stands in place of a value.
pub(super) const HIDDEN: &str = "•••";
/// Characters that a value must have to be looked for in texts: shorter ones are everywhere.
const LEAST: usize = 4;
/// Levels of JSON within JSON that are looked into; what lies deeper is hidden.
const DEEPEST: usize = 8;
/// Levels that something encoded counts for: it may be read in several ways at each.
const ENCODED: usize = 2;
/// Levels at which a list of columns may stand beside its rows.
const HEAD: usize = 1;
/// Digits of a record's number that are shown while something is hidden: a longer one may be a telephone's.
const LONGEST_NUMBER: usize = 7;

/// The names that are hidden.
#[derive(Debug, Clone, Default)]
pub(super) struct Mask {
    names: BTreeSet<String>,
    /// Whether a record's number comes from a hidden field.
    records: bool,
    /// Whether an event's actor does.
    actor: bool,
}

impl Veil for Mask {
    fn cover(&self, event: &mut EventSummary, fields: &str) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut values = BTreeSet::new();
        let mut shown = serde_json::from_str(fields).unwrap_or_else(|_| Value::String(HIDDEN.to_owned()));
        let hidden = self.hide(&mut shown, &mut values, 0);
        let cover = Cover::of(&values);
        self.summary(event, &cover);
        (hidden && {
            cover.value(&mut shown);
            true
        })
        .then(|| shown.to_string())
    }
}

impl Mask {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().map(|name| name.to_lowercase()).collect();
        let records = RECORD_FIELDS.iter().any(|field| names.contains(*field));
        let actor = names.contains(ACTOR_FIELD);
        Self { names, records, actor }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn path(&self, path: &mut EventPath) {
        let cover = self.both(&mut path.event, &mut path.fields, &mut path.deliveries);
        for cause in &mut path.caused_by {
            self.record(&mut cause.entity, &cover);
        }
    }

    pub(super) fn delivery(&self, path: &mut DeliveryPath) {
        self.both(&mut path.event, &mut path.fields, std::slice::from_mut(&mut path.delivery));
    }

    fn both(&self, event: &mut EventSummary, fields: &mut Value, deliveries: &mut [DeliveryView]) -> Cover {
        if self.is_empty() {
            return Cover::default();
        }
        let mut values = BTreeSet::new();
        self.hide(fields, &mut values, 0);
        // All values first: one may stand in a call before the one that names it.
        for attempt in deliveries.iter_mut().flat_map(|delivery| &mut delivery.attempts) {
            attempt.calls.iter_mut().for_each(|call| self.call(call, &mut values));
        }
        let cover = Cover::of(&values);
        self.summary(event, &cover);
        cover.value(fields);
        for delivery in deliveries {
            words(delivery.reason.iter_mut(), delivery.code.as_deref(), &cover);
            for write in &mut delivery.writes {
                cover.text(&mut write.call);
                self.record(&mut write.record, &cover);
            }
            delivery.caused.iter_mut().for_each(|caused| self.record(&mut caused.entity, &cover));
            for attempt in &mut delivery.attempts {
                words([&mut attempt.reason], attempt.code.as_deref(), &cover);
                words(attempt.lines.iter_mut().map(|line| &mut line.text), None, &cover);
                for call in &mut attempt.calls {
                    [&mut call.call, &mut call.request, &mut call.answer].into_iter().for_each(|text| cover.text(text));
                }
            }
        }
        cover
    }

    fn summary(&self, event: &mut EventSummary, cover: &Cover) {
        self.record(&mut event.entity, cover);
        event.actor = event.actor.filter(|_| !self.actor);
    }

    fn record(&self, record: &mut Option<String>, cover: &Cover) {
        if let Some(record) = record {
            cover.text(record);
            self.lone_record(record);
        }
    }

    /// Hides a record's number where nothing more than `kind:id` is known of it.
    pub(super) fn lone_record(&self, record: &mut String) {
        if let Some((kind, id)) = record.split_once(':')
            && !self.is_empty()
            && (self.records || id.len() > LONGEST_NUMBER || id.bytes().any(|byte| !byte.is_ascii_digit()))
        {
            *record = format!("{kind}:{HIDDEN}");
        }
    }

    /// An event's record as it is shown with the event's own fields at hand.
    pub(super) fn record_of(&self, record: &mut Option<String>, fields: &str) {
        let mut values = BTreeSet::new();
        if !self.is_empty() && self.hide(&mut serde_json::from_str(fields).unwrap_or_default(), &mut values, 0) {
            self.record(record, &Cover::of(&values));
        } else if let Some(record) = record {
            self.lone_record(record);
        }
    }

    /// A line of the operators' log, or a job: they name records.
    pub(super) fn deed(&self, text: &mut String) {
        let names_one = |word: &str| {
            let mut record = word.rsplit('=').next().unwrap_or_default().to_owned();
            record.split_once(':').is_some_and(|(kind, _)| !kind.is_empty()) && {
                let before = record.clone();
                self.lone_record(&mut record);
                before != record
            }
        };
        if text.split_whitespace().any(names_one) {
            HIDDEN.clone_into(text);
        }
    }

    pub(super) fn audited(&self, line: &mut Audited) {
        self.deed(&mut line.object);
        self.deed(&mut line.details);
    }

    fn call(&self, call: &mut HostCall, values: &mut BTreeSet<String>) {
        // A plugin's keys and values mean what the plugin wants.
        let state = call.call.starts_with("state ");
        for text in [&mut call.request, &mut call.answer] {
            if state && !text.is_empty() {
                HIDDEN.clone_into(text);
            }
            // An answer from outside begins with its status.
            let status = text.split_once(' ').filter(|(status, _)| status.bytes().all(|byte| byte.is_ascii_digit()));
            let (status, body) = status.map_or(("", text.as_str()), |(status, body)| (status, body));
            let shown = match serde_json::from_str::<Value>(body) {
                Ok(mut value) if value.is_object() || value.is_array() => {
                    self.hide(&mut value, values, 0);
                    value.to_string()
                }
                _ if body.is_empty() => String::new(),
                _ => HIDDEN.to_owned(),
            };
            *text = if status.is_empty() { shown } else { format!("{status} {shown}") };
        }
    }

    /// Tells whether anything was hidden.
    fn hide(&self, value: &mut Value, values: &mut BTreeSet<String>, depth: usize) -> bool {
        match value {
            Value::Object(fields) => {
                let beside = fields.values().any(|inner| self.is_name(inner));
                let heads = fields.values().any(|inner| self.is_head(inner, HEAD));
                let mut hidden = false;
                for (name, inner) in fields {
                    let row = heads && is_nested(inner) && !self.is_head(inner, HEAD);
                    hidden |= self.hide_one(inner, beside || row || self.names_in(name), values, depth);
                }
                hidden
            }
            Value::Array(items) => {
                let beside = items.iter().any(|inner| self.is_name(inner));
                // Of a table only the first row names columns; records in a list are none.
                let headed = items.first().is_some_and(|first| first.is_array() && self.is_head(first, 0));
                let mut hidden = false;
                for (at, item) in items.iter_mut().enumerate() {
                    let row = headed && at > 0 && is_nested(item);
                    hidden |= self.hide_one(item, beside || row, values, depth);
                }
                hidden
            }
            Value::String(text) => self.hide_text(text, values, depth),
            _ => false,
        }
    }

    fn hide_one(&self, value: &mut Value, whole: bool, values: &mut BTreeSet<String>, depth: usize) -> bool {
        if !whole {
            return self.hide(value, values, depth);
        }
        if !self.is_name(value) {
            note(value, values);
            *value = Value::String(HIDDEN.to_owned());
        }
        true
    }

    /// A value within JSON: JSON again, or a text that is hidden where a name stands in it.
    fn hide_text(&self, text: &mut String, values: &mut BTreeSet<String>, depth: usize) -> bool {
        if text.trim_start().starts_with(['{', '[', '"'])
            && let Ok(mut inner) = serde_json::from_str::<Value>(text)
        {
            if depth >= DEEPEST {
                HIDDEN.clone_into(text);
                return true;
            }
            let hidden = self.hide(&mut inner, values, depth + 1);
            if hidden {
                *text = inner.to_string();
            }
            return hidden;
        }
        let readings = cover::readings(text);
        let named = readings.iter().any(|text| self.names_in(text))
            // Once as it came, and once without what is around it: not in all readings, each of which may hold others.
            || [readings.first(), readings.last().filter(|_| readings.len() > 1)].into_iter().flatten().any(|text| {
                wrapped::within(text).into_iter().any(|found| match found {
                    Wrapped::Opaque => true,
                    Wrapped::Word(read) => self.names_in(&read),
                    Wrapped::Text(_) if depth + ENCODED > DEEPEST => true,
                    Wrapped::Text(mut read) => self.hide_text(&mut read, values, depth + ENCODED),
                })
            });
        if named {
            HIDDEN.clone_into(text);
        }
        named
    }

    /// Whether a value lists names of fields as the columns of a table, one of them hidden.
    fn is_head(&self, value: &Value, depth: usize) -> bool {
        match value {
            Value::Array(items) => items.iter().any(|item| {
                let described = item.as_object().is_some_and(|item| item.values().any(|inner| self.is_name(inner)));
                self.is_name(item) || described || depth > 0 && self.is_head(item, depth - 1)
            }),
            Value::Object(fields) => depth > 0 && fields.values().any(|inner| self.is_head(inner, depth - 1)),
            _ => false,
        }
    }

    /// Whether a value is just the name of a hidden field.
    fn is_name(&self, value: &Value) -> bool {
        value.as_str().is_some_and(|text| text.len() <= 256 && self.names.contains(&text.trim().to_lowercase()))
    }

    /// Whether one of the names stands in a text as a word of its own.
    fn names_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let part = |character: char| character.is_alphanumeric() || character == '_';
        text.split(|character| !part(character)).any(|word| self.names.contains(word))
            || self.names.iter().any(|name| !name.chars().all(part) && text.contains(name.as_str()))
    }
}

/// Hides what is said in free words; the host's own, which come with a code, are only looked through.
fn words<'a>(texts: impl IntoIterator<Item = &'a mut String>, code: Option<&str>, cover: &Cover) {
    // A plugin's own last words stand in these.
    let quotes = |code: &str| matches!(code, "plugin.trap" | "plugin.exit" | "plugin.start");
    let host = code
        .is_some_and(|code| ["plugin.", "host.", "loop."].iter().any(|room| code.starts_with(room)) && !quotes(code));
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        if host { cover.text(text) } else { HIDDEN.clone_into(text) }
    }
}

fn is_nested(value: &Value) -> bool {
    value.is_array() || value.is_object()
}

/// Remembers the texts of a value that is hidden.
fn note(value: &Value, values: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => {
            if let Ok(inner @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text) {
                note(&inner, values);
            }
            if text.chars().count() >= LEAST {
                values.insert(text.clone());
            }
        }
        Value::Number(number) if number.to_string().len() >= LEAST => {
            values.insert(number.to_string());
        }
        Value::Array(items) => items.iter().for_each(|item| note(item, values)),
        Value::Object(fields) => fields.values().for_each(|inner| note(inner, values)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
