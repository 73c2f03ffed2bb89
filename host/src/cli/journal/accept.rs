//! `journal accept`: an administrator says that what lies in the data folder is meant, after the host refused to take it for the store
//! that the folder was used with. Shows what lies there first.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::confirm::agreed;
use crate::cli::{spared, table, told};
use crate::journal::{Accepting, Lying};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Accept {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the log of changes beside the store is: of the store that lies there now, or of the one before it.
    #[arg(long, value_name = "WHOSE")]
    log: Option<Log>,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Log {
    /// It belongs to the store that lies there: it is applied to it.
    Keep,
    /// It was another store's: it is put aside under another name.
    Aside,
}

pub(super) fn run(args: &Accept) -> anyhow::Result<ExitCode> {
    let config = match spared(args.config.clone()).read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let data = &config.journal.data_dir;
    anyhow::ensure!(
        data.is_dir(),
        "the data folder `{}` is not there: the host makes it at its first start",
        data.display()
    );
    let accepting = Accepting::new(data)?;
    let lying = accepting.look()?;
    let Some(strange) = lying.strange else {
        outln!("The host takes what lies in `{}`: nothing has to be accepted.", data.display());
        return Ok(ExitCode::SUCCESS);
    };
    errln!("In `{}`, {strange}.", data.display());
    let found = told_of(&lying);
    if lying.log > 0 && args.log.is_none() {
        found.iter().for_each(|line| errln!("  - {line}"));
        anyhow::bail!(
            "a log of changes lies beside the store, and SQLite would apply it to whatever store that is: say `--log aside` where only \
             the store's file was put there, or `--log keep` where the log came with it"
        );
    }
    if !agreed("What lies there would be the journal from now on:", &found, args.yes)? {
        return Ok(ExitCode::FAILURE);
    }
    let aside = accepting.accept(args.log != Some(Log::Aside))?;
    if let Some(aside) = aside {
        outln!("The log was put aside as `{}`.", aside.display());
    }
    outln!("Accepted: start the host.");
    Ok(ExitCode::SUCCESS)
}

fn told_of(lying: &Lying) -> Vec<String> {
    let store = match lying.store {
        Some((events, Some(last))) => {
            format!("{events} events, the last of {}", table::time(&json!({ "at": last }), "at"))
        }
        Some((events, None)) => format!("{events} events"),
        None => "no store that can be read: a new one is made where there is no file".to_owned(),
    };
    let log = (lying.log > 0).then(|| format!("a log of changes of {} bytes, not counted in this", lying.log));
    std::iter::once(store).chain(log).collect()
}
