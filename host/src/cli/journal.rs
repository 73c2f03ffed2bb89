//! `journal …`: the store as a file.

mod accept;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(super) enum JournalCommand {
    /// Say that the store which lies in the data folder is meant, where the host refuses it. The host must not run.
    Accept(accept::Accept),
}

pub(super) fn run(command: &JournalCommand) -> anyhow::Result<ExitCode> {
    match command {
        JournalCommand::Accept(args) => accept::run(args),
    }
}
