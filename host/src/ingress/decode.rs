//! Three shapes of an event, one normal form.
//!
//! - Form and query hold nested keys as PHP's `http_build_query` writes them: `newparam[title]=`, `clids[0]=`. So do the
//!   parts of a multipart body.
//! - JSON is brought to what the same data would be as a form: every scalar a string, `true` and `false` as `1` and `0`,
//!   null and empty arrays gone. So one event normalises to one thing, whichever way it came.
//! - A JSON number is the text that its sender wrote, digit for digit: no number is too large or too fine.
//! - A byte-order mark before a body, and white space around a field's name, mean nothing. A name with a character that
//!   nobody sees is refused: it would be another field than it looks. Values are data, and stay as they are.
//! - Keys that count 0, 1, 2, … are a list, all others an object.
//! - `ses`, a live session cookie of the acting user, is dropped here, before anything else sees it.
//! - Depth and number of fields are bounded. Work is linear in the size of the body.
//!
//! Not here: the event's name, id and time (`ingress`), sizes in bytes (the server cuts a body before it gets here).

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::text::{self, Invisible};

/// How many levels of nesting are read.
pub const MOST_LEVELS: usize = 16;
/// How many fields are read, nested ones included: an import of 5,000 rows has 10,000.
pub const MOST_FIELDS: usize = 16_384;

/// Why a body or query can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("a `%` is not followed by two hexadecimal digits (pair {0} of the form)")]
    Percent(usize),
    /// Bytes that are not UTF-8.
    #[error("the text is not UTF-8 ({0})")]
    Utf8(String),
    /// A name with a character that nobody sees.
    #[error("the name of the field `{0}` holds {1}: type it anew")]
    Invisible(String, Invisible),
    /// A key whose brackets do not match, or `[]` among named keys.
    #[error("the brackets of a field's name do not match, or `[]` stands among named keys")]
    Brackets,
    /// The same field twice, or once as a value and once as a group.
    #[error("the field `{0}` is there twice")]
    Duplicate(String),
    /// Too deep.
    #[error("the fields are nested deeper than {MOST_LEVELS} levels")]
    Depth,
    /// Too many.
    #[error("there are more than {MOST_FIELDS} fields")]
    Count,
    /// Not JSON.
    #[error("the body is not valid JSON: {0}")]
    Json(String),
    /// JSON, but not an object.
    #[error("the body is JSON, but not an object")]
    NotObject,
}

/// Reads a form body or a query string.
///
/// # Errors
/// Any [`Error`] but those about JSON.
pub fn form(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    let mut fields = Fields::default();
    for (number, pair) in (1..).zip(without_marks(bytes).split(|byte| *byte == b'&').filter(|pair| !pair.is_empty())) {
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
            None => (pair, &[][..]),
        };
        fields.put(&percent_decoded(key, number)?, percent_decoded(value, number)?)?;
    }
    Ok(fields.finished())
}

/// A form without what an editor or a shell leaves at its ends; inside, all this would be percent-encoded.
fn without_marks(mut bytes: &[u8]) -> &[u8] {
    loop {
        let encoded = bytes.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"%EF%BB%BF"));
        let rest = text::unmarked_bytes(if encoded { bytes.get(9..).unwrap_or_default() } else { bytes }).trim_ascii();
        if rest.len() == bytes.len() {
            return bytes;
        }
        bytes = rest;
    }
}

/// The fields of a form, while its pairs are read.
#[derive(Debug, Default)]
pub(super) struct Fields {
    root: Map<String, Value>,
    count: usize,
}

impl Fields {
    /// Takes one pair.
    pub(super) fn put(&mut self, key: &str, value: String) -> Result<(), Error> {
        self.count += 1;
        if self.count > MOST_FIELDS {
            return Err(Error::Count);
        }
        insert(&mut self.root, key, value)
    }

    /// All of them in their normal form.
    pub(super) fn finished(self) -> Map<String, Value> {
        without_session(self.root.into_iter().map(|(key, value)| (key, with_lists(value))).collect())
    }
}

/// Reads a JSON body.
///
/// # Errors
/// [`Error::Json`], [`Error::NotObject`], [`Error::Duplicate`], [`Error::Invisible`], [`Error::Depth`], [`Error::Count`],
/// [`Error::Utf8`].
pub fn json(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    let whole = std::str::from_utf8(bytes).map_err(|error| Error::Utf8(format!("byte {}", error.valid_up_to() + 1)))?;
    let text = whole.trim_start_matches('\u{feff}');
    let quoted = text::with_numbers_as_text(text);
    let budget = Budget { fields: Cell::new(0), failure: Cell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_str(&quoted);
    let read = Node { budget: &budget, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(Some(Value::Object(object))) => Ok(without_session(object)),
        // PHP writes an empty array so, whatever it stands for.
        Ok(None) if text.trim_start().starts_with(['{', '[']) => Ok(Map::new()),
        Ok(_) => Err(Error::NotObject),
        Err(error) => Err(budget.failure.take().unwrap_or_else(|| Error::Json(what_is_wrong(text, &error)))),
    }
}

/// The error with its place in what was sent, and by its name where a character that nobody sees is the cause.
fn what_is_wrong(text: &str, error: &serde_json::Error) -> String {
    let unseen =
        text::outside_strings(text).filter(|(_, byte)| !byte.is_ascii()).find_map(|(at, _)| Invisible::at(text, at));
    match (unseen, serde_json::from_str::<serde::de::IgnoredAny>(text)) {
        (Some(unseen), _) => format!("{unseen} stands among its values"),
        (None, Err(error)) => error.to_string(),
        (None, Ok(_)) => error.to_string(),
    }
}

fn percent_decoded(bytes: &[u8], pair: usize) -> Result<String, Error> {
    let plus_free: Cow<'_, [u8]> = if bytes.contains(&b'+') {
        bytes.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect::<Vec<_>>().into()
    } else {
        bytes.into()
    };
    // The library leaves a broken escape as it stands; here it is an error, because it means a cut or mangled body.
    let mut rest = &*plus_free;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if !rest.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(Error::Percent(pair));
        }
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode(&plus_free).collect();
    String::from_utf8(decoded).map_err(|_| Error::Utf8(format!("pair {pair} of the form")))
}

/// A field's name as it is meant.
fn name_of(text: &str) -> Result<&str, Error> {
    match text::invisible(text.trim()) {
        Some(found) => Err(Error::Invisible(shown(text), found)),
        None => Ok(text.trim()),
    }
}

/// Puts one pair where its key says. Groups are objects here; [`finished`] finds the lists among them.
fn insert(root: &mut Map<String, Value>, key: &str, value: String) -> Result<(), Error> {
    let key = key.trim();
    let (name, mut rest) = match key.find('[') {
        // PHP takes a leading bracket as part of the name.
        Some(at) if at > 0 => key.split_at(at),
        _ => (key, ""),
    };
    let mut group = root;
    let mut segment = Cow::Borrowed(name_of(name)?);
    let mut depth = 0;
    while !rest.is_empty() {
        depth += 1;
        if depth >= MOST_LEVELS {
            return Err(Error::Depth);
        }
        let inner = rest.strip_prefix('[').ok_or(Error::Brackets)?;
        let (next, after) = inner.split_once(']').ok_or(Error::Brackets)?;
        let slot = group.entry(&*segment).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inside) = slot else { return Err(Error::Duplicate(shown(key))) };
        group = inside;
        let next = name_of(next)?;
        segment =
            if next.is_empty() { Cow::Owned(appended(group).ok_or(Error::Brackets)?) } else { Cow::Borrowed(next) };
        rest = after;
    }
    if group.contains_key(&*segment) {
        return Err(Error::Duplicate(shown(key)));
    }
    group.insert(segment.into_owned(), Value::String(value));
    Ok(())
}

/// The key that `a[]=` stands for in a group that counts up so far; `http_build_query` never mixes it with names.
fn appended(group: &Map<String, Value>) -> Option<String> {
    let counts = group.keys().next_back().is_none_or(|last| is_index(last, group.len() - 1));
    counts.then(|| group.len().to_string())
}

pub(super) fn shown(key: &str) -> String {
    key.chars().take(64).collect::<String>().escape_debug().to_string()
}

fn with_lists(value: Value) -> Value {
    let Value::Object(object) = value else { return value };
    let counts_up = object.keys().enumerate().all(|(index, key)| is_index(key, index));
    if counts_up {
        Value::Array(object.into_iter().map(|(_, value)| with_lists(value)).collect())
    } else {
        Value::Object(object.into_iter().map(|(key, value)| (key, with_lists(value))).collect())
    }
}

fn is_index(key: &str, index: usize) -> bool {
    key.parse::<usize>() == Ok(index) && (key.len() == 1 || !key.starts_with('0'))
}

fn without_session(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.shift_remove("ses");
    fields
}

/// What one body may use, and the error that the JSON library can't carry.
struct Budget {
    fields: Cell<usize>,
    failure: Cell<Option<Error>>,
}

impl Budget {
    fn fail<E: serde::de::Error>(&self, error: Error) -> E {
        let message = error.to_string();
        self.failure.set(Some(error));
        E::custom(message)
    }

    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        self.fields.set(self.fields.get() + 1);
        if self.fields.get() > MOST_FIELDS { Err(self.fail(Error::Count)) } else { Ok(()) }
    }
}

/// Reads one JSON value to its normal form; `None` is a value that a form would not hold.
#[derive(Clone, Copy)]
struct Node<'a> {
    budget: &'a Budget,
    depth: usize,
}

impl<'a> Node<'a> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MOST_LEVELS {
            return Err(self.budget.fail(Error::Depth));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Option<Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Option<Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(Value::from(if value { "1" } else { "0" })))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(Value::from(value)))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Some(Value::from(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        let mut index = 0_usize;
        while let Some(item) = items.next_element_seed(inner)? {
            self.budget.count()?;
            if let Some(item) = item {
                object.insert(index.to_string(), item);
            }
            index += 1;
        }
        Ok(group(object))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.budget.count()?;
            let key = name_of(&key).map_err(|error| self.budget.fail(error))?.to_owned();
            if !seen.insert(key.clone()) {
                return Err(self.budget.fail(Error::Duplicate(shown(&key))));
            }
            if let Some(value) = entries.next_value_seed(inner).map_err(A::Error::custom)? {
                object.insert(key, value);
            }
        }
        // The root stays an object, whatever its keys.
        Ok(if self.depth == 0 { Some(Value::Object(object)) } else { group(object) })
    }
}

/// A group as a form would hold it: gone when empty, a list when its keys count up.
fn group(object: Map<String, Value>) -> Option<Value> {
    if object.is_empty() {
        return None;
    }
    if object.keys().enumerate().all(|(index, key)| is_index(key, index)) {
        return Some(Value::Array(object.into_iter().map(|(_, value)| value).collect()));
    }
    Some(Value::Object(object))
}

#[cfg(test)]
mod tests;
