//! `plugin build`: a folder to a plugin's file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::workshop::build::foreign;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin's folder.
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let language = foreign::recognise(&args.folder).context("no plugin is in the folder")?;
    println!("{}", foreign::build(&args.folder, language)?.display());
    Ok(ExitCode::SUCCESS)
}
