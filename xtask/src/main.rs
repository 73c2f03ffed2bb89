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
        // Not optimised: numbers that overflow are found, too.
        [name @ ("demo" | "fuzz"), rest @ ..] => program(name, &[], &[], rest),
        ["faults", rest @ ..] => {
            let guests = plugins::build_guests(&root())?;
            program("faults", &[], &[OsStr::new("--guests"), guests.as_os_str()], rest)
        }
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
    deny()?;
    // Every program, the one that the tests start and kill among them; then the tests. Both are linted while they are built.
    cargo(&["build", "--workspace", "--bins"])?;
    cargo(&["test", "--workspace", "--no-run"])?;
    eprintln!("      the demo");
    start("demo", "debug", &samples, &[], &["--once"])?;
    cargo(&[&["test", "--workspace"], rest].concat())
}

/// Looks at what the dependencies are, where `cargo-deny` is installed. Licences, sources and bans need no network. The list
/// of known faults does: where it can't be had, that is no fault of the code, and is said.
fn deny() -> anyhow::Result<()> {
    let look = |offline: bool, checks: &[&str]| {
        let mut command = Command::new("cargo-deny");
        command.current_dir(root()).arg("--all-features");
        if offline {
            command.arg("--offline");
        }
        command.arg("check").args(checks).output()
    };
    match look(true, &["bans", "licenses", "sources"]) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("      cargo deny: not installed, skipped (`cargo install cargo-deny`)");
            return Ok(());
        }
        Ok(output) if output.status.success() => eprintln!("      cargo deny check bans licenses sources"),
        Ok(output) => bail!("`cargo deny check` found:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return Err(error).context("failed to run `cargo-deny`"),
    }
    let output = look(false, &["advisories"]).context("failed to run `cargo-deny`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        eprintln!("      cargo deny check advisories");
    } else if no_list(&said) {
        let why = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        eprintln!("      cargo deny check advisories: skipped, the list of known faults can't be had here: {why}");
    } else {
        bail!("`cargo deny check advisories` found:\n{said}");
    }
    Ok(())
}

/// Whether the list of known faults could not be had: what it found, it tells with codes of its own (`error[vulnerability]`).
fn no_list(said: &str) -> bool {
    let had =
        ["fetch", "open", "load"].iter().all(|verb| !said.contains(&format!("failed to {verb} advisory database")));
    !had && !said.contains("error[")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_cannot_be_had_is_told_from_what_it_says() {
        assert!(no_list("2026-11-26 [ERROR] failed to fetch advisory database https://github.com/rustsec/advisory-db"));
        assert!(no_list("[ERROR] failed to load advisory database: unable to open in offline mode"));
        assert!(!no_list("error[vulnerability]: a fault\n  = failed to fetch is what it is called"));
        assert!(!no_list("error[yanked]: detected yanked crate"));
    }
}
