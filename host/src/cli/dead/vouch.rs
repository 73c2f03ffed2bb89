//! `dead show`, `dead done` and `dead send`: what is unknown of a dead letter's writes, and an operator's word on it.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::remote::At;
use crate::cli::table::{Table, list, printable, text, time};
use crate::crm::target;

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Show {
    /// The delivery's number.
    #[arg(value_name = "NUMBER")]
    id: i64,
    #[command(flatten)]
    at: At,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Done {
    /// The delivery's number.
    #[arg(value_name = "NUMBER")]
    id: i64,
    /// The number of the record that was added, for a write that adds one.
    #[arg(long, value_name = "NUMBER")]
    record: Option<u64>,
    /// One write, by the key that `dead show` prints; all that are in doubt by default.
    #[arg(long, value_name = "KEY")]
    write: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Send {
    /// The delivery's number.
    #[arg(value_name = "NUMBER")]
    id: i64,
    /// One write, by the key that `dead show` prints; all that are in doubt by default.
    #[arg(long, value_name = "KEY")]
    write: Option<String>,
    #[command(flatten)]
    at: At,
}

pub(in crate::cli) fn show(args: &Show) -> anyhow::Result<ExitCode> {
    let path = args.at.remote()?.get(&format!("deliveries/{}", args.id))?;
    if args.json {
        outln!("{path:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let none = Value::Null;
    let of = |key: &str| path.get(key).unwrap_or(&none);
    let (event, delivery) = (of("event"), of("delivery"));
    let [name, entity, id] = ["name", "entity", "id"].map(|key| printable(&text(event, key)));
    let [plugin, state, code, reason] =
        ["plugin", "state", "code", "reason"].map(|key| printable(&text(delivery, key)));
    outln!("Delivery {} of {name} {entity} ({id}) to {plugin}: {state} {code}", args.id);
    if !reason.is_empty() {
        outln!("{reason}");
    }
    let mut table = Table::new(&["write", "call", "record", "sent", "state"]);
    for write in list(delivery, "writes") {
        let state = match (is_uncertain(write), write.get("answered_at").is_some_and(Value::is_number)) {
            (true, _) => "unknown whether it was done",
            (false, true) => "done",
            (false, false) => "to be sent",
        };
        let [key, call, record] = ["key", "call", "record"].map(|key| text(write, key));
        table.row([key, call, record, time(write, "sent_at"), state.to_owned()]);
    }
    table.print("It wrote nothing.");
    let uncertain: Vec<&Value> = list(delivery, "writes").filter(|write| is_uncertain(write)).collect();
    if uncertain.is_empty() || state != "dead" {
        return Ok(ExitCode::SUCCESS);
    }
    let adds = uncertain.iter().any(|write| target::call_adds(&text(write, "call")));
    let record = if adds { " --record NUMBER" } else { "" };
    outln!("Look into the CRM, then say one of:");
    outln!(
        "  salesman-host dead done {}{record}   it was done: the plugin goes on, and nothing is sent again",
        args.id
    );
    outln!("  salesman-host dead send {}   send it all the same: if it was done, it is done twice", args.id);
    outln!("  salesman-host delivery drop {}   give the delivery up", args.id);
    if uncertain.len() > 1 {
        outln!("`--write KEY` speaks of one of several; the delivery runs again when none is in doubt.");
    }
    Ok(ExitCode::SUCCESS)
}

pub(in crate::cli) fn done(args: &Done) -> anyhow::Result<ExitCode> {
    let body = json!({ "record": args.record, "write": args.write });
    say(args.id, &args.at, "done", &body)
}

pub(in crate::cli) fn send(args: &Send) -> anyhow::Result<ExitCode> {
    say(args.id, &args.at, "send", &json!({ "write": args.write }))
}

fn say(id: i64, at: &At, word: &str, body: &Value) -> anyhow::Result<ExitCode> {
    let remote = at.remote()?;
    let taken = &remote.post(&format!("deliveries/{id}/{word}"), body)?;
    crate::cli::restore::remind(&remote);
    let number = |key: &str| taken.get(key).and_then(Value::as_u64).unwrap_or_default();
    match number("uncertain") {
        0 => outln!("Delivery {id} runs again."),
        left => outln!("{} taken; {left} of its writes are still in doubt: `dead show {id}`.", number("changed")),
    }
    Ok(ExitCode::SUCCESS)
}

fn is_uncertain(write: &Value) -> bool {
    write.get("uncertain") == Some(&Value::Bool(true))
}
