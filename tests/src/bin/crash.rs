//! Kills the host again and again under load, and looks whether anything that it acknowledged is lost. Prints JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use integration_tests::crash;
use integration_tests::host::Setup;

#[derive(Parser)]
struct Arguments {
    /// The folder with the sample plugins; not used here.
    #[arg(long)]
    plugins: PathBuf,
    /// The folder with the hostile plugin.
    #[arg(long)]
    guests: PathBuf,
    /// How often the host is killed.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = |round: usize| {
        if round.is_multiple_of(20) {
            eprintln!("{round} of {} kills", arguments.rounds);
        }
    };
    let run = async { crash::rounds(Setup::new()?.plugins(&arguments.guests), arguments.rounds, told).await };
    match run.await {
        Ok(report) => {
            println!("{:#}", report.figures());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the crash test failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
