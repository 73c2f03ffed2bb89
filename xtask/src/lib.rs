//! The developers' commands, as a library so that tests can use them too.

pub mod wasm_target;
