//! Takes the fields of a record one by one; what is left over is the record's `extra`.
//!
//! - Numbers come as numbers and as text, by the action (measured on version 2025.4): both are taken.
//! - Missing, null, empty, the date of zeros and, for references, 0 are the CRM's ways to say "none".
//! - A field that holds something of another form is an error, and never silently `None`.

use serde_json::{Map, Value};

use super::number;
use crate::{Amount, Error, Result};

/// A record that is being read.
pub(super) struct Fields {
    /// What it is and which one, for the errors.
    name: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Begins with the record's own number, without which it is no record.
    pub(super) fn begin(kind: &str, id: &str, record: Value) -> Result<(u64, Self)> {
        let Value::Object(mut map) = record else {
            return Err(Error::Data(format!("the CRM's {kind} is not an object: read it with `Crm::call` and look")));
        };
        let own = match map.shift_remove(id) {
            None | Some(Value::Null) => Err(format!(
                "has no `{id}`: there is no such record, or the call's `fields` leave it out and have to name it"
            )),
            Some(value) => number(&value).ok_or_else(|| format!("has a `{id}` that is not a number: {value}")),
        };
        match own {
            Ok(own) => Ok((own, Self { name: format!("{kind} {own}"), map })),
            Err(problem) => Err(Error::Data(format!("the CRM's {kind} {problem}"))),
        }
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.map.contains_key(field)
    }

    /// Whether a field holds text: two fields are a number in lists and a title or login in `info`.
    pub(super) fn is_text(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(Value::is_string)
    }

    pub(super) fn number(&mut self, field: &str) -> Result<Option<u64>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        number(&value).map(Some).ok_or_else(|| self.wrong(field, "is not a whole number", &value))
    }

    /// A reference to another record, where 0 is none.
    pub(super) fn reference(&mut self, field: &str) -> Result<Option<u64>> {
        Ok(self.number(field)?.filter(|id| *id != 0))
    }

    pub(super) fn text(&mut self, field: &str) -> Result<Option<String>> {
        match self.take(field) {
            // `false` is how PHP says that a query for a title found nothing.
            None | Some(Value::Bool(false)) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(value) => Err(self.wrong(field, "is not text", &value)),
        }
    }

    /// Text that two actions call by different names.
    pub(super) fn either(&mut self, one: &str, other: &str) -> Result<Option<String>> {
        let other = self.text(other)?;
        Ok(self.text(one)?.or(other))
    }

    /// A date or time as the CRM writes it, where zeros are none.
    pub(super) fn date(&mut self, field: &str) -> Result<Option<String>> {
        Ok(self.text(field)?.filter(|date| !date.starts_with("0000-00-00")))
    }

    /// Money, as the digits that came.
    pub(super) fn amount(&mut self, field: &str) -> Result<Option<Amount>> {
        Ok(self.text(field)?.map(Amount::from))
    }

    /// A `yes` or a `no`.
    pub(super) fn flag(&mut self, field: &str) -> Result<Option<bool>> {
        match self.text(field)?.as_deref() {
            None => Ok(None),
            Some("yes") => Ok(Some(true)),
            Some("no") => Ok(Some(false)),
            Some(other) => Err(self.wrong(field, "is neither `yes` nor `no`", &other.into())),
        }
    }

    /// A list of objects; none where it is missing.
    pub(super) fn objects(&mut self, field: &str) -> Result<Vec<Value>> {
        match self.take(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(value) => Err(self.wrong(field, "is not a list", &value)),
        }
    }

    /// Everything that was not taken.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.map
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.map.shift_remove(field).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    fn wrong(&self, field: &str, problem: &str, value: &Value) -> Error {
        let name = &self.name;
        Error::Data(format!("{name}: the field `{field}` {problem} ({value}): read the record with `Crm::call`"))
    }
}
