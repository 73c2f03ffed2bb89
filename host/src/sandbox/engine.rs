//! The engine's settings, the clock of processor time, and the bounds on memory.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{
    Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ResourceLimiter, Store, UpdateDeadline,
};

use super::Running;
use crate::capabilities::LimitHit;
use crate::outcome::FaultKind;
use crate::plugin::Limits;

/// How often a computing plugin is looked at.
const TICK: Duration = Duration::from_millis(5);
/// Bytes of stack that a plugin may use.
const STACK: usize = 512 << 10;
/// Core instances of one component.
const CORE_INSTANCES: u32 = 24;
/// Memories of one component.
const MEMORIES: u32 = 4;
/// Tables of one component.
const TABLES: u32 = 16;
/// Elements of one table: engines of other languages need a hundred thousand.
const TABLE_ELEMENTS: usize = 120_000;

pub(super) struct Engine {
    engine: wasmtime::Engine,
    ticker: Ticker,
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
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .cranelift_opt_level(OptLevel::Speed)
            .epoch_interruption(true)
            .max_wasm_stack(STACK)
            .async_stack_size(STACK + (512 << 10))
            .memory_reservation(Limits::MOST_MEMORY)
            .memory_guard_size(32 << 20);
        let engine = wasmtime::Engine::new(&config)?;
        let ticker = Ticker::start(engine.clone());
        Ok(Self { engine, ticker })
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
                    "the plugin used up its {} ms of processor time: it may be in a loop, or needs `cpu_ms` raised under `[limits]`",
                    meter.limit / 1_000_000
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
    fn start(engine: wasmtime::Engine) -> Self {
        let shared = Arc::new(TickerState {
            running: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            lock: Mutex::new(()),
            changed: Condvar::new(),
        });
        let state = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            while !state.ended.load(Ordering::SeqCst) {
                if state.running.load(Ordering::SeqCst) == 0 {
                    let guard = state.lock.lock().unwrap_or_else(PoisonError::into_inner);
                    let idle =
                        |_: &mut ()| state.running.load(Ordering::SeqCst) == 0 && !state.ended.load(Ordering::SeqCst);
                    drop(state.changed.wait_while(guard, idle));
                    continue;
                }
                std::thread::sleep(TICK);
                engine.increment_epoch();
            }
        });
        // Without a ticker no plugin is ever interrupted: better to have none run. `watch` sets a deadline of one tick,
        // so this can only mean that the machine has no thread left, and then the host fails elsewhere.
        Self { shared, thread: thread.ok() }
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

/// Counts an attempt's processor time, in nanoseconds.
pub(super) struct Meter {
    limit: u64,
    used: AtomicU64,
    /// The thread's clock when the present stretch began.
    since: AtomicU64,
}

impl Meter {
    pub(super) fn new(limit: Duration) -> Self {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Self { limit, used: AtomicU64::new(0), since: AtomicU64::new(0) }
    }

    fn begin(&self) {
        self.since.store(thread_time(), Ordering::Relaxed);
    }

    fn end(&self) {
        let stretch = thread_time().saturating_sub(self.since.load(Ordering::Relaxed));
        self.used.fetch_add(stretch, Ordering::Relaxed);
    }

    /// Called from within a stretch.
    fn is_used_up(&self) -> bool {
        let stretch = thread_time().saturating_sub(self.since.load(Ordering::Relaxed));
        self.used.load(Ordering::Relaxed).saturating_add(stretch) > self.limit
    }

    pub(super) fn used_micros(&self) -> u64 {
        self.used.load(Ordering::Relaxed) / 1_000
    }
}

fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A future whose time on the processor is counted.
pub(super) struct Metered<'a, F> {
    inner: Pin<Box<F>>,
    meter: &'a Meter,
}

impl<'a, F: Future> Metered<'a, F> {
    pub(super) fn new(inner: F, meter: &'a Meter) -> Self {
        Self { inner: Box::pin(inner), meter }
    }
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.meter.begin();
        let result = self.inner.as_mut().poll(context);
        self.meter.end();
        result
    }
}

/// The bound on memories and tables, all of an instance together.
pub(super) struct StoreLimits {
    most: usize,
    now: usize,
    peak: usize,
    refused: bool,
}

impl StoreLimits {
    pub(super) fn new(most: u64) -> Self {
        Self { most: usize::try_from(most).unwrap_or(usize::MAX), now: 0, peak: 0, refused: false }
    }

    pub(super) fn peak(&self) -> u64 {
        u64::try_from(self.peak).unwrap_or(u64::MAX)
    }

    /// Whether memory was refused at some time.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }
}

impl ResourceLimiter for StoreLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let after = self.now.saturating_add(desired.saturating_sub(current));
        if after > self.most {
            self.refused = true;
            return Ok(false);
        }
        self.now = after;
        self.peak = self.peak.max(after);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= TABLE_ELEMENTS;
        self.refused |= !allowed;
        Ok(allowed)
    }
}
