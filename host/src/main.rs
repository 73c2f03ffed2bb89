//! `salesman-host`: the command line does the rest, exit code included.

use std::process::ExitCode;

fn main() -> ExitCode {
    salesman_host::cli::Cli::main()
}
