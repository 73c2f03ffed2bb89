//! Way 3: a compiler out of Debian's packages, with the target's standard library compiled from their source.
//!
//! Nothing is pinned: the packages' versions, and the names with one inside (`libstd-rust-web-1.96`), are looked up.
//! Everything happens in the partial folder, which is stamped and renamed at the end.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::run::{Log, command, remove, step};
use super::{ActiveRustc, OLDEST_RUSTC, Places, Stamp, TARGET, WASI_OBJECTS};
use super::{file_names, has_library, library_folder, new_enough, private_variables};

/// Debian's current compiler (kept up to date for its browsers), its library source, and the C library below `std`.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "wasi-libc"];
/// The scratch crate whose only purpose is to make cargo compile the standard library. Its workspace table keeps it out
/// of ours.
const EMPTY_CRATE: &str = r#"
[package]
name = "empty"
version = "0.0.0"
edition = "2024"

[profile.release]
panic = "abort"

[workspace]
"#;
/// The library's dependencies come with its source: no registry is asked.
const VENDORED: &str = r#"
[source.crates-io]
replace-with = "library"

[source.library]
directory = "../usr/lib/rustlib/src/rust/library/vendor"
"#;

/// Makes the private toolchain and returns the version of its compiler.
pub(super) fn make(active: &ActiveRustc, places: &Places, log: &mut Log) -> Result<String> {
    let tools = active.tools();
    if !tools.join("rust-lld").is_file() {
        bail!("no linker: `{}` has no `rust-lld` (rustup's toolchains have one)", tools.display());
    }
    for leftover in [&places.partial, &places.toolchain] {
        remove(leftover)?;
    }
    fetch_packages(&Apt::new(&places.partial)?, log)?;
    let rustc = build_library(&places.partial, &tools, log)?;

    step(6, "putting it in place");
    for used_up in ["apt", "build", "usr/src", "usr/share"] {
        remove(&places.partial.join(used_up))?;
    }
    remove(&places.plugins)?;
    let stamp = Stamp { rustc };
    stamp.write(&places.partial)?;
    fs::rename(&places.partial, &places.toolchain)?;
    Stamp::of_complete(&places.toolchain).context("the toolchain is made, but files are missing in it")?;
    Ok(stamp.rustc)
}

/// apt with state of its own: the system's lists may be stale, and changing them takes root.
struct Apt {
    /// Where packages are unpacked.
    folder: PathBuf,
    /// Where they are downloaded to.
    downloads: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
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

    /// The candidates of these packages; unknown and virtual names are left out.
    fn show(&self, names: &[String], log: &mut Log) -> Result<Vec<Package>> {
        let output = log.output(self.command("apt-cache").args(["show", "--no-all-versions"]).args(names))?;
        Ok(parse_packages(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// One candidate of `apt-cache show`.
#[derive(Debug, PartialEq)]
struct Package {
    name: String,
    version: String,
    /// Each dependency with its alternatives.
    depends: Vec<Vec<String>>,
    /// Of the file to download.
    bytes: u64,
}

fn parse_packages(text: &str) -> Vec<Package> {
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

/// The dependencies of a package that must be unpacked as well.
///
/// The compiler's own libraries always: names with a version in them are taken from here, because they move with every
/// release. What else its libraries want, where the machine lacks it. Not what `rustc-web` itself wants (a C compiler):
/// who builds the host has one.
fn wanted_dependencies(package: &Package, installed: &HashSet<String>) -> Vec<String> {
    let own = |name: &String| name.starts_with("libstd-rust-") || name.starts_with("libllvm");
    let mut wanted = Vec::new();
    for alternatives in &package.depends {
        if let Some(name) = alternatives.iter().find(|name| own(name)) {
            wanted.push(name.clone());
        } else if !PACKAGES.contains(&package.name.as_str())
            && !alternatives.iter().any(|name| installed.contains(name))
        {
            wanted.extend(alternatives.first().cloned());
        }
    }
    wanted
}

/// Leaves the unpacked packages in the folder, and nothing of the downloads.
fn fetch_packages(apt: &Apt, log: &mut Log) -> Result<()> {
    step(2, "reading Debian's package lists, apart from the system's");
    log.run(apt.command("apt-get").arg("update"))?;
    let packages = choose_packages(apt, log).context(
        "the package lists have no fitting compiler; what `apt-get update` said of each source is in the log",
    )?;

    let mebibytes = packages.iter().map(|package| package.bytes).sum::<u64>() >> 20;
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    step(3, &format!("fetching {mebibytes} MiB: {}", names.join(", ")));
    log.run(apt.command("apt-get").arg("download").args(&names))?;

    step(4, "unpacking");
    for file in file_names(&apt.downloads) {
        let file = apt.downloads.join(file);
        log.run(command("dpkg", &apt.folder).arg("-x").arg(&file).arg(&apt.folder))?;
        fs::remove_file(file)?;
    }
    Ok(())
}

fn choose_packages(apt: &Apt, log: &mut Log) -> Result<Vec<Package>> {
    let installed =
        log.output(command("dpkg-query", &apt.folder).args(["-W", "-f", "${Package} ${db:Status-Status}\n"]))?;
    let installed = String::from_utf8_lossy(&installed.stdout);
    let installed = installed.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect();

    let mut chosen: Vec<Package> = Vec::new();
    let mut asked = HashSet::new();
    let mut names: Vec<String> = PACKAGES.map(str::to_owned).into();
    while !names.is_empty() {
        let found = apt.show(&names, log)?;
        asked.extend(names);
        names = found
            .iter()
            .flat_map(|package| wanted_dependencies(package, &installed))
            .filter(|name| !asked.contains(name))
            .collect();
        chosen.extend(found);
    }
    for name in PACKAGES {
        let package = chosen.iter().find(|package| package.name == name);
        let package = package.ok_or_else(|| anyhow!("the package lists do not offer `{name}`"))?;
        if name.starts_with("rust") && !new_enough(&package.version) {
            bail!("`{name}` is {}, and this workspace needs {OLDEST_RUSTC}", package.version);
        }
    }
    Ok(chosen)
}

/// Compiles the standard library and puts it where the unpacked compiler looks for it. Returns the compiler's version.
fn build_library(folder: &Path, tools: &Path, log: &mut Log) -> Result<String> {
    let variables = private_variables(folder, tools)?;
    let sysroot = folder.join("usr");
    let version = log.output(command(sysroot.join("bin/rustc"), folder).envs(variables.clone()).arg("--version"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    step(5, &format!("compiling the standard library with {version}, about a minute"));

    let scratch = folder.join("build");
    fs::create_dir_all(scratch.join("src"))?;
    fs::create_dir_all(scratch.join(".cargo"))?;
    fs::write(scratch.join("Cargo.toml"), EMPTY_CRATE)?;
    fs::write(scratch.join("src/lib.rs"), "")?;
    fs::write(scratch.join(".cargo/config.toml"), VENDORED)?;
    let mut cargo = command("cargo", &scratch);
    cargo.args(["build", "--release", "--offline", "-Zbuild-std=std,panic_abort", "--target", TARGET]);
    cargo.envs(variables).env("CARGO_TARGET_DIR", scratch.join("target"));
    // The nightly option is safe here: source and compiler are of the same build. Bitcode is for `lto = true`.
    log.run(cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Cembed-bitcode=yes"))?;

    let library = library_folder(&sysroot);
    let objects = library.join("self-contained");
    fs::create_dir_all(&objects)?;
    let built = scratch.join("target").join(TARGET).join("release/deps");
    for name in file_names(&built).iter().filter(|name| name.ends_with(".rlib") && !name.starts_with("libempty-")) {
        fs::rename(built.join(name), library.join(name))?;
    }
    for name in WASI_OBJECTS {
        let source = sysroot.join("lib/wasm32-wasi").join(name);
        fs::copy(&source, objects.join(name))
            .with_context(|| format!("`{}` is not in `wasi-libc`", source.display()))?;
    }
    if !has_library(&sysroot) {
        bail!("cargo compiled the standard library, but left none in `{}`", built.display());
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
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

    #[test]
    fn next_release_of_the_compiler_is_found_without_its_version_in_the_source() {
        let [rustc, library] = parse_packages(SHOWN).try_into().unwrap();
        let installed = HashSet::from(["libc6".to_owned(), "libllvm22".to_owned(), "libz3-other".to_owned()]);
        assert_eq!(wanted_dependencies(&rustc, &installed), ["libstd-rust-web-dev"]);
        // Its own LLVM even where the system has one, of another build; a missing library too.
        assert_eq!(wanted_dependencies(&library, &installed), ["libllvm22", "python3"]);
    }
}
