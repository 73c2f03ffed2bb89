//! The operator's smaller commands: `crm check`, `tail`, `audit`, `password`, `completions`, `grafana`, `openapi`.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{CommandFactory, Subcommand};
use serde_json::{Value, json};

use super::remote::At;
use super::table::{Table, list, printable, text, time};
use crate::console::hash_password;

#[derive(Subcommand, Debug)]
pub(super) enum CrmCommand {
    /// Look at a CRM: whether it answers, takes the key, whose login it is, how its clock goes, which quirks it has.
    Check(Check),
}

#[derive(clap::Args, Debug)]
pub(super) struct Check {
    /// Which: the name of a `[crm.NAME]` section; all by default.
    #[arg(value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Tail {
    /// Only this plugin's.
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Only those that did not end well.
    #[arg(long)]
    failed: bool,
    #[command(flatten)]
    at: At,
    /// As JSON, one line each.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Audit {
    /// Rows.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn crm(CrmCommand::Check(args): CrmCommand) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    let accounts = match &args.account {
        Some(account) => vec![account.clone()],
        None => {
            let crms = remote.get("crm")?;
            let with_address = |crm: &&Value| crm.get("reachable").is_some_and(|reachable| !reachable.is_null());
            crms.as_array().into_iter().flatten().filter(with_address).map(|crm| text(crm, "account")).collect()
        }
    };
    ensure!(!accounts.is_empty(), "no `[crm.NAME]` has a `url`: there is nothing to check");
    let (mut good, mut all) = (true, Vec::new());
    for account in accounts {
        let checkup = remote.post(&format!("crm/{account}/check"), &json!({}))?;
        good &= list(&checkup, "problems").next().is_none();
        if !args.json {
            print_checkup(&account, &checkup);
        }
        all.push(json!({ "account": account, "checkup": checkup }));
    }
    if args.json {
        outln!("{:#}", Value::Array(all));
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One CRM's state in lines.
pub(super) fn print_checkup(account: &str, checkup: &Value) {
    let yes = |key: &str| if checkup.get(key) == Some(&Value::Bool(true)) { "yes" } else { "no" };
    outln!("{account}");
    outln!("  answers        {} ({} ms)", yes("reachable"), text(checkup, "took_ms"));
    outln!("  takes the key  {}", yes("key_accepted"));
    outln!("  login's user   {}", text(checkup, "user"));
    outln!("  clock ahead    {} s", text(checkup, "clock_ahead_s"));
    let server: Vec<String> = list(checkup, "server").filter_map(|word| word.as_str().map(printable)).collect();
    outln!("  server         {}", server.join(", "));
    for quirk in list(checkup, "quirks") {
        let found = match quirk.get("found") {
            Some(Value::Bool(true)) => "found",
            Some(Value::Bool(false)) => "not found",
            _ => "can't be told",
        };
        outln!("  quirk          {}: {found}. {}", text(quirk, "name"), text(quirk, "meaning"));
    }
    for problem in list(checkup, "problems") {
        outln!("  ! {}", printable(problem.as_str().unwrap_or_default()));
    }
}

pub(super) fn tail(args: &Tail) -> anyhow::Result<ExitCode> {
    let remote = args.at.remote()?;
    if !args.json {
        errln!("Attempts, as they end. Ctrl-C ends this.");
    }
    remote.listen("live", |name, data| {
        if name == "missed" {
            errln!("… {data} are not shown");
        } else if let Ok(ended) = serde_json::from_str::<Value>(data) {
            tell_attempt(args, &ended);
        }
        super::out::is_open()
    })?;
    // Who no longer reads has seen enough.
    ensure!(!super::out::is_open(), "the host ended");
    Ok(ExitCode::SUCCESS)
}

fn tell_attempt(args: &Tail, ended: &Value) {
    let good = matches!(text(ended, "outcome").as_str(), "done" | "skipped");
    let other = args.plugin.as_ref().is_some_and(|plugin| *plugin != text(ended, "plugin"));
    if other || args.failed && good {
        return;
    }
    if args.json {
        outln!("{ended}");
        return;
    }
    let [event, entity, plugin, outcome, code, delivery, took, reason] =
        ["name", "entity", "plugin", "outcome", "code", "delivery", "took_ms", "reason"].map(|key| text(ended, key));
    let record = if entity.is_empty() { String::new() } else { format!(" ({entity})") };
    let code = if code.is_empty() { String::new() } else { format!(" {code}") };
    outln!(
        "{}  {event}{record} → {plugin}: {outcome}{code}, delivery {delivery}, {took} ms {}",
        time(ended, "ended_at"),
        printable(&reason)
    );
}

pub(super) fn audit(args: &Audit) -> anyhow::Result<ExitCode> {
    let page = args.at.remote()?.list("audit", &[], None, args.limit)?;
    if args.json {
        outln!("{page:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["time", "who", "what", "to what", "details"]);
    for line in list(&page, "items") {
        let [who, action, object, details] = ["who", "action", "object", "details"].map(|key| text(line, key));
        table.row([time(line, "at"), who, action, object, details]);
    }
    table.print("Nothing yet.");
    Ok(ExitCode::SUCCESS)
}

/// Asks for a password twice, or takes it from standard input, and prints its hash.
pub(super) fn password() -> anyhow::Result<ExitCode> {
    let password = if std::io::stdin().is_terminal() {
        let first = rpassword::prompt_password("Password: ").context("no password could be read")?;
        let again = rpassword::prompt_password("Once more: ").context("no password could be read")?;
        ensure!(first == again, "these are two different passwords");
        first
    } else {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("no password could be read")?;
        crate::text::unmarked(&line).trim_end_matches(['\n', '\r']).to_owned()
    };
    // Nobody could type it again.
    if let Some(found) = crate::text::invisible(&password) {
        bail!("the password holds {found}: type it anew");
    }
    ensure!(password.chars().count() >= 10, "a password has at least 10 characters");
    outln!("{}", hash_password(&password).map_err(anyhow::Error::msg)?);
    Ok(ExitCode::SUCCESS)
}

/// A way into the console for whoever may read the data folder.
pub(super) fn console(at: &At) -> anyhow::Result<ExitCode> {
    let made = at.remote()?.post("console/link", &json!({}))?;
    outln!("{}", text(&made, "link"));
    errln!("It opens the console as an administrator: once, and within ten minutes.");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completions(shell: clap_complete::Shell) -> ExitCode {
    // The library panics where it can't write: it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::Cli::command(), "salesman-host", &mut script);
    out!("{}", String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

/// A file that goes with the host.
pub(super) fn grafana() -> ExitCode {
    out!("{}", include_str!("../../grafana.json"));
    ExitCode::SUCCESS
}

/// Where a configuration lies, for the words of `doctor`.
pub(super) fn shown(path: Option<&PathBuf>) -> String {
    path.map_or_else(|| "the defaults".to_owned(), |path| format!("`{}`", path.display()))
}
