//! `plugin.toml`, as it is embedded in a plugin's file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PluginName;
use super::limits::LimitsPatch;
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
    /// It holds more than a manifest may, or what does not look like what it is.
    #[error("the manifest can't be used: {0}")]
    Bounds(String),
}

/// Bytes of a whole manifest, settings included.
const MOST_BYTES: usize = 64 << 10;
/// Bytes of the version's text: it is stored with every attempt.
const MOST_VERSION: usize = 64;
/// Bytes of the description.
const MOST_DESCRIPTION: usize = 2_000;
/// Entries of one list.
const MOST_ENTRIES: usize = 200;
/// Bytes of one entry.
const MOST_ENTRY: usize = 300;

/// Whether a character acts on a terminal, or is one that nobody sees.
fn acts_or_hides(character: char) -> bool {
    character.is_control() || text::is_invisible(character)
}

/// A text that people read on one line: bounded, and nothing in it that acts on a terminal or nobody sees.
fn one_line(key: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("`{key}` has {} bytes, {most} are allowed", text.len()));
    }
    match text.chars().find(|character| acts_or_hides(*character)) {
        None => Ok(()),
        Some(found) => {
            Err(format!("`{key}` holds the character U+{:04X}, which nobody sees: type it anew", u32::from(found)))
        }
    }
}

fn list<'a>(key: &str, entries: impl ExactSizeIterator<Item = &'a str>) -> Result<(), String> {
    if entries.len() > MOST_ENTRIES {
        return Err(format!("`{key}` has {} entries, {MOST_ENTRIES} are allowed", entries.len()));
    }
    entries.into_iter().try_for_each(|entry| one_line(key, entry, MOST_ENTRY))
}

/// A text with what nobody sees, but for ends of lines, in a form that is seen: it quotes the file.
fn printable(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' => "\n".to_owned(),
        other if acts_or_hides(other) => other.escape_debug().to_string(),
        other => other.to_string(),
    };
    text.chars().map(shown).collect()
}

impl Manifest {
    /// Reads the text of a `plugin.toml`.
    ///
    /// # Errors
    /// [`ManifestError`] names the line and the key.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MOST_BYTES {
            return Err(ManifestError::Bounds(format!("it has {} bytes, {MOST_BYTES} are allowed", bytes.len())));
        }
        let text = text::of(bytes.to_vec()).map_err(|error| ManifestError::NotText(error.to_string()))?;
        let manifest: Self =
            toml::from_str(&text).map_err(|error| ManifestError::Form(printable(&error.to_string())))?;
        manifest.checked()
    }

    /// This manifest, where all in it has its bounds and looks like what it is.
    ///
    /// # Errors
    /// [`ManifestError::NoEvents`], [`ManifestError::Bounds`].
    pub fn checked(self) -> Result<Self, ManifestError> {
        if self.events.is_empty() {
            return Err(ManifestError::NoEvents);
        }
        self.bounds().map_err(ManifestError::Bounds)?;
        Ok(self)
    }

    fn bounds(&self) -> Result<(), String> {
        one_line("version", &self.version, MOST_VERSION)?;
        one_line("description", &self.description, MOST_DESCRIPTION)?;
        list("events", self.events.iter().map(Pattern::as_str))?;
        list("permissions.crm", self.permissions.crm.iter().map(Pattern::as_str))?;
        list("permissions.http", self.permissions.http.iter().map(String::as_str))?;
        self.limits.check().map_err(|words| format!("of its limits, {words}"))?;
        if let Some(name) = unseen(&self.settings) {
            return Err(format!("the setting `{}` has an invisible character in its name", printable(name)));
        }
        Ok(())
    }

    /// All that it asks of an administrator: its permissions, and its limits where they lie above the host's defaults and
    /// the administrator has not `decided` them.
    pub fn asks(&self, decided: &LimitsPatch) -> Permissions {
        Permissions { limits: self.limits.raised(decided), ..self.permissions.clone() }
    }

    /// Whether the plugin wants events of this name.
    pub fn wants(&self, event: &str) -> bool {
        self.events.iter().any(|pattern| pattern.matches(event))
    }
}

/// A setting whose name is another than it looks.
fn unseen(settings: &Map<String, Value>) -> Option<&str> {
    settings.iter().find_map(|(name, value)| match value {
        _ if name.chars().any(acts_or_hides) => Some(name.as_str()),
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
        if plain.contains(|character: char| character == '*' || character.is_whitespace() || character.is_control()) {
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
    /// Limits above the host's defaults; a manifest has them in a section of their own.
    #[serde(skip_deserializing, skip_serializing_if = "LimitsPatch::is_empty")]
    pub limits: LimitsPatch,
}

impl Permissions {
    /// These and others.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.crm.extend(others.crm.iter().cloned());
        self.http.extend(others.http.iter().cloned());
        self.state |= others.state;
        self.limits = self.limits.and(&others.limits);
        self
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.crm.is_empty() && self.http.is_empty() && !self.state && self.limits.is_empty()
    }
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
