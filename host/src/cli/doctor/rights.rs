//! Who may read and change what belongs to the host: its data folder, its configuration, its secrets, what the service's unit
//! says of them.
//!
//! Nothing is changed: the host closes its data folder itself when it starts.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Findings, State};
use crate::app::{MARKS, OWN_FILES, check};
use crate::config::Config;
use crate::files::private;
use crate::text;

/// Files that are named in one sentence.
const NAMED: usize = 5;

/// The data folder is there, and belongs to `owner`.
pub(super) fn data_folder(findings: &mut Findings, data: &Path, owner: u32) {
    match private::fit(data, &MARKS).and_then(|()| private::look(data, &OWN_FILES, owner)) {
        Err(private::Error::System { path, cause }) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            let words = format!("`{}` can't be looked into: run this as the host's user, or as root", path.display());
            findings.add("data folder", State::Remark, words);
        }
        Err(error) => findings.add("data folder", State::Bad, format!("{error}: the host does not start like this")),
        Ok(open) if !open.is_empty() => {
            let named: Vec<String> = open.iter().take(NAMED).map(|path| format!("`{}`", path.display())).collect();
            let more = if open.len() > NAMED { format!(" and {} more", open.len() - NAMED) } else { String::new() };
            let words = format!(
                "others can look into {}{more}, which hold the CRM's data: restart the host, which closes them, or `chmod -R go-rwx`",
                named.join(", ")
            );
            findings.add("data folder", State::Bad, words);
        }
        Ok(_) => findings.add("data folder", State::Good, format!("`{}` is there, and nobody else's", data.display())),
    }
    if let Some(above) = private::replaceable(data) {
        let words = format!(
            "every user of this machine may rename what is in `{}`, the data folder too: move it, or `chmod o-w`",
            above.display()
        );
        findings.add("data folder", State::Bad, words);
    }
}

/// The configuration, what was approved, and the files with secrets.
pub(super) fn configuration(findings: &mut Findings, file: Option<&Path>, config: &Config) {
    let Some(file) = file else { return };
    let text = text::read(file, text::MOST).unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let mut good = true;
    let mut bad = |words: String| {
        findings.add("rights", State::Bad, words);
        good = false;
    };
    let mode = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
    if has_secret(&table) && mode(file) & 0o004 != 0 {
        bad(format!(
            "everybody can read `{}`, and it holds secrets: `chmod o-r`, or write {{ file = \"…\" }} or {{ env = \"…\" }}",
            file.display()
        ));
    }
    // Whoever may change these decides what plugins may do.
    if mode(file) & 0o022 != 0 {
        bad(format!("others than its owner may change `{}`: `chmod go-w`", file.display()));
    }
    // The host's user, as far as it shows.
    let user = std::fs::metadata(&config.journal.data_dir).map(|metadata| metadata.uid()).ok();
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut named = Vec::new();
    secret_files(&toml::Value::Table(table), &mut named);
    for path in named.iter().map(|named| folder.join(named)) {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let (path, owner) = (path.display(), metadata.uid());
        if metadata.permissions().mode() & 0o027 != 0 {
            bad(format!("others can read or change `{path}`, which holds a secret: `chmod o-rwx,g-w`"));
        }
        if owner != 0 && user.is_some_and(|user| user != owner) {
            bad(format!(
                "`{path}` holds a secret and belongs to user {owner}: `chown` it to root, or to the host's user"
            ));
        }
    }
    if good {
        findings.add("rights", State::Good, "nobody else can read the configuration's secrets, or change it");
    }
}

/// The plugins' folder, its files, and what was approved.
pub(super) fn plugins(findings: &mut Findings, config: &Config) {
    // The host's user, as far as it shows.
    let owner = std::fs::metadata(&config.journal.data_dir).map(|metadata| metadata.uid());
    let owner = owner.unwrap_or_else(|_| rustix::process::geteuid().as_raw());
    for (bad, words) in check::changeable(&config.registry, owner) {
        findings.add("rights", if bad { State::Bad } else { State::Remark }, words);
    }
}

/// What systemd was told, where there is a unit.
pub(super) fn unit(findings: &mut Findings) {
    let asked = Command::new("systemctl")
        .args(["show", "salesman-host.service", "--property=LoadState,StateDirectory,StateDirectoryMode,UMask"])
        .output();
    let Ok(answer) = asked else { return };
    for words in of_unit(&String::from_utf8_lossy(&answer.stdout)) {
        findings.add("unit", State::Remark, words);
    }
}

fn of_unit(said: &str) -> Vec<String> {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
    let open = |key: &str, closed: u32| u32::from_str_radix(value(key), 8).is_ok_and(|mode| mode & 0o077 != closed);
    let mut words = Vec::new();
    if value("LoadState") == "loaded" && !value("StateDirectory").is_empty() && open("StateDirectoryMode", 0) {
        words.push("the unit opens the data folder to others at each start: add `StateDirectoryMode=0700`".to_owned());
    }
    if value("LoadState") == "loaded" && open("UMask", 0o077) {
        words.push("the unit lets others read what is new: add `UMask=0077`".to_owned());
    }
    words
}

fn has_secret(table: &toml::Table) -> bool {
    table.iter().any(|(key, value)| match value {
        toml::Value::String(text) => matches!(key.as_str(), "api_key" | "token" | "hook") && !text.is_empty(),
        toml::Value::Table(inner) => has_secret(inner),
        toml::Value::Array(items) => key == "token" && items.iter().any(toml::Value::is_str),
        _ => false,
    })
}

/// The files of every `{ file = "…" }`.
fn secret_files(value: &toml::Value, found: &mut Vec<PathBuf>) {
    match value {
        toml::Value::Table(table) => match table.get("file") {
            Some(toml::Value::String(path)) if table.len() == 1 => found.push(path.into()),
            _ => table.values().for_each(|inner| secret_files(inner, found)),
        },
        toml::Value::Array(items) => items.iter().for_each(|item| secret_files(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_opens_the_data_folder_is_told_and_one_that_is_not_there_is_not() {
        let said = |mode: &str, umask: &str, state: &str| {
            of_unit(&format!(
                "LoadState={state}\nStateDirectory=salesman-host\nStateDirectoryMode={mode}\nUMask={umask}\n"
            ))
        };
        assert_eq!(said("0700", "0077", "loaded"), Vec::<String>::new());
        assert_eq!(said("0755", "0022", "not-found"), Vec::<String>::new());
        let both = said("0755", "0022", "loaded");
        assert!(both[0].contains("StateDirectoryMode=0700") && both[1].contains("UMask=0077"), "{both:?}");
    }

    #[test]
    fn whoever_else_may_change_a_plugin_or_a_grant_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [file, dir, grants] = ["host.toml", "plugins", "grants.toml"].map(|name| folder.path().join(name));
        let wasm = dir.join("notify.wasm");
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir(&dir).unwrap();
        for (path, text) in [
            (&file, "[server]\ndata_dir = \".\"\n[plugins]\ndir = \"plugins\"\ngrants = \"grants.toml\"\n"),
            (&wasm, ""),
            (&grants, ""),
        ] {
            std::fs::write(path, text).unwrap();
        }
        let source = crate::config::Source { file: Some(file), ..Default::default() };
        let config = source.read().unwrap();
        let told = || {
            let mut findings = Findings::default();
            plugins(&mut findings, &config);
            findings.0.into_iter().map(|finding| (finding.state, finding.words)).collect::<Vec<_>>()
        };
        for (path, open, state) in [
            (&dir, 0o777, State::Bad),
            (&dir, 0o775, State::Remark),
            (&wasm, 0o666, State::Bad),
            (&grants, 0o620, State::Bad),
        ] {
            [(&dir, 0o755), (&wasm, 0o644), (&grants, 0o644)].into_iter().for_each(|(path, mode)| set(path, mode));
            assert_eq!(told(), [], "closed");
            set(path, open);
            let words = told();
            assert!(
                matches!(&words[..], [(is, words)] if *is == state && words.contains(&*path.to_string_lossy())),
                "{words:?}"
            );
        }
        set(&grants, 0o644);
        let own = rustix::process::geteuid().as_raw();
        if own == 0 {
            std::os::unix::fs::chown(&wasm, Some(7), None).unwrap();
        }
        let other = check::changeable(&config.registry, own + 1);
        assert!(other.iter().any(|(_, words)| words.contains("notify.wasm` belongs to user")), "{other:?}");
    }

    #[test]
    fn files_with_secrets_are_found_wherever_they_are_named() {
        let table = "[crm.main]\napi_key = { file = \"a\" }\ntoken = [{ file = \"b\" }, \"x\"]\n[plugins.p.settings]\nfile = \"no\"\nmore = 1\n";
        let mut found = Vec::new();
        secret_files(&toml::Value::Table(table.parse().unwrap()), &mut found);
        found.sort();
        assert_eq!(found, ["a", "b"].map(PathBuf::from));
    }
}
