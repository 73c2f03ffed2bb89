//! `restore`: a backup put in place, and the restored store looked at and let go on.
//!
//! - Files that are there and say something else stay, unless they are to be overwritten: an administrator may have changed
//!   them since.
//! - Names in a backup are names, never paths that lead elsewhere.
//!
//! Not here: the store (`journal`).

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::backup::RECORDS;
use super::remote::{At, Remote};
use super::table::{Table, list, printable, text, time};
use super::{spared, told};
use crate::app::{MARKS, OWN_FILES};
use crate::clock::Clock;
use crate::config::{Config, Source};
use crate::files::{self, Readers, private};
use crate::journal::{BackupError, Kept, Kind, Restoring, verified};
use crate::plugin::PluginName;

/// Bytes of a file that is compared with one in a backup.
const MOST_FILE: u64 = 256 << 20;
/// Deliveries that are shown one by one.
const SHOWN: usize = 50;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The backup to put in place; the host must not run.
    #[arg(value_name = "FILE", required_unless_present_any = ["status", "go_on"])]
    file: Option<PathBuf>,
    /// Move a store that is there aside.
    #[arg(long, requires = "file")]
    replace: bool,
    /// Put configuration, grants and plugins back, where they are missing, and leave the store alone: for root, where these are
    /// root's.
    #[arg(long, requires = "file", conflicts_with = "replace")]
    files: bool,
    /// Overwrite configuration, grants and plugins that differ from those in the backup.
    #[arg(long, requires = "file")]
    all: bool,
    /// Show what was open at the time of the copy, and whether the host waits.
    #[arg(long, conflicts_with_all = ["file", "go_on"])]
    status: bool,
    /// Let the restored host go on.
    #[arg(long, conflicts_with = "file")]
    go_on: bool,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long, conflicts_with = "file")]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.file {
        Some(file) => put_in_place(file, args),
        None if args.go_on => go_on(&args.at.remote()?, args.json),
        None => status(&args.at.remote()?, args.json),
    }
}

fn put_in_place(file: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    vouched(file)?;
    let source = spared(args.at.config.clone());
    bring_config(file, &source)?;
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    if args.files {
        return files_alone(file, args, &source, &config);
    }
    let data = &config.journal.data_dir;
    private::fit(data, &MARKS)
        .and_then(|()| private::close(data, &OWN_FILES))
        .context("the data folder can't be used")?;
    let restoring = Restoring::begin(file, data, args.replace, &Clock::Wall)?;
    let aside = restoring.aside().map(Path::to_owned);
    let mut left = Left::default();
    restoring.parts(|kept| left.put(kept, &source, &config, args.all, aside.as_deref()))?;
    let copied = restoring.copied.clone();
    let old = restoring.finish()?;
    let hours = Clock::Wall.now().saturating_sub(copied.copied_at) / 3_600_000;
    outln!(
        "Restored: {} event(s), {} open delivery(ies), as of {} ({hours} hour(s) ago). What came after that is not in it.",
        copied.events,
        copied.open,
        at(copied.copied_at)
    );
    left.tell();
    if let Some(old) = old {
        outln!(
            "The store that was there is in `{}`. It holds customers' data: remove it when it is no longer needed.",
            old.display()
        );
    }
    outln!(
        "Start the host now. It takes events in and runs nothing until you say so: `restore --status` shows what was open, `restore --go-on` lets it go on."
    );
    Ok(if left.not_written.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What root writes must not be decided by somebody else: a backup says what is configured, and what plugins may do.
fn vouched(file: &Path) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let whole = std::fs::canonicalize(file).with_context(|| format!("`{}` can't be read", file.display()))?;
    for path in whole.ancestors() {
        let metadata = std::fs::metadata(path).with_context(|| format!("`{}` can't be read", path.display()))?;
        // In a folder as `/tmp` is, nobody puts a file in another's place.
        let shared = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        ensure!(
            metadata.uid() == 0 && (metadata.mode() & 0o022 == 0 || shared),
            "`{}` can be changed by others than root, who would decide what root writes: once you know where `{}` comes from, copy it to a place of root's (`sudo install -m 600 {} /root/`), or run this as the host's user",
            path.display(),
            file.display(),
            file.display()
        );
    }
    Ok(())
}

/// Puts back what belongs to an administrator, whose folders the host's user may not write.
fn files_alone(file: &Path, args: &Args, source: &Source, config: &Config) -> anyhow::Result<ExitCode> {
    let mut left = Left::default();
    for kind in [Kind::Config, Kind::Grants, Kind::Plugin] {
        for kept in verified(file, kind)? {
            left.put(kept, source, config, args.all, None)?;
        }
    }
    left.tell();
    outln!("Configuration, grants and plugins are where they belong. The store is not touched.");
    Ok(if left.not_written.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// On a new machine the configuration is in the backup alone.
fn bring_config(file: &Path, source: &Source) -> anyhow::Result<()> {
    let config = source.file.as_ref().context(
        "nothing says where the data folder is: name the configuration file with `--config`; where it is not there yet, it is taken out of the backup",
    )?;
    if config.exists() {
        return Ok(());
    }
    let kept = verified(file, Kind::Config)?.pop().context("the backup holds no configuration: write one first")?;
    if let Some(folder) = config.parent() {
        files::make_folder(folder, Readers::Folder)?;
    }
    files::replace(config, &kept.contents, Readers::Group)
        .with_context(|| format!("`{}` can't be written", config.display()))?;
    outln!("The configuration was taken out of the backup: `{}`.", config.display());
    Ok(())
}

/// What was not put in place.
#[derive(Default)]
struct Left {
    different: Vec<PathBuf>,
    not_written: Vec<(PathBuf, String)>,
}

impl Left {
    fn tell(&self) {
        for (path, why) in &self.not_written {
            outln!("Not written: `{}`: {why}", path.display());
        }
        for path in &self.different {
            outln!("Left as it is, and other than in the backup: `{}`; `--all` overwrites such files.", path.display());
        }
    }

    /// Puts one file in its place.
    fn put(
        &mut self,
        kept: Kept,
        source: &Source,
        config: &Config,
        all: bool,
        aside: Option<&Path>,
    ) -> Result<(), BackupError> {
        let Some((path, readers)) = place_of(&kept, source, config) else { return Ok(()) };
        let own = matches!(kept.kind, Kind::Record | Kind::Version);
        let before = match files::read(&path, MOST_FILE) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                self.not_written.push((path, error.to_string()));
                return Ok(());
            }
        };
        if before.as_ref() == Some(&kept.contents) {
            return Ok(());
        }
        if before.is_some() && !own && !all {
            self.different.push(path);
            return Ok(());
        }
        let write = || -> std::io::Result<()> {
            if let (Kind::Record, Some(before), Some(aside)) = (kept.kind, before, aside) {
                files::replace(&aside.join(&kept.name), &before, Readers::Owner)?;
            }
            if let Some(folder) = path.parent() {
                files::make_folder(folder, readers)?;
            }
            files::replace(&path, &kept.contents, readers)?;
            // The newest version is known by it.
            let modified = UNIX_EPOCH + Duration::from_millis(u64::try_from(kept.modified).unwrap_or(0));
            std::fs::File::options().append(true).open(&path)?.set_modified(modified)
        };
        if let Err(error) = write() {
            self.not_written.push((path, error.to_string()));
        }
        Ok(())
    }
}

/// Where a file belongs; nowhere, where its name is none that `backup` gives.
fn place_of(kept: &Kept, source: &Source, config: &Config) -> Option<(PathBuf, Readers)> {
    let (registry, name) = (&config.registry, kept.name.as_str());
    let plain = |name: &str| {
        let is_one = Path::new(name).file_name().is_some_and(|own| own == name);
        is_one && Path::new(name).extension().is_some_and(|extension| extension == "wasm")
    };
    match kept.kind {
        Kind::Config => Some((source.file.clone()?, Readers::Group)),
        Kind::Grants => Some((registry.approvals.clone(), Readers::Folder)),
        Kind::Plugin if plain(name) => Some((registry.dir.join(name), Readers::Folder)),
        Kind::Record if RECORDS.contains(&name) => Some((registry.store.join(name), Readers::Owner)),
        Kind::Version => {
            let (plugin, file) = name.split_once('/')?;
            let plugin = PluginName::try_from(plugin.to_owned()).ok()?;
            plain(file).then(|| (registry.store.join("versions").join(plugin.as_str()).join(file), Readers::Owner))
        }
        Kind::Plugin | Kind::Record => None,
    }
}

fn status(remote: &Remote, json: bool) -> anyhow::Result<ExitCode> {
    let mut told = remote.get("restore")?;
    let deliveries = remote.list("restore/deliveries", &[], None, if json { usize::MAX } else { SHOWN })?;
    if json {
        if let Some(told) = told.as_object_mut() {
            told.insert("deliveries".to_owned(), deliveries.get("items").cloned().unwrap_or_default());
        }
        outln!("{told:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let restored = told.get("restored").cloned().unwrap_or_default();
    if restored.is_null() {
        outln!("The store was never restored from a backup.");
        return Ok(ExitCode::SUCCESS);
    }
    let [copied_at, restored_at] = ["copied_at", "restored_at"].map(|key| restored.get(key).and_then(Value::as_i64));
    let hours = restored_at.zip(copied_at).map_or(0, |(restored, copied)| restored.saturating_sub(copied) / 3_600_000);
    outln!("Copied   {} by version {}", time(&restored, "copied_at"), printable(&text(&restored, "version")));
    outln!("Restored {} ({hours} hour(s) later)", time(&restored, "restored_at"));
    if told.get("waits") == Some(&Value::Bool(true)) {
        outln!("Waits: events are taken in, and nothing runs until `restore --go-on`.");
    } else {
        outln!("Went on  {}, by {}", time(&restored, "released_at"), printable(&text(&restored, "released_by")));
    }
    outln!(
        "Events that came between the two are gone, but for those that the CRM's side still holds; what plugins did about them is in the CRM and in no record here."
    );
    outln!(
        "{} event(s) of the copy and {} that came since have not been given to plugins yet.\n",
        text(&restored, "unrouted"),
        text(&restored, "arrived")
    );
    let mut table = Table::new(&["plugin", "CRM", "waiting", "dead letters"]);
    for of in list(&restored, "open") {
        table.row(["plugin", "account", "waiting", "dead"].map(|key| text(of, key)));
    }
    table.print("No delivery that was open at the time of the copy is left.");
    let mut table = Table::new(&["delivery", "event", "record", "plugin", "CRM", "state"]);
    for delivery in list(&deliveries, "items") {
        table.row(["delivery", "name", "entity", "plugin", "account", "state"].map(|key| text(delivery, key)));
    }
    outln!(
        "\nWhat these write is looked for in the CRM first; where that can't be told, they become dead letters (`uncertain`):"
    );
    table.print("none");
    if deliveries.get("next").is_some_and(Value::is_string) {
        outln!("… and more: `--json` shows all.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever has something run is told where nothing runs.
pub(super) fn remind(remote: &Remote) {
    if remote.get("restore").is_ok_and(|told| told.get("waits") == Some(&Value::Bool(true))) {
        errln!("The store was restored from a backup and waits: nothing runs before `salesman-host restore --go-on`.");
    }
}

fn go_on(remote: &Remote, json: bool) -> anyhow::Result<ExitCode> {
    let done = remote.post("restore/go-on", &json!({}))?;
    ensure!(done.get("waits") == Some(&Value::Bool(false)), "the host still waits: look into its log");
    if json {
        outln!("{done:#}");
    } else {
        outln!("The host goes on. `dead list` shows what has to be looked at.");
    }
    Ok(ExitCode::SUCCESS)
}

fn at(milliseconds: i64) -> String {
    time(&json!({ "at": milliseconds }), "at")
}
