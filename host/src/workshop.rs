//! The author's tools: scaffold, build, pack.
//!
//! Not here: printing (`cli`), the running host.

pub mod build;
pub mod pack;
pub mod scaffold;
