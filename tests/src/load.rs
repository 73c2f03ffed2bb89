//! The load generator: keep-alive connections that send form posts as the CRM does, and time the answers.
//!
//! A lean client of its own, because it shares two processors with the host that it measures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Connection {
    stream: TcpStream,
    head: String,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(hook: &str) -> anyhow::Result<Self> {
        let rest = hook.strip_prefix("http://").context("the address is not plain HTTP")?;
        let (address, path) = rest.split_once('/').context("the address has no path")?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        );
        Ok(Self { stream, head, answer: vec![0; 4096] })
    }

    /// Sends an event; returns when it is accepted.
    async fn post(&mut self, body: &str) -> anyhow::Result<()> {
        let request = format!("{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await?;
        let mut read = 0;
        loop {
            let buffer = self.answer.get_mut(read..).context("the answer is too large")?;
            let count = self.stream.read(buffer).await?;
            ensure!(count > 0, "the host closed the connection");
            read += count;
            // The answer is one short JSON object.
            let answer = self.answer.get(..read).unwrap_or_default();
            if answer.ends_with(b"}") {
                ensure!(answer.starts_with(b"HTTP/1.1 202"), "not accepted: {}", String::from_utf8_lossy(answer));
                return Ok(());
            }
        }
    }
}

/// Numbered, because the host folds what says the same.
fn step_change(n: usize) -> String {
    format!(
        "did={}&autor=1&stepOld=20&stepNew=60&reason=%D0%B4%D0%B0%D0%BB%D1%8C%D1%88%D0%B5&comment={n}&event=deal.change.step&identity=1&iduser1=1",
        n % 1_000 + 1
    )
}

fn figures(all: &Histogram<u64>, elapsed: Duration) -> Value {
    let milliseconds = |quantile: f64| (all.value_at_quantile(quantile) as f64 / 10.0).round() / 100.0;
    json!({
        "events": all.len(),
        "events_per_second": (all.len() as f64 / elapsed.as_secs_f64()).round(),
        "p50_ms": milliseconds(0.5),
        "p99_ms": milliseconds(0.99),
        "max_ms": milliseconds(1.0),
    })
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000, 3).context("failed to make a histogram")
}

/// Sends `rate` events a second; an answer's time counts from when its event was due, so a stall is not hidden.
///
/// # Errors
/// When an event is not accepted.
pub async fn paced(hook: &str, rate: u32, connections: u32, duration: Duration) -> anyhow::Result<Value> {
    at_pace(hook, rate, connections, duration, step_change).await
}

/// Sends `rate` events a second for the hostile plugin: most ask for nothing, some for every kind of harm.
///
/// # Errors
/// When an event is not accepted.
pub async fn sins(hook: &str, rate: u32, connections: u32, duration: Duration) -> anyhow::Result<Value> {
    const HARM: [&str; 8] = ["count", "retry", "panic", "memory", "long-log", "reject", "stack", "many-calls"];
    at_pace(hook, rate, connections, duration, |n| {
        let sin = if n % 10 == 0 { HARM.get(n / 10 % HARM.len()).copied() } else { None };
        format!("event=test.sin&id={}&sin={}&n={n}", n % 500, sin.unwrap_or("none"))
    })
    .await
}

/// Sends `events` that ask the plugin `bad` for one kind of harm.
///
/// # Errors
/// When an event is not accepted.
pub async fn queue(hook: &str, connections: usize, events: usize, sin: &str) -> anyhow::Result<()> {
    let sin = sin.to_owned();
    let body = move |n| format!("event=bad.event&id={n}&sin={sin}");
    closed_loop(hook, connections, move |n| n < events, body).await.map(drop)
}

/// Sends `rate` events a second that have the plugin `well` call `origin` with their number; tells when each was due.
///
/// # Errors
/// When an event is not accepted.
pub async fn fetches(
    hook: &str,
    rate: u32,
    connections: u32,
    duration: Duration,
    origin: &str,
) -> anyhow::Result<BTreeMap<usize, Instant>> {
    let began = Instant::now() + Duration::from_millis(100);
    let gap = Duration::from_secs(1) / rate;
    let origin = origin.to_owned();
    let due = move |n: u32| began + gap * n;
    let body = move |n: usize| format!("event=well.event&id={n}&sin=fetch&url={origin}/{n}");
    let sent = paced_from(hook, connections, due, began + duration, body).await?;
    Ok((0..u32::try_from(sent.len())?).map(|n| (n as usize, due(n))).collect())
}

async fn at_pace(
    hook: &str,
    rate: u32,
    connections: u32,
    duration: Duration,
    body: impl Fn(usize) -> String + Clone + Send + 'static,
) -> anyhow::Result<Value> {
    let began = Instant::now() + Duration::from_millis(100);
    let gap = Duration::from_secs(1) / rate;
    let times = paced_from(hook, connections, move |n| began + gap * n, began + duration, body).await?;
    Ok(figures(&times, duration))
}

async fn paced_from(
    hook: &str,
    connections: u32,
    due: impl Fn(u32) -> Instant + Clone + Send + 'static,
    end: Instant,
    body: impl Fn(usize) -> String + Clone + Send + 'static,
) -> anyhow::Result<Histogram<u64>> {
    let mut senders = Vec::new();
    for index in 0..connections {
        let mut connection = Connection::open(hook).await?;
        let (due, body) = (due.clone(), body.clone());
        senders.push(tokio::spawn(async move {
            let mut times = histogram()?;
            let mut n = index;
            loop {
                let due = due(n);
                if due >= end {
                    return anyhow::Ok(times);
                }
                tokio::time::sleep_until(due.into()).await;
                connection.post(&body(n as usize)).await?;
                times.record(u64::try_from(due.elapsed().as_micros())?)?;
                n += connections;
            }
        }));
    }
    let mut all = histogram()?;
    for sender in senders {
        all.add(sender.await??)?;
    }
    Ok(all)
}

/// Sends as fast as the answers come.
///
/// # Errors
/// When an event is not accepted.
pub async fn saturated(hook: &str, connections: usize, duration: Duration) -> anyhow::Result<Value> {
    let began = Instant::now();
    let all = closed_loop(hook, connections, move |_| began.elapsed() < duration, step_change).await?;
    Ok(figures(&all, began.elapsed()))
}

/// Sends `events` as fast as the answers come.
///
/// # Errors
/// When an event is not accepted.
pub async fn burst(hook: &str, connections: usize, events: usize) -> anyhow::Result<()> {
    closed_loop(hook, connections, move |n| n < events, step_change).await.map(drop)
}

async fn closed_loop(
    hook: &str,
    connections: usize,
    more: impl Fn(usize) -> bool + Clone + Send + 'static,
    body: impl Fn(usize) -> String + Clone + Send + 'static,
) -> anyhow::Result<Histogram<u64>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::open(hook).await?;
        let (next, more, body) = (Arc::clone(&next), more.clone(), body.clone());
        senders.push(tokio::spawn(async move {
            let mut times = histogram()?;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if !more(n) {
                    return anyhow::Ok(times);
                }
                let began = Instant::now();
                connection.post(&body(n)).await?;
                times.record(u64::try_from(began.elapsed().as_micros())?)?;
            }
        }));
    }
    let mut all = histogram()?;
    for sender in senders {
        all.add(sender.await??)?;
    }
    Ok(all)
}
