//! The integration tests: evidence by failure mode, against a real host in a process of its own.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod accounts;
mod answers;
mod authoring;
mod backup;
mod bounds;
mod browser;
mod crm_client;
mod deeds;
mod delivery;
mod documents;
mod durability;
mod faults;
mod files;
mod first_steps;
mod floods;
mod forgetting;
mod fuzz;
mod handmade;
mod identity;
mod intake;
mod intruders;
mod isolation;
mod languages;
mod loops;
mod missing;
mod newcomer;
mod operating;
mod operators;
mod output;
mod overload;
mod php;
mod php_closed;
mod proxies;

mod rehearsal;
mod reload;
mod resilience;
mod secrecy;
mod shapes;
mod start;
mod store;
mod synced;
mod tidy;
mod updates;
mod vouching;
mod watching;
mod writes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The folder with the hostile plugin; built once.
fn guests() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| xtask::plugins::build_guests(&xtask::root()).unwrap()).clone()
}

/// The folder with the sample plugins; built once.
fn samples() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| xtask::plugins::build_samples(&xtask::root()).unwrap()).clone()
}

/// A folder with the hostile plugin under these names, each with its own events.
fn plugins(names: &[(&str, &str)]) -> TempDir {
    with_settings(names, "")
}

/// As [`plugins`], with lines for the manifest's settings.
fn with_settings(names: &[(&str, &str)], settings: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let module = std::fs::read(guests().join("guests.wasm")).unwrap();
    for (name, events) in names {
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1\"\nevents = [\"{events}\"]\n[permissions]\ncrm = [\"task.add\", \"deal.list\", \"client.*\"]\nstate = true\n[settings]\n{settings}"
        );
        let renamed = integration_tests::guest::with_manifest(&module, &manifest).unwrap();
        std::fs::write(folder.path().join(format!("{name}.wasm")), renamed).unwrap();
    }
    folder
}

/// What a registry in the test's own process is told: these plugins with all that they ask for, the rest in `folder`.
fn granting_all(dir: PathBuf, folder: &std::path::Path) -> salesman_host::registry::Options {
    salesman_host::registry::Options {
        dir,
        store: folder.join("store"),
        approvals: folder.join("grants.toml"),
        approved: BTreeMap::new(),
        dev: true,
        concurrency: 4,
        plugins: BTreeMap::new(),
        accounts: BTreeMap::new(),
        had_deliveries: Default::default(),
    }
}

/// How many files lie below a folder that may not be there, or is being changed.
fn files_in(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files_in(&path) } else { 1 }).sum()
}

/// Every file below a folder.
fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
