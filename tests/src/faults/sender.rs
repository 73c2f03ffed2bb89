//! Somebody who sends events as fast as they are taken, and remembers which were acknowledged, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::host::http_client;

/// Events that the plugin handles: at once, with state, only when it is called again.
const SINS: [&str; 4] = ["none", "count", "none", "retry"];
/// How long an answer may take: a disk that fails is no reason to be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// An event that was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    pub(super) id: String,
    pub(super) sin: &'static str,
    /// What `moment` said just before the answer was believed.
    pub(super) at: u64,
}

/// What senders got.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) acknowledged: Vec<Acknowledged>,
    pub(super) refused: u64,
    /// Codes of the refusals.
    pub(super) codes: std::collections::BTreeSet<String>,
    pub(super) longest: Duration,
}

impl Sent {
    pub(super) fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.refused += other.refused;
        self.codes.extend(other.codes);
        self.longest = self.longest.max(other.longest);
    }
}

/// Senders that go on until they are stopped, or nobody answers any more.
pub(super) struct Senders {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<Sent>>>,
}

impl Senders {
    /// `moment` is asked after each acknowledgement.
    pub(super) fn start<M>(hook: &str, count: usize, pause: Duration, moment: M) -> anyhow::Result<Self>
    where
        M: Fn() -> u64 + Clone + Send + 'static,
    {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let client = http_client()?;
        let tasks = (0..count).map(|_| {
            let (hook, stop, client, moment) = (hook.to_owned(), Arc::clone(&stop), client.clone(), moment.clone());
            tokio::spawn(async move {
                let mut sent = Sent::default();
                while !stop.load(Ordering::SeqCst) {
                    let n = SERIAL.fetch_add(1, Ordering::SeqCst);
                    let sin = SINS.get(usize::try_from(n)? % SINS.len()).copied().unwrap_or("none");
                    let body = format!("event=test.sin&id={}&sin={sin}&n={n}", n % 23);
                    let request = client.post(&hook).header("content-type", "application/x-www-form-urlencoded");
                    let began = Instant::now();
                    let answer = match request.body(body).timeout(PATIENCE).send().await {
                        Ok(answer) => answer,
                        Err(error) if error.is_timeout() => {
                            anyhow::bail!("an event was neither taken nor refused within {PATIENCE:?}")
                        }
                        // The host has ended.
                        Err(_) => return Ok(sent),
                    };
                    let status = answer.status().as_u16();
                    let Ok(text) = answer.text().await else { return Ok(sent) };
                    sent.longest = sent.longest.max(began.elapsed());
                    let told: Value = serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?;
                    let word = |key: &str| told.get(key).and_then(Value::as_str).map(str::to_owned);
                    if status == 202 {
                        let id = word("id").context("no id")?;
                        sent.acknowledged.push(Acknowledged { id, sin, at: moment() });
                    } else {
                        anyhow::ensure!((500..600).contains(&status), "an event was answered with {status}: {told}");
                        sent.refused += 1;
                        sent.codes.extend(word("code"));
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    tokio::time::sleep(pause).await;
                }
                Ok(sent)
            })
        });
        let tasks = tasks.collect();
        Ok(Self { stop, tasks })
    }

    /// What they got.
    pub(super) async fn stop(self) -> anyhow::Result<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Sent::default();
        for task in self.tasks {
            all.add(task.await??);
        }
        Ok(all)
    }
}
