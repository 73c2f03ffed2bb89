//! Builds a plugin whenever its sources change, and puts what came out into a plugin folder.
//!
//! - A change during a build starts it anew: nobody waits for what is out of date.
//! - A failed build leaves the plugin folder as it was, so the version before goes on serving.
//! - What builds write themselves is not watched.
//!
//! Not here: the host that serves the folder, printing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::build::{self, Built, foreign};
use super::write_whole;

/// Editors save in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// Folders and files that tools write.
const NOT_SOURCES: [&str; 8] =
    ["target", "build", "dist", "node_modules", "__pycache__", "Cargo.lock", "package-lock.json", "wit"];

/// What happens.
#[derive(Debug)]
pub enum Step<'a> {
    /// A build begins.
    Begins,
    /// The tools say a line.
    Line(&'a str),
    /// A version is in the plugin folder.
    Placed {
        /// The file there.
        file: &'a Path,
        /// What it was made of.
        built: &'a Built,
        /// From the beginning of the build.
        took: Duration,
    },
    /// There is no new version.
    Failed(&'a dyn std::error::Error),
}

/// Why sources can't be watched.
#[derive(Debug, thiserror::Error)]
#[error("the folder `{folder}` can't be watched: {cause}")]
pub struct Error {
    folder: PathBuf,
    cause: notify::Error,
}

/// Goes on until it is dropped.
///
/// # Errors
/// [`Error`].
pub async fn develop(
    folder: &Path,
    plugins: &Path,
    options: &build::Options,
    mut on_step: impl FnMut(Step<'_>),
) -> Result<std::convert::Infallible, Error> {
    let changed = Arc::new(Notify::new());
    let _watcher = watch(folder, &changed).map_err(|cause| Error { folder: folder.to_owned(), cause })?;
    let can_stop = foreign::recognise(folder).is_none();
    loop {
        on_step(Step::Begins);
        let began = Instant::now();
        let built = tokio::select! {
            built = build::build(folder, options, |line| on_step(Step::Line(line))) => Some(built),
            () = changed.notified(), if can_stop => None,
        };
        match built {
            Some(Ok(built)) => match place(&built, plugins) {
                Ok(file) => on_step(Step::Placed { file: &file, built: &built, took: began.elapsed() }),
                Err(error) => on_step(Step::Failed(&error)),
            },
            Some(Err(error)) => on_step(Step::Failed(&error)),
            None => changed.notify_one(),
        }
        changed.notified().await;
        while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {}
    }
}

fn place(built: &Built, plugins: &Path) -> Result<PathBuf, std::io::Error> {
    let name = built.inspection.manifest.as_ref().map(|manifest| manifest.name.to_string());
    let to = plugins.join(format!("{}.wasm", name.unwrap_or_else(|| "plugin".to_owned())));
    write_whole(&to, &std::fs::read(&built.file)?)?;
    Ok(to)
}

fn watch(folder: &Path, changed: &Arc<Notify>) -> Result<RecommendedWatcher, notify::Error> {
    let root = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let (changed, watched) = (Arc::clone(changed), root.clone());
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if !event.kind.is_access() && event.paths.iter().any(|path| is_source(&watched, path)) {
            changed.notify_one();
        }
    })?;
    watcher.watch(&root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn is_source(root: &Path, path: &Path) -> bool {
    let Ok(inside) = path.strip_prefix(root) else { return false };
    let mut parts = inside.iter().filter_map(|part| part.to_str()).peekable();
    parts.peek().is_some() && parts.all(|part| !part.starts_with('.') && !NOT_SOURCES.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_writes_does_not_start_the_next_one() {
        let is = |path: &str| is_source(Path::new("/work/plugin"), Path::new(path));
        for source in ["/work/plugin/src/lib.rs", "/work/plugin/plugin.toml", "/work/plugin/handler.py"] {
            assert!(is(source), "{source}");
        }
        for other in [
            "/work/plugin",
            "/work/plugin/target/wasm32-wasip1/release/plugin.wasm",
            "/work/plugin/Cargo.lock",
            "/work/plugin/.git/index",
            "/work/plugin/src/.lib.rs.swp",
            "/work/plugin/node_modules/a/index.js",
            "/work/other/src/lib.rs",
        ] {
            assert!(!is(other), "{other}");
        }
    }
}
