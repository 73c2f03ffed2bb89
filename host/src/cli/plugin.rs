//! `salesman-host plugin …`: dispatches.

mod build;
mod new;

use std::process::ExitCode;

#[derive(clap::Subcommand, Debug)]
pub(super) enum PluginCommand {
    /// Make a new plugin's folder.
    New(new::Args),
    /// Build the plugin in a folder.
    Build(build::Args),
}

impl PluginCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::New(args) => new::run(args),
            Self::Build(args) => build::run(args),
        }
    }
}
