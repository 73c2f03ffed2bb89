//! `journal check`: what is wrong with the journal and the kept plugins, what it means, and the way back.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::cli::{spared, told};
use crate::journal::{self, Fault};
use crate::registry::verify;
use crate::registry::versions::Versions;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long it may take; what is not looked at by then is said.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = match spared(args.config.clone()).read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let most = Duration::from_secs(u64::from(args.seconds));
    let until = Instant::now() + most;
    // The files first: they are few, and their time is small.
    let (faults, unread) = verify::verify(&Versions::new(&config.registry.store), until);
    let mut checked = journal::check(
        &config.journal.data_dir,
        until.saturating_duration_since(Instant::now()),
        config.journal.least_free,
    )?;
    checked.looked_at.push("kept plugins".to_owned());
    if unread > 0 {
        checked.left.push(format!("{unread} kept version(s) of plugins"));
    }
    let fault = |fault: verify::Fault| Fault {
        what: fault.what,
        meaning: fault.meaning.to_owned(),
        remedy: fault.remedy.to_owned(),
    };
    checked.findings.extend(faults.into_iter().map(fault));
    let good = checked.findings.is_empty();
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&checked)?);
    } else {
        for Fault { what, meaning, remedy } in &checked.findings {
            outln!("WRONG  {what}\n       {meaning}\n       {remedy}");
        }
        outln!("looked at: {}", checked.looked_at.join(", "));
        if !checked.left.is_empty() {
            outln!(
                "not looked at, for want of time or of room on the disk: {}; `--seconds` gives more time",
                checked.left.join(", ")
            );
        }
        if good {
            outln!("nothing wrong was found");
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
