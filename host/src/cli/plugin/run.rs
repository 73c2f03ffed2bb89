//! `plugin run`: gathers what a rehearsal needs, and tells what it came to.

mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::cli::remote::At;
use crate::cli::{spared, told};
use crate::clock::Clock;
use crate::config::{Config, Problems, Source as ConfigSource};
use crate::secret::Scrubber;
use crate::text;
use crate::workshop::rehearse::{self, Answers, Plan, Recording, Source, compare};
use crate::{registry, sandbox};

const ANSWERS: &str = "\
The file of --answers is a JSON list, or one JSON object a line:

  {\"call\": \"deal.list\", \"answer\": {\"data\": [{\"did\": 4, \"title\": \"Поставка\"}]}}
  {\"call\": \"task.add\", \"arguments\": {\"did\": 4}, \"answer\": {\"result\": \"Успешно\", \"data\": 7}}
  {\"call\": \"client.info\", \"answer\": {\"error\": {\"code\": 404, \"text\": \"не найден\"}}}
  {\"call\": \"person.info\", \"error\": \"no answer in time\"}
  {\"call\": \"POST https://chat.example.com/hook\", \"status\": 200, \"body\": {\"ok\": true}}

\"answer\" is the body that the CRM sends, refusals included; \"error\" means that no answer comes. With \"arguments\" an
entry fits only calls that hold them. Fitting entries are used in order, the last one again and again. An address
without a path stands for all of its origin. A call without an entry fails, and is listed.

Examples:
  salesman-host plugin run target/wasm32-wasip1/release/first_call.wasm --event client.add --answers answers.json
  salesman-host plugin run first_call.wasm --event event.json --dry-run --config host.toml
  salesman-host plugin run first_call.wasm --from-delivery 17

Exit code: 0 when the outcome is done or skipped (of --from-delivery: the same outcome and writes as then), 1 otherwise.";

/// What to run, on what, and who answers.
#[derive(clap::Args, Debug)]
#[command(after_help = ANSWERS)]
pub(in crate::cli) struct Args {
    /// The plugin's `.wasm` file.
    file: PathBuf,
    /// The event: the name of a sample (`deal.change.step`), or a file with JSON or form data as the CRM sends it, or an
    /// event as `GET /api/v1/events/ID` shows it.
    #[arg(long, value_name = "FILE|NAME", required_unless_present = "from_delivery", conflicts_with = "from_delivery")]
    event: Option<String>,
    /// Fetch this delivery from a running host, and replay it with its recorded answers; shows what differs.
    #[arg(long, value_name = "ID")]
    from_delivery: Option<i64>,
    /// Take the answers to the plugin's calls from this file; see below.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "from_delivery"])]
    answers: Option<PathBuf>,
    /// Let reads go to the CRM, and `GET` and `HEAD` to the outside; show writes and don't send them.
    #[arg(long, requires = "config", conflicts_with = "from_delivery")]
    dry_run: bool,
    /// The host's configuration, for grants, limits, settings and CRMs. Without it every permission that the manifest asks
    /// is granted.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Grant what the manifest asks, with `--config` as well.
    #[arg(long)]
    dev: bool,
    /// Which CRM: the name of a `[crm.NAME]` section; the only one by default.
    #[arg(long, value_name = "NAME", conflicts_with = "from_delivery")]
    account: Option<String>,
    /// Which attempt the plugin is told that this is; of `--from-delivery` which recorded attempt, the last one that ran to
    /// an end by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Settings over all others, key by key: a JSON or TOML file.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The running host's address; the configuration's by default.
    #[arg(long, value_name = "URL", requires = "from_delivery")]
    host: Option<String>,
    /// A token of `[console.tokens.NAME]`, for a host that asks for one.
    #[arg(long, value_name = "TOKEN", requires = "from_delivery", env = "SALESMAN_HOST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the rehearsal, and prints what it came to.
pub(in crate::cli) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = match args
        .config
        .as_ref()
        .map(|file| ConfigSource { dev: args.dev, ..spared(Some(file.clone())) }.read())
        .transpose()
    {
        Ok(config) => config,
        Err(problems) => return Ok(told(&problems)),
    };
    let bytes = sandbox::read_file(&args.file).with_context(|| format!("failed to read `{}`", args.file.display()))?;
    let name = sandbox::manifest_of(&bytes).map(|manifest| manifest.name);
    let unread = |config: &Config| config.unread_of(&format!("plugins.{}", name.as_ref()?)).map(str::to_owned);
    if let Some(why) = config.as_ref().and_then(unread) {
        return Ok(told(&Problems(vec![why])));
    }
    let settings = args.settings.as_deref().map(settings).transpose()?.unwrap_or_default();
    let mut notes = Vec::new();
    let recording = match args.from_delivery {
        Some(id) => Some(recorded(id, &args)?),
        None => None,
    };
    let (event, attempt) = match &recording {
        Some(recording) => (recording.event.clone(), recording.attempt),
        None => {
            let account = match account(&args, config.as_ref()) {
                Ok(account) => account,
                Err(problem) => return Ok(told(&Problems(vec![problem]))),
            };
            let wanted = args.event.as_deref().unwrap_or_default();
            (rehearse::event::read(wanted, &account, Clock::Wall.now())?, args.attempt.unwrap_or(1))
        }
    };
    if recording.is_some() && config.is_none() && settings.is_empty() {
        notes.push("settings are the manifest's own: give `--config` or `--settings` for those of the host".to_owned());
    }
    let (answers, from) = answers(&args, config.as_ref(), &event.account, recording.as_ref())?;
    let scrubber = Scrubber::of(config.iter().flat_map(|config| config.known_secrets.clone()));
    let options = options(config);
    let plan = Plan { bytes, event, attempt, options, scrubber, settings, source: answers, cache: cache(), compiling };
    let mut rehearsal = runtime()?.block_on(rehearse::rehearse(plan))?;
    rehearsal.notes.extend(notes);
    let comparison = recording.as_ref().map(|recording| compare::compare(recording, &rehearsal));
    if args.json {
        outln!("{}", json!({ "rehearsal": rehearsal, "comparison": comparison }));
    } else {
        out!("{}", report::rehearsal(&rehearsal, &from));
        if let Some(comparison) = &comparison {
            out!("{}", report::comparison(comparison));
        }
    }
    let good = comparison.map_or_else(|| rehearsal.is_good(), |comparison| comparison.equal);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where an author's compiled plugins are kept: the user's own cache, whatever the configuration says.
fn cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("salesman-host/compiled"))
}

fn compiling(took: Option<Duration>) {
    match took {
        None => errln!("Compiling; an interpreter takes up to half a minute, and is kept for the next time."),
        Some(took) => errln!("Compiled in {:.1} s.", took.as_secs_f64()),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Two threads, so that a plugin that computes does not stop its own clock.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("failed to start the runtime")
}

fn settings(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = text::read(path, text::MOST).with_context(|| format!("failed to read `{}`", path.display()))?;
    let json = path.extension().is_some_and(|extension| extension == "json");
    let read = if json {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())
    };
    read.map_err(anyhow::Error::msg).with_context(|| format!("`{}` holds no settings", path.display()))
}

fn options(config: Option<Config>) -> registry::Options {
    let asked = || registry::Options {
        dir: PathBuf::new(),
        store: PathBuf::new(),
        approvals: PathBuf::new(),
        approved: std::collections::BTreeMap::new(),
        dev: true,
        concurrency: 1,
        plugins: std::collections::BTreeMap::new(),
        accounts: std::collections::BTreeMap::new(),
        had_deliveries: std::collections::BTreeSet::new(),
    };
    config.map_or_else(asked, |config| config.registry)
}

/// Which CRM the event is taken to be of.
fn account(args: &Args, config: Option<&Config>) -> Result<String, String> {
    let known = config.map(|config| config.ingress.accounts.keys().collect::<Vec<_>>());
    match (&args.account, known) {
        (Some(name), Some(known)) if !known.contains(&name) => Err(format!("there is no section `[crm.{name}]`")),
        (Some(name), _) => Ok(name.clone()),
        (None, Some(known)) if known.len() > 1 => {
            Err(format!("say which CRM with `--account`: the configuration has {}", known.len()))
        }
        (None, Some(known)) => Ok(known.first().map_or("main", |name| name.as_str()).to_owned()),
        (None, None) => Ok("main".to_owned()),
    }
}

fn recorded(id: i64, args: &Args) -> anyhow::Result<Recording> {
    let at = At { host: args.host.clone(), config: args.config.clone(), token: args.token.clone() };
    // What nobody is shown is what the plugin saw.
    let answer = at.remote()?.get(&format!("deliveries/{id}?unmasked=true"))?;
    Ok(Recording::parse(&answer, args.attempt)?)
}

/// Who answers, and how that is told.
fn answers(
    args: &Args,
    config: Option<&Config>,
    account: &str,
    recording: Option<&Recording>,
) -> anyhow::Result<(Source, String)> {
    if let Some(recording) = recording {
        let id = args.from_delivery.unwrap_or_default();
        let from = format!("answers as recorded of delivery {id}, attempt {}", recording.attempt);
        return Ok((Source::Recording(Box::new(recording.clone())), from));
    }
    if let Some(path) = &args.answers {
        let text = text::read(path, text::MOST).with_context(|| format!("failed to read `{}`", path.display()))?;
        return Ok((Source::Answers(Answers::parse(&text)?), format!("answers from {}", path.display())));
    }
    if args.dry_run {
        if let Some(why) = config.and_then(|config| config.unread_of(&format!("crm.{account}.api_key"))) {
            anyhow::bail!("a dry run needs the CRM's key: {why}");
        }
        let client = config.and_then(|config| config.crm.get(account));
        let client =
            client.with_context(|| format!("`[crm.{account}]` has no `url`: there is nothing to read from"))?;
        return Ok((
            Source::DryRun(client.clone()),
            format!("dry run: reads go to {}, nothing is written", client.url),
        ));
    }
    Ok((Source::Nothing, "no answers to calls".to_owned()))
}
