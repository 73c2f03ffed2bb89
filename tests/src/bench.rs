//! The benchmark: what an event costs, measured side by side in one run. Prints JSON; the notes go to standard error.
//!
//! Absolute times are the machine's; the ratios are what is compared from run to run. The load generator runs on the same
//! processors as the host.

#[path = "bench/backlog.rs"]
mod backlog;
#[path = "bench/bare.rs"]
mod bare;
#[path = "bench/console.rs"]
mod console;
#[path = "bench/fairness.rs"]
mod fairness;
#[path = "bench/php.rs"]
mod php;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use integration_tests::host::{Host, Setup};
use integration_tests::load;
use salesman_host::capabilities::{Outside, Reach};
use salesman_host::clock::Clock;
use salesman_host::event::{Event, EventId, Via};
use salesman_host::journal::{self, Journal};
use salesman_host::outcome::Outcome;
use salesman_host::plugin::{Grants, Limits, Permissions};
use salesman_host::sandbox::{self, Sandbox};
use salesman_host::secret::Scrubber;
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    /// The folder with the sample plugins.
    #[arg(long)]
    plugins: PathBuf,
    /// The folder with the no-op plugin.
    #[arg(long)]
    guests: PathBuf,
    /// Seconds of each load.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Deliveries of the large backlog.
    #[arg(long, default_value_t = 1_000_000)]
    backlog: usize,
    /// Measure only this: sandbox, intake, settled, memory, fairness, backlog, console, php.
    #[arg(long)]
    only: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match bench(Arguments::parse()).await {
        Ok(figures) => {
            println!("{figures:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(arguments: Arguments) -> anyhow::Result<Value> {
    let duration = Duration::from_secs(arguments.seconds);
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| only == name);
    let guest = arguments.guests.join("guests.wasm");
    let mut figures = serde_json::Map::new();
    if wanted("sandbox") {
        eprintln!("sandbox against a bare loop …");
        figures.insert("sandbox".to_owned(), sandbox_against_bare(&guest).await?);
    }
    if wanted("intake") {
        eprintln!("intake at 2,000 events/s …");
        let host = Setup::new()?.start().await?;
        figures.insert("ingest_paced".to_owned(), load::paced(&host.hook(), 2_000, 32, duration).await?);
        eprintln!("intake at saturation …");
        figures.insert("ingest_saturated".to_owned(), load::saturated(&host.hook(), 64, duration).await?);
    }
    if wanted("settled") {
        eprintln!("intake to settled …");
        figures.insert("ingest_to_settled".to_owned(), ingest_to_settled(&arguments.plugins).await?);
    }
    if wanted("memory") {
        eprintln!("memory at rest …");
        let host = Setup::new()?.plugins(&arguments.plugins).start().await?;
        figures.insert("idle_resident_mib_with_four_plugins".to_owned(), json!(resident(&host)?));
    }
    if wanted("fairness") {
        eprintln!("a healthy plugin beside a bad one …");
        figures.insert("fairness".to_owned(), fairness::measure(&std::fs::read(&guest)?, duration).await?);
    }
    if wanted("backlog") {
        eprintln!("a large backlog …");
        figures.insert("backlog".to_owned(), backlog::measure(arguments.backlog).await?);
    }
    if wanted("console") {
        eprintln!("the console on a large store …");
        figures.insert("console".to_owned(), console::measure(arguments.backlog, duration).await?);
    }
    if wanted("php") {
        eprintln!("an event under PHP …");
        figures.insert("php".to_owned(), php::measure().await?);
    }
    Ok(Value::Object(figures))
}

/// One no-op delivery, in our sandbox and in a bare loop over the same component, in turns.
async fn sandbox_against_bare(file: &Path) -> anyhow::Result<Value> {
    const ROUNDS: usize = 20;
    const CALLS: usize = 2_000;
    let bytes = std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    let began = Instant::now();
    let sandbox =
        Sandbox::new(&sandbox::Options { instances: 32, cache: None, compiler: sandbox::compiler::Compiler::Here })
            .map_err(anyhow::Error::msg)?;
    let plugin = sandbox.compile(&bytes)?;
    let compile = began.elapsed();
    let bare = bare::Bare::new(&bytes)?;
    let folder = tempfile::tempdir()?;
    let journal = Journal::open(&journal::Options::in_folder(folder.path()), Clock::Wall)?;
    let event = Event {
        id: EventId::new(),
        account: "main".to_owned(),
        name: "test.sin".to_owned(),
        received_at: 0,
        via: Via::Form,
        actor: Some(1),
        entity: None,
        fields: json!({ "sin": "none", "did": "4", "stepOld": "20", "stepNew": "40" }).to_string(),
    };
    let grants = Arc::new(Grants::as_asked(plugin.manifest.name.clone(), Permissions::default(), []));
    let (outside, settings): (_, Arc<str>) = (Outside::new().map_err(anyhow::Error::msg)?, "{}".into());
    let limits = Limits::default();
    let handle = journal.handle();

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            let reach = Reach {
                grants: Arc::clone(&grants),
                crm: None,
                account: event.account.clone(),
                event: event.id,
                delivery: journal::DeliveryId(0),
                journal: handle.clone(),
                state: handle.state(&plugin.manifest.name, &event.account),
                outside: outside.clone(),
                settings: Arc::clone(&settings),
                scrubber: Scrubber::default(),
            };
            let (outcome, _) = sandbox.invoke(&plugin, event.clone(), 1, reach, &limits).await;
            anyhow::ensure!(outcome == Outcome::Done, "{outcome:?}");
        }
        ours.push(began.elapsed() / u32::try_from(CALLS)?);
        let began = Instant::now();
        for _ in 0..CALLS {
            bare.call(&event.fields).await?;
        }
        theirs.push(began.elapsed() / u32::try_from(CALLS)?);
    }
    ours.sort();
    theirs.sort();
    let micros = |times: &[Duration]| times.get(ROUNDS / 2).copied().unwrap_or_default().as_secs_f64() * 1e6;
    let (ours, theirs) = (micros(&ours), micros(&theirs));
    Ok(json!({
        "delivery_us": round(ours),
        "bare_loop_us": round(theirs),
        "ratio": round(ours / theirs),
        "aim_ratio": 1.3,
        "engine_and_compile_ms": compile.as_millis(),
    }))
}

async fn ingest_to_settled(plugins: &Path) -> anyhow::Result<Value> {
    const EVENTS: usize = 20_000;
    // One plugin that wants everything: one delivery per event.
    let folder = tempfile::tempdir()?;
    std::fs::copy(plugins.join("audit.wasm"), folder.path().join("audit.wasm"))?;
    let host = Setup::new()?.plugins(folder.path()).start().await?;
    let began = Instant::now();
    load::burst(&host.hook(), 64, EVENTS).await?;
    let accepted = began.elapsed();
    host.idle(Duration::from_secs(120)).await?;
    let settled = began.elapsed();
    Ok(json!({
        "events": EVENTS,
        "accepted_after_s": round(accepted.as_secs_f64()),
        "settled_after_s": round(settled.as_secs_f64()),
        "events_per_second": round(EVENTS as f64 / settled.as_secs_f64()),
    }))
}

/// Mebibytes that the host's process holds in memory.
fn resident(host: &Host) -> anyhow::Result<f64> {
    Ok(round(host.memory("VmRSS")? as f64 / 1024.0))
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
