//! The SDK for Rust, embedded: an author needs nothing but this program and cargo.
//!
//! - The list is the SDK's folder without what only its own tests need; a test compares the two.
//! - Its `Cargo.toml` stands alone: what it takes from the workspace is put in from the workspace's file.

use toml::{Table, Value};

use super::Error;

/// The SDK's package.
pub(super) const PACKAGE: &str = "salesman-plugin-sdk";
/// How a module of tests is named in a file; the module itself is left out.
const TEST_MODULE: &str = "#[cfg(test)]\nmod tests;\n";

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-sdk/", $path)))),*]
    };
}

const FILES: &[(&str, &str)] = embedded![
    "README.md",
    "src/bindings.rs",
    "src/crm.rs",
    "src/crm/activities.rs",
    "src/crm/fields.rs",
    "src/crm/list.rs",
    "src/crm/read.rs",
    "src/crm/records.rs",
    "src/error.rs",
    "src/event.rs",
    "src/event/catalogue.rs",
    "src/event/macros.rs",
    "src/event/read.rs",
    "src/event/value.rs",
    "src/export.rs",
    "src/host.rs",
    "src/http.rs",
    "src/lib.rs",
    "src/reply.rs",
    "src/state.rs",
    "src/testing.rs",
    "wit/plugin.wit",
];
const PACKAGE_TOML: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-sdk/Cargo.toml"));
const WORKSPACE_TOML: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
const LICENCE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE"));

/// The SDK's files, as they lie inside its folder.
pub(super) fn files() -> Result<Vec<(String, String)>, Error> {
    let sources = FILES.iter().map(|(path, contents)| ((*path).to_owned(), contents.replace(TEST_MODULE, "")));
    let own = [("Cargo.toml".to_owned(), cargo_toml()?), ("LICENSE".to_owned(), LICENCE.to_owned())];
    Ok(own.into_iter().chain(sources).collect())
}

/// The oldest compiler that the SDK accepts.
pub(super) fn rust_version() -> Result<String, Error> {
    let package: Table = cargo_toml()?.parse()?;
    let version = package.get("package").and_then(|package| package.get("rust-version")).and_then(Value::as_str);
    Ok(version.unwrap_or_default().to_owned())
}

fn cargo_toml() -> Result<String, Error> {
    let mut package: Table = PACKAGE_TOML.parse()?;
    let root: Table = WORKSPACE_TOML.parse()?;
    let shared = |section: &str| root.get("workspace")?.get(section)?.as_table();
    for section in ["package", "dependencies"] {
        if let (Some(Value::Table(keys)), Some(shared)) = (package.get_mut(section), shared(section)) {
            put_in(keys, shared);
        }
    }
    // Lints are for the SDK's own development.
    package.remove("lints");
    Ok(format!("# A copy of the SDK, written by `salesman-host plugin new`.\n\n{}", toml::to_string(&package)?))
}

fn put_in(keys: &mut Table, shared: &Table) {
    for (key, value) in keys {
        let is_shared = value.get("workspace").and_then(Value::as_bool) == Some(true);
        if let (true, Some(whole)) = (is_shared, shared.get(key)) {
            *value = whole.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// What only the SDK's own tests need.
    const FOR_TESTS: [&str; 4] =
        ["src/crm/captured.jsonl", "src/crm/tests.rs", "src/event/expected.txt", "src/event/tests.rs"];

    fn lie_in(folder: &Path, inside: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder.join(inside)).unwrap() {
            let entry = entry.unwrap();
            let path = Path::new(inside).join(entry.file_name()).to_str().unwrap().to_owned();
            if entry.path().is_dir() {
                lie_in(folder, &path, found);
            } else {
                found.insert(path);
            }
        }
    }

    #[test]
    fn no_file_of_the_sdk_is_missing_in_the_copy() {
        let mut there = BTreeSet::new();
        lie_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk"), "", &mut there);
        // The helpers of other languages have lists of their own.
        there.retain(|path| !path.starts_with("js/") && !path.starts_with("python/"));
        let mut listed: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        listed.extend(FOR_TESTS.into_iter().chain(["Cargo.toml"]).map(str::to_owned));
        assert_eq!(listed, there, "list a new file in `FILES`, or in `FOR_TESTS`");
    }

    #[test]
    fn the_copy_names_no_module_and_no_workspace_that_it_lacks() {
        let files = files().unwrap();
        for (path, contents) in &files {
            assert!(!contents.contains("\nmod tests;"), "{path}");
        }
        let manifest: Table = files[0].1.parse().unwrap();
        assert!(!files[0].1.contains("workspace = true"), "{}", files[0].1);
        assert_eq!(manifest["package"]["name"].as_str(), Some(PACKAGE));
        assert_eq!(manifest["package"]["edition"].as_str(), Some("2024"));
        assert_eq!(manifest["dependencies"]["serde"]["features"][0].as_str(), Some("derive"));
        assert!(manifest.get("lints").is_none());
    }
}
