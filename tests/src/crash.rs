//! The host is killed again and again while events come in; nothing that it acknowledged may be lost.

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

use crate::host::{Setup, http_client};
use crate::wait_until;

/// What the rounds came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Times that the host was killed.
    pub rounds: usize,
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

/// Kills the host `rounds` times under load, then looks at every event.
///
/// # Errors
/// When an acknowledged event is not there, a delivery has not ended exactly once, or the plugin's count is off.
pub async fn rounds(setup: Setup, rounds: usize, told: impl Fn(usize)) -> anyhow::Result<Report> {
    let mut host = setup
        .more("[retry]\nfirst_ms = 1\nlongest_ms = 20\n[breaker]\nfailures = 10000")
        .start()
        .await
        .context("the first start")?;
    let mut acknowledged: Vec<(String, &str)> = Vec::new();
    let serial = Arc::new(AtomicUsize::new(0));
    for round in 0..rounds {
        let answered = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> =
            (0..SENDERS).map(|_| tokio::spawn(send(host.hook(), Arc::clone(&serial), Arc::clone(&answered)))).collect();
        wait_until("the first acknowledgement", Duration::from_secs(20), async || {
            Ok((answered.load(Ordering::SeqCst) > 0).then_some(()))
        })
        .await?;
        // A random moment of the host's work, from its first event to some hundred later.
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..300_000))).await;
        host.kill()?;
        for sender in senders {
            acknowledged.extend(sender.await??);
        }
        host.start().await.with_context(|| format!("the start after kill {}", round + 1))?;
        told(round + 1);
    }
    host.idle(Duration::from_secs(120)).await?;
    ensure!(host.stop().await? == Some(0), "the host did not stop gracefully:\n{}", host.log());
    let data = host.data();
    let mut report = tokio::task::spawn_blocking(move || inspect(&data, &acknowledged)).await??;
    report.rounds = rounds;
    Ok(report)
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

fn inspect(data: &std::path::Path, acknowledged: &[(String, &str)]) -> anyhow::Result<Report> {
    let journal = Journal::open(&journal::Options::in_folder(data), Clock::Wall)?;
    let handle = journal.handle();
    let mut report = Report { acknowledged: acknowledged.len(), ..Report::default() };
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
