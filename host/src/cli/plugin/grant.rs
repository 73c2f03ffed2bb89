//! `plugin grant`: shows what a plugin asks in plain words, and records that it was agreed to.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};

use crate::cli::out::agreed;
use crate::cli::remote::note;
use crate::cli::{spared, told};
use crate::config::{Config, approve};
use crate::plugin::{Manifest, Permissions, PluginName, Unchosen};
use crate::registry::versions::{Home, Versions};
use crate::sandbox;
use crate::workshop::permissions::in_words;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin's name, or its file.
    #[arg(value_name = "NAME|FILE")]
    plugin: String,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An address that it may send requests to, where it leaves the choice to you (`*`). May be repeated.
    #[arg(long, value_name = "ORIGIN")]
    http: Vec<String>,
    /// Agree without being asked.
    #[arg(long)]
    yes: bool,
    /// Take back what was granted.
    #[arg(long, conflicts_with = "http")]
    revoke: bool,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = spared(args.config);
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let file = &config.registry.approvals;
    if args.revoke {
        let name = PluginName::try_from(args.plugin).map_err(anyhow::Error::msg)?;
        note(&source, "plugin.revoke", name.as_str(), "")?;
        approve(file, &name, None).map_err(anyhow::Error::msg)?;
        outln!("`{name}` has no grants in `{}` any more.", file.display());
        if config.registry.plugins.get(&name).is_some_and(|own| own.grants.is_some()) {
            outln!("Its section `[plugins.{name}.grants]` of the configuration still grants what stands there.");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (manifest, path) = manifest(&args.plugin, &config)?;
    let permissions = chosen(&config.registry.asks(&manifest), &args.http)?;
    let name = &manifest.name;
    let words = in_words(&permissions);
    if words.is_empty() {
        outln!("`{name}` {} asks for nothing: there is nothing to grant.", manifest.version);
    } else {
        outln!("`{name}` {} wants to:", manifest.version);
        words.iter().for_each(|line| outln!("  - {line}"));
        if !args.yes && !agreed("Grant it?", &format!("say `--yes` if `{name}` may do that"))? {
            outln!("Nothing was granted.");
            return Ok(ExitCode::FAILURE);
        }
    }
    note(&source, "plugin.grant", name.as_str(), &serde_json::to_string(&permissions)?)?;
    approve(file, name, Some(&permissions)).map_err(anyhow::Error::msg)?;
    if let Some(home) = in_folder(&path, &config.registry.dir) {
        let versions = Versions::new(&config.registry.store);
        let hash = versions
            .homes()
            .context("where plugins come from can't be read")?
            .remove(name)
            .map(|home| home.hash)
            .unwrap_or_default();
        let came = versions.come_from([(name.clone(), Home { file: home, hash })].into());
        came.with_context(|| format!("it is not recorded that `{name}` comes from `{}`", path.display()))?;
    }
    if !words.is_empty() {
        outln!("Granted, in `{}`. A running host takes it up by itself.", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is granted of what is asked: all of it, with real addresses in place of `*`.
fn chosen(asked: &Permissions, origins: &[String]) -> anyhow::Result<Permissions> {
    asked.chosen(origins).map_err(|refusal| match refusal {
        Unchosen::NoChoice => anyhow!("`--http` is for plugins that leave the choice to you (`http = [\"*\"]`)"),
        Unchosen::Nothing => {
            anyhow!("it leaves the choice of addresses to you: name each with `--http https://host`")
        }
        other => other.into(),
    })
}

/// The name of a file that lies in the plugin folder.
fn in_folder(path: &Path, dir: &Path) -> Option<PathBuf> {
    let folder = path.parent()?.canonicalize().ok()?;
    (folder == dir.canonicalize().ok()?).then(|| path.file_name().map(PathBuf::from)).flatten()
}

/// The manifest of a file, or of the plugin of that name in the plugin folder, and the file.
fn manifest(plugin: &str, config: &Config) -> anyhow::Result<(Manifest, PathBuf)> {
    let path = Path::new(plugin);
    if path.extension().is_some_and(|extension| extension == "wasm") {
        let path = if path.parent() == Some(Path::new("")) { Path::new(".").join(path) } else { path.to_owned() };
        return Ok((read(&path)?.with_context(|| format!("`{plugin}` has no manifest"))?, path));
    }
    let name = PluginName::try_from(plugin.to_owned()).map_err(anyhow::Error::msg)?;
    let dir = &config.registry.dir;
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("the plugin folder `{}` can't be read", dir.display()))?;
    let mut found: Option<(Manifest, PathBuf)> = None;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm")
            && let Some(manifest) = sandbox::read_file(&path).ok().and_then(|bytes| sandbox::manifest_of(&bytes))
            && manifest.name == name
        {
            if let Some((_, other)) = &found {
                let (other, path) = (other.display(), path.display());
                bail!("`{other}` and `{path}` both hold the plugin `{name}`: give the file instead of the name");
            }
            found = Some((manifest, path));
        }
    }
    found.with_context(|| {
        let dir = dir.display();
        format!("no file in `{dir}` holds the plugin `{name}`: copy it there, or give the file instead of the name")
    })
}

fn read(path: &Path) -> anyhow::Result<Option<Manifest>> {
    let bytes = sandbox::read_file(path).with_context(|| format!("`{}` can't be read", path.display()))?;
    let inspection = sandbox::inspect(&bytes).with_context(|| format!("`{}` is no plugin", path.display()))?;
    Ok(inspection.manifest)
}
