//! `dev`: a host for one author: what is saved is built, loaded and runs.
//!
//! Not here: building (`workshop`), serving (`cli`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::broadcast::{self, error::RecvError};

use super::{serve, source, usual};
use crate::app::Stand;
use crate::config::Source;
use crate::dispatcher::Delivered;
use crate::telemetry::Log;
use crate::text::visible_line;
use crate::workshop::build::Options;
use crate::workshop::develop::{Step, develop};
use crate::workshop::rehearse::{self, Answers};

/// The configuration that is taken when it is there and no other was named.
const USUAL: &str = "host.toml";
/// Where events are sent to a host without a configuration. It listens on this machine only.
const TOKEN: &str = "development-only";

/// How long the console's link is good, in milliseconds: a day's work.
const LINK: i64 = 12 * 3_600_000;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The plugins' folders.
    #[arg(value_name = "FOLDER", default_value = ".")]
    folders: Vec<PathBuf>,
    /// The configuration file; `host.toml` where there is one, else a throw-away set-up without a CRM.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; over what the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Take the answers to the plugins' calls from this file, as `plugin run --answers` does; nothing is sent anywhere.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Build without optimisation.
    #[arg(long)]
    debug: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let answers = args.answers.as_deref().map(answers).transpose()?;
    // Held to the end: it takes its files along.
    // Never the machine's own configuration: every plugin is granted what it asks.
    let found = args.config.or_else(|| usual(&[USUAL]));
    let (mut source, _folder) = match found {
        Some(file) => {
            errln!("Configuration: `{}`.", file.display());
            (source(Some(file), true), None)
        }
        None => {
            let folder = tempfile::tempdir().context("no temporary folder can be made")?;
            (throw_away(folder.path())?, Some(folder))
        }
    };
    if let Some(listen) = args.listen {
        source.environment.push(("SALESMAN_HOST__SERVER__LISTEN".to_owned(), listen));
    }
    if let Some(file) = &args.answers {
        errln!("Answers come from `{}`: nothing is sent to a CRM, nor to the outside.", file.display());
    }
    let options = Options { debug: args.debug, colour: super::out::errors_to_terminal() };
    serve(&source, answers, |config, app, log| {
        tokio::spawn(show(app.queues().delivered(), log.clone()));
        let plugins = config.registry.dir.clone();
        if source.file.is_none() {
            // The author needs the token, which no log shows.
            let words = format!("No configuration: events are taken at http://{}/events/{TOKEN}\n", app.address());
            log.say_as_it_is(&words);
        }
        if let Some(link) = app.console_link(LINK) {
            log.say(&format!("Console (this link is good once): {link}\n"));
        }
        for folder in args.folders {
            let (plugins, log) = (plugins.clone(), log.clone());
            tokio::spawn(async move {
                let told = |step: Step<'_>| tell(&log, &folder, &step);
                let Err(error) = develop(&folder, &plugins, &options, told).await;
                log.say(&format!("{error}\n"));
            });
        }
    })
}

/// Who answers in place of the CRM and the outside.
fn answers(file: &Path) -> anyhow::Result<Stand> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    let (crm, outside) = rehearse::stand_in(Answers::parse(&text)?)?;
    Ok(Stand { crm, outside })
}

/// A set-up that needs no file.
fn throw_away(folder: &Path) -> anyhow::Result<Source> {
    let plugins = folder.join("plugins");
    std::fs::create_dir(&plugins).context("no temporary folder can be made")?;
    let mut source = Source { environment: std::env::vars().collect(), dev: true, ..Source::default() };
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    for (key, value) in [
        ("SERVER__DATA_DIR", text(folder.join("data"))),
        ("PLUGINS__DIR", text(plugins)),
        ("PLUGINS__GRANTS", text(folder.join("grants.toml"))),
        ("CRM__MAIN__TOKEN", TOKEN.to_owned()),
    ] {
        source.environment.push((format!("SALESMAN_HOST__{key}"), value));
    }
    Ok(source)
}

/// Prints each attempt as it ends.
async fn show(mut delivered: broadcast::Receiver<Arc<Delivered>>, log: Log) {
    loop {
        match delivered.recv().await {
            Ok(delivered) => log.say(&words(&delivered)),
            Err(RecvError::Lagged(missed)) => log.say(&format!("… {missed} deliveries are not shown\n")),
            Err(RecvError::Closed) => return,
        }
    }
}

fn words(delivered: &Delivered) -> String {
    let Delivered { queue, event, settlement, .. } = delivered;
    let entity = event.entity.as_ref().map(|entity| format!(" ({entity})")).unwrap_or_default();
    let mut text = format!(
        "{}{entity} → {} {}: {}, attempt {}, {} ms\n",
        event.name,
        queue.plugin,
        settlement.version,
        settlement.outcome.as_str(),
        settlement.attempt,
        settlement.ended_at.saturating_sub(settlement.started_at),
    );
    for line in &settlement.effects.lines {
        text.push_str(&format!("  {}: {}\n", line.level, visible_line(&line.text)));
    }
    for call in &settlement.effects.calls {
        text.push_str(&format!("  call: {}\n", call.call));
    }
    let reason = settlement.outcome.reason();
    if !reason.is_empty() {
        text.push_str(&format!("  reason: {}\n", visible_line(&reason)));
    }
    text
}

fn tell(log: &Log, folder: &Path, step: &Step<'_>) {
    let folder = folder.display();
    let words = match step {
        Step::Begins => format!("Building `{folder}`."),
        // Its colours are wanted.
        Step::Line(line) => return log.say_as_it_is(&format!("{line}\n")),
        Step::Placed { file, took, .. } => {
            format!("Built `{folder}` in {:.1} s: `{}`.", took.as_secs_f64(), file.display())
        }
        Step::Failed(error) => format!("Not built, the version before goes on serving: {error}"),
    };
    log.say(&format!("{words}\n"));
}
