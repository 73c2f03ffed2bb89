//! What the operator's side costs: how fast pages are with a million events in the store, and what intake loses while people
//! look at them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use integration_tests::host::Setup;
use integration_tests::load;
use salesman_host::clock::Clock;
use salesman_host::event::{Entity, Event, EventId, Via};
use salesman_host::journal::{self, Journal, Queue, Settlement, Subscription, Subscriptions};
use salesman_host::outcome::{Effects, Next, Outcome};
use salesman_host::plugin::{Pattern, PluginName};
use serde_json::{Map, Value, json};

/// How often each page is asked for.
const LOOKS: usize = 20;
/// Turns with the console in use and without.
const TURNS: usize = 4;
/// Milliseconds over which the events spread: thirty days.
const SPREAD: i64 = 30 * 24 * 3_600_000;

pub(crate) async fn measure(events: usize, duration: Duration) -> anyhow::Result<Value> {
    let mut host = Setup::new()?.start().await?;
    host.stop().await?;
    let some = fill(&host.data(), events).await?;
    host.start().await?;
    let pages = [
        ("overview", "/console".to_owned()),
        ("overview, 7 days", "/console?span=10080".to_owned()),
        ("events", "/console/events".to_owned()),
        ("events, by a rare name", "/console/events?name=deal.rare".to_owned()),
        ("events, by record", "/console/events?entity=deal:4711".to_owned()),
        ("events, by employee", "/console/events?actor=3".to_owned()),
        ("events, by a family", "/console/events?name=client.*".to_owned()),
        ("events, by time", "/console/events?since=2026-01-10T00:00&until=2026-01-11T00:00".to_owned()),
        ("events, by a text that is nowhere", "/console/events?text=nowhere".to_owned()),
        ("events, far back", format!("/console/events?cursor={}", events / 2)),
        ("one event", format!("/console/events/{some}")),
        ("dead letters", "/console/dead".to_owned()),
        ("plugins", "/console/plugins".to_owned()),
        ("operators' log", "/console/audit".to_owned()),
        ("backlog (API)", "/api/v1/backlog".to_owned()),
        ("metrics", "/metrics".to_owned()),
    ];
    let client = host.browser().await?;
    let (mut times, mut slowest) = (Map::new(), 0.0_f64);
    for (name, path) in pages {
        let mut took = Vec::with_capacity(LOOKS);
        for _ in 0..LOOKS {
            let began = Instant::now();
            let answer = client.get(format!("{}{path}", host.base())).send().await?;
            ensure!(answer.status().is_success(), "{path}: {}", answer.status());
            answer.bytes().await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        took.sort_by(f64::total_cmp);
        let (median, most) = (took.get(LOOKS / 2).copied().unwrap_or(0.0), took.last().copied().unwrap_or(0.0));
        slowest = slowest.max(most);
        times.insert(name.to_owned(), json!({ "median_ms": super::round(median), "max_ms": super::round(most) }));
    }

    // In turns, so that whatever else the machine does hits both.
    let (mut alone, mut watched, looks) = (Vec::new(), Vec::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..TURNS {
        alone.push(rate(&load::saturated(&host.hook(), 64, duration).await?));
        let stop = Arc::new(AtomicBool::new(false));
        let people: Vec<_> = ["/console", "/console/events", "/console/plugins"]
            .into_iter()
            .map(|page| {
                let (url, live) = (format!("{}{page}", host.base()), format!("{}/console/live", host.base()));
                let (client, stop, looks) = (client.clone(), Arc::clone(&stop), Arc::clone(&looks));
                tokio::spawn(async move {
                    // As the page's script does it: asked for again when the stream says so, once a second at most.
                    let mut stream = client.get(live).send().await?;
                    while !stop.load(Ordering::Relaxed) {
                        let news = tokio::time::timeout(Duration::from_secs(2), stream.chunk()).await;
                        if let Ok(news) = news {
                            ensure!(news?.is_some(), "the stream ended");
                            client.get(&url).send().await?.bytes().await?;
                            looks.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        watched.push(rate(&load::saturated(&host.hook(), 64, duration).await?));
        stop.store(true, Ordering::Relaxed);
        for person in people {
            person.await??;
        }
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        (rates.get((TURNS - 1) / 2).copied().unwrap_or(0.0) + rates.get(TURNS / 2).copied().unwrap_or(0.0)) / 2.0
    };
    let (alone, watched) = (median(&mut alone), median(&mut watched));
    Ok(json!({
        "events": events,
        "pages": times,
        "slowest_page_ms": super::round(slowest),
        "intake_events_per_second": { "alone": alone.round(), "with_three_live_pages": watched.round() },
        "intake_ratio": super::round(watched / alone * 1_000.0) / 1_000.0,
        "pages_asked_for_meanwhile": looks.load(Ordering::Relaxed),
    }))
}

fn rate(figures: &Value) -> f64 {
    figures.get("events_per_second").and_then(Value::as_f64).unwrap_or(0.0)
}

/// A store of events that are over: most went well, a tenth are dead letters. Returns the id of one in the middle.
async fn fill(folder: &Path, events: usize) -> anyhow::Result<EventId> {
    const NAMES: [&str; 4] = ["deal.edit", "client.edit", "task.add", "deal.change.step"];
    let journal = Journal::open(&journal::Options::in_folder(folder), Clock::Wall)?;
    let handle = journal.handle();
    let plugin = PluginName::try_from("gone".to_owned()).map_err(anyhow::Error::msg)?;
    let wanted = vec![Pattern::try_from("*".to_owned()).map_err(anyhow::Error::msg)?];
    let wish = Subscription { ordered: false, ..Subscription::new(plugin.clone(), wanted) };
    let subscriptions = Arc::new(Subscriptions(vec![wish]));
    let queue = Queue { plugin, account: "main".to_owned() };
    let (first, mut some) = (Clock::Wall.now() - SPREAD, EventId::new());
    let step = SPREAD / i64::try_from(events)?;
    let (mut n, mut over) = (0, 0);
    while n < events {
        let end = events.min(n + 2_000);
        let appended = (n..end).map(|n| {
            let id = EventId::new();
            if n == events / 2 {
                some = id;
            }
            let name =
                if n % 50_000 == 7 { "deal.rare" } else { NAMES.get(n % NAMES.len()).copied().unwrap_or_default() };
            handle.append(Event {
                id,
                account: "main".to_owned(),
                name: name.to_owned(),
                received_at: first + step * i64::try_from(n).unwrap_or(0),
                via: Via::Form,
                actor: Some(u64::try_from(n % 40).unwrap_or(0)),
                entity: Some(Entity { kind: "deal".to_owned(), id: (n % 100_000).to_string() }),
                fields: format!("{{\"did\":\"{}\",\"title\":\"Сделка\",\"comment\":\"{n}\"}}", n % 100_000),
            })
        });
        for appended in futures::future::join_all(appended).await {
            appended?;
        }
        n = end;
        loop {
            let taken = handle.take(Arc::clone(&subscriptions), vec![(queue.clone(), 512)]).await?;
            if taken.claimed.is_empty() && !taken.unrouted {
                break;
            }
            let settled = taken.claimed.into_iter().map(|claimed| {
                over += 1;
                let dead = over % 10 == 0;
                let rejected = Outcome::Rejected { reason: "the price list is empty".to_owned() };
                handle.settle(Settlement {
                    delivery: claimed.delivery,
                    attempt: claimed.attempt,
                    version: "1".to_owned(),
                    started_at: claimed.event.received_at,
                    ended_at: claimed.event.received_at + 5,
                    outcome: if dead { rejected } else { Outcome::Done },
                    effects: Effects::default(),
                    next: if dead { Next::Dead } else { Next::Done },
                })
            });
            for settled in futures::future::join_all(settled).await {
                settled?;
            }
        }
    }
    drop(handle);
    tokio::task::spawn_blocking(move || journal.close()).await?;
    Ok(some)
}
