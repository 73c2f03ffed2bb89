//! Running commands so that people see steps, and the whole output when one fails; the folders that they write to.
//!
//! Invariants: a command gets no setting of an outer cargo; a lock is held until every command that got it has ended.
//! Not here: what is run, and in which order.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Tells people on stderr which step of how many begins.
pub(crate) struct Steps {
    /// The command that people typed.
    name: &'static str,
    begun: u32,
    all: u32,
}

impl Steps {
    pub(crate) fn new(name: &'static str, all: u32) -> Self {
        Self { name, begun: 0, all }
    }

    pub(crate) fn begin(&mut self, what: &str) {
        self.begun += 1;
        eprintln!("{} {}/{}: {what}", self.name, self.begun, self.all);
    }
}

/// A command without the variables of an outer cargo, which would leak this build's settings into the inner one.
pub(crate) fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(leaks_into_inner_build) {
            command.env_remove(name);
        }
    }
    command
}

/// `RUSTUP_TOOLCHAIN` is not among them: it names the compiler that the person chose.
fn leaks_into_inner_build(variable: &str) -> bool {
    const PERSONAL: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_BUILD_JOBS",
    ];
    const OF_RUSTC: [&str; 8] = [
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
    ];
    let of_cargo = variable == "CARGO" || variable.starts_with("CARGO_");
    OF_RUSTC.contains(&variable) || of_cargo && !PERSONAL.iter().any(|prefix| variable.starts_with(prefix))
}

/// Where the output of commands goes, so that people see steps and a failure can still be understood.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Every command gets it as its (empty) input: one that outlives a killed parent still keeps others out of the
    /// folder it writes to.
    lock: File,
}

impl Log {
    pub(crate) fn create(path: &Path, lock: File) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("failed to create `{}`", path.display()))?;
        Ok(Self { path: path.into(), file, lock })
    }

    /// Runs a command whose output only matters when it fails.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let (stdout, stderr) = (self.file.try_clone()?, self.file.try_clone()?);
        self.watch(command.stdout(stdout).stderr(stderr)).map(drop)
    }

    /// Runs a command and returns what it printed to stdout.
    pub(crate) fn output(&mut self, command: &mut Command) -> Result<Output> {
        let stderr = self.file.try_clone()?;
        self.watch(command.stdout(Stdio::piped()).stderr(stderr))
    }

    fn watch(&mut self, command: &mut Command) -> Result<Output> {
        let name = short(command);
        writeln!(self.file, "$ {command:?}")?;
        let start = self.file.metadata()?.len();
        let output = match command.stdin(self.lock.try_clone()?).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("`{}` is not installed", command.get_program().display())
            }
            output => output.with_context(|| format!("failed to run `{name}`"))?,
        };
        if output.status.success() {
            return Ok(output);
        }
        let log = fs::read(&self.path)?;
        let said = String::from_utf8_lossy(log.get(usize::try_from(start)?..).unwrap_or_default());
        let path = self.path.display();
        bail!("`{name}` failed ({}), all its output is in `{path}`{}", output.status, last_lines(&said))
    }
}

/// The command as a person would type it: without `-o` options, which are in the log.
fn short(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    let mut arguments = command.get_args().map(OsStr::to_string_lossy);
    while let Some(argument) = arguments.next() {
        if argument == "-o" {
            arguments.next();
        } else {
            words.push(argument);
        }
    }
    words.join(" ")
}

/// The end of a command's output, indented below the sentence that names it.
fn last_lines(text: &str) -> String {
    const SHOWN: usize = 12;
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(SHOWN)).map(|line| format!("\n     | {line}")).collect()
}

/// Held until the file is dropped, here and in every command that got it; a crash drops it too. People are told on
/// stderr that another process has it.
pub(crate) fn lock(path: &Path, waiting: &str) -> Result<File> {
    let taken = || format!("failed to lock `{}`", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(taken)?;
    }
    let file = OpenOptions::new().create(true).read(true).append(true).open(path).with_context(taken)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => eprintln!("{waiting}"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(taken),
    }
    file.lock().with_context(taken)?;
    Ok(file)
}

/// Names in a folder; none when it can't be read.
pub(crate) fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes a folder that may not exist.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_outer_cargo_do_not_leak() {
        for name in [
            "CARGO",
            "CARGO_TARGET_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "RUSTC",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
        ] {
            assert!(leaks_into_inner_build(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MINE_INDEX",
            "RUSTUP_TOOLCHAIN",
            "PATH",
            "HOME",
            "CARGOES",
        ] {
            assert!(!leaks_into_inner_build(name), "{name}");
        }
    }

    #[test]
    fn failed_command_shows_its_last_words_and_where_the_rest_is() {
        let path = std::env::temp_dir().join(format!("wasm-target-{}.log", std::process::id()));
        let mut log = Log::create(&path, File::open("/dev/null").unwrap()).unwrap();
        let mut shell = |script: &str| {
            log.run(command("sh", Path::new("/")).args(["-c", script])).map_err(|error| error.to_string())
        };
        assert_eq!(shell("echo earlier command"), Ok(()));
        let error = shell("seq 1 100; echo no space left >&2; exit 3").unwrap_err();
        assert!(error.contains("exit status: 3") && error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.ends_with("| 100\n     | no space left"), "{error}");
        assert!(!error.contains("earlier") && !error.contains("| 50\n"), "{error}");
        fs::remove_file(path).unwrap();
    }
}
