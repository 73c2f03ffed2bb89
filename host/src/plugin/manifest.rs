//! `plugin.toml`, as it is embedded in a plugin's file.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PluginName;
use crate::text;

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name, by which configuration, state and deliveries know it.
    pub name: PluginName,
    /// Its own version, for people.
    #[serde(default)]
    pub version: String,
    /// What it does, for people.
    #[serde(default)]
    pub description: String,
    /// The events it wants.
    pub events: Vec<Pattern>,
    /// What it asks to be allowed.
    #[serde(default)]
    pub permissions: Permissions,
    /// Limits other than the host's defaults.
    #[serde(default)]
    pub limits: LimitsPatch,
    /// Default settings.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

/// Why a manifest can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ManifestError {
    /// It is not UTF-8.
    #[error("the manifest is no text: {0}")]
    NotText(String),
    /// It is not TOML, or not of a manifest's form.
    #[error("the manifest can't be read: {0}")]
    Form(String),
    /// It asks for no event at all.
    #[error("the manifest names no event: add `events = [\"client.*\"]`")]
    NoEvents,
}

impl Manifest {
    /// Reads the text of a `plugin.toml`.
    ///
    /// # Errors
    /// [`ManifestError`] names the line and the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = text::of(bytes.to_vec()).map_err(|error| ManifestError::NotText(error.to_string()))?;
        let manifest: Self = toml::from_str(&text).map_err(|error| ManifestError::Form(error.to_string()))?;
        if manifest.events.is_empty() {
            return Err(ManifestError::NoEvents);
        }
        if let Some(name) = unseen(&manifest.settings) {
            let words = format!("the setting `{}` has an invisible character in its name", name.escape_debug());
            return Err(ManifestError::Form(words));
        }
        Ok(manifest)
    }

    /// Whether the plugin wants events of this name.
    pub fn wants(&self, event: &str) -> bool {
        self.events.iter().any(|pattern| pattern.matches(event))
    }
}

/// A setting whose name is another than it looks.
fn unseen(settings: &Map<String, Value>) -> Option<&str> {
    settings.iter().find_map(|(name, value)| match value {
        _ if text::invisible(name).is_some() => Some(name.as_str()),
        Value::Object(inner) => unseen(inner),
        Value::Array(items) => items.iter().filter_map(Value::as_object).find_map(unseen),
        _ => None,
    })
}

/// Which events: a whole name (`deal.change.step`), a family (`client.*`), or all (`*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an event of this name is meant.
    pub fn matches(&self, event: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => event.starts_with(prefix),
            None => event == self.0,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        if let Some(found) = text::invisible(&pattern) {
            return Err(format!("`{}` holds {found}: type it anew", pattern.escape_debug()));
        }
        let plain = match pattern.strip_suffix('*') {
            Some(prefix) if prefix.is_empty() || prefix.ends_with('.') => prefix,
            Some(_) => "\0",
            None if pattern.is_empty() => "\0",
            None => &pattern,
        };
        if plain.contains(['*', '\0', ' ']) {
            return Err(format!(
                "`{}` is not an event pattern: write a name (`deal.change.step`), a family (`client.*`) or `*`",
                pattern.escape_debug()
            ));
        }
        Ok(Self(pattern))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// What a plugin asks to be allowed, or is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// REST calls: `deal.list`, `task.*`, `*`.
    #[serde(default)]
    pub crm: Vec<Pattern>,
    /// Origins: `https://api.telegram.org`. In a manifest `*` means: whichever the administrator chooses.
    #[serde(default)]
    pub http: Vec<String>,
    /// The plugin's own state.
    #[serde(default)]
    pub state: bool,
}

impl Permissions {
    /// These and others.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.crm.extend(others.crm.iter().cloned());
        self.http.extend(others.http.iter().cloned());
        self.state |= others.state;
        self
    }
}

/// Where a limit is raised, for the words of faults.
pub const RAISE: &str =
    "under `[limits]` of `plugin.toml`, or under `[plugins.NAME.limits]` of the host's configuration";

/// The bounds of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, all memories of the plugin together.
    pub memory: u64,
    /// Processor time.
    pub cpu: Duration,
    /// Time from start to end, waiting for the CRM included.
    pub time: Duration,
    /// Calls to the CRM, to the outside and to state, together.
    pub calls: u32,
    /// Bytes of log.
    pub log: u64,
    /// Bytes of the reply's text.
    pub reply: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            cpu: Duration::from_secs(1),
            time: Duration::from_secs(30),
            calls: 1_000,
            log: 64 << 10,
            reply: 16 << 10,
        }
    }
}

impl Limits {
    /// The largest memory that any plugin can be given; the instance pool is made for it.
    pub const MOST_MEMORY: u64 = 512 << 20;

    /// These limits with the patch's own in their place.
    #[must_use]
    pub fn with(&self, patch: &LimitsPatch) -> Self {
        Self {
            memory: patch.memory_mib.map_or(self.memory, |mib| (mib << 20).min(Self::MOST_MEMORY)),
            cpu: patch.cpu_ms.map_or(self.cpu, Duration::from_millis),
            time: patch.time_ms.map_or(self.time, Duration::from_millis),
            calls: patch.calls.unwrap_or(self.calls),
            log: patch.log_kib.map_or(self.log, |kib| kib << 10),
            reply: patch.reply_kib.map_or(self.reply, |kib| kib << 10),
        }
    }
}

/// Some limits; the others stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsPatch {
    /// Mebibytes of memory, at most 512.
    pub memory_mib: Option<u64>,
    /// Milliseconds of processor time.
    pub cpu_ms: Option<u64>,
    /// Milliseconds from start to end.
    pub time_ms: Option<u64>,
    /// Host calls.
    pub calls: Option<u32>,
    /// Kibibytes of log.
    pub log_kib: Option<u64>,
    /// Kibibytes of the reply's text.
    pub reply_kib: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_does_not_match_what_it_does_not_name() {
        let cases = [
            ("*", "anything", true),
            ("client.*", "client.add", true),
            ("client.*", "clients.add", false),
            ("client.*", "client", false),
            ("deal.change.*", "deal.change.step", true),
            ("deal.add", "deal.add", true),
            ("deal.add", "deal.add.more", false),
        ];
        for (pattern, event, expected) in cases {
            let pattern = Pattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(pattern.matches(event), expected, "{pattern:?} {event}");
        }
    }

    #[test]
    fn a_pattern_that_would_silently_match_nothing_is_refused() {
        for wrong in ["", "cli*", "*.add", "a*b", "deal add", "**"] {
            assert!(Pattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_editors_leave_in_a_manifest_is_understood_or_refused() {
        let plain = Manifest::parse(b"name = \"a\"\nevents = [\"*\"]\n").unwrap();
        assert_eq!(Manifest::parse("\u{feff}name = \"a\"\r\nevents = [\"*\"]\r\n".as_bytes()), Ok(plain));
        for (wrong, words) in [
            ("name = \"a\u{200b}\"\nevents = [\"*\"]", "not a plugin's name"),
            ("name = \"a\"\nevents = [\"deal.\u{200d}add\"]", "U+200D"),
            ("name = \"a\"\n\u{200b}events = [\"*\"]", "line 2"),
            ("name = \"a\"\nevents = [\"*\"]\n[settings]\nrules = [{ \"st\u{200b}ep\" = 1 }]", "`st\\u{200b}ep`"),
        ] {
            let told = Manifest::parse(wrong.as_bytes()).unwrap_err().to_string();
            assert!(told.contains(words), "{wrong:?}: {told}");
        }
    }

    #[test]
    fn an_unknown_key_in_a_manifest_is_named() {
        let error = Manifest::parse(b"name = \"a\"\nevents = [\"*\"]\npermission = {}").unwrap_err();
        assert!(error.to_string().contains("permission"), "{error}");
        assert_eq!(Manifest::parse(b"name = \"a\"\nevents = []"), Err(ManifestError::NoEvents));
        assert!(
            matches!(Manifest::parse(b"name = \"a\"\n\xff"), Err(ManifestError::NotText(told)) if told.contains("line 2"))
        );
    }
}
