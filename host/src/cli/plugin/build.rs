//! `plugin build`: shows what cargo says, then the plugin that came out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::inspect;
use crate::workshop::build::{self, Built, Options};
use crate::workshop::inspect::{Problem, report};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin's folder.
    #[arg(value_name = "PATH", default_value = ".")]
    path: PathBuf,
    /// Without optimisation: faster to build, larger and slower to run.
    #[arg(long)]
    debug: bool,
    /// The result as JSON on standard output.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = Options { debug: args.debug, colour: crate::cli::out::errors_to_terminal() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
    let built = runtime.block_on(async {
        tokio::select! {
            built = build::build(&args.path, &options, crate::cli::out::tools_line) => Ok(built),
            // Dropping the build ends cargo and its compilers.
            asked = crate::cli::asked_to_stop() => Err(asked.err().unwrap_or_else(|| anyhow::anyhow!("interrupted"))),
        }
    })?;
    match built {
        Ok(built) => shown(&built, args.json),
        Err(error) if args.json => {
            let problems: Vec<Problem> = match &error {
                build::Error::NotAPlugin { problems, .. } => problems.iter().map(Problem::from).collect(),
                _ => Vec::new(),
            };
            outln!("{:#}", json!({ "built": false, "error": error.to_string(), "problems": problems }));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

fn shown(built: &Built, as_json: bool) -> anyhow::Result<ExitCode> {
    if as_json {
        let mut result = json!({ "built": true });
        let report = serde_json::to_value(report(&built.file, &built.inspection))?;
        if let (Some(result), Value::Object(report)) = (result.as_object_mut(), report) {
            result.extend(report);
        }
        outln!("{result:#}");
    } else {
        inspect::print(&report(&from_here(&built.file), &built.inspection));
    }
    Ok(ExitCode::SUCCESS)
}

/// Cargo tells whole paths; below the current folder the rest is enough.
fn from_here(file: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    here.and_then(|here| file.strip_prefix(here).ok().map(Path::to_owned)).unwrap_or_else(|| file.to_owned())
}
