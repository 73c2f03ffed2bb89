//! The developers' commands as functions, for the command line and for the tests.
//!
//! Not here: anything that the product needs. This crate depends on no other of the workspace, so that the first command
//! on a fresh machine shows what it does instead of compiling in silence.

pub mod axe;
pub mod browser;
mod debian;
pub mod php;
pub mod plugins;
mod run;
pub mod wasm_target;

use std::path::{Path, PathBuf};

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
