//! A plugin's file: its manifest and contract version, read without running code, and the component in it.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

use crate::contract::API_MAJOR;
use crate::plugin::{Manifest, ManifestError};

/// The custom section that holds `plugin.toml`.
const MANIFEST_SECTION: &str = "salesman:manifest";
/// The custom section that holds the contract's version.
const VERSION_SECTION: &str = "salesman:api-version";

/// Why a file is not a plugin that can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Empty.
    #[error("the file is empty: the build may still be writing it")]
    Empty,
    /// Not WebAssembly.
    #[error("the file is not WebAssembly: build the plugin with `cargo build --release --target wasm32-wasip1`")]
    NotWasm,
    /// Broken or cut off.
    #[error("the file is damaged or cut off: {0}")]
    Damaged(String),
    /// No manifest.
    #[error(
        "the file holds no manifest: call `salesman_plugin_sdk::export!` in the plugin, with a `plugin.toml` beside its `Cargo.toml`"
    )]
    NoManifest,
    /// A manifest that can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Made for another contract.
    #[error(
        "the plugin was built for contract {found}, this host speaks {API_MAJOR}.x: build it with the SDK of this host's version"
    )]
    ApiVersion {
        /// What the file says.
        found: String,
    },
    /// Can't be made a component.
    #[error("the module can't be used as a plugin: {0}")]
    Shape(String),
    /// Can't be compiled.
    #[error("the plugin can't be compiled: {0}")]
    Compile(String),
    /// Wants what the host does not have.
    #[error("the plugin imports something that the host does not have, or lacks the handler: {0}")]
    Imports(String),
}

impl LoadError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "registry.empty",
            Self::NotWasm => "registry.not_wasm",
            Self::Damaged(_) => "registry.damaged",
            Self::NoManifest => "registry.no_manifest",
            Self::Manifest(_) => "registry.manifest",
            Self::ApiVersion { .. } => "registry.api_version",
            Self::Shape(_) => "registry.shape",
            Self::Compile(_) => "registry.compile",
            Self::Imports(_) => "registry.imports",
        }
    }
}

/// What can be told of a file without checking its code.
pub(super) struct Parts {
    pub(super) manifest: Manifest,
    pub(super) hash: String,
    pub(super) size: u64,
    component: bool,
}

pub(super) fn read(bytes: &[u8]) -> Result<Parts, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm);
    }
    let sections = sections(bytes)?;
    let manifest = Manifest::parse(sections.manifest.ok_or(LoadError::NoManifest)?)?;
    let version = String::from_utf8_lossy(sections.version.unwrap_or_default()).into_owned();
    if version.split('.').next().and_then(|major| major.parse().ok()) != Some(API_MAJOR) {
        let found = if version.is_empty() { "of no version".to_owned() } else { version };
        return Err(LoadError::ApiVersion { found });
    }
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Ok(Parts { manifest, hash: digest(bytes), size, component: sections.component })
}

/// The SHA-256, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The component in a file; its code is checked.
pub(super) fn component<'a>(bytes: &'a [u8], parts: &Parts) -> Result<Cow<'a, [u8]>, LoadError> {
    wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
        .validate_all(bytes)
        .map_err(|error| LoadError::Damaged(error.message().to_owned()))?;
    if parts.component { Ok(Cow::Borrowed(bytes)) } else { wrapped(bytes).map(Cow::Owned) }
}

/// A module of `wasm32-wasip1` as a component: authors need nothing but `cargo build`.
fn wrapped(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| {
            encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
        })
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| LoadError::Shape(format!("{error:#}")))
}

struct Sections<'a> {
    component: bool,
    manifest: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
}

/// Reads the outermost level; what is nested in a component is not its manifest.
fn sections(bytes: &[u8]) -> Result<Sections<'_>, LoadError> {
    let mut found = Sections { component: false, manifest: None, version: None };
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| LoadError::Damaged(error.message().to_owned()))? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 {
                    found.component = encoding == Encoding::Component;
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 1 => match section.name() {
                MANIFEST_SECTION => found.manifest = Some(section.data()),
                VERSION_SECTION => found.version = Some(section.data()),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(found)
}
