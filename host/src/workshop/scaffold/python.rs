//! A plugin in Python: the folder to start from.
//!
//! Not here: writing it to disk (`scaffold`), building it (`build/foreign.rs`).

use super::foreign::filled;
use crate::plugin::Pattern;

/// What to do next.
pub(super) const NEXT: &[&str] = &["python3 -B -m unittest", "salesman-host plugin build"];

/// The files of a new plugin: path in its folder, contents.
pub(super) fn files(name: &str, events: &[Pattern]) -> Vec<(String, String)> {
    filled(
        &[
            ("plugin.toml", include_str!("python/plugin.toml")),
            ("handler.py", include_str!("python/handler.py")),
            ("test_handler.py", include_str!("python/test_handler.py")),
            ("requirements.txt", include_str!("python/requirements.txt")),
            ("README.md", include_str!("python/README.md")),
            (".gitignore", include_str!("python/gitignore")),
            ("salesman.py", include_str!("../../../../plugin-sdk/python/salesman.py")),
            ("entry.py", include_str!("../../../../plugin-sdk/python/entry.py")),
            ("salesman_testing.py", include_str!("../../../../plugin-sdk/python/salesman_testing.py")),
            ("wit/plugin.wit", include_str!("../../../../plugin-sdk/wit/plugin.wit")),
        ],
        name,
        events,
    )
}
