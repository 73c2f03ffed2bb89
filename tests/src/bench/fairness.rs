//! What a healthy plugin feels of another one's ten thousand bad deliveries: the time from the CRM's request to the
//! plugin's own, alone and beside each kind of harm.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use integration_tests::guest::with_manifest;
use integration_tests::host::{Host, Setup};
use integration_tests::load;
use integration_tests::wait_until;
use serde_json::{Map, Value, json};

/// Deliveries of the bad plugin that wait from the start.
const QUEUED: usize = 10_000;
/// Events of the healthy plugin per second.
const RATE: u32 = 100;

/// Rounds of which the median counts.
const ROUNDS: usize = 3;

pub(crate) async fn measure(module: &[u8], duration: Duration) -> anyhow::Result<Value> {
    const KINDS: [(&str, Option<&str>); 4] = [
        ("alone", None),
        ("beside_failing", Some("panic")),
        ("beside_waiting", Some("sleep")),
        ("beside_computing", Some("loop")),
    ];
    let mut rounds = vec![Vec::new(); KINDS.len()];
    // In turns, so that a slow moment of the machine is not one kind's alone.
    for round in 1..=ROUNDS {
        eprintln!("  round {round} of {ROUNDS} …");
        for ((_, sin), times) in KINDS.iter().zip(&mut rounds) {
            times.push(one(module, *sin, duration).await?);
        }
    }
    let median = |times: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        let mut sorted: Vec<f64> = times.iter().map(which).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(ROUNDS / 2).copied().unwrap_or_default()
    };
    let base = rounds.first().map(|times| median(times, |time| time.1)).unwrap_or_default();
    let mut figures = Map::new();
    for ((name, _), times) in KINDS.iter().zip(&rounds) {
        let (p50, p99) = (median(times, |time| time.0), median(times, |time| time.1));
        let round = super::round;
        figures.insert(
            (*name).to_owned(),
            json!({ "p50_ms": round(p50), "p99_ms": round(p99), "p99_ratio": round(p99 / base) }),
        );
    }
    figures.insert("aim_p99_ratio".to_owned(), json!(2.0));
    Ok(Value::Object(figures))
}

async fn one(module: &[u8], sin: Option<&str>, duration: Duration) -> anyhow::Result<(f64, f64)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let arrivals: Arc<Mutex<Vec<(usize, Instant)>>> = Arc::default();
    let seen = Arc::clone(&arrivals);
    let route = axum::routing::any(move |axum::extract::Path(n): axum::extract::Path<usize>| async move {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push((n, Instant::now()));
    });
    let server = tokio::spawn(axum::serve(listener, axum::Router::new().route("/{n}", route)).into_future());

    let folder = tempfile::tempdir()?;
    for name in ["bad", "well"] {
        let manifest = format!(
            "name = \"{name}\"\nversion = \"1\"\nevents = [\"{name}.event\"]\n[permissions]\nhttp = [\"{origin}\"]\n"
        );
        std::fs::write(folder.path().join(format!("{name}.wasm")), with_manifest(module, &manifest)?)?;
    }
    let more = format!("[plugins.well.grants]\nhttp_private = [\"{origin}\"]");
    let mut setup = Setup::new()?.plugins(folder.path()).more(&more);
    setup.server = "drain_ms = 0".to_owned();
    let host: Host = setup.start().await?;
    if let Some(sin) = sin {
        load::queue(&host.hook(), 16, QUEUED, sin).await?;
        // They are to wait as deliveries, not as a burst of arrivals.
        wait_until("the queue", Duration::from_secs(60), async || {
            Ok((host.api("backlog").await?.get("unrouted").and_then(Value::as_u64) == Some(0)).then_some(()))
        })
        .await?;
    }
    let sent = load::fetches(&host.hook(), RATE, 8, duration, &origin).await?;
    // What is late still counts.
    tokio::time::timeout(Duration::from_secs(60), async {
        while arrivals.lock().unwrap_or_else(PoisonError::into_inner).len() < sent.len() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .context("not every event of the healthy plugin was handled in time")?;
    server.abort();
    let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut times: Vec<f64> = arrivals
        .into_iter()
        .filter_map(|(n, at)| sent.get(&n).map(|began| at.saturating_duration_since(*began).as_secs_f64() * 1e3))
        .collect();
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| times.get(((times.len() as f64 - 1.0) * share) as usize).copied().unwrap_or_default();
    Ok((quantile(0.5), quantile(0.99)))
}
