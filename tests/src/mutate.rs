//! Damaged files: a seed and a file give the same damage every time, so that what was found can be found again.
//!
//! - WebAssembly is hit where its readers are weak: two times of three in a custom section (manifest, contract, types of the
//!   component), and whole sections are left out, doubled, exchanged and given another length.
//! - Any other bytes are taken as one section.
//!
//! Not here: what reads the file, and what must not happen.

use std::ops::Range;

/// Bytes that readers take for something: types of WebAssembly, ends of numbers, quotes.
const TELLING: [u8; 14] = [0x00, 0x01, 0x06, 0x07, 0x0b, 0x40, 0x60, 0x70, 0x7f, 0x80, 0xc0, 0xff, b'"', b'\n'];
/// Numbers of variable length that are at the edge of their types.
const EDGES: [&[u8]; 4] = [&[0xff, 0xff, 0xff, 0xff, 0x0f], &[0x80, 0x80, 0x80, 0x80, 0x08], &[0xff; 10], &[0x80; 6]];

/// The file, damaged in one to four places.
pub fn mutated(seed: u64, bytes: &[u8]) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut result = bytes.to_vec();
    // One place most of the time: the second hides what the first does.
    let times = [1, 1, 1, 2, 4].get(dice.below(5)).copied().unwrap_or(1);
    for _ in 0..times {
        damage(&mut dice, &mut result);
    }
    result
}

fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let mut sections = Vec::new();
    find(bytes, 0..bytes.len(), &mut sections);
    let Some(section) = chosen(dice, &sections).cloned() else { return };
    let at = section.contents.start + dice.below(section.contents.len());
    match dice.below(16) {
        0..4 => change(bytes, at, |byte| byte ^ 1 << dice.below(8)),
        4..9 => change(bytes, at, |_| TELLING.get(dice.below(TELLING.len())).copied().unwrap_or(0)),
        9 => change(bytes, at, |byte| byte.wrapping_add(1)),
        10 => put(bytes, at..at + 1, EDGES.get(dice.below(EDGES.len())).copied().unwrap_or(&[])),
        11 => put(bytes, at..at + 1 + dice.below(8), &[]),
        12 => bytes.truncate(at),
        13 => put(bytes, section.whole.clone(), &[]),
        14 => {
            // Another section, or the same again, in a place where none was expected.
            let other = chosen(dice, &sections).map_or(0..0, |other| other.whole.clone());
            let copy = bytes.get(other).unwrap_or_default().to_vec();
            let to = if dice.below(2) == 0 { section.whole.start..section.whole.start } else { section.whole.clone() };
            put(bytes, to, &copy);
        }
        // The length that the section says it has.
        _ => change(bytes, section.whole.start + 1, |byte| byte ^ 1 << dice.below(7)),
    }
}

fn change(bytes: &mut [u8], at: usize, to: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = to(*byte);
    }
}

fn put(bytes: &mut Vec<u8>, range: Range<usize>, new: &[u8]) {
    let (start, end) = (range.start.min(bytes.len()), range.end.min(bytes.len()));
    bytes.splice(start..end, new.iter().copied());
}

/// A section of a module or a component, or of one in it.
#[derive(Clone)]
struct Section {
    whole: Range<usize>,
    contents: Range<usize>,
    custom: bool,
}

fn chosen<'a>(dice: &mut Dice, sections: &'a [Section]) -> Option<&'a Section> {
    let custom: Vec<&Section> = sections.iter().filter(|section| section.custom).collect();
    if dice.below(3) > 0 && !custom.is_empty() {
        return custom.get(dice.below(custom.len())).copied();
    }
    sections.get(dice.below(sections.len()))
}

/// The sections within a range, and within those that hold a module or a component.
fn find(bytes: &[u8], range: Range<usize>, found: &mut Vec<Section>) {
    const CUSTOM: u8 = 0;
    const HEADER: usize = 8;
    let is_wasm = bytes.get(range.clone()).is_some_and(|part| part.len() > HEADER && part.starts_with(b"\0asm"));
    if !is_wasm {
        return found.push(Section { whole: range.clone(), contents: range, custom: false });
    }
    let mut at = range.start + HEADER;
    while let Some((length, after)) = number(bytes, at + 1).filter(|_| at < range.end) {
        let contents = after..after.saturating_add(length).min(range.end);
        let id = bytes.get(at).copied().unwrap_or(CUSTOM);
        let next = contents.end;
        // Within a component: a module is 1, a component 4.
        if matches!(id, 1 | 4) && bytes.get(contents.clone()).is_some_and(|inner| inner.starts_with(b"\0asm")) {
            find(bytes, contents.clone(), found);
        }
        found.push(Section { whole: at..next, contents, custom: id == CUSTOM });
        at = next;
    }
}

/// A number of variable length, and where it ends.
fn number(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (place, byte) in bytes.get(at..)?.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, at + place + 1));
        }
    }
    None
}

/// The same numbers for a seed, whatever the version of anything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let most = u64::try_from(most).unwrap_or(u64::MAX).max(1);
        usize::try_from((mixed ^ mixed >> 31) % most).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_damages_a_file_always_in_the_same_way_and_another_in_another() {
        let mut file = b"\0asm\x01\0\0\0".to_vec();
        file.extend(crate::guest::custom_section("salesman:manifest", b"name = \"a\"\nevents = [\"*\"]"));
        file.extend(crate::guest::custom_section("component-type:a", &[b'c'; 40]));
        let all: std::collections::BTreeSet<Vec<u8>> = (0..500).map(|seed| mutated(seed, &file)).collect();
        assert!(all.len() > 300, "{} of 500", all.len());
        for seed in 0..500 {
            assert_eq!(mutated(seed, &file), mutated(seed, &file));
        }
        // A file of nothing is damaged by what is put into it.
        assert!((0..100).all(|seed| mutated(seed, b"").len() <= 40));
    }
}
