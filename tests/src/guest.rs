//! Plugin files made from others: the same code under another name.

use std::path::Path;

use anyhow::Context;
use wasmparser::{Parser, Payload};

/// The custom section that holds `plugin.toml`.
pub const MANIFEST: &str = "salesman:manifest";
/// The custom section that holds the contract's version.
pub const VERSION: &str = "salesman:api-version";

/// A module with another manifest in place of its own.
///
/// # Errors
/// When it is not a module that can be read.
pub fn with_manifest(module: &[u8], manifest: &str) -> anyhow::Result<Vec<u8>> {
    let mut result = Vec::with_capacity(module.len());
    let mut copied = 0;
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload?
            && section.name() == MANIFEST
        {
            // A section's range leaves out its number and its length.
            let contents = section.range();
            let head = 1 + leb128(contents.len()).len();
            result.extend_from_slice(module.get(copied..contents.start - head).context("the module is cut off")?);
            copied = contents.end;
        }
    }
    result.extend_from_slice(module.get(copied..).context("the module is cut off")?);
    result.extend(custom_section(MANIFEST, manifest.as_bytes()));
    Ok(result)
}

/// Puts the hostile plugin of a folder into another one, under a version; in one step, as a swap should be made.
///
/// # Errors
/// When it can't be read or written.
pub fn put_version(guests: &Path, folder: &Path, version: u32) -> anyhow::Result<()> {
    let module = std::fs::read(guests.join("guests.wasm")).context("there is no hostile plugin")?;
    let (_, manifest) = section(&module, |name| name == MANIFEST)?;
    let lines = std::str::from_utf8(manifest)?.lines().filter(|line| !line.starts_with("version"));
    let manifest = std::iter::once(format!("version = \"{version}\"")).chain(lines.map(str::to_owned));
    let beside = folder.join("guests.new");
    std::fs::write(&beside, with_manifest(&module, &manifest.collect::<Vec<_>>().join("\n"))?)?;
    Ok(std::fs::rename(beside, folder.join("guests.wasm"))?)
}

/// The contents of a custom section.
///
/// # Errors
/// When the module can't be read, or has no such section.
pub fn section(module: &[u8], wanted: impl Fn(&str) -> bool) -> anyhow::Result<(String, &[u8])> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload?
            && wanted(section.name())
        {
            return Ok((section.name().to_owned(), section.data()));
        }
    }
    anyhow::bail!("the module has no such section")
}

/// A custom section, to be put behind a module.
pub fn custom_section(name: &str, data: &[u8]) -> Vec<u8> {
    let mut body = leb128(name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    let mut section = vec![0];
    section.extend(leb128(body.len()));
    section.extend(body);
    section
}

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
