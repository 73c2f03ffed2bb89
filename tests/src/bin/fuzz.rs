//! Damages input for everything that reads what others write, for some minutes. Prints JSON; what was found is kept in a file
//! below `target/fuzz`, and its seed shows it again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use integration_tests::fuzz::{self, Found, Options, Target};

#[derive(Parser)]
struct Arguments {
    /// The folder with the sample plugins.
    #[arg(long)]
    plugins: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Where to begin: the same inputs come again.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this.
    #[arg(long, value_enum)]
    only: Option<Target>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the fuzzing failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1 << 32));
    let targets = arguments.only.map_or(Target::ALL.to_vec(), |only| vec![only]);
    eprintln!("seed {seed}");
    // Readers that fail on a file are caught, and would fill the screen.
    std::panic::set_hook(Box::new(|_| ()));
    let time = Duration::from_secs_f64(arguments.minutes.clamp(0.0, 100_000.0) * 60.0);
    let report = fuzz::run(&Options { seed, time, targets }, &arguments.plugins).await?;
    println!("{:#}", report.figures());
    let Some(Found { target, seed: found_at, why, input }) = report.found else { return Ok(ExitCode::SUCCESS) };
    let folder = xtask::root().join("target/fuzz");
    std::fs::create_dir_all(&folder).context("failed to make `target/fuzz`")?;
    let file = folder.join(format!("{}-{found_at}", target.name()));
    std::fs::write(&file, input).with_context(|| format!("failed to write `{}`", file.display()))?;
    let name = target.name();
    eprintln!("{name}: {why}\nthe input is in `{}`; again: --seed {}", file.display(), found_at.wrapping_sub(1));
    Ok(ExitCode::FAILURE)
}
