//! What a backlog costs: claiming and settling with a thousand and with a million deliveries that wait, and the memory
//! that the host holds meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use integration_tests::host::Setup;
use salesman_host::clock::Clock;
use salesman_host::event::{Entity, Event, EventId, Via};
use salesman_host::journal::{self, Handle, Journal, Queue, Settlement, Subscription, Subscriptions};
use salesman_host::outcome::{Effects, Next, Outcome};
use salesman_host::plugin::{Pattern, PluginName};
use serde_json::{Value, json};

/// Deliveries that are claimed together.
const BATCH: usize = 64;
/// How often.
const ROUNDS: usize = 60;

pub(crate) async fn measure(large: usize) -> anyhow::Result<Value> {
    let small = tempfile::tempdir()?;
    let (small_us, _) = claims(small.path(), 10_000_usize.min(large)).await?;
    let thousand = tempfile::tempdir()?;
    let (thousand_us, _) = claims(thousand.path(), BATCH * ROUNDS + 1_000).await?;

    // A host of its own on the large store; no plugin is live, so that everything goes on waiting.
    let mut host = Setup::new()?.start().await?;
    let empty = super::resident(&host)?;
    host.stop().await?;
    let (large_us, bytes) = claims(&host.data(), large).await?;
    host.start().await?;
    ensure!(
        host.api("backlog").await?.get("open").and_then(Value::as_u64) > Some(large as u64 / 2),
        "the store is empty"
    );
    let full = super::resident(&host)?;
    Ok(json!({
        "claim_and_settle_us": { "thousands": super::round(thousand_us), "ten_thousand": super::round(small_us), "large": super::round(large_us) },
        "large": large,
        "ratio": super::round(large_us / thousand_us),
        "store_mib": super::round(bytes as f64 / 1_048_576.0),
        "host_resident_mib": { "empty": empty, "large": full },
    }))
}

/// Microseconds per delivery, claimed and settled, with `waiting` of them in the store; and the store's bytes.
async fn claims(folder: &Path, waiting: usize) -> anyhow::Result<(f64, u64)> {
    let journal = Journal::open(&journal::Options::in_folder(folder), Clock::Wall)?;
    let handle = journal.handle();
    let plugin = PluginName::try_from("backlog".to_owned()).map_err(anyhow::Error::msg)?;
    let events = vec![Pattern::try_from("*".to_owned()).map_err(anyhow::Error::msg)?];
    let subscriptions = Arc::new(Subscriptions(vec![Subscription::new(plugin.clone(), events)]));
    fill(&handle, waiting).await?;
    while handle.take(Arc::clone(&subscriptions), Vec::new()).await?.unrouted {}

    let queue = Queue { plugin, account: "main".to_owned() };
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let taken = handle.take(Arc::clone(&subscriptions), vec![(queue.clone(), BATCH)]).await?;
        ensure!(taken.claimed.len() == BATCH, "only {} were claimed", taken.claimed.len());
        let settled = taken.claimed.into_iter().map(|claimed| {
            let settlement = Settlement {
                delivery: claimed.delivery,
                attempt: claimed.attempt,
                version: "1".to_owned(),
                started_at: 0,
                ended_at: 0,
                outcome: Outcome::Done,
                effects: Effects::default(),
                next: Next::Done,
            };
            handle.settle(settlement)
        });
        for settled in futures::future::join_all(settled).await {
            settled?;
        }
        times.push(began.elapsed().as_secs_f64() * 1e6 / BATCH as f64);
    }
    times.sort_by(f64::total_cmp);
    drop(handle);
    tokio::task::spawn_blocking(move || journal.close()).await?;
    let bytes = std::fs::metadata(folder.join("journal.sqlite"))?.len();
    Ok((times.get(ROUNDS / 2).copied().unwrap_or_default(), bytes))
}

async fn fill(handle: &Handle, events: usize) -> anyhow::Result<()> {
    let mut n = 0;
    while n < events {
        let end = events.min(n + 2_000);
        let appended = (n..end).map(|n| {
            handle.append(Event {
                id: EventId::new(),
                account: "main".to_owned(),
                name: "deal.change.step".to_owned(),
                received_at: 0,
                via: Via::Form,
                actor: Some(1),
                entity: Some(Entity { kind: "deal".to_owned(), id: (n % 100_000).to_string() }),
                fields: format!(
                    "{{\"did\":\"{}\",\"stepOld\":\"20\",\"stepNew\":\"40\",\"comment\":\"{n}\"}}",
                    n % 100_000
                ),
            })
        });
        for appended in futures::future::join_all(appended).await {
            appended?;
        }
        n = end;
    }
    Ok(())
}
