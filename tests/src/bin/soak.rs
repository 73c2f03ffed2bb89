//! Steady load for as long as is asked: memory, file handles and latency at the start and at the end. Prints JSON, and
//! fails when they are not flat.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use integration_tests::host::{Host, Setup};
use integration_tests::load;
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    /// The folder with the sample plugins.
    #[arg(long)]
    plugins: PathBuf,
    /// The folder with the hostile plugin.
    #[arg(long)]
    guests: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Events per second.
    #[arg(long, default_value_t = 300)]
    rate: u32,
}

/// What is looked at in one stretch of time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    memory_mib: f64,
    handles: usize,
    p50_ms: f64,
    p99_ms: f64,
    store_mib: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match soak(Arguments::parse()).await {
        Ok(figures) => {
            println!("{figures:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the soak failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn soak(arguments: Arguments) -> anyhow::Result<Value> {
    let folder = tempfile::tempdir()?;
    std::fs::copy(arguments.guests.join("guests.wasm"), folder.path().join("guests.wasm"))?;
    std::fs::copy(arguments.plugins.join("audit.wasm"), folder.path().join("audit.wasm"))?;
    // Small, so that retention by size works all the time.
    let host = Setup::new()?
        .plugins(folder.path())
        .more("[retention]\nmax_mib = 32\n[retry]\nattempts = 2\nfirst_ms = 100\n[breaker]\nfailures = 10000")
        .start()
        .await?;
    let stretch = Duration::from_secs((arguments.minutes * 60 / 10).max(5));
    let mut samples = Vec::new();
    for round in 0..10 {
        let answers = load::sins(&host.hook(), arguments.rate, 8, stretch).await?;
        let sample = sample(&host, &answers)?;
        eprintln!("{:>3} % {sample:?}", (round + 1) * 10);
        samples.push(sample);
    }
    host.idle(Duration::from_secs(120)).await?;
    // The first stretch warms everything up.
    let (first, last) = samples.get(1).zip(samples.last()).context("there are no samples")?;
    let figures = |sample: &Sample| {
        json!({
            "memory_mib": sample.memory_mib,
            "file_handles": sample.handles,
            "answer_p50_ms": sample.p50_ms,
            "answer_p99_ms": sample.p99_ms,
            "store_mib": sample.store_mib,
        })
    };
    let result = json!({
        "minutes": arguments.minutes,
        "events_per_second": arguments.rate,
        "start": figures(first),
        "end": figures(last),
    });
    eprintln!("{result}");
    ensure!(last.memory_mib < first.memory_mib * 1.2 + 16.0, "the memory grows");
    ensure!(last.handles <= first.handles + 16, "file handles are left open");
    Ok(result)
}

fn sample(host: &Host, answers: &Value) -> anyhow::Result<Sample> {
    let pid = host.pid().context("the host is not running")?;
    let number = |key: &str| answers.get(key).and_then(Value::as_f64).unwrap_or_default();
    let mib = |bytes: u64| (bytes as f64 / 1_048_576.0 * 10.0).round() / 10.0;
    Ok(Sample {
        memory_mib: mib(host.memory("VmRSS")? << 10),
        handles: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        p50_ms: number("p50_ms"),
        p99_ms: number("p99_ms"),
        store_mib: mib(std::fs::metadata(host.data().join("journal.sqlite"))?.len()),
    })
}
