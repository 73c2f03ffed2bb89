//! Gives a component or module that another tool built its manifest and the contract's version.
//!
//! - Both are custom sections of the outermost level. Those of a component's inner modules are left alone.
//! - All else is kept byte for byte.
//! - What comes out has passed the reader that the host loads with, apart from the engine.

use wasmparser::BinaryReader;

use crate::plugin::{Manifest, ManifestError};
use crate::sandbox::{self, LoadError, MANIFEST_SECTION, VERSION_SECTION};

/// Bytes before the first section: the mark and the version.
const HEAD: usize = 8;
/// How the contract's interfaces begin, of whatever version.
const CONTRACT: &str = "salesman:plugin/";

/// Why a file can't be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The manifest can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file can't be used.
    #[error("{} ({}); {}", .0, .0.code(), .0.remedy())]
    File(#[from] LoadError),
    /// Nothing tells which contract it was built for.
    #[error(
        "the file imports nothing of `salesman:plugin`, so its contract is unknown: build it against `plugin.wit`, world `plugin`"
    )]
    NoContract,
}

/// The file with this manifest, and with the version of the contract that it was built against.
///
/// # Errors
/// [`Error`] says what is wrong with which of the two.
pub fn pack(bytes: &[u8], manifest: &str) -> Result<Vec<u8>, Error> {
    Manifest::parse(manifest.as_bytes())?;
    let before = sandbox::inspect(bytes)?;
    let imported = before.imports.iter().find_map(|import| contract_version(import));
    let version = imported.or(before.api_version).ok_or(Error::NoContract)?;
    let mut packed = without_ours(bytes).map_err(|error| LoadError::Damaged(error.message().to_owned()))?;
    append(&mut packed, MANIFEST_SECTION, manifest.as_bytes());
    append(&mut packed, VERSION_SECTION, version.as_bytes());
    match sandbox::inspect(&packed)?.problems.into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(packed),
    }
}

/// `1.0` of `salesman:plugin/types@1.0.0`.
fn contract_version(import: &str) -> Option<String> {
    let (_, version) = import.strip_prefix(CONTRACT)?.split_once('@')?;
    let mut parts = version.split('.');
    Some(format!("{}.{}", parts.next()?, parts.next()?))
}

fn without_ours(bytes: &[u8]) -> Result<Vec<u8>, wasmparser::BinaryReaderError> {
    let mut reader = BinaryReader::new(bytes, 0);
    let mut kept = Vec::with_capacity(bytes.len());
    kept.extend_from_slice(reader.read_bytes(HEAD)?);
    while !reader.eof() {
        let from = reader.current_position();
        let is_custom = reader.read_u8()? == 0;
        let length = usize::try_from(reader.read_var_u32()?).unwrap_or(usize::MAX);
        let contents = reader.read_bytes(length)?;
        let is_ours =
            is_custom && matches!(BinaryReader::new(contents, 0).read_string()?, MANIFEST_SECTION | VERSION_SECTION);
        if !is_ours {
            kept.extend_from_slice(bytes.get(from..reader.current_position()).unwrap_or_default());
        }
    }
    Ok(kept)
}

fn append(file: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut contents = leb128(name.len());
    contents.extend_from_slice(name.as_bytes());
    contents.extend_from_slice(data);
    file.push(0);
    file.extend(leb128(contents.len()));
    file.extend(contents);
}

/// A number as WebAssembly writes it: seven bits a byte, the lowest first.
fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or(0);
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "name = \"packed\"\nevents = [\"deal.close\"]\n";

    fn component(import: &str, custom: &str) -> Vec<u8> {
        wat::parse_str(format!(
            r#"(component
                {import}
                (core module $inner (@custom "salesman:manifest" "nested") (func (export "f")))
                (core instance $made (instantiate $inner))
                (func (export "handle") (canon lift (core func $made "f")))
                {custom})"#
        ))
        .unwrap()
    }

    const TYPES: &str = r#"(import "salesman:plugin/types@1.2.3" (instance))"#;

    #[test]
    fn a_file_with_two_manifests_is_refused_and_belongs_to_nobody() {
        for section in [MANIFEST_SECTION, VERSION_SECTION] {
            let mut packed = pack(&component(TYPES, ""), MANIFEST).unwrap();
            assert!(sandbox::manifest_of(&packed).is_some());
            let data = if section == MANIFEST_SECTION { MANIFEST } else { "1.0" };
            append(&mut packed, section, data.replace("packed", "other").as_bytes());
            let error = sandbox::inspect(&packed).unwrap_err();
            assert!(matches!(&error, LoadError::Damaged(words) if words.contains("it holds two")), "{error}");
            assert_eq!(sandbox::manifest_of(&packed).is_some(), section == VERSION_SECTION);
        }
    }

    #[test]
    fn a_packed_component_has_one_manifest_and_keeps_everything_else() {
        let plain = component(TYPES, "");
        let packed = pack(&plain, MANIFEST).unwrap();
        assert!(packed.starts_with(&plain));
        let inspection = sandbox::inspect(&packed).unwrap();
        assert_eq!(inspection.problems, []);
        assert_eq!(inspection.manifest, Some(Manifest::parse(MANIFEST.as_bytes()).unwrap()));
        assert_eq!(inspection.api_version.as_deref(), Some("1.2"));
        assert_eq!(inspection.imports, ["salesman:plugin/types@1.2.3"]);

        let custom =
            r#"(@custom "salesman:manifest" "old") (@custom "salesman:api-version" "0.3") (@custom "other" "x")"#;
        let packed_over = pack(&component(TYPES, custom), MANIFEST).unwrap();
        let found = |name: &str| packed_over.windows(name.len()).filter(|part| *part == name.as_bytes()).count();
        assert_eq!((found("old"), found("0.3"), found("other"), found("nested"), found(MANIFEST)), (0, 0, 1, 1, 1));
    }

    #[test]
    fn a_manifest_or_file_that_the_host_would_refuse_is_not_packed() {
        let code = |result: Result<Vec<u8>, Error>| match result {
            Err(Error::File(error)) => error.code(),
            Err(Error::Manifest(_)) => "manifest",
            Err(Error::NoContract) => "no contract",
            Ok(_) => "packed",
        };
        assert_eq!(code(pack(&component(TYPES, ""), "name = \"packed\"")), "manifest");
        assert_eq!(code(pack(&component("", ""), MANIFEST)), "no contract");
        assert_eq!(code(pack(b"", MANIFEST)), "registry.empty");
        assert_eq!(code(pack(b"#!/bin/sh", MANIFEST)), "registry.not_wasm");
        let cut = component(TYPES, "");
        assert_eq!(code(pack(&cut[..cut.len() - 3], MANIFEST)), "registry.damaged");
        let other = component(r#"(import "salesman:plugin/types@2.0.0" (instance))"#, "");
        assert_eq!(code(pack(&other, MANIFEST)), "registry.api_version");
        let greedy = component(&format!(r#"{TYPES} (import "wasi:http/types@0.2.0" (instance))"#), "");
        assert_eq!(code(pack(&greedy, MANIFEST)), "registry.imports");
        let mute = wat::parse_str(format!("(component {TYPES})")).unwrap();
        assert_eq!(code(pack(&mute, MANIFEST)), "registry.imports");
    }

    #[test]
    fn a_length_that_is_padded_is_read_as_it_is() {
        // LLVM writes lengths with five bytes.
        let mut padded = component(TYPES, "");
        padded.extend([0, 0x96, 0x80, 0x80, 0x80, 0x00, 17]);
        padded.extend(b"salesman:manifestold!");
        let packed = pack(&padded, MANIFEST).unwrap();
        assert!(!packed.windows(4).any(|part| part == b"old!"));
    }
}
