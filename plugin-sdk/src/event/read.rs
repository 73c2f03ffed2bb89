//! Reads one field of an event.
//!
//! - Numbers are taken as text and as numbers alike: the CRM sends text, other senders may not.
//! - Where a field is optional, missing, null, empty and (for numbers, which are all references) 0 are `None`.
//! - A field that holds something of another form is an error, and never silently `None`.

use serde_json::{Map, Value};

use super::value::{Amount, Changes, Reassigned};
use crate::{Error, Result};

/// The arguments of one event, with its name for the errors.
pub(super) struct Fields<'a> {
    pub(super) event: &'a str,
    pub(super) map: &'a Map<String, Value>,
}

impl Fields<'_> {
    /// Reads the first of `names` that holds anything.
    pub(super) fn get<T: Field>(&self, names: &[&str]) -> Result<T> {
        T::read(held(self.map, names)).map_err(|problem| {
            let name = names.first().copied().unwrap_or_default();
            Error::Data(format!("event `{}`: the field `{name}` {problem}", self.event))
        })
    }
}

/// What a field can be. `None` stands for missing, null and empty; the error follows the words "the field `x`".
pub(super) trait Field: Sized {
    fn read(value: Option<&Value>) -> Result<Self, String>;
}

/// The record's own number: it has to be there, and 0 stays 0.
impl Field for u64 {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        let value = value.ok_or("is missing")?;
        number(value).ok_or_else(|| format!("is not a whole number: {value}"))
    }
}

/// A reference to something: 0 is the CRM's way to say "none".
impl Field for Option<u64> {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        let number = value.map(|value| u64::read(Some(value))).transpose()?;
        Ok(number.filter(|number| *number != 0))
    }
}

impl Field for Option<String> {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        value.map(|value| text(value).ok_or_else(|| format!("is not text: {value}"))).transpose()
    }
}

impl Field for Option<Amount> {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        Ok(Option::<String>::read(value)?.map(Amount::from))
    }
}

/// PHP leaves out an empty list, and sends a list with gaps as an object.
impl Field for Vec<u64> {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        let mut ids = Vec::new();
        for (_, item) in items(value)? {
            ids.extend(Option::<u64>::read(Some(item).filter(|item| !is_blank(item)))?);
        }
        Ok(ids)
    }
}

impl Field for Changes {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        Ok(Self(items(value)?.into_iter().map(|(name, value)| (name, as_text(value))).collect()))
    }
}

impl Field for Vec<Reassigned> {
    fn read(value: Option<&Value>) -> Result<Self, String> {
        let keyed = matches!(value, Some(Value::Object(_)));
        // The page for clients puts an empty entry in front of the others.
        let entries = items(value)?.into_iter().filter(|(_, entry)| !is_blank(entry));
        entries
            .map(|(key, entry)| {
                let Value::Object(map) = entry else {
                    return Err(format!("holds an entry that is no record: {entry}"));
                };
                let own = held(map, &["clid", "did"]).map(|value| u64::read(Some(value))).transpose()?;
                let id = own.or_else(|| key.parse().ok().filter(|_| keyed));
                Ok(Reassigned {
                    id: id.ok_or("holds an entry without an id")?,
                    title: Field::read(held(map, &["title"]))?,
                    olduser: Field::read(held(map, &["olduser"]))?,
                })
            })
            .collect()
    }
}

/// The first of the fields that holds anything.
fn held<'a>(map: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().find_map(|name| map.get(*name).filter(|value| !is_blank(value)))
}

/// The entries of a PHP array, which comes as a list or as an object; none where there is nothing.
fn items(value: Option<&Value>) -> Result<Vec<(String, &Value)>, String> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            Ok(list.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect())
        }
        Some(Value::Object(map)) => Ok(map.iter().map(|(key, item)| (key.clone(), item)).collect()),
        Some(other) => Err(format!("is not a list: {other}")),
    }
}

/// A whole number, sent as a number or as text.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A scalar as the text that the CRM would have sent.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("1".to_owned()),
        Value::Bool(false) => Some("0".to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The same value with every scalar as text.
fn as_text(value: &Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.iter().map(as_text).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), as_text(value))).collect()),
        scalar => text(scalar).map_or(Value::Null, Value::String),
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
