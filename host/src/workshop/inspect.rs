//! What a plugin's file is, asks for and lacks, as one value for people and for scripts.
//!
//! - The file is read by the sandbox's own reader, without running it and without an engine.
//! - Of its settings only the keys are told.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{permissions, samples};
use crate::plugin::{LimitsPatch, Pattern, Permissions};
use crate::sandbox::{self, Inspection, LoadError};

/// What a file is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Where it is.
    #[serde(serialize_with = "crate::files::told")]
    pub file: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal; none where it is no WebAssembly.
    pub sha256: Option<String>,
    /// `core module` or `component`.
    pub kind: Option<&'static str>,
    /// The contract's version that it names.
    pub api_version: Option<String>,
    /// What its manifest says.
    pub plugin: Option<Plugin>,
    /// What it imports.
    pub imports: Vec<String>,
    /// What keeps it from being loaded.
    pub problems: Vec<Problem>,
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plugin {
    /// The plugin's name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// What it does.
    pub description: String,
    /// Which events it wants.
    pub events: Vec<WantedEvent>,
    /// What it asks for.
    pub permissions: Permissions,
    /// The same in words.
    pub permissions_in_words: Vec<String>,
    /// The limits that it sets.
    pub limits: LimitsPatch,
    /// The keys of its settings.
    pub settings: Vec<String>,
}

/// An event that a plugin wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WantedEvent {
    /// Its name or pattern.
    pub pattern: String,
    /// Whether it names an event of the CRM's catalogue. Others come only from plugins of the CRM.
    pub known: bool,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
}

impl From<&LoadError> for Problem {
    fn from(error: &LoadError) -> Self {
        Self { code: error.code(), message: error.to_string(), remedy: error.remedy() }
    }
}

/// Why a file can't be looked at.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` can't be read: {cause}")]
pub struct Error {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub cause: std::io::Error,
}

/// Looks at a file.
///
/// # Errors
/// When it can't be read. Whatever is wrong with its contents stands in the report.
pub fn inspect(file: &Path) -> Result<Report, Error> {
    let bytes = sandbox::read_file(file).map_err(|cause| Error { path: file.to_owned(), cause })?;
    Ok(match sandbox::inspect(&bytes) {
        Ok(inspection) => report(file, &inspection),
        Err(error) => Report {
            file: file.to_owned(),
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            sha256: None,
            kind: None,
            api_version: None,
            plugin: None,
            imports: Vec::new(),
            problems: vec![Problem::from(&error)],
        },
    })
}

/// What is known of a file that was looked at.
pub fn report(file: &Path, inspection: &Inspection) -> Report {
    let plugin = inspection.manifest.as_ref().map(|manifest| Plugin {
        name: manifest.name.to_string(),
        version: manifest.version.clone(),
        description: manifest.description.clone(),
        events: manifest.events.iter().map(wanted).collect(),
        permissions: manifest.permissions.clone(),
        permissions_in_words: permissions::in_words(&manifest.asks(&LimitsPatch::default())),
        limits: manifest.limits.clone(),
        settings: manifest.settings.keys().cloned().collect(),
    });
    Report {
        file: file.to_owned(),
        size: inspection.size,
        sha256: Some(inspection.hash.clone()),
        kind: Some(inspection.kind.as_str()),
        api_version: inspection.api_version.clone(),
        plugin,
        imports: inspection.imports.clone(),
        problems: inspection.problems.iter().map(Problem::from).collect(),
    }
}

fn wanted(pattern: &Pattern) -> WantedEvent {
    let known = samples::names().iter().any(|name| pattern.matches(name));
    WantedEvent { pattern: pattern.as_str().to_owned(), known }
}
