//! `plugin rollback`: an earlier version serves again, until the plugin's file changes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use anyhow::Context;

use crate::cli::remote::note;
use crate::cli::{spared, told};
use crate::plugin::PluginName;
use crate::registry::versions::{Version, Versions};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin.
    #[arg(value_name = "NAME", value_parser = super::name)]
    name: PluginName,
    /// The version, by the start of its hash; the one before the one that serves by default.
    #[arg(long, value_name = "HASH", conflicts_with_all = ["newest", "list"])]
    to: Option<String>,
    /// Serve the version in the plugin folder again.
    #[arg(long, conflicts_with = "list")]
    newest: bool,
    /// Show the versions that are kept.
    #[arg(long)]
    list: bool,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = spared(args.config);
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let versions = Versions::new(&config.registry.store);
    let name = &args.name;
    versions.known(name).map_err(anyhow::Error::msg)?;
    let kept = versions.list(name);
    let serving = versions.serving().context("what serves can't be read")?.remove(name);
    let current = serving.as_ref().map(|serving| serving.hash.as_str());
    if args.list {
        for version in &kept {
            let mark = if current == Some(version.hash.as_str()) { "  serves" } else { "" };
            outln!("{}  {}  {} bytes{mark}", short(&version.hash), kept_at(version), version.size);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let pin =
        if args.newest { None } else { Some(versions.earlier(name, args.to.as_deref()).map_err(anyhow::Error::msg)?) };
    let wanted = pin.as_ref().map_or("newest", |pin| short(&pin.hash)).to_owned();
    note(&source, "plugin.rollback", name.as_str(), &wanted)?;
    let newest = pin.is_none();
    if let Err(error) = versions.pin(name, pin) {
        // The log must not end with what did not happen; the command fails anyway.
        drop(note(&source, "plugin.rollback", name.as_str(), &format!("{wanted}: not done, {error}")));
        return Err(error).context("the choice can't be recorded");
    }
    if newest {
        outln!("`{name}` runs on the version in the plugin folder.");
    } else {
        outln!("`{name}` runs on {wanted} until its file changes. A running host takes it up by itself.");
    }
    Ok(ExitCode::SUCCESS)
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn kept_at(version: &Version) -> String {
    let since = version.kept_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = i64::try_from(since.as_secs()).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}
