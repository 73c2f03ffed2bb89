//! `dead`, `delivery` and `job`: what was given up, and what an operator decides about it.

mod vouch;

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::plugin::name;
use super::remote::At;
use super::table::{Table, list, parse_time, printable, text, time};
use crate::plugin::PluginName;

#[derive(Subcommand, Debug)]
pub(super) enum DeadCommand {
    /// List dead letters, or (`--groups`) count them by plugin and error.
    List(List),
    /// Run dead letters again.
    Retry(Decide),
    /// Give dead letters up: shows how many and which, and asks.
    Drop(Drop),
    /// Show one, with the writes of which nobody knows whether they were done, and what can be said of them.
    Show(vouch::Show),
    /// A write of which nobody knows was done: the plugin is run again, and goes on from there.
    Done(vouch::Done),
    /// A write of which nobody knows is to be sent all the same.
    Send(vouch::Send),
}

#[derive(Subcommand, Debug)]
pub(super) enum DeliveryCommand {
    /// Run a delivery that waits or is a dead letter at once.
    Retry(One),
    /// Give up a delivery that waits or is a dead letter.
    Drop(One),
}

#[derive(Subcommand, Debug)]
pub(super) enum JobCommand {
    /// Large changes under way, and the last that ended.
    List(Jobs),
    /// Stop one; what it has done stays done.
    Stop(One),
}

#[derive(clap::Args, Debug)]
struct Filter {
    /// Of this plugin.
    #[arg(long, value_name = "NAME", value_parser = name)]
    plugin: Option<PluginName>,
    /// Of this CRM.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Of events of this name.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// With this code.
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Given up since: `2h` (ago), or `2026-01-31T12:00`.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<i64>,
    /// Given up before.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<i64>,
}

impl Filter {
    fn pairs(&self) -> [(&'static str, Option<String>); 6] {
        let number = |value: Option<i64>| value.map(|value| value.to_string());
        [
            ("plugin", self.plugin.as_ref().map(ToString::to_string)),
            ("account", self.account.clone()),
            ("event", self.event.clone()),
            ("code", self.code.clone()),
            ("since", number(self.since)),
            ("until", number(self.until)),
        ]
    }
}

#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Count them by plugin and error.
    #[arg(long)]
    groups: bool,
    /// Rows.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    /// `next` of the page before.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Decide {
    #[command(flatten)]
    filter: Filter,
    /// Every one: an empty filter is refused without it.
    #[arg(long)]
    all: bool,
    /// Letters a second, as a job; without it all at once, and the command waits.
    #[arg(long, value_name = "NUMBER")]
    pace: Option<f64>,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Drop {
    #[command(flatten)]
    decide: Decide,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct One {
    /// Its number.
    #[arg(value_name = "NUMBER")]
    id: i64,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Args, Debug)]
pub(super) struct Jobs {
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: DeadCommand) -> anyhow::Result<ExitCode> {
    match command {
        DeadCommand::List(args) => list_letters(&args),
        DeadCommand::Retry(args) => decide(&args, "retry", true),
        DeadCommand::Drop(args) => decide(&args.decide, "drop", args.yes),
        DeadCommand::Show(args) => vouch::show(&args),
        DeadCommand::Done(args) => vouch::done(&args),
        DeadCommand::Send(args) => vouch::send(&args),
    }
}

pub(super) fn delivery(command: DeliveryCommand) -> anyhow::Result<ExitCode> {
    let (one, word, told) = match &command {
        DeliveryCommand::Retry(one) => (one, "retry", "runs again"),
        DeliveryCommand::Drop(one) => (one, "drop", "is given up"),
    };
    let remote = one.at.remote()?;
    remote.post(&format!("deliveries/{}/{word}", one.id), &json!({}))?;
    outln!("Delivery {} {told}.", one.id);
    super::restore::remind(&remote);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn job(command: JobCommand) -> anyhow::Result<ExitCode> {
    match command {
        JobCommand::Stop(one) => {
            one.at.remote()?.post(&format!("jobs/{}/stop", one.id), &json!({}))?;
            outln!("Job {} is stopped.", one.id);
        }
        JobCommand::List(args) => {
            let jobs = args.at.remote()?.get("jobs")?;
            if args.json {
                outln!("{jobs:#}");
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(&["job", "began", "what", "who", "state", "done", "of"]);
            for job in jobs.as_array().into_iter().flatten() {
                let what = format!("{} {}", text(job, "action"), text(job, "object"));
                let [id, who, state, done, total] = ["id", "who", "state", "done", "total"].map(|key| text(job, key));
                table.row([id, time(job, "began_at"), what, who, state, done, total]);
            }
            table.print("No jobs.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list_letters(args: &List) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    if args.groups {
        let groups = remote.get("dead/groups")?;
        if args.json {
            outln!("{groups:#}");
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = Table::new(&["plugin", "crm", "code", "letters", "last", "reason"]);
        for group in groups.as_array().into_iter().flatten() {
            let [plugin, account, code, letters, reason] =
                ["plugin", "account", "code", "letters", "last_reason"].map(|key| text(group, key));
            table.row([plugin, account, code, letters, time(group, "last_at"), reason]);
        }
        table.print("No dead letters.");
        return Ok(ExitCode::SUCCESS);
    }
    let found = remote.list("dead", &args.filter.pairs(), args.cursor.clone(), args.limit)?;
    if args.json {
        outln!("{found:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["delivery", "time", "event", "record", "plugin", "crm", "code", "reason"]);
    for letter in list(&found, "items") {
        let [delivery, event, entity, plugin, account, code, reason] =
            ["delivery", "name", "entity", "plugin", "account", "code", "reason"].map(|key| text(letter, key));
        table.row([delivery, time(letter, "at"), event, entity, plugin, account, code, reason]);
    }
    table.print("No dead letters.");
    if let Some(next) = found.get("next").and_then(Value::as_str) {
        outln!("More: --cursor {next}");
    }
    Ok(ExitCode::SUCCESS)
}

fn decide(args: &Decide, word: &str, yes: bool) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        args.all || args.filter.pairs().iter().any(|(_, value)| value.is_some()),
        "no filter would mean every dead letter: say `--all` for that"
    );
    let remote = args.at.remote()?;
    let Filter { plugin, account, event, code, since, until } = &args.filter;
    let mut body = json!({
        "plugin": plugin, "account": account, "event": event, "code": code, "since": since, "until": until,
        "all": args.all, "pace": args.pace,
    });
    if word == "drop" && !yes {
        let counted = remote.ask("dead/count", &args.filter.pairs())?;
        let letters = counted.get("letters").and_then(Value::as_u64).unwrap_or_default();
        let what = format!("{letters} dead letters would be given up, the first of them:");
        if letters > 1 && !super::confirm::agreed(&what, &first(&counted), false)? {
            return Ok(ExitCode::FAILURE);
        }
        // Just those that were shown.
        if let Some(body) = body.as_object_mut() {
            for bound in ["until", "up_to"] {
                body.insert(bound.to_owned(), counted.get(bound).cloned().unwrap_or_default());
            }
        }
    }
    let decided = remote.post(&format!("dead/{word}"), &body)?;
    super::restore::remind(&remote);
    if args.json {
        outln!("{decided:#}");
        return Ok(ExitCode::SUCCESS);
    }
    match decided.get("job").filter(|job| job.is_object()) {
        Some(job) => outln!("Job {}: `salesman-host job list` tells how far it is.", text(job, "id")),
        None => outln!("{} dead letters: {word}.", text(&decided, "changed")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Letters, one a line.
fn first(counted: &Value) -> Vec<String> {
    let line = |letter: &Value| {
        let [delivery, event, entity, plugin, code] =
            ["delivery", "name", "entity", "plugin", "code"].map(|key| printable(&text(letter, key)));
        format!("delivery {delivery}, {}, {event} {entity} → {plugin}: {code}", time(letter, "at"))
    };
    list(counted, "first").map(line).collect()
}
