//! Texts that are written in other letters: base64 of both alphabets, hexadecimal. As they are, or within another text: a
//! `data:` address, the parts of a JWT, lines of a letter.
//!
//! - What comes out is read as far as it is text. What does not, and looks like something encoded, is told to be opaque.
//! - Numbers, UUIDs, hashes of up to 64 hexadecimal digits and words of one case are neither.
//!
//! Not here: unpacking. What is packed is opaque.

/// Letters from which on a word may be something encoded.
const SHORTEST: usize = 16;
/// Letters from which on a word of upper and lower case with digits is taken to be encoded: 18 bytes.
const MIXED: usize = 24;
/// The same for one without digits, which may be a name of a program's.
const MIXED_LETTERS: usize = 40;
/// The longest hash: 256 bits in hexadecimal.
const LONGEST_HASH: usize = 64;
/// The least length of the lines into which letters break base64: 64 and 76 are usual.
const LINE: usize = 60;

/// What stands in a text in other letters.
pub(super) enum Wrapped {
    /// A text.
    Text(String),
    /// Something that can't be looked into.
    Opaque,
    /// A word, in all likelihood; read as if it were encoded.
    Word(String),
}

/// All that stands in a text so.
pub(super) fn within(text: &str) -> Vec<Wrapped> {
    let lines = || text.trim().lines().map(str::trim);
    let broken = lines().next().is_some_and(|line| line.len() >= LINE && line.len() < text.trim().len())
        && lines().all(|line| line.bytes().all(is_letter));
    let joined: String;
    let text = if broken {
        joined = lines().collect();
        &joined
    } else {
        text
    };
    let words = text.split(|character: char| !character.is_ascii() || !is_letter(character as u8));
    words.filter(|word| word.len() >= SHORTEST).flat_map(read).collect()
}

/// `=` is none: it stands before a value as well as behind it.
fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

fn read(word: &str) -> Vec<Wrapped> {
    let bytes = word.as_bytes();
    let has = |kind: fn(&u8) -> bool| bytes.iter().any(kind);
    let digits = bytes.iter().all(u8::is_ascii_digit);
    let mut found = Vec::new();
    if bytes.iter().all(u8::is_ascii_hexdigit) {
        let packed =
            ["1f8b", "7801", "785e", "789c", "78da"].iter().any(|start| word.to_lowercase().starts_with(start));
        found.push(told(hexadecimal(bytes), !digits && (word.len() > LONGEST_HASH || packed)));
    }
    let mixed = has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && (word.len() >= MIXED_LETTERS || word.len() >= MIXED && has(u8::is_ascii_digit));
    // Hexadecimal is base64 to the eye.
    let opaque = mixed && !found.iter().any(|found| matches!(found, Wrapped::Text(_)));
    found.push(told(base64(bytes), opaque && !bytes.iter().all(u8::is_ascii_hexdigit)));
    found
}

fn told(bytes: Vec<u8>, opaque: bool) -> Wrapped {
    let unseen = |character: char| character.is_control() && !matches!(character, '\t' | '\r' | '\n');
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(unseen) => Wrapped::Text(text),
        _ if opaque => Wrapped::Opaque,
        Ok(text) => Wrapped::Word(text),
        Err(error) => Wrapped::Word(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

fn hexadecimal(digits: &[u8]) -> Vec<u8> {
    let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | value(digit))).collect()
}

/// Of both alphabets, whatever is missing or too much at the end.
fn base64(letters: &[u8]) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    };
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(letters.len() * 3 / 4), 0_u32, 0_u32);
    for letter in letters {
        (bits, held) = ((bits << 6 | u32::from(value(*letter))) & 0xffff, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}
