//! Fields that nobody needs to see: their values are hidden wherever an event's path is shown.
//!
//! - A field is hidden by its name, at any depth, upper and lower case alike: in the event, in calls and in answers.
//! - Its value is hidden wherever else it stands as well: in a plugin's log line, in a reason.
//! - What is stored stays as it is, and plugins see it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::journal::{DeliveryPath, DeliveryView, EventPath};

/// What stands in place of a value.
const HIDDEN: &str = "•••";
/// Characters that a value must have to be looked for in texts: shorter ones are everywhere.
const LEAST: usize = 4;

/// The names that are hidden.
#[derive(Debug, Clone, Default)]
pub(super) struct Mask {
    names: BTreeSet<String>,
}

impl Mask {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().map(|name| name.to_lowercase()).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn path(&self, path: &mut EventPath) {
        self.both(&mut path.fields, &mut path.deliveries);
    }

    pub(super) fn delivery(&self, path: &mut DeliveryPath) {
        self.both(&mut path.fields, std::slice::from_mut(&mut path.delivery));
    }

    fn both(&self, fields: &mut Value, deliveries: &mut [DeliveryView]) {
        if self.is_empty() {
            return;
        }
        let mut values = BTreeSet::new();
        self.hide(fields, &mut values);
        let mut texts: Vec<&mut String> = Vec::new();
        for delivery in deliveries {
            texts.extend(&mut delivery.reason);
            for attempt in &mut delivery.attempts {
                texts.push(&mut attempt.reason);
                texts.extend(attempt.lines.iter_mut().map(|line| &mut line.text));
                for call in &mut attempt.calls {
                    for text in [&mut call.request, &mut call.answer] {
                        self.hide_in(text, &mut values);
                        texts.push(text);
                    }
                }
            }
        }
        // The longest first: one value may hold another.
        let mut values: Vec<&String> = values.iter().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        texts.into_iter().for_each(|text| cover(text, &values));
        cover_all(fields, &values);
    }

    /// Hides fields in a text that holds JSON. One that was cut is no JSON any more, and is hidden whole where it names
    /// such a field.
    fn hide_in(&self, text: &mut String, values: &mut BTreeSet<String>) {
        match serde_json::from_str::<Value>(text) {
            Ok(mut value) => {
                if self.hide(&mut value, values) {
                    *text = value.to_string();
                }
            }
            Err(_) => {
                let lower = text.to_lowercase();
                if self.names.iter().any(|name| lower.contains(&format!("\"{name}\""))) {
                    HIDDEN.clone_into(text);
                }
            }
        }
    }

    /// Tells whether anything was hidden.
    fn hide(&self, value: &mut Value, values: &mut BTreeSet<String>) -> bool {
        match value {
            Value::Object(fields) => {
                let mut hidden = false;
                for (name, inner) in fields {
                    if self.names.contains(&name.to_lowercase()) {
                        note(inner, values);
                        *inner = Value::String(HIDDEN.to_owned());
                        hidden = true;
                    } else {
                        hidden |= self.hide(inner, values);
                    }
                }
                hidden
            }
            Value::Array(items) => {
                let mut hidden = false;
                for item in items {
                    hidden |= self.hide(item, values);
                }
                hidden
            }
            _ => false,
        }
    }
}

/// Hides values that stand within a text.
fn cover(text: &mut String, values: &[&String]) {
    for value in values {
        if text.contains(value.as_str()) {
            *text = text.replace(value.as_str(), HIDDEN);
        }
    }
}

/// Hides values wherever else they stand in the fields.
fn cover_all(value: &mut Value, values: &[&String]) {
    match value {
        Value::String(text) => cover(text, values),
        Value::Array(items) => items.iter_mut().for_each(|item| cover_all(item, values)),
        Value::Object(fields) => fields.iter_mut().for_each(|(_, inner)| cover_all(inner, values)),
        _ => {}
    }
}

/// Remembers the texts of a value that is hidden.
fn note(value: &Value, values: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.chars().count() >= LEAST => {
            values.insert(text.clone());
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
mod tests {
    use super::*;

    #[test]
    fn a_hidden_value_shows_nowhere_in_an_events_path() {
        let path = serde_json::json!({ "phone": "+74951234567", "newparam": { "Phone": ["+79260001122"], "title": "Ромашка" } });
        let call = serde_json::json!({ "data": { "phone": "+78120000000", "note": "call +74951234567" } });
        let mask = Mask::new(["phone".to_owned()]);
        let mut values = BTreeSet::new();
        let mut fields = path;
        assert!(mask.hide(&mut fields, &mut values));
        let mut answer = call.to_string();
        mask.hide_in(&mut answer, &mut values);
        let mut cut = "{\"data\":{\"phone\":\"+7812".to_owned();
        mask.hide_in(&mut cut, &mut values);
        assert_eq!(fields, serde_json::json!({ "phone": HIDDEN, "newparam": { "Phone": HIDDEN, "title": "Ромашка" } }));
        assert!(!answer.contains("+7812"), "{answer}");
        assert_eq!(cut, HIDDEN);
        assert_eq!(values.len(), 3, "{values:?}");
    }
}
