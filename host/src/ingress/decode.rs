//! Three shapes of an event, one normal form.
//!
//! - Form and query hold nested keys as PHP's `http_build_query` writes them: `newparam[title]=`, `clids[0]=`.
//! - JSON is brought to what the same data would be as a form: every scalar a string, `true` and `false` as `1` and `0`,
//!   null and empty arrays gone. So one event normalises to one thing, whichever way it came.
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

/// How many levels of nesting are read.
pub const MOST_LEVELS: usize = 16;
/// How many fields are read, nested ones included: an import of 5,000 rows has 10,000.
pub const MOST_FIELDS: usize = 16_384;

/// Why a body or query can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("a `%` is not followed by two hexadecimal digits")]
    Percent,
    /// Bytes that are not UTF-8.
    #[error("the text is not UTF-8")]
    Utf8,
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
    let mut root = Map::new();
    let mut count = 0;
    for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        count += 1;
        if count > MOST_FIELDS {
            return Err(Error::Count);
        }
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
            None => (pair, &[][..]),
        };
        insert(&mut root, &percent_decoded(key)?, percent_decoded(value)?)?;
    }
    Ok(finished(root))
}

/// Reads a JSON body.
///
/// # Errors
/// [`Error::Json`], [`Error::NotObject`], [`Error::Duplicate`], [`Error::Depth`], [`Error::Count`], [`Error::Utf8`].
pub fn json(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Utf8)?;
    let budget = Budget { fields: Cell::new(0), failure: Cell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Node { budget: &budget, depth: 0 }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(Some(Value::Object(object))) => Ok(without_session(object)),
        Ok(None) if text.trim_start().starts_with('{') => Ok(Map::new()),
        Ok(_) => Err(Error::NotObject),
        Err(error) => Err(budget.failure.take().unwrap_or_else(|| Error::Json(error.to_string()))),
    }
}

fn percent_decoded(bytes: &[u8]) -> Result<String, Error> {
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
            return Err(Error::Percent);
        }
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode(&plus_free).collect();
    String::from_utf8(decoded).map_err(|_| Error::Utf8)
}

/// Puts one pair where its key says. Groups are objects here; [`finished`] finds the lists among them.
fn insert(root: &mut Map<String, Value>, key: &str, value: String) -> Result<(), Error> {
    let (name, mut rest) = match key.find('[') {
        // PHP takes a leading bracket as part of the name.
        Some(at) if at > 0 => key.split_at(at),
        _ => (key, ""),
    };
    let mut group = root;
    let mut segment = Cow::Borrowed(name);
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

fn shown(key: &str) -> String {
    key.chars().take(64).collect()
}

fn finished(root: Map<String, Value>) -> Map<String, Value> {
    without_session(root.into_iter().map(|(key, value)| (key, with_lists(value))).collect())
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

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(Value::from(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(Value::from(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        // PHP writes 1.50 as 1.5 and 2.0 as 2, as Rust does.
        Ok(Some(Value::from(value.to_string())))
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
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_event_reads_the_same_in_every_shape() {
        let cases: [(&str, &str, Value); 6] = [
            ("clid=1&event=client.add", r#"{"clid":1,"event":"client.add"}"#, json!({"clid":"1","event":"client.add"})),
            (
                "newparam%5Btitle%5D=%D0%9E%D0%9E%D0%9E+%22%D0%A0%22&newparam%5Bon%5D=1",
                r#"{"newparam":{"title":"ООО \"Р\"","on":true,"off":null,"none":[]}}"#,
                json!({"newparam":{"title":"ООО \"Р\"","on":"1"}}),
            ),
            ("clids%5B0%5D=10&clids%5B1%5D=11", r#"{"clids":["10",11]}"#, json!({"clids":["10","11"]})),
            (
                "info[7][olduser]=1&info[9][olduser]=2",
                r#"{"info":{"7":{"olduser":"1"},"9":{"olduser":"2"}}}"#,
                json!({"info":{"7":{"olduser":"1"},"9":{"olduser":"2"}}}),
            ),
            ("a[0]=x&a[2]=y&b=1.5", r#"{"a":["x",null,"y"],"b":1.50}"#, json!({"a":{"0":"x","2":"y"},"b":"1.5"})),
            ("ses=SESCOOKIE&clid=2", r#"{"ses":"SESCOOKIE","clid":"2"}"#, json!({"clid":"2"})),
        ];
        for (as_form, as_json, expected) in cases {
            assert_eq!(form(as_form.as_bytes()).map(Value::Object), Ok(expected.clone()), "{as_form}");
            assert_eq!(json(as_json.as_bytes()).map(Value::Object), Ok(expected), "{as_json}");
        }
    }

    #[test]
    fn broken_input_is_refused_by_its_own_name() {
        let deep_json = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
        let deep_form = format!("a{}=1", "[b]".repeat(100));
        let wide_form = (0..20_000).map(|n| format!("k{n}=1&")).collect::<String>();
        let wide_json = format!("{{{}\"end\":1}}", (0..20_000).map(|n| format!("\"k{n}\":1,")).collect::<String>());
        type Read = Result<Map<String, Value>, Error>;
        let cases: [(Read, Error); 14] = [
            (form(b"a=%zz"), Error::Percent),
            (form(b"a=%4"), Error::Percent),
            (form(b"a=%ff"), Error::Utf8),
            (form(b"a[b=1"), Error::Brackets),
            (form(b"a[b]c=1"), Error::Brackets),
            (form(b"a=1&a=2"), Error::Duplicate("a".into())),
            (form(b"a=1&a[b]=2"), Error::Duplicate("a[b]".into())),
            (form(deep_form.as_bytes()), Error::Depth),
            (form(wide_form.as_bytes()), Error::Count),
            (json(b"[1]"), Error::NotObject),
            (json(b"\"a\""), Error::NotObject),
            (json(b"{\"a\":1,\"a\":2}"), Error::Duplicate("a".into())),
            (json(deep_json.as_bytes()), Error::Depth),
            (json(wide_json.as_bytes()), Error::Count),
        ];
        for (result, expected) in cases {
            assert_eq!(result, Err(expected));
        }
        for text in [&b"{"[..], b"{\"a\":}", b"{} x", b"", b"{\"a\":\"\\ud800\"}"] {
            assert!(matches!(json(text), Err(Error::Json(_))), "{text:?}");
        }
    }

    #[test]
    fn an_import_of_five_thousand_rows_passes() {
        let body: String = (0..5_000).map(|n| format!("clids%5B{n}%5D={n}&pids%5B{n}%5D={n}&")).collect();
        let fields = form(format!("{body}autor=1&event=client.import&identity=1&iduser1=1").as_bytes()).unwrap();
        assert_eq!(fields["clids"].as_array().map(Vec::len), Some(5_000));
        assert_eq!(fields["iduser1"], "1");
    }

    #[test]
    fn a_bracket_that_php_appends_does_not_overwrite() {
        assert_eq!(form(b"a[]=x&a[]=y").map(Value::Object), Ok(json!({"a":["x","y"]})));
        assert_eq!(form(b"a[b]=x&a[]=y"), Err(Error::Brackets));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            drop((form(&bytes), json(&bytes)));
        }

        #[test]
        fn a_form_reads_back_what_was_written(pairs in proptest::collection::btree_map("[a-z]{1,8}", "\\PC{0,20}", 1..20)) {
            let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            let body: Vec<String> = pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
            let mut expected: Map<String, Value> = pairs.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
            expected.remove("ses");
            proptest::prop_assert_eq!(form(body.join("&").as_bytes()), Ok(expected));
        }
    }
}
