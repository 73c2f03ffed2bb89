//! Python's tools: a `.venv` in the folder with what `requirements.txt` names, and componentize-py out of it.
//!
//! Not here: the author's sources; `entry.py` is the module that the component is made of.

use std::path::Path;
use std::process::Command;

use super::foreign::{COMPONENT, Error, Remedy, read, run, unwritable};

/// The tool, as `requirements.txt` has to name it.
const TOOL: &str = "componentize-py";
/// The requirements that the `.venv` was made with.
const STAMP: &str = ".venv/requirements.txt";

/// Writes `build/component.wasm`.
pub(super) fn component(folder: &Path) -> Result<(), Error> {
    let requirements = read(folder, "requirements.txt")?;
    let wanted = pinned(&requirements)?;
    let mut tool = if needs_no_venv(&requirements) && is_on_path(folder, wanted) {
        Command::new(TOOL)
    } else {
        if std::fs::read_to_string(folder.join(STAMP)).ok().as_ref() != Some(&requirements) {
            install(folder, &requirements)?;
        }
        let venv = folder.join(".venv");
        let mut tool = Command::new(venv.join("bin").join(TOOL));
        tool.env("VIRTUAL_ENV", venv);
        tool
    };
    // With it the tool's own frames would bury the author's error.
    tool.env_remove("RUST_BACKTRACE");
    tool.args(["--quiet", "--wit-path", "wit", "--world", "plugin", "componentize", "entry", "--output", COMPONENT]);
    let remedy = Remedy { missing: "remove the folder `.venv`", failed: "" };
    run(tool.current_dir(folder), remedy)?;
    Ok(())
}

/// The version of the tool that `requirements.txt` names.
fn pinned(requirements: &str) -> Result<&str, Error> {
    let pin = requirements.lines().find_map(|line| line.trim().strip_prefix(TOOL)?.trim().strip_prefix("=="));
    pin.map(str::trim).ok_or_else(|| Error::Folder {
        file: "requirements.txt",
        problem: format!(
            "it does not name the tool: add a line `{TOOL}==VERSION`, with the version of a fresh scaffold"
        ),
    })
}

/// Whether the tool is all that is asked for.
fn needs_no_venv(requirements: &str) -> bool {
    let asked = requirements.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    asked.count() == 1
}

fn is_on_path(folder: &Path, wanted: &str) -> bool {
    let remedy = Remedy { missing: "", failed: "" };
    let said = run(Command::new(TOOL).arg("--version").current_dir(folder), remedy);
    said.is_ok_and(|said| said.split_whitespace().last() == Some(wanted))
}

/// Makes the `.venv`; its stamp is written last, so that an interrupted one does not count.
fn install(folder: &Path, requirements: &str) -> Result<(), Error> {
    let venv = Remedy {
        missing: "install Python 3.10 or newer (Debian: `sudo apt-get install python3 python3-venv`)",
        failed: ": Python needs its module `venv` (Debian: `sudo apt-get install python3-venv`)",
    };
    run(Command::new("python3").args(["-m", "venv", "--clear", ".venv"]).current_dir(folder), venv)?;
    let pip = Remedy { missing: "remove the folder `.venv`", failed: ": it needs Python's package index" };
    let mut command = Command::new(folder.join(".venv/bin/python"));
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
        "requirements.txt",
    ]);
    run(command.current_dir(folder), pip)?;
    std::fs::write(folder.join(STAMP), requirements).map_err(|error| unwritable(&folder.join(STAMP), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_not_pinned_is_not_installed_in_any_version() {
        assert_eq!(pinned("# tools\ncomponentize-py == 0.25.1\nattrs==25.1\n").unwrap(), "0.25.1");
        for wrong in ["", "componentize-py\n", "componentize-py>=0.25\n", "other==1\n"] {
            assert!(pinned(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_packages_need_an_environment_of_their_own() {
        assert!(needs_no_venv("# tools\n\ncomponentize-py==0.25.1\n"));
        assert!(!needs_no_venv("componentize-py==0.25.1\nattrs==25.1\n"));
    }
}
