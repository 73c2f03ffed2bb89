//! A plugin in JavaScript: the folder to start from.
//!
//! Not here: writing it to disk (`scaffold`), building it (`build/foreign.rs`).

use super::foreign::filled;
use crate::plugin::Pattern;

/// What to do next.
pub(super) const NEXT: &[&str] = &["npm test", "salesman-host plugin build"];

/// The files of a new plugin: path in its folder, contents.
pub(super) fn files(name: &str, events: &[Pattern]) -> Vec<(String, String)> {
    filled(
        &[
            ("plugin.toml", include_str!("js/plugin.toml")),
            ("handler.js", include_str!("js/handler.js")),
            ("handler.test.js", include_str!("js/handler.test.js")),
            ("package.json", include_str!("js/package.json")),
            ("build.mjs", include_str!("js/build.mjs")),
            ("README.md", include_str!("js/README.md")),
            (".gitignore", include_str!("js/gitignore")),
            ("salesman.js", include_str!("../../../../plugin-sdk/js/salesman.js")),
            ("entry.js", include_str!("../../../../plugin-sdk/js/entry.js")),
            ("testing.js", include_str!("../../../../plugin-sdk/js/testing.js")),
            ("wit/plugin.wit", include_str!("../../../../plugin-sdk/wit/plugin.wit")),
        ],
        name,
        events,
    )
}
