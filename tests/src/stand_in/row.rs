//! One record of the imitated database, and the parameters of one request.
//!
//! - A [`Row`] is a list of columns as MySQL would hand them over: numbers, strings or NULL, in column order.
//! - [`Params`] follow PHP's loose habits: a number and its text are the same, a missing name reads as empty.
//! - Neither knows a column's meaning; that belongs to the method's own file.

use serde_json::{Map, Value};

use super::php::{self, Field};

/// A stored record: its columns by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row(Map<String, Value>);

impl Row {
    /// The column's value; NULL when the record has no such column.
    #[must_use]
    pub fn get(&self, column: &str) -> &Value {
        self.0.get(column).unwrap_or(&Value::Null)
    }

    /// The column as text; empty for NULL.
    #[must_use]
    pub fn text(&self, column: &str) -> String {
        php::text_of(self.get(column))
    }

    /// The column as a whole number; 0 for NULL and for text that isn't one.
    #[must_use]
    pub fn int(&self, column: &str) -> i64 {
        php::int_of(self.get(column))
    }

    /// The column as an amount of money; 0 for NULL.
    #[must_use]
    pub fn amount(&self, column: &str) -> f64 {
        php::float_of(self.get(column))
    }

    /// All columns.
    #[must_use]
    pub fn columns(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(super) fn set(&mut self, column: &str, value: impl Into<Value>) {
        self.0.insert(column.to_owned(), value.into());
    }

    pub(super) fn is_blank(&self, column: &str) -> bool {
        self.text(column).is_empty()
    }
}

impl From<Value> for Row {
    fn from(value: Value) -> Self {
        match value {
            Value::Object(columns) => Self(columns),
            _ => Self::default(),
        }
    }
}

/// What a request carries besides its credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Params {
    map: Map<String, Value>,
    /// JSON mode cleans text differently from form mode.
    pub(super) json: bool,
}

impl Params {
    pub(super) fn new(map: Map<String, Value>, json: bool) -> Self {
        Self { map, json }
    }

    /// Parameters as a page's own form would send them.
    pub(super) fn of_form(value: &Value) -> Self {
        Self::new(value.as_object().cloned().unwrap_or_default(), false)
    }

    pub(super) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// The parameter as text; `None` when it is missing, empty or not a scalar.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.map.get(name).map(php::text_of).filter(|text| !text.is_empty())
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        self.map.get(name).map_or(0, php::int_of)
    }

    pub(super) fn yes(&self, name: &str) -> bool {
        self.text(name).as_deref() == Some("yes")
    }

    /// The parameter as the CRM would store it: tags stripped, quotes rewritten.
    pub(super) fn clean(&self, name: &str, field: Field) -> Option<String> {
        self.text(name).map(|text| php::clean(&text, field, self.json)).filter(|text| !text.is_empty())
    }

    /// The same as a column's value: NULL when there is nothing.
    pub(super) fn column(&self, name: &str) -> Value {
        self.clean(name, Field::Plain).map_or(Value::Null, Value::from)
    }

    /// A list of objects, such as the items of `add.list` or of a specification.
    pub(super) fn items(&self, name: &str) -> Vec<Params> {
        let values: Vec<&Value> = match self.map.get(name) {
            Some(Value::Array(values)) => values.iter().collect(),
            Some(Value::Object(values)) => values.values().collect(),
            _ => Vec::new(),
        };
        values.into_iter().filter_map(Value::as_object).map(|item| Params::new(item.clone(), self.json)).collect()
    }

    /// A nested object, such as `filter` or `recv`.
    pub(super) fn object(&self, name: &str) -> Map<String, Value> {
        self.map.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// The wanted columns in the wanted order, or all of them.
    pub(super) fn fields<'a>(&self, all: &[&'a str]) -> Vec<&'a str> {
        let Some(wanted) = self.text("fields") else { return all.to_vec() };
        wanted.split(',').filter_map(|name| all.iter().find(|known| **known == name.trim()).copied()).collect()
    }
}
