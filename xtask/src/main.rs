//! `cargo xtask`: the developers' commands.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use xtask::{USAGE, browser, php, plugins, proxy, root, wasm_target};

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
        ["nginx"] => {
            println!("{}", proxy::ensure(&root(), proxy::Kind::Nginx)?.describe());
            Ok(())
        }
        ["apache"] => {
            println!("{}", proxy::ensure(&root(), proxy::Kind::Apache)?.describe());
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
    start(name, if profile.is_empty() { "debug" } else { "release" }, &folder, own, rest)
}

/// Runs a program that is built.
fn start(name: &str, profile: &str, plugins: &Path, own: &[&OsStr], rest: &[&str]) -> anyhow::Result<()> {
    let built = root().join("target").join(profile).join(name);
    let status = Command::new(built).arg("--plugins").arg(plugins).args(own).args(rest).status();
    if !status.with_context(|| format!("failed to start the {name}"))?.success() {
        bail!("the {name} did not end well: what it printed says why");
    }
    Ok(())
}

fn test(rest: &[&str]) -> anyhow::Result<()> {
    // Before cargo takes its lock: the tests need them, and the first time takes a minute.
    let samples = plugins::build_samples(&root())?;
    plugins::build_guests(&root())?;
    cargo(&["fmt", "--all", "--check"])?;
    // Every program, the one that the tests start and kill among them; then the tests. Both are linted while they are built.
    cargo(&["build", "--workspace", "--bins"])?;
    cargo(&["test", "--workspace", "--no-run"])?;
    eprintln!("      the demo");
    start("demo", "debug", &samples, &[], &["--once"])?;
    cargo(&[&["test", "--workspace"], rest].concat())
}

/// Runs cargo with clippy as the compiler of the workspace's own code: lints that are denied fail the build, and what the
/// code depends on is compiled once, where `cargo clippy` would want all of it a second time in a form of its own.
fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    eprintln!("      cargo {}", arguments.join(" "));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .current_dir(root())
        // Not by the environment: the tests run cargo on crates of their own.
        .args(["--config", "build.rustc-workspace-wrapper = 'clippy-driver'"])
        .args(arguments)
        // In the form in which `cargo clippy` hands its own arguments on.
        .env("CLIPPY_ARGS", "--deny__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__")
        .status();
    if !status.context("failed to run cargo")?.success() {
        bail!("`cargo {}` failed", arguments.join(" "));
    }
    Ok(())
}
