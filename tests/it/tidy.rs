//! The house's rules, as far as a program can check them: edges, headers, sizes, lints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// All of the workspace's own sources.
fn all() -> Vec<PathBuf> {
    let root = xtask::root();
    ["host", "plugin-sdk", "plugins", "tests", "xtask"].iter().flat_map(|room| sources(&root.join(room))).collect()
}

#[test]
fn no_room_uses_another_than_the_table_of_edges_allows() {
    let root = xtask::root();
    let document = std::fs::read_to_string(root.join("host/ARCHITECTURE.md")).unwrap();
    let table = document.split("<!-- edges -->").nth(1).unwrap().split("<!-- /edges -->").next().unwrap();
    let allowed: BTreeMap<&str, BTreeSet<&str>> = table
        .lines()
        .filter_map(|line| line.split_once('→'))
        .map(|(room, others)| {
            (room.trim(), others.split(',').map(str::trim).filter(|other| !other.is_empty() && *other != "-").collect())
        })
        .collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let rooms: Vec<String> = std::fs::read_to_string(root.join("host/src/lib.rs"))
        .unwrap()
        .lines()
        .filter_map(|line| {
            line.trim_start_matches("pub ")
                .strip_prefix("mod ")
                .and_then(|name| name.strip_suffix(';'))
                .map(str::to_owned)
        })
        .collect();
    for path in sources(&root.join("host/src")) {
        let inside = path.strip_prefix(root.join("host/src")).unwrap().to_str().unwrap();
        let room = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        // Tests may look wherever they need to.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if !rooms.contains(&room) || inside.ends_with("tests.rs") {
            continue;
        }
        let edges = found.entry(room.clone()).or_default();
        let listed = code.split("use crate::{").skip(1).flat_map(|rest| {
            let mut depth = 0;
            let end = rest
                .find(|c| {
                    if c == '{' {
                        depth += 1
                    } else if c == '}' {
                        depth -= 1
                    };
                    depth < 0
                })
                .unwrap();
            rest[..end].split(',').map(|item| item.trim().split("::").next().unwrap().to_owned()).collect::<Vec<_>>()
        });
        let named = code.match_indices("crate::").map(|(at, _)| {
            code[at + 7..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()
        });
        edges.extend(listed.chain(named).filter(|other| rooms.contains(other) && *other != room));
    }
    let found: BTreeMap<&str, BTreeSet<&str>> =
        found.iter().map(|(room, others)| (room.as_str(), others.iter().map(String::as_str).collect())).collect();
    assert_eq!(found, allowed);
}

#[test]
fn only_the_named_rooms_touch_the_engine_the_store_and_the_network() {
    let root = xtask::root().join("host/src");
    let rules: [(&str, &[&str]); 4] = [
        ("wasmtime", &["sandbox", "contract", "capabilities"]),
        ("rusqlite", &["journal"]),
        ("reqwest", &["crm", "capabilities", "tls", "alerts", "traces", "cli/remote.rs"]),
        ("axum", &["ingress", "console", "health", "app", "server"]),
    ];
    let mut wrong = Vec::new();
    for path in sources(&root) {
        let inside = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let room = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for (library, rooms) in rules {
            let named = text.contains(&format!("use {library}::")) || text.contains(&format!(" {library}::"));
            if named && !rooms.contains(&room.as_str()) && !rooms.contains(&inside.as_str()) {
                wrong.push(format!("{inside} names {library}"));
            }
        }
        // The standard library's macros panic when nobody reads: all that is printed goes through one module. What the
        // compiler's process writes is no print: it is code, for the host.
        let prints = ["println!", "print!", "io::stdout", "io::stderr", "dbg!"].iter().any(|word| text.contains(word));
        if prints
            && !matches!(inside.as_str(), "cli/out.rs" | "telemetry.rs" | "telemetry/log.rs" | "sandbox/compiler.rs")
        {
            wrong.push(format!("{inside} prints by itself instead of through cli/out.rs"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_file_says_what_it_is_for_and_stays_readable() {
    let mut wrong = Vec::new();
    for path in all() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if !text.starts_with("//! ") || text.lines().next().is_some_and(|line| line.len() < 20) {
            wrong.push(format!("{}: no header", path.display()));
        }
        if lines > 600 {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        if text.contains(concat!("#[", "allow(")) || text.contains(concat!("#![", "allow(")) {
            wrong.push(format!("{}: an allow instead of an expect", path.display()));
        }
        if path.ends_with("mod.rs") {
            wrong.push(format!("{}: a mod.rs", path.display()));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_error_code_is_explained_in_the_readme() {
    let root = xtask::root();
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut missing = BTreeSet::new();
    for path in sources(&root.join("host/src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        for quoted in text.split('"').skip(1).step_by(2) {
            let code = ["ingress.", "registry.", "plugin.", "console."].iter().any(|room| quoted.starts_with(room));
            let plain = quoted.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_'));
            if code
                && plain
                && !matches!(quoted, "plugin.toml" | "plugin.html")
                && !readme.contains(&format!("`{quoted}`"))
            {
                missing.insert(quoted.to_owned());
            }
        }
    }
    assert_eq!(missing, BTreeSet::new());
}
