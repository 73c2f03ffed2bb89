//! `plugin drop`: what waits for a plugin that is gone is given up.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::remote::At;
use crate::plugin::PluginName;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin; its file has to be removed first.
    #[arg(value_name = "NAME", value_parser = super::name)]
    name: PluginName,
    #[command(flatten)]
    at: At,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = args.at.remote()?.post("queues/drop", &json!({ "plugin": args.name }))?;
    let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or_default();
    outln!("{} waiting deliveries of `{}` were dropped.", number("changed"), args.name);
    if number("running") > 0 {
        outln!("{} are still under way: run the command again to drop those that fail.", number("running"));
    }
    Ok(ExitCode::SUCCESS)
}
