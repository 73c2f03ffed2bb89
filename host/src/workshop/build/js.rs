//! JavaScript's tools: npm installs componentize-js, node runs the folder's `build.mjs`.
//!
//! Not here: which options the component is made with: `build.mjs` is the author's.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::foreign::{Error, Remedy, read, run};

/// Node brings npm.
const NODE: &str = "install Node.js 20 or newer with npm (Debian: `sudo apt-get install nodejs npm`)";

/// Writes `build/component.wasm`.
pub(super) fn component(folder: &Path) -> Result<(), Error> {
    let package: Value = serde_json::from_str(&read(folder, "package.json")?)
        .map_err(|error| Error::Folder { file: "package.json", problem: format!("it is not JSON: {error}") })?;
    if !is_installed(folder, &package) {
        let how = if folder.join("package-lock.json").is_file() { "ci" } else { "install" };
        let remedy = Remedy { missing: NODE, failed: ": it needs npm's registry, and a `package-lock.json` that fits" };
        run(Command::new("npm").args([how, "--no-audit", "--no-fund"]).current_dir(folder), remedy)?;
    }
    run(Command::new("node").arg("build.mjs").current_dir(folder), Remedy { missing: NODE, failed: "" })?;
    Ok(())
}

/// Whether every package that `package.json` names is there, in its version where that is an exact one.
fn is_installed(folder: &Path, package: &Value) -> bool {
    ["dependencies", "devDependencies"].iter().filter_map(|key| package.get(key)?.as_object()).flatten().all(
        |(name, wanted)| {
            let text = std::fs::read_to_string(folder.join("node_modules").join(name).join("package.json"));
            let installed = text.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            let installed = installed.as_ref().and_then(|installed| installed.get("version")?.as_str());
            let wanted = wanted.as_str().unwrap_or_default();
            let exact = wanted.starts_with(|first: char| first.is_ascii_digit());
            installed.is_some_and(|version| !exact || version == wanted)
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tool_of_another_version_is_not_taken_for_the_pinned_one() {
        let folder = tempfile::tempdir().unwrap();
        let package = |version: &str| json!({ "devDependencies": { "@a/tool": version } });
        assert!(is_installed(folder.path(), &json!({})));
        assert!(!is_installed(folder.path(), &package("1.2.3")));
        let tool = folder.path().join("node_modules/@a/tool");
        std::fs::create_dir_all(&tool).unwrap();
        std::fs::write(tool.join("package.json"), r#"{ "version": "1.2.3" }"#).unwrap();
        assert!(is_installed(folder.path(), &package("1.2.3")));
        assert!(!is_installed(folder.path(), &package("1.2.4")));
        assert!(is_installed(folder.path(), &package("^1")));
    }
}
