//! The habits of PHP that a caller of the CRM can see: request decoding, `http_build_query`, `json_encode`, text cleaning.
//!
//! - Nothing here knows a record or a method.
//! - Every rule was measured on the real program; where only one direction was measured, only that one is imitated.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use serde_json::{Map, Value};

/// `urlencode` leaves these three signs alone, and turns a space into `+`.
const URLENCODE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b' ');

/// How a text field is cleaned on save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Titles and activity texts lose quotes and backslashes altogether when they come as JSON.
    Bare,
    /// Other fields keep what they can.
    Plain,
}

/// Decodes `a=1&b[c]=2&d[]=3` into nested values, all of them strings.
pub(super) fn decode_form(text: &[u8]) -> Map<String, Value> {
    let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default();
        (decode_part(name), decode_part(halves.next().unwrap_or_default()))
    });
    nest(pairs)
}

/// Builds nested values from flat pairs as PHP does for a request.
pub(super) fn nest(pairs: impl Iterator<Item = (String, String)>) -> Map<String, Value> {
    let mut root = Map::new();
    for (name, value) in pairs {
        let path = path_of(&name);
        insert(&mut root, &path, value);
    }
    root.into_iter().map(|(name, value)| (name, listed(value))).collect()
}

/// Flattens values into the pairs of `http_build_query`: NULL and empty arrays vanish.
pub(super) fn flatten(values: &Map<String, Value>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (name, value) in values {
        flatten_into(name, value, &mut pairs);
    }
    pairs
}

/// Joins pairs into a form body or a query string.
pub(super) fn build_query(pairs: &[(String, String)]) -> String {
    let encoded: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", urlencode(name), urlencode(value))).collect();
    encoded.join("&")
}

/// `json_encode` with its defaults: non-ASCII as `\uXXXX`, slash as `\/`, no zero fraction.
pub(super) fn json_encode(value: &Value) -> String {
    let mut out = String::new();
    encode_into(value, &mut out);
    out
}

/// The REST answers' encoding: Cyrillic is turned back by a blind replacement, which also hits a `\u0431` somebody typed.
pub(super) fn rest_encode(value: &Value) -> String {
    let escaped = json_encode(value);
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some((before, after)) = rest.split_once("\\u") {
        out.push_str(before);
        let letter = after
            .get(..4)
            .and_then(|hex| u32::from_str_radix(hex, 16).ok())
            .and_then(char::from_u32)
            .filter(|letter| is_russian(*letter));
        if let (Some(letter), Some(tail)) = (letter, after.get(4..)) {
            out.push(letter);
            rest = tail;
        } else {
            out.push_str("\\u");
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Text as it survives a save.
pub(super) fn clean(text: &str, field: Field, json: bool) -> String {
    // What looked like a tag is gone; the other signs become brackets.
    let plain = strip_tags(text).replace('<', "[").replace('>', "]");
    match (json, field) {
        (false, _) => plain.replace('\\', "").replace('"', "”").replace('\'', "&acute;"),
        (true, Field::Bare) => plain.replace(['\\', '"', '\''], ""),
        (true, Field::Plain) => plain.replace('"', "”"),
    }
}

/// A company's title as the CRM rewrites it: the legal form moves to the end.
pub(super) fn company_title(title: &str) -> String {
    const FORMS: [&str; 5] = ["ООО", "ОАО", "ЗАО", "ПАО", "АО"];
    match title.split_once(' ') {
        Some((form, name)) if FORMS.contains(&form) => format!("{}, {form}", name.trim()),
        _ => title.to_owned(),
    }
}

/// A scalar as PHP turns it into text; nothing for arrays.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            number.as_f64().filter(|_| !number.is_i64()).map_or_else(|| number.to_string(), short_float)
        }
        Value::Bool(true) => "1".to_owned(),
        _ => String::new(),
    }
}

/// `(int)` of a scalar: leading digits count, anything else is 0.
pub(super) fn int_of(value: &Value) -> i64 {
    let text = text_of(value);
    let trimmed = text.trim();
    let end = trimmed
        .char_indices()
        .find(|(at, sign)| !(sign.is_ascii_digit() || (*at == 0 && *sign == '-')))
        .map_or(trimmed.len(), |(at, _)| at);
    trimmed.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// `(float)` of a scalar; a decimal comma counts.
pub(super) fn float_of(value: &Value) -> f64 {
    text_of(value).trim().replace(',', ".").parse().unwrap_or(0.0)
}

/// A number as the REST answers print it: no zero fraction.
pub(super) fn number(amount: f64) -> Value {
    let text = short_float(amount);
    text.parse::<i64>().map_or_else(|_| Value::from(amount), Value::from)
}

/// A float without trailing zeros.
pub(super) fn short_float(amount: f64) -> String {
    let rounded = (amount * 100.0).round() / 100.0;
    format!("{rounded}")
}

fn decode_part(part: &[u8]) -> String {
    let spaced: Vec<u8> = part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_decode(&spaced).decode_utf8_lossy().into_owned()
}

fn urlencode(text: &str) -> String {
    utf8_percent_encode(text, URLENCODE).to_string().replace(' ', "+")
}

/// Splits `a.b[c][]` into `a_b`, `c` and an empty step: a dot in the first name becomes `_`, which loses `date.plan`.
fn path_of(name: &str) -> Vec<String> {
    let (first, rest) = name.split_once('[').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let mut path = vec![first.trim_start().replace(['.', ' '], "_")];
    if let Some(rest) = rest {
        path.extend(rest.trim_end_matches(']').split("][").map(ToOwned::to_owned));
    }
    path
}

fn insert(into: &mut Map<String, Value>, path: &[String], value: String) {
    let Some((step, rest)) = path.split_first() else { return };
    let key = if step.is_empty() { into.len().to_string() } else { step.clone() };
    if rest.is_empty() {
        into.insert(key, Value::String(value));
        return;
    }
    let slot = into.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    if let Value::Object(inner) = slot {
        insert(inner, rest, value);
    }
}

/// PHP has one array type; consecutive keys from 0 read as a list.
fn listed(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    let is_list = !map.is_empty() && map.keys().enumerate().all(|(index, key)| *key == index.to_string());
    if is_list {
        Value::Array(map.into_iter().map(|(_, inner)| listed(inner)).collect())
    } else {
        Value::Object(map.into_iter().map(|(key, inner)| (key, listed(inner))).collect())
    }
}

fn flatten_into(name: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Bool(flag) => pairs.push((name.to_owned(), if *flag { "1" } else { "0" }.to_owned())),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, inner)| flatten_into(&format!("{name}[{index}]"), inner, pairs))
        }
        Value::Object(values) => {
            values.iter().for_each(|(key, inner)| flatten_into(&format!("{name}[{key}]"), inner, pairs))
        }
        scalar => pairs.push((name.to_owned(), text_of(scalar))),
    }
}

fn encode_into(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => encode_text(text, out),
        Value::Array(values) => {
            out.push('[');
            for (index, inner) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                encode_into(inner, out);
            }
            out.push(']');
        }
        Value::Object(values) => {
            out.push('{');
            for (index, (key, inner)) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                encode_text(key, out);
                out.push(':');
                encode_into(inner, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn encode_text(text: &str, out: &mut String) {
    out.push('"');
    for sign in text.chars() {
        match sign {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '/' => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(sign),
            _ => {
                let mut units = [0; 2];
                for unit in sign.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

fn is_russian(letter: char) -> bool {
    matches!(letter, 'А'..='я' | 'Ё' | 'ё')
}

fn strip_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out.push_str(before);
        let opens =
            after.chars().next().is_some_and(|sign| sign.is_ascii_alphabetic() || matches!(sign, '/' | '!' | '?'));
        if opens {
            rest = after.split_once('>').map_or("", |(_, tail)| tail);
        } else {
            out.push('<');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}
