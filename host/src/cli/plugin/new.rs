//! `plugin new`: a folder to start from.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::workshop::scaffold::{Language, files};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The folder, named as the plugin.
    folder: PathBuf,
    /// The language.
    #[arg(long, value_parser = ["js", "python"])]
    lang: String,
}

pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let language = if args.lang == "js" { Language::Js } else { Language::Python };
    let name = args.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (path, text) in files(language, &name, &["client.add".to_owned()]) {
        let path = args.folder.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(ExitCode::SUCCESS)
}
