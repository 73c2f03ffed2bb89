//! The configuration for eyes: secrets are replaced, wherever they stand.

use toml::{Table, Value};

/// Words in a key's name that make its value a secret.
const SECRET_WORDS: [&str; 6] = ["token", "key", "secret", "pass", "auth", "hook"];

pub(super) fn without_secrets(mut table: Table) -> String {
    hide(&mut table, false);
    toml::to_string_pretty(&table).unwrap_or_default()
}

fn hide(table: &mut Table, in_settings: bool) {
    for (key, value) in table.iter_mut() {
        let lower = key.to_lowercase();
        // What a plugin's settings mean is the plugin's own business: every text in them may be a token.
        let settings = in_settings || lower == "settings";
        let address = lower == "url" && value.as_str().is_some_and(|url| url.contains('@'));
        let secret = SECRET_WORDS.iter().any(|word| lower.contains(word)) || address || (settings && value.is_str());
        match value {
            Value::Table(inner) if secret && inner.keys().any(|key| key == "env" || key == "file") => {}
            Value::Table(inner) => hide(inner, settings),
            Value::Array(items) if !secret => items.iter_mut().for_each(|item| match item {
                Value::Table(item) => hide(item, settings),
                Value::String(text) if settings => *text = "***".to_owned(),
                _ => {}
            }),
            value if secret => *value = Value::String("***".to_owned()),
            _ => {}
        }
    }
}
