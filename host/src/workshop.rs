//! The author's tools: what is done with a plugin's file before it goes to a host.
//!
//! They return values; the command line words them. Not here: printing, the running host.

pub mod rehearse;
pub mod samples;
