//! Builds a plugin with its language's tools, and looks at what came out with the reader that the host loads with.
//!
//! Which tools is told by the folder: a `Cargo.toml` is Rust's, else see `foreign`.
//!
//! - What cargo says is handed on line by line, as it comes.
//! - A build that is given up (its future dropped) ends with everything that cargo started.
//! - What authors meet first is recognised: no cargo, no target, no `cdylib`, no `export!`. Each error names the remedy.
//!
//! Not here: copying the file anywhere, watching the sources.

pub mod foreign;
mod group;
mod js;
mod python;
mod remedy;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use crate::sandbox::{self, Inspection, LoadError};
use group::Group;

/// What plugins are built for.
const TARGET: &str = "wasm32-wasip1";

/// How to build.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Without optimisation: faster to build, larger and slower to run.
    pub debug: bool,
    /// Whether cargo shall use colours.
    pub colour: bool,
}

/// What was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The plugin's file.
    pub file: PathBuf,
    /// What it is; it has no problems.
    pub inspection: Inspection,
}

/// Why there is no plugin's file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plugin in another language could not be built.
    #[error(transparent)]
    Foreign(#[from] foreign::Error),
    /// The folder holds no crate.
    #[error("`{0}` holds no `Cargo.toml`: give the plugin's folder, or start one with `salesman-host plugin new`")]
    NoCrate(PathBuf),
    /// The folder holds a workspace and no crate of its own.
    #[error("`{0}` names no package: give the folder of one plugin")]
    NoPackage(PathBuf),
    /// There is no cargo.
    #[error("`{0}` can't be found: install Rust with rustup (https://rustup.rs), then `rustup target add {TARGET}`")]
    NoCargo(String),
    /// Cargo can't be run, or its output not be read.
    #[error("failed to run `{program}`: {cause}")]
    Run {
        /// What was run.
        program: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// The compiler has no library for the target.
    #[error("the compiler has no standard library for `{TARGET}`: {0}")]
    NoTarget(String),
    /// Cargo failed; it has said why.
    #[error("cargo failed ({0}): its last lines say why")]
    Failed(std::process::ExitStatus),
    /// The crate makes no file that could be a plugin.
    #[error("the crate makes no plugin's file: add `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` of `{0}`")]
    NoCdylib(PathBuf),
    /// A file can't be read.
    #[error("`{path}` can't be read: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file that was built is no plugin.
    #[error("`{file}` was built, but the host would not load it: {}", told(.problems))]
    NotAPlugin {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problems: Vec<LoadError>,
    },
}

fn told(problems: &[LoadError]) -> String {
    problems.iter().map(|problem| format!("{problem} ({})", problem.code())).collect::<Vec<_>>().join("; ")
}

/// Builds the plugin in `folder`. `on_line` gets what cargo says. Dropping the future ends the build.
///
/// Cargo is the one that `CARGO` names, else the one on the path; it gets this process's environment.
///
/// # Errors
/// [`Error`] names what is missing, and the remedy.
pub async fn build(folder: &Path, options: &Options, mut on_line: impl FnMut(&str)) -> Result<Built, Error> {
    if let Some(language) = foreign::recognise(folder) {
        let folder = folder.to_owned();
        let built = tokio::task::spawn_blocking(move || foreign::build(&folder, language)).await;
        let failed =
            |error: tokio::task::JoinError| Error::Run { program: "the build".to_owned(), cause: error.into() };
        return check(built.map_err(failed)??);
    }
    let manifest = manifest_of(folder)?;
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let failed = |cause| Error::Run { program: program.clone(), cause };
    let mut running = Group::spawn(&mut command(&program, folder, options)).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::NoCargo(program.clone()),
        _ => failed(cause),
    })?;
    let (messages, said) = running.outputs();
    let (mut made, mut has_no_target) = (Vec::new(), false);
    tokio::try_join!(
        each_line(messages, |line| made.extend(artefact(line))),
        each_line(said, |line| {
            has_no_target |= remedy::tells_of_no_target(line);
            on_line(line);
        }),
    )
    .map_err(failed)?;
    let status = running.wait().await.map_err(failed)?;
    match status.success() {
        true => check(file_of(&manifest, made)?),
        false if has_no_target => Err(Error::NoTarget(remedy::for_target(folder))),
        false => Err(Error::Failed(status)),
    }
}

/// The crate's `Cargo.toml`, as cargo will call it.
fn manifest_of(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("Cargo.toml").canonicalize().map_err(|_| Error::NoCrate(folder.to_owned()))?;
    let text = std::fs::read_to_string(&path).map_err(|cause| Error::File { path: path.clone(), cause })?;
    // What can't be read is left to cargo, which says why.
    let is_workspace = text.parse::<toml::Table>().is_ok_and(|table| !table.contains_key("package"));
    if is_workspace { Err(Error::NoPackage(path)) } else { Ok(path) }
}

fn command(program: &str, folder: &Path, options: &Options) -> Command {
    let mut cargo = Command::new(program);
    cargo.args(["build", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    if !options.debug {
        cargo.arg("--release");
    }
    // Through a pipe cargo would leave colours away by itself.
    if options.colour && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    cargo.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    cargo
}

/// Reads to the end, whatever bytes come.
async fn each_line(
    output: Option<impl AsyncRead + Unpin>,
    mut on_line: impl FnMut(&str),
) -> Result<(), std::io::Error> {
    let Some(output) = output else { return Ok(()) };
    let (mut reader, mut line) = (BufReader::new(output), Vec::new());
    while reader.read_until(b'\n', &mut line).await? > 0 {
        on_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    Ok(())
}

/// A file that could be a plugin, and whose it is.
#[derive(Debug, Clone, PartialEq)]
struct Artefact {
    manifest: PathBuf,
    file: PathBuf,
}

fn artefact(message: &str) -> Option<Artefact> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        manifest_path: PathBuf,
        target: Target,
        filenames: Vec<PathBuf>,
    }
    #[derive(Deserialize)]
    struct Target {
        crate_types: Vec<String>,
    }
    let message: Message = serde_json::from_str(message).ok()?;
    let is_ours =
        message.reason == "compiler-artifact" && message.target.crate_types.iter().any(|kind| kind == "cdylib");
    let file = message.filenames.into_iter().find(|file| file.extension().is_some_and(|end| end == "wasm"))?;
    is_ours.then_some(Artefact { manifest: message.manifest_path, file })
}

fn file_of(manifest: &Path, made: Vec<Artefact>) -> Result<PathBuf, Error> {
    let own = made.into_iter().find(|artefact| artefact.manifest == manifest);
    own.map(|own| own.file).ok_or_else(|| Error::NoCdylib(manifest.to_owned()))
}

fn check(file: PathBuf) -> Result<Built, Error> {
    let bytes = std::fs::read(&file).map_err(|cause| Error::File { path: file.clone(), cause })?;
    match sandbox::inspect(&bytes) {
        Ok(inspection) if inspection.problems.is_empty() => Ok(Built { file, inspection }),
        Ok(inspection) => Err(Error::NotAPlugin { file, problems: inspection.problems }),
        Err(problem) => Err(Error::NotAPlugin { file, problems: vec![problem] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(manifest: &str, kinds: &str, file: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"p","manifest_path":"{manifest}","target":{{"kind":{kinds},"crate_types":{kinds}}},"filenames":["{file}"],"fresh":true}}"#
        )
    }

    #[test]
    fn another_crates_file_is_not_taken_for_the_plugin() {
        let lines = [
            message("/w/lib/Cargo.toml", r#"["rlib"]"#, "/t/liblib.rlib"),
            message("/w/tool/Cargo.toml", r#"["bin"]"#, "/t/tool.wasm"),
            message("/w/other/Cargo.toml", r#"["cdylib","rlib"]"#, "/t/other.wasm"),
            message("/w/own/Cargo.toml", r#"["cdylib","rlib"]"#, "/t/own.wasm"),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            "not json".to_owned(),
        ];
        let made: Vec<Artefact> = lines.iter().filter_map(|line| artefact(line)).collect();
        let file = |manifest: &str| file_of(Path::new(manifest), made.clone()).map_err(|error| error.to_string());
        assert_eq!(file("/w/own/Cargo.toml"), Ok("/t/own.wasm".into()));
        assert_eq!(
            file("/w/tool/Cargo.toml"),
            Err("the crate makes no plugin's file: add `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]` of `/w/tool/Cargo.toml`".to_owned())
        );
    }

    #[tokio::test]
    async fn a_folder_without_a_crate_of_its_own_is_not_handed_to_cargo() {
        let folder = tempfile::tempdir().unwrap();
        let result = build(folder.path(), &Options::default(), |_| {}).await;
        assert!(matches!(result, Err(Error::NoCrate(_))), "{result:?}");
        std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\nmembers = [\"a\", \"b\"]\n").unwrap();
        let result = build(folder.path(), &Options::default(), |_| {}).await;
        assert!(matches!(result, Err(Error::NoPackage(_))), "{result:?}");
    }
}
