//! The file with what was approved: `grants.toml`. It can be written by hand, by a script, or by `plugin grant`.
//!
//! ```toml
//! [notify]
//! crm = ["deal.info"]
//! http = ["https://chat.example.com"]
//! state = true
//! limits = { memory_mib = 256 }
//! ```
//!
//! - A section is the whole of what the plugin may do, beside its section in the configuration.
//! - What others wrote, comments included, stays when one section is put in.
//! - **What is written was read first**: the whole text, by the one reader. A file that a host would refuse is not made.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};

use super::findings::{Findings, Places};
use super::plugins::grants;
use super::read::Section;
use super::unseen;
use crate::files;
use crate::plugin::{Kind, Pattern, Permissions, PluginName, origin};
use crate::text;

/// Two that read the same file, and each put their own section in, would lose one of them.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const HEAD: &str = "# What plugins may do. Written by `salesman-host plugin grant`, or by hand.\n";

/// What is approved, and remarks. A file that is not there approves nothing.
pub(super) fn read(path: &Path) -> Result<Approved, String> {
    approved(path, &text(path)?)
}

/// What is approved for each plugin, and remarks.
type Approved = (BTreeMap<PluginName, Permissions>, Vec<String>);

/// The one reader: what it refuses, no host starts with, and nothing writes.
fn approved(path: &Path, text: &str) -> Result<Approved, String> {
    let table: toml::Table = toml::from_str(text)
        .map_err(|error| format!("`{}`{}: {}", path.display(), at(text, error.span()), error.message()))?;
    let mut findings = Findings { places: Places::of(text), ..Findings::default() };
    unseen::look("", &table, &mut findings.problems);
    let mut approved = BTreeMap::new();
    for (key, value) in table {
        match PluginName::try_from(key.clone()) {
            Ok(name) => {
                let section = Section::new(key, Some(value), &mut findings);
                approved.insert(name, grants(section, false).0);
            }
            Err(error) => findings.problem(&key, format!("is no plugin's section: {error}")),
        }
    }
    let of_it = |told: &String| format!("`{}`, {told}", path.display());
    match findings.problems.as_slice() {
        [] => Ok((approved, findings.remarks.iter().map(of_it).collect())),
        problems => Err(problems.iter().map(of_it).collect::<Vec<_>>().join("; ")),
    }
}

/// Approves exactly this for a plugin, or nothing any more.
///
/// # Errors
/// A sentence: the file, as it is or as it would be, can't be read, or it can't be written.
pub fn approve(path: &Path, name: &PluginName, permissions: Option<&Permissions>) -> Result<(), String> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let text = text(path)?;
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        format!("`{}`{}: {}", path.display(), at(&text, error.span()), error.message())
    })?;
    match permissions {
        Some(permissions) => {
            let mut table = Table::new();
            let list = |items: &mut dyn Iterator<Item = &str>| value(items.collect::<Array>());
            table.insert("crm", list(&mut permissions.crm.iter().map(Pattern::as_str)));
            table.insert("http", list(&mut permissions.http.iter().map(String::as_str)));
            table.insert("state", value(permissions.state));
            if !permissions.limits.is_empty() {
                let number = |(kind, limit): (Kind, u64)| (kind.key, i64::try_from(limit).unwrap_or(i64::MAX));
                table.insert("limits", value(permissions.limits.set().map(number).collect::<InlineTable>()));
            }
            if document.is_empty() && text.is_empty() {
                table.decor_mut().set_prefix(format!("{HEAD}\n"));
            }
            document.insert(name.as_str(), Item::Table(table));
        }
        None => {
            document.remove(name.as_str());
        }
    }
    let text = document.to_string();
    let (read, _) = approved(path, &text)?;
    if read.get(name) != permissions.map(normal).transpose()?.as_ref() {
        return Err(format!("`{}`: the grant of `{name}` would not be read as it is meant", path.display()));
    }
    files::replace(path, text.as_bytes(), files::Readers::Folder)
        .map_err(|error| format!("`{}` can't be written: {error}", path.display()))
}

/// With its origins in the form in which they are read.
fn normal(permissions: &Permissions) -> Result<Permissions, String> {
    Ok(Permissions { http: origin::all_normal(&permissions.http)?, ..permissions.clone() })
}

fn at(text: &str, span: Option<std::ops::Range<usize>>) -> String {
    let before = span.and_then(|span| text.get(..span.start));
    before.map_or_else(String::new, |before| format!(", {}", text::Place::behind(before)))
}

fn text(path: &Path) -> Result<String, String> {
    match text::read(path, text::MOST) {
        Err(text::Error::File(error)) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("`{}` can't be read: {error}", path.display())),
        Ok(text) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::LimitsPatch;

    #[test]
    fn what_others_wrote_stays_when_a_plugin_is_granted_or_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.toml");
        let name = |text: &str| PluginName::try_from(text.to_owned()).unwrap();
        let asked = Permissions {
            crm: vec![Pattern::try_from("deal.info".to_owned()).unwrap()],
            http: vec!["https://chat.example.com".to_owned()],
            state: true,
            limits: LimitsPatch { memory_mib: Some(256), ..LimitsPatch::default() },
        };
        approve(&path, &name("first"), Some(&asked)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!(
                "{HEAD}\n[first]\ncrm = [\"deal.info\"]\nhttp = [\"https://chat.example.com\"]\nstate = true\nlimits = {{ memory_mib = 256 }}\n"
            )
        );
        std::fs::write(&path, "# mine\n[other] # his\nstate = true\n").unwrap();
        approve(&path, &name("first"), Some(&asked)).unwrap();
        let state = Permissions { state: true, ..Permissions::default() };
        assert_eq!(read(&path).unwrap().0, BTreeMap::from([(name("first"), asked), (name("other"), state)]));
        approve(&path, &name("first"), None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# mine\n[other] # his\nstate = true\n");
    }

    #[test]
    fn a_slip_of_the_pen_grants_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.toml");
        for (wrong, part) in [
            ("[a]\nstat = true", "stat"),
            ("[a]\nhttp = [\"*\"]", "name each address"),
            ("[a]\nhttp = [\"https://a.example/hooks\"]", "write `https://a.example`"),
            ("[A]\nstate = true", "not a plugin's name"),
            ("[a.limits]\nmemory_mib = 513", "between 1 and 512"),
            ("[a]\nlimits = { cpu = 1 }", "cpu_ms"),
            ("\n\nstate = true", "line 3: `state` must be a table"),
            ("# ours\r\n[a]\r\nstate = tru\u{200b}e\r\n", "line 3, character 9"),
            ("[a]\ncrm = [\"deal.\u{200b}list\"]", "U+200B"),
            ("[a\u{200b}]\nstate = true", "line 1"),
        ] {
            std::fs::write(&path, wrong).unwrap();
            let told = read(&path).unwrap_err();
            assert!(told.contains(part) && told.contains("grants.toml"), "{told}");
        }
        std::fs::write(&path, b"[a]\nstate = true # \xcf\n").unwrap();
        assert!(read(&path).unwrap_err().contains("not UTF-8 from line 2, character 16 on"));
        let utf16: Vec<u8> = "[a]\nstate = true".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, utf16).unwrap();
        assert!(read(&path).unwrap_err().contains("UTF-16"));
        // What editors leave at the start and at the ends of lines grants what it says.
        std::fs::write(&path, "\u{feff}[a]\r\nstate = true\r\n").unwrap();
        assert!(read(&path).unwrap().0.values().all(|granted| granted.state));
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grants.toml");
        let name = PluginName::try_from("a".to_owned()).unwrap();
        for wrong in ["https://a.example/hooks", "https://*.example", "*", "a.example", "https://u:p@a.example"] {
            let asked = Permissions { http: vec![wrong.to_owned()], ..Permissions::default() };
            assert!(approve(&path, &name, Some(&asked)).is_err(), "{wrong}");
            assert!(!path.exists(), "{wrong}");
        }
        let beyond = LimitsPatch { log_kib: Some(1 << 40), ..LimitsPatch::default() };
        let asked = Permissions { limits: beyond, ..Permissions::default() };
        assert!(approve(&path, &name, Some(&asked)).unwrap_err().contains("log_kib"));
        // Nor is a file that can't be read made to look as if it had taken effect.
        std::fs::write(&path, "[b]\nstat = true\n").unwrap();
        assert!(approve(&path, &name, Some(&Permissions::default())).unwrap_err().contains("b.stat"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[b]\nstat = true\n");
        std::fs::remove_file(&path).unwrap();
        let asked = Permissions { http: vec!["https://ЧАТ.рф:443/".to_owned()], ..Permissions::default() };
        approve(&path, &name, Some(&asked)).unwrap();
        assert_eq!(read(&path).unwrap().0[&name].http, ["https://xn--80a0bn.xn--p1ai"]);
    }
}
