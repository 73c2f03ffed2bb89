//! Debian's packages without root: chosen, downloaded and unpacked into a folder.
//!
//! Invariants:
//! - The system's apt is only read (its sources and keys): lists, cache and downloads live in `apt` below the folder,
//!   which the caller removes at the end.
//! - Nothing is pinned: what apt offers is taken.
//! - No script of a package runs: there are no alternatives (`/usr/bin/php`), no caches, no users.
//!
//! Not here: which packages and which of their dependencies are wanted, when the folder counts as complete, and a check
//! of the versions that dependencies ask for.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{Log, Steps, command, file_names};

/// apt with state of its own: the system's lists may be stale, and changing them takes root.
pub(crate) struct Apt {
    /// Where packages are unpacked.
    folder: PathBuf,
    /// Where they are downloaded to.
    downloads: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let state = folder.join("apt");
        let (lists, cache, downloads) = (state.join("lists"), state.join("cache"), state.join("downloads"));
        for folder in [&lists.join("partial"), &cache.join("archives/partial"), &downloads] {
            fs::create_dir_all(folder)?;
        }
        let mut options = Vec::new();
        for (name, value) in [
            ("Dir::State::lists", lists.as_os_str()),
            ("Dir::Cache", cache.as_os_str()),
            // Run by root, apt would fetch as a user of its own that can't write here; for others this changes nothing.
            ("APT::Sandbox::User", "root".as_ref()),
            ("Acquire::Languages", "none".as_ref()),
        ] {
            let mut option = OsString::from(name);
            option.push("=");
            option.push(value);
            options.extend(["-o".into(), option]);
        }
        Ok(Self { folder: folder.into(), downloads, options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program, &self.downloads);
        command.env("LC_ALL", "C").args(&self.options);
        command
    }

    /// A command of dpkg, which has no state of ours.
    pub(crate) fn dpkg(&self, program: &str) -> Command {
        command(program, &self.folder)
    }

    /// Reads the lists of every source that the system has; nothing else works before.
    pub(crate) fn update(&self, steps: &mut Steps, log: &mut Log) -> Result<()> {
        steps.begin("reading Debian's package lists, apart from the system's");
        log.run(self.command("apt-get").arg("update"))
    }

    /// The candidates of these packages and of what they want, as `wanted` says of each. All of `names` must be offered.
    pub(crate) fn with_dependencies(
        &self,
        names: &[&str],
        wanted: impl Fn(&Package) -> Vec<String>,
        log: &mut Log,
    ) -> Result<Vec<Package>> {
        let mut chosen: Vec<Package> = Vec::new();
        let mut round: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut asked: HashSet<String> = round.iter().cloned().collect();
        while !round.is_empty() {
            let found = self.show(&round, log)?;
            // Two packages may want the same one.
            round = found.iter().flat_map(&wanted).filter(|name| asked.insert(name.clone())).collect();
            chosen.extend(found);
        }
        for name in names {
            if !chosen.iter().any(|package| package.name == *name) {
                bail!("the package lists do not offer `{name}`");
            }
        }
        Ok(chosen)
    }

    /// Leaves the unpacked packages in the folder, and nothing of the downloads.
    pub(crate) fn unpack(&self, packages: &[Package], steps: &mut Steps, log: &mut Log) -> Result<()> {
        let mebibytes = packages.iter().map(|package| package.bytes).sum::<u64>() >> 20;
        let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        steps.begin(&format!("fetching {mebibytes} MiB: {}", names.join(", ")));
        log.run(self.command("apt-get").arg("download").args(&names))?;

        steps.begin("unpacking");
        for file in file_names(&self.downloads) {
            let file = self.downloads.join(file);
            log.run(self.dpkg("dpkg").arg("-x").arg(&file).arg(&self.folder))?;
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// The candidates of these packages; unknown and virtual names are left out.
    fn show(&self, names: &[String], log: &mut Log) -> Result<Vec<Package>> {
        let output = log.output(self.command("apt-cache").args(["show", "--no-all-versions"]).args(names))?;
        Ok(parse_packages(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// One candidate of `apt-cache show`.
#[derive(Debug, PartialEq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Each dependency with its alternatives.
    pub(crate) depends: Vec<Vec<String>>,
    /// Of the file to download.
    pub(crate) bytes: u64,
}

pub(crate) fn parse_packages(text: &str) -> Vec<Package> {
    let field = |stanza: &str, name: &str| {
        let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let package = |stanza: &str| {
        let depends = field(stanza, "Depends").unwrap_or_default();
        // A name may be followed by an architecture (`:any`) or a version (`(>= 1)`).
        let name =
            |alternative: &str| alternative.split([' ', ':', '(']).find(|part| !part.is_empty()).map(str::to_owned);
        Some(Package {
            name: field(stanza, "Package")?,
            version: field(stanza, "Version")?,
            depends: depends.split(',').map(|group| group.split('|').filter_map(name).collect()).collect(),
            bytes: field(stanza, "Size")?.parse().ok()?,
        })
    };
    text.split("\n\n").filter_map(package).collect()
}

/// Folders of the unpacked packages that hold shared libraries; none where no library's name begins with `library`.
pub(crate) fn library_path(folder: &Path, library: &str) -> Vec<PathBuf> {
    let libraries = folder.join("usr/lib");
    let has_it = |name: &String| file_names(&libraries.join(name)).iter().any(|file| file.starts_with(library));
    match file_names(&libraries).into_iter().find(has_it) {
        Some(machine) => vec![libraries.join(&machine), folder.join("lib").join(machine)],
        None => Vec::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SHOWN: &str = "\
Package: rustc-web
Version: 1.96.0+dfsg1-1~deb12u2
Depends: libc6 (>= 2.34), libstd-rust-web-dev (= 1.96.0+dfsg1-1~deb12u2), gcc, libc-dev, binutils (>= 2.26)
Description: Rust
 Depends: not this
Size: 4450500

Package: libstd-rust-web-1.96
Version: 1.96.0+dfsg1-1~deb12u2
Depends: libc6 (>= 2.34), libllvm22, libz3-4 | libz3-other, python3:any
Size: 10

Package: virtual
";

    #[test]
    fn package_fields_survive_versions_alternatives_and_continuation_lines() {
        let [rustc, library] = parse_packages(SHOWN).try_into().unwrap();
        assert_eq!(
            (rustc.name.as_str(), rustc.version.as_str(), rustc.bytes),
            ("rustc-web", "1.96.0+dfsg1-1~deb12u2", 4_450_500)
        );
        assert_eq!(
            rustc.depends.iter().flatten().collect::<Vec<_>>(),
            ["libc6", "libstd-rust-web-dev", "gcc", "libc-dev", "binutils"]
        );
        assert_eq!(library.depends.last().unwrap(), &["python3"]);
        assert_eq!(parse_packages("N: No packages found\n"), []);
    }
}
