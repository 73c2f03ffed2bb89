//! `plugin drop`: a plugin is gone for good; no event is kept for it any more, and what waits is given up.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::confirm::agreed;
use crate::cli::remote::At;
use crate::cli::table::{list, text};
use crate::plugin::PluginName;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin; its file has to be removed first.
    #[arg(value_name = "NAME", value_parser = super::name)]
    name: PluginName,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: At,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    if !args.yes {
        let plugins = remote.get("plugins")?;
        let its = plugins.as_array().into_iter().flatten().filter(|plugin| text(plugin, "name") == args.name.as_str());
        let queues: Vec<(String, u64)> = its
            .flat_map(|plugin| list(plugin, "hour"))
            .map(|queue| (text(queue, "account"), queue.get("open").and_then(Value::as_u64).unwrap_or_default()))
            .collect();
        // A plugin that serves is refused by the host.
        let serves = |plugin: &&Value| text(plugin, "name") == args.name.as_str() && plugin.get("version").is_some();
        let serves = plugins.as_array().is_some_and(|plugins| plugins.iter().any(|plugin| serves(&plugin)));
        let open: u64 = queues.iter().map(|(_, open)| open).sum();
        let what = format!("{open} waiting deliveries of `{}` would be given up:", args.name);
        let lines: Vec<String> =
            queues.iter().map(|(account, open)| format!("{open} of the CRM `{account}`")).collect();
        if !serves && open > 1 && !agreed(&what, &lines, false)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let answer = remote.post("queues/drop", &json!({ "plugin": args.name }))?;
    let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or_default();
    outln!("{} waiting deliveries of `{}` were dropped; no more are kept for it.", number("changed"), args.name);
    if number("running") > 0 {
        outln!("{} are still under way: run the command again to drop those that fail.", number("running"));
    }
    Ok(ExitCode::SUCCESS)
}
