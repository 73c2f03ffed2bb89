//! Values that are hidden, looked for in everything that is shown beside them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use super::{HIDDEN, LEAST};
use crate::secret;

/// Values that are looked for in all their forms; of more only as they are.
const MOST_IN_ALL_FORMS: usize = 200;
/// Digits by which a number is known however it is written: those at its end, because a country's code is written in many ways.
const DIGITS: std::ops::RangeInclusive<usize> = 7..=10;

/// What is looked for.
#[derive(Default)]
pub(super) struct Cover {
    words: Option<AhoCorasick>,
    digits: Option<AhoCorasick>,
}

impl Cover {
    pub(super) fn of(values: &BTreeSet<String>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let mut words: BTreeSet<Cow<'_, str>> = values.iter().map(|value| Cow::Borrowed(value.as_str())).collect();
        if values.len() <= MOST_IN_ALL_FORMS {
            words.extend(values.iter().flat_map(|value| secret::forms(value)).map(Cow::Owned));
        }
        words.retain(|word| word.chars().count() >= LEAST);
        let ends = values.iter().filter_map(|value| {
            let digits: String = value.chars().filter(char::is_ascii_digit).collect();
            let end = digits.get(digits.len().saturating_sub(*DIGITS.end())..)?;
            (digits.len() >= *DIGITS.start()).then(|| end.to_owned())
        });
        let digits: BTreeSet<String> = ends.collect();
        let finder = |words: &mut dyn Iterator<Item = &str>| {
            let builder =
                AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).ascii_case_insensitive(true).build(words);
            builder.ok()
        };
        Self {
            words: finder(&mut words.iter().map(AsRef::as_ref)),
            digits: finder(&mut digits.iter().map(String::as_str)).filter(|_| !digits.is_empty()),
        }
    }

    /// Hides the values in a text; the text as a whole where the digits of one stand in it with other signs between them.
    pub(super) fn text(&self, text: &mut String) {
        let spread = |text: &str| {
            let apart =
                |character: &char| !matches!(character, ' ' | '\u{a0}' | '-' | '(' | ')' | '.' | '/' | '+' | '_');
            let digits =
                text.chars().filter(apart).map(|character| if character.is_ascii_digit() { character } else { 'x' });
            digits.collect::<String>()
        };
        if let Some(words) = self.words.as_ref().filter(|words| words.is_match(text.as_str())) {
            let mut covered = String::with_capacity(text.len());
            words.replace_all_with(text, &mut covered, |_, _, covered| {
                covered.push_str(HIDDEN);
                true
            });
            *text = covered;
        }
        if self.digits.as_ref().is_some_and(|digits| digits.is_match(&spread(text))) {
            HIDDEN.clone_into(text);
        }
    }

    /// Hides the values in the texts, numbers and names of a value.
    pub(super) fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Number(number) => {
                let mut text = number.to_string();
                self.text(&mut text);
                if text != number.to_string() {
                    *value = Value::String(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                let taken = std::mem::take(fields);
                *fields = taken
                    .into_iter()
                    .map(|(mut name, mut inner)| {
                        self.text(&mut name);
                        self.value(&mut inner);
                        (name, inner)
                    })
                    .collect::<Map<_, _>>();
            }
            _ => {}
        }
    }
}

/// A text as programs of several kinds would read it: names of fields may be written with other signs.
pub(super) fn readings(text: &str) -> Vec<Cow<'_, str>> {
    let mut readings = vec![Cow::Borrowed(text)];
    // What was encoded may have been encoded again.
    for _ in 0..super::DEEPEST {
        let last = readings.last().cloned().unwrap_or_default();
        let mut next = last.into_owned();
        if next.contains('%') {
            next = percent_encoding::percent_decode_str(&next).decode_utf8_lossy().into_owned();
        }
        if next.contains('\\') {
            next = unescaped(&next, "\\u", 16, |rest| rest.get(..4).map(|digits| (digits, 4)))
                .replace("\\\"", "\"")
                .replace("\\/", "/");
        }
        if next.contains("&#") {
            next = unescaped(&next, "&#x", 16, entity);
            next = unescaped(&next, "&#", 10, entity);
        }
        if readings.last().is_some_and(|last| *last == next) {
            break;
        }
        readings.push(Cow::Owned(next));
    }
    readings
}

/// The digits of a character in a page, and how much of the text they take with the semicolon.
fn entity(rest: &str) -> Option<(&str, usize)> {
    let end = rest.bytes().take(8).position(|byte| byte == b';')?;
    Some((rest.get(..end)?, end + 1))
}

fn unescaped(text: &str, mark: &str, base: u32, digits: impl Fn(&str) -> Option<(&str, usize)>) -> String {
    let mut read = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(mark) {
        read.push_str(before);
        let found = digits(behind).and_then(|(digits, length)| {
            Some((char::from_u32(u32::from_str_radix(digits, base).ok()?)?, behind.get(length..)?))
        });
        rest = match found {
            Some((character, behind)) => {
                read.push(character);
                behind
            }
            None => {
                read.push_str(mark);
                behind
            }
        };
    }
    read + rest
}
