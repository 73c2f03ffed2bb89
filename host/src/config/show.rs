//! The configuration for eyes: secrets are replaced, wherever they stand.

use toml::{Table, Value};

/// Words in a key's name that make its value a secret.
const SECRET_WORDS: [&str; 6] = ["token", "key", "secret", "pass", "auth", "hook"];
/// Tables whose every text may be a secret: what a plugin's settings mean is the plugin's own business, and a header of
/// any name may let somebody in.
const SECRET_TABLES: [&str; 2] = ["settings", "headers"];

pub(super) fn without_secrets(mut table: Table) -> String {
    hide(&mut table, false);
    toml::to_string_pretty(&table).unwrap_or_default()
}

fn hide(table: &mut Table, in_secret: bool) {
    for (key, value) in table.iter_mut() {
        let lower = key.to_lowercase();
        let in_secret = in_secret || SECRET_TABLES.contains(&lower.as_str());
        let secret = in_secret || SECRET_WORDS.iter().any(|word| lower.contains(word));
        hide_value(value, secret, in_secret);
    }
}

fn hide_value(value: &mut Value, secret: bool, in_secret: bool) {
    match value {
        // Where it comes from is no secret, and helps. A table of tokens of which one is named `file` is none such.
        Value::Table(table) if is_elsewhere(table) => {}
        Value::Table(table) => hide(table, in_secret),
        Value::Array(items) => items.iter_mut().for_each(|item| hide_value(item, secret, in_secret)),
        Value::String(text) if secret || text.contains("://") && text.contains('@') => "***".clone_into(text),
        _ => {}
    }
}

/// `{ env = "NAME" }` or `{ file = "path" }`.
fn is_elsewhere(table: &Table) -> bool {
    table.len() == 1 && table.iter().all(|(key, value)| matches!(key.as_str(), "env" | "file") && value.is_str())
}
