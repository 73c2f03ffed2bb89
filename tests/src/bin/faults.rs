//! Makes trouble from below for the host, for some seconds: power, disk, clock, reader, damage. Prints JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use integration_tests::faults::{self, Kind, Options};

#[derive(Parser)]
struct Arguments {
    /// The folder with the sample plugins; not used here.
    #[arg(long)]
    plugins: PathBuf,
    /// The folder with the hostile plugin.
    #[arg(long)]
    guests: PathBuf,
    /// How long, all kinds together; each is tried once, however short the time is.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where to begin: the same trouble comes again.
    #[arg(long)]
    seed: Option<u64>,
    /// Only this.
    #[arg(long, value_enum)]
    only: Option<Kind>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { guests, seconds, seed, only, .. } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| rand::random_range(0..1 << 32));
    let kinds = only.map_or(Kind::ALL.to_vec(), |only| vec![only]);
    let options = Options { seed, time: Duration::from_secs(seconds), kinds, guests };
    match faults::run(&options, |round| eprintln!("{round}")).await {
        Ok(report) => {
            println!("{:#}", report.figures());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("found: {error:#}");
            ExitCode::FAILURE
        }
    }
}
