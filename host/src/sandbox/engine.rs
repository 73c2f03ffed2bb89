//! The engine's settings, its ticks, and the bounds on memory.

use std::hash::{Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::{
    Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ResourceLimiter, Store, UpdateDeadline,
};

use super::Running;
use super::meter::Meter;
use crate::capabilities::LimitHit;
use crate::outcome::FaultKind;
use crate::plugin::{Limits, RAISE};

/// How often a computing plugin is looked at.
const TICK: Duration = Duration::from_millis(2);
/// Bytes of stack that a plugin may use. Python needs the most: its own limit on recursion comes first from 2 MiB on, so that
/// a handler which calls itself without end ends with an exception and its place. Pages that nobody touched cost nothing.
const STACK: usize = 2 << 20;
/// Core instances of one component: 15 with componentize-py 0.25, 4 with componentize-js 0.23.
const CORE_INSTANCES: u32 = 24;
/// Memories of one component.
const MEMORIES: u32 = 4;
/// Tables of one component.
const TABLES: u32 = 16;
/// Elements of one table: interpreters need thousands, some versions of them a hundred thousand.
pub(super) const TABLE_ELEMENTS: usize = 120_000;

pub(super) struct Engine {
    engine: wasmtime::Engine,
    ticker: Ticker,
    heavy: Arc<Semaphore>,
}

/// What code is made for: the same where it is compiled and where it runs.
fn config() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .async_stack_size(STACK + (512 << 10))
        .memory_reservation(Limits::MOST_MEMORY)
        .memory_guard_size(32 << 20);
    config
}

/// An engine that only compiles: it has no pool of instances.
pub(super) fn for_compiling() -> Result<wasmtime::Engine, wasmtime::Error> {
    wasmtime::Engine::new(&config())
}

impl Engine {
    pub(super) fn new(instances: u32) -> Result<Self, wasmtime::Error> {
        let mut pool = PoolingAllocationConfig::default();
        // One component is several core instances, memories and tables: the plugin's own, its adapter's, an interpreter's.
        // Every place has all that a component may have, so no plugin can use up another's.
        pool.total_component_instances(instances)
            .total_core_instances(instances * CORE_INSTANCES)
            .total_memories(instances * MEMORIES)
            .total_tables(instances * TABLES)
            .total_stacks(instances)
            .max_core_instances_per_component(CORE_INSTANCES)
            .max_memories_per_component(MEMORIES)
            .max_tables_per_component(TABLES)
            .table_elements(TABLE_ELEMENTS)
            .max_memory_size(usize::try_from(Limits::MOST_MEMORY).unwrap_or(usize::MAX))
            // Enough for a small plugin's pages to be cleared in place instead of being returned to the system.
            .linear_memory_keep_resident(128 << 10)
            .table_keep_resident(16 << 10);
        let mut config = config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = wasmtime::Engine::new(&config)?;
        let ticker = Ticker::start(engine.clone())?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let heavy = Arc::new(Semaphore::new(processors.saturating_sub(1).max(1)));
        Ok(Self { engine, ticker, heavy })
    }

    /// Tells apart engines that can't use each other's compiled code.
    pub(super) fn fingerprint(&self) -> String {
        let mut hasher = std::hash::DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    /// The processors that plugins which compute much share: one less than there are, so that the rest never waits.
    pub(super) fn heavy(&self) -> Arc<Semaphore> {
        Arc::clone(&self.heavy)
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// Lets a store's plugin run until `meter` says that its processor time is used up.
    pub(super) fn watch(&self, store: &mut Store<Running>, meter: Arc<Meter>) {
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if meter.is_used_up() {
                let detail = format!(
                    "the plugin used up its {} ms of processor time: it may be in a loop, or needs `cpu_ms` raised {RAISE}",
                    meter.limit_millis()
                );
                return Err(LimitHit { kind: FaultKind::CpuLimit, detail }.into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
    }

    /// The ticker ticks for as long as somebody holds this.
    pub(super) fn awake(&self) -> Awake {
        let before = self.ticker.shared.running.fetch_add(1, Ordering::SeqCst);
        if before == 0 {
            let _guard = self.ticker.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.ticker.shared.changed.notify_all();
        }
        Awake { shared: Arc::clone(&self.ticker.shared) }
    }
}

/// Raises the engine's epoch while plugins run; sleeps while none does, so that an idle host costs nothing.
struct Ticker {
    shared: Arc<TickerState>,
    thread: Option<JoinHandle<()>>,
}

struct TickerState {
    running: AtomicUsize,
    ended: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Ticker {
    /// Without a ticker no plugin is ever interrupted: then none may run.
    fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let shared = Arc::new(TickerState {
            running: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        });
        let state = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("epoch".to_owned())
            .spawn(move || while std::panic::catch_unwind(AssertUnwindSafe(|| state.tick(&engine))).is_err() {})?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl TickerState {
    fn tick(&self, engine: &wasmtime::Engine) {
        while !self.ended.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) == 0 {
                let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                let idle = |_: &mut ()| self.running.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst);
                drop(self.changed.wait_while(guard, idle));
                continue;
            }
            std::thread::sleep(TICK);
            engine.increment_epoch();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        {
            let _guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.changed.notify_all();
        }
        if let Some(thread) = self.thread.take() {
            // A ticker that panicked has nothing to tell.
            drop(thread.join());
        }
    }
}

pub(super) struct Awake {
    shared: Arc<TickerState>,
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The bound on memories and tables, all of an instance together.
pub(super) struct StoreLimits {
    most: usize,
    now: usize,
    peak: usize,
    refused: Option<Refused>,
}

/// What a plugin wanted and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Memory,
    Table,
}

impl StoreLimits {
    pub(super) fn new(most: u64) -> Self {
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), now: 0, peak: 0, refused: None }
    }

    pub(super) fn peak(&self) -> u64 {
        u64::try_from(self.peak).unwrap_or(u64::MAX)
    }

    /// What was refused last.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

impl ResourceLimiter for StoreLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let after = self.now.saturating_add(desired.saturating_sub(current));
        if after > self.most {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        self.now = after;
        self.peak = self.peak.max(after);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= TABLE_ELEMENTS;
        if !allowed {
            self.refused = Some(Refused::Table);
        }
        Ok(allowed)
    }
}
