//! Starts a plugin: a folder that builds and tests at once.
//!
//! - Each language has a file below with a function that returns the files as (path inside the folder, contents).
//! - Nothing that is there is overwritten: the folder must be new or empty.
//! - An event's name outside the catalogue is taken with a warning: plugins of the CRM may fire what they like.

mod foreign;
mod js;
mod python;
mod rust;
mod sdk;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::plugin::{Pattern, PluginName};
use crate::workshop::samples;

/// What the plugin is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Rust, built by cargo for `wasm32-wasip1`.
    Rust,
    /// JavaScript, by componentize-js.
    Js,
    /// Python, by componentize-py.
    Python,
}

/// Where the new crate takes the SDK from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sdk {
    /// A copy in the folder `sdk`, out of this program.
    Copy,
    /// A folder that holds it.
    Path(PathBuf),
    /// A version from the registry.
    Version(String),
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The plugin's name.
    pub name: PluginName,
    /// Its events, at least one; the code starts with the first.
    pub events: Vec<Pattern>,
    /// Where.
    pub folder: PathBuf,
    /// In which language.
    pub language: Language,
    /// With which SDK.
    pub sdk: Sdk,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaffolded {
    /// The files, as they lie inside the folder.
    pub files: Vec<String>,
    /// What is odd about the request.
    pub warnings: Vec<String>,
    /// The commands to go on with, inside the folder.
    pub next: Vec<&'static str>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No event.
    #[error("a plugin needs at least one event, such as `deal.change.step`")]
    NoEvent,
    /// A name that no event can have.
    #[error(
        "`{0}` can't be an event's name: letters, digits, `.`, `_`, `-`, at most 128 bytes, and a final `.*` for a family"
    )]
    Event(String),
    /// There is something already.
    #[error("`{0}` is not empty: choose another folder with `--dir`, or remove it")]
    NotEmpty(PathBuf),
    /// The SDK is not there.
    #[error("`{0}` is not the SDK: it holds no `Cargo.toml` of `salesman-plugin-sdk`")]
    NotTheSdk(PathBuf),
    /// No version.
    #[error("`{0}` is not a version such as `0.1`")]
    Version(String),
    /// The SDK in this program is broken.
    #[error("the SDK inside this program can't be read: {0}; please report it")]
    Embedded(#[from] toml::de::Error),
    /// The SDK's manifest can't be written.
    #[error("the SDK inside this program can't be written: {0}; please report it")]
    Manifest(#[from] toml::ser::Error),
    /// A file can't be written.
    #[error("`{path}` can't be written: {cause}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

/// Writes a new plugin into its folder.
///
/// # Errors
/// [`Error`]. Nothing is written before all that can be known beforehand is in order.
pub fn scaffold(wanted: &Wanted) -> Result<Scaffolded, Error> {
    let first = wanted.events.first().ok_or(Error::NoEvent)?;
    if let Some(wrong) = wanted.events.iter().find(|event| !can_come(event)) {
        return Err(Error::Event(wrong.as_str().to_owned()));
    }
    must_be_free(&wanted.folder)?;
    let (files, next) = match wanted.language {
        Language::Rust => {
            let mut files = vec![("plugin.toml".to_owned(), manifest(wanted))];
            files.extend(rust::files(wanted, first)?);
            (files, rust::NEXT)
        }
        Language::Js => (js::files(wanted.name.as_str(), &wanted.events), js::NEXT),
        Language::Python => (python::files(wanted.name.as_str(), &wanted.events), python::NEXT),
    };
    for (path, contents) in &files {
        let path = wanted.folder.join(path);
        write_new(&path, contents).map_err(|cause| Error::Write { path, cause })?;
    }
    Ok(Scaffolded {
        files: files.into_iter().map(|(path, _)| path).collect(),
        warnings: wanted.events.iter().filter_map(warning).collect(),
        next: next.to_vec(),
    })
}

/// Whether an event of this name would get past the intake.
fn can_come(event: &Pattern) -> bool {
    let name = event.as_str().trim_end_matches('*');
    let allowed = |character: char| character.is_alphanumeric() || matches!(character, '.' | '_' | '-');
    name.len() <= 128 && name.chars().all(allowed)
}

fn must_be_free(folder: &Path) -> Result<(), Error> {
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(false) => Err(Error::NotEmpty(folder.to_owned())),
        Err(cause) => Err(Error::Write { path: folder.to_owned(), cause }),
    }
}

fn write_new(path: &Path, contents: &str) -> Result<(), std::io::Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::File::create_new(path)?.write_all(contents.as_bytes())
}

fn warning(event: &Pattern) -> Option<String> {
    let known = samples::names();
    if known.iter().any(|name| event.matches(name)) {
        return None;
    }
    let mut text =
        format!("`{}` is not in the catalogue of the CRM's events, so it never comes from a stock CRM", event.as_str());
    let similar: Vec<String> =
        crate::plugin::near::similar(event.as_str(), &known).iter().map(|name| format!("`{name}`")).collect();
    if !similar.is_empty() {
        text.push_str("; similar: ");
        text.push_str(&similar.join(", "));
    }
    Some(text)
}

fn manifest(wanted: &Wanted) -> String {
    let events: Vec<String> = wanted.events.iter().map(|event| format!("\"{}\"", event.as_str())).collect();
    MANIFEST.replace("{name}", wanted.name.as_str()).replace("{events}", &events.join(", "))
}

const MANIFEST: &str = r#"# What the host reads from the plugin's file without running it. An unknown key is an error.

# Configuration and state hang on the name: keep it.
name = "{name}"
# These two are for people.
version = "0.1.0"
description = "Says what came."
# Names, families (`client.*`) or `*`.
events = [{events}]

# What the plugin asks to be allowed. The administrator has to grant each of it.
[permissions]
# Calls of the CRM: "deal.list", "task.*".
crm = []
# Addresses: "https://api.telegram.org"; "*" leaves the choice to the administrator.
http = []
# A memory of its own.
state = false

# Only where the host's defaults do not fit; the administrator has the last word.
# [limits]
# cpu_ms = 1000
# time_ms = 30000
# memory_mib = 64

# Defaults; the administrator's keys take the place of those of the same name.
# [settings]
# chat = "sales"
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Manifest;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    fn wanted(folder: &Path, events: &[&str]) -> Wanted {
        Wanted {
            name: PluginName::try_from("deal-watch".to_owned()).unwrap(),
            events: events.iter().map(|event| pattern(event)).collect(),
            folder: folder.to_owned(),
            language: Language::Rust,
            sdk: Sdk::Version("0.1".to_owned()),
        }
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plugin.toml"), "mine").unwrap();
        assert!(matches!(scaffold(&wanted(folder.path(), &["*"])), Err(Error::NotEmpty(_))));
        assert_eq!(std::fs::read_to_string(folder.path().join("plugin.toml")).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_request_that_can_not_work_leaves_no_folder_behind() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("new");
        let told = |wanted: &Wanted| scaffold(wanted).unwrap_err().to_string();
        assert_eq!(told(&wanted(&folder, &[])), "a plugin needs at least one event, such as `deal.change.step`");
        assert!(told(&wanted(&folder, &["deal\"add"])).starts_with("`deal\"add` can't be an event's name"));
        let path = Wanted { sdk: Sdk::Path(parent.path().to_owned()), ..wanted(&folder, &["*"]) };
        assert!(told(&path).contains("is not the SDK"));
        let version = Wanted { sdk: Sdk::Version("\"latest\"".to_owned()), ..wanted(&folder, &["*"]) };
        assert_eq!(told(&version), "`\"latest\"` is not a version such as `0.1`");
        assert!(!folder.exists());
    }

    #[test]
    fn the_host_takes_the_manifest_that_it_writes() {
        let manifest =
            Manifest::parse(manifest(&wanted(Path::new("x"), &["deal.close", "client.*"])).as_bytes()).unwrap();
        assert_eq!(manifest.name.as_str(), "deal-watch");
        assert_eq!(manifest.events, [pattern("deal.close"), pattern("client.*")]);
        assert_eq!(manifest.permissions, crate::plugin::Permissions::default());
    }

    #[test]
    fn a_slip_of_the_pen_in_an_event_is_told_with_what_was_meant() {
        assert_eq!(warning(&pattern("deal.change.step")), None);
        assert_eq!(warning(&pattern("client.*")), None);
        let text = "is not in the catalogue of the CRM's events, so it never comes from a stock CRM";
        assert_eq!(
            warning(&pattern("deal.chnage.step")),
            Some(format!("`deal.chnage.step` {text}; similar: `deal.change.step`"))
        );
        assert_eq!(warning(&pattern("clients.*")), Some(format!("`clients.*` {text}; similar: `client.*`")));
        assert_eq!(warning(&pattern("weather")), Some(format!("`weather` {text}")));
    }
}
