//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::app::App;
use crate::config::{self, Problems, Source};
use crate::telemetry;

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
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
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

impl Cli {
    /// Does what was asked; returns the process's exit code: 0 done, 1 failed, 2 configuration wrong, 3 stopped with
    /// plugins cut off.
    ///
    /// # Errors
    /// What keeps the command from being done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve { config, dev } => serve(&source(config, dev)),
            Command::Config(ConfigCommand::Default) => {
                print!("{}", config::DEFAULT);
                Ok(ExitCode::SUCCESS)
            }
            Command::Config(ConfigCommand::Show { config }) => Ok(match source(config, false).show() {
                Ok(shown) => {
                    print!("{shown}");
                    ExitCode::SUCCESS
                }
                Err(problems) => told(&problems),
            }),
            Command::Config(ConfigCommand::Check { config }) => Ok(match source(config, false).read() {
                Ok(_) => {
                    println!("the configuration is good");
                    ExitCode::SUCCESS
                }
                Err(problems) => told(&problems),
            }),
        }
    }
}

fn source(file: Option<PathBuf>, dev: bool) -> Source {
    Source { file, environment: std::env::vars().collect(), dev }
}

fn told(problems: &Problems) -> ExitCode {
    eprint!("{problems}");
    ExitCode::from(EXIT_CONFIG)
}

fn serve(source: &Source) -> anyhow::Result<ExitCode> {
    let config = match source.read() {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    telemetry::start(&config.telemetry).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("host")
        .build()
        .context("failed to start the runtime")?;
    let code = runtime.block_on(async {
        let mut app = match App::start(config).await {
            Ok(app) => app,
            Err(problems) => return Ok(told(&problems)),
        };
        println!("listening on http://{}", app.address());
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
    })?;
    runtime.shutdown_background();
    Ok(code)
}

async fn asked_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
