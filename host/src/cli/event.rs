//! `event`: what arrived, on the command line.

use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::plugin::name;
use super::remote::At;
use super::table::{Table, list, parse_time, printable, text, time};
use crate::journal::Wanted;
use crate::plugin::PluginName;

#[derive(Subcommand, Debug)]
pub(super) enum EventCommand {
    /// List events, the newest first.
    List(List),
    /// Show an event with everything that became of it.
    Show(Show),
    /// Store an event as if the CRM had sent it.
    Send(Send),
    /// Have events handled once more by one plugin; what it writes is written again.
    Replay(Replay),
}

/// How a delivery can stand.
const OUTCOMES: &str = "failed|dead|waiting|running|done|skipped|dropped";

fn outcome(word: &str) -> Result<Wanted, String> {
    Wanted::parse(word).ok_or_else(|| format!("it is one of {OUTCOMES}"))
}

/// Which events.
#[derive(clap::Args, Debug, Default)]
struct Filter {
    /// Of this name, or of a family: `deal.*`.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// About this record, such as `client:123`.
    #[arg(long, value_name = "KIND:ID")]
    entity: Option<String>,
    /// Caused by this employee.
    #[arg(long, value_name = "NUMBER")]
    actor: Option<u64>,
    /// Of this CRM.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Arrived since: `2h` (ago), or `2026-01-31T12:00`.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Arrived before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
    /// With this text in the fields.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

impl Filter {
    fn pairs(&self) -> [(&'static str, Option<String>); 7] {
        let number = |value: Option<i64>| value.map(|value| value.to_string());
        [
            ("name", self.name.clone()),
            ("entity", self.entity.clone()),
            ("actor", self.actor.map(|actor| actor.to_string())),
            ("account", self.account.clone()),
            ("since", number(self.since)),
            ("until", number(self.until)),
            ("text", self.text.clone()),
        ]
    }

    fn body(&self) -> Value {
        let Self { name, entity, actor, account, since, until, text } = self;
        json!({ "name": name, "entity": entity, "actor": actor, "account": account, "since": since, "until": until, "text": text })
    }

    fn is_empty(&self) -> bool {
        self.pairs().iter().all(|(_, value)| value.is_none())
    }
}

#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
    /// With a delivery to this plugin.
    #[arg(long, value_name = "NAME", value_parser = name)]
    plugin: Option<PluginName>,
    /// With a delivery that stands so; to that plugin, where one is named. `failed`: dead, or waiting after a failure.
    #[arg(long, value_name = OUTCOMES, value_parser = outcome)]
    outcome: Option<Wanted>,
    /// Rows.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    /// `next` of the page before.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Look into what `console.mask` hides as well; it is noted in the operators' log.
    #[arg(long)]
    unmasked: bool,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Show {
    /// The event's id.
    #[arg(value_name = "ID")]
    id: String,
    /// Show what `console.mask` hides; it is noted in the operators' log.
    #[arg(long)]
    unmasked: bool,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Send {
    /// The event's name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its fields.
    #[arg(value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// Of which CRM: the name of a `[crm.NAME]` section.
    #[arg(long, value_name = "NAME", default_value = "main")]
    account: String,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Replay {
    /// One event; without it the filter says which.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// The plugin.
    #[arg(long, value_name = "NAME", value_parser = name)]
    plugin: PluginName,
    #[command(flatten)]
    filter: Filter,
    /// Those whose delivery to this plugin stands so.
    #[arg(long, value_name = OUTCOMES, value_parser = outcome)]
    outcome: Option<Wanted>,
    /// Every event that is kept: an empty filter is refused without it.
    #[arg(long)]
    all: bool,
    /// Events a second; as fast as it goes without.
    #[arg(long, value_name = "NUMBER")]
    pace: Option<f64>,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: EventCommand) -> anyhow::Result<ExitCode> {
    match command {
        EventCommand::List(args) => list_events(&args),
        EventCommand::Show(args) => show(&args),
        EventCommand::Send(args) => send(&args),
        EventCommand::Replay(args) => replay(&args),
    }
}

fn list_events(args: &List) -> anyhow::Result<ExitCode> {
    let mut query = args.filter.pairs().to_vec();
    query.extend([
        ("plugin", args.plugin.as_ref().map(ToString::to_string)),
        ("outcome", args.outcome.map(|outcome| outcome.word().to_owned())),
        ("unmasked", args.unmasked.then(|| "true".to_owned())),
    ]);
    let found = args.at.remote()?.list("events", &query, args.cursor.clone(), args.limit)?;
    if args.json {
        outln!("{found:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["time", "id", "event", "record", "actor", "crm", "deliveries"]);
    for event in list(&found, "items") {
        let fates: Vec<String> = list(event, "deliveries")
            .map(|fate| format!("{}: {}", text(fate, "plugin"), text(fate, "state")))
            .collect();
        let [id, name, entity, actor, account] =
            ["id", "name", "entity", "actor", "account"].map(|key| text(event, key));
        let fates = if event.get("duplicate").is_some() { "duplicate".to_owned() } else { fates.join(", ") };
        table.row([time(event, "received_at"), id, name, entity, actor, account, fates]);
    }
    table.print("No such events.");
    if found.get("looked_back_to").is_some() {
        outln!("Nothing more was found back to {}; --cursor goes on.", time(&found, "looked_back_to"));
    }
    if let Some(next) = found.get("next").and_then(Value::as_str) {
        outln!("More: --cursor {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(args: &Show) -> anyhow::Result<ExitCode> {
    let unmasked = Some("true".to_owned()).filter(|_| args.unmasked);
    let path = args.at.remote()?.ask(&format!("events/{}", args.id), &[("unmasked", unmasked)])?;
    if args.json {
        outln!("{path:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let event = path.get("event").unwrap_or(&Value::Null);
    outln!(
        "{} {} ({}, {})",
        text(event, "name"),
        text(event, "entity"),
        text(event, "account"),
        time(event, "received_at")
    );
    outln!("{:#}", path.get("fields").unwrap_or(&Value::Null));
    for cause in list(&path, "caused_by") {
        outln!("caused by {} of {} on {}", text(cause, "plugin"), text(cause, "name"), text(cause, "event"));
    }
    for delivery in list(&path, "deliveries") {
        let reason = printable(&text(delivery, "reason"));
        outln!(
            "\n{}: {} (delivery {}) {reason}",
            text(delivery, "plugin"),
            text(delivery, "state"),
            text(delivery, "id")
        );
        for attempt in list(delivery, "attempts") {
            let took = attempt.pointer("/usage/wall").and_then(Value::as_u64).unwrap_or(0);
            let words = printable(&text(attempt, "reason"));
            outln!(
                "  attempt {}, {}: {} {words} ({}.{} ms)",
                text(attempt, "number"),
                time(attempt, "started_at"),
                text(attempt, "outcome"),
                took / 1_000,
                took % 1_000 / 100
            );
            for line in list(attempt, "lines") {
                outln!("    {}: {}", text(line, "level"), printable(&text(line, "text")));
            }
            for call in list(attempt, "calls") {
                let good = if call.get("good") == Some(&Value::Bool(true)) { "" } else { " FAILED" };
                outln!("    {}{good} {}", text(call, "call"), printable(&text(call, "request")));
                outln!("      → {}", printable(&text(call, "answer")));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn send(args: &Send) -> anyhow::Result<ExitCode> {
    let mut fields = Map::new();
    for field in &args.fields {
        let (key, value) = field.split_once('=').with_context(|| format!("`{field}` is not FIELD=VALUE"))?;
        fields.insert(key.to_owned(), value.into());
    }
    let body = json!({ "account": args.account, "event": args.name, "fields": fields });
    let remote = args.at.remote()?;
    let sent = remote.post("events", &body)?;
    super::restore::remind(&remote);
    if args.json {
        outln!("{sent:#}");
    } else {
        outln!("{}", text(&sent, "id"));
    }
    Ok(ExitCode::SUCCESS)
}

fn replay(args: &Replay) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    let answer = match &args.id {
        Some(id) => {
            let alone = args.filter.is_empty() && args.outcome.is_none() && !args.all;
            anyhow::ensure!(alone, "name an event or a filter, not both");
            remote.post(&format!("events/{id}/replay"), &json!({ "plugin": args.plugin }))?
        }
        None => {
            anyhow::ensure!(
                !args.filter.is_empty() || args.outcome.is_some() || args.all,
                "an empty filter would mean every event: say `--all` for that"
            );
            let mut filter = args.filter.body();
            if let (Some(outcome), Some(filter)) = (args.outcome, filter.as_object_mut()) {
                filter.insert("plugin".to_owned(), json!(args.plugin));
                filter.insert("outcome".to_owned(), outcome.word().into());
            }
            let body = json!({ "plugin": args.plugin, "pace": args.pace, "filter": filter, "all": args.all });
            remote.post("events/replay", &body)?
        }
    };
    super::restore::remind(&remote);
    if args.json {
        outln!("{answer:#}");
    } else if answer.get("delivery").is_some() {
        outln!("Delivery {} of `{}`.", text(&answer, "delivery"), args.plugin);
    } else {
        outln!("Job {}: `salesman-host job list` tells how far it is.", text(&answer, "id"));
    }
    Ok(ExitCode::SUCCESS)
}
