//! `plugin pack`: puts a manifest into a file that another tool built.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::inspect;
use crate::text;
use crate::workshop::{self, pack};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The component or module.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The plugin's `plugin.toml`.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// Where to write; by default the file itself is replaced.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("failed to read `{}`", args.file.display()))?;
    let manifest = text::read(&args.manifest, text::MOST)
        .with_context(|| format!("failed to read `{}`", args.manifest.display()))?;
    let packed = pack::pack(&bytes, &manifest).with_context(|| format!("`{}` is not packed", args.file.display()))?;
    let output = args.output.unwrap_or(args.file);
    workshop::write_whole(&output, &packed).with_context(|| format!("failed to write `{}`", output.display()))?;
    inspect::print(&workshop::inspect::inspect(&output)?);
    Ok(ExitCode::SUCCESS)
}
