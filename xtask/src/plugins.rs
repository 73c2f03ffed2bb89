//! Builds plugins for `wasm32-wasip1`; the target is made usable first.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::wasm_target;

/// The sample plugins of the workspace.
pub const SAMPLES: [&str; 4] = ["audit", "notify", "phone-format", "step-tasks"];

/// Builds the sample plugins; returns a folder that holds their `.wasm` files and nothing else.
///
/// # Errors
/// When the target can't be had, or a plugin does not build; cargo has said why.
pub fn build_samples(root: &Path) -> anyhow::Result<PathBuf> {
    let mut arguments = vec!["build", "--profile", "plugin", "--target", "wasm32-wasip1"];
    // By place: a library of the host is called `notify` too.
    let packages = SAMPLES.map(|name| format!("path+file://{}/plugins/{name}", root.display()));
    arguments.extend(packages.iter().flat_map(|package| ["--package", package]));
    let built = cargo(root, &arguments)?;
    let folder = root.join("target/plugins");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make `{}`", folder.display()))?;
    for name in SAMPLES {
        copy(&built.join(format!("{}.wasm", name.replace('-', "_"))), &folder.join(format!("{name}.wasm")))?;
    }
    Ok(folder)
}

/// Builds the hostile plugin of the tests; returns a folder that holds its `.wasm` file and nothing else.
///
/// # Errors
/// As [`build_samples`].
pub fn build_guests(root: &Path) -> anyhow::Result<PathBuf> {
    let arguments = ["build", "--profile", "plugin", "--target", "wasm32-wasip1", "--package", "guests"];
    let built = cargo(root, &arguments)?;
    let folder = root.join("target/guests");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make `{}`", folder.display()))?;
    copy(&built.join("guests.wasm"), &folder.join("guests.wasm"))?;
    Ok(folder)
}

/// Runs cargo for the target; returns the folder with what it built.
fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<PathBuf> {
    let toolchain = wasm_target::ensure(root)?;
    let mut cargo = toolchain.cargo();
    // What a test prints is captured; what cargo prints must not get in between.
    let output = cargo.args(arguments).arg("--quiet").output().context("failed to run cargo")?;
    ensure!(
        output.status.success(),
        "the plugins did not build (cargo {}):\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(toolchain.target_dir().join("wasm32-wasip1/plugin"))
}

/// Replaces `to` in one step, so that a host that watches the folder never sees half a file.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let beside = to.with_extension(format!("{}.new", std::process::id()));
    std::fs::copy(from, &beside).with_context(|| format!("failed to copy `{}`", from.display()))?;
    std::fs::rename(&beside, to).with_context(|| format!("failed to write `{}`", to.display()))
}
