//! A browser that can run the tests: Chromium with its driver. Finds one, or unpacks one without root.
//!
//! Two ways are tried in turn:
//!
//! 1. `chromium` and `chromedriver` on the path;
//! 2. Debian's packages, unpacked into `target/chromium` with the libraries and a font that they need.
//!
//! `XTASK_BROWSER=private` skips the first.
//!
//! Invariants:
//! - Nothing outside `target/` changes. No root, no system package state.
//! - `target/chromium` either is complete or does not count: it is made in `chromium.partial`, stamped last and renamed.
//! - One process at a time makes it; the others wait on `chromium.lock`.
//!
//! It deliberately does not try the browser: whoever uses it starts it, and says why it did not start.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::debian::{self, Apt, Package};
use crate::run::{Log, Steps, file_names, lock, remove};

/// What must be there.
const PACKAGES: [&str; 4] = ["chromium", "chromium-common", "chromium-driver", "fonts-dejavu-core"];
/// Content of the stamp. Raise the number when the content of the private browser changes: old ones are made anew.
const STAMP_FORMAT: &str = "chromium 1\n";
/// Written last; its presence says that the rest is complete.
const STAMP_FILE: &str = "complete";

/// A browser with its driver.
pub struct Browser {
    /// The browser's program.
    pub program: PathBuf,
    driver: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    description: String,
}

impl Browser {
    /// The driver with everything set; the caller adds a port.
    pub fn driver(&self) -> Command {
        let mut command = Command::new(&self.driver);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Which one this is, in one line for people.
    pub fn describe(&self) -> &str {
        &self.description
    }
}

/// Finds a browser, or makes the private one; `root` is the workspace. Progress goes to stderr.
///
/// # Errors
/// When neither way works; the text tells both stories and what a person can do.
pub fn ensure(root: &Path) -> Result<Browser> {
    let root = &std::path::absolute(root).with_context(|| format!("failed to resolve `{}`", root.display()))?;
    let on_path = match std::env::var_os("XTASK_BROWSER") {
        Some(choice) if choice == "private" => Err(anyhow!("not tried, because of `XTASK_BROWSER=private`")),
        Some(choice) if !choice.is_empty() => {
            bail!("`XTASK_BROWSER` is `{}`; only `private` has a meaning", choice.display())
        }
        _ => on_path(),
    };
    let why_not = match on_path {
        Ok(browser) => return Ok(browser),
        Err(error) => error,
    };
    private(&root.join("target")).map_err(|error| {
        anyhow!(
            "no browser here can run the tests\n\n\
             tried:\n\
             1. `chromium` and `chromedriver` on the path: {why_not:#}\n\
             2. Debian's packages: {error:#}\n\n\
             hint: one of these is enough; then run the same command again\n\
             - Debian: `sudo apt-get install chromium chromium-driver fonts-dejavu-core`\n\
             - other systems: Chromium and its driver of the same version, both on the path"
        )
    })
}

fn on_path() -> Result<Browser> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
        found.with_context(|| format!("there is no `{name}`"))
    };
    let (program, driver) = (find("chromium")?, find("chromedriver")?);
    let description = format!("`{}` on the path", program.display());
    Ok(Browser { program, driver, variables: Vec::new(), description })
}

fn private(target: &Path) -> Result<Browser> {
    let folder = target.join("chromium");
    let existing = || {
        let stamp = fs::read_to_string(folder.join(STAMP_FILE)).ok()?;
        (stamp == STAMP_FORMAT).then(|| unpacked(&folder).ok())?
    };
    if let Some(browser) = existing() {
        return Ok(browser);
    }
    fs::create_dir_all(target)?;
    let lock = lock(&target.join("chromium.lock"), "chromium: waiting for another process that unpacks it")?;
    // Another process may have done the work while this one waited.
    if let Some(browser) = existing() {
        return Ok(browser);
    }
    let log = &mut Log::create(&target.join("chromium.log"), lock)?;
    let started = Instant::now();
    let (partial, steps) = (target.join("chromium.partial"), &mut Steps::new("chromium", 4));
    for leftover in [&partial, &folder] {
        remove(leftover)?;
    }
    let apt = Apt::new(&partial)?;
    apt.update(steps, log)?;
    let packages = apt
        .with_dependencies(&PACKAGES, wanted_dependencies, log)
        .context("the package lists have no Chromium; what `apt-get update` said of each source is in the log")?;
    apt.unpack(&packages, steps, log)?;

    steps.begin("putting it in place");
    for used_up in ["apt", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/icons"] {
        remove(&partial.join(used_up))?;
    }
    // Its fonts are not where the system's settings look.
    let fonts = folder.join("usr/share/fonts");
    let settings = format!(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n<fontconfig><dir>{}</dir><dir>/usr/share/fonts</dir>\
         <cachedir>{}</cachedir></fontconfig>\n",
        fonts.display(),
        folder.join("font-cache").display()
    );
    fs::write(partial.join("fonts.conf"), settings)?;
    let mut stamp = File::create(partial.join(STAMP_FILE))?;
    stamp.write_all(STAMP_FORMAT.as_bytes())?;
    stamp.sync_all()?;
    fs::rename(&partial, &folder)?;
    let browser = unpacked(&folder)?;
    eprintln!("chromium: ready after {} s", started.elapsed().as_secs());
    Ok(browser)
}

/// The dependencies of a package that must be unpacked as well: libraries, whether or not the machine has them.
///
/// Not the C library: the machine's loader works with the machine's own only. Not programs and data.
fn wanted_dependencies(package: &Package) -> Vec<String> {
    let library = |name: &str| name.starts_with("lib") || name == "zlib1g";
    let c_library = |name: &str| name == "libc6" || name == "libc6.1";
    let wanted = |name: &&String| library(name) && !c_library(name);
    package.depends.iter().filter_map(|alternatives| alternatives.iter().find(wanted).cloned()).collect()
}

fn unpacked(folder: &Path) -> Result<Browser> {
    let (program, driver) = (folder.join("usr/lib/chromium/chromium"), folder.join("usr/bin/chromedriver"));
    for file in [&program, &driver] {
        if !file.is_file() {
            bail!("there is no `{}`", file.display());
        }
    }
    let mut libraries = debian::library_path(folder, "libnss3.so");
    if libraries.is_empty() {
        bail!("`{}` has no `libnss3.so`", folder.display());
    }
    // Some libraries look for parts of theirs in a folder of the system's (`pulseaudio`), where a machine has none.
    let parts = |folder: &PathBuf| -> Vec<PathBuf> {
        let has_library =
            |inner: &PathBuf| file_names(inner).iter().any(|name| name.starts_with("lib") && name.contains(".so"));
        file_names(folder)
            .iter()
            .map(|name| folder.join(name))
            .filter(|inner| inner.is_dir() && has_library(inner))
            .collect()
    };
    libraries.extend(libraries.iter().flat_map(parts).collect::<Vec<_>>());
    let variables = vec![
        ("LD_LIBRARY_PATH", std::env::join_paths(libraries)?),
        ("FONTCONFIG_FILE", folder.join("fonts.conf").into_os_string()),
    ];
    Ok(Browser { program, driver, variables, description: "Chromium from Debian's packages".to_owned() })
}
