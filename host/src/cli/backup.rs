//! `backup`: the store with what belongs to it in one file, made by a process of its own while the host runs or stands.
//!
//! Not here: the copy itself (`journal`), and the way back (`restore`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::{asked_to_stop, spared, told};
use crate::app::check::files_in;
use crate::clock::Clock;
use crate::config::{Config, Source};
use crate::journal::{BackupWanted, Copied, Kind, Part, back_up};

/// What is recorded about versions, beside them.
pub(super) const RECORDS: [&str; 3] = ["homes.json", "live.json", "pins.json"];

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The file. It holds customers' data and the configuration's secrets, and is for its owner alone.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace an earlier backup of this name.
    #[arg(long)]
    replace: bool,
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = spared(args.config);
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let file = std::path::absolute(&args.file).context("the file's name can't be used")?;
    outside(&file, &config.journal.data_dir, "data folder, which would be lost with it")?;
    outside(&file, &config.registry.dir, "plugin folder, which others may read")?;
    // Others' work comes first.
    rustix::process::setpriority_process(None, 10).ok();
    let (parts, left_out) = parts(&source, &config);
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("failed to start the runtime")?;
    let (data_dir, least_free, replace) = (config.journal.data_dir, config.journal.least_free, args.replace);
    let to = file.clone();
    let copied = runtime.block_on(async {
        tokio::spawn(async move {
            if asked_to_stop().await.is_ok() {
                ended.store(true, Ordering::Relaxed);
            }
        });
        let copying = tokio::task::spawn_blocking(move || {
            let (data_dir, to, parts) = (&*data_dir, &*to, &*parts);
            let wanted = BackupWanted { data_dir, to, replace, parts, least_free, stop: &stop };
            back_up(&wanted, &Clock::Wall)
        });
        copying.await.context("the copy broke off")
    })??;
    let Copied { events, open, files, bytes, remarks, .. } = copied;
    outln!(
        "`{}`: {events} event(s), {open} open delivery(ies), {files} other file(s); {} MiB in {:.1} s.",
        file.display(),
        bytes.div_ceil(1 << 20),
        began.elapsed().as_secs_f64()
    );
    remarks.iter().for_each(|remark| outln!("{remark}."));
    left_out
        .iter()
        .for_each(|path| errln!("not in it, because its name is no text or it is no file: `{}`", path.display()));
    let secrets = source.files().unwrap_or_default();
    for path in secrets.iter().filter(|path| Some(*path) != source.file.as_ref()) {
        outln!("Not in it, because the configuration keeps a secret there: `{}`.", path.display());
    }
    outln!(
        "It holds customers' data and the configuration's secrets: keep it as you keep those. `restore` brings it back."
    );
    Ok(ExitCode::SUCCESS)
}

/// A copy beside what it is of helps nobody.
fn outside(file: &Path, folder: &Path, what: &str) -> anyhow::Result<()> {
    let above = file.parent().unwrap_or(Path::new("/"));
    let above = std::fs::canonicalize(above).with_context(|| format!("`{}` can't be written to", above.display()))?;
    let within = std::fs::canonicalize(folder).is_ok_and(|folder| above.starts_with(folder));
    ensure!(!within, "`{}` would be in the host's {what}: name a file elsewhere", file.display());
    Ok(())
}

/// What belongs to a store: the records before the versions that they name. And what can't be named.
fn parts(source: &Source, config: &Config) -> (Vec<Part>, Vec<PathBuf>) {
    let (mut parts, mut left_out) = (Vec::new(), Vec::new());
    let mut add = |kind: Kind, name: Option<String>, path: PathBuf| match name.filter(|_| path.is_file()) {
        Some(name) => parts.push(Part { kind, name, path }),
        None => left_out.push(path),
    };
    let registry = &config.registry;
    let there = |path: &PathBuf| path.exists();
    if let Some(file) = source.file.clone().filter(there) {
        add(Kind::Config, Some("host.toml".to_owned()), file);
    }
    if let Some(file) = Some(registry.approvals.clone()).filter(there) {
        add(Kind::Grants, Some("grants.toml".to_owned()), file);
    }
    for record in RECORDS.map(|name| (name, registry.store.join(name))) {
        if record.1.exists() {
            add(Kind::Record, Some(record.0.to_owned()), record.1);
        }
    }
    for file in files_in(&registry.dir) {
        add(Kind::Plugin, name_of(&file), file);
    }
    for folder in std::fs::read_dir(registry.store.join("versions")).into_iter().flatten().flatten() {
        let plugin = folder.file_name().into_string().ok();
        for file in files_in(&folder.path()) {
            let name = plugin.as_ref().zip(name_of(&file)).map(|(plugin, file)| format!("{plugin}/{file}"));
            add(Kind::Version, name, file);
        }
    }
    (parts, left_out)
}

fn name_of(file: &Path) -> Option<String> {
    file.file_name()?.to_str().map(str::to_owned)
}
