//! `plugin drop`: what waits for a plugin that is gone is given up.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::list::base;
use crate::cli::remote::Remote;
use crate::cli::told;
use crate::plugin::PluginName;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin; its file has to be removed first.
    #[arg(value_name = "NAME", value_parser = super::name)]
    name: PluginName,
    /// The running host's address; `server.listen` of the configuration by default.
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let base = match base(args.host, args.config) {
        Ok(base) => base,
        Err(problems) => return Ok(told(&problems)),
    };
    let answer = Remote::new(&base)?.post("queues/drop", &json!({ "plugin": args.name }))?;
    let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or_default();
    println!("{} waiting deliveries of `{}` were dropped.", number("changed"), args.name);
    if number("running") > 0 {
        println!("{} are still under way: run the command again to drop those that fail.", number("running"));
    }
    Ok(ExitCode::SUCCESS)
}
