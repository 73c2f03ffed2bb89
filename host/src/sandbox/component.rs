//! A plugin's file: its manifest and contract version, read without running code, and the component in it.
//!
//! There is one reader. `read` stops at the first thing that is wrong; `inspect` needs no engine and tells all of them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};
use wit_component::ComponentEncoder;

use super::adapter::number;
use super::compiler::MOST_FILE;
use crate::contract::API_MAJOR;
use crate::plugin::{Manifest, ManifestError};

/// The custom section that holds `plugin.toml`.
pub const MANIFEST_SECTION: &str = "salesman:manifest";
/// The custom section that holds the contract's version.
pub const VERSION_SECTION: &str = "salesman:api-version";

/// Interfaces that the host serves begin with one of these. The version is left to the engine.
const SERVED: [&str; 7] =
    ["salesman:plugin/", "wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
/// Bytes of a manifest's text. Ordinary ones have one or two thousand.
const MOST_MANIFEST: usize = 256 << 10;
/// The function that a plugin exports.
const HANDLER: &str = "handle";

/// Why a file is not a plugin that can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LoadError {
    /// Larger than any plugin.
    #[error("the file has {0} bytes, a plugin has at most {most}", most = MOST_FILE)]
    TooLarge(u64),
    /// Takes too much to be made ready.
    #[error("making the plugin ready takes {0}: it is no ordinary plugin")]
    TooMuch(String),
    /// The host can't make plugins ready now.
    #[error("the plugin can't be made ready now: {0}")]
    Compiler(String),
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
            Self::TooLarge(_) | Self::TooMuch(_) => "registry.too_much",
            Self::Compiler(_) => "registry.compiler",
        }
    }
}

impl LoadError {
    /// Whether it is so whenever and wherever this program looks: the machine has no part in it.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Compiler(_))
    }

    /// What to do about it, for whoever builds the plugin.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Empty | Self::Damaged(_) => "build it again, or copy it again under another name and then rename it",
            Self::NotWasm => "give the `.wasm` file that the build made, not a source or a folder",
            Self::NoManifest => {
                "a file that another tool built gets its manifest by `salesman-host plugin pack FILE --manifest plugin.toml`"
            }
            Self::Manifest(_) => "mend the named line of `plugin.toml`, then build again",
            Self::ApiVersion { .. } => "take the SDK that this host's `plugin new` writes, and build again",
            Self::Shape(_) => "build it with the SDK, as a `cdylib` for `wasm32-wasip1`",
            Self::Compile(_) => "build it with another compiler version, or report it with the file",
            Self::TooLarge(_) | Self::TooMuch(_) => {
                "build it with the SDK; where it really needs so much, report it with the file"
            }
            Self::Compiler(_) => {
                "look at the machine's limits of processes and memory: it is tried again within a minute or two"
            }
            Self::Imports(_) => "build it against `plugin.wit`, with nothing but what that offers and WASI preview 2",
        }
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A core module, as `cargo build --target wasm32-wasip1` makes it.
    Module,
    /// A component.
    Component,
}

impl Kind {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Module => "core module",
            Self::Component => "component",
        }
    }
}

/// What a file says of itself, and everything that keeps it from being a plugin, as far as can be told without the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// What it is.
    pub kind: Kind,
    /// Bytes of the file.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub hash: String,
    /// The version of the contract that it names.
    pub api_version: Option<String>,
    /// What it says of itself.
    pub manifest: Option<Manifest>,
    /// The interfaces (or, of a module, the modules) that it imports, sorted.
    pub imports: Vec<String>,
    /// What is wrong with it; empty for a plugin that can be loaded.
    pub problems: Vec<LoadError>,
}

/// Reads a plugin's file: a regular one, and none that is larger than a plugin can be.
///
/// # Errors
/// As reading a file has them. What is no regular file is refused, because reading it may never end; what is too large has an
/// error of the kind [`std::io::ErrorKind::FileTooLarge`], and is not read.
pub fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    crate::files::read(path, u64::try_from(MOST_FILE).unwrap_or(u64::MAX))
}

/// What a file says of itself, where it can be read; nothing else of it is looked at.
///
/// Finds the manifest by the lengths of the outermost sections, with nothing that could fail on a hostile file.
pub fn manifest_of(bytes: &[u8]) -> Option<Manifest> {
    const HEADER: usize = 8;
    let mut rest = bytes.strip_prefix(b"\0asm").and_then(|_| bytes.get(HEADER..))?;
    let mut found = None;
    while let Some((id, after)) = rest.split_first() {
        let (length, after) = number(after)?;
        let (contents, behind) = after.split_at_checked(length)?;
        rest = behind;
        if *id == 0
            && let Some((length, named)) = number(contents)
            && let Some((name, data)) = named.split_at_checked(length)
            && name == MANIFEST_SECTION.as_bytes()
        {
            // Which of two is meant can't be told.
            if found.replace(data).is_some() {
                return None;
            }
        }
    }
    let text = found.filter(|text| text.len() <= MOST_MANIFEST)?;
    guarded(|| Ok(Manifest::parse(text)?)).ok()
}

/// Looks at a file without running it and without an engine.
///
/// # Errors
/// When nothing can be told of it: [`LoadError::Empty`], [`LoadError::NotWasm`], [`LoadError::Damaged`].
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    guarded(|| inspected(bytes))
}

/// Some files make the libraries that read them panic: that is the file's fault.
pub(super) fn guarded<T>(look: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    let looked = std::panic::catch_unwind(AssertUnwindSafe(look));
    looked.unwrap_or_else(|_| Err(LoadError::Damaged("what reads it failed on it".to_owned())))
}

fn inspected(bytes: &[u8]) -> Result<Inspection, LoadError> {
    let examined = Examined::new(bytes)?;
    validate(bytes)?;
    let shape = examined.shape_error(bytes);
    let (manifest, wrong) = match examined.manifest {
        Ok(manifest) => (Some(manifest), None),
        Err(error) => (None, Some(error)),
    };
    // Where both are missing, one thing is wrong.
    let version =
        examined.version.err().filter(|_| examined.named_version.is_some() || wrong != Some(LoadError::NoManifest));
    let problems = wrong.into_iter().chain(version).chain(shape).collect();
    Ok(Inspection {
        kind: examined.kind,
        size: size(bytes),
        hash: digest(bytes),
        api_version: examined.named_version,
        manifest,
        imports: examined.imports,
        problems,
    })
}

/// What can be told of a file without checking its code.
pub(super) struct Parts {
    pub(super) manifest: Manifest,
    kind: Kind,
}

pub(super) fn read(bytes: &[u8]) -> Result<Parts, LoadError> {
    let examined = Examined::new(bytes)?;
    let manifest = examined.manifest?;
    examined.version?;
    Ok(Parts { manifest, kind: examined.kind })
}

/// The component in a file; its code is checked.
pub(super) fn component<'a>(bytes: &'a [u8], parts: &Parts) -> Result<Cow<'a, [u8]>, LoadError> {
    validate(bytes)?;
    if parts.kind == Kind::Component { Ok(Cow::Borrowed(bytes)) } else { wrapped(bytes).map(Cow::Owned) }
}

fn validate(bytes: &[u8]) -> Result<(), LoadError> {
    wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(bytes).map_err(damaged)?;
    Ok(())
}

/// The SHA-256, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// What the outermost level of a file holds.
struct Examined {
    kind: Kind,
    manifest: Result<Manifest, LoadError>,
    version: Result<(), LoadError>,
    named_version: Option<String>,
    imports: Vec<String>,
    handles: bool,
}

impl Examined {
    fn new(bytes: &[u8]) -> Result<Self, LoadError> {
        if bytes.is_empty() {
            return Err(LoadError::Empty);
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(LoadError::NotWasm);
        }
        let sections = sections(bytes)?;
        let manifest = sections.manifest.ok_or(LoadError::NoManifest);
        let named_version = sections.version.map(|version| String::from_utf8_lossy(version).into_owned());
        Ok(Self {
            kind: if sections.component { Kind::Component } else { Kind::Module },
            manifest: manifest.and_then(|text| {
                if text.len() > MOST_MANIFEST {
                    return Err(LoadError::TooMuch(format!("a manifest of {} bytes", text.len())));
                }
                Ok(Manifest::parse(text)?)
            }),
            version: check_version(named_version.as_deref()),
            named_version,
            imports: sections.imports.into_iter().map(str::to_owned).collect(),
            handles: sections.handles,
        })
    }

    /// What the engine would refuse for sure. Types and versions of interfaces are left to it.
    fn shape_error(&self, bytes: &[u8]) -> Option<LoadError> {
        if self.kind == Kind::Module {
            return wrapped(bytes).err();
        }
        let unknown: Vec<&str> = self
            .imports
            .iter()
            .map(String::as_str)
            .filter(|name| !SERVED.iter().any(|own| name.starts_with(own)))
            .collect();
        if !unknown.is_empty() {
            return Some(LoadError::Imports(format!("imports {}", unknown.join(", "))));
        }
        (!self.handles).then(|| LoadError::Imports(format!("no function `{HANDLER}` is exported")))
    }
}

fn check_version(named: Option<&str>) -> Result<(), LoadError> {
    let version = named.unwrap_or_default();
    if version.split('.').next().and_then(|major| major.parse().ok()) == Some(API_MAJOR) {
        return Ok(());
    }
    let found = if version.is_empty() { "of no version".to_owned() } else { version.to_owned() };
    Err(LoadError::ApiVersion { found })
}

/// A module of `wasm32-wasip1` as a component: authors need nothing but `cargo build`.
fn wrapped(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, &super::adapter::with_exit_codes()))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| LoadError::Shape(format!("{error:#}")))
}

#[derive(Default)]
struct Sections<'a> {
    component: bool,
    manifest: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    imports: BTreeSet<&'a str>,
    handles: bool,
}

/// Reads the outermost level; what is nested in a component is not its manifest.
fn sections(bytes: &[u8]) -> Result<Sections<'_>, LoadError> {
    let mut found = Sections::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 {
                    found.component = encoding == Encoding::Component;
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            payload if depth == 1 => found.add(payload)?,
            _ => {}
        }
    }
    Ok(found)
}

impl<'a> Sections<'a> {
    fn add(&mut self, payload: Payload<'a>) -> Result<(), LoadError> {
        match payload {
            Payload::CustomSection(section) => match section.name() {
                MANIFEST_SECTION => once(&mut self.manifest, section.data(), "manifests")?,
                VERSION_SECTION => once(&mut self.version, section.data(), "contract versions")?,
                _ => {}
            },
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    self.imports.insert(import.map_err(damaged)?.module);
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(damaged)?;
                    // The names of types that an interface brings along: nothing that has to be served.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        self.imports.insert(import.name.name);
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    self.handles |= export.map_err(damaged)?.name.name == HANDLER;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Which of two is meant can't be told, and whoever looks at the other one sees another plugin.
fn once<'a>(place: &mut Option<&'a [u8]>, data: &'a [u8], what: &str) -> Result<(), LoadError> {
    match place.replace(data) {
        None => Ok(()),
        Some(_) => Err(LoadError::Damaged(format!("it holds two {what}: build and pack it anew"))),
    }
}

fn damaged(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Damaged(error.message().to_owned())
}
