//! The author's tools: start a plugin, build it, look at its file, give a file its manifest, try it on an event.
//!
//! - Each tool returns values; the command line prints them. A development loop can call them as well.
//! - Nothing here needs a running host. A rehearsal has a journal of its own, which it throws away.
//! - A file is written in one step: a host that watches the folder never sees half of one.
//!
//! Not here: printing (`cli`), what a plugin's file must hold (`sandbox`), the running host.

pub mod build;
pub mod develop;
pub mod inspect;
pub mod pack;
pub mod permissions;
pub mod rehearse;
pub mod samples;
pub mod scaffold;

use std::path::Path;

use crate::files;

/// Writes a file in one step: its readers see the old contents or the new ones.
///
/// # Errors
/// When the folder can't be written to; what was there stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), std::io::Error> {
    files::replace(path, bytes, files::Readers::Folder)
}
