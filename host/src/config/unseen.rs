//! Characters that nobody sees, in the configuration: a name or a value with one would be another than it looks.
//!
//! Not here: secrets in files and variables, which are looked at where they are read.

use toml::{Table, Value};

use crate::text;

/// Keys and values with characters that nobody sees: they would be others than they look. What a plugin's settings say is
/// its own, their names are not. Values are not quoted: one may be a secret.
pub(super) fn look(path: &str, table: &Table, problems: &mut Vec<String>) {
    let settings = path.starts_with("plugins.") && path.contains(".settings");
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if let Some(found) = text::invisible(key) {
            problems.push(format!("the name `{}` holds {found}: type it anew", path.escape_debug()));
        }
        let texts = match value {
            Value::Table(inner) => {
                look(&path, inner, problems);
                &[]
            }
            Value::Array(items) => items.as_slice(),
            other => std::slice::from_ref(other),
        };
        let found = texts.iter().filter_map(|text| text::invisible(text.as_str()?)).next();
        if let Some(found) = found.filter(|_| !settings && !path.ends_with(".settings")) {
            problems.push(format!("`{}` holds {found}: type it anew", path.escape_debug()));
        }
        for inner in texts.iter().filter_map(Value::as_table) {
            look(&path, inner, problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_they_look_like_and_a_plugins_texts_are_its_own() {
        let table: Table = toml::from_str(
            "[crm.main]\nurl = \"https://crm\u{200b}\"\n\"to\u{feff}ken\" = \"x\"\nallow = [\"10.0.0.1\", \"10.0.0.2\u{2060}\"]\n\
             [plugins.notify.settings.texts]\n\"deal.close\" = \"👩\u{200d}🔧\"\n\"deal.\u{200b}add\" = \"x\"\n\
             [[plugins.notify.settings.rules]]\nstep = \"👩\u{200d}🔧\"\n[plugins.notify]\nsettings.x = [\"\u{200d}\"]\nlimits = [{ a = \"\u{200d}\" }]\n",
        )
        .unwrap();
        let mut problems = Vec::new();
        look("", &table, &mut problems);
        let found = |words: &str| problems.iter().filter(|problem| problem.contains(words)).count();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert_eq!(
            found("`crm.main.url` holds the invisible character U+200B (line 1, character 12)"),
            1,
            "{problems:?}"
        );
        assert_eq!(found("`crm.main.to\\u{feff}ken` holds the invisible character U+FEFF"), 1, "{problems:?}");
        assert_eq!(found("`crm.main.allow` holds the invisible character U+2060"), 1, "{problems:?}");
        assert_eq!(found("settings.texts.deal.\\u{200b}add`"), 1, "{problems:?}");
        assert_eq!(found("`plugins.notify.limits.a`"), 1, "{problems:?}");
    }
}
