//! `salesman-host`: parses the command line, runs it, maps errors to an exit code.

use std::process::ExitCode;

use clap::Parser;
use salesman_host::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run().unwrap_or_else(|error| {
        eprintln!("failed: {error:#}");
        ExitCode::FAILURE
    })
}
