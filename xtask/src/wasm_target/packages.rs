//! Way 3: a compiler out of Debian's packages, with the target's standard library compiled from their source.
//!
//! Nothing is pinned: the packages' versions, and the names with one inside (`libstd-rust-web-1.96`), are looked up.
//! Everything happens in the partial folder, which is stamped and renamed at the end.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{ActiveRustc, OLDEST_RUSTC, Places, Stamp, TARGET, WASI_OBJECTS};
use super::{has_library, library_folder, new_enough, private_variables};
use crate::debian::{Apt, Package};
use crate::run::{Log, Steps, command, file_names, remove};

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
pub(super) fn make(active: &ActiveRustc, places: &Places, steps: &mut Steps, log: &mut Log) -> Result<String> {
    let tools = active.tools();
    if !tools.join("rust-lld").is_file() {
        bail!("no linker: `{}` has no `rust-lld` (rustup's toolchains have one)", tools.display());
    }
    for leftover in [&places.partial, &places.toolchain] {
        remove(leftover)?;
    }
    let apt = Apt::new(&places.partial)?;
    apt.update(steps, log)?;
    let packages = choose_packages(&apt, log).context(
        "the package lists have no fitting compiler; what `apt-get update` said of each source is in the log",
    )?;
    apt.unpack(&packages, steps, log)?;
    let rustc = build_library(&places.partial, &tools, steps, log)?;

    steps.begin("putting it in place");
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

fn choose_packages(apt: &Apt, log: &mut Log) -> Result<Vec<Package>> {
    let installed = log.output(apt.dpkg("dpkg-query").args(["-W", "-f", "${Package} ${db:Status-Status}\n"]))?;
    let installed = String::from_utf8_lossy(&installed.stdout);
    let installed = installed.lines().filter_map(|line| line.strip_suffix(" installed")).map(str::to_owned).collect();

    let chosen = apt.with_dependencies(&PACKAGES, |package| wanted_dependencies(package, &installed), log)?;
    for package in &chosen {
        let (name, version) = (&package.name, &package.version);
        if PACKAGES.contains(&name.as_str()) && name.starts_with("rust") && !new_enough(version) {
            bail!("`{name}` is {version}, and this workspace needs {OLDEST_RUSTC}");
        }
    }
    Ok(chosen)
}

/// Compiles the standard library and puts it where the unpacked compiler looks for it. Returns the compiler's version.
fn build_library(folder: &Path, tools: &Path, steps: &mut Steps, log: &mut Log) -> Result<String> {
    let variables = private_variables(folder, tools)?;
    let sysroot = folder.join("usr");
    let version = log.output(command(sysroot.join("bin/rustc"), folder).envs(variables.clone()).arg("--version"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    steps.begin(&format!("compiling the standard library with {version}, about a minute"));

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
    use crate::debian::parse_packages;
    use crate::debian::tests::SHOWN;

    #[test]
    fn next_release_of_the_compiler_is_found_without_its_version_in_the_source() {
        let [rustc, library] = parse_packages(SHOWN).try_into().unwrap();
        let installed = HashSet::from(["libc6".to_owned(), "libllvm22".to_owned(), "libz3-other".to_owned()]);
        assert_eq!(wanted_dependencies(&rustc, &installed), ["libstd-rust-web-dev"]);
        // Its own LLVM even where the system has one, of another build; a missing library too.
        assert_eq!(wanted_dependencies(&library, &installed), ["libllvm22", "python3"]);
    }
}
