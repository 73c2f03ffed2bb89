//! Decides what runs: one loop that routes, claims, hands out, and settles what comes back.
//!
//! - It holds no queue of its own: what waits is in the journal. What is claimed is bounded per queue by number, and
//!   the fields of all that is claimed by bytes: those of the others are read when they run.
//! - A place is taken before an instance is made (`places`), with the memory that it may need (`memory`); and none is taken for a queue that is held back (`gate`).
//! - An outcome is handed to the journal until it is stored, for as long as the host runs.
//! - A host bug costs one attempt, not the process. A delivery that ends the process again and again is found out by
//!   running those of its queue that are under suspicion one at a time, and given up.
//!
//! Not here: WebAssembly, HTTP, SQL. When to retry is `retry`; one attempt is `attempt`.

mod attempt;
mod feed;
pub mod gate;
mod memory;
mod places;
pub mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, broadcast, watch};

use crate::capabilities::Outside;
use crate::clock::Clock;
use crate::journal::{self, Claimed, DeliveryId, Queue};
use crate::parts::Parts;
use crate::plugin::PluginName;
use crate::registry;
use crate::sandbox::Sandbox;
use crate::secret::Scrubber;
use crate::{crm, telemetry};
pub use feed::Delivered;
use feed::Feed;
use gate::{Breaker, Gate, Mode};
pub use memory::of_machine;
pub use places::Standing;
use places::{Places, Seat};
use retry::Policy;

/// Deliveries of one queue that are claimed beyond those that run, so that a free place is filled without a look into
/// the store.
const CLAIMED_AHEAD: usize = 64;
/// Bytes of fields of events that are claimed, all queues together: more are left in the store until they run.
const CARRIED_AHEAD: u64 = 16 << 20;
/// The wait before a store that refused is asked again.
const STORE_AGAIN: Duration = Duration::from_millis(250);
/// Signals that somebody may lag behind.
const SIGNALS: usize = 1_024;
/// The longest wait without a look into the store.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the room needs to be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// When to try again.
    pub retry: Policy,
    /// When to pause a plugin.
    pub breaker: Breaker,
    /// Plugins at once, all together.
    pub instances: usize,
    /// Bytes of memory that they may hold, all together.
    pub memory: u64,
    /// How long running plugins may go on when the host stops.
    pub drain: Duration,
    /// The names of all CRMs.
    pub accounts: Vec<String>,
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
    /// Where a failure of the host's own is told.
    pub parts: Parts,
    /// What takes the configuration's secrets out of what is recorded.
    pub scrubber: Scrubber,
}

/// The loop.
pub struct Dispatcher {
    shared: Arc<Shared>,
}

/// A view of the loop. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// What somebody should hear of at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// A plugin failed on many events in a row, and is paused.
    Paused(Queue),
    /// It goes well again.
    Resumed(Queue),
    /// A delivery was given up.
    DeadLetter {
        /// Whose.
        queue: Queue,
        /// Its number.
        delivery: DeliveryId,
        /// The event's name.
        event: String,
        /// Why.
        code: String,
    },
    /// A CRM went away (`false`) or came back (`true`).
    Crm(String, bool),
}

/// Where one queue stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QueueView {
    /// Whose.
    pub plugin: String,
    /// Of which CRM.
    pub account: String,
    /// Whether its deliveries run, and if not, why.
    #[serde(flatten)]
    pub mode: Mode,
    /// Different events that failed since the last that went well.
    pub failed_in_a_row: usize,
    /// Deliveries that run or are about to.
    pub claimed: usize,
}

impl Handle {
    /// Every attempt from now on, as it ends. Who reads too slowly misses the oldest: they are in the journal.
    pub fn delivered(&self) -> broadcast::Receiver<Arc<Delivered>> {
        self.shared.feed.subscribe()
    }

    /// What somebody should hear of, from now on.
    pub fn signals(&self) -> broadcast::Receiver<Signal> {
        self.shared.signals.subscribe()
    }

    /// The accounts, and the client of each that has an address.
    pub fn crms(&self) -> Vec<(String, Option<crm::Client>)> {
        let Shared { tools, options, .. } = &*self.shared;
        options.accounts.iter().map(|account| (account.clone(), tools.crm.get(account).cloned())).collect()
    }

    /// Pauses a plugin until it is resumed (`None`), across restarts; what runs ends as it does.
    ///
    /// # Errors
    /// [`journal::Error`]: nothing is changed.
    pub async fn hold(&self, plugin: &PluginName, who: Option<&str>) -> Result<(), journal::Error> {
        self.shared.tools.journal.hold(plugin, who).await?;
        {
            // Both at once, so that a queue which opens meanwhile is not missed.
            let (lines, mut held) = (locked(&self.shared.lines), locked(&self.shared.held));
            let changed = if who.is_some() { held.insert(plugin.clone()) } else { held.remove(plugin) };
            drop(held);
            for line in lines.values().filter(|line| line.queue.plugin == *plugin) {
                line.gate().hold(who.is_some());
                // Resumed without having been held: an operator ends the breaker's pause.
                if !changed && who.is_none() {
                    line.gate().renewed();
                }
                if who.is_some() {
                    self.shared.places.limit(line.seat, 0);
                }
            }
        }
        self.shared.bell.notify_one();
        Ok(())
    }

    /// The machine's clock stepped by so many milliseconds: no pause is longer or shorter for it.
    pub fn clock_stepped(&self, step: i64) {
        locked(&self.shared.lines).values().for_each(|line| line.gate().clock_stepped(step));
        self.shared.bell.notify_one();
    }

    /// The places in which plugins run, and their memory.
    pub fn standing(&self) -> Standing {
        self.shared.places.standing()
    }

    /// Every queue of a live plugin, and every other that ever had a delivery.
    pub fn queues(&self) -> Vec<QueueView> {
        let lines: Vec<Arc<Line>> = locked(&self.shared.lines).values().cloned().collect();
        lines
            .iter()
            .map(|line| {
                let gate = line.gate();
                QueueView {
                    plugin: line.queue.plugin.as_str().to_owned(),
                    account: line.queue.account.clone(),
                    mode: gate.mode(),
                    failed_in_a_row: gate.streak(),
                    claimed: line.claimed.load(Ordering::SeqCst),
                }
            })
            .collect()
    }
}

struct Shared {
    tools: Tools,
    options: Options,
    places: Places,
    lines: Mutex<BTreeMap<Queue, Arc<Line>>>,
    /// Bytes of fields of events that are claimed.
    carried: AtomicU64,
    /// Rung when there may be something to do for the loop.
    bell: Notify,
    /// Attempts that ended, for whoever watches.
    feed: Feed,
    /// What operators are told.
    signals: broadcast::Sender<Signal>,
    /// The plugins that an operator paused.
    held: Mutex<BTreeSet<PluginName>>,
}

/// One queue: its gate, its places, and how many of its deliveries are claimed.
struct Line {
    queue: Queue,
    seat: Seat,
    gate: Mutex<Gate>,
    /// The plugin's last generation.
    generation: AtomicU64,
    claimed: AtomicUsize,
    /// Held by the one of its deliveries under suspicion that runs.
    alone: tokio::sync::Mutex<()>,
}

impl Line {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        locked(&self.gate)
    }
}

/// Opens the gates of a CRM's queues whenever it comes back.
async fn watch_crm(shared: Arc<Shared>, account: String, client: crm::Client) {
    let mut reachable = client.reachable();
    while reachable.changed().await.is_ok() {
        let back = *reachable.borrow_and_update();
        telemetry::crm_reachable(&account, client.why_away().filter(|_| !back).as_ref());
        shared.signals.send(Signal::Crm(account.clone(), back)).ok();
        if back {
            locked(&shared.lines)
                .values()
                .filter(|line| line.queue.account == account)
                .for_each(|line| line.gate().reachable());
            shared.bell.notify_one();
        }
    }
}

/// The store did not give out all that was asked for: it is not asked again before its time.
struct Refused;

fn not_claimed(error: &journal::Error) {
    // A folder that is gone is told once, by whoever looks after it.
    if !matches!(error, journal::Error::Misplaced | journal::Error::Replaced) {
        telemetry::store_refused("claim", error);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a claimed delivery, and the bytes of its event's fields, for as long as it lives.
struct Counted {
    line: Arc<Line>,
    bytes: u64,
    shared: Arc<Shared>,
}

impl Counted {
    /// Leaves the fields in the store where those of others take all the room.
    fn new(line: Arc<Line>, shared: Arc<Shared>, claimed: &mut Claimed) -> Self {
        let mut bytes = u64::try_from(claimed.event.fields.len()).unwrap_or(u64::MAX);
        if shared.carried.load(Ordering::SeqCst).saturating_add(bytes) > CARRIED_AHEAD {
            claimed.set_aside();
            bytes = 0;
        }
        shared.carried.fetch_add(bytes, Ordering::SeqCst);
        line.claimed.fetch_add(1, Ordering::SeqCst);
        Self { line, bytes, shared }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.carried.fetch_sub(self.bytes, Ordering::SeqCst);
        self.line.claimed.fetch_sub(1, Ordering::SeqCst);
        self.shared.bell.notify_one();
    }
}

impl Dispatcher {
    /// A dispatcher; nothing runs yet.
    pub fn new(options: Options, tools: Tools) -> Self {
        let places = Places::new(options.instances, options.memory);
        let (feed, (signals, _)) = (Feed::new(), broadcast::channel(SIGNALS));
        let (lines, held, carried, bell) = (Mutex::default(), Mutex::default(), AtomicU64::new(0), Notify::new());
        Self { shared: Arc::new(Shared { tools, options, places, lines, carried, bell, feed, signals, held }) }
    }

    /// A view of it.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Runs until `stop` turns true, then waits for running plugins up to the drain time. Tells whether all of them
    /// ended: those that did not are run again at the next start.
    pub async fn run(self, mut stop: watch::Receiver<bool>) -> bool {
        let mut changed = self.shared.tools.registry.changes();
        let watchers: Vec<_> = self.watch_crms();
        while !self.know_queues().await && !*stop.borrow() {
            tokio::time::sleep(STORE_AGAIN).await;
        }
        while !*stop.borrow() {
            let pause = match self.turn().await {
                Ok(Duration::ZERO) => continue,
                Ok(pause) => pause,
                // What comes meanwhile rings, and is no reason to ask sooner.
                Err(Refused) => {
                    drop(tokio::time::timeout(STORE_AGAIN, stop.changed()).await);
                    continue;
                }
            };
            tokio::select! {
                () = self.shared.tools.journal.work() => {}
                () = self.shared.bell.notified() => {}
                _ = changed.changed() => {}
                _ = stop.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        for watcher in watchers {
            watcher.abort();
        }
        self.drain().await
    }

    /// Opens the gates of a CRM's queues when it answers again.
    fn watch_crms(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let watch = |(account, client): (&String, &crm::Client)| {
            let parts = self.shared.tools.parts.of(account);
            let (shared, account, client) = (Arc::clone(&self.shared), account.clone(), client.clone());
            let watching = move || watch_crm(Arc::clone(&shared), account.clone(), client.clone());
            tokio::spawn(parts.keep("crm", watching))
        };
        self.shared.tools.crm.iter().map(watch).collect()
    }

    /// Learns which queues there are; tells whether the store could say.
    async fn know_queues(&self) -> bool {
        let journal = self.shared.tools.journal.clone();
        match tokio::task::spawn_blocking(move || Ok((journal.queues()?, journal.held()?))).await {
            Ok(Ok((queues, held))) => {
                locked(&self.shared.held).extend(held.into_keys());
                queues.iter().for_each(|queue| self.open(queue));
                true
            }
            Ok::<Result<_, journal::Error>, _>(Err(error)) => {
                telemetry::store_refused("queues", &error);
                false
            }
            Err(error) => {
                telemetry::host_fault("dispatcher", &error);
                false
            }
        }
    }

    fn open(&self, queue: &Queue) {
        let mut lines = locked(&self.shared.lines);
        if !lines.contains_key(queue) {
            let mut gate = Gate::new(self.shared.options.breaker.clone());
            gate.hold(locked(&self.shared.held).contains(&queue.plugin));
            let line = Line {
                queue: queue.clone(),
                seat: self.shared.places.seat(),
                gate: Mutex::new(gate),
                generation: AtomicU64::new(0),
                claimed: AtomicUsize::new(0),
                alone: tokio::sync::Mutex::new(()),
            };
            lines.insert(queue.clone(), Arc::new(line));
        }
    }

    /// Takes what is due and starts it; returns how long nothing more is known to be due.
    async fn turn(&self) -> Result<Duration, Refused> {
        let snapshot = self.shared.tools.registry.snapshot();
        // Who wants an event is not known yet: what is routed now would be lost for them.
        if snapshot.start == registry::Start::Reading {
            return Ok(LOOK_AGAIN);
        }
        let now = self.shared.tools.clock.now();
        // Before their first delivery, so that a place is kept for it.
        for plugin in snapshot.plugins.keys() {
            for account in &self.shared.options.accounts {
                self.open(&Queue { plugin: plugin.clone(), account: account.clone() });
            }
        }
        let lines: Vec<Arc<Line>> = locked(&self.shared.lines).values().cloned().collect();
        let mut budgets = Vec::with_capacity(lines.len());
        let mut next_look: Option<i64> = None;
        for line in lines {
            let Some(live) = snapshot.plugins.get(&line.queue.plugin) else {
                self.shared.places.limit(line.seat, 0);
                continue;
            };
            let mut gate = line.gate();
            if line.generation.swap(live.generation, Ordering::SeqCst) != live.generation {
                gate.renewed();
            }
            let places = gate.places(live.concurrency, now);
            let most = if places == 0 { 0 } else { places + gate.ahead(live.concurrency, CLAIMED_AHEAD) };
            next_look = [next_look, gate.until()].into_iter().flatten().min();
            drop(gate);
            self.shared.places.limit(line.seat, places);
            let budget = most.saturating_sub(line.claimed.load(Ordering::SeqCst));
            if budget > 0 {
                budgets.push((line.queue.clone(), budget));
            }
        }
        let taken = match self.shared.tools.journal.take(Arc::clone(&snapshot.subscriptions), budgets).await {
            Ok(taken) => taken,
            Err(error) => {
                not_claimed(&error);
                return Err(Refused);
            }
        };
        let opened = !taken.opened.is_empty();
        taken.opened.iter().for_each(|queue| self.open(queue));
        for mut claimed in taken.claimed {
            let line = locked(&self.shared.lines).get(&claimed.queue).cloned();
            let Some(line) = line else { continue };
            let counted = Counted::new(line, Arc::clone(&self.shared), &mut claimed);
            let threads = self.shared.tools.sandbox.threads();
            threads.spawn(attempt::deliver(Arc::clone(&self.shared), claimed, counted));
        }
        if let Some(error) = taken.refused {
            not_claimed(&error);
            return Err(Refused);
        }
        if taken.unrouted || opened {
            return Ok(Duration::ZERO);
        }
        Ok(match [taken.next_due, next_look].into_iter().flatten().min() {
            Some(due) => {
                let wait = due.saturating_sub(self.shared.tools.clock.now()).max(1);
                Duration::from_millis(u64::try_from(wait).unwrap_or(1)).min(LOOK_AGAIN)
            }
            None => LOOK_AGAIN,
        })
    }

    async fn drain(&self) -> bool {
        // Whoever still waits for a place gives its delivery back.
        self.shared.places.close();
        let running = || locked(&self.shared.lines).values().any(|line| line.claimed.load(Ordering::SeqCst) > 0);
        let empty = async {
            while running() {
                self.shared.bell.notified().await;
            }
        };
        let ended = tokio::time::timeout(self.shared.options.drain, empty).await.is_ok();
        if !ended && let Err(error) = self.shared.tools.journal.end_in_order().await {
            telemetry::store_refused("end", &error);
        }
        ended
    }
}
