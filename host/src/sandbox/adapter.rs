//! The adapter that makes a component of a `wasm32-wasip1` module, with one change: the module's exit code arrives as it is.
//!
//! The adapter's own `proc_exit` tells whether the code was 0, and nothing more. Here it imports `exit-with-code` in place of
//! `exit`, which takes the number that `proc_exit` was given. Where the adapter does not look as it is known, it stays as it
//! is, and codes are told as 0 or 1; a test notices.

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as ADAPTER;

/// `local.get 0`, `i32.const 0`, `i32.ne`, `call`: whether the code is 0 is handed on.
const WHETHER: [u8; 6] = [0x20, 0x00, 0x41, 0x00, 0x47, 0x10];
/// `local.get 0`, three times `nop`, `call`: the code is.
const CODE: [u8; 6] = [0x20, 0x00, 0x01, 0x01, 0x01, 0x10];
/// The import's name with its length, and the mark of a function behind it.
const EXIT: &[u8] = b"\x04exit\x00";
const EXIT_WITH_CODE: &[u8] = b"\x0eexit-with-code\x00";
/// The section with the imports.
const IMPORTS: u8 = 2;

/// The adapter for components.
pub(super) fn with_exit_codes() -> Cow<'static, [u8]> {
    changed().map_or(Cow::Borrowed(ADAPTER), Cow::Owned)
}

fn changed() -> Option<Vec<u8>> {
    let mut adapter = ADAPTER.get(..8)?.to_vec();
    let (mut rest, mut renamed) = (ADAPTER.get(8..)?, false);
    while let Some((id, behind)) = rest.split_first() {
        let (size, behind) = number(behind)?;
        let (section, next) = behind.split_at_checked(size)?;
        let mut section = section.to_vec();
        if *id == IMPORTS {
            section = replaced(&section, EXIT, EXIT_WITH_CODE)?;
            renamed = true;
        }
        adapter.push(*id);
        push_number(&mut adapter, section.len());
        adapter.extend(section);
        rest = next;
    }
    renamed.then_some(())?;
    replaced(&adapter, &WHETHER, &CODE)
}

/// With the one place that holds this replaced; none where there are more, or none.
fn replaced(bytes: &[u8], what: &[u8], by: &[u8]) -> Option<Vec<u8>> {
    let mut places = bytes.windows(what.len()).enumerate().filter(|(_, window)| *window == what).map(|(at, _)| at);
    let (Some(at), None) = (places.next(), places.next()) else { return None };
    Some([bytes.get(..at)?, by, bytes.get(at + what.len()..)?].concat())
}

/// Reads a number of at most five bytes, seven bits each; what follows it is given back.
pub(super) fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

fn push_number(to: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            return to.push(byte);
        }
        to.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_looks_as_it_is_known_and_stays_valid() {
        let adapter = changed().expect("the adapter is another one: exit codes would be told as 0 or 1");
        let sections: Vec<bool> = wasmparser::Parser::new(0).parse_all(&adapter).map(|part| part.is_ok()).collect();
        assert!(sections.len() > 8 && sections.iter().all(|good| *good));
        assert_eq!(adapter.len(), ADAPTER.len() + EXIT_WITH_CODE.len() - EXIT.len());
    }
}
