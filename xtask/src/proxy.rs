//! A web server that can stand before the host in the tests: nginx or Apache. Finds one, or unpacks one without root.
//!
//! Two ways are tried in turn:
//!
//! 1. the program on the path, or where administrators' programs are;
//! 2. Debian's packages, unpacked below `target` with the libraries that they need.
//!
//! `XTASK_PROXY=private` skips the first.
//!
//! Invariants:
//! - Nothing outside `target/` changes. No root, no system package state.
//! - `target/nginx` and `target/apache` either are complete or do not count: made in `….partial`, tried, stamped last and
//!   renamed.
//! - One process at a time makes each; the others wait on its lock.
//!
//! Not here: how it is configured and started.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::debian::{self, Apt, Package};
use crate::run::{Log, Steps, lock, remove};

/// Content of the stamp. Raise the number when what is unpacked changes: old ones are made anew.
const STAMP_FORMAT: &str = "proxy 1\n";
/// Written last; its presence says that the rest is complete.
const STAMP_FILE: &str = "complete";
/// Where administrators' programs are, which need not be on the path.
const ADMINISTRATORS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Which web server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// nginx.
    Nginx,
    /// Apache, version 2.4.
    Apache,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache2",
        }
    }

    /// The package that must be there, which is the program itself and no service.
    fn package(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache2-bin",
        }
    }

    /// Where its modules lie, below the folder that it is unpacked in.
    fn modules(self) -> &'static str {
        match self {
            Self::Nginx => "usr/lib/nginx/modules",
            Self::Apache => "usr/lib/apache2/modules",
        }
    }
}

/// A web server.
pub struct Proxy {
    /// The folder of its modules.
    pub modules: PathBuf,
    program: PathBuf,
    variables: Vec<(&'static str, OsString)>,
    description: String,
}

impl Proxy {
    /// The program with everything set; the caller adds its options.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Which one this is, in one line for people.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Asks it who it is.
    fn tried(mut self) -> Result<Self> {
        let output = self.command().arg("-v").stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("failed to run `{}`", self.program.display()))?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() {
            bail!("`{}` does not run ({}): {}", self.program.display(), output.status, said.trim());
        }
        self.description = format!("{} (`{}`)", said.lines().next().unwrap_or_default(), self.program.display());
        Ok(self)
    }
}

/// Finds a web server, or makes the private one; `root` is the workspace. Progress goes to stderr.
///
/// # Errors
/// When neither way works; the text tells both stories and what a person can do.
pub fn ensure(root: &Path, kind: Kind) -> Result<Proxy> {
    let root = &std::path::absolute(root).with_context(|| format!("failed to resolve `{}`", root.display()))?;
    let installed = match std::env::var_os("XTASK_PROXY") {
        Some(choice) if choice == "private" => Err(anyhow!("not tried, because of `XTASK_PROXY=private`")),
        Some(choice) if !choice.is_empty() => {
            bail!("`XTASK_PROXY` is `{}`; only `private` has a meaning", choice.display())
        }
        _ => installed(kind),
    };
    let why_not = match installed {
        Ok(proxy) => return Ok(proxy),
        Err(error) => error,
    };
    private(&root.join("target"), kind).map_err(|error| {
        anyhow!(
            "no {name} here can run the tests\n\n\
             tried:\n\
             1. `{program}` on the path: {why_not:#}\n\
             2. Debian's packages: {error:#}\n\n\
             hint: on Debian and Ubuntu `sudo apt-get install {package}`; then run the same command again",
            name = kind.name(),
            program = kind.program(),
            package = kind.package(),
        )
    })
}

fn installed(kind: Kind) -> Result<Proxy> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    let program = folders.map(|folder| folder.join(kind.program())).find(|file| file.is_file());
    let program = program.context("there is none")?;
    let modules = Path::new("/").join(kind.modules());
    if kind == Kind::Apache && !modules.is_dir() {
        bail!("there is no `{}` beside `{}`", modules.display(), program.display());
    }
    Proxy { modules, program, variables: Vec::new(), description: String::new() }.tried()
}

fn private(target: &Path, kind: Kind) -> Result<Proxy> {
    let name = kind.name();
    let (folder, partial) = (target.join(name), target.join(format!("{name}.partial")));
    let existing = || {
        let stamp = fs::read_to_string(folder.join(STAMP_FILE)).ok()?;
        (stamp == STAMP_FORMAT).then(|| unpacked(&folder, kind).ok())?
    };
    if let Some(proxy) = existing() {
        return Ok(proxy);
    }
    let waiting = format!("{name}: waiting for another process that unpacks it");
    let lock = lock(&target.join(format!("{name}.lock")), &waiting)?;
    // Another process may have done the work while this one waited.
    if let Some(proxy) = existing() {
        return Ok(proxy);
    }
    let log = &mut Log::create(&target.join(format!("{name}.log")), lock)?;
    let (started, steps) = (Instant::now(), &mut Steps::new(name, 4));
    for leftover in [&partial, &folder] {
        remove(leftover)?;
    }
    let apt = Apt::new(&partial)?;
    apt.update(steps, log)?;
    let packages = apt
        .with_dependencies(&[kind.package()], wanted_dependencies, log)
        .with_context(|| format!("the package lists have no {name}; what `apt-get update` said is in the log"))?;
    apt.unpack(&packages, steps, log)?;

    steps.begin("trying it and putting it in place");
    for used_up in ["apt", "usr/share"] {
        remove(&partial.join(used_up))?;
    }
    unpacked(&partial, kind).context("the packages are unpacked, but")?;
    let mut stamp = File::create(partial.join(STAMP_FILE))?;
    stamp.write_all(STAMP_FORMAT.as_bytes())?;
    stamp.sync_all()?;
    fs::rename(&partial, &folder)?;
    let proxy = unpacked(&folder, kind)?;
    eprintln!("{name}: ready after {} s", started.elapsed().as_secs());
    Ok(proxy)
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

fn unpacked(folder: &Path, kind: Kind) -> Result<Proxy> {
    let libraries = debian::library_path(folder, "libpcre2-8.so");
    if libraries.is_empty() {
        bail!("`{}` has no `libpcre2-8.so`", folder.display());
    }
    let variables = vec![
        ("LD_LIBRARY_PATH", std::env::join_paths(libraries)?),
        // The system's file may name modules of the system's OpenSSL.
        ("OPENSSL_CONF", "/dev/null".into()),
    ];
    let (modules, program) = (folder.join(kind.modules()), folder.join("usr/sbin").join(kind.program()));
    Proxy { modules, program, variables, description: String::new() }.tried()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_one_is_not_taken_for_complete() {
        let folder = std::env::temp_dir().join(format!("xtask-proxy-{}", std::process::id()));
        remove(&folder).unwrap();
        let program = folder.join("usr/sbin/nginx");
        for file in [&program, &folder.join("usr/lib/x86_64-linux-gnu/libpcre2-8.so.0")] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        assert!(unpacked(&folder, Kind::Nginx).is_err(), "a program that does not run");
        fs::remove_file(&program).unwrap();
        std::os::unix::fs::symlink("/bin/true", &program).unwrap();
        assert!(unpacked(&folder, Kind::Nginx).is_ok());
        fs::remove_file(folder.join("usr/lib/x86_64-linux-gnu/libpcre2-8.so.0")).unwrap();
        assert!(unpacked(&folder, Kind::Nginx).is_err(), "without its library");
        remove(&folder).unwrap();
    }
}
