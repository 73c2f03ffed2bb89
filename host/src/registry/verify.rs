//! Whether the files that the host keeps of plugins are what they should be: looked at, and nothing changed.

use std::time::Instant;

use super::versions::Versions;
use crate::sandbox;

/// A file that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which, and what is wrong.
    pub what: String,
    /// What that means.
    pub meaning: &'static str,
    /// The way back.
    pub remedy: &'static str,
}

const RELOAD: &str = "put the plugin's file into the plugin folder again; a host that runs keeps it anew";

/// Compares every kept version with its hash, and what the records name with what is kept; tells also how many versions there
/// was no time for.
pub fn verify(versions: &Versions, until: Instant) -> (Vec<Fault>, usize) {
    let (mut faults, mut left) = (Vec::new(), 0);
    for name in versions.names() {
        for version in versions.list(&name) {
            if Instant::now() >= until {
                left += 1;
                continue;
            }
            let held = std::fs::read(versions.path(&name, &version.hash));
            if held.is_ok_and(|bytes| sandbox::digest(&bytes) == version.hash) {
                continue;
            }
            let short: String = version.hash.chars().take(12).collect();
            faults.push(Fault {
                what: format!("the kept version {short} of the plugin `{name}` is not the file that was kept"),
                meaning: "it can't serve, should it be needed",
                remedy: RELOAD,
            });
        }
    }
    for path in versions.damaged_records() {
        faults.push(Fault {
            what: format!("the record `{}` is damaged", path.display()),
            meaning: "it says what served, was chosen, or where plugins came from",
            remedy: "a host that starts puts its copy in its place, or tells what is lost",
        });
    }
    let serving =
        versions.serving().unwrap_or_default().into_iter().map(|(name, serving)| (name, serving.hash, "serves"));
    let chosen = versions
        .pins()
        .unwrap_or_default()
        .into_iter()
        .map(|(name, pin)| (name, pin.hash, "was chosen by an operator"));
    for (name, hash, how) in serving.chain(chosen) {
        if !versions.list(&name).iter().any(|version| version.hash == hash) {
            faults.push(Fault {
                what: format!("of the plugin `{name}` the version that {how} is not kept"),
                meaning: "it serves only as long as its file is in the plugin folder",
                remedy: RELOAD,
            });
        }
    }
    (faults, left)
}
