//! The demo: a CRM stand-in, the host, four plugins; captured traffic in three shapes, then a small story.
//!
//! Every expected effect is checked. With `--once` the program ends then; without, it stays up for events sent by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use integration_tests::host::{Host, Setup, TOKEN};
use integration_tests::stand_in::{Hook, Options, Shape, StandIn};
use integration_tests::{traffic, wait_until};
use serde_json::{Value, json};

/// How long an effect may take: a condition is waited for, so that a busy machine only makes it slower.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Arguments {
    /// The folder with the plugins' files.
    #[arg(long)]
    plugins: PathBuf,
    /// End after checking every effect.
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match demo(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(arguments: Arguments) -> anyhow::Result<()> {
    let crm = StandIn::start(Options { demo_data: true, ..Options::default() }).await?;
    println!("CRM stand-in   {}", crm.base_url());
    let started = Instant::now();
    let chat = format!(
        "[plugins.notify]\nsettings = {{ url = \"{0}/chat\" }}\n[plugins.notify.grants]\nhttp_private = [\"{0}\"]\n",
        crm.base_url()
    );
    let mut host = Setup::new()?.crm(&crm).plugins(arguments.plugins).more(&chat).start().await?;
    println!("host           {} (ready in {})", host.base(), milliseconds(started.elapsed()));
    println!("console        {} (good once)", host.link().await?);
    plugins(&host).await?;

    replay(&host, &crm).await?;
    story(&host, &crm).await?;
    ensure!(!host.log().contains(crm.api_key()), "the API key is in the host's log");
    println!("\nEvery expected effect was there.");

    if arguments.once {
        let code = host.stop().await?;
        ensure!(code == Some(0), "the host did not stop gracefully: exit code {code:?}\n{}", host.log());
        println!("The host stopped gracefully.");
        return Ok(());
    }
    println!(
        "\nBoth stay up until Ctrl-C. Look at the console, or send an event by hand and ask what became of it:\n\n  \
         {}\n  \
         curl -d 'event=deal.change.step&did=1&stepOld=20&stepNew=80&iduser1=2' {}/events/{TOKEN}\n  \
         curl -H 'Authorization: Bearer {}' {}/api/v1/events/ID\n",
        host.link().await?,
        host.base(),
        host.token()?,
        host.base()
    );
    tokio::signal::ctrl_c().await.context("failed to wait for Ctrl-C")?;
    host.stop().await?;
    Ok(())
}

async fn plugins(host: &Host) -> anyhow::Result<()> {
    let list = host.api("plugins").await?;
    let list = list.as_array().context("the plugins are no list")?;
    for plugin in list {
        println!("  plugin       {:<13} {}", text(plugin, "name"), text(plugin, "description"));
    }
    ensure!(list.len() == 4, "four plugins were expected, {} are loaded:\n{}", list.len(), host.log());
    Ok(())
}

/// A captured request that was sent, and what the host says of it now.
struct Sent {
    captured: String,
    path: Value,
}

impl Sent {
    fn event(&self, key: &str) -> String {
        self.path.get("event").map(|event| text(event, key)).unwrap_or_default()
    }

    fn duplicate(&self, key: &str) -> Option<String> {
        self.path.pointer("/event/duplicate").map(|duplicate| text(duplicate, key))
    }
}

/// Sends every captured request, in every shape, as it was captured.
async fn replay(host: &Host, crm: &StandIn) -> anyhow::Result<()> {
    println!("\nCaptured traffic of a real CRM, as it was sent:\n");
    println!("  {:<10} {:>7} {:>9} {:>12} {:>12}", "shape", "events", "accepted", "answer p50", "slowest");
    let mut ids = Vec::new();
    for (shape, file) in [("form", "events-form"), ("query", "events-get"), ("json", "webhooks-json")] {
        let mut times = Vec::new();
        for captured in traffic::captured(file)? {
            let began = Instant::now();
            let (status, answer) = host
                .send(&captured.method, captured.query(), captured.content_type(), captured.body.clone().into_bytes())
                .await?;
            times.push(began.elapsed());
            ensure!(status == 202, "`{}` was not accepted: {status} {answer}", captured.event);
            ids.push((captured.event, text(&answer, "id")));
        }
        times.sort();
        let (middle, slowest) = (times.get(times.len() / 2), times.last());
        println!(
            "  {shape:<10} {:>7} {:>9} {:>12} {:>12}",
            times.len(),
            times.len(),
            milliseconds(middle.copied().unwrap_or_default()),
            milliseconds(slowest.copied().unwrap_or_default())
        );
        // What waits can be folded into: the next shape finds nothing that waits, however slow the machine is.
        host.idle(PATIENCE).await?;
    }
    let mut sent = Vec::new();
    for (captured, id) in ids {
        sent.push(Sent { captured, path: host.settled(&id).await? });
    }
    outcomes(host, &sent)?;
    recognised(&sent)?;
    effects(crm, &sent)
}

/// What each plugin made of the events: those that were not recognised as sent twice are all counted by `audit`.
fn outcomes(host: &Host, sent: &[Sent]) -> anyhow::Result<()> {
    let mut outcomes: BTreeMap<(String, String), usize> = BTreeMap::new();
    for delivery in sent.iter().flat_map(|sent| deliveries(&sent.path)) {
        *outcomes.entry((text(&delivery, "plugin"), text(&delivery, "state"))).or_default() += 1;
    }
    println!("\n  What became of them:");
    for ((plugin, state), count) in &outcomes {
        println!("  {plugin:<13} {state:<8} {count:>5}");
    }
    for event in sent {
        let audited = deliveries(&event.path)
            .iter()
            .any(|delivery| text(delivery, "plugin") == "audit" && text(delivery, "state") == "done");
        ensure!(
            audited != event.duplicate("how").is_some(),
            "`{}` is either counted once or recognised as sent twice: {}",
            event.captured,
            event.path
        );
    }
    ensure!(
        outcomes.keys().all(|(_, state)| state != "dead"),
        "no captured event becomes a dead letter:\n{}",
        host.log()
    );
    Ok(())
}

/// What was recognised as sent twice is what a look at the traffic calls so, and nothing else: a second `*.add` of a
/// record that was not deleted in between, or the same words as an event that still waited.
fn recognised(sent: &[Sent]) -> anyhow::Result<()> {
    println!(
        "\n  Recognised as sent twice, kept and not delivered again (the replay sends each addition three times):"
    );
    let mut reasons: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (position, event) in sent.iter().enumerate() {
        let earlier = sent.get(..position).unwrap_or_default();
        let (name, entity) = (event.event("name"), event.event("entity"));
        let deletion = format!("{}.delete", name.trim_end_matches(".add"));
        let added_before = (name.ends_with(".add") && !entity.is_empty())
            && earlier
                .iter()
                .rev()
                .filter(|other| other.event("entity") == entity)
                .find_map(|other| match other.event("name") {
                    other if other == name => Some(true),
                    other if other == deletion => Some(false),
                    _ => None,
                })
                .unwrap_or(false);
        let Some(how) = event.duplicate("how") else {
            ensure!(!added_before, "the second `{name}` of {entity} was not recognised");
            continue;
        };
        let first = earlier.iter().find(|other| Some(other.event("id")) == event.duplicate("of"));
        let first =
            first.with_context(|| format!("`{name}` of {entity} is said to repeat an event that is not there"))?;
        let why = match how.as_str() {
            "repeated" if added_before && first.event("name") == name && first.event("entity") == entity => {
                "the record was added already"
            }
            "folded" if first.event("name") == name && first.path.get("fields") == event.path.get("fields") => {
                "the same words were still waiting"
            }
            _ => bail!("`{name}` of {entity} is no repetition ({how}) of `{}`", first.event("name")),
        };
        *reasons.entry((name, why.to_owned())).or_default() += 1;
    }
    for ((name, why), count) in &reasons {
        println!("  {name:<13} {count:>5}   {why}");
    }
    Ok(())
}

/// Tasks and messages are as many as the events that were not recognised as sent twice ask for.
fn effects(crm: &StandIn, sent: &[Sent]) -> anyhow::Result<()> {
    let delivered = |names: &[&str]| -> usize {
        let fresh = sent.iter().filter(|event| event.duplicate("how").is_none());
        fresh.filter(|event| names.contains(&event.event("name").as_str())).count()
    };
    let tasks = crm.tasks().len();
    ensure!(tasks == 3, "the move to stage 40 came in three shapes, {tasks} tasks were added");
    let (messages, expected) =
        (crm.messages().len(), delivered(&["deal.close", "invoice.doit", "lead.add", "lead.setuser"]));
    ensure!(
        messages == expected,
        "{expected} messages were expected (closed deal, paid invoices, leads), not {messages}"
    );
    Ok(())
}

/// People work in the CRM; what they see afterwards is checked.
async fn story(host: &Host, crm: &StandIn) -> anyhow::Result<()> {
    crm.forget();
    let newest = host.api("events?limit=1").await?;
    let before_story = newest.pointer("/items/0/id").and_then(Value::as_str).unwrap_or_default().to_owned();
    println!("\nA small story. The CRM is wired to the host, and fires its events while its users wait:");

    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Form)]);
    let before = crm.tasks().len();
    act("Oleg moves the deal 2 to the stage 40% (direct event, form)", crm.ui_move_deal(2, "40", 4)).await?;
    let task = wait_until("a task for the deal", PATIENCE, async || Ok(crm.tasks().get(before).cloned())).await?;
    println!("  → a task in the CRM: «{}», for employee {}", task.text("title"), task.int("iduser"));
    ensure!(
        task.int("did") == 2 && task.int("iduser") == 4,
        "the task belongs to the deal and to its responsible employee"
    );

    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Webhook)]);
    let client =
        json!({ "title": "Вектор", "phone": "8 (495) 765-43-21", "mail_url": "v@vector.test", "address": "Тверь" });
    let clid = act("Anna adds a client with the phone 8 (495) 765-43-21 (webhook, JSON)", crm.ui_add_client(client, 2))
        .await?;
    wait_until("the client's phone", PATIENCE, async || {
        Ok(crm.client(clid).filter(|client| client.text("phone") == "+74957654321").map(drop))
    })
    .await?;
    println!("  → the phone in the CRM: +74957654321");

    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Query)]);
    let person = json!({ "person": "Орлов Иван", "clid": clid, "mob": "8-916-765-43-21", "mail": "o@vector.test", "ptitle": "Юрист" });
    let pid =
        act("Anna adds a contact with the mobile 8-916-765-43-21 (GET, query)", crm.ui_add_person(person, 2)).await?;
    let person = wait_until("the contact's mobile", PATIENCE, async || {
        Ok(crm.person(pid).filter(|person| person.text("mob") == "+79167654321"))
    })
    .await?;
    let kept = (person.text("person"), person.text("mail"), person.text("ptitle"), person.int("iduser"));
    println!(
        "  → the mobile in the CRM: +79167654321; untouched: {}, {}, {}, employee {}",
        kept.0, kept.1, kept.2, kept.3
    );
    ensure!(
        person.text("person") == "Орлов Иван" && person.text("mail") == "o@vector.test" && person.int("iduser") == 2,
        "an update of one field left the others as they were"
    );

    crm.set_hooks(vec![Hook::new(host.hook(), Shape::Form)]);
    act("Anna closes the deal 1 (direct event, form)", crm.ui_close_deal(1, "Победа полная", 5000.0, 2)).await?;
    let message = wait_until("a message in the chat", PATIENCE, async || Ok(crm.messages().first().cloned())).await?;
    println!("  → in the chat: {}", text(&message.body, "text"));

    host.idle(PATIENCE).await?;
    print_paths(host, &before_story).await
}

/// Does something in the CRM, and shows how long its user waited.
async fn act<T>(what: &str, action: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let began = Instant::now();
    let result = action.await?;
    println!("\n  {what}\n    the user waited {} for the save", milliseconds(began.elapsed()));
    Ok(result)
}

/// The events after `before`, oldest first, with everything that became of each.
async fn print_paths(host: &Host, before: &str) -> anyhow::Result<()> {
    println!("\nEach event's path:\n");
    println!(
        "  {:<18} {:<6} {:<10} {:<6} {:<13} {:<8} {:>9} {:>9}  calls and reasons",
        "event", "via", "record", "actor", "plugin", "outcome", "time", "cpu"
    );
    let list = host.api("events?limit=40").await?;
    // Ids sort by arrival.
    let items = list.get("items").and_then(Value::as_array);
    let mut ids: Vec<String> = items.into_iter().flatten().map(|event| text(event, "id")).collect();
    ids.retain(|id| id.as_str() > before);
    ids.reverse();
    for id in ids {
        let path = host.settled(&id).await?;
        let event = path.get("event").cloned().unwrap_or_default();
        let head = format!(
            "  {:<18} {:<6} {:<10} {:<6}",
            text(&event, "name"),
            text(&event, "via"),
            text(&event, "entity"),
            event.get("actor").map_or(String::new(), Value::to_string)
        );
        let mut head = head.as_str();
        let blank = " ".repeat(head.chars().count());
        for delivery in deliveries(&path) {
            let attempt = delivery.pointer("/attempts/0").cloned().unwrap_or_default();
            let micros = |pointer: &str| {
                Duration::from_micros(attempt.pointer(pointer).and_then(Value::as_u64).unwrap_or_default())
            };
            let calls: Vec<String> = attempt
                .get("calls")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|call| text(call, "call"))
                .collect();
            let reason = text(&attempt, "reason");
            let notes = if calls.is_empty() { reason } else { calls.join(", ") };
            println!(
                "{head} {:<13} {:<8} {:>9} {:>9}  {notes}",
                text(&delivery, "plugin"),
                text(&delivery, "state"),
                milliseconds(micros("/usage/wall")),
                milliseconds(micros("/usage/cpu"))
            );
            head = &blank;
        }
    }
    Ok(())
}

fn deliveries(path: &Value) -> Vec<Value> {
    path.get("deliveries").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}
