//! `doctor`: everything that a host needs, looked at from outside: what is wrong, and what to do.
//!
//! Nothing is changed. The CRM is asked a few reads.

mod rights;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::Serialize;

use super::operate::shown;
use super::source;
use crate::app::check;
use crate::clock::Clock;
use crate::config::{Config, Secrets, Source};
use crate::crm;
use crate::files::medium::{self, Medium};
use crate::journal;
use crate::plugin::Grants;
use crate::sandbox;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Remark,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    words: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: &'static str, state: State, words: impl Into<String>) {
        self.0.push(Finding { what, state, words: words.into() });
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let source = Source { secrets: Secrets::Told, ..source(args.config.clone(), false) };
    match source.read() {
        Err(problems) => {
            for problem in problems.0 {
                findings.add("configuration", State::Bad, problem);
            }
        }
        Ok(config) => {
            findings.add("configuration", State::Good, format!("{} can be read", shown(source.file.as_ref())));
            for problem in check::problems(&config) {
                // What `plugins` and `data folder` say in more detail.
                if !problem.starts_with("the plugin folder") && !problem.starts_with("the data folder") {
                    findings.add("configuration", State::Bad, problem);
                }
            }
            secrets(&mut findings, &config);
            let unknown = check::unknown_plugins(&config.registry, &check::plugins_in(&config.registry.dir));
            let said = |remark: &&String| !config.unread.keys().any(|key| remark.contains(&format!("`{key}`")));
            for remark in config.remarks.iter().filter(said).cloned().chain(unknown) {
                findings.add("configuration", State::Remark, remark);
            }
            rights::configuration(&mut findings, source.file.as_deref(), &config);
            rights::plugins(&mut findings, &config);
            folders(&mut findings, &config);
            rights::unit(&mut findings);
            plugins(&mut findings, &config);
            target(&mut findings);
            running(&mut findings, &config);
            crms(&mut findings, &config)?;
            time(&mut findings);
        }
    }
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&findings.0)?);
    } else {
        for Finding { what, state, words } in &findings.0 {
            let mark = match state {
                State::Good => "good  ",
                State::Remark => "remark",
                State::Bad => "BAD   ",
            };
            outln!("{mark}  {what:<13}  {words}");
        }
    }
    let bad = findings.0.iter().any(|finding| finding.state == State::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The secrets that this shell or this user can't read, and what to do about it.
fn secrets(findings: &mut Findings, config: &Config) {
    for why in config.unread.values() {
        let words = format!(
            "{why}: put it into a file beside the configuration and write `{{ file = \"…\" }}`, and run this as the host's user; \
             or give this shell the service's variables: `set -a; . /etc/salesman-host/secrets.env; set +a`"
        );
        findings.add("secrets", State::Remark, words);
    }
}

fn folders(findings: &mut Findings, config: &Config) {
    let data = &config.journal.data_dir;
    match std::fs::metadata(data) {
        Err(_) => findings.add(
            "data folder",
            State::Remark,
            format!("`{}` is not there yet: the host makes it at its first start, if it may", data.display()),
        ),
        Ok(metadata) if !metadata.is_dir() => {
            findings.add(
                "data folder",
                State::Bad,
                format!("`{}` is no folder: set `server.data_dir`", data.display()),
            );
        }
        Ok(metadata) => rights::data_folder(findings, data, metadata.uid()),
    }
    match medium::of(data) {
        Medium::Local => {}
        // In full, as `serve` says it.
        Medium::Network(_) => {
            check::data_folder(data).into_iter().for_each(|problem| findings.add("data folder", State::Bad, problem));
        }
        Medium::Unclear(_) => {
            check::medium(data).into_iter().for_each(|words| findings.add("data folder", State::Remark, words));
        }
    }
    let nearest = data.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if let Ok(disk) = rustix::fs::statvfs(nearest) {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize) >> 20;
        let least = config.journal.least_free >> 20;
        let (state, words) = if free < least {
            (
                State::Bad,
                format!("{free} MiB are free, `server.min_free_mib` wants {least}: new events are refused; make room"),
            )
        } else if free < config.retention.size >> 20 {
            let most = config.retention.size >> 20;
            (
                State::Remark,
                format!(
                    "{free} MiB are free, and the journal may grow to `retention.max_mib`, {most} MiB: make room or lower it"
                ),
            )
        } else {
            (State::Good, format!("{free} MiB are free"))
        };
        findings.add("disk", state, words);
    }
}

fn plugins(findings: &mut Findings, config: &Config) {
    let dir = &config.registry.dir;
    let Ok(entries) = std::fs::read_dir(dir) else {
        let words = format!("`{}` can't be read: make it, or set `plugins.dir`", dir.display());
        return findings.add("plugins", State::Bad, words);
    };
    let (mut good, mut files) = (0, BTreeMap::new());
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let manifest = sandbox::read_file(&path).map_err(|error| error.to_string()).and_then(|bytes| {
            let inspection = sandbox::inspect(&bytes).map_err(|error| error.to_string())?;
            inspection.manifest.ok_or_else(|| "it has no manifest".to_owned())
        });
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(words) => {
                findings.add("plugins", State::Bad, format!("`{}`: {words}", path.display()));
                continue;
            }
        };
        let name = manifest.name.clone();
        if let Some(twin) = files.insert(name.clone(), path.clone()) {
            let words = format!(
                "`{}` and `{}` both hold the plugin `{name}`: remove the one that you don't mean",
                twin.display(),
                path.display()
            );
            findings.add("plugins", State::Bad, words);
        }
        let own = config.registry.plugins.get(&name).and_then(|own| own.grants.clone()).unwrap_or_default();
        let given = match config.registry.approved.get(&name) {
            Some(approved) => own.and(approved),
            None => own,
        };
        let missing = Grants::new(name.clone(), config.registry.asks(&manifest), given, []).missing();
        if missing.is_empty() {
            good += 1;
        } else {
            let words =
                format!("`{name}` asks for more than is granted ({}): `plugin grant {name}`", missing.join(", "));
            findings.add("grants", State::Remark, words);
        }
    }
    findings.add("plugins", State::Good, format!("{good} in `{}` with all grants", dir.display()));
}

/// Only authors need it.
fn target(findings: &mut Findings) {
    let asked = Command::new("rustc").args(["--print", "target-libdir", "--target", "wasm32-wasip1"]).output();
    let Ok(answer) = asked else {
        return findings.add("target", State::Good, "no Rust here: plugins are built elsewhere");
    };
    let folder = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
    if answer.status.success() && Path::new(&folder).is_dir() {
        findings.add("target", State::Good, "plugins can be built here (wasm32-wasip1)");
    } else {
        findings.add("target", State::Remark, "plugins can't be built here: `rustup target add wasm32-wasip1`");
    }
}

/// Whether a host runs on this configuration, and what it says.
fn running(findings: &mut Findings, config: &Config) {
    let lock = config.journal.data_dir.join("host.lock");
    let held = std::fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_err());
    if !held {
        if let Err(error) = journal::examine(&config.journal.data_dir) {
            findings.add("journal", State::Bad, error.to_string());
        }
        return match std::net::TcpListener::bind(&config.listen) {
            Ok(_) => findings.add("host", State::Remark, "no host runs on this data folder: `salesman-host serve`"),
            Err(error) => findings.add(
                "host",
                State::Bad,
                format!(
                    "no host runs on this data folder, and `{}` can't be listened on ({error}): set `server.listen`",
                    config.listen
                ),
            ),
        };
    }
    match super::remote::readiness(&config.listen) {
        Ok((true, remarks)) => {
            findings.add("host", State::Good, "it runs and takes events");
            remarks.into_iter().for_each(|remark| findings.add("host", State::Remark, remark));
        }
        Ok((false, reasons)) => reasons.into_iter().for_each(|reason| findings.add("host", State::Bad, reason)),
        Err(error) => findings.add("host", State::Bad, format!("it runs and does not answer: {error:#}")),
    }
}

fn crms(findings: &mut Findings, config: &Config) -> anyhow::Result<()> {
    for account in config.ingress.accounts.keys() {
        if let Some(why) = config.unread_of(&format!("crm.{account}.api_key")) {
            let words =
                format!("{account} was not looked at, {why}; `salesman-host crm check` has the running host look");
            findings.add("crm", State::Remark, words);
        }
    }
    if config.crm.is_empty() && config.unread.is_empty() {
        findings.add("crm", State::Remark, "no `[crm.NAME]` has a `url`: events come in, and plugins can't call");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (account, options) in &config.crm {
        let client = crm::Client::new(options.clone())?;
        let checkup = runtime.block_on(client.check(Clock::Wall.now()));
        for problem in &checkup.problems {
            findings.add("crm", State::Bad, format!("{account}: {problem}"));
        }
        if checkup.problems.is_empty() {
            let user = checkup.user.map(|user| user.to_string()).unwrap_or_default();
            findings.add("crm", State::Good, format!("{account} answers in {} ms, as user {user}", checkup.took_ms));
        }
    }
    Ok(())
}

fn time(findings: &mut Findings) {
    let asked = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    match asked.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned()).as_deref() {
        Ok("yes") => findings.add("time", State::Good, "the clock is kept by NTP"),
        Ok("no") => findings.add("time", State::Remark, "the clock is not kept by NTP: `timedatectl set-ntp true`"),
        _ => findings.add("time", State::Remark, "whether the clock is kept by NTP can't be told here"),
    }
}
