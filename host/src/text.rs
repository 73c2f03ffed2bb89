//! Text that people and their editors wrote: files, secrets, names.
//!
//! - A byte-order mark at the start is no part of the text.
//! - What can't be read as UTF-8 is refused with the place of the first byte that is wrong; UTF-16 is called by its name.
//! - A number in JSON has the digits that were written, where a library would read a binary number.
//! - Characters that nobody sees are found, so that a name, a key or a secret is never another one than it looks.
//! - What is printed or logged shows them by their numbers, so that no text moves a cursor or reads backwards ([`visible`]).
//!
//! Not here: what a text means. A value that people read (a title, a comment) may hold whatever it holds.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::files;

/// The byte-order mark, at the start of what some editors save.
const MARK: char = '\u{feff}';

/// Why a file's text can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// It is UTF-16, as Windows writes it.
    #[error("it is UTF-16: save it as UTF-8")]
    Utf16,
    /// It is in another encoding, or no text.
    #[error("it is not UTF-8 from {0} on: save it as UTF-8")]
    NotUtf8(Place),
}

/// A place in a text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// The place behind this text.
    pub fn behind(text: &str) -> Self {
        let ends = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
        let text = ends(text);
        let last = text.rsplit('\n').next().unwrap_or_default();
        Self { line: text.matches('\n').count() + 1, column: last.chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, character {}", self.line, self.column)
    }
}

/// A character that nobody sees, with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invisible {
    character: char,
    place: Place,
}

impl Invisible {
    /// What stands at this byte of a text, where nobody sees it.
    pub fn at(text: &str, at: usize) -> Option<Self> {
        let character = text.get(at..)?.chars().next().filter(|character| is_invisible(*character))?;
        Some(Self { character, place: Place::behind(text.get(..at)?) })
    }
}

impl fmt::Display for Invisible {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the invisible character U+{:04X} ({})", u32::from(self.character), self.place)
    }
}

/// Bytes of a file that people write: a configuration, grants, a manifest.
pub const MOST: u64 = 4 << 20;
/// Bytes of a file with a secret.
pub const MOST_SECRET: u64 = 64 << 10;

/// Reads a file that people write, of at most so many bytes.
///
/// # Errors
/// [`Error`] says what is wrong and where.
pub fn read(path: &Path, most: u64) -> Result<String, Error> {
    of(files::read(path, most)?)
}

/// The text of these bytes, without its mark.
///
/// # Errors
/// [`Error::Utf16`], [`Error::NotUtf8`].
pub fn of(bytes: Vec<u8>) -> Result<String, Error> {
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(error.as_bytes()))?;
    // Plain letters of UTF-16 without a mark are valid UTF-8 with a zero beside each.
    if text.contains('\0') && is_utf16(text.as_bytes()) {
        return Err(Error::Utf16);
    }
    Ok(match text.strip_prefix(MARK) {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

fn not_utf8(bytes: &[u8]) -> Error {
    if is_utf16(bytes) {
        return Error::Utf16;
    }
    let good = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    Error::NotUtf8(Place::behind(unmarked(good)))
}

fn is_utf16(bytes: &[u8]) -> bool {
    let zeros = |first: usize| bytes.iter().skip(first).step_by(2).take(64).filter(|byte| **byte == 0).count();
    let half = bytes.len().min(128) / 4;
    bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || half > 0 && zeros(0).max(zeros(1)) > half
}

/// A text without a mark at its start.
pub fn unmarked(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Bytes without a mark at their start.
pub fn unmarked_bytes(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)
}

/// A text without white space and invisible characters at its ends.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || is_invisible(character))
}

/// The first character of a text that nobody sees.
pub fn invisible(text: &str) -> Option<Invisible> {
    Invisible::at(text, text.find(is_invisible)?)
}

/// A secret as it is meant: without what an editor or a shell put around it. `lines`: it may have several, such as a
/// key's file.
///
/// # Errors
/// A sentence about what in it can't be part of a secret, without the secret.
pub fn secret(text: &str, lines: bool) -> Result<String, String> {
    let text = text.replace("\r\n", "\n");
    let text = trimmed(&text);
    let wrong = |character: char| match character {
        '\n' => !lines,
        '\t' | ' ' => false,
        other => other.is_control() || other.is_whitespace() || is_invisible(other),
    };
    let Some((at, character)) = text.char_indices().find(|(_, character)| wrong(*character)) else {
        return Ok(text.to_owned());
    };
    if character == '\n' {
        return Err(format!("has {} lines where one is meant", text.lines().count()));
    }
    let place = Place::behind(text.get(..at).unwrap_or_default());
    Err(format!("holds {}: type it anew", Invisible { character, place }))
}

/// JSON with each number as a string: its digits, where the library would read a binary number.
pub fn with_numbers_as_text(text: &str) -> Cow<'_, str> {
    let mut quoted = String::new();
    let (mut copied, mut free) = (0, 0);
    for (at, byte) in outside_strings(text) {
        if at < free || !(byte == b'-' || byte.is_ascii_digit()) {
            continue;
        }
        let rest = text.get(at..).unwrap_or_default();
        let of_number = |letter: char| letter.is_ascii_digit() || matches!(letter, '-' | '+' | '.' | 'e' | 'E');
        let (token, behind) = rest.split_at(rest.find(|letter| !of_number(letter)).unwrap_or(rest.len()));
        free = at + token.len();
        // A number where a name belongs stays what it is: an error.
        if is_number(token) && !behind.trim_start().starts_with(':') {
            quoted.push_str(text.get(copied..at).unwrap_or_default());
            quoted.push('"');
            quoted.push_str(token);
            quoted.push('"');
            copied = free;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    quoted.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(quoted)
}

/// The bytes of JSON that stand outside of its strings, with their places.
pub fn outside_strings(text: &str) -> impl Iterator<Item = (usize, u8)> {
    let (mut inside, mut escaped) = (false, false);
    text.bytes().enumerate().filter(move |(_, byte)| {
        let was_inside = inside;
        match byte {
            b'"' if !escaped => inside = !inside,
            _ => {}
        }
        escaped = was_inside && *byte == b'\\' && !escaped;
        !was_inside && !inside
    })
}

/// Whether this is a number as JSON writes it.
fn is_number(token: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let token = token.strip_prefix('-').unwrap_or(token);
    let (token, exponent) = token.split_once(['e', 'E']).map_or((token, None), |(token, rest)| (token, Some(rest)));
    let (whole, fraction) = token.split_once('.').map_or((token, None), |(whole, rest)| (whole, Some(rest)));
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(digits)
}

/// A text for terminals and logs: characters that nobody sees are written as in JSON (`\u001b`). Ends of lines and tabs
/// stay. JSON remains the JSON that it was.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_invisible(character) || character == '\r')
}

/// The same for a text that has to stay within its line.
pub fn visible_line(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_invisible(character) || matches!(character, '\r' | '\n'))
}

fn escaped(text: &str, is_hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    use std::fmt::Write as _;
    // Most texts are plain ASCII, and are looked at byte by byte.
    let plain = |byte: u8| (b' '..0x7f).contains(&byte) || matches!(byte, b'\n' | b'\t');
    if text.bytes().all(plain) && !is_hidden('\n') || !text.chars().any(&is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' if is_hidden('\n') => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            hidden if is_hidden(hidden) => {
                for unit in hidden.encode_utf16(&mut [0; 2]) {
                    // Writing into a text never fails.
                    write!(shown, "\\u{unit:04x}").ok();
                }
            }
            other => shown.push(other),
        }
    }
    Cow::Owned(shown)
}

/// Whether a character has no look of its own: marks of direction, joiners, fillers, selectors, control characters.
pub fn is_invisible(character: char) -> bool {
    let visible_control = matches!(character, '\t' | '\n' | '\r');
    character.is_control() && !visible_control
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
                | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | MARK | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
                | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_dropped_and_another_encoding_is_refused_with_its_place() {
        let told = |bytes: &[u8]| of(bytes.to_vec()).map_err(|error| error.to_string());
        assert_eq!(told("\u{feff}a\r\nж".as_bytes()), Ok("a\r\nж".to_owned()));
        assert_eq!(
            told(b"\xef\xbb\xbfa = 1\r\nname = \"\xcf\""),
            Err(Error::NotUtf8(Place { line: 2, column: 9 }).to_string())
        );
        let utf16: Vec<u8> = "\u{feff}a = 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(told(&utf16), Err(Error::Utf16.to_string()));
        assert_eq!(told(&utf16[2..]), Err(Error::Utf16.to_string()), "without a mark");
        assert_eq!(told(b"a\0b, and much that is no zero"), Ok("a\0b, and much that is no zero".to_owned()));
    }

    #[test]
    fn a_secret_is_what_is_meant_or_refused_without_being_told() {
        for written in ["key-1", "\u{feff}key-1\r\n", " key-1 \n\n", "key-1\u{200b}", "\u{2060}key-1\r", "key-1\0"] {
            assert_eq!(secret(written, false), Ok("key-1".to_owned()), "{written:?}");
        }
        assert_eq!(secret("-----A\r\nb\r\n", true), Ok("-----A\nb".to_owned()));
        for (written, lines, words) in [
            ("key\u{200b}-1", false, "U+200B (line 1, character 4)"),
            ("key\u{a0}1", true, "U+00A0 (line 1, character 4)"),
            ("key\0key", false, "U+0000"),
            ("key\n# old: other", false, "2 lines"),
            ("a\nb\u{feff}c", true, "U+FEFF (line 2, character 2)"),
            ("a\rb", true, "U+000D"),
        ] {
            let told = secret(written, lines).unwrap_err();
            assert!(told.contains(words) && !told.contains("key"), "{written:?}: {told}");
        }
    }

    #[test]
    fn nothing_that_is_printed_moves_a_cursor_or_reads_backwards() {
        for (text, shown) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("Ромашка «ООО» ёж", "Ромашка «ООО» ёж"),
            ("a\u{1b}[1Ab\r", "a\\u001b[1Ab\\r"),
            ("\u{9b}2J\u{7f}", "\\u009b2J\\u007f"),
            ("deal\u{202e}tsil\u{200b}\u{feff}", "deal\\u202etsil\\u200b\\ufeff"),
            ("\u{e0041}", "\\udb40\\udc41"),
        ] {
            assert_eq!(visible(text), shown);
        }
        assert_eq!(visible_line("a\nb\tc"), "a\\nb\tc");
        let value = serde_json::json!({ "a": "x\u{202e}\u{e0041}\u{1b}y\nz" });
        let printed = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&visible(&printed)).unwrap(), value);
    }

    #[test]
    fn every_character_without_a_look_of_its_own_is_found() {
        for character in
            "\u{600}\u{605}\u{6dd}\u{70f}\u{890}\u{8e2}\u{115f}\u{17b4}\u{180b}\u{2800}\u{3164}\u{fe0f}\u{ffa0}\
            \u{110bd}\u{110cd}\u{13430}\u{1343f}\u{1bca0}\u{1d173}\u{1d17a}\u{e0001}\u{e0100}\u{e0fff}"
                .chars()
        {
            let text = format!("5{character}7");
            assert!(
                invisible(&text).is_some() && !visible(&text).contains(character),
                "U+{:04X}",
                u32::from(character)
            );
        }
    }

    #[test]
    fn what_people_write_is_not_called_invisible() {
        for text in ["Ромашка «ООО» №5, ёж", "a\tb\nc", "日本語 한국어 العربية", "naïve 🙂"]
        {
            assert_eq!(invisible(text), None, "{text}");
        }
        assert_eq!(
            invisible("ab\u{200d}").map(|found| found.to_string()),
            Some("the invisible character U+200D (line 1, character 3)".into())
        );
    }
}
