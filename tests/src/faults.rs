//! Trouble from below: a disk that loses power, refuses or is full, a clock that steps, a reader that stays, damaged pages.
//!
//! - A seed gives the same kind of trouble at the same counts of calls, and the same damage of the same trace. What the host
//!   does meanwhile is its own: a failure keeps the trace, from which it is shown again.
//! - What is asked is always the same: nothing that was acknowledged is lost, nothing is done twice, a refusal is a refusal,
//!   and the host goes on by itself when the trouble is over.
//!
//! Not here: kills of the process (`crash`), damaged input (`fuzz`).

mod clock;
mod damage;
mod disk;
mod look;
mod power;
mod reader;
mod sender;
mod shim;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The power goes at any place of what the host wrote.
    Power,
    /// Syncs and writes fail, or are cut short, or there is no room, for a while.
    Disk,
    /// The wall clock goes back a year, and comes back.
    Clock,
    /// A reader of the store stays.
    Reader,
    /// Pages of the store are overwritten while the host is down.
    Damage,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Power, Self::Disk, Self::Clock, Self::Reader, Self::Damage];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Disk => "disk",
            Self::Clock => "clock",
            Self::Reader => "reader",
            Self::Damage => "damage",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to begin.
    pub seed: u64,
    /// How long, all kinds together; each is tried once, however short the time is.
    pub time: Duration,
    /// Which.
    pub kinds: Vec<Kind>,
    /// The folder with the hostile plugin.
    pub guests: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Figures by kind, summed up.
    pub figures: BTreeMap<Kind, BTreeMap<&'static str, u64>>,
}

impl Report {
    fn add(&mut self, kind: Kind, figures: &[(&'static str, u64)]) {
        let all = self.figures.entry(kind).or_default();
        for (name, figure) in figures {
            let sum = all.entry(name).or_default();
            *sum = if name.starts_with("longest") { (*sum).max(*figure) } else { *sum + figure };
        }
    }

    /// As JSON.
    pub fn figures(&self) -> Value {
        self.figures.iter().map(|(kind, figures)| (kind.name().to_owned(), json!(figures))).collect()
    }
}

pub use damage::COUNT as KINDS_OF_DAMAGE;

/// Whether this machine can load what stands between a host and its disk.
///
/// # Errors
/// A sentence: it can't.
pub fn possible() -> anyhow::Result<()> {
    shim::possible()
}

/// Makes trouble of each kind in turn until the time is over.
///
/// # Errors
/// What was found, with the kind and the seed that shows it again.
pub async fn run(options: &Options, told: impl Fn(&str)) -> anyhow::Result<Report> {
    let shim = shim::Library::build()?;
    let (mut report, mut seed) = (Report::default(), options.seed);
    let began = Instant::now();
    loop {
        for kind in &options.kinds {
            let tools = Tools { shim: &shim, guests: &options.guests, seed };
            told(&format!("{}, seed {seed}", kind.name()));
            let round = Instant::now();
            let figures = match kind {
                Kind::Power => power::round(&tools).await,
                Kind::Disk => disk::round(&tools).await,
                Kind::Clock => clock::round(&tools).await,
                Kind::Reader => reader::round(&tools).await,
                Kind::Damage => damage::round(&tools).await,
            };
            let again = || format!("{}, again: --only {} --seed {seed}", kind.name(), kind.name());
            let mut figures = figures.with_context(again)?;
            figures.push(("milliseconds", u64::try_from(round.elapsed().as_millis()).unwrap_or(u64::MAX)));
            figures.push(("rounds", 1));
            report.add(*kind, &figures);
        }
        seed = seed.wrapping_add(1);
        if began.elapsed() >= options.time {
            return Ok(report);
        }
    }
}

/// What a round is made with.
struct Tools<'a> {
    shim: &'a shim::Library,
    guests: &'a std::path::Path,
    seed: u64,
}

/// The end of a host's log, for whoever looks for the cause.
fn last_words(host: &crate::host::Host) -> String {
    let log = host.log();
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}

/// What a round came to.
type Figures = Vec<(&'static str, u64)>;
