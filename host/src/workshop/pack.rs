//! Gives a component that another tool built its manifest and the contract's version.

use crate::plugin::{Manifest, ManifestError};

/// The contract that `plugin-sdk/wit/plugin.wit` describes.
const VERSION: &str = "1.0";

/// Why a file can't be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// The component with its manifest and version at the outermost level.
///
/// # Errors
/// [`Error`] says what is wrong.
pub fn pack(bytes: &[u8], manifest: &str) -> Result<Vec<u8>, Error> {
    Manifest::parse(manifest.as_bytes())?;
    let mut packed = bytes.to_vec();
    for (name, data) in [("salesman:manifest", manifest.as_bytes()), ("salesman:api-version", VERSION.as_bytes())] {
        let mut body = leb128(name.len());
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(data);
        packed.push(0);
        packed.extend(leb128(body.len()));
        packed.extend(body);
    }
    Ok(packed)
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
