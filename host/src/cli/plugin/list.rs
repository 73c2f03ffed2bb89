//! `plugin list`: the plugins of a running host, and what keeps files from being served.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::remote::Remote;
use crate::cli::{source, told};
use crate::config::Problems;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The running host's address; `server.listen` of the configuration by default.
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let base = match base(args.host, args.config) {
        Ok(base) => base,
        Err(problems) => return Ok(told(&problems)),
    };
    let remote = Remote::new(&base)?;
    let (plugins, notices) = (remote.get("plugins")?, remote.get("notices")?);
    if args.json {
        println!("{:#}", serde_json::json!({ "plugins": plugins, "notices": notices }));
        return Ok(ExitCode::SUCCESS);
    }
    for plugin in plugins.as_array().into_iter().flatten() {
        let hash = text(plugin, "hash");
        println!("{}  {}  {}", text(plugin, "name"), text(plugin, "version"), hash.get(..12).unwrap_or(hash));
        for missing in plugin.get("not_granted").and_then(Value::as_array).into_iter().flatten() {
            println!("  not granted: {}", missing.as_str().unwrap_or_default());
        }
    }
    for notice in notices.as_array().into_iter().flatten() {
        println!("! {} ({})", text(notice, "message"), text(notice, "code"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the running host is.
pub(super) fn base(host: Option<String>, config: Option<PathBuf>) -> Result<String, Problems> {
    match host {
        Some(host) => Ok(host),
        None => Ok(format!("http://{}", source(config, false).read()?.listen)),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
