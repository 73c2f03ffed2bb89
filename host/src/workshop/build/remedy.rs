//! What to do when the compiler has no library for the target: depends on how Rust came here, and on what the folder pins.

use std::path::Path;

use super::TARGET;

/// Whether a line of the compiler says that the target's library is missing.
pub(super) fn tells_of_no_target(line: &str) -> bool {
    let plain = without_colours(line);
    plain.contains("target may not be installed") && plain.contains(TARGET)
}

/// The remedy for whoever works in `folder`.
pub(super) fn for_target(folder: &Path) -> String {
    let rustup_is_here = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|place| place.join("rustup").is_file()));
    Surroundings {
        compiler: std::env::var("RUSTC").ok(),
        rustup_is_here,
        toolchain: std::env::var("RUSTUP_TOOLCHAIN").ok().or_else(|| pinned(folder)),
    }
    .remedy()
}

struct Surroundings {
    /// A compiler that the environment names.
    compiler: Option<String>,
    rustup_is_here: bool,
    /// The toolchain that environment or folder ask for.
    toolchain: Option<String>,
}

impl Surroundings {
    fn remedy(&self) -> String {
        if let Some(compiler) = &self.compiler {
            return format!("the variable `RUSTC` names `{compiler}`; unset it, or give that compiler the target");
        }
        if !self.rustup_is_here {
            return format!(
                "rustup is not here, and a compiler of a distribution seldom has the target; install Rust with rustup \
                 (https://rustup.rs), then run `rustup target add {TARGET}`"
            );
        }
        match &self.toolchain {
            Some(toolchain) => format!("run `rustup target add --toolchain {toolchain} {TARGET}`"),
            None => format!("run `rustup target add {TARGET}`"),
        }
    }
}

/// The toolchain that the nearest `rust-toolchain.toml` names.
fn pinned(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let text = folder.ancestors().find_map(|folder| {
        ["rust-toolchain", "rust-toolchain.toml"]
            .iter()
            .find_map(|name| std::fs::read_to_string(folder.join(name)).ok())
    })?;
    match text.parse::<toml::Table>() {
        Ok(table) => Some(table.get("toolchain")?.get("channel")?.as_str()?.to_owned()),
        // The old form is a name and nothing else.
        Err(_) => Some(text.trim().to_owned()).filter(|name| !name.is_empty() && !name.contains(char::is_whitespace)),
    }
}

/// The text without escape sequences: with colours on, one may stand between any two words.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = sequence.split_once(|end: char| end.is_ascii_alphabetic()).map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_words_are_recognised_in_colour_too() {
        let plain = "  = note: the `wasm32-wasip1` target may not be installed";
        let coloured = "  \u{1b}[1m\u{1b}[94m= \u{1b}[0m\u{1b}[1mnote\u{1b}[0m: the `wasm32-\u{1b}[0mwasip1` target may not be installed";
        assert!(tells_of_no_target(plain));
        assert!(tells_of_no_target(coloured));
        assert!(!tells_of_no_target("  = note: the `wasm32-unknown-unknown` target may not be installed"));
        assert!(!tells_of_no_target("error[E0463]: can't find crate for `serde`"));
    }

    #[test]
    fn the_remedy_fits_how_rust_came_here() {
        let remedy = |compiler: Option<&str>, rustup_is_here, toolchain: Option<&str>| {
            let (compiler, toolchain) = (compiler.map(str::to_owned), toolchain.map(str::to_owned));
            Surroundings { compiler, rustup_is_here, toolchain }.remedy()
        };
        assert_eq!(remedy(None, true, None), "run `rustup target add wasm32-wasip1`");
        assert_eq!(remedy(None, true, Some("1.95.0")), "run `rustup target add --toolchain 1.95.0 wasm32-wasip1`");
        assert!(remedy(None, false, Some("1.95.0")).contains("install Rust with rustup (https://rustup.rs)"));
        assert!(remedy(Some("/opt/rustc"), true, None).starts_with("the variable `RUSTC` names `/opt/rustc`"));
    }

    #[test]
    fn the_nearest_pin_counts_in_both_of_its_forms() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(folder.path().join("rust-toolchain.toml"), "[toolchain]\nchannel = \"1.95.0\"\n").unwrap();
        assert_eq!(pinned(&inner).as_deref(), Some("1.95.0"));
        std::fs::write(folder.path().join("a/rust-toolchain"), "nightly-2026-01-01\n").unwrap();
        assert_eq!(pinned(&inner).as_deref(), Some("nightly-2026-01-01"));
        std::fs::write(inner.join("rust-toolchain.toml"), "[toolchain]\npath = \"/opt/rust\"\n").unwrap();
        assert_eq!(pinned(&inner), None);
    }
}
