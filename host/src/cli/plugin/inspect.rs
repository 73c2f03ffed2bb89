//! `plugin inspect`: what a file is, for people and for scripts. Exit code 1 where the host would not load it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::table::printable;
use crate::plugin::LimitsPatch;
use crate::workshop::inspect::{self, Plugin, Problem, Report};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = inspect::inspect(&args.file)?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
        problems(&report.problems);
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report, without what is wrong.
pub(super) fn print(report: &Report) {
    if let Some(plugin) = &report.plugin {
        outln!("{} {}", plugin.name, plugin.version);
        line("does", [plugin.description.as_str()]);
    }
    line("file", [report.file.display().to_string()]);
    let kind = report.kind.map(|kind| format!(", {kind}")).unwrap_or_default();
    line("size", [format!("{}{kind}", size(report.size))]);
    line("sha-256", &report.sha256);
    line("contract", &report.api_version);
    if let Some(plugin) = &report.plugin {
        print_plugin(plugin);
    }
    line("imports", &report.imports);
}

fn print_plugin(plugin: &Plugin) {
    let events = plugin.events.iter().map(|event| {
        let remark = if event.known { "" } else { " (not in the catalogue of the CRM's events)" };
        format!("{}{remark}", event.pattern)
    });
    line("events", events);
    match plugin.permissions_in_words.as_slice() {
        [] => line("asks to", ["(nothing)"]),
        words => line("asks to", words),
    }
    line("limits", limits(&plugin.limits));
    line("settings", [plugin.settings.join(", ")]);
}

/// One row: the label once, each value on a line of its own.
fn line(label: &str, values: impl IntoIterator<Item = impl AsRef<str>>) {
    let mut label = label;
    for value in values {
        if !value.as_ref().is_empty() {
            outln!("  {label:<9} {}", printable(value.as_ref()));
            label = "";
        }
    }
}

fn limits(patch: &LimitsPatch) -> Vec<String> {
    let own: Vec<String> = patch.set().map(|(kind, limit)| format!("{} = {limit}", kind.key)).collect();
    if own.is_empty() { vec!["the host's defaults".to_owned()] } else { own }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// What is wrong, each with its code and what to do.
fn problems(problems: &[Problem]) {
    for problem in problems {
        errln!("problem: {} ({})\n  hint: {}", problem.message, problem.code, problem.remedy);
    }
}
