//! The host is killed again and again: while events come in, while it starts, while a plugin is swapped, while it stops.
//! Nothing that it acknowledged may be lost, nothing be done twice, and the plugin serves after each start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use salesman_host::clock::Clock;
use salesman_host::event::EventId;
use salesman_host::journal::{self, DeliveryState, EventFilter, EventPath, Journal};
use salesman_host::plugin::PluginName;
use serde_json::{Value, json};

use crate::guest::put_version;
use crate::host::{Host, PATIENCE, Setup, http_client};
use crate::wait_until;

/// What the rounds came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Rounds of load.
    pub rounds: usize,
    /// Times that the host was killed.
    pub kills: usize,
    /// Events that were acknowledged.
    pub acknowledged: usize,
    /// Events that were stored, the unacknowledged ones included.
    pub stored: usize,
    /// Attempts that were interrupted by a kill.
    pub interrupted: usize,
    /// Runs beyond the first that plugins did not ask for.
    pub repeated: usize,
}

impl Report {
    /// The figures, to be printed.
    pub fn figures(&self) -> Value {
        json!({
            "rounds": self.rounds,
            "kills": self.kills,
            "acknowledged": self.acknowledged,
            "stored": self.stored,
            "lost": 0,
            "interrupted_attempts": self.interrupted,
            "runs_beyond_the_first": self.repeated,
        })
    }
}

/// What the events of a round ask of the plugin: nothing, to be called again, to count in its state.
const SINS: [&str; 4] = ["none", "count", "none", "retry"];
const SENDERS: usize = 4;

/// When the host is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// While events come in.
    Loaded,
    /// While a plugin's file is replaced by another version's.
    Swapping,
    /// While it stops.
    Stopping,
    /// While it starts, more than once in a row.
    Starting,
}

impl When {
    const ALL: [Self; 4] = [Self::Loaded, Self::Swapping, Self::Stopping, Self::Starting];
}

/// A random moment, within so many milliseconds.
fn moment(milliseconds: u64) -> Duration {
    Duration::from_micros(rand::random_range(0..milliseconds * 1_000))
}

/// Kills the host in `rounds` rounds under load, each at another occasion, then looks at every event.
///
/// # Errors
/// When an acknowledged event is not there, a delivery has not ended exactly once, or the plugin's count is off.
pub async fn rounds(setup: Setup, rounds: usize, told: impl Fn(usize)) -> anyhow::Result<Report> {
    let guests = setup.plugins.clone().context("there is no plugin to be run")?;
    let plugins = tempfile::tempdir()?;
    let mut version = 1;
    put_version(&guests, plugins.path(), version)?;
    let mut host = setup
        .plugins(plugins.path())
        .more("[retry]\nfirst_ms = 1\nlongest_ms = 20\n[breaker]\nfailures = 10000")
        .start()
        .await
        .context("the first start")?;
    let mut acknowledged: Vec<(String, &str)> = Vec::new();
    let serial = Arc::new(AtomicUsize::new(0));
    let mut report = Report::default();
    for round in 0..rounds {
        let answered = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> =
            (0..SENDERS).map(|_| tokio::spawn(send(host.hook(), Arc::clone(&serial), Arc::clone(&answered)))).collect();
        wait_until("the first acknowledgement", Duration::from_secs(20), async || {
            Ok((answered.load(Ordering::SeqCst) > 0).then_some(()))
        })
        .await?;
        // A random moment of the host's work, from its first event to some hundred later.
        tokio::time::sleep(moment(300)).await;
        let when = When::ALL.get(round % When::ALL.len()).copied().unwrap_or(When::Loaded);
        let before = version;
        match when {
            When::Loaded | When::Starting => {}
            When::Swapping => {
                version += 1;
                put_version(&guests, plugins.path(), version)?;
                tokio::time::sleep(moment(800)).await;
            }
            When::Stopping => {
                host.ask_to_stop()?;
                tokio::time::sleep(moment(150)).await;
            }
        }
        host.kill()?;
        report.kills += 1;
        for sender in senders {
            acknowledged.extend(sender.await??);
        }
        if when == When::Starting {
            for _ in 0..3 {
                host.start_and_kill(moment(600)).await?;
                report.kills += 1;
            }
        }
        let words = || format!("the start after round {}: {when:?}", round + 1);
        host.start().await.with_context(words)?;
        serves(&host, (before, version)).await.with_context(words)?;
        told(round + 1);
    }
    host.idle(Duration::from_secs(120)).await?;
    ensure!(host.stop().await? == Some(0), "the host did not stop gracefully:\n{}", host.log());
    let data = host.data();
    report.rounds = rounds;
    tokio::task::spawn_blocking(move || inspect(&data, &acknowledged, report)).await?
}

/// The plugin serves, in its old version or the new one; soon in the new one.
async fn serves(host: &Host, (old, new): (u32, u32)) -> anyhow::Result<()> {
    let serving = async || {
        let plugins = host.api("plugins").await?;
        let version = plugins.get(0).and_then(|plugin| plugin.get("version")?.as_str()?.parse::<u32>().ok());
        version.with_context(|| format!("no plugin serves: {plugins}"))
    };
    let first = serving().await?;
    ensure!((old..=new).contains(&first), "version {first} serves, of {old} and {new}");
    wait_until("the new version", PATIENCE, async || Ok((serving().await? == new).then_some(()))).await
}

async fn send(
    hook: String,
    serial: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
) -> anyhow::Result<Vec<(String, &'static str)>> {
    let client = http_client()?;
    let mut ids = Vec::new();
    loop {
        let n = serial.fetch_add(1, Ordering::SeqCst);
        let sin = SINS.get(n % SINS.len()).copied().unwrap_or("none");
        let body = format!("event=test.sin&id={}&sin={sin}&n={n}", n % 23);
        let request = client.post(&hook).header("content-type", "application/x-www-form-urlencoded").body(body);
        // The first failure is the kill.
        let Ok(response) = request.send().await else { return Ok(ids) };
        if response.status().as_u16() != 202 {
            return Ok(ids);
        }
        let Ok(text) = response.text().await else { return Ok(ids) };
        let answer: Value = serde_json::from_str(&text)?;
        ids.push((answer.get("id").and_then(Value::as_str).context("no id")?.to_owned(), sin));
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

fn inspect(data: &std::path::Path, acknowledged: &[(String, &str)], mut report: Report) -> anyhow::Result<Report> {
    let journal = Journal::open(&journal::Options::in_folder(data), Clock::Wall)?;
    let handle = journal.handle();
    report.acknowledged = acknowledged.len();
    let mut stored = BTreeMap::new();
    let (mut cursor, mut counted) = (None, 0_u64);
    loop {
        let page = handle.events(&EventFilter::default(), cursor, 1_000)?;
        for event in page.items {
            let path = handle.path_of(event.id)?.context("an event is gone")?;
            look_at(&path, &mut report)?;
            let sin = path.fields.get("sin").and_then(Value::as_str).unwrap_or_default().to_owned();
            counted += u64::from(sin == "count");
            stored.insert(event.id, sin);
        }
        cursor = page.next.and_then(|next| next.parse().ok());
        if cursor.is_none() {
            break;
        }
    }
    report.stored = stored.len();
    for (id, sin) in acknowledged {
        let known = EventId::parse(id).and_then(|id| stored.get(&id));
        ensure!(known.is_some_and(|known| known == sin), "event {id} was acknowledged and is not there");
    }
    // State commits with the outcome: however often a handler ran, it counts once.
    let plugin = PluginName::try_from("sinner".to_owned()).map_err(anyhow::Error::msg)?;
    let count = handle.state(&plugin, "main").get("count")?.map_or(Ok(0), |(value, _)| value.parse::<u64>())?;
    ensure!(count == counted, "the plugin counted {count} of {counted} events");
    drop(handle);
    journal.close();
    Ok(report)
}

/// One delivery, done, whose attempts are numbered without a gap, and of which only the last was good.
fn look_at(path: &EventPath, report: &mut Report) -> anyhow::Result<()> {
    let [delivery] = &path.deliveries[..] else {
        anyhow::bail!("event {} has {} deliveries", path.event.id, path.deliveries.len());
    };
    ensure!(delivery.state == DeliveryState::Done, "event {} ended as {:?}", path.event.id, delivery.state);
    let outcomes: Vec<&str> = delivery.attempts.iter().map(|attempt| attempt.outcome.as_str()).collect();
    let numbers = (1..).zip(&delivery.attempts).all(|(number, attempt)| attempt.number == number);
    let good = outcomes.iter().filter(|outcome| **outcome == "done").count();
    ensure!(numbers && good == 1 && outcomes.last() == Some(&"done"), "event {}: {outcomes:?}", path.event.id);
    report.interrupted += outcomes.iter().filter(|outcome| **outcome == "interrupted").count();
    report.repeated += outcomes.iter().filter(|outcome| matches!(**outcome, "interrupted" | "conflict")).count();
    Ok(())
}
