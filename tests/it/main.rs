//! The integration tests: evidence by failure mode, against a real host in a process of its own.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

mod answers;
mod crm_client;
mod delivery;
mod durability;
mod handmade;
mod intake;
mod isolation;
mod overload;
mod resilience;
mod start;
mod tidy;

use std::path::PathBuf;
use std::sync::OnceLock;

/// The folder with the hostile plugin; built once.
fn guests() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| xtask::plugins::build_guests(&xtask::root()).unwrap()).clone()
}

/// The folder with the sample plugins; built once.
fn samples() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| xtask::plugins::build_samples(&xtask::root()).unwrap()).clone()
}
