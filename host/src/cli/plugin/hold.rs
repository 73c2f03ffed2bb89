//! `plugin pause` and `plugin resume`: whether a plugin's deliveries run, as an operator says.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::remote::At;
use crate::plugin::PluginName;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin.
    #[arg(value_name = "NAME", value_parser = super::name)]
    name: PluginName,
    #[command(flatten)]
    at: At,
}

pub(in crate::cli) fn run(args: &Args, word: &str) -> anyhow::Result<ExitCode> {
    args.at.remote()?.post(&format!("plugins/{}/{word}", args.name), &json!({}))?;
    match word {
        "pause" => outln!("`{}` is paused: its deliveries wait, across restarts too.", args.name),
        _ => outln!("`{}` goes on.", args.name),
    }
    Ok(ExitCode::SUCCESS)
}
