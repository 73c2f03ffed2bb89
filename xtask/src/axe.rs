//! axe-core, the accessibility checker that the browser tests run in every page: fetched from npm into `target/axe`.
//!
//! It is a tool of the tests, fetched when they run; nothing of it is part of the product.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::lock;

const VERSION: &str = "4.14.1";

/// The script; `root` is the workspace.
///
/// # Errors
/// When there is no npm, or it can't fetch the package.
pub fn ensure(root: &Path) -> Result<PathBuf> {
    let folder = std::path::absolute(root)?.join("target/axe");
    let script = folder.join(format!("axe-{VERSION}.js"));
    if script.is_file() {
        return Ok(script);
    }
    fs::create_dir_all(&folder)?;
    let _lock = lock(&folder.join("lock"), "axe: waiting for another process that fetches it")?;
    if script.is_file() {
        return Ok(script);
    }
    // npm compares the package with the registry's checksum.
    let fetched = Command::new("npm")
        .args(["pack", "--silent", &format!("axe-core@{VERSION}")])
        .current_dir(&folder)
        .output()
        .context("axe-core comes from npm, and there is no `npm`")?;
    if !fetched.status.success() {
        bail!("npm can't fetch axe-core: {}", String::from_utf8_lossy(&fetched.stderr).trim());
    }
    let package = folder.join(format!("axe-core-{VERSION}.tgz"));
    let unpacked = Command::new("tar").arg("-xzf").arg(&package).arg("-C").arg(&folder).status()?;
    if !unpacked.success() {
        bail!("`{}` can't be unpacked", package.display());
    }
    // In one step, so that whoever finds it finds all of it.
    fs::rename(folder.join("package/axe.min.js"), &script)?;
    Ok(script)
}
