//! A PHP that can run the tests: finds one, or unpacks one without root.
//!
//! Two ways are tried in turn:
//!
//! 1. `php` on the path, if it has the extensions that [`PROBE`] asks for;
//! 2. Debian's packages, unpacked into `target/php` with the libraries that they need.
//!
//! `XTASK_PHP=private` skips the first.
//!
//! Invariants:
//! - Nothing outside `target/` changes. No root, no system package state.
//! - `target/php` either is complete or does not count: it is made in `php.partial`, tried, stamped last and renamed.
//! - One process at a time makes it; the others wait on `php.lock`.
//! - The private PHP reads no settings of the system's: no `php.ini`, no `openssl.cnf`. Of the system's libraries it uses
//!   the C library alone, whose loader must be of the same build.
//!
//! It deliberately does not compare versions, and brings no time zones: without those of the system it refuses.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::debian::{self, Apt, Package};
use crate::run::{Log, Steps, file_names, lock, remove};

/// What must be there; the names with a version inside (`php8.2-cli`) are looked up.
const PACKAGES: [&str; 2] = ["php-cli", "php-curl"];
/// What the tests use, where it is a module of its own: which are, differs between versions.
const EXTENSIONS: [&str; 5] = ["ctype", "curl", "json", "posix", "tokenizer"];
/// Ends with 1 where something indispensable is missing; else its last line says for people which PHP this is.
const PROBE: &str = r#"
    if (!extension_loaded("curl") || !extension_loaded("json")) { exit(1); }
    echo "\nPHP ", PHP_VERSION, " (`", PHP_BINARY, "`)";
"#;
/// Compiled into Debian's PHP. Without it every start prints a warning to stdout, and `date()` is a segmentation fault.
const TIME_ZONES: &str = "/usr/share/zoneinfo/UTC";
/// Content of the stamp. Raise the number when the content of the private PHP changes: old ones are made anew.
const STAMP_FORMAT: &str = "php 2\n";
/// Written last into the private PHP; its presence says that the rest is complete.
const STAMP_FILE: &str = "complete";

/// A PHP that can run the tests: the one on the path, or Debian's packages unpacked below `target/php`.
pub struct Php {
    program: PathBuf,
    /// Before the caller's own.
    arguments: Vec<OsString>,
    variables: Vec<(&'static str, OsString)>,
    description: String,
}

impl Php {
    /// `php` with everything set; the caller adds options, a script and its arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Which PHP this is, in one line for people.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Asks it who it is and whether it has what the tests need.
    fn tried(mut self) -> Result<Self> {
        let output = match self.command().args(["-r", PROBE]).stdin(Stdio::null()).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is none"),
            output => output.with_context(|| format!("failed to run `{}`", self.program.display()))?,
        };
        if output.status.code() == Some(1) {
            bail!("`{}` lacks the extension `curl` or `json`", self.program.display());
        }
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` does not run ({}): {}", self.program.display(), output.status, said.trim());
        }
        // Warnings about the person's settings come first.
        self.description.insert_str(0, String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default());
        Ok(self)
    }
}

/// Finds a PHP, or makes the private one; `root` is the workspace. Progress goes to stderr.
///
/// Costs one run of PHP when there is nothing to do.
///
/// # Errors
/// When neither way works; the text tells both stories and what a person can do.
pub fn ensure(root: &Path) -> Result<Php> {
    let root = &std::path::absolute(root).with_context(|| format!("failed to resolve `{}`", root.display()))?;
    let on_path = match std::env::var_os("XTASK_PHP") {
        Some(choice) if choice == "private" => Err(anyhow!("not tried, because of `XTASK_PHP=private`")),
        Some(choice) if !choice.is_empty() => {
            bail!("`XTASK_PHP` is `{}`; only `private` has a meaning", choice.display())
        }
        _ => on_path(),
    };
    let why_not = match on_path {
        Ok(php) => return Ok(php),
        Err(error) => error,
    };
    private(&Places::below(root)).map_err(|error| {
        anyhow!(
            "no PHP here can run the tests\n\n\
             tried:\n\
             1. `php` on the path: {why_not:#}\n\
             2. Debian's packages: {error:#}\n\n\
             hint: one of these is enough; then run the same command again\n\
             - Debian and Ubuntu: `sudo apt-get install php-cli php-curl`\n\
             - other systems: PHP 8 with its curl extension, so that `php -m` lists `curl` and `json`"
        )
    })
}

// -- way 1

fn on_path() -> Result<Php> {
    let php = Php {
        program: "php".into(),
        arguments: Vec::new(),
        variables: Vec::new(),
        description: " on the path".to_owned(),
    };
    php.tried()
}

// -- way 2

/// Everything this module writes.
struct Places {
    /// The private PHP: complete, or not counted.
    php: PathBuf,
    /// Where it is being made. What an interrupted run left here is removed by the next one.
    partial: PathBuf,
    lock: PathBuf,
    /// Output of the commands that were run, for the person who has to find out why one failed.
    log: PathBuf,
}

impl Places {
    fn below(root: &Path) -> Self {
        let target = root.join("target");
        Self {
            php: target.join("php"),
            partial: target.join("php.partial"),
            lock: target.join("php.lock"),
            log: target.join("php.log"),
        }
    }
}

fn private(places: &Places) -> Result<Php> {
    if !Path::new(TIME_ZONES).exists() {
        bail!("their PHP needs the system's time zones, and there is no `{TIME_ZONES}` (package `tzdata`)");
    }
    if let Some(php) = existing(&places.php) {
        return Ok(php);
    }
    let lock = lock(&places.lock, "php: waiting for another process that unpacks it")?;
    // Another process may have done the work while this one waited.
    match existing(&places.php) {
        Some(php) => Ok(php),
        None => make(places, &mut Log::create(&places.log, lock)?),
    }
}

/// The private PHP, if it is complete and still runs: the folder may have come from another machine.
fn existing(folder: &Path) -> Option<Php> {
    let stamp = fs::read_to_string(folder.join(STAMP_FILE)).ok()?;
    (stamp == STAMP_FORMAT).then(|| unpacked(folder).and_then(Php::tried).ok())?
}

fn make(places: &Places, log: &mut Log) -> Result<Php> {
    let started = Instant::now();
    let steps = &mut Steps::new("php", 4);
    for leftover in [&places.partial, &places.php] {
        remove(leftover)?;
    }
    let apt = Apt::new(&places.partial)?;
    apt.update(steps, log)?;
    let packages = apt
        .with_dependencies(&PACKAGES, wanted_dependencies, log)
        .context("the package lists have no PHP; what `apt-get update` said of each source is in the log")?;
    apt.unpack(&packages, steps, log)?;

    steps.begin("trying it and putting it in place");
    for used_up in ["apt", "usr/share"] {
        remove(&places.partial.join(used_up))?;
    }
    unpacked(&places.partial)?.tried().context("the packages are unpacked, but")?;
    let mut stamp = File::create(places.partial.join(STAMP_FILE))?;
    stamp.write_all(STAMP_FORMAT.as_bytes())?;
    stamp.sync_all()?;
    fs::rename(&places.partial, &places.php)?;
    let php = unpacked(&places.php)?.tried()?;
    eprintln!("php: ready after {} s", started.elapsed().as_secs());
    Ok(php)
}

/// The dependencies of a package that must be unpacked as well: PHP's own packages, and libraries whether or not the
/// machine has them, so that a later upgrade of it changes nothing here.
///
/// Not the C library: the machine's loader works with the machine's own only. Not programs and data (`ucf`, `psmisc`,
/// `tzdata`): they are for the packages' scripts, or would not be found here.
fn wanted_dependencies(package: &Package) -> Vec<String> {
    let of_php = |name: &str| name.starts_with("php");
    let library = |name: &str| name.starts_with("lib") || name == "zlib1g";
    let c_library = |name: &str| name == "libc6" || name == "libc6.1";
    let wanted = |name: &&String| of_php(name) || library(name) && !c_library(name);
    package.depends.iter().filter_map(|alternatives| alternatives.iter().find(wanted).cloned()).collect()
}

/// How the unpacked packages are used: by files whose names differ between versions and machines.
fn unpacked(folder: &Path) -> Result<Php> {
    let missing = |what: &str| anyhow!("`{}` has no {what}", folder.display());
    let programs = folder.join("usr/bin");
    let program = file_names(&programs).into_iter().find(|name| is_php(name)).ok_or_else(|| missing("`php`"))?;
    let modules = folder.join("usr/lib/php");
    let has_curl = |name: &String| modules.join(name).join("curl.so").is_file();
    let modules = file_names(&modules).into_iter().find(has_curl).map(|name| modules.join(name));
    let modules = modules.ok_or_else(|| missing("`curl.so`"))?;
    let libraries = debian::library_path(folder, "libcurl.so.");
    if libraries.is_empty() {
        return Err(missing("`libcurl.so`"));
    }

    let mut directory = OsString::from("extension_dir=");
    directory.push(&modules);
    let mut arguments: Vec<OsString> = vec!["-n".into(), "-d".into(), directory];
    for name in EXTENSIONS.iter().filter(|name| modules.join(format!("{name}.so")).is_file()) {
        arguments.extend(["-d".into(), format!("extension={name}").into()]);
    }
    Ok(Php {
        program: programs.join(program),
        arguments,
        variables: vec![
            ("LD_LIBRARY_PATH", std::env::join_paths(libraries)?),
            // The system's file may name modules of the system's OpenSSL.
            ("OPENSSL_CONF", "/dev/null".into()),
        ],
        description: " from Debian's packages".to_owned(),
    })
}

/// `php8.2`, but not `php.default` or `phpize8.2`.
fn is_php(name: &str) -> bool {
    name.strip_prefix("php").is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::parse_packages;

    const SHOWN: &str = "\
Package: php8.2-cli
Version: 8.2.31-1~deb12u1
Depends: libedit2 (>= 2.11), media-types | mime-support, php8.2-common (= 8.2.31-1~deb12u1), tzdata, ucf, libc6 (>= 2.35)
Size: 1

Package: libssl3
Version: 3
Depends: debconf (>= 0.5) | debconf-2.0, libc6 (>= 2.34), virtual | libreal1:amd64, zlib1g (>= 1:1.1.4)
Size: 1
";

    /// Every file that counts, empty but for the program. That is a link: a script that a test writes can't be run while
    /// another test's new process still has it open.
    fn complete(name: &str, program: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask php-{}-{name}", std::process::id()));
        remove(&folder).unwrap();
        for (file, content) in [
            ("usr/bin/phar8.2", ""),
            ("usr/lib/php/20220829/curl.so", ""),
            ("usr/lib/php/20220829/posix.so", ""),
            ("usr/lib/x86_64-linux-gnu/libcurl.so.4", ""),
            (STAMP_FILE, STAMP_FORMAT),
        ] {
            fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
            fs::write(folder.join(file), content).unwrap();
        }
        std::os::unix::fs::symlink(program, folder.join("usr/bin/php8.2")).unwrap();
        folder
    }

    #[test]
    fn libraries_come_along_but_neither_the_c_library_nor_what_scripts_want() {
        let [php, library] = parse_packages(SHOWN).try_into().unwrap();
        assert_eq!(wanted_dependencies(&php), ["libedit2", "php8.2-common"]);
        assert_eq!(wanted_dependencies(&library), ["libreal1", "zlib1g"]);
    }

    #[test]
    fn unfinished_php_is_not_taken_for_complete() {
        let folder = complete("unfinished", "/bin/true");
        assert!(existing(&folder).is_some());
        for file in
            [STAMP_FILE, "usr/bin/php8.2", "usr/lib/php/20220829/curl.so", "usr/lib/x86_64-linux-gnu/libcurl.so.4"]
        {
            let moved = folder.join("moved");
            fs::rename(folder.join(file), &moved).unwrap();
            assert!(existing(&folder).is_none(), "without {file}");
            fs::rename(&moved, folder.join(file)).unwrap();
        }
        fs::write(folder.join(STAMP_FILE), "php 0\n").unwrap();
        assert!(existing(&folder).is_none());
        remove(&folder).unwrap();
    }

    #[test]
    fn php_that_does_not_run_here_is_made_anew() {
        // How programs end that are not PHP, or that lack a library: `ls` finds no file of such a name.
        for (program, said) in [("/bin/ls", "cannot access"), ("/bin/false", "lacks the extension")] {
            let folder = complete("broken", program);
            assert!(existing(&folder).is_none());
            let error = unpacked(&folder).and_then(Php::tried).map(drop).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            remove(&folder).unwrap();
        }
    }

    #[test]
    fn settings_of_the_system_are_left_out_and_only_modules_that_exist_are_loaded() {
        let folder = complete("arguments", "/bin/true");
        let php = unpacked(&folder).unwrap();
        let directory = format!("extension_dir={}", folder.join("usr/lib/php/20220829").display());
        assert_eq!(php.arguments, ["-n", "-d", &directory, "-d", "extension=curl", "-d", "extension=posix"]);
        remove(&folder).unwrap();
    }

    #[test]
    fn php_is_told_from_its_neighbours() {
        assert!(is_php("php8.2") && is_php("php"));
        for name in ["phar8.2", "phpize8.2", "php.default", "php-config8.2", "phpdbg8.2"] {
            assert!(!is_php(name), "{name}");
        }
    }
}
