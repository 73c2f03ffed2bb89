//! A compiler that can build plugins: finds one, or makes one without root.
//!
//! A plugin is built for `wasm32-wasip1`, which needs that target's standard library. Three ways are tried in turn, the
//! cheapest first:
//!
//! 1. what is already here: the active `rustc` has the target, or an earlier run made the private toolchain of way 3;
//! 2. `rustup target add`;
//! 3. Debian's packages, unpacked below `target/`: their compiler, its library source and wasi-libc. The library is
//!    compiled once from that source.
//!
//! Invariants:
//! - Nothing outside `target/` changes, except that rustup may add the target to its own toolchain. No root, no system
//!   package state.
//! - `target/wasm-toolchain` either is complete or does not count: it is made in `wasm-toolchain.partial`, stamped last
//!   and renamed.
//! - One process at a time makes it; the others wait on `wasm-toolchain.lock`.
//! - Plugins built with an earlier library are thrown away with it: cargo would not notice the change.
//!
//! It deliberately does not choose between compilers by version: what rustup offers is right by definition, and a
//! package that is too old is refused.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::debian;
use crate::run::{Log, Steps, command, file_names, lock};

mod packages;

const TARGET: &str = "wasm32-wasip1";
/// First line of the stamp. Raise the number when the content of the private toolchain changes: old ones are made anew.
const STAMP_FORMAT: &str = "wasm-toolchain 1";
/// The oldest compiler that this workspace accepts.
const OLDEST_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");
/// What the linker wants from wasi-libc beside the Rust library.
const WASI_OBJECTS: [&str; 3] = ["crt1-command.o", "crt1-reactor.o", "libc.a"];

/// A compiler that can build for `wasm32-wasip1`.
pub struct Toolchain {
    /// Where cargo runs, so that the workspace's `rust-toolchain.toml` applies.
    root: PathBuf,
    /// Apart from `target/`: the host's and the plugins' compilers may differ.
    target_dir: PathBuf,
    description: String,
    /// What points cargo at the private toolchain; empty when the active compiler serves.
    variables: Vec<(&'static str, OsString)>,
}

impl Toolchain {
    /// `cargo` with everything set to build plugins; the caller adds arguments.
    pub fn cargo(&self) -> Command {
        let mut command = command("cargo", &self.root);
        command.env("CARGO_TARGET_DIR", &self.target_dir);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The folder that holds `wasm32-wasip1/<profile>/…` after a build.
    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Which compiler this is, in one line for people.
    pub fn describe(&self) -> &str {
        &self.description
    }
}

/// Makes the target usable and says how to use it; `root` is the workspace. Progress goes to stderr.
///
/// Costs one call of `rustc` when there is nothing to do.
pub fn ensure(root: &Path) -> Result<Toolchain> {
    let root = &std::path::absolute(root).with_context(|| format!("failed to resolve `{}`", root.display()))?;
    let active = ActiveRustc::ask(root)?;
    let places = Places::below(root);
    if let Some(found) = existing(root, &active, &places)? {
        return Ok(found);
    }

    let lock = lock(&places.lock, "wasm-target: waiting for another process that prepares the compiler")?;
    // Another process may have done the work while this one waited.
    if let Some(found) = existing(root, &active, &places)? {
        return Ok(found);
    }
    make(root, &active, &places, &mut Log::create(&places.log, lock)?)
}

/// Way 1.
fn existing(root: &Path, active: &ActiveRustc, places: &Places) -> Result<Option<Toolchain>> {
    if has_library(&active.sysroot) {
        return Ok(Some(active.toolchain(root, places)));
    }
    match Stamp::of_complete(&places.toolchain) {
        Some(stamp) => private_toolchain(root, active, places, &stamp.rustc).map(Some),
        None => Ok(None),
    }
}

/// Ways 2 and 3. The error tells both stories and what a person can do.
fn make(root: &Path, active: &ActiveRustc, places: &Places, log: &mut Log) -> Result<Toolchain> {
    let started = Instant::now();
    let steps = &mut Steps::new("wasm-target", 6);
    let rustup = match add_with_rustup(root, active, steps, log) {
        Ok(()) => return Ok(active.toolchain(root, places)),
        Err(error) => {
            eprintln!("wasm-target: rustup can't, Debian's packages may");
            error
        }
    };
    let packages = match packages::make(active, places, steps, log) {
        Ok(rustc) => {
            eprintln!("wasm-target: ready after {} s", started.elapsed().as_secs());
            return private_toolchain(root, active, places, &rustc);
        }
        Err(error) => error,
    };
    bail!(
        "no compiler here can build plugins for `{TARGET}`\n\n\
         tried:\n\
         1. the active compiler: no standard library for the target in `{sysroot}`\n\
         2. rustup: {rustup:#}\n\
         3. Debian's packages: {packages:#}\n\n\
         hint: one of these is enough; then run the same command again\n\
         - rustup with a network that reaches its server: `rustup target add {TARGET}`\n\
         - Debian 12 or later: sources with `rustc-web` {OLDEST_RUSTC} or newer, as Debian's security section has; \
         see `sudo apt-get update && apt-cache policy rustc-web`\n\
         - Ubuntu and other systems: install rustup, often a package `rustup`, then `rustup target add {TARGET}`",
        sysroot = active.sysroot.display(),
    )
}

// -- what is here

/// Everything this module writes.
struct Places {
    /// The private toolchain: complete, or not counted.
    toolchain: PathBuf,
    /// Where it is being made. What an interrupted run left here is removed by the next one.
    partial: PathBuf,
    lock: PathBuf,
    /// Output of the commands that were run, for the person who has to find out why one failed.
    log: PathBuf,
    /// What cargo builds plugins into.
    plugins: PathBuf,
}

impl Places {
    fn below(root: &Path) -> Self {
        let target = root.join("target");
        Self {
            toolchain: target.join("wasm-toolchain"),
            partial: target.join("wasm-toolchain.partial"),
            lock: target.join("wasm-toolchain.lock"),
            log: target.join("wasm-toolchain.log"),
            plugins: target.join("wasm"),
        }
    }
}

/// The compiler that a plain `cargo build` in the workspace would use.
struct ActiveRustc {
    sysroot: PathBuf,
    /// The machine's own target, under which rustup keeps the linker.
    host: String,
}

impl ActiveRustc {
    fn ask(root: &Path) -> Result<Self> {
        let output = command("rustc", root)
            .args(["--print", "sysroot", "--print", "host-tuple"])
            .output()
            .context("failed to run `rustc`: is Rust installed and on the path?")?;
        let text = String::from_utf8_lossy(&output.stdout);
        match (output.status.success(), text.trim().split_once('\n')) {
            (true, Some((sysroot, host))) => Ok(Self { sysroot: sysroot.trim().into(), host: host.trim().into() }),
            _ => bail!("failed to ask `rustc` for its folder: {}", String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    fn toolchain(&self, root: &Path, places: &Places) -> Toolchain {
        Toolchain {
            root: root.into(),
            target_dir: places.plugins.clone(),
            description: format!("the active compiler with `{TARGET}` installed (`{}`)", self.sysroot.display()),
            variables: Vec::new(),
        }
    }

    fn tools(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib").join(&self.host).join("bin")
    }
}

/// Whether the compiler of this sysroot has a standard library for the target.
fn has_library(sysroot: &Path) -> bool {
    let names = file_names(&library_folder(sysroot));
    ["libcore-", "libstd-"]
        .iter()
        .all(|library| names.iter().any(|name| name.starts_with(library) && name.ends_with(".rlib")))
}

fn library_folder(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib").join(TARGET).join("lib")
}

/// Written last into the private toolchain; its presence says that the rest is complete.
#[derive(Debug, PartialEq)]
struct Stamp {
    /// `rustc --version` of the private compiler.
    rustc: String,
}

impl Stamp {
    const FILE: &str = "complete";

    fn write(&self, folder: &Path) -> Result<()> {
        let mut file = File::create(folder.join(Self::FILE))?;
        writeln!(file, "{STAMP_FORMAT}\n{}", self.rustc)?;
        Ok(file.sync_all()?)
    }

    /// The stamp, if it is of this format and its compiler is still new enough.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(STAMP_FORMAT) {
            return None;
        }
        let rustc = lines.next()?.to_owned();
        new_enough(rustc.split_whitespace().nth(1)?).then_some(Self { rustc })
    }

    /// The stamp, if also the files without which nothing works are there.
    fn of_complete(folder: &Path) -> Option<Self> {
        let stamp = Self::parse(&fs::read_to_string(folder.join(Self::FILE)).ok()?)?;
        let sysroot = folder.join("usr");
        let objects = library_folder(&sysroot).join("self-contained");
        let complete = sysroot.join("bin/rustc").is_file()
            && !library_path(folder).is_empty()
            && has_library(&sysroot)
            && WASI_OBJECTS.iter().all(|name| objects.join(name).is_file());
        complete.then_some(stamp)
    }
}

/// Compares `1.96.0+dfsg1-1` with the workspace's `1.95` by numbers: as text, 1.100 would be older than 1.95.
fn new_enough(version: &str) -> bool {
    fn numbers(version: &str) -> Option<(u32, u32)> {
        let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
        Some((parts.next()??, parts.next()??))
    }
    numbers(version).is_some_and(|version| Some(version) >= numbers(OLDEST_RUSTC))
}

/// Folders of the unpacked packages that hold shared libraries, the compiler's own first; none when that is missing.
fn library_path(folder: &Path) -> Vec<PathBuf> {
    debian::library_path(folder, "librustc_driver-")
}

fn private_toolchain(root: &Path, active: &ActiveRustc, places: &Places, rustc: &str) -> Result<Toolchain> {
    Ok(Toolchain {
        root: root.into(),
        target_dir: places.plugins.clone(),
        description: format!(
            "{} from Debian's packages (`{}`)",
            rustc.split(" (").next().unwrap_or(rustc),
            places.toolchain.display()
        ),
        variables: private_variables(&places.toolchain, &active.tools())?,
    })
}

/// Points cargo at the private compiler. `tools` holds the linker, which Debian's packages lack and rustup's have.
fn private_variables(toolchain: &Path, tools: &Path) -> Result<Vec<(&'static str, OsString)>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(tools.to_owned()).chain(std::env::split_paths(&path));
    Ok(vec![
        ("RUSTC", toolchain.join("usr/bin/rustc").into()),
        ("LD_LIBRARY_PATH", std::env::join_paths(library_path(toolchain))?),
        ("PATH", std::env::join_paths(path)?),
    ])
}

// -- way 2

fn add_with_rustup(root: &Path, active: &ActiveRustc, steps: &mut Steps, log: &mut Log) -> Result<()> {
    steps.begin(&format!("asking rustup for `{TARGET}`"));
    // A backtrace of rustup would push the cause out of the lines that an error shows.
    log.run(command("rustup", root).args(["target", "add", TARGET]).env("RUST_BACKTRACE", "0"))?;
    if !has_library(&active.sysroot) {
        bail!("`rustup target add` succeeded, but `rustc` on the path is not rustup's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::remove;

    /// A toolchain with every file that counts, all empty.
    fn complete(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("wasm-target-{}-{name}", std::process::id()));
        remove(&folder).unwrap();
        for file in [
            "usr/bin/rustc",
            "usr/lib/x86_64-linux-gnu/librustc_driver-1.so",
            "usr/lib/rustlib/wasm32-wasip1/lib/libcore-1.rlib",
            "usr/lib/rustlib/wasm32-wasip1/lib/libstd-1.rlib",
            "usr/lib/rustlib/wasm32-wasip1/lib/self-contained/crt1-command.o",
            "usr/lib/rustlib/wasm32-wasip1/lib/self-contained/crt1-reactor.o",
            "usr/lib/rustlib/wasm32-wasip1/lib/self-contained/libc.a",
        ] {
            fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            fs::write(folder.join(file), "").unwrap();
        }
        Stamp { rustc: "rustc 1.96.0".into() }.write(&folder).unwrap();
        folder
    }

    #[test]
    fn unfinished_toolchain_is_not_taken_for_complete() {
        let folder = complete("unfinished");
        assert!(Stamp::of_complete(&folder).is_some());
        for file in ["complete", "usr/bin/rustc", "usr/lib/x86_64-linux-gnu/librustc_driver-1.so"]
            .map(str::to_owned)
            .into_iter()
            .chain(WASI_OBJECTS.map(|name| format!("usr/lib/rustlib/wasm32-wasip1/lib/self-contained/{name}")))
        {
            let content = fs::read(folder.join(&file)).unwrap();
            fs::remove_file(folder.join(&file)).unwrap();
            assert_eq!(Stamp::of_complete(&folder), None, "without {file}");
            fs::write(folder.join(&file), content).unwrap();
        }
        remove(&folder).unwrap();
    }

    #[test]
    fn half_a_standard_library_is_not_taken_for_the_target() {
        let folder = complete("half");
        assert!(has_library(&folder.join("usr")));
        fs::remove_file(folder.join("usr/lib/rustlib/wasm32-wasip1/lib/libstd-1.rlib")).unwrap();
        assert!(!has_library(&folder.join("usr")));
        remove(&folder).unwrap();
    }

    #[test]
    fn stamp_of_another_format_or_an_outgrown_compiler_is_redone() {
        let stamp = |rustc: &str| Stamp::parse(&format!("{STAMP_FORMAT}\n{rustc}\n"));
        assert_eq!(stamp("rustc 1.96.0 (1 2026)"), Some(Stamp { rustc: "rustc 1.96.0 (1 2026)".into() }));
        assert_eq!(stamp("rustc 1.85.0"), None);
        assert_eq!(Stamp::parse("wasm-toolchain 0\nrustc 1.96.0\n"), None);
        assert_eq!(Stamp::parse(STAMP_FORMAT), None);
        assert_eq!(Stamp::parse(""), None);
    }

    #[test]
    fn versions_are_not_compared_as_text() {
        assert!(new_enough("1.100.0+dfsg1-1"));
        assert!(new_enough("1.95"));
        assert!(new_enough("2.0.0"));
        assert!(!new_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(!new_enough("1.9"));
        assert!(!new_enough("unknown"));
    }
}
