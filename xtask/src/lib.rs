//! The developers' commands as functions, for the command line and for the tests.
//!
//! Not here: anything that the product needs. This crate depends on no other of the workspace, so that the first command
//! on a fresh machine shows what it does instead of compiling in silence.

pub mod axe;
pub mod browser;
mod debian;
pub mod php;
pub mod plugins;
pub mod proxy;
mod run;
pub mod wasm_target;

use std::path::{Path, PathBuf};

/// What `cargo xtask` says of itself.
pub const USAGE: &str = "\
cargo xtask COMMAND

  demo [--once]    show the whole path of an event: CRM stand-in, host, four plugins
                   (--once: end after checking every effect)
  test             format, lints, the demo with --once, and every test
  bench            measure, and print the figures as JSON
                   (--only NAME, --seconds N, --backlog N)
  crash --rounds N kill the host N times under load, and look whether anything acknowledged is lost
  faults           trouble from below: loss of power, a failing disk, a clock that steps, a reader that
                   stays, damaged pages; for --seconds N (--seed N: the same again; --only KIND)
  fuzz             damage what others write (events, questions, plugin files, CRM answers, the
                   configuration) for --minutes N, and look what becomes of it
                   (--seed N: the same inputs again; --only TARGET)
  soak --minutes N steady load; memory, file handles and latency at the start and at the end
  wasm-target      make wasm32-wasip1 usable on this machine
  php              find a PHP for the tests, or unpack one into target/php
                   (XTASK_PHP=private: don't take the one on the path)
  browser          find a Chromium for the tests, or unpack one into target/chromium
                   (XTASK_BROWSER=private: don't take the one on the path)
  nginx, apache    find a web server to put before the host in the tests, or unpack one
                   into target/nginx, target/apache (XTASK_PROXY=private: as above)
  plugins          build the sample plugins into target/plugins
";

/// The workspace's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
