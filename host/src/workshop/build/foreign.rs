//! Builds plugins of other languages than Rust: recognises them, runs their tools, packs what those made.
//!
//! - The tools are installed into the plugin's folder, in the version that the folder names; nothing else changes.
//! - The manifest is read before any tool runs, and packed into the component afterwards.
//!
//! Not here: what each language's tools are called (`js`, `python`), what a manifest may say (`plugin`).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{js, python};
use crate::plugin::{Manifest, ManifestError};
use crate::text;
use crate::workshop::{pack, write_whole};

/// What the tools write, in the plugin's folder.
pub(super) const COMPONENT: &str = "build/component.wasm";
/// Lines of a failed tool's output that an error shows.
const SHOWN: usize = 25;

/// A language whose tools make a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// JavaScript: a `package.json` beside the manifest.
    Js,
    /// Python: a `requirements.txt` and sources beside the manifest.
    Python,
}

/// Why a plugin could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing.
    #[error("`{program}` is not installed: {remedy}, then run the same command again")]
    Missing {
        /// Which.
        program: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A program failed.
    #[error("`{command}` failed ({status}){remedy}\n{output}")]
    Failed {
        /// The command as a person would type it.
        command: String,
        /// How it ended.
        status: String,
        /// What often helps; empty or a sentence's end.
        remedy: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// A file of the folder says something that can't be used.
    #[error("`{file}` in the plugin's folder: {problem}")]
    Folder {
        /// Which.
        file: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The manifest is wrong.
    #[error("`plugin.toml` in the plugin's folder: {0}")]
    Manifest(#[from] ManifestError),
    /// What the tools made can't be packed.
    #[error(transparent)]
    Pack(#[from] pack::Error),
    /// A file or folder can't be read or written.
    #[error("`{path}` can't be {what}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
}

/// The language of the plugin in a folder; none where neither's files are there.
pub fn recognise(folder: &Path) -> Option<Foreign> {
    let has = |name: &str| folder.join(name).is_file();
    if !has("plugin.toml") || has("Cargo.toml") {
        return None;
    }
    if has("package.json") {
        return Some(Foreign::Js);
    }
    (has("requirements.txt") && has("entry.py")).then_some(Foreign::Python)
}

/// Builds the plugin in a folder; returns its file, `dist/NAME.wasm` in there.
///
/// # Errors
/// [`Error`] names what is missing or wrong, and the next step.
pub fn build(folder: &Path, language: Foreign) -> Result<PathBuf, Error> {
    let folder = &std::path::absolute(folder).map_err(|error| unreadable(folder, error))?;
    let text = read(folder, "plugin.toml")?;
    let manifest = Manifest::parse(text.as_bytes())?;
    let component = component(folder, language)?;
    let packed = pack::pack(&component, &text)?;
    let file = folder.join("dist").join(format!("{}.wasm", manifest.name));
    make_folder_of(&file)?;
    write_whole(&file, &packed).map_err(|error| unwritable(&file, error))?;
    Ok(file)
}

/// Builds the component of the plugin in a folder, still without its manifest. Installs the tools where they are missing.
///
/// # Errors
/// As [`build`].
pub fn component(folder: &Path, language: Foreign) -> Result<Vec<u8>, Error> {
    let folder = &std::path::absolute(folder).map_err(|error| unreadable(folder, error))?;
    let path = folder.join(COMPONENT);
    make_folder_of(&path)?;
    // What an earlier build left must not be taken for this one's.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(unwritable(&path, error)),
        _ => {}
    }
    match language {
        Foreign::Js => js::component(folder)?,
        Foreign::Python => python::component(folder)?,
    }
    std::fs::read(&path).map_err(|error| unreadable(&path, error))
}

/// A text file of the plugin's folder.
pub(super) fn read(folder: &Path, name: &str) -> Result<String, Error> {
    let path = folder.join(name);
    text::read(&path, text::MOST).map_err(|error| match error {
        text::Error::File(error) => unreadable(&path, error),
        other => unreadable(&path, std::io::Error::new(ErrorKind::InvalidData, other.to_string())),
    })
}

fn make_folder_of(path: &Path) -> Result<(), Error> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::File { path: path.to_owned(), what: "read", error }
}

pub(super) fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::File { path: path.to_owned(), what: "written", error }
}

/// What helps when a tool is missing or fails.
#[derive(Clone, Copy)]
pub(super) struct Remedy {
    /// When the program is not there.
    pub(super) missing: &'static str,
    /// When it fails: empty, or a sentence's end.
    pub(super) failed: &'static str,
}

/// Runs a tool; returns what it printed to standard output.
pub(super) fn run(command: &mut Command, remedy: Remedy) -> Result<String, Error> {
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let program = command.get_program().to_string_lossy().into_owned();
            return Err(Error::Missing { program, remedy: remedy.missing });
        }
        Err(error) => return Err(unreadable(Path::new(command.get_program()), error)),
        Ok(output) => output,
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Error::Failed {
        command: shown(command),
        status: output.status.to_string(),
        remedy: remedy.failed,
        output: end_of(&format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
    })
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let arguments = command.get_args().map(std::ffi::OsStr::to_string_lossy);
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The last lines of a tool's output, indented.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(SHOWN));
    shown.map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_manifest_or_sources_is_taken_for_no_language() {
        let folder = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for name in ["requirements.txt", "entry.py", "plugin.toml", "package.json"] {
            std::fs::write(folder.path().join(name), "").unwrap();
            seen.push(recognise(folder.path()));
        }
        assert_eq!(seen, [None, None, Some(Foreign::Python), Some(Foreign::Js)]);
    }

    #[test]
    fn a_missing_or_failing_tool_is_told_with_its_remedy() {
        let remedy = Remedy { missing: "install it", failed: ": is the network there?" };
        let missing = run(&mut Command::new("no-such-tool"), remedy).unwrap_err();
        assert_eq!(missing.to_string(), "`no-such-tool` is not installed: install it, then run the same command again");
        let failed = run(Command::new("/bin/sh").args(["-c", "echo out; echo err >&2; exit 3"]), remedy).unwrap_err();
        assert_eq!(
            failed.to_string(),
            "`sh -c echo out; echo err >&2; exit 3` failed (exit status: 3): is the network there?\n    | out\n    | err"
        );
    }

    #[test]
    fn a_broken_manifest_is_told_before_any_tool_runs() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plugin.toml"), "name = \"a\"\nevents = []").unwrap();
        let error = build(folder.path(), Foreign::Js).unwrap_err();
        assert!(error.to_string().contains("names no event"), "{error}");
        assert!(!folder.path().join("build").exists());
    }
}
