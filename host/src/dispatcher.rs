//! Decides what runs: one loop that routes, claims, hands out, and settles what comes back.
//!
//! - It holds no queue of its own: what waits is in the journal. What is claimed is bounded per plugin.
//! - A place is taken before an instance is made, per plugin and for the whole host; it is free again when the plugin
//!   has answered, before the outcome is stored. A plugin with one place keeps it until then.
//! - An outcome is handed to the journal until it is stored, for as long as the host runs.
//! - A host bug costs one attempt, not the process.
//!
//! Not here: WebAssembly, HTTP, SQL. When to retry is `retry`.

pub mod retry;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};

use crate::capabilities::{Outside, Reach};
use crate::clock::Clock;
use crate::journal::{self, Claimed, Settled, Settlement};
use crate::outcome::{Effects, Fault, FaultKind, Outcome};
use crate::plugin::PluginName;
use crate::registry::{self, Live};
use crate::sandbox::Sandbox;
use crate::{crm, telemetry};
use retry::Policy;

/// Deliveries of one plugin that are claimed beyond those that run, so that a free place is filled without a look into
/// the store.
const CLAIMED_AHEAD: usize = 64;
/// The wait before a store that refused is asked again.
const STORE_AGAIN: Duration = Duration::from_millis(250);

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// When to try again.
    pub retry: Policy,
    /// Plugins at once, all together.
    pub instances: usize,
    /// How long running plugins may go on when the host stops.
    pub drain: Duration,
}

/// What a delivery needs besides its plugin.
pub struct Tools {
    /// The store.
    pub journal: journal::Handle,
    /// The live plugins.
    pub registry: registry::Handle,
    /// What runs them.
    pub sandbox: Arc<Sandbox>,
    /// Account name to its CRM.
    pub crm: BTreeMap<String, crm::Client>,
    /// The way to the outside.
    pub outside: Outside,
    /// The time.
    pub clock: Clock,
}

/// The loop.
pub struct Dispatcher {
    shared: Arc<Shared>,
    lines: HashMap<PluginName, Line>,
}

struct Shared {
    tools: Tools,
    options: Options,
    places: Semaphore,
    /// Rung when a claimed delivery is settled.
    settled: Notify,
}

/// One plugin's places, and how many of its deliveries are claimed.
#[derive(Clone)]
struct Line {
    places: Arc<Semaphore>,
    size: usize,
    claimed: Arc<AtomicUsize>,
}

/// Counts a claimed delivery for as long as it lives.
struct Counted {
    claimed: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.claimed.fetch_sub(1, Ordering::SeqCst);
        self.shared.settled.notify_one();
    }
}

impl Dispatcher {
    /// A dispatcher; nothing runs yet.
    pub fn new(options: Options, tools: Tools) -> Self {
        let places = Semaphore::new(options.instances.max(1));
        Self { shared: Arc::new(Shared { tools, options, places, settled: Notify::new() }), lines: HashMap::new() }
    }

    /// Runs until `stop` turns true, then waits for running plugins up to the drain time. Tells whether all of them
    /// ended: those that did not are run again at the next start.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) -> bool {
        let mut changed = self.shared.tools.registry.changes();
        while !*stop.borrow() {
            let pause = self.turn().await;
            let timer = tokio::time::sleep(pause);
            if pause.is_zero() {
                continue;
            }
            tokio::select! {
                () = self.shared.tools.journal.work() => {}
                () = self.shared.settled.notified() => {}
                _ = changed.changed() => {}
                _ = stop.changed() => {}
                () = timer => {}
            }
        }
        self.drain().await
    }

    /// Takes what is due and starts it; returns how long nothing more is known to be due.
    async fn turn(&mut self) -> Duration {
        let snapshot = self.shared.tools.registry.snapshot();
        let mut budgets = Vec::with_capacity(snapshot.plugins.len());
        for (name, live) in &snapshot.plugins {
            let line = self.line(name, live.concurrency);
            let budget = (line.size + CLAIMED_AHEAD).saturating_sub(line.claimed.load(Ordering::SeqCst));
            if budget > 0 {
                budgets.push((name.clone(), budget));
            }
        }
        let taken = match self.shared.tools.journal.take(Arc::clone(&snapshot.subscriptions), budgets).await {
            Ok(taken) => taken,
            Err(error) => {
                telemetry::store_refused("claim", &error);
                return STORE_AGAIN;
            }
        };
        for claimed in taken.claimed {
            let Some(live) = snapshot.plugins.get(&claimed.plugin) else { continue };
            let line = self.line(&claimed.plugin, live.concurrency);
            line.claimed.fetch_add(1, Ordering::SeqCst);
            let counted = Counted { claimed: Arc::clone(&line.claimed), shared: Arc::clone(&self.shared) };
            tokio::spawn(deliver(Arc::clone(&self.shared), Arc::clone(live), line, claimed, counted));
        }
        if taken.unrouted {
            return Duration::ZERO;
        }
        match taken.next_due {
            Some(due) => {
                let wait = due.saturating_sub(self.shared.tools.clock.now()).max(1);
                Duration::from_millis(u64::try_from(wait).unwrap_or(1)).min(Duration::from_secs(60))
            }
            None => Duration::from_secs(60),
        }
    }

    fn line(&mut self, plugin: &PluginName, size: usize) -> Line {
        match self.lines.get(plugin) {
            Some(line) if line.size == size => line.clone(),
            before => {
                let claimed = before.map(|line| Arc::clone(&line.claimed)).unwrap_or_default();
                let line = Line { places: Arc::new(Semaphore::new(size)), size, claimed };
                self.lines.insert(plugin.clone(), line.clone());
                line
            }
        }
    }

    async fn drain(&self) -> bool {
        // Whoever still waits for a place gives its delivery back.
        self.shared.places.close();
        for line in self.lines.values() {
            line.places.close();
        }
        let empty = async {
            while self.lines.values().any(|line| line.claimed.load(Ordering::SeqCst) > 0) {
                self.shared.settled.notified().await;
            }
        };
        tokio::time::timeout(self.shared.options.drain, empty).await.is_ok()
    }
}

/// One attempt: a place, the plugin, the decision, the record.
async fn deliver(shared: Arc<Shared>, live: Arc<Live>, line: Line, claimed: Claimed, counted: Counted) {
    let places = async {
        let own = line.places.acquire().await?;
        Ok::<_, tokio::sync::AcquireError>((own, shared.places.acquire().await?))
    };
    let (started_at, outcome, effects, _own_place) = match places.await {
        Ok((own, _place)) => {
            let started_at = shared.tools.clock.now();
            let (outcome, effects) = invoke(&shared, &live, &claimed).await;
            // One at a time means that the next attempt sees this one's state.
            (started_at, outcome, effects, Some(own).filter(|_| line.size == 1))
        }
        // The host stops: what has not begun does not begin any more.
        Err(_) => {
            if let Err(error) = shared.tools.journal.release(claimed.delivery).await {
                telemetry::store_refused("release", &error);
            }
            return;
        }
    };
    let ended_at = shared.tools.clock.now();
    let next = retry::decide(&shared.options.retry, claimed.failures, &outcome, rand::random(), ended_at);
    telemetry::delivered(&claimed, &outcome, next, &effects);
    // Shared, so that asking the store again costs no copy of the log and the calls.
    let settlement = Arc::new(Settlement {
        delivery: claimed.delivery,
        attempt: claimed.attempt,
        version: live.version(),
        started_at,
        ended_at,
        outcome,
        effects,
        next,
    });
    loop {
        match shared.tools.journal.settle(Arc::clone(&settlement)).await {
            Ok(Settled::Applied) => break,
            Ok(Settled::Conflict) => {
                telemetry::state_conflict(&claimed);
                break;
            }
            // The journal ends after the dispatcher; what it no longer takes is run again at the next start.
            Err(journal::Error::Closed) => break,
            Err(error) => {
                telemetry::store_refused("settle", &error);
                tokio::time::sleep(STORE_AGAIN).await;
            }
        }
    }
    drop(counted);
}

async fn invoke(shared: &Arc<Shared>, live: &Arc<Live>, claimed: &Claimed) -> (Outcome, Effects) {
    let tools = &shared.tools;
    let reach = Reach {
        grants: Arc::clone(&live.grants),
        crm: tools.crm.get(&claimed.event.account).cloned(),
        state: tools.journal.state(&claimed.plugin, &claimed.event.account),
        outside: tools.outside.clone(),
        settings: Arc::clone(&live.settings),
        secrets: Arc::clone(&live.secrets),
    };
    let (sandbox, live) = (Arc::clone(&tools.sandbox), Arc::clone(live));
    let (event, attempt) = (claimed.event.clone(), claimed.attempt);
    // A task of its own, so that a panic in the host's part ends as this attempt's fault.
    let running =
        tokio::spawn(async move { sandbox.invoke(&live.compiled, &event, attempt, reach, &live.limits).await });
    running.await.unwrap_or_else(|error| {
        telemetry::host_fault("sandbox", &error);
        let fault = Fault::new(FaultKind::Host, "the host failed while it ran the plugin: its log says more");
        (Outcome::Failed(fault), Effects::default())
    })
}
