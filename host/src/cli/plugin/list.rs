//! `plugin list`: the plugins of a running host, and what keeps files from being served.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::remote::At;
use crate::cli::table::{Table, list, printable, text};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    let (plugins, notices) = (remote.get("plugins")?, remote.get("notices")?);
    if args.json {
        outln!("{:#}", serde_json::json!({ "plugins": plugins, "notices": notices }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["plugin", "version", "hash", "state", "open", "dead", "not granted"]);
    for plugin in plugins.as_array().into_iter().flatten() {
        let hash = text(plugin, "hash");
        let sum = |key: &str| list(plugin, "hour").filter_map(|hour| hour.get(key)?.as_i64()).sum::<i64>().to_string();
        let missing: Vec<&str> = list(plugin, "not_granted").filter_map(Value::as_str).collect();
        let hash = hash.get(..12).unwrap_or(&hash).to_owned();
        table.row([
            text(plugin, "name"),
            text(plugin, "version"),
            hash,
            state(plugin),
            sum("open"),
            sum("dead"),
            missing.join(", "),
        ]);
    }
    table.print("No plugin is loaded.");
    for notice in notices.as_array().into_iter().flatten() {
        outln!("! {} ({})", printable(&text(notice, "message")), text(notice, "code"));
    }
    Ok(ExitCode::SUCCESS)
}

/// One word for all its queues: the one that is not as it should be.
fn state(plugin: &Value) -> String {
    let is = |key: &str| plugin.get(key) == Some(&Value::Bool(true));
    if is("compiling") {
        return "compiling".to_owned();
    }
    if is("waits_for_approval") {
        return "waits for approval".to_owned();
    }
    if is("missing") {
        return "missing".to_owned();
    }
    if plugin.get("version").is_none() {
        return "not served".to_owned();
    }
    let modes = list(plugin, "queues").map(|queue| text(queue, "mode"));
    modes.max_by_key(|mode| mode != "flowing").unwrap_or_else(|| "flowing".to_owned())
}
