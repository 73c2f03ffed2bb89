//! A value that must not be seen: it prints as `***`, everywhere. And one that is read again while the host runs.
//!
//! - Texts that come from plugins, CRMs and other servers may hold secrets of the configuration, as they are or encoded:
//!   the one [`Scrubber`] knows them all, and everything that is recorded, logged or told goes through it.
//! - What is shorter than [`LEAST`] characters stands everywhere by chance, and is not looked for.
//! - A program that wants to tell a secret can write it in a way of its own (backwards, say); that is not found.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};

/// Characters that a secret must have to be looked for in texts.
const LEAST: usize = 6;
/// Secrets that are remembered: one that was replaced may still come back in an answer. The oldest go first.
const MOST_SECRETS: usize = 1_000;

/// A key, token or password.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// Hides a value.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// What may be replaced while the host runs, such as a key that is changed. Clones share it; who holds what it was goes on
/// with that.
#[derive(Debug)]
pub struct Renewable<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Renewable<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Renewable<T> {
    /// With what it is at first.
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// What it is now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it, for all clones.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl<T: Default> Default for Renewable<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// Takes secrets out of texts. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct Scrubber(Renewable<Known>);

#[derive(Debug, Default)]
struct Known {
    secrets: Vec<Secret>,
    finder: Option<AhoCorasick>,
}

impl Scrubber {
    /// One that knows these.
    pub fn of(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let scrubber = Self::default();
        scrubber.learn(secrets);
        scrubber
    }

    /// Knows these as well, from now on.
    pub fn learn(&self, secrets: impl IntoIterator<Item = Secret>) {
        let mut known = self.0.get().secrets.clone();
        let before = known.len();
        for secret in secrets {
            // A secret of several lines, such as a key's file, is recognised by each of them too.
            let lines = secret.expose().lines().map(str::trim).filter(|line| line.len() >= 2 * LEAST);
            let lines: Vec<Secret> = lines.map(|line| Secret::new(line.to_owned())).collect();
            for secret in std::iter::once(secret).chain(lines) {
                if secret.expose().chars().count() >= LEAST && !known.contains(&secret) {
                    known.push(secret);
                }
            }
        }
        if known.len() == before {
            return;
        }
        known.drain(..known.len().saturating_sub(MOST_SECRETS));
        let forms: BTreeSet<String> = known.iter().flat_map(|secret| forms(secret.expose())).collect();
        // The case of hexadecimal digits is anybody's choice, and a name of a server has small letters only.
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .ascii_case_insensitive(true)
            .build(forms.iter().filter(|form| form.chars().count() >= LEAST));
        // It fails only for more than four thousand million of states.
        self.0.set(Known { secrets: known, finder: finder.ok() });
    }

    /// The text without secrets.
    pub fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let known = self.0.get();
        match &known.finder {
            Some(finder) if finder.is_match(text) => {
                let mut clean = String::with_capacity(text.len());
                finder.replace_all_with(text, &mut clean, |_, _, clean| {
                    clean.push_str("***");
                    true
                });
                Cow::Owned(clean)
            }
            _ => Cow::Borrowed(text),
        }
    }

    /// Whether a text holds a secret.
    pub fn finds(&self, text: &str) -> bool {
        self.0.get().finder.as_ref().is_some_and(|finder| finder.is_match(text))
    }
}

/// A value as programs write it: as it is, in addresses and forms, in JSON, in pages, in base64 and in hexadecimal.
pub fn forms(value: &str) -> BTreeSet<String> {
    let of = |written: &dyn Fn(char) -> String| value.chars().map(written).collect::<String>();
    let bytes = |character: char| character.to_string().into_bytes();
    let percent = |kept: &'static str, space: &'static str| {
        move |character: char| match character {
            ' ' if !space.is_empty() => space.to_owned(),
            plain if plain.is_ascii_alphanumeric() || kept.contains(plain) => plain.to_string(),
            other => bytes(other).iter().map(|byte| format!("%{byte:02X}")).collect(),
        }
    };
    let json = |slash: bool, ascii: bool| {
        move |character: char| match character {
            '/' if slash => "\\/".to_owned(),
            '"' => "\\\"".to_owned(),
            other if ascii && !other.is_ascii() => {
                other.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
            }
            other => serde_json::Value::from(other.to_string()).to_string().trim_matches('"').to_owned(),
        }
    };
    let page = |character: char| match character {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#039;".to_owned(),
        other => other.to_string(),
    };
    let mut forms = BTreeSet::from([value.to_owned(), of(&page)]);
    for (slash, ascii) in [(false, false), (false, true), (true, false), (true, true)] {
        forms.insert(of(&json(slash, ascii)));
    }
    for space in ["+", ""] {
        for kept in ["", "-_.", "-_.~", "-_.*", "-_.!~*'()", "-_.~/:?=&@"] {
            forms.insert(of(&percent(kept, space)));
        }
    }
    forms.insert(value.bytes().map(|byte| format!("{byte:02x}")).collect());
    for alphabet in [STANDARD, ADDRESS] {
        forms.extend((0..3).map(|before| base64(alphabet, value.as_bytes(), before)));
    }
    forms
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const ADDRESS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What of a value in base64 is the same whatever stands around it, with so many bytes before it in its group of three.
fn base64(alphabet: &[u8; 64], value: &[u8], before: usize) -> String {
    let bit = |at: usize| {
        let byte = value.get((at / 8).checked_sub(before)?)?;
        Some((byte >> (7 - at % 8)) & 1)
    };
    let digit = |place: usize| {
        let index = (0..6).try_fold(0_u8, |index, step| Some(index << 1 | bit(place * 6 + step)?))?;
        alphabet.get(usize::from(index)).map(|letter| char::from(*letter))
    };
    (0..(before + value.len()) * 8 / 6).filter_map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_however_a_program_writes_it() {
        let secret = "ключ \"a/b+c&d\"=?~é-0123";
        let scrubber = Scrubber::of([Secret::new(secret.to_owned()), Secret::new("ab".to_owned())]);
        let written = [
            secret.to_owned(),
            serde_json::json!({ "a": secret }).to_string(),
            serde_json::json!({ "a": serde_json::json!({ "b": 1, "c": "x" }).to_string(), "d": secret }).to_string(),
            url::form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
            percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC).to_string(),
            "\\u043a\\u043b\\u044e\\u0447 \\\"a\\/b+c&d\\\"=?~\\u00e9-0123".to_owned(),
            "ключ &quot;a/b+c&amp;d&quot;=?~é-0123".to_owned(),
            secret.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ];
        for text in written {
            let clean = scrubber.scrub(&text);
            assert!(clean.contains("***") && !clean.contains("0123"), "{text}: {clean}");
        }
        // Of base64 the letters at the ends depend on what stands beside.
        for (text, rest) in [("QUJDa2V5LTAxMjM0NTY3ODk=", "QUJD***"), ("eGtleS0wMTIzNDU2Nzg5IQ==", "eG***")] {
            let clean = Scrubber::of([Secret::new("key-0123456789".to_owned())]).scrub(text).into_owned();
            assert!(clean.starts_with(rest) && clean.len() <= rest.len() + 5, "{text}: {clean}");
        }
        assert_eq!(scrubber.scrub("ab, and nothing else"), "ab, and nothing else");
    }

    #[test]
    fn of_two_secrets_the_longer_is_taken_and_one_that_was_replaced_is_still_known() {
        let scrubber = Scrubber::of(["planted", "planted-and-more"].map(|text| Secret::new(text.to_owned())));
        scrubber.clone().learn([Secret::new("another-one".to_owned())]);
        assert_eq!(scrubber.scrub("planted-and-more planted ANOTHER-one"), "*** *** ***");
        assert!(scrubber.finds("xplantedx") && !scrubber.finds("plante"));
    }
}
