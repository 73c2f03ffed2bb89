//! `journal compact`: room given back, indexes built anew.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

use crate::cli::{spared, told};
use crate::journal::{self, NotCompacted};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(in crate::cli) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = match spared(args.config.clone()).read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let folder = &config.journal.data_dir;
    let mut before = 0;
    let compacted = journal::compact(folder, |plan| {
        before = plan.before;
        let free = plan.free.map_or_else(|| "an unknown number of".to_owned(), |free| (free >> 20).to_string());
        outln!(
            "the journal has {}, of which {} hold nothing; up to {} are needed beside it for a while, {free} MiB are free",
            size(plan.before),
            size(plan.spare),
            size(plan.needed)
        );
    });
    match compacted {
        Ok(after) => {
            outln!("compacted: {} before, {} now; every index is built anew", size(before), size(after));
            Ok(ExitCode::SUCCESS)
        }
        Err(NotCompacted::Journal(error @ journal::Error::InUse(_))) => match holder(&folder.join("host.lock")) {
            Some(process) => bail!("{error} (it is process {process})"),
            None => bail!("{error}"),
        },
        Err(error) => Err(error.into()),
    }
}

fn size(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, (bytes % (1 << 20) * 10) >> 20)
}

/// The process that holds a lock on a file, where the system tells.
fn holder(file: &Path) -> Option<u32> {
    let inode = format!(":{}", std::fs::metadata(file).ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 4711 08:01:131 0 EOF
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(5).filter(|place| place.ends_with(&inode))?;
        words.get(4)?.parse().ok()
    })
}
