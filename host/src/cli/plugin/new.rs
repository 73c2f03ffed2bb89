//! `plugin new`: starts a plugin, and tells how to go on.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::plugin::{Pattern, PluginName};
use crate::workshop::scaffold::{self, Language, Sdk, Wanted};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The plugin's name: lower-case letters, digits and `-`.
    #[arg(value_name = "NAME", value_parser = super::name)]
    name: PluginName,
    /// An event that it wants: a name, a family (`client.*`) or `*`. May be repeated.
    #[arg(long = "on", value_name = "EVENT", value_parser = pattern, default_value = "deal.change.step")]
    events: Vec<Pattern>,
    /// The new folder; by default one of the plugin's name, here.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// The language.
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// Take the SDK from this folder, instead of a copy inside the new one.
    #[arg(long, value_name = "PATH", conflicts_with = "sdk_version")]
    sdk_path: Option<PathBuf>,
    /// Take this version of the SDK from the registry, instead of a copy inside the new folder.
    #[arg(long, value_name = "VERSION")]
    sdk_version: Option<String>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::try_from(text.to_owned())
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = args.dir.unwrap_or_else(|| PathBuf::from(args.name.as_str()));
    let sdk = match (args.sdk_path, args.sdk_version) {
        (Some(path), _) => Sdk::Path(path),
        (None, Some(version)) => Sdk::Version(version),
        (None, None) => Sdk::Copy,
    };
    let wanted = Wanted { name: args.name, events: args.events, folder, language: args.lang, sdk };
    let done = scaffold::scaffold(&wanted)?;
    for warning in &done.warnings {
        errln!("warning: {warning}");
    }
    let folder = wanted.folder.display();
    outln!("`{}` is in `{folder}`. Next:\n", wanted.name);
    outln!("    cd {folder}");
    for command in done.next {
        outln!("    {command}");
    }
    Ok(ExitCode::SUCCESS)
}
