//! `salesman-host plugin`: which command was asked for. The work is the workshop's; the files below print.

mod abandon;
mod build;
mod grant;
mod hold;
mod inspect;
mod list;
mod new;
mod pack;
mod rollback;
mod run;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(super) enum PluginCommand {
    /// Start a plugin: a folder that builds and tests at once.
    New(new::Args),
    /// Build a plugin's crate, and check the file as the host would.
    Build(build::Args),
    /// Show what a plugin's file is, what it asks for, and what is wrong with it.
    Inspect(inspect::Args),
    /// Give a file that another tool built its manifest.
    Pack(pack::Args),
    /// Run one event through a plugin, in the real sandbox, without a server. Nothing is written anywhere.
    Run(run::Args),
    /// Show what a plugin asks for, and agree to it.
    Grant(grant::Args),
    /// Let an earlier version of a plugin serve again.
    Rollback(rollback::Args),
    /// Hold a plugin's deliveries back until it is resumed.
    Pause(hold::Args),
    /// Let a plugin's deliveries go on; ends the host's own pause after failures too.
    Resume(hold::Args),
    /// Show the plugins of a running host, and why others are not served.
    List(list::Args),
    /// A plugin is gone for good: keep no event for it any more, and give up what waits.
    Drop(abandon::Args),
}

pub(super) fn run(command: PluginCommand) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::New(args) => new::run(args),
        PluginCommand::Build(args) => build::run(args),
        PluginCommand::Inspect(args) => inspect::run(args),
        PluginCommand::Pack(args) => pack::run(args),
        PluginCommand::Run(args) => run::run(args),
        PluginCommand::Grant(args) => grant::run(args),
        PluginCommand::Rollback(args) => rollback::run(args),
        PluginCommand::Pause(args) => hold::run(&args, "pause"),
        PluginCommand::Resume(args) => hold::run(&args, "resume"),
        PluginCommand::List(args) => list::run(&args),
        PluginCommand::Drop(args) => abandon::run(&args),
    }
}

pub(super) fn name(text: &str) -> Result<crate::plugin::PluginName, String> {
    crate::plugin::PluginName::try_from(text.to_owned())
}
