//! `salesman-host plugin …`: each command has a file of its own.

mod run;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(super) enum PluginCommand {
    /// Run one event through a plugin, in the real sandbox, without a server. Nothing is written anywhere.
    Run(run::Args),
}

impl PluginCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => run::run(args),
        }
    }
}
