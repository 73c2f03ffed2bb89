//! The command line.

#[macro_use]
mod out;

mod backup;
mod confirm;
mod dead;
mod dev;
mod doctor;
mod event;
mod forget;
mod journal;
mod operate;
mod plugin;
mod remote;
mod restore;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, App};
use crate::config::{self, Config, Problems, Secrets, Source};
use crate::registry::Bell;
use crate::sandbox::compiler;
use crate::secret::Scrubber;
use crate::telemetry::{self, Log};

/// Receives SalesMan CRM's events, stores them, and runs each through sandboxed plugins.
#[derive(Parser, Debug)]
#[command(name = "salesman-host", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the host.
    Serve {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Grant every plugin what its manifest asks.
        #[arg(long)]
        dev: bool,
    },
    /// Run the host for an author: build what is saved, load it, show each delivery. Grants what is asked.
    Dev(dev::Args),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a `developer/events.php` for the CRM, which hands its events to this host. It holds the account's token.
    EventsPhp(EventsPhp),
    /// Make, look at, try and manage plugins.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// What arrived: list, show, send, replay.
    #[command(subcommand)]
    Event(event::EventCommand),
    /// One delivery: run it again, or give it up.
    #[command(subcommand)]
    Delivery(dead::DeliveryCommand),
    /// Dead letters: list, retry, drop.
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// The journal's files: looked at, made small.
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Large changes under way.
    #[command(subcommand)]
    Job(dead::JobCommand),
    /// The CRM, as the running host sees it.
    #[command(subcommand)]
    Crm(operate::CrmCommand),
    /// Show each attempt as it ends.
    Tail(operate::Tail),
    /// Look at everything that a host needs, and name the remedy for what is wrong.
    Doctor(doctor::Args),
    /// Copy the store, with configuration, grants and plugins, into one file, while the host runs or stands.
    Backup(backup::Args),
    /// Put a backup in place, with the host stopped; show and end the wait of the restored host.
    Restore(restore::Args),
    /// Delete everything about one record.
    Forget(forget::Forget),
    /// What operators did.
    Audit(operate::Audit),
    /// Print an address that opens the console in a browser, once.
    Console(remote::At),
    /// Make a password's hash, for `[console.users.NAME]`.
    Password,
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print a Grafana dashboard for the host's metrics.
    Grafana,
    /// What the host starts itself for: a plugin's file in, compiled code out.
    #[command(name = compiler::COMMAND, hide = true)]
    CompilePlugin {
        /// Bytes of the file.
        size: u64,
    },
}

#[derive(clap::Args, Debug)]
struct EventsPhp {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which CRM: the name of a `[crm.NAME]` section; the only one by default.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The host's address, as the CRM's machine reaches it; `server.listen` by default.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Milliseconds for the connection.
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    connect_ms: u32,
    /// Milliseconds that one page of the CRM may wait, all its events together.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=30_000))]
    total_ms: u32,
    /// Hand events to the CRM's own `developer/webhooks.php` as well, so that its webhook rows go on working.
    #[arg(long)]
    relay: bool,
    /// The CRM's own address, as its own machine reaches it; `url` of the `[crm.NAME]` section by default.
    #[arg(long, value_name = "URL")]
    crm_url: Option<String>,
    /// The folder in which events wait while the host can't be reached, with its whole path.
    #[arg(long, value_name = "FOLDER", default_value = "")]
    spool: String,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Print the documented defaults: the start of a configuration file.
    Default,
    /// Print the configuration in force, secrets hidden.
    Show {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Report every problem of the configuration.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// The configuration is wrong.
const EXIT_CONFIG: u8 = 2;
/// Stopped, but plugins were cut off.
const EXIT_NOT_GRACEFUL: u8 = 3;
/// No host answers.
const EXIT_SILENT: u8 = 4;
/// The host refused.
const EXIT_REFUSED: u8 = 5;
/// The host can't start now, and may later as it is.
const EXIT_NOT_NOW: u8 = 6;

impl Cli {
    /// The whole program: reads the command line, does what was asked, tells what went wrong.
    #[must_use]
    pub fn main() -> ExitCode {
        let code = match Self::try_parse() {
            Ok(cli) => cli.run().unwrap_or_else(|error| {
                errln!("failed: {error:#}");
                ExitCode::FAILURE
            }),
            Err(error) => return out::usage(&error),
        };
        out::end(code)
    }

    /// Does what was asked; returns the process's exit code: 0 done, 1 failed, 2 configuration wrong, 3 stopped with
    /// plugins cut off, 4 no host answers, 5 the host refused, 6 the host can't start now and may later.
    ///
    /// # Errors
    /// What keeps the command from being done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let error = match self.done() {
            Ok(code) => return Ok(code),
            Err(error) => error,
        };
        let code = match (error.downcast_ref::<remote::Failure>(), error.downcast_ref::<Problems>()) {
            (Some(remote::Failure::Silent(_)), _) => EXIT_SILENT,
            (Some(remote::Failure::Refused(_)), _) => EXIT_REFUSED,
            (None, Some(problems)) => return Ok(told(problems)),
            (None, None) => return Err(error),
        };
        errln!("failed: {error:#}");
        Ok(ExitCode::from(code))
    }

    fn done(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve { config, dev } => serve(&source(config, dev), None, |_, _, _| ()),
            Command::Dev(args) => dev::run(args),
            Command::EventsPhp(wanted) => write_events_php(wanted),
            Command::Plugin(command) => plugin::run(command),
            Command::Event(command) => event::run(command),
            Command::Delivery(command) => dead::delivery(command),
            Command::Dead(command) => dead::run(command),
            Command::Job(command) => dead::job(command),
            Command::Crm(command) => operate::crm(command),
            Command::Tail(args) => operate::tail(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Backup(args) => backup::run(args),
            Command::Restore(args) => restore::run(&args),
            Command::Forget(args) => forget::run(&args),
            Command::Journal(command) => journal::run(&command),
            Command::Audit(args) => operate::audit(&args),
            Command::Console(at) => operate::console(&at),
            Command::Password => operate::password(),
            Command::Completions { shell } => Ok(operate::completions(shell)),
            Command::CompilePlugin { size } => {
                compiler::run(size, std::io::stdin().lock(), out::bytes())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Grafana => Ok(operate::grafana()),
            Command::Config(ConfigCommand::Default) => {
                out!("{}", config::DEFAULT);
                Ok(ExitCode::SUCCESS)
            }
            Command::Config(ConfigCommand::Show { config }) => Ok(match source(config, false).show() {
                Ok(shown) => {
                    out!("{shown}");
                    ExitCode::SUCCESS
                }
                Err(problems) => told(&problems),
            }),
            Command::Config(ConfigCommand::Check { config }) => Ok(check(config)),
        }
    }
}

fn write_events_php(wanted: EventsPhp) -> anyhow::Result<ExitCode> {
    let config = match spared(wanted.config).read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let accounts = &config.ingress.accounts;
    let account = match &wanted.account {
        Some(name) => accounts.get(name).with_context(|| format!("there is no section `[crm.{name}]`"))?,
        None if accounts.len() == 1 => accounts.values().next().context("there is no `[crm.NAME]` section")?,
        None => {
            let names: Vec<&str> = accounts.keys().map(String::as_str).collect();
            anyhow::bail!(
                "say which CRM with `--account`: the configuration has {} ({})",
                accounts.len(),
                names.join(", ")
            )
        }
    };
    let name = accounts.iter().find(|(_, known)| std::ptr::eq(*known, account)).map_or("", |(name, _)| name);
    let base = wanted.url.unwrap_or_else(|| format!("http://{}", config.listen));
    let base = crate::events_php::address(&base).map_err(anyhow::Error::msg)?;
    anyhow::ensure!(base.port() != Some(0), "`server.listen` names no port: give the address with `--url`");
    let text = crate::events_php::file(&crate::events_php::Options {
        // With the slash, which is what a proxy's rule for `/events/` takes: it would redirect the address without.
        url: format!("{}/events/", base.as_str().trim_end_matches('/').trim_end_matches("/events")),
        token: match (account.tokens.first(), config.unread_of(&format!("crm.{name}.token"))) {
            (Some(token), _) => token.clone(),
            (None, Some(why)) => anyhow::bail!("the file holds the account's token, which can't be read: {why}"),
            (None, None) => anyhow::bail!("`[crm.{name}]` has no `token`"),
        },
        connect_ms: wanted.connect_ms,
        total_ms: wanted.total_ms,
        relay: wanted.relay,
        crm_url: match wanted.crm_url {
            Some(url) => {
                crate::crm::connection::address(&url).map_err(|why| anyhow::anyhow!("`--crm-url` {why}"))?.into()
            }
            None => config.crm.get(name).map(|crm| crm.url.to_string()).unwrap_or_default(),
        },
        spool: wanted.spool,
    })
    .map_err(anyhow::Error::msg)?;
    out!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Where a configuration is looked for when no command line names one, after [`CONFIG`].
const USUAL: [&str; 2] = ["host.toml", "/etc/salesman-host/host.toml"];
/// The variable that names a configuration.
const CONFIG: &str = "SALESMAN_HOST_CONFIG";

/// The configuration of a host, with every secret.
fn source(file: Option<PathBuf>, dev: bool) -> Source {
    let file = file.or_else(|| {
        let found = usual(&USUAL);
        match &found {
            Some(file) => errln!("Configuration: `{}`.", file.display()),
            None => errln!(
                "No configuration: neither `{CONFIG}` nor {} is there.",
                USUAL.map(|file| format!("`{file}`")).join(" nor ")
            ),
        }
        found
    });
    Source { file, environment: std::env::vars().collect(), dev, secrets: Secrets::All }
}

/// The same for a command that needs none of its secrets, or says which it lacks.
fn spared(file: Option<PathBuf>) -> Source {
    Source { secrets: Secrets::Spared, ..source(file, false) }
}

/// The configuration that is taken where none is named.
fn usual(places: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os(CONFIG).filter(|file| !file.is_empty()).map(PathBuf::from);
    named.or_else(|| places.iter().map(PathBuf::from).find(|file| file.is_file()))
}

/// Says everything that is wrong with a configuration, as `serve` would, and what is only remarkable.
fn check(file: Option<PathBuf>) -> ExitCode {
    let source = Source { secrets: Secrets::Told, ..source(file, false) };
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return told(&problems),
    };
    let problems = app::check::problems(&config);
    if !problems.is_empty() {
        return told(&Problems(problems));
    }
    let mut remarks = config.remarks.clone();
    remarks.extend(app::check::medium(&config.journal.data_dir));
    let registry = &config.registry;
    if !(registry.plugins.is_empty() && registry.approved.is_empty() && registry.accounts.is_empty()) {
        remarks.extend(app::check::unknown_plugins(registry, &app::check::plugins_in(&registry.dir)));
    }
    if remarks.is_empty() {
        outln!("the configuration is good");
    } else {
        outln!("the host can start with this configuration; {} remark(s):", remarks.len());
        remarks.iter().for_each(|remark| outln!("  - {remark}"));
    }
    ExitCode::SUCCESS
}

fn told(problems: &Problems) -> ExitCode {
    err!("{problems}");
    ExitCode::from(EXIT_CONFIG)
}

/// Runs the host until it is asked to stop; `besides` starts what goes on beside it.
fn serve(
    source: &Source,
    stand: Option<app::Stand>,
    besides: impl FnOnce(&Config, &App, &Log),
) -> anyhow::Result<ExitCode> {
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let scrubber = Scrubber::of(config.known_secrets.iter().cloned());
    let (log, metrics) = match telemetry::start(&config.telemetry, scrubber.clone()) {
        Ok(started) => started,
        Err(error) => return Ok(not_now(&error)),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            log.flush();
            return Ok(not_now(&format!("the runtime can't be started: {error}")));
        }
    };
    let code = runtime.block_on(async {
        // From the first moment on: by itself, each of these ends the process.
        let signals = Signals::new().context("failed to listen for signals")?;
        let mut app = match App::start(config.clone(), source, (metrics, scrubber), stand).await {
            Ok(app) => app,
            Err(reason) => {
                log.say(&reason.problems.to_string());
                return Ok(ExitCode::from(if reason.may_pass { EXIT_NOT_NOW } else { EXIT_CONFIG }));
            }
        };
        tokio::spawn(heed(signals, app.bell()));
        outln!("listening on http://{}", app.address());
        besides(&config, &app, &log);
        tokio::select! {
            asked = asked_to_stop() => asked?,
            part = app.broken() => {
                telemetry::broken(part);
                return Ok(ExitCode::FAILURE);
            }
        }
        let graceful = tokio::select! {
            graceful = app.stop() => graceful,
            // A second signal ends at once; what ran is run again at the next start.
            second = asked_to_stop() => { second?; false }
        };
        anyhow::Ok(if graceful { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_GRACEFUL) })
    });
    log.flush();
    runtime.shutdown_background();
    code
}

/// What keeps the host from starting is the machine's, and may pass.
fn not_now(why: &str) -> ExitCode {
    errln!("failed: {why}: look at the machine's limits of processes and memory; it may go well later");
    ExitCode::from(EXIT_NOT_NOW)
}

/// The threads on which the host runs.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let build = || tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("host").build();
    // Without a thread it panics.
    let built = std::panic::catch_unwind(build).map_err(|_| "the machine gives it no threads".to_owned())?;
    built.map_err(|error| error.to_string())
}

/// The signals that end nothing.
struct Signals {
    reread: Signal,
    without_meaning: [(&'static str, Signal); 2],
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let [reread, first, second] =
            [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()].map(signal);
        Ok(Self { reread: reread?, without_meaning: [("SIGUSR1", first?), ("SIGUSR2", second?)] })
    }
}

/// Heeds them for as long as the host runs.
async fn heed(mut signals: Signals, bell: Bell) {
    let [(first_name, first), (second_name, second)] = &mut signals.without_meaning;
    loop {
        tokio::select! {
            Some(()) = signals.reread.recv() => {
                telemetry::reread_asked();
                bell.reread();
            }
            Some(()) = first.recv() => telemetry::signal_ignored(first_name),
            Some(()) = second.recv() => telemetry::signal_ignored(second_name),
            else => return,
        }
    }
}

async fn asked_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let mut quit = signal(SignalKind::quit()).context("failed to listen for SIGQUIT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = quit.recv() => {}
    }
    Ok(())
}
