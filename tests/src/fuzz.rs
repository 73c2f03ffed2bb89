//! Damaged input for everything that reads what others write: the intake, the API, plugin files and manifests, the CRM's
//! answers, the configuration.
//!
//! - A seed gives the same inputs in the same order. What fails is told with its seed, and can be written to a file.
//! - Not crashing is not enough: what is accepted has its normal form and comes out the same a second time, what is refused is
//!   refused with a code or in words, no secret is quoted, and each input has a bounded time and the host bounded memory.
//!
//! Not here: how input is damaged (`mutate`).

mod corpus;
mod judge;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::Setup;
use crate::mutate::mutated;
use judge::Judge;

/// The longest that one input may take, on a machine that is busy with something else.
const LONGEST: Duration = Duration::from_secs(10);
/// Memory that the host may reach, in MiB.
const MOST_MEMORY: u64 = 400;

/// What is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Target {
    /// Events in every shape, to a running host.
    Intake,
    /// Questions and wishes, to a running host.
    Api,
    /// A plugin's file, as the host looks at it, and as the process that compiles does.
    Plugin,
    /// A manifest's text.
    Manifest,
    /// What a CRM answers.
    Answer,
    /// The configuration.
    Config,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Intake, Self::Api, Self::Plugin, Self::Manifest, Self::Answer, Self::Config];

    /// Its name in reports and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Api => "api",
            Self::Plugin => "plugin",
            Self::Manifest => "manifest",
            Self::Answer => "answer",
            Self::Config => "config",
        }
    }

    /// Inputs of it in a row: those that need no connection cost hardly anything.
    fn at_once(self) -> u64 {
        match self {
            Self::Intake | Self::Api => 8,
            Self::Plugin => 2,
            Self::Manifest | Self::Answer => 64,
            Self::Config => 16,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to begin.
    pub seed: u64,
    /// How long.
    pub time: Duration,
    /// What is attacked.
    pub targets: Vec<Target>,
}

/// What became of the inputs of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many there were.
    pub inputs: u64,
    /// How many of them were accepted.
    pub accepted: u64,
    /// The longest that one took.
    pub slowest: Duration,
}

/// An input that must not have had its effect.
#[derive(Debug)]
pub struct Found {
    /// Of which target.
    pub target: Target,
    /// Which.
    pub seed: u64,
    /// What is wrong.
    pub why: String,
    /// The input.
    pub input: Vec<u8>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// By target.
    pub counts: BTreeMap<Target, Count>,
    /// The first that was found; the run ends with it.
    pub found: Option<Found>,
    /// The most memory that the host had, in MiB.
    pub memory_mib: u64,
}

impl Report {
    /// As JSON.
    pub fn figures(&self) -> Value {
        let counts = self.counts.iter().map(|(target, count)| {
            let Count { inputs, accepted, slowest } = count;
            let slowest = u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX);
            (target.name().to_owned(), json!({ "inputs": inputs, "accepted": accepted, "slowest_ms": slowest }))
        });
        json!({ "targets": Value::Object(counts.collect()), "host_memory_mib": self.memory_mib })
    }
}

/// Damages and judges, until the time is over or something is found.
///
/// # Errors
/// When the host can't be started: nothing was tried.
pub async fn run(options: &Options, plugins: &Path) -> anyhow::Result<Report> {
    // A request that was cut is waited for.
    let server = "body_timeout_ms = 500\nhead_timeout_ms = 500".to_owned();
    let host = Setup { server, ..Setup::new()? }.start().await?;
    let judge = Judge::new(&host)?;
    let corpora: Vec<(Target, Vec<corpus::Input>)> = options
        .targets
        .iter()
        .map(|target| Ok((*target, corpus::of(*target, plugins)?)))
        .collect::<anyhow::Result<_>>()?;
    let mut report = Report::default();
    let (began, mut seed) = (Instant::now(), options.seed);
    // Every target once, however short the time is.
    let mut round = 0_u64;
    while round == 0 || began.elapsed() < options.time {
        for (target, inputs) in &corpora {
            for _ in 0..target.at_once() {
                seed = seed.wrapping_add(1);
                let index = usize::try_from(seed % inputs.len() as u64).unwrap_or(0);
                let Some(original) = inputs.get(index) else { continue };
                // Whole ones among them: else nothing is ever accepted.
                let bytes = if seed % 17 == 0 { original.bytes.clone() } else { mutated(seed, &original.bytes) };
                let started = Instant::now();
                let judged = tokio::time::timeout(LONGEST, judge.judge(*target, &original.way, &bytes, seed)).await;
                let took = started.elapsed();
                let count = report.counts.entry(*target).or_default();
                count.inputs += 1;
                count.slowest = count.slowest.max(took);
                let why = match judged {
                    Ok(Ok(accepted)) => {
                        count.accepted += u64::from(accepted);
                        (took > LONGEST).then(|| format!("it took {took:?}"))
                    }
                    Ok(Err(why)) => Some(why),
                    Err(_) => Some(format!("it was not done within {LONGEST:?}")),
                };
                if let Some(why) = why {
                    report.found = Some(Found { target: *target, seed, why, input: original.shown(&bytes) });
                    return Ok(report);
                }
            }
        }
        round += 1;
    }
    report.memory_mib = host.memory("VmHWM")? >> 10;
    if report.memory_mib > MOST_MEMORY {
        let why = format!("the host took {} MiB of memory", report.memory_mib);
        report.found = Some(Found { target: Target::Intake, seed: options.seed, why, input: Vec::new() });
    }
    Ok(report)
}
