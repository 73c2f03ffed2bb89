//! `salesman-host journal`: which command was asked for. The work is the journal's; the files below print.

mod accept;
mod check;
mod compact;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(super) enum JournalCommand {
    /// Look whether the journal and the kept plugins are sound; a host may run meanwhile. Nothing is changed.
    Check(check::Args),
    /// Give the journal's unused room back, and build its indexes anew. The host must be stopped.
    Compact(compact::Args),
    /// Say that the store which lies in the data folder is meant, where the host refuses it. The host must not run.
    Accept(accept::Accept),
}

pub(super) fn run(command: &JournalCommand) -> anyhow::Result<ExitCode> {
    match command {
        JournalCommand::Check(args) => check::run(args),
        JournalCommand::Compact(args) => compact::run(args),
        JournalCommand::Accept(args) => accept::run(args),
    }
}
