//! What is found while a configuration is read: what is wrong and where, what is only remarkable, which secrets could not
//! be read.
//!
//! - Each finding names its place: the line of the file, or the variable that put the key there.
//! - Words are for administrators: what a key must be, and what kind of thing stands there; never the value itself, which
//!   may be a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Map;
use toml::Value;
use toml_edit::{Document, Item, Key};

use crate::console::Role;
use crate::plugin::PluginName;
use crate::secret::Secret;
use crate::{text, watch};

/// Which secrets a command needs, and so what one means that can't be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Secrets {
    /// All: the host is to run, so each is a problem.
    #[default]
    All,
    /// All are looked at: one that only the host's own user or environment may have is a remark.
    Told,
    /// None: whoever needs one after all asks [`super::Config::unread`].
    Spared,
}

/// Where keys stand.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, String>);

impl Places {
    /// The places of all keys of a file. What is no TOML has none.
    pub(super) fn of(text: &str) -> Self {
        let mut places = Self::default();
        if let Ok(document) = Document::parse(text) {
            for (name, item) in document.as_table() {
                places.add(text, name, document.as_table().key(name), item);
            }
        }
        places
    }

    fn add(&mut self, text: &str, path: &str, key: Option<&Key>, item: &Item) {
        if let Some(span) = key.and_then(Key::span).or_else(|| item.span()) {
            self.0.insert(path.to_owned(), format!("line {}", line(text, span.start)));
        }
        let Some(table) = item.as_table_like() else { return };
        for (name, item) in table.iter() {
            self.add(text, &format!("{path}.{name}"), table.key(name), item);
        }
    }

    /// A variable of the environment put a key there.
    pub(super) fn overridden(&mut self, path: String, variable: &str) {
        self.0.insert(path, format!("`{variable}`"));
    }

    /// A key's place, or that of the table which should hold it.
    fn at(&self, mut path: &str) -> Option<&str> {
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }
}

/// The line of a byte, from 1.
pub(super) fn line(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) secrets: Secrets,
    pub(super) places: Places,
    pub(super) problems: Vec<String>,
    pub(super) remarks: Vec<String>,
    /// The secrets that were read.
    pub(super) known_secrets: Vec<Secret>,
    /// The secrets that could not be read, by their keys, and why.
    pub(super) unread: BTreeMap<String, String>,
}

impl Findings {
    /// Something keeps the host from running: `path` is the key, `words` go on after it.
    pub(super) fn problem(&mut self, path: &str, words: impl std::fmt::Display) {
        let told = self.told(path, words);
        self.problems.push(told);
    }

    pub(super) fn remark(&mut self, path: &str, words: impl std::fmt::Display) {
        let told = self.told(path, words);
        self.remarks.push(told);
    }

    fn told(&self, path: &str, words: impl std::fmt::Display) -> String {
        let place = self.places.at(path).map(|place| format!("{place}: ")).unwrap_or_default();
        format!("{place}`{path}` {words}")
    }

    /// A secret, or what goes with one, is not there.
    pub(super) fn lacks(&mut self, path: &str, words: impl std::fmt::Display) {
        match self.secrets {
            Secrets::All | Secrets::Told => self.problem(path, words),
            Secrets::Spared => self.spare(path, &words.to_string()),
        }
    }

    /// A secret can't be read.
    pub(super) fn unreadable(&mut self, path: &str, why: &Unread) {
        match self.secrets {
            Secrets::Told if why.elsewhere => {
                self.spare(path, &why.words);
                let help = "whoever runs the host must have it, and this command goes on without; with \
                            `{ file = \"…\" }` every command of that user finds it";
                self.remark(path, format!("{}: {help}", why.words));
            }
            Secrets::All | Secrets::Told => self.problem(path, &why.words),
            Secrets::Spared => self.spare(path, &why.words),
        }
    }

    fn spare(&mut self, path: &str, words: &str) {
        let told = self.told(path, words);
        self.unread.insert(path.to_owned(), told);
    }
}

/// Why a secret can't be read.
pub(super) struct Unread {
    words: String,
    /// Whether another user, or another environment, may be able to.
    elsewhere: bool,
}

const FORMS: &str = "must be a text, `{ env = \"NAME\" }` or `{ file = \"path\" }`";

/// The text of a secret, wherever it stands. `lines`: it may have several, such as a key's file.
pub(super) fn secret_text(value: &Value, base: &Path, lines: bool) -> Result<String, Unread> {
    let here = |words: String| Unread { words, elsewhere: false };
    let text = match value {
        Value::String(text) => text.clone(),
        // A key of digits, as the environment gives it.
        Value::Integer(number) => number.to_string(),
        Value::Table(table) if table.len() == 1 => match (table.get("env"), table.get("file")) {
            (Some(Value::String(name)), None) => std::env::var(name).map_err(|_| Unread {
                words: format!("needs the environment variable `{name}`, which is not set here"),
                elsewhere: true,
            })?,
            (None, Some(Value::String(path))) => text::read(&base.join(path), text::MOST_SECRET).map_err(|error| Unread {
                words: format!("needs the file `{path}`: {error}"),
                elsewhere: matches!(&error, text::Error::File(cause) if cause.kind() == ErrorKind::PermissionDenied),
            })?,
            _ => return Err(here(FORMS.to_owned())),
        },
        _ => return Err(here(FORMS.to_owned())),
    };
    let text = text::secret(&text, lines).map_err(here)?;
    if text.is_empty() { Err(here("is empty".to_owned())) } else { Ok(text) }
}

/// What a key can hold, in an administrator's words.
pub(super) trait Expected: for<'de> Deserialize<'de> {
    /// Goes on after "must be".
    const WORDS: &'static str;
}

macro_rules! expected {
    ($($type:ty: $words:literal),* $(,)?) => { $(impl Expected for $type { const WORDS: &'static str = $words; })* };
}

expected! {
    String: "a text in quotes",
    PathBuf: "a path in quotes",
    bool: "`true` or `false`",
    u64: "a whole number, 0 or more",
    f64: "a number",
    Vec<String>: "a list of texts, such as `[\"a\", \"b\"]`",
    BTreeSet<PluginName>: "a list of plugins' names (lower-case letters, digits and `-`), such as `[\"notify\"]`",
    BTreeSet<watch::List>: "a list of some of `\"leads\"`, `\"documents\"`, `\"acts\"`, `\"deals\"`",
    Role: "`\"viewer\"` or `\"admin\"`",
    Map<String, serde_json::Value>: "a table, such as `{ key = \"value\" }`",
}

/// What stands there instead; its value may be a secret.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "this text",
        Value::Integer(number) if *number < 0 => "a negative number",
        Value::Integer(_) => "a number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "`true` or `false`",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "this list",
        Value::Table(_) => "a table",
    }
}

/// Whether a text is an address to listen on: a host and a port.
pub(super) fn is_listen(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-._:[]%".contains(character);
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
    })
}

/// What such a key must be.
pub(super) const LISTEN: &str = "must be an address with a port, such as `127.0.0.1:8787`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_on_its_line_however_its_table_is_written() {
        let text = "# α\n[server]\nlisten = 5\n\n[crm.main]\ntoken = \"x\"\n[plugins]\nnotify.enabled = 3\naudit = { enabled = 1,\n  order = 2 }\n";
        let places = Places::of(text);
        for (path, expected) in [
            ("server.listen", "line 3"),
            ("server.missing", "line 2"),
            ("crm.main.url", "line 5"),
            ("plugins.notify.enabled", "line 8"),
            ("plugins.audit.enabled", "line 9"),
            ("plugins.audit.order", "line 10"),
        ] {
            assert_eq!(places.at(path), Some(expected), "{path}");
        }
        assert_eq!(places.at("retry.attempts"), None);
    }

    #[test]
    fn an_address_without_a_port_is_no_place_to_listen_on() {
        for good in ["127.0.0.1:8787", "0.0.0.0:0", "localhost:80", "[::1]:8787", "crm-host.example:1"] {
            assert!(is_listen(good), "{good}");
        }
        for wrong in
            ["127.0.0.1", "", ":8787", "8787", "127.0.0.1:", "a:99999", "http://127.0.0.1:8787", "[::1]", "a b:1"]
        {
            assert!(!is_listen(wrong), "{wrong}");
        }
    }
}
