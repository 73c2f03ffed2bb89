//! `cargo xtask`: the developers' commands.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use xtask::{browser, php, plugins, root, wasm_target};

const USAGE: &str = "\
cargo xtask COMMAND

  demo [--once]    show the whole path of an event: CRM stand-in, host, four plugins
                   (--once: end after checking every effect)
  test             format, lints and every test
  bench            measure, and print the figures as JSON
                   (--only NAME, --seconds N, --backlog N)
  crash --rounds N kill the host N times under load, and look whether anything acknowledged is lost
  soak --minutes N steady load; memory, file handles and latency at the start and at the end
  wasm-target      make wasm32-wasip1 usable on this machine
  php              find a PHP for the tests, or unpack one into target/php
                   (XTASK_PHP=private: don't take the one on the path)
  browser          find a Chromium for the tests, or unpack one into target/chromium
                   (XTASK_BROWSER=private: don't take the one on the path)
  plugins          build the sample plugins into target/plugins
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> anyhow::Result<()> {
    match arguments {
        ["demo", rest @ ..] => program("demo", &[], &[], rest),
        [name @ ("bench" | "crash" | "soak"), rest @ ..] => {
            // Their no-op is one of the hostile plugin's sins: none.
            let guests = plugins::build_guests(&root())?;
            program(name, &["--release"], &[OsStr::new("--guests"), guests.as_os_str()], rest)
        }
        ["test", rest @ ..] => test(rest),
        ["wasm-target"] => {
            println!("{}", wasm_target::ensure(&root())?.describe());
            Ok(())
        }
        ["php"] => {
            println!("{}", php::ensure(&root())?.describe());
            Ok(())
        }
        ["browser"] => {
            println!("{}", browser::ensure(&root())?.describe());
            Ok(())
        }
        ["plugins"] => {
            println!("{}", plugins::build_samples(&root())?.display());
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            bail!("this is not a command of it")
        }
    }
}

/// Builds the host and one of the integration tests' programs, then runs it with the plugins' folder.
fn program(name: &str, profile: &[&str], own: &[&OsStr], rest: &[&str]) -> anyhow::Result<()> {
    eprintln!("[1/3] the plugins");
    let folder = plugins::build_samples(&root())?;
    eprintln!("[2/3] the host (the first time takes some minutes: the WebAssembly engine is compiled)");
    // The whole workspace, so that its features are those of the tests and nothing is compiled twice.
    let build = ["build", "--workspace", "--bin", "salesman-host", "--bin", name];
    cargo(&[&build[..], profile].concat())?;
    eprintln!("[3/3] {name}");
    let built = root().join("target").join(if profile.is_empty() { "debug" } else { "release" });
    let status = Command::new(built.join(name)).arg("--plugins").arg(folder).args(own).args(rest).status();
    if !status.with_context(|| format!("failed to start the {name}"))?.success() {
        bail!("the {name} did not end well: what it printed says why");
    }
    Ok(())
}

fn test(rest: &[&str]) -> anyhow::Result<()> {
    // Before cargo takes its lock: the tests need them, and the first time takes a minute.
    plugins::build_samples(&root())?;
    plugins::build_guests(&root())?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    // The program that the tests start and kill.
    cargo(&["build", "--workspace", "--bin", "salesman-host"])?;
    cargo(&[&["test", "--workspace"], rest].concat())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("      cargo {}", arguments.join(" "));
    let status =
        Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into())).current_dir(root()).args(arguments).status();
    if !status.context("failed to run cargo")?.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(())
}
