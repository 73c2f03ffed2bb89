//! Whether a value is stored: compared as the CRM keeps it, which is seldom as it was sent (measured on version 2025.4).
//!
//! It strips tags, turns `<` and `>` into `[` and `]` or drops them, rewrites quotes, drops backslashes, and moves the
//! legal form of a company to the end of its title.

use serde_json::{Map, Value};

use super::number;

/// Whether the record has this value in the field already, as far as the CRM can tell.
pub(super) fn holds(record: &Map<String, Value>, field: &str, value: &Value) -> bool {
    // Lists are shown by title beside their number.
    let id = format!("{field}ID");
    let last = if record.contains_key(field) { field } else { id.as_str() };
    let beside = [last.to_owned(), format!("{field}Name"), format!("{field}Title")];
    if let (Value::Object(wanted), Some(Value::Object(stored))) = (value, record.get(field)) {
        return wanted.iter().all(|(key, value)| holds(stored, key, value));
    }
    if let Value::Array(numbers) = value {
        return record
            .get(field)
            .is_some_and(|stored| numbers_of(stored) == numbers_of(&Value::Array(numbers.clone())));
    }
    if matches!(field, "pid_list" | "pid" | "coid1") {
        return record.get(field).is_some_and(|stored| numbers_of(stored) == numbers_of(value));
    }
    beside.iter().filter_map(|name| record.get(name)).any(|stored| same(stored, value))
}

/// Whether the record has taken this value, in a form of the CRM's own.
pub(super) fn took(record: &Map<String, Value>, field: &str, value: &Value) -> bool {
    if holds(record, field, value) {
        return true;
    }
    let Some(stored) = record.get(field) else { return false };
    let (stored, wanted) = (plain(stored), plain(value));
    same_amount(&stored, &wanted)
        || same_moment(&stored, &wanted)
        // `ООО "Ромашка"` comes back as `”Ромашка”, ООО`, and a deal's title behind its number.
        || field == "title" && is_plane(&wanted) && !words(&wanted).is_empty() && words(&wanted) == words(&stored)
}

/// Whether two texts are the same once the CRM has stored them.
pub(crate) fn same_text(one: &str, other: &str) -> bool {
    same(&Value::from(one), &Value::from(other))
}

fn same(stored: &Value, wanted: &Value) -> bool {
    let (stored, wanted) = (plain(stored), plain(wanted));
    let kept = comparable(&stored);
    // Some fields drop the signs that others turn into brackets.
    kept == comparable(&wanted) || kept == comparable(&untagged(&wanted).replace(['<', '>'], ""))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}

/// A text with everything left out that the CRM rewrites.
fn comparable(text: &str) -> String {
    let plain = text.replace("&acute;", "'").replace("&quot;", "\"").replace("&amp;", "&").replace("\r\n", "\n");
    let plain = plain.replace("&laquo;", "").replace("&raquo;", "");
    let kept = untagged(&plain)
        .chars()
        .filter_map(|character| match character {
            '"' | '\'' | '“' | '”' | '„' | '«' | '»' | '’' | '‘' | '´' | '\\' => None,
            '<' => Some('['),
            '>' => Some(']'),
            other => Some(other),
        })
        .collect::<String>();
    kept.trim().to_owned()
}

/// A text without tags, as PHP takes them out.
fn untagged(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut in_tag = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            // PHP takes `<` for a tag only when one begins there.
            '<' if characters.peek().is_some_and(|next| next.is_alphabetic() || "/!?".contains(*next)) => in_tag = true,
            '>' if in_tag => in_tag = false,
            _ if in_tag => {}
            other => kept.push(other),
        }
    }
    kept
}

/// `1 200,50` and 1200.5.
fn same_amount(stored: &str, wanted: &str) -> bool {
    let amount = |text: &str| text.replace([' ', '\u{a0}'], "").replace(',', ".").parse::<f64>().ok();
    amount(stored).zip(amount(wanted)).is_some_and(|(one, other)| (one - other).abs() < 0.005)
}

/// `9:05` and `09:05:00`, `2026-1-5` and `2026-01-05`.
fn same_moment(stored: &str, wanted: &str) -> bool {
    let parts = |text: &str| {
        let digits_only = text.chars().all(|sign| sign.is_ascii_digit() || "-:. TZ".contains(sign));
        let mut parts: Vec<u64> = Vec::new();
        for part in text.split(['-', ':', ' ', 'T', 'Z', '.']).filter(|part| !part.is_empty()) {
            parts.push(part.parse().ok()?);
        }
        while parts.len() > 2 && parts.last() == Some(&0) {
            parts.pop();
        }
        (digits_only && parts.len() > 1).then_some(parts)
    };
    parts(stored).zip(parts(wanted)).is_some_and(|(one, other)| one == other)
}

/// Whether the CRM's tables can hold the text: three bytes a character.
pub(super) fn is_plane(text: &str) -> bool {
    text.chars().all(|character| u32::from(character) <= 0xffff)
}

fn words(text: &str) -> Vec<String> {
    let bare = text.split_once(": ").filter(|(number, _)| number.starts_with("СД")).map_or(text, |(_, rest)| rest);
    let mut words: Vec<String> = untagged(bare)
        .split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.sort();
    words
}

fn numbers_of(value: &Value) -> Vec<u64> {
    match value {
        Value::Array(items) => items.iter().filter_map(number).filter(|one| *one > 0).collect(),
        Value::Number(_) => number(value).into_iter().filter(|one| *one > 0).collect(),
        Value::String(text) => {
            text.split([',', ';']).filter_map(|part| part.trim().parse().ok()).filter(|one| *one > 0).collect()
        }
        _ => Vec::new(),
    }
}

/// How the CRM cleans a text when it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleaning {
    /// Titles and a task's texts lose quotes of all kinds.
    Bare,
    /// A contact's fields.
    Field,
    /// The same, with lists of which no part is empty.
    Parts,
}

/// Whether a stored text that is sent again comes out as it was. Rows that came in past the CRM's own pages may not.
pub(super) fn survives(text: &str, cleaning: Cleaning) -> bool {
    let kept = text == text.trim() && text == untagged(text) && !text.contains("\\r\\n") && is_plane(text);
    let all = ["<", ">", "\"", "&laquo;", "&raquo;", "«", "»"];
    kept && !all.iter().any(|sign| text.contains(sign))
        && match cleaning {
            Cleaning::Bare => !text.contains(['\'', '`', '\\']),
            Cleaning::Field => true,
            Cleaning::Parts => !text.contains(";;") && !text.ends_with(';'),
        }
}
