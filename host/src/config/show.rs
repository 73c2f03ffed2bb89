//! The configuration for eyes: secrets are replaced, wherever they stand.

use toml::{Table, Value};

/// Words in a key's name that make its value a secret. Settings are the plugins' own, so their keys are judged by name.
const SECRET_WORDS: [&str; 6] = ["token", "key", "secret", "password", "webhook", "url"];

pub(super) fn without_secrets(mut table: Table) -> String {
    hide(&mut table, false);
    toml::to_string_pretty(&table).unwrap_or_default()
}

fn hide(table: &mut Table, in_settings: bool) {
    for (key, value) in table.iter_mut() {
        let lower = key.to_lowercase();
        // A CRM's own address is no secret; one in a plugin's settings may hold a token.
        let secret = SECRET_WORDS.iter().any(|word| lower.contains(word)) && (in_settings || lower != "url");
        match value {
            Value::Table(inner) if secret && inner.keys().any(|key| key == "env" || key == "file") => {}
            Value::Table(inner) => hide(inner, in_settings || key == "settings"),
            Value::Array(items) if !secret => {
                items.iter_mut().filter_map(Value::as_table_mut).for_each(|item| hide(item, in_settings));
            }
            value if secret => *value = Value::String("***".to_owned()),
            _ => {}
        }
    }
}
