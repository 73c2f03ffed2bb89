//! The file with what was approved: `grants.toml`. It can be written by hand, by a script, or by `plugin grant`.
//!
//! ```toml
//! [notify]
//! crm = ["deal.info"]
//! http = ["https://chat.example.com"]
//! state = true
//! ```
//!
//! - A section is the whole of what the plugin may do, beside its section in the configuration.
//! - What others wrote, comments included, stays when one section is put in.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::plugin::{Pattern, Permissions, PluginName};

const HEAD: &str = "# What plugins may do. Written by `salesman-host plugin grant`, or by hand.\n";

/// What is approved. A file that is not there approves nothing.
pub(super) fn read(path: &Path) -> Result<BTreeMap<PluginName, Permissions>, String> {
    let text = text(path)?;
    let approved: BTreeMap<PluginName, Permissions> =
        toml::from_str(&text).map_err(|error| format!("`{}`: {}", path.display(), error.message()))?;
    for (name, permissions) in &approved {
        if let Some(wrong) = permissions.http.iter().find(|origin| !super::read::is_origin(origin)) {
            return Err(format!(
                "`{}`, `[{name}]`: `{wrong}` is no origin such as `https://host` or `https://host:port`",
                path.display()
            ));
        }
    }
    Ok(approved)
}

/// Approves exactly this for a plugin, or nothing any more.
///
/// # Errors
/// A sentence: the file can't be read, is no TOML, or can't be written.
pub fn approve(path: &Path, name: &PluginName, permissions: Option<&Permissions>) -> Result<(), String> {
    let text = text(path)?;
    let mut document: DocumentMut = text.parse().map_err(|error| format!("`{}`: {error}", path.display()))?;
    match permissions {
        Some(permissions) => {
            let mut table = Table::new();
            let list = |items: &mut dyn Iterator<Item = &str>| value(items.collect::<Array>());
            table.insert("crm", list(&mut permissions.crm.iter().map(Pattern::as_str)));
            table.insert("http", list(&mut permissions.http.iter().map(String::as_str)));
            table.insert("state", value(permissions.state));
            if document.is_empty() && text.is_empty() {
                table.decor_mut().set_prefix(format!("{HEAD}\n"));
            }
            document.insert(name.as_str(), Item::Table(table));
        }
        None => {
            document.remove(name.as_str());
        }
    }
    let written = |error: std::io::Error| format!("`{}` can't be written: {error}", path.display());
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&beside, document.to_string()).and_then(|()| std::fs::rename(&beside, path)).map_err(written)
}

fn text(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("`{}` can't be read: {error}", path.display())),
        Ok(text) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_when_a_plugin_is_granted_or_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.toml");
        let name = |text: &str| PluginName::try_from(text.to_owned()).unwrap();
        let asked = Permissions {
            crm: vec![Pattern::try_from("deal.info".to_owned()).unwrap()],
            http: vec!["https://chat.example.com".to_owned()],
            state: true,
        };
        approve(&path, &name("first"), Some(&asked)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{HEAD}\n[first]\ncrm = [\"deal.info\"]\nhttp = [\"https://chat.example.com\"]\nstate = true\n")
        );
        std::fs::write(&path, "# mine\n[other] # his\nstate = true\n").unwrap();
        approve(&path, &name("first"), Some(&asked)).unwrap();
        let state = Permissions { state: true, ..Permissions::default() };
        assert_eq!(read(&path).unwrap(), BTreeMap::from([(name("first"), asked), (name("other"), state)]));
        approve(&path, &name("first"), None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# mine\n[other] # his\nstate = true\n");
    }

    #[test]
    fn a_slip_of_the_pen_grants_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.toml");
        for (wrong, part) in [
            ("[a]\nstat = true", "stat"),
            ("[a]\nhttp = [\"*\"]", "no origin"),
            ("[A]\nstate = true", "not a plugin's name"),
            ("state = true", "expected"),
        ] {
            std::fs::write(&path, wrong).unwrap();
            let told = read(&path).unwrap_err();
            assert!(told.contains(part) && told.contains("grants.toml"), "{told}");
        }
    }
}
